"""
Unpacking: file by file into a fresh folder of our own on a data disk, by open directories only, and resumable.

A file gets its name only when its content was checked. Whatever stopped an unpacking, the next one reads what is there,
keeps what is complete, and goes on; so only the end of it is made durable, not every file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
from contextlib import closing
from typing import TYPE_CHECKING

from survived.act import fs
from survived.errors import Refused, SurvivedError, cause_of
from survived.offline import manifest, names, parts, space
from survived.offline.archive import CHUNK, Archive
from survived.offline.verifying import Verified, name_of, silent
from survived.terms import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from survived.offline.manifest import Entry
    from survived.offline.verifying import Tell

PAYLOAD, LOGS, LOCK = "payload", "logs", "LOCK"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DURABLE_EVERY = 256 * 1024 * 1024


def folder_name(verified: Verified) -> str:
    """Return the name of the folder that a bundle is unpacked to: its file name and a part of its fingerprint."""
    stem = os.path.basename(name_of(list(verified.files))).removesuffix(".tar.zst")
    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in stem).lstrip(".")[:80] or "bundle"
    return f"{safe}-{verified.fingerprint[:12]}"


@contextlib.contextmanager
def opened(parent_fd: int, name: str, shown: str) -> Iterator[int]:
    """
    Make the folder of a bundle if it is missing, open it and hold its lock; the value is its descriptor.

    `Refused` if it is not ours alone, `SurvivedError` if another survivectl works in it. `shown` is its path.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent_fd)
        os.fsync(parent_fd)
    try:
        fd = os.open(name, fs.DIRECTORY, dir_fd=parent_fd)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise _foreign(shown, "it is no folder") from error
        raise
    try:
        found = os.fstat(fd)
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise _foreign(shown, f"others own or may write it (uid {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o})")
        lock_fd = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=fd)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield fd
        except BlockingIOError as error:
            raise SurvivedError(
                f"Cannot use '{shown}': another survivectl works there. Nothing was changed.", "Wait for it."
            ) from error
        finally:
            os.close(lock_fd)
    finally:
        os.close(fd)


def _foreign(shown: str, why: str) -> Refused:
    return Refused(
        Reason.NOT_OURS,
        f"Cannot unpack to '{shown}': {why}. Nothing was unpacked.",
        "Name another folder: survivectl offline install --to DIR.",
    )


def measure_missing(fd: int, listed: manifest.Manifest) -> int:
    """Return the bytes still to be written below an opened folder: by size only, their content is checked on the way."""
    missing = 0
    for entry in listed.entries:
        with contextlib.suppress(OSError):
            if os.stat(f"{PAYLOAD}/{entry.path}", dir_fd=fd, follow_symlinks=False).st_size == entry.size:
                continue
        missing += entry.size
    return missing


def unpack(verified: Verified, fd: int, shown: str, tell: Tell = silent) -> int:
    """
    Write every file of a verified bundle below an opened folder; return how many were there already.

    Raises `Refused` (no_room) before the first byte, `SurvivedError` for a disk that filled up on the way, `Refused`
    (damaged) if the bundle is not the one that was verified.
    """
    bundle = name_of(list(verified.files))
    space.require(shown, measure_missing(fd, verified.manifest), "unpack to")
    kept = 0
    done_files = 0
    count = len(verified.manifest.entries)
    try:
        with closing(parts.PartReader(list(verified.files))) as reader, closing(_Folders(fd)) as folders:
            archive = Archive(reader, bundle)
            if manifest.fingerprint(archive.raw) != verified.fingerprint:
                raise names.damaged(bundle, "it was exchanged for another while we looked")
            for entry, content in archive.files():
                folder_fd, name = folders.open(f"{PAYLOAD}/{entry.path}")
                there = _is_complete(folder_fd, name, entry)
                kept += there
                _take(folder_fd, name, entry, content, there=there, tell=lambda: tell("unpack", reader.at, reader.total))
                done_files += 1
            _write_manifest(fd, archive.raw)
            fs.sync_filesystem(fd)
    except OSError as error:
        why = cause_of(error)
        hint = "Make room, then run the same command again: it goes on where it stopped."
        raise SurvivedError(
            f"Cannot unpack to '{shown}': {why}. {done_files} of {count} files are unpacked and kept, nothing was installed.", hint
        ) from error
    return kept


class _Folders:
    """The folder that files are being written to, open: the files of one stand together in a bundle."""

    def __init__(self, root_fd: int) -> None:
        self._root_fd, self._path, self._fd = root_fd, "", -1

    def open(self, path: str) -> tuple[int, str]:
        """Return the descriptor of a file's folder, made if missing, no links followed, and the file's own name."""
        folder, _, name = path.rpartition("/")
        if folder != self._path or self._fd < 0:
            self.close()
            self._fd = fs.open_below(self._root_fd, folder, make=True)
            self._path = folder
        return self._fd, name

    def close(self) -> None:
        """Close it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _is_complete(folder_fd: int, name: str, entry: Entry) -> bool:
    """Tell whether an earlier unpacking has written this file; its content is read, since a power cut may have eaten it."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder_fd)
    except OSError:
        return False
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size != entry.size:
            return False
        return hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256


def _take(folder_fd: int, name: str, entry: Entry, content: Iterator[bytes], *, there: bool, tell: Callable[[], None]) -> None:
    """Write one file, or only read past it if it is there."""
    if there:
        for _data in content:
            tell()
        return
    partial = f".{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}.partial"  # a name of 255 bytes has no room for a suffix
    with contextlib.suppress(FileNotFoundError):
        os.unlink(partial, dir_fd=folder_fd)
    file_fd = os.open(partial, _NEW, 0o700 if entry.executable else 0o600, dir_fd=folder_fd)
    try:
        written = 0
        for data in content:
            fs.write_all(file_fd, data)
            written += len(data)
            if written % _DURABLE_EVERY < CHUNK:
                fs.start_writeback(file_fd, 0, written)
            tell()
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial, dir_fd=folder_fd)
        raise
    finally:
        os.close(file_fd)
    fs.replace(folder_fd, partial, name)


def _write_manifest(fd: int, raw: bytes) -> None:
    """Keep the manifest beside the files: whoever looks later knows what they are, and the next inventory lists them."""
    fresh = f".{manifest.NAME}.partial"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh, dir_fd=fd)
    file_fd = os.open(fresh, _NEW, 0o600, dir_fd=fd)
    try:
        fs.write_all(file_fd, raw)
        os.fsync(file_fd)
    finally:
        os.close(file_fd)
    fs.replace(fd, fresh, manifest.NAME)
