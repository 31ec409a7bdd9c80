"""
The outbox: notices, and for every destination whether it got them.

Each destination is recorded by itself, so one that is down is retried and one that got the notice is left in peace.
What was sent but could not be recorded (a full data disk) is remembered here, so that it is not sent again.
Destinations are opaque keys, made by `tell.deliver.destination_key`; no URL ever comes here.
"""

from __future__ import annotations

import itertools
import json
import logging
import random
import weakref
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from survived.errors import SurvivedError
from survived.findings import Waiting
from survived.model import Level, Notice
from survived.units import escape_surrogates, print_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from survived.store.database import Database

PARTS_SCHEMA = ("CREATE TABLE IF NOT EXISTS notice_parts (notice INTEGER PRIMARY KEY, parts TEXT NOT NULL)",)
SCHEMA: tuple[str, ...] = (
    """CREATE TABLE notices (
        id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, level TEXT NOT NULL, title TEXT NOT NULL,
        body TEXT NOT NULL, time REAL NOT NULL)""",
    """CREATE TABLE deliveries (
        notice INTEGER NOT NULL REFERENCES notices (id), destination TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'pending',
        attempts INTEGER NOT NULL DEFAULT 0, next_try REAL NOT NULL, tried REAL, error TEXT NOT NULL DEFAULT '',
        PRIMARY KEY (notice, destination)) WITHOUT ROWID""",
    *PARTS_SCHEMA,
)
# state: pending -> delivered | given_up

KEPT = 200
GIVE_UP_SECONDS = 24 * 3600.0
_FIRST_WAIT, _LONGEST_WAIT = 30.0, 1800.0
_NOTICE = "topic, level, title, body, time"
_WITH_PARTS = "notices LEFT JOIN notice_parts ON notice=id"
_DELIVERY = "destination, state, attempts, next_try, tried, error"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """
    What became of one notice at one destination.

    `permanent`: trying again is pointless. `retry_seconds`: how long the server asked to be left alone.
    """

    notice: int
    destination: str
    ok: bool
    error: str = ""
    permanent: bool = False
    retry_seconds: float = 0.0


def backoff(attempts: int, rng: random.Random) -> float:
    """Return the seconds until the next try after `attempts` failures: 30 s, doubling to 30 min, ±20 %."""
    wait = min(_FIRST_WAIT * 2.0 ** min(max(attempts, 1) - 1, 16), _LONGEST_WAIT)
    return wait * rng.uniform(0.8, 1.2)


class Outbox:
    """
    Reads and writes the notices of one database; without one it keeps them in memory.

    `put` and `adopt` raise SurvivedError when the store cannot be written; the rest logs it once and goes on, because a
    broken data disk must not silence us.
    """

    # Notices in memory have numbers that no stored one has: results of a delivery that still runs while its notices are
    # adopted by a store must not be taken for another notice's.
    _memory_numbers = itertools.count(2**48)

    def __init__(self, db: Database | None, rng: random.Random | None = None) -> None:
        self._numbers: itertools.count[int] | None = None
        if db is None:
            from survived.store.database import Database  # the sender imports this file for its words alone

            db, self._numbers = Database(":memory:", SCHEMA), Outbox._memory_numbers
            weakref.finalize(self, db.close)
        self._db = db
        self._rng = rng or random.Random()  # noqa: S311  jitter, no secret
        self._renamed: dict[int, int] = {}
        self._unrecorded: list[tuple[Result, float]] = []
        self._is_broken = False

    # ---- in ---------------------------------------------------------------------------------------------------------

    def put(self, notice: Notice, destinations: Sequence[str]) -> int:
        """Keep a notice for these destinations, durably, and return its number. The last 200 notices are kept."""
        with self._db.transaction():
            number = self._insert(notice)
            for destination in dict.fromkeys(destinations):
                values = (number, destination, notice.time)
                self._db.execute("INSERT INTO deliveries (notice, destination, next_try) VALUES (?,?,?)", values)
            self._prune()
        self._is_broken = False
        return number

    def adopt(self, other: Outbox) -> None:
        """Take over another outbox's notices, in one transaction; results for their old numbers are understood, too."""
        renamed: dict[int, int] = {}
        with other._db.transaction(), self._db.transaction():
            for number, *columns in other._db.execute(f"SELECT id, {_NOTICE}, parts FROM {_WITH_PARTS} ORDER BY id"):  # noqa: S608
                renamed[number] = new = self._insert(_notice(columns))
                for row in other._db.execute(f"SELECT {_DELIVERY} FROM deliveries WHERE notice=?", (number,)):  # noqa: S608
                    self._db.execute(f"INSERT INTO deliveries (notice, {_DELIVERY}) VALUES (?,?,?,?,?,?,?)", (new, *row))  # noqa: S608
            self._prune()
            other._db.execute("DELETE FROM deliveries")
            other._db.execute("DELETE FROM notice_parts")
            other._db.execute("DELETE FROM notices")
        self._renamed.update({old: renamed[new] for old, new in other._renamed.items() if new in renamed} | renamed)
        self._unrecorded += [(_renumbered(result, self._renamed), when) for result, when in other._unrecorded]
        other._unrecorded.clear()

    def _insert(self, notice: Notice) -> int:
        """Insert one notice; file names that are not UTF-8 are made printable, since SQLite takes no lone surrogates."""
        number = None if self._numbers is None else next(self._numbers)
        values = (number, notice.topic, notice.level, escape_surrogates(notice.title), escape_surrogates(notice.body), notice.time)
        number = self._db.insert(f"INSERT INTO notices (id, {_NOTICE}) VALUES (?,?,?,?,?,?)", values)  # noqa: S608
        if notice.parts:
            self._db.execute("INSERT OR REPLACE INTO notice_parts VALUES (?,?)", (number, json.dumps(notice.parts)))
        return number

    def _prune(self) -> None:
        oldest = "SELECT id FROM notices ORDER BY id DESC LIMIT -1 OFFSET ?"
        for table in ("deliveries", "notice_parts"):
            self._db.execute(f"DELETE FROM {table} WHERE notice IN ({oldest})", (KEPT,))  # noqa: S608
        self._db.execute(f"DELETE FROM notices WHERE id IN ({oldest})", (KEPT,))  # noqa: S608

    # ---- out --------------------------------------------------------------------------------------------------------

    def waiting(self, now: float, configured: Iterable[str]) -> list[Waiting]:
        """
        Return what each of the `configured` destinations has not got yet, oldest first.

        Destinations that are not configured any more are dropped; what is older than a day is given up.
        """
        known = set(configured)
        sent = {(result.notice, result.destination) for result, _ in self._unrecorded}
        try:
            self._tidy(now, known)
        except SurvivedError as error:
            self._broken(error)
        try:
            rows = self._db.execute(
                "SELECT notice, destination, topic, level, time, attempts, next_try FROM deliveries JOIN notices ON id=notice "
                "WHERE state='pending' AND time>=? ORDER BY notice, destination",
                (now - GIVE_UP_SECONDS,),
            )
        except SurvivedError as error:
            self._broken(error)
            return []
        return [
            # A next try that lies further ahead than any wait we choose comes from a clock that was put back.
            Waiting(number, destination, topic, Level(level), time, attempts, due if due <= now + 2 * _LONGEST_WAIT else now)
            for number, destination, topic, level, time, attempts, due in rows
            if destination in known and (number, destination) not in sent
        ]

    def notices(self, numbers: Sequence[int]) -> dict[int, Notice]:
        """Return notices by number, those that are there, in the order asked for."""
        marks = ",".join("?" * len(numbers))
        try:
            sql = f"SELECT id, {_NOTICE}, parts FROM {_WITH_PARTS} WHERE id IN ({marks})"  # noqa: S608
            rows = self._db.execute(sql, tuple(numbers))
        except SurvivedError as error:
            self._broken(error)
            return {}
        found = {number: _notice(columns) for number, *columns in rows}
        return {number: found[number] for number in numbers if number in found}

    def sent_since(self, time: float) -> dict[str, list[float]]:
        """Return when each destination got something since then; what came together counts once."""
        found: dict[str, list[float]] = {}
        try:
            sql = "SELECT DISTINCT destination, tried FROM deliveries WHERE state='delivered' AND tried>=? ORDER BY tried"
            for destination, tried in self._db.execute(sql, (time,)):
                found.setdefault(destination, []).append(tried)
        except SurvivedError as error:
            self._broken(error)
        return found

    @property
    def is_broken(self) -> bool:
        """Whether the store could not be used the last time; then it is worth asking again in a minute."""
        return self._is_broken

    def confirm(self, receipts: Iterable[tuple[int, float, str]], now: float) -> None:
        """Record what a sender of an earlier process left word of: number and time of a notice, and who got it."""
        found = []
        for number, time, destination in receipts:
            sql = "SELECT 1 FROM notices JOIN deliveries ON id=notice WHERE id=? AND time=? AND destination=? AND state='pending'"
            try:
                if self._db.execute(sql, (number, time, destination)):
                    found.append(Result(number, destination, ok=True))
            except SurvivedError as error:
                self._broken(error)
        self.record(found, now)

    def record(self, results: Iterable[Result], now: float) -> None:
        """
        Record what became of each (notice, destination), and what could not be recorded before.

        Sent is delivered; failed is tried again after `backoff`; a permanent failure and one of a notice older than a
        day is given up and stays as the last error.
        """
        self._unrecorded += [(_renumbered(result, self._renamed), now) for result in results]
        if not self._unrecorded:
            return
        try:
            with self._db.transaction():
                for result, when in self._unrecorded:
                    self._record(result, when)
        except SurvivedError as error:
            # Failures may be tried again at once, but what was sent must not be.
            self._unrecorded = [(result, when) for result, when in self._unrecorded if result.ok or result.permanent]
            self._broken(error)
            return
        self._unrecorded.clear()
        self._is_broken = False

    def _record(self, result: Result, now: float) -> None:
        key = (result.notice, result.destination)
        rows = self._db.execute(
            "SELECT attempts, time FROM deliveries JOIN notices ON id=notice WHERE notice=? AND destination=? AND state='pending'",
            key,
        )
        for attempts, time in rows:  # none for a notice that was pruned or a destination that was dropped meanwhile
            gave_up = result.permanent or now - time >= GIVE_UP_SECONDS
            state = "delivered" if result.ok else "given_up" if gave_up else "pending"
            error = "" if result.ok else escape_surrogates(result.error)
            wait = max(backoff(attempts + 1, self._rng), min(result.retry_seconds, 2 * _LONGEST_WAIT))
            self._db.execute(
                "UPDATE deliveries SET state=?, attempts=?, next_try=?, tried=?, error=? WHERE notice=? AND destination=?",
                (state, attempts + 1, now + wait, now, error, *key),
            )

    def _tidy(self, now: float, known: set[str]) -> None:
        """Drop and give up; writes only if there is something to write, so a quiet day is quiet on the disk."""
        if self._unrecorded:
            self.record((), now)
        rows = self._db.execute("SELECT DISTINCT destination FROM deliveries WHERE state='pending'")
        gone = [destination for (destination,) in rows if destination not in known]
        old = self._db.execute(
            "SELECT notice, destination FROM deliveries JOIN notices ON id=notice WHERE state='pending' AND time<?",
            (now - GIVE_UP_SECONDS,),
        )
        if not gone and not old:
            return
        if old:
            log.warning("%d deliveries of notices are a day old and given up; see survivectl status.", len(old))
        with self._db.transaction():
            for destination in gone:
                self._db.execute("DELETE FROM deliveries WHERE destination=? AND state='pending'", (destination,))
            for key in old:
                self._db.execute("UPDATE deliveries SET state='given_up' WHERE notice=? AND destination=?", key)

    def _broken(self, error: SurvivedError) -> None:
        if not self._is_broken:
            log.warning("%s Notices are sent all the same, ignoring", error.message)
        self._is_broken = True

    # ---- what status shows -------------------------------------------------------------------------------------------

    def summary(self) -> dict[str, Any]:
        """
        Return `pending`, `given_up`, `last_delivered` (RFC 3339) and `last_error`.

        The error, and what was given up, end when their destination gets something.
        """
        try:
            ((pending,),) = self._db.execute("SELECT COUNT(DISTINCT notice) FROM deliveries WHERE state='pending'")
            ((delivered,),) = self._db.execute("SELECT MAX(tried) FROM deliveries WHERE state='delivered'")
            later = "NOT EXISTS (SELECT 1 FROM deliveries s WHERE s.destination=d.destination AND s.state='delivered' "
            later += "AND s.tried>=d.tried)"
            errors = self._db.execute(f"SELECT error FROM deliveries d WHERE error<>'' AND {later} ORDER BY tried DESC LIMIT 1")  # noqa: S608
            ((given_up,),) = self._db.execute(f"SELECT COUNT(*) FROM deliveries d WHERE state='given_up' AND {later}")  # noqa: S608
        except SurvivedError as error:
            return {"pending": 0, "given_up": 0, "last_delivered": None, "last_error": error.message}
        last_delivered = None if delivered is None else print_time(delivered)
        last_error = errors[0][0] if errors else None
        return {"pending": pending, "given_up": given_up, "last_delivered": last_delivered, "last_error": last_error}

    def recent(self, count: int) -> list[dict[str, Any]]:
        """Return the last notices, newest first; `delivered` is None where there was nobody to tell."""
        try:
            rows = self._db.execute(
                "SELECT id, topic, level, title, time, COUNT(destination), SUM(state='delivered') FROM notices "
                "LEFT JOIN deliveries ON id=notice GROUP BY id ORDER BY id DESC LIMIT ?",
                (count,),
            )
        except SurvivedError:
            return []
        return [
            {"id": number, "topic": topic, "level": level, "title": title, "time": print_time(time),
             "delivered": got == asked if asked else None}
            for number, topic, level, title, time, asked, got in rows
        ]  # fmt: skip

    def outcome(self, number: int) -> list[dict[str, Any]]:
        """Return for each destination of one notice its `state` (pending, delivered, given_up), `attempts` and `error`."""
        number = self._renamed.get(number, number)
        rows = self._db.execute(
            "SELECT destination, state, attempts, error FROM deliveries WHERE notice=? ORDER BY destination", (number,)
        )
        return [{"destination": r[0], "state": r[1], "attempts": r[2], "error": r[3] or None} for r in rows]


def _notice(columns: Sequence[Any]) -> Notice:
    topic, level, title, body, time, packed = columns
    parts = tuple((str(name), tuple(map(str, lines))) for name, lines in json.loads(packed)) if packed else ()
    return Notice(topic, Level(level), title, body, time, parts)


def _renumbered(result: Result, renamed: dict[int, int]) -> Result:
    number = renamed.get(result.notice)
    return result if number is None else replace(result, notice=number)
