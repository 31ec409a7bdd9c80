"""Ctrl-C and SIGTERM in every phase of a move that survivectl does itself: a sentence, the path whole, and nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.rig.disks import mounted
from tests.rig.world import ROOT, World, wait_until
from tests.unit.engine import contents, nasty_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.real

INTERRUPTED = 130
HOOK = """
import os, signal, sys, time
from survived.act.task import Task

phase, number = sys.argv[1], int(sys.argv[2])
real = {name: getattr(Task, name) for name in ("enter", "tick", "walk")}

def interrupt(task):
    global phase
    if task.phase == phase and task.source:
        phase = ""
        os.kill(os.getpid(), number)
        while not task.stop.is_set():
            time.sleep(0.002)

def enter(task, name):
    real["enter"](task, name)
    if name not in ("copy", "remove", "reconcile"):
        interrupt(task)

def tick(task, size, entries):
    interrupt(task)
    real["tick"](task, size, entries)

def walk(task, size, entries=0):
    interrupt(task)
    real["walk"](task, size, entries)

Task.enter, Task.tick, Task.walk = enter, tick, walk
from survived.ctl.main import main
code = main(sys.argv[3:])
sys.exit(code if phase == "" else 99)
"""
"""survivectl that gets the signal in the middle of one phase: at its beginning, or at the first entry that it is about."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Return one world without a daemon for all phases, which settles soon and verifies content."""
    from tests.rig.disks import why_no_mounts

    if reason := why_no_mounts():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("interrupt")
    with ExitStack() as stack:
        disks = [stack.enter_context(mounted(folder, name, size)) for name, size in (("small", "80M"), ("data", "120M"))]
        world = stack.enter_context(World(disks[0], (disks[1],), folder / "run"))
        world.configure(watch={"high": "97%", "low": "90%", "flood": "99%"}, move={"settle": "0s", "verify": "content"})
        yield world


def interrupted(world: World, phase: str, number: int, *words: str) -> subprocess.CompletedProcess[str]:
    """Run survivectl with the hook; it must have met the phase."""
    done = subprocess.run(
        [sys.executable, "-c", HOOK, phase, str(int(number)), *words], env={**world.env, "PYTHONPATH": str(ROOT)}, cwd=world.run,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 99, f"it never came to {phase}: {done}"
    assert "Traceback" not in done.stderr
    return done


def kept_sums(world: World) -> list[str]:
    """Return the sums files of the store."""
    folder = world.stores[0] / "sums"
    return os.listdir(folder) if folder.is_dir() else []


BEFORE, AFTER = ("copy", "sync", "settle", "verify"), ("exchange", "reconcile", "remove")


@pytest.mark.parametrize(
    ("verb", "phase"),
    [*(("relocate", phase) for phase in (*BEFORE, *AFTER)), *(("restore", phase) for phase in ("copy", "exchange", "remove"))],
)
def test_an_interrupt_in_each_phase_is_clean(world: World, phase: str, verb: str) -> None:
    """Exit code 130 either way; before the exchange all is as it was at once, after it the next start ends the rest."""
    cache = world.cache / "pip"
    if not cache.exists():
        nasty_tree(world.fill(cache, 2, files=120) / "nasty")
    if cache.is_symlink() != (verb == "restore"):
        world.must("relocate" if verb == "restore" else "restore", "pip")
    before, was_moved = contents(cache), cache.is_symlink()
    number = signal.SIGTERM if phase in ("settle", "remove") else signal.SIGINT
    done = interrupted(world, phase, number, verb, "pip")
    assert (done.returncode, done.stdout) == (INTERRUPTED, ""), done
    assert contents(cache) == before
    assert cache.is_symlink() == (was_moved if phase in BEFORE else not was_moved)
    if phase in BEFORE:
        assert "The copy was removed, the path is as it was." in done.stderr
        assert (world.leftovers(), world.unfinished()) == ([], ())
    else:
        assert len(world.unfinished()) == 1
        world.must("recover")
        assert (world.leftovers(), world.unfinished()) == ([], ())
    assert contents(cache) == before
    assert len(kept_sums(world)) == cache.is_symlink()


def test_ctrl_c_reaches_the_whole_group(world: World) -> None:
    """A terminal sends it to a whole group of processes: the second copying one is in none of ours, and goes with the first."""
    cache = world.fill(world.cache / "uv", 6, files=6000)
    script = "import sys; from survived.ctl.main import main; sys.exit(main(sys.argv[1:]))"
    client = subprocess.Popen(
        [sys.executable, "-c", script, "relocate", "uv-cache"], env={**world.env, "PYTHONPATH": str(ROOT)}, cwd=world.run,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0,
    )  # fmt: skip

    def children() -> list[int]:
        threads = Path(f"/proc/{client.pid}/task").glob("*/children")
        return [int(pid) for thread in threads for pid in thread.read_text().split()]

    wait_until(lambda: children() and any(world.stores[0].glob("staging/*/tree/*/*/*")), step=0.001)
    assert [os.getpgid(pid) for pid in children()] == children()  # a group of its own, else it would be interrupted, too
    os.killpg(client.pid, signal.SIGINT)
    out, err = client.communicate(timeout=30)
    assert (client.returncode, out) == (INTERRUPTED, ""), err
    assert len(err.splitlines()) == 1, err
    assert "The copy was removed, the path is as it was." in err
    assert not cache.is_symlink()
    assert (world.leftovers(), world.unfinished()) == ([], ())


def test_a_second_ctrl_c_ends_at_once(world: World) -> None:
    """Whoever asks twice does not wait for the copy to be removed: the next start does that."""
    cache = world.cache / "pip"
    if cache.is_symlink():
        world.must("restore", "pip")
    before = contents(cache)
    twice = HOOK.replace("        os.kill(os.getpid(), number)\n", "        os.kill(os.getpid(), number)\n        AGAIN")
    again = "time.sleep(0.5); os.kill(os.getpid(), number); time.sleep(30)\n"
    done = subprocess.run(
        [sys.executable, "-c", twice.replace("AGAIN", again), "copy", str(int(signal.SIGINT)), "relocate", "pip"],
        env={**world.env, "PYTHONPATH": str(ROOT)}, cwd=world.run, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=25, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (INTERRUPTED, "")
    assert contents(cache) == before
    assert len(world.unfinished()) == 1
    world.must("recover")
    assert (world.leftovers(), world.unfinished(), contents(cache)) == ([], (), before)
