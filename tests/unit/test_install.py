"""Install and uninstall on real files in a home of their own, without a service manager."""

from __future__ import annotations

import argparse
import json
import os
import pty
import stat
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest

from survived.ctl import install, installed, shipped, uninstall, unit
from survived.errors import ConfigError, Refused, SurvivedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.rig.disks import Disks


@pytest.fixture
def user(home: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the home of a user on a machine without systemd whose only data disk is named by hand."""
    for name in list(os.environ):
        if name.startswith(("XDG_", "SURVIVED_")):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / ".local/state"))
    monkeypatch.setenv("PATH", str(home / "no-systemd"))
    monkeypatch.setattr("survived.observe.disks.find_data_disks", lambda *_: ())
    return home


def _run(room: object, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    room.configure(parser)  # type: ignore[attr-defined]
    return int(room.run(parser.parse_args(arguments)))  # type: ignore[attr-defined]


def _files(home: Path) -> set[str]:
    return {str(path.relative_to(home)) for path in home.rglob("*") if not path.is_dir()}


def test_without_systemd_the_files_are_in_place_and_one_sentence_says_how_to_start(
    user: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Install ends with 1, names what is missing, leaves configuration and unit in place and shows how to go on."""
    assert _run(install, "--yes") == 1
    out = capsys.readouterr().out
    assert "this machine has no systemd" in out
    assert f"nohup {sys.executable} -P -m survived" in out
    config = user / ".config/survived/config.toml"
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert config.read_text(encoding="utf-8") == shipped.read_shipped(shipped.EXAMPLE)
    assert f"ExecStart={sys.executable} -P -m survived" in (user / ".config/systemd/user/survived.service").read_text()


def test_uninstall_takes_back_everything_that_install_made(user: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After install and uninstall the home holds no file and no directory more than before."""
    _run(install, "--yes")
    assert _run(uninstall) == 0
    assert list(user.iterdir()) == []
    assert _run(uninstall) == 0
    assert "nothing to take back" in capsys.readouterr().out


def test_install_twice_changes_nothing_and_a_stale_unit_is_renewed(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run leaves every byte alone; with another interpreter it rewrites the unit only."""
    _run(install, "--yes")
    placed, config = user / ".config/systemd/user/survived.service", user / ".config/survived/config.toml"
    before = (placed.read_bytes(), config.stat().st_mtime_ns)
    _run(install, "--yes")
    assert (placed.read_bytes(), config.stat().st_mtime_ns) == before
    again = user / "python"
    again.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(again))
    _run(install, "--yes")
    assert f"ExecStart={again} -P -m survived" in placed.read_text(encoding="utf-8")
    assert config.stat().st_mtime_ns == before[1]


def test_what_the_user_changed_is_never_overwritten_nor_removed(user: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An edited configuration and an edited unit survive install and uninstall, and both say so."""
    _run(install, "--yes")
    edited = (user / ".config/survived/config.toml", user / ".config/systemd/user/survived.service")
    for path in edited:
        path.write_text(path.read_text(encoding="utf-8") + "\n# mine\n", encoding="utf-8")
    contents = [path.read_bytes() for path in edited]
    _run(install, "--yes")
    capsys.readouterr()
    _run(uninstall)
    assert [path.read_bytes() for path in edited] == contents
    assert capsys.readouterr().out.count("Kept '") == 2


def test_dry_run_writes_nothing(user: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--dry-run says what it would do, as text and as JSON, and leaves the home empty."""
    assert _run(install, "--dry-run") == 0
    assert "Would write the configuration" in capsys.readouterr().out
    assert _run(install, "--dry-run", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["dry_run"], document["config"]["action"]) == (1, True, "written")
    assert list(user.iterdir()) == []


def test_without_a_terminal_and_without_yes_it_refuses(user: Path) -> None:
    """Nobody can be asked: exit 2, the right command in the hint, nothing written."""
    with pytest.raises(UsageError, match="survivectl install --yes"):
        _run(install)
    assert list(user.iterdir()) == []


def test_a_wrong_configuration_is_named_before_anything_is_done(user: Path) -> None:
    """An existing configuration that the daemon would refuse stops the install with exit 6."""
    config = user / ".config/survived/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("[watch]\nhihg = '90%'\n", encoding="utf-8")
    config.chmod(0o600)
    with pytest.raises(ConfigError, match="hihg"):
        _run(install, "--yes")
    assert _files(user) == {".config/survived/config.toml"}


@pytest.mark.parametrize("disk", ["/", "/proc", "/nowhere/at/all", "/etc/passwd"])
def test_a_data_disk_that_cannot_be_one_is_refused(user: Path, disk: str) -> None:
    """Each wrong --disk is refused with exit 4 and its name, and nothing is written."""
    with pytest.raises(Refused, match="Nothing was changed") as caught:
        _run(install, "--yes", "--disk", disk)
    assert f"'{disk}'" in caught.value.message
    assert list(user.iterdir()) == []


def test_a_terminal_is_asked_by_number(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a wrong number is asked again and the right one lands in the configuration."""
    monkeypatch.setattr("survived.observe.disks.find_data_disks", lambda *_: ("/data1/alice", "/data2/alice"))
    leader, follower = pty.openpty()
    os.write(leader, b"7\n2\n")
    with open(follower, encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        _run(install)
    os.close(leader)
    config = tomllib.loads((user / ".config/survived/config.toml").read_text(encoding="utf-8"))
    assert config["data"]["disks"] == ["/data2/alice"]


def test_every_chosen_disk_lands_under_data_and_nothing_else_changes() -> None:
    """The filled example is the example with one key set, whatever the names of the disks are."""
    example = shipped.read_shipped(shipped.EXAMPLE)
    names = ["/data1/alice", '/data "2"/é\\x']
    filled, plain = tomllib.loads(install.fill_disks(example, names)), tomllib.loads(example)
    assert filled["data"].pop("disks") == names
    plain.get("data", {}).pop("disks", None)
    assert filled == plain | {"data": plain.get("data", {})}


@pytest.mark.parametrize(("path", "word"), [("/opt/py/bin/python", "/opt/py/bin/python"), ("/a b/50%", '"/a b/50%%"')])
def test_the_unit_names_the_interpreter_as_systemd_reads_it(path: str, word: str) -> None:
    """Blanks are quoted and per cent signs doubled; variables the service needs come along."""
    command = unit.start_command(path, None)
    text = unit.render_unit(shipped.read_shipped(shipped.UNIT), command, root_mode=False, environment={"XDG_DATA_HOME": "/x y"})
    lines = text.splitlines()
    assert f"ExecStart={word} -P -m survived" in lines
    assert 'Environment="XDG_DATA_HOME=/x y"' in lines
    assert sum(line.startswith("ExecStart=") for line in lines) == 1


def test_in_root_mode_the_unit_suits_the_systems_manager() -> None:
    """A system unit starts with multi-user.target and lies in no slice of a user manager."""
    text = unit.render_unit(shipped.read_shipped(shipped.UNIT), ["/usr/bin/python3"], root_mode=True, environment={})
    assert "WantedBy=multi-user.target" in text
    assert "background.slice" not in text


def test_the_service_is_told_where_the_shell_keeps_caches() -> None:
    """A variable of the catalogue that holds a path goes into the unit; everything else stays out of it."""
    env = {"PIP_CACHE_DIR": "/scratch/pip", "HF_HOME": "off", "AWS_SECRET_ACCESS_KEY": "a/b", "PATH": os.environ["PATH"]}
    assert unit.choose_environment(env, sys.executable).items() - {("PYTHONPATH", os.getcwd())} == {
        ("PIP_CACHE_DIR", "/scratch/pip")
    }


def test_a_broken_record_is_reported_and_not_guessed(user: Path) -> None:
    """An install.json that is no record stops uninstall with one sentence."""
    folder = user / ".local/state/survived"
    folder.mkdir(parents=True)
    (folder / installed.RECORD).write_text("[]", encoding="utf-8")
    with pytest.raises(SurvivedError, match="no record of an install"):
        _run(uninstall)


@pytest.fixture
def full_disk(make_disks: Callable[..., Disks]) -> Path:
    """Return an empty home on a filesystem without a free block."""
    small = make_disks(small="20M", data="20M").small
    home = small.path / "home"
    home.mkdir()
    small.fill_bytes()
    return home


@pytest.mark.real
def test_on_a_full_disk_nothing_is_half_written(full_disk: Path, user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no block free, install says so in one sentence and leaves not even a directory behind."""
    monkeypatch.setenv("HOME", str(full_disk))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(full_disk / ".config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(full_disk / ".local/state"))
    with pytest.raises(SurvivedError, match="No space left on device"):
        _run(install, "--yes")
    assert list(full_disk.iterdir()) == []
