"""What is synced beside other work: its errors are heard, it can be left waiting, and a look that it outlasts is repeated."""

from __future__ import annotations

import errno
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from survived.act import branches, fs
from survived.act.copying import TreeCopy
from survived.act.transfer import Care
from survived.act.writeback import Sync, WriteBack
from survived.errors import Stopped, SurvivedError
from survived.model import Stage
from tests.unit import engine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from tests.unit.engine import Rig


@pytest.fixture
def folder_fd(tmp_path: Path) -> Iterator[int]:
    """Yield an open directory."""
    with fs.opened(str(tmp_path)) as fd:
        yield fd


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """Yield a rig in which every move is synced beside its look, however small."""
    monkeypatch.setattr(branches, "WORTH_FILES", 0)
    with engine.build(tmp_path) as made:
        made.source.mkdir(parents=True, exist_ok=True)
        (made.source / "f").write_text("f")
        time.sleep(0.05)  # what changes as a pass begins is looked at again
        yield made


def test_a_lost_write_is_told_to_who_waits(folder_fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel says in the thread is raised by `wait`, by the caller's own description, and no descriptor is left."""
    opened: list[tuple[int, int]] = []

    def fail(fd: int) -> None:
        opened.append((fd, os.fstat(fd).st_ino))
        raise OSError(errno.EIO, "lost")

    monkeypatch.setattr(fs, "sync_filesystem", fail)
    with pytest.raises(OSError, match="lost"):
        Sync(folder_fd).wait(lambda: None)
    ((fd, inode),) = opened
    assert fd != folder_fd
    assert inode == os.fstat(folder_fd).st_ino
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


def test_who_waits_can_be_stopped(folder_fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes a minute to sync keeps nobody from ending."""
    hangs = threading.Event()
    monkeypatch.setattr(fs, "sync_filesystem", lambda _: hangs.wait(60))

    def check() -> None:
        raise Stopped("now")

    began = time.monotonic()
    with pytest.raises(Stopped):
        Sync(folder_fd).wait(check)
    assert time.monotonic() - began < 10
    hangs.set()
    for thread in threading.enumerate():
        if thread.name == "survived-sync":
            thread.join()


def test_writing_back_ends_with_its_block(folder_fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is begun after `stop`, and no descriptor or thread is left behind the block."""
    before, done = len(os.listdir("/proc/self/fd")), threading.Event()
    monkeypatch.setattr(fs, "sync_filesystem", lambda _: done.set())
    with WriteBack(folder_fd) as writing:
        assert done.wait(10)
        writing.stop()
    assert "survived-write-back" not in {thread.name for thread in threading.enumerate()}
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_look_that_the_sync_outlasts_is_repeated(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changed behind a look while the disk was still busy is found by another, after a sync that nothing is beside."""
    real, looks, late = TreeCopy.look, [], 2.0

    def look(self: TreeCopy, *arguments: Any) -> Any:
        found = real(self, *arguments)
        looks.append(found.copied)
        if len(looks) == 1:
            (rig.source / "late").write_text("behind the look")
        return found

    def sync(fd: int, syncfs: Any = fs.sync_filesystem) -> None:
        syncfs(fd)
        if threading.current_thread().name == "survived-sync":
            time.sleep(late)

    monkeypatch.setattr(TreeCopy, "look", look)
    monkeypatch.setattr(fs, "sync_filesystem", sync)
    assert rig.relocate(care=Care(0.0, 60.0)).stage is Stage.DONE
    assert looks[:2] == [0, 1]
    assert (rig.source / "late").read_text() == "behind the look"


def test_a_look_is_enough_that_the_sync_did_not_outlast(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync that is done when the look is done asks for nothing more."""
    real, looks = TreeCopy.look, []

    def look(self: TreeCopy, *arguments: Any) -> Any:
        time.sleep(0.5)
        looks.append(real(self, *arguments))
        return looks[-1]

    monkeypatch.setattr(TreeCopy, "look", look)
    assert rig.relocate().stage is Stage.DONE
    assert [found.copied for found in looks] == [0]


def test_an_error_beside_the_look_undoes_the_move(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look found all well, and the disk lost a write: nothing is exchanged."""
    real = fs.sync_filesystem

    def sync(fd: int) -> None:
        if threading.current_thread().name == "survived-sync":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    before = engine.snapshot(rig.source)
    monkeypatch.setattr(fs, "sync_filesystem", sync)
    with pytest.raises(SurvivedError, match="input/output error"):
        rig.relocate()
    monkeypatch.undo()
    assert not rig.source.is_symlink()
    assert engine.snapshot(rig.source) == before
    assert rig.leftovers() == []
