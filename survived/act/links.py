"""
The inodes of a tree that have several names: how many were met, and where the copy of the first one is.

Only such inodes are remembered, each until all its names were met: some 250 bytes for one that waits for the rest.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from survived.act import fs

if TYPE_CHECKING:
    from typing import Final

_FOLDERS: Final = 8
"""Open folders of first copies: the names of one folder mostly lead to few others."""


class Links:
    """What one pass over a tree on `device` knows of its hard links; the copies are below `copy_fd`."""

    def __init__(self, copy_fd: int, device: int) -> None:
        self._copy_fd, self._device = copy_fd, device
        self._known: dict[int, tuple[int, str, str, int]] = {}  # inode: the copy's inode or 0, its folder and name, names met
        self._folders: dict[str, int] = {}

    def __contains__(self, number: int) -> bool:
        """Tell whether an inode of this number, as a listing has it, was met: a hint, which an overlay may get wrong."""
        return number in self._known

    @property
    def waiting(self) -> int:
        """How many inodes have names that were not met yet."""
        return len(self._known)

    def close(self) -> None:
        """Close the folders that are kept open; nothing is forgotten."""
        while self._folders:
            os.close(self._folders.popitem()[1])

    def count(self, info: os.stat_result) -> int:
        """Count one more name of an inode and return how many were met before."""
        inode = self._inode(info)
        copied, folder, name, met = self._known.get(inode, (0, "", "", 0))
        self._known[inode] = copied, folder, name, met + 1
        return met

    def note(self, info: os.stat_result, there: os.stat_result, folder: str, name: str) -> bool:
        """Remember the first copy of an inode, `name` in `folder` ("" or with its slash); return whether `there` is that one."""
        inode = self._inode(info)
        copied, _, _, met = self._known.get(inode, (0, "", "", 1))
        if copied == 0:
            self._known[inode] = there.st_ino, folder, name, met
            return True
        if there.st_ino != copied:
            return False
        self._forget_complete(info, inode, met)
        return True

    def put(self, info: os.stat_result, there: os.stat_result, folder: str, name: str) -> None:
        """Have this be the first copy from here on."""
        self._known[self._inode(info)] = there.st_ino, folder, name, 1

    def link(self, info: os.stat_result, copy_fd: int, to: str) -> bool:
        """Make `to` another name of the inode's first copy; False if there is none yet. Raises OSError."""
        inode = self._inode(info)
        copied, folder, name, met = self._known.get(inode, (0, "", "", 1))
        if copied == 0:
            return False
        os.link(name, to, src_dir_fd=self._folder(folder), dst_dir_fd=copy_fd, follow_symlinks=False)
        self._forget_complete(info, inode, met)
        return True

    def first(self, info: os.stat_result) -> str:
        """Return the path of the inode's first copy, for whoever has to name it."""
        _, folder, name, _ = self._known.get(self._inode(info), (0, "", "", 0))
        return f"{folder}{name}"

    def _forget_complete(self, info: os.stat_result, inode: int, met: int) -> None:
        if met >= info.st_nlink:
            self._known.pop(inode, None)

    def _inode(self, info: os.stat_result) -> int:
        """Return a number that is one inode's alone: layers of an overlay have devices and so inode numbers of their own."""
        return info.st_ino if info.st_dev == self._device else info.st_dev << 64 | info.st_ino

    def _folder(self, path: str) -> int:
        fd = self._folders.get(path)
        if fd is None:
            fd = fs.open_below(self._copy_fd, path)
            if len(self._folders) >= _FOLDERS:
                os.close(self._folders.pop(next(iter(self._folders))))
            self._folders[path] = fd
        return fd
