"""
What fills a filesystem beside the caches that the catalogue knows: the biggest directories and files, at the right level.

One walk, depth first, that keeps only the biggest of what it has seen: its memory is bounded by the depth of the tree, not
by its entries. A directory is reported where it can be moved as a whole and no single directory in it holds most of it;
above that level only its parts are, and what is left beside them. No link is followed and no mount point entered.
"""

from __future__ import annotations

import errno
import heapq
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from survived.findings import BigFile, Hog, Look
from survived.observe.disks import is_below, read_mounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    Judge = Callable[[str, int], tuple[bool, str | None]]

BIG_FILE_BYTES = 64 << 20  # what may be a model
_MOST = 0.8  # a child that holds so much of its parent stands for it
_REST = 0.5  # what is left of a directory is told of if it is so much of it
_BLOCK = 512
_STRANGERS = 3  # levels of directories that are not ours below which nothing of ours is looked for
_OPEN_LEVELS = 100  # each has a descriptor
_BIG_FILES = 2000
_UNSEEN = ("/boot", "/dev", "/etc", "/proc", "/run", "/sys")
_UNITS = frozenset({"CACHEDIR.TAG", "conda-meta", "pyvenv.cfg"})
"""A directory that has one of these is a thing of its own, and not the one folder in it that is most of it."""
_NOT_A_USERS = ("/bin", "/lib", "/lib32", "/lib64", "/sbin", "/usr")


@dataclass(frozen=True, slots=True)
class Scope:
    """
    What to look for. `uid` None: everybody's, else only what belongs to it and lies where it may write.

    `caches`: the real path of each known cache -> its id; their big files are kept, and nothing else of them.
    `judge(path, owner)` tells whether a directory can stand as one hog, and why that cannot be moved, or None.
    """

    uid: int | None
    caches: Mapping[str, str]
    judge: Judge
    smallest_bytes: int
    groups: frozenset[int] = frozenset()
    most: int = 100


def look_around(roots: Iterable[str], scope: Scope) -> Look:
    """
    Return what is big below `roots`, real paths of directories; each is walked on its own device.

    A cache's root may be given too, for its big files. What vanishes or closes meanwhile is left out; a root that cannot be
    opened is the `unreadable` of the answer.
    """
    walk = _Walk(scope)
    walked = []
    for root in dict.fromkeys(roots):
        walk.run(root)
        walked.append(root)
    hogs = heapq.nlargest(scope.most, walk.hogs, key=lambda hog: (hog.size_bytes, hog.path))
    files = sorted((item for *_, item in walk.files), key=lambda file: (-file.length, file.path))
    owners = sorted(walk.owners.items(), key=lambda item: (-item[1], item[0]))
    return Look(
        tuple(hogs),
        tuple(_placed(file, hogs) for file in files),
        tuple((uid, round(blocks) * _BLOCK) for uid, blocks in owners),
        walk.entries,
        walk.unreadable,
        tuple(walked),
    )


def _placed(file: BigFile, hogs: list[Hog]) -> BigFile:
    """Return a file with the hog that it is in as its place, unless a cache is, or its folder."""
    if file.place:
        return file
    place = next((hog.path for hog in hogs if is_below(file.path, hog.path)), os.path.dirname(file.path))
    return BigFile(file.path, file.length, file.size_bytes, file.device_id, file.inode, place)


@dataclass(slots=True)
class _Frame:
    """One directory that is being walked, with the sums of all below it. `blocks` are shares where inodes have several names."""

    path: str
    owner: int
    place: str
    strangers: int
    entries: Iterator[os.DirEntry[str]]
    blocks: float = 0.0
    count: int = 1
    biggest: float = 0.0  # the blocks of the biggest directory in it
    told: int = 0  # the bytes of all hogs below, also of those that are not kept
    is_unit: bool = False
    foreign: str | None = None
    hogs: list[Hog] = field(default_factory=list)


class _Walk:
    """The state of one look around."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.hogs: list[Hog] = []
        self.files: list[tuple[int, str, BigFile]] = []  # a heap, the smallest first
        self.inodes: set[tuple[int, int]] = set()  # of the files in it
        self.owners: dict[int, float] = {}
        self.entries = 0
        self.unreadable: str | None = None
        self.mounts = frozenset(mount.point for mount in read_mounts())
        self.smallest = scope.smallest_bytes / _BLOCK
        self.device = -1
        self.root = ""

    def run(self, root: str) -> None:
        """Walk one root."""
        stack: list[_Frame] = []
        try:
            found = os.stat(root)
            self.device, self.root = found.st_dev, root
            place = next((name for path, name in self.scope.caches.items() if is_below(root, path)), "")
            self._push(stack, root, found, place, 0)
            while stack:
                frame = stack[-1]
                if not self._go_on(frame, stack):
                    self._close(stack.pop())
                    self._finish(frame, stack[-1] if stack else None)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise
            self.unreadable = self.unreadable or root
        finally:
            for frame in stack:
                self._close(frame)

    @staticmethod
    def _close(frame: _Frame) -> None:
        if (close := getattr(frame.entries, "close", None)) is not None:
            close()

    def _push(self, stack: list[_Frame], path: str, found: os.stat_result, place: str, strangers: int) -> None:
        """Begin a directory; its iterator stays open, unless the tree is so deep that descriptors would run out."""
        entries: Iterator[os.DirEntry[str]]
        try:
            entries = os.scandir(path)
            if len(stack) >= _OPEN_LEVELS:
                with entries as listed:
                    entries = iter(list(listed))
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM) or not stack:
                raise
            if self._counts(found.st_uid):
                self.unreadable = self.unreadable or path
            entries = iter(())
        frame = _Frame(path, found.st_uid, place, strangers, entries)
        if self._counts(found.st_uid):
            frame.blocks += found.st_blocks
            self._own(found.st_uid, found.st_blocks)
        elif stack:
            frame.foreign = path
        stack.append(frame)

    def _counts(self, uid: int) -> bool:
        return self.scope.uid is None or uid == self.scope.uid

    def _own(self, uid: int, blocks: float) -> None:
        self.owners[uid] = self.owners.get(uid, 0.0) + blocks

    def _go_on(self, frame: _Frame, stack: list[_Frame]) -> bool:
        """Count entries of a directory up to its next sub-directory, which is begun; False at its end."""
        folder = frame.path.rstrip("/")
        while True:
            try:
                entry = next(frame.entries, None)
            except OSError:  # EIO, or the directory is gone
                self.unreadable = self.unreadable or frame.path
                return False
            if entry is None:
                return False
            path = f"{folder}/{entry.name}"
            if path in self.mounts:  # not even looked at: it may be a dead one
                continue
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            self.entries += 1
            if entry.name in _UNITS:
                frame.is_unit = True
            if stat.S_ISDIR(found.st_mode):
                if found.st_dev == self.device and (strangers := self._strangers(frame, path, found)) <= _STRANGERS:
                    self._push(stack, path, found, self.scope.caches.get(path, frame.place), strangers)
                    return True
            elif self._counts(found.st_uid):
                self._count(frame, path, found)
            elif frame.foreign is None:
                frame.foreign = path

    def _strangers(self, frame: _Frame, path: str, found: os.stat_result) -> int:
        """Return how many levels above and with this one we have no right to write; more than enough where nobody has."""
        if path in _UNSEEN:
            return _STRANGERS + 1
        uid = self.scope.uid
        if uid is None or found.st_uid == uid:
            return 0
        if path in _NOT_A_USERS:
            return _STRANGERS + 1
        if found.st_mode & 0o002 or (found.st_mode & 0o020 and found.st_gid in self.scope.groups):
            return 0
        return frame.strangers + 1

    def _count(self, frame: _Frame, path: str, found: os.stat_result) -> None:
        """Count what is no directory; of an inode with several names each has a share, so that none has to be remembered."""
        blocks = found.st_blocks / found.st_nlink if found.st_nlink > 1 else found.st_blocks
        frame.blocks += blocks
        frame.count += 1
        self._own(found.st_uid, blocks)
        if blocks >= self.smallest and not frame.place:
            why = "it is a file, and only directories are moved"
            self._keep(frame, [Hog(path, int(blocks) * _BLOCK, 1, found.st_uid, is_directory=False, why_not=why)])
        if found.st_size >= BIG_FILE_BYTES and stat.S_ISREG(found.st_mode):
            self._keep_file(BigFile(path, found.st_size, found.st_blocks * _BLOCK, found.st_dev, found.st_ino, frame.place))

    def _keep_file(self, file: BigFile) -> None:
        key = (file.device_id, file.inode)
        if key in self.inodes:
            return
        self.inodes.add(key)
        if len(self.files) < _BIG_FILES:
            heapq.heappush(self.files, (file.length, file.path, file))
            return
        *_, dropped = heapq.heappushpop(self.files, (file.length, file.path, file))
        self.inodes.discard((dropped.device_id, dropped.inode))

    def _keep(self, frame: _Frame, hogs: list[Hog], told: int | None = None) -> None:
        """Add hogs to those of a directory, whose list stays bounded; `told` is what they stand for."""
        frame.hogs += hogs
        frame.told += sum(hog.size_bytes for hog in hogs) if told is None else told
        if len(frame.hogs) > 2 * self.scope.most:
            frame.hogs = heapq.nlargest(self.scope.most, frame.hogs, key=lambda hog: hog.size_bytes)

    def _finish(self, frame: _Frame, parent: _Frame | None) -> None:
        """Decide at which level a directory that is done is reported, and hand its sums to the one above."""
        if frame.place:
            if parent is not None and not parent.place:
                return  # the catalogue accounts for it
        elif frame.blocks >= self.smallest:
            frame.hogs = self._level(frame)
        if parent is None:
            self.hogs += frame.hogs
            return
        parent.blocks += frame.blocks
        parent.count += frame.count
        parent.biggest = max(parent.biggest, frame.blocks)
        parent.foreign = parent.foreign or frame.foreign
        self._keep(parent, frame.hogs, frame.told)

    def _level(self, frame: _Frame) -> list[Hog]:
        """Return a directory as one hog, or the hogs in it, with what is left beside them."""
        size = int(frame.blocks) * _BLOCK
        is_passed_on = frame.biggest >= _MOST * frame.blocks and not frame.is_unit
        can_stand, why = (False, None) if is_passed_on and frame.hogs else self.scope.judge(frame.path, frame.owner)
        if can_stand:
            if why is None and frame.foreign is not None:
                why = f"'{frame.foreign}' in it belongs to somebody else"
            frame.told = size
            return [Hog(frame.path, size, frame.count, frame.owner, why_not=why)]
        rest = size - frame.told
        if rest < max(self.scope.smallest_bytes, _REST * size):
            return frame.hogs
        if why is None:
            why = self.scope.judge(frame.path, frame.owner)[1] or "what is big in it is listed by itself"
        frame.told = size
        return [*frame.hogs, Hog(frame.path, rest, frame.count, frame.owner, is_rest=True, why_not=why)]
