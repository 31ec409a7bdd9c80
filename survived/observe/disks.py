"""
Filesystems: how full they are, where they are mounted, and which of them could be a data disk.

A mount that does not answer, such as a dead NFS server's, blocks `statvfs` for ever and the daemon with it.
Ask `answers` first where a mount is not known to be local.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import re
import stat
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from survived.findings import DataDisk
from survived.model import Filesystem
from survived.observe.drives import device_of, is_removable, rank, read_speed

if TYPE_CHECKING:
    from collections.abc import Iterable

_OCTAL = re.compile(rb"\\([0-7]{3})")
_LOCAL_TYPES = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs", "jfs", "reiserfs"})
"""Filesystems of local disks that know owners, links and holes: not squashfs, iso9660, vfat, tmpfs, overlay, nfs."""
_SYSTEM_PLACES = ("/boot", "/efi", "/etc", "/media", "/nix", "/proc", "/run", "/snap", "/sys", "/dev", "/usr", "/var")
"""A filesystem at or below one of these has another purpose, or is there for a while. /tmp itself is emptied by others."""
_ANSWER_SECONDS = 2.0
_NO_DEVICE = -1

_asking: dict[str, threading.Thread] = {}


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of /proc/self/mountinfo, its escapes undone; `device_number` is the superblock's, see `read_mounts`."""

    id: int
    device_number: int
    root: str
    point: str
    fstype: str
    device: str
    read_only: bool
    upper: str = ""  # of an overlay: the folder that takes what is written


def read_mounts(path: str = "/proc/self/mountinfo") -> tuple[Mount, ...]:
    """
    Return what is mounted, in the kernel's order: of two entries with one mount point the later hides the earlier.

    mountinfo and not `psutil.disk_partitions`: that one reads /proc/self/mounts, which has neither the mount id nor the
    device number nor the root of a bind mount. On btrfs `st_dev` is the subvolume's and differs from `device_number`.
    """
    with open(path, "rb") as file:
        return parse_mounts(file.read())


@functools.lru_cache(4)  # one round of looking asks a hundred times, and the text is nearly always the same
def parse_mounts(text: bytes) -> tuple[Mount, ...]:
    """Return the mounts of a mountinfo file's text."""
    return tuple(mount for line in text.splitlines() if (mount := _parse_mount(line)) is not None)


def read_filesystem(path: str) -> Filesystem:
    """Return how full the filesystem that holds `path` is; OSError if it cannot be read. Blocks on a dead mount."""
    mount = find_mount(path, read_mounts())
    device_id = os.stat(path).st_dev
    reading = os.statvfs(path)
    unit = reading.f_frsize or reading.f_bsize
    return Filesystem(
        mount=mount.point,
        device=mount.device,
        device_id=device_id,
        fstype=mount.fstype,
        capacity_bytes=reading.f_blocks * unit,
        used_bytes=(reading.f_blocks - reading.f_bfree) * unit,
        available_bytes=reading.f_bavail * unit,
        inodes_used=max(0, reading.f_files - reading.f_ffree),  # 0 of 0 on btrfs
        inodes_available=reading.f_favail,
        read_only=bool(reading.f_flag & os.ST_RDONLY),
        reserved_bytes=(reading.f_bfree - reading.f_bavail) * unit,
    )


def answers(path: str, timeout_seconds: float = _ANSWER_SECONDS) -> bool:
    """
    Return whether the mount that holds `path` replies in time; an error is a reply.

    The question is put by a daemon thread, for a system call that hangs in the kernel cannot be taken back. A thread
    that hangs is leaked until the server comes back: one for each path, since the next question about it waits for the
    same thread.
    """
    thread = _asking.get(path)
    if thread is None or not thread.is_alive():
        thread = threading.Thread(target=_ask, args=(path,), name="survived-answers", daemon=True)
        _asking[path] = thread
        thread.start()
    thread.join(timeout_seconds)
    if thread.is_alive():
        return False
    _asking.pop(path, None)
    return True


def watched_paths(home: str) -> tuple[str, ...]:
    """Return the mount points that hold `/` and `home` (or its nearest parent that exists), each device once."""
    mounts = read_mounts()
    found: list[str] = []
    seen: set[int | str] = set()
    for path in ("/", _existing(home)):
        mount = find_mount(path, mounts)
        names: set[int | str] = {os.stat(path).st_dev}
        if mount.device.startswith("/dev/"):
            names.add(os.path.realpath(mount.device))  # two btrfs subvolumes are one device with two st_dev
        if not names & seen:
            found.append(mount.point)
        seen |= names
    return tuple(found)


def find_data_disks(home: str, uid: int, avoid: Iterable[int]) -> tuple[str, ...]:
    """
    Return directories where `uid` may have a store, one for each disk, in the order of `rank`.

    `avoid` are `st_dev` of filesystems that are watched; those of `/` and `home` are always avoided, under whatever
    name their device is mounted again (bind mounts, subvolumes, a pool's other datasets, what an overlay writes to). A
    directory that does not exist yet is returned when `uid` may create it. Network, removable and read-only filesystems
    are never found.
    """
    return tuple(disk.directory for disk in read_data_disks(home, uid, avoid))


def read_data_disks(home: str, uid: int, avoid: Iterable[int]) -> tuple[DataDisk, ...]:
    """Return what `find_data_disks` finds, with what it is ranked by."""
    import psutil  # a few MiB that `survivectl status` does not need

    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return ()
    table = read_mounts()
    mounts = {mount.point: mount for mount in table}
    avoided = _avoided(table, {*avoid, os.stat("/").st_dev, os.stat(_existing(home)).st_dev})
    best: dict[str, DataDisk] = {}
    for part in psutil.disk_partitions(all=False):  # without what /proc/filesystems calls nodev
        mount = mounts.get(part.mountpoint)
        if mount is None or not _may_hold_data(mount) or avoided & _device_names(mount):
            continue
        if not answers(mount.point):
            continue
        with contextlib.suppress(OSError):  # unmounted meanwhile
            if find_mount(mount.point, table) is not mount:
                continue  # hidden by a mount over one of its parents: the path leads to another filesystem
            choice = _choose_directory(mount.point, user)
            if choice is not None:
                standing, directory = choice
                reading = os.statvfs(mount.point)
                speed = read_speed(device_of(mount.device, mount.device_number), mount.fstype)
                found = DataDisk(directory, mount.point, mount.fstype, reading.f_bavail * reading.f_frsize, speed, standing)
                key = min(str(name) for name in _device_names(mount) if isinstance(name, str))
                best[key] = min(best.get(key, found), found, key=lambda disk: (disk.standing, len(disk.mount)))
    return tuple(sorted(best.values(), key=rank))


def _parse_mount(line: bytes) -> Mount | None:
    """Return one mountinfo line as a Mount; None for a line in a form the kernel does not document."""
    fields = line.split(b" ")
    try:
        dash = fields.index(b"-", 6)
        major, minor = fields[2].split(b":")
        fstype, device = fields[dash + 1], fields[dash + 2]
        inner = fields[dash + 3].split(b",") if len(fields) > dash + 3 else []
        options = fields[5].split(b",") + inner
        upper = next((option for option in inner if option.startswith(b"upperdir=")), b"") if fstype == b"overlay" else b""
        return Mount(
            id=int(fields[0]),
            device_number=os.makedev(int(major), int(minor)),
            root=_unescape(fields[3]),
            point=_unescape(fields[4]),
            fstype=os.fsdecode(fstype),
            device=_unescape(device),
            read_only=b"ro" in options,
            upper=_unescape(upper.partition(b"=")[2]),
        )
    except (ValueError, IndexError):
        return None


def _unescape(field: bytes) -> str:
    """Undo the kernel's octal escapes of space, tab, newline, backslash and hash."""
    return os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match.group(1), 8) & 0xFF]), field))


def find_mount(path: str, mounts: tuple[Mount, ...]) -> Mount:
    """
    Return the mount that holds `path`.

    The kernel names it in /proc/self/fdinfo, exact also under bind mounts, overlays, subvolumes and mounts hidden by
    later ones. Where that is not in the list (a chroot, another namespace) the longest mount point wins, then the last.
    """
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        real = os.readlink(f"/proc/self/fd/{descriptor}")
        device_id = os.fstat(descriptor).st_dev
        mount_id = None
        with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
            for line in file:
                if line.startswith("mnt_id:"):
                    mount_id = int(line.split()[1])
    finally:
        os.close(descriptor)
    for mount in mounts:
        if mount.id == mount_id:
            return mount
    return _longest_mount(real, device_id, mounts)


def _longest_mount(real: str, device_id: int, mounts: tuple[Mount, ...]) -> Mount:
    """Return the last of the longest mount points above `real`, of this device if one is; OSError if there is none."""
    above = [mount for mount in mounts if is_below(real, mount.point)]
    above = [mount for mount in above if mount.device_number == device_id] or above
    if not above:
        raise FileNotFoundError(f"Cannot find the mount that holds '{real}': it is not in /proc/self/mountinfo.")
    longest = max(len(mount.point) for mount in above)
    return [mount for mount in above if len(mount.point) == longest][-1]


def is_below(path: str, parent: str) -> bool:
    """Return whether `path` is `parent` or below it, by their text."""
    return path == parent or path.startswith(parent.rstrip("/") + "/")


def resolve_parents(path: str) -> str:
    """Return `path` absolute and with its parents resolved; the last component stays, be it a link or missing."""
    path = os.path.abspath(path)
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _ask(path: str) -> None:
    """Touch the filesystem; whether that succeeds does not matter here."""
    with contextlib.suppress(OSError, ValueError):
        os.statvfs(path)


def _existing(path: str) -> str:
    """Return `path` or its nearest parent that exists."""
    while path != "/" and not os.path.exists(path):
        path = os.path.dirname(os.path.abspath(path))
    return path


def _device_names(mount: Mount) -> set[int | str]:
    """Return what identifies the room behind a mount: device numbers and the device's real name or the zfs pool."""
    names: set[int | str] = {mount.device_number}
    if mount.fstype == "zfs":
        names.add("zfs:" + mount.device.split("/")[0])
    elif mount.device.startswith("/dev/"):
        names.add(os.path.realpath(mount.device))
    else:
        names.add(f"{mount.fstype}:{mount.device}:{mount.device_number}")  # two tmpfs are both called "tmpfs"
    if mount.fstype in _LOCAL_TYPES:
        with contextlib.suppress(OSError):
            names.add(os.stat(mount.point).st_dev)
    return names


def _avoided(mounts: Iterable[Mount], devices: set[int]) -> set[int | str]:
    """Return the names of all rooms that one of `devices` belongs to; an overlay's is that of the folder it writes to."""
    avoided: set[int | str] = set(devices)
    table = tuple(mounts)
    for mount in table:
        names = _device_names(mount)
        if names & devices:
            avoided |= names
            with contextlib.suppress(OSError):
                if mount.upper:
                    avoided |= _device_names(_longest_mount(mount.upper, _NO_DEVICE, table))
    return avoided


def rooms_of(devices: Iterable[int]) -> frozenset[int]:
    """Return `devices` (st_dev) with all other numbers of the same filesystems: subvolumes, and what /proc/PID/maps prints."""
    table = read_mounts()
    rooms = _avoided(table, set(devices))
    others = [names for mount in table if rooms & (names := _device_names(mount))]
    return frozenset(name for name in rooms.union(*others) if isinstance(name, int))


def _may_hold_data(mount: Mount) -> bool:
    """Return whether a mount is a writable local disk that is not part of the system."""
    if mount.fstype not in _LOCAL_TYPES or mount.read_only or mount.point in ("/", "/tmp"):  # noqa: S108
        return False
    if any(is_below(mount.point, place) for place in _SYSTEM_PLACES) or mount.point.startswith("/boot"):
        return False
    return os.path.isdir(mount.point) and not is_removable(device_of(mount.device, mount.device_number))


def _choose_directory(point: str, user: pwd.struct_passwd) -> tuple[int, str] | None:
    """Return the best directory on one filesystem with its rank: 0 has a store, 1 is the user's, 2 may be created."""
    device = os.stat(point).st_dev
    parents = [point, os.path.join(point, "users"), os.path.join(point, "home")]
    ours = [os.path.join(parent, user.pw_name) for parent in parents] + [point]
    ours = [path for path in ours if _is_ours(path, device, user.pw_uid)]
    for path in ours:
        if os.path.isfile(os.path.join(path, "survived", "STORE")):
            return 0, path
    if ours:
        return 1, ours[0]
    for parent in parents:
        path = os.path.join(parent, user.pw_name)
        if not os.path.lexists(path) and _may_create_in(parent, device, user):
            return 2, path
    return None


def _is_ours(path: str, device: int, uid: int) -> bool:
    """Return whether `path` is a real directory of `uid` on `device` in which it may create."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    if not stat.S_ISDIR(found.st_mode) or found.st_dev != device:
        return False
    return found.st_uid == uid and found.st_mode & 0o300 == 0o300


def _may_create_in(parent: str, device: int, user: pwd.struct_passwd) -> bool:
    """Return whether the user may create an entry in `parent`, a real directory on `device`."""
    try:
        found = os.lstat(parent)
    except OSError:
        return False
    if not stat.S_ISDIR(found.st_mode) or found.st_dev != device:
        return False
    if user.pw_uid == os.geteuid():
        return os.access(parent, os.W_OK | os.X_OK, effective_ids=True)  # knows ACLs
    if found.st_mode & 0o003 == 0o003:
        return True
    return found.st_mode & 0o030 == 0o030 and found.st_gid in os.getgrouplist(user.pw_name, user.pw_gid)
