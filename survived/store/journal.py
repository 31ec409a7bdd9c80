"""
The journal of one store: which operations were begun, how far each is known to have come, and what is relocated.

An intent is durable before the first byte moves; a later stage is recorded only after it is finished and synced, so
the journal may lag the disk by one stage and never leads it. Paths are stored as bytes: names need not be UTF-8.
"""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

from survived.model import Operation, Relocation, Stage, Verb
from survived.units import escape_surrogates

if TYPE_CHECKING:
    from survived.store.database import Database

SCHEMA = (
    """CREATE TABLE operations (
        id INTEGER PRIMARY KEY AUTOINCREMENT, verb TEXT NOT NULL, cache_id TEXT NOT NULL, source BLOB NOT NULL,
        target BLOB NOT NULL, stage TEXT NOT NULL, began REAL NOT NULL, changed REAL NOT NULL,
        size_bytes INTEGER NOT NULL DEFAULT 0, files INTEGER NOT NULL DEFAULT 0,
        freed_bytes INTEGER NOT NULL DEFAULT 0, note TEXT NOT NULL DEFAULT '',
        source_mark_ns INTEGER NOT NULL DEFAULT 0, target_mark_ns INTEGER NOT NULL DEFAULT 0,
        content_bytes INTEGER NOT NULL DEFAULT -1, origin BLOB NOT NULL DEFAULT x'')""",
    """CREATE TABLE relocated (
        target BLOB PRIMARY KEY, source BLOB NOT NULL, cache_id TEXT NOT NULL, since REAL NOT NULL,
        size_bytes INTEGER NOT NULL, files INTEGER NOT NULL)""",
)
_COLUMNS = (
    "id, verb, cache_id, source, target, stage, began, changed, size_bytes, files, freed_bytes, note, "
    "source_mark_ns, target_mark_ns, content_bytes, origin"
)
_FINAL = (Stage.DONE, Stage.UNDONE)


class Journal:
    """Reads and writes the journal tables of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, verb: Verb, cache_id: str, source: str, target: str, now: float, *, origin: str = "") -> Operation:
        """Record the intent, durably, and return it with its id; ids are never reused. `origin`: the tree that a rehome leaves."""
        row = self._database.insert(
            "INSERT INTO operations (verb, cache_id, source, target, stage, began, changed, origin) VALUES (?,?,?,?,?,?,?,?)",
            (
                verb,
                escape_surrogates(cache_id),
                os.fsencode(source),
                os.fsencode(target),
                Stage.INTENT,
                now,
                now,
                os.fsencode(origin),
            ),
        )
        return Operation(row, verb, cache_id, source, target, Stage.INTENT, now, now, origin=origin)

    def advance(self, operation: Operation, stage: Stage, now: float, **found: int | str) -> Operation:
        """
        Record that `stage` is finished and synced, and what is relocated since then, in one transaction.

        `found` are fields of `Operation` learnt by this stage (sizes, marks, note). EXCHANGED of a relocation or rehome
        makes its source relocated, EXCHANGED of a restore ends that, and so does UNDONE of the former. What a rehome leaves is
        another journal's to `forget`. Returns the operation as it is recorded now.
        """
        target = os.fsencode(operation.target)
        after = dataclasses.replace(operation, stage=stage, changed=now, **found)  # type: ignore[arg-type]
        with self._database.transaction():
            self._database.execute(
                "UPDATE operations SET stage=?, changed=?, size_bytes=?, files=?, freed_bytes=?, note=?, source_mark_ns=?, "
                "target_mark_ns=?, content_bytes=? WHERE id=?",
                (stage, now, after.size_bytes, after.files, after.freed_bytes, escape_surrogates(after.note), after.source_mark_ns,
                 after.target_mark_ns, after.content_bytes, after.id),
            )  # fmt: skip
            if stage is Stage.EXCHANGED and operation.verb is not Verb.RESTORE:
                self._database.execute(
                    "INSERT OR REPLACE INTO relocated "
                    "SELECT target, source, cache_id, ?, size_bytes, files FROM operations WHERE id=?",
                    (now, operation.id),
                )
            if stage is Stage.EXCHANGED and operation.verb is Verb.RESTORE:
                self._database.execute("DELETE FROM relocated WHERE target=?", (target,))
            if stage is Stage.UNDONE and operation.verb is not Verb.RESTORE:
                self._database.execute("DELETE FROM relocated WHERE target=?", (target,))
        return after

    def open_operations(self) -> tuple[Operation, ...]:
        """Return every operation that is neither done nor undone, oldest first."""
        rows = self._database.execute(f"SELECT {_COLUMNS} FROM operations WHERE stage NOT IN (?,?) ORDER BY id", _FINAL)  # noqa: S608
        return tuple(_operation(row) for row in rows)

    def operation(self, operation_id: int) -> Operation | None:
        """Return one operation, or None."""
        rows = self._database.execute(f"SELECT {_COLUMNS} FROM operations WHERE id=?", (operation_id,))  # noqa: S608
        return _operation(rows[0]) if rows else None

    def recent(self, count: int) -> tuple[Operation, ...]:
        """Return the last operations, newest first."""
        rows = self._database.execute(f"SELECT {_COLUMNS} FROM operations ORDER BY id DESC LIMIT ?", (count,))  # noqa: S608
        return tuple(_operation(row) for row in rows)

    def relocations(self) -> tuple[Relocation, ...]:
        """Return what lives in this store behind a link of ours, by source; of two trees of one source the later."""
        return self._relocated(latest=True)

    def orphans(self) -> tuple[Relocation, ...]:
        """Return trees whose source was relocated anew since: their link was replaced by a real directory before."""
        return self._relocated(latest=False)

    def _relocated(self, *, latest: bool) -> tuple[Relocation, ...]:
        rows = self._database.execute(
            "SELECT cache_id, source, target, since, size_bytes, files FROM relocated AS it "
            "WHERE (since = (SELECT MAX(since) FROM relocated WHERE source=it.source)) = ? ORDER BY source",
            (latest,),
        )
        return tuple(Relocation(r[0], os.fsdecode(r[1]), os.fsdecode(r[2]), r[3], r[4], r[5]) for r in rows)

    def maker(self, target: str) -> Operation | None:
        """Return the operation that made the tree at `target`, or None where the journal was made anew since."""
        rows = self._database.execute(
            f"SELECT {_COLUMNS} FROM operations WHERE target=? AND verb<>? AND stage IN (?,?) ORDER BY id DESC LIMIT 1",  # noqa: S608
            (os.fsencode(target), Verb.RESTORE, Stage.EXCHANGED, Stage.DONE),
        )
        return _operation(rows[0]) if rows else None

    def begin_after(self, number: int) -> None:
        """Give the next operation an id above `number`: after a loss of the journal no name of an earlier one is met again."""
        with self._database.transaction():
            rows = self._database.execute("SELECT seq FROM sqlite_sequence WHERE name='operations'")
            self._database.execute("DELETE FROM sqlite_sequence WHERE name='operations'")
            self._database.execute("INSERT INTO sqlite_sequence VALUES ('operations', ?)", (max([number, *(r[0] for r in rows)]),))

    def forget(self, target: str) -> None:
        """Record that nothing is relocated to `target` any more; one that is not recorded is fine."""
        self._database.execute("DELETE FROM relocated WHERE target=?", (os.fsencode(target),))

    def record(self, item: Relocation) -> None:
        """Record that this tree is relocated, in place of what was recorded of it."""
        self._database.execute(
            "INSERT OR REPLACE INTO relocated VALUES (?,?,?,?,?,?)",
            (os.fsencode(item.target), os.fsencode(item.source), item.cache_id, item.since, item.size_bytes, item.files),
        )

    def adopt(self, item: Relocation) -> None:
        """Record what the disk shows to be relocated and the journal does not know; what it knows stays as it is."""
        self._database.execute(
            "INSERT OR IGNORE INTO relocated VALUES (?,?,?,?,?,?)",
            (os.fsencode(item.target), os.fsencode(item.source), item.cache_id, item.since, item.size_bytes, item.files),
        )


def _operation(row: tuple[Any, ...]) -> Operation:
    number, verb, cache_id, source, target, stage, *rest, origin = row
    ends = os.fsdecode(source), os.fsdecode(target)
    return dataclasses.replace(Operation(number, Verb(verb), cache_id, *ends, Stage(stage), *rest), origin=os.fsdecode(origin))
