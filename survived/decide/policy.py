"""
What we would move now, and for every other cache why not.

Pure: an observation and rules in, a plan out; every cache appears exactly once. Lasting reasons win over passing ones,
so that nobody closes a program only to learn that there is no data disk. Ties are broken by id: the same observation
always gives the same plan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from survived.decide.housing import Housed, find_store, unhoused
from survived.decide.pressure import excess_bytes, excess_inodes, print_free
from survived.decide.ranking import Reluctance, last_use, reluctance
from survived.decide.reasons import (
    Moment,
    Need,
    Why,
    count_entries,
    enclosing,
    is_below,
    is_over_limit,
    passing,
    unmovable,
    unneeded,
    worthless,
)
from survived.model import (
    CacheReading,
    CacheState,
    Filesystem,
    Kind,
    Move,
    Observation,
    Plan,
    Pressure,
    Reason,
    Refusal,
    Rules,
    Share,
    StoreReading,
)
from survived.units import print_bytes, print_share

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from survived.model import Gauge, Watermarks

_ORDER = (Kind.CACHE, Kind.ENVIRONMENT, Kind.STATE)  # what can be rebuilt goes first


def plan(
    observation: Observation,
    pressures: Mapping[str, Pressure],
    rules: Rules,
    *,
    failed: Mapping[str, str] | None = None,
    paused: bool = False,
    gauges: Mapping[str, tuple[Gauge, Gauge]] | None = None,
    minute: int | None = None,
) -> Plan:
    """
    Return the moves that bring every filesystem under pressure down to low, and a refusal for each other cache.

    `pressures` is by mount. `failed` maps a source to what went wrong last time; keeping it there for a while is the
    caller's back-off. `gauges` (bytes and inodes by mount) tells which of the two is short; without it, it is guessed.
    `minute` is of the local day, for quiet hours.
    """
    moment = Moment(observation.time, failed or {}, paused, minute)
    needs = needs_of(observation, pressures, rules, gauges or {})
    refusals: list[Refusal] = []
    candidates: list[tuple[CacheReading, Need]] = []
    for reading in sorted(observation.caches, key=lambda reading: (reading.cache.id, reading.cache.path)):
        why = unmovable(reading, needs, rules)
        if why is None and reading.device_id is not None:
            need = needs[reading.device_id]
            why = (
                enclosing(reading, observation.caches)
                or worthless(reading, need, rules)
                or unneeded(reading, need, rules)
                or unhoused(reading, observation.stores, rules)
                or passing(reading, need, rules, moment)
            )
            if why is None:
                candidates.append((reading, need))
        if why is not None:
            refusals.append(_refusal(reading, why))
    housed = _choose(candidates, needs, observation, rules)
    moves = [_move(item, need, rules) for item in housed for reading, need in candidates if reading is item.reading]
    refusals += [
        _refusal(reading, _left_over(reading, need, housed, observation.stores, rules))
        for reading, need in candidates
        if all(reading is not item.reading for item in housed)
    ]
    shares = tuple(_share(need.fs, observation.caches) for need in needs.values() if need.pressure is not Pressure.NORMAL)
    return Plan(tuple(moves), tuple(sorted(refusals, key=lambda refusal: (refusal.cache_id, refusal.path))), shares)


def _refusal(reading: CacheReading, why: Why) -> Refusal:
    return Refusal(reading.cache.id, reading.cache.path, *why)


def needs_of(
    observation: Observation, pressures: Mapping[str, Pressure], rules: Rules, gauges: Mapping[str, tuple[Gauge, Gauge]]
) -> dict[int, Need]:
    """Return what each watched filesystem lacks, by device."""
    budgets = _over_budget(observation, rules)
    return {fs.device_id: _need(fs, pressures, rules, gauges, budgets.get(fs.device_id, 0)) for fs in observation.filesystems}


def _need(
    fs: Filesystem,
    pressures: Mapping[str, Pressure],
    rules: Rules,
    gauges: Mapping[str, tuple[Gauge, Gauge]],
    over_budget: int,
) -> Need:
    pressure = pressures.get(fs.mount, Pressure.NORMAL)
    if pressure is Pressure.NORMAL:
        return Need(fs, pressure, over_budget, 0, over_budget)
    size_bytes, inodes = excess_bytes(fs, rules), excess_inodes(fs, rules)
    if (pair := gauges.get(fs.mount)) is not None:
        of_bytes, of_inodes = (gauge.pressure is not Pressure.NORMAL for gauge in pair)
    else:
        # Between low and high a quantity may be on its way down or never have been short; bytes are the likely one.
        bytes_high = fs.usage >= rules.bytes_marks.high.as_usage(fs.used_bytes + fs.available_bytes)
        inodes_high = fs.inodes_usage >= rules.inodes_marks.high.as_usage(fs.inodes_used + fs.inodes_available)
        of_bytes, of_inodes = bytes_high or not inodes_high, inodes_high or size_bytes == 0
    return Need(fs, pressure, max(size_bytes if of_bytes else 0, over_budget), inodes if of_inodes else 0, over_budget)


def _over_budget(observation: Observation, rules: Rules) -> dict[int, int]:
    """Return by device the bytes that its movable caches take above their common budget."""
    if rules.budget_bytes is None:
        return {}
    total: dict[int, int] = {}
    for reading in _outermost(observation.caches):
        wanted = reading.cache.kind in rules.kinds or reading.cache.move is True
        if reading.device_id is not None and wanted and reading.cache.move is not False:
            total[reading.device_id] = total.get(reading.device_id, 0) + reading.size.size_bytes
    return {device: size - rules.budget_bytes for device, size in total.items() if size > rules.budget_bytes}


def _outermost(caches: Sequence[CacheReading]) -> list[CacheReading]:
    """Return the caches at home that lie in no other one of them, so that nothing is counted twice."""
    home = [reading for reading in caches if reading.state is CacheState.HOME]
    return [
        reading for reading in home
        if not any(other is not reading and is_below(reading.cache.path, other.cache.path) for other in home)
    ]  # fmt: skip


def _share(fs: Filesystem, caches: Sequence[CacheReading]) -> Share:
    yours = sum(reading.size.size_bytes for reading in _outermost(caches) if reading.device_id == fs.device_id)
    return Share(fs.mount, min(yours, fs.used_bytes), fs.used_bytes)


def _choose(
    candidates: Sequence[tuple[CacheReading, Need]],
    needs: Mapping[int, Need],
    observation: Observation,
    rules: Rules,
) -> list[Housed]:
    """
    Return few moves that meet every need.

    Caches above their own limit first, in any case; then by kind, and of one kind those that nobody uses, if they free
    enough: the smallest cache that suffices alone, else the one that helps most, and the same again for the rest.
    """
    stores = observation.stores
    housed: list[Housed] = []
    offenders = [reading for reading, _ in candidates if is_over_limit(reading)]
    for reading in sorted(offenders, key=lambda r: (-r.size.reclaimable_bytes, r.cache.id)):
        housed = _with(housed, reading, stores, rules)
    for need in needs.values():
        for kind in _ORDER:
            pool = [reading for reading, its in candidates if its is need and reading.cache.kind is kind]
            steps = {reading.cache.path: reluctance(reading, observation.time, stores) for reading in pool}
            for step in Reluctance:
                willing = [reading for reading in pool if steps[reading.cache.path] <= step]
                tried = _fill(housed, willing, need, stores, rules)
                if step is Reluctance.SLOWED or not any(_lack(need, tried)):
                    housed = tried
                    break
    return housed


def _fill(housed: list[Housed], pool: list[CacheReading], need: Need, stores: Sequence[StoreReading], rules: Rules) -> list[Housed]:
    """Return the moves with as many from the pool as one filesystem needs."""
    pool = list(pool)
    while any(lack := _lack(need, housed)) and (best := _best(pool, lack, housed)) is not None:
        pool.remove(best)
        housed = _with(housed, best, stores, rules)
    return housed


def _with(housed: list[Housed], reading: CacheReading, stores: Sequence[StoreReading], rules: Rules) -> list[Housed]:
    """Return the moves with one more in place of those inside it; unchanged where no store has room for it."""
    if _outer(reading, housed) is not None:
        return housed
    kept = [item for item in housed if not is_below(item.reading.cache.path, reading.cache.path)]
    store = find_store(reading, stores, rules, kept)
    return housed if store is None else [*kept, Housed(reading, store)]


def _outer(reading: CacheReading, housed: Sequence[Housed]) -> CacheReading | None:
    """Return the chosen cache that a cache lies in (or is)."""
    return next((i.reading for i in housed if is_below(reading.cache.path, i.reading.cache.path)), None)


def _lack(need: Need, housed: Sequence[Housed]) -> tuple[int, int]:
    """Return the bytes and inodes that are still missing on one filesystem after what is chosen."""
    moved = [item.reading for item in housed if item.reading.device_id == need.fs.device_id]
    freed = sum(reading.size.reclaimable_bytes for reading in moved)
    return max(0, need.size_bytes - freed), max(0, need.inodes - sum(map(count_entries, moved)))


def _best(pool: Sequence[CacheReading], lack: tuple[int, int], housed: Sequence[Housed]) -> CacheReading | None:
    """Return the candidate that suffices with the fewest bytes to copy, else the one that helps most, if any helps."""
    free = [reading for reading in pool if _outer(reading, housed) is None]
    enough = [r for r in free if r.size.reclaimable_bytes >= lack[0] and count_entries(r) >= lack[1]]
    if enough:
        return min(enough, key=lambda r: (r.size.size_bytes, last_use(r), r.cache.id))
    helping = [reading for reading in free if _help(reading, lack) > 0]
    return min(helping, key=lambda r: (-_help(r, lack), last_use(r), r.cache.id), default=None)


def _help(reading: CacheReading, lack: tuple[int, int]) -> float:
    """Return how much of what is missing a cache would free, as a sum of two shares."""
    parts = zip((reading.size.reclaimable_bytes, count_entries(reading)), lack, strict=True)
    return sum(min(1.0, part / whole) for part, whole in parts if whole > 0)


def _left_over(reading: CacheReading, need: Need, housed: Sequence[Housed], stores: Sequence[StoreReading], rules: Rules) -> Why:
    """Return why a cache that could be moved alone is not part of the plan."""
    if (outer := _outer(reading, housed)) is not None:
        return Reason.ENOUGH, f"moves together with {outer.cache.id} ('{outer.cache.path}')"
    fs, low = need.fs, print_free(rules.bytes_marks.low, "bytes")
    if is_over_limit(reading) or any(_lack(need, housed)):
        no_help = Reason.NOTHING_FREED, f"would free nothing of what {fs.mount} lacks"
        return unhoused(reading, stores, rules, housed) or no_help
    moved = [item.reading for item in housed if item.reading.device_id == fs.device_id]
    if not moved:
        return Reason.ENOUGH, f"{fs.mount} is at {print_share(fs.usage)} and low is {low}: nothing is left to free"
    after = (fs.used_bytes - sum(r.size.reclaimable_bytes for r in moved)) / max(1, fs.used_bytes + fs.available_bytes)
    names = ", ".join(r.cache.id for r in moved)
    return Reason.ENOUGH, f"moving {names} brings {fs.mount} to {print_share(max(0.0, after))}, low is {low}"


def _move(item: Housed, need: Need, rules: Rules) -> Move:
    reading, size, fs = item.reading, item.reading.size, need.fs
    frees = f"moving frees {print_bytes(size.reclaimable_bytes)}"
    if is_over_limit(reading):
        limit = print_bytes(reading.cache.limit_bytes or 0)
        why = f"{print_bytes(size.size_bytes)} is over its limit of {limit}; {frees}"
    elif need.pressure is Pressure.NORMAL or (need.size_bytes == need.over_budget_bytes > 0):
        over, budget = print_bytes(need.over_budget_bytes), print_bytes(rules.budget_bytes or 0)
        why = f"the caches on {fs.mount} are {over} over their budget of {budget}; {frees}"
    elif need.size_bytes > 0:
        mark = _mark_reached(fs.usage, fs.used_bytes + fs.available_bytes, rules.bytes_marks, "bytes")
        low = print_free(rules.bytes_marks.low, "bytes")
        why = f"{fs.mount} is at {print_share(fs.usage)}, {mark}; {frees} towards {low}"
    else:
        mark = _mark_reached(fs.inodes_usage, fs.inodes_used + fs.inodes_available, rules.inodes_marks, "inodes")
        frees = f"moving frees {count_entries(reading):,} towards {print_free(rules.inodes_marks.low, 'inodes')}"
        why = f"{fs.mount} has {print_share(fs.inodes_usage)} of its inodes in use, {mark}; {frees}"
    return Move(reading.cache.id, reading.cache.path, item.store.path, size.size_bytes, size.reclaimable_bytes, why)


def _mark_reached(usage: float, total: int, marks: Watermarks, what: str) -> str:
    if usage >= marks.flood.as_usage(total):
        return f"flood is {print_free(marks.flood, what)}"
    return f"high is {print_free(marks.high, what)}"
