"""What no entry names: directories with a CACHEDIR.TAG, paths with wildcards, and what its user wants left alone."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from survived import errands
from survived.decide import policy
from survived.decide.reasons import enclosing
from survived.errors import ConfigError, Refused
from survived.model import Cache, CacheReading, CacheState, Kind, Pressure, Reason, TreeSize
from survived.settings import globs, tags
from survived.settings.catalog import CacheOverride, Search, find_rule, parts_of, resolve_caches
from survived.settings.config import Settings, load_settings
from survived.settings.overlaps import untangle
from survived.settings.tags import SIGNATURE, TAG
from tests.unit.scene import GIB, NOW, ROOT_DEVICE, RULES, filesystem, scene

if TYPE_CHECKING:
    from collections.abc import Callable


def tag(path: Path, text: bytes = SIGNATURE + b"\n# made by a test\n") -> Path:
    """Make a directory with a CACHEDIR.TAG of this text."""
    path.mkdir(parents=True, exist_ok=True)
    (path / TAG).write_bytes(text)
    return path


def resolve(home: Path, search: Search | None = None, **overrides: CacheOverride) -> dict[str, Cache]:
    """Return the caches of a home by id."""
    caches = resolve_caches({}, str(home), overrides, search=search or Search())
    assert len({cache.id for cache in caches}) == len(caches)
    return {cache.id: cache for cache in caches}


def tagged(home: Path, search: Search | None = None, **overrides: CacheOverride) -> dict[str, Cache]:
    """Return only those that a tag made known."""
    return {name: cache for name, cache in resolve(home, search, **overrides).items() if name.startswith("tagged:")}


# ---- tags --------------------------------------------------------------------------------------------------------------


def test_a_tag_makes_a_cache(home: Path) -> None:
    """One and two levels below the cache directory, with an id of the path there; reported only, with the way out."""
    tag(home / ".cache/renderer")
    tag(home / ".cache/vendor/tool")
    found = tagged(home)
    assert {name: (cache.path, cache.kind, cache.rule) for name, cache in found.items()} == {
        "tagged:renderer": (f"{home}/.cache/renderer", Kind.CACHE, TAG),
        "tagged:vendor/tool": (f"{home}/.cache/vendor/tool", Kind.CACHE, TAG),
    }
    assert '[move] tagged = true, or move = true in [caches."tagged:renderer"]' in str(found["tagged:renderer"].report_only)
    assert all(cache.report_only is None for cache in tagged(home, Search(move_tagged=True)).values())


@pytest.mark.parametrize(
    "text", [b"", SIGNATURE[:-1], SIGNATURE.lower(), b" " + SIGNATURE, b"\xef\xbb\xbf" + SIGNATURE, SIGNATURE.replace(b"8", b"9")]
)
def test_only_the_signature_counts(home: Path, text: bytes) -> None:
    """A file of that name without the signature at its very beginning is no tag; with nothing behind it, it is one."""
    tag(home / ".cache/a", text)
    tag(home / ".cache/b", SIGNATURE)
    assert set(tagged(home)) == {"tagged:b"}


def test_what_is_no_file_is_no_tag_and_stops_nothing(home: Path) -> None:
    """A FIFO, a directory, a link, a closed file in place of the tag, and links instead of directories, are passed over."""
    for name in ("fifo", "folder", "link", "closed"):
        (home / ".cache" / name).mkdir(parents=True)
    os.mkfifo(home / ".cache/fifo" / TAG)
    (home / ".cache/folder" / TAG).mkdir()
    tag(home / "elsewhere")
    (home / ".cache/link" / TAG).symlink_to(home / "elsewhere" / TAG)
    (home / ".cache/away").symlink_to(home / "elsewhere")
    (home / ".cache/broken").symlink_to("/nowhere")
    (home / ".cache/file").touch()
    assert tagged(home) == {}
    assert tagged(home / "nothing-here") == {}


def test_a_known_cache_is_not_found_a_second_time(home: Path) -> None:
    """uv's own tag, and tags inside of known caches and of tagged ones, name nothing new; one around a known cache stays."""
    tag(home / ".cache/uv")
    tag(home / ".cache/pip/http-v2")
    tag(home / ".cache/outer")
    tag(home / ".cache/outer/inner")
    tag(home / ".cache/huggingface")
    found = tagged(home, Search(move_tagged=True))
    assert set(found) == {"tagged:outer", "tagged:huggingface"}
    assert found["tagged:huggingface"].report_only == f"it holds hf-hub ('{home}/.cache/huggingface/hub'), which goes by itself"
    mine = tagged(home, mine=CacheOverride(path=f"{home}/.cache/outer"))
    assert set(mine) == {"tagged:huggingface"}


def test_other_places_and_three_levels(home: Path) -> None:
    """Places of the user's are looked at instead, with the whole path as the id; deeper than two levels nothing is."""
    tag(home / ".cache/a")
    tag(home / "work/b")
    tag(home / "work/1/2/3")
    assert set(tagged(home, Search(tagged_below=(f"{home}/work",)))) == {f"tagged:{home}/work/b"}
    both = tagged(home, Search(tagged_below=(f"{home}/.cache", f"{home}/work", f"{home}/work")))
    assert set(both) == {"tagged:a", f"tagged:{home}/work/b"}


def test_the_users_word_about_a_tagged_one(home: Path) -> None:
    """[caches."tagged:NAME"] lets it move, keeps it, names it and bounds it."""
    tag(home / ".cache/a")
    word = CacheOverride(move=True, limit_bytes=7, title="mine", kind=Kind.STATE)
    cache = tagged(home, **{"tagged:a": word})["tagged:a"]
    assert (cache.report_only, cache.move, cache.limit_bytes, cache.title, cache.kind) == (None, True, 7, "mine", Kind.STATE)
    assert tagged(home, **{"tagged:a": CacheOverride(pin=True)})["tagged:a"].pinned == 'pin = true in [caches."tagged:a"]'


def test_looking_for_tags_is_bounded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many directories there are, only so many are looked at."""
    for number in range(30):
        tag(home / f".cache/{number:02}")
    monkeypatch.setattr(tags, "_MOST_LOOKED_AT", 10)
    assert len(tagged(home)) == 10


# ---- wildcards -----------------------------------------------------------------------------------------------------------


def test_a_pattern_names_many(home: Path) -> None:
    """Each directory is a cache of its own, whose id is what the wildcards stand for and changes with nothing else."""
    for name in ("work/a/wandb", "work/b/wandb", "work/.hidden/wandb", "work/c"):
        (home / name).mkdir(parents=True)
    (home / "work/d").mkdir()
    (home / "work/d/wandb").touch()
    found = resolve(home, runs=CacheOverride(path=f"{home}/work/*/wandb"))
    runs = {name: cache.path for name, cache in found.items() if name.startswith("runs")}
    assert runs == {"runs:a": f"{home}/work/a/wandb", "runs:b": f"{home}/work/b/wandb"}
    (home / "work/a/wandb").rmdir()
    (home / "work/a0/wandb").mkdir(parents=True)
    (home / "work/b/wandb").rmdir()
    (home / "work/b/wandb").symlink_to("/gone")  # relocated to a disk that is away
    after = resolve(home, runs=CacheOverride(path=f"{home}/work/*/wandb", title="runs"))
    assert {name for name in after if name.startswith("runs")} == {"runs:a0", "runs:b"}
    assert (after["runs:b"].title, after["runs:b"].move, after["runs:b"].rule) == ("runs b", True, "[caches.runs]")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("w/*", ["a", "b"]),
        ("w/[ab]/x", ["a"]),
        ("w/?", ["a", "b"]),
        ("*/b", ["w"]),
        ("*/*/x", ["w/a"]),
        ("w/*/none", []),
        ("w/a[1]", None),
    ],
)
def test_what_the_wildcards_stand_for(home: Path, pattern: str, names: list[str] | None) -> None:
    """The components with a wildcard, joined; a directory whose very name looks like a pattern is itself."""
    (home / "w/a/x").mkdir(parents=True)
    (home / "w/b").mkdir()
    if names is None:
        (home / "w/a[1]").mkdir()
    found = [cache for name, cache in resolve(home, m=CacheOverride(path=f"{home}/{pattern}")).items() if name.split(":")[0] == "m"]
    if not names:
        assert [(cache.id, cache.path) for cache in found] == [("m", f"{home}/{pattern}")]
        assert bool(found[0].caveats) is (names == [])
    else:
        assert [cache.id for cache in found] == [f"m:{name}" for name in names]


def test_a_pattern_for_a_known_cache(home: Path) -> None:
    """[caches.wandb-runs] with wildcards gives several with the facts of that entry, and a word for one of them counts."""
    for name in ("a", "b"):
        (home / "p" / name / "wandb").mkdir(parents=True)
    words = {"wandb-runs": CacheOverride(path=f"{home}/p/*/wandb"), "wandb-runs:b": CacheOverride(move=False)}
    caches = resolve(home, **words)
    assert {"wandb-runs:a", "wandb-runs:b"} <= set(caches)
    assert (caches["wandb-runs:a"].kind, caches["wandb-runs:a"].processes) == (Kind.STATE, ("wandb-core",))
    assert (caches["wandb-runs:a"].move, caches["wandb-runs:b"].move) == (None, False)
    assert find_rule("wandb-runs:a") is find_rule("wandb-runs")


def test_a_pattern_gives_only_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern that names thousands is cut, always in the same way."""
    for number in range(20):
        (tmp_path / f"{number:02}").mkdir()
    monkeypatch.setattr(globs, "MOST", 5)
    assert [name for _, name in globs.find_matches(f"{tmp_path}/*")] == ["00", "01", "02", "03", "04"]


# ---- what is left alone --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "path", "kept"),
    [
        ("keep/**", "keep/a/b", True),
        ("keep/**", "keep", True),
        ("keep", "keep/a", True),
        ("keep", "keeper", False),
        ("keep/*", "keep/a", True),
        ("keep/*", "keep", True),  # keep/a is in it
        ("*/results", "x/results/deep", True),
        ("*/results", "x", True),
        ("*/results", "y", False),
        ("x/results", ".", True),
        ("none/at/all", ".", False),
        ("keep/none", "keep", False),
        ("k??p", "keep", True),
        ("link/a", "keep/a", True),  # link -> keep
        ("keep/a", "link/a", True),
        (".hid*/x", ".hidden", True),
    ],
)
def test_what_a_pattern_keeps(home: Path, pattern: str, path: str, kept: bool) -> None:
    """What it names, all below, and whatever holds such a thing; by the true place, too."""
    for name in ("keep/a/b", "x/results/deep", "y", "keeper", ".hidden/x"):
        (home / name).mkdir(parents=True)
    (home / "link").symlink_to("keep")
    found = globs.find_excluding(os.path.normpath(home / path), (f"{home}/nothing", f"{home}/{pattern}"))
    assert found == (f"{home}/{pattern}" if kept else None)


NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=4)


@given(NAMES, NAMES)
def test_a_plain_exclude_keeps_itself_and_all_below(first: list[str], second: list[str]) -> None:
    """Without wildcards and with nothing there, exactly what lies at or below the pattern is kept."""
    kept, path = "/nowhere/" + "/".join(first), "/nowhere/" + "/".join(second)
    expected = f"{path}/".startswith(f"{kept}/")
    for pattern in (kept, f"{kept}/**"):
        assert (globs.find_excluding(path, (pattern,)) is not None) == expected


def refusals(caches: dict[str, Cache]) -> dict[str, tuple[Reason, str]]:
    """Return why each of these, as large directories under pressure, would not be moved."""
    size = TreeSize(2 * GIB, 2 * GIB, newest_change=NOW - 86400)
    readings = [CacheReading(cache, NOW, CacheState.HOME, size, ROOT_DEVICE) for cache in caches.values()]
    plan = policy.plan(scene(*readings, fs=filesystem(0.98)), {"/": Pressure.FLOOD}, RULES)
    assert len(plan.moves) + len(plan.refusals) == len(caches)
    return {item.cache_id: (item.reason, item.text) for item in plan.refusals}


def test_a_pin_and_an_exclude_are_reasons_of_the_plan(home: Path) -> None:
    """A pinned cache, one below an exclude, and what contains a pinned one, stay with their reason; nothing else does for it."""
    search = Search(exclude=(f"{home}/.npm/**",))
    words = {"pip": CacheOverride(pin=True), "all": CacheOverride(path=f"{home}/.cache"), "bun": CacheOverride(pin=False)}
    caches = resolve(home, search, **words)
    why = refusals({name: caches[name] for name in ("pip", "npm", "all", "bun")})
    assert why["pip"] == (Reason.PINNED, "never moved: pin = true in [caches.pip]")
    assert why["npm"] == (Reason.PINNED, f"never moved: '{home}/.npm/**' in [move] exclude")
    assert why["all"] == (Reason.PINNED, f"contains '{home}/.cache/pip', and pin = true in [caches.pip]")
    assert "bun" not in why


def test_a_pin_beats_move_and_an_outer_cache_is_no_outer_one(home: Path) -> None:
    """pin = true wins over move = true, and what lies in a pinned cache is not said to go with it."""
    caches = resolve(home, npm=CacheOverride(move=True, pin=True), mine=CacheOverride(path=f"{home}/.npm/x"))
    assert caches["npm"].pinned
    assert caches["mine"].report_only is None


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (".cache/pip", "pin = true in [caches.pip]"),
        (".cache", ".cache/pip' in it is kept by pin = true"),
        ("keep/x", "keep/**' in [move] exclude"),
        ("keep", "keep/**' in [move] exclude"),
        ("other", None),
    ],
)
def test_nobody_moves_by_hand_what_is_pinned(home: Path, path: str, why: str | None) -> None:
    """A person's own command is refused, too, and says which word of the configuration is in the way."""
    for name in (".cache/pip", "keep/x", "other"):
        (home / name).mkdir(parents=True)
    caches = resolve_caches({}, str(home), {"pip": CacheOverride(pin=True)}, search=Search(exclude=(f"{home}/keep/**",)))
    settings = SimpleNamespace(move=SimpleNamespace(exclude=(f"{home}/keep/**",)))
    machine: Any = SimpleNamespace(caches=caches, settings=settings)
    cache = next((c for c in caches if c.path == f"{home}/{path}"), Cache("x", "x", Kind.STATE, f"{home}/{path}", "by hand"))
    if why is None:
        errands._check_word(machine, cache, errands.Verb.RELOCATE)
        return
    with pytest.raises(Refused) as caught:
        errands._check_word(machine, cache, errands.Verb.RELOCATE)
    assert caught.value.reason is Reason.PINNED
    assert why in caught.value.message


# ---- the configuration ---------------------------------------------------------------------------------------------------


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Settings]:
    """Return a function that loads a configuration of this text."""

    def load(text: str, **env: str) -> Settings:
        file = tmp_path / "config.toml"
        file.write_text(text)
        return load_settings(file, env, "/home/alice")

    return load


def test_the_keys_are_read(load: Callable[..., Settings]) -> None:
    """exclude and tagged_below follow `~`, pin and tagged are flags, also as variables."""
    text = '[watch]\ntagged_below = ["~/w"]\n[move]\ntagged = true\nexclude = ["~/keep/**", "$BIG/*/x"]\n[caches.pip]\npin = true\n'
    settings = load(text, BIG="/big")
    assert settings.search() == Search(("/home/alice/w",), move_tagged=True, exclude=("/home/alice/keep/**", "/big/*/x"))
    assert settings.overrides()["pip"] == CacheOverride(pin=True)
    by_variable = load("", SURVIVED_MOVE__TAGGED="yes", SURVIVED_MOVE__EXCLUDE="~/a,~/b", SURVIVED_CACHES__PIP__PIN="1")
    assert by_variable.search() == Search(None, move_tagged=True, exclude=("/home/alice/a", "/home/alice/b"))
    assert by_variable.overrides()["pip"].pin is True
    named = load('[caches."tagged:a b"]\nmove = true\n[caches.m]\npath = "~/w/*"\n[caches."m:x"]\npin = true\n').overrides()
    assert (named["tagged:a b"].move, named["m"].path, named["m:x"].pin) == (True, "/home/alice/w/*", True)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[caches.m]\npath = "~/w/**"\n', "a wildcard stands for one name, as in '~/work/*/wandb'"),
        ('[move]\nexclude = ["~/**/x"]\n', "'**' may only stand at its end"),
        ('[move]\nexclude = "~/x"\n', "is not a list of patterns"),
        ('[move]\nexclude = ["keep"]\n', "is not an absolute path"),
        ("[move]\ntagged = 1\n", "is neither true nor false"),
        ('[caches.pip]\npin = "yes"\n', "is neither true nor false"),
        ("[watch]\ntagged_below = []\n", "the list is empty"),
        ('[caches."m:x"]\nmove = false\n', "no cache of that name is known"),
        ('[caches."tagged:x"]\npath = "/x"\n', "has no path of its own"),
        ('[caches.tagged]\npath = "/x"\n', "has no path of its own"),
    ],
)
def test_a_mistake_is_told(load: Callable[..., Settings], text: str, why: str) -> None:
    """One sentence for each."""
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert why in caught.value.message


# ---- parts and root mode -------------------------------------------------------------------------------------------------


def test_what_is_of_another_kind_below(home: Path) -> None:
    """Poetry's virtualenvs are environments, Hugging Face's token and cargo's credentials secrets, each at its own path."""
    caches = resolve(home)
    parts = {name: {Path(part.path).name: (part.kind, part.secret) for part in parts_of(caches[name])} for name in caches}
    assert parts["poetry"]["virtualenvs"] == (Kind.ENVIRONMENT, False)
    assert parts["cargo"] | {"bin": (Kind.ENVIRONMENT, False), "credentials.toml": (Kind.STATE, True)} == parts["cargo"]
    assert [(part.path, part.kind, part.secret) for part in parts_of(caches["hf-hub"])] == [
        (f"{home}/.cache/huggingface/token", Kind.STATE, True),
        (f"{home}/.cache/huggingface/stored_tokens", Kind.STATE, True),
    ]
    assert parts_of(Cache("mine", "", Kind.CACHE, "/m", "")) == ()


def test_the_systems_caches_are_there_in_root_mode_only(home: Path) -> None:
    """Docker, containerd, apt, the journal and snaps: report only, with the command that is right for each."""
    system = {"docker-rootful", "containerd", "apt-archives", "journald", "snap", "ollama-service"}
    assert system & set(resolve(home)) == set()
    caches = {cache.id: cache for cache in resolve_caches({}, str(home), {}, uid=0, root_mode=True)}
    assert system <= set(caches)
    said = {name: str(caches[name].report_only) for name in system}
    for name, words in {
        "docker-rootful": "data-root", "containerd": "/etc/containerd/config.toml", "apt-archives": "apt-get clean",
        "journald": "journalctl --vacuum-size=1G", "snap": "snap remove --revision=N NAME",
    }.items():  # fmt: skip
        assert words in said[name]
    assert caches["docker-rootful"].clean_command is None  # it would delete volumes


def test_the_systems_files_are_read(tmp_path: Path) -> None:
    """data-root, containerd's root, core_pattern and mounts say where things lie."""
    root = tmp_path / "system"
    files = {
        "etc/docker/daemon.json": '{"data-root": "/data1/docker"}', "etc/containerd/config.toml": 'root = "/data1/ctd"',
        "proc/sys/kernel/core_pattern": "/var/crash/core.%e.%p\n",
        "proc/self/mountinfo": f"1 1 8:1 / {tmp_path}/m\\040x rw - ext4 /dev/sda rw\n2 1 0:5 / /nfs rw - nfs host:/x rw\n",
    }  # fmt: skip
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (tmp_path / "m x/.pnpm-store").mkdir(parents=True)
    (tmp_path / "m x/alice/.pnpm-store").mkdir(parents=True)
    caches = {c.id: c.path for c in resolve_caches({}, "/home/alice", {}, root=str(root), uid=0, root_mode=True)}
    assert (caches["docker-rootful"], caches["containerd"], caches["coredumps"]) == ("/data1/docker", "/data1/ctd", "/var/crash")
    assert caches["pnpm-stray"] == f"{tmp_path}/m x/.pnpm-store"
    assert caches["pnpm-stray-2"] == f"{tmp_path}/m x/alice/.pnpm-store"
    for pattern, place in (
        ("core", "/var/lib/systemd/coredump"),
        ("|/usr/lib/systemd/systemd-coredump %P", "/var/lib/systemd/coredump"),
        ("|/usr/share/apport/apport -p%p", "/var/lib/apport/coredump"),
        ("/cores/%u/c", "/cores"),
    ):
        (root / "proc/sys/kernel/core_pattern").write_text(pattern)
        assert {c.id: c.path for c in resolve_caches({}, "/home/alice", {}, root=str(root))}["coredumps"] == place


def test_named_entries_keep_their_ids(home: Path) -> None:
    """Of browsers each has its own id, whichever others are there."""
    (home / ".cache/chromium").mkdir(parents=True)
    assert resolve(home)["browsers-chromium"].path == f"{home}/.cache/chromium"
    (home / ".cache/mozilla").mkdir()
    caches = resolve(home)
    assert caches["browsers-firefox"].path == f"{home}/.cache/mozilla"
    assert caches["browsers-chromium"].path == f"{home}/.cache/chromium"
    assert find_rule("browsers-chromium") is find_rule("browsers")
    assert find_rule("browsers-lynx") is None


@given(st.lists(st.tuples(NAMES, st.sampled_from(list(Kind)), st.sampled_from([None, True, False]), st.booleans()), max_size=8))
def test_no_two_that_may_move_overlap(entries: list[tuple[list[str], Kind, bool | None, bool]]) -> None:
    """Whatever lies in whatever: of two that may move none holds the other, and no cache holds what is none, unless asked to."""
    caches = untangle(
        tuple(
            Cache(str(number), "", kind, "/nowhere/" + "/".join(names), "", move=move, pinned="pin" if pin else None)
            for number, (names, kind, move, pin) in enumerate(entries)
        ),
        "/home/alice",
    )
    movable = [cache for cache in caches if cache.report_only is None and cache.move is not False and cache.pinned is None]
    for outer in movable:
        for inner in caches:
            if inner is outer or not f"{inner.path}/".startswith(f"{outer.path}/"):
                continue
            assert inner not in movable
            assert not (outer.kind is Kind.CACHE and inner.kind is not Kind.CACHE) or outer.move is True


def test_an_observation_of_a_pinned_one(home: Path) -> None:
    """A pinned cache that is not there keeps nothing around it from moving."""
    caches = resolve(home, pip=CacheOverride(pin=True), all=CacheOverride(path=f"{home}/.cache"))
    absent = CacheReading(caches["pip"], 0.0, CacheState.ABSENT)
    assert enclosing(CacheReading(caches["all"], 0.0, CacheState.HOME), [absent]) is None
