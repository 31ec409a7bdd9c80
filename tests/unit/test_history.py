"""Samples last for 400 days in a few megabytes, and thinning never loses the fullest moment of a stretch."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from survived.model import Sample
from survived.store import history
from survived.store.database import Database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAY = 86400
NOW = 1_800_000_000 // 3600 * 3600
SAMPLE = Sample(NOW, "/", 60 * 1024**3, 40 * 1024**3, 123_456)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """Return an empty database with the samples table."""
    opened = Database(str(tmp_path / "state.db"), history.SCHEMA)
    yield opened
    opened.close()


def times(database: Database) -> list[float]:
    """Return the times of all samples of `/`."""
    return [sample.time for sample in history.since(database, "/", 0)]


def fill(database: Database, start: int, stop: int, every: int, mount: str = "/") -> None:
    """Write samples at a fixed distance, each fuller than the last within its hour, in one transaction."""
    with database.transaction():
        for time in range(start, stop, every):
            database.execute(
                "INSERT INTO samples VALUES (?,?,?,?,?)",
                (os.fsencode(mount), time, 60 * 1024**3 + time % 3600, 40 * 1024**3, 123_456),
            )


def test_a_sample_comes_back_as_it_was(database: Database) -> None:
    """What was recorded is returned for its own mount, also one whose name is not UTF-8, from the time asked for."""
    odd = replace(SAMPLE, mount="/mnt/caf\udce9")

    assert history.record(database, SAMPLE)
    assert history.record(database, odd)
    assert history.since(database, "/", 0) == [SAMPLE]
    assert history.since(database, odd.mount, NOW) == [odd]
    assert history.since(database, "/", NOW + 1) == []
    assert history.mounts(database) == ("/", odd.mount)


def test_one_sample_a_minute_at_most(database: Database) -> None:
    """Of ten minutes of one-second ticks ten samples stay, and a clock set back by seconds adds none."""
    added = [history.record(database, replace(SAMPLE, time=float(NOW + second))) for second in range(600)]

    assert sum(added) == 10
    assert times(database) == [NOW + 60 * i for i in range(10)]
    assert not history.record(database, replace(SAMPLE, time=float(NOW - 5)))


def test_a_refused_sample_writes_nothing(database: Database) -> None:
    """A tick within the minute leaves the file as it is, so it costs no sync on the data disk."""
    history.record(database, SAMPLE)
    before = os.stat(database.path).st_mtime_ns
    for second in range(1, 50):
        history.record(database, replace(SAMPLE, time=float(NOW + second)))

    assert os.stat(database.path).st_mtime_ns == before


def test_age_decides_the_distance(database: Database) -> None:
    """The last day keeps its minutes, the 30 days before ten-minute steps, the rest hours, and 400 days are the end."""
    fill(database, NOW - 410 * DAY, NOW - 390 * DAY, 600)
    fill(database, NOW - 32 * DAY, NOW - 28 * DAY, 60)
    fill(database, NOW - 2 * DAY, NOW, 60)
    history.thin(database, NOW)
    kept = times(database)

    def between(old: int, young: int) -> int:
        return len([time for time in kept if NOW - old * DAY <= time < NOW - young * DAY])

    assert between(410, 400) == 0
    assert between(400, 390) == 240
    assert between(32, 30) == 48
    assert between(30, 28) == 288
    assert between(2, 1) == 144
    assert between(1, 0) == 1440


def test_the_fullest_moment_stays(database: Database) -> None:
    """Of an old hour the sample with the highest usage is what is kept."""
    start = NOW - 40 * DAY
    for minute, used in enumerate([5, 9, 7]):
        history.record(database, replace(SAMPLE, time=float(start + 600 * minute), used_bytes=used))
    history.thin(database, NOW)

    assert [(s.time, s.used_bytes) for s in history.since(database, "/", 0)] == [(start + 600, 9)]


def test_thinning_again_changes_nothing(database: Database) -> None:
    """Thinning is idempotent, keeps mounts apart, and spares samples from a clock that runs ahead."""
    fill(database, NOW - 3 * DAY, NOW, 60)
    fill(database, NOW - 3 * DAY, NOW, 60, "/home")
    history.record(database, replace(SAMPLE, time=float(NOW + 30 * DAY)))
    history.thin(database, NOW)
    once = times(database)
    history.thin(database, NOW)

    assert times(database) == once
    assert once[-1] == NOW + 30 * DAY
    assert len(history.since(database, "/home", 0)) == len(once) - 1


def test_a_year_of_three_filesystems_is_small(database: Database) -> None:
    """400 days as thinning leaves them, three mounts at once, fit in 5 MB."""
    for mount in ("/", "/home", "/data1"):
        fill(database, NOW - 400 * DAY, NOW - 30 * DAY, 3600, mount)
        fill(database, NOW - 30 * DAY, NOW - DAY, 600, mount)
        fill(database, NOW - DAY, NOW, 60, mount)
    history.thin(database, NOW)

    assert len(times(database)) == 370 * 24 + 29 * 144 + 1440
    assert os.stat(database.path).st_size < 5_000_000


def test_a_year_of_minutes_never_takes_more_than_5_mb(tmp_path: Path) -> None:
    """
    A sample a minute for a year, thinned once a week, where the daemon does so daily: the file stays below 5 MB all the time.

    What is left of each stretch is its fullest sample, and the last day is whole.
    """
    opened = Database(str(tmp_path / "state.db"), history.SCHEMA)
    opened.execute("PRAGMA synchronous=OFF")  # a year in seconds; what is written is the same
    largest = 0
    for week in range(52):
        start = NOW - (52 - week) * 7 * DAY
        opened.execute(
            "INSERT INTO samples WITH RECURSIVE minutes(time) AS (SELECT ? UNION ALL SELECT time + 60 FROM minutes WHERE time < ?) "
            "SELECT CAST('/' AS BLOB), time, 60000000000 + time % 3600, 40000000000, 123456 FROM minutes",
            (start, start + 7 * DAY - 60),
        )
        largest = max(largest, os.stat(opened.path).st_size)
        history.thin(opened, start + 7 * DAY)
    kept = times(opened)
    opened.close()

    assert largest < 5_000_000
    assert len([time for time in kept if time >= NOW - DAY]) == 1440
    assert len(kept) < 16_000
    assert all(time % 3600 == 3540 for time in kept if time < NOW - 30 * DAY)
