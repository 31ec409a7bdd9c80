"""A rate limit is kept, smooth, shared by both copying processes, and never in the way of a stop."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from survived.act import branches, pace, pair
from survived.act.content import CHUNK
from survived.act.pace import Pace, chunk_for
from survived.act.task import Task
from survived.act.transfer import Care
from survived.errors import Stopped
from survived.model import Stage
from tests.unit.engine import new_task

if TYPE_CHECKING:
    from tests.unit.engine import Rig

MIB = 1024**2


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now, self.sleeps = 1000.0, []  # type: tuple[float, list[float]]

    def monotonic(self) -> float:
        """Tell the time."""
        return self.now

    def wait(self, seconds: float) -> None:
        """Sleep."""
        self.sleeps.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock that the limit goes by."""
    made = Clock()
    monkeypatch.setattr(pace.time, "monotonic", made.monotonic)
    return made


def test_the_rate_is_kept_in_small_slices(clock: Clock) -> None:
    """100 MiB at 10 MiB/s take 10 s, however they are cut, in sleeps of a tenth at most; an entry costs a block besides."""
    limit = Pace(10 * MIB, clock.wait)
    for size in (1, 9, 40, 50):
        limit.spend(size * MIB, 0)
    assert clock.now == pytest.approx(1010.0, abs=0.06)
    assert max(clock.sleeps) <= 0.1
    limit.spend(0, 2560)
    assert clock.now == pytest.approx(1011.0, abs=0.06)


def test_a_pause_is_no_licence_for_a_burst(clock: Clock) -> None:
    """What was not used in an hour is not caught up on."""
    limit = Pace(MIB, clock.wait)
    clock.now += 3600
    limit.spend(2 * MIB, 0)
    assert clock.now == pytest.approx(4602.0, abs=0.06)


@pytest.mark.parametrize(("rate", "chunk"), [(0, CHUNK), (1 << 40, CHUNK), (20 * MIB, MIB), (64 << 10, 64 << 10)])
def test_chunks_fit_the_rate(rate: int, chunk: int) -> None:
    """Twenty chunks a second, within reason."""
    assert chunk_for(rate) == chunk


def test_a_stop_ends_a_long_wait_at_once() -> None:
    """However slow the rate is, nobody waits for it."""
    task = Task(threading.Event())
    task.limit(1)
    task.enter("copy")
    threading.Timer(0.05, task.stop.set).start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        task.tick(1 << 40, 0)
    assert time.monotonic() - began < 5.0


def test_only_what_is_counted_is_limited() -> None:
    """Looking and settling go at their own speed."""
    task = Task(threading.Event())
    task.limit(1)
    task.enter("settle")
    task.tick(1 << 40, 0)
    assert task.bytes_done == 0


def test_removing_is_limited_too(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """2,560 entries are 10 MiB of blocks that somebody's fsync waits for: a second at 10 MiB/s, and none without a limit."""
    task = Task(threading.Event())
    monkeypatch.setattr(task, "wait", clock.wait)
    for rate, until in ((0, 1000.0), (10 * MIB, 1001.0)):
        task.limit(rate)
        task.enter("remove")
        for _ in range(2560):
            task.removed(1)
        assert clock.now == pytest.approx(until, abs=0.06)
    assert task.files_done == 0


def test_a_stop_ends_a_limited_removal() -> None:
    """Who is told to stop does, also while it waits."""
    task = Task(threading.Event())
    task.limit(1)
    task.enter("remove")
    task.stop.set()
    with pytest.raises(Stopped):
        task.removed(1)


@pytest.mark.parametrize("worth", [1 << 30, 0], ids=["small", "large"])
def test_a_move_keeps_to_its_rate(rig: Rig, worth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """3 MiB at 4 MiB/s take three quarters of a second at least, and one process; verifying takes them again."""
    monkeypatch.setattr(branches, "WORTH_FILES", worth)
    for number in range(48):
        (rig.source / f"more{number}").write_bytes(os.urandom(MIB // 16))
    for verify, least in ((False, 0.6), (True, 1.2)):
        task, began = new_task(), time.monotonic()
        with monkeypatch.context() as patch:
            patch.delattr(pair, "first_pass")
            assert rig.relocate(care=Care(0.0, 5.0, verify_content=verify, rate=4 * MIB), task=task).stage is Stage.DONE
        seconds = time.monotonic() - began
        assert seconds > least
        assert task.progress().limit == 4 * MIB
        assert (rig.source / "more7").stat().st_size == MIB // 16
        rig.restore()
    assert rig.leftovers() == []


def test_whoever_steps_back_takes_its_children_along() -> None:
    """The idle I/O class and nice 10 are the thread's that asked, and of what it starts; other threads keep theirs."""
    code = (
        "import os, subprocess, threading\n"
        "from survived.act import fs\n"
        "show = lambda pid: subprocess.run(['ionice', '-p', str(pid)], capture_output=True, text=True).stdout.strip()\n"
        "def work():\n"
        "    fs.step_back()\n"
        "    child = subprocess.Popen(['sleep', '9'])\n"
        "    print(show(threading.get_native_id()), os.getpriority(os.PRIO_PROCESS, 0), sep='|')\n"
        "    print(show(child.pid), os.getpriority(os.PRIO_PROCESS, child.pid), sep='|')\n"
        "    child.kill(); child.wait()\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()\n"
        "print(show(os.getpid()), os.getpriority(os.PRIO_PROCESS, 0), sep='|')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    assert done.stdout.splitlines()[:2] == [f"idle|{max(10, mine)}"] * 2
    assert done.stdout.splitlines()[2].endswith(f"|{mine}")
    assert not done.stdout.splitlines()[2].startswith("idle")
