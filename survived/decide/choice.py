"""
Which of the caches that may go do go: few moves that meet every need, what nobody uses first.

Pure. Ties are broken by id: the same candidates always give the same choice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from survived.decide.housing import Housed, find_store
from survived.decide.ranking import Reluctance, last_use, reluctance
from survived.decide.reasons import Need, count_entries, is_below, is_over_limit
from survived.decide.together import partner_stores
from survived.model import CacheReading, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from survived.model import Observation, Rules

_ORDER = (Kind.CACHE, Kind.ENVIRONMENT, Kind.STATE)  # what can be rebuilt goes first


class Choice:
    """What is chosen so far, for one observation."""

    def __init__(self, observation: Observation, rules: Rules) -> None:
        self._observation, self._rules = observation, rules
        self.housed: list[Housed] = []

    def choose(self, candidates: Sequence[tuple[CacheReading, Need]], needs: Mapping[int, Need]) -> list[Housed]:
        """
        Return few moves that meet every need.

        Caches above their own limit first, in any case; then by kind, and of one kind those that nobody uses, if they free
        enough: the smallest cache that suffices alone, else the one that helps most, and the same again for the rest.
        """
        offenders = [reading for reading, _ in candidates if is_over_limit(reading)]
        for reading in sorted(offenders, key=lambda r: (-r.size.reclaimable_bytes, r.cache.id)):
            self.housed = self._with(self.housed, reading)
        for need in needs.values():
            for kind in _ORDER:
                self._meet(need, [reading for reading, its in candidates if its is need and reading.cache.kind is kind])
        return self.housed

    def _meet(self, need: Need, pool: list[CacheReading]) -> None:
        stores = self._observation.stores
        steps = {reading.cache.path: reluctance(reading, self._observation.time, stores) for reading in pool}
        for step in Reluctance:
            tried = self._fill(self.housed, [reading for reading in pool if steps[reading.cache.path] <= step], need)
            if step is Reluctance.SLOWED or not any(lack(need, tried)):
                self.housed = tried
                break

    def _fill(self, housed: list[Housed], pool: list[CacheReading], need: Need) -> list[Housed]:
        """Return the moves with as many from the pool as one filesystem needs."""
        pool = list(pool)
        while any(left := lack(need, housed)) and (best := _best(pool, left, housed)) is not None:
            pool.remove(best)
            housed = self._with(housed, best)
        return housed

    def _with(self, housed: list[Housed], reading: CacheReading) -> list[Housed]:
        """Return the moves with one more in place of those inside it; unchanged where no store has room for it."""
        if outer(reading, housed) is not None:
            return housed
        kept = [item for item in housed if not is_below(item.reading.cache.path, reading.cache.path)]
        if reading.cache.purge_command is not None:
            return [*kept, Housed(reading, None)]
        near = partner_stores(reading, self._observation.caches)
        store = find_store(reading, self._observation.stores, self._rules, kept, near)
        return housed if store is None else [*kept, Housed(reading, store)]


def outer(reading: CacheReading, housed: Sequence[Housed]) -> CacheReading | None:
    """Return the chosen cache that a cache lies in (or is)."""
    return next((i.reading for i in housed if is_below(reading.cache.path, i.reading.cache.path)), None)


def lack(need: Need, housed: Sequence[Housed]) -> tuple[int, int]:
    """Return the bytes and inodes that are still missing on one filesystem after what is chosen."""
    moved = [item.reading for item in housed if item.reading.device_id == need.fs.device_id]
    freed = sum(reading.size.reclaimable_bytes for reading in moved)
    return max(0, need.size_bytes - freed), max(0, need.inodes - sum(map(count_entries, moved)))


def _best(pool: Sequence[CacheReading], left: tuple[int, int], housed: Sequence[Housed]) -> CacheReading | None:
    """Return the candidate that suffices with the fewest bytes to copy, else the one that helps most, if any helps."""
    free = [reading for reading in pool if outer(reading, housed) is None]
    enough = [r for r in free if r.size.reclaimable_bytes >= left[0] and count_entries(r) >= left[1]]
    if enough:
        return min(enough, key=lambda r: (r.size.size_bytes, last_use(r), r.cache.id))
    helping = [reading for reading in free if _help(reading, left) > 0]
    return min(helping, key=lambda r: (-_help(r, left), last_use(r), r.cache.id), default=None)


def _help(reading: CacheReading, left: tuple[int, int]) -> float:
    """Return how much of what is missing a cache would free, as a sum of two shares."""
    parts = zip((reading.size.reclaimable_bytes, count_entries(reading)), left, strict=True)
    return sum(min(1.0, part / whole) for part, whole in parts if whole > 0)
