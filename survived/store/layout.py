"""
The store: `<disk>/survived/` with its marker, trees and staging. Refuses what may be an unmounted or foreign disk.

A store is only ever entered through `open_store`, which opens each component without following links that others
could have planted, checks owner and marker on the open directory, and hands out that descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import stat
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from survived.errors import Refused, SurvivedError, cause_of
from survived.model import Filesystem, Reason, StoreReading
from survived.units import sentence

if TYPE_CHECKING:
    from collections.abc import Collection

FORMAT = 1
NAME = "survived"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ID = re.compile("[0-9a-f]{32}")  # a part of it becomes a file name
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "lustre", "gpfs", "beegfs", "fuse.sshfs", "afs"})
_UNFAITHFUL = frozenset(
    {"vfat", "exfat", "msdos", "ntfs", "ntfs3", "hfs", "hfsplus", "udf", "iso9660"}
    | {"fuseblk", "fuse.exfat", "fuse.ntfs", "fuse.vfat"}  # fuseblk: what exfat-fuse and ntfs-3g are mounted as
)


@dataclass(frozen=True, slots=True)
class Store:
    """An opened store. `fd` stays open as long as the store is used; all work below goes through it."""

    path: str
    id: str
    fd: int
    device_id: int
    lock_fd: int | None = None

    def target_for(self, source: str, trees: Collection[str] = ()) -> str:
        """Return a free path below `trees/` that mirrors `source`, so that ls explains it, and lies in none of `trees`."""
        place, parts = os.path.join(self.path, "trees"), source.strip("/").split("/")
        for number, name in enumerate(parts, 1):
            wanted = place = os.path.join(place, name)
            again = 2
            while os.path.lexists(place) if number == len(parts) else place in trees:
                place, again = f"{wanted}~{again}", again + 1
        return place

    def relative(self, path: str) -> str:
        """Return a path below the store relative to it; ValueError if it is not below."""
        if not path.startswith(self.path + "/"):
            raise ValueError(f"'{path}' is not in the store '{self.path}'")
        return path[len(self.path) + 1 :]

    def staging(self, operation_id: int) -> str:
        """Return the relative folder in which an operation prepares what does not count yet."""
        return f"staging/{operation_id}"

    def aside(self, operation_id: int) -> str:
        """Return the name, beside a source, that is the prepared link before the exchange and the retired tree after."""
        return f".survived-{self.id[:8]}-{operation_id}"

    def is_used(self) -> bool:
        """Tell whether anything lies in this store already."""
        return _is_used(self.path)

    def close(self) -> None:
        """Close the descriptors; a lock that was taken ends with them."""
        os.close(self.fd)
        if self.lock_fd is not None:
            os.close(self.lock_fd)


def machine_id() -> str:
    """Return /etc/machine-id, or the boot-independent host name where there is none."""
    try:
        with open("/etc/machine-id") as file:
            return file.read().strip()
    except OSError:
        return os.uname().nodename


def read_store(
    disk: str, filesystem: Filesystem | None, *, uid: int, avoid: Collection[int], known_id: str | None = None, named: bool = True
) -> StoreReading:
    """
    Say whether `disk` can carry our store, changing nothing; `reason` is one sentence where it cannot.

    `filesystem` is the reading of what holds `disk` (None: it cannot be read). `avoid` are the devices that we keep
    free. `known_id` is the store seen here before: then the absence of its marker means that another disk, or none, is
    mounted. `named` tells that the user wrote the disk down, which a network filesystem needs.
    """
    path = os.path.join(disk, NAME)

    def bad(reason: str) -> StoreReading:
        reason = reason.removesuffix(".")
        if filesystem is None:
            return StoreReading(path, disk, ok=False, reason=reason)
        return StoreReading(
            path, filesystem.mount, filesystem.device_id, filesystem.capacity_bytes, filesystem.used_bytes,
            filesystem.available_bytes, ok=False, reason=reason,
        )  # fmt: skip

    above = disk if os.path.isdir(disk) else os.path.dirname(disk)
    if filesystem is None or not os.path.isdir(above):
        return bad(f"'{disk}' is not there: is the disk mounted?")
    if filesystem.device_id in avoid or os.stat(above).st_dev in avoid:
        why = "is the disk mounted?" if known_id else "a data disk must be another filesystem than those we keep free."
        return bad(f"'{disk}' is on the same filesystem as '{filesystem.mount}': {why}")
    if filesystem.read_only:
        return bad(f"'{filesystem.mount}' is mounted read-only.")
    if filesystem.fstype in _UNFAITHFUL:
        return bad(f"'{filesystem.mount}' is {filesystem.fstype}, which keeps no owners, modes and links.")
    if filesystem.fstype in _NETWORK and not named:
        return bad(f"'{filesystem.mount}' is a network filesystem ({filesystem.fstype}); name it under [data] disks to use it.")
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        if known_id is not None:
            return bad(f"the store at '{path}' is gone: is another disk mounted there?")
        if not os.access(above, os.W_OK | os.X_OK):
            return bad(f"'{above}' is not writable for us.")
        return _good(path, filesystem)
    except OSError as error:
        return bad(f"'{path}' cannot be read: {error.strerror}.")
    if not stat.S_ISDIR(found.st_mode):
        return bad(f"'{path}' is not a directory.")
    if found.st_uid != uid:
        return bad(f"'{path}' belongs to another user (uid {found.st_uid}).")
    if found.st_mode & 0o022:
        return bad(f"'{path}' is writable for others (mode {stat.S_IMODE(found.st_mode):04o}).")
    marker, reason = _read_marker(path)
    if reason:
        return bad(reason)
    if marker is None:
        if known_id is not None or _is_used(path):
            return bad(f"'{path}' has no marker file STORE: is another disk mounted there?")
        return _good(path, filesystem)
    if known_id is not None and marker.get("id") != known_id:
        return bad(f"'{path}' is another store than the one used here before.")
    if marker.get("uid") != uid or marker.get("machine") != machine_id():
        return bad(f"'{path}' was made for another user or machine.")
    return _good(path, filesystem)


def _good(path: str, filesystem: Filesystem) -> StoreReading:
    return StoreReading(
        path, filesystem.mount, filesystem.device_id, filesystem.capacity_bytes, filesystem.used_bytes, filesystem.available_bytes
    )


def _is_used(path: str) -> bool:
    """A store without a marker is only taken for a half-made one if nothing of value lies in it."""
    if os.path.lexists(os.path.join(path, "state.db")):
        return True
    try:
        return bool(os.listdir(os.path.join(path, "trees")))
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _read_marker(path: str) -> tuple[dict[str, Any] | None, str | None]:
    try:
        with open(os.path.join(path, "STORE"), encoding="utf-8") as file:
            marker = json.load(file)
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError) as error:
        return None, f"the marker '{path}/STORE' cannot be read: {error}."
    if not isinstance(marker, dict) or marker.get("format") != FORMAT or not _ID.fullmatch(str(marker.get("id"))):
        return None, f"the marker '{path}/STORE' has a format that this survived does not know."
    return marker, None


def open_store(reading: StoreReading, *, uid: int, lock: bool = True) -> Store:
    """
    Open a store that `read_store` found good, making it if it is not there yet, and take its lock.

    Raises `Refused` if somebody changed it since it was read, `SurvivedError` if another survived holds the lock.
    """
    if not reading.ok:
        raise Refused(
            Reason.NO_STORE,
            f"Cannot use '{reading.path}': {sentence(reading.reason or '')} Nothing was written.",
            "Run survivectl check.",
        )
    disk = os.path.dirname(reading.path)
    with contextlib.suppress(FileExistsError):
        os.mkdir(disk, 0o700)
    disk_fd = os.open(disk, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        owner = os.fstat(disk_fd).st_uid
        if owner not in (0, uid, os.stat("/").st_uid):  # whoever owns it could swap the store for another at any time
            why = f"'{disk}' belongs to another user (uid {owner})"
            raise Refused(Reason.NO_STORE, f"Cannot use '{reading.path}': {why}. Nothing was written.", "Run survivectl check.")
        with contextlib.suppress(FileExistsError):
            os.mkdir(NAME, 0o700, dir_fd=disk_fd)
            os.fsync(disk_fd)
        fd = os.open(NAME, _DIRECTORY, dir_fd=disk_fd)
    finally:
        os.close(disk_fd)
    try:
        found = os.fstat(fd)
        if found.st_uid != uid or (found.st_dev != reading.device_id and reading.device_id):
            raise Refused(Reason.NO_STORE, f"Cannot use '{reading.path}': it was replaced while we looked. Nothing was written.")
        lock_fd = _lock(fd, reading.path) if lock else None
        try:
            marker = _make(fd, uid)
        except OSError as error:
            if lock_fd is not None:
                os.close(lock_fd)
            if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):  # as link() says it
                why = f"its filesystem keeps no hard links ({cause_of(error)})"
                raise Refused(Reason.NO_STORE, f"Cannot use '{reading.path}': {why}. Nothing was moved.") from error
            raise
        except BaseException:
            if lock_fd is not None:
                os.close(lock_fd)
            raise
    except BaseException:
        os.close(fd)
        raise
    return Store(reading.path, str(marker["id"]), fd, found.st_dev, lock_fd)


def _lock(fd: int, path: str) -> int:
    lock_fd = os.open("LOCK", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=fd)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.truncate(lock_fd, 0)
        os.pwrite(lock_fd, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as error:
        holder = os.pread(lock_fd, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock_fd)
        raise SurvivedError(
            f"Cannot use '{path}': another survived (pid {holder}) is working with it. Nothing was changed.",
            "Run survivectl status.",
        ) from error
    except OSError:
        os.close(lock_fd)
        raise
    return lock_fd


def _make(fd: int, uid: int) -> dict[str, Any]:
    for name in ("trees", "staging"):
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=fd)
    try:
        marker_fd = os.open("STORE", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    except FileNotFoundError:
        marker = {"format": FORMAT, "id": uuid.uuid4().hex, "uid": uid, "machine": machine_id()}
        _write_new(fd, "STORE", json.dumps(marker).encode() + b"\n")
        return marker
    with os.fdopen(marker_fd, "rb") as file:
        marker = dict(json.load(file))
    with contextlib.suppress(FileNotFoundError):  # a crash came between its link and the end of its first name
        os.unlink("STORE.new", dir_fd=fd)
    return marker


def _write_new(fd: int, name: str, data: bytes) -> None:
    """Make a file that is complete or absent after a power cut: written under another name, then linked."""
    fresh = f"{name}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh, dir_fd=fd)
    file_fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=fd)
    try:
        os.write(file_fd, data)
        os.fsync(file_fd)
    finally:
        os.close(file_fd)
    os.link(fresh, name, src_dir_fd=fd, dst_dir_fd=fd)
    os.unlink(fresh, dir_fd=fd)
    os.fsync(fd)
