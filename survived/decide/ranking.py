"""
In which order caches are asked to go: what nobody uses first, and what a slow disk would make worse last.

Pure. Caches of one kind form steps of growing reluctance; a step is taken only when those before it do not free enough.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from survived.model import CacheReading, StoreReading

HOT_SECONDS = 8 * 3600.0
"""Used within a working day: likely to be used in what is left of it, or tomorrow morning."""
SMALL_FILE_BYTES = 256 * 1024
"""A disk that has to seek reads files of this mean size at a tenth of its speed or less (about 100 a second)."""


class Reluctance(IntEnum):
    """How little a cache should be moved, other things being equal."""

    COLD = 0
    HOT = 1
    SLOWED = 2  # in use, of small files, and there are only disks that seek


def last_use(reading: CacheReading) -> float:
    """Return when a cache was last read or written, as far as its filesystem tells (Unix seconds)."""
    return max(reading.size.newest_change, reading.size.newest_use)


def reluctance(reading: CacheReading, now: float, stores: Sequence[StoreReading]) -> Reluctance:
    """Return the step of a cache. A time in the future says nothing, and is no use of today."""
    if not 0 <= now - last_use(reading) < HOT_SECONDS:
        return Reluctance.COLD
    usable = [store for store in stores if store.ok and store.device_id != reading.device_id]
    seeks = bool(usable) and all(store.rotational for store in usable)
    is_small = reading.size.size_bytes < SMALL_FILE_BYTES * max(1, reading.size.files)
    return Reluctance.SLOWED if seeks and is_small else Reluctance.HOT
