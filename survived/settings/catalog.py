"""
The caches we know, as data, and where they lie for one user.

`catalog.toml` is the data, `rules.py` reads it; `places.py` knows how to follow a location. What no entry names is found by
CACHEDIR.TAG (`tags.py`) or by the user's own [caches.NAME], also with wildcards (`globs.py`); `overlaps.py` sees that no two
movable ones contain one another.
"""

from __future__ import annotations

import fnmatch
import os
import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from survived.model import Cache, Kind
from survived.settings.globs import find_excluding, find_matches
from survived.settings.overlaps import is_inside, real_place, untangle
from survived.settings.places import Found, Surroundings, follow, switched_off
from survived.settings.rules import HIDDEN
from survived.settings.rules import CacheRule as CacheRule
from survived.settings.rules import find_rule as find_rule
from survived.settings.rules import load_rules as load_rules
from survived.settings.tags import TAG, find_tagged
from survived.settings.templates import fill, has_wildcard

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_UNPROVEN = "its behaviour behind a link is not proven yet"
_TAGGED = "tagged"


@dataclass(frozen=True, slots=True)
class CacheOverride:
    """The user's word on one cache, by its name: see [caches.NAME] in the configuration. Paths are absolute."""

    path: str | None = None
    kind: Kind | None = None
    limit_bytes: int | None = None
    move: bool | None = None
    title: str | None = None
    pin: bool | None = None
    purge: bool | str | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """
    What the user wants beside single caches: where tags are looked for, and what is never touched.

    `tagged_below`: None for the user's cache directory. `exclude`: patterns, see `globs.find_excluding`.
    """

    tagged_below: tuple[str, ...] | None = None
    move_tagged: bool = False
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """Something below or beside a cache that is of another kind."""

    path: str
    kind: Kind
    secret: bool = False


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


def parts_of(cache: Cache) -> tuple[Part, ...]:
    """Return what lies below or beside a cache that is of another kind than itself, whether or not it is there."""
    rule = find_rule(cache.id)
    return tuple(
        Part(os.path.normpath(os.path.join(cache.path, name)), Kind.STATE if kind == HIDDEN else Kind(kind), kind == HIDDEN)
        for name, kind in (rule.parts if rule is not None else {}).items()
    )


def resolve_caches(
    env: Mapping[str, str],
    home: str,
    overrides: Mapping[str, CacheOverride],
    *,
    root: str = "/",
    uid: int = -1,
    root_mode: bool = False,
    search: Search | None = None,
) -> tuple[Cache, ...]:
    """
    Return every known cache at the path where its tool looks for it, and the user's own, those first.

    Reads the tools' own configuration files. A path is as the tool knows it: absolute and tidy, no link followed; nothing
    needs to exist there. `root` stands before /etc, for tests. Entries of the system are there in root mode only. Without a
    `search` nothing is looked for by CACHEDIR.TAG. Of tagged directories the id is `tagged:NAME`, of several that one
    pattern of the user's names, `NAME:` and what its wildcards stand for.
    """
    own = [cache for name, override in overrides.items() if find_rule(name) is None for cache in _own(name, override, overrides)]
    rules = [rule for rule in load_rules() if root_mode or not rule.system]
    known = [cache for rule in rules for cache in _resolve(rule, Surroundings(env, home, root, uid), overrides)]
    found = [*own, *known]
    if search is not None:
        found += _tagged(found, Surroundings(env, home, root, uid), overrides, search)
        found = [_without_excluded(cache, search.exclude) for cache in found]
    return tuple(_purged(cache, overrides) for cache in untangle(tuple(found), home))


def _purged(cache: Cache, overrides: Mapping[str, CacheOverride]) -> Cache:
    """Return a cache with the command that purges it, where its user says so; only what is a cache is ever purged."""
    rule = find_rule(cache.id)
    names = (cache.id, cache.id.partition(":")[0], rule.id if rule is not None else "")
    wish = next((word.purge for name in names if (word := overrides.get(name)) is not None and word.purge is not None), None)
    command = cache.clean_command if wish is True else wish or None
    if command is None or cache.kind is not Kind.CACHE or cache.pinned is not None:
        return cache
    return replace(cache, purge_command=tuple(shlex.split(command)))


def _own(name: str, override: CacheOverride, overrides: Mapping[str, CacheOverride]) -> list[Cache]:
    # Naming a directory of one's own is asking for it to be moved, whatever it holds, unless it says otherwise.
    cache = Cache(
        id=name,
        title=override.title or name,
        kind=override.kind or Kind.CACHE,
        path=override.path or "",
        rule=f"[caches.{name}]",
        move=True if override.move is None else override.move,
        limit_bytes=override.limit_bytes,
        pinned=_pin(name, override.pin),
    )
    return _expanded(cache, overrides) if override.path else []


def _expanded(cache: Cache, overrides: Mapping[str, CacheOverride]) -> list[Cache]:
    """Return a cache whose path is a pattern as the caches that it names; itself, at no place, if it names none."""
    if not has_wildcard(cache.path):
        return [cache]
    many = []
    for path, matched in find_matches(cache.path):
        name = f"{cache.id}:{matched}"
        word = overrides.get(name, CacheOverride())
        many.append(
            replace(
                cache, id=name, title=word.title or f"{cache.title} {matched}", path=path, kind=word.kind or cache.kind,
                move=cache.move if word.move is None else word.move, pinned=_pin(name, word.pin) or cache.pinned,
                limit_bytes=cache.limit_bytes if word.limit_bytes is None else word.limit_bytes,
            )
        )  # fmt: skip
    return many or [replace(cache, caveats=(*cache.caveats, "nothing that its pattern names is there"))]


def _pin(name: str, pin: bool | None) -> str | None:
    return f"pin = true in {_table(name)}" if pin else None


def _table(name: str) -> str:
    return f'[caches."{name}"]' if ":" in name else f"[caches.{name}]"


def _resolve(rule: CacheRule, here: Surroundings, overrides: Mapping[str, CacheOverride]) -> list[Cache]:
    """Return the entries of one rule; `[caches.conda-envs]` speaks for `conda-envs-2` too, unless that has its own."""
    general = overrides.get(rule.id, CacheOverride())
    found = [Found(general.path, f"[caches.{rule.id}]")] if general.path else follow(rule.locations, here, many=rule.many)
    if (switch := switched_off(rule.off, here)) is not None:
        here.caveats.append(f"{switch} switches this cache off")
    caches = []
    for number, place in enumerate(found, 1):
        suffix = place.name or (str(number) if number > 1 else "")
        name = f"{rule.id}-{suffix}" if suffix else rule.id
        word = overrides.get(name, general)
        move = general.move if word.move is None else word.move
        reason = rule.report_only or (None if rule.proven else _UNPROVEN)
        cache = Cache(
            id=name,
            title=word.title or (rule.title if len(found) == 1 or place.name else f"{rule.title} {number}"),
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
            clean_preview=rule.clean_preview if rule.purge_ok else None,
            caveats=(*rule.caveats, *here.caveats),
            pinned=_pin(name, word.pin) or _pin(rule.id, general.pin),
        )
        caches += _expanded(cache, overrides) if general.path else [cache]
    return caches


def _tagged(known: list[Cache], here: Surroundings, overrides: Mapping[str, CacheOverride], search: Search) -> list[Cache]:
    """Return what says by CACHEDIR.TAG that it is a cache, and is in no cache that is known."""
    ((default, _),) = fill("{cache}", here)
    places = search.tagged_below if search.tagged_below is not None else (default,)
    caches = []
    for path, place in find_tagged(places, (cache.path for cache in known)):
        if any(is_inside(path, cache.path) or is_inside(real_place(path), real_place(cache.path)) for cache in known):
            continue
        below = path[len(place.rstrip("/")) + 1 :]
        name = f"{_TAGGED}:{below if place == default else path}"
        word = overrides.get(name, CacheOverride())
        reason: str | None = f"only its {TAG} is known: [move] tagged = true, or move = true in {_table(name)}, lets it move"
        if search.move_tagged or word.move:
            reason = None
        held = next((cache for cache in known if is_inside(cache.path, path)), None)
        if held is not None and word.move is not True:
            reason = f"it holds {held.id} ('{held.path}'), which goes by itself"
        caches.append(
            Cache(
                id=name, title=word.title or below, kind=word.kind or Kind.CACHE, path=path, rule=TAG, report_only=reason,
                move=word.move, limit_bytes=word.limit_bytes, pinned=_pin(name, word.pin),
            )
        )  # fmt: skip
    return caches


def _without_excluded(cache: Cache, patterns: tuple[str, ...]) -> Cache:
    pattern = find_excluding(cache.path, patterns) if patterns and cache.pinned is None else None
    return cache if pattern is None else replace(cache, pinned=f"'{pattern}' in [move] exclude")
