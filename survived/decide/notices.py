"""
What to tell, and when to stay quiet.

Pure: what has been told is a `Memory` that goes in and comes out, so a restarted daemon that kept it says nothing
twice. Only changes of state make a notice; `wording.py` has the texts.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from survived.decide import guardian, losses, wording
from survived.decide.memory import Disk, Episode, Failure, Memory
from survived.decide.reasons import is_below
from survived.model import (
    CacheState,
    Filesystem,
    LinkReading,
    Notice,
    Observation,
    Plan,
    Pressure,
    Reason,
    Stage,
    StoreReading,
    Topic,
    Verb,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from survived.decide.evidence import Evidence
    from survived.decide.sentences import Voice
    from survived.model import Operation, Rules

_PASSING = frozenset({Reason.BUSY, Reason.RECENT, Reason.COOLDOWN, Reason.UNSETTLED, Reason.FAILED_BEFORE})
_PATIENCE_SECONDS = 600.0  # how long reasons that pass by themselves are given to do so
_WORSE = 0.01  # what lasts is told anew when usage is a point worse than when it was told
_DISK_HYSTERESIS = 0.02
_FAILURE_SECONDS = 86400.0  # after which a failure without an episode around it may be told again


Told = tuple[Memory, tuple[Notice, ...]]


def on_observation(
    memory: Memory,
    observation: Observation,
    pressures: Mapping[str, Pressure],
    plan: Plan,
    now: float,
    *,
    rules: Rules,
    voice: Voice,
    repeat_seconds: float = 0.0,
    evidence: Mapping[str, Evidence] | None = None,
) -> Told:
    """
    Return what changed since the last observation as notices.

    `plan` belongs to this observation. `evidence` is, by mount, what else explains how full it is; it changes no decision,
    so a caller may ask without first, and look for it only where there is something to tell. A state that was never seen
    before is told if it is a bad one; what lasts is told again after `repeat_seconds`, with 0 never.
    """
    notices: list[Notice] = []
    episodes: list[Episode] = []
    recovered = False
    for fs in observation.filesystems:
        pressure = pressures.get(fs.mount, Pressure.NORMAL)
        before = next((item for item in memory.episodes if item.mount == fs.mount), None)
        if pressure is Pressure.NORMAL:
            if before is not None and _is_above_low(fs, before, rules):
                episodes.append(before)  # a daemon that was started anew waits for its dwell; nothing has recovered
            elif before is not None:
                notices.append(wording.recovered(voice, fs, before, now))
                recovered = True
            continue
        full = wording.fullness(fs, rules, before.quantity if before else None)
        after, topics = _step(before, full, pressure, observation, plan, now, repeat_seconds)
        episodes.append(after)
        found = (evidence or {}).get(fs.mount)
        for topic in topics:
            if topic is Topic.STUCK:
                notices.append(wording.stuck(voice, full, observation, plan, found, now))
            elif topic in (Topic.WORSE, Topic.STILL) and before is not None:
                tell = wording.worse if topic is Topic.WORSE else wording.still
                notices.append(tell(voice, full, before, observation, plan, found, now))
            else:
                notices.append(wording.pressure(voice, full, pressure, observation, plan, found, now))
    disks, about_disks = _step_disks(memory.disks, observation, rules, now, voice, repeat_seconds)
    failures = () if recovered and not episodes else memory.failures
    return replace(memory, episodes=tuple(episodes), disks=disks, failures=failures), (*notices, *about_disks)


def on_stores(memory: Memory, observation: Observation, now: float, *, rules: Rules, voice: Voice) -> Told:
    """Return what changed of the data disks alone; `observation` is the last one with the stores as they are now."""
    disks, notices = _step_disks(memory.disks, observation, rules, now, voice, 0.0)
    return replace(memory, disks=disks), tuple(notices)


def on_links(
    memory: Memory,
    readings: Sequence[LinkReading],
    now: float,
    *,
    voice: Voice,
    spared: Collection[str] = (),
    repeat_seconds: float = 0.0,
) -> Told:
    """Return which links stand otherwise than they were told; `spared` are targets that cannot be judged now."""
    links, fresh = guardian.news(memory.links, readings, spared, now=now, repeat_seconds=repeat_seconds)
    known = {(item.target, item.state, item.leads_to) for item in memory.links}
    notices = []
    for reading in fresh:
        state = guardian.judge(reading)
        is_repeated = (reading.item.target, state, reading.leads_to) in known
        notices.append(losses.link(voice, reading, state, now, is_repeated=is_repeated))
    return replace(memory, links=links), tuple(notices)


def on_purged(
    memory: Memory, name: str, source: str, command: str, size_bytes: int, freed_bytes: int, now: float, *, voice: Voice
) -> Told:
    """Return the notice that a cache was purged."""
    return memory, (losses.purged(voice, name, source, command, size_bytes, freed_bytes, now),)


def on_merged(memory: Memory, name: str, source: str, target: str, kept: Sequence[str], now: float, *, voice: Voice) -> Told:
    """Return the notice that a stand-in and the tree behind its link are one again; `kept`: files of which there are two."""
    return memory, (losses.merged(voice, name, source, target, kept, now),)


def on_moved(
    memory: Memory,
    operation: Operation,
    before: Filesystem | None,
    after: Filesystem | None,
    now: float,
    *,
    voice: Voice,
) -> Told:
    """Return the notice that an operation is done; `before` and `after` are the filesystem that holds its source."""
    if operation.stage is not Stage.DONE:
        return memory, ()
    kept = tuple(failure for failure in memory.failures if failure.source != operation.source)
    episodes = memory.episodes
    if operation.verb is Verb.RELOCATE and after is not None:
        freed = wording.freed_bytes(operation, before, after)
        name = operation.cache_id or operation.source
        episodes = tuple(
            replace(item, moved=(*item.moved, name), freed_bytes=item.freed_bytes + freed) if item.mount == after.mount else item
            for item in episodes
        )
    return replace(memory, failures=kept, episodes=episodes), (wording.moved(voice, operation, before, after, now),)


def on_failed(
    memory: Memory,
    cache_id: str,
    source: str,
    error: str,
    now: float,
    *,
    voice: Voice,
    verb: Verb = Verb.RELOCATE,
    repeat_seconds: float = _FAILURE_SECONDS,
) -> Told:
    """Return the notice that a move failed: once for each error of a source, until recovery or `repeat_seconds` later."""
    told, is_news = _remember(memory, source, error, now, repeat_seconds)
    return told, (wording.failed(voice, verb, cache_id, source, error, now),) if is_news else ()


def on_trouble(
    memory: Memory, title: str, text: str, now: float, *, voice: Voice, repeat_seconds: float = _FAILURE_SECONDS
) -> Told:
    """Return the notice of something that concerns no cache: once for each text, until recovery or `repeat_seconds` later."""
    told, is_news = _remember(memory, title, text, now, repeat_seconds)
    return told, (wording.trouble(voice, title, text, now),) if is_news else ()


def _remember(memory: Memory, source: str, error: str, now: float, repeat_seconds: float) -> tuple[Memory, bool]:
    """Return the memory with this failure in it, and whether it was not there; numbers in the text make no news."""
    key = re.sub(r"\d+", "#", error)
    kept = tuple(failure for failure in memory.failures if now - failure.time < repeat_seconds)
    if any((failure.source, failure.error) == (source, key) for failure in kept):
        return replace(memory, failures=kept), False
    return replace(memory, failures=(*kept, Failure(source, key, now))), True


def _is_above_low(fs: Filesystem, episode: Episode, rules: Rules) -> bool:
    if episode.quantity == "bytes":
        return fs.usage > rules.bytes_marks.low.as_usage(fs.used_bytes + fs.available_bytes)
    return fs.inodes_usage > rules.inodes_marks.low.as_usage(fs.inodes_used + fs.inodes_available)


def _step(
    before: Episode | None, full: wording.Fullness, pressure: Pressure, observation: Observation, plan: Plan, now: float,
    repeat_seconds: float,
) -> tuple[Episode, list[Topic]]:  # fmt: skip
    """Return the episode after one look under pressure, and what is to be told of it."""
    topics: list[Topic] = []
    begins = Topic.FLOOD if pressure is Pressure.FLOOD else Topic.PRESSURE
    if before is None:
        episode = Episode(full.fs.mount, full.quantity, now, full.usage, full.usage, pressure)
        topics.append(begins)
    else:
        episode = before
        if pressure is Pressure.FLOOD and before.told is not Pressure.FLOOD:
            episode = replace(before, told=pressure)
            topics.append(begins)
    episode = _step_stuck(replace(episode, worst_usage=max(episode.worst_usage, full.usage)), full, observation, plan, now)
    if before is None or episode.stuck_usage != before.stuck_usage:
        topics += [Topic.STUCK] if episode.stuck_usage is not None else []
    if before is not None and not topics:
        is_helped = _is_going_on(observation) or bool(wording.moves_on(full.fs, observation, plan))
        if full.usage >= before.told_usage + _WORSE - 1e-9 and not is_helped:
            topics.append(Topic.WORSE)
        elif 0.0 < repeat_seconds <= now - before.told_at:
            topics.append(Topic.STILL)
    return (replace(episode, told_usage=full.usage, told_at=now) if topics else episode), topics


def _is_going_on(observation: Observation) -> bool:
    return any(reading.state is CacheState.MOVING for reading in observation.caches)


def _step_stuck(episode: Episode, full: wording.Fullness, observation: Observation, plan: Plan, now: float) -> Episode:
    """Return the episode after looking whether anything can be moved; a new `stuck_usage` means: tell it now."""
    here = {r.cache.id for r in observation.caches if r.device_id == full.fs.device_id}
    reasons = {refusal.reason for refusal in plan.refusals if refusal.cache_id in here}
    is_paused = Reason.PAUSED in reasons
    if _is_going_on(observation) or full.excess == 0 or is_paused or any(move.cache_id in here for move in plan.moves):
        return replace(episode, stuck_since=None)
    since = now if episode.stuck_since is None else min(episode.stuck_since, now)
    if (reasons & _PASSING and now - since < _PATIENCE_SECONDS) or episode.stuck_usage is not None:
        return replace(episode, stuck_since=since)
    return replace(episode, stuck_since=since, stuck_usage=full.usage)


def _step_disks(
    known: Sequence[Disk], observation: Observation, rules: Rules, now: float, voice: Voice, repeat_seconds: float
) -> tuple[tuple[Disk, ...], list[Notice]]:
    notices: list[Notice] = []
    disks: list[Disk] = []
    for store in observation.stores:
        disk = next((item for item in known if item.path == store.path), None)
        if disk is None or disk.ok != store.ok:
            if not store.ok:
                notices.append(losses.disk_gone(voice, store, observation, now, was_ok=disk is not None))
            elif disk is not None:
                notices.append(losses.disk_back(voice, store, now))
            changed = Disk(store.path, store.ok, disk is not None and disk.filling, now, now)
        else:
            changed = disk
        filling = _is_filling(store, rules, was=changed.filling)
        if filling and not changed.filling:
            notices.append(losses.disk_fills(voice, store, rules, now))
            changed = replace(changed, told_at=now)
        elif disk is changed and (not store.ok or filling) and 0.0 < repeat_seconds <= now - changed.told_at:
            again = changed.since or changed.told_at or now
            notices.append(
                losses.disk_fills(voice, store, rules, now) if store.ok
                else losses.disk_gone(voice, store, observation, now, was_ok=True, since=again)
            )  # fmt: skip
            changed = replace(changed, told_at=now)
        disks.append(replace(changed, filling=filling))
    for disk in known:
        # A disk that is no longer even found was lost if something lives there, else it was taken out of the settings.
        lives_there = any(is_below(reading.target, disk.path) for reading in observation.caches if reading.target)
        if lives_there and all(store.path != disk.path for store in observation.stores):
            lost = StoreReading(disk.path, disk.path, ok=False, reason="it is no longer found")
            if disk.ok:
                notices.append(losses.disk_gone(voice, lost, observation, now, was_ok=True))
                disk = replace(disk, ok=False, since=now, told_at=now)
            elif 0.0 < repeat_seconds <= now - disk.told_at:
                again = disk.since or disk.told_at or now
                notices.append(losses.disk_gone(voice, lost, observation, now, was_ok=True, since=again))
                disk = replace(disk, told_at=now)
            disks.append(disk)
    return tuple(disks), notices


def _is_filling(store: StoreReading, rules: Rules, *, was: bool) -> bool:
    if not store.ok:
        return was  # unknown; another word about it would only be noise beside the disk that is gone
    total = store.used_bytes + store.available_bytes
    mark = min(rules.keep_free.as_usage(total), rules.data_high.as_usage(total))
    return store.usage >= (mark - _DISK_HYSTERESIS if was else mark)
