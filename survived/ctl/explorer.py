"""
What `top` shows, as values: rows, their order, the marks, and the text of each line. It reads no disk and draws nothing.

`scout.py` finds the rows, `topscreen.py` draws the lines.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from survived.ctl.main import printable
from survived.tell.columns import columns, cut, pad
from survived.units import print_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_BAR, _SIZE = 8, 10
_HEADS = ("SIZE", "", "NAME", "WHAT IT IS")
_LOOKED_AT, _LEAST_NAME = 500, 28
"""Rows by which the columns are made, those below do not matter; and what a column of names has at least."""


class Nature(StrEnum):
    """What a row is to the filesystem. `MOUNT`: another filesystem begins there; `OTHER`: a socket, a device."""

    DIRECTORY = "directory"
    FILE = "file"
    LINK = "link"
    RELOCATED = "relocated"
    LOST = "lost"  # a link of ours whose tree cannot be reached
    MOUNT = "mount"
    OTHER = "other"


class Order(StrEnum):
    """By what rows are sorted."""

    SIZE = "size"
    NAME = "name"


@dataclass(frozen=True, slots=True)
class Row:
    """
    One line of a listing. `size_bytes` None: not measured yet. Of what is relocated it is the size on the data disk.

    `what`: what it is, "" where nobody knows; `target`: where a link leads; `word`: what the daemon's plan says of it.
    """

    path: str
    name: str
    nature: Nature
    size_bytes: int | None = None
    what: str = ""
    target: str | None = None
    cache_id: str | None = None
    word: str = ""
    partial: bool = False  # something in it could not be read
    is_rest: bool = False  # only what is in it beside the rows that are listed by themselves

    @property
    def takes_bytes(self) -> int:
        """What it takes on the filesystem that is looked at: nothing behind a link."""
        return self.size_bytes or 0 if self.nature in (Nature.DIRECTORY, Nature.FILE) else 0

    @property
    def opens(self) -> bool:
        """Whether there is something to look into."""
        return self.nature in (Nature.DIRECTORY, Nature.RELOCATED)


@dataclass(slots=True)
class Listing:
    """
    One directory's rows, or the overview's (`path` None), with what a person did to them.

    The cursor is on a path and not on a number, so that it stays on what was looked at while sizes come in, once it was moved.
    """

    path: str | None
    rows: list[Row] = field(default_factory=list)
    order: Order = Order.SIZE
    index: int = 0
    is_read: bool = False  # all rows are there
    pending: int = 0  # directories that are not measured yet
    error: str = ""
    chosen: str | None = None  # the path that the cursor is on, once it was put there

    def put(self, rows: Iterable[Row]) -> None:
        """Replace all rows."""
        self.rows = list(rows)
        self._sort()

    def update(self, changed: Mapping[str, Row], pending: int = 0) -> None:
        """Replace the rows that have these paths; so many are still to be measured."""
        self.pending = pending
        self.rows = [changed.get(row.path, row) for row in self.rows]
        self._sort()

    def add(self, more: Iterable[Row]) -> None:
        """Add rows whose path is not there yet."""
        there = {row.path for row in self.rows}
        self.rows += [row for row in more if row.path not in there]
        self._sort()

    def sort(self, order: Order) -> None:
        """Sort by something else."""
        self.order = order
        self._sort()

    def _sort(self) -> None:
        if self.order is Order.NAME:
            self.rows.sort(key=lambda row: row.name)
        else:
            self.rows.sort(key=lambda row: (-row.takes_bytes, row.nature is not Nature.DIRECTORY, -(row.size_bytes or 0), row.name))
        if self.chosen is not None:
            self.go_to(self.chosen)
        self.index = max(0, min(self.index, len(self.rows) - 1))

    @property
    def current(self) -> Row | None:
        """The row under the cursor."""
        return self.rows[self.index] if 0 <= self.index < len(self.rows) else None

    def go_to(self, path: str) -> None:
        """Put the cursor on a path, as soon as it is there."""
        self.chosen = path
        self.index = next((at for at, row in enumerate(self.rows) if row.path == path), self.index)

    def step(self, by: int) -> None:
        """Move the cursor up or down."""
        self.index = max(0, min(self.index + by, len(self.rows) - 1))
        self.chosen = self.current.path if self.current else None

    @property
    def biggest_bytes(self) -> int:
        """The size that a full bar stands for."""
        return max((row.takes_bytes for row in self.rows), default=0)

    @property
    def total_bytes(self) -> int:
        """The sum of all that is measured; what lies in another row's directory is counted once."""
        if self.path is not None:
            return sum(row.takes_bytes for row in self.rows)
        top, total = "", 0
        for row in sorted(self.rows, key=lambda row: row.path + "/"):
            if row.takes_bytes and not (top and row.path.startswith(top)):
                top = top if row.is_rest else f"{row.path}/"
                total += row.takes_bytes
        return total


@dataclass(slots=True)
class Marks:
    """The rows that a person has chosen, by path, in the order of choosing."""

    rows: dict[str, Row] = field(default_factory=dict)

    def toggle(self, row: Row) -> None:
        """Mark a row, or take its mark away."""
        if self.rows.pop(row.path, None) is None:
            self.rows[row.path] = row

    def chosen(self, current: Row | None, natures: tuple[Nature, ...]) -> list[Row]:
        """Return the marked rows of these natures, or the current one if none is marked at all; outer ones without inner ones."""
        rows = list(self.rows.values()) or ([current] if current is not None else [])
        rows = [row for row in rows if row.nature in natures]
        return [row for row in rows if not any(row.path.startswith(f"{other.path}/") for other in rows)]

    @property
    def size_bytes(self) -> int:
        """The size of all of them."""
        return sum(row.size_bytes or 0 for row in self.rows.values())


# ---- text ----------------------------------------------------------------------------------------------------------


def short_path(path: str, home: str) -> str:
    """Return a path as people write it, home as `~`, with what a terminal cannot show escaped."""
    if home not in ("", "/") and (path == home or path.startswith(f"{home}/")):
        path = f"~{path[len(home) :]}"
    return printable(path)


def name_of(row: Row) -> str:
    """Return a row's name with a mark for what it is: `/` for a directory, `→` for a link."""
    name = printable(row.name)
    if row.nature in (Nature.DIRECTORY, Nature.MOUNT):
        return name if name.endswith("/") else f"{name}/"
    return name


def note_of(row: Row) -> str:
    """Return the last column: what it is, and where it is if it is not here."""
    if row.nature is Nature.RELOCATED:
        place = f"→ {printable(disk_of(row.target or ''))}"
        return f"{printable(row.what)} {place}" if row.what else place
    if row.nature is Nature.LOST:
        return f"LOST → {printable(row.target or '')}"
    if row.nature is Nature.LINK:
        return f"→ {printable(row.target or '?')}"
    if row.nature is Nature.MOUNT:
        return "another filesystem"
    return printable(row.what)


def disk_of(target: str) -> str:
    """Return the directory on the data disk that a target is in: `/data1/alice` of `/data1/alice/survived/trees/…`."""
    return target.partition("/survived/trees/")[0] or target


@dataclass(frozen=True, slots=True)
class Columns:
    """How wide the columns of a listing are that do not stay the same; 0 for one that is left out."""

    bar: int
    name: int
    note: int


def layout(rows: Sequence[Row], width: int) -> Columns:
    """Return the columns for a line of `width`: a narrow one has no bar, and in the end no note."""
    bar = _BAR if width >= 64 else 0
    left = width - 2 - _SIZE - 2 - (bar + 1 if bar else 0)
    widest = max((columns(note_of(row)) for row in rows[:_LOOKED_AT]), default=0)
    note = min(max(widest, len(_HEADS[3])), left * 45 // 100) if width >= 50 else 0
    if not note:
        return Columns(bar, max(1, left), 0)
    longest = max((columns(name_of(row)) for row in rows[:_LOOKED_AT]), default=0)
    name = min(left - note - 2, max(_LEAST_NAME, longest))  # so that what it is stands beside it on a wide screen, too
    return Columns(bar, name, left - 2 - name)


def heading(shown: Columns) -> str:
    """Return the names of the columns, each above its own."""
    size, _, name, note = _HEADS
    bar = " " * (shown.bar + 1) if shown.bar else ""
    return f"  {size:>{_SIZE}}  {bar}{name:<{shown.name}}" + (f"  {note}" if shown.note else "")


def line(row: Row, shown: Columns, biggest: int, *, marked: bool) -> tuple[str, str, str, str, str]:
    """Return one line in five pieces: mark, size, bar, name, note; together as wide as `layout` was asked for."""
    size = "?" if row.size_bytes is None else print_bytes(row.size_bytes)
    size = f"{'>' if row.partial else ''}{size}"
    if row.nature in (Nature.LINK, Nature.MOUNT, Nature.OTHER):
        size = "-"
    cells = round(row.takes_bytes / biggest * shown.bar) if biggest else 0
    bar = f"  {'█' * cells}{'·' * (shown.bar - cells)} " if shown.bar else "  "
    name = pad(cut(name_of(row), shown.name, left=row.name.startswith(("~", "/"))), shown.name)
    note = f"  {pad(cut(note_of(row), shown.note), shown.note)}" if shown.note else ""
    return ("* " if marked else "  ", f"{size:>{_SIZE}}", bar, name, note)


def totals(listing: Listing, marks: Marks) -> str:
    """Return the line below the rows: how many, how much, and what is marked."""
    count = len(listing.rows)
    parts = [f"{count:,} entr{'y' if count == 1 else 'ies'}, {print_bytes(listing.total_bytes)}"]
    if not listing.is_read:
        parts.append("looking what else is big…" if listing.path is None else "reading…")
    elif listing.pending:
        parts.append(f"measuring {listing.pending:,}…")
    if marks.rows:
        parts.append(f"{len(marks.rows):,} marked, {print_bytes(marks.size_bytes)}")
    if listing.order is not Order.SIZE:
        parts.append(f"by {listing.order}")
    return "; ".join(parts)


def remeasured(row: Row, size_bytes: int, *, partial: bool, what: str) -> Row:
    """Return a row with its size; what is known of it already stays."""
    return replace(row, size_bytes=size_bytes, partial=partial, what=row.what or what)


def details(row: Row, why_not: str | None, home: str, *, read_only: bool = False) -> list[str]:
    """Return what is known of a row: its whole path, what it is, and what may be done about it, by a key unless `read_only`."""
    lines = [short_path(row.path, home)]
    what = f"{printable(row.what)}. " if row.what else ""
    if row.nature is Nature.RELOCATED:
        way = "" if read_only else "r brings it home. "
        return [*lines, f"{what}{way}It lives at {printable(row.target or '')}"]
    if row.nature is Nature.LOST:
        return [*lines, f"{what}Is its data disk mounted? Its link leads to what is not there: {printable(row.target or '')}"]
    if row.nature is Nature.LINK:
        return [*lines, f"A link to {printable(row.target or '?')}, not one of ours."]
    if row.nature is Nature.MOUNT:
        return [*lines, "Another filesystem begins here; what is in it takes nothing here."]
    if row.partial:
        what += "Something in it cannot be read, so it is bigger. "
    word = f" Plan: {printable(row.word)}." if row.word else ""
    if why_not is None:
        way = "Can be moved to a data disk." if read_only else "m moves it to a data disk and leaves a link."
        return [*lines, f"{what}{way}{word}"]
    return [*lines, f"{what}Stays: {printable(why_not)}.{word}"]
