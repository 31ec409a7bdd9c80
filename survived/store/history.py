"""
How full the filesystems were: samples in the store's database, thinned as they age.

A minute apart for a day, ten minutes apart for 30 days, an hour apart beyond, nothing after 400 days. That is under
16,000 rows and about a megabyte for each mount. What stays of a stretch is its fullest sample, because the question
asked of a history is how close it came. Mounts are stored as bytes: names need not be UTF-8.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from survived.model import Sample

if TYPE_CHECKING:
    from survived.store.database import Database

SCHEMA: tuple[str, ...] = (
    """CREATE TABLE samples (
        mount BLOB NOT NULL, time INTEGER NOT NULL, used_bytes INTEGER NOT NULL, available_bytes INTEGER NOT NULL,
        inodes_used INTEGER NOT NULL, PRIMARY KEY (mount, time)) WITHOUT ROWID""",
)

_CLOSEST_SECONDS = 60
_DAY = 86400
_KEPT_SECONDS = 400 * _DAY
_STEPS = ((_DAY, 30 * _DAY, 600), (30 * _DAY, _KEPT_SECONDS, 3600))  # from age, to age, one sample in so many seconds


def record(database: Database, sample: Sample) -> bool:
    """
    Add a sample unless the mount has one less than a minute away, and tell whether it was added.

    Each addition is a synced write on the data disk; the check before it is what makes it cheap to call on every tick.
    """
    mount, time = os.fsencode(sample.mount), int(sample.time)
    near = (mount, time - _CLOSEST_SECONDS, time + _CLOSEST_SECONDS)
    if database.execute("SELECT 1 FROM samples WHERE mount=? AND time>? AND time<? LIMIT 1", near):
        return False
    database.execute(
        "INSERT INTO samples VALUES (?,?,?,?,?)",
        (mount, time, sample.used_bytes, sample.available_bytes, sample.inodes_used),
    )
    return True


def since(database: Database, mount: str, since: float) -> list[Sample]:
    """Return the samples of one mount from `since` on, oldest first; times are whole seconds."""
    rows = database.execute(
        "SELECT time, used_bytes, available_bytes, inodes_used FROM samples WHERE mount=? AND time>=? ORDER BY time",
        (os.fsencode(mount), since),
    )
    return [Sample(float(time), mount, used, available, inodes) for time, used, available, inodes in rows]


def mounts(database: Database) -> tuple[str, ...]:
    """Return the mounts that have samples."""
    return tuple(os.fsdecode(row[0]) for row in database.execute("SELECT DISTINCT mount FROM samples ORDER BY mount"))


def thin(database: Database, now: float) -> None:
    """
    Delete what is too old or too close together for its age, in one transaction; once an hour is often enough.

    Samples from the future stay: the clock that is wrong may be today's.
    """
    with database.transaction():
        database.execute("DELETE FROM samples WHERE time < ?", (int(now) - _KEPT_SECONDS,))
        for young, old, every in _STEPS:
            # Not "NOT IN" what stays, which SQLite looks for row by row: seconds with a year of samples.
            database.execute(
                "DELETE FROM samples WHERE (mount, time) IN (SELECT mount, time FROM (SELECT mount, time, ROW_NUMBER() OVER "
                "(PARTITION BY mount, time / ? ORDER BY used_bytes DESC, time) AS place FROM samples WHERE time >= ? AND time < ?) "
                "WHERE place > 1)",
                (every, int(now) - old, int(now) - young),
            )
