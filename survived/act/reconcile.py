"""
Brings over what was still written into the old tree after the last look at it, once nobody holds it any more.

Two marks tell late from early, each by the clock of its own filesystem: what is newer than the source mark in the old
tree was written after it was copied; what is newer than the target mark in the new tree was changed there since. Both
are in the journal, so this works after a crash too, and a repeat finds nothing to do: what is brought over gets its
name when it is complete. A directory that was moved keeps the times of what is in it, so below one that changed late
nothing counts as seen before, and below one that may have been moved in the new tree nothing is removed. Moving one
changes it and the folder in which it stands; who makes or removes an entry in it changes only the one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from survived.act import fs
from survived.act.copying import TreeCopy
from survived.act.stillness import Stillness, look_through

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LATE = ".survived-late"
"""Added to the name of an old side's file when both sides changed."""
_FRESH = ".survived-fresh-"
_NAME_BYTES = 230  # of 255: what is left of a long name before LATE and a number


@dataclass(slots=True)
class Late:
    """What was found late. `conflicts` are paths of files of which both sides are kept."""

    brought: int = 0
    removed: int = 0
    conflicts: list[str] = field(default_factory=list)


def reconcile(
    old_fd: int,
    new_fd: int,
    *,
    source_mark_ns: int,
    target_mark_ns: int,
    source: str,
    tick: Callable[[int, int], None],
    removes: bool = True,
    still: Stillness | None = None,
) -> Late:
    """
    Make `new_fd` hold every late change of `old_fd`; never touches what changed in the new tree.

    An old tree that is empty while the new one is not is taken for an accident: nothing is removed then, nor without `removes`.
    `still` is what a look at the old tree has just found, if there was one.
    """
    found = still or look_through(old_fd, lambda count: tick(0, count), leases=False)
    if _is_quiet(old_fd, new_fd, source_mark_ns, found, removes=removes):
        return Late()
    merge = _Merge(old_fd, new_fd, source_mark_ns, target_mark_ns, source, tick, removes=removes)
    merge.run(old_fd, new_fd)
    return merge.late


def _is_quiet(old_fd: int, new_fd: int, source_mark_ns: int, found: Stillness, *, removes: bool) -> bool:
    """
    Tell, by the old tree alone, whether nothing at all came late, as nearly always.

    Whatever happened in a folder is in its ctime. But the exchange moved the root's own: there the names have to tell,
    also those that an earlier start left in the new one.
    """
    if not found.is_whole or found.latest_ns > source_mark_ns:
        return False
    if not removes:
        return True
    with os.scandir(old_fd) as entries:
        count = sum(1 for _ in entries)
    with os.scandir(new_fd) as entries:
        return all(fs.exists(old_fd, entry.name) is not None and (count := count - 1) >= 0 for entry in entries) and count == 0


@dataclass(slots=True)
class _Folder:
    """
    A directory that both trees have. `is_late`: it or one above changed late; `may_remove`: none of them was moved in the new
    tree; `is_touched`: it changed there.
    """

    old: int
    new: int
    path: str
    is_late: bool
    may_remove: bool
    is_touched: bool
    takes_metadata: bool = False
    times: tuple[int, int] = (0, 0)
    is_changed: bool = False  # by us
    below: list[tuple[str, bool, bool]] = field(default_factory=list)  # name, changed late, changed in the new tree

    def __post_init__(self) -> None:
        info = os.fstat(self.new)
        self.times = info.st_atime_ns, max(info.st_mtime_ns, os.fstat(self.old).st_mtime_ns)

    def close(self) -> None:
        os.close(self.old)
        os.close(self.new)


class _Merge:
    """One run over both trees."""

    def __init__(
        self, old_fd: int, new_fd: int, source_mark: int, target_mark: int, source: str, tick: Callable[[int, int], None],
        *, removes: bool,
    ) -> None:  # fmt: skip
        self.late = Late()
        self._removes = removes
        self._source_mark, self._target_mark, self._source, self._tick = source_mark, target_mark, source, tick
        self._copier = TreeCopy(old_fd, new_fd, source, tick)
        self._ours: dict[int, int] = {}  # inode: its ctime, which moved because we took one of its names

    def run(self, old_fd: int, new_fd: int) -> None:
        # One frame a level, as deep as the tree is.
        may_remove, touched = self._removes and bool(os.listdir(old_fd)), self._is_root_touched(old_fd, new_fd)
        stack = [_Folder(os.dup(old_fd), os.dup(new_fd), "", is_late=False, may_remove=may_remove, is_touched=touched)]
        try:
            self._merge(stack[0])
            while stack:
                folder = stack[-1]
                if folder.below:
                    deeper = self._enter(folder, *folder.below.pop())
                    if deeper is not None:
                        stack.append(deeper)
                        self._merge(deeper)
                    continue
                if folder.takes_metadata:
                    self._copier.copy_folder_metadata(folder.old, folder.new, folder.path)
                elif folder.is_changed:
                    os.utime(folder.new, ns=folder.times)
                stack.pop().close()
        finally:
            for folder in stack:
                folder.close()

    def _enter(self, folder: _Folder, name: str, changed: bool, touched: bool) -> _Folder | None:
        try:
            new = os.open(name, fs.DIRECTORY, dir_fd=folder.new)
        except (FileNotFoundError, NotADirectoryError):
            return None  # removed from the new tree this moment
        try:
            old = os.open(name, fs.DIRECTORY, dir_fd=folder.old)
        except BaseException:
            os.close(new)
            raise
        is_late, may_remove = folder.is_late or changed, folder.may_remove and not (touched and folder.is_touched)
        return _Folder(old, new, f"{folder.path}{name}/", is_late, may_remove, touched, changed and not touched)

    def _is_root_touched(self, old_fd: int, new_fd: int) -> bool:
        """The exchange gives a root another ctime; its mtime is the other's until something is made, moved or removed in it."""
        mtime_ns = os.fstat(old_fd).st_mtime_ns
        return mtime_ns > self._source_mark or os.fstat(new_fd).st_mtime_ns != mtime_ns

    def _merge(self, folder: _Folder) -> None:
        with os.scandir(folder.old) as entries:
            names = {entry.name for entry in entries}
        for name in names:
            self._tick(0, 1)
            try:
                self._entry(folder, name)
            except FileNotFoundError:
                if os.fstat(folder.new).st_nlink == 0:  # the folder was removed from the new tree this moment
                    return
                raise
            except FileExistsError:  # made in the new tree this moment
                self._keep_both(folder, name, os.stat(name, dir_fd=folder.old, follow_symlinks=False))
        with os.scandir(folder.new) as entries:
            gone = [entry.name for entry in entries if entry.name not in names]
        for name in gone:
            if name.startswith(_FRESH):  # of a start that came to an end in the middle
                folder.is_changed = True
                with _writable(folder.new):
                    fs.remove_tree(folder.new, name, lambda _: None)
            elif folder.may_remove:
                removed = self._remove_unchanged(folder.new, name)
                self.late.removed += removed
                folder.is_changed |= removed > 0

    def _entry(self, folder: _Folder, name: str) -> None:
        found = os.stat(name, dir_fd=folder.old, follow_symlinks=False)
        changed = found.st_ctime_ns > self._source_mark
        if not changed and not folder.is_late and not stat.S_ISDIR(found.st_mode):
            return  # as it was copied; whatever became of it in the new tree since is right
        there = fs.exists(folder.new, name)
        if there is None:
            if changed or folder.is_late:
                self._bring(folder, name, found, fs.place, name)
                self.late.brought += 1
            return  # else it was copied, and somebody removed it from the new tree since: their word counts
        touched = self._is_touched(there)
        if stat.S_ISDIR(found.st_mode):
            if stat.S_ISDIR(there.st_mode):
                folder.below.append((name, changed, touched))
            else:
                self._keep_both(folder, name, found)
        elif not touched and not stat.S_ISDIR(there.st_mode):
            # A late change may have put size and mtime back; below a moved directory the times of files say nothing.
            if changed or (folder.is_late and not _same(found, there)):
                with self._taking(folder.new, name, there):
                    self._bring(folder, name, found, fs.replace, name)
                self.late.brought += 1
        elif (changed or folder.is_late) and not _same(found, there):
            self._keep_both(folder, name, found)

    def _is_touched(self, there: os.stat_result) -> bool:
        return there.st_ctime_ns > self._target_mark and self._ours.get(there.st_ino) != there.st_ctime_ns

    @contextlib.contextmanager
    def _taking(self, parent: int, name: str, there: os.stat_result) -> Iterator[None]:
        """Remember that the other names of an inode changed only because we take this one."""
        if there.st_nlink == 1:
            yield
            return
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            yield
            self._ours[there.st_ino] = os.fstat(fd).st_ctime_ns
        finally:
            os.close(fd)

    def _bring(self, folder: _Folder, name: str, found: os.stat_result, put: Callable[[int, str, str], None], to: str) -> None:
        """Copy an entry under a name of our own and give it its name in one step, so that half of it is never seen."""
        fresh, where = f"{_FRESH}{found.st_ino}", f"{folder.path}{to}"
        folder.is_changed = True
        with _writable(folder.new):
            fs.remove_tree(folder.new, fresh, lambda _: None)
            if stat.S_ISDIR(found.st_mode):
                os.mkdir(fresh, 0o700, dir_fd=folder.new)
                with fs.opened(name, dir_fd=folder.old) as old, fs.opened(fresh, dir_fd=folder.new) as new:
                    TreeCopy(old, new, self._source, self._tick).run_pass()
            else:
                self._copier.copy_or_link(folder.old, folder.new, name, found, where, fresh)
            try:
                put(folder.new, fresh, to)
                # Two names of one inode: rename does nothing, and that is right but for the name that stays.
                fs.remove_tree(folder.new, fresh, lambda _: None)
            except FileExistsError:
                fs.remove_tree(folder.new, fresh, lambda _: None)
                raise

    def _keep_both(self, folder: _Folder, name: str, found: os.stat_result) -> None:
        stem = os.fsdecode(os.fsencode(name)[:_NAME_BYTES])
        number, kept = 1, f"{stem}{LATE}"
        while (there := fs.exists(folder.new, kept)) is not None:
            if _same(found, there):  # an earlier start kept it
                return
            number += 1
            kept = f"{stem}{LATE}-{number}"
        self._bring(folder, name, found, fs.place, kept)
        self.late.conflicts.append(f"{folder.path}{name}")

    def _remove_unchanged(self, parent: int, name: str) -> int:
        """Remove an entry that is gone from the old tree, as far as nobody changed it in the new one; return how many."""
        count = 0
        # A frame: the parent, the own descriptor, the own name, entries still to look at, whether all went so far.
        stack: list[tuple[int, int, str, list[str]]] = [(-1, os.dup(parent), "", [name])]
        try:
            while stack:
                above, fd, own, names = stack[-1]
                if names:
                    below = names.pop()
                    found = fs.exists(fd, below)
                    if found is None or self._is_touched(found):
                        continue
                    if stat.S_ISDIR(found.st_mode):
                        deeper = os.open(below, fs.DIRECTORY, dir_fd=fd)
                        stack.append((fd, deeper, below, os.listdir(deeper)))
                        continue
                    with self._taking(fd, below, found), _writable(fd):
                        os.unlink(below, dir_fd=fd)
                    count += 1
                    continue
                stack.pop()
                os.close(fd)
                if own:
                    count += _remove_empty(above, own)
        finally:
            for _, fd, *_ in stack:
                os.close(fd)
        return count


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    if stat.S_IFMT(one.st_mode) != stat.S_IFMT(other.st_mode) or one.st_mtime_ns != other.st_mtime_ns:
        return False
    return one.st_size == other.st_size or stat.S_ISDIR(one.st_mode)  # a directory's size is its filesystem's own affair


def _remove_empty(parent: int, name: str) -> int:
    try:
        with _writable(parent):
            os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        return 0
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # something in it is of the new tree alone
            return 0
        raise
    return 1


@contextlib.contextmanager
def _writable(fd: int) -> Iterator[None]:
    """Let us change a directory of ours that lets nobody write, as Go's module cache has them; its mode is put back."""
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    if mode & 0o300 == 0o300:
        yield
        return
    os.fchmod(fd, mode | 0o300)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.fchmod(fd, mode)
