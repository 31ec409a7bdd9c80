"""
TOML files, one key at any depth: uv.toml, cargo's config.toml, bunfig.toml. tomlkit keeps comments, order and white space.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from survived.act.dialect import Dialect, Key, Unreadable, Value


def _parsed(text: str) -> Any:
    """Return the document, only if it would be written back with the same bytes."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        same = tomlkit.dumps(document) == text
    except (TOMLKitError, ValueError, RecursionError) as error:
        raise Unreadable(str(error).rstrip(".")) from error
    if not same:
        raise Unreadable("it cannot be written back as it is")
    return document


def _opened(text: str) -> tuple[str, str, str]:
    """Return the byte order mark, the text with plain line ends, and what its line ends were."""
    mark, plain = ("\ufeff", text[1:]) if text.startswith("\ufeff") else ("", text)
    end = "\r\n" if "\r\n" in plain and plain.count("\n") == plain.count("\r\n") else "\n"
    return mark, plain.replace("\r\n", "\n") if end == "\r\n" else plain, end


def _value(value: Any) -> Any:
    plain = value.unwrap() if hasattr(value, "unwrap") else value

    def tuples(item: Any) -> Any:
        return tuple(map(tuples, item)) if isinstance(item, list) else item

    return tuples(plain)


def _walk(document: Any, key: Key) -> Any:
    node = document
    for part in key[:-1]:
        node = node.get(part) if isinstance(node, MutableMapping) else None
    return node if isinstance(node, MutableMapping) else None


def read(text: str, key: Key, _ours: Value) -> Value | None:
    """Return the key's value."""
    node = _walk(_parsed(_opened(text)[1]), key)
    found = node.get(key[-1]) if node is not None else None
    return None if found is None else _value(found)


def put(text: str, key: Key, value: Value) -> str:
    """Return the text with the value in the key's place, or the key at its table's end; missing tables come last."""
    import tomlkit

    mark, plain, end = _opened(text)
    document = _parsed(plain)
    shown: Any = list(value) if isinstance(value, tuple) else value
    node = document
    for number, part in enumerate(key[:-1]):
        if part not in node:
            if plain and not plain.endswith("\n"):
                plain += "\n"
            header = ".".join(tomlkit.key(name).as_string() for name in key[:-1])
            line = f"{tomlkit.key(key[-1]).as_string()} = {tomlkit.item(shown).as_string()}"
            gap = "\n" if plain.strip() else ""
            if number and not isinstance(node, MutableMapping):
                raise Unreadable(f"'{key[number - 1]}' is no table")
            return mark + f"{plain}{gap}[{header}]\n{line}\n".replace("\n", end)
        node = node[part]
        if not isinstance(node, MutableMapping):
            raise Unreadable(f"'{part}' is no table")
    if key[-1] in node:
        old = node[key[-1]]
        fresh = tomlkit.item(shown)
        if hasattr(old, "trivia"):
            fresh.trivia.comment, fresh.trivia.comment_ws, fresh.trivia.trail = (
                old.trivia.comment, old.trivia.comment_ws, old.trivia.trail)  # fmt: skip
        node[key[-1]] = fresh
    elif len(key) == 1:
        return mark + _at_top(plain, f"{tomlkit.key(key[0]).as_string()} = {tomlkit.item(shown).as_string()}\n").replace("\n", end)
    else:
        node[key[-1]] = shown
    return mark + str(tomlkit.dumps(document)).replace("\n", end)


def _at_top(plain: str, line: str) -> str:
    """Return the text with a key of no table: after the last such key, before the comments of the first table."""
    document = _parsed(plain)
    if not plain.strip():
        return plain + line
    from tomlkit.items import Table

    tables = [name for name, item in document.body if name is not None and (isinstance(item, Table) or _is_aot(item))]
    if not tables:
        return (plain if plain.endswith("\n") else plain + "\n") + line
    head = 0
    for name, item in document.body:
        if name is not None and (isinstance(item, Table) or _is_aot(item)):
            break
        if name is not None:
            head = plain.index(item.as_string(), head) + len(item.as_string())
            head = plain.index("\n", head) + 1
    return plain[:head] + line + ("\n" if head == 0 else "") + plain[head:]


def _is_aot(item: Any) -> bool:
    from tomlkit.items import AoT

    return isinstance(item, AoT)


def drop(text: str, key: Key, _ours: Value) -> str:
    """Return the text without the key; a table that is empty then stays."""
    import tomlkit

    mark, plain, end = _opened(text)
    document = _parsed(plain)
    node = _walk(document, key)
    if node is not None and key[-1] in node:
        del node[key[-1]]
    return mark + str(tomlkit.dumps(document)).replace("\n", end)


def rest(text: str, key: Key, _ours: Value) -> object:
    """Return everything else, in its order, and the comments; tables that are empty without the key say nothing."""
    plain = _opened(text)[1]
    document = _parsed(plain).unwrap()

    def pairs(node: Any, path: Key) -> list[Any]:
        found: list[Any] = []
        for name, value in node.items():
            here = (*path, name)
            if here == key:
                continue
            found += pairs(value, here) if isinstance(value, dict) and value else [(here, value)] * (value != {})
        return found

    return pairs(document, ()), [line.strip() for line in plain.split("\n") if line.lstrip().startswith("#")]


TOML = Dialect(read, put, drop, rest)
