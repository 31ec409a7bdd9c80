"""
When a data disk fills up itself: what we put there goes on to another one that has room. And who waits how long before he acts.

Pure. A tree never goes to a disk that it would bring near its own high mark, and stays a day where it came to: so no two
disks throw it back and forth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from survived.decide.housing import store_room
from survived.decide.pressure import print_free
from survived.decide.reasons import is_below
from survived.findings import Handover
from survived.model import CacheReading, CacheState, Mark
from survived.units import print_bytes, print_share

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from survived.model import Observation, Rules, StoreReading

MARGIN = 0.05
"""A disk that is at high is relieved down to so much below, and none is filled above that by it."""
STAY_SECONDS = 86400.0
LONGEST_DELAY = 120.0


def relieve(
    observation: Observation, rules: Rules, *, came: Mapping[str, float] | None = None, failed: Collection[str] = ()
) -> tuple[Handover, ...]:
    """
    Return what goes from each data disk at its high mark to another: the next tree of each, none where none helps.

    `came` tells by target when a tree was brought there by a rehome, `failed` are sources that are not to be tried now.
    """
    found: list[Handover] = []
    for store in sorted(observation.stores, key=lambda store: store.path):
        if store.ok and is_full(store, rules):
            best = _best(store, observation, rules, came or {}, failed)
            found += [] if best is None else [best]
    return tuple(found)


def is_full(store: StoreReading, rules: Rules) -> bool:
    """Tell whether a data disk has come to its own high mark."""
    total = store.used_bytes + store.available_bytes
    return total > 0 and store.usage >= rules.data_high.as_usage(total)


def _best(
    store: StoreReading, observation: Observation, rules: Rules, came: Mapping[str, float], failed: Collection[str]
) -> Handover | None:
    """Return the smallest tree that is enough, else the largest that another disk can take."""
    total = store.used_bytes + store.available_bytes
    low = max(0.0, rules.data_high.as_usage(total) - MARGIN)
    lack = store.used_bytes - int(low * total)
    fitting: list[tuple[CacheReading, StoreReading]] = []
    for reading in observation.caches:
        is_there = reading.target is not None and is_below(reading.target, store.path)
        if not is_there or not _may_go(reading, rules) or reading.cache.path in failed:
            continue
        if 0 <= observation.time - came.get(reading.target or "", float("-inf")) < STAY_SECONDS:
            continue
        if (to := _find_room(reading, store, observation, rules)) is not None:
            fitting.append((reading, to))
    if not fitting:
        return None
    enough = [pair for pair in fitting if pair[0].size.size_bytes >= lack]
    pool = enough or fitting
    reading, to = min(pool, key=lambda p: (p[0].size.size_bytes if enough else -p[0].size.size_bytes, p[0].cache.id))
    size, high = print_bytes(reading.size.size_bytes), print_free(rules.data_high, "bytes")
    why = f"{store.mount} is at {print_share(store.usage)}, high is {high}; {size} have room on {to.mount}"
    return Handover(reading.cache.id, reading.cache.path, reading.target or "", to.path, reading.size.size_bytes, why)


def _may_go(reading: CacheReading, rules: Rules) -> bool:
    cache = reading.cache
    if reading.state is not CacheState.RELOCATED or reading.error is not None or reading.size.size_bytes == 0:
        return False
    return cache.pinned is None and cache.move is not False and (cache.kind in rules.kinds or cache.move is True)


def _find_room(reading: CacheReading, store: StoreReading, observation: Observation, rules: Rules) -> StoreReading | None:
    roomy: list[tuple[int, str, StoreReading]] = []
    for other in observation.stores:
        if not other.ok or other.device_id == store.device_id or other.device_id in _watched(observation):
            continue
        total = other.used_bytes + other.available_bytes
        most = min(rules.keep_free.as_usage(total), rules.data_high.as_usage(total) - MARGIN)
        if most > 0 and (room := store_room(other, Mark(usage=most))) >= reading.size.size_bytes:
            roomy.append((-room, other.path, other))
    return min(roomy)[2] if roomy else None


def _watched(observation: Observation) -> frozenset[int]:
    return frozenset(fs.device_id for fs in observation.filesystems)


def delay_of(seed: str, dwell_seconds: float) -> float:
    """
    Return how long one of several daemons waits before it begins, so that not all of them move at once: always the same.

    Up to twice the dwell, 2 minutes at most; `seed` names machine and user. Who looks again after it may find it done.
    """
    number = 2166136261
    for byte in seed.encode("utf-8", "surrogateescape"):
        number = (number ^ byte) * 16777619 & 0xFFFFFFFF
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):  # neighbours have seeds that differ in one digit
        number = ((number ^ number >> shift) * factor) & 0xFFFFFFFF
    return number / 2**32 * min(LONGEST_DELAY, 2 * dwell_seconds)
