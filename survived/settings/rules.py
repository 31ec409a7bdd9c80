"""
The rules of catalog.toml, read and checked: one table for each thing that a tool keeps.
"""

from __future__ import annotations

import functools
import os
import re
import tomllib
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from survived.errors import ConfigError
from survived.model import Kind
from survived.settings.places import Location, read_location

if TYPE_CHECKING:
    from collections.abc import Mapping

HIDDEN = "secret"
"""The kind of a part that is state, and nobody else's to read."""


@dataclass(frozen=True, slots=True)
class CacheRule:
    """
    One table of catalog.toml: what a tool keeps, the rules by which it finds the place, and how it takes a link there.

    `many`: every location counts and gives an entry of its own (id, id-2, ... or id-NAME); else the first that gives a path.
    `system`: only in root mode. `parts`: what lies below, or beside (`../token`), that is of another kind; "secret" is state.
    `clean_preview`: the command that shows what `clean_command` would remove.
    `keeps_link`: whether the tool's own clean command leaves the link; None = not known. `eaten`, `breaks`: other levels, as
    patterns relative to the place, at which a link is removed by that command, or breaks the tool.
    """

    id: str
    title: str
    kind: Kind
    locations: tuple[Location, ...]
    off: tuple[Location, ...] = ()  # what switches the tool's cache off
    many: bool = False
    proven: bool = False
    report_only: str | None = None
    lock: tuple[str, ...] = ()
    processes: tuple[str, ...] = ()
    shares_links_with: tuple[str, ...] = ()
    system: bool = False
    parts: dict[str, str] = field(default_factory=dict)
    clean_command: str | None = None
    clean_preview: str | None = None
    keeps_link: bool | None = None
    eaten: tuple[str, ...] = ()
    breaks: tuple[str, ...] = ()
    purge_ok: bool = False
    redirect: str | None = None
    caveats: tuple[str, ...] = ()
    evidence: str = ""


@functools.cache
def load_rules() -> tuple[CacheRule, ...]:
    """Return the catalogue that travels with the program, checked."""
    with open(os.path.join(os.path.dirname(__file__), "catalog.toml"), "rb") as file:
        return parse_rules(tomllib.load(file))


@functools.lru_cache(maxsize=1024)
def find_rule(name: str) -> CacheRule | None:
    """Return the rule of a cache's id; of those that give several, `conda-envs-2`, `browsers-chrome` and `wandb-runs:x` too."""
    base = name.partition(":")[0]
    for rule in load_rules():
        if base == rule.id:
            return rule
        named = [re.escape(place.name) for place in rule.locations if place.name]
        if rule.many and re.fullmatch(rf"{re.escape(rule.id)}-({'|'.join((*named, r'[2-9]', r'[1-9][0-9]+'))})", base):
            return rule
    return None


def parse_rules(document: Mapping[str, Any]) -> tuple[CacheRule, ...]:
    """Return the rules of a catalogue. Raises `ConfigError` with the entry and the key that is wrong."""
    rules: dict[str, CacheRule] = {}
    for number, table in enumerate(document.get("cache", ()), 1):
        name = table.get("id", f"number {number}")
        try:
            rule = _parse_rule(table)
        except ValueError as error:
            raise ConfigError(f"Cannot use the catalogue: entry '{name}': {error}.") from error
        if rule.id in rules:
            raise ConfigError(f"Cannot use the catalogue: entry '{name}': the id is there twice.")
        rules[rule.id] = rule
    return tuple(rules.values())


_TEXT_LISTS = ("lock", "processes", "shares_links_with", "caveats", "eaten", "breaks")
_FLAGS = ("many", "proven", "keeps_link", "purge_ok", "system")
_TYPES: dict[str, type] = dict.fromkeys(_FLAGS, bool) | dict.fromkeys((*_TEXT_LISTS, "locations", "off"), list) | {"parts": dict}


def _parse_rule(table: Mapping[str, Any]) -> CacheRule:
    known = {field.name for field in fields(CacheRule)}
    for key, value in table.items():
        wanted = _TYPES.get(key, str)
        if key not in known:
            raise ValueError(f"unknown key '{key}'")
        items: list[Any] = value if key in _TEXT_LISTS and isinstance(value, list) else []
        if not isinstance(value, wanted) or not all(isinstance(item, str) for item in items):
            raise ValueError(f"'{key}' is not a {wanted.__name__}")
    missing = [key for key in ("id", "title", "kind", "locations", "evidence") if not table.get(key)]
    if missing:
        raise ValueError(f"'{missing[0]}' is missing")
    if table["kind"] not in {str(kind) for kind in Kind}:
        raise ValueError(f"kind '{table['kind']}' is not one of {', '.join(Kind)}")
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", table["id"]):
        raise ValueError("an id is made of small letters, digits and '-'")
    if table.get("proven") and table["evidence"].startswith("memory"):
        raise ValueError("what is only remembered is not proven")
    for lock in table.get("lock", ()):
        if os.path.isabs(lock) or ".." in lock.split("/"):
            raise ValueError(f"lock '{lock}' is not below the cache")
    if wrong := [kind for kind in table.get("parts", {}).values() if kind not in (*Kind, HIDDEN)]:
        raise ValueError(f"the kind '{wrong[0]}' of a part is not one of {', '.join((*Kind, HIDDEN))}")
    given: dict[str, Any] = {key: tuple(value) if key in _TEXT_LISTS else value for key, value in table.items()}
    given |= {name: tuple(map(read_location, table.get(name, ()))) for name in ("locations", "off")}
    return CacheRule(**given | {"kind": Kind(table["kind"])})
