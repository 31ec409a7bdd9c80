"""
Stand-ins for links whose data disk is missing: made when a person asks for one, merged by itself when the disk is back.

It is no guess then: who asked for a directory to write into until the disk is there wants both together. Every step is taken
by what the disk shows and what was recorded before, so that after a crash the next tick goes on.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from survived import errands, orphans
from survived.act import standin as act
from survived.act.fold import Folded
from survived.act.transfer import holders_of, name_holders
from survived.errors import Refused, SurvivedError, cause_of
from survived.findings import Standin
from survived.model import Reason, Standing
from survived.observe.disks import answers
from survived.observe.links import stand
from survived.tell.status import SCHEMA, path_fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from survived.act.task import Task
    from survived.machine import Machine
    from survived.model import StoreReading


def place(machine: Machine, word: str) -> dict[str, Any]:
    """Put an empty directory in the place of a dangling link of ours. `Refused` unless its data disk is missing."""
    cache = errands.find_cache(machine, word)
    if any(item.source == cache.path for item in machine.records.standins()) and os.path.isdir(cache.path):
        raise Refused(Reason.UNSETTLED, f"Cannot make a stand-in for '{cache.path}': it has one already. Nothing was changed.")
    target = _missing_target(cache.path, machine.read_stores())
    standin = Standin(cache.id, cache.path, target, time.time())
    with _said(f"make a stand-in for '{cache.path}'"):
        machine.records.add_standin(standin)  # before there is anything to put back
        try:
            act.place(machine.ballast, cache.path, target)
        except Refused:
            machine.records.drop_standin(standin)
            raise
    return _answer("standin", standin)


def place_all(machine: Machine) -> list[dict[str, Any]]:
    """Make a stand-in for every link of ours that dangles because its data disk is missing."""
    missing = [reading for reading in machine.read_stores() if not reading.ok]
    links = [path for path in dict.fromkeys(cache.path for cache in machine.known_caches()) if os.path.islink(path)]
    targets = {path: os.readlink(path) for path in links}
    return [
        place(machine, path)
        for path, target in targets.items()
        if _store_of(target, missing) is not None and not _can_be_opened(target, os.path.dirname(path))
    ]


def _missing_target(source: str, stores: Iterable[StoreReading]) -> str:
    def refuse(reason: Reason, why: str, hint: str | None = None) -> Refused:
        return Refused(reason, f"Cannot make a stand-in for '{source}': {why}. Nothing was changed.", hint)

    if not os.path.islink(source):
        raise refuse(Reason.NOT_RELOCATED, "it is no link that survived left there", "Run survivectl list.")
    target = os.readlink(source)
    store = _store_of(target, stores)
    if store is None:
        raise refuse(Reason.NOT_RELOCATED, f"it leads to '{target}', which is in none of the data disks' stores")
    if store.ok:
        raise refuse(Reason.DISK_THERE, f"the data disk of '{target}' is there", "Run survivectl check.")
    if _can_be_opened(target, os.path.dirname(source)):
        raise refuse(Reason.DISK_THERE, f"'{target}' can still be opened, although {store.reason or 'its store cannot be used'}")
    return target


def _can_be_opened(target: str, home: str) -> bool:
    """A tool may have made the target anew in the empty mount point: that is on the disk we keep free, and no tree of ours."""
    return answers(target) and os.path.isdir(target) and os.stat(target).st_dev != os.stat(home).st_dev


def _store_of(target: str, stores: Iterable[StoreReading]) -> StoreReading | None:
    return next((reading for reading in stores if target.startswith(f"{reading.path}/trees/")), None)


def undo(machine: Machine, word: str) -> dict[str, Any]:
    """Put the link back in the place of an empty stand-in. `Refused` if it is not empty or none."""
    path = errands.find_cache(machine, word).path
    standin = next((item for item in machine.records.standins() if item.source == path), None)
    if standin is None:
        raise Refused(Reason.NOT_RELOCATED, f"Cannot put the link '{path}' back: it has no stand-in. Nothing was changed.")
    with _said(f"put the link '{path}' back"):
        if stand(path, standin.target)[0] is Standing.DIRECTORY:
            if holders := holders_of(path):
                why = f"{name_holders(holders)} uses the stand-in"
                raise Refused(Reason.BUSY, f"Cannot put the link '{path}' back: {why}. Nothing was changed.")
            if not act.put_back(machine.ballast, path, standin.target):
                raise Refused(
                    Reason.NOT_EMPTY, f"Cannot put the link '{path}' back: its stand-in is not empty. Nothing was changed.",
                    "What is in it is merged by itself when the disk is back.",
                )  # fmt: skip
        act.tidy(path, standin.target)
        machine.records.drop_standin(standin)
    return _answer("undo", standin)


def due(machine: Machine, stores: Iterable[StoreReading]) -> tuple[Standin, ...]:
    """Return the stand-ins whose disk is there again, and those that are none, since a crash came before or after."""
    there = [reading for reading in stores if reading.ok]
    return tuple(
        item
        for item in machine.records.standins()
        if _store_of(item.target, there) is not None or stand(item.source, item.target)[0] is Standing.OUR_LINK
    )


def merge(machine: Machine, standin: Standin, task: Task) -> dict[str, Any]:
    """
    Bring a stand-in to its end: what is in it and the old tree become one tree behind the link; an empty one just goes.

    `how` says what came of it: put back, merged, or held, while somebody uses it; it stays then, and is tried again. Raises as
    `relocate` does; both stay then, too.
    """
    store = _store_of(standin.target, machine.read_stores())
    source, target = standin.source, standin.target
    how, folded = "put back", Folded()
    with _said(f"merge the stand-in '{source}'"):
        act.tidy(source, target)
        standing, leads_to = stand(source, target)
        if standing is Standing.OUR_LINK:
            machine.records.drop_standin(standin)
            return {**_answer("merge", standin), "how": how, **orphans.folded_fields(folded)}
        if store is None or not store.ok:
            raise Refused(Reason.NO_STORE, f"Cannot merge the stand-in '{source}': its disk is not there. Nothing was changed.")
        if standing is Standing.DIRECTORY and os.path.isdir(target):
            if holders := holders_of(source):
                return {**_answer("merge", standin), "how": "held", "by": name_holders(holders)}
            if not act.put_back(machine.ballast, source, target):
                orphans.move_beside(machine, os.path.dirname(store.path), source, task, asked=False)
            standing, leads_to = stand(source, target)
        later = next((item for _, item in machine.relocations() if item.source == source and item.target == leads_to), None)
        if later is not None and os.path.isdir(target):
            folded, how = orphans.fold_in(machine.open_store(store), target, later, task), "merged"
        machine.records.drop_standin(standin)
    return {**_answer("merge", standin), "how": how, **orphans.folded_fields(folded)}


def _answer(verb: str, standin: Standin) -> dict[str, Any]:
    place = {**path_fields(standin.source), **path_fields(standin.target, "target")}
    return {"schema": SCHEMA, "verb": verb, "id": standin.cache_id, **place}


@contextmanager
def _said(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SurvivedError(f"Cannot {what}: {cause_of(error)}. Nothing was lost.") from error
