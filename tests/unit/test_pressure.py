"""Pressure begins after the dwell or at once at flood, and ends only at low."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from survived.decide.pressure import (
    check_marks,
    dwell_left,
    excess_bytes,
    excess_inodes,
    step,
    step_filesystem,
    worst,
)
from survived.model import Gauge, Mark, Pressure, Rules, Watermarks
from tests.unit.scene import GIB, MARKS, RULES, filesystem

HIGH, LOW, FLOOD, DWELL = 0.9, 0.8, 0.97, 30.0
IDLE = (Gauge(), Gauge())
SHARES = st.floats(0, 1)


def day(*points: tuple[float, float]) -> list[Pressure]:
    """Return the pressure after each (time, usage)."""
    gauge, seen = Gauge(), []
    for now, usage in points:
        gauge = step(gauge, usage, HIGH, LOW, FLOOD, DWELL, now)
        seen.append(gauge.pressure)
    return seen


N, H, F = Pressure.NORMAL, Pressure.HIGH, Pressure.FLOOD


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(0, 0.0)], [N]),
        ([(0, 0.91), (29, 0.91), (30, 0.91)], [N, N, H]),
        ([(0, 0.91), (20, 0.89), (25, 0.91), (40, 0.91), (55, 0.91)], [N, N, N, N, H]),
        ([(0, 0.9), (30, 0.9)], [N, H]),
        ([(0, 0.97)], [F]),
        ([(0, 1.0), (1, 0.95), (2, 0.81), (3, 0.8)], [F, H, H, N]),
        ([(0, 0.91), (30, 0.91), (31, 0.98), (32, 0.5)], [N, H, F, N]),
        ([(1000, 0.91), (0, 0.91), (30, 0.91)], [N, N, H]),
    ],
)
def test_a_scripted_day(points: list[tuple[float, float]], expected: list[Pressure]) -> None:
    """The dwell must pass without a dip below high, flood needs none, and a clock set back costs one dwell at most."""
    assert expected == day(*points)


@given(st.lists(st.tuples(st.floats(0, 100), SHARES), min_size=1), st.tuples(SHARES, SHARES, SHARES))
def test_pressure_ends_only_at_low(steps: list[tuple[float, float]], marks: tuple[float, float, float]) -> None:
    """Whatever the marks and the usage do, pressure that began is there until usage is at or below low."""
    low, high, flood = sorted(marks)
    gauge, now = Gauge(), 0.0
    for seconds, usage in steps:
        now += seconds
        before, gauge = gauge, step(gauge, usage, high, low, flood, DWELL, now)
        if before.pressure is not N and usage > low:
            assert gauge.pressure is not N
        if usage <= low:
            assert gauge == Gauge()
        if usage >= flood and usage > low:
            assert gauge.pressure is F


@given(SHARES, SHARES, st.sampled_from([Gauge(), Gauge(N, 5.0), Gauge(H, 1.0), Gauge(F, 1.0)]), st.floats(5, 100))
def test_more_usage_is_never_less_pressure(a: float, b: float, gauge: Gauge, now: float) -> None:
    """At one moment, a fuller disk has at least the pressure of an emptier one."""
    less, more = (step(gauge, usage, HIGH, LOW, FLOOD, DWELL, now).pressure.rank for usage in sorted((a, b)))
    assert less <= more


@given(SHARES, SHARES, SHARES)
def test_low_above_high_counts_as_high(usage: float, high: float, low: float) -> None:
    """A low mark above high neither starts pressure below high nor keeps it from ending there."""
    if low > high:
        gauge = step(Gauge(H, 0.0), usage, high, low, 1.1, DWELL, 100.0)
        assert (gauge.pressure is N) == (usage <= high)


def test_an_empty_world_has_no_pressure() -> None:
    """A filesystem without blocks or inodes (btrfs counts none) divides nothing by zero and is never under pressure."""
    nothing = filesystem(0, 0, inodes_used=0, inodes_available=0)
    full = replace(filesystem(1.0), inodes_used=0, inodes_available=0)

    assert step_filesystem(IDLE, nothing, RULES, 0) == IDLE
    assert [gauge.pressure for gauge in step_filesystem(IDLE, full, RULES, 0)] == [F, N]
    assert (excess_bytes(nothing, RULES), excess_inodes(nothing, RULES)) == (0, 0)
    assert check_marks(nothing, RULES) is None
    assert worst(()) is N


def test_inodes_alone_make_pressure() -> None:
    """A filesystem with room but without inodes is flooded."""
    gauges = step_filesystem(IDLE, filesystem(0.1, inodes_used=999_999, inodes_available=1), RULES, 0)

    assert [gauge.pressure for gauge in gauges] == [N, F]
    assert worst(gauges) is F


def test_free_marks_are_resolved_on_the_filesystem() -> None:
    """Marks as amounts begin pressure when that little is left, whatever share it is."""
    marks = Watermarks(Mark(free=20 * GIB), Mark(free=40 * GIB), Mark(free=5 * GIB))
    rules = replace(RULES, bytes_marks=marks, dwell_seconds=0)

    assert step_filesystem(IDLE, filesystem(0.79), rules, 0)[0].pressure is N
    assert step_filesystem(IDLE, filesystem(0.81), rules, 0)[0].pressure is H
    assert step_filesystem(IDLE, filesystem(0.96), rules, 0)[0].pressure is F
    assert excess_bytes(filesystem(0.81), rules) == 21 * GIB


@pytest.mark.parametrize(
    ("high", "low", "flood", "words"),
    [
        (Mark(usage=0.9), Mark(usage=0.8), Mark(usage=0.97), None),
        (Mark(free=20 * GIB), Mark(usage=0.7), Mark(usage=0.97), None),
        (Mark(free=20 * GIB), Mark(usage=0.85), Mark(usage=0.97), "low mark for bytes (85 %: 85.0 % used) is not below"),
        (Mark(usage=0.9), Mark(free=10 * GIB), Mark(usage=0.97), "not below the high mark (90 %: 90.0 % used)"),
        (Mark(usage=0.9), Mark(usage=0.8), Mark(free=15 * GIB), "high mark for bytes (90 %: 90.0 % used) is not below"),
        (Mark(free=200 * GIB), Mark(usage=0.8), Mark(usage=0.97), "can never have the high mark of 200 GiB free"),
    ],
)
def test_marks_that_make_no_sense_here_are_named(high: Mark, low: Mark, flood: Mark, words: str | None) -> None:
    """Amounts and shares are compared on the real size, and the sentence shows both."""
    found = check_marks(filesystem(), replace(RULES, bytes_marks=Watermarks(high, low, flood)))

    assert (found is None) == (words is None)
    assert words is None or (found is not None and words in found)


def test_inode_marks_are_counted_not_measured() -> None:
    """A sentence about inodes speaks of inodes, not of KiB."""
    marks = Watermarks(Mark(free=2_000_000), Mark(usage=0.5), Mark(usage=0.97))
    found = check_marks(filesystem(), replace(RULES, inodes_marks=marks))

    assert found == "'/' can never have the high mark of 2,000,000 inodes free: it has 1,000,000 inodes in all."


@given(st.integers(0, 10**13), st.integers(0, 10**13), st.floats(0.01, 0.99))
@example(4_960_138, 0, 0.8575327944504769)  # low * total is rounded up to a whole number here
def test_freeing_the_excess_reaches_low_and_no_less_does(used: int, available: int, low: float) -> None:
    """After freeing exactly the excess there is no pressure, and one byte less would have left some."""
    rules = replace(RULES, bytes_marks=replace(MARKS, low=Mark(usage=low), high=Mark(usage=0.99)))
    fs = replace(filesystem(), used_bytes=used, available_bytes=available)
    excess = excess_bytes(fs, rules)

    def pressed(freed: int) -> bool:
        after = replace(fs, used_bytes=used - freed, available_bytes=available + freed)
        return step_filesystem((Gauge(H, 0.0), Gauge()), after, rules, 0)[0].pressure is not N

    assert not pressed(excess)
    assert excess == 0 or pressed(excess - 1)


def test_the_rest_of_the_dwell_is_known() -> None:
    """The loop can wake exactly when a dwell ends; without one there is nothing to wait for."""
    rules = Rules(MARKS, MARKS, dwell_seconds=30)

    assert dwell_left([Gauge(), Gauge(N, 100.0)], rules, 110.0) == 20.0
    assert dwell_left([Gauge(N, 100.0)], rules, 200.0) == 0.0
    assert dwell_left([Gauge(), Gauge(H, 100.0)], rules, 110.0) is None
