"""Recipes, gates and what shells are told: the parts of a redirect that need no real disk."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from survived.act import gate as gates
from survived.act import redirect
from survived.act.ballast import Ballast
from survived.act.formats import FORMATS
from survived.errors import ConfigError, Refused, UsageError
from survived.settings.recipes import find_recipe, load_recipes, parse_recipes
from survived.store.layout import Store


def test_every_recipe_can_be_followed() -> None:
    """Formats are known, names are no two tools', and what happens without the disk is said of each."""
    recipes = load_recipes()
    assert {
        "pip",
        "tmpdir",
        "conda",
        "uv",
        "huggingface",
        "torch",
        "npm",
        "pnpm",
        "yarn",
        "ollama",
        "apptainer",
        "vscode-server",
    } <= {recipe.name for recipe in recipes}
    for recipe in recipes:
        assert all(line.format in FORMATS for line in recipe.edits), recipe.name
        assert all(line.file.startswith(("~/", "{config}/")) for line in recipe.edits), recipe.name
        assert recipe.missing
        assert not recipe.missing.endswith(".")


@pytest.mark.parametrize(
    ("word", "name"), [("pip3", "pip"), ("hf", "huggingface"), ("uv-cache", "uv"), ("conda-envs", "conda"), ("TMPDIR", "tmpdir")]
)
def test_other_names(word: str, name: str) -> None:
    """A tool is found by its other names, and by the catalogue's ids."""
    assert find_recipe(word).name == name


@pytest.mark.parametrize(
    ("word", "hint"),
    [("pipp", "Did you mean 'pip'?"), ("condaa", "Did you mean 'conda'?"), ("docker", "survivectl docker"), ("pipx", "PIPX_HOME"),
     ("qqqqq", "survivectl redirect list"), ("podman", "survivectl relocate podman")],
)  # fmt: skip
def test_an_unknown_tool_names_the_nearest(word: str, hint: str) -> None:
    """What cannot be redirected says what to do instead."""
    with pytest.raises(UsageError, match=f"Cannot redirect '{word}': .* Nothing was changed") as caught:
        find_recipe(word)
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("table", "why"),
    [({}, "nothing"), ({"color": 1}, "unknown key 'color'"), ({"how": "magic"}, "how is one of"),
     ({"places": {"nope": "x"}}, "the catalogue has no 'nope'"), ({"variables": {"X": "{pip}"}}, "none of its places"),
     ({"edits": [{"file": "~/x", "format": "ini", "key": ["a"], "value": "v", "speed": 1}]}, "speed")],
)  # fmt: skip
def test_a_bad_recipe_is_named(table: dict[str, object], why: str) -> None:
    """A mistake in a recipe is told with its tool."""
    with pytest.raises(ConfigError, match=f"tool 'x': .*{why}"):
        parse_recipes({"tool": [{"name": "x", "title": "x", **table}]})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return an open store, as far as gates look at it."""
    path = tmp_path / "data1/alice/survived"
    path.mkdir(parents=True)
    (path / "STORE").write_text("{}")
    return Store(str(path), "0" * 32, os.open(path, os.O_RDONLY | os.O_DIRECTORY), path.stat().st_dev)


def is_open(gate: gates.Gate) -> bool:
    """Tell whether the links lead to the store."""
    marker = os.path.join(gate.store, "STORE")
    return all(
        os.path.exists(os.path.join(path, "STORE")) and os.path.samefile(os.path.join(path, "STORE"), marker) for path in gate.texts
    )


def test_both_links_lead_to_the_store(store: Store, tmp_path: Path) -> None:
    """With the disk there, the kernel and realpath both go through either link to the same folder; a repeat changes nothing."""
    gate = gates.gate_for(str(tmp_path / "share"), store.path, str(tmp_path / "data1"))
    for _ in range(2):
        gates.prepare(store)
        gates.make_folder(store, "redirected/pip")
        gates.open_gate(gate, Ballast(str(tmp_path), 0))

    assert is_open(gate)
    assert gates.gate_for(str(tmp_path / "share"), store.path, str(tmp_path / "data1")) == gate
    for door in (gate.plain, gate.sealed):
        assert os.path.realpath(f"{door}/redirected/pip") == f"{store.path}/redirected/pip"
        assert os.path.samefile(f"{door}/redirected/pip", f"{store.path}/redirected/pip")
    gates.close_gate(gate)
    assert not (tmp_path / "share/survived").exists()


def test_without_the_disk_nothing_can_be_made(store: Store, tmp_path: Path) -> None:
    """With an empty mount point anybody may write, neither way of making a path writes below it, not even root's."""
    gate = gates.gate_for(str(tmp_path / "share"), store.path, str(tmp_path / "data1"))
    gates.prepare(store)
    gates.open_gate(gate, Ballast(str(tmp_path), 0))
    (tmp_path / "data1").rename(tmp_path / "away")
    (tmp_path / "data1/alice").mkdir(parents=True)

    for door in (gate.plain, gate.sealed):
        with pytest.raises(OSError, match=r"No such file|File exists|Not a directory|Permission"):
            os.makedirs(f"{door}/redirected/pip", exist_ok=True)
    with pytest.raises(OSError, match=r"No such file|Permission"):  # what pip does
        os.makedirs(os.path.realpath(f"{gate.sealed}/redirected/pip"))
    assert not is_open(gate)
    assert list((tmp_path / "data1/alice").iterdir()) == []


def test_a_name_that_is_taken(store: Store, tmp_path: Path) -> None:
    """Another disk's gate and a user's own file keep their names; a second gate gets one of its own."""
    (tmp_path / "share/survived").mkdir(parents=True)
    (tmp_path / "share/survived/data1").symlink_to("/elsewhere")
    gate = gates.gate_for(str(tmp_path / "share"), store.path, "/data1")
    assert gate.plain.endswith("/data1-2")
    Path(gate.sealed).write_text("mine")
    with pytest.raises(Refused, match="something has its name"):
        gates.open_gate(gate, Ballast(str(tmp_path), 0))
    gates.close_gate(gate)
    assert Path(gate.sealed).read_text() == "mine"


@pytest.mark.parametrize("shell", ["bash", "dash", "zsh", "fish"])
@pytest.mark.parametrize("made", [True, False])
def test_odd_names_in_every_shell(tmp_path: Path, shell: str, made: bool) -> None:
    """Quotes, blanks, dollars and backslashes come through; strict shells bear it; without the marker nothing is set."""
    from shutil import which

    if which(shell) is None:
        pytest.skip(f"needs {shell}")
    place = tmp_path / 'it\'s $HOME \\ "a" `b`'
    marker = place / "STORE"
    place.mkdir()
    marker.write_text("")
    home, config = tmp_path / "home", tmp_path / "home/.config"
    home.mkdir()
    value = str(place / "tmp")
    edits = redirect.variable_edits(
        "x", {"ONE": value, "TWO": str(place)}, str(marker), str(home), str(config), ["fish"], make=made
    )
    (text,) = [str(edit.value) for edit in edits if edit.file.endswith(".fish" if shell == "fish" else ".profile")]
    strict = {"bash": "set -euo pipefail\n", "dash": "set -eu\n", "zsh": "set -euo pipefail\n"}.get(shell, "")

    def said(**env: str) -> list[str]:
        asked = (
            f"{strict}{text}\nprintenv ONE\nprintenv TWO\ntrue"
            if shell == "fish"
            else f"{strict}{text}\nset +e\nprintenv ONE\nprintenv TWO\ntrue"
        )
        done = subprocess.run(
            [shell, "-c", asked],
            env={"PATH": os.environ["PATH"], "HOME": str(home), **env},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        return done.stdout.splitlines()

    assert said() == [value, str(place)]
    assert os.path.isdir(value) == made
    assert said(SHLVL="3", ONE="/theirs", TWO="/x") == ["/theirs", "/x"]
    marker.unlink()
    assert said() == []


def test_who_sets_a_variable_is_found(tmp_path: Path) -> None:
    """A user's own line is found, in every shell's manner; ours and comments are not."""
    ours = "# >>> survived: x >>>\nexport A=1\n# <<< survived: x <<<\n"
    for number, (text, found) in enumerate(
        [
            (ours, False),
            ("# export A=2\n", False),
            ("BA=1\n", False),
            (f"{ours}export A=2\n", True),
            ("if x; then A=1; fi\n", True),
            ("set -gx A 1\n", True),
        ]
    ):
        path = tmp_path / str(number)
        path.write_text(text)
        assert (redirect.find_setter("A", [str(tmp_path / "none"), str(path)]) is not None) == found, text


def test_tmpfiles_entry_quotes_its_path() -> None:
    """A path with a blank or a per cent sign is one word of tmpfiles.d, and is never created by it."""
    edits = redirect.tmpdir_edits("/data 1/50%/tmp", "/m", "/h", "/h/.config", [], "10d")
    (text,) = [str(edit.value) for edit in edits if "tmpfiles.d" in edit.file]
    assert shlex.split(text.splitlines()[1]) == ["e", "/data 1/50%%/tmp", "0700", "-", "-", "10d"]
