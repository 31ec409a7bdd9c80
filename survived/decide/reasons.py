"""
Why one cache is not moved, looked at alone: a reason as data and a sentence with numbers.

Pure. Each function returns None where it has nothing against the move; `policy.plan` asks them from the most lasting
reason to the most passing one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from survived.decide.pressure import print_free
from survived.model import Cache, CacheReading, CacheState, Filesystem, Kind, Pressure, Reason
from survived.units import print_bytes, print_seconds, print_share

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from survived.model import Rules

Why = tuple[Reason, str]

_PLURAL = {Kind.CACHE: "caches", Kind.ENVIRONMENT: "environments", Kind.STATE: "state directories"}
WORTH = 0.1  # moving must free at least this share of what it copies
_MANY_INODES = 100  # fewer entries than this help no filesystem that is out of inodes


@dataclass(frozen=True, slots=True)
class Need:
    """What one watched filesystem lacks until it is at low; nothing while its pressure is normal."""

    fs: Filesystem
    pressure: Pressure
    size_bytes: int = 0
    inodes: int = 0
    over_budget_bytes: int = 0  # of `size_bytes`, or more: what its caches take above their budget


def is_below(path: str, top: str) -> bool:
    """Tell whether `path` is `top` or lies below it, by name alone."""
    return path == top or path.startswith(top.rstrip("/") + "/")


def table_of(cache: Cache) -> str:
    """Return the table of the configuration that speaks about one cache, as TOML has it: a name with a colon is quoted."""
    plain = cache.id.replace("-", "").replace("_", "").isalnum()
    return f"[caches.{cache.id}]" if plain else f'[caches."{cache.id}"]'


def is_over_limit(reading: CacheReading) -> bool:
    """Tell whether a cache is larger than the user's limit for it."""
    limit = reading.cache.limit_bytes
    return limit is not None and reading.size.size_bytes > limit


def count_entries(reading: CacheReading) -> int:
    """Return the inodes that moving a cache frees, nearly: hard links are counted by name."""
    return reading.size.files + reading.size.directories


def unmovable(reading: CacheReading, needs: Mapping[int, Need], rules: Rules) -> Why | None:
    """Return why this cache is never moved as it is, whatever the disks look like."""
    return elsewhere(reading) or unwanted(reading, rules) or unfit(reading, needs)


def enclosing(reading: CacheReading, others: Iterable[CacheReading]) -> Why | None:
    """Return the cache below this one that the user told us not to move: the outer one would take it along."""
    for other in others:
        said = other.cache.pinned or (f"{table_of(other.cache)} says move = false" if other.cache.move is False else None)
        if said is None or other.state is not CacheState.HOME or other.cache.path == reading.cache.path:
            continue
        if is_below(other.cache.path, reading.cache.path):
            reason = Reason.PINNED if other.cache.pinned is not None else Reason.SWITCHED_OFF
            return reason, f"contains '{other.cache.path}', and {said}"
    return None


def worthless(reading: CacheReading, need: Need, rules: Rules) -> Why | None:
    """Return why moving would not help. A limit that is passed, or a lack of inodes, makes a small cache worth it."""
    size = reading.size
    rich_in_inodes = need.inodes > 0 and count_entries(reading) >= max(_MANY_INODES, need.inodes // 20)
    smallest = 0 if is_over_limit(reading) or rich_in_inodes else rules.min_size_bytes
    if size.size_bytes < smallest:
        return Reason.TOO_SMALL, f"{print_bytes(size.size_bytes)} is under the {print_bytes(smallest)} of min_size"
    if size.reclaimable_bytes < size.size_bytes * WORTH or size.reclaimable_bytes < smallest * WORTH:
        frees = f"moving {print_bytes(size.size_bytes)} would free {print_bytes(size.reclaimable_bytes)}"
        shares = f" (with {', '.join(reading.cache.shares_links_with)})" if reading.cache.shares_links_with else ""
        return Reason.NOTHING_FREED, f"hard-linked elsewhere{shares}: {frees}"
    return None


def unneeded(reading: CacheReading, need: Need, rules: Rules) -> Why | None:
    """Return why nothing is to be done: the filesystem has no pressure, the cache is under its limit, all are in their budget."""
    if need.pressure is not Pressure.NORMAL or is_over_limit(reading) or need.over_budget_bytes > 0:
        return None
    fs, high = need.fs, rules.bytes_marks.high
    mark = high.as_usage(fs.used_bytes + fs.available_bytes)
    if fs.usage >= mark:
        dwell = print_seconds(rules.dwell_seconds)
        return Reason.NOT_NEEDED, f"{fs.mount} is at {print_share(fs.usage)}, but has not been above high for {dwell}"
    # A share just under the mark is shown so that it also looks like it: 89.6 % and not 90 %.
    usage = print_share(fs.usage) if fs.usage < mark - 0.01 else f"{int(fs.usage * 1000) / 10:g} %"
    return Reason.NOT_NEEDED, f"{fs.mount} is at {usage}, high is {print_free(high, 'bytes')}"


@dataclass(frozen=True, slots=True)
class Moment:
    """What passes by itself: the time, what failed lately by source, and what a person asked for."""

    now: float
    failed: Mapping[str, str]
    paused: bool = False
    minute: int | None = None  # of the local day


def passing(reading: CacheReading, need: Need, rules: Rules, moment: Moment) -> Why | None:
    """Return why a cache that should be moved is not moved at this moment."""
    now, failed = moment.now, moment.failed
    if (error := failed.get(reading.cache.path)) is not None:
        return Reason.FAILED_BEFORE, f"the last attempt failed: {error}"
    if reading.holders:
        names = list(dict.fromkeys(f"{holder.name} (pid {holder.pid})" for holder in reading.holders))
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return Reason.BUSY, f"{', '.join(names[:3])}{more} {'has' if len(names) == 1 else 'have'} files open"
    # A time in the future comes from an unpacked archive, not from a tool at work, and would block for ever.
    if abs(age := now - reading.size.newest_change) < rules.settle_seconds:
        ago, settle = print_seconds(max(0.0, age)), print_seconds(rules.settle_seconds)
        return Reason.RECENT, f"changed {ago} ago, moves after {settle} of quiet"
    if moment.paused:
        return Reason.PAUSED, "moving is paused; survivectl resume ends that"
    if need.pressure is not Pressure.FLOOD and (span := quiet_span(moment.minute, rules.quiet_hours)) is not None:
        return Reason.QUIET_HOURS, f"quiet hours until {span[1] // 60:02d}:{span[1] % 60:02d}, which only a flood breaks"
    return None


def quiet_span(minute: int | None, spans: Iterable[tuple[int, int]]) -> tuple[int, int] | None:
    """Return the span of quiet hours that a minute of the day lies in; one may go past midnight."""
    for begin, end in spans:
        if minute is not None and (begin <= minute < end or (end <= begin and (minute >= begin or minute < end))):
            return begin, end
    return None


def elsewhere(reading: CacheReading) -> Why | None:
    """Return why there is no directory at home to move."""
    if reading.state is CacheState.ABSENT:
        return Reason.ABSENT, "there is nothing at this path"
    if reading.state is CacheState.DANGLING:
        end = f"'{reading.target}', where nothing is" if reading.target else "nothing"
        return Reason.DANGLING, f"its link points to {end}; is the data disk mounted?"
    if reading.state is CacheState.RELOCATED:
        return Reason.ALREADY_LINK, f"already lives at '{reading.target}'" if reading.target else "is a link already"
    if reading.state is CacheState.MOVING:
        return Reason.BUSY, "is being moved now"
    if reading.error is not None:
        is_file = "not a directory" in reading.error.lower()  # strerror(ENOTDIR)
        return (Reason.NOT_A_DIRECTORY if is_file else Reason.UNREADABLE), reading.error
    return None


def unwanted(reading: CacheReading, rules: Rules) -> Why | None:
    """Return why the user or the catalogue does not want it moved."""
    cache = reading.cache
    if cache.pinned is not None:
        return Reason.PINNED, f"never moved: {cache.pinned}"
    if cache.purge_command is not None:  # to purge it is another wish than to move it
        return None
    if cache.move is False:
        return Reason.SWITCHED_OFF, f"move = false in {table_of(cache)}"
    if cache.report_only is not None:
        return Reason.REPORT_ONLY, f"is only reported: {cache.report_only}"
    if cache.kind is Kind.TEMPORARY:
        return Reason.NOT_OPTED_IN, "temporary files are never moved"
    if cache.kind not in rules.kinds and cache.move is not True:
        ask = f'add "{cache.kind}" to kinds in [move], or set move = true in {table_of(cache)}'
        return Reason.NOT_OPTED_IN, f"{_PLURAL[cache.kind]} are moved only when you say so: {ask}"
    return None


def unfit(reading: CacheReading, needs: Mapping[int, Need]) -> Why | None:
    """Return what about the tree itself cannot be moved by us."""
    size = reading.size
    if size.mount_below == reading.cache.path:
        return Reason.MOUNT_POINT, "is a mount point itself"
    if reading.device_id not in needs:
        watched = ", ".join(need.fs.mount for need in needs.values()) or "nothing"
        return Reason.OTHER_FILESYSTEM, f"lies on a filesystem that is not watched (watched: {watched})"
    if size.mount_below is not None:
        return Reason.MOUNT_POINT, f"another filesystem is mounted below it, at '{size.mount_below}'"
    if size.foreign is not None:
        return Reason.NOT_OURS, f"'{size.foreign}' belongs to somebody else"
    if size.unreadable is not None:
        return Reason.UNREADABLE, f"'{size.unreadable}' cannot be read"
    return None
