"""The outbox, on a real state.db and in memory."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from survived.errors import SurvivedError
from survived.findings import Waiting
from survived.model import Level, Notice
from survived.store import outbox
from survived.store.database import Database
from survived.store.outbox import Outbox, Result, backoff

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = 1_800_000_000.0
HOUR = 3600.0


def note(title: str = "Disk is full", time: float = NOW) -> Notice:
    """Return a notice."""
    return Notice("pressure", Level.WARNING, title, "body", time)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    """Open a real database."""
    database = Database(str(tmp_path / "state.db"), outbox.SCHEMA)
    yield database
    database.close()


@pytest.fixture(params=["stored", "memory"])
def box(request: pytest.FixtureRequest, db: Database) -> Outbox:
    """Return an outbox of each kind."""
    return Outbox(db if request.param == "stored" else None, random.Random(1))


def due(box: Outbox, now: float, *configured: str) -> list[tuple[str, tuple[str, ...]]]:
    """Return titles and destinations that are due."""
    found: dict[int, list[str]] = {}
    for item in box.waiting(now, configured or ("a", "b")):
        if item.due_at <= now:
            found.setdefault(item.number, []).append(item.destination)
    titles = box.notices(list(found))
    return [(titles[number].title, tuple(destinations)) for number, destinations in found.items()]


def next_due(box: Outbox, now: float) -> float:
    """Return when the next try is, `inf` for never."""
    return min((item.due_at for item in box.waiting(now, ("a", "b"))), default=math.inf)


@given(st.integers(min_value=-1, max_value=10**6), st.integers())
def test_backoff_doubles_up_to_half_an_hour(attempts: int, seed: int) -> None:
    """Waits are 30 s, 1, 2, 4 ... 30 min, each within 20 %."""
    expected = min(30.0 * 2 ** (min(max(attempts, 1), 20) - 1), 1800.0)
    assert 0.8 * expected <= backoff(attempts, random.Random(seed)) <= 1.2 * expected


def test_a_notice_is_due_at_once_with_all_its_words(box: Outbox) -> None:
    """What was put is what is due, unchanged."""
    parts = (("happened", ("a", "b 'c' \"d\"; --")), ("undo", ("\ue000rm x\ue001",)))
    notice = Notice("relocated", Level.SUCCESS, "Titel ä", "a\nb 'c' \"d\"; --", NOW, parts)
    number = box.put(notice, ["b", "a", "a"])
    words = (Waiting(number, name, "relocated", Level.SUCCESS, NOW, 0, NOW) for name in ("a", "b"))
    assert box.waiting(NOW, ("a", "b")) == list(words)
    assert box.notices([number, 999]) == {number: notice}
    assert next_due(box, NOW) <= NOW


def test_a_name_that_is_not_utf8_can_be_told(box: Outbox) -> None:
    """A lone surrogate, which SQLite refuses, becomes readable text."""
    box.put(note("Moved '\udcff'"), ["a"])
    assert due(box, NOW) == [("Moved '\\udcff'", ("a",))]


def test_each_destination_stands_for_itself(box: Outbox) -> None:
    """The one that got it never gets it again; the other is tried again after the wait and not before."""
    number = box.put(note(), ["a", "b"])
    box.record([Result(number, "a", ok=True), Result(number, "b", ok=False, error="destination 2 (x): timed out")], NOW)
    assert due(box, NOW + 20) == []
    assert NOW + 24 <= next_due(box, NOW) <= NOW + 36
    assert due(box, NOW + 37) == [("Disk is full", ("b",))]
    assert box.summary() == {
        "pending": 1, "given_up": 0, "last_delivered": "2027-01-15T08:00:00Z", "last_error": "destination 2 (x): timed out",
    }  # fmt: skip
    box.record([Result(number, "b", ok=True)], NOW + 37)
    assert (due(box, NOW + HOUR), next_due(box, NOW)) == ([], math.inf)
    assert box.summary() == {"pending": 0, "given_up": 0, "last_delivered": "2027-01-15T08:00:37Z", "last_error": None}


def test_a_result_counts_once(box: Outbox) -> None:
    """A late failure does not take back a delivery, and results for unknown notices are nothing."""
    number = box.put(note(), ["a"])
    box.record([Result(number, "a", ok=True), Result(number, "a", ok=False, error="late"), Result(999, "a", ok=True)], NOW)
    assert (due(box, NOW + HOUR), box.summary()["last_error"]) == ([], None)


def test_failures_wait_longer_and_longer(box: Outbox) -> None:
    """The number of failures is remembered for each destination."""
    number, now, waits = box.put(note(), ["a"]), NOW, []
    for _ in range(9):
        box.record([Result(number, "a", ok=False, error="no")], now)
        waits.append(next_due(box, now) - now)
        now += waits[-1]
    assert all(later > earlier for earlier, later in pairwise(waits[:6]))
    assert 1440 <= waits[-1] <= 2160
    assert box.outcome(number) == [{"destination": "a", "state": "pending", "attempts": 9, "error": "no"}]


def test_a_permanent_failure_is_given_up_and_remembered(box: Outbox) -> None:
    """A URL that can never work is not tried again, and status says why."""
    number = box.put(note(), ["a"])
    box.record([Result(number, "a", ok=False, error="destination 1 (foo): not a usable Apprise URL", permanent=True)], NOW)
    assert (due(box, NOW + HOUR), next_due(box, NOW)) == ([], math.inf)
    assert box.summary() == {
        "pending": 0, "given_up": 1, "last_delivered": None, "last_error": "destination 1 (foo): not a usable Apprise URL",
    }  # fmt: skip


def test_an_old_notice_is_given_up(box: Outbox) -> None:
    """After a day nobody wants to hear it any more; the last reason stays."""
    number = box.put(note(), ["a"])
    box.record([Result(number, "a", ok=False, error="down")], NOW)
    assert due(box, NOW + 24 * HOUR - 1) != []
    assert (due(box, NOW + 24 * HOUR + 1), next_due(box, NOW)) == ([], math.inf)
    assert box.summary() == {"pending": 0, "given_up": 1, "last_delivered": None, "last_error": "down"}


def test_a_destination_that_left_the_configuration_is_dropped(box: Outbox) -> None:
    """It is not due, not pending, and its notice goes on to the others."""
    box.put(note(), ["gone", "a"])
    assert due(box, NOW, "a") == [("Disk is full", ("a",))]
    assert due(box, NOW, "gone") == []
    assert box.summary()["pending"] == 0


def test_nobody_to_tell_is_no_error(box: Outbox) -> None:
    """Without destinations a notice is only remembered."""
    box.put(note(), [])
    assert (due(box, NOW), next_due(box, NOW), box.summary()["pending"]) == ([], math.inf, 0)
    assert [(told["title"], told["delivered"]) for told in box.recent(5)] == [("Disk is full", None)]


def test_a_clock_that_was_put_back_does_not_silence_us(box: Outbox) -> None:
    """A next try that lies beyond every wait of ours counts as due."""
    number = box.put(note(), ["a"])
    box.record([Result(number, "a", ok=False, error="down")], NOW)
    earlier = NOW - 365 * 24 * HOUR
    assert next_due(box, earlier) <= earlier
    assert due(box, earlier) == [("Disk is full", ("a",))]


def test_recent_says_what_was_told(box: Outbox) -> None:
    """Newest first, with time and whether everybody got it."""
    first, second = box.put(note("one"), ["a"]), box.put(note("two", NOW + 1), ["a", "b"])
    box.record([Result(first, "a", ok=True), Result(second, "a", ok=True)], NOW + 2)
    assert [(told["title"], told["time"], told["delivered"]) for told in box.recent(5)] == [
        ("two", "2027-01-15T08:00:01Z", False),
        ("one", "2027-01-15T08:00:00Z", True),
    ]
    assert len(box.recent(1)) == 1


def test_batches_and_memory_are_bounded(box: Outbox) -> None:
    """The last 200 notices are kept, and come oldest first."""
    for number in range(250):
        box.put(note(str(number), NOW + number / 1000), ["a"])
    titles = [title for title, _ in due(box, NOW + 1)]
    assert titles == [str(number) for number in range(50, 250)]
    assert box.summary()["pending"] == 200


def test_notices_outlive_the_process(db: Database, tmp_path: Path) -> None:
    """A second outbox on the same file goes on where the first was killed."""
    number = Outbox(db).put(note(), ["a", "b"])
    Outbox(db).record([Result(number, "a", ok=True)], NOW)
    db.close()
    again = Database(str(tmp_path / "state.db"), outbox.SCHEMA)
    assert due(Outbox(again), NOW) == [("Disk is full", ("b",))]
    again.close()


def test_a_store_that_comes_back_adopts_what_waited(db: Database) -> None:
    """Everything moves over with its history, once, and results under the old number still count."""
    memory, stored = Outbox(None, random.Random(1)), Outbox(db, random.Random(1))
    stored.put(note("before"), ["a"])
    one, two = memory.put(note("one"), ["a", "b"]), memory.put(note("two"), ["a"])
    memory.record([Result(one, "a", ok=True), Result(two, "a", ok=False, error="down")], NOW)
    stored.adopt(memory)
    assert (memory.recent(5), next_due(memory, NOW)) == ([], math.inf)
    assert due(stored, NOW) == [("before", ("a",)), ("one", ("b",))]
    assert [told["title"] for told in stored.recent(5)] == ["two", "one", "before"]
    stored.record([Result(one, "b", ok=True)], NOW)
    assert due(stored, NOW) == [("before", ("a",))]
    assert due(stored, NOW + 37) == [("before", ("a",)), ("two", ("a",))]
    assert stored.outcome(two)[0]["attempts"] == 1


def test_numbers_in_memory_are_never_a_stores_numbers(db: Database) -> None:
    """A result of one outbox cannot be taken for a notice of another."""
    numbers = [Outbox(None).put(note(), ["a"]), Outbox(None).put(note(), ["a"]), Outbox(db).put(note(), ["a"])]
    assert len(set(numbers)) == 3


def test_a_quiet_day_writes_nothing(db: Database) -> None:
    """Asking what is due and how things stand changes no byte of the database."""
    box = Outbox(db)
    number = box.put(note(), ["a"])
    box.record([Result(number, "a", ok=True)], NOW)
    before = db.connection.total_changes
    for second in range(100):
        box.waiting(NOW + second, ("a",))
        box.sent_since(NOW)
        box.summary()
    box.record([], NOW)
    assert db.connection.total_changes == before


def test_what_was_sent_is_not_sent_again_when_the_disk_is_full(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    """A delivery that cannot be recorded is remembered, logged once, and recorded when there is room again."""
    box = Outbox(db, random.Random(1))
    number = box.put(note(), ["a", "b"])
    ((pages,),) = db.execute("PRAGMA page_count")
    db.execute("PRAGMA query_only=1")  # SQLITE_READONLY on each write, as on a disk that went read-only
    for _ in range(3):
        box.record([Result(number, "a", ok=True), Result(number, "b", ok=False, error="down")], NOW)
        assert due(box, NOW) == [("Disk is full", ("b",))]
        assert box.is_broken
    with pytest.raises(SurvivedError):
        box.put(note("more"), ["a"])
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    db.execute("PRAGMA query_only=0")
    assert due(box, NOW) == [("Disk is full", ("b",))]
    assert box.outcome(number)[0]["state"] == "delivered"
    assert pages


def test_a_vanished_database_raises_nothing_where_we_only_look(db: Database) -> None:
    """With the file gone bad status, waits and batches go on without it."""
    box = Outbox(db)
    box.put(note(), ["a"])
    db.connection.execute("DROP TABLE deliveries")
    assert (box.waiting(NOW, ("a",)), box.sent_since(NOW), box.recent(3), box.is_broken) == ([], {}, [], True)
    assert "no such table" in str(box.summary()["last_error"])


def test_what_was_sent_lately_counts_once_for_each_letter(box: Outbox) -> None:
    """Notices that reached a destination together are one message of its hour."""
    one, two, three = (box.put(note(str(number)), ["a", "b"]) for number in range(3))
    box.record([Result(one, "a", ok=True), Result(two, "a", ok=True), Result(one, "b", ok=False, error="down")], NOW)
    box.record([Result(three, "a", ok=True)], NOW + 60)
    assert box.sent_since(NOW) == {"a": [NOW, NOW + 60]}
    assert box.sent_since(NOW + 1) == {"a": [NOW + 60]}


def test_a_server_that_asks_for_time_gets_it(box: Outbox) -> None:
    """`Retry-After` is waited for where it is longer than the backoff, up to an hour."""
    for number, (asked, least, most) in enumerate(((0.0, 24, 36), (5.0, 24, 36), (300.0, 300, 300), (1e9, 3600, 3600))):
        put = box.put(note(str(number)), ["a"])
        box.record([Result(put, "a", ok=False, error="HTTP 429", retry_seconds=asked)], NOW)
        (item,) = [item for item in box.waiting(NOW, ("a",)) if item.number == put]
        assert NOW + least <= item.due_at <= NOW + most, asked


def test_receipts_of_an_earlier_sender_count(box: Outbox) -> None:
    """What it noted was delivered, unless number and time are of different notices: numbers of another store, say."""
    one, two = box.put(note("one"), ["a", "b"]), box.put(note("two", NOW + 1), ["a"])
    box.confirm([(one, NOW, "a"), (two, NOW, "a"), (99, NOW, "a"), (one, NOW, "gone")], NOW + 2)
    assert due(box, NOW + 2) == [("one", ("b",)), ("two", ("a",))]
    assert box.outcome(one)[0]["state"] == "delivered"


def test_a_store_of_before_is_brought_up(tmp_path: Path) -> None:
    """Notices of a file of format 2 are read, and newer ones kept beside them with their parts."""
    old = Database(str(tmp_path / "old.db"), outbox.SCHEMA)
    Outbox(old).put(note("old"), ["a"])
    old.execute("DROP TABLE notice_parts")
    old.execute("PRAGMA user_version=2")
    old.close()
    database = Database(str(tmp_path / "old.db"), outbox.SCHEMA)
    again = Outbox(database)
    again.put(Notice("pressure", Level.WARNING, "new", "b", NOW, (("happened", ("b",)),)), ["a"])
    assert [(item.title, item.parts) for item in again.notices([1, 2]).values()] == [("old", ()), ("new", (("happened", ("b",)),))]
    database.close()


def test_giving_up_is_logged_once_and_counted(box: Outbox, caplog: pytest.LogCaptureFixture) -> None:
    """A day of failures ends with one line, and status counts it until something arrives there again."""
    number = box.put(note(), ["a"])
    box.record([Result(number, "a", ok=False, error="down")], NOW)
    for hour in (25, 26, 27):
        assert due(box, NOW + hour * HOUR) == []
    assert len([record for record in caplog.records if "given up" in record.message]) == 1
    assert box.summary()["given_up"] == 1
    later = box.put(note("later", NOW + 30 * HOUR), ["a"])
    box.record([Result(later, "a", ok=True)], NOW + 30 * HOUR)
    assert (box.summary()["given_up"], box.summary()["last_error"]) == (0, None)
