"""
The ballast: a small file on the watched filesystem, given up when even a symlink finds no block or inode.

It is real blocks, not a hole, and one inode. Who gives it up makes it again when there is room.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import TYPE_CHECKING

from survived.act import fs

if TYPE_CHECKING:
    from collections.abc import Callable

_NAME = "ballast"
_SPARE_INODES = 16
_PATIENCE_SECONDS = 8.0
"""ext4 keeps a freed inode from reuse for 5 s where it can, and freed blocks until its journal commits (every 5 s)."""


class Ballast:
    """The ballast file in one folder; `size_bytes` 0 means none is wanted."""

    def __init__(self, folder: str, size_bytes: int) -> None:
        self.path = os.path.join(folder, _NAME)
        self._size = size_bytes

    def lay(self) -> bool:
        """Make the ballast if it is not whole; return whether it is there now. A full disk is no error: it is tried again."""
        if self._size <= 0:
            return False
        with contextlib.suppress(OSError):
            found = os.lstat(self.path)
            if found.st_blocks * 512 >= self._size:
                return True
        try:
            if not self._may_take_inodes():
                return os.path.lexists(self.path)
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, self._size)
                return True
            finally:
                os.close(fd)
        except OSError:
            # Whatever could be made is kept: an inode alone is ballast too.
            return os.path.lexists(self.path)

    def _may_take_inodes(self) -> bool:
        """Tell whether a few inodes can be spared: the last ones are what the link itself will need."""
        folder = os.path.dirname(self.path)
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        found = os.statvfs(folder)
        return found.f_files == 0 or found.f_favail >= _SPARE_INODES

    def give_up(self) -> bool:
        """Remove the ballast, or, where none was ever made, our own byte code; return whether anything was freed."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)
            return True
        return self._size > 0 and self._drop_byte_code()

    def _drop_byte_code(self) -> bool:
        # Python writes these again by itself. They help only if we are installed on the full filesystem, as in a
        # virtual environment below $HOME, which is the ordinary case.
        folder = os.path.join(os.path.dirname(os.path.dirname(__file__)), "__pycache__")
        dropped = False
        for base in (folder, os.path.join(os.path.dirname(__file__), "__pycache__")):
            with contextlib.suppress(OSError):
                if os.stat(base).st_dev == os.stat(os.path.dirname(os.path.dirname(self.path))).st_dev:
                    for name in os.listdir(base):
                        os.unlink(os.path.join(base, name))
                        dropped = True
        return dropped

    def with_room(self, make: Callable[[], None], fd: int) -> None:
        """Run `make`, which needs an inode and perhaps a block where `fd` is; on a full disk give up the ballast and try again."""
        try:
            make()
            return
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self.give_up():
                raise
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                make()
                return
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or time.monotonic() > deadline:
                    raise
            fs.sync_filesystem(fd)  # commits ext4's journal, after which the freed blocks may be used again
            time.sleep(0.05)
