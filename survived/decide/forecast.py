"""
When will it be full, and when to look again.

Pure: samples and rates are parameters. The level always wins over the slope: a disk that is full is full now, although
it no longer grows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from survived.model import Filesystem, Rules, Sample

_WINDOWS = (600.0, 3600.0, 21600.0)  # the shortest that is warm and grows: a burst counts now, a trickle over hours
_WARM_SAMPLES = 5
_WARM_SECONDS = 60.0
_SLOTS = 48  # samples compared in one window; 1,128 pairs take under a millisecond
_DROP = 0.01  # of the total: a fall this deep (a move, a clean-up) begins a new story
_FAR_SECONDS = 365 * 86400.0

_SHORTEST = 1.0
_LONGEST = 60.0
_STANDING = 10.0  # longest wait for a disk that stands still a short burst below its next mark
_SHORTEST_QUIET = 2.0
_BURST = 150e6  # bytes a second that an unpacking job writes to a good disk
_NEAR = 0.01
_NOTABLE = 0.0002  # of the total (86 MB on 431 GB): below it a log file ticks over and nothing "changes"
_HALF_LIFE = 3600.0
_MEASURABLE = 0.5  # seconds; a rate over less is noise


def seconds_to_full(samples: Sequence[Sample], now: float) -> float | None:
    """
    Return the seconds until nothing is available, or None while that cannot be told.

    `samples` are of one mount, oldest first. 0 when full already. None while there are fewer than five samples over a
    minute since the last clean-up, while usage does not grow, and for anything later than a year.
    """
    if not samples:
        return None
    last = samples[-1]
    if last.available_bytes <= 0:
        return 0.0
    recent = _since_last_drop(samples)
    for window in _WINDOWS:
        part = [sample for sample in recent if now - window <= sample.time <= now]
        if len(part) < _WARM_SAMPLES or part[-1].time - part[0].time < _WARM_SECONDS:
            continue
        slope = _slope(_spread(part))
        if slope > 0 and (left := last.available_bytes / slope - (now - last.time)) <= _FAR_SECONDS:
            return max(0.0, left)
    return None


@dataclass(frozen=True, slots=True)
class Rate:
    """
    How fast one filesystem fills, as `follow` keeps it between readings.

    The two rates are the fastest seen, halved every hour. `changed` is when usage last moved by a notable amount from
    the anchor: many small steps count once they add up.
    """

    time: float
    used_bytes: int
    inodes_used: int
    changed: float
    anchor_bytes: int
    anchor_inodes: int
    bytes_per_second: float = 0.0
    inodes_per_second: float = 0.0


def follow(rate: Rate | None, fs: Filesystem, now: float) -> Rate:
    """Return the rate after one more reading of the same filesystem."""
    if rate is None:
        return Rate(now, fs.used_bytes, fs.inodes_used, now, fs.used_bytes, fs.inodes_used)
    seconds = now - rate.time
    if seconds < 0:  # the clock was set back; rates survive, times begin anew
        return replace(rate, time=now, used_bytes=fs.used_bytes, inodes_used=fs.inodes_used, changed=now)
    if seconds < _MEASURABLE:
        return rate
    changed = abs(fs.used_bytes - rate.anchor_bytes) > _NOTABLE * (fs.used_bytes + fs.available_bytes) or abs(
        fs.inodes_used - rate.anchor_inodes
    ) > _NOTABLE * (fs.inodes_used + fs.inodes_available)
    fade = 0.5 ** (seconds / _HALF_LIFE)
    return Rate(
        now,
        fs.used_bytes,
        fs.inodes_used,
        now if changed else rate.changed,
        fs.used_bytes if changed else rate.anchor_bytes,
        fs.inodes_used if changed else rate.anchor_inodes,
        max((fs.used_bytes - rate.used_bytes) / seconds, rate.bytes_per_second * fade),
        max((fs.inodes_used - rate.inodes_used) / seconds, rate.inodes_per_second * fade),
    )


def next_wait(filesystems: Iterable[Filesystem], rules: Rules, rates: Mapping[str, Rate], now: float) -> float:
    """
    Return how long to sleep before the next reading, 1 to 60 seconds.

    A quarter of what the fastest seen rate needs to the next mark; 1 s at or above high and within 1 % of a mark. What
    stands still is left alone for longer and longer (a quarter of the time it has stood), up to 10 s where a burst
    could reach the next mark soon and 60 s elsewhere: a disk that stays at 95 % for days costs next to nothing. And
    below high never longer than a burst on a fast disk would take to reach it, since no burst announces itself.
    `rates` is by mount, from `follow`; an unknown filesystem is looked at again at once.
    """
    return min((_wait(fs, rules, rates.get(fs.mount), now) for fs in filesystems), default=_LONGEST)


def _wait(fs: Filesystem, rules: Rules, rate: Rate | None, now: float) -> float:
    if rate is None:
        return _SHORTEST
    wait = _LONGEST
    for used, available, marks, per_second in (
        (fs.used_bytes, fs.available_bytes, rules.bytes_marks, rate.bytes_per_second),
        (fs.inodes_used, fs.inodes_available, rules.inodes_marks, rate.inodes_per_second),
    ):
        total = used + available
        if total <= 0:
            continue
        usage, high, flood = used / total, marks.high.as_usage(total), marks.flood.as_usage(total)
        above = min((mark for mark in (high, flood) if mark > usage), default=1.0)
        seconds = max(0.0, above - usage) * total / per_second if per_second > 0 else inf
        near = usage >= high or min(abs(usage - high), abs(usage - flood)) <= _NEAR
        quick = _SHORTEST if near else seconds / 4
        patient = min(max(0.0, now - rate.changed) / 4, max(_STANDING, seconds / 4))
        wait = min(wait, max(quick, patient))
    if (headroom := _bytes_below_high(fs, rules)) > 0:
        wait = min(wait, max(_SHORTEST_QUIET, headroom / _BURST))
    return max(_SHORTEST, wait)


def _bytes_below_high(fs: Filesystem, rules: Rules) -> float:
    total = fs.used_bytes + fs.available_bytes
    return rules.bytes_marks.high.as_usage(total) * total - fs.used_bytes


def _since_last_drop(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Return the samples after the last notable fall, however many steps it took."""
    lowest = len(samples) - 1
    for i in range(len(samples) - 1, -1, -1):
        total = samples[i].used_bytes + samples[i].available_bytes
        if samples[i].used_bytes - samples[lowest].used_bytes >= max(1, int(_DROP * total)):
            return samples[lowest:]
        if samples[i].used_bytes <= samples[lowest].used_bytes:
            lowest = i
    return samples


def _spread(samples: Sequence[Sample]) -> list[Sample]:
    """Return at most one sample a slot of time, so that a minute of one-second readings does not outvote an hour."""
    first, span = samples[0].time, samples[-1].time - samples[0].time
    return list({int((sample.time - first) * _SLOTS / span): sample for sample in samples}.values())


def _slope(samples: Sequence[Sample]) -> float:
    """Return bytes a second as the median of all pairs' slopes (Theil-Sen): a file that comes and goes is not heard."""
    slopes = [
        (b.used_bytes - a.used_bytes) / (b.time - a.time)
        for i, a in enumerate(samples)
        for b in samples[i + 1 :]
        if b.time > a.time
    ]
    return median(slopes) if slopes else 0.0
