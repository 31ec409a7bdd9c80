"""The explorer in a real terminal of 80 by 24, with a real daemon and without one: caches move, links exist, and come home."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.rig.world import ROOT, World, wait_until
from tests.unit.engine import snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.rig.disks import Disks

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

SETTLED = "? help  q quit"


class Screen:
    """One tmux window in which `survivectl top` runs."""

    def __init__(self, world: World, folder: Path, *words: str) -> None:
        self._socket, self._world = str(folder / "tmux"), world
        env = {**world.env, "PYTHONPATH": str(ROOT), "TERM": "screen-256color", "LANG": "C.UTF-8"}
        top = shlex.join([sys.executable, "-m", "survived.ctl.quick", "top", *words])
        given = shlex.join(f"{name}={value}" for name, value in env.items())
        self.tmux(
            "-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", f"env -i {given} sh -c '{top}; echo ended $?; cat'"
        )
        self.tmux("set-option", "-g", "window-size", "manual")
        self.shows(SETTLED)

    def tmux(self, *words: str) -> str:
        """Run tmux and return what it says."""
        done = subprocess.run(["tmux", "-S", self._socket, *words], capture_output=True, text=True, check=True)
        return done.stdout

    def text(self) -> str:
        """Return what is on the screen."""
        return self.tmux("capture-pane", "-p")

    def shows(self, *texts: str, seconds: float = 60.0) -> str:
        """Wait until all these texts are on the screen; return it."""
        wait_until(lambda: all(text in self.text() for text in texts), seconds, step=0.1, what=lambda: f"{texts}\n{self.text()}")
        return self.text()

    def press(self, *keys: str) -> None:
        """Press keys, as tmux names them."""
        self.tmux("send-keys", *keys)

    def put_cursor_on(self, name: str) -> None:
        """Go to the line whose path, which stands below the list, is the one that is meant."""

        def is_there() -> bool:
            return any(line.strip() == name for line in self.text().splitlines()[-5:-1])

        self.press("Home")
        for _ in range(30):
            time.sleep(0.4)  # no key is still on its way
            if is_there():
                return
            self.press("Down")
        raise AssertionError(f"{name} is not there:\n{self.text()}")

    def close(self) -> None:
        """End the server."""
        subprocess.run(["tmux", "-S", self._socket, "kill-server"], capture_output=True, check=False)


@pytest.fixture
def world(make_disks: Callable[..., Disks], tmp_path: Path) -> Iterator[World]:
    """Return a world with two caches and room for them, in which nothing moves by itself."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    disks = make_disks(small="250M", data="400M")
    with World(disks.small, (disks.data,), tmp_path / "run") as world:
        world.configure(watch={"high": "97%", "low": "96%", "flood": "99%"})
        world.fill(world.cache / "pip", 60)
        world.fill(world.cache / "uv", 40)
        yield world


@pytest.fixture
def open_top(world: World, tmp_path: Path) -> Iterator[Callable[..., Screen]]:
    """Return a function that starts the explorer."""
    made: list[Screen] = []

    def start(*words: str) -> Screen:
        made.append(Screen(world, tmp_path, *words))
        return made[-1]

    yield start
    for screen in made:
        screen.close()


@pytest.mark.parametrize("with_daemon", [True, False], ids=["through the daemon", "without one"])
def test_two_caches_are_marked_and_moved_and_one_comes_home(
    world: World, open_top: Callable[..., Screen], with_daemon: bool
) -> None:
    """Keys only: both are links afterwards with every byte, what is said is true, and restoring makes it what it was."""
    pip, uv = world.cache / "pip", world.cache / "uv"
    before = snapshot(pip), snapshot(uv)
    world.configure(watch={"high": "97%", "low": "96%", "flood": "99%"}, move={"rate": "40 MiB/s"})
    if with_daemon:
        world.start()
    screen = open_top(str(world.cache))  # not the overview: of this machine's own caches none may move
    screen.shows("pip/", "uv/", "pip cache", "uv cache")
    screen.put_cursor_on("~/.cache/pip")
    screen.press("Space")
    screen.shows("1 marked")
    screen.put_cursor_on("~/.cache/uv")
    screen.press("Space")
    screen.shows("2 marked")
    screen.press("m")
    screen.shows("Move 2 directories to a data disk?")
    assert not pip.is_symlink()
    screen.press("Enter")
    screen.shows("(1 of 2)", "█", "copy, ", "x stop")
    screen.shows("2 moved.")
    assert (pip.is_symlink(), uv.is_symlink()) == (True, True)
    assert (snapshot(pip), snapshot(uv)) == before
    screen.shows(f"→ {str(world.disks[0])[:8]}")
    screen.put_cursor_on("~/.cache/pip")
    screen.shows("r brings it home. It lives")
    screen.press("r")
    screen.shows("Bring ~/.cache/pip home?")
    screen.press("Enter")
    screen.shows("Restored")
    assert (pip.is_symlink(), uv.is_symlink()) == (False, True)
    assert snapshot(pip) == before[0]
    screen.press("q")
    screen.shows("ended 0")


def test_a_move_that_is_stopped_leaves_everything_as_it_was(world: World, open_top: Callable[..., Screen]) -> None:
    """x in the middle of a copy: one sentence, the tree untouched; a resize in the middle is followed; Ctrl-C quits."""
    pip = world.cache / "pip"
    before = snapshot(pip)
    world.configure(watch={"high": "97%", "low": "96%", "flood": "99%"}, move={"rate": "4 MiB/s"})
    screen = open_top(str(world.cache))
    screen.shows("pip/")
    screen.put_cursor_on("~/.cache/pip")
    screen.press("m")
    screen.shows("Move ~/.cache/pip")
    screen.press("Enter")
    screen.shows("copy, ")
    screen.tmux("resize-window", "-x", "120", "-y", "40")
    wait_until(lambda: len(screen.text().splitlines()[0]) > 100 or screen.text().count("\n") >= 40, 20, step=0.1, what=screen.text)
    screen.press("x")
    screen.shows("Stopped while moving")
    assert not pip.is_symlink()
    assert snapshot(pip) == before
    screen.press("C-c")
    screen.shows("ended 0")


def test_read_only_refuses(world: World, open_top: Callable[..., Screen]) -> None:
    """Nothing that is pressed moves anything, and the screen says why."""
    pip = world.cache / "pip"
    world.start()
    before = snapshot(world.cache)
    screen = open_top("--read-only", str(world.cache))
    screen.shows("read-only", "pip/", "pip cache")
    screen.put_cursor_on("~/.cache/pip")
    screen.press("Space", "m", "Enter", "y")
    screen.press("Left")
    screen.press("m")
    screen.shows("this is --read-only")
    assert not pip.is_symlink()
    screen.press("o")
    screen.shows("~/.cache/uv", "uv cache", "Plan:")
    screen.press("q")
    screen.shows("ended 0")
    assert snapshot(world.cache) == before


def test_the_whole_disk_is_measured_by_the_way(world: World, open_top: Callable[..., Screen]) -> None:
    """Started in a directory it shows names at once, sizes as they come, and what cannot be moved says why."""
    world.fill(world.home / "work/run1", 30)
    (world.home / "work/notes.log").write_bytes(b"x" * 100_000)
    screen = open_top(str(world.home / "work"))
    screen.shows("run1/", "notes.log", "30.", "2 entries, 30.")
    screen.put_cursor_on("~/work/notes.log")
    screen.press("m")
    screen.shows("only directories are moved")
    screen.press("q")
    screen.shows("ended 0")
