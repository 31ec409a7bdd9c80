"""
Reversible edits: one key in one settings file of a user, set so that it can be taken back byte for byte.

`plan` says what would change, `apply` does it, `undo` (in `undoing.py`) takes it back. Nothing but the key is touched: an edit
whose result reads differently anywhere else is not written. The intent is in the journal before the file is written.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from survived.act.dialect import Key, Unreadable, Value
from survived.act.dotfile import Dotfile, missing_folders, read_dotfile, sum_of, write_dotfile
from survived.act.formats import FORMATS
from survived.errors import Refused, SurvivedError
from survived.store.edits import EditRecord, EditStage, Splice
from survived.terms import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from survived.act.ballast import Ballast
    from survived.store.edits import EditJournal

_SECRET = re.compile(
    r"""(?ix) ( (?:_authtoken|_auth|_password|password|passwd|token|secret|api[_-]?key)["']?\s*[=:]\s* ) \S.* | (://[^/\s:@]+:)[^/\s@]+(?=@)"""
)


@dataclass(frozen=True, slots=True)
class Edit:
    """
    A key that we want to own: the file's absolute path, its format (see `formats.py`), the key's parts, and its value.

    `mode` is that of the file if it has to be made.
    """

    file: str
    format: str
    key: Key
    value: Value
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Change:
    """What an edit does to its file: `before` None if it is not there; a unified diff, in which secrets are masked."""

    edit: Edit
    before: bytes | None
    after: bytes
    previous: Value | None
    diff: str

    @property
    def is_needed(self) -> bool:
        """False if the file says so already: then there is nothing to write and nothing to own."""
        return self.before != self.after


def plan(edits: Iterable[Edit]) -> tuple[Change, ...]:
    """
    Return what these edits would do, one after the other; touches nothing.

    Raises `Refused` (with the file's own mistake, and its line) where a file cannot be understood or is not ours.
    """
    contents: dict[str, bytes | None] = {}
    changes = []
    for edit in edits:
        file = read_dotfile(edit.file)
        change = _change(edit, Dotfile(file.path, file.real, contents.get(file.real, file.data), file.info))
        contents[file.real] = change.after
        changes.append(change)
    return tuple(changes)


def _change(edit: Edit, file: Dotfile) -> Change:
    dialect, text = FORMATS[edit.format], file.text
    try:
        previous = dialect.read(text, edit.key, edit.value)
        after = text if previous == edit.value and file.data is not None else dialect.put(text, edit.key, edit.value)
        if dialect.read(after, edit.key, edit.value) != edit.value:
            raise Unreadable("what we would write does not read back")
        if dialect.rest(after, edit.key, edit.value) != dialect.rest(text, edit.key, edit.value):
            raise Unreadable("more than our own key would change")
    except Unreadable as error:
        raise unreadable(edit.file, error) from error
    data = after.encode("utf-8", "surrogateescape")
    return Change(edit, file.data, data, previous, diff_of(edit.file, file.data, data))


def unreadable(path: str, error: Unreadable) -> Refused:
    """Return the refusal to edit a file that is not understood."""
    why = str(error)[:1].lower() + str(error)[1:]
    return Refused(
        Reason.UNREADABLE, f"Cannot edit '{path}': {why.rstrip('.')}. It is left as it is.", "Correct it, then try again."
    )


def diff_of(path: str, before: bytes | None, after: bytes | None) -> str:
    """Return a unified diff of one file; what looks like a secret is masked, bytes that are no UTF-8 stay surrogates."""
    old, new = (re.findall(r"[^\n]*\n|[^\n]+", (data or b"").decode("utf-8", "surrogateescape")) for data in (before, after))
    names = ("/dev/null" if before is None else path, "/dev/null" if after is None else path)
    shown = []
    for line in difflib.unified_diff(old, new, *names, n=2):
        line = _SECRET.sub(lambda match: (match[1] or match[2]) + "***", line.rstrip("\r\n"))
        shown.append(line)
    return "\n".join(shown)


def splice_of(before: bytes | None, after: bytes) -> Splice:
    """Return the one stretch, in whole lines, in which two contents differ."""
    old, new = (re.findall(rb"[^\n]*\n|[^\n]+", data) for data in (before or b"", after))
    shorter = min(len(old), len(new))
    head = next((n for n in range(shorter) if old[n] != new[n]), shorter)
    tail = next((n for n in range(shorter - head) if old[-1 - n] != new[-1 - n]), shorter - head)
    removed, inserted = b"".join(old[head : len(old) - tail]), b"".join(new[head : len(new) - tail])
    start = sum(map(len, old[:head]))
    return Splice(start, removed, inserted, sum_of(before), sum_of(after))


def apply(
    journal: EditJournal, owner: str, edits: Sequence[Edit], now: float, ballast: Ballast
) -> tuple[tuple[Change, ...], tuple[Any, ...]]:
    """
    Make these edits for `owner`, all or none; return what was changed and what became of earlier edits of the same keys.

    An owner's earlier edit of one of these keys to another value is undone first. Raises as `plan` does, and `SurvivedError`
    for what a disk says; the edits made before that are taken back.
    """
    from survived.act import undoing

    plan(edits)  # before anything is touched
    gone = []
    wanted = {(edit.file, edit.format, edit.key): edit.value for edit in edits}
    for record in reversed(journal.open(owner)):
        place = (record.file, record.format, record.key)
        if place in wanted and (wanted[place] != record.value or not undoing.holds(record)):
            gone.append(undoing.undo_one(journal, record, now, ballast))
    made: list[tuple[EditRecord, Change]] = []
    try:
        for edit in edits:
            (change,) = plan([edit])
            if change.is_needed:
                made.append((_apply_one(journal, owner, change, now, ballast), change))
    except BaseException:
        for record, _ in reversed(made):
            undoing.undo_one(journal, record, now, ballast)
        raise
    return tuple(change for _, change in made), tuple(gone)


def _apply_one(journal: EditJournal, owner: str, change: Change, now: float, ballast: Ballast) -> EditRecord:
    edit, file = change.edit, read_dotfile(change.edit.file)
    folders = missing_folders(file)
    record = journal.begin(
        EditRecord(
            0, owner, edit.file, edit.format, edit.key, edit.value, EditStage.INTENT, change.previous, change.before is not None,
            folders, splice_of(change.before, change.after), now, now,
        )
    )  # fmt: skip
    try:
        if file.data != change.before:
            raise SurvivedError(f"Cannot edit '{edit.file}': somebody changed it while we worked. It is left as it is.")
        write_dotfile(file, change.after, ballast, mode=edit.mode)
    except SurvivedError:
        journal.withdraw(record)
        raise
    journal.applied(record, now)
    return record
