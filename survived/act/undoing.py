"""
Taking reversible edits back, three-way: what we wrote, what is there, what was there before.

If the user changed the key since, it stays and is told. If nobody else touched the file, it becomes byte for byte what it
was; if its user changed other things in it, only our stretch is taken out of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from survived.act.dialect import Unreadable
from survived.act.dotfile import (
    Dotfile,
    missing_folders,
    read_dotfile,
    remove_dotfile,
    remove_folders,
    sum_of,
    tidy,
    write_dotfile,
)
from survived.act.edits import diff_of, splice_of
from survived.act.formats import FORMATS
from survived.errors import SurvivedError
from survived.store.edits import EditRecord, EditStage, Pending, Splice

if TYPE_CHECKING:
    from survived.act.ballast import Ballast
    from survived.store.edits import EditJournal

_Others = tuple[tuple[int, bool, tuple[str, ...], Splice], ...]


class How(StrEnum):
    """What became of an edit."""

    RESTORED = "restored"  # what was there before is there again
    LEFT = "left"  # the user changed it, and it stays as it is
    FAILED = "failed"  # it is still there, and can be undone when what is in the way is gone


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an undo did with one edit, and why it did not do more."""

    record: EditRecord
    how: How
    why: str = ""
    diff: str = ""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a file is to be: None for no file; the edits of ours that change their stretch with that."""

    data: bytes | None
    others: _Others = ()


def holds(record: EditRecord) -> bool:
    """Tell whether the file still says what we wrote."""
    try:
        file = read_dotfile(record.file)
        return file.data is not None and FORMATS[record.format].read(file.text, record.key, record.value) == record.value
    except (SurvivedError, Unreadable):
        return False


def undo(journal: EditJournal, owner: str, now: float, ballast: Ballast) -> tuple[Outcome, ...]:
    """Take all edits of an owner back, the last first; never raises for one that cannot be: its outcome says why."""
    return tuple(undo_one(journal, record, now, ballast) for record in reversed(journal.open(owner)))


def plan_undo(journal: EditJournal, owner: str) -> tuple[Outcome, ...]:
    """Return what `undo` would do, each edit as if it were alone; changes nothing."""
    found = []
    for record in reversed(journal.open(owner)):
        try:
            file = read_dotfile(record.file)
            wanted = _decide(journal, record, file)
        except SurvivedError as error:
            found.append(Outcome(record, How.FAILED, error.message))
            continue
        if isinstance(wanted, str):
            found.append(Outcome(record, How.LEFT, wanted))
        else:
            found.append(Outcome(record, How.RESTORED, diff=diff_of(record.file, file.data, wanted.data)))
    return tuple(found)


def undo_one(journal: EditJournal, record: EditRecord, now: float, ballast: Ballast) -> Outcome:
    """Take one edit back; what the disk says no to is the outcome's reason, and the edit stays."""
    try:
        file = read_dotfile(record.file)
        wanted = _decide(journal, record, file)
        if isinstance(wanted, str):
            journal.leave(record, now)
            return Outcome(record, How.LEFT, wanted)
        begun = journal.begin_undo(record, Pending(sum_of(wanted.data), wanted.others), now)
        try:
            if wanted.data is None:
                remove_dotfile(file, journal.folders_above(file.real))
            elif wanted.data != file.data:
                write_dotfile(file, wanted.data, ballast)
        except SurvivedError:
            journal.resume(record, now)
            raise
        journal.undone(begun, now)
    except SurvivedError as error:
        return Outcome(record, How.FAILED, error.message)
    return Outcome(record, How.RESTORED, diff=diff_of(record.file, file.data, wanted.data))


def _decide(journal: EditJournal, record: EditRecord, file: Dotfile) -> _Plan | str:
    """Return what the file is to be, or why the edit is not ours to take back."""
    rows = [row for row in journal.open(file=record.file) if row.id >= record.id and row.stage is not EditStage.INTENT]
    exact = _peeled(rows, file.data)
    if exact is not None:
        return exact
    if file.data is None:
        return "the file is gone"
    return _by_key(record, file)


def _peeled(rows: list[EditRecord], data: bytes | None) -> _Plan | None:
    """
    Take our stretches off a file that only we have written, the last first, and put the later edits on again.

    None if the file is not as the last of them left it.
    """
    for row in reversed(rows):
        splice = row.splice
        if data is None or sum_of(data) != splice.after_sum:
            return None
        before = data[: splice.at] + splice.removed + data[splice.at + len(splice.inserted) :]
        data = before if row.existed else None
        if sum_of(data) != splice.before_sum:
            return None
    others: list[tuple[int, bool, tuple[str, ...], Splice]] = []
    folders = rows[0].folders if rows else ()
    for row in rows[1:]:
        try:
            text = (data or b"").decode("utf-8", "surrogateescape")
            after = FORMATS[row.format].put(text, row.key, row.value).encode("utf-8", "surrogateescape")
        except Unreadable:
            return None
        others.append((row.id, data is not None, folders if data is None else row.folders, splice_of(data, after)))
        data = after
    return _Plan(data, tuple(others))


def _by_key(record: EditRecord, file: Dotfile) -> _Plan | str:
    dialect, text, key, value = FORMATS[record.format], file.text, record.key, record.value
    shown = ".".join(key) or "the file"
    try:
        found = dialect.read(text, key, value)
        if found != value:
            return f"{shown} is not there any more" if found is None else f"{shown} was changed since"
        candidates = _cut_out(record.splice, file.data or b"")
        rest = dialect.rest(text, key, value)
        for candidate in candidates:
            after = candidate.decode("utf-8", "surrogateescape")
            if _reads(record, after) and dialect.rest(after, key, value) == rest:
                return _Plan(candidate if candidate or record.existed else None)
        after = dialect.drop(text, key, value) if record.previous is None else dialect.put(text, key, record.previous)
        if dialect.rest(after, key, value) != rest:
            raise Unreadable("more than our own key would change")
    except Unreadable as error:
        why = str(error).rstrip(".")
        raise SurvivedError(f"Cannot undo what we wrote in '{record.file}': {why}. It is left as it is.") from error
    data = after.encode("utf-8", "surrogateescape")
    return _Plan(data if data.strip() or record.existed else None)


def _reads(record: EditRecord, text: str) -> bool:
    try:
        return bool(FORMATS[record.format].read(text, record.key, record.value) == record.previous)
    except Unreadable:
        return False


def _cut_out(splice: Splice, data: bytes) -> list[bytes]:
    """Return the file with our stretch taken out, for the places where it stands, the nearest to the old one first."""
    places: list[int] = []
    at = data.find(splice.inserted) if splice.inserted else -1
    while at >= 0 and len(places) < 100:
        places.append(at)
        at = data.find(splice.inserted, at + 1)
    places.sort(key=lambda place: abs(place - splice.at))
    return [data[:at] + splice.removed + data[at + len(splice.inserted) :] for at in places]


def _remove_folders(journal: EditJournal, record: EditRecord, file: Dotfile) -> None:
    gone, made = missing_folders(file), {*record.folders, *journal.folders_above(file.real)}
    remove_folders(folder for folder in sorted(made, key=len) if folder not in gone)


def recover(journal: EditJournal, now: float, ballast: Ballast) -> None:
    """
    End what a crash left: an intent is applied or withdrawn by what its file says, an undo that was begun is finished.

    A repeat finds nothing to do.
    """
    for record in journal.open():
        if record.stage is EditStage.APPLIED:
            continue
        try:
            file = read_dotfile(record.file)
        except SurvivedError:
            continue  # its disk or folder is not there: looked at again next time
        tidy(file)
        if record.stage is EditStage.INTENT:
            if sum_of(file.data) == record.splice.after_sum or (sum_of(file.data) != record.splice.before_sum and holds(record)):
                journal.applied(record, now)
            else:
                journal.withdraw(record)
                if file.data is None:
                    _remove_folders(journal, record, file)
        elif record.pending is not None and sum_of(file.data) == record.pending.sum:
            journal.undone(record, now)
            if file.data is None:
                _remove_folders(journal, record, file)
        else:
            undo_one(journal, journal.resume(record, now), now, ballast)
