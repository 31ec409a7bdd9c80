"""
How full is too full, and for how long.

Pure: no file, no clock, no log. `now` is a parameter, so a test can live through a week in a microsecond. A mark that
asks for an amount that is still free is resolved against the filesystem at hand before it is compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from survived.model import Gauge, Mark, Pressure
from survived.units import print_mark

if TYPE_CHECKING:
    from collections.abc import Iterable

    from survived.model import Filesystem, Rules, Watermarks


def step(gauge: Gauge, usage: float, high: float, low: float, flood: float, dwell_seconds: float, now: float) -> Gauge:
    """
    Return the gauge after seeing `usage` (a share, like the three marks) at `now` (seconds of one clock).

    Rising takes `dwell_seconds` at or above high, so one big unpack moves nobody's cache. Falling takes reaching *low*,
    so we do not flap around a single number; a low above high counts as high. Flood skips the dwell: a full disk does
    not wait.
    """
    if usage <= min(low, high):
        return Gauge()
    # A clock that was set back must not stretch the dwell by the amount it was set back.
    since = now if gauge.high_since is None else min(gauge.high_since, now)
    if usage >= flood:
        return Gauge(Pressure.FLOOD, since)
    if gauge.pressure is not Pressure.NORMAL:
        return Gauge(Pressure.HIGH, since)
    if usage < high:
        return Gauge()
    return Gauge(Pressure.HIGH if now - since >= dwell_seconds else Pressure.NORMAL, since)


def step_filesystem(gauges: tuple[Gauge, Gauge], fs: Filesystem, rules: Rules, now: float) -> tuple[Gauge, Gauge]:
    """Return the gauges of bytes and of inodes after one reading; what a filesystem does not count has no pressure."""
    return (
        _step_marks(gauges[0], fs.used_bytes, fs.available_bytes, rules.bytes_marks, rules.dwell_seconds, now),
        _step_marks(gauges[1], fs.inodes_used, fs.inodes_available, rules.inodes_marks, rules.dwell_seconds, now),
    )


def worst(gauges: Iterable[Gauge]) -> Pressure:
    """Return the highest pressure of all gauges; normal for none."""
    return max((gauge.pressure for gauge in gauges), key=lambda pressure: pressure.rank, default=Pressure.NORMAL)


def dwell_left(gauges: Iterable[Gauge], rules: Rules, now: float) -> float | None:
    """Return the seconds until the next gauge that stands above high will have dwelt; None when none is waiting."""
    waiting = [g.high_since for g in gauges if g.pressure is Pressure.NORMAL and g.high_since is not None]
    return max(0.0, min(waiting) + rules.dwell_seconds - now) if waiting else None


def excess_bytes(fs: Filesystem, rules: Rules) -> int:
    """Return how many bytes must be freed so that usage reaches low; 0 at or below it."""
    return _excess(fs.used_bytes, fs.available_bytes, rules.bytes_marks)


def excess_inodes(fs: Filesystem, rules: Rules) -> int:
    """Return how many inodes must be freed so that their usage reaches low; 0 at or below it."""
    return _excess(fs.inodes_used, fs.inodes_available, rules.inodes_marks)


def check_marks(fs: Filesystem, rules: Rules) -> str | None:
    """
    Return one sentence about marks that make no sense on this filesystem, or None.

    A share and an amount can be compared only once the size is known, so the configuration alone cannot tell.
    """
    for what, used, available, marks in (
        ("bytes", fs.used_bytes, fs.available_bytes, rules.bytes_marks),
        ("inodes", fs.inodes_used, fs.inodes_available, rules.inodes_marks),
    ):
        total = used + available
        if total <= 0:
            continue
        for name, mark in (("high", marks.high), ("low", marks.low), ("flood", marks.flood)):
            if mark.free is not None and mark.free >= total:
                return (
                    f"'{fs.mount}' can never have the {name} mark of {print_free(mark, what)}: "
                    f"it has {print_free(Mark(free=total), what, '')} in all."
                )
        order = (("low", marks.low, "high", marks.high), ("high", marks.high, "flood", marks.flood))
        for lower, low, upper, high in order:
            least, most = low.as_usage(total), high.as_usage(total)
            if least > most or (lower == "low" and least == most):
                return (
                    f"On '{fs.mount}' the {lower} mark for {what} ({print_free(low, what)}: {least * 100:.1f} % used) "
                    f"is not below the {upper} mark ({print_free(high, what)}: {most * 100:.1f} % used)."
                )
    return None


def print_free(mark: Mark, what: str, suffix: str = " free") -> str:
    """Return a mark as text: `"90 %"`, or the amount with its unit, which inodes do not share with bytes."""
    if mark.usage is not None:
        return f"{mark.usage * 100:g} %"
    if what == "inodes":
        return f"{mark.free or 0:,} inodes{suffix}"
    return print_mark(mark).removesuffix(" free") + suffix


def _step_marks(gauge: Gauge, used: int, available: int, marks: Watermarks, dwell_seconds: float, now: float) -> Gauge:
    total = used + available
    if total <= 0:  # btrfs counts no inodes; a pseudo filesystem has no blocks
        return Gauge()
    high, low, flood = (mark.as_usage(total) for mark in (marks.high, marks.low, marks.flood))
    return step(gauge, used / total, high, low, flood, dwell_seconds, now)


def _excess(used: int, available: int, marks: Watermarks) -> int:
    total = used + available
    if total <= 0:
        return 0
    low = min(marks.low.as_usage(total), marks.high.as_usage(total))
    allowed = int(low * total)
    # low * total may round up to a whole number just above the mark, and `step` would still see pressure there.
    while allowed > 0 and allowed / total > low:
        allowed -= 1
    return max(0, used - allowed)
