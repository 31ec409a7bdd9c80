"""
Trees on data disks that no link leads to: which there are, and what a person may do with each.

A tool's clean command may have meant to delete what is there, or not; so a tree is removed, linked again or let go only when
it is asked for. The same code in the daemon and without it.
"""

from __future__ import annotations

import os
import shlex
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from survived import errands
from survived.act import branches, fs, partner
from survived.act.clearing import prune
from survived.act.fold import Folded, fold
from survived.act.standin import link_anew
from survived.act.transfer import holders_of, name_holders
from survived.decide.guardian import ORPHANED, judge
from survived.decide.reasons import is_below
from survived.errors import Refused, SurvivedError, UsageError, cause_of
from survived.findings import Orphan
from survived.model import (
    Reason,
    Relocation,
    Stage,
    Standing,
    Verb,
)
from survived.observe.links import read_links, stand
from survived.observe.tree import measure_tree
from survived.observe.trees import read_unknown_trees, source_of
from survived.store import kinship, sums
from survived.tell.status import SCHEMA, path_fields

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from survived.act.task import Task
    from survived.machine import Machine, OpenStore

_MANY = 100_000  # operations; more than a journal has


def find(machine: Machine, *, measure: bool = False) -> tuple[Orphan, ...]:
    """
    Return every tree that no link leads to, by its place; `measure`: with the size that it has now, which takes a while.

    What waits for its disk, has a stand-in or belongs to an unfinished operation is none.
    """
    records, stores = machine.records, machine.read_stores()
    readable = {store.path for store in stores if store.ok}
    links = records.relocations()
    spared = records.unfinished() | {item.target for item in records.standins()}
    readings = zip(links, read_links([item for _, item in links], stores, ()), strict=True)
    found = [_orphan(store, item, judge(reading).value) for (store, item), reading in readings if judge(reading) in ORPHANED]
    found += [_orphan(store, item, "relocated anew") for store, item in records.earlier()]
    known = {item.target for _, item in links} | {orphan.target for orphan in found} | spared
    made = records.read(lambda journal: tuple(item for item in journal.recent(_MANY) if item.verb is not Verb.RESTORE))
    past = {operation.target: operation for _, operation in reversed(made)}
    for store in sorted(readable):
        for target in read_unknown_trees(store, known, past):
            was = past.get(target)
            source = was.source if was else source_of(target)
            name, size = (was.cache_id, was.size_bytes) if was else (_name_of(machine, source), 0)
            found.append(Orphan(store, name, source, target, was.changed if was else None, size, "unknown"))
    there = [item for item in found if item.store in readable and item.target not in spared and _is_tree(item.target)]
    sized = [replace(item, size_bytes=measure_tree(item.target).size_bytes) if measure else item for item in there]
    return tuple(sorted(sized, key=lambda item: item.target))


def _orphan(store: str, item: Relocation, why: str) -> Orphan:
    return Orphan(store, item.cache_id, item.source, item.target, item.since, item.size_bytes, why)


def _name_of(machine: Machine, source: str) -> str:
    return next((cache.id for cache in machine.caches if cache.path == source), source)


def _is_tree(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def choose(machine: Machine, word: str, verb: str) -> Orphan:
    """Return the orphan that a target, a source or a cache's id names. `Refused` if there is none, `UsageError` if several."""
    place = os.path.normpath(os.path.join(os.getcwd(), os.path.expanduser(word)))
    orphans = find(machine)
    exact = [item for item in orphans if item.target == place]
    chosen = exact or [item for item in orphans if item.source == place or item.cache_id == word]
    if len(chosen) > 1:
        raise UsageError(
            f"Cannot {verb} '{word}': it has {len(chosen)} trees that no link leads to. Nothing was changed.",
            f"Name one: {', '.join(shlex.quote(item.target) for item in chosen)}",
        )
    if not chosen:
        raise Refused(
            Reason.NO_ORPHAN, f"Cannot {verb} '{word}': it is no tree that a link is missing to. Nothing was changed.",
            "survivectl orphans shows those.",
        )  # fmt: skip
    return chosen[0]


# ---- remove ---------------------------------------------------------------------------------------------------------


def remove(machine: Machine, targets: Sequence[str], task: Task) -> list[dict[str, Any]]:
    """Remove orphans for good; all of them are looked at before the first goes. `Refused` while somebody uses one."""
    fs.allow_many_descriptors()
    chosen = [choose(machine, target, "remove") for target in dict.fromkeys(targets)]
    for orphan in chosen:
        _check_free(machine, orphan, "remove")
    answers = []
    for orphan in chosen:
        size = measure_tree(orphan.target, stop=task.stop.is_set)
        with _said(f"remove '{orphan.target}'", "What is left of it is removed at the next start."):
            _remove(machine, orphan, size.files, task)
        answers.append({"size_bytes": size.size_bytes, "files": size.files, **_answer("remove", orphan)})
    return answers


def _remove(machine: Machine, orphan: Orphan, files: int, task: Task) -> None:
    opened = _open(machine, orphan, "remove")
    store, relative = opened.store, opened.store.relative(orphan.target)
    scrap = f"orphan-{time.time_ns()}"
    folder_fd = fs.open_below(store.fd, os.path.dirname(relative))
    try:
        staging_fd = fs.open_below(store.fd, "staging")
        try:
            name = os.path.basename(relative)
            # In one step it is scrap, which every start sweeps: never half a tree where a whole one was.
            with fs.opened(name, dir_fd=folder_fd) as tree_fd, fs.movable(tree_fd):
                fs.rename_new(folder_fd, name, staging_fd, scrap)
            _forget(opened, orphan.target)
            if files >= branches.WORTH_FILES:
                partner.remove(staging_fd, scrap, task.walk)
            else:
                fs.remove_tree(staging_fd, scrap, task.walk)
            os.fsync(staging_fd)
        finally:
            os.close(staging_fd)
    finally:
        os.close(folder_fd)
    prune(store, os.path.dirname(relative))


# ---- link again -----------------------------------------------------------------------------------------------------


def link(machine: Machine, word: str, task: Task) -> dict[str, Any]:
    """
    Make a link lead to an orphan again, or to a tree that holds it.

    Nothing at the source: the link is made anew. A directory: it is moved to the same disk, and the orphan folded into it.
    Our link to a later tree: the orphan is folded into that. Raises as `relocate` does; a repeat goes on where it ended.
    """
    fs.allow_many_descriptors()
    orphan = choose(machine, word, "link")
    standing, leads_to = stand(orphan.source, orphan.target)
    opened = _open(machine, orphan, "link")
    if standing is Standing.NOTHING:
        return _link_anew(machine, opened, orphan)
    if standing is Standing.DIRECTORY:
        _check_free(machine, orphan, "link")
        move_beside(machine, os.path.dirname(orphan.store), orphan.source, task, asked=True)
        standing, leads_to = stand(orphan.source, orphan.target)
    later = next((item for _, item in machine.relocations() if item.source == orphan.source and item.target == leads_to), None)
    if standing is not Standing.OTHER_LINK or later is None:
        what = f"is a link to '{leads_to}'" if leads_to else "is no directory"
        raise Refused(
            Reason.UNSETTLED, f"Cannot link '{orphan.target}' again: '{orphan.source}' {what}. Nothing was changed.",
            f"To let that be as it is: survivectl orphans adopt {shlex.quote(orphan.source)}",
        )  # fmt: skip
    _check_free(machine, orphan, "link")
    folded = fold_in(opened, orphan.target, later, task)
    return {**_answer("link", orphan, later.target), "how": "merged", **folded_fields(folded)}


def _link_anew(machine: Machine, opened: OpenStore, orphan: Orphan) -> dict[str, Any]:
    with _said(f"link '{orphan.target}' again", "Nothing was changed."):
        link_anew(machine.ballast, orphan.source, orphan.target)
    size = measure_tree(orphan.target)
    since = time.time() if orphan.why in ("relocated anew", "unknown") else orphan.since or time.time()
    opened.journal.record(Relocation(orphan.cache_id, orphan.source, orphan.target, since, size.size_bytes, size.files))
    return {**_answer("link", orphan), "how": "made anew", **folded_fields(Folded())}


def move_beside(machine: Machine, disk: str, source: str, task: Task, *, asked: bool) -> None:
    """Relocate the directory at `source` to this data disk; `Refused` while somebody still uses the old place."""
    done = errands.relocate(machine, errands.find_cache(machine, source), task, to=disk, asked=asked)
    if done.stage is not Stage.DONE:
        raise Refused(
            Reason.BUSY, f"Cannot merge what '{source}' holds yet: {done.note or 'somebody still uses the old place.'} "
            f"It was moved to '{done.target}', and nothing was merged.", "Try again when it has ended.",
        )  # fmt: skip


def fold_in(opened: OpenStore, earlier: str, item: Relocation, task: Task) -> Folded:
    """Fold the tree at `earlier` into the one of `item`, in one store, and forget it. A repeat after a crash goes on."""
    store = opened.store
    if not item.target.startswith(f"{store.path}/"):
        raise Refused(
            Reason.OTHER_FILESYSTEM,
            f"Cannot merge '{earlier}' into '{item.target}': they are on different data disks. Nothing was changed.",
            f"First: survivectl rehome {shlex.quote(item.cache_id)} --to {shlex.quote(os.path.dirname(store.path))}",
        )
    if holders := holders_of(earlier):
        raise Refused(
            Reason.BUSY, f"Cannot merge '{earlier}': {name_holders(holders)} has files open there. Nothing was changed.",
            "Try again when it has ended.",
        )  # fmt: skip
    task.enter("merge")
    folder = os.path.dirname(store.relative(earlier))
    with _said(f"merge '{earlier}' into '{item.target}'", "What is merged stays merged; the same command goes on."):
        into_fd = fs.open_below(store.fd, store.relative(item.target))
        try:
            folder_fd = fs.open_below(store.fd, folder)
            try:
                folded = fold(folder_fd, os.path.basename(earlier), into_fd, task.walk)
            finally:
                os.close(folder_fd)
        finally:
            os.close(into_fd)
        _forget(opened, earlier)
        prune(store, folder)
        size = measure_tree(item.target)
        opened.journal.record(replace(item, size_bytes=size.size_bytes, files=size.files))
    return folded


def _forget(opened: OpenStore, target: str) -> None:
    """Forget a tree that is no more, and the checksums that were kept of it."""
    opened.journal.forget(target)
    if (made := opened.journal.maker(target)) is not None:
        sums.remove(opened.store.fd, made.id)
        kinship.remove(opened.store.fd, made.id)


# ---- adopt ----------------------------------------------------------------------------------------------------------


def adopt(machine: Machine, word: str) -> dict[str, Any]:
    """Take what stands at a path for what its user wants there: it is relocated no more. Its old tree stays an orphan."""
    path = errands.find_cache(machine, word).path
    links = [(store, item) for store, item in machine.relocations() if item.source == path]
    for (store, item), reading in zip(links, read_links([item for _, item in links], machine.read_stores(), ()), strict=True):
        if judge(reading) in ORPHANED:
            _open(machine, _orphan(store, item, judge(reading).value), "adopt").journal.forget(item.target)
            return _answer("adopt", _orphan(store, item, judge(reading).value))
        raise Refused(
            Reason.ALREADY_LINK, f"Cannot adopt '{path}': it is the link that survived left there. Nothing was changed.",
            f"To bring it home: survivectl restore {shlex.quote(word)}",
        )  # fmt: skip
    raise Refused(Reason.NOT_RELOCATED, f"Cannot adopt '{path}': it is not relocated, so it is yours already. Nothing was changed.")


# ---- what they share ------------------------------------------------------------------------------------------------


def folded_fields(folded: Folded) -> dict[str, Any]:
    """Return what came of a merge for JSON."""
    return {"moved": folded.moved, "same": folded.same, "kept": [path_fields(path) for path in folded.kept]}


def _answer(verb: str, orphan: Orphan, target: str | None = None) -> dict[str, Any]:
    place = {**path_fields(orphan.source), **path_fields(target or orphan.target, "target")}
    return {"schema": SCHEMA, "verb": verb, "id": orphan.cache_id, **place}


def _open(machine: Machine, orphan: Orphan, verb: str) -> OpenStore:
    reading = next((reading for reading in machine.read_stores() if reading.path == orphan.store), None)
    if reading is None or not reading.ok:
        why = (reading.reason if reading else None) or "its disk is not among the data disks"
        raise Refused(
            Reason.NO_STORE, f"Cannot {verb} '{orphan.target}': {why.rstrip('.')}. Nothing was changed.", "Run survivectl check."
        )
    return machine.open_store(reading)


def _check_free(machine: Machine, orphan: Orphan, verb: str) -> None:
    """Refuse while somebody uses the tree, or a link of ours leads into it: a later source may have been put there."""

    def refuse(reason: Reason, why: str) -> Refused:
        return Refused(reason, f"Cannot {verb} '{orphan.target}': {why}. Nothing was changed.")

    for _, item in machine.relocations():
        if item.target != orphan.target and is_below(item.target, orphan.target):
            raise refuse(Reason.BUSY, f"'{item.source}' lives in it, at '{item.target}'")
    for path in machine.records.unfinished():
        if is_below(path, orphan.target):
            raise refuse(Reason.BUSY, "an unfinished move works with it")
    if holders := holders_of(orphan.target):
        raise refuse(Reason.BUSY, f"{name_holders(holders)} has files open there")


@contextmanager
def _said(what: str, outcome: str) -> Iterator[None]:
    """Say in a sentence what the kernel said."""
    try:
        yield
    except OSError as error:
        raise SurvivedError(f"Cannot {what}: {cause_of(error)}. {outcome}") from error
