"""
The journal of reversible edits: what was changed in which of the user's files, and how to take it back.

An intent is durable before the file is written. A row keeps the one stretch of bytes that an edit put in the place of
another, and sums of the whole file before and after, never the whole file: it may hold somebody's tokens. Values are text
(JSON) here; what they mean is known in `act/`.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from survived.store.database import Database

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS edits (
        id INTEGER PRIMARY KEY AUTOINCREMENT, owner TEXT NOT NULL, file BLOB NOT NULL, format TEXT NOT NULL, key BLOB NOT NULL,
        value BLOB NOT NULL, stage TEXT NOT NULL, previous BLOB, existed INTEGER NOT NULL, folders BLOB NOT NULL,
        at INTEGER NOT NULL, removed BLOB NOT NULL, inserted BLOB NOT NULL, before_sum TEXT NOT NULL, after_sum TEXT NOT NULL,
        pending BLOB NOT NULL DEFAULT x'', began REAL NOT NULL, changed REAL NOT NULL)""",
)
_COLUMNS = (
    "id, owner, file, format, key, value, stage, previous, existed, folders, at, removed, inserted, before_sum, after_sum, "
    "pending, began, changed"
)
_BLOBS = frozenset({"file", "key", "value", "previous", "folders", "removed", "inserted", "pending"})


class EditStage(StrEnum):
    """How far an edit is known to have come."""

    INTENT = "intent"
    APPLIED = "applied"
    UNDOING = "undoing"
    UNDONE = "undone"
    LEFT = "left"  # the user changed the key since, so it stays as it is


@dataclass(frozen=True, slots=True)
class Splice:
    """One stretch of a file's bytes in the place of another; the sums are those of the whole file, "" for no file."""

    at: int
    removed: bytes
    inserted: bytes
    before_sum: str
    after_sum: str


@dataclass(frozen=True, slots=True)
class EditRecord:
    """
    One row. `owner` is who asked for it (`redirect pip`, `mirrors pip`); `previous` the key's value before, None if it had none.

    `existed`: the file was there before; `folders`: those made for it, outermost first. `pending`: while it is being undone,
    the splices that other edits of the file have afterwards, by id, and the sum that the file is to have.
    """

    id: int
    owner: str
    file: str
    format: str
    key: tuple[str, ...]
    value: Any
    stage: EditStage
    previous: Any
    existed: bool
    folders: tuple[str, ...]
    splice: Splice
    began: float
    changed: float
    pending: Pending | None = None


@dataclass(frozen=True, slots=True)
class Pending:
    """What a file is to be when an undo has ended: its sum, and the rows of the other edits in it that change with that."""

    sum: str
    others: tuple[tuple[int, bool, tuple[str, ...], Splice], ...] = ()


class EditJournal:
    """Reads and writes the table of edits of one store's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, record: EditRecord) -> EditRecord:
        """Record the intent, durably, and return it with its id."""
        splice = record.splice
        row = self._database.insert(
            "INSERT INTO edits (owner, file, format, key, value, stage, previous, existed, folders, at, removed, inserted, "
            "before_sum, after_sum, began, changed) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (record.owner, os.fsencode(record.file), record.format, _packed(list(record.key)), _packed(record.value),
             EditStage.INTENT, None if record.previous is None else _packed(record.previous), record.existed,
             _packed(list(record.folders)), splice.at, splice.removed, splice.inserted, splice.before_sum, splice.after_sum,
             record.began, record.changed),
        )  # fmt: skip
        return replace(record, id=row, stage=EditStage.INTENT)

    def applied(self, record: EditRecord, now: float) -> None:
        """Record that the file holds the edit, synced."""
        self._stage(record, EditStage.APPLIED, now)

    def withdraw(self, record: EditRecord) -> None:
        """Take an intent back that never reached its file."""
        self._database.execute("DELETE FROM edits WHERE id=? AND stage=?", (record.id, EditStage.INTENT))

    def begin_undo(self, record: EditRecord, pending: Pending, now: float) -> EditRecord:
        """Record, durably, that an edit is about to be taken back, and what the file is to be then."""
        packed = _packed([pending.sum, [[number, existed, list(folders), _splice_list(s)] for number, existed, folders, s in
                                        pending.others]])  # fmt: skip
        self._database.execute(
            "UPDATE edits SET stage=?, pending=?, changed=? WHERE id=?", (EditStage.UNDOING, packed, now, record.id)
        )
        return replace(record, stage=EditStage.UNDOING, pending=pending, changed=now)

    def undone(self, record: EditRecord, now: float) -> None:
        """Record that an edit is taken back, synced, and how the file's other edits are recorded since then."""
        with self._database.transaction():
            self._end(record, EditStage.UNDONE, now)
            for number, existed, folders, s in record.pending.others if record.pending else ():
                self._database.execute(
                    "UPDATE edits SET existed=?, folders=?, at=?, removed=?, inserted=?, before_sum=?, after_sum=? WHERE id=?",
                    (existed, _packed(list(folders)), s.at, s.removed, s.inserted, s.before_sum, s.after_sum, number),
                )

    def leave(self, record: EditRecord, now: float) -> None:
        """Record that an edit is not ours any more, since the user changed it."""
        self._end(record, EditStage.LEFT, now)

    def resume(self, record: EditRecord, now: float) -> EditRecord:
        """Record that an undo never reached the file: the edit is applied as before."""
        self._stage(record, EditStage.APPLIED, now)
        return replace(record, stage=EditStage.APPLIED, pending=None)

    def open(self, owner: str | None = None, file: str | None = None) -> tuple[EditRecord, ...]:
        """Return the edits that are in force or on their way, oldest first: of one owner, in one file, or all."""
        where, values = "stage IN (?,?,?)", [EditStage.INTENT, EditStage.APPLIED, EditStage.UNDOING]
        parameters: list[Any] = list(values)
        if owner is not None:
            where, parameters = f"{where} AND owner=?", [*parameters, owner]
        if file is not None:
            where, parameters = f"{where} AND file=?", [*parameters, os.fsencode(file)]
        return self._select(f"{where} ORDER BY id", parameters)

    def unfinished(self) -> bool:
        """Tell whether a crash left an edit on its way."""
        row = self._database.execute("SELECT COUNT(*) FROM edits WHERE stage IN (?,?)", (EditStage.INTENT, EditStage.UNDOING))
        return bool(row[0][0])

    def folders_above(self, file: str) -> tuple[str, ...]:
        """Return the folders above a file that were ever made for one of ours, outermost first."""
        rows = self._database.execute("SELECT DISTINCT folders FROM edits")
        made = {folder for row in rows for folder in json.loads(row[0]) if file.startswith(f"{folder}/")}
        return tuple(sorted(made, key=len))

    def all(self) -> tuple[EditRecord, ...]:
        """Return every edit that was ever made, oldest first; of ended ones the bytes are forgotten."""
        return self._select("1 ORDER BY id", ())

    def export(self) -> list[dict[str, Any]]:
        """Return the rows of the edits in force, as JSON can hold them, for a copy elsewhere."""
        stages = (EditStage.INTENT, EditStage.APPLIED, EditStage.UNDOING)
        rows = self._database.execute(f"SELECT {_COLUMNS} FROM edits WHERE stage IN (?,?,?) ORDER BY id", stages)  # noqa: S608
        names = _COLUMNS.split(", ")
        return [dict(zip(names, [v.decode("latin-1") if isinstance(v, bytes) else v for v in row], strict=True)) for row in rows]

    def take(self, rows: Iterable[dict[str, Any]]) -> None:
        """Take in rows that `export` gave, with their ids."""
        names = _COLUMNS.split(", ")
        for row in rows:
            values = [str(row[name]).encode("latin-1") if name in _BLOBS and row[name] is not None else row[name] for name in names]
            marks = ",".join("?" * len(names))
            self._database.execute(f"INSERT INTO edits ({_COLUMNS}) VALUES ({marks})", values)  # noqa: S608

    def _select(self, where: str, parameters: Iterable[Any]) -> tuple[EditRecord, ...]:
        rows = self._database.execute(f"SELECT {_COLUMNS} FROM edits WHERE {where}", tuple(parameters))  # noqa: S608
        return tuple(_record(row) for row in rows)

    def _stage(self, record: EditRecord, stage: EditStage, now: float) -> None:
        self._database.execute("UPDATE edits SET stage=?, changed=?, pending=x'' WHERE id=?", (stage, now, record.id))

    def _end(self, record: EditRecord, stage: EditStage, now: float) -> None:
        """End an edit; the bytes that its file held are nobody's business any more."""
        self._database.execute(
            "UPDATE edits SET stage=?, changed=?, pending=x'', removed=x'', inserted=x'', previous=NULL WHERE id=?",
            (stage, now, record.id),
        )


def _packed(value: Any) -> bytes:
    """Return JSON as ASCII bytes: lone surrogates, which bytes that are no UTF-8 become, are escaped."""
    return json.dumps(value).encode("ascii")


def _splice_list(s: Splice) -> list[Any]:
    return [s.at, s.removed.decode("latin-1"), s.inserted.decode("latin-1"), s.before_sum, s.after_sum]


def _tuples(value: Any) -> Any:
    """Return lists as tuples, as values have them."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _record(row: tuple[Any, ...]) -> EditRecord:
    number, owner, file, form, key, value, stage, previous, existed, folders, *splice, pending, began, changed = row
    return EditRecord(
        number, owner, os.fsdecode(file), form, tuple(json.loads(key)), _tuples(json.loads(value)), EditStage(stage),
        None if previous is None else _tuples(json.loads(previous)), bool(existed), tuple(json.loads(folders)),
        Splice(*splice), began, changed, _pending(pending) if pending else None,
    )  # fmt: skip


def _pending(packed: bytes) -> Pending:
    total, others = json.loads(packed)
    found = (
        (number, bool(existed), tuple(folders), Splice(s[0], s[1].encode("latin-1"), s[2].encode("latin-1"), s[3], s[4]))
        for number, existed, folders, s in others
    )
    return Pending(total, tuple(found))
