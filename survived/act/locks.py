"""
The locks that tools honour: who has one of ours to wait for begins anew behind the link, and not in the tree that goes.

A tool may have one lock file or, as hubs do, one for each download. Taken are both kinds that Linux has, flock and record
locks; the latter as open file description locks, which do not end when we close another descriptor of the same file.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import contextlib

_MOST_HELD = 1000
"""Each is a descriptor. Of more lock files than that the rest is only looked at."""
_WHOLE_FILE = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_TAKEN = (errno.EWOULDBLOCK, errno.EACCES, errno.EINTR)


class ToolLocks:
    """The lock files of one tree; what was taken is held until `holding` closes. `patterns` are globs relative to the tree."""

    def __init__(self, source: str, source_fd: int, patterns: tuple[str, ...], holding: contextlib.ExitStack) -> None:
        self._source, self._fd, self._patterns, self._holding = os.path.realpath(source), source_fd, patterns, holding
        self._held: dict[str, int] = {}

    def take(self) -> bool:
        """Take every lock file that is there now; False while somebody has one. A tree without any needs none."""
        for pattern in self._patterns:
            for name in glob.iglob(pattern, dir_fd=self._fd, recursive=True, include_hidden=True):
                if not self._is_held(name) and not self._take(name):
                    return False
        return True

    def excused(self) -> frozenset[str]:
        """Return the paths of what we hold: who has nothing open but one of these waits for us."""
        return frozenset(os.path.join(self._source, name) for name in self._held)

    def _is_held(self, name: str) -> bool:
        try:
            return name in self._held and os.path.samestat(os.stat(name, dir_fd=self._fd), os.fstat(self._held[name]))
        except OSError:
            return False

    def _take(self, name: str) -> bool:
        try:
            fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=self._fd)
        except OSError:
            return True  # gone, no file, or one that not even its owner may write, and so no lock
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _WHOLE_FILE)
        except OSError as error:
            if error.errno in _TAKEN:
                os.close(fd)
                return False
            # ENOLCK: no locks on this filesystem, for its tool neither
        if len(self._held) < _MOST_HELD:
            self._held[name] = fd
            self._holding.callback(os.close, fd)
        else:
            os.close(fd)
        return True
