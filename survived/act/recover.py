"""
After a crash, or after a failure: forward, back, or ask. And the end of every operation, which is the same work.

Idempotent: each step tolerates that it was done already, so a crash in here is recovered like any other.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from survived.act import branches, fs
from survived.act import partner as partners
from survived.act.clearing import prune, remove_below
from survived.act.reconcile import reconcile
from survived.act.stages import BEFORE, Recovery, Seen, recovery
from survived.act.stillness import Stillness, look_through
from survived.act.task import Task
from survived.act.transfer import holders_of, name_holders
from survived.errors import NeedsPerson, Stopped, SurvivedError, cause_of
from survived.model import Holder, Operation, Stage, Verb
from survived.store import kinship, sums

if TYPE_CHECKING:
    from collections.abc import Callable

    from survived.store.journal import Journal
    from survived.store.layout import Store

    Find = Callable[[str], "tuple[Store, Journal] | None"]

_GLANCES = (0.05, 0.1, 0.15)
"""Seconds between looks for holders, before an old tree is left to a later tick."""


def nowhere(_path: str) -> None:
    """Find no other store: there is only one."""
    return


def look(parent_fd: int, name: str, operation: Operation) -> Seen:
    """Return what stands at a name beside or at the source."""
    found = fs.exists(parent_fd, name)
    if found is None:
        return Seen.NOTHING
    if stat.S_ISDIR(found.st_mode):
        return Seen.TREE
    leads_to = os.readlink(name, dir_fd=parent_fd) if stat.S_ISLNK(found.st_mode) else None
    if leads_to == operation.target:
        return Seen.OUR_LINK
    return Seen.OLD_LINK if leads_to and leads_to == operation.origin else Seen.OTHER


def recover_all(
    store: Store, journal: Journal, find: Find = nowhere, task: Task | None = None
) -> tuple[list[Operation], list[NeedsPerson]]:
    """
    Recover every unfinished operation and sweep staging; return what came of each, and what needs a person.

    What cannot be ended for another reason, such as a disk that fails, is among the latter. `find` opens the store that
    holds a path, or returns None while its disk is away. OSError about staging itself; `Stopped` if `task` is to end.
    """
    fs.allow_many_descriptors()
    task = task or Task(threading.Event())
    ended: list[Operation] = []
    puzzles: list[NeedsPerson] = []
    for operation in journal.open_operations():
        try:
            ended.append(recover_operation(store, journal, operation, find, task=task))
        except Stopped:
            raise
        except NeedsPerson as puzzle:
            puzzles.append(puzzle)
        except (SurvivedError, OSError) as error:  # one that cannot be ended now must not keep the others from it
            why = error.message if isinstance(error, SurvivedError) else cause_of(error)
            puzzles.append(
                NeedsPerson(
                    f"Cannot finish the {operation.verb} of '{operation.source}': {why.rstrip('.')}. "
                    "It is tried again at the next start.",
                    "Run survivectl recover when that is mended.",
                )
            )
    unfinished = {str(operation.id) for operation in journal.open_operations()}
    with fs.opened("staging", dir_fd=store.fd) as staging_fd:
        for name in os.listdir(staging_fd):
            if name not in unfinished:
                fs.remove_tree(staging_fd, name, task.walk)
    return ended, puzzles


def recover_operation(
    store: Store,
    journal: Journal,
    operation: Operation,
    find: Find = nowhere,
    tick: Callable[[int], None] | None = None,
    task: Task | None = None,
) -> Operation:
    """
    Bring one unfinished operation to an end; return it DONE, UNDONE, or EXCHANGED while somebody holds the old tree.

    `tick` is called for every entry that rolling back removes, and may raise to stop; without it, `task` is asked.

    Raises `NeedsPerson` where the disk looks as no crash of ours explains; nothing is touched then.
    """
    task = task or Task(threading.Event())
    if not operation.target.startswith(f"{store.path}/"):
        raise _puzzled(operation, f"its store was at another place then, and is at '{store.path}' now")
    try:
        parent_fd = os.open(os.path.dirname(operation.source), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _puzzled(operation, f"its folder cannot be opened ({error.strerror})") from error
    try:
        name, aside = os.path.basename(operation.source), store.aside(operation.id)
        source, beside = look(parent_fd, name, operation), look(parent_fd, aside, operation)
        verdict = recovery(operation.verb, operation.stage, source, beside, target_is_there=os.path.isdir(operation.target))
        if verdict is Recovery.NOTHING:
            return operation
        if verdict is Recovery.ASK:
            raise _puzzled(operation, f"at its path is {source}, beside it {beside}, after the stage '{operation.stage}'")
        if verdict is Recovery.ROLL_BACK:
            return _roll_back(store, journal, operation, parent_fd, source, beside, find, tick or task.walk)
        if verdict is Recovery.LET_GO:
            return _let_go(store, journal, operation, parent_fd)
        if operation.stage is not Stage.EXCHANGED:
            os.fsync(parent_fd)  # the exchange is visible; make sure that it is durable before it is recorded
            operation = journal.advance(operation, Stage.EXCHANGED, time.time())
    finally:
        os.close(parent_fd)
    return finish(store, journal, operation, task, find)


def _puzzled(operation: Operation, why: str) -> NeedsPerson:
    return NeedsPerson(
        f"Cannot recover the {operation.verb} of '{operation.source}': {why}. Nothing was touched; the copies stay where they are.",
        f"Look at '{operation.source}' and '{operation.target}', then run survivectl recover.",
    )


def _roll_back(
    store: Store, journal: Journal, operation: Operation, parent_fd: int, source: Seen, beside: Seen, find: Find,
    tick: Callable[[int], None],
) -> Operation:  # fmt: skip
    aside = store.aside(operation.id)
    note = ""
    if operation.stage is Stage.COPIED and source is BEFORE[operation.verb]:
        note = _rescue(store, operation, parent_fd, beside, find, tick)
    if source is Seen.OUR_LINK and beside in (Seen.TREE, Seen.OLD_LINK) and operation.verb is not Verb.RESTORE:
        fs.exchange(parent_fd, aside, os.path.basename(operation.source))
        beside = Seen.OUR_LINK
    if beside is not Seen.NOTHING:
        fs.remove_tree(parent_fd, aside, tick)
        os.fsync(parent_fd)
    if operation.verb is not Verb.RESTORE:
        # The target was free when the operation began and nothing links to it: what is there is our copy.
        remove_below(store, store.relative(operation.target), tick)
        sums.remove(store.fd, operation.id)
    kinship.remove(store.fd, operation.id)
    remove_below(store, store.staging(operation.id), tick)
    return journal.advance(operation, Stage.UNDONE, time.time(), note=note)


def _rescue(store: Store, operation: Operation, parent_fd: int, beside: Seen, find: Find, tick: Callable[[int], None]) -> str:
    """
    Bring to the old side what was written into the copy; return a note of what is kept twice.

    A power cut can take back an exchange that was visible already, and whoever wrote through the new place in that moment,
    and synced it, was told that it is safe.
    """
    name = os.path.basename(operation.source)
    copy, old = (store.fd, store.relative(operation.target)), (parent_fd, name)
    if operation.verb is Verb.RESTORE:
        copy, old = (parent_fd, store.aside(operation.id)), copy
        if beside is not Seen.TREE:
            return ""
    elif operation.verb is Verb.REHOME:
        if (other := find(operation.origin)) is None:
            raise SurvivedError(f"'{operation.origin}' is on a data disk that is away")
        old = other[0].fd, other[0].relative(operation.origin)
    with contextlib.ExitStack() as open_things:
        try:
            copy_fd = fs.open_below(*copy)
            open_things.callback(os.close, copy_fd)
            old_fd = fs.open_below(*old)
            open_things.callback(os.close, old_fd)
        except FileNotFoundError:
            return ""
        return _bring(copy_fd, old_fd, operation, tick, marks=(operation.target_mark_ns, operation.source_mark_ns), removes=False)


def _let_go(store: Store, journal: Journal, operation: Operation, parent_fd: int) -> Operation:
    """End a restore whose tree at home is gone again: the old tree on the data disk is kept, and nothing leads to it."""
    aside = store.aside(operation.id)
    if look(parent_fd, aside, operation) is Seen.OUR_LINK:
        fs.remove_tree(parent_fd, aside, _quiet)
        os.fsync(parent_fd)
    note = f"What was restored is gone again; the tree at '{operation.target}' is kept, and no link leads to it."
    return journal.advance(operation, Stage.DONE, time.time(), note=note)


@dataclass(frozen=True, slots=True)
class _Old:
    """The side that goes after an exchange: `name` in the directory `fd`, at `path`; `scrap_fd` is where it is renamed to."""

    fd: int
    name: str
    path: str
    scrap_fd: int
    new_fd: int
    new_name: str  # the side that stays, below `new_fd`: by descriptor, for others may swap a name on the way to it


def finish(store: Store, journal: Journal, operation: Operation, task: Task, find: Find = nowhere) -> Operation:
    """
    After the exchange: once nobody holds the old side, bring over what came late, remove it, record DONE.

    While somebody holds it, or its data disk is away, the operation is returned as it is, EXCHANGED, with a note that says so.
    """
    aside = store.aside(operation.id)
    scrap = f"{aside}.scrap"
    with contextlib.ExitStack() as open_things:
        parent_fd = os.open(os.path.dirname(operation.source), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        open_things.callback(os.close, parent_fd)
        home, home_journal, old_path = store, journal, operation.target
        partner: partners.Partner | None = None
        is_large = operation.files >= branches.WORTH_FILES and task.rate == 0  # who keeps to a rate does it alone
        if operation.verb is Verb.RELOCATE:
            path = os.path.join(os.path.dirname(operation.source), aside)
            old = _Old(parent_fd, aside, path, parent_fd, store.fd, store.relative(operation.target))
        else:
            if operation.verb is Verb.REHOME:
                other = find(operation.origin)
                if other is None:
                    note = f"'{operation.origin}' goes when its data disk is there."
                    return journal.advance(operation, Stage.EXCHANGED, time.time(), note=note)
                (home, home_journal), old_path = other, operation.origin
            else:
                _unlink_aside(parent_fd, aside, operation)
            scrap_fd = fs.open_below(home.fd, f"staging/{aside}", make=True)
            open_things.callback(os.close, scrap_fd)
            old_fd = fs.open_below(home.fd, os.path.dirname(home.relative(old_path)), make=True)
            open_things.callback(os.close, old_fd)
            at_home = operation.verb is Verb.RESTORE
            new = (parent_fd, os.path.basename(operation.source)) if at_home else (store.fd, store.relative(operation.target))
            old = _Old(old_fd, os.path.basename(old_path), old_path, scrap_fd, *new)
        if fs.exists(old.fd, old.name) is not None:
            task.enter("reconcile")
            if holders := _lasting_holders(old.path, task):
                note = f"{name_holders(holders)} still uses the old place; what it holds goes when it ends."
                return journal.advance(operation, Stage.EXCHANGED, time.time(), note=note)
            old_tree_fd = open_things.enter_context(fs.opened(old.name, dir_fd=old.fd))
            if is_large:
                partner = open_things.enter_context(partners.Partner(old_tree_fd))
            still = partner.look(task.walk) if partner is not None else look_through(old_tree_fd, task.walk)
            if still.written:
                note = f"A process that we cannot see writes to '{still.written[0]}' in the old place, which goes when it ends."
                return journal.advance(operation, Stage.EXCHANGED, time.time(), note=note)
            note = _reconcile(old, old_tree_fd, still, operation, task)
            # Under its new name it is scrap whatever happens next: a half-removed tree is never reconciled again.
            with fs.movable(old_tree_fd):
                fs.rename_new(old.fd, old.name, old.scrap_fd, scrap)
            operation = journal.advance(operation, Stage.EXCHANGED, time.time(), note=note)
        if operation.verb is Verb.REHOME:
            home_journal.forget(operation.origin)
            _unlink_aside(parent_fd, aside, operation)
        task.enter("remove")
        if partner is not None:
            partner.remove(old.scrap_fd, scrap, task.removed)
        elif is_large and fs.exists(old.scrap_fd, scrap) is not None:
            partners.remove(old.scrap_fd, scrap, task.removed)
        else:
            fs.remove_tree(old.scrap_fd, scrap, task.removed)
        os.fsync(old.scrap_fd)
    remove_below(store, store.staging(operation.id), _quiet)
    if operation.verb is not Verb.RELOCATE:
        remove_below(home, f"staging/{aside}", _quiet)
        prune(home, os.path.dirname(home.relative(old_path)))
        if (made := home_journal.maker(old_path)) is not None:
            sums.remove(home.fd, made.id)
            kinship.remove(home.fd, made.id)
    return journal.advance(operation, Stage.DONE, time.time())


def _lasting_holders(path: str, task: Task) -> tuple[Holder, ...]:
    """Return who holds anything below a path, not counting those who only look through it this moment: `du`, `find`, a backup."""
    for seconds in _GLANCES:
        if not holders_of(path):
            return ()
        task.wait(seconds)
    return holders_of(path)


def _unlink_aside(parent_fd: int, aside: str, operation: Operation) -> None:
    """Remove the link that stood at the path before."""
    if look(parent_fd, aside, operation) in (Seen.OUR_LINK, Seen.OLD_LINK):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside, dir_fd=parent_fd)
            os.fsync(parent_fd)


def _reconcile(old: _Old, old_tree_fd: int, still: Stillness, operation: Operation, task: Task) -> str:
    new_fd = fs.open_below(old.new_fd, old.new_name)
    try:
        marks = operation.source_mark_ns, operation.target_mark_ns
        return _bring(old_tree_fd, new_fd, operation, task.walk, marks=marks, still=still)
    finally:
        os.close(new_fd)


def _bring(
    from_fd: int, to_fd: int, operation: Operation, tick: Callable[[int], None], *, marks: tuple[int, int], removes: bool = True,
    still: Stillness | None = None,
) -> str:  # fmt: skip
    """Bring over what was written late, durably; `marks` tell late from early on either side. Return a note of conflicts."""
    late = reconcile(
        from_fd, to_fd, source_mark_ns=marks[0], target_mark_ns=marks[1], source=operation.source,
        tick=lambda size, _entries: tick(size), removes=removes, still=still,
    )  # fmt: skip
    # Also when there was nothing: an earlier start may have brought it and not come to this point.
    fs.sync_filesystem(to_fd)
    if late.conflicts:
        return f"Changed on both sides, both kept (the older as *.survived-late): {', '.join(late.conflicts[:5])}"
    return ""


def _quiet(_: int) -> None:
    return
