"""`status --watch` and `--short` in a real terminal: tmux draws, resizes and presses keys; a daemon answers."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.rig.disks import small_and_data_disks
from tests.rig.world import ROOT, World, wait_until

pytestmark = pytest.mark.real

SHOW, HIDE = "\x1b[?25h", "\x1b[?25l"


class Terminal:
    """One tmux server of its own with one window, in which a shell runs."""

    def __init__(self, folder: Path, env: dict[str, str], columns: int = 80, lines: int = 24) -> None:
        self._socket, self._env = str(folder / "tmux"), {**env, "LANG": "C.UTF-8", "PS1": "$ ", "ENV": "/dev/null"}
        shell = ["env", "-i", *(f"{name}={value}" for name, value in self._env.items()), "dash", "-i"]
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", str(columns), "-y", str(lines), shlex.join(shell))
        self.tmux("set-option", "-g", "window-size", "manual")
        wait_until(lambda: "$" in self.screen(), what=self.screen)

    def tmux(self, *words: str) -> str:
        """Run tmux and return what it says."""
        env = {**self._env, "TERM": "xterm-256color"}
        done = subprocess.run(["tmux", "-S", self._socket, *words], env=env, capture_output=True, text=True, check=True)
        return done.stdout

    def screen(self, *options: str) -> str:
        """Return what is on the screen; with -e as it is coloured."""
        return self.tmux("capture-pane", "-p", *options)

    def type(self, text: str) -> None:
        """Type a line."""
        self.tmux("send-keys", "-l", text)
        self.tmux("send-keys", "Enter")

    def ask(self, what: str) -> str:
        """Return a format of tmux, such as `#{alternate_on}`."""
        return self.tmux("display-message", "-p", what).strip()

    def close(self) -> None:
        """End the server."""
        subprocess.run(["tmux", "-S", self._socket, "kill-server"], capture_output=True, check=False)


@pytest.fixture
def world(needs_root_mounts: None, tmp_path: Path) -> Iterator[World]:
    """Return a world whose daemon runs, with a cache that may not move, at paths that leave room in 80 columns."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="t")))
        disks = stack.enter_context(small_and_data_disks(folder, small="60M", data="60M"))
        world = stack.enter_context(World(disks.small, (disks.data,), tmp_path / "run"))
        world.configure(move={"min_size": "1 GiB"})
        world.fill(world.cache / "pip", 5)
        world.start()
        yield world


@pytest.fixture
def terminal(world: World, tmp_path: Path) -> Iterator[Terminal]:
    """Return a terminal of 80 by 24 in which `survivectl` is ours."""
    ours = tmp_path / "bin/survivectl"
    ours.parent.mkdir()
    ours.write_text(
        f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.quote(sys.executable)} -m survived.ctl.quick "$@"\n'
    )
    ours.chmod(0o755)
    found = Terminal(tmp_path, {**world.env, "PATH": f"{ours.parent}:/usr/bin:/bin", "TERM": "screen-256color"})
    yield found
    found.close()


def test_watch_redraws_in_place_resizes_and_leaves_the_terminal_as_it_was(world: World, terminal: Terminal, tmp_path: Path) -> None:
    """
    On the alternate screen, in one write a frame, never cleared before it is drawn; a flood is seen; a narrower window is
    drawn anew at once; Ctrl-C and q bring back screen, cursor and echo.
    """
    raw = tmp_path / "raw"
    terminal.type("echo before")
    terminal.tmux("pipe-pane", f"cat >> {shlex.quote(str(raw))}")
    terminal.type("survivectl status --watch")
    wait_until(lambda: re.search(r"(TROUBLE|OK)  \S", terminal.screen()), what=terminal.screen)
    assert terminal.ask("#{alternate_on} #{cursor_flag}") == "1 0"
    first = terminal.screen()
    assert first.splitlines()[0].startswith("OK  ")
    assert "before" not in first
    assert "┊ low 40 %, │ high 60 %, ┃ flood 95 %" in first
    assert "\x1b[32m█" in terminal.screen("-e")
    assert re.fullmatch(r"(\d+ more lines; )?\d\d:\d\d:\d\d  q or Ctrl-C ends", first.splitlines()[-1])

    world.fill(world.home / "data", 35)
    wait_until(lambda: terminal.screen().startswith("HIGH"), what=terminal.screen)
    wait_until(lambda: "\x1b[33m█" in terminal.screen("-e"), what=terminal.screen)

    terminal.tmux("resize-window", "-x", "50", "-y", "12")
    wait_until(lambda: "more lines" in terminal.screen().splitlines()[-1], timeout=5, what=terminal.screen)
    shown = terminal.screen().splitlines()
    assert len(shown) == 12
    assert max(map(len, shown)) <= 50
    assert shown[0].startswith("HIGH")
    terminal.tmux("resize-window", "-x", "120", "-y", "40")
    wait_until(lambda: "more lines" not in terminal.screen(), what=terminal.screen)

    terminal.tmux("send-keys", "C-c")
    wait_until(lambda: "before" in terminal.screen(), what=terminal.screen)
    assert terminal.ask("#{alternate_on} #{cursor_flag}") == "0 1"
    terminal.type("stty -a; echo code=$?")
    wait_until(lambda: "code=0" in terminal.screen(), what=terminal.screen)
    assert re.search(r"\bicanon\b.*\n?.* echo ", terminal.screen().replace("\n", " "))

    terminal.tmux("clear-history")
    terminal.type("survivectl status --watch; echo ended=$?")
    wait_until(lambda: terminal.ask("#{alternate_on}") == "1", what=terminal.screen)
    terminal.tmux("send-keys", "q")
    wait_until(lambda: "ended=0" in terminal.screen(), what=terminal.screen)

    bytes_ = raw.read_text(encoding="utf-8", errors="replace")
    assert "\x1b[2J" not in bytes_
    frames = re.findall(r"\x1b\[\?2026h\x1b\[H(.*?)\x1b\[J\x1b\[\?2026l", bytes_, re.DOTALL)
    assert len(frames) >= 4
    assert all("\x1b[?2026h" not in frame for frame in frames)


def test_a_killed_or_stopped_watch_gives_the_screen_back(world: World, terminal: Terminal) -> None:
    """SIGTERM and Ctrl-Z, and fg afterwards."""
    terminal.type("survivectl status --watch")
    wait_until(lambda: terminal.ask("#{alternate_on}") == "1", what=terminal.screen)
    wait_until(lambda: "daemon" in terminal.screen(), what=terminal.screen)
    terminal.tmux("send-keys", "C-z")
    wait_until(lambda: terminal.ask("#{alternate_on} #{cursor_flag}") == "0 1", what=terminal.screen)
    terminal.type("fg")
    wait_until(lambda: terminal.ask("#{alternate_on}") == "1" and "daemon" in terminal.screen(), what=terminal.screen)
    pids = subprocess.run(
        ["pgrep", "-f", "survived.ctl.quick status --watch"], capture_output=True, text=True, check=True
    ).stdout.split()
    ours = [pid for pid in pids if f"XDG_RUNTIME_DIR={world.run}".encode() in Path(f"/proc/{pid}/environ").read_bytes()]
    subprocess.run(["kill", *ours], check=True)
    wait_until(lambda: terminal.ask("#{alternate_on} #{cursor_flag}") == "0 1", what=terminal.screen)


def test_colours_only_on_a_terminal_that_wants_them(world: World, terminal: Terminal) -> None:
    """NO_COLOR, TERM=dumb and a pipe get plain text; the same words."""

    def coloured(command: str) -> bool:
        end = f"done-{len(command)}"
        terminal.type(f"clear; {command}; echo {end[:3]}''{end[3:]}")
        wait_until(lambda: end in terminal.screen(), what=terminal.screen)
        assert "low 40 %" in terminal.screen()
        return bool(re.search(r"\x1b\[[0-9;]*3[123]m", terminal.screen("-e")))

    assert coloured("survivectl status")
    assert not coloured("NO_COLOR=1 survivectl status")
    assert not coloured("TERM=dumb survivectl status")
    assert not coloured("survivectl status | cat")


def test_tmux_shows_the_token_in_its_status_line(world: World, terminal: Terminal, tmp_path: Path) -> None:
    """`#(survivectl status --short tmux)` in the status line of a tmux inside ours: empty when all is well, else in colour."""
    config = tmp_path / "inner.conf"
    config.write_text(
        "set -g status-interval 1\nset -g status-right '<#(survivectl status --short tmux)>'\nset -g status-right-length 200\n"
    )
    terminal.tmux("resize-window", "-x", "200", "-y", "24")  # the path of a test's disk may fill 80 columns alone
    terminal.type(f"tmux -S {shlex.quote(str(tmp_path / 'inner'))} -f {shlex.quote(str(config))} new-session 'sleep 60'")

    def line(*options: str) -> str:
        return terminal.screen(*options).rstrip("\n").splitlines()[-1].rstrip()

    try:
        wait_until(lambda: line().endswith("<>"), what=terminal.screen)
        world.fill(world.home / "data", 35)
        token = re.escape(f"{world.small.path} ") + r"\d\d%>"
        wait_until(lambda: re.search(token, line()), what=terminal.screen)
        assert re.search(r"\x1b\[[0-9;]*33[0-9;m\x1b\[]*" + re.escape(str(world.small.path)), line("-e")), repr(line("-e"))
    finally:
        subprocess.run(["tmux", "-S", str(tmp_path / "inner"), "kill-server"], capture_output=True, check=False)
