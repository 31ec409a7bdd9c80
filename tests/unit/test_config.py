"""Each key is read, each mistake is told in one clear sentence, secrets are never shown, and the example is right."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from survived.errors import ConfigError
from survived.model import Kind, Mark, Rules, Watermarks
from survived.settings.config import KEYS, Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
SECRET = "hunter2"
HOME = "/home/alice"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return where the configuration of a test is written."""
    return tmp_path / "config.toml"


@pytest.fixture
def load(file: Path) -> Callable[..., Settings]:
    """Return a function that writes a configuration and loads it."""

    def write_and_load(text: str | bytes = "", env: Mapping[str, str] | None = None, mode: int = 0o600) -> Settings:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        file.chmod(mode)
        return load_settings(file, env or {}, HOME)

    return write_and_load


def refusal(load: Callable[..., Settings], *args: Any, **kwargs: Any) -> str:
    """Return the message of the error that loading raises."""
    with pytest.raises(ConfigError) as caught:
        load(*args, **kwargs)
    assert caught.value.exit_code == 6
    return caught.value.message


# ---- values --------------------------------------------------------------


def test_the_defaults_are_those_of_the_design() -> None:
    """Without a file and variables the rules are the documented defaults."""
    marks = Watermarks(Mark(usage=0.9), Mark(usage=0.8), Mark(usage=0.97))
    assert Settings().rules() == Rules(marks, marks, 30.0, 60.0, Mark(usage=0.95), frozenset({Kind.CACHE}), 100 * 1024**2, 60.0)
    assert Settings().watch.filesystems is None
    assert Settings().data.disks is None
    assert (Settings().move.verify, Settings().move.ballast, Settings().watch.max_watches) == ("metadata", 1024**2, 512)
    assert Settings().notify_urls() == ()


def test_every_key_is_read(load: Callable[..., Settings], tmp_path: Path) -> None:
    """A file that sets every key to something else than its default comes out as it was written."""
    urls = tmp_path / "urls"
    urls.write_text("# mine\n\n json://b \njson://a\n")
    urls.chmod(0o600)
    settings = load(f"""
        [watch]
        filesystems = ["/", "~/x/../y//", "/"]
        high = "20 GiB free"
        low = "40 GiB free"
        flood = "5 GiB free"
        inodes_high = "6000 free"
        inodes_low = 0.5
        inodes_flood = "99.5%"
        dwell = 5
        cooldown = "1h 30min"
        max_watches = 0
        [data]
        disks = ["$BIG/alice", "${{BIG}}2"]
        keep_free = "50 GiB free"
        [move]
        kinds = ["cache", "state"]
        min_size = 7
        settle = "2min"
        verify = "content"
        rate = "50 MiB/s"
        ballast = "0"
        [caches.mine]
        path = "~/mine"
        kind = "state"
        limit = "1 GiB"
        move = false
        title = "my things"
        [notify]
        urls = ["json://a", "json://c"]
        urls_file = "{urls}"
        timeout = "3s"
        repeat = "12h"
        gather = 1
        quiet_hours = ["22:00-07:00"]
        loud = ["failure", "Flood"]
        per_hour = 3
        language = "zh"
        templates = "~/texts"
        heartbeat_url = "https://hc-ping.com/x"
        heartbeat = "1min"
        """, {"BIG": "/data"})  # fmt: skip
    assert settings.watch.filesystems == ("/", "/home/alice/y")
    assert settings.data.disks == ("/data/alice", "/data2")
    gib = 1024**3
    assert settings.rules() == Rules(
        Watermarks(high=Mark(free=20 * gib), low=Mark(free=40 * gib), flood=Mark(free=5 * gib)),
        Watermarks(high=Mark(free=6000), low=Mark(usage=0.5), flood=Mark(usage=0.995)),
        5.0, 5400.0, Mark(free=50 * gib), frozenset({Kind.CACHE, Kind.STATE}), 7, 120.0,
    )  # fmt: skip
    assert (settings.watch.max_watches, settings.move.verify, settings.move.ballast) == (0, "content", 0)
    assert settings.move.rate == 50 * 1024**2
    mine = settings.overrides()["mine"]
    assert (mine.path, mine.kind, mine.limit_bytes, mine.move, mine.title) == (
        "/home/alice/mine", Kind.STATE, gib, False, "my things",
    )  # fmt: skip
    assert settings.notify_urls() == ("json://a", "json://c", "json://b")
    notify = settings.notify
    assert (notify.timeout, notify.repeat, notify.gather, notify.heartbeat, notify.per_hour) == (3.0, 43200.0, 1.0, 60.0, 3)
    assert (notify.quiet_hours, notify.loud, notify.language) == (((1320, 420),), {"failure", "flood"}, "zh")
    assert (notify.templates, settings.heartbeat_url()) == ("/home/alice/texts", "https://hc-ping.com/x")


def test_urls_may_have_tags(load: Callable[..., Settings], tmp_path: Path) -> None:
    """As in Apprise's own text files; who is named once without any gets everything; a tag that no notice has is a mistake."""
    urls = tmp_path / "urls"
    urls.write_text("failure, flood = json://c\nsuccess=json://a\njson://d?x=1,b=json://e\n", encoding="utf-8")
    urls.chmod(0o600)
    settings = load(f'[notify]\nurls = ["Warning=json://a", "json://b", "info=json://b"]\nurls_file = "{urls}"')
    assert settings.routes() == {
        "json://a": {"warning", "success"}, "json://b": set(), "json://c": {"failure", "flood"}, "json://d?x=1,b=json://e": set(),
    }  # fmt: skip
    assert settings.notify_urls() == ("json://a", "json://b", "json://c", "json://d?x=1,b=json://e")
    wrong = refusal(load, f'[notify]\nurls = ["failur=json://{SECRET}"]')
    assert "entry 1 has the tag 'failur', which no notice has; did you mean 'failure'?" in wrong
    urls.write_text(f"json://a\nflod=json://{SECRET}\n", encoding="utf-8")
    wrong += refusal(load, f'[notify]\nurls_file = "{urls}"')
    assert "line 2" in wrong
    assert "did you mean 'flood'?" in wrong
    assert SECRET not in wrong


def test_a_heartbeat_is_a_secret(load: Callable[..., Settings]) -> None:
    """It is never shown, a file with one is for its owner alone, and it is a web address."""
    text = f'[notify]\nheartbeat_url = "https://hc-ping.com/{SECRET}"'
    settings = load(text)
    assert settings.effective()["notify"]["heartbeat_url"] == "(hidden)"
    told = refusal(load, text, mode=0o644) + refusal(load, f'[notify]\nheartbeat_url = "ftp://{SECRET}"')
    assert "notify.heartbeat_url, which is a secret" in told
    assert "no web address" in told
    assert SECRET not in f"{told} {settings!r} {settings.effective()}"


def test_settings_are_frozen() -> None:
    """Nobody can change settings that others hold."""
    with pytest.raises(ValueError, match="frozen"):
        Settings().watch.dwell = 1.0


def test_the_environment_wins_key_by_key(load: Callable[..., Settings]) -> None:
    """A variable replaces its own key, in the type that the file would have, and leaves the others."""
    env = {
        "SURVIVED_WATCH__HIGH": "85%",
        "SURVIVED_WATCH__MAX_WATCHES": "9",
        "SURVIVED_DATA__DISKS": "/a, ~/b",
        "SURVIVED_MOVE__KINDS": '["cache", "state"]',
        "SURVIVED_CACHES__UV_CACHE__LIMIT": "2 GiB",
        "SURVIVED_CACHES__MY_OWN__MOVE": "false",
        "SURVIVED_NOTIFY__URLS": "mailto://u@x?to=a@x,b@x json://b",
    }
    settings = load('[watch]\nhigh = "70%"\nlow = "60%"\n[caches.My_own]\npath = "/o"\n[caches.uv-cache]\nmove = true', env)
    assert settings.watch.high == Mark(usage=0.85)
    assert settings.watch.low == Mark(usage=0.6)
    assert settings.watch.max_watches == 9
    assert settings.data.disks == ("/a", "/home/alice/b")
    assert settings.move.kinds == {Kind.CACHE, Kind.STATE}
    assert settings.overrides()["uv-cache"].limit_bytes == 2 * 1024**3
    assert settings.overrides()["uv-cache"].move is True
    assert settings.overrides()["My_own"].move is False
    assert settings.notify_urls() == ("mailto://u@x?to=a@x,b@x", "json://b")


def test_other_variables_do_not_count(load: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    """Names without `__`, those of our tests, and whatever the process itself has are no settings."""
    monkeypatch.setenv("SURVIVED_WATCH__HIGH", "nonsense")
    assert load("", {"SURVIVED_WATCH": "x", "SURVIVED_TEST_A__B": "x", "SURVIVED_DEBUG": "1", "OTHER__X": "1"}) == Settings()


def test_the_usual_file_is_found_and_may_be_missing(tmp_path: Path) -> None:
    """Without a path the user's own file counts; where it is missing the defaults hold."""
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert load_settings(None, env, HOME) == Settings()
    file = tmp_path / "survived/config.toml"
    file.parent.mkdir()
    file.write_text('[watch]\nhigh = "85%"')
    assert load_settings(None, env, HOME).watch.high == Mark(usage=0.85)


def test_effective_reads_back_and_hides_secrets(load: Callable[..., Settings]) -> None:
    """What `effective` shows is what a file would hold: loading it again gives the same settings."""
    settings = load(
        '[watch]\nhigh = "12345678901 free"\nlow = "92345678901 free"\nflood = "99.25%"\ninodes_high = "5000 free"\n'
        'inodes_low = "6000 free"\ninodes_flood = "1 free"\ndwell = 0.25\n[data]\nkeep_free = "7.5%"\n[move]\nmin_size = 1234567\n'
        'rate = "7 MB/s"\n'
        '[caches.pip]\nlimit = "3 GiB"\nmove = true\nkind = "state"\n[notify]\nurls = ["json://hunter2"]'
    )
    shown = settings.effective()
    assert shown["notify"]["urls"] == ["(hidden)"]
    shown["notify"]["urls"] = ["json://hunter2"]
    assert load(_as_toml(shown)) == settings


def _as_toml(document: dict[str, Any]) -> str:
    lines = []
    tables = {name: table for name, table in document.items() if name != "caches"}
    for name, table in (tables | {f"caches.{name}": cache for name, cache in document["caches"].items()}).items():
        lines.append(f"[{name}]")
        for key, value in table.items():
            if value is not None:
                lines.append(f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}")
    return "\n".join(lines)


# ---- mistakes ------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[watch]\nhihg = '90%'", "unknown key 'watch.hihg'. Did you mean 'watch.high'?"),
        ("[wtach]\nhigh = '90%'", "unknown key 'wtach'. Did you mean 'watch'?"),
        ("high = '90%'", "unknown key 'high'. Did you mean 'watch.high'?"),
        ("[watch]\nmin_size = '1 MiB'", "unknown key 'watch.min_size'. Did you mean 'move.min_size'?"),
        ("[caches.pip]\nlimt = '1 MiB'", "unknown key 'caches.pip.limt'. Did you mean 'caches.pip.limit'?"),
        ("[data]\nzzz = 1", "unknown key 'data.zzz'; [data] takes disks, keep_free, high, allow_exposed."),
        ("zzz = 1", "unknown key 'zzz'; the tables are [watch], [data], [move], [caches], [notify], [metrics], [mirrors]."),
        ("watch = 3", "watch: it is not a table; write [watch]."),
        ("caches = 3", "caches: it is not a table; write [caches.NAME]."),
        ("[caches]\npip = 3", "caches.pip: it is not a table; write [caches.pip]."),
        ("[watch]\nhigh = 90", "watch.high: 90 is not a mark; a mark looks like '90%' or '20 GiB free'."),
        ("[watch]\nhigh = true", "watch.high: true is not a mark; a mark looks like '90%' or '20 GiB free'."),
        ("[watch]\nhigh = nan", "watch.high: nan is not a mark; a mark looks like '90%' or '20 GiB free'."),
        ("[watch]\nflood = '100%'", "watch.flood: '100%' is not a mark; a mark looks like '90%' or '20 GiB free'."),
        ("[watch]\nlow = '0%'", "watch.low: '0%' is not a mark; a mark looks like '90%' or '20 GiB free'."),
        ("[watch]\ninodes_low = 'x'", "watch.inodes_low: 'x' is not a mark; a mark looks like '90%' or '5000 free'."),
        ("[watch]\ndwell = 'soon'", "watch.dwell: 'soon' is not a duration; a duration looks like '30s' or '1h 30min'."),
        ("[watch]\ncooldown = -1", "watch.cooldown: -1 is not a duration; a duration looks like '30s' or '1h 30min'."),
        ("[watch]\nmax_watches = '9'", "watch.max_watches: '9' is not a count; a count is a whole number like 512."),
        ("[watch]\nfilesystems = '/'", "watch.filesystems: '/' is not a list of paths; it looks like [\"/data1/alice\"]."),
        ("[data]\ndisks = []", "data.disks: the list is empty; leave the key out to have it found."),
        ("[data]\ndisks = ['a']", "data.disks: 'a' is not an absolute path; a path begins with '/' or '~/'."),
        ("[data]\ndisks = ['~bob/x']", "data.disks: '~bob/x' is not an absolute path; a path begins with '/' or '~/'."),
        ("[data]\ndisks = [3]", "data.disks: 3 is not a path; a path looks like '/data1/alice' or '~/big'."),
        ('[data]\ndisks = ["/a\\u0000"]', "data.disks: '/a\\x00' is not a path; no path holds a NUL character."),
        ("[data]\ndisks = ['$BIG/a']", "data.disks: '$BIG/a' names the variable BIG, which is not set."),
        ("[data]\nkeep_free = '100%'", "data.keep_free: '100%' is not an amount to keep free; it looks like '5%' or '50 GiB'."),
        ("[move]\nkinds = 'cache'", "move.kinds: 'cache' is not a list of kinds; it looks like [\"cache\", \"environment\"]."),
        ("[move]\nkinds = ['temporary']", "move.kinds: 'temporary' is not a kind that moves; those are cache, environment, state."),
        ("[move]\nmin_size = 'big'", "move.min_size: 'big' is not a size; a size looks like '100 MiB'."),
        ("[move]\nmin_size = 1.5", "move.min_size: 1.5 is not a size; a size looks like '100 MiB'."),
        ("[move]\nrate = 'fast'", "move.rate: 'fast' is not a rate; a rate looks like '50 MiB/s', and '0' is no limit."),
        ("[move]\nrate = true", "move.rate: true is not a rate; a rate looks like '50 MiB/s', and '0' is no limit."),
        ("[move]\nrate = '1'", "move.rate: '1' is too slow to come to an end; at least '64.0 KiB/s', or '0' for no limit."),
        ("[move]\nverify = 'all'", "move.verify: 'all' is not a way to verify; it is 'metadata' or 'content'."),
        ("[caches.pip]\nkind = 'x'", "caches.pip.kind: 'x' is not a kind; it is one of cache, environment, state, temporary."),
        ("[caches.pip]\nmove = 'yes'", "caches.pip.move: 'yes' is neither true nor false (without quotes)."),
        (
            '[caches.pip]\ntitle = "a\\nb"',
            "caches.pip.title: 'a\\nb' is not a title; a title is one line of text like 'my renderings'.",
        ),
        ("[notify]\ntimeout = 0", "notify.timeout: 0 is no time at all; a time limit looks like '30s'."),
        ("[notify]\nurls_file = '/not/there'", "notify.urls_file: cannot read '/not/there': no such file or directory."),
        ("[watch]\nhigh = '70%'", "watch.low (80%, the default) must be below watch.high (70%)."),
        ("[watch]\nhigh = '98%'", "watch.high (98%) must be at or below watch.flood (97%, the default)."),
        ("[watch]\nhigh = '80%'", "watch.low (80%, the default) must be below watch.high (80%)."),
        ("[watch]\ninodes_low = '95%'", "watch.inodes_low (95%) must be below watch.inodes_high (90%, the default)."),
        (
            "[watch]\nhigh = '20 GiB free'\nlow = '10 GiB free'",
            "watch.low (10.0 GiB free) must be below watch.high (20.0 GiB free): "
            "more must be free at low than at high than at flood.",
        ),
    ],
)  # fmt: skip
def test_each_mistake_is_one_clear_sentence(load: Callable[..., Settings], file: Path, text: str, why: str) -> None:
    """The message names the file, the key, the value and what is expected."""
    assert refusal(load, text) == f"Cannot use '{file}': {why}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[caches.zzzzz]", "Cannot use [caches.zzzzz]: no cache of that name is known and it has no path (in 'FILE')."),
        (
            "[caches.hfhub]\nmove = true",
            "Cannot use [caches.hfhub]: no cache of that name is known and it has no path (in 'FILE'). "
            "Did you mean [caches.hf-hub]?",
        ),
        ("[caches.a]\npath = '~'", "Cannot use [caches.a]: its path '/home/alice' is or holds your home directory (in 'FILE')."),
        ("[caches.a]\npath = '/home'", "Cannot use [caches.a]: its path '/home' is or holds your home directory (in 'FILE')."),
        ("[caches.a]\npath = '/'", "Cannot use [caches.a]: its path '/' is or holds your home directory (in 'FILE')."),
        ("[caches.'a b']\npath='/x'", "Cannot use [caches.a b]: a name is made of letters, digits, '-', '_' and '.' (in 'FILE')."),
    ],
)  # fmt: skip
def test_caches_that_cannot_be(load: Callable[..., Settings], file: Path, text: str, message: str) -> None:
    """An unknown cache without a path, a home directory and an odd name are refused."""
    assert refusal(load, text) == message.replace("FILE", str(file))


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("SURVIVED_WTACH__HIGH", "1", "unknown key 'wtach.high'. Did you mean 'SURVIVED_WATCH__HIGH'?"),
        ("SURVIVED_WATCH__HIHG", "1", "unknown key 'watch.hihg'. Did you mean 'SURVIVED_WATCH__HIGH'?"),
        ("SURVIVED_CACHES__PIP__LIMT", "1", "unknown key 'caches.pip.limt'. Did you mean 'SURVIVED_CACHES__PIP__LIMIT'?"),
        ("SURVIVED_QQQ__RRR", "1", "unknown key 'qqq.rrr'."),
        ("SURVIVED_WATCH__HIGH", "lots", "'lots' is not a mark; a mark looks like '90%' or '20 GiB free'."),
        ("SURVIVED_WATCH__HIGH", "75%", "watch.low (80%, the default) must be below watch.high (75%)."),
        ("SURVIVED_CACHES__PIP__MOVE", "maybe", "'maybe' is neither true nor false (without quotes)."),
        ("SURVIVED_DATA__DISKS", '["/a', "'[\"/a' is not a list of paths; it looks like [\"/data1/alice\"]."),
        ("SURVIVED_NOTIFY__URLS", SECRET, "entry 1 is no Apprise URL (not shown: it may be secret); one begins like 'mailto://'."),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_named(load: Callable[..., Settings], name: str, value: str, why: str) -> None:
    """A mistake in the environment is told by the name of its variable."""
    assert refusal(load, "", {name: value}) == f"Cannot use '{name}': {why}"


def test_all_mistakes_are_told_at_once(load: Callable[..., Settings], file: Path) -> None:
    """Several mistakes make one message, each with its place."""
    text = "[watch]\nhihg = 1\ndwell = 'x'\n[move]\nverify = 1"
    assert refusal(load, text, {"SURVIVED_WATCH__LOW": "x"}) == (
        f"Cannot use '{file}': 4 mistakes: (1) 'SURVIVED_WATCH__LOW': 'x' is not a mark; a mark looks like '90%' or '20 GiB free'; "
        "(2) watch.dwell: 'x' is not a duration; a duration looks like '30s' or '1h 30min'; "
        "(3) unknown key 'watch.hihg' (did you mean 'watch.high'?); "
        "(4) move.verify: 1 is not a way to verify; it is 'metadata' or 'content'."
    )


def test_many_mistakes_stay_short(load: Callable[..., Settings]) -> None:
    """Beyond six the rest is only counted."""
    message = refusal(load, "[watch]\n" + "\n".join(f"key{number} = 1" for number in range(40)))
    assert "40 mistakes" in message
    assert message.endswith("; and 34 more.")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[watch]\nhigh 3", "line 2, column 6 is not TOML: expected '=' after a key in a key/value pair."),
        (b"[watch]\nhigh = ", "line 2, column 8 is not TOML: invalid value."),
        (b"a = 'x\n", "line 2, column 1 is not TOML"),
        (b"x = " + b"[" * 5000, "it is nested too deeply."),
    ],
)
def test_what_is_not_toml_is_told_by_line_and_column(load: Callable[..., Settings], file: Path, content: bytes, why: str) -> None:
    """A syntax error names the file, the line and the column."""
    assert refusal(load, content).startswith(f"Cannot use '{file}': {why}")


@pytest.mark.parametrize(
    "text",
    [
        f'[notify]\nurls = ["json://u:{SECRET}@x]\n',
        f"[notify]\nurls = [json://u:{SECRET}@x]\n",
        f'[notify]\nurls = "json://u:{SECRET}@x"',
        f'[notify]\nurls = ["{SECRET}"]',
        f'[notify]\nurls = [["json://{SECRET}"]]',
        f'[notify]\n"json://{SECRET}" = 1',
        f'notify = "json://{SECRET}"',
        f'[notify]\nurls = ["json://{SECRET}"]\nurls = 1',
        f'[notify]\nurls = {{ "json://{SECRET}" = 1, "json://{SECRET}" = 2 }}',
        f'"json://{SECRET}" = 1',
    ],
)
def test_no_message_shows_a_secret(load: Callable[..., Settings], text: str) -> None:
    """However notify.urls is wrong, its value is not told, and nor is it in what the error came from."""
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None or SECRET not in repr(caught.value.__cause__)


def test_no_repr_shows_a_secret(load: Callable[..., Settings]) -> None:
    """Settings can be logged as they are."""
    settings = load(f'[notify]\nurls = ["json://{SECRET}"]')
    assert SECRET in settings.notify_urls()[0]
    assert SECRET not in f"{settings!r} {settings} {settings.notify!r} {settings.effective()}"


def test_a_file_with_secrets_that_others_may_read_is_refused(load: Callable[..., Settings], file: Path) -> None:
    """notify.urls in a file of mode 0640 or 0604 stops the loading, with the command that mends it."""
    text = f'[notify]\nurls = ["json://{SECRET}"]'
    for mode in (0o640, 0o604):
        with pytest.raises(ConfigError) as caught:
            load(text, mode=mode)
        assert caught.value.message == f"Cannot use '{file}': it holds notify.urls, which are secrets, and other users may read it."
        assert caught.value.hint == f"Run: chmod 600 {file}"
    assert load(text, mode=0o400).notify_urls()
    assert load("[notify]\nurls = []", mode=0o644) == Settings()


def test_the_file_of_urls_is_held_to_the_same(load: Callable[..., Settings], tmp_path: Path) -> None:
    """urls_file must be private too, and a line of it that is no URL is told by its number only."""
    urls = tmp_path / "my urls"
    urls.write_text(f"json://a\n{SECRET}\n")
    urls.chmod(0o644)
    text = f"[notify]\nurls_file = '{urls}'"
    with pytest.raises(ConfigError) as caught:
        load(text, mode=0o644)
    assert f"line 2 of '{urls}' is no Apprise URL" in caught.value.message
    assert f"(1) '{urls}': it holds Apprise URLs, which are secrets, and other users may read it;" in caught.value.message
    assert caught.value.hint == f"Run: chmod 600 '{urls}'"
    assert SECRET not in str(caught.value)


def test_files_that_cannot_be_read(load: Callable[..., Settings], file: Path, tmp_path: Path) -> None:
    """A named file that is missing, a directory, broken UTF-8, endless, or behind a broken link is a ConfigError."""
    with pytest.raises(ConfigError, match=r"Cannot read '/not/there': no such file or directory\."):
        load_settings(Path("/not/there"), {}, HOME)
    with pytest.raises(ConfigError, match=r"is a directory\."):
        load_settings(tmp_path, {}, HOME)
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        load_settings(Path("/dev/zero"), {}, HOME)
    assert refusal(load, b"[watch]\nhigh = '\xff'") == f"Cannot read '{file}': line 2 is not UTF-8."
    usual = tmp_path / "survived/config.toml"
    usual.parent.mkdir()
    usual.symlink_to("/not/there")
    with pytest.raises(ConfigError, match="no such file"):
        load_settings(None, {"XDG_CONFIG_HOME": str(tmp_path)}, HOME)


def test_a_byte_order_mark_is_no_mistake(load: Callable[..., Settings]) -> None:
    """A file saved by a Windows editor loads."""
    assert load(b"\xef\xbb\xbf[watch]\r\nhigh = '85%'\r\n").watch.high == Mark(usage=0.85)


def test_marks_that_are_not_given_follow_a_free_amount(load: Callable[..., Settings]) -> None:
    """Beside a high that is an amount, low and flood are amounts too, unless they are given."""
    marks = load("[watch]\nhigh = '20 GiB free'").rules().bytes_marks
    assert (marks.low, marks.flood) == (Mark(free=40 * 1024**3), Mark(free=5 * 1024**3))
    marks = load("[watch]\nhigh = '20 GiB free'\nlow = '70%'\nflood = '99%'").rules().bytes_marks
    assert (marks.low, marks.flood) == (Mark(usage=0.7), Mark(usage=0.99))
    assert load("").rules().bytes_marks.low == Mark(usage=0.8)


# ---- the example ---------------------------------------------------------


def _uncommented() -> str:
    return re.sub(r"^# (?=\[caches\.|[a-z_]+ = )", "", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_the_example_is_the_defaults(load: Callable[..., Settings]) -> None:
    """config.example.toml as it is changes nothing and may be readable by all, for it holds no secret."""
    assert load(EXAMPLE.read_bytes(), mode=0o644) == Settings()


def test_the_example_holds_every_key() -> None:
    """Every key is there; only those that are found by themselves or have no default are comments."""

    def keys(text: str) -> set[tuple[str, str]]:
        document = tomllib.loads(text)
        caches = document.pop("caches", {})
        found = {(section, key) for section, table in document.items() for key in table}
        return found | {("caches", key) for table in caches.values() for key in table}

    every = {(section, key) for section, names in KEYS.items() for key in names}
    commented = {(s, k) for s, k in every if s == "caches"} | {
        ("watch", "filesystems"), ("watch", "tagged_below"), ("data", "disks"), ("move", "budget"), ("notify", "urls"),
        ("notify", "urls_file"), ("notify", "templates"), ("notify", "heartbeat_url"), ("metrics", "textfile"),
    }  # fmt: skip
    assert keys(_uncommented()) == every
    assert keys(EXAMPLE.read_text(encoding="utf-8")) == every - commented


def test_every_key_of_the_example_has_a_comment() -> None:
    """Above each key, or above the group it stands in, there is a comment."""
    previous = ""
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        if re.match(r"(# )?[a-z_]+ = ", line):
            assert previous.startswith("#") or re.match(r"[a-z_]+ = ", previous), line
        previous = line


def test_the_examples_in_the_example_are_right(tmp_path: Path) -> None:
    """With its comments taken off the example is still a configuration that loads."""
    file, urls = tmp_path / "config.toml", tmp_path / ".config/survived/urls"
    urls.parent.mkdir(parents=True)
    for path, text in ((file, _uncommented()), (urls, "json://x\n")):
        path.write_text(text, encoding="utf-8")
        path.chmod(0o600)
    settings = load_settings(file, {}, str(tmp_path))
    assert settings.watch.filesystems == ("/",)
    assert settings.data.disks == ("/data1/alice",)
    assert settings.overrides()["renderings"].path == str(tmp_path / "renderings")
    assert len(settings.notify_urls()) == 2
