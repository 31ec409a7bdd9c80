"""
A large tree shared out among processes: directories that do not contain each other, given out one by one by a queue.

Threads would take turns at the interpreter's lock. The other processes are children that die with us.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from survived.act import fs
from survived.act.looking import walk

if TYPE_CHECKING:
    from collections.abc import Iterator

WORTH_FILES = 4000
"""A child takes about 60 ms to start, in which one process copies some 1,000 files."""
ENOUGH_BRANCHES = 32
_MOST_BRANCHES, _DEEPEST = 1024, 6
_LOOKED_INTO, _LOOKED_AT = 16, 32


class Queue:
    """Branches that several processes share: numbers in a pipe, which the kernel gives out, of names in a file in memory."""

    def __init__(self, branches: list[str]) -> None:
        self._count = len(branches)
        self._read, self._write = os.pipe()
        self._names = os.memfd_create("survived-branches")
        with open(os.dup(self._names), "wb") as file:
            file.write(b"\0".join(map(os.fsencode, branches)))

    @property
    def fds(self) -> tuple[int, int]:
        """What a child needs to take from the queue, too."""
        return self._read, self._names

    def open(self) -> None:
        """Give the branches out; they are few enough for a pipe."""
        os.write(self._write, b"".join(number.to_bytes(4, "little") for number in range(self._count)))
        os.close(self._write)
        self._write = -1

    def shut(self) -> None:
        """Give nothing out, if it was not opened: who waits for it goes on."""
        if self._write >= 0:
            os.close(self._write)
            self._write = -1

    def take(self) -> Iterator[str]:
        """Yield branches until none is left."""
        return take(*self.fds)

    def close(self) -> None:
        """Close all of it."""
        for fd in (self._read, self._write, self._names):
            if fd >= 0:
                os.close(fd)


def take(read: int, names: int) -> Iterator[str]:
    """Yield branches of a queue that another process has opened, until none is left."""
    number = os.read(read, 4)  # waits until the queue is open
    branches = os.pread(names, os.fstat(names).st_size, 0).split(b"\0")
    while number:
        yield os.fsdecode(branches[int.from_bytes(number, "little")])
        number = os.read(read, 4)


def branches_of(top_fd: int) -> list[str]:
    """Return directories that hold most of a tree and do not contain each other: enough of them to share, and not too many."""
    leaves: list[str] = []
    open_ended = [""]
    for _ in range(_DEEPEST):
        deeper: list[str] = []
        for branch in open_ended:
            with contextlib.suppress(OSError):
                fd = fs.open_below(top_fd, branch)
                try:
                    with os.scandir(fd) as entries:
                        below = [os.path.join(branch, entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]
                finally:
                    os.close(fd)
                deeper += below
                if not below and branch:
                    leaves.append(branch)
        open_ended = deeper
        if not open_ended or len(leaves) + len(open_ended) >= ENOUGH_BRANCHES:
            break
    return [*leaves, *open_ended][:_MOST_BRANCHES]


def has_links(top_fd: int, branches: list[str]) -> bool:
    """Look into some of the branches for files that have several names."""
    for branch in branches[:: max(1, len(branches) // _LOOKED_INTO)]:
        with contextlib.suppress(OSError):
            fd = fs.open_below(top_fd, branch)
            try:
                for _, seen in zip(range(_LOOKED_AT), walk(fd), strict=False):
                    if seen.name and seen.info is not None and seen.info.st_nlink > 1:
                        return True
            finally:
                os.close(fd)
    return False


def is_cold(top_fd: int, branches: list[str]) -> bool:
    """Ask the kernel of some files whether a read would wait for the disk (RWF_NOWAIT); where it cannot tell, it would not."""
    asked = cold = 0
    for branch in branches[:: max(1, len(branches) // _LOOKED_INTO)]:
        with contextlib.suppress(OSError):
            fd = fs.open_below(top_fd, branch)
            try:
                for _, seen in zip(range(2), walk(fd), strict=False):
                    if seen.name and seen.info is not None and stat.S_ISREG(seen.info.st_mode) and seen.info.st_size:
                        asked += 1
                        cold += _would_wait(seen.fd, seen.name)
            finally:
                os.close(fd)
    return cold * 2 > asked


def _would_wait(folder_fd: int, name: str) -> bool:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder_fd)
    try:
        os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
