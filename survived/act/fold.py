"""
Folds an earlier tree into the one that took its place, entry by entry, by renames within their filesystem.

What stands at a name stays there: folders are folded in turn, what is alike goes from the earlier tree, and of what differs
the earlier is kept beside it. A crash leaves an earlier tree that is smaller, and the same call ends it. Each entry is at
every instant in one of the two trees, whole.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from survived.act import fs
from survived.act.comparing import next_data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EARLIER = ".survived-earlier"
"""Added to the name of an entry of the earlier tree where another stands at its name."""
_NAME_BYTES = 230  # of 255: what is left of a long name before EARLIER and a number
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CHUNK = 1 << 20
_RETRIES = 8


@dataclass(slots=True)
class Folded:
    """What became of the earlier tree's entries. `kept`: paths of what differed and now stands beside its name."""

    moved: int = 0
    same: int = 0
    kept: list[str] = field(default_factory=list)


def fold(earlier_parent_fd: int, earlier: str, into_fd: int, tick: Callable[[int, int], None]) -> Folded:
    """
    Move what the directory `earlier` holds into `into_fd` and remove it, durably; one that is not there is fine.

    Both are on one filesystem. `tick(bytes, entries)` may raise to stop; OSError as the kernel says it. In either case a
    repeat goes on.
    """
    folded = Folded()
    if fs.exists(earlier_parent_fd, earlier) is None:
        return folded
    stack = [_Folder(earlier_parent_fd, earlier, os.dup(into_fd), "")]
    try:
        stack[0].fold(folded, tick)
        while stack:
            folder = stack[-1]
            if folder.below:
                name = folder.below.pop()
                try:
                    into = os.open(name, fs.DIRECTORY, dir_fd=folder.into)
                except (FileNotFoundError, NotADirectoryError):  # removed this moment: its name is free for the whole
                    folder.fold(folded, tick)
                    continue
                stack.append(_Folder(folder.fd, name, into, f"{folder.path}{name}/"))
                stack[-1].fold(folded, tick)
            elif folder.is_empty():
                stack.pop().close()
                if not stack:
                    fs.sync_filesystem(into_fd)  # the last name of the earlier tree goes when all the others are durable
                _remove(folder, None if not stack else stack[-1])
            else:
                folder.fold(folded, tick)
    finally:
        while stack:
            stack.pop().close()
    os.fsync(earlier_parent_fd)
    return folded


def _remove(folder: _Folder, above: _Folder | None) -> None:
    try:
        os.rmdir(folder.name, dir_fd=folder.above)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY or above is None:
            raise
        above.below.append(folder.name)  # something was written into it this moment


class _Folder:
    """A directory that both trees have, with its sub directories still to fold. While it is open both may be written."""

    def __init__(self, above: int, name: str, into: int, path: str) -> None:
        self.above, self.name, self.into, self.path = above, name, into, path
        self.below: list[str] = []
        self._retries = _RETRIES
        self._open = contextlib.ExitStack()
        self._open.callback(os.close, into)
        try:
            self.fd = self._open.enter_context(fs.opened(name, dir_fd=above))
            self._open.enter_context(fs.movable(self.fd))
            self._open.enter_context(fs.movable(into))
        except BaseException:
            self._open.close()
            raise

    def close(self) -> None:
        self._open.close()

    def is_empty(self) -> bool:
        with os.scandir(self.fd) as entries:
            return next(entries, None) is None

    def fold(self, folded: Folded, tick: Callable[[int, int], None]) -> None:
        """Take every entry but folders that both have, which become `below`."""
        self._retries -= 1
        if self._retries < 0:  # somebody goes on writing into the earlier tree
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), f"{self.path or self.name}")
        for name in sorted(os.listdir(self.fd)):
            tick(0, 1)
            with contextlib.suppress(FileNotFoundError):
                self._take(name, folded, tick)

    def _take(self, name: str, folded: Folded, tick: Callable[[int, int], None]) -> None:
        found = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        if self._move(name, found, name):
            folded.moved += 1
            return
        there = fs.exists(self.into, name)
        if there is not None and stat.S_ISDIR(there.st_mode) and stat.S_ISDIR(found.st_mode):
            self.below.append(name)
            return
        names = _names_beside(name)
        beside = name
        while not self._is_alike(name, found, beside, tick):
            beside = next(names)
            if self._move(name, found, beside):
                folded.kept.append(f"{self.path}{name}")
                return
        os.unlink(name, dir_fd=self.fd)
        folded.same += 1

    def _move(self, name: str, found: os.stat_result, to: str) -> bool:
        """Rename an entry to a name in the other tree, unless that is taken."""
        with contextlib.ExitStack() as open_things:
            if stat.S_ISDIR(found.st_mode):
                fd = open_things.enter_context(fs.opened(name, dir_fd=self.fd))
                open_things.enter_context(fs.movable(fd))
            try:
                fs.rename_new(self.fd, name, self.into, to, durable=False)
            except FileExistsError:
                return False
        return True

    def _is_alike(self, name: str, found: os.stat_result, beside: str, tick: Callable[[int, int], None]) -> bool:
        """Tell whether an entry holds what another name of the other tree holds, and that durably."""
        there = fs.exists(self.into, beside)
        if there is None or stat.S_IFMT(there.st_mode) != stat.S_IFMT(found.st_mode):
            return False
        if os.path.samestat(found, there):
            return True
        mode = found.st_mode
        if stat.S_ISLNK(mode):
            return os.readlink(name, dir_fd=self.fd) == os.readlink(beside, dir_fd=self.into)
        if stat.S_ISREG(mode):
            return found.st_size == there.st_size and self._holds_the_same(name, beside, tick)
        return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)

    def _holds_the_same(self, name: str, beside: str, tick: Callable[[int, int], None]) -> bool:
        with contextlib.ExitStack() as open_things:
            try:
                ours = os.open(name, _READ, dir_fd=self.fd)
                open_things.callback(os.close, ours)
                theirs = os.open(beside, _READ, dir_fd=self.into)
                open_things.callback(os.close, theirs)
            except PermissionError:
                return False
            at, size = 0, os.fstat(ours).st_size
            while (at := min(next_data(ours, at, size), next_data(theirs, at, size))) < size:
                data = os.pread(ours, _CHUNK, at)
                if data != os.pread(theirs, _CHUNK, at):
                    return False
                tick(len(data), 0)
                at += len(data) or size
            os.fsync(theirs)  # ours goes, and is on the disk; what stays may only be in memory yet
            return os.fstat(theirs).st_size == size


def _names_beside(name: str) -> Iterator[str]:
    stem = f"{os.fsdecode(os.fsencode(name)[:_NAME_BYTES])}{EARLIER}"
    yield stem
    for number in itertools.count(2):
        yield f"{stem}-{number}"
