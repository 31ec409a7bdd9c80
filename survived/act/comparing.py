"""
Compares a copy with its source, byte for byte: for whoever wants to know what the device gives back.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from survived.act import fs

if TYPE_CHECKING:
    from collections.abc import Callable

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
"""What opening an entry says that vanished or became something else since it was listed."""


def same_content(source_fd: int, copy_fd: int, tick: Callable[[int, int], None]) -> str | None:
    """
    Compare every regular file byte for byte, the copy as its device gives it back; return the first path that differs.

    The copy's pages are dropped first (POSIX_FADV_DONTNEED after a sync), so that what is read is what was written.
    What vanished or was replaced since it was copied differs, too.
    """
    stack: list[tuple[int, int, str, list[str]]] = [(os.dup(source_fd), os.dup(copy_fd), "", [])]
    where = ""
    try:
        if (differs := _same_files(*stack[0], tick)) is not None:
            return differs
        while stack:
            one_fd, other_fd, path, below = stack[-1]
            if not below:
                stack.pop()
                os.close(one_fd)
                os.close(other_fd)
                continue
            name = below.pop()
            where = f"{path}{name}"
            deeper_fd = os.open(name, fs.DIRECTORY, dir_fd=one_fd)
            try:
                other_fd = os.open(name, fs.DIRECTORY, dir_fd=other_fd)
            except BaseException:
                os.close(deeper_fd)
                raise
            stack.append((deeper_fd, other_fd, f"{where}/", []))
            if (differs := _same_files(*stack[-1], tick)) is not None:
                return differs
        return None
    except OSError as error:
        if error.errno in _GONE:
            return where
        raise
    finally:
        for one_fd, other_fd, *_ in stack:
            os.close(one_fd)
            os.close(other_fd)


def _same_files(one_fd: int, other_fd: int, path: str, below: list[str], tick: Callable[[int, int], None]) -> str | None:
    """Compare the files of one folder and add its sub directories to `below`."""
    with os.scandir(one_fd) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                below.append(entry.name)
            elif entry.is_file(follow_symlinks=False):
                try:
                    same = _same_file(one_fd, other_fd, entry.name, tick)
                except OSError as error:
                    if error.errno not in _GONE:
                        raise
                    same = False
                if not same:
                    return f"{path}{entry.name}"
    return None


def _same_file(one_dir: int, other_dir: int, name: str, tick: Callable[[int, int], None]) -> bool:
    one = os.open(name, _READ, dir_fd=one_dir)
    try:
        other = os.open(name, _READ, dir_fd=other_dir)
        try:
            os.posix_fadvise(other, 0, 0, os.POSIX_FADV_DONTNEED)
            size = os.fstat(one).st_size
            if size != os.fstat(other).st_size:
                return False
            at = 0
            while (at := min(_next_data(one, at, size), _next_data(other, at, size))) < size:
                ours = os.pread(one, 1 << 20, at)
                if ours != os.pread(other, 1 << 20, at):
                    return False
                tick(len(ours), 0)
                at += len(ours) or size
            return True
        finally:
            os.close(other)
    finally:
        os.close(one)


def _next_data(fd: int, at: int, size: int) -> int:
    """Return where data begins at or after `at`, or `size`: a hole need not be read to be known as zeros."""
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        return at  # EINVAL: no holes on this filesystem
