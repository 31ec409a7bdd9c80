"""
The caches we know, as data, and where they lie for one user.

`catalog.toml` is the data; `places.py` knows how to follow a location. Two entries that may both be moved never contain one
another: the inner one is reported only, except where the outer one would carry off what its user did not give free.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import re
import tomllib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from survived.errors import ConfigError
from survived.model import Cache, Kind
from survived.settings.places import Found, Location, Surroundings, follow, read_location, switched_off

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_UNPROVEN = "its behaviour behind a link is not proven yet"


@dataclass(frozen=True, slots=True)
class CacheRule:
    """
    One table of catalog.toml: what a tool keeps, the rules by which it finds the place, and how it takes a link there.

    `many`: every location counts and gives an entry of its own (id, id-2, ...); else the first that gives a path.
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
    clean_command: str | None = None
    keeps_link: bool | None = None
    eaten: tuple[str, ...] = ()
    breaks: tuple[str, ...] = ()
    purge_ok: bool = False
    redirect: str | None = None
    caveats: tuple[str, ...] = ()
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class CacheOverride:
    """The user's word on one cache, by its name: see [caches.NAME] in the configuration. Paths are absolute."""

    path: str | None = None
    kind: Kind | None = None
    limit_bytes: int | None = None
    move: bool | None = None
    title: str | None = None


@dataclass(frozen=True, slots=True)
class Level:
    """Another level than the one that its tool bears as a link: `breaks` the tool, or is eaten by its clean command."""

    cache: Cache  # whose place is the right level
    breaks: bool
    clean_command: str | None


def wrong_level(path: str, caches: Iterable[Cache]) -> Level | None:
    """Return what is wrong with a link at `path`, or None if nothing is known to be; `caches` as `resolve_caches` gives them."""
    for cache in caches:
        rule = find_rule(cache.id)
        if rule is None:
            continue
        relative = os.path.relpath(path, cache.path)
        for breaks, patterns in ((True, rule.breaks), (False, rule.eaten)):
            if any(_matches(relative, pattern) for pattern in patterns):
                return Level(cache, breaks, rule.clean_command)
        if path == cache.path and rule.keeps_link is False:
            return Level(cache, breaks=False, clean_command=rule.clean_command)
    return None


def _matches(relative: str, pattern: str) -> bool:
    if relative in (".", ".."):  # the place itself, or its folder: no pattern but the very word means these
        return relative == pattern
    parts, wanted = relative.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


@functools.cache
def load_rules() -> tuple[CacheRule, ...]:
    """Return the catalogue that travels with the program, checked."""
    with open(os.path.join(os.path.dirname(__file__), "catalog.toml"), "rb") as file:
        return parse_rules(tomllib.load(file))


def find_rule(name: str) -> CacheRule | None:
    """Return the rule of a cache's id; of those that give several, `conda-envs-2` too."""
    for rule in load_rules():
        if name == rule.id or (rule.many and re.fullmatch(rf"{re.escape(rule.id)}-[2-9]\d*", name)):
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
_FLAGS = ("many", "proven", "keeps_link", "purge_ok")
_TYPES: dict[str, type] = dict.fromkeys(_FLAGS, bool) | dict.fromkeys((*_TEXT_LISTS, "locations", "off"), list)


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
    given: dict[str, Any] = {key: tuple(value) if key in _TEXT_LISTS else value for key, value in table.items()}
    given |= {name: tuple(map(read_location, table.get(name, ()))) for name in ("locations", "off")}
    return CacheRule(**given | {"kind": Kind(table["kind"])})


def resolve_caches(
    env: Mapping[str, str], home: str, overrides: Mapping[str, CacheOverride], *, root: str = "/"
) -> tuple[Cache, ...]:
    """
    Return every known cache at the path where its tool looks for it, and the user's own, those first.

    Reads the tools' own configuration files. A path is as the tool knows it: absolute and tidy, no link followed; nothing
    needs to exist there. `root` stands before /etc, for tests.
    """
    own = [_own(name, override) for name, override in overrides.items() if find_rule(name) is None and override.path]
    known = [cache for rule in load_rules() for cache in _resolve(rule, Surroundings(env, home, root), overrides)]
    return _untangle((*own, *known), home)


def _own(name: str, override: CacheOverride) -> Cache:
    # Naming a directory of one's own is asking for it to be moved, whatever it holds, unless it says otherwise.
    return Cache(
        id=name,
        title=override.title or name,
        kind=override.kind or Kind.CACHE,
        path=override.path or "",
        rule=f"[caches.{name}]",
        move=True if override.move is None else override.move,
        limit_bytes=override.limit_bytes,
    )


def _resolve(rule: CacheRule, here: Surroundings, overrides: Mapping[str, CacheOverride]) -> list[Cache]:
    """Return the entries of one rule; `[caches.conda-envs]` speaks for `conda-envs-2` too, unless that has its own."""
    general = overrides.get(rule.id, CacheOverride())
    found = [Found(general.path, f"[caches.{rule.id}]")] if general.path else follow(rule.locations, here, many=rule.many)
    if (name := switched_off(rule.off, here)) is not None:
        here.caveats.append(f"{name} switches this cache off")
    caches = []
    for number, place in enumerate(found, 1):
        name = rule.id if number == 1 else f"{rule.id}-{number}"
        word = overrides.get(name, general)
        move = general.move if word.move is None else word.move
        reason = rule.report_only or (None if rule.proven else _UNPROVEN)
        caches.append(
            Cache(
                id=name,
                title=word.title or (rule.title if len(found) == 1 else f"{rule.title} {number}"),
                kind=word.kind or general.kind or rule.kind,
                path=(word.path if number > 1 else None) or place.path,
                rule=f"[caches.{name}]" if number > 1 and word.path else place.rule,
                report_only=None if move else reason,
                move=move,
                limit_bytes=general.limit_bytes if word.limit_bytes is None else word.limit_bytes,
                lock=rule.lock,
                processes=rule.processes,
                shares_links_with=rule.shares_links_with,
                # A tool's command that deletes what it cannot make again is never suggested.
                clean_command=rule.clean_command if rule.purge_ok else None,
                caveats=(*rule.caveats, *here.caveats),
            )
        )
    return caches


def _untangle(caches: tuple[Cache, ...], home: str) -> tuple[Cache, ...]:
    """Report only what must not be moved as it lies: at or around the home, at another's path, or in or around another."""
    reasons: dict[int, str] = {}
    real = [_real_place(cache.path) for cache in caches]
    for index, cache in enumerate(caches):
        if _holds(cache.path, home) or _holds(real[index], os.path.realpath(home)):
            reasons[index] = "it is or holds the home directory"
    for outer, first in enumerate(caches):
        for inner, second in enumerate(caches):
            if inner == outer or outer in reasons or not _may_move(first):
                continue
            if not _holds(first.path, second.path) and not _holds(real[outer], real[inner]):
                continue
            same = first.path == second.path or real[outer] == real[inner]
            # A cache may go by itself; an environment inside it goes only when its user says so.
            if first.kind is Kind.CACHE and second.kind is not Kind.CACHE and first.move is not True:
                reasons[outer] = f"it holds {second.id} ('{second.path}'), which is no cache"
            elif not same:
                reasons.setdefault(inner, f"it lies inside {first.id} ('{first.path}') and goes with it")
            elif outer < inner:
                reasons.setdefault(inner, f"it is the same directory as {first.id}")
    return tuple(_report_only(cache, reasons.get(index)) for index, cache in enumerate(caches))


def _may_move(cache: Cache) -> bool:
    return cache.report_only is None and cache.move is not False


def _report_only(cache: Cache, reason: str | None) -> Cache:
    if reason is None:
        return cache
    given = {field.name: getattr(cache, field.name) for field in fields(cache)}
    return Cache(**given | {"report_only": reason})


def _real_place(path: str) -> str:
    """Return a path with its parent's links followed and its own not: after a relocation it is a link itself."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _holds(outer: str, inner: str) -> bool:
    """Return whether `inner` is `outer` or lies below it, by name."""
    return inner == outer or inner.startswith(f"{outer.rstrip('/')}/")
