"""
Hard links between trees that move one after the other: a file whose inode went before is linked to its copy there, not copied.

What went before is told by `store/kinship.py`. It is believed only after the file there was compared with ours: inode numbers
are used again, and tools change what they have. So a link is made exactly where a copy would be equal in all that a copy has.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from typing import TYPE_CHECKING

from survived.act import fs
from survived.act.attributes import has_same_xattrs, is_alike
from survived.act.comparing import GONE, next_data
from survived.act.looking import walk
from survived.store import kinship

if TYPE_CHECKING:
    from collections.abc import Callable

    from survived.store.layout import Store

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOATIME
_CHUNK = 1 << 20
_NO_LINK = (*GONE, errno.EMLINK, errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP, errno.EACCES, errno.ESTALE)
"""What says that this one cannot be linked to: it went, it has as many names as it may, it is not ours. A copy can be made."""


def remember(store: Store, operation_id: int, tree_fd: int, base: str, tick: Callable[[int, int], None]) -> None:
    """
    Note which files of an open tree have names elsewhere, for those to be linked to the copies that will be at `base`.

    A disk that does not take the note loses nothing: the rest is copied then. `tick(0, 1)` may raise to stop.
    """
    found = kinship.Kinship()
    for seen in walk(tree_fd):
        if seen.name and seen.info is not None and seen.info.st_nlink > 1 and stat.S_ISREG(seen.info.st_mode):
            found.note(seen.info, f"{seen.path}{seen.name}")
        tick(0, 1)
    try:
        folder_fd = kinship.open_folder(store.fd)
        try:
            kinship.thin(folder_fd, time.time())
            found.write(folder_fd, operation_id, kinship.filesystem_id(tree_fd), base)
        finally:
            os.close(folder_fd)
    except OSError:
        with contextlib.suppress(OSError):
            kinship.remove(store.fd, operation_id)


class Kin:
    """
    The files on the filesystem of a copy that had one inode with files of the source; nothing is known of most sources.

    `folder_fd` is a store's folder of what is remembered, which whoever opened it closes; -1 for none.
    """

    def __init__(self, folder_fd: int, source_fd: int, copy_fd: int) -> None:
        self.folder_fd = folder_fd
        self._device = os.fstat(copy_fd).st_dev
        self._known: list[tuple[kinship.Remembered, int]] = []  # with the open folder that its paths begin in
        self._place: tuple[int, str, int] = (-1, "", -1)  # the last folder below one of them, and its descriptor
        self.linked = 0
        for one in kinship.read_all(folder_fd, kinship.filesystem_id(source_fd)) if folder_fd >= 0 else ():
            self._open_base(one)

    def _open_base(self, one: kinship.Remembered) -> None:
        with contextlib.suppress(OSError):
            base_fd = os.open(one.base, fs.DIRECTORY)
            if os.fstat(base_fd).st_dev == self._device:
                self._known.append((one, base_fd))
                return
            os.close(base_fd)
        one.close()  # its tree is gone, or on another disk

    def close(self) -> None:
        """Close what is open."""
        self._leave()
        for one, base_fd in self._known:
            one.close()
            os.close(base_fd)
        self._known.clear()

    def __enter__(self) -> Kin:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def link(self, fd: int, info: os.stat_result, copy_fd: int, to: str, tick: Callable[[int], None]) -> bool:
        """
        Make the free name `to` a link to what became of an open file's inode; False if that is not known, or not alike.

        `tick(bytes)` is called while they are compared. OSError as the copy's filesystem says it, but for what a copy mends.
        """
        if not self._known:
            return False
        return any(self._link_to(number, fd, info, copy_fd, to, tick) for number in range(len(self._known)))

    def _link_to(self, number: int, fd: int, info: os.stat_result, copy_fd: int, to: str, tick: Callable[[int], None]) -> bool:
        path = self._known[number][0].find(info)
        if path is None:
            return False
        folder, _, name = path.rpartition("/")
        try:
            folder_fd = self._enter(number, folder)
            there_fd = os.open(name, _READ, dir_fd=folder_fd)
        except OSError:  # removed since, or no file any more
            return False
        try:
            there = os.fstat(there_fd)
            if not _is_alike(info, there) or not has_same_xattrs(fd, there_fd) or not _holds_the_same(fd, there_fd, info, tick):
                return False
            try:
                os.link(name, to, src_dir_fd=folder_fd, dst_dir_fd=copy_fd, follow_symlinks=False)
            except OSError as error:
                if error.errno in _NO_LINK:
                    return False
                raise
            made = os.stat(to, dir_fd=copy_fd, follow_symlinks=False)
            if not os.path.samestat(made, there) or not _is_alike(made, there):  # replaced or written in that moment
                os.unlink(to, dir_fd=copy_fd)
                return False
        finally:
            os.close(there_fd)
        self.linked += 1
        return True

    def _enter(self, number: int, folder: str) -> int:
        """Return the open folder of a file that is looked for; neighbours are mostly asked for in turn."""
        if self._place[:2] != (number, folder):
            self._leave()
            self._place = number, folder, fs.open_below(self._known[number][1], folder)
        return self._place[2]

    def _leave(self) -> None:
        if self._place[2] >= 0:
            os.close(self._place[2])
        self._place = (-1, "", -1)


def _is_alike(one: os.stat_result, other: os.stat_result) -> bool:
    return is_alike(one, other) and one.st_size == other.st_size


def _holds_the_same(fd: int, there_fd: int, info: os.stat_result, tick: Callable[[int], None]) -> bool:
    at, size = 0, info.st_size
    while (at := min(next_data(fd, at, size), next_data(there_fd, at, size))) < size:
        data = os.pread(fd, _CHUNK, at)
        try:
            if not data or data != os.pread(there_fd, len(data), at):
                return False
        except OSError:  # the other one cannot be read: a copy can
            return False
        at += len(data)
        tick(len(data))
    return True
