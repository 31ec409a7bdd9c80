"""
Every rule that speaks about one cache, with its numbers: for whoever wonders why it moves, or why it does not.

Pure, and the same functions that `policy.plan` asks. All rules speak here, also those behind the first that objects.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from survived.decide import reasons
from survived.decide.housing import find_store, store_room, unhoused
from survived.decide.policy import needs_of, staying
from survived.decide.pressure import print_free
from survived.decide.ranking import HOT_SECONDS, Reluctance, last_use, reluctance
from survived.decide.together import describe, grows_later, links_by_design, partner_stores, unite
from survived.units import print_bytes, print_seconds, print_share

if TYPE_CHECKING:
    from collections.abc import Mapping

    from survived.decide.reasons import Moment, Need
    from survived.model import CacheReading, Gauge, Move, Observation, Plan, Pressure, Rules


@dataclass(frozen=True, slots=True)
class Spoken:
    """What one rule says. `objects`: it alone would keep the cache where it is."""

    rule: str
    objects: bool
    text: str


def explain(
    reading: CacheReading,
    observation: Observation,
    pressures: Mapping[str, Pressure],
    rules: Rules,
    plan: Plan,
    moment: Moment,
    gauges: Mapping[str, tuple[Gauge, Gauge]] | None = None,
) -> tuple[Spoken, ...]:
    """Return what each rule says, in the order in which the plan asks them; the last is the plan's own word."""
    needs = needs_of(observation, pressures, rules, gauges or {})
    stays = staying(observation, needs, rules)
    union = unite(observation, stays).get(reading.cache.id)
    whole = union.reading if union is not None else reading
    said: list[Spoken] = []

    def say(rule: str, why: reasons.Why | None, otherwise: str) -> None:
        said.append(Spoken(rule, why is not None, why[1] if why is not None else otherwise))

    size = reading.size
    say("place", reasons.elsewhere(reading), f"'{reading.cache.path}', by {reading.cache.rule}")
    say("wanted", reasons.unwanted(reading, rules), _wanted(reading))
    say("tree", reasons.unfit(reading, needs), "one filesystem that is watched, all of it ours and readable")
    say("inside", reasons.enclosing(reading, observation.caches), "nothing in it has to stay")
    need = needs.get(reading.device_id) if reading.device_id is not None else None
    if need is not None:
        share = size.reclaimable_bytes / size.size_bytes if size.size_bytes else 0.0
        frees = (
            describe(reading, union)
            if union is not None
            else f"moving {print_bytes(size.size_bytes)} frees {print_bytes(size.reclaimable_bytes)} ({print_share(share)})"
        )
        say("worth", reasons.worthless(whole, need, rules), f"{frees}; min_size is {print_bytes(rules.min_size_bytes)}")
        if links_by_design(reading):
            why = grows_later(reading, observation, stays, union)
            say("later", why, f"{need.fs.mount} does not grow by it: little of it is linked from what stays")
        say("limit", None, _limit(reading))
        say("need", reasons.unneeded(whole, need, rules), _lacks(need, rules))
        if (command := reading.cache.purge_command) is not None:
            say("purge", None, f"is purged instead of moved, by: {shlex.join(command)}")
        else:
            store = find_store(whole, observation.stores, rules, near=partner_stores(reading, observation.caches))
            room = print_bytes(store_room(store, rules.keep_free)) if store is not None else ""
            say("room", unhoused(whole, observation.stores, rules), f"'{store.path if store else ''}' has room for {room}")
        say("moment", reasons.passing(reading, need, rules, moment), _quiet(reading, moment, rules))
        say("use", None, _use(reading, observation))
    path = reading.cache.path
    said += [
        Spoken("plan", objects=False, text=f"{_way(move)}: {move.why}")
        for move in plan.moves if move.source == path
    ]  # fmt: skip
    said += [
        Spoken("plan", objects=True, text=f"stays ({refusal.reason}): {refusal.text}")
        for refusal in plan.refusals if refusal.path == path
    ]  # fmt: skip
    return tuple(said)


def _way(move: Move) -> str:
    return f"moves to '{move.store_path}'" if move.command is None else f"is purged by '{shlex.join(move.command)}'"


def _wanted(reading: CacheReading) -> str:
    cache = reading.cache
    if cache.move is True:
        return f"[caches.{cache.id}] says move = true"
    return f"its kind, {cache.kind}, is among those that move"


def _limit(reading: CacheReading) -> str:
    limit = reading.cache.limit_bytes
    if limit is None:
        return "it has no limit of its own"
    return f"it is {'over' if reasons.is_over_limit(reading) else 'under'} its limit of {print_bytes(limit)}"


def _lacks(need: Need, rules: Rules) -> str:
    fs = need.fs
    parts = [f"{fs.mount} is at {print_share(fs.usage)}, pressure {need.pressure}"]
    if need.size_bytes:
        parts.append(f"{print_bytes(need.size_bytes)} to free towards {print_free(rules.bytes_marks.low, 'bytes')}")
    if need.inodes:
        parts.append(f"{need.inodes:,} inodes to free")
    if need.over_budget_bytes:
        parts.append(f"its caches are {print_bytes(need.over_budget_bytes)} over their budget")
    return "; ".join(parts)


def _quiet(reading: CacheReading, moment: Moment, rules: Rules) -> str:
    age = max(0.0, moment.now - reading.size.newest_change)
    return f"nobody has files open there; unchanged for {print_seconds(age)}, settle is {print_seconds(rules.settle_seconds)}"


def _use(reading: CacheReading, observation: Observation) -> str:
    step = reluctance(reading, observation.time, observation.stores)
    ago = print_seconds(max(0.0, observation.time - last_use(reading)))
    if step is Reluctance.COLD:
        return f"last used {ago} ago: goes before what was used within {print_seconds(HOT_SECONDS)}"
    slow = ", and its small files would suffer on a disk that seeks" if step is Reluctance.SLOWED else ""
    return f"last used {ago} ago: goes only if what is unused does not free enough{slow}"
