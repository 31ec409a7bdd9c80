"""
Settings files in sections of `key = value`, as Python's configparser reads them: pip.conf and its like.

As pip has it, names of keys are compared in small letters with `_` as `-`, and a section or key that is there twice is an error.
"""

from __future__ import annotations

import configparser
import re
from typing import NamedTuple

from survived.act.dialect import Dialect, Key, Unreadable, Value, appended, line_end, lines_of, plain_text

_HEADER = re.compile(r"\[(?P<name>.+)\]")
_OPTION = re.compile(r"(?P<name>[^\s=:\[#;][^=:]*?)[ \t]*(?P<sign>[=:])(?P<gap>[ \t]*)(?P<value>[^\r\n]*)")


class _Place(NamedTuple):
    """Lines by number: the section's header, the last line that says something in it, and the key's own, first and past it."""

    header: int | None
    last: int
    first: int | None
    past: int


def _name(key: str) -> str:
    return key.lower().replace("_", "-").removeprefix("--")


def _parsed(text: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=True)
    parser.optionxform = lambda optionstr: _name(optionstr)  # type: ignore[method-assign]
    try:
        parser.read_string(text.removeprefix("\ufeff"))
    except configparser.Error as error:
        raise Unreadable(re.sub(r"\s+", " ", error.message.replace("'<string>'", "it")).rstrip(".")) from error
    return parser


def _split(key: Key) -> tuple[str, str]:
    if len(key) != 2:
        raise Unreadable("a key of such a file is a section and a name")
    return key[0], _name(key[1])


def read(text: str, key: Key, _value: Value) -> Value | None:
    """Return the value; of several lines, joined as configparser does."""
    section, name = _split(key)
    return _parsed(text).get(section, name, fallback=None)


def _find(lines: list[str], section: str, name: str) -> _Place:
    header, last, first, past = None, len(lines) - 1, None, 0
    inside = in_key = False
    for number, line in enumerate(lines):
        shown = line.removeprefix("\ufeff") if number == 0 else line
        says = bool(shown.strip()) and not shown.lstrip().startswith(("#", ";"))
        if says and (match := _HEADER.match(shown)) is not None:
            inside, in_key = match["name"] == section, False
            if inside:
                header = last = number
        elif says and inside:
            if not shown[0].isspace():
                in_key = (match := _OPTION.match(shown)) is not None and _name(match["name"]) == name
                first = number if in_key else first
            last, past = number, number + 1 if in_key else past
    return _Place(header, last, first, past)


def put(text: str, key: Key, value: Value) -> str:
    """Return the text with the value in the key's place, after the section's last key, or in a section of its own at the end."""
    section, name = _split(key)
    shown, end = plain_text(value, f"the value of {key[1]}"), line_end(text)
    if not shown or shown != shown.strip():
        raise Unreadable(f"the value of {key[1]} begins or ends with a blank, which this format drops")
    lines = lines_of(text)
    place = _find(lines, section, name)
    if place.first is not None:
        match = _OPTION.match(lines[place.first])
        ending = re.search(r"\r?\n?\Z", lines[place.past - 1])
        kept = lines[place.first][: match.start("value")] if match else f"{key[1]} = "
        kept = kept if match is None or match["gap"] or match["value"] else f"{kept} " * (not match["value"]) or kept
        lines[place.first : place.past] = [f"{kept}{shown}{ending.group() if ending else end}"]
        return "".join(lines)
    line = f"{key[1]} = {shown}{end}"
    if place.header is None:
        gap = end if text.strip() else ""
        return appended(text, f"{gap}[{section}]{end}{line}")
    head, tail = "".join(lines[: place.last + 1]), "".join(lines[place.last + 1 :])
    return appended(head, line) + tail


def drop(text: str, key: Key, _value: Value) -> str:
    """Return the text without the key's lines; a section that is empty then stays."""
    lines = lines_of(text)
    place = _find(lines, *_split(key))
    if place.first is not None:
        del lines[place.first : place.past]
    return "".join(lines)


def rest(text: str, key: Key, _value: Value) -> object:
    """Return every other key with its value; a section without keys says nothing."""
    section, name = _split(key)
    parser = _parsed(text)
    found = {
        (part, option): value
        for part in (*parser.sections(), parser.default_section)
        for option, value in parser.items(part)
        if (part, option) != (section, name)
    }
    comments = [line.strip() for line in lines_of(text) if line.lstrip().startswith(("#", ";"))]
    return found, comments


INI = Dialect(read, put, drop, rest)
