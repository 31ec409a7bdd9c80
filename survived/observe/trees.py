"""
The trees of a store as `ls` shows them: which of them no record knows.

A store mirrors the paths of its sources, so that most folders below `trees/` only lead to trees. Which folder is a tree and
which only leads there is told by the records; where there are none, by the home: what is a folder there, too, leads on.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_DEEPEST = 64


def read_unknown_trees(store_path: str, known: Collection[str], past: Collection[str]) -> tuple[str, ...]:
    """
    Return the trees below `store_path`/trees that are none of `known`, nor in one of them.

    `past` are places where trees have been: what is there is a tree as a whole.
    """
    top = os.path.join(store_path, "trees")
    leading = {os.path.dirname(path) for path in known}
    for path in tuple(leading):
        while (path := os.path.dirname(path)).startswith(top):
            leading.add(path)
    found: list[str] = []
    pending = [top]
    while pending:
        for path in _folders(pending.pop()):
            if path in known:
                continue
            if path in leading or (path not in past and _leads_on(path, path[len(top) :])):
                pending.append(path)
            else:
                found.append(path)
    return tuple(sorted(found))


def source_of(target: str) -> str:
    """Return the source that a tree's place mirrors, without the number of a second tree of that path."""
    return "/" + re.sub(r"~\d+$", "", target.partition("/survived/trees/")[2])


def _folders(path: str) -> list[str]:
    with suppress(OSError), os.scandir(path) as entries:
        return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    return []


def _leads_on(path: str, home: str) -> bool:
    """A folder that leads to trees holds nothing but folders, and stands for a real folder that leads to their sources."""
    if home.count("/") > _DEEPEST or not os.path.isdir(home) or os.path.islink(home):
        return False
    with suppress(OSError), os.scandir(path) as entries:
        return all(entry.is_dir(follow_symlinks=False) for entry in entries)
    return True
