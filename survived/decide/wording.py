"""
The texts of notices: plain, short enough for a chat.

In this order: what happened, what we did about it, what is left to do with the exact command, how to undo it. A title
has 70 characters at most and starts with the host, because a person gets notices from eight of them.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from survived.decide.pressure import excess_bytes, excess_inodes, print_free
from survived.decide.reasons import is_below
from survived.model import CacheState, Kind, Level, LinkState, Notice, Pressure, Reason, Verb
from survived.units import print_bytes, print_seconds, print_share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from survived.model import CacheReading, Filesystem, LinkReading, Observation, Operation, Plan, Refusal, Rules, StoreReading

_TITLE = 70
_LISTED = 5
_MOUNT = 24  # of a longer mount point its end names it
_YOURSELF = frozenset({Reason.NOT_OPTED_IN, Reason.REPORT_ONLY, Reason.TOO_SMALL})
_PASSING = frozenset({Reason.BUSY, Reason.RECENT, Reason.COOLDOWN, Reason.UNSETTLED})
_BY_HAND = "du -xh --max-depth=2 ~ | sort -h | tail"


@dataclass(frozen=True, slots=True)
class Fullness:
    """How one filesystem stands in the quantity that it is short of: `bytes` or `inodes`."""

    fs: Filesystem
    quantity: str
    usage: float
    high: str
    low: str
    flood: str
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
    high, low, flood = (print_free(mark, quantity) for mark in (marks.high, marks.low, marks.flood))
    return Fullness(fs, quantity, usage, high, low, flood, excess)


def pressure(
    host: str,
    full: Fullness,
    state: Pressure,
    observation: Observation,
    plan: Plan,
    growers: Sequence[tuple[str, int]],
    now: float,
) -> Notice:
    """Return the notice that pressure begins, or has become a flood."""
    fs = full.fs
    mark = f"flood is {full.flood}" if state is Pressure.FLOOD else f"high is {full.high}"
    left = (
        f"{print_bytes(fs.available_bytes)} of {print_bytes(fs.capacity_bytes)} are available"
        if full.quantity == "bytes"
        else f"{fs.inodes_available:,} inodes are available"
    )
    lines = [f"{_standing(full)} ({mark}): {left}."]
    if growers:
        grew = ", ".join(f"{name} +{print_bytes(size)}" for name, size in growers[:_LISTED])
        lines.append(f"Grew most lately: {grew}.")
    here = {reading.cache.id for reading in _readings(fs, observation)}
    moves = [move for move in plan.moves if move.cache_id in here]
    if moves:
        names = ", ".join(f"{move.cache_id} ({print_bytes(move.reclaimable_bytes)})" for move in moves[:_LISTED])
        more = f" and {len(moves) - _LISTED} more" if len(moves) > _LISTED else ""
        disks = ", ".join(f"'{path}'" for path in dict.fromkeys(move.store_path for move in moves))
        lines.append(f"Moving to {disks}, until {full.low}: {names}{more}.")
        lines.append("Nothing is left for you to do. To hold it: survivectl pause 1h. To undo a move: survivectl restore ID")
    elif any(refusal.reason is Reason.PAUSED and refusal.cache_id in here for refusal in plan.refusals):
        lines.append("Nothing is moved, because moving is paused. To go on: survivectl resume")
    elif waiting := [r for r in plan.refusals if r.cache_id in here and r.reason in _PASSING]:
        named = "; ".join(f"{refusal.cache_id}: {refusal.text}" for refusal in waiting[:_LISTED])
        lines.append(f"Waiting for what could be moved: {named}.")
        lines.append("It follows by itself. To see all: survivectl plan")
    else:
        lines.append("Nothing can be moved at the moment. To see why: survivectl plan")
    level = Level.FAILURE if state is Pressure.FLOOD else Level.WARNING
    loud = "FLOOD: " if state is Pressure.FLOOD else ""
    return _notice("pressure", level, f"{host}: {loud}{_standing(full)}", lines, now)


def recovered(host: str, fs: Filesystem, episode: _Episode, now: float) -> Notice:
    """Return the notice that pressure has ended: how long it lasted, from what to what."""
    usage, of = (fs.usage, "") if episode.quantity == "bytes" else (fs.inodes_usage, " of its inodes")
    at_most = "" if episode.worst_usage < episode.first_usage + 0.01 else f" (at most {print_share(episode.worst_usage)})"
    lines = [
        f"The pressure on {fs.mount} lasted {print_seconds(max(0.0, now - episode.since))}.",
        f"It went from {print_share(episode.first_usage)}{of} to {print_share(usage)}{at_most}.",
        "Nothing is left to do. What lives on a data disk now: survivectl list",
    ]
    return _notice("recovered", Level.SUCCESS, f"{host}: {fs.mount} has recovered, {print_share(usage)}{of}", lines, now)


def stuck(host: str, full: Fullness, observation: Observation, plan: Plan, now: float) -> Notice:
    """Return the notice that nothing can be moved: the biggest caches, why each stays, and what helps."""
    fs = full.fs
    lack = print_bytes(full.excess) if full.quantity == "bytes" else f"{full.excess:,} inodes"
    lines = [f"{_standing(full)} (high is {full.high}), {lack} must go to reach {full.low}, and nothing can be moved."]
    reasons = {(refusal.cache_id, refusal.path): refusal for refusal in plan.refusals}
    biggest = sorted(_readings(fs, observation), key=lambda r: (-r.size.size_bytes, r.cache.id))
    listed = [(r, reasons[key]) for r in biggest if (key := (r.cache.id, r.cache.path)) in reasons][:_LISTED]
    if listed:
        lines.append("The biggest caches on it:")
        lines += [f"- {r.cache.id}, {print_bytes(r.size.size_bytes)}: {refusal.text}" for r, refusal in listed]
    else:
        lines.append("No cache that we know lies on it.")
    lines.append("What helps:")
    lines += [f"- {hint}" for hint in _hints(listed, observation)]
    return _notice("stuck", Level.WARNING, f"{host}: {_standing(full)}, nothing can be moved", lines, now)


def moved(host: str, operation: Operation, before: Filesystem | None, after: Filesystem | None, now: float) -> Notice:
    """Return the notice that something was relocated, restored or rehomed, with the command that undoes it."""
    name = operation.cache_id or operation.source
    ends = f"'{operation.source}' ({print_bytes(operation.size_bytes)}, {operation.files:,} files)"
    word = shlex.quote(name)
    if operation.verb is Verb.RESTORE:
        lines = [f"{ends} is at home again; it came from '{operation.target}'."]
        topic, title, undo = "restored", f"{name} is at home again", f"survivectl relocate {word}"
    elif operation.verb is Verb.REHOME:
        lines = [f"{ends} moved from '{operation.origin}' to '{operation.target}'. Its path stays the same."]
        disk = operation.origin.partition("/survived/trees/")[0]
        topic, title, undo = "rehomed", f"{name} moved to another data disk", f"survivectl rehome {word} --to {shlex.quote(disk)}"
        before = after = None  # of the path's own filesystem, which gained nothing
    else:
        freed = operation.freed_bytes
        if freed == 0 and before is not None and after is not None:
            freed = max(0, before.used_bytes - after.used_bytes)
        lines = [f"{ends} lives at '{operation.target}' now, behind a link. Its path stays the same."]
        lines.append(f"That freed {print_bytes(freed)}.")
        topic, title, undo = "relocated", f"{name} relocated, {print_bytes(freed)} freed", f"survivectl restore {word}"
    if before is not None and after is not None:
        left = print_bytes(after.available_bytes)
        lines.append(f"{after.mount} went from {print_share(before.usage)} to {print_share(after.usage)}, {left} are available.")
    lines.append(
        f"{operation.note} Look at them. To undo it: {undo}" if operation.note else f"Nothing is left to do. To undo it: {undo}"
    )
    return _notice(topic, Level.SUCCESS, f"{host}: {title}", lines, now)


def failed(host: str, verb: Verb, cache_id: str, source: str, error: str, now: float) -> Notice:
    """Return the notice that an operation failed. `error` says what we did about it."""
    name = cache_id or source
    lines = [error, f"This is about '{source}'. To see how it stands: survivectl status"]
    lines.append(f"To try again: survivectl {verb} {shlex.quote(name)}")
    return _notice("failed", Level.FAILURE, f"{host}: {name} was not {verb}d", lines, now)


def trouble(host: str, title: str, text: str, now: float) -> Notice:
    """Return the notice of something that concerns no cache; `text` says what is left to do."""
    return _notice("trouble", Level.WARNING, f"{host}: {title}", [text], now)


def disk_gone(host: str, store: StoreReading, observation: Observation, now: float, *, was_ok: bool) -> Notice:
    """Return the notice that a data disk vanished, or could not be used from the start."""
    lines = [f"'{store.path}' cannot be used: {store.reason or 'no reason known'}."]
    lost = [r.cache.id for r in observation.caches if r.target and is_below(r.target, store.path)]
    if lost:
        lines.append(f"These live there and cannot be opened until it is back: {', '.join(lost)}.")
        lines.append("Where a tool fails on that (uv, npm, go, cargo do), an empty directory until then: survivectl standin ID")
    lines.append("Nothing is written to it meanwhile. Mount it again, then: survivectl check")
    what = "has vanished" if was_ok else "cannot be used"
    level = Level.FAILURE if was_ok else Level.WARNING
    return _notice("disk", level, f"{host}: data disk {_disk(store)} {what}", lines, now)


def disk_back(host: str, store: StoreReading, now: float) -> Notice:
    """Return the notice that a data disk is there again."""
    free = print_bytes(store.available_bytes)
    lines = [f"'{store.path}' can be used again, {free} are available.", "Nothing is left to do."]
    return _notice("disk", Level.INFO, f"{host}: data disk {_disk(store)} is back", lines, now)


def link(host: str, reading: LinkReading, state: LinkState, now: float) -> Notice:
    """Return the notice that a link of ours is not what we left, with what is safe and what can be done about it."""
    item, tree, path = reading.item, shlex.quote(reading.item.target), shlex.quote(reading.item.source)
    size = print_bytes(item.size_bytes)
    if state is LinkState.DANGLING:
        lines = [
            f"'{item.source}' leads to '{item.target}', and nothing is there any more, although the data disk is there.",
            "Some tools' clean commands remove the directory behind a link. The data disk holds no copy of what was there.",
            f"To begin anew behind the link: mkdir -m 700 {tree}",
            f"To begin anew at home: rm {path}",
        ]
        return _notice("dangling", Level.WARNING, f"{host}: link leads nowhere: {item.cache_id}", lines, now)
    what = {
        LinkState.EATEN: ("is a directory again", "replaced by a directory"),
        LinkState.GONE: ("is gone", "is gone"),
        LinkState.ELSEWHERE: (f"leads to '{reading.leads_to}' now" if reading.leads_to else "is a file now", "leads elsewhere"),
    }[state]
    lines = [f"'{item.source}' was a link to '{item.target}', and {what[0]}. A tool's own clean command may have done that."]
    lines.append(f"What was moved there is as it was ({size}); no link leads to it, and it takes room on the data disk.")
    if state is LinkState.EATEN:
        lines.append(f"To have both as one behind the link: survivectl orphans link {tree}")
    elif state is LinkState.GONE:
        lines.append(f"To have the link again: survivectl orphans link {tree}")
    lines.append(f"To remove what was moved: survivectl orphans remove {tree}")
    lines.append(f"To let the path be as it is now: survivectl orphans adopt {path}")
    return _notice(state.value, Level.WARNING, f"{host}: link {what[1]}: {item.cache_id}", lines, now)


def merged(host: str, name: str, source: str, target: str, kept: Sequence[str], now: float) -> Notice:
    """Return the notice that a stand-in was merged with what lies on its data disk."""
    lines = [f"The data disk is back, and '{source}' leads to '{target}': what was there and what came since are one again."]
    if kept:
        names = ", ".join(f"'{path}'" for path in kept[:_LISTED]) + (
            f" and {len(kept) - _LISTED} more" if len(kept) > _LISTED else ""
        )
        lines.append(f"Of these both sides had one. The later has the name, the earlier ends in .survived-earlier: {names}.")
    lines.append("Look at them." if kept else "Nothing is left to do.")
    return _notice("standin", Level.INFO, f"{host}: stand-in merged: {name}", lines, now)


def disk_fills(host: str, store: StoreReading, rules: Rules, now: float) -> Notice:
    """Return the notice that a data disk has reached what is kept free on it."""
    lines = [
        f"'{store.path}' has {print_bytes(store.available_bytes)} available; "
        f"[data] keep_free allows {print_free(rules.keep_free, 'bytes')}{' used' if rules.keep_free.usage else ''}.",
        "Nothing more is moved there.",
        "Make room on it, or name another disk in [data] disks and run: survivectl reload",
    ]
    return _notice("disk", Level.WARNING, f"{host}: data disk {_disk(store)} is at {print_share(store.usage)}", lines, now)


def _disk(store: StoreReading) -> str:
    """Return the user's directory on the data disk: of a disk that is gone, the mount is another one by now."""
    return store.path.removesuffix("/survived")


def _standing(full: Fullness) -> str:
    mount = full.fs.mount if len(full.fs.mount) <= _MOUNT else f"…{full.fs.mount[-_MOUNT:]}"
    if full.quantity == "bytes":
        return f"{mount} is at {print_share(full.usage)}"
    return f"{mount} has {print_share(full.usage)} of its inodes in use"


def _readings(fs: Filesystem, observation: Observation) -> list[CacheReading]:
    """Return the caches that lie on a filesystem."""
    return [r for r in observation.caches if r.device_id == fs.device_id and r.state is CacheState.HOME]


def _hints(listed: Sequence[tuple[CacheReading, Refusal]], observation: Observation) -> list[str]:
    """Return what a person can do, each with its command, for the reasons that hold the biggest caches."""
    reasons = {refusal.reason for _, refusal in listed}
    hints = []
    if any(store.ok for store in observation.stores):
        hints += [f"Move it yourself: survivectl relocate {r.cache.id}" for r, why in listed if why.reason in _YOURSELF][:1]
    else:
        hints.append("Name a data disk in [data] disks of config.toml, then: survivectl check")
    if Reason.NO_ROOM in reasons:
        hints.append("Make room on the data disk, or name another one in [data] disks, then: survivectl reload")
    if Reason.BUSY in reasons:
        hints.append("End the programs that are named above; the move follows by itself")
    cleanable = [r.cache for r, _ in listed if r.cache.kind is Kind.CACHE and r.cache.clean_command]
    hints += [f"Empty {cache.id}: {cache.clean_command}" for cache in cleanable[:2]]
    hints.append(f"See what else is big: {_BY_HAND}")
    return hints


def _notice(topic: str, level: Level, title: str, lines: Sequence[str], now: float) -> Notice:
    """Return a notice whose text is safe to send: names may hold line breaks and bytes that are not UTF-8."""
    short = _plain(title)
    if len(short) > _TITLE:
        short = short[: _TITLE - 1] + "…"
    return Notice(topic, level, short, "\n".join(_plain(line) for line in lines), now)


def _plain(text: str) -> str:
    readable = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "�" for char in readable)
