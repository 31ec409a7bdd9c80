"""
JSON files, one key at any depth: docker's daemon.json, and the settings of VS Code, which take comments and a last comma.

A small scanner finds where values begin and end, since no library keeps a file's indentation, order and comments; Python's
`json` has the last word on whether a strict file is one.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from survived.act.dialect import Dialect, Key, Unreadable, Value, line_end

_SPACE = re.compile(r"(?:[\s]|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_ATOM = re.compile(r"-?\d[\d.eE+-]*|true|false|null")
_DEEPEST = 200


@dataclass(slots=True)
class _Node:
    """A value: its span and, for objects, its members as (span of the name, name, value)."""

    start: int
    end: int = 0
    value: Any = None
    members: list[tuple[int, str, _Node]] = field(default_factory=list)
    is_object: bool = False


class _Scanner:
    """Reads one text; `at` is where it stands."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.depth = text, 0, 0

    def fail(self, why: str) -> Unreadable:
        return Unreadable(f"line {self.text.count(chr(10), 0, self.at) + 1}: {why}")

    def space(self) -> str:
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.text[self.at : self.at + 1]

    def document(self) -> _Node | None:
        if not self.space():
            return None
        node = self.node()
        if self.space():
            raise self.fail("there is more after the end")
        return node

    def string(self) -> str:
        match = _STRING.match(self.text, self.at)
        if match is None:
            raise self.fail("a text in double quotes is expected")
        self.at = match.end()
        try:
            return str(json.loads(match.group(), strict=False))
        except ValueError as error:
            raise self.fail("a text has a wrong escape") from error

    def node(self) -> _Node:
        sign, node = self.space(), _Node(self.at)
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self.fail("it is nested too deeply")
        if sign == "{":
            self._object(node)
        elif sign == "[":
            self._array(node)
        elif sign == '"':
            node.value = self.string()
        elif (match := _ATOM.match(self.text, self.at)) is not None:
            self.at = match.end()
            try:
                node.value = json.loads(match.group())
            except ValueError as error:
                raise self.fail("a number is malformed") from error
        else:
            raise self.fail("a value is expected")
        node.end, self.depth = self.at, self.depth - 1
        return node

    def _object(self, node: _Node) -> None:
        self.at, node.is_object, node.value = self.at + 1, True, {}
        while self.space() != "}":
            begin, name = self.at, self.string()
            if self.space() != ":":
                raise self.fail("a ':' is expected")
            self.at += 1
            value = self.node()
            node.members.append((begin, name, value))
            node.value[name] = value.value
            self._comma("}")
        self.at += 1

    def _array(self, node: _Node) -> None:
        self.at, items = self.at + 1, []
        while self.space() != "]":
            items.append(self.node().value)
            self._comma("]")
        self.at, node.value = self.at + 1, tuple(items)

    def _comma(self, closing: str) -> None:
        if self.space() == ",":
            self.at += 1
        elif self.text[self.at : self.at + 1] != closing:
            raise self.fail(f"a ',' or '{closing}' is expected")


def _scan(text: str, *, strict: bool) -> _Node | None:
    plain = text.removeprefix("\ufeff")
    if strict and plain.strip():
        try:
            json.loads(plain)
        except ValueError as error:
            raise Unreadable(f"line {getattr(error, 'lineno', 1)}: {getattr(error, 'msg', error)}".rstrip(".")) from error
        except RecursionError as error:
            raise Unreadable("it is nested too deeply") from error
    scanner = _Scanner(text)
    scanner.at = len(text) - len(plain)
    root = scanner.document()
    if root is not None and not root.is_object:
        raise Unreadable("its top is no object")
    return root


def _member(node: _Node, name: str) -> tuple[int, _Node] | None:
    found = [(begin, value) for begin, other, value in node.members if other == name]
    if len(found) > 1:
        raise Unreadable(f"the key '{name}' is there twice")
    return found[0] if found else None


def _walk(root: _Node | None, key: Key) -> tuple[_Node | None, int]:
    """Return the deepest object on the way to the key, and how many parts of the key lead to it."""
    node, depth = root, 0
    while node is not None and depth < len(key) - 1 and (found := _member(node, key[depth])) is not None:
        if not found[1].is_object:
            raise Unreadable(f"'{key[depth]}' is no object")
        node, depth = found[1], depth + 1
    return node, depth


def _indent(text: str, node: _Node, root: _Node) -> tuple[str, str] | None:
    """Return the white space before an object's members and before its end; None for an object on one line."""
    if "\n" not in text[node.start : node.end]:
        return None if node.members or node is not root else ("  ", "")
    line = text.rfind("\n", 0, node.start) + 1
    closing = re.match(r"[ \t]*", text[line:])
    outer = closing.group() if closing else ""
    if node.members:
        begin = node.members[0][0]
        inner = text[text.rfind("\n", 0, begin) + 1 : begin]
        if not inner.strip():
            return inner, outer
    step = next((text[text.rfind("\n", 0, b) + 1 : b] for b, _, _ in root.members), "")
    return outer + (step if step and not step.strip() else "  "), outer


def _lines(value: Any, indent: str, end: str) -> str:
    step = indent or "  "
    shown = json.dumps(value, ensure_ascii=False, indent="\t" if "\t" in step else 2)
    return shown.replace("\n", end + indent)


def put(text: str, key: Key, value: Value, *, strict: bool = True) -> str:
    """Return the text with the value in the key's place, or as the last member of its object, indented as that is."""
    root, end = _scan(text, strict=strict), line_end(text)
    if root is None:
        return text.rstrip() + _lines(_nested(key, value), "", end) + end
    node, depth = _walk(root, key)
    assert node is not None  # noqa: S101  the walk begins at the root
    if depth == len(key) - 1 and (found := _member(node, key[-1])) is not None:
        old = found[1]
        line = text[text.rfind("\n", 0, old.start) + 1 : old.start]
        indent = line[: len(line) - len(line.lstrip())]
        return text[: old.start] + _lines(_plain(value), indent, end) + text[old.end :]
    name, inner = key[depth], _nested(key[depth + 1 :], value)
    spaces = _indent(text, node, root)
    if spaces is None:
        member = f"{json.dumps(name, ensure_ascii=False)}: {json.dumps(inner, ensure_ascii=False)}"
        at = node.members[-1][2].end if node.members else node.start + 1
        return text[:at] + (f", {member}" if node.members else member) + text[at:]
    indent, outer = spaces
    member = f"{end}{indent}{json.dumps(name, ensure_ascii=False)}: {_lines(inner, indent, end)}"
    if node.members:
        at = node.members[-1][2].end
        after = _SPACE.match(text, at)
        if after is not None and text[after.end() : after.end() + 1] == ",":  # a last comma stays the last
            at = after.end() + 1
            return text[:at] + member + "," + text[at:]
        return text[:at] + "," + member + text[at:]
    tail = text[node.start + 1 : node.end - 1]
    return text[: node.start + 1] + member + (tail if "\n" in tail else end + outer) + text[node.end - 1 :]


def _plain(value: Value) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _nested(key: Key, value: Value) -> Any:
    return {key[0]: _nested(key[1:], value)} if key else _plain(value)


def read(text: str, key: Key, _value: Value, *, strict: bool = True) -> Value | None:
    """Return the key's value."""
    node, depth = _walk(_scan(text, strict=strict), key)
    found = _member(node, key[-1]) if node is not None and depth == len(key) - 1 else None
    return None if found is None else found[1].value


def drop(text: str, key: Key, _value: Value, *, strict: bool = True) -> str:
    """Return the text without the member and the comma that it needed."""
    node, depth = _walk(_scan(text, strict=strict), key)
    found = _member(node, key[-1]) if node is not None and depth == len(key) - 1 else None
    if node is None or found is None:
        return text
    places = [begin for begin, _, _ in node.members]
    number = places.index(found[0])
    if number + 1 < len(places):
        return text[: found[0]] + text[places[number + 1] :]
    start = node.members[number - 1][2].end if number else node.start + 1
    return text[:start] + text[found[1].end :]


def rest(text: str, key: Key, _value: Value, *, strict: bool = True) -> object:
    """Return everything else, in its order; objects that are empty without the key say nothing."""
    root = _scan(text, strict=strict)

    def pairs(node: _Node, path: Key) -> list[Any]:
        found: list[Any] = []
        for _, name, value in node.members:
            here = (*path, name)
            if here == key:
                continue
            found += pairs(value, here) if value.is_object else [(here, value.value)]
        return found

    return pairs(root, ()) if root is not None else []


JSON = Dialect(read, put, drop, rest)
JSONC = Dialect(
    lambda text, key, value: read(text, key, value, strict=False),
    lambda text, key, value: put(text, key, value, strict=False),
    lambda text, key, value: drop(text, key, value, strict=False),
    lambda text, key, value: rest(text, key, value, strict=False),
)
