"""
The drives below a filesystem, as sysfs tells of them: how fast, and whether somebody may pull them out.

A partition's answers are its disk's, and those of a volume (LVM, LUKS, RAID) its members'. Everything is read below a
folder that a test can lay out.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from survived.findings import Speed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from survived.findings import DataDisk

NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.glusterfs", "lustre", "gpfs", "beegfs", "fuse.sshfs", "afs"}
)
_DEEPEST = 8  # volumes on volumes


def read_speed(number: int, fstype: str, sysfs: str = "/sys") -> Speed:
    """Return the kind of drive below the block device `number` (st_rdev); of several members the slowest counts."""
    if fstype in NETWORK:
        return Speed.NETWORK
    found = [_speed_of(drive) for drive in _drives(number, sysfs)]
    return max(found, key=lambda speed: speed.rank, default=Speed.UNKNOWN)


def is_removable(number: int, sysfs: str = "/sys") -> bool:
    """Return whether a drive below the block device `number` can be pulled out: a stick, a card, a disk on USB."""
    return any(
        "/usb" in drive or _read(f"{drive}/removable") == "1" or _read(f"{drive}/device/type") == "SD"
        for drive in _drives(number, sysfs)
    )


def device_of(device: str, fallback: int) -> int:
    """Return the number of a mounted block device; `fallback` where its name is none, or is not there in a container."""
    with contextlib.suppress(OSError):
        if device.startswith("/dev/") and (number := os.stat(device).st_rdev):
            return number
    return fallback


def rank(disk: DataDisk) -> tuple[int, int, int, int, str]:
    """
    Return what to sort data disks by: much more room first, of like room the faster, then one that is the user's already.

    Room is like another within a factor of two, in steps, so that the order is one.
    """
    return -disk.available_bytes.bit_length(), disk.speed.rank, disk.standing, -disk.available_bytes, disk.directory


def _drives(number: int, sysfs: str) -> Iterator[str]:
    """Yield the folders of the whole disks below one block device."""
    folder = os.path.realpath(f"{sysfs}/dev/block/{os.major(number)}:{os.minor(number)}")
    if os.path.isdir(folder):
        yield from _members(folder, _DEEPEST)


def _members(folder: str, deepest: int) -> Iterator[str]:
    members: list[str] = []
    with contextlib.suppress(OSError):
        members = os.listdir(f"{folder}/slaves")
    if members and deepest > 0:
        for name in members:
            yield from _members(os.path.realpath(f"{folder}/slaves/{name}"), deepest - 1)
    else:
        yield os.path.dirname(folder) if os.path.exists(f"{folder}/partition") else folder


def _speed_of(drive: str) -> Speed:
    if os.path.basename(drive).startswith("nvme"):
        return Speed.NVME
    return {"0": Speed.SSD, "1": Speed.ROTATIONAL}.get(_read(f"{drive}/queue/rotational"), Speed.UNKNOWN)


def _read(path: str) -> str:
    with contextlib.suppress(OSError), open(path, encoding="ascii", errors="replace") as file:
        return file.read().strip()
    return ""
