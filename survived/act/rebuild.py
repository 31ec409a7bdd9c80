"""
Reads back from trees and links what a lost journal knew: a tree of the store to which its own source's link leads is relocated.

The store mirrors every source's path, so that each tree names its link. Nothing is guessed: a tree without such a link is
an orphan, and only reported.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from survived.act import fs
from survived.model import Relocation
from survived.observe.tree import measure_tree

if TYPE_CHECKING:
    from collections.abc import Mapping

    from survived.store.layout import Store


@dataclass(frozen=True, slots=True)
class Found:
    """
    What the trees of one store say. Orphans are targets to which no link leads.

    Asides stand beside a link: the old tree of a move that was not at its end when the journal was lost, or its copy.
    """

    relocations: tuple[Relocation, ...]
    orphans: tuple[str, ...]
    asides: tuple[str, ...] = ()


def read_trees(store: Store, names: Mapping[str, str], now: float) -> Found:
    """Return what is relocated into `store` by the evidence of the links; `names` are cache ids by source."""
    relocations: list[Relocation] = []
    orphans: list[str] = []
    pending = [""]
    while pending:
        folder = pending.pop()
        with fs.opened(os.path.join(store.path, "trees", folder.rstrip("/"))) as fd:
            below = sorted(entry.name for entry in os.scandir(fd) if entry.is_dir(follow_symlinks=False))
        for name in below:
            where = f"{folder}{name}"
            target = os.path.join(store.path, "trees", where)
            source = _source_of(f"/{where}", target)
            if source is not None:
                size = measure_tree(target)
                relocations.append(Relocation(names.get(source, source), source, target, now, size.size_bytes, size.files))
            elif _is_on_the_way(f"/{where}", target):
                pending.append(f"{where}/")
            else:
                orphans.append(target)
    return Found(tuple(relocations), tuple(orphans), tuple(_asides(store, relocations)))


def _asides(store: Store, relocations: list[Relocation]) -> list[str]:
    """Return what has one of this store's names beside the links that were found."""
    prefix = store.aside(0).rpartition("-")[0]
    folders = sorted({os.path.dirname(item.source) for item in relocations})
    return [os.path.join(folder, name) for folder in folders for name in sorted(os.listdir(folder)) if name.startswith(prefix)]


def _source_of(path: str, target: str) -> str | None:
    """Return the source whose link leads to `target`: the mirrored path, or without the numbers that kept places apart."""
    for source in (path, re.sub(r"~\d+$", "", path), re.sub(r"~\d+(?=/|$)", "", path)):
        if os.path.islink(source) and os.readlink(source) == target:
            return source
    return None


def _is_on_the_way(path: str, target: str) -> bool:
    """A folder that leads to trees holds nothing but folders, and stands for a real folder that leads to their sources."""
    if not os.path.isdir(path) or os.path.islink(path):
        return False
    with os.scandir(target) as entries:
        return all(entry.is_dir(follow_symlinks=False) for entry in entries)


def set_aside(store: Store, name: str) -> str:
    """Give a broken file of the store another name, and return it."""
    number = 1
    while fs.exists(store.fd, f"{name}.broken-{number}") is not None:
        number += 1
    fs.rename_new(store.fd, name, store.fd, f"{name}.broken-{number}")
    return f"{name}.broken-{number}"
