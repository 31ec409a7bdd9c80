"""
The data of one file, copied by the best way that the two filesystems have: shared, by the kernel, or by reading and writing.

What a kernel or a filesystem cannot do it says by its errno, at the first file: reflinks need one btrfs or xfs (subvolumes
have devices of their own), copy_file_range between filesystems Linux 5.19, SEEK_DATA a filesystem that knows its holes.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING

from survived.act import fs

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 16 << 20
_FICLONE = 0x40049409
_NEVER = frozenset({errno.EXDEV, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS})
"""Not between these two filesystems, or not in this kernel: the next file need not ask."""
_NOT_THIS = frozenset({errno.EINVAL, errno.EPERM, errno.ETXTBSY})
"""Not this file: a swap file, one without checksums; or a filter of system calls."""
_SMALL = 1 << 20
"""Up to so many bytes one read and one write cost less than what the kernel needs to splice pages."""


class Content:
    """Copies data between two filesystems and remembers what they cannot do. `chunk`: bytes copied before `tick` is told."""

    def __init__(self, chunk: int = CHUNK) -> None:
        self.chunk = chunk
        self._clones = self._copies_in_kernel = True

    def copy(self, source_fd: int, copy_fd: int, found: os.stat_result, tick: Callable[[int], None]) -> None:
        """
        Copy a file's data, holes as holes. `tick(bytes)` is called for every chunk and may raise to stop.

        Takes what is there: a file that grows or shrinks meanwhile is caught by its ctime in the next pass.
        """
        size = found.st_size
        if size == 0 or (self._clones and self._clone(source_fd, copy_fd)):
            tick(size)
        elif found.st_blocks * 512 < size:
            self._copy_sparse(source_fd, copy_fd, size, tick)
        elif size < _SMALL:
            while size > 0 and (data := os.read(source_fd, size)):
                fs.write_all(copy_fd, data)
                size -= len(data)
                tick(len(data))
            if self.chunk < CHUNK:  # who keeps to a rate leaves no pile of small files to a sync that others wait for
                fs.start_writeback(copy_fd, 0, found.st_size)
        else:
            self._copy_range(source_fd, copy_fd, 0, size, tick)

    def _clone(self, source_fd: int, copy_fd: int) -> bool:
        try:
            fcntl.ioctl(copy_fd, _FICLONE, source_fd)
        except OSError as error:
            if error.errno not in _NEVER and error.errno not in _NOT_THIS:
                raise
            self._clones = error.errno not in _NEVER
            return False
        return True

    def _copy_sparse(self, source_fd: int, copy_fd: int, size: int, tick: Callable[[int], None]) -> None:
        os.ftruncate(copy_fd, size)
        end = 0
        while end < size:
            try:
                begin = os.lseek(source_fd, end, os.SEEK_DATA)
                end = os.lseek(source_fd, begin, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole up to the end, or it was cut meanwhile
                    return
                if error.errno != errno.EINVAL:
                    raise
                begin, end = end, size  # no holes known on this filesystem
            self._copy_range(source_fd, copy_fd, begin, end, tick)

    def _copy_range(self, source_fd: int, copy_fd: int, begin: int, end: int, tick: Callable[[int], None]) -> None:
        at, in_kernel = begin, self._copies_in_kernel
        while at < end:
            want = min(self.chunk, end - at)
            if in_kernel:
                try:
                    done = os.copy_file_range(source_fd, copy_fd, want, at, at)
                except OSError as error:
                    if error.errno not in _NEVER and error.errno not in _NOT_THIS:
                        raise
                    in_kernel = False
                    self._copies_in_kernel = error.errno not in _NEVER
                    continue
                if done == 0:  # some FUSE filesystems copy nothing and say no word
                    in_kernel = False
                    continue
            else:
                data = os.pread(source_fd, min(want, _SMALL), at)
                done = len(data)
                if done == 0:  # shorter than it was
                    return
                os.lseek(copy_fd, at, os.SEEK_SET)
                fs.write_all(copy_fd, data)
            if want == self.chunk:
                fs.start_writeback(copy_fd, at, done)
            at += done
            tick(done)
