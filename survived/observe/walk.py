"""
Walk one tree, or a share of it, and count. What a process does of a measurement; `tree.py` says what a measurement is.

No link is followed: a directory counts only if what was met is the inode that its parent listed. Imports next to nothing:
a second process has to be up before the first is done.
"""

from __future__ import annotations

import errno
import os
from array import array
from itertools import islice
from operator import itemgetter
from stat import S_ISDIR
from typing import TYPE_CHECKING

from survived.observe.extents import WORTH_BLOCKS, shared_ranges
from survived.observe.past import Record
from survived.observe.tally import Tally, pack_links
from survived.observe.todo import MOST_LOOSE, PACKED, pack, take_half, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from survived.observe.past import Notes, Past
    from survived.observe.todo import Frame, Peer, Todo

OPEN_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
QUIET_SECONDS = 60.0
"""What was changed more recently than this before it was read may well be written to: it is asked again each time."""
_RACY_SECONDS = 2.0
"""A directory changed so shortly before it was read may change again without another time, on a filesystem of coarse ones."""
_ANCHOR_LENGTH = 700
"""Characters of a path below one anchor: with one more name (255), 4 bytes each, it is shorter than PATH_MAX, 4096."""
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE})
"""The entry vanished or became something else between readdir and open: normal in a live tree."""
_OURS_TO_FAIL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Our own lack, which says nothing about the tree."""
_NEVER = float("inf")
_MASK = (1 << 64) - 1
_INODE = itemgetter(1)  # of a directory that is still to read
_AT_ONCE = 1024


def _in_order(entries: Iterator[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
    """Yield what a directory lists by inode, as it lies on the disk: ext4 lists by a hash of the names. In runs, if it is large."""
    while some := list(islice(entries, _AT_ONCE)):
        if len(some) > 1:
            some.sort(key=os.DirEntry.inode)
        yield from some


class _Anchor:
    """An open directory that paths are relative to; deep trees have several, each closed when all below it is done."""

    __slots__ = ("depth", "descriptor", "prefix")

    def __init__(self, descriptor: int, prefix: str, depth: int) -> None:
        self.descriptor = descriptor
        self.prefix = prefix
        self.depth = depth


class Walk:
    """
    The state of one process's walk; owns and closes `descriptor`, the tree's root.

    `began`, Unix seconds: mtimes after it are ignored. `check(n)` is told of entries seen and may raise. `past` is what is known
    of directories, unless they are in `changed` (paths below the root); what is read anew goes to `notes`.
    """

    def __init__(
        self,
        path: str,
        descriptor: int,
        mounts: Collection[str],
        began: float,
        check: Callable[[int], None],
        *,
        shares: bool = False,
    ) -> None:
        self.path, self.mounts, self.began, self.check = path, mounts, began, check
        self.shares = shares
        self.tally = Tally()
        self.seen = 0
        self.peer: Peer | None = None
        self.notes: Notes | None = None
        self.past: Past | None = None
        self.changed: Collection[str] = ()
        self.used = array("Q")  # places of the records that still hold
        self.was_read_anew = False
        self.was_told = False  # and read something anew because of it
        self._linked: dict[int, tuple[int, int, int]] = {}
        self.euid = os.geteuid()
        self.device = os.fstat(descriptor).st_dev
        self._over_files = {os.path.dirname(mount) for mount in mounts}
        self._anchors = [_Anchor(descriptor, "", 0)]
        self._stack: list[Frame] = []

    def close(self) -> None:
        """Close the root, and what a walk that was cut short left open."""
        for anchor in self._anchors:
            os.close(anchor.descriptor)
        self._anchors.clear()

    def run_all(self) -> None:
        """Walk the whole tree, with the peer's help if there is one."""
        root = os.fstat(self._anchors[0].descriptor)
        self.count_directory(root, "")
        found = self._recall("", "", root.st_ino, root) if self.past is not None else None
        if found is None:
            found = self._scan(self._anchors[0].descriptor, "", root)
        self._stack.append(("", "", found))
        self.run()

    def run(self) -> None:
        """Walk what there is to do, depth first, until neither we nor the peer have anything left."""
        stack, peer = self._stack, self.peer
        while True:
            while stack:
                below, prefix, todo = stack[-1]
                if not todo:
                    stack.pop()
                    if len(self._anchors) > 1 and self._anchors[-1].depth > len(stack):
                        os.close(self._anchors.pop().descriptor)
                    continue
                name, inode = todo.pop()
                if inode == PACKED:
                    todo += unpack(name)
                    continue
                self._enter(below, prefix, name, inode)
                if peer is not None and peer.wants(self.seen) and (half := take_half(stack, _ANCHOR_LENGTH)):
                    peer.give(half)
            if peer is None or not (todo := peer.take()):
                return
            stack.append(("", "", todo))

    def _enter(self, below: str, prefix: str, name: str, inode: int) -> None:
        """Count one directory and push what is below it, unless it is gone, replaced, unreadable or another filesystem's."""
        path, full = below + name, prefix + name
        if self.mounts and full in self.mounts:
            # Not even opened: it may be a dead network mount.
            self.tally.mount_below = self.tally.mount_below or self.full(full)
            return
        is_long = len(path) > _ANCHOR_LENGTH
        if self.past is not None and not is_long and (found := self._recall(path, full, inode, None)) is not None:
            if found:
                self._stack.append((path + "/", full + "/", found))
            return
        descriptor = self._open(path, full, inode)
        if descriptor < 0:
            return
        kept = False
        try:
            status = os.fstat(descriptor)
            if status.st_dev != self.device:
                self.tally.mount_below = self.tally.mount_below or self.full(full)
                return
            if status.st_ino != inode:
                return  # replaced meanwhile, or a parent became a link and led us astray
            self.count_directory(status, full)
            further = self._scan(descriptor, full + "/", status)
            if further and is_long:
                self._anchors.append(_Anchor(descriptor, full + "/", len(self._stack) + 1))
                kept = True
        finally:
            if not kept:
                os.close(descriptor)
        if further:
            self._stack.append(("" if kept else path + "/", full + "/", further))

    def _open(self, path: str, full: str, inode: int) -> int:
        """Open one directory; -1 if it is gone or may not be read."""
        anchor = self._anchors[-1].descriptor
        try:
            return os.open(path, OPEN_FLAGS, dir_fd=anchor)
        except OSError as error:
            if error.errno in _OURS_TO_FAIL:
                raise
            if error.errno in _GONE:
                return -1
        # Its parent can tell about the directory itself.
        try:
            found = os.stat(path, dir_fd=anchor, follow_symlinks=False)
        except OSError:
            found = None
        if found is not None and found.st_ino == inode and found.st_dev == self.device:
            self.count_directory(found, full)
        self.tally.unreadable = self.tally.unreadable or self.full(full)
        return -1

    def count_directory(self, found: os.stat_result, relative: str) -> None:
        """Add a directory's own inode."""
        tally = self.tally
        tally.directories += 1
        tally.blocks += found.st_blocks
        tally.newest = max(tally.newest, found.st_ctime, found.st_mtime if found.st_mtime <= self.began else 0.0)
        if self.euid and found.st_uid != self.euid and tally.foreign is None:
            tally.foreign = self.full(relative)

    # ---- what is known ----------------------------------------------------------------------------------------------

    def _recall(self, path: str, full: str, inode: int, status: os.stat_result | None) -> Todo | None:
        """Count a directory, itself too unless `status` is given, by its record; None if that does not hold."""
        known = self.past.find(inode) if self.past is not None else None
        if known is None:
            return None
        place, record = known
        anchor = self._anchors[-1].descriptor
        try:
            found = status or os.stat(path, dir_fd=anchor, follow_symlinks=False)
            if (
                found.st_mtime_ns != record.mtime_ns
                or found.st_ctime_ns != record.ctime_ns
                or found.st_ino != inode
                or found.st_dev != self.device
                or not S_ISDIR(found.st_mode)
                or full in self.changed
                or (self._over_files and full in self._over_files)
            ):
                return None
            tally = self.tally
            for name, *numbers in record.unquiet:
                file = os.stat(f"{path}/{name}" if path else name, dir_fd=anchor, follow_symlinks=False)
                if [file.st_ino, file.st_ctime_ns & _MASK, file.st_blocks] != numbers:
                    return None
        except OSError:
            return None
        if status is None:
            self.count_directory(found, full)
        if self.shares:
            for name, number, _, blocks in record.unquiet:
                if blocks >= WORTH_BLOCKS:
                    tally.add_ranges(number, shared_ranges(f"{path}/{name}" if path else name, anchor, number))
        tally.blocks += record.blocks
        tally.files += record.files
        tally.newest, tally.used = max(tally.newest, record.newest), max(tally.used, record.used)
        self.used.append(place)
        self.check(len(record.unquiet))
        return list(zip(record.names, record.inodes, strict=True)) if record.inodes else []

    # ---- what is read -------------------------------------------------------------------------------------------------

    def _scan(self, descriptor: int, prefix: str, status: os.stat_result) -> Todo:
        """Count all in one open directory but its sub-directories; return those with the inode that each must have."""
        # Everything in locals: this loop is the whole cost of a measurement.
        tally = self.tally
        folders: Todo = []
        packed: Todo = []
        unquiet: list[tuple[str, int, int, int]] = []
        euid, began, mounts = self.euid, self.began, self.mounts
        large = WORTH_BLOCKS if self.notes is not None or self.shares else _NEVER
        recent = began - QUIET_SECONDS if self.notes is not None else _NEVER
        newest = used = 0.0
        blocks = files = seen = 0
        unreadable = False
        is_plain = True  # nothing in it that a record does not tell
        linked = self._linked
        try:
            entries = os.scandir(descriptor)
        except OSError as error:
            if error.errno in _OURS_TO_FAIL:
                raise
            tally.unreadable = tally.unreadable or self.full(prefix.rstrip("/"))
            return []
        with entries:
            try:
                for entry in _in_order(entries):
                    seen += 1
                    if not seen & 1023:
                        self.check(1023)
                        if len(folders) > MOST_LOOSE:
                            packed.append((pack(folders), PACKED))
                            folders = []
                    if entry.is_dir(follow_symlinks=False):
                        folders.append((entry.name, entry.inode()))
                        continue
                    try:
                        found = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    except OSError:
                        unreadable = True  # EACCES: the directory may be listed but not searched
                        continue
                    if mounts and prefix + entry.name in mounts:  # a file can be a mount point too
                        tally.mount_below = tally.mount_below or self.full(prefix + entry.name)
                        is_plain = False
                        continue
                    files += 1
                    size = found.st_blocks
                    if found.st_nlink > 1:
                        inode = found.st_ino
                        linked[inode] = (size, found.st_nlink, linked[inode][2] + 1 if inode in linked else 1)
                    else:
                        blocks += size
                    changed = found.st_ctime
                    if changed > newest:
                        newest = changed
                    if size >= large or changed > recent:
                        unquiet.append((entry.name, found.st_ino, found.st_ctime_ns, size))
                    changed = found.st_mtime
                    if newest < changed <= began:
                        newest = changed
                    changed = found.st_atime
                    if used < changed <= began:
                        used = changed
                    if found.st_uid != euid and euid:
                        is_plain = False
                        tally.foreign = tally.foreign or self.full(prefix + entry.name)
            except OSError as error:
                if error.errno in _OURS_TO_FAIL:
                    raise
                unreadable = unreadable or error.errno not in _GONE  # EIO in the middle of a directory
        if unreadable:
            tally.unreadable = tally.unreadable or self.full(prefix.rstrip("/"))
        links: list[int] = []
        if linked:
            whole, links = pack_links(linked)
            blocks += whole
            linked.clear()
            tally.add_links(links)
        tally.blocks += blocks
        tally.files += files
        tally.newest, tally.used = max(tally.newest, newest), max(tally.used, used)
        self.seen += seen
        if self.shares and unquiet:
            for name, inode, _, size in unquiet:
                if size >= WORTH_BLOCKS:
                    tally.add_ranges(inode, shared_ranges(name, descriptor, inode))
        if self.past is not None:
            self.was_read_anew = True
            self.was_told |= prefix.rstrip("/") in self.changed
        # Of a directory that has just been changed, or is full of what has, it is cheaper to know nothing.
        is_settled = max(status.st_ctime, status.st_mtime) <= began - _RACY_SECONDS and len(unquiet) <= 8 + files // 4
        if self.notes is not None and is_plain and is_settled and not (unreadable or packed):
            record = Record(status.st_ino, status.st_mtime_ns, status.st_ctime_ns, blocks, files, newest, used)
            record.names, record.inodes = [name for name, _ in folders], [inode for _, inode in folders]
            record.links, record.unquiet = links, unquiet
            self.notes.add(record)
        elif self.past is not None and self.notes is not None:
            self.notes.forget(status.st_ino)
        self.check(seen & 1023)
        folders.sort(key=_INODE, reverse=True)  # taken from the end
        return packed + folders

    def full(self, relative: str) -> str:
        """Return the path as the user knows it."""
        return os.path.join(self.path, relative) if relative else self.path
