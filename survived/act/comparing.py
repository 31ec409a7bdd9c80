"""
Compares a copy with its source, byte for byte, and reads files back as their device gives them: for whoever wants to know.

The same reading yields the checksums that are kept of a copy. Walks are in the order of `store.sums`.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from survived.act import fs

if TYPE_CHECKING:
    import hashlib
    from collections.abc import Callable

    from survived.store.sums import SumsFile

READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
"""What opening an entry says that vanished or became something else since it was listed."""
MOST_HOLES = 64 << 30
"""Of a file with more holes no sum is kept: their zeros have to be summed up, too, at some 0.8 GB/s."""
_CHUNK = 1 << 20
_ZEROS = bytes(_CHUNK)


class Links:
    """The digests of inodes with several names, until each name was met: one reading is enough for all of them."""

    def __init__(self) -> None:
        # By device, too: layers of an overlay have inode numbers of their own.
        self._known: dict[tuple[int, int], tuple[str | None, int, int]] = {}

    def find(self, info: os.stat_result, twin: int = 0) -> tuple[str | None] | None:
        """Return the digest of an inode that was read already, in a tuple, or None if it was not, or with another `twin`."""
        inode = info.st_dev, info.st_ino
        known = self._known.get(inode) if info.st_nlink > 1 else None
        if known is None or known[1] != twin:
            return None
        digest, _, names = known
        if names <= 1:
            del self._known[inode]
        else:
            self._known[inode] = digest, twin, names - 1
        return (digest,)

    def note(self, info: os.stat_result, digest: str | None, twin: int = 0) -> None:
        """Remember what an inode's first name gave; `twin` is the inode that it was compared with."""
        if info.st_nlink > 1:
            self._known[info.st_dev, info.st_ino] = digest, twin, info.st_nlink - 1


def _number(info: os.stat_result) -> int:
    return info.st_dev << 64 | info.st_ino


def listed(fd: int) -> tuple[list[os.DirEntry[str]], list[str]]:
    """Return the entries of an open directory that are none themselves, and the names of those that are, both in order."""
    others, folders = [], []
    with os.scandir(fd) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            else:
                others.append(entry)
    others.sort(key=lambda entry: os.fsencode(entry.name))
    folders.sort(key=os.fsencode)
    return others, folders


def same_content(source_fd: int, copy_fd: int, tick: Callable[[int, int], None], sums: SumsFile | None = None) -> str | None:
    """
    Compare every regular file byte for byte, the copy as its device gives it back; return the first path that differs.

    The copy's pages are dropped first (POSIX_FADV_DONTNEED after a sync), so that what is read is what was written.
    What vanished or was replaced since it was copied differs, too. `sums` gets the digest of every file, and is durable
    when all are alike.
    """
    comparison = _Comparison(tick, sums)
    if sums is not None:
        sums.begin()
    differs = comparison.run(source_fd, copy_fd)
    if sums is not None and differs is None:
        sums.end()
    return differs


class _Comparison:
    """One comparison of two trees."""

    def __init__(self, tick: Callable[[int, int], None], sums: SumsFile | None) -> None:
        self._tick, self._sums = tick, sums
        self._links = Links()

    def run(self, source_fd: int, copy_fd: int) -> str | None:
        # A frame: both descriptors, the path, sub directories still to do, the next one last.
        stack: list[tuple[int, int, str, list[str]]] = [(os.dup(source_fd), os.dup(copy_fd), "", [])]
        where = ""
        try:
            if (differs := self._folder(*stack[0])) is not None:
                return differs
            while stack:
                one_fd, other_fd, path, below = stack[-1]
                if not below:
                    stack.pop()
                    os.close(one_fd)
                    os.close(other_fd)
                    continue
                name = below.pop()
                where = f"{path}{name}"
                deeper_fd = os.open(name, fs.DIRECTORY, dir_fd=one_fd)
                try:
                    other_fd = os.open(name, fs.DIRECTORY, dir_fd=other_fd)
                except BaseException:
                    os.close(deeper_fd)
                    raise
                stack.append((deeper_fd, other_fd, f"{where}/", []))
                if (differs := self._folder(*stack[-1])) is not None:
                    return differs
            return None
        except OSError as error:
            if error.errno in GONE:
                return where
            raise
        finally:
            for one_fd, other_fd, *_ in stack:
                os.close(one_fd)
                os.close(other_fd)

    def _folder(self, one_fd: int, other_fd: int, path: str, below: list[str]) -> str | None:
        """Compare the files of one folder and add its sub directories to `below`."""
        others, folders = listed(one_fd)
        below.extend(reversed(folders))
        for entry in others:
            if entry.is_file(follow_symlinks=False):
                try:
                    same = self._file(one_fd, other_fd, entry.name, f"{path}{entry.name}")
                except OSError as error:
                    if error.errno not in GONE:
                        raise
                    same = False
                if not same:
                    return f"{path}{entry.name}"
                self._tick(0, 1)
        return None

    def _file(self, one_dir: int, other_dir: int, name: str, where: str) -> bool:
        one = os.open(name, READ, dir_fd=one_dir)
        try:
            other = os.open(name, READ, dir_fd=other_dir)
            try:
                ours, theirs = os.fstat(one), os.fstat(other)
                if ours.st_size != theirs.st_size:
                    return False
                if (known := self._links.find(theirs, _number(ours))) is None:
                    same, digest = self._read_both(one, other, theirs)
                    if not same:
                        return False
                    self._links.note(theirs, digest, _number(ours))
                else:
                    (digest,) = known
                if digest is not None and self._sums is not None:
                    self._sums.add(where, digest)
                return True
            finally:
                os.close(other)
        finally:
            os.close(one)

    def _read_both(self, one: int, other: int, found: os.stat_result) -> tuple[bool, str | None]:
        os.posix_fadvise(other, 0, 0, os.POSIX_FADV_DONTNEED)
        digest = _new_digest() if self._sums is not None and not is_too_hollow(found) else None
        at, size = 0, found.st_size
        while at < size:
            begin = min(next_data(one, at, size), next_data(other, at, size))
            if digest is not None:
                _add_zeros(digest, begin - at, self._tick)
            data = os.pread(other, _CHUNK, begin) if begin < size else b""
            if begin < size and (not data or data != os.pread(one, len(data), begin)):
                return False, None
            if digest is not None:
                digest.update(data)
            self._tick(len(data), 0)
            at = begin + len(data)
        return True, digest.hexdigest() if digest is not None else None


def is_too_hollow(found: os.stat_result) -> bool:
    """Tell whether a file has so many holes that no sum is kept of it."""
    return found.st_size - found.st_blocks * 512 > MOST_HOLES


def read_back(fd: int, tick: Callable[[int, int], None], *, summed: bool) -> str | None:
    """
    Read an open file as its device gives it back; return its digest (BLAKE2b-512, hexadecimal) if it is to be `summed`.

    Raises the OSError of what cannot be read. Holes are not read, but count as zeros.
    """
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    digest = _new_digest() if summed else None
    at, size = 0, os.fstat(fd).st_size
    while at < size:
        begin = next_data(fd, at, size)
        if digest is not None:
            _add_zeros(digest, begin - at, tick)
        data = os.pread(fd, _CHUNK, begin) if begin < size else b""
        if not data and begin < size:  # cut meanwhile
            break
        if digest is not None:
            digest.update(data)
        tick(len(data), 0)
        at = begin + len(data)
    return digest.hexdigest() if digest is not None else None


def _new_digest() -> hashlib.blake2b:
    import hashlib  # brings OpenSSL along, 5 ms for every child that copies

    return hashlib.blake2b()


def _add_zeros(digest: hashlib.blake2b, count: int, tick: Callable[[int, int], None]) -> None:
    while count > 0:
        digest.update(_ZEROS if count >= _CHUNK else _ZEROS[:count])
        count -= _CHUNK
        tick(0, 0)


def next_data(fd: int, at: int, size: int) -> int:
    """Return where data begins at or after `at`, or `size`: a hole need not be read to be known as zeros."""
    try:
        return min(size, os.lseek(fd, at, os.SEEK_DATA))
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        return at  # EINVAL: no holes on this filesystem
