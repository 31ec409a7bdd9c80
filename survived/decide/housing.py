"""
Which data disk can take a cache, and why none can.

Pure. What earlier moves of the same plan put on a disk is counted as if it were there already, and no disk is ever
planned past its keep-free share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from survived.decide.pressure import print_free
from survived.model import CacheReading, Reason, StoreReading
from survived.units import print_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from survived.model import Mark, Rules


@dataclass(frozen=True, slots=True)
class Housed:
    """A cache that is to be moved, and the store it goes to; none if it is purged instead."""

    reading: CacheReading
    store: StoreReading | None


def store_room(store: StoreReading, keep_free: Mark, promised_bytes: int = 0) -> int:
    """Return how many bytes may still be put on a store's disk after `promised_bytes`; never past `keep_free`."""
    used, available = store.used_bytes + promised_bytes, store.available_bytes - promised_bytes
    if keep_free.usage is None:
        return max(0, available - (keep_free.free or 0))
    total = used + available
    if total <= 0:
        return 0
    most = int(keep_free.usage * total)
    while most > 0 and most / total > keep_free.usage:  # the product may have been rounded up past the mark
        most -= 1
    return max(0, min(available, most - used))


def find_store(
    reading: CacheReading,
    stores: Sequence[StoreReading],
    rules: Rules,
    housed: Sequence[Housed] = (),
    near: Sequence[str] = (),
) -> StoreReading | None:
    """
    Return the usable store on another device with the most available bytes that takes this cache, or None.

    One that holds a path of `near` comes first.
    """
    fitting = [
        store
        for store in stores
        if store.ok
        and store.device_id != reading.device_id
        and store_room(store, rules.keep_free, _promised(store, housed)) >= reading.size.size_bytes
    ]

    def rank(store: StoreReading) -> tuple[bool, int, str]:
        is_near = any(path.startswith(f"{store.path}/") for path in near)
        return not is_near, _promised(store, housed) - store.available_bytes, store.path

    return min(fitting, key=rank, default=None)


def unhoused(
    reading: CacheReading, stores: Sequence[StoreReading], rules: Rules, housed: Sequence[Housed] = ()
) -> tuple[Reason, str] | None:
    """Return why no store can take this cache, each store with its own reason, or None where one can."""
    usable = [store for store in stores if store.ok and store.device_id != reading.device_id]
    if not usable:
        why = [f"'{store.path}' {_unusable(store)}" for store in stores]
        return Reason.NO_STORE, "; ".join(why) or "no data disk is configured and none was found"
    if find_store(reading, stores, rules, housed) is not None:
        return None
    kept = rules.keep_free
    keeps = f"{(1 - kept.usage) * 100:g} % free" if kept.usage is not None else print_free(kept, "bytes")
    rooms = [f"'{store.path}' has room for {print_bytes(store_room(store, kept, _promised(store, housed)))}" for store in usable]
    return Reason.NO_ROOM, f"needs {print_bytes(reading.size.size_bytes)}; {'; '.join(rooms)} (keeping {keeps})"


def _unusable(store: StoreReading) -> str:
    return "lies on the cache's own filesystem" if store.ok else f"cannot be used: {store.reason or 'no reason known'}"


def _promised(store: StoreReading, housed: Sequence[Housed]) -> int:
    """Return the bytes that earlier moves put on this store's disk; two stores may share one."""
    disk = (store.device_id, store.mount)
    return sum(
        item.reading.size.size_bytes
        for item in housed
        if item.store is not None and (item.store.device_id, item.store.mount) == disk
    )
