"""
A cache that is watched by inotify: which inode it was, the watches it has, and the folders that still wait for one.

Knows nothing of inotify itself: watches are numbers here, which `watch.py` gets and gives back.
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import suppress

from survived.observe.tree import mount_points_below


class Root:
    """One watched cache: which inode it was, its watches (breadth first) and the folders still to be watched."""

    __slots__ = ("identity", "is_nested", "is_partial", "mounts", "path", "pending", "watches")

    def __init__(self, path: str, found: os.stat_result) -> None:
        self.path = path
        self.identity = (found.st_dev, found.st_ino)
        self.mounts = mount_points_below(path)
        self.pending: deque[str] = deque([path])
        self.watches: dict[int, None] = {}  # a dict for its order
        self.is_partial = False
        self.is_nested = False  # another root has the watch of its own folder

    def is_still_there(self) -> bool:
        """Return whether the path leads to the watched inode."""
        try:
            found = os.lstat(self.path)
        except OSError:
            return False
        return (self.is_nested or bool(self.watches)) and self.identity == (found.st_dev, found.st_ino)

    def list_below(self, path: str, most: int) -> None:
        """Queue the sub-folders of one folder that are of the same filesystem, until `most` folders wait."""
        room = most - len(self.pending)
        with suppress(OSError), os.scandir(path) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    continue
                if self.mounts and os.path.relpath(entry.path, self.path) in self.mounts:
                    continue
                if room <= 0:
                    self.is_partial = True
                    break
                room -= 1
                self.pending.append(entry.path)
