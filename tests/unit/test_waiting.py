"""Holders, locks, late writers and stops: who is waited for, and what becomes of what they write."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from survived.act import recover
from survived.act.transfer import Care
from survived.errors import Refused, Stopped
from survived.model import Operation, Stage, Verb
from tests.unit.engine import (
    HookedTask,
    Rig,
    build,
    child,
    nasty_tree,
    new_task,
    snapshot,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IMPATIENT = Care(settle_seconds=0.0, patience_seconds=0.0)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Yield a rig with a nasty little source."""
    with build(tmp_path) as made:
        nasty_tree(made.source)
        yield made


def _mapped(path: Path) -> mmap.mmap:
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), 5)


def _unlinked(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    path.unlink()
    return fd


HOLDS: dict[str, Callable[[Path], object]] = {
    "file": lambda source: open(source / "a", "rb"),  # noqa: SIM115  held open is the point
    "folder": lambda source: os.open(source / "dir", os.O_RDONLY),
    "working directory": lambda source: os.chdir(source / "dir/sub"),
    "mapping": lambda source: _mapped(source / "a"),
    "unlinked file": lambda source: _unlinked(source / "t"),
}


@pytest.mark.parametrize("how", HOLDS)
def test_a_holder_makes_it_busy(rig: Rig, how: str) -> None:
    """A process with anything open below the source, or standing in it, is named, and nothing is changed."""
    with child(lambda: HOLDS[how](rig.source)):
        before = snapshot(rig.source)
        with pytest.raises(Refused, match=r"\(pid \d+\) has files open there. Nothing was changed") as caught:
            rig.relocate(care=IMPATIENT)
        assert caught.value.reason == "busy"
        assert snapshot(rig.source) == before
        assert rig.leftovers() == []
    assert rig.relocate().stage is Stage.DONE


def test_a_holder_of_the_target_keeps_a_restore(rig: Rig) -> None:
    """Restore waits for those who work at the new place, too."""
    rig.relocate()
    with child(lambda: HOLDS["file"](rig.source)):
        with pytest.raises(Refused, match="has files open there"):
            rig.restore(care=IMPATIENT)
        assert rig.source.is_symlink()
        assert rig.leftovers() == []


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def test_the_lock_of_the_tool(rig: Rig) -> None:
    """While the tool holds its lock the source is busy; when it does not, we hold it until the exchange."""
    with child(lambda: _lock(rig.source / ".lock")):
        with pytest.raises(Refused, match="has files open there") as caught:
            rig.relocate(lock=(".lock",), care=IMPATIENT)
        assert caught.value.reason == "busy"
    held: list[bool] = []

    def try_lock() -> None:
        with open(rig.source / ".lock", "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(True)

    assert rig.relocate(lock=(".lock",), task=HookedTask("exchange", try_lock)).stage is Stage.DONE
    assert held == [True]


def test_who_waits_for_the_lock_is_no_holder(rig: Rig) -> None:
    """A process that has only the lock file open, and waits for it, does not keep us from moving."""
    (rig.source / ".lock").touch()
    with child(lambda: os.open(rig.source / ".lock", os.O_RDWR)):
        assert rig.relocate(lock=(".lock",)).stage is Stage.EXCHANGED
        assert rig.source.is_symlink()


def test_a_tree_that_never_rests(rig: Rig) -> None:
    """A source that was changed less than the settle time ago is refused when patience ends."""
    (rig.source / "a").write_text("just now")
    with pytest.raises(Refused, match="it keeps changing") as caught:
        rig.relocate(care=Care(settle_seconds=600, patience_seconds=0.1))
    assert caught.value.reason == "unsettled"
    assert rig.leftovers() == []


def test_a_change_during_the_copy_arrives(rig: Rig) -> None:
    """What is written while the copy is made is in the copy."""
    rig.relocate(task=HookedTask("sync", lambda: (rig.source / "dir/new").write_text("while it was copied")))
    assert (rig.source / "dir/new").read_text() == "while it was copied"


def test_a_source_that_is_replaced_is_not_exchanged(rig: Rig) -> None:
    """A source that was moved away while it was copied, and another in its place, is not taken for it."""

    def replace() -> None:
        rig.source.rename(rig.source.with_name("moved"))
        rig.source.mkdir()

    with pytest.raises(Refused, match="it was replaced while it was copied"):
        rig.relocate(task=HookedTask("exchange", replace))
    assert os.listdir(rig.source) == []
    assert rig.leftovers() == ["moved"]


@pytest.mark.parametrize("verb", Verb)
def test_a_late_writer_is_waited_for(rig: Rig, verb: Verb) -> None:
    """Who came between the last look and the exchange keeps the old place; what it writes arrives when it has ended."""
    before = snapshot(rig.prepare(verb).source)
    with contextlib.ExitStack() as stack:
        steps: list[Callable[[], None]] = []

        def come_late() -> None:
            # Resolved before the exchange: to the old tree of either verb.
            path = Path(os.path.realpath(rig.source)) / "a"
            file: list[int] = []
            acts = (lambda: file.append(os.open(path, os.O_WRONLY | os.O_APPEND)), lambda: os.write(file[0], b"late"))
            steps.append(stack.enter_context(child(*acts)))

        operation = rig.act(verb, task=HookedTask("exchange", come_late))
        check_waiting(rig, operation, before)
        steps[0]()
    ended, puzzles = rig.recover()
    assert ([ended_one.stage for ended_one in ended], puzzles) == ([Stage.DONE], [])
    now = snapshot(rig.source)
    assert (rig.source / "a").read_bytes() == b"first" * 1000 + b"late"
    assert {name for name in now if now[name] != before[name]} == {b"a"}
    assert rig.leftovers() == []


def check_waiting(rig: Rig, operation: Operation, before: object) -> None:
    """Assert that an exchanged operation waits for its holder, and that no other one begins on its path."""
    assert operation.stage is Stage.EXCHANGED
    assert "still uses the old place" in operation.note
    assert snapshot(rig.source) == before
    assert rig.recover()[0][0].stage is Stage.EXCHANGED
    if operation.verb is Verb.RESTORE:
        with pytest.raises(Refused, match="an earlier move of it waits for a program to end"):
            rig.relocate()


@pytest.mark.parametrize("phase", ["copy", "settle", "sync", "exchange"])
@pytest.mark.parametrize("verb", Verb)
def test_a_stop_undoes(rig: Rig, verb: Verb, phase: str) -> None:
    """After a stop in any phase the path is whole, and what was begun is undone, or finished where it was exchanged already."""
    before = snapshot(rig.prepare(verb).source)
    hooked = HookedTask(phase, lambda: hooked.stop.set())
    with pytest.raises(Stopped) as caught:
        rig.act(verb, task=hooked)
    assert caught.value.exit_code == 130
    rig.recover()
    assert snapshot(rig.source) == before
    assert rig.leftovers() == []


@pytest.mark.parametrize("forward", [True, False], ids=["forward", "back"])
def test_a_stop_ends_a_recovery(rig: Rig, forward: bool) -> None:
    """A recovery that has much to remove ends when it is told to, as any move does, and the next one does the rest."""
    before = snapshot(rig.source)
    with pytest.MonkeyPatch.context() as patch:
        if forward:
            patch.setattr(recover, "finish", lambda _store, _journal, operation, *_: operation)
            rig.relocate()
        else:
            patch.setattr(recover, "recover_operation", lambda _store, _journal, operation, *_, **__: operation)
            with pytest.raises(Stopped):
                rig.relocate(task=HookedTask("exchange", stop_now))
    task = new_task()
    task.stop.set()
    with pytest.raises(Stopped):
        recover.recover_all(rig.ends.store, rig.ends.journal, task=task)
    assert snapshot(rig.source) == before
    assert len(rig.open_operations()) == 1
    assert [operation.stage for operation in rig.recover()[0]] == [Stage.DONE if forward else Stage.UNDONE]
    assert (snapshot(rig.source), rig.leftovers()) == (before, [])


def stop_now() -> None:
    """Stop where we stand."""
    raise Stopped("Stopped.")
