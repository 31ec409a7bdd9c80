"""
Quotas and reserved blocks in the status: gauges beside the disk's own, as a dict and, made from that alone, as text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from survived.tell.columns import entry
from survived.units import print_bytes, print_seconds, print_time

if TYPE_CHECKING:
    from collections.abc import Mapping

    from survived.findings import Quota
    from survived.model import Filesystem
    from survived.tell.columns import Paint


def documents(fs: Filesystem) -> dict[str, Any]:
    """Return the keys `reserved_bytes`, `quota` and `disk` of one filesystem."""
    disk = None
    if fs.disk is not None:
        disk = {
            "capacity_bytes": fs.disk.capacity_bytes,
            "used_bytes": fs.disk.used_bytes,
            "available_bytes": fs.disk.available_bytes,
            "inodes_used": fs.disk.inodes_used,
            "inodes_available": fs.disk.inodes_available,
        }
    quota = None if fs.quota is None else _document(fs.quota)
    return {"reserved_bytes": fs.reserved_bytes, "quota": quota, "disk": disk}


def _document(quota: Quota) -> dict[str, Any]:
    return {
        "uid": quota.uid,
        "used_bytes": quota.used_bytes,
        "soft_bytes": quota.soft_bytes or None,
        "hard_bytes": quota.hard_bytes or None,
        "bytes_until": print_time(quota.bytes_until) if quota.bytes_until else None,
        "used_inodes": quota.used_inodes,
        "soft_inodes": quota.soft_inodes or None,
        "hard_inodes": quota.hard_inodes or None,
        "inodes_until": print_time(quota.inodes_until) if quota.inodes_until else None,
    }


def whose(fs: Mapping[str, Any]) -> str:
    """Return what a filesystem's figures are of: the mount, or the user's quota on it."""
    return f"your quota on {fs['mount']}" if fs.get("disk") else str(fs["mount"])


def lines(doc: Mapping[str, Any], width: int, paint: Paint) -> list[str]:
    """Return a paragraph for each quota with a limit, and for blocks that only root may take where little else is left."""
    found: list[str] = []
    for fs in doc["filesystems"]:
        if fs.get("quota") and (text := describe(fs["quota"], doc["time"])):
            disk = fs.get("disk")
            own = f"; the disk itself has {print_bytes(disk['available_bytes'])} available" if disk else ""
            found += entry("quota", f"on {fs['mount']}: {text}{own}", width, paint, "1")
        if fs.get("reserved_bytes", 0) > fs["available_bytes"]:
            text = f"{print_bytes(fs['reserved_bytes'])} on {fs['mount']} are free, but only for root"
            found += entry("reserved", text, width, paint, "1")
    return found


def describe(quota: Mapping[str, Any], now: str) -> str:
    """Return `"12.0 GiB of 50.0 GiB used"` with what is limited, and when a grace time ends; "" without any limit."""
    parts = []
    if most := _lowest(quota["soft_bytes"], quota["hard_bytes"]):
        parts.append(f"{print_bytes(quota['used_bytes'])} of {print_bytes(most)} used")
    if most := _lowest(quota["soft_inodes"], quota["hard_inodes"]):
        parts.append(f"{quota['used_inodes']:,} of {most:,} inodes used")
    for what in ("bytes", "inodes"):
        if parts and (until := quota[f"{what}_until"]) is not None:
            left = _seconds(now, until)
            end = f"ends in {print_seconds(left)}" if left > 0 else "has ended: nothing more can be written"
            parts.append(f"the grace time for {what} {end}")
    return ", ".join(parts)


def _lowest(soft: int | None, hard: int | None) -> int:
    return min((value for value in (soft, hard) if value), default=0)


def _seconds(now: str, then: str) -> float:
    from datetime import datetime

    return (datetime.fromisoformat(then) - datetime.fromisoformat(now)).total_seconds()
