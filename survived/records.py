"""
What the journals of all stores say, and what is remembered at home of the stores whose disk is away.

A journal lies on the data disk, so that with the disk everything is gone that says what its links were. `links.json` in the
state directory is a copy of that part, for telling and never for acting; `standins.json` says which links have a stand-in.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from survived.act import fs
from survived.errors import SurvivedError
from survived.findings import Standin
from survived.model import Relocation
from survived.observe.links import read_links, stand
from survived.store import layout
from survived.store.database import Database
from survived.store.journal import Journal
from survived.terms import Standing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from survived.machine import Machine
    from survived.model import LinkReading, StoreReading

T = TypeVar("T")
_LINKS, _STANDINS = "links.json", "standins.json"


@dataclass(frozen=True, slots=True)
class Records:
    """The records of one machine."""

    machine: Machine

    # ---- the journals ----------------------------------------------------------------------------------------------

    def stores(self) -> tuple[str, ...]:
        """Return the paths of all stores that are open, were used before or may be used."""
        machine = self.machine
        return tuple(dict.fromkeys((*machine.open, *machine.known, *(os.path.join(disk, layout.NAME) for disk in machine.disks()))))

    def read(self, read: Callable[[Journal], Iterable[T]]) -> tuple[tuple[str, T], ...]:
        """Return what `read` gives of each store's journal, with the store's path."""
        return self.each(lambda _, database: read(Journal(database)))

    def each(self, read: Callable[[str, Database], Iterable[T]]) -> tuple[tuple[str, T], ...]:
        """
        Return what `read` gives of each store's path and database, with the path; those not open are read without their lock.

        What cannot be read, or is of a format without the tables that `read` asks, is left out.
        """
        found: list[tuple[str, T]] = []
        for path in self.stores():
            if path in self.machine.open:
                found += [(path, item) for item in read(path, self.machine.open[path].database)]
            elif os.path.isfile(os.path.join(path, "state.db")):
                with contextlib.suppress(SurvivedError):
                    database = Database(os.path.join(path, "state.db"), (), read_only=True)
                    try:
                        found += [(path, item) for item in read(path, database)]
                    finally:
                        database.close()
        return tuple(found)

    def relocations(self) -> tuple[tuple[str, Relocation], ...]:
        """Return what is relocated, with the path of its store; of a store that is away, what is remembered and still linked."""
        found = [*self.read(lambda journal: journal.relocations()), *self._away()]
        latest = {item.source: item for _, item in sorted(found, key=lambda pair: pair[1].since)}
        return tuple((path, item) for path, item in found if latest[item.source] is item)

    def _away(self) -> list[tuple[str, Relocation]]:
        standins = {item.target for item in self.standins()}
        return [
            (store, item)
            for store, items in self._remembered().items()
            if store not in self.machine.open and not os.path.isfile(os.path.join(store, "state.db"))
            for item in items
            if item.target in standins or stand(item.source, item.target)[0] is Standing.OUR_LINK
        ]

    def earlier(self) -> tuple[tuple[str, Relocation], ...]:
        """Return trees whose source was relocated anew since, in whichever store."""
        led_to = {item.target for _, item in self.relocations()}
        found = self.read(lambda journal: (*journal.relocations(), *journal.orphans()))
        return tuple((path, item) for path, item in found if item.target not in led_to)

    def unfinished(self) -> frozenset[str]:
        """Return the paths that an unfinished operation works with: its source, its target and what it leaves."""
        found = self.read(lambda journal: journal.open_operations())
        return frozenset(path for _, item in found for path in (item.source, item.target, item.origin) if path)

    def links(self, stores: Sequence[StoreReading]) -> tuple[LinkReading, ...]:
        """Return how each link of ours stands."""
        items = [item for _, item in self.relocations()]
        return read_links(items, stores, {item.target for item in self.standins()})

    # ---- at home ---------------------------------------------------------------------------------------------------

    def remember(self, store: str, items: Sequence[Relocation]) -> None:
        """Keep a copy of what is relocated into a store; on a full disk it stays as old as it is."""
        remembered = self._remembered()
        if tuple(items) == remembered.get(store, ()):
            return
        remembered[store] = tuple(items)
        kept = {path: [asdict(item) for item in items] for path, items in remembered.items() if items}
        with contextlib.suppress(OSError):
            fs.write_file(self._path(_LINKS), json.dumps(kept).encode(), 0o600)

    def _remembered(self) -> dict[str, tuple[Relocation, ...]]:
        found = self._load(_LINKS)
        try:
            return {str(path): tuple(Relocation(**item) for item in items) for path, items in found.items()} if found else {}
        except (AttributeError, TypeError):
            return {}

    def standins(self) -> tuple[Standin, ...]:
        """Return the links that have a stand-in, or are about to get one."""
        try:
            return tuple(Standin(**item) for item in self._load(_STANDINS) or ())
        except TypeError:
            return ()

    def add_standin(self, standin: Standin) -> None:
        """Record a stand-in, durably, before it is made. OSError on a disk that is full even without the ballast."""
        self._keep_standins([*(item for item in self.standins() if item.source != standin.source), standin])

    def drop_standin(self, standin: Standin) -> None:
        """Record that there is none any more."""
        self._keep_standins([item for item in self.standins() if item.source != standin.source])

    def _keep_standins(self, standins: list[Standin]) -> None:
        data = json.dumps([asdict(item) for item in standins]).encode()
        if not standins:
            fs.remove_file(self._path(_STANDINS))
            return
        folder = os.path.dirname(self._path(_STANDINS))
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with fs.opened(folder, follow=True) as fd:
            self.machine.ballast.with_room(lambda: fs.write_file(self._path(_STANDINS), data, 0o600), fd)

    def _path(self, name: str) -> str:
        return os.path.join(self.machine.paths.state_dir, name)

    def _load(self, name: str) -> Any:
        try:
            with open(self._path(name), encoding="utf-8") as file:
                return json.load(file)
        except (OSError, ValueError):
            return None
