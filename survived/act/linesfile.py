"""
Settings files of one `key=value` a line without any nesting: npmrc, environment.d, Go's env file, yarn classic's yarnrc.

The last line of a key counts, as these tools have it. Each format says how a line is told and how a value is written.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from survived.act.dialect import Dialect, Key, Unreadable, Value, appended, line_end, lines_of, plain_text

if TYPE_CHECKING:
    from collections.abc import Callable

_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./~-]*")


@dataclass(frozen=True, slots=True)
class Grammar:
    """How one such format is read and written; `line` has the groups `name` and `value`; `ends` tells where its keys end."""

    line: re.Pattern[str]
    shown: Callable[[str], str]
    parsed: Callable[[str], str]
    sign: str = "="
    ends: re.Pattern[str] | None = None


def _spoken(text: str, grammar: Grammar) -> tuple[list[str], int]:
    """Return all lines, and the number of those that may hold keys."""
    lines = lines_of(text)
    if grammar.ends is None:
        return lines, len(lines)
    return lines, next((number for number, line in enumerate(lines) if grammar.ends.match(line)), len(lines))


def _bare(line: str) -> str:
    return line.rstrip("\r\n").removeprefix("\ufeff")


def _single(key: Key) -> str:
    if len(key) != 1:
        raise Unreadable("such a file has no sections")
    return key[0]


def _found(text: str, name: str, grammar: Grammar) -> list[tuple[int, str]]:
    lines, past = _spoken(text, grammar)
    matches = ((number, grammar.line.fullmatch(_bare(line))) for number, line in enumerate(lines[:past]))
    return [(number, match["value"]) for number, match in matches if match is not None and match["name"] == name]


def dialect(grammar: Grammar) -> Dialect:
    """Return the four functions for a format of lines."""

    def read(text: str, key: Key, _value: Value) -> Value | None:
        found = _found(text, _single(key), grammar)
        return grammar.parsed(found[-1][1]) if found else None

    def put(text: str, key: Key, value: Value) -> str:
        shown = grammar.shown(plain_text(value, f"the value of {_single(key)}"))
        lines, past = _spoken(text, grammar)
        found = _found(text, key[0], grammar)
        if found:
            line = lines[found[-1][0]]
            match = grammar.line.fullmatch(_bare(line))
            mark = len(line.rstrip("\r\n")) - len(_bare(line))
            start, end = match.span("value") if match else (0, 0)
            lines[found[-1][0]] = line[: mark + start] + shown + line[mark + end :]
            return "".join(lines)
        head, tail = "".join(lines[:past]), "".join(lines[past:])
        return appended(head, f"{key[0]}{grammar.sign}{shown}{line_end(text)}") + tail

    def drop(text: str, key: Key, _value: Value) -> str:
        lines, _ = _spoken(text, grammar)
        gone = {number for number, _ in _found(text, _single(key), grammar)[-1:]}
        return "".join(line for number, line in enumerate(lines) if number not in gone)

    def rest(text: str, key: Key, _value: Value) -> object:
        lines, _ = _spoken(text, grammar)
        own = {number for number, _ in _found(text, _single(key), grammar)[-1:]}
        return [_bare(line) for number, line in enumerate(lines) if number not in own and _bare(line).strip()]

    return Dialect(read, put, drop, rest)


def _npm_shown(value: str) -> str:
    if "${" in value:
        raise Unreadable("npm would replace the ${...} in the value")
    return json.dumps(value, ensure_ascii=False) if re.search(r"[;#\"'=\\]|^\s|\s$|^$", value) else value


def _npm_parsed(shown: str) -> str:
    shown = shown.strip()
    if len(shown) > 1 and shown[0] == shown[-1] and shown[0] in "\"'":
        try:
            return str(json.loads(shown)) if shown[0] == '"' else shown[1:-1]
        except ValueError:
            return shown[1:-1]
    return re.sub(r"\\([;#\\])", r"\1", re.split(r"(?<!\\)[;#]", shown)[0].strip())


def _env_shown(value: str) -> str:
    if "$" in value:
        raise Unreadable("systemd would replace the $ in the value")
    return value if _PLAIN.fullmatch(value) else '"' + re.sub(r'(["\\`])', r"\\\1", value) + '"'


def _env_parsed(shown: str) -> str:
    shown = shown.strip()
    if len(shown) > 1 and shown[0] == shown[-1] and shown[0] in "\"'":
        shown = shown[1:-1]
    return re.sub(r"\\(.)", r"\1", shown)


def _words_shown(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _words_parsed(shown: str) -> str:
    shown = shown.strip()
    if shown.startswith('"'):
        try:
            return str(json.loads(shown))
        except ValueError:
            return shown.strip('"')
    return shown


_ASSIGNED = r"[ \t]*(?P<name>[^\s=;#\[][^=]*?)[ \t]*=[ \t]*(?P<value>.*?)[ \t]*"
NPMRC = dialect(Grammar(re.compile(_ASSIGNED), _npm_shown, _npm_parsed, ends=re.compile(r"\s*\[")))
"""npmrc: the lines before the first section; a value with `;` or `#` in it is quoted."""
ENVIRONMENT = dialect(Grammar(re.compile(r"[ \t]*(?P<name>[A-Za-z_]\w*)=(?P<value>.*?)[ \t]*"), _env_shown, _env_parsed))
"""environment.d(5): what the user manager of systemd gives to its services."""
LINES = dialect(Grammar(re.compile(_ASSIGNED), str, str))
"""Plain `KEY=value`: Go's env file, pnpm's rc."""
SPACED = dialect(Grammar(re.compile(_ASSIGNED), str, str, sign=" = "))
"""Plain `key = value`: ccache.conf."""
_WORDS = re.compile(r"(?P<name>[^\s#\"][^\s:\"]*):?[ \t]+(?P<value>\"[^\"]*\"|[^\s\"]+)[ \t]*")
WORDS = dialect(Grammar(_WORDS, _words_shown, _words_parsed, sign=" "))
"""yarn classic's yarnrc: `key "value"`."""
