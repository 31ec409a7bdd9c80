"""
One entry that is no directory, copied with all that it has; what cannot be kept is refused, never dropped.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from survived.act import fs
from survived.act.attributes import Unkept, give, give_new, is_alike
from survived.act.content import Content
from survived.errors import Refused
from survived.terms import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from survived.act.kin import Kin

READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOATIME
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class EntryCopy:
    """Copies entries of the tree that is called `source` in what is said; `tick(bytes, entries)` as `TreeCopy` has it."""

    def __init__(self, source: str, tick: Callable[[int, int], None]) -> None:
        self._source, self._tick = source, tick
        self._inherits = True  # what is made in the copy may get an ACL from its folder
        self.content = Content()
        self.kin: Kin | None = None  # what was one inode with files that went before

    def copy_entry(self, source_fd: int, copy_fd: int, name: str, info: os.stat_result, where: str, to: str | None = None) -> None:
        """Copy one entry that is no directory to a name (`to`, else its own) that must be free."""
        kind, to = stat.S_IFMT(info.st_mode), to or name
        if kind == stat.S_IFREG:
            self._copy_file(source_fd, copy_fd, name, info, where, to)
            return
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source_fd), to, dir_fd=copy_fd)
        elif kind in (stat.S_IFIFO, stat.S_IFSOCK):
            if kind == stat.S_IFSOCK and fs.is_bound(source_fd, name):
                raise self._refuse(Reason.SOCKET, where, "it is a socket in use")
            os.mknod(to, info.st_mode, dir_fd=copy_fd)
        else:
            raise self._refuse(Reason.DEVICE_NODE, where, "it is a device node")
        # Neither can be opened without a side effect, and for attributes no system call takes a directory and a name.
        self._metadata(f"/proc/self/fd/{source_fd}/{name}", f"/proc/self/fd/{copy_fd}/{to}", info, where)

    def _copy_file(self, source_fd: int, copy_fd: int, name: str, info: os.stat_result, where: str, to: str) -> None:
        fd = self._open(name, source_fd, where, READ)
        try:
            opened = self._regular(fd, where)
            if opened.st_ino != info.st_ino:
                raise FileNotFoundError(errno.ENOENT, "replaced while copied", where)
            self._copy_open_file(fd, opened, copy_fd, to, where)
        finally:
            os.close(fd)

    def _copy_open_file(
        self, fd: int, info: os.stat_result, copy_fd: int, to: str, where: str, *, is_new: bool = False
    ) -> os.stat_result | None:
        """
        Copy an open file to a free name; return what the copy is then, or None if it is a link to what went before.

        `is_new`: nobody else can come here yet, so that it may have its mode before it has its owner; but for the right to
        write, which attributes of users take.
        """
        if fs.is_fixed(fd):
            raise self._refuse(Reason.IMMUTABLE, where, "it is immutable or append-only (chattr)")
        if self.kin is not None and self.kin.link(fd, info, copy_fd, to, self._tick_bytes):
            return None  # equal in all; whatever changes from here on is seen by the next pass
        copy = os.open(to, _WRITE, info.st_mode & 0o777 | 0o600 if is_new else 0o600, dir_fd=copy_fd)
        try:
            self.content.copy(fd, copy, info, self._tick_bytes)
            if not is_new or self._inherits:
                self._metadata(fd, copy, info, where)
                return os.fstat(copy)
            try:
                return give_new(fd, copy, info)
            except Unkept as unkept:
                raise self._unkept(unkept, where) from unkept
        finally:
            os.close(copy)

    def _tick_bytes(self, size: int) -> None:
        self._tick(size, 0)

    def copy_folder_metadata(self, source_fd: int, copy_fd: int, where: str) -> None:
        """Give one open directory the owner, attributes, mode and times of another."""
        self._metadata(source_fd, copy_fd, os.fstat(source_fd), where)

    def _metadata(self, source: int | str, copy: int | str, info: os.stat_result, where: str) -> None:
        try:
            give(source, copy, info, strip=self._inherits)
        except Unkept as unkept:
            raise self._unkept(unkept, where) from unkept

    def _unkept(self, unkept: Unkept, where: str) -> Refused:
        return self._refuse(unkept.reason, where, unkept.why)

    def _open(self, name: str, dir_fd: int, where: str, flags: int) -> int:
        try:
            return os.open(name, flags, dir_fd=dir_fd)
        except PermissionError as error:
            if error.errno == errno.EPERM and flags & os.O_NOATIME:  # only an owner may ask for O_NOATIME
                return self._open(name, dir_fd, where, flags & ~os.O_NOATIME)
            raise self._refuse(Reason.UNREADABLE, f"{where}", "it cannot be read") from error
        except OSError as error:
            # ELOOP, ENOTDIR: it became a link or a file since it was listed; ENXIO: a socket has taken its place.
            if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
                raise FileNotFoundError(errno.ENOENT, "replaced while copied", where) from error
            raise

    def _refuse(self, reason: Reason, where: str, why: str) -> Refused:
        return Refused(reason, f"Cannot move '{self._source}': '{where.rstrip('/') or '.'}' in it: {why}. Nothing was changed.")

    def _regular(self, fd: int, where: str) -> os.stat_result:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise FileNotFoundError(errno.ENOENT, "replaced while copied", where)
        return info

    @staticmethod
    def _alike(info: os.stat_result, there: os.stat_result) -> bool:
        # A directory's size is its filesystem's own affair.
        return is_alike(info, there) and (info.st_size == there.st_size or stat.S_ISDIR(info.st_mode))
