"""What an old kernel or a poor filesystem cannot do is done another way, chosen by its errno; each refusal is made here."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from survived.act import content, fs, writeback
from tests.unit.engine import snapshot
from tests.unit.pairs import Pair

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1 << 20


class Refusing:
    """A call that fails with an errno, for as often as `times` says, and then does what it always did."""

    def __init__(self, real: Callable[..., Any], number: int, *, times: int = 1 << 30, when: Callable[..., bool] = lambda *_: True):
        self.real, self.number, self.times, self.when = real, number, times, when
        self.refused = self.done = 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if self.when(*arguments) and self.refused < self.times:
            self.refused += 1
            raise OSError(self.number, os.strerror(self.number))
        self.done += 1
        return self.real(*arguments, **named)


def fill(root: Path, files: int = 3) -> None:
    """Make big files, and one with holes and data in its middle."""
    for number in range(files):
        (root / f"big{number}").write_bytes(os.urandom(2 * MIB + number))
    with open(root / "sparse", "wb") as file:
        file.truncate(8 * MIB)
        file.seek(4 * MIB)
        file.write(os.urandom(MIB + 5))


@pytest.mark.parametrize("number", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP])
def test_what_never_works_is_asked_once(pair: Pair, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Linux before 5.19 copies nothing in the kernel between filesystems: known after the first file, and read and written."""
    fill(pair.source)
    refusing = Refusing(os.copy_file_range, number)
    monkeypatch.setattr(os, "copy_file_range", refusing)
    pair.check()
    assert refusing.refused == 1


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EPERM, errno.ETXTBSY])
def test_what_does_not_work_for_one_file_is_asked_again(pair: Pair, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A swap file is read and written, and the next file copied in the kernel."""
    fill(pair.source)
    refusing = Refusing(os.copy_file_range, number, times=1)
    monkeypatch.setattr(os, "copy_file_range", refusing)
    pair.check()
    assert refusing.refused == 1
    assert refusing.done > 0


def test_a_full_disk_is_no_fallback(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not about ability is raised."""
    fill(pair.source)
    monkeypatch.setattr(os, "copy_file_range", Refusing(os.copy_file_range, errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        pair.run()


def test_a_kernel_that_copies_nothing_and_says_no_word(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some FUSE filesystems return 0: then reading and writing copies the file."""
    fill(pair.source)
    monkeypatch.setattr(os, "copy_file_range", lambda *_: 0)
    pair.check()


def test_a_kernel_that_copies_little_at_a_time(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is copied in pieces of any size is complete."""
    fill(pair.source, files=1)
    real = os.copy_file_range
    monkeypatch.setattr(os, "copy_file_range", lambda one, other, count, *rest: real(one, other, min(count, 77_777), *rest))
    pair.check()


@pytest.mark.parametrize("in_kernel", [True, False])
def test_a_filesystem_that_knows_no_holes(pair: Pair, monkeypatch: pytest.MonkeyPatch, in_kernel: bool) -> None:
    """SEEK_DATA says EINVAL: the file is copied whole, zeros and all."""
    fill(pair.source)
    seeks = (os.SEEK_DATA, os.SEEK_HOLE)
    refusing = Refusing(os.lseek, errno.EINVAL, when=lambda *arguments: arguments[2] in seeks)
    with monkeypatch.context() as patch:
        patch.setattr(os, "lseek", refusing)
        if not in_kernel:
            patch.setattr(os, "copy_file_range", Refusing(os.copy_file_range, errno.ENOSYS))
        pair.settle()
    assert refusing.refused > 0
    for path in pair.source.iterdir():
        assert (pair.copy / path.name).read_bytes() == path.read_bytes()


def test_short_reads_and_writes(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel may take and give less than asked, as it does at signals: what remains follows."""
    fill(pair.source)
    (pair.source / "small").write_bytes(os.urandom(50_001))
    (pair.source / "empty").touch()
    write, read, pread = os.write, os.read, os.pread
    monkeypatch.setattr(os, "copy_file_range", Refusing(os.copy_file_range, errno.ENOSYS))
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, memoryview(data)[:9_999]))
    monkeypatch.setattr(os, "read", lambda fd, count: read(fd, min(count, 33_333)))
    monkeypatch.setattr(os, "pread", lambda fd, count, at: pread(fd, min(count, 77_777), at))
    pair.settle()
    monkeypatch.undo()
    pair.check()


@pytest.fixture
def one_directory(tmp_path: Path) -> Iterator[int]:
    """Yield an open directory with an entry "a"."""
    (tmp_path / "a").write_text("content")
    with fs.opened(str(tmp_path)) as fd:
        yield fd


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL])
def test_no_reflinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Where FICLONE fails the data is copied; what never works is asked once, EINVAL is about the one file."""
    source = tmp_path / "source"
    source.write_bytes(b"data" * 1000)
    refusing = Refusing(fcntl.ioctl, number, when=lambda _fd, request, *_: request == content._FICLONE)
    monkeypatch.setattr(fcntl, "ioctl", refusing)
    copier = content.Content()
    for name in ("one", "two"):
        with open(source, "rb") as old, open(tmp_path / name, "wb") as new:
            copier.copy(old.fileno(), new.fileno(), os.fstat(old.fileno()), lambda _: None)
        assert (tmp_path / name).read_bytes() == source.read_bytes()
    assert refusing.refused == (2 if number == errno.EINVAL else 1)


def test_a_reflink_is_the_whole_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where FICLONE works nothing is read or written."""
    source = tmp_path / "source"
    source.write_bytes(b"data" * 1000)
    cloned: list[int] = []

    def ioctl(fd: int, request: int, argument: int) -> int:
        assert request == content._FICLONE
        cloned.append(fd)
        os.pwrite(fd, os.pread(argument, 1 << 20, 0), 0)
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    monkeypatch.setattr(os, "read", Refusing(os.read, errno.EIO))
    told: list[int] = []
    with open(source, "rb") as old, open(tmp_path / "copy", "wb") as new:
        content.Content().copy(old.fileno(), new.fileno(), os.fstat(old.fileno()), told.append)
    monkeypatch.undo()
    assert (len(cloned), told) == (1, [4000])
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


def test_no_rename_noreplace(one_directory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without RENAME_NOREPLACE (NFS) a free name is taken and one that is not free is left alone."""
    refusing = Refusing(fs._renameat2, errno.EINVAL)
    monkeypatch.setattr(fs, "_renameat2", refusing)
    fs.place(one_directory, "a", "b")
    assert (tmp_path / "b").read_text() == "content"
    (tmp_path / "c").write_text("other")
    with pytest.raises(FileExistsError):
        fs.place(one_directory, "b", "c")
    assert (tmp_path / "c").read_text() == "other"
    assert refusing.refused == 2


def test_no_exchange_is_told(one_directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no other way to swap two names in one step, so it is raised and nothing has changed."""
    monkeypatch.setattr(fs, "_renameat2", Refusing(fs._renameat2, errno.EINVAL))
    with pytest.raises(OSError, match="Invalid"):
        fs.exchange(one_directory, "a", "b")


def test_a_lost_write_is_told(one_directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no other way to make a filesystem durable, either: an error of syncfs ends the move."""

    class Libc:
        """A C library whose syncfs fails."""

        def syncfs(self, _fd: int) -> int:
            fs.ctypes.set_errno(errno.EIO)
            return -1

    monkeypatch.setattr(fs, "_libc", Libc())
    with pytest.raises(OSError, match="Input/output") as caught:
        fs.sync_filesystem(one_directory)
    assert caught.value.errno == errno.EIO


def test_writing_back_early_leaves_errors_to_the_sync(one_directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written back while copying goes by a description of its own and keeps its errors to itself."""
    seen: list[int] = []

    def sync(fd: int) -> None:
        seen.append(fd)
        raise OSError(errno.EIO, "lost")

    monkeypatch.setattr(fs, "sync_filesystem", sync)
    monkeypatch.setattr(writeback, "_EVERY_SECONDS", 0.0)
    with writeback.WriteBack(one_directory):
        while not seen:
            pass
    assert one_directory not in seen


def test_no_atime_is_only_for_owners(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """O_NOATIME is refused for a file of another owner: then it is opened without."""
    fill(pair.source, files=1)
    refusing = Refusing(os.open, errno.EPERM, when=lambda _path, flags, *_: bool(flags & os.O_NOATIME))
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refusing)
        pair.settle()
    assert refusing.refused > 0
    before = snapshot(pair.source)
    assert snapshot(pair.copy) == before
