"""
What a kind is given: a job to collect files on a machine with network, or to install them on one without.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from survived.offline.manifest import Item, Target

if TYPE_CHECKING:
    from collections.abc import Mapping

    from survived.offline.command import Runner
    from survived.offline.inventory import Inventory
    from survived.offline.verifying import Tell


@dataclass(frozen=True, slots=True)
class Wish:
    """
    One item that is asked for: its kind, the words of the command line, and what else that kind takes.

    `options` are plain strings: `channel`, `gallery`, `updates`, `repo_type`, `build`.
    """

    kind: str
    words: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()

    def option(self, name: str, default: str = "") -> str:
        """Return one option, or the default."""
        return dict(self.options).get(name, default)


@dataclass(frozen=True, slots=True)
class Collecting:
    """
    Where one item's files are collected, and for whom.

    `folder` is the item's own (its name is `root`), `scratch` is for caches and temporary files of tools and is kept until
    the bundle is complete, so that a second try need not download again.
    """

    root: str
    folder: str
    scratch: str
    target: Target
    inventory: Inventory | None
    runner: Runner
    tell: Tell

    def item(self, kind: str, title: str, target: Target, facts: Mapping[str, object], omitted: tuple[str, ...] = ()) -> Item:
        """Return the item that is collected here."""
        return Item(kind, self.root, title, target, dict(facts), omitted)

    def temporary(self) -> str:
        """Return a folder for TMPDIR, made; never on `/`, unless the bundle is."""
        place = os.path.join(self.scratch, "tmp")
        os.makedirs(place, mode=0o700, exist_ok=True)
        return place


@dataclass(frozen=True, slots=True)
class Options:
    """What the user says about installing; None where the tool's own rule decides. See `survivectl offline install --help`."""

    python: str | None = None
    with_uv: bool = False
    project: str | None = None
    conda_prefix: str | None = None
    hub_cache: str | None = None
    code: str | None = None
    files_to: str | None = None


@dataclass(frozen=True, slots=True)
class Installing:
    """
    One item, unpacked in `folder`, to be installed on this machine for this user.

    `files` are the item's own, relative to `folder`. `keep_free` are the devices that bundles are not to fill; `scratch` is a
    folder for TMPDIR on the data disk.
    """

    item: Item
    files: tuple[str, ...]
    folder: str
    scratch: str
    here: Target
    home: str
    runner: Runner
    options: Options
    keep_free: frozenset[int]
    tell: Tell

    def temporary(self) -> str:
        """Return a folder for TMPDIR, made; on the data disk."""
        os.makedirs(self.scratch, mode=0o700, exist_ok=True)
        return self.scratch

    def path(self, *parts: str) -> str:
        """Return a path below the item's folder."""
        return os.path.join(self.folder, *parts)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What installing one item did: `done` is a sentence for people, `facts` the same for scripts."""

    item: Item
    done: str
    facts: tuple[tuple[str, object], ...] = ()
