"""
Where settings come from: one TOML file and the environment, read into plain nested dictionaries.

No message of this file quotes a line of the file or a value of the environment: either may hold a password.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from survived.errors import ConfigError, cause_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PREFIX = "SURVIVED_"
DELIMITER = "__"
_LARGEST_BYTES = 1 << 20  # a configuration has some kilobytes; /dev/zero must not eat the machine
_POSITION = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|(end of document))\)")
_LONG_QUOTE = re.compile(r"'[^']{7,}'|\"[^\"]{7,}\"|[({\[]")
_FLAGS = frozenset({"move", "pin", "tagged", "allow_exposed"})
_TRUTH = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}


@dataclass(frozen=True, slots=True)
class Document:
    """What a configuration file holds, and whether others may read it."""

    values: dict[str, Any]
    readable_by_others: bool = False


@dataclass(frozen=True, slots=True)
class Environment:
    """The layer of the environment, and by which variable each key was set: `("watch", "high")` to its name."""

    values: dict[str, Any]
    names: dict[tuple[str, ...], str]


def read_text(path: str) -> tuple[str, bool]:
    """Return the text of a configuration file and whether group or others may read it. `ConfigError` if it is no text."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"Cannot read '{path}': {cause_of(error)}.") from error
    if len(content) > _LARGEST_BYTES:
        raise ConfigError(f"Cannot read '{path}': it is larger than 1 MiB, so it is no configuration.")
    try:
        return content.decode("utf-8-sig"), stat.S_ISREG(mode) and bool(mode & 0o077)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"Cannot read '{path}': line {line} is not UTF-8.") from None


def read_document(path: str) -> Document:
    """Return what the TOML file `path` holds. `ConfigError` with line and column if it is not TOML."""
    text, readable_by_others = read_text(path)
    try:
        return Document(tomllib.loads(text), readable_by_others)
    except tomllib.TOMLDecodeError as error:
        where, why = _explain_syntax(str(error), text)
        raise ConfigError(f"Cannot use '{path}': {where} is not TOML{why}.") from None
    except RecursionError:
        raise ConfigError(f"Cannot use '{path}': it is nested too deeply.") from None


def _explain_syntax(message: str, text: str) -> tuple[str, str]:
    """Split tomllib's message into a place and a reason; the reason is left out if it might quote the file."""
    match = _POSITION.search(message)
    if match is None:
        return "it", ""
    line, column = match.group(1), match.group(2)
    if match.group(3):  # tomllib says only "end of document"
        line, column = str(text.count("\n") + 1), str(len(text) - text.rfind("\n"))
    where = f"line {line}, column {column}"
    reason = message[: match.start()]
    return where, "" if _LONG_QUOTE.search(reason) else f": {reason[:1].lower()}{reason[1:]}"


def read_environment(
    env: Mapping[str, str], lists: Mapping[tuple[str, ...], str | None], caches: Iterable[str] = ()
) -> Environment:
    """
    Return the layer that `SURVIVED_<SECTION>__<KEY>` variables make; names without `__` and SURVIVED_TEST_* do not count.

    `lists` names the keys that are lists, each with what splits it (None = blanks); a JSON array is taken for any of them.
    In a cache's name `_` stands for `-` too, as no variable can hold one: SURVIVED_CACHES__UV_CACHE__LIMIT. `caches` are the
    names that the file uses; one that differs only in case, `_` or `-` is meant.
    """
    spelt = {name.lower().replace("_", "-"): name for name in caches}
    values: dict[str, Any] = {}
    names: dict[tuple[str, ...], str] = {}
    for name in sorted(env):
        rest = name.removeprefix(PREFIX)
        if rest == name or DELIMITER not in rest or rest.startswith("TEST_"):
            continue
        path = tuple(part.lower() for part in rest.split(DELIMITER))
        if path[0] == "caches" and len(path) > 1:
            cache = path[1].replace("_", "-")
            path = (path[0], spelt.get(cache, cache), *path[2:])
        place = values
        for part in path[:-1]:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ConfigError(f"Cannot use '{name}': another variable sets the same key to a value of its own.")
        place[path[-1]] = _read_value(env[name], path, lists)
        names[path] = name
    return Environment(values, names)


def _read_value(text: str, path: tuple[str, ...], lists: Mapping[tuple[str, ...], str | None]) -> Any:
    """Give a variable's text the type that a TOML file would have; text that has none stays text for the checks to refuse."""
    if path in lists:
        if text.lstrip().startswith("["):
            try:
                return json.loads(text)
            except ValueError:
                return text
        return [item.strip() for item in text.split(lists[path]) if item.strip()]
    if path[-1] in _FLAGS:
        return _TRUTH.get(text.strip().lower(), text)
    if path[0] == "caches" and path[-1] == "purge":  # the word or a command
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    if path[-1] == "max_watches" and re.fullmatch(r"\s*\d+\s*", text):
        return int(text)
    return text
