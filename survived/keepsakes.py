"""
A copy at home of what the journals say about edits, so that they can be taken back when their data disk is gone for good.

The journal counts while its disk is there; the copy is written after each change, and only used while the disk is away. What is
undone by it is told to the journal when the disk is back.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import TYPE_CHECKING, Any

from survived.act import fs, undoing
from survived.act.gate import Gate, close_gate
from survived.store import edits as table
from survived.store.database import Database
from survived.store.edits import EditJournal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from survived.act.undoing import Outcome
    from survived.machine import Machine

_FILE = "edits.json"
_MEMORY = ":memory:"


def keep(machine: Machine, gate: Gate | None = None) -> None:
    """Write the copy anew for the stores that are open; on a full disk it stays as old as it is."""
    kept = _read(machine)
    for path, opened in machine.open.items():
        before = kept.get(path, {})
        doors = [gate.plain, gate.sealed] if gate is not None and gate.store == path else before.get("gate", [])
        kept[path] = {"rows": EditJournal(opened.database).export(), "gate": doors, "undone": []}
    _write(machine, {path: item for path, item in kept.items() if item["rows"] or item["undone"]})


def settle(machine: Machine) -> None:
    """Tell the journals of open stores what was undone while they were away."""
    kept = _read(machine)
    for path, opened in machine.open.items():
        undone = set(kept.get(path, {}).get("undone", ()))
        journal = EditJournal(opened.database)
        for record in journal.open() if undone else ():
            if record.id in undone:
                journal.leave(record, time.time())
        if undone:
            kept[path]["undone"] = []
            _write(machine, kept)


def owners_away(machine: Machine) -> frozenset[str]:
    """Return whose edits are in force by the copy, in stores whose journal cannot be read now."""
    found = {str(row["owner"]) for path, item in _read(machine).items() if _is_away(machine, path) for row in item["rows"]}
    return frozenset(found)


def undo(machine: Machine, owner: str) -> tuple[Outcome, ...]:
    """Take an owner's edits back by the copy alone, for stores that are away; as `undoing.undo` does."""
    kept = _read(machine)
    outcomes: list[Outcome] = []
    for path, item in kept.items():
        if not _is_away(machine, path):
            continue
        with _journal_of(item["rows"]) as journal:
            before = {record.id for record in journal.open(owner)}
            outcomes += undoing.undo(journal, owner, time.time(), machine.ballast)
            left = {record.id for record in journal.open()}
            item["rows"] = journal.export()
        item["undone"] = sorted({*item.get("undone", ()), *(before - left)})
        if not item["rows"] and item.get("gate"):
            close_gate(Gate(item["gate"][0], item["gate"][1], path))
    _write(machine, kept)
    return tuple(outcomes)


def _is_away(machine: Machine, path: str) -> bool:
    return path not in machine.open and not os.path.isfile(os.path.join(path, "state.db"))


@contextlib.contextmanager
def _journal_of(rows: list[dict[str, Any]]) -> Iterator[EditJournal]:
    """Give a journal in memory that holds these rows, with their ids."""
    database = Database(_MEMORY, table.SCHEMA)
    try:
        journal = EditJournal(database)
        journal.take(rows)
        yield journal
    finally:
        database.close()


def _path(machine: Machine) -> str:
    return os.path.join(machine.paths.state_dir, _FILE)


def _read(machine: Machine) -> dict[str, Any]:
    try:
        with open(_path(machine), encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and all(isinstance(item, dict) and "rows" in item for item in found.values()) else {}


def _write(machine: Machine, kept: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        if kept:
            fs.write_file(_path(machine), json.dumps(kept).encode("ascii"), 0o600)
        else:
            fs.remove_file(_path(machine))
