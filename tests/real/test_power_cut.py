"""
The power goes while an operation runs, at many instants: what was fsynced is at its path, and the next start cleans up by itself.

The disks are recorded (tests/rig/power.py, which says what that simulates). Each instant is mounted afresh, so that the kernel
replays the journals, looked at, and recovered. A file is written through the path and fsynced as soon as the exchange has
returned: from then on it counts, too.
"""

from __future__ import annotations

import os
import random
import time
import traceback
from typing import TYPE_CHECKING, Any

import pytest

from survived.act import fs, recover, transfer
from survived.model import Stage, Verb
from tests.rig.disks import why_no_mounts
from tests.rig.power import Cut, Wires, why_no_power, wired
from tests.unit.engine import Entry, Rig, nasty_tree, snapshot
from tests.unit.sabotage import CALLS, Saboteur

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytestmark = pytest.mark.skipif(bool(why_no_mounts() or why_no_power()), reason=str(why_no_mounts() or why_no_power()))

LATE = b"acknowledged"
# How likely the kernel writes home, the data disk and the second one back by itself, before each call that changes something.
MOODS = {"lazy": (0.0, 0.0, 0.0), "home at once": (1.0, 0.0, 0.0), "data at once": (0.0, 1.0, 1.0), "fickle": (0.3, 0.3, 0.3)}
SEED = int(os.environ.get("SURVIVED_TEST_SEED", "4"))
CUTS = 60 if "SURVIVED_TEST_SEED" in os.environ else 16  # of each mood


class Kernel(Saboteur):
    """Writes disks back before each call that changes something, each with its own chance."""

    def __init__(self, paths: Sequence[Path], mood: Sequence[float], seed: int) -> None:
        super().__init__(1, 0, lasting=True)
        self._fds = [os.open(path, fs.DIRECTORY) for path in paths]
        self._mood, self._chance, self._sync = mood, random.Random(seed), fs.sync_filesystem

    def strike(self, owner: Any) -> None:
        """Write back, in the place of a failure."""
        for fd, likely in zip(self._fds, self._mood, strict=False):
            if self._chance.random() < likely:
                self._sync(fd)


def act_in_child(rig: Rig, wires: Wires, verb: Verb, mood: Sequence[float], seed: int) -> int:
    """Run an operation on stores opened in a child; return the mark at which the late file was acknowledged."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            fs.exchange = writing_late(rig, lambda: os.write(tell, b"%d" % wires.mark()))
            # They take time, and are not what this is about.
            transfer.find_holders = lambda paths, **_: dict.fromkeys(paths, ())
            recover.holders_of = lambda _: ()
            rig.open()
            kernel = Kernel(wires.paths, mood, seed)
            for owner, name in CALLS:
                kernel.wrap(owner, name)
            os._exit(0 if rig.act(verb).stage is Stage.DONE else 1)
        except BaseException:  # noqa: BLE001  a forked test must not go on as a second pytest
            traceback.print_exc()
        os._exit(2)
    os.close(tell)
    with os.fdopen(told) as file:
        mark = file.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return int(mark)


def writing_late(rig: Rig, acknowledge: Any) -> Any:
    """Return an exchange after which a tool writes a file through the path at once, fsyncs it, and is told that it is there."""
    exchange, fsync = fs.exchange, os.fsync

    def and_write(parent_fd: int, one: str, other: str) -> None:
        exchange(parent_fd, one, other)
        with open(rig.source / os.fsdecode(LATE), "xb") as file:
            file.write(LATE * 1000)
            file.flush()
            fsync(file.fileno())
        with fs.opened(str(rig.source), follow=True) as fd:
            fsync(fd)
        acknowledge()

    return and_write


def check(rig: Rig, before: dict[bytes, Entry], verb: Verb, cut: Cut, *, acknowledged: bool, done: bool) -> None:
    """Assert that the path is whole at once, and after a new start as it was, clean, and at one of the two ends."""
    check_tree(rig, before, cut, acknowledged=acknowledged)
    rig.open()
    try:
        for _ in range(2):  # the second start finds nothing to do
            assert rig.recover()[1] == [], cut
            check_tree(rig, before, cut, acknowledged=acknowledged)
            assert rig.leftovers() == [], cut
            assert rig.open_operations() == [], cut
        link = os.readlink(rig.source) if rig.source.is_symlink() else ""
        assert [item.target for item in rig.recorded()] == [link] * bool(link), cut
        if done or acknowledged:
            end = {Verb.RELOCATE: rig.disk, Verb.RESTORE: None, Verb.REHOME: rig.second}[verb]
            assert link.startswith(f"{end}/") if end else not link, cut
    finally:
        rig.close()


def check_tree(rig: Rig, before: dict[bytes, Entry], cut: Cut, *, acknowledged: bool) -> None:
    """Assert that the path has what it had, and the late file, if that was acknowledged."""
    found = snapshot(rig.source)
    if found.pop(LATE, None) is not None:
        found[b""] = found[b""]._replace(mtime_ns=before[b""].mtime_ns)
    assert found == before, cut
    if acknowledged:
        assert (rig.source / os.fsdecode(LATE)).read_bytes() == LATE * 1000, cut


def cut_power(kinds: Sequence[str], verb: Verb, mood: Sequence[float], most: int, seed: int) -> int:
    """Run one operation on recorded disks (home, data, ...) and check `most` instants; return how many there were."""
    with wired(kinds) as wires:
        home, disk, *second = wires.paths
        rig = Rig(home, disk / "alice", home / ".cache/tool", second=second[0] / "alice" if second else None)
        with wires.plugged():
            rig.disk.mkdir()
            nasty_tree(rig.source)
            rig.open().prepare(verb).close()
            before = snapshot(rig.source)
            wires.sync()
            begin = wires.mark()
            mark = act_in_child(rig, wires, verb, mood, seed)
            end = wires.mark()
        recording = wires.recording(begin, end)
        late = recording.position(mark)
        cuts = recording.cuts(most, seed)
        for cut in cuts:
            with wires.after(recording.images(cut)):
                check(rig, before, verb, cut, acknowledged=cut.position >= late, done=cut == cuts[-1])
        return len(cuts)


@pytest.mark.parametrize("mood", MOODS)
@pytest.mark.parametrize("verb", Verb)
def test_power_cut(verb: Verb, mood: str) -> None:
    """All disks are ext4, and the kernel writes them back of itself or not, one or all."""
    began = time.monotonic()
    kinds = ("ext4",) * (3 if verb is Verb.REHOME else 2)
    count = cut_power(kinds, verb, MOODS[mood], CUTS, SEED)
    print(f"{verb}, {mood}: {count} cuts in {time.monotonic() - began:.1f} s")
    assert count >= CUTS


@pytest.mark.parametrize("verb", Verb)
def test_power_cut_with_xfs(verb: Verb) -> None:
    """The data disk that receives, or gives back, is xfs."""
    kinds = ("ext4", "ext4", "xfs") if verb is Verb.REHOME else ("ext4", "xfs")
    assert cut_power(kinds, verb, MOODS["lazy"], CUTS, SEED) >= CUTS
