"""From one data disk to another: the link swaps in one step, and what is left behind goes; and ends whose path changed hands."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from survived.act import fs, recover
from survived.act import relocate as engine
from survived.errors import NeedsPerson, Refused, SurvivedError
from survived.model import Mark, Reason, Stage, Verb
from survived.store import journal
from survived.store.database import UPGRADES, VERSION, Database
from tests.unit.engine import Rig, snapshot

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def moved(rig: Rig) -> Rig:
    """Return a rig whose source is relocated, with a second disk to go to."""
    return rig.prepare(Verb.REHOME)


def unfinished(rig: Rig, verb: Verb) -> None:
    """Run an operation to its exchange and no further."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recover, "finish", lambda _store, _journal, operation, *_: operation)
        assert rig.act(verb).stage is Stage.EXCHANGED


def test_a_tree_changes_its_disk_and_nothing_else(moved: Rig) -> None:
    """Byte for byte, with one link to the new place, one record, and not a crumb on the old disk; and home again from there."""
    before = snapshot(moved.source)
    operation = moved.rehome()
    assert (operation.stage, operation.verb) == (Stage.DONE, Verb.REHOME)
    assert os.readlink(moved.source) == operation.target
    assert operation.target.startswith(f"{moved.second}/survived/trees/")
    assert snapshot(moved.source) == before
    assert [item.target for item in moved.recorded()] == [operation.target]
    assert moved.leftovers() == []
    assert moved.other is not None
    assert moved.other.restore().stage is Stage.DONE
    assert snapshot(moved.source) == before
    assert (moved.leftovers(), moved.recorded()) == ([], [])


def test_refusals_leave_the_link_where_it_leads(moved: Rig) -> None:
    """The same disk, no room, a link that is not ours, a tree that is not there: one sentence, and nothing is begun."""
    assert moved.other is not None
    before, link = snapshot(moved.source), os.readlink(moved.source)
    with pytest.raises(Refused, match=r"needs .* share is kept free") as caught:
        moved.rehome(keep_free=Mark(usage=0.0))
    assert caught.value.reason is Reason.NO_ROOM
    here = moved.other.ends
    moved.other.ends = replace(here, store=replace(here.store, device_id=moved.ends.store.device_id))
    with pytest.raises(Refused, match="it is on that disk already") as caught:
        moved.rehome()
    assert caught.value.reason is Reason.OTHER_FILESYSTEM
    moved.other.ends = here
    moved.source.unlink()
    moved.source.symlink_to("/elsewhere")
    with pytest.raises(SurvivedError, match="it is not the link that survived left there"):
        moved.rehome()
    moved.source.unlink()
    moved.source.symlink_to(link)
    moved.target.rename(moved.target.with_name("away"))
    with pytest.raises(SurvivedError, match=r"is not there.*Nothing was changed"):
        moved.rehome()
    moved.target.with_name("away").rename(moved.target)
    assert (snapshot(moved.source), moved.open_operations(), moved.leftovers()) == (before, [], [])


def test_an_old_disk_that_is_away_is_waited_for(moved: Rig) -> None:
    """The new place counts at once; what the old disk holds goes when it is there again."""
    before = snapshot(moved.source)
    unfinished(moved, Verb.REHOME)
    assert moved.other is not None
    ends = moved.other.ends
    for _ in range(2):
        ended, puzzles = recover.recover_all(ends.store, ends.journal, lambda _: None)
        assert ([operation.stage for operation in ended], puzzles) == ([Stage.EXCHANGED], [])
        assert "goes when its data disk is there" in ended[0].note
    assert snapshot(moved.source) == before
    assert [operation.stage for operation in moved.recover()[0]] == [Stage.DONE]
    assert (snapshot(moved.source), moved.leftovers()) == (before, [])


def test_a_lost_copy_gives_the_old_link_back(moved: Rig) -> None:
    """When the new disk loses the copy before the old tree is gone, the path leads to the old tree again."""
    before, link = snapshot(moved.source), os.readlink(moved.source)
    unfinished(moved, Verb.REHOME)
    os.rename(os.readlink(moved.source), f"{moved.second}/lost")
    ended, puzzles = moved.recover()
    assert ([operation.stage for operation in ended], puzzles) == ([Stage.UNDONE], [])
    assert (os.readlink(moved.source), snapshot(moved.source)) == (link, before)
    assert [item.target for item in moved.recorded()] == [link]


@pytest.mark.parametrize("what", ["nothing", "tree", "file", "elsewhere"])
@pytest.mark.parametrize("verb", [Verb.RELOCATE, Verb.REHOME])
def test_a_link_that_is_taken_away_after_the_exchange(rig: Rig, verb: Verb, what: str) -> None:
    """What the user or a tool made of the path stays; the copy stays on the data disk; the old side is brought over and goes."""
    rig.prepare(verb)
    before = snapshot(rig.source)
    unfinished(rig, verb)
    target = os.readlink(rig.source)
    replaced(rig.source, what)
    ended, puzzles = rig.recover()
    assert ([operation.stage for operation in ended], puzzles) == ([Stage.DONE], [])
    assert snapshot(target) == before
    assert [name for name in os.listdir(rig.source.parent) if name != "tool"] == []
    assert rig.recover() == ([], [])


@pytest.mark.parametrize("what", ["nothing", "file", "elsewhere"])
def test_a_restored_tree_that_is_taken_away(rig: Rig, what: str) -> None:
    """The tree on the data disk is the last one that we know to be whole: it is kept, and the operation ends."""
    rig.relocate()
    before, target = snapshot(rig.source), os.readlink(rig.source)
    unfinished(rig, Verb.RESTORE)
    rig.source.rename(rig.source.with_name("mine"))
    replaced(rig.source, what)
    ended, puzzles = rig.recover()
    assert ([operation.stage for operation in ended], puzzles) == ([Stage.DONE], [])
    assert f"the tree at '{target}' is kept" in ended[0].note
    assert snapshot(target) == snapshot(rig.source.with_name("mine")) == before
    assert rig.recover() == ([], [])


def replaced(path: Path, what: str) -> None:
    """Take away what is at a path and put something else there."""
    if path.is_symlink():
        path.unlink()
    if what == "tree":
        path.mkdir()
    elif what == "file":
        path.touch()
    elif what == "elsewhere":
        path.symlink_to("/elsewhere")


def test_an_exchange_that_somebody_undid_is_a_question(moved: Rig) -> None:
    """The old link at the path again after EXCHANGED was recorded: whose word counts, nobody but a person knows."""
    link = os.readlink(moved.source)
    unfinished(moved, Verb.REHOME)
    moved.source.unlink()
    moved.source.symlink_to(link)
    ended, puzzles = moved.recover()
    assert (ended, [type(puzzle) for puzzle in puzzles]) == ([], [NeedsPerson])


FIRST_FORMAT = """
    CREATE TABLE memory (key TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE operations (
        id INTEGER PRIMARY KEY AUTOINCREMENT, verb TEXT NOT NULL, cache_id TEXT NOT NULL, source BLOB NOT NULL,
        target BLOB NOT NULL, stage TEXT NOT NULL, began REAL NOT NULL, changed REAL NOT NULL,
        size_bytes INTEGER NOT NULL DEFAULT 0, files INTEGER NOT NULL DEFAULT 0,
        freed_bytes INTEGER NOT NULL DEFAULT 0, note TEXT NOT NULL DEFAULT '',
        source_mark_ns INTEGER NOT NULL DEFAULT 0, target_mark_ns INTEGER NOT NULL DEFAULT 0);
    CREATE TABLE relocated (
        target BLOB PRIMARY KEY, source BLOB NOT NULL, cache_id TEXT NOT NULL, since REAL NOT NULL,
        size_bytes INTEGER NOT NULL, files INTEGER NOT NULL);
    INSERT INTO operations (verb, cache_id, source, target, stage, began, changed)
        VALUES ('relocate', 'pip', CAST('/s' AS BLOB), CAST('/t' AS BLOB), 'intent', 1.0, 1.0);
    PRAGMA user_version=1;
"""


def test_a_journal_of_the_first_format_is_brought_up(tmp_path: Path) -> None:
    """A store of an earlier survived keeps what it knows, and has all that the newer one needs."""
    path = str(tmp_path / "state.db")
    old = sqlite3.connect(path)
    old.executescript(FIRST_FORMAT)
    old.close()
    Database(str(tmp_path / "new.db"), journal.SCHEMA).close()
    for _ in range(2):
        again = Database(path, journal.SCHEMA)
        (found,) = journal.Journal(again).open_operations()
        assert (found.verb, found.source, found.origin) == (Verb.RELOCATE, "/s", "")
        assert again.execute("PRAGMA user_version") == [(VERSION,)]
        fresh = Database(str(tmp_path / "new.db"), journal.SCHEMA)
        columns = [
            sorted(db.execute("SELECT name, type, dflt_value FROM pragma_table_info('operations')")) for db in (again, fresh)
        ]
        assert columns[0] == columns[1]
        again.close()
        fresh.close()
    assert set(UPGRADES) == set(range(1, VERSION))


@pytest.mark.parametrize("verb", Verb)
def test_what_was_written_through_an_exchange_that_a_power_cut_took_back(rig: Rig, verb: Verb) -> None:
    """The new place was seen for a moment, and what was written there is safe although the old place is back."""
    before = snapshot(rig.prepare(verb).source)

    def seen_for_a_moment(parent_fd: int, aside: str, name: str, _source: str) -> None:
        fs.exchange(parent_fd, aside, name)
        (rig.source / "a").write_bytes(b"written through the new place")
        (rig.source / "hollow/new").write_bytes(b"made there")
        (rig.source / "empty").unlink()
        fs.exchange(parent_fd, aside, name)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "exchange", seen_for_a_moment)
        with pytest.raises(KeyboardInterrupt):
            rig.act(verb)
    ended, puzzles = rig.reopen().recover()
    assert ([operation.stage for operation in ended], puzzles) == ([Stage.UNDONE], [])
    assert (rig.source / "a").read_bytes() == b"written through the new place"
    assert (rig.source / "hollow/new").read_bytes() == b"made there"
    now = snapshot(rig.source)
    # What was deleted is back; the time of the root is of the change in it.
    assert {name for name in now if now[name] != before.get(name)} == {b"", b"a", b"hollow", b"hollow/new"}
    assert rig.leftovers() == []
