"""
A marked block of ours in somebody's file, such as a shell's start file; and a whole file of ours.

The key is the block's name, with "top" after it for a block that must come before everything else: Debian's .bashrc ends early
for `ssh host command`. The marks are comments of shells, apt's lists and most else.
"""

from __future__ import annotations

import re

from survived.act.dialect import Dialect, Key, Unreadable, Value, appended, line_end, lines_of

_OPEN, _CLOSE = "# >>> survived: {} >>>", "# <<< survived: {} <<<"


def _name(key: Key) -> str:
    if not 1 <= len(key) <= 2 or not re.fullmatch(r"[\w. -]+", key[0]) or key[1:] not in ((), ("top",)):
        raise Unreadable("a block has a plain name, and 'top' or nothing")
    return key[0]


def _span(lines: list[str], key: Key) -> tuple[int, int] | None:
    """Return the numbers of the block's first line and the one past its last."""
    shown = [line.strip() for line in lines]
    opening, closing = _OPEN.format(_name(key)), _CLOSE.format(_name(key))
    if shown.count(opening) != shown.count(closing) or shown.count(opening) > 1:
        raise Unreadable(f"the marks of the block '{key[0]}' are damaged")
    if opening not in shown:
        return None
    first, last = shown.index(opening), shown.index(closing)
    if last < first:
        raise Unreadable(f"the marks of the block '{key[0]}' are damaged")
    return first, last + 1


def read(text: str, key: Key, _value: Value) -> Value | None:
    """Return what is between the marks, with \\n between its lines."""
    lines = lines_of(text)
    span = _span(lines, key)
    return None if span is None else "\n".join(line.rstrip("\r\n") for line in lines[span[0] + 1 : span[1] - 1])


def put(text: str, key: Key, value: Value) -> str:
    """Return the text with the block, where it was, or at the top (after a `#!` line) or at the end."""
    lines, end = lines_of(text), line_end(text)
    span = _span(lines, key)
    block = [_OPEN.format(_name(key)), *str(value).split("\n"), _CLOSE.format(_name(key))]
    shown = "".join(f"{line}{end}" for line in block)
    if span is not None:
        return "".join(lines[: span[0]]) + shown + "".join(lines[span[1] :])
    if key[1:] != ("top",):
        return appended(text, shown)
    first = 1 if lines and lines[0].startswith("#!") else 0
    return appended("".join(lines[:first]), shown) + "".join(lines[first:])


def drop(text: str, key: Key, _value: Value) -> str:
    """Return the text without the block."""
    lines = lines_of(text)
    span = _span(lines, key)
    return text if span is None else "".join(lines[: span[0]] + lines[span[1] :])


def rest(text: str, key: Key, value: Value) -> object:
    """Return all other lines."""
    return [line.rstrip("\r\n") for line in lines_of(drop(text, key, value))]


BLOCK = Dialect(read, put, drop, rest)
WHOLE = Dialect(
    read=lambda text, _key, _value: text or None,
    put=lambda _text, _key, value: str(value),
    drop=lambda _text, _key, _value: "",
    rest=lambda _text, _key, _value: None,
)
"""The whole content is ours; what was there before comes back with the undo."""
