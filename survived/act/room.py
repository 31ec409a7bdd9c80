"""Is there room where a tree is to go? Asked before the first byte; what fills up meanwhile is ENOSPC, and rolled back."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from survived.errors import Refused
from survived.model import Mark, Reason, TreeSize
from survived.observe.disks import read_filesystem
from survived.observe.quota import read_quota
from survived.units import print_bytes, print_share

if TYPE_CHECKING:
    from survived.store.layout import Store


def check_room(store: Store, source: str, size: TreeSize, keep_free: Mark) -> None:
    """Refuse (NO_ROOM) what would bring the store's disk above `keep_free`, a usage, or its user above a quota there."""
    disk = read_filesystem(store.path)
    total = disk.used_bytes + disk.available_bytes
    left = disk.available_bytes - size.size_bytes
    if left < 0 or total == 0 or (disk.used_bytes + size.size_bytes) / total > keep_free.as_usage(total):
        raise Refused(
            Reason.NO_ROOM,
            f"Cannot move '{source}': it needs {print_bytes(size.size_bytes)}, and '{disk.mount}' has "
            f"{print_bytes(disk.available_bytes)} of which a share is kept free. Nothing was changed.",
            "Name another disk under [data] disks, or lower keep_free.",
        )
    if (why := _above_quota(store.path, disk.device, size)) is not None:
        raise Refused(
            Reason.NO_ROOM, f"Cannot move '{source}': {why} on '{disk.mount}'. Nothing was changed.",
            "Name another disk under [data] disks, or ask for more quota.",
        )  # fmt: skip


def _above_quota(place: str, device: str, size: TreeSize) -> str | None:
    """Return what our quota has too little of for a tree; root has none that binds."""
    quota = read_quota(place, device, os.getuid()) if os.getuid() != 0 else None
    if quota is None:
        return None
    entries = size.files + size.directories
    if quota.left_bytes is not None and size.size_bytes > quota.left_bytes:
        return f"it needs {print_bytes(size.size_bytes)}, and your quota has {print_bytes(quota.left_bytes)} left"
    if quota.left_inodes is not None and entries > quota.left_inodes:
        return f"it needs {entries:,} inodes, and your quota has {quota.left_inodes:,} left"
    return None


def check_home_room(source: str, size: TreeSize, high: Mark, *, forced: bool) -> None:
    """Refuse (WOULD_FILL) what would bring the source's filesystem to `high`, unless `forced`; what does not fit at all, always."""
    disk = read_filesystem(os.path.dirname(source))
    total = disk.used_bytes + disk.available_bytes
    after = (disk.used_bytes + size.size_bytes) / total if total else 1.0
    if size.size_bytes >= disk.available_bytes or (after >= high.as_usage(total) and not forced):
        hint = "Free some space first." if size.size_bytes >= disk.available_bytes else "Add --force to do it all the same."
        raise Refused(
            Reason.WOULD_FILL,
            f"Cannot restore '{source}': its {print_bytes(size.size_bytes)} would bring '{disk.mount}' to {print_share(after)}. "
            "Nothing was changed.",
            hint,
        )
    if (why := _above_quota(os.path.dirname(source), disk.device, size)) is not None:
        raise Refused(
            Reason.WOULD_FILL, f"Cannot restore '{source}': {why} on '{disk.mount}'. Nothing was changed.", "Free some space first."
        )
