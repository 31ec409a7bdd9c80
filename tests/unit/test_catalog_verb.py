"""`survivectl catalog`: what was found, by which rule, and whether it may be moved; in 80 columns, and in JSON."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import pytest

from survived.ctl import catalog, local
from survived.ctl.main import main
from survived.settings.catalog import load_rules
from survived.settings.tags import SIGNATURE, TAG

CONFIG = """
[watch]
filesystems = ["{home}"]
[data]
disks = ["{disk}"]
[move]
exclude = ["~/keep/**"]
[caches.runs]
path = "~/work/*/wandb"
[caches."runs:b"]
move = false
[caches.torch-hub]
pin = true
"""


@pytest.fixture
def alice(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Make this process a user with some caches, and no variable of ours; return the home."""
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    home = Path(environment["HOME"])
    for name in (".cache/uv", ".cache/torch", ".cache/mine", "work/a/wandb", "work/b/wandb", "keep/pip", ".keras", ".config/pip"):
        (home / name).mkdir(parents=True)
    (home / ".config/pip/pip.conf").write_text("[global]\ncache-dir = ~/keep/pip\n")
    (home / ".cache/mine" / TAG).write_bytes(SIGNATURE)
    (home / ".npm").symlink_to(tmp_path / "disk/npm")
    config = home / ".config/survived/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(CONFIG.format(home=home, disk=tmp_path / "disk/me"))
    return home


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Return the entries of `catalog --json` by id."""
    assert main(["catalog", "--json", *words]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["schema"] == 1
    assert len({entry["id"] for entry in said["caches"]}) == len(said["caches"])
    return {entry["id"]: entry for entry in said["caches"]}


def test_what_was_found_and_why_it_stays(alice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each with its place, the rule that gave it, and a reason as data."""
    found = ask(capsys)
    assert {name: (entry["may_move"], (entry["reason"] or {}).get("code")) for name, entry in found.items()} | {
        "coredumps": (False, "report_only"), "yarn1": (False, "report_only"),
    } == {
        "uv-cache": (True, None),
        "runs:a": (True, None),
        "runs:b": (False, "switched_off"),
        "torch-hub": (False, "pinned"),
        "pip": (False, "pinned"),
        "keras": (False, "report_only"),
        "tagged:mine": (False, "report_only"),
        "npm": (True, "dangling"),
        "coredumps": (False, "report_only"),
        "yarn1": (False, "report_only"),
    }  # fmt: skip
    assert (found["pip"]["path"], found["pip"]["rule"]) == (f"{alice}/keep/pip", "~/.config/pip/pip.conf [global] cache-dir")
    assert found["pip"]["reason"]["text"] == f"never moved: '{alice}/keep/**' in [move] exclude"
    assert (found["npm"]["state"], found["npm"]["target"]) == ("dangling", str(alice.parent / "disk/npm"))
    assert found["uv-cache"]["rule"] == "default"
    assert found["uv-cache"]["lock"] == [".lock"]
    assert found["uv-cache"]["link"]["breaks_at"] == ["archive-v*"]
    assert found["runs:b"]["reason"]["text"] == 'move = false in [caches."runs:b"]'


def test_with_all_every_rule_is_there(alice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--all has an entry, or several, for each rule of an ordinary user, also for one that names no place."""
    every = ask(capsys, "--all")
    rules = {rule.id for rule in load_rules() if not rule.system}
    assert rules <= {name.partition(":")[0] for name in every}
    assert {rule.id for rule in load_rules() if rule.system} & set(every) == set()
    assert every["wandb-runs"]["path"] is None
    assert every["bun"]["state"] == "absent"
    assert (every["bun"]["may_move"], every["bun"]["reason"]["code"]) == (True, "absent")
    assert set(ask(capsys)) < set(every)


def test_one_entry_in_full(alice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An id, a path, the name of a pattern and that of a rule with several all name entries; the parts have their kinds."""
    hub = ask(capsys, "hf-hub")["hf-hub"]
    assert {(Path(part["path"]).name, part["kind"], part["secret"], part["there"]) for part in hub["parts"]} == {
        ("token", "state", True, False), ("stored_tokens", "state", True, False),
    }  # fmt: skip
    assert hub["clean"] == {
        "command": "hf cache prune", "preview": "hf cache prune --dry-run", "deletes_only_what_comes_back": True,
        "keeps_link": True,
    }  # fmt: skip
    assert hub["looked_for"][:3] == ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "$HF_HOME/hub"]
    assert set(ask(capsys, "runs")) == {"runs:a", "runs:b"}
    assert set(ask(capsys, f"{alice}/.cache/uv", "pip")) == {"uv-cache", "pip"}
    assert ask(capsys, "browsers")["browsers"]["path"] is None


@pytest.mark.parametrize("words", [[], ["--all"], ["pip"], [rule.id for rule in load_rules() if not rule.system]])
def test_it_reads_well_in_eighty_columns(
    words: list[str], alice: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line is longer than a terminal is wide, and none has a blank at its end."""
    for columns in (80, 60, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main(["catalog", *words]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) > 5
        assert [line for line in lines if len(line) > columns or line != line.rstrip()] == []


def test_a_machine_finds_what_came_and_what_was_configured_since(alice: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long-lived daemon sees new directories and changed files of tools once what it knows is old, without a reload."""
    machine = local.open_machine(argparse.Namespace())
    (alice / ".cache/late").mkdir()
    (alice / ".cache/late" / TAG).write_bytes(SIGNATURE)
    (alice / ".config/uv").mkdir()
    (alice / ".config/uv/uv.toml").write_text(f'cache-dir = "{alice}/elsewhere"\n')
    assert "tagged:late" not in {reading.cache.id for reading in machine.observe().caches}
    monkeypatch.setattr("survived.machine._RESOLVED_SECONDS", 0.0)
    seen = {reading.cache.id: reading.cache.path for reading in machine.observe().caches}
    assert seen["tagged:late"] == f"{alice}/.cache/late"
    assert seen["uv-cache"] == f"{alice}/elsewhere"


def test_the_groups(alice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What moves, what lives elsewhere, what stays with its reason, and the names of what is not there."""
    assert main(["catalog"]) == 0
    text = capsys.readouterr().out
    moves, away, stays, absent, _ = text.split("\n\n")
    assert "uv-cache          cache       ~/.cache/uv, by default" in moves
    assert "runs:a" in moves
    assert "npm" in away
    assert "never moved: pin = true in [caches.torch-hub]" in stays
    assert absent.startswith("Not there: ")
    assert "bun" in absent
    assert "hf-hub" not in moves


def test_an_unknown_word(alice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt id is a mistake with the near one as a hint."""
    assert main(["catalog", "pipp"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "survivectl: Cannot find 'pipp': no entry of that name is known.\n  Did you mean 'pip'?\n"


def test_every_field_of_the_catalogue_is_shown(alice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The full record has rule, kind, level, lock, links, cleaning, redirect, caveats and evidence of an entry."""
    assert main(["catalog", "go-mod", "conda-pkgs"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "go-mod: Go modules", "kind cache", "link at the path itself", "lock cache/lock", "cleaned by go clean -modcache",
        "dry run: go clean -n -modcache", "it removes our link", "redirect go env -w GOMODCACHE=PATH", "known by tested 1.19.8",
        "hard links with conda-envs", "looked for GOMODCACHE; $GOENV GOMODCACHE;",
        "mind with the data disk gone conda uses ~/.conda/pkgs without a word",
    ):  # fmt: skip
        assert words in text, words
    assert catalog.document.__doc__
