"""
The caches of one machine, read again and again: what is still known from the last time is not measured anew.

What the stores know of trees says what was there, and inotify which folders changed since; both are only believed as long as
nothing was missed in between.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from survived.model import CacheState
from survived.observe.caches import read_cache, read_caches
from survived.observe.disks import is_below
from survived.observe.groups import Groups
from survived.store import known

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from survived.machine import Machine
    from survived.model import Cache, CacheReading, Observation

_REMEASURE_SECONDS = 3600.0


class Readings:
    """Reads the caches of one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._hints: set[str] = set()  # folders that changed, in trees that were not measured since
        self.groups = Groups()
        self._known_in: str | None = None  # the store whose knowledge was used last; "" for none

    def read(
        self, last: Observation | None, now: float, *, stop: Callable[[], bool] | None, changed: Collection[str] | None
    ) -> tuple[CacheReading, ...]:
        """
        Return a reading of each known cache; those at home are measured anew, those on a data disk once an hour.

        By `changed`, the folders that inotify told of, trees that a store knows are measured; None: not known.
        Raises `Stopped` soon after `stop()` is true.
        """
        targets = {item.source: item.target for _, item in self._machine.relocations()}
        before = {reading.cache.id: reading for reading in last.caches} if last else {}
        cached: dict[str, CacheReading] = {}
        fresh: list[Cache] = []
        caches = self._machine.known_caches()
        for cache in caches:
            seen = before.get(cache.id)
            is_young = seen is not None and now - seen.time < _REMEASURE_SECONDS and changed is not None
            if seen is not None and seen.state is CacheState.RELOCATED and is_young:
                reading = read_cache(cache, now, targets, measure=False, known=seen)
                if reading.state is CacheState.RELOCATED and reading.target == seen.target:
                    cached[cache.id] = replace(reading, time=seen.time)
                    continue
            fresh.append(cache)
        found = self._read_fresh(fresh, before, targets, changed, stop, now)
        # What is not measured this time was not read anew where it changed.
        left = [reading.target for reading in cached.values() if reading.target]
        self._hints = {place for place in self._hints if any(is_below(place, target) for target in left)}
        measured = {reading.cache.id: reading for reading in found}
        return tuple(cached.get(cache.id) or measured[cache.id] for cache in caches)

    def _read_fresh(
        self,
        caches: list[Cache],
        before: Mapping[str, CacheReading],
        targets: Mapping[str, str],
        changed: Collection[str] | None,
        stop: Callable[[], bool] | None,
        now: float,
    ) -> tuple[CacheReading, ...]:
        """Measure caches by what the first open store knows of them."""
        opened = next(iter(self._machine.open.values()), None)
        place = opened.store.path if opened is not None else None
        # Another store has not heard what was told to the last one.
        is_doubtful = changed is None or self._known_in not in (None, place)
        keeper = known.KnownTrees(opened.database) if opened is not None else None
        in_full: set[str] = set()
        for cache in caches:
            seen = before.get(cache.id)
            if is_doubtful or (seen is not None and any(holder.writes for holder in seen.holders)):
                in_full |= {cache.path, targets.get(cache.path, cache.path)}
        self._hints |= set(changed or ())
        found = read_caches(caches, now, targets, stop=stop, keeper=keeper, changed=self._hints, in_full=in_full)
        self._known_in = place or ""
        return found
