"""Weeks on one disk: what is forecast, who moves when, and what is told, minute by minute."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, pairwise

import pytest

from survived.decide import notices
from survived.decide.forecast import seconds_to_full, thin
from survived.decide.memory import Memory
from survived.decide.policy import plan
from survived.decide.pressure import step_filesystem, worst
from survived.decide.relief import LONGEST_DELAY, delay_of
from survived.decide.sentences import Voice
from survived.model import CacheReading, CacheState, Filesystem, Gauge, Notice, Observation, Pressure, Topic
from tests.unit.scene import GIB, MIB, RULES, filesystem, reading, store
from tests.unit.weeks import DAY, DISK, GB, HOUR, MINUTE, Event, burst, constant, daily, forecasts, growth, recorded, week

BASE = constant(0.85 * DISK)  # 65 GB are left
APT = daily(6.2, 2 * MINUTE, 3 * GB, gone_after=5 * MINUTE, kept=0.01 * GB)
NIGHT = daily(2.0, 1.5 * HOUR, 20 * GB, gone_after=2 * HOUR)
UNPACK = [burst(day * DAY + 14 * HOUR, 4 * MINUTE, 15 * GB, gone_at=day * DAY + 15 * HOUR) for day in (1, 2, 4, 5)]


@pytest.mark.parametrize(
    "events",
    [[], NIGHT, [*APT, *NIGHT, *UNPACK], [growth(0.02 * GB), *APT], daily(9.0, 8 * HOUR, 6 * GB, gone_after=9 * HOUR)],
    ids=["still", "nightly jobs", "with apt and unpacking", "a log", "working days"],
)
def test_bursts_are_not_heard(events: list[Event]) -> None:
    """What ends by itself is no growth: in a whole week nobody is told that the disk will be full within three days."""
    said = [(sample.time, left) for sample, left in forecasts(week(BASE, *events), 1800.0) if left is not None]

    # Of the first six hours nothing longer is known that could say that it ends.
    assert [(at, left) for at, left in said if left < 3 * DAY and at > 6 * HOUR] == []


@pytest.mark.parametrize("noise", [[], [*APT, *UNPACK]], ids=["alone", "with bursts"])
def test_growth_is_heard_through_bursts(noise: list[Event]) -> None:
    """30 GB a day from Monday noon: after some hours the end is known, most of the time, within a quarter."""
    ends = 0.5 * DAY + 65 / 30 * DAY
    said = [(s.time, left) for s, left in forecasts(week(BASE, growth(30 * GB, 0.5 * DAY), *noise)) if DAY < s.time < ends - HOUR]
    known = [(at, left) for at, left in said if left is not None]

    assert len(known) > 0.6 * len(said)
    right = [1 for at, left in known if abs(at + left - ends) < 0.25 * (ends - at) + HOUR]
    assert len(right) > 0.8 * len(known)


def test_what_grows_only_at_night_is_heard_over_days() -> None:
    """Each night leaves 3 GB of 20: a day's window sees a burst, and the floors of a week tell when it is full."""
    left_over = daily(2.0, HOUR, 20 * GB, gone_after=2 * HOUR, kept=3 * GB)
    said = [(sample.time, left) for sample, left in forecasts(week(BASE, *left_over))]

    assert all(left is None or left > 3 * DAY for at, left in said if at > 6 * HOUR)
    last = [left for at, left in said if at > 6 * DAY and left is not None]
    assert last
    assert last[-1] == pytest.approx(15 * DAY, rel=0.4)


def test_what_runs_away_is_heard_before_the_end() -> None:
    """A quiet day, then 30 MB/s: half of the time that is left is enough to know it."""
    begin = 1.5 * DAY
    ends = begin + 65 * GB / 30e6
    told = [
        s.time for s, left in forecasts(week(BASE, growth(30e6 * DAY, begin)), 2 * MINUTE) if left is not None and s.time < ends
    ]

    assert told
    assert told[0] < begin + 0.55 * (ends - begin)


def test_a_full_disk_is_never_solved() -> None:
    """At 100 % it stands still, and flickers when others remove a little: it is full now, every single time."""
    flicker = [burst(day * DAY + 5 * HOUR, MINUTE, -0.1 * GB, gone_at=day * DAY + 6 * HOUR) for day in range(2, 7)]
    full = [
        left
        for sample, left in forecasts(week(BASE, growth(70 * GB), constant(0.0), *flicker))
        if sample.used_bytes > 0.9995 * DISK
    ]

    assert len(full) > 400
    assert set(full) == {0.0}


def test_a_recorded_hour_is_quiet() -> None:
    """Eight people build and test: gigabytes come and go within minutes, on a disk with room for hours of it."""
    samples = recorded()
    said = [seconds_to_full(samples[:number], samples[number - 1].time) for number in range(20, len(samples))]

    assert len(samples) > 60
    assert max(s.used_bytes for s in samples) - min(s.used_bytes for s in samples) > GB // 2
    assert [left for left in said if left is not None and left < HOUR] == []


def test_what_is_kept_of_a_week() -> None:
    """A few hundred samples, in order, the last ones all of them; thinning again takes nothing away."""
    samples = list(week(BASE, growth(GB)))
    kept = thin(samples, samples[-1].time)

    assert len(kept) < 400
    assert [s.time for s in kept] == sorted(s.time for s in kept)
    assert kept[-25:] == samples[-25:]
    assert thin(kept, samples[-1].time) == kept


# ---- several users on one disk --------------------------------------------------------------------------------------


def test_daemons_do_not_begin_together() -> None:
    """Twenty users of one machine wait for different times, always the same, and none for long; a short dwell waits shortly."""
    delays = sorted(delay_of(f"machine:{uid}", 30.0) for uid in range(1000, 1020))

    assert delays == sorted(delay_of(f"machine:{uid}", 30.0) for uid in range(1000, 1020))
    assert all(0 <= delay <= 60.0 for delay in delays)
    assert delays[-1] - delays[0] > 40.0
    assert sum(after - before > 1.0 for before, after in pairwise(delays)) > 10
    assert delay_of("machine:1000", 0.5) <= 1.0
    assert delay_of("machine:1000", 86400.0) <= LONGEST_DELAY
    assert delay_of("other:1000", 30.0) != delay_of("machine:1000", 30.0)


class User:
    """One user's daemon in a simulated week: pressure, plan, one act and its cooldown, what is told."""

    def __init__(self, name: str, caches: dict[str, int]) -> None:
        self.delay = delay_of(f"machine:{name}", RULES.dwell_seconds)
        self.caches = [reading(cache, size, path=f"/home/{name}/{cache}") for cache, size in caches.items()]
        self.gauges = Gauge(), Gauge()
        self.memory = Memory()
        self.moves: list[tuple[float, str]] = []
        self.told: list[Notice] = []
        self._wanted_since: float | None = None
        self._cooldown_until = 0.0

    def tick(self, fs: Filesystem, now: float) -> int:
        """Live through one reading; return the bytes that were moved away."""
        self.gauges = step_filesystem(self.gauges, fs, RULES, now)
        pressures = {"/": worst(self.gauges)}
        seen = Observation(now, (fs,), tuple(replace(c, time=now) for c in self.caches), (store(),))
        wanted = plan(seen, pressures, RULES, gauges={"/": self.gauges})
        self.memory, fresh = notices.on_observation(
            self.memory, seen, pressures, wanted, now, rules=RULES, voice=Voice("vm"), repeat_seconds=DAY
        )
        self.told += fresh
        if not wanted.moves:
            self._wanted_since = None
            return 0
        self._wanted_since = now if self._wanted_since is None else self._wanted_since
        if pressures["/"] is not Pressure.FLOOD and now < max(self._cooldown_until, self._wanted_since + self.delay):
            return 0
        move, self._cooldown_until = wanted.moves[0], now + RULES.cooldown_seconds
        self.moves.append((now, move.cache_id))
        self.caches = [gone(c) if c.cache.path == move.source else c for c in self.caches]
        return move.reclaimable_bytes


def gone(cache: CacheReading) -> CacheReading:
    """Return a cache that lives on the data disk."""
    return replace(cache, state=CacheState.RELOCATED, target=f"/data1/alice/survived/trees{cache.cache.path}", device_id=2)


def test_many_users_do_not_storm() -> None:
    """Ten users with 3 GiB each see 91 % at once and 11 must go: some move, and the others find it done."""
    users = [User(f"user{number}", {"pip": 3 * GIB}) for number in range(10)]
    used = 91 * GIB
    for now in range(0, 900, 2):
        fs = filesystem(0.5, used_bytes=used, available_bytes=100 * GIB - used)
        used -= sum(user.tick(fs, 1e6 + now) for user in users)
    moved = [at for user in users for at, _ in user.moves]

    assert used <= 80 * GIB
    assert 4 <= len(moved) <= 5, "as many as it takes"
    assert len(set(moved)) >= len(moved) - 1


def test_a_week_at_100_percent_because_of_others() -> None:
    """What is ours goes once; then nothing is moved again, and a notice comes when it worsens or once a day, not each minute."""
    user = User("alice", {"pip": 2 * GIB, "tiny": 20 * MIB})
    others = chain([0.93] * 60, [0.95] * 60, [0.985] * 120, [1.0] * (7 * 24 * 60 - 240))
    freed = 0
    for number, usage in enumerate(others):
        used = min(100 * GIB, int(usage * 100 * GIB) - (freed if usage < 1 else 0))
        freed += user.tick(filesystem(0.5, used_bytes=used, available_bytes=100 * GIB - used), 1e6 + number * 60.0)

    assert [name for _, name in user.moves] == ["pip"]
    by_day = [len([n for n in user.told if 1e6 + day * DAY <= n.time < 1e6 + (day + 1) * DAY]) for day in range(7)]
    assert by_day[0] <= 6
    assert all(count <= 2 for count in by_day[1:]), "what lasts is told once a day"
    assert Topic.RECOVERED not in {notice.topic for notice in user.told}
    assert not any(notice.title.endswith("recovered") for notice in user.told)
