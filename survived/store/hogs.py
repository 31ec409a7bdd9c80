"""
The sizes of the biggest directories, as they were found: samples in the store's database, so that growth can be told.

One sample an hour at the most for two days, one a day for 60 days. Paths are stored as bytes: names need not be UTF-8.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from survived.findings import Sizes

if TYPE_CHECKING:
    from survived.store.database import Database

SCHEMA: tuple[str, ...] = (
    "CREATE TABLE IF NOT EXISTS hog_looks (time INTEGER PRIMARY KEY, smallest_bytes INTEGER NOT NULL)",
    """CREATE TABLE IF NOT EXISTS hogs (
        time INTEGER NOT NULL, path BLOB NOT NULL, size_bytes INTEGER NOT NULL, PRIMARY KEY (time, path)) WITHOUT ROWID""",
)

_HOUR, _DAY = 3600, 86400
_FRESH_SECONDS, _KEPT_SECONDS = 2 * _DAY, 60 * _DAY


def record(database: Database, sizes: Sizes) -> bool:
    """Add a sample, in one transaction, unless there is one of the same hour or of later; tell whether it was added."""
    time = int(sizes.time)
    if database.execute("SELECT 1 FROM hog_looks WHERE time > ? LIMIT 1", (time - _HOUR,)):
        return False
    with database.transaction():
        database.execute("INSERT INTO hog_looks VALUES (?,?)", (time, sizes.smallest_bytes))
        for path, size in sizes.sizes.items():
            database.execute("INSERT OR REPLACE INTO hogs VALUES (?,?,?)", (time, os.fsencode(path), size))
        _thin(database, time)
    return True


def before(database: Database, time: float) -> Sizes | None:
    """Return the latest sample that is not younger than `time`; None if there is none."""
    rows = database.execute("SELECT time, smallest_bytes FROM hog_looks WHERE time <= ? ORDER BY time DESC LIMIT 1", (int(time),))
    if not rows:
        return None
    at, smallest = rows[0]
    sizes = database.execute("SELECT path, size_bytes FROM hogs WHERE time = ?", (at,))
    return Sizes(float(at), {os.fsdecode(path): int(size) for path, size in sizes}, int(smallest))


def _thin(database: Database, now: int) -> None:
    """Delete what is too old, and all but the first sample of each day that is not among the last two."""
    database.execute("DELETE FROM hog_looks WHERE time < ?", (now - _KEPT_SECONDS,))
    database.execute(
        "DELETE FROM hog_looks WHERE time < ? AND time NOT IN (SELECT MIN(time) FROM hog_looks GROUP BY time / ?)",
        (now - _FRESH_SECONDS, _DAY),
    )
    database.execute("DELETE FROM hogs WHERE time NOT IN (SELECT time FROM hog_looks)")
