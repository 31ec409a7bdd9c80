"""
Paths with wildcards: what `path = "~/work/*/wandb"` of a [caches.NAME] names on this machine.

Wildcards are those of the shell, without `**`, which would have us walk whatever lies there.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re

MOST = 200
"""More directories than this one pattern never gives: each is measured and watched."""
_MAGIC = re.compile(r"[*?\[]")


def find_matches(pattern: str) -> list[tuple[str, str]]:
    """
    Return the directories, and links, that a pattern names, sorted, each with what its wildcards stand for there.

    `/w/*/runs-*` at `/w/a/runs-7` is `a/runs-7`: it stays the same whatever else comes and goes.
    """
    parts = [number for number, part in enumerate(pattern.split("/")) if _MAGIC.search(part)]
    found = []
    for path in sorted(glob.iglob(pattern)):
        if os.path.isdir(path) or os.path.islink(path):
            names = path.split("/")
            found.append((path, "/".join(names[number] for number in parts)))
        if len(found) == MOST:
            break
    return found


def find_excluding(path: str, patterns: tuple[str, ...]) -> str | None:
    """
    Return the pattern of [move] exclude that forbids touching the directory `path`, or None.

    A pattern keeps what it names and all below it, and so each directory that has such a thing in it; a closing `/**` adds
    nothing to that. Links in the folders above are followed on both sides.
    """
    names = {path, os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))}
    for pattern in patterns:
        plain = pattern.removesuffix("/**") or "/"
        for kept in {plain, _real(plain)}:
            if any(_keeps(kept, name) for name in names):
                return pattern
    return None


def _keeps(kept: str, path: str) -> bool:
    """Tell whether `path` is, is below or holds something that a pattern names."""
    wanted, parts = kept.strip("/").split("/"), path.strip("/").split("/")
    if kept == "/":
        return True
    if not all(map(fnmatch.fnmatchcase, parts, wanted)):  # as far as both go
        return False
    if len(parts) >= len(wanted):
        return True
    below = os.path.join(glob.escape(path), *wanted[len(parts) :])
    return next(glob.iglob(below, include_hidden=True), None) is not None


def _real(pattern: str) -> str:
    """Return a pattern with the links followed in what stands before its first wildcard."""
    parts = pattern.split("/")
    fixed = next((number for number, part in enumerate(parts) if _MAGIC.search(part)), len(parts))
    return os.path.join(os.path.realpath("/".join(parts[:fixed]) or "/"), *parts[fixed:])
