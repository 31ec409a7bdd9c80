"""
What the plan or a person asks for: relocate, restore or recover, by id or path. The same code in the daemon and without it.

Each errand measures what it is about to touch, picks the store, and hands both to the engine in `act/`.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import time
from typing import TYPE_CHECKING

from survived.act import rebuild as rebuild_from
from survived.act import recover as recovery
from survived.act import relocate as engine
from survived.act.attempt import check_unfinished, said
from survived.act.survey import check_for_root, check_source
from survived.act.transfer import Care
from survived.decide.housing import find_store
from survived.decide.reasons import WORTH
from survived.decide.together import partner_stores
from survived.errors import NeedsPerson, Refused, SurvivedError, UsageError, cause_of
from survived.events import Event, about
from survived.model import Cache, CacheReading, CacheState, Kind, Operation, Reason, Relocation, StoreReading, TreeSize, Verb
from survived.observe.disks import is_below
from survived.observe.tree import measure_tree
from survived.settings.catalog import wrong_level
from survived.settings.globs import find_excluding
from survived.store.edits import EditJournal
from survived.units import print_bytes, sentence

if TYPE_CHECKING:
    from survived.act.rebuild import Found
    from survived.act.task import Task
    from survived.machine import Machine, OpenStore
    from survived.model import Filesystem

_NO_DEVICE = -1
_ASKED_SETTLE_SECONDS = 2.0
"""A person who asks for a move knows that nothing writes there; the daemon on its own waits for `[move] settle`."""


def find_cache(machine: Machine, word: str) -> Cache:
    """Return the cache that an id or path names; a path that no cache has is one of the user's own. `UsageError` if unknown."""
    caches = machine.known_caches()
    for cache in caches:
        if word == cache.id:
            return cache
    if "/" not in word and not word.startswith("~"):
        near = difflib.get_close_matches(word, [cache.id for cache in caches], 1)
        hint = f"Did you mean '{near[0]}'?" if near else "survivectl measure shows the known ones; a path has a slash in it."
        raise UsageError(f"Cannot find '{word}': no cache of that name is known.", hint)
    path = os.path.normpath(os.path.join(os.getcwd(), os.path.expanduser(word)))
    for cache in caches:
        if path == cache.path:
            return cache
    return Cache(path, path, kind=Kind.STATE, path=path, rule="named by hand")


def find_relocation(machine: Machine, word: str, verb: str = Verb.RESTORE) -> tuple[str, Relocation]:
    """Return a relocated path and its store by cache id or path. `Refused` if it is not relocated or out of reach."""
    moved = machine.relocations()
    cache = find_cache(machine, word)
    for store, item in moved:
        if item.source == cache.path:
            return store, item
    if os.path.islink(cache.path):
        target = os.readlink(cache.path)
        lost = next((r for r in machine.read_stores() if not r.ok and target.startswith(r.path + "/")), None)
        why = sentence(lost.reason or "its disk cannot be used") if lost else "no data disk knows of it."
        raise Refused(
            Reason.NO_STORE,
            f"Cannot {verb} '{cache.path}': it is a link to '{target}', and {why} Nothing was changed.",
            "Run survivectl check.",
        )
    hint = f"Relocated are: {', '.join(item.cache_id for _, item in moved)}." if moved else "Nothing is relocated."
    raise Refused(Reason.NOT_RELOCATED, f"Cannot {verb} '{word}': it is not relocated. Nothing was changed.", hint)


def care_for(machine: Machine, *, asked: bool) -> Care:
    """Return how careful to be: what a person asked for settles sooner than what the daemon does by itself."""
    settle = machine.rules.settle_seconds
    settle = min(settle, _ASKED_SETTLE_SECONDS) if asked else settle
    move = machine.settings.move
    return Care(settle, max(30.0, 2 * settle), verify_content=move.verify == "content", rate=move.rate)


def relocate(machine: Machine, cache: Cache, task: Task, *, to: str | None = None, asked: bool = True) -> Operation:
    """Measure, pick a store (`to`: a data disk's directory or a store) and relocate."""
    check_source(cache.path, home=machine.home, store_device=_NO_DEVICE)  # before minutes of measuring, and for its own reason
    _check_place(machine, cache, asked=asked)
    task.enter("measure")
    try:
        size = measure_tree(cache.path, stop=task.stop.is_set)
    except (FileNotFoundError, NotADirectoryError):
        size = TreeSize()  # the engine's own check says what is wrong with it
    task.advice = growth_advice(cache, size) or ""
    if task.advice and not asked and cache.move is not True:  # linked to since it was measured for the plan
        raise Refused(Reason.GROWS_LATER, f"Cannot move '{cache.path}': {task.advice} Nothing was changed.")
    readings = machine.read_stores()
    machine.open_stores(readings)
    reading = _choose_store(machine, cache, cache.path, size, readings, to)
    ends = machine.ends(machine.open_store(reading))
    _check_unfinished(machine, cache.path, Verb.RELOCATE)
    return engine.relocate(
        ends,
        cache.id,
        cache.path,
        size=size,
        keep_free=machine.rules.keep_free,
        lock=cache.lock,
        care=care_for(machine, asked=asked),
        task=task,
    )


def _check_place(machine: Machine, cache: Cache, *, asked: bool) -> None:
    """
    Refuse what its user wants left alone, also by hand, a level at which a link breaks its tool, unless there was one already,
    and a stand-in, which goes by itself.
    """
    _check_word(machine, cache, Verb.RELOCATE)
    if machine.uid == 0 and all(known.path != cache.path for known in machine.caches):
        check_for_root(cache.path, home=machine.home)
    level = wrong_level(cache.path, machine.caches)
    if level is not None and level.breaks and all(item.source != cache.path for _, item in machine.relocations()):
        raise Refused(
            Reason.WRONG_LEVEL, f"Cannot move '{cache.path}': {level.cache.title} breaks if that is a link. Nothing was changed.",
            f"The right level is '{level.cache.path}': survivectl relocate {shlex.quote(level.cache.id)}",
        )  # fmt: skip
    if asked and any(item.source == cache.path for item in machine.records.standins()):
        why = "it is a stand-in, and is merged with what it stands for when that data disk is back"
        raise Refused(Reason.UNSETTLED, f"Cannot move '{cache.path}': {why}. Nothing was changed.")


def growth_advice(cache: Cache, size: TreeSize) -> str | None:
    """Return what it means to move a cache, all the same, that others link to; None if there is nothing to say."""
    linked = size.size_bytes - size.reclaimable_bytes
    if not cache.shares_links_with or cache.kind is not Kind.CACHE or linked < max(1, size.size_bytes * WORTH):
        return None
    others, much = ", ".join(cache.shares_links_with), f"{print_bytes(linked)} of {print_bytes(size.size_bytes)}"
    return (
        f"{much} in '{cache.path}' are hard-linked from elsewhere ({others}): moving "
        f"frees {print_bytes(size.reclaimable_bytes)}, and what is made from it on its old disk later takes full copies. "
        "What is moved after it to the same data disk is linked to it there."
    )


def _check_word(machine: Machine, cache: Cache, verb: Verb) -> None:
    """Refuse what a pin or [move] exclude keeps where it is, or has such a thing in it."""
    patterns = machine.settings.move.exclude
    why = cache.pinned
    if why is None and (pattern := find_excluding(cache.path, patterns)) is not None:
        why = f"'{pattern}' in [move] exclude"
    if why is None:
        pinned = [other for other in machine.caches if other.pinned is not None and is_below(other.path, cache.path)]
        why = next((f"'{other.path}' in it is kept by {other.pinned}" for other in pinned if os.path.lexists(other.path)), None)
    if why is not None:
        doing = "move" if verb is Verb.RELOCATE else verb
        raise Refused(
            Reason.PINNED, f"Cannot {doing} '{cache.path}': it is never moved: {why}. Nothing was changed.",
            "Who wants it moved changes the configuration first, and then: survivectl reload",
        )  # fmt: skip


def advice(machine: Machine, cache: Cache) -> str | None:
    """Return what to know before this path becomes a link that its tool's clean command removes, with the right level."""
    level = wrong_level(cache.path, machine.caches)
    if level is None or level.breaks:
        return None
    said = f"'{level.clean_command}'" if level.clean_command else "its tool's clean command"
    eats = f"{said} removes a link at '{cache.path}' and leaves the data on the data disk: survivectl orphans shows it then."
    if level.cache.path == cache.path:
        return eats
    return f"{eats} The right level is '{level.cache.path}': survivectl relocate {shlex.quote(level.cache.id)}"


def _choose_store(
    machine: Machine, cache: Cache, tree: str, size: TreeSize, readings: tuple[StoreReading, ...], to: str | None
) -> StoreReading:
    """Return the store that `to` names, else the one that suits the cache whose tree is at `tree` now."""
    if to is not None:
        wanted = os.path.normpath(os.path.join(os.getcwd(), os.path.expanduser(to)))
        for reading in readings:
            if wanted in (reading.path, os.path.dirname(reading.path)):
                return reading
        raise Refused(
            Reason.NO_STORE,
            f"Cannot move '{cache.path}' to '{to}': it is none of the data disks. Nothing was changed.",
            f"Add it to [data] disks. Known are: {', '.join(os.path.dirname(r.path) for r in readings) or 'none'}.",
        )
    try:
        device: int | None = os.lstat(tree).st_dev
    except OSError:
        device = None
    near = partner_stores(CacheReading(cache, 0.0, CacheState.HOME), _partners(machine))
    chosen = find_store(CacheReading(cache, 0.0, CacheState.HOME, size, device), readings, machine.rules, near=near)
    if chosen is not None:
        return chosen
    why = (
        "; ".join(r.reason or f"'{r.path}' has {print_bytes(r.available_bytes)} available" for r in readings)
        or "no data disk was found"
    )
    full = any(reading.ok for reading in readings)
    raise Refused(
        Reason.NO_ROOM if full else Reason.NO_STORE,
        f"Cannot move '{cache.path}' ({print_bytes(size.size_bytes)}): {sentence(why)} Nothing was changed.",
        "Run survivectl check.",
    )


def _partners(machine: Machine) -> tuple[CacheReading, ...]:
    """Return what is relocated, as readings that know only where it is."""
    known = {cache.path: cache for cache in machine.caches}
    return tuple(
        CacheReading(known[item.source], 0.0, CacheState.RELOCATED, target=item.target)
        for _, item in machine.relocations()
        if item.source in known
    )


def restore(machine: Machine, store_path: str, item: Relocation, task: Task, *, forced: bool = False) -> Operation:
    """Bring one relocated path home."""
    ends, size = _reach(machine, store_path, item, Verb.RESTORE, task)
    care, high, lock = care_for(machine, asked=True), machine.rules.bytes_marks.high, _lock_of(machine, item)
    return engine.restore(ends, item, high=high, forced=forced, lock=lock, care=care, task=task, size=size)


def rehome(machine: Machine, store_path: str, item: Relocation, task: Task, *, to: str | None = None) -> Operation:
    """Move one relocated path to another data disk: the one that `to` names, else the one with most room."""
    _check_word(machine, find_cache(machine, item.source), Verb.REHOME)
    origin, size = _reach(machine, store_path, item, Verb.REHOME, task)
    readings = machine.read_stores()
    machine.open_stores(readings)
    cache = find_cache(machine, item.source)
    ends = machine.ends(machine.open_store(_choose_store(machine, cache, item.target, size, readings, to)))
    keep_free, care, lock = machine.rules.keep_free, care_for(machine, asked=True), _lock_of(machine, item)
    return engine.rehome(ends, origin, item, size=size, keep_free=keep_free, lock=lock, care=care, task=task)


def _reach(machine: Machine, store_path: str, item: Relocation, verb: Verb, task: Task) -> tuple[engine.Ends, TreeSize]:
    """Open the store that holds a relocated tree and measure the tree. `Refused` if its disk cannot be used."""
    task.enter("measure")
    reading = next((r for r in machine.read_stores() if r.path == store_path), None)
    if reading is None or not reading.ok:
        why = sentence(reading.reason or "") if reading else "its disk is not among the data disks."
        raise Refused(Reason.NO_STORE, f"Cannot {verb} '{item.source}': {why} Nothing was changed.", "Run survivectl check.")
    opened = machine.open_store(reading)
    try:
        size = measure_tree(item.target, stop=task.stop.is_set)
    except (FileNotFoundError, NotADirectoryError):
        size = TreeSize()  # the engine's own check says what is wrong with it
    _check_unfinished(machine, item.source, verb)
    _check_redirected(opened, item, verb)
    return machine.ends(opened), size


def _check_redirected(opened: OpenStore, item: Relocation, verb: Verb) -> None:
    """Refuse to take a tree away from under a tool whose settings name it: it would make it anew there."""
    place = re.compile(rf"/{re.escape(opened.store.relative(item.target))}(?![^/'\"\s])")
    for record in EditJournal(opened.database).open():
        if place.search(str(record.value)):
            tool = record.owner.partition(" ")[2]
            raise Refused(
                Reason.BUSY, f"Cannot {verb} '{item.source}': {tool} is redirected to its tree. Nothing was changed.",
                f"Take that back first: survivectl redirect undo {tool}",
            )  # fmt: skip


def _check_unfinished(machine: Machine, source: str, verb: Verb) -> None:
    """End what another store's journal has begun with this path, or refuse; the engine looks only into the one it works with."""
    with said(source, verb):
        for opened in list(machine.open.values()):
            check_unfinished(machine.ends(opened), source)


def _lock_of(machine: Machine, item: Relocation) -> tuple[str, ...]:
    return next((cache.lock for cache in machine.caches if cache.path == item.source), ())


def recover(machine: Machine, task: Task | None = None) -> tuple[list[Operation], list[NeedsPerson]]:
    """Bring every unfinished operation in every open store to its end; return what came of them and what needs a person."""
    ended: list[Operation] = []
    puzzles: list[NeedsPerson] = []
    for path, opened in list(machine.open.items()):
        try:
            done, asked = recovery.recover_all(opened.store, opened.journal, machine.find_store, task)
        except OSError as error:
            raise SurvivedError(f"Cannot recover in '{path}': {cause_of(error)}. It is tried again.") from error
        ended += done
        puzzles += asked
        if (journal := EditJournal(opened.database)).unfinished():
            from survived.act import undoing  # with all formats, which nobody needs on a quiet day

            undoing.recover(journal, time.time(), machine.ballast)
    return ended, puzzles


def rebuild(machine: Machine) -> dict[str, Found]:
    """
    Make lost journals anew from trees and links, by store; a broken database is set aside, not removed.

    Raises `SurvivedError` if another survived works with a store.
    """
    names = {cache.path: cache.id for cache in machine.caches}
    rebuilt: dict[str, Found] = {}
    for reading in machine.read_stores():
        if not reading.ok or not os.path.exists(os.path.join(reading.path, "STORE")):
            continue
        try:
            opened = machine.open_store(reading)
        except SurvivedError:
            if reading.path not in machine.broken:
                raise
            opened = machine.open_store(reading, without_database=True)
        found = rebuild_from.read_trees(opened.store, names, time.time())
        for item in found.relocations:
            opened.journal.adopt(item)
        rebuilt[reading.path] = found
    return rebuilt


def describe(operation: Operation) -> str:
    """Return one sentence about an ended operation."""
    verb = "restored from" if operation.verb is Verb.RESTORE else "relocated to"
    return f"'{operation.source}' {verb} '{operation.target}' ({print_bytes(operation.size_bytes)})"


def about_move(operation: Operation, before: Filesystem | None) -> dict[str, object]:
    """Return what the log says of an ended operation beside the sentence; `before`: the filesystem of its source."""
    return about(
        Event.MOVE_DONE,
        cache=operation.cache_id,
        path=operation.source,
        target=operation.target,
        verb=operation.verb,
        size_bytes=operation.size_bytes,
        freed_bytes=operation.freed_bytes,
        mount=before.mount if before is not None else None,
    )
