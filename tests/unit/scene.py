"""Short ways to write down a machine: filesystems, caches and stores as values for the tests of `decide/`."""

from __future__ import annotations

from typing import Any

from survived.model import (
    Cache,
    CacheReading,
    CacheState,
    Filesystem,
    Kind,
    Mark,
    Observation,
    Rules,
    StoreReading,
    TreeSize,
    Watermarks,
)

MIB = 1024**2
GIB = 1024**3
NOW = 1_800_000_000.0
ROOT_DEVICE = 1
DATA_DEVICE = 2
MARKS = Watermarks(Mark(usage=0.9), Mark(usage=0.8), Mark(usage=0.97))
RULES = Rules(MARKS, MARKS)


def filesystem(usage: float = 0.93, total: int = 100 * GIB, **changes: Any) -> Filesystem:
    """Return a filesystem at `/` with 1,000,000 inodes, a tenth of them used."""
    used = round(usage * total)
    values: dict[str, Any] = {
        "mount": "/", "device": "/dev/vda1", "device_id": ROOT_DEVICE, "fstype": "ext4", "capacity_bytes": total,
        "used_bytes": used, "available_bytes": total - used, "inodes_used": 100_000, "inodes_available": 900_000,
    }  # fmt: skip
    return Filesystem(**{**values, **changes})


def reading(
    name: str,
    size: int = 2 * GIB,
    reclaimable: int | None = None,
    *,
    path: str | None = None,
    kind: Kind = Kind.CACHE,
    state: CacheState = CacheState.HOME,
    files: int = 1000,
    device_id: int | None = ROOT_DEVICE,
    tree: dict[str, Any] | None = None,
    cache: dict[str, Any] | None = None,
    **changes: Any,
) -> CacheReading:
    """Return a quiet, movable cache at `/home/alice/.cache/NAME`."""
    where = path or f"/home/alice/.cache/{name}"
    size_of = {"newest_change": NOW - 86400, "directories": 10, "files": files, **(tree or {})}
    return CacheReading(
        Cache(name, name, kind, where, "default", **(cache or {})),
        NOW,
        state,
        TreeSize(size, size if reclaimable is None else reclaimable, **size_of),
        device_id,
        **changes,
    )


def store(name: str = "data1", available: int = 5000 * GIB, used: int = 2000 * GIB, **changes: Any) -> StoreReading:
    """Return a good store on `/NAME`."""
    values: dict[str, Any] = {
        "path": f"/{name}/alice/survived", "mount": f"/{name}", "device_id": DATA_DEVICE,
        "capacity_bytes": used + available, "used_bytes": used, "available_bytes": available,
    }  # fmt: skip
    return StoreReading(**{**values, **changes})


def scene(*caches: CacheReading, fs: Filesystem | None = None, stores: tuple[StoreReading, ...] | None = None) -> Observation:
    """Return an observation of one filesystem, by default at 93 %, and one good store."""
    return Observation(NOW, (fs or filesystem(),), caches, (store(),) if stores is None else stores)
