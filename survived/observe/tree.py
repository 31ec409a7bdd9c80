"""
Measure one tree: what it takes and what removing it would give back, each inode once, on one device.

Memory is bounded by the widest directories' sub-directories and by the inodes with several links, not by the files.
No link is followed: a directory counts only if what was opened is the inode that its parent listed.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import TYPE_CHECKING

from survived.errors import Stopped
from survived.model import TreeSize
from survived.observe.disks import is_below, read_mounts, resolve_parents

if TYPE_CHECKING:
    from collections.abc import Callable

_OPEN_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ANCHOR_LENGTH = 700
"""Characters of a path below one anchor: with one more name (255), 4 bytes each, it is shorter than PATH_MAX, 4096."""
_STOP_EVERY = 1024
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE})
"""The entry vanished or became something else between readdir and open: normal in a live tree."""
_OURS_TO_FAIL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Our own lack, which says nothing about the tree."""


def measure_tree(path: str, *, stop: Callable[[], bool] | None = None) -> TreeSize:
    """
    Return the size of the tree at `path`, the root directory included.

    `files` counts names, so an inode with two names in the tree is two files and one size. What vanishes meanwhile is
    ignored. So is an mtime in the future: only `utime` puts it there, and the tree would never be old enough.
    FileNotFoundError, NotADirectoryError (also for a link) about `path` itself; Stopped soon after `stop()` is true.
    """
    path = path.rstrip("/") or "/"
    walk = _Walk(path, stop)
    try:
        walk.run()
    finally:
        walk.close()
    return walk.result()


def mount_points_below(path: str) -> frozenset[str]:
    """Return the mount points at and below `path`, bind mounts too, as paths relative to it ("" for itself)."""
    real = resolve_parents(path)
    prefix = len(real.rstrip("/")) + 1
    return frozenset(mount.point[prefix:] for mount in read_mounts() if is_below(mount.point, real))


class _Anchor:
    """An open directory that paths are relative to; deep trees have several, each closed when all below it is done."""

    __slots__ = ("depth", "descriptor", "prefix")

    def __init__(self, descriptor: int, prefix: str, depth: int) -> None:
        self.descriptor = descriptor
        self.prefix = prefix
        self.depth = depth


class _Walk:
    """The state of one measurement."""

    def __init__(self, path: str, stop: Callable[[], bool] | None) -> None:
        self.path = path
        self.stop = stop
        self.size_blocks = self.outside_blocks = 0
        self.files = self.directories = 0
        self.newest = 0.0
        self.began = time.time()
        self.foreign: str | None = None
        self.unreadable: str | None = None
        self.mount_below: str | None = None
        self.links: dict[int, int] = {}  # inode with several links -> links not yet seen
        self.outside: dict[int, int] = {}  # inode with links not yet seen -> its blocks
        self.euid = os.geteuid()
        self.mounts = mount_points_below(path) - {""}
        self.anchors: list[_Anchor] = []
        self.device = -1
        self.until_stop = _STOP_EVERY

    def close(self) -> None:
        """Close what a walk that was cut short left open."""
        for anchor in self.anchors:
            os.close(anchor.descriptor)
        self.anchors.clear()

    def run(self) -> None:
        """Walk the tree depth first; a frame of the stack holds a directory's sub-directories that are still to do."""
        found = os.lstat(self.path)
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), self.path)
        self.device = found.st_dev
        try:
            descriptor = os.open(self.path, _OPEN_FLAGS)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM):
                raise
            self._count_directory(found, "")
            self.unreadable = self.path
            return
        self.anchors.append(_Anchor(descriptor, "", 0))
        found = os.fstat(descriptor)
        self.device = found.st_dev
        self._count_directory(found, "")
        # A frame: the path below the newest anchor with its slash, and the names and inodes still to do.
        stack = [("", self._scan(descriptor, ""))]
        while stack:
            below, todo = stack[-1]
            if not todo:
                stack.pop()
                if len(self.anchors) > 1 and self.anchors[-1].depth > len(stack):
                    os.close(self.anchors.pop().descriptor)
                continue
            name, inode = todo.pop()
            descriptor = self._open(below + name, inode)
            if descriptor < 0:
                continue
            kept = False
            try:
                prefix = self.anchors[-1].prefix + below + name + "/"
                further = self._scan(descriptor, prefix)
                if further and len(below) + len(name) > _ANCHOR_LENGTH:
                    self.anchors.append(_Anchor(descriptor, prefix, len(stack) + 1))
                    kept = True
            finally:
                if not kept:
                    os.close(descriptor)
            if further:
                stack.append(("" if kept else below + name + "/", further))

    def result(self) -> TreeSize:
        """Return what was counted; an inode whose links were not all seen gives nothing back."""
        return TreeSize(
            size_bytes=self.size_blocks * 512,
            reclaimable_bytes=(self.size_blocks - sum(self.outside.values())) * 512,
            files=self.files,
            directories=self.directories,
            newest_change=self.newest,
            foreign=self.foreign,
            unreadable=self.unreadable,
            mount_below=self.mount_below,
        )

    def _open(self, below: str, inode: int) -> int:
        """Open and count one directory; -1 if it is not to be walked: gone, replaced, unreadable, on another device."""
        anchor = self.anchors[-1]
        if self.mounts and anchor.prefix + below in self.mounts:
            # Not even opened: it may be a dead network mount.
            self.mount_below = self.mount_below or self._full(anchor.prefix + below)
            return -1
        try:
            descriptor = os.open(below, _OPEN_FLAGS, dir_fd=anchor.descriptor)
        except OSError as error:
            if error.errno in _OURS_TO_FAIL:
                raise
            if error.errno not in _GONE:
                self._note_unreadable(below, inode)
            return -1
        found = os.fstat(descriptor)
        if found.st_dev != self.device:
            self.mount_below = self.mount_below or self._full(anchor.prefix + below)
        elif found.st_ino == inode:
            self._count_directory(found, anchor.prefix + below)
            return descriptor
        os.close(descriptor)  # other inode: replaced meanwhile, or a parent became a link and led us astray
        return -1

    def _note_unreadable(self, below: str, inode: int) -> None:
        """Count the directory itself, which its parent can tell about, and remember it as unreadable."""
        anchor = self.anchors[-1]
        try:
            found = os.stat(below, dir_fd=anchor.descriptor, follow_symlinks=False)
        except OSError:
            found = None
        if found is not None and found.st_ino == inode and found.st_dev == self.device:
            self._count_directory(found, anchor.prefix + below)
        self.unreadable = self.unreadable or self._full(anchor.prefix + below)

    def _count_directory(self, found: os.stat_result, relative: str) -> None:
        """Add a directory's own inode."""
        self.directories += 1
        self.size_blocks += found.st_blocks
        self.newest = max(self.newest, found.st_ctime, found.st_mtime if found.st_mtime <= self.began else 0.0)
        if self.euid and found.st_uid != self.euid and self.foreign is None:
            self.foreign = self._full(relative)

    def _scan(self, descriptor: int, prefix: str) -> list[tuple[str, int]]:
        """Count all in one open directory but its sub-directories; return those with the inode that each must have."""
        # Everything in locals: this loop is the whole cost of a measurement.
        found_directories: list[tuple[str, int]] = []
        euid, began, newest, mounts = self.euid, self.began, self.newest, self.mounts
        blocks = files = seen = 0
        unreadable = False
        try:
            entries = os.scandir(descriptor)
        except OSError as error:
            if error.errno in _OURS_TO_FAIL:
                raise
            self.unreadable = self.unreadable or self._full(prefix.rstrip("/"))
            return []
        with entries:
            try:
                for entry in entries:
                    seen += 1
                    if not seen & 1023:
                        self._check_stop(_STOP_EVERY)
                    if entry.is_dir(follow_symlinks=False):
                        found_directories.append((entry.name, entry.inode()))
                        continue
                    try:
                        found = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    except OSError:
                        unreadable = True  # EACCES: the directory may be listed but not searched
                        continue
                    if mounts and prefix + entry.name in mounts:  # a file can be a mount point too
                        self.mount_below = self.mount_below or self._full(prefix + entry.name)
                        continue
                    files += 1
                    if found.st_nlink > 1:
                        blocks += self._count_link(found)
                    else:
                        blocks += found.st_blocks
                    changed = found.st_ctime
                    if changed > newest:
                        newest = changed
                    changed = found.st_mtime
                    if newest < changed <= began:
                        newest = changed
                    if found.st_uid != euid and euid and self.foreign is None:
                        self.foreign = self._full(prefix + entry.name)
            except OSError as error:
                if error.errno in _OURS_TO_FAIL:
                    raise
                unreadable = unreadable or error.errno not in _GONE  # EIO in the middle of a directory
        if unreadable:
            self.unreadable = self.unreadable or self._full(prefix.rstrip("/"))
        self.size_blocks += blocks
        self.files += files
        self.newest = newest
        self._check_stop(seen & 1023)
        return found_directories

    def _count_link(self, found: os.stat_result) -> int:
        """Return the blocks of an inode with several links at its first name, 0 at the others."""
        inode = found.st_ino
        left = self.links.get(inode)
        if left is None:
            self.links[inode] = found.st_nlink - 1
            self.outside[inode] = found.st_blocks
            return found.st_blocks
        if left == 1:
            self.outside.pop(inode, None)
        self.links[inode] = left - 1
        return 0

    def _check_stop(self, seen: int) -> None:
        """Ask `stop` after about every thousand entries."""
        self.until_stop -= seen + 1
        if self.until_stop <= 0:
            self.until_stop = _STOP_EVERY
            if self.stop is not None and self.stop():
                raise Stopped(f"Stopped measuring '{self.path}'.")

    def _full(self, relative: str) -> str:
        """Return the path as the user knows it."""
        return os.path.join(self.path, relative) if relative else self.path
