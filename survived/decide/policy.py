"""
What we would move now, and for every other cache why not.

Pure: an observation and rules in, a plan out; every cache appears exactly once. Lasting reasons win over passing ones,
so that nobody closes a program only to learn that there is no data disk. Ties are broken by id: the same observation
always gives the same plan.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from survived.decide.choice import Choice, lack, outer
from survived.decide.housing import Housed, unhoused
from survived.decide.pressure import excess_bytes, excess_inodes, print_free
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
from survived.decide.together import Union, describe, grows_later, hindered, unite
from survived.model import (
    CacheReading,
    CacheState,
    Filesystem,
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
    readings = sorted(observation.caches, key=lambda reading: (reading.cache.id, reading.cache.path))
    stays = staying(observation, needs, rules)
    unions = unite(observation, stays)
    whys: dict[str, Why] = dict(stays)
    for reading in readings:
        if reading.cache.id not in whys and (why := _objection(reading, observation, needs, rules, unions, stays, moment)):
            whys[reading.cache.id] = why
    candidates: list[tuple[CacheReading, Need]] = []
    waiting: dict[str, Why] = {}
    for reading in readings:
        union = unions.get(reading.cache.id)
        if union is not None and (why := hindered(reading, union, whys)) is not None:
            waiting.setdefault(reading.cache.id, why)
        elif reading.cache.id not in whys and (union is None or union.members[0] is reading):
            candidates.append((union.reading if union is not None else reading, needs[reading.device_id or 0]))
    whys = {**waiting, **whys}
    housed = Choice(observation, rules).choose(candidates, needs)
    moves = [
        move
        for item in housed
        for reading, need in candidates
        if reading is item.reading
        for move in _moves(item, need, rules, unions)
    ]
    moving = {move.cache_id for move in moves}
    refusals = [
        _refusal(reading, whys.get(reading.cache.id) or _left_over(reading, unions, needs, housed, observation.stores, rules))
        for reading in readings
        if reading.cache.id not in moving
    ]
    shares = tuple(_share(need.fs, observation.caches) for need in needs.values() if need.pressure is not Pressure.NORMAL)
    return Plan(tuple(moves), tuple(refusals), shares)


def staying(observation: Observation, needs: Mapping[int, Need], rules: Rules) -> dict[str, Why]:
    """Return what lastingly speaks against each cache for what it is and where it lies, by id."""
    whys = {}
    for reading in observation.caches:
        why = unmovable(reading, needs, rules) or enclosing(reading, observation.caches)
        if why is not None:
            whys[reading.cache.id] = why
    return whys


def _objection(
    reading: CacheReading,
    observation: Observation,
    needs: Mapping[int, Need],
    rules: Rules,
    unions: Mapping[str, Union],
    stays: Mapping[str, Why],
    moment: Moment,
) -> Why | None:
    """Return what speaks against moving a cache that may be moved, with all that goes together with it."""
    union, need = unions.get(reading.cache.id), needs[reading.device_id or 0]
    whole = union.reading if union is not None else reading
    is_purged = reading.cache.purge_command is not None
    return (
        worthless(whole, need, rules)
        or grows_later(reading, observation, stays, union)
        or unneeded(whole, need, rules)
        or (None if is_purged else unhoused(whole, observation.stores, rules))
        or passing(reading, need, rules, moment)
    )


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
        kept = reading.cache.move is False or reading.cache.pinned is not None
        if reading.device_id is not None and wanted and not kept:
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


def _left_over(
    reading: CacheReading,
    unions: Mapping[str, Union],
    needs: Mapping[int, Need],
    housed: Sequence[Housed],
    stores: Sequence[StoreReading],
    rules: Rules,
) -> Why:
    """Return why a cache that could be moved alone is not part of the plan."""
    if (around := outer(reading, housed)) is not None:
        return Reason.ENOUGH, f"moves together with {around.cache.id} ('{around.cache.path}')"
    need, union = needs[reading.device_id or 0], unions.get(reading.cache.id)
    whole = union.reading if union is not None else reading
    fs, low = need.fs, print_free(rules.bytes_marks.low, "bytes")
    if is_over_limit(whole) or any(lack(need, housed)):
        no_help = Reason.NOTHING_FREED, f"would free nothing of what {fs.mount} lacks"
        return unhoused(whole, stores, rules, housed) or no_help
    moved = [item.reading for item in housed if item.reading.device_id == fs.device_id]
    if not moved:
        return Reason.ENOUGH, f"{fs.mount} is at {print_share(fs.usage)} and low is {low}: nothing is left to free"
    after = (fs.used_bytes - sum(r.size.reclaimable_bytes for r in moved)) / max(1, fs.used_bytes + fs.available_bytes)
    names = ", ".join(r.cache.id for r in moved)
    return Reason.ENOUGH, f"moving {names} brings {fs.mount} to {print_share(max(0.0, after))}, low is {low}"


def _moves(item: Housed, need: Need, rules: Rules, unions: Mapping[str, Union]) -> list[Move]:
    """Return the moves of what is chosen: of a union one for each of its members, with what comes back at that step."""
    union = next((union for union in unions.values() if union.reading is item.reading), None)
    if union is None:
        return [_move(item.reading, item.store, item.reading.size.reclaimable_bytes, need, rules)]
    moves = []
    for member, freed in zip(union.members, union.freed_bytes, strict=True):
        move = _move(member, item.store, freed, need, rules)
        moves.append(replace(move, why=f"{move.why}; {describe(member, union)}"))
    return moves


def _move(reading: CacheReading, store: StoreReading | None, freed: int, need: Need, rules: Rules) -> Move:
    size, fs, command = reading.size, need.fs, reading.cache.purge_command
    frees = f"{'moving' if command is None else 'purging'} frees"
    amount = print_bytes(freed)
    if is_over_limit(reading):
        limit = print_bytes(reading.cache.limit_bytes or 0)
        why = f"{print_bytes(size.size_bytes)} is over its limit of {limit}; {frees} {amount}"
    elif need.pressure is Pressure.NORMAL or (need.size_bytes == need.over_budget_bytes > 0):
        over, budget = print_bytes(need.over_budget_bytes), print_bytes(rules.budget_bytes or 0)
        why = f"the caches on {fs.mount} are {over} over their budget of {budget}; {frees} {amount}"
    elif need.size_bytes > 0:
        mark = _mark_reached(fs.usage, fs.used_bytes + fs.available_bytes, rules.bytes_marks, "bytes")
        low = print_free(rules.bytes_marks.low, "bytes")
        why = f"{fs.mount} is at {print_share(fs.usage)}, {mark}; {frees} {amount} towards {low}"
    else:
        mark = _mark_reached(fs.inodes_usage, fs.inodes_used + fs.inodes_available, rules.inodes_marks, "inodes")
        frees += f" {count_entries(reading):,} towards {print_free(rules.inodes_marks.low, 'inodes')}"
        why = f"{fs.mount} has {print_share(fs.inodes_usage)} of its inodes in use, {mark}; {frees}"
    return Move(reading.cache.id, reading.cache.path, store.path if store else "", size.size_bytes, freed, why, command)


def _mark_reached(usage: float, total: int, marks: Watermarks, what: str) -> str:
    if usage >= marks.flood.as_usage(total):
        return f"flood is {print_free(marks.flood, what)}"
    return f"high is {print_free(marks.high, what)}"
