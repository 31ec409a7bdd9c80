"""
Text in the columns of a terminal: measured, wrapped, cut and painted. Pure; knows nothing of what is written.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Paint = Callable[[str, str], str]


_NO_BREAK = "\xa0"
_A_UNIT = re.compile(r"(?<=\d) (?=(?:[KMGTP]iB|B|s|min|h|d)\b|%)|(?<=[┊│┃]) ")
"""The blank between a number and its unit, or behind the sign of a mark, where no line ends."""


def columns(text: str) -> int:
    """Return how many columns of a terminal a text takes: two for wide East Asian characters, none for combining marks."""
    return len(text) if text.isascii() else sum(map(_columns_of, text))


def _columns_of(char: str) -> int:
    from unicodedata import category, east_asian_width

    return 0 if category(char) in ("Mn", "Me") else 2 if east_asian_width(char) in "WF" else 1


def wrap(text: str, width: int, indent: int) -> list[str]:
    """Return text in lines of at most `width` columns, all but the first indented; a longer word is cut in pieces."""
    lines: list[str] = []
    line: str | None = None
    for word in _A_UNIT.sub(_NO_BREAK, clean(text)).split(" "):
        if line is None:
            line = word
        elif line.strip() and columns(line) + 1 + columns(word) > width:
            lines.append(line)
            line = " " * indent + word
        else:
            line = f"{line} {word}"
        while columns(line) > width:
            lines.append(_first(line, width))
            line = " " * indent + line[len(lines[-1]) :]
    return [line.replace(_NO_BREAK, " ") for line in (*lines, line or "")]


def entry(head: str, text: str, width: int, paint: Paint, code: str, *, indent: int = 11) -> list[str]:
    """Return a paragraph that hangs on its painted head."""
    first, *rest = wrap(f"{head:<{indent}}{text}", width, indent)
    return [paint(head, code) + first[len(head) :], *rest]


def clean(text: str) -> str:
    """Return text without what moves a cursor or is no character: names of files come from anybody."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "�" for char in text)


def pad(text: str, width: int) -> str:
    """Return text with blanks up to `width` columns."""
    return text + " " * (width - columns(text))


def cut(text: str, most: int, *, left: bool = False) -> str:
    """Return text of at most `most` columns, an ellipsis for what is missing on the right, or the left."""
    text = clean(text)
    if columns(text) <= most:
        return text
    return f"…{_first(text[::-1], most - 1)[::-1]}" if left else f"{_first(text, most - 1)}…"


def _first(text: str, most: int) -> str:
    taken = 0
    for at, char in enumerate(text):
        taken += _columns_of(char)
        if taken > most:
            return text[:at]
    return text


def plain(text: str, _code: str) -> str:
    """Return text as it is: a painter without colours."""
    return text


def painted(text: str, code: str) -> str:
    """Return text in the colour of an ANSI code."""
    return f"\x1b[{code}m{text}\x1b[0m"
