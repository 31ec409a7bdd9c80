"""
YAML files whose top is one block of `key: value`, as conda and yarn have them; of a list we own one item that we prepend.

PyYAML says where a value begins and ends; the text is cut there, so that everything else keeps its bytes.
"""

from __future__ import annotations

import json
import re
from typing import Any

from survived.act.dialect import Dialect, Key, Unreadable, Value, appended, line_end

_PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./~+@-]*")
_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})


def _root(text: str) -> Any:
    """Return the top node, None for an empty file. Marks count characters, without a byte order mark."""
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise Unreadable(f"{where}{error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise Unreadable(str(error).splitlines()[0] if str(error) else "it is nested too deeply") from error
    if node is None or (isinstance(node, yaml.ScalarNode) and not node.value and node.tag.endswith(":null")):
        return None
    if not isinstance(node, yaml.MappingNode):
        raise Unreadable("its top is no mapping")
    names = [name.value for name, _ in node.value]
    if twice := [name for name in names if names.count(name) > 1]:
        raise Unreadable(f"the key '{twice[0]}' is there twice")
    return node


def _pair(text: str, key: Key) -> tuple[Any, Any, Any]:
    """Return the top, and the nodes of the key and its value, None where there is none."""
    if len(key) != 1:
        raise Unreadable("only keys at its top are edited")
    root = _root(text)
    for name, value in root.value if root is not None else ():
        if name.value == key[0]:
            return root, name, value
    return root, None, None


def _value(node: Any) -> Any:
    """Return a node as Python has it, lists as tuples."""
    import yaml

    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    try:
        return tuples(yaml.SafeLoader("").construct_object(node, deep=True))
    except yaml.YAMLError as error:
        raise Unreadable(str(error).splitlines()[0]) from error


def _end(node: Any) -> int:
    """Return where a node's own text ends; a block collection's mark lies at the next thing that follows it."""
    import yaml

    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return max(map(_end, last)) if isinstance(last, tuple) else _end(last)
    return int(node.end_mark.index)


def _shown(value: Value) -> str:
    if isinstance(value, str):
        is_plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS and not re.fullmatch(r"[\d._e+-]+", value)
        return value if is_plain else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def _without_mark(text: str) -> tuple[str, str]:
    return ("\ufeff", text[1:]) if text.startswith("\ufeff") else ("", text)


def _insert_key(text: str, root: Any, lines: list[str]) -> str:
    if root is not None and root.flow_style:
        raise Unreadable("its top is written as {...}")
    if re.search(r"^(\.\.\.|---)\s*$", text, re.MULTILINE) and re.search(r"^\.\.\.\s*$", text, re.MULTILINE):
        raise Unreadable("it ends its document with '...'")
    if root is not None and root.start_mark.column:
        raise Unreadable("its top is indented")
    return appended(text, "".join(f"{line}{line_end(text)}" for line in lines))


def read(text: str, key: Key, _ours: Value) -> Value | None:
    """Return the key's value."""
    _, _, node = _pair(_without_mark(text)[1], key)
    return None if node is None else _value(node)


def put(text: str, key: Key, value: Value) -> str:
    """Return the text with the value in the key's place, or the key at the end."""
    mark, text = _without_mark(text)
    root, name, node = _pair(text, key)
    items = [_shown(item) for item in value] if isinstance(value, tuple) else None
    if node is None:
        lines = [f"{key[0]}: {_shown(value)}"] if items is None else [f"{key[0]}:", *(f"  - {item}" for item in items)]
        return mark + _insert_key(text, root, lines)
    shown = _shown(value) if items is None else f"[{', '.join(items)}]"
    start, end = node.start_mark.index, _end(node)
    if not getattr(node, "flow_style", True) and items is None:  # a block below the key becomes one word behind it
        start = name.end_mark.index + text[name.end_mark.index :].index(":") + 1
        shown = f" {shown}"
    elif not getattr(node, "flow_style", True):
        shown = f"{line_end(text)}{' ' * node.start_mark.column}- ".join(map(_shown, value)) if items else "[]"  # type: ignore[arg-type]
        shown = f"- {shown}" if items else shown
    elif start == end:  # `key:` alone
        shown = f" {shown}"
    return mark + text[:start] + shown + text[end:]


def _line_start(text: str, at: int) -> int:
    return text.rfind("\n", 0, at) + 1


def _past_line(text: str, at: int) -> int:
    found = text.find("\n", at)
    return len(text) if found < 0 else found + 1


def drop(text: str, key: Key, _value: Value) -> str:
    """Return the text without the key's lines."""
    mark, text = _without_mark(text)
    _, name, node = _pair(text, key)
    if node is None:
        return mark + text
    end = max(_end(node), name.end_mark.index)
    return mark + text[: _line_start(text, name.start_mark.index)] + text[_past_line(text, end) :]


def rest(text: str, key: Key, _ours: Value) -> object:
    """Return every other key with its value, and the comments."""
    plain = _without_mark(text)[1]
    root = _root(plain)
    pairs = {name.value: _value(node) for name, node in (root.value if root is not None else ()) if name.value != key[0]}
    return pairs, [line.strip() for line in plain.split("\n") if line.lstrip().startswith("#")]


def _items(node: Any) -> list[Any]:
    import yaml

    if node is None or (isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")):
        return []
    if not isinstance(node, yaml.SequenceNode):
        raise Unreadable("the key is no list")
    return list(node.value)


def read_item(text: str, key: Key, value: Value) -> Value | None:
    """Return `value` if it is an item of the list."""
    _, _, node = _pair(_without_mark(text)[1], key)
    return value if value in [_value(item) for item in _items(node)] else None


def put_item(text: str, key: Key, value: Value) -> str:
    """Return the text with `value` as the list's first item; it stays where it is if it is one."""
    if read_item(text, key, value) is not None:
        return text
    mark, text = _without_mark(text)
    root, name, node = _pair(text, key)
    end, shown = line_end(text), _shown(value)
    if node is None:
        return mark + _insert_key(text, root, [f"{key[0]}:", f"  - {shown}"])
    start = node.start_mark.index
    if not _items(node):
        if not text[start : node.end_mark.index].strip():  # `key:` alone
            start = name.end_mark.index + text[name.end_mark.index :].index(":") + 1
            return f"{mark}{text[:start]}{end}  - {shown}{text[start:]}"
        return f"{mark}{text[:start]}[{shown}]{text[node.end_mark.index :]}"
    if node.flow_style:
        return f"{mark}{text[: start + 1]}{shown}, {text[start + 1 :].lstrip(' ')}"
    return f"{mark}{text[:start]}- {shown}{end}{' ' * node.start_mark.column}{text[start:]}"


def drop_item(text: str, key: Key, value: Value) -> str:
    """Return the text without the item; a list that is empty then goes with its key."""
    mark, text = _without_mark(text)
    _, _, node = _pair(text, key)
    items = _items(node)
    place = next((number for number, item in enumerate(items) if _value(item) == value), None)
    if place is None:
        return mark + text
    if len(items) == 1:
        return drop(mark + text, key, value)
    item = items[place]
    if node.flow_style:
        begin, end = item.start_mark.index, items[place + 1].start_mark.index if place + 1 < len(items) else item.end_mark.index
        begin = items[place - 1].end_mark.index if place + 1 == len(items) else begin
        return mark + text[:begin] + text[end:]
    if place == 0 and text[_line_start(text, item.start_mark.index) : item.start_mark.index].strip(" -"):
        raise Unreadable("the list begins on the line of its key")
    return mark + text[: _line_start(text, item.start_mark.index)] + text[_past_line(text, _end(item)) :]


def rest_item(text: str, key: Key, value: Value) -> object:
    """Return what `rest` does, and the other items of the list."""
    _, _, node = _pair(_without_mark(text)[1], key)
    return rest(text, key, value), [other for item in _items(node) if (other := _value(item)) != value]


YAML = Dialect(read, put, drop, rest)
YAML_ITEM = Dialect(read_item, put_item, drop_item, rest_item)
