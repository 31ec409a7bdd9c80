"""
When will it be full, and when to look again.

Pure: samples and rates are parameters. The level always wins over the slope: a disk that is full is full now, although
it no longer grows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from survived.model import Filesystem, Rules, Sample

_WINDOWS = (600.0, 1200.0, 3600.0, 21600.0)
"""A growth is told from the shortest that shows it, if all longer ones show it, too: a burst does not fill an hour."""
_LONG_WINDOWS = (86400.0, 7 * 86400.0)
"""What only grows at night, or is half cleaned up each morning, grows by its floor over days."""
_WARM_SAMPLES = 5
_WARM_SECONDS = 180.0
_WARM_SHARE = 0.6  # of a long window
_SLOTS = 6
_GROWING = 0.8  # of the steps from slot to slot
_FULL = 0.0005  # of the total: what flickers there when others write until the last block
_DROP = 0.01  # of the total: a fall this deep (a move, a clean-up) begins a new story
_FAR_SECONDS = 365 * 86400.0
_STEPS = ((3600.0, 300.0), (21600.0, 3600.0))  # from this age on, one sample in so many seconds

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

    `samples` are of one mount, oldest first. 0 when full already, also when usage has stopped there. None while there are
    fewer than five samples over three minutes since the last clean-up, while usage does not grow, and for anything later than
    a year. A growth that the longer windows do not show yet is told only if it would fill the disk within as long as it has
    lasted: an unpacking or a nightly job ends.
    """
    if not samples:
        return None
    last = samples[-1]
    if last.available_bytes <= _FULL * (last.used_bytes + last.available_bytes):
        return 0.0
    recent = _since_last_drop(samples)
    seen = [_trend(_within(recent, now, window)) for window in _WINDOWS]
    for number, trend in enumerate(seen):
        if trend is None or trend.slope <= 0:
            continue
        left = last.available_bytes / trend.slope - (now - last.time)
        longer = [other for other in seen[number + 1 :] if other is not None]
        if (all(other.slope > 0 for other in longer) or left <= trend.span) and left <= _FAR_SECONDS:
            return max(0.0, left)
    return _over_days(samples, now)


def _over_days(samples: Sequence[Sample], now: float) -> float | None:
    """Return the seconds until full by the floors of days."""
    last = samples[-1]
    for window in _LONG_WINDOWS:
        trend = _trend(_within(samples, now, window))
        if trend is not None and trend.slope > 0 and trend.span >= _WARM_SHARE * window:
            left = last.available_bytes / trend.slope - (now - last.time)
            if left <= _FAR_SECONDS:
                return max(0.0, left)
    return None


@dataclass(frozen=True, slots=True)
class _Trend:
    """What one window shows: bytes a second, 0 if it does not grow all along, and how long it really is."""

    slope: float
    span: float


def _within(samples: Sequence[Sample], now: float, window: float) -> list[Sample]:
    return [sample for sample in samples if now - window <= sample.time <= now]


def _trend(part: Sequence[Sample]) -> _Trend | None:
    """
    Return how the floor rises, by the lowest sample of each sixth of a window; None for a window that is not warm.

    What comes and goes has no floor, and a burst is one step: only what grows in nearly every slot grows on.
    """
    if len(part) < _WARM_SAMPLES or (span := part[-1].time - part[0].time) < _WARM_SECONDS:
        return None
    slots: dict[int, Sample] = {}
    for sample in part:
        slot = min(_SLOTS - 1, int((sample.time - part[0].time) * _SLOTS / span))
        if slot not in slots or sample.used_bytes < slots[slot].used_bytes:
            slots[slot] = sample
    floors = [slots[slot] for slot in sorted(slots)]
    steps = [after.used_bytes - before.used_bytes for before, after in pairwise(floors)]
    total = part[-1].used_bytes + part[-1].available_bytes
    grows = len(steps) >= _SLOTS // 2 and sum(step > 0 for step in steps) >= _GROWING * len(steps)
    fell = any(step <= -max(1, int(_DROP * total)) for step in steps)
    return _Trend(max(0.0, _slope(floors)) if grows and not fell else 0.0, span)


def thin(samples: Iterable[Sample], now: float) -> list[Sample]:
    """Return the samples that `seconds_to_full` needs of a week, oldest first: a few hundred, the older the fewer."""
    kept: list[Sample] = []
    places: set[tuple[float, int]] = set()
    for sample in sorted(samples, key=lambda sample: -sample.time):
        age = now - sample.time
        if age > _LONG_WINDOWS[-1]:
            break
        every = next((every for old, every in reversed(_STEPS) if age > old), 0.0)
        place = (every, int(sample.time / every) if every else len(kept))
        if place not in places:
            places.add(place)
            kept.append(sample)
    return kept[::-1]


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


def _slope(samples: Sequence[Sample]) -> float:
    """Return bytes a second as the median of all pairs' slopes (Theil-Sen): a file that comes and goes is not heard."""
    slopes = [
        (b.used_bytes - a.used_bytes) / (b.time - a.time)
        for i, a in enumerate(samples)
        for b in samples[i + 1 :]
        if b.time > a.time
    ]
    return median(slopes) if slopes else 0.0
