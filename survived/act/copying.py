"""
One faithful pass from a live tree to a staging tree; passes repeat until one finds nothing to do.

What changed since a pass began is copied again by the next one, for two changes in one tick of a coarse clock have one ctime.
So have all writes to a mapped page until it is written back: whoever calls a pass while somebody holds the source syncs it
first.
Preserved: mode, owner, times to the nanosecond, xattrs and with them ACLs, hard links inside the tree, holes, and
names of any bytes. What cannot be preserved is refused, never dropped.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import zlib
from array import array
from typing import TYPE_CHECKING

from survived.act import fs
from survived.act.attributes import drop_acls, is_alike
from survived.act.entries import READ, EntryCopy
from survived.act.links import Links
from survived.act.looking import in_order, look
from survived.act.passes import Known, Pass
from survived.act.readahead import entries_ahead
from survived.terms import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

_BEYOND = (errno.ENAMETOOLONG, errno.EFBIG, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
"""What a filesystem says to a name, a size, or a link or FIFO that it cannot have."""


class TreeCopy(EntryCopy):
    """
    Copies `source_fd` into `copy_fd`, both open directories, by one pass or several.

    `tick(bytes, entries)` is called often and may raise to stop. Raises `Refused` for what cannot be copied
    faithfully, and OSError for what the copy's filesystem says (ENOSPC, EDQUOT, EIO, EROFS).
    """

    def __init__(self, source_fd: int, copy_fd: int, source: str, tick: Callable[[int, int], None]) -> None:
        super().__init__(source, tick)
        self._source_fd, self._copy_fd = source_fd, copy_fd
        self._known = Known(array("Q"))
        self._device = os.fstat(source_fd).st_dev
        self._first = True
        self._links = Links(copy_fd, self._device)
        self._part, self._parts = 0, 1  # which share of the files is ours, by inode
        self._place = ("", 0)  # the last folder seen, and its number
        self._closed: frozenset[str] = frozenset()  # directories that others go through
        self._listed: dict[str, list[str]] | None = None  # what a share saw of directories in directories
        self._only_directories = self._later = self._alone = self._ahead = False

    def run_pass(self, began_ns: int | None = None) -> Pass:
        """
        Copy what differs, remove what is gone; the result's `copied` counts both.

        `began_ns` is when the caller began to write mapped pages back for it: what changed since then is copied again.
        """
        found = Pass(began_ns)
        self._links = Links(self._copy_fd, self._device)
        self.prepare_root()
        self._run(found)
        self._known, self._first = Known(found.signatures), False
        return found

    def look(self, checked: Pass, began_ns: int) -> Pass:
        """
        Look at the source alone, after the pass `checked` found the copy faithful: is all still as that pass saw it?

        The result's `copied` is 0 if so; else the next pass finds out what differs. `began_ns` is as in `run_pass`.
        """
        found = checked.looked_at(began_ns)
        look(self._source_fd, self._known, found, self._tick)
        return found

    def _run(self, found: Pass) -> Pass:
        try:
            self._directory(self._source_fd, self._copy_fd, "", found)
        finally:
            self._links.close()
        return found

    def prepare_root(self) -> None:
        """Make the copy's root ready to be written below, once before each pass."""
        if not self._first:
            if os.fstat(self._copy_fd).st_mode & 0o700 != 0o700:
                os.fchmod(self._copy_fd, 0o700)
        else:
            # The folder in which the copy was made may have a default ACL, which would go on to everything in it.
            drop_acls(self._copy_fd)
        self._inherits = not self._first

    def _directory(self, top_fd: int, top_copy_fd: int, top: str, found: Pass) -> None:
        # A frame: source fd, copy fd, path, sub directories still to do. An explicit stack, since trees can be deep.
        stack: list[tuple[int, int, str, list[str]]] = [(os.dup(top_fd), os.dup(top_copy_fd), top, [])]
        try:
            stack[0][3].extend(self._entries(top_fd, top_copy_fd, top, found))
            while stack:
                source_fd, copy_fd, path, below = stack[-1]
                if below:
                    name = below.pop()
                    if self._closed and f"{path}{name}" in self._closed:
                        continue
                    try:
                        deeper_fd = self._open(name, source_fd, f"{path}{name}", fs.DIRECTORY)
                    except FileNotFoundError:
                        found.copied += 1  # moved or removed meanwhile; the next pass sees where to
                        continue
                    try:
                        self._check_device(deeper_fd, f"{path}{name}")
                        deeper_copy_fd = os.open(name, fs.DIRECTORY, dir_fd=copy_fd)
                    except BaseException:
                        os.close(deeper_fd)
                        raise
                    stack.append((deeper_fd, deeper_copy_fd, f"{path}{name}/", []))
                    stack[-1][3].extend(self._entries(deeper_fd, deeper_copy_fd, f"{path}{name}/", found))
                    continue
                self._finish_directory(source_fd, copy_fd, path, found)
                stack.pop()
                os.close(source_fd)
                os.close(copy_fd)
        finally:
            for source_fd, copy_fd, *_ in stack:
                os.close(source_fd)
                os.close(copy_fd)

    def _check_device(self, fd: int, where: str) -> None:
        if os.fstat(fd).st_dev != self._device:
            raise self._refuse(Reason.MOUNT_POINT, where, "another filesystem is mounted there")

    def _entries(self, source_fd: int, copy_fd: int, path: str, found: Pass) -> list[str]:
        """Copy what is not a directory, make the sub directories, and return their names."""
        if self._only_directories and self._listed is not None:
            return self._listed.get(path, [])  # what came since gave its folder a ctime that the next pass does not know
        below: list[str] = []
        present = 0
        entries = in_order(source_fd)
        if self._ahead:
            entries = entries_ahead(source_fd, entries, self._is_ours)
        for entry in entries:
            name = entry.name
            present += 1
            if entry.is_dir(follow_symlinks=False):
                if self._only_directories and f"{path}{name}" in self._closed:
                    continue  # whoever went through it gave it its metadata
                below.append(name)
                self._make_directory(copy_fd, name, found)
            elif self._is_ours(entry):
                try:
                    if self._first and entry.is_file(follow_symlinks=False) and entry.inode() not in self._links:
                        self._fresh_file(source_fd, copy_fd, path, name, found)
                    else:
                        self._entry(source_fd, copy_fd, path, name, found)
                except (FileNotFoundError, FileExistsError):  # gone, or listed twice since it was made anew
                    found.copied += 1
                except OSError as error:
                    if error.errno not in _BEYOND:
                        raise
                    why = "its kind, its name, its size or the text of its link is beyond what that filesystem takes"
                    raise self._refuse(Reason.UNFAITHFUL, f"{path}{name}", why) from error
        if not self._first:
            self._remove_gone(source_fd, copy_fd, present, found)
        if self._part % 2 == 0:
            below.reverse()  # what is popped from its end comes in order, too; other shares begin at the end, to meet seldom
        if below and self._listed is not None:
            self._listed[path] = below.copy()
        return below

    def _remove_gone(self, source_fd: int, copy_fd: int, present: int, found: Pass) -> None:
        """Remove what the source has no more. All `present` entries have their copies, so equal numbers are equal names."""
        with os.scandir(copy_fd) as entries:
            if sum(1 for _ in entries) == present:
                return
        with os.scandir(copy_fd) as entries:
            gone = [entry.name for entry in entries if fs.exists(source_fd, entry.name) is None]
        for name in gone:
            fs.remove_tree(copy_fd, name, lambda _: self._tick(0, 0))
            found.copied += 1

    def _is_ours(self, entry: os.DirEntry[str]) -> bool:
        # Neighbours in a directory often have neighbouring inodes; blocks of 64 keep each process in its own.
        return not self._only_directories and (self._parts == 1 or (entry.inode() >> 6) % self._parts == self._part)

    def _make_directory(self, copy_fd: int, name: str, found: Pass) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=copy_fd)
        except FileExistsError:
            there = os.stat(name, dir_fd=copy_fd, follow_symlinks=False)
            if stat.S_ISDIR(there.st_mode):
                # An earlier pass gave it the source's mode, which need not let us write.
                if there.st_mode & 0o700 != 0o700:
                    fs.unlock_directory(name, copy_fd)
                return
            os.unlink(name, dir_fd=copy_fd)
            os.mkdir(name, 0o700, dir_fd=copy_fd)
        found.copied += 0 if self._first else 1

    def _finish_directory(self, source_fd: int, copy_fd: int, path: str, found: Pass) -> None:
        """Give the copy of a directory its metadata, after everything below it is done."""
        if self._later:  # others may still be at work in it
            return
        info = os.fstat(source_fd)
        if fs.is_fixed(source_fd):
            raise self._refuse(Reason.IMMUTABLE, path, "it is immutable or append-only (chattr)")
        same, there = self._see(info, found, path, is_root=path == ""), os.fstat(copy_fd)
        if not same or not self._alike(info, there):
            self._metadata(source_fd, copy_fd, info, path)
            there = os.fstat(copy_fd)
            if (same or self._first) and not self._alike(info, there):
                raise self._refuse(Reason.UNFAITHFUL, path, "its mode, owner or times cannot be kept there")
        # Of a first pass this is all that is needed: the root is done last, and its ctime is the time of that.
        found.target_mark_ns = max(found.target_mark_ns, there.st_ctime_ns)
        self._tick(0, 1)

    def _see(self, info: os.stat_result, found: Pass, folder: str, *, is_root: bool = False) -> bool:
        """Count an entry and return whether it is exactly what an earlier pass copied, in the same folder."""
        if folder is not self._place[0]:
            self._place = folder, zlib.crc32(os.fsencode(folder))
        seen = self._links.count(info) if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode) else 0
        signature = found.see(info, seen, self._place[1], is_root=is_root)
        if self._first:
            return False
        same = signature in self._known
        if not same and stat.S_ISDIR(info.st_mode):
            found.copied += 1
        return same

    def _entry(self, source_fd: int, copy_fd: int, path: str, name: str, found: Pass) -> None:
        info = os.stat(name, dir_fd=source_fd, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):
            raise FileNotFoundError(errno.ENOENT, "became a directory since it was listed", name)
        if info.st_nlink > 1 and self._alone:
            found.copied += 1
            return
        where = f"{path}{name}"
        same = self._see(info, found, path)
        there = None if self._first else fs.exists(copy_fd, name)
        if same and there is not None and self._alike(info, there):
            found.target_mark_ns = max(found.target_mark_ns, there.st_ctime_ns)
            if info.st_nlink > 1:
                same = self._links.note(info, there, path, name)
            if same:
                self._tick(0, 1)
                return
        elif same and there is not None:
            # The source is what we copied and the copy is not: this filesystem rounds times or drops bits.
            raise self._refuse(Reason.UNFAITHFUL, where, "its mode, owner or times cannot be kept there")
        if there is not None:
            fs.remove_tree(copy_fd, name, lambda _: None)
        if not self._first:
            found.copied += 1
        if info.st_nlink <= 1 or not self._link(info, copy_fd, name):
            self.copy_entry(source_fd, copy_fd, name, info, where)
            if self._first and not self._alike(info, os.stat(name, dir_fd=copy_fd, follow_symlinks=False)):
                raise self._refuse(Reason.UNFAITHFUL, where, "its mode, owner or times cannot be kept there")
            if info.st_nlink > 1:
                self._links.note(info, os.stat(name, dir_fd=copy_fd, follow_symlinks=False), path, name)
        self._tick(0, 1)

    def _fresh_file(self, source_fd: int, copy_fd: int, path: str, name: str, found: Pass) -> None:
        """Copy a regular file in a first pass: nothing is there yet, and what is opened is what is looked at."""
        where = f"{path}{name}"
        fd = self._open(name, source_fd, where, READ)
        try:
            info = self._regular(fd, where)
            names = info.st_nlink  # 0: unlinked since it was opened
            if names > 1 and self._alone:
                found.copied += 1
                return
            self._see(info, found, path)
            if names <= 1 or not self._link(info, copy_fd, name):
                there = self._copy_open_file(fd, info, copy_fd, name, where, is_new=True)
                if there is not None:
                    if there.st_size != info.st_size:  # it grew or shrank meanwhile
                        found.copied += 1
                    elif not is_alike(info, there):
                        raise self._refuse(Reason.UNFAITHFUL, where, "its mode, owner or times cannot be kept there")
                if names > 1:
                    self._links.note(info, there or os.stat(name, dir_fd=copy_fd, follow_symlinks=False), path, name)
        finally:
            os.close(fd)
        self._tick(0, 1)

    def _link(self, info: os.stat_result, copy_fd: int, name: str) -> bool:
        """Link `name` to the inode's first copy if there is one already."""
        try:
            return self._links.link(info, copy_fd, name)
        except OSError as error:
            if error.errno in (errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP):
                raise self._refuse(Reason.UNFAITHFUL, self._links.first(info), "its hard links cannot be kept there") from error
            raise

    def copy_or_link(self, source_fd: int, copy_fd: int, name: str, info: os.stat_result, where: str, to: str) -> None:
        """Copy one entry to the free name `to`, or link it where an earlier call copied its inode; `where` is its path later."""
        try:
            if info.st_nlink > 1:
                with contextlib.suppress(FileNotFoundError):  # the first copy is gone again: somebody lives in this tree
                    if self._link(info, copy_fd, to):
                        return
            self.copy_entry(source_fd, copy_fd, name, info, where, to)
            if info.st_nlink > 1:
                folder, slash, base = where.rpartition("/")
                self._links.put(info, os.stat(to, dir_fd=copy_fd, follow_symlinks=False), folder + slash, base)
        finally:
            self._links.close()
