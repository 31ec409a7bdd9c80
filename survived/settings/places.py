"""
Where a tool looks for its cache: one location of catalog.toml followed for one user.

Nothing is guessed. A value that the tool would take relative to its working directory names no place that we could know,
so the location is passed over and the cache says so in its caveats.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from survived.settings.templates import Surroundings as Surroundings
from survived.settings.templates import fill, fill_files, is_of_system
from survived.settings.toolfiles import READERS, read_tool_file, show_key
from survived.settings.values import tidy

if TYPE_CHECKING:
    from collections.abc import Sequence

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_BRACED = re.compile(r"\$\{(\w+)\}")
_MAVEN = re.compile(r"\$\{(?:(user\.home)|env\.(\w+))\}")
_TRUTH = frozenset({"1", "y", "yes", "t", "true", "on"})
_SHOWN = {
    "cache": "$XDG_CACHE_HOME",
    "config": "$XDG_CONFIG_HOME",
    "data": "$XDG_DATA_HOME",
    "config_dirs": "$XDG_CONFIG_DIRS",
    "base": "<conda>",
    "mounts": "<mount>",
    "tmp": "$TMPDIR",
}
_OFF = frozenset({"off", "0", "no", "false"})


@dataclass(frozen=True, slots=True)
class Location:
    """
    One step of a tool's search: a variable, a key of a file in some format, or a path; exactly one of the three.

    Paths may begin with `~`, `$NAME` (passed over if unset) or a word of `templates.py`: `{cache}`, `{config}`, `{data}`,
    `{config_dirs}`, `{base}`, `{mounts}`, `{tmp}`. `expand` says what the tool itself replaces in the value: "~", "$" (both
    forms), "{" (`${NAME}` only), "m" (Maven's `${user.home}` and `${env.NAME}`).
    """

    env: str | None = None
    path: str | None = None
    file: str | None = None
    format: str | None = None
    key: str | None = None
    sub: str | None = None  # below the value
    split: str | None = None
    option: str | None = None  # the value is what follows this in one word of the variable, as in JVM options
    expand: str = ""
    name: str | None = None  # of an entry with `many`: what its id ends in
    any_case: bool = False  # npm takes its variables in any case
    backwards: bool = False  # of several files, or values of a list, the last counts first
    beside: bool = False  # a relative value is relative to the file's folder
    exists: bool = False  # counts only if something is there
    fallback: bool = False  # counts only if nothing before it did
    unless: str | None = None  # passed over if this variable is true, or names a file that exists
    unless_set: str | None = None  # passed over if this variable says anything
    unless_null: str | None = None  # passed over if this variable is /dev/null
    unless_there: str | None = None  # passed over if something is at this path
    as_root: bool | None = None  # counts for root only, or for everybody else only


@dataclass(frozen=True, slots=True)
class Found:
    """A place and the rule that named it: `PIP_CACHE_DIR`, `~/.condarc pkgs_dirs`, `default`; `name` is its location's."""

    path: str
    rule: str
    name: str | None = None


def read_location(table: Any) -> Location:
    """Return a location of catalog.toml. Raises ValueError if it is wrong."""
    known = {item.name for item in fields(Location)}
    if not isinstance(table, dict) or table.keys() - known:
        raise ValueError(f"location {table} has an unknown key")
    location = Location(**table)
    if sum(part is not None for part in (location.env, location.path, location.file)) != 1:
        raise ValueError(f"location {table} needs one of env, path, file")
    if location.file is not None and (location.format not in READERS or not location.key):
        raise ValueError(f"location {table} needs a key and a format out of {', '.join(READERS)}")
    if not set(location.expand) <= set("~${m"):
        raise ValueError(f"location {table} expands what nobody knows")
    return location


def show_location(location: Location) -> str:
    """Return a location as people read it: `PIP_CACHE_DIR`, `~/.npmrc cache`, `$XDG_CACHE_HOME/pip`."""
    if location.env is not None:
        text = f"{location.env} {location.option.rstrip('=')}" if location.option else location.env
    elif location.file is not None:
        text = f"{location.file} {show_key(location.format or '', location.key or '')}".rstrip()
    else:
        text = location.path or ""
    for word, shown in _SHOWN.items():
        text = text.replace(f"{{{word}}}", shown, 1) if text.startswith("{") else text
    return f"{text} + /{location.sub}" if location.sub else text


def variables(location: Location) -> set[str]:
    """Return the names of the variables that a location looks at."""
    templates = (location.path or "", location.file or "")
    named = {text[1:].partition("/")[0] for text in templates if text.startswith("$")}
    more = {location.env, location.unless, location.unless_set, location.unless_null} - {None}
    return named | {name for name in more if name is not None}


def follow(locations: Sequence[Location], here: Surroundings, *, many: bool = False) -> list[Found]:
    """
    Return the places that the locations give: the first, or with `many` all of them, each once.

    Of many, a place that nobody configured counts after the first only if it exists.
    """
    found: dict[str, Found] = {}
    for location in locations:
        if location.fallback and found:
            continue
        for value, rule, folder in _values(location, here):
            path = _place(location, value, rule, folder, here)
            if path is None or path in found or (location.exists and not os.path.lexists(path)):
                continue
            if many and found and location.path is not None and not os.path.lexists(path):
                continue
            found[path] = Found(path, rule, location.name)
            if not many:
                return list(found.values())
    return list(found.values())


def switched_off(locations: Sequence[Location], here: Surroundings) -> str | None:
    """Return the name of the first location that holds a true word: what switches a tool's cache off."""
    for location in locations:
        for value, rule, _ in _values(location, here):
            if value.strip().lower() in _TRUTH:
                return rule
    return None


def _values(location: Location, here: Surroundings) -> list[tuple[str, str, str]]:
    """Return what a location holds, with its name and the folder of its file, before anything is replaced in it."""
    if _is_passed_over(location, here):
        return []
    if location.env is not None:
        value, name = here.variable(location.env, any_case=location.any_case)
        if location.option is not None:
            return [(part, f"{name} {location.option.rstrip('=')}", "") for part in _options(value, location.option)]
        return [(part, name, "") for part in (value.split(location.split) if location.split else [value]) if part]
    if location.path is not None:
        return [(path, rule, "") for path, rule in fill(location.path, here)]
    files = fill_files(location.file or "", here, any_case=location.any_case)
    return [item for file in (reversed(files) if location.backwards else files) for item in _read_key(location, file, here)]


def _options(value: str, option: str) -> list[str]:
    """Return what follows an option in the words of a variable; the last counts."""
    try:
        words = shlex.split(value)
    except ValueError:  # an open quotation
        words = value.split()
    return [word.removeprefix(option) for word in words if word.startswith(option) and word != option][-1:]


def _read_key(location: Location, file: str, here: Surroundings) -> list[tuple[str, str, str]]:
    path = here.system(file) if is_of_system(file) else file
    if not os.path.isabs(path):
        return []
    text, trouble = read_tool_file(path)
    shown = f"~{file[len(here.home) :]}" if file.startswith(f"{here.home}/") else file
    if trouble is not None:
        here.caveats.append(f"'{shown}' cannot be read: {trouble}")
    if text is None:
        return []
    rule = f"{shown} {show_key(location.format or '', location.key or '')}".rstrip()
    values = READERS[location.format or ""](text, location.key or "")
    if location.split:
        values = [part for value in values for part in value.split(location.split) if part]
    return [(value, rule, os.path.dirname(file)) for value in values]


def _is_passed_over(location: Location, here: Surroundings) -> bool:
    """Tell whether something else says that this location does not count."""
    if location.as_root is not None and location.as_root != (here.uid == 0):
        return True
    if location.unless is not None and _is_set_aside(location.unless, here):
        return True
    if location.unless_set is not None and here.env.get(location.unless_set):
        return True
    if location.unless_null is not None and here.env.get(location.unless_null) == os.devnull:
        return True
    return location.unless_there is not None and any(os.path.lexists(path) for path, _ in fill(location.unless_there, here))


def _is_set_aside(name: str, here: Surroundings) -> bool:
    value = here.env.get(name, "")
    return value.lower() in _TRUTH or (os.path.isabs(value) and os.path.exists(value))


def _place(location: Location, value: str, rule: str, folder: str, here: Surroundings) -> str | None:
    """Return the absolute path that the tool makes of a value, or None if it depends on the working directory."""
    path = value.strip() if location.split else value
    if "~" in location.expand and (path == "~" or path.startswith("~/")):
        path = here.home + path[1:]
    pattern = _VARIABLE if "$" in location.expand else _BRACED if "{" in location.expand else _MAVEN
    if set(location.expand) & set("${m"):
        path = pattern.sub(lambda match: _known_variable(next(filter(None, match.groups())), here) or match.group(), path)
    if location.beside and not os.path.isabs(path):
        path = os.path.join(folder, path)
    if location.sub:
        path = os.path.join(path, location.sub)
    if not os.path.isabs(path) or "\0" in path:
        why = "which depends on the working directory, so it is not watched"
        if value.lower() in _OFF:
            why = "so its tool keeps nothing, or not in one place"
        here.caveats.append(f"{rule} says '{value}', {why}")
        return None
    return tidy(path)


def _known_variable(name: str, here: Surroundings) -> str | None:
    """Return a variable, or what its name always means, whether it is exported or not."""
    fixed = {"HOME": here.home, "user.home": here.home, "USER": here.user(), "UID": str(here.uid)}
    return here.env.get(name) or fixed.get(name)
