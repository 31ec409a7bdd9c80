"""
Where a tool looks for its cache: one location of catalog.toml followed for one user.

Nothing is guessed. A value that the tool would take relative to its working directory names no place that we could know,
so the location is passed over and the cache says so in its caveats.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from survived.settings.paths import xdg_directory
from survived.settings.toolfiles import READERS, read_tool_file
from survived.settings.values import tidy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_XDG = {"cache": ("XDG_CACHE_HOME", ".cache"), "config": ("XDG_CONFIG_HOME", ".config"), "data": ("XDG_DATA_HOME", ".local/share")}
_BASES = ("miniforge3", "miniconda3", "anaconda3", "mambaforge")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_BRACED = re.compile(r"\$\{(\w+)\}")
_TRUTH = frozenset({"1", "y", "yes", "t", "true", "on"})


@dataclass(frozen=True, slots=True)
class Location:
    """
    One step of a tool's search: a variable, a key of a file in some format, or a path; exactly one of the three.

    Paths may begin with `~`, `$NAME` (passed over if unset), `{cache}`, `{config}`, `{data}` (XDG) or `{base}` (each conda
    installation). `expand` says what the tool itself replaces in the value: "~", "$" (both forms), "{" (`${NAME}` only).
    """

    env: str | None = None
    path: str | None = None
    file: str | None = None
    format: str | None = None
    key: str | None = None
    sub: str | None = None  # below the value
    split: str | None = None
    expand: str = ""
    any_case: bool = False  # npm takes its variables in any case
    exists: bool = False  # counts only if something is there
    fallback: bool = False  # counts only if nothing before it did
    unless: str | None = None  # passed over if this variable is true, or names a file that exists
    unless_null: str | None = None  # passed over if this variable is /dev/null


@dataclass(frozen=True, slots=True)
class Found:
    """A place and the rule that named it: `PIP_CACHE_DIR`, `~/.condarc`, `default`."""

    path: str
    rule: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The user that locations are followed for; `caveats` collects what was passed over and why."""

    env: Mapping[str, str]
    home: str
    root: str = "/"
    caveats: list[str] = field(default_factory=list)


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
    if not set(location.expand) <= set("~${"):
        raise ValueError(f"location {table} expands what nobody knows")
    return location


def follow(locations: Sequence[Location], here: Surroundings, *, many: bool = False) -> list[Found]:
    """
    Return the places that the locations give: the first, or with `many` all of them, each once.

    Of many, a place that nobody configured counts after the first only if it exists.
    """
    found: dict[str, Found] = {}
    for location in locations:
        if location.fallback and found:
            continue
        for value, rule in _values(location, here):
            path = _place(location, value, rule, here)
            if path is None or path in found or (location.exists and not os.path.lexists(path)):
                continue
            if many and found and location.path is not None and not os.path.lexists(path):
                continue
            found[path] = Found(path, rule)
            if not many:
                return list(found.values())
    return list(found.values())


def switched_off(locations: Sequence[Location], here: Surroundings) -> str | None:
    """Return the name of the first location that holds a true word: what switches a tool's cache off."""
    for location in locations:
        for value, rule in _values(location, here):
            if value.strip().lower() in _TRUTH:
                return rule
    return None


def _values(location: Location, here: Surroundings) -> list[tuple[str, str]]:
    """Return what a location holds, with its name, before anything is replaced in it."""
    if location.unless is not None and _is_set_aside(location.unless, here):
        return []
    if location.unless_null is not None and here.env.get(location.unless_null) == os.devnull:
        return []
    if location.env is not None:
        name = _spelling(location.env, here.env) if location.any_case else location.env
        value = here.env.get(name, "")
        return [(part, name) for part in (value.split(location.split) if location.split else [value]) if part]
    if location.path is not None:
        return _templates(location.path, here)
    return [item for file, _ in _templates(location.file or "", here) for item in _read_key(location, file, here)]


def _read_key(location: Location, file: str, here: Surroundings) -> list[tuple[str, str]]:
    path = os.path.join(here.root, file[1:]) if file.startswith("/etc/") else file
    if not os.path.isabs(path):
        return []
    text, trouble = read_tool_file(path)
    shown = f"~{file[len(here.home) :]}" if file.startswith(f"{here.home}/") else file
    if trouble is not None:
        here.caveats.append(f"'{shown}' cannot be read: {trouble}")
    if text is None:
        return []
    return [(value, shown) for value in READERS[location.format or ""](text, location.key or "")]


def _spelling(name: str, env: Mapping[str, str]) -> str:
    return next((other for other in sorted(env, reverse=True) if other.lower() == name and env[other]), name)


def _is_set_aside(name: str, here: Surroundings) -> bool:
    value = here.env.get(name, "")
    return value.lower() in _TRUTH or (os.path.isabs(value) and os.path.exists(value))


def _templates(template: str, here: Surroundings) -> list[tuple[str, str]]:
    """Return the paths that a template of the catalogue gives, each with its rule; none if its variable is not set."""
    if template.startswith("~"):
        return [(here.home + template[1:], "default")]
    if template.startswith("$"):
        name, slash, rest = template[1:].partition("/")
        value = here.env.get(name, "")
        return [(value + slash + rest, name)] if value else []
    if template.startswith("{base}"):
        return [(base + template[len("{base}") :], rule) for base, rule in conda_bases(here)]
    for word, (name, default) in _XDG.items():
        if template.startswith(f"{{{word}}}"):
            given = xdg_directory(here.env, name)
            rest = template[len(word) + 2 :]
            return [(given + rest, name)] if given else [(f"{here.home}/{default}{rest}", "default")]
    if "$USER" in template:
        user = here.env.get("USER") or os.path.basename(here.home)
        return [(template.replace("$USER", user), "default")]
    return [(template, "default")]


def _place(location: Location, value: str, rule: str, here: Surroundings) -> str | None:
    """Return the absolute path that the tool makes of a value, or None if it depends on the working directory."""
    path = value.strip() if location.split else value
    if "~" in location.expand and (path == "~" or path.startswith("~/")):
        path = here.home + path[1:]
    if "$" in location.expand or "{" in location.expand:
        pattern = _VARIABLE if "$" in location.expand else _BRACED
        path = pattern.sub(lambda match: here.env.get(next(filter(None, match.groups())), match.group()), path)
    if location.sub:
        path = os.path.join(path, location.sub)
    if not os.path.isabs(path) or "\0" in path:
        here.caveats.append(f"{rule} says '{value}', which depends on the working directory, so it is not watched")
        return None
    return tidy(path)


def conda_bases(here: Surroundings) -> list[tuple[str, str]]:
    """Return the conda installations that the environment or their usual places name, each with the rule that found it."""
    env = here.env
    found: dict[str, str] = {}
    executable = env.get("CONDA_EXE", "")
    hints = [(os.path.dirname(os.path.dirname(executable)), "CONDA_EXE")]
    prefix = env.get("CONDA_PREFIX", "")
    # An environment `<base>/envs/NAME` is no installation; the base around it is.
    around = os.path.dirname(os.path.dirname(prefix)) if os.path.basename(os.path.dirname(prefix)) == "envs" else prefix
    hints.append((around, "CONDA_PREFIX"))
    hints += [(os.path.join(here.home, name), "default") for name in _BASES]
    for base, rule in hints:
        if os.path.isabs(base) and os.path.isdir(os.path.join(base, "conda-meta")):
            found.setdefault(tidy(base), rule)
    mamba = env.get("MAMBA_ROOT_PREFIX", "")
    if os.path.isabs(mamba) and os.path.isdir(mamba):  # micromamba has no conda-meta of its own
        found.setdefault(tidy(mamba), "MAMBA_ROOT_PREFIX")
    return list(found.items())
