"""
What explains how full a disk is: what grew since the last notice, what is deleted but still open, what else is big. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from survived.decide.sentences import GREW, PARTS, body_of
from survived.model import CacheState, Notice
from survived.units import print_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from survived.decide.sentences import Parts, Voice
    from survived.findings import DeletedOpen, Grower
    from survived.model import Filesystem, Observation

LISTED = 5
_GROWN_BYTES = 1 << 20  # less is no growth that anybody would look for
_WORTH = 0.01  # of what is used: smaller ones explain nothing


@dataclass(frozen=True, slots=True)
class Growth:
    """What grew, by name and bytes, the most first; `since` the last notice, or since survived looks if there was none."""

    growers: tuple[tuple[str, int], ...] = ()
    since: float = 0.0
    is_first: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    """What lies on one filesystem beside the caches that we know: files without a name, and big directories by size."""

    deleted: tuple[DeletedOpen, ...] = ()
    hogs: tuple[tuple[str, int], ...] = ()


def cache_sizes(observation: Observation) -> dict[str, int]:
    """Return the caches at home by size, to compare later ones with."""
    return {r.cache.id: r.size.size_bytes for r in observation.caches if r.state is CacheState.HOME and r.error is None}


def growth(before: Mapping[str, int], after: Mapping[str, int], hogs: Iterable[Grower], since: float, *, is_first: bool) -> Growth:
    """
    Return what grew, of the caches (`before` and `after` by id) and of what else is big.

    A cache that was not known before is no growth: it may have come home, or into the catalogue.
    """
    grown = [(name, size - before[name]) for name, size in after.items() if name in before]
    grown += [(item.path, item.grown_bytes) for item in hogs]
    most = sorted((item for item in grown if item[1] >= _GROWN_BYTES), key=lambda item: (-item[1], item[0]))
    return Growth(tuple(most[:LISTED]), since, is_first)


def with_growth(notices: Sequence[Notice], voice: Voice, grown: Growth, now: float) -> tuple[Notice, ...]:
    """Return the notices with the top growers in the place that they have among the parts."""
    if not grown.growers:
        return tuple(notices)
    rows = voice.row(voice.say("{name} +{size}", name=name, size=print_bytes(size)) for name, size in grown.growers)
    ago = voice.duration(now - grown.since)
    if grown.is_first:
        line = voice.say("Grew most in the last {ago}: {names}.", ago=ago, names=rows)
    else:
        line = voice.say("Grew most since the last notice, {ago} ago: {names}.", ago=ago, names=rows)
    told = []
    for item in notices:
        parts: Parts = tuple(sorted((*item.parts, (GREW, (line,))), key=lambda part: PARTS.index(part[0])))
        told.append(Notice(item.topic, item.level, item.title, body_of(parts), item.time, parts))
    return tuple(told)


def explanation(voice: Voice, fs: Filesystem, found: Evidence | None) -> list[str]:
    """Return sentences about what beside the caches fills a filesystem, if it is enough to explain anything."""
    if found is None:
        return []
    least = _WORTH * fs.used_bytes
    lines = []
    for item in [item for item in found.deleted if item.size_bytes >= least][:LISTED]:
        values = {"path": item.path, "pid": item.pid, "program": item.command, "size": print_bytes(item.size_bytes)}
        if item.pid == 0:
            lines.append(voice.say("Deleted, but still open: '{path}', held by the kernel, {size}.", **values))
        elif item.also:
            more = len(item.also)
            text = "Deleted, but still open: '{path}', held by pid {pid} {program} and {more} more, {size}."
            lines.append(voice.say(text, more=more, **values))
        else:
            lines.append(voice.say("Deleted, but still open: '{path}', held by pid {pid} {program}, {size}.", **values))
    big = [(path, size) for path, size in found.hogs if size >= least][:LISTED]
    if big:
        rows = voice.row(voice.say("'{path}' {size}", path=path, size=print_bytes(size)) for path, size in big)
        lines.append(voice.say("Big beside the known caches: {names}.", names=rows))
    return lines


def remedies(voice: Voice, fs: Filesystem, found: Evidence | None) -> list[str]:
    """Return what can be done about it, each with its command."""
    if found is None:
        return []
    least = _WORTH * fs.used_bytes
    pids = [item.pid for item in found.deleted if item.size_bytes >= least and item.pid][:1]
    text = "The room of deleted files comes back when their program ends. If it may: {command}"
    return [voice.say(text, command=f"kill {pid}") for pid in pids]
