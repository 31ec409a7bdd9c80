"""
The quota may be the disk that is full: what a user's limit leaves of a filesystem. Pure.

Bytes and inodes are judged apart, and of the disk's own figures and the quota's those are taken that give out first: so
pressure, what is to be freed and what fits are decided on them without knowing of quotas.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from survived.findings import Disk

if TYPE_CHECKING:
    from survived.findings import Quota
    from survived.model import Filesystem


def limit(fs: Filesystem, quota: Quota | None, *, by_room: bool = False) -> Filesystem:
    """
    Return the reading as its user's quota leaves it, with the quota; `disk` has the disk's own figures where they differ.

    What is watched gives out first where it is fuller, what is moved to (`by_room`) where less fits. A soft limit counts
    like a hard one: what lies above it is lent for the grace time, and then nothing can be written.
    """
    if quota is None or not quota.is_enforced:
        return fs
    disk = Disk(fs.capacity_bytes, fs.used_bytes, fs.available_bytes, fs.inodes_used, fs.inodes_available)
    limited = replace(fs, quota=quota)
    most, used = lowest(quota.soft_bytes, quota.hard_bytes), quota.used_bytes
    available = min(fs.available_bytes, max(0, most - used))
    if most and _is_first(used, available, fs.used_bytes, fs.available_bytes, by_room):
        limited = replace(limited, capacity_bytes=most, used_bytes=used, available_bytes=available, disk=disk)
    most, used = lowest(quota.soft_inodes, quota.hard_inodes), quota.used_inodes
    available = max(0, most - used)
    if fs.inodes_used + fs.inodes_available > 0:  # else the filesystem counts none itself
        available = min(fs.inodes_available, available)
    if most and _is_first(used, available, fs.inodes_used, fs.inodes_available, by_room):
        limited = replace(limited, inodes_used=used, inodes_available=available, disk=disk)
    return limited


def lowest(soft: int, hard: int) -> int:
    """Return the limit that counts; 0 is none."""
    return min((value for value in (soft, hard) if value > 0), default=0)


def _is_first(used: int, available: int, disk_used: int, disk_available: int, by_room: bool) -> bool:
    """Tell whether the quota gives out before the disk; the disk, where they stand alike."""
    if by_room or disk_used + disk_available <= 0:
        return available < disk_available or disk_used + disk_available <= 0
    # Shares compared crosswise, in whole numbers.
    return used * (disk_used + disk_available) > disk_used * (used + available)
