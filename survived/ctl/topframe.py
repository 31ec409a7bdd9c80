"""
The lines around the explorer's list, as text: where one is, how full that is, what is known of a line, and the keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from survived.ctl import explorer
from survived.ctl.main import printable
from survived.tell.columns import columns, cut, pad, wrap
from survived.units import print_bytes, print_share

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from survived.ctl.explorer import Listing, Row

DETAIL_LINES = 3


def filled(left: str, width: int, right: str = "") -> str:
    """Return one line of exactly so many columns; what is too long is cut on its right."""
    room = max(0, width - len(right))
    return pad(cut(left, room), room) + right


def title(listing: Listing, home: str, width: int, *, read_only: bool) -> str:
    """Return the first line: what is looked at, and whether only looked at."""
    mode = " read-only " if read_only else ""
    place = "caches, and what else is big" if listing.path is None else explorer.short_path(listing.path, home)
    return filled(f" survivectl top  {cut(place, max(1, width - 17 - len(mode)), left=True)}", width, mode)


def usage(fs: Mapping[str, Any] | None, listing: Listing, width: int) -> str:
    """Return how full the filesystem is, with its marks; `fs` as the status document has it, None where it is not watched."""
    if fs is None:
        text = "" if listing.is_read or listing.error else " looking…"
        return filled(text, width)
    mount = cut(printable(fs["mount"]), max(6, width - 62), left=True)
    size = max(10, min(30, width - 55 - columns(mount)))
    full = round(fs["usage"] * size)
    cells = ["█" if at < full else "░" for at in range(size)]
    for mark in ("low", "high"):
        cells[min(size - 1, round(fs[mark] * size))] = "|"
    facts = f"{print_bytes(fs['available_bytes'])} of {print_bytes(fs['capacity_bytes'])} available"
    return filled(f" {mount} {''.join(cells)} {print_share(fs['usage'])}  {facts}", width)


def details(row: Row, why_not: str | None, home: str, width: int, *, read_only: bool = False) -> list[str]:
    """Return what is known of a row in as many lines as there are; its path is cut on the left."""
    first, *rest = explorer.details(row, why_not, home, read_only=read_only)
    return fold([cut(first, width - 2, left=True), *rest], width)


def fold(texts: Sequence[str], width: int) -> list[str]:
    """Return texts in lines of the width, as many as there are for them; an ellipsis ends what is longer."""
    lines = [part for text in texts for part in wrap(text, max(8, width - 2), 0)]
    if len(lines) > DETAIL_LINES:
        lines = [*lines[: DETAIL_LINES - 1], cut(f"{lines[DETAIL_LINES - 1]} …{' ' * width}", width - 2)]
    return [f" {line}" for line in lines]


def keys(*, read_only: bool, is_moving: bool) -> list[tuple[str, str]]:
    """Return the keys that do something now, each with what it does."""
    shown = [("↵", "open"), ("⌫", "back")]
    shown += [] if read_only else [("space", "mark"), ("m", "move"), ("r", "restore")]
    shown += [("x", "stop")] if is_moving else [("s", "sort"), ("u", "update")]
    return [*shown, ("?", "help"), ("q", "quit")]
