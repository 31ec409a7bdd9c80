"""
What a format of a settings file has to offer so that one key in it can be owned: read it, put it, drop it, tell the rest.

All of it is pure and works on text: a file's bytes as UTF-8 with surrogates for what is none, line ends as they are. `put`
changes the one stretch that the key takes and nothing else; `rest` is what the file says apart from the key, and is compared
before anything is written.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

Value = str | bool | int | tuple[Any, ...]
Key = tuple[str, ...]
_LINE = re.compile(r"[^\n]*\n|[^\n]+")


class Unreadable(ValueError):  # noqa: N818  whoever knows the path makes the refusal of it
    """The text is no such file, or says what we do not edit; the message is one clause without a full stop."""


class Dialect(NamedTuple):
    """
    The four functions of one format. Each raises `Unreadable`.

    `read(text, key, value)` returns the key's value, None if it has none; for a format of which we own one item of a list,
    `value` if it is an item there. `put(text, key, value)` returns the text with it, `drop(text, key, value)` without it.
    """

    read: Callable[[str, Key, Value], Value | None]
    put: Callable[[str, Key, Value], str]
    drop: Callable[[str, Key, Value], str]
    rest: Callable[[str, Key, Value], Any]


def lines_of(text: str) -> list[str]:
    """Return the lines with their ends; only \\n ends one, whatever else Unicode calls a line."""
    return _LINE.findall(text)


def line_end(text: str) -> str:
    """Return how this file ends its lines: as the first one does."""
    first = text.find("\n")
    return "\r\n" if first > 0 and text[first - 1] == "\r" else "\n"


def appended(text: str, addition: str) -> str:
    """Return `text` with whole lines at its end; a last line without an end gets one."""
    gap = line_end(text) if text and not text.endswith("\n") else ""
    return text + gap + addition


def plain_text(value: Value, what: str) -> str:
    """Return a value that is one line of text. Raises `Unreadable` for any other."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple) or re.search(r"[\0\r\n]", str(value)):
        raise Unreadable(f"{what} is not one line of text")
    return str(value)
