"""
Which of the caches must not be moved as they lie: at or around the home, at another's path, or in or around another.

Two entries that may both be moved never contain one another: the inner one is reported only, except where the outer one
would carry off what its user did not give free.
"""

from __future__ import annotations

import os
from dataclasses import replace

from survived.model import Cache, Kind


def untangle(caches: tuple[Cache, ...], home: str) -> tuple[Cache, ...]:
    """Return the caches, reported only with a reason where moving one would touch another or the home."""
    reasons: dict[int, str] = {}
    real = [real_place(cache.path) for cache in caches]
    real_home = os.path.realpath(home)
    for index, cache in enumerate(caches):
        if is_inside(home, cache.path) or is_inside(real_home, real[index]):
            reasons[index] = "it is or holds the home directory"
    for outer, first in enumerate(caches):
        if outer in reasons or not _may_move(first):
            continue
        inside = [
            inner for inner, second in enumerate(caches)
            if inner != outer and (is_inside(second.path, first.path) or is_inside(real[inner], real[outer]))
        ]  # fmt: skip
        # A cache may go by itself; an environment inside it goes only when its user says so.
        alien = next((caches[inner] for inner in inside if caches[inner].kind is not Kind.CACHE), None)
        if alien is not None and first.kind is Kind.CACHE and first.move is not True:
            reasons[outer] = f"it holds {alien.id} ('{alien.path}'), which is no cache"
            continue
        for inner in inside:
            if first.path != caches[inner].path and real[outer] != real[inner]:
                reasons.setdefault(inner, f"it lies inside {first.id} ('{first.path}') and goes with it")
            elif outer < inner:
                reasons.setdefault(inner, f"it is the same directory as {first.id}")
    return tuple(replace(cache, report_only=reasons[index]) if index in reasons else cache for index, cache in enumerate(caches))


def _may_move(cache: Cache) -> bool:
    return cache.report_only is None and cache.move is not False and cache.pinned is None


def real_place(path: str) -> str:
    """Return a path with its parent's links followed and its own not: after a relocation it is a link itself."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def is_inside(inner: str, outer: str) -> bool:
    """Return whether `inner` is `outer` or lies below it, by name."""
    return inner == outer or inner.startswith(f"{outer.rstrip('/')}/")
