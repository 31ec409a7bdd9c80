"""
Where those files of a moved tree went that have names elsewhere: `links/<operation id>` in a store, for whoever moves the rest.

Columns of numbers sorted by inode, so that one is found by bisection in mapped memory, then the paths, then a trailer, without
which the file is none. A hint and nobody's truth: whoever uses it compares the files themselves, and it may be lost.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import time
from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = "links"
MOST = 500_000
"""Names of one tree that are looked at: 40 bytes of memory each while they are sorted. What is beyond becomes copies."""
KEPT_SECONDS = 30 * 86400.0
"""Whoever moves what shares links moves it together, or in a few days."""
_MAGIC = b"svlinks1"
_TRAILER = struct.Struct("<QQQ8s")  # filesystem, number of inodes, length of the base, magic
_MASK = (1 << 64) - 1
_NEW = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


def filesystem_id(fd: int) -> int:
    """Return a number of the filesystem of an open file that, but for xfs, is the same after a restart of the machine."""
    return os.statvfs(fd).f_fsid & _MASK or os.fstat(fd).st_dev


def open_folder(store_fd: int) -> int:
    """Return the open folder of what is remembered, making it if it is missing."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(FOLDER, 0o700, dir_fd=store_fd)
    return os.open(FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=store_fd)


def remove(store_fd: int, operation_id: int) -> None:
    """Forget what was remembered of one operation; nothing is fine."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{FOLDER}/{operation_id}", dir_fd=store_fd)


def thin(folder_fd: int, now: float) -> None:
    """Forget what is so old that nobody comes for it any more."""
    for name in os.listdir(folder_fd):
        with contextlib.suppress(FileNotFoundError):
            if now - os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_mtime > KEPT_SECONDS:
                os.unlink(name, dir_fd=folder_fd)


class Kinship:
    """What is noted of one tree, before it is written: names of inodes that have more than one."""

    def __init__(self) -> None:
        self._inodes, self._links = array("Q"), array("Q")
        self._sizes, self._times = array("Q"), array("Q")
        self._ends, self._paths = array("Q"), bytearray()

    def note(self, info: os.stat_result, path: str) -> None:
        """Note one name of an inode, as its path below the tree."""
        if len(self._inodes) >= MOST:
            return
        self._paths += os.fsencode(path)
        for column, value in (
            (self._inodes, info.st_ino), (self._links, info.st_nlink), (self._sizes, info.st_size),
            (self._times, info.st_mtime_ns & _MASK), (self._ends, len(self._paths)),
        ):  # fmt: skip
            column.append(value)

    def write(self, folder_fd: int, operation_id: int, filesystem: int, base: str) -> bool:
        """
        Keep the inodes that have names outside the tree, whose copy is at `base`; return whether there are any.

        OSError as the disk says it; what was written so far is then no file of ours.
        """
        kept = self._outside()
        if not kept:
            return False
        fd = os.open(str(operation_id), _NEW, 0o600, dir_fd=folder_fd)
        with open(fd, "wb") as file:
            columns = (self._inodes, self._sizes, self._times)
            file.writelines(array("Q", [column[at] for at in kept]).tobytes() for column in columns)
            ends, paths, at_byte = array("Q"), [], 0
            for at in kept:
                path = self._paths[self._ends[at - 1] if at else 0 : self._ends[at]]
                at_byte += len(path)
                ends.append(at_byte)
                paths.append(path)
            file.write(ends.tobytes() + b"".join(paths))
            place = os.fsencode(base)
            file.write(place + _TRAILER.pack(filesystem, len(kept), len(place), _MAGIC))
        return True

    def _outside(self) -> list[int]:
        """Return, by inode, where the first names of those stand of which not all names were noted."""
        kept, run = [], 0
        order = sorted(range(len(self._inodes)), key=lambda at: (self._inodes[at], at))
        for place, at in enumerate(order):
            run += 1
            if place + 1 == len(order) or self._inodes[order[place + 1]] != self._inodes[at]:
                if run < self._links[at]:
                    kept.append(order[place - run + 1])
                run = 0
        return kept


class Remembered:
    """What one file tells; `base` is where the tree went. `read` makes it."""

    def __init__(self, memory: mmap.mmap, count: int, base: str) -> None:
        self.base = base
        self._memory, self._count = memory, count
        self._inodes, self._sizes, self._times, self._ends = (
            memoryview(memory)[8 * count * number : 8 * count * (number + 1)].cast("Q") for number in range(4)
        )

    def find(self, info: os.stat_result) -> str | None:
        """Return where, below `base`, the file of that inode, size and mtime went."""
        at = bisect_left(self._inodes, info.st_ino)
        if at == self._count or self._inodes[at] != info.st_ino:
            return None
        if (self._sizes[at], self._times[at]) != (info.st_size, info.st_mtime_ns & _MASK):
            return None
        names = 32 * self._count
        return os.fsdecode(self._memory[names + (self._ends[at - 1] if at else 0) : names + self._ends[at]])

    def close(self) -> None:
        """Give the memory back."""
        for view in (self._inodes, self._sizes, self._times, self._ends):
            view.release()
        self._memory.close()


def read_all(folder_fd: int, filesystem: int) -> Iterator[Remembered]:
    """Yield what is remembered of trees that came from one filesystem, the latest first; what is no file of ours is left out."""
    found: list[tuple[float, str]] = []
    for name in os.listdir(folder_fd):
        with contextlib.suppress(OSError):
            found.append((-os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_mtime, name))
    for age, name in sorted(found):
        if -age > time.time() - KEPT_SECONDS:
            with contextlib.suppress(OSError, ValueError):
                if (one := _read(folder_fd, name, filesystem)) is not None:
                    yield one


def _read(folder_fd: int, name: str, filesystem: int) -> Remembered | None:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder_fd)
    try:
        length = os.fstat(fd).st_size
        if length < _TRAILER.size:
            return None
        of, count, base_length, magic = _TRAILER.unpack(os.pread(fd, _TRAILER.size, length - _TRAILER.size))
        base_at = length - _TRAILER.size - base_length
        if magic != _MAGIC or of != filesystem or count > MOST or base_at < 32 * count:
            return None
        memory = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    finally:
        os.close(fd)
    one = Remembered(memory, count, os.fsdecode(memory[base_at : base_at + base_length]))
    if count and 32 * count + one._ends[count - 1] != base_at:  # torn, or of somebody else
        one.close()
        return None
    return one
