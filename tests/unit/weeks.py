"""Weeks of a filesystem, made up by what happens on it, for whoever has to live through them in a second."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from survived.decide.forecast import seconds_to_full, thin
from survived.model import Sample

GB = 10**9
DISK = 431 * GB
MINUTE, HOUR, DAY, WEEK = 60.0, 3600.0, 86400.0, 7 * 86400.0
STEP = 120.0
RECORDED = Path(__file__).parent / "data/recorded-usage.json"

Event = Callable[[float], float]
"""Bytes that something takes at a time of the week, in seconds since its begin."""


def constant(size: float) -> Event:
    """What was there before and stays."""
    return lambda _: size


def growth(per_day: float, begin: float = 0.0) -> Event:
    """What grows all the time from `begin` on."""
    return lambda at: max(0.0, at - begin) / DAY * per_day


def burst(begin: float, seconds: float, size: float, *, gone_at: float | None = None, kept: float = 0.0) -> Event:
    """What is written in a burst and, at `gone_at`, removed but for what is kept."""

    def event(at: float) -> float:
        if gone_at is not None and at >= gone_at:
            return kept
        return size * min(1.0, max(0.0, at - begin) / seconds)

    return event


def daily(hour: float, seconds: float, size: float, *, gone_after: float | None = None, kept: float = 0.0) -> list[Event]:
    """The same burst at the same hour of each day."""
    begins = [day * DAY + hour * HOUR for day in range(7)]
    return [burst(b, seconds, size, gone_at=None if gone_after is None else b + gone_after, kept=kept) for b in begins]


def week(*events: Event, step: float = STEP) -> Iterator[Sample]:
    """Yield a sample every other minute of all that happens together; the disk is full when it is full."""
    for number in range(int(WEEK / step)):
        at = number * step
        used = min(DISK, int(sum(event(at) for event in events)))
        yield Sample(at, "/", used, DISK - used, 0)


def forecasts(samples: Iterator[Sample], every: float = 600.0) -> Iterator[tuple[Sample, float | None]]:
    """Yield what would have been said every ten minutes, by what a daemon keeps."""
    kept: list[Sample] = []
    last = -every
    for sample in samples:
        kept.append(sample)
        if len(kept) > 720:
            kept = thin(kept, sample.time)
        if sample.time - last >= every:
            last = sample.time
            yield sample, seconds_to_full(kept, sample.time)


def recorded() -> list[Sample]:
    """Return what was recorded: `/` of a machine on which eight people built, installed and tested, in steps of 30 s."""
    rows = json.loads(RECORDED.read_text(encoding="utf-8"))["samples"]
    return [Sample(time, "/", used, available, inodes) for time, used, available, inodes in rows]
