"""
What to tell, and when to stay quiet.

Pure: what has been told is a `Memory` that goes in and comes out, so a restarted daemon that kept it says nothing
twice. Only changes of state make a notice; `wording.py` has the texts.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from survived.decide import guardian, wording
from survived.decide.guardian import ToldLink
from survived.decide.reasons import is_below
from survived.model import (
    CacheState,
    Filesystem,
    LinkReading,
    LinkState,
    Notice,
    Observation,
    Plan,
    Pressure,
    Reason,
    Stage,
    StoreReading,
    Verb,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from survived.model import Operation, Rules

_PASSING = frozenset({Reason.BUSY, Reason.RECENT, Reason.COOLDOWN, Reason.UNSETTLED, Reason.FAILED_BEFORE})
_PATIENCE_SECONDS = 600.0  # how long reasons that pass by themselves are given to do so
_WORSE = 0.01  # nothing is repeated before usage is a point worse than when it was told
_DISK_HYSTERESIS = 0.02
_FAILURE_SECONDS = 86400.0  # a failure without an episode around it is told again after a day


@dataclass(frozen=True, slots=True)
class Episode:
    """One stretch of pressure on one mount, from its first notice to recovery. Usages are of `quantity`."""

    mount: str
    quantity: str
    since: float
    first_usage: float
    worst_usage: float
    told: Pressure
    stuck_since: float | None = None
    stuck_usage: float | None = None  # as it was when "nothing can be moved" was told


@dataclass(frozen=True, slots=True)
class Disk:
    """What was last told of one store."""

    path: str
    ok: bool
    filling: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure that was told; the numbers in `error` are left out, so that another pid is no news."""

    source: str
    error: str
    time: float


@dataclass(frozen=True, slots=True)
class Memory:
    """All that has been told and still holds."""

    episodes: tuple[Episode, ...] = ()
    disks: tuple[Disk, ...] = ()
    failures: tuple[Failure, ...] = ()
    links: tuple[ToldLink, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the memory as values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: object) -> Memory:
        """Return the memory from what `to_dict` gave; anything else is an empty memory, which only tells once more."""
        try:
            parts = data if isinstance(data, dict) else {}
            return cls(
                tuple(Episode(**{**item, "told": Pressure(item["told"])}) for item in parts["episodes"]),
                tuple(Disk(**item) for item in parts["disks"]),
                tuple(Failure(**item) for item in parts["failures"]),
                tuple(ToldLink(**{**item, "state": LinkState(item["state"])}) for item in parts.get("links", ())),
            )
        except (KeyError, TypeError, ValueError):
            return cls()


Told = tuple[Memory, tuple[Notice, ...]]


def recalled(kept: Memory, since: Memory) -> Memory:
    """Return what was kept before this process began, with what it has told of the disks since: that one was away."""
    disks = {disk.path: disk for disk in (*kept.disks, *since.disks)}
    return replace(kept, disks=tuple(disks.values()))


def on_observation(
    memory: Memory,
    observation: Observation,
    pressures: Mapping[str, Pressure],
    plan: Plan,
    now: float,
    *,
    rules: Rules,
    host: str,
    growers: Sequence[tuple[str, int]] = (),
) -> Told:
    """
    Return what changed since the last observation as notices.

    `plan` belongs to this observation. `growers` are names and the bytes by which they grew lately, largest first.
    A state that was never seen before is told if it is a bad one.
    """
    notices: list[Notice] = []
    episodes: list[Episode] = []
    recovered = False
    for fs in observation.filesystems:
        pressure = pressures.get(fs.mount, Pressure.NORMAL)
        episode = next((item for item in memory.episodes if item.mount == fs.mount), None)
        if pressure is Pressure.NORMAL:
            if episode is not None and _is_above_low(fs, episode, rules):
                episodes.append(episode)  # a daemon that was started anew waits for its dwell; nothing has recovered
            elif episode is not None:
                notices.append(wording.recovered(host, fs, episode, now))
                recovered = True
            continue
        full = wording.fullness(fs, rules, episode.quantity if episode else None)
        if episode is None:
            notices.append(wording.pressure(host, full, pressure, observation, plan, growers, now))
            episode = Episode(fs.mount, full.quantity, now, full.usage, full.usage, pressure)
        elif pressure is Pressure.FLOOD and episode.told is not Pressure.FLOOD:
            notices.append(wording.pressure(host, full, pressure, observation, plan, growers, now))
            episode = replace(episode, told=pressure)
        episode = replace(episode, worst_usage=max(episode.worst_usage, full.usage))
        stuck = _step_stuck(episode, full, observation, plan, now)
        if stuck.stuck_usage != episode.stuck_usage:
            notices.append(wording.stuck(host, full, observation, plan, now))
        episodes.append(stuck)
    disks, about_disks = _step_disks(memory.disks, observation, rules, now, host)
    failures = () if recovered and not episodes else memory.failures
    return replace(memory, episodes=tuple(episodes), disks=disks, failures=failures), (*notices, *about_disks)


def on_stores(memory: Memory, observation: Observation, now: float, *, rules: Rules, host: str) -> Told:
    """Return what changed of the data disks alone; `observation` is the last one with the stores as they are now."""
    disks, notices = _step_disks(memory.disks, observation, rules, now, host)
    return replace(memory, disks=disks), tuple(notices)


def on_links(memory: Memory, readings: Sequence[LinkReading], now: float, *, host: str, spared: Collection[str] = ()) -> Told:
    """Return which links stand otherwise than they were told; `spared` are targets that cannot be judged now."""
    links, fresh = guardian.news(memory.links, readings, spared)
    notices = tuple(wording.link(host, reading, guardian.judge(reading), now) for reading in fresh)
    return replace(memory, links=links), notices


def on_merged(memory: Memory, name: str, source: str, target: str, kept: Sequence[str], now: float, *, host: str) -> Told:
    """Return the notice that a stand-in and the tree behind its link are one again; `kept`: files of which there are two."""
    return memory, (wording.merged(host, name, source, target, kept, now),)


def on_moved(
    memory: Memory,
    operation: Operation,
    before: Filesystem | None,
    after: Filesystem | None,
    now: float,
    *,
    host: str,
) -> Told:
    """Return the notice that an operation is done; `before` and `after` are the filesystem that holds its source."""
    if operation.stage is not Stage.DONE:
        return memory, ()
    kept = tuple(failure for failure in memory.failures if failure.source != operation.source)
    return replace(memory, failures=kept), (wording.moved(host, operation, before, after, now),)


def on_failed(memory: Memory, cache_id: str, source: str, error: str, now: float, *, host: str, verb: Verb = Verb.RELOCATE) -> Told:
    """Return the notice that a move failed: once for each error of a source, until recovery or a day later."""
    told, is_news = _remember(memory, source, error, now)
    return told, (wording.failed(host, verb, cache_id, source, error, now),) if is_news else ()


def on_trouble(memory: Memory, title: str, text: str, now: float, *, host: str) -> Told:
    """Return the notice of something that concerns no cache: once for each text, until recovery or a day later."""
    told, is_news = _remember(memory, title, text, now)
    return told, (wording.trouble(host, title, text, now),) if is_news else ()


def _remember(memory: Memory, source: str, error: str, now: float) -> tuple[Memory, bool]:
    """Return the memory with this failure in it, and whether it was not there; numbers in the text make no news."""
    key = re.sub(r"\d+", "#", error)
    kept = tuple(failure for failure in memory.failures if now - failure.time < _FAILURE_SECONDS)
    if any((failure.source, failure.error) == (source, key) for failure in kept):
        return replace(memory, failures=kept), False
    return replace(memory, failures=(*kept, Failure(source, key, now))), True


def _is_above_low(fs: Filesystem, episode: Episode, rules: Rules) -> bool:
    if episode.quantity == "bytes":
        return fs.usage > rules.bytes_marks.low.as_usage(fs.used_bytes + fs.available_bytes)
    return fs.inodes_usage > rules.inodes_marks.low.as_usage(fs.inodes_used + fs.inodes_available)


def _step_stuck(episode: Episode, full: wording.Fullness, observation: Observation, plan: Plan, now: float) -> Episode:
    """Return the episode after looking whether anything can be moved; a new `stuck_usage` means: tell it now."""
    here = {r.cache.id for r in observation.caches if r.device_id == full.fs.device_id}
    reasons = {refusal.reason for refusal in plan.refusals if refusal.cache_id in here}
    going_on = any(reading.state is CacheState.MOVING for reading in observation.caches)
    if going_on or full.excess == 0 or Reason.PAUSED in reasons or any(move.cache_id in here for move in plan.moves):
        return replace(episode, stuck_since=None)
    since = now if episode.stuck_since is None else min(episode.stuck_since, now)
    if reasons & _PASSING and now - since < _PATIENCE_SECONDS:
        return replace(episode, stuck_since=since)
    if episode.stuck_usage is not None and full.usage < episode.stuck_usage + _WORSE:
        return replace(episode, stuck_since=since)
    return replace(episode, stuck_since=since, stuck_usage=full.usage)


def _step_disks(
    known: Sequence[Disk], observation: Observation, rules: Rules, now: float, host: str
) -> tuple[tuple[Disk, ...], list[Notice]]:
    notices: list[Notice] = []
    disks: list[Disk] = []
    for store in observation.stores:
        disk = next((item for item in known if item.path == store.path), None)
        if disk is None or disk.ok != store.ok:
            if not store.ok:
                notices.append(wording.disk_gone(host, store, observation, now, was_ok=disk is not None))
            elif disk is not None:
                notices.append(wording.disk_back(host, store, now))
        filling = _is_filling(store, rules, was=disk is not None and disk.filling)
        if filling and not (disk is not None and disk.filling):
            notices.append(wording.disk_fills(host, store, rules, now))
        disks.append(Disk(store.path, store.ok, filling))
    for disk in known:
        # A disk that is no longer even found was lost if something lives there, else it was taken out of the settings.
        lives_there = any(is_below(reading.target, disk.path) for reading in observation.caches if reading.target)
        if lives_there and all(store.path != disk.path for store in observation.stores):
            if disk.ok:
                lost = StoreReading(disk.path, disk.path, ok=False, reason="it is no longer found")
                notices.append(wording.disk_gone(host, lost, observation, now, was_ok=True))
            disks.append(replace(disk, ok=False))
    return tuple(disks), notices


def _is_filling(store: StoreReading, rules: Rules, *, was: bool) -> bool:
    if not store.ok:
        return was  # unknown; another word about it would only be noise beside the disk that is gone
    mark = rules.keep_free.as_usage(store.used_bytes + store.available_bytes)
    return store.usage >= (mark - _DISK_HYSTERESIS if was else mark)
