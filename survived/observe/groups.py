"""
Which of the known trees share inodes, and what comes back when they go together: hard links between them lead nowhere else then.

Measured, not believed: a catalogue knows who links by design, the inodes know who did. Only trees that have links outside are
walked, and again only when one of them is another than it was.
"""

from __future__ import annotations

import os
import time
from array import array
from contextlib import suppress
from typing import TYPE_CHECKING

from survived.errors import Stopped
from survived.findings import Group
from survived.model import CacheState, Kind
from survived.observe.disks import is_below
from survived.observe.tally import BUCKETS, Tally
from survived.observe.tree import mount_points_below
from survived.observe.walk import OPEN_FLAGS, Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from survived.model import CacheReading

_NOTABLE_SHARE, _NOTABLE_BYTES = 0.01, 16 << 20
"""Links outside that take less of a tree, and less in all, decide nothing."""
_FRESH_SECONDS = 300.0
_BLOCK = 512

Buckets = list["array[int]"]


class Groups:
    """Measures groups, and knows those of the last time."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._at = 0.0
        self._found: tuple[Group, ...] = ()

    def measure(self, readings: Iterable[CacheReading], stop: Callable[[], bool] | None = None) -> tuple[Group, ...]:
        """Return the groups of the trees at home, as they are or were a few minutes ago; Stopped soon after `stop()` is true."""
        linked = _linked(readings)
        key = tuple((r.cache.path, r.device_id, r.size) for r in linked)
        is_fresh = 0 <= time.monotonic() - self._at < _FRESH_SECONDS
        if key == self._key or (is_fresh and [part[:2] for part in self._key] == [part[:2] for part in key]):  # type: ignore[index]
            return self._found
        found = measure_groups(linked, stop)
        self._key, self._at, self._found = key, time.monotonic(), found
        return found


def _linked(readings: Iterable[CacheReading]) -> list[CacheReading]:
    """Return what has notable links outside, without what lies in another, in the order in which groups are moved."""
    home = [r for r in readings if r.state is CacheState.HOME and r.error is None and r.device_id is not None]
    linked = []
    for reading in home:
        outside = reading.size.size_bytes - reading.size.reclaimable_bytes
        if outside <= 0 or (outside < _NOTABLE_BYTES and outside < reading.size.size_bytes * _NOTABLE_SHARE):
            continue
        path = reading.cache.path
        if any(other is not reading and is_below(path, other.cache.path) for other in home):
            continue
        linked.append(reading)
    # What links into a cache goes before it: new ones of it are made where it is, and never on what is to be kept free.
    return sorted(linked, key=lambda r: (r.cache.kind is Kind.CACHE, r.cache.id, r.cache.path))


def measure_groups(linked: Sequence[CacheReading], stop: Callable[[], bool] | None = None) -> tuple[Group, ...]:
    """Walk trees that have links outside; return those that share inodes with others of them, with what comes back by steps."""
    found: list[Group] = []
    for device in sorted({reading.device_id or 0 for reading in linked}):
        here = [reading for reading in linked if reading.device_id == device]
        if len(here) > 1:
            found += _groups_of(here, stop)
    return tuple(found)


def _groups_of(readings: Sequence[CacheReading], stop: Callable[[], bool] | None) -> list[Group]:
    tallies: dict[int, tuple[Tally, Buckets]] = {}
    outside: dict[int, list[set[int]]] = {}
    own: dict[int, int] = {}
    for number, reading in enumerate(readings):
        with suppress(OSError):  # it vanished, or is closed to us: nobody's partner
            tally = _walk(reading.cache.path, stop)
            tallies[number] = tally, [array("Q", bucket) for bucket in tally.links]
            links = tally.resolve()
            outside[number] = [set(bucket) for bucket in links.outside]
            own[number] = links.outside_blocks
    groups = []
    for members in _components(outside):
        kept = [max(0, readings[n].size.size_bytes - readings[n].size.reclaimable_bytes - own[n] * _BLOCK) for n in members]
        steps = _steps([tallies[number] for number in members], kept)
        groups.append(Group(tuple(readings[number].cache.path for number in members), *steps))
    return groups


def _walk(path: str, stop: Callable[[], bool] | None) -> Tally:
    def check(_: int) -> None:
        if stop is not None and stop():
            raise Stopped("Stopped while measuring what shares links.")

    walk = Walk(path, os.open(path, OPEN_FLAGS), mount_points_below(path) - {""}, time.time(), check)
    try:
        walk.run_all()
    finally:
        walk.close()
    return walk.tally


def _components(outside: dict[int, list[set[int]]]) -> list[list[int]]:
    """Return the numbers of trees that share inodes, directly or through others."""
    parts = {number: [number] for number in outside}
    for one in outside:
        for other in outside:
            if one < other and parts[one] is not parts[other] and _share(outside[one], outside[other]):
                parts[one].extend(parts[other])
                for number in parts[other]:
                    parts[number] = parts[one]
    return [sorted(part) for number, part in parts.items() if len(part) > 1 and number == min(part)]


def _share(one: list[set[int]], other: list[set[int]]) -> bool:
    return any(not ours.isdisjoint(theirs) for ours, theirs in zip(one, other, strict=True))


def _steps(tallies: Sequence[tuple[Tally, Buckets]], kept_bytes: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """Return the size of all, each inode once, and what has come back after the first, the first two, and so on."""
    freed: list[int] = []
    together: Buckets = [array("Q") for _ in range(BUCKETS)]
    blocks = size = kept = 0
    for (tally, links), more in zip(tallies, kept_bytes, strict=True):
        blocks += tally.blocks
        kept += more  # extents shared with others: they keep them, whoever goes
        for bucket, fresh in zip(together, links, strict=True):
            bucket.extend(fresh)
        whole = Tally()
        whole.links = [array("Q", bucket) for bucket in together]
        found = whole.resolve()
        size = (blocks + found.blocks) * _BLOCK
        freed.append(max(0, size - found.outside_blocks * _BLOCK - kept, *freed[-1:]))
    return size, tuple(freed)
