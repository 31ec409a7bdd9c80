"""Time to full is a robust slope, and the next look comes as soon as the fill rate asks for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from survived.decide.forecast import Rate, follow, next_wait, seconds_to_full
from survived.model import Filesystem, Sample
from tests.unit.scene import GIB, MIB, RULES, filesystem

TOTAL = 100 * GIB


def samples(*points: tuple[float, float]) -> list[Sample]:
    """Return samples from (time, used GiB) of 100 GiB."""
    return [Sample(time, "/", int(used * GIB), TOTAL - int(used * GIB), 0) for time, used in points]


def test_steady_growth_ends_when_it_must() -> None:
    """A GiB a minute with 10 GiB left is full in ten minutes."""
    grown = samples(*((60.0 * i, 80 + i) for i in range(11)))

    assert seconds_to_full(grown, 600.0) == pytest.approx(600, rel=0.01)
    assert seconds_to_full(grown, 660.0) == pytest.approx(540, rel=0.01)


@pytest.mark.parametrize(
    "points",
    [
        [],
        [(0, 50)],
        [(0, 50), (20, 51), (40, 52), (60, 53)],
        [(0, 50), (1, 51), (2, 52), (3, 53), (4, 54)],
        [(i * 60, 50) for i in range(30)],
        [(i * 60, 50 - i * 0.001) for i in range(30)],
        [(i * 60, 50 + i * 1e-7) for i in range(30)],
    ],
    ids=["none", "one", "four", "four seconds", "still", "shrinking", "centuries"],
)
def test_what_cannot_be_told_is_not_told(points: list[tuple[float, float]]) -> None:
    """Too few samples, too short a time, no growth or a date beyond a year give no forecast."""
    assert seconds_to_full(samples(*points), points[-1][0] if points else 0.0) is None


def test_a_full_disk_is_full_now() -> None:
    """At 100 % the answer is 0 although nothing grows, even from the first sample."""
    assert seconds_to_full(samples((0, 100)), 0.0) == 0.0
    assert seconds_to_full(samples(*((60.0 * i, 100) for i in range(20))), 1140.0) == 0.0


def test_one_outlier_is_not_heard() -> None:
    """A big file that comes and goes between two samples does not change the forecast by more than a tenth."""
    points = [(60.0 * i, 50 + 0.1 * i) for i in range(11)]
    calm = seconds_to_full(samples(*points), 600.0)
    points[5] = (300.0, 50.9)
    noisy = seconds_to_full(samples(*points), 600.0)

    assert calm is not None
    assert noisy == pytest.approx(calm, rel=0.1)


def test_a_move_begins_a_new_story() -> None:
    """After 30 GiB were freed, bit by bit, only what grew since then counts."""
    before = [(10.0 * i, 60 + i) for i in range(30)]
    freeing = [(300.0 + i, 89 - i / 2) for i in range(60)]
    after = [(360.0 + 30 * i, 60 + 0.1 * i) for i in range(8)]

    assert seconds_to_full(samples(*before, *freeing), 359.0) is None
    assert seconds_to_full(samples(*before, *freeing, *after), 570.0) == pytest.approx(39.3 / (0.1 / 30), rel=0.1)


def test_a_trickle_is_seen_over_hours() -> None:
    """What stood still for the last ten minutes but grew over the hour is still forecast."""
    slow = [(600.0 * i, 50 + 1.0 * i) for i in range(6)]
    still = [(3000.0 + 60 * i, 55) for i in range(1, 11)]

    assert seconds_to_full(samples(*slow, *still), 3600.0) is not None


@given(st.lists(st.tuples(st.floats(0.001, 4000), st.integers(0, TOTAL)), max_size=60))
def test_a_forecast_is_never_negative(steps: list[tuple[float, int]]) -> None:
    """Any history gives None or a number of seconds that is not negative."""
    now, history = 0.0, []
    for seconds, used in steps:
        now += seconds
        history.append(Sample(now, "/", used, TOTAL - used, 0))
    left = seconds_to_full(history, now)

    assert left is None or left >= 0


def standing(fs: Filesystem, seconds: float, per_second: float = 0.0) -> float:
    """Return the wait for a filesystem that has stood still for so long and was once filled that fast."""
    rate = replace(follow(None, fs, 0.0), bytes_per_second=per_second, time=seconds)
    return next_wait([fs], RULES, {"/": rate}, seconds)


def test_near_a_mark_and_changing_is_every_second() -> None:
    """Within 1 % of a mark and at or above high, a disk that has just changed is read again after 1 s."""
    assert [standing(filesystem(usage), 0.0) for usage in (0.895, 0.905, 0.93, 0.965, 0.99, 1.0)] == [1.0] * 6


def test_a_quiet_day_is_every_minute() -> None:
    """Far from every mark and never seen to grow, a disk is read once a minute."""
    assert standing(filesystem(0.4), 0.0) == 60.0
    assert next_wait([], RULES, {}, 0.0) == 60.0


def test_the_fastest_seen_rate_sets_the_pace() -> None:
    """A quarter of the time that 200 MiB/s needs for the 10 GiB to high, but a second at the least."""
    assert standing(filesystem(0.8), 0.0, 200 * MIB) == pytest.approx(10 * 1024 / 200 / 4, rel=0.01)
    assert standing(filesystem(0.8), 0.0, 100 * GIB) == 1.0


def test_a_disk_that_stands_near_full_is_left_alone() -> None:
    """At 95 % for days the wait backs off to a minute, or to 10 s where a burst could bring the next mark soon."""
    waits = [standing(filesystem(0.95), seconds) for seconds in (0, 20, 80, 86400)]

    assert waits == [1.0, 5.0, 20.0, 60.0]
    assert standing(filesystem(0.95), 86400, 500 * MIB) == 10.0
    assert standing(filesystem(1.0), 86400, 500 * MIB) == 10.0


def test_the_hastiest_filesystem_wins() -> None:
    """Two filesystems are read together when the first of them asks."""
    quiet, pressed = filesystem(0.2, mount="/home"), filesystem(0.93)
    rates = {fs.mount: follow(None, fs, 0.0) for fs in (quiet, pressed)}

    assert next_wait([quiet, pressed], RULES, rates, 0.0) == 1.0
    assert next_wait([quiet], RULES, rates, 0.0) == 60.0
    assert next_wait([quiet], RULES, {}, 0.0) == 1.0


def test_inodes_are_waited_for_too() -> None:
    """A disk with room that runs out of inodes is read every second."""
    assert standing(filesystem(0.2, inodes_used=950_000, inodes_available=50_000), 0.0) == 1.0
    assert standing(filesystem(0.2, inodes_used=0, inodes_available=0), 0.0) == 60.0


def test_a_rate_remembers_its_fastest_and_forgets_slowly() -> None:
    """The fastest rate stays for the next readings and is half as much an hour later."""
    fs = filesystem(0.5)
    first = follow(None, fs, 0.0)
    burst = follow(first, replace(fs, used_bytes=fs.used_bytes + 10 * GIB), 10.0)
    later = follow(burst, replace(fs, used_bytes=fs.used_bytes + 10 * GIB), 3610.0)

    assert burst.bytes_per_second == GIB
    assert later.bytes_per_second == pytest.approx(GIB / 2)
    assert (burst.changed, later.changed) == (10.0, 10.0)


def test_many_small_steps_are_a_change() -> None:
    """A drift that no single reading shows still counts as change; a log line does not."""
    fs, rate = filesystem(0.5), follow(None, filesystem(0.5), 0.0)
    for i in range(1, 4):
        rate = follow(rate, replace(fs, used_bytes=fs.used_bytes + i * 8 * MIB), float(i))

    assert rate.changed == 3.0
    assert follow(rate, replace(fs, used_bytes=fs.used_bytes + 25 * MIB), 4.0).changed == 3.0


def test_rates_survive_odd_clocks() -> None:
    """Readings within half a second are one, and a clock set back begins anew without a negative rate."""
    fs = filesystem(0.5)
    rate = follow(None, fs, 100.0)

    assert follow(rate, replace(fs, used_bytes=fs.used_bytes + GIB), 100.1) == rate
    back = follow(rate, replace(fs, used_bytes=fs.used_bytes + GIB), 50.0)
    assert back == Rate(50.0, fs.used_bytes + GIB, fs.inodes_used, 50.0, fs.used_bytes, fs.inodes_used)


@given(st.floats(0, 1), st.floats(0, 1e12), st.floats(0, 1e7))
def test_the_wait_is_always_sane(usage: float, per_second: float, still: float) -> None:
    """Whatever is seen, the loop sleeps between 1 and 60 seconds."""
    assert 1.0 <= standing(filesystem(usage), still, per_second) <= 60.0
