"""`install --login-line` adds one block to the start files that login shells read, and uninstall leaves every byte as it was."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from survived.act.ballast import Ballast
from survived.ctl import install, installed, loginline, uninstall
from survived.errors import Refused

if TYPE_CHECKING:
    from pathlib import Path

STARTS: list[tuple[str, bytes]] = [
    (".profile", b""),
    (".profile", b"# mine\nexport A=1\n"),
    (".bash_profile", b"export A=1"),
    (".profile", b"umask 077\r\nexport A=1\r\n"),
    (".bash_login", b"caf\xe9=1\n\n\n"),
]


@pytest.fixture
def user(home: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the home of a user of bash on a machine without systemd and without a data disk."""
    for name in [name for name in os.environ if name.startswith(("XDG_", "SURVIVED_", "ZDOTDIR"))]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))  # else root installs for the whole system
    monkeypatch.setenv("XDG_STATE_HOME", str(home / ".local/state"))
    monkeypatch.setenv("PATH", str(home.parent / "no-systemd"))
    monkeypatch.setattr("survived.observe.disks.find_data_disks", lambda *_: ())
    monkeypatch.setattr(loginline, "login_shell", lambda: "/bin/bash")
    return home


def run(room: object, *arguments: str) -> int:
    """Run install or uninstall."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    room.configure(parser)  # type: ignore[attr-defined]
    return int(room.run(parser.parse_args(arguments)))  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "content"), STARTS)
def test_every_byte_is_back_after_uninstall(name: str, content: bytes, user: Path) -> None:
    """With or without a last line end, with CRLF, with bytes that are no UTF-8; mode and links too."""
    real = user / "dotfiles"
    real.mkdir()
    (real / name).write_bytes(content)
    (real / name).chmod(0o640)
    (user / name).symlink_to(real / name)
    run(install, "--yes", "--login-line")
    assert b"status --quiet" in (real / name).read_bytes()
    assert (real / name).read_bytes().startswith(content)
    run(install, "--yes", "--login-line")
    assert (real / name).read_bytes().count(b"status --quiet") == 1
    run(uninstall)
    assert (real / name).read_bytes() == content
    assert (user / name).is_symlink()
    assert (real / name).stat().st_mode & 0o777 == 0o640


def test_files_that_were_made_go_again(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home without start files has none afterwards, whatever the shell, and no folder more."""
    for shell, file in (("bash", ".profile"), ("zsh", ".zprofile"), ("fish", ".config/fish/conf.d/survived.fish")):
        monkeypatch.setattr(loginline, "login_shell", lambda shell=shell: f"/usr/bin/{shell}")
        run(install, "--yes", "--login-line")
        assert (user / file).is_file()
        run(uninstall)
        assert list(user.iterdir()) == []


def test_a_block_that_was_changed_stays(user: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is its owner's then: neither written over nor taken away, and uninstall says so."""
    (user / ".profile").write_text("export A=1\n")
    run(install, "--yes", "--login-line")
    changed = (user / ".profile").read_text().replace("--quiet", "--short")
    (user / ".profile").write_text(changed)
    run(install, "--yes", "--login-line")
    capsys.readouterr()
    run(uninstall)
    assert (user / ".profile").read_text() == changed
    assert "Kept" in capsys.readouterr().out


def test_a_file_that_became_a_folder_stops_no_uninstall(user: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is told, and the rest is taken back."""
    run(install, "--yes", "--login-line")
    (user / ".profile").unlink()
    (user / ".profile").mkdir()
    capsys.readouterr()
    assert run(uninstall) == 0
    assert "it is not a file" in capsys.readouterr().out
    assert [path.name for path in user.iterdir()] == [".profile"]


def test_a_block_alone_is_taken_out_of_what_was_edited_since(user: Path) -> None:
    """Lines that came later stay where they are."""
    (user / ".profile").write_text("export A=1\n")
    run(install, "--yes", "--login-line")
    with open(user / ".profile", "a") as file:
        file.write("export B=2\n")
    run(uninstall)
    assert (user / ".profile").read_text() == "export A=1\nexport B=2\n"


def test_dry_run_and_a_plain_install_touch_nothing(user: Path) -> None:
    """Only who asks for the line gets it; a later install without the word leaves it."""
    (user / ".profile").write_text("export A=1\n")
    run(install, "--yes", "--login-line", "--dry-run")
    run(install, "--yes")
    assert (user / ".profile").read_text() == "export A=1\n"
    run(install, "--yes", "--login-line")
    run(install, "--yes")
    assert "status --quiet" in (user / ".profile").read_text()
    run(uninstall, "--dry-run")
    assert "status --quiet" in (user / ".profile").read_text()


def test_a_file_that_cannot_be_edited_is_told_and_the_install_goes_on(user: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory in its place, or damaged marks."""
    (user / ".profile").mkdir()
    run(install, "--yes", "--login-line")
    assert "It has no line at login." in capsys.readouterr().out
    assert (user / ".config/survived/config.toml").exists()
    (user / ".profile").rmdir()
    (user / ".profile").write_text("# >>> survived: login line >>>\n")
    run(install, "--yes", "--login-line")
    assert "damaged" in capsys.readouterr().out
    assert (user / ".profile").read_text() == "# >>> survived: login line >>>\n"


def test_a_crash_before_the_write_leaves_a_record_that_harms_nobody(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is first: what was not written is not taken away."""

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    (user / ".profile").write_text("export A=1\n")
    with monkeypatch.context() as patch:
        patch.setattr(loginline, "put", crash)
        with pytest.raises(KeyboardInterrupt):
            run(install, "--yes", "--login-line")
    record = installed.read_record(str(user / ".local/state/survived"))
    assert record is not None
    assert list(record.blocks) == [str(user / ".profile")]
    run(uninstall)
    assert (user / ".profile").read_text() == "export A=1\n"


def test_the_file_that_each_shell_reads(tmp_path: Path) -> None:
    """Bash reads the first of three; zsh by ZDOTDIR; fish from conf.d; shells that nobody uses get nothing."""
    home = str(tmp_path)
    assert loginline.start_files(home, {}, "/bin/bash") == (f"{home}/.profile",)
    assert loginline.start_files(home, {}, "/usr/bin/zsh") == (f"{home}/.zprofile",)
    assert loginline.start_files(home, {"ZDOTDIR": "/z"}, "/usr/bin/zsh") == ("/z/.zprofile",)
    assert loginline.start_files(home, {"XDG_CONFIG_HOME": "/x"}, "/usr/bin/fish") == ("/x/fish/conf.d/survived.fish",)
    for name in (".profile", ".bash_login", ".bash_profile"):
        (tmp_path / name).touch()
        assert loginline.start_files(home, {}, "/bin/sh")[0] == f"{home}/{name}"
    (tmp_path / ".zshrc").touch()
    assert f"{home}/.zprofile" in loginline.start_files(home, {}, "/bin/bash")


# ---- in real shells -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "dash", "zsh", "fish"])
def test_real_shells_say_it_at_login_only(shell: str, tmp_path: Path) -> None:
    """An interactive login shell prints the line; `ssh host command`, scripts and a survivectl that is gone print nothing."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    ours = tmp_path / "it's here/survivectl"
    ours.parent.mkdir()
    ours.write_text('#!/bin/sh\necho "LINE $*"\nexit 5\n')
    ours.chmod(0o755)
    file = {"zsh": ".zprofile", "fish": ".config/fish/conf.d/survived.fish"}.get(shell, ".profile")
    place = tmp_path / file
    place.parent.mkdir(parents=True, exist_ok=True)
    loginline_text = loginline.block(str(place), shlex.quote(str(ours)))
    loginline.put(str(place), {"block": loginline_text}, Ballast(str(tmp_path), 0))
    env = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "TERM": "dumb"}

    def said(*words: str) -> str:
        done = subprocess.run(
            [program, *words], env=env, input="exit\n", capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path
        )
        assert "rror" not in done.stderr, done.stderr
        return done.stdout

    assert "LINE status --quiet" in said("-l", "-i")
    assert "LINE" not in said("-l", "-c", "true")
    assert "LINE" not in said("-c", "true")
    ours.unlink()
    assert "LINE" not in said("-l", "-i")


def test_a_hard_linked_file_is_refused(tmp_path: Path) -> None:
    """One of its names would have the line and the other not."""
    (tmp_path / ".profile").write_text("a\n")
    os.link(tmp_path / ".profile", tmp_path / "other")
    made = loginline.plan(str(tmp_path / ".profile"), None)
    assert made is not None
    with pytest.raises(Refused):
        loginline.put(str(tmp_path / ".profile"), made, Ballast(str(tmp_path), 0))
