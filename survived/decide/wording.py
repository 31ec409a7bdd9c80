"""
The texts of notices about pressure and about moves: plain, short enough for a chat.

In this order: what happened, what we did about it, what is left to do with the exact command, what grew, how to undo it.
A title has 70 characters at most and starts with the host, because a person gets notices from eight of them.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from survived.decide.evidence import LISTED, explanation, remedies
from survived.decide.pressure import excess_bytes, excess_inodes
from survived.decide.retelling import retell
from survived.decide.sentences import DID, HAPPENED, LEFT, UNDO, clean, notice
from survived.model import CacheState, Kind, Level, Pressure, Reason, Topic, Verb
from survived.units import print_bytes, print_share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from survived.decide.evidence import Evidence
    from survived.decide.sentences import Voice
    from survived.model import CacheReading, Filesystem, Mark, Move, Notice, Observation, Operation, Plan, Refusal, Rules

_MOUNT = 24  # of a longer mount point its end names it
_YOURSELF = frozenset({Reason.NOT_OPTED_IN, Reason.REPORT_ONLY, Reason.TOO_SMALL})
_PASSING = frozenset({Reason.BUSY, Reason.RECENT, Reason.COOLDOWN, Reason.UNSETTLED})


@dataclass(frozen=True, slots=True)
class Fullness:
    """How one filesystem stands in the quantity that it is short of: `bytes` or `inodes`."""

    fs: Filesystem
    quantity: str
    usage: float
    high: Mark
    low: Mark
    flood: Mark
    excess: int


class _Episode(Protocol):
    @property
    def quantity(self) -> str: ...
    @property
    def since(self) -> float: ...
    @property
    def first_usage(self) -> float: ...
    @property
    def worst_usage(self) -> float: ...
    @property
    def told_usage(self) -> float: ...
    @property
    def told_at(self) -> float: ...
    @property
    def moved(self) -> tuple[str, ...]: ...
    @property
    def freed_bytes(self) -> int: ...


def fullness(fs: Filesystem, rules: Rules, quantity: str | None = None) -> Fullness:
    """Return how full a filesystem under pressure is, in `quantity` or else in the one that is further above low."""
    in_bytes, in_inodes = excess_bytes(fs, rules), excess_inodes(fs, rules)
    if quantity is None:
        share = in_bytes / max(1, fs.used_bytes + fs.available_bytes)
        inodes_share = in_inodes / max(1, fs.inodes_used + fs.inodes_available)
        quantity = "inodes" if inodes_share > share else "bytes"
    marks, usage, excess = (
        (rules.bytes_marks, fs.usage, in_bytes) if quantity == "bytes" else (rules.inodes_marks, fs.inodes_usage, in_inodes)
    )
    return Fullness(fs, quantity, usage, marks.high, marks.low, marks.flood, excess)


def pressure(
    voice: Voice, full: Fullness, state: Pressure, observation: Observation, plan: Plan, found: Evidence | None, now: float
) -> Notice:
    """Return the notice that pressure begins, or has become a flood."""
    fs, is_flood = full.fs, state is Pressure.FLOOD
    standing, left = _standing(voice, full), _left(voice, full)
    if is_flood:
        mark, headline = _mark(voice, full, full.flood), voice.say("FLOOD: {standing}", standing=standing)
        happened = voice.say("{standing} (flood is {mark}): {left}.", standing=standing, mark=mark, left=left)
    else:
        mark, headline = _mark(voice, full, full.high), standing
        happened = voice.say("{standing} (high is {mark}): {left}.", standing=standing, mark=mark, left=left)
    parts = _doing(voice, full, observation, plan)
    parts[HAPPENED] = [happened, *explanation(voice, fs, found)]
    parts[LEFT] += remedies(voice, fs, found)
    topic, level = (Topic.FLOOD, Level.FAILURE) if is_flood else (Topic.PRESSURE, Level.WARNING)
    return notice(voice, topic, level, headline, parts, now)


def stuck(voice: Voice, full: Fullness, observation: Observation, plan: Plan, found: Evidence | None, now: float) -> Notice:
    """Return the notice that nothing can be moved: the biggest caches, why each stays, and what helps."""
    standing = _standing(voice, full)
    happened = voice.say(
        "{standing} (high is {mark}), {lack} must go to reach {low}, and nothing can be moved.",
        standing=standing, mark=_mark(voice, full, full.high), lack=_lack(voice, full), low=_mark(voice, full, full.low),
    )  # fmt: skip
    parts = _helpless(voice, full, observation, plan, found)
    parts[HAPPENED] = [happened, *explanation(voice, full.fs, found)]
    headline = voice.say("{standing}, nothing can be moved", standing=standing)
    return notice(voice, Topic.STUCK, Level.WARNING, headline, parts, now)


def worse(
    voice: Voice, full: Fullness, episode: _Episode, observation: Observation, plan: Plan, found: Evidence | None, now: float
) -> Notice:
    """Return the notice that a disk under pressure is fuller by a point or more than when it was told last."""
    was = print_share(episode.told_usage)
    happened = voice.say(
        "{standing} (high is {mark}): {left}. It was at {was} when that was told last, {ago} ago.",
        standing=_standing(voice, full), mark=_mark(voice, full, full.high), left=_left(voice, full), was=was,
        ago=voice.duration(now - episode.told_at),
    )  # fmt: skip
    headline = voice.say("{standing}, worse than {was}", standing=_standing(voice, full), was=was)
    return _lasting(voice, Topic.WORSE, headline, happened, full, observation, plan, found, now)


def still(
    voice: Voice, full: Fullness, episode: _Episode, observation: Observation, plan: Plan, found: Evidence | None, now: float
) -> Notice:
    """Return the reminder that pressure lasts."""
    ago = voice.duration(now - episode.since)
    happened = voice.say(
        "{standing} (high is {mark}): {left}. It has been above the marks for {ago}.",
        standing=_standing(voice, full), mark=_mark(voice, full, full.high), left=_left(voice, full), ago=ago,
    )  # fmt: skip
    headline = voice.say("{standing}, still, for {ago}", standing=_standing(voice, full), ago=ago)
    return _lasting(voice, Topic.STILL, headline, happened, full, observation, plan, found, now)


def recovered(voice: Voice, fs: Filesystem, episode: _Episode, now: float) -> Notice:
    """Return the notice that pressure has ended: how long it lasted, from what to what, and what was moved for it."""
    usage = print_share(fs.usage if episode.quantity == "bytes" else fs.inodes_usage)
    values = {"first": print_share(episode.first_usage), "usage": usage, "worst": print_share(episode.worst_usage)}
    lasted = voice.duration(now - episode.since)
    lines = [voice.say("The pressure on {mount} lasted {duration}.", mount=fs.mount, duration=lasted)]
    is_worse = episode.worst_usage >= episode.first_usage + 0.01
    if episode.quantity == "bytes":
        text = "It went from {first} to {usage} (at most {worst})." if is_worse else "It went from {first} to {usage}."
        headline = voice.say("{mount} has recovered, {usage}", mount=fs.mount, usage=usage)
    else:
        text = (
            "It went from {first} of its inodes to {usage} (at most {worst})." if is_worse
            else "It went from {first} of its inodes to {usage}."
        )  # fmt: skip
        headline = voice.say("{mount} has recovered, {usage} of its inodes", mount=fs.mount, usage=usage)
    lines.append(voice.say(text, **values))
    left = voice.say("Nothing is left to do. What lives on a data disk: {command}", command="survivectl list")
    parts = {HAPPENED: lines, LEFT: [left]}
    if episode.moved:
        names, freed = voice.row(episode.moved, LISTED), print_bytes(episode.freed_bytes)
        parts[DID] = [voice.say("Moved meanwhile: {names}. That freed {size}.", names=names, size=freed)]
        words = " ".join(shlex.quote(name) for name in episode.moved)
        parts[UNDO] = [voice.say("To undo it: {command}", command=f"survivectl restore {words}")]
    return notice(voice, Topic.RECOVERED, Level.SUCCESS, headline, parts, now)


def moved(voice: Voice, operation: Operation, before: Filesystem | None, after: Filesystem | None, now: float) -> Notice:
    """Return the notice that something was relocated, restored or rehomed, with the command that undoes it."""
    name, word = operation.cache_id or operation.source, shlex.quote(operation.cache_id or operation.source)
    values = {
        "source": operation.source, "target": operation.target, "origin": operation.origin, "name": name,
        "size": print_bytes(operation.size_bytes), "files": f"{operation.files:,}",
    }  # fmt: skip
    if operation.verb is Verb.RESTORE:
        did = [voice.say("'{source}' ({size}, {files} files) is at home again; it came from '{target}'.", **values)]
        topic, headline = Topic.RESTORED, voice.say("{name} is at home again", **values)
        undo = f"survivectl relocate {word}"
    elif operation.verb is Verb.REHOME:
        text = "'{source}' ({size}, {files} files) moved from '{origin}' to '{target}'. Its path stays the same."
        did = [voice.say(text, **values)]
        disk = operation.origin.partition("/survived/trees/")[0]
        topic, headline = Topic.REHOMED, voice.say("{name} moved to another data disk", **values)
        undo = f"survivectl rehome {word} --to {shlex.quote(disk)}"
        before = after = None  # of the path's own filesystem, which gained nothing
    else:
        freed = print_bytes(freed_bytes(operation, before, after))
        text = "'{source}' ({size}, {files} files) lives at '{target}' now, behind a link. Its path stays the same."
        did = [voice.say(text, **values), voice.say("That freed {freed}.", freed=freed)]
        topic, headline = Topic.RELOCATED, voice.say("{name} relocated, {freed} freed", freed=freed, **values)
        undo = f"survivectl restore {word}"
    parts: dict[str, list[str]] = {DID: did, UNDO: [voice.say("To undo it: {command}", command=undo)]}
    if before is not None and after is not None:
        usages = {"before": print_share(before.usage), "after": print_share(after.usage)}
        left = print_bytes(after.available_bytes)
        text = "{mount} went from {before} to {after}, {left} are available."
        parts[HAPPENED] = [voice.say(text, mount=after.mount, left=left, **usages)]
    if operation.note:
        parts[LEFT] = [clean(operation.note), voice.say("Look at them.")]
    else:
        parts[LEFT] = [voice.say("Nothing is left to do.")]
    return notice(voice, topic, Level.SUCCESS, headline, parts, now)


def freed_bytes(operation: Operation, before: Filesystem | None, after: Filesystem | None) -> int:
    """Return what a relocation gave back to its filesystem: as the engine counted it, else by two readings."""
    if operation.freed_bytes == 0 and before is not None and after is not None:
        return max(0, before.used_bytes - after.used_bytes)
    return operation.freed_bytes


def failed(voice: Voice, verb: Verb, cache_id: str, source: str, error: str, now: float) -> Notice:
    """Return the notice that an operation failed. `error` says what we did about it."""
    name = cache_id or source
    headline = {
        Verb.RELOCATE: voice.say("{name} was not relocated", name=name),
        Verb.RESTORE: voice.say("{name} was not restored", name=name),
        Verb.REHOME: voice.say("{name} was not rehomed", name=name),
    }[verb]
    see = voice.say("This is about '{source}'. To see how it stands: {command}", source=source, command="survivectl status")
    again = voice.say("To try again: {command}", command=f"survivectl {verb} {shlex.quote(name)}")
    parts = {HAPPENED: [retell(voice, clean(error))], LEFT: [see, again]}
    return notice(voice, Topic.FAILED, Level.FAILURE, headline, parts, now)


def trouble(voice: Voice, title: str, text: str, now: float) -> Notice:
    """Return the notice of something that concerns no cache; `text` says what is left to do."""
    return notice(voice, Topic.TROUBLE, Level.WARNING, voice.say(title), {HAPPENED: [clean(text)]}, now)


# ---- what is done, and what helps -----------------------------------------------------------------------------------------


def moves_on(fs: Filesystem, observation: Observation, plan: Plan) -> list[Move]:
    """Return what the plan moves away from one filesystem."""
    here = {reading.cache.id for reading in _readings(fs, observation)}
    return [move for move in plan.moves if move.cache_id in here]


def _lasting(
    voice: Voice, topic: Topic, headline: str, happened: str, full: Fullness, observation: Observation, plan: Plan,
    found: Evidence | None, now: float,
) -> Notice:  # fmt: skip
    """Return a notice about pressure that was told before: what is done about it now, or why nothing can be."""
    doing = _doing(voice, full, observation, plan)
    parts = doing if moves_on(full.fs, observation, plan) or _is_paused(plan) else _helpless(voice, full, observation, plan, found)
    parts[HAPPENED] = [happened, *explanation(voice, full.fs, found)]
    return notice(voice, topic, Level.WARNING, headline, parts, now)


def _doing(voice: Voice, full: Fullness, observation: Observation, plan: Plan) -> dict[str, list[str]]:
    """Return what is done about pressure, what is left, and how to undo it."""
    here = {reading.cache.id for reading in _readings(full.fs, observation)}
    moves = moves_on(full.fs, observation, plan)
    if moves:
        return _moving(voice, moves, _mark(voice, full, full.low))
    if _is_paused(plan):
        did = voice.say("Nothing is moved, because moving is paused.")
        return {DID: [did], LEFT: [voice.say("To go on: {command}", command="survivectl resume")]}
    if waiting := [r for r in plan.refusals if r.cache_id in here and r.reason in _PASSING]:
        named = "; ".join(f"{clean(refusal.cache_id)}: {retell(voice, refusal.text)}" for refusal in waiting[:LISTED])
        did = voice.say("Waiting for what could be moved: {named}.", named=named)
        return {DID: [did], LEFT: [voice.say("It follows by itself. To see all: {command}", command="survivectl plan")]}
    did = voice.say("Nothing can be moved at the moment.")
    return {DID: [did], LEFT: [voice.say("To see why: {command}", command="survivectl plan")]}


def _moving(voice: Voice, moves: Sequence[Move], low: str) -> dict[str, list[str]]:
    """Return what moves where and what is purged; only what moves can be undone."""
    parts: dict[str, list[str]] = {DID: [], UNDO: []}
    relocated, purged = ([move for move in moves if (move.command is None) is moved] for moved in (True, False))
    if relocated:
        names = voice.row((f"{move.cache_id} ({print_bytes(move.reclaimable_bytes)})" for move in relocated), LISTED)
        disks = voice.row(f"'{path}'" for path in dict.fromkeys(move.store_path for move in relocated))
        words = " ".join(shlex.quote(move.cache_id) for move in relocated[:LISTED])
        parts[DID].append(voice.say("Moving to {disks}, until {low}: {names}.", disks=disks, low=low, names=names))
        parts[UNDO].append(voice.say("To undo it afterwards: {command}", command=f"survivectl restore {words}"))
    if purged:
        names = voice.row((f"{move.cache_id} ({print_bytes(move.reclaimable_bytes)})" for move in purged), LISTED)
        parts[DID].append(voice.say("Emptying by the commands of their tools: {names}.", names=names))
    parts[LEFT] = [voice.say("Nothing is left for you to do. To hold it: {command}", command="survivectl pause 1h")]
    return parts


def _helpless(voice: Voice, full: Fullness, observation: Observation, plan: Plan, found: Evidence | None) -> dict[str, list[str]]:
    """Return the biggest caches with what keeps each of them, and what a person can do."""
    reasons = {(refusal.cache_id, refusal.path): refusal for refusal in plan.refusals}
    biggest = sorted(_readings(full.fs, observation), key=lambda r: (-r.size.size_bytes, r.cache.id))
    listed = [(r, reasons[key]) for r in biggest if (key := (r.cache.id, r.cache.path)) in reasons][:LISTED]
    if listed:
        did = [voice.say("Nothing was moved. The biggest caches on it:")]
        for r, refusal in listed:
            size, why = print_bytes(r.size.size_bytes), retell(voice, refusal.text)
            did.append("- " + voice.say("{name}, {size}: {why}", name=r.cache.id, size=size, why=why))
    else:
        did = [voice.say("Nothing was moved: no cache that we know lies on it.")]
    hints = [*remedies(voice, full.fs, found), *_hints(voice, listed, observation)]
    return {DID: did, LEFT: [voice.say("What helps:"), *(f"- {hint}" for hint in hints)]}


def _hints(voice: Voice, listed: Sequence[tuple[CacheReading, Refusal]], observation: Observation) -> list[str]:
    """Return what a person can do, each with its command, for the reasons that hold the biggest caches."""
    reasons = {refusal.reason for _, refusal in listed}
    hints = []
    if any(store.ok for store in observation.stores):
        mine = [r for r, why in listed if why.reason in _YOURSELF][:1]
        hints += [voice.say("Move it yourself: {command}", command=f"survivectl relocate {shlex.quote(r.cache.id)}") for r in mine]
    else:
        hints.append(voice.say("Name a data disk in [data] disks of config.toml, then: {command}", command="survivectl check"))
    if Reason.NO_ROOM in reasons:
        text = "Make room on the data disk, or name another one in [data] disks, then: {command}"
        hints.append(voice.say(text, command="survivectl reload"))
    if Reason.BUSY in reasons:
        hints.append(voice.say("End the programs that are named above; the move follows by itself"))
    cleanable = [r.cache for r, _ in listed if r.cache.kind is Kind.CACHE and r.cache.clean_command]
    hints += [voice.say("Empty {name}: {command}", name=cache.id, command=cache.clean_command) for cache in cleanable[:2]]
    hints.append(voice.say("See what else is big: {command}", command="survivectl hogs"))
    return hints


# ---- how it stands --------------------------------------------------------------------------------------------------------


def _standing(voice: Voice, full: Fullness) -> str:
    mount = full.fs.mount if len(full.fs.mount) <= _MOUNT else f"…{full.fs.mount[-_MOUNT:]}"
    if full.quantity == "bytes":
        return voice.say("{mount} is at {share}", mount=mount, share=print_share(full.usage))
    return voice.say("{mount} has {share} of its inodes in use", mount=mount, share=print_share(full.usage))


def _left(voice: Voice, full: Fullness) -> str:
    fs = full.fs
    if full.quantity == "bytes":
        left, whole = print_bytes(fs.available_bytes), print_bytes(fs.capacity_bytes)
        return voice.say("{left} of {whole} are available", left=left, whole=whole)
    return voice.say("{count} inodes are available", count=f"{fs.inodes_available:,}")


def _lack(voice: Voice, full: Fullness) -> str:
    return print_bytes(full.excess) if full.quantity == "bytes" else voice.say("{count} inodes", count=f"{full.excess:,}")


def _mark(voice: Voice, full: Fullness, mark: Mark) -> str:
    return voice.mark(mark, full.quantity)


def _is_paused(plan: Plan) -> bool:
    return any(refusal.reason is Reason.PAUSED for refusal in plan.refusals)


def _readings(fs: Filesystem, observation: Observation) -> list[CacheReading]:
    """Return the caches that lie on a filesystem."""
    return [r for r in observation.caches if r.device_id == fs.device_id and r.state is CacheState.HOME]
