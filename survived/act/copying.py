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
from array import array
from typing import TYPE_CHECKING

from survived.act import fs
from survived.act.attributes import Unkept, drop_acls, give
from survived.act.passes import Known, Pass
from survived.errors import Refused
from survived.model import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class TreeCopy:
    """
    Copies `source_fd` into `copy_fd`, both open directories, by one pass or several.

    `tick(bytes, entries)` is called often and may raise to stop. Raises `Refused` for what cannot be copied
    faithfully, and OSError for what the copy's filesystem says (ENOSPC, EDQUOT, EIO, EROFS).
    """

    def __init__(self, source_fd: int, copy_fd: int, source: str, tick: Callable[[int, int], None]) -> None:
        self._source_fd, self._copy_fd, self._source, self._tick = source_fd, copy_fd, source, tick
        self._known = Known(array("Q"))
        self._device = os.fstat(source_fd).st_dev
        self._first = True
        self._inherits = True  # what is made in the copy may get an ACL from its folder
        self._links: dict[int, tuple[int, str, int]] = {}  # inode: (the copy's inode, its path, links seen)
        self._no_atime = os.O_NOATIME
        self._part, self._parts = 0, 1  # which share of the files is ours, by inode
        self._only_directories = False

    def run_share(self, part: int, parts: int) -> Pass:
        """Copy one share of the files, in a first pass that several processes do together; `complete` ends it."""
        self._inherits = False  # whoever shares has prepared the root
        self._part, self._parts = part, parts
        found = Pass()
        self._directory(self._source_fd, self._copy_fd, "", found)
        self._part, self._parts = 0, 1
        return found

    def complete(self, found: Pass, others: array[int]) -> Pass:
        """End a first pass that was shared: give the directories their metadata, and know what the others copied."""
        self._only_directories = True
        try:
            self._directory(self._source_fd, self._copy_fd, "", found)
        finally:
            self._only_directories = False
        found.signatures.extend(others)
        self._known, self._first, self._inherits = Known(found.signatures), False, False
        return found

    def run_pass(self) -> Pass:
        """Copy what differs, remove what is gone; the result's `copied` counts both."""
        found = Pass()
        self._links = {}
        self.prepare_root()
        self._directory(self._source_fd, self._copy_fd, "", found)
        self._known, self._first = Known(found.signatures), False
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
                    try:
                        deeper_fd = self._open(name, source_fd, f"{path}{name}", fs.DIRECTORY)
                    except FileNotFoundError:
                        found.copied += 1  # moved or removed meanwhile; the next pass sees where to
                        continue
                    if os.fstat(deeper_fd).st_dev != self._device:
                        os.close(deeper_fd)
                        raise self._refuse(Reason.MOUNT_POINT, f"{path}{name}", "another filesystem is mounted there")
                    deeper_copy_fd = os.open(name, fs.DIRECTORY, dir_fd=copy_fd)
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

    def _entries(self, source_fd: int, copy_fd: int, path: str, found: Pass) -> list[str]:
        """Copy what is not a directory, make the sub directories, and return their names."""
        below: list[str] = []
        present: set[str] = set()
        with os.scandir(source_fd) as entries:
            for entry in entries:
                name = entry.name
                if not self._first:
                    present.add(name)
                if entry.is_dir(follow_symlinks=False):
                    below.append(name)
                    self._make_directory(copy_fd, name, found)
                elif self._is_ours(entry):
                    try:
                        if self._first and entry.is_file(follow_symlinks=False):
                            self._fresh_file(source_fd, copy_fd, path, name, found)
                        else:
                            self._entry(source_fd, copy_fd, path, name, found)
                    except (FileNotFoundError, FileExistsError):  # gone, or listed twice since it was made anew
                        found.copied += 1
        if not self._first:
            with os.scandir(copy_fd) as entries:
                gone = [entry.name for entry in entries if entry.name not in present]
            for name in gone:
                fs.remove_tree(copy_fd, name, lambda _: self._tick(0, 0))
                found.copied += 1
        return below

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
                    os.chmod(name, 0o700, dir_fd=copy_fd)
                return
            os.unlink(name, dir_fd=copy_fd)
            os.mkdir(name, 0o700, dir_fd=copy_fd)
        found.copied += 0 if self._first else 1

    def _finish_directory(self, source_fd: int, copy_fd: int, path: str, found: Pass) -> None:
        """Give the copy of a directory its metadata, after everything below it is done."""
        if self._parts > 1:  # the others may still be at work in it
            return
        info = os.fstat(source_fd)
        if fs.is_fixed(source_fd):
            raise self._refuse(Reason.IMMUTABLE, path, "it is immutable or append-only (chattr)")
        same, there = self._see(info, found, is_root=path == ""), os.fstat(copy_fd)
        if not same or not self._alike(info, there):
            self._metadata(source_fd, copy_fd, info, path)
            there = os.fstat(copy_fd)
            if same and not self._alike(info, there):
                raise self._refuse(Reason.UNFAITHFUL, path, "its mode, owner or times cannot be kept there")
        found.target_mark_ns = max(found.target_mark_ns, there.st_ctime_ns)
        self._tick(0, 1)

    def _see(self, info: os.stat_result, found: Pass, *, is_root: bool = False) -> bool:
        """Count an entry and return whether it is exactly what an earlier pass copied."""
        seen = 0
        if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
            copied, where, seen = self._links.get(info.st_ino, (0, "", 0))
            self._links[info.st_ino] = (copied, where, seen + 1)
        signature = found.see(info, seen, is_root=is_root)
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
        where = f"{path}{name}"
        same = self._see(info, found)
        there = None if self._first else fs.exists(copy_fd, name)
        if same and there is not None and self._alike(info, there):
            found.target_mark_ns = max(found.target_mark_ns, there.st_ctime_ns)
            if info.st_nlink > 1:
                same = self._note_link(info, there, where)
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
            if info.st_nlink > 1:
                self._note_link(info, os.stat(name, dir_fd=copy_fd, follow_symlinks=False), where)
        self._tick(0, 1)

    def _fresh_file(self, source_fd: int, copy_fd: int, path: str, name: str, found: Pass) -> None:
        """Copy a regular file in a first pass: nothing is there yet, and what is opened is what is looked at."""
        where = f"{path}{name}"
        fd = self._open(name, source_fd, where, _READ | self._no_atime)
        try:
            info = self._regular(fd, where)
            self._see(info, found)
            if info.st_nlink <= 1:  # 0: unlinked since it was opened
                self._copy_open_file(fd, info, copy_fd, name, where)
            elif not self._link(info, copy_fd, name):
                self._copy_open_file(fd, info, copy_fd, name, where)
                self._note_link(info, os.stat(name, dir_fd=copy_fd, follow_symlinks=False), where)
        finally:
            os.close(fd)
        self._tick(0, 1)

    def _regular(self, fd: int, where: str) -> os.stat_result:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise FileNotFoundError(errno.ENOENT, "replaced while copied", where)
        return info

    @staticmethod
    def _alike(info: os.stat_result, there: os.stat_result) -> bool:
        # A directory's size is its filesystem's own affair.
        return (info.st_mode, info.st_mtime_ns, info.st_uid, info.st_gid) == (
            there.st_mode, there.st_mtime_ns, there.st_uid, there.st_gid,
        ) and (info.st_size == there.st_size or stat.S_ISDIR(info.st_mode))  # fmt: skip

    def _note_link(self, info: os.stat_result, there: os.stat_result, where: str) -> bool:
        """Remember the first copy of an inode; return whether `there` is that one inode."""
        copied, _, seen = self._links[info.st_ino]
        if copied == 0:
            self._links[info.st_ino] = (there.st_ino, where, seen)
            return True
        return there.st_ino == copied

    def _link(self, info: os.stat_result, copy_fd: int, name: str) -> bool:
        """Link `name` to the inode's first copy if there is one already."""
        copied, first, _ = self._links[info.st_ino]
        if copied == 0:
            return False
        folder, _, base = first.rpartition("/")
        folder_fd = fs.open_below(self._copy_fd, folder)
        try:
            os.link(base, name, src_dir_fd=folder_fd, dst_dir_fd=copy_fd, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP):
                raise self._refuse(Reason.UNFAITHFUL, first, "its hard links cannot be kept there") from error
            raise
        finally:
            os.close(folder_fd)
        return True

    def copy_or_link(self, source_fd: int, copy_fd: int, name: str, info: os.stat_result, where: str, to: str) -> None:
        """Copy one entry to the free name `to`, or link it where an earlier call copied its inode; `where` is its path later."""
        if info.st_nlink > 1:
            self._links.setdefault(info.st_ino, (0, "", 1))
            with contextlib.suppress(FileNotFoundError):  # the first copy is gone again: somebody lives in this tree
                if self._link(info, copy_fd, to):
                    return
        self.copy_entry(source_fd, copy_fd, name, info, where, to)
        if info.st_nlink > 1:
            self._links[info.st_ino] = (os.stat(to, dir_fd=copy_fd, follow_symlinks=False).st_ino, where, 1)

    def copy_entry(self, source_fd: int, copy_fd: int, name: str, info: os.stat_result, where: str, to: str | None = None) -> None:
        """Copy one entry that is no directory to a name (`to`, else its own) that must be free."""
        kind, to = stat.S_IFMT(info.st_mode), to or name
        if kind == stat.S_IFREG:
            self._copy_file(source_fd, copy_fd, name, info, where, to)
            return
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source_fd), to, dir_fd=copy_fd)
        elif kind in (stat.S_IFIFO, stat.S_IFSOCK):
            os.mknod(to, info.st_mode, dir_fd=copy_fd)
        else:
            raise self._refuse(Reason.DEVICE_NODE, where, "it is a device node")
        # Neither can be opened without a side effect, and for attributes no system call takes a directory and a name.
        self._metadata(f"/proc/self/fd/{source_fd}/{name}", f"/proc/self/fd/{copy_fd}/{to}", info, where)

    def _copy_file(self, source_fd: int, copy_fd: int, name: str, info: os.stat_result, where: str, to: str) -> None:
        fd = self._open(name, source_fd, where, _READ | self._no_atime)
        try:
            opened = self._regular(fd, where)
            if opened.st_ino != info.st_ino:
                raise FileNotFoundError(errno.ENOENT, "replaced while copied", where)
            self._copy_open_file(fd, opened, copy_fd, to, where)
        finally:
            os.close(fd)

    def _copy_open_file(self, fd: int, info: os.stat_result, copy_fd: int, to: str, where: str) -> None:
        if fs.is_fixed(fd):
            raise self._refuse(Reason.IMMUTABLE, where, "it is immutable or append-only (chattr)")
        copy = os.open(to, _WRITE, 0o600, dir_fd=copy_fd)
        try:
            fs.copy_data(fd, copy, info, self._tick_bytes)
            self._metadata(fd, copy, info, where)
        finally:
            os.close(copy)

    def _tick_bytes(self, size: int) -> None:
        self._tick(size, 0)

    def copy_folder_metadata(self, source_fd: int, copy_fd: int, where: str) -> None:
        """Give one open directory the owner, attributes, mode and times of another."""
        self._metadata(source_fd, copy_fd, os.fstat(source_fd), where)

    def _metadata(self, source: int | str, copy: int | str, info: os.stat_result, where: str) -> None:
        try:
            give(source, copy, info, strip=self._inherits)
        except Unkept as unkept:
            raise self._refuse(unkept.reason, where, unkept.why) from unkept

    def _open(self, name: str, dir_fd: int, where: str, flags: int) -> int:
        try:
            return os.open(name, flags, dir_fd=dir_fd)
        except PermissionError as error:
            if error.errno == errno.EPERM and flags & os.O_NOATIME:  # only an owner may ask for O_NOATIME
                return self._open(name, dir_fd, where, flags & ~os.O_NOATIME)
            raise self._refuse(Reason.UNREADABLE, f"{where}", "it cannot be read") from error
        except OSError as error:
            # ELOOP, ENOTDIR: it became a link or a file since it was listed; ENXIO: a socket has taken its place.
            if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
                raise FileNotFoundError(errno.ENOENT, "replaced while copied", where) from error
            raise

    def _refuse(self, reason: Reason, where: str, why: str) -> Refused:
        return Refused(reason, f"Cannot move '{self._source}': '{where.rstrip('/') or '.'}' in it: {why}. Nothing was changed.")
