"""
After a crash, or after a failure: forward, back, or ask. And the end of every operation, which is the same work.

Idempotent: each step tolerates that it was done already, so a crash in here is recovered like any other.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
import time
from typing import TYPE_CHECKING

from survived.act import fs, pair
from survived.act.reconcile import reconcile
from survived.act.stages import Recovery, Seen, recovery
from survived.act.task import Task
from survived.act.transfer import holders_of, name_holders
from survived.errors import NeedsPerson, SurvivedError
from survived.model import Operation, Stage, Verb

if TYPE_CHECKING:
    from collections.abc import Callable

    from survived.store.journal import Journal
    from survived.store.layout import Store


def look(parent_fd: int, name: str, target: str) -> Seen:
    """Return what stands at a name beside or at the source."""
    found = fs.exists(parent_fd, name)
    if found is None:
        return Seen.NOTHING
    if stat.S_ISDIR(found.st_mode):
        return Seen.TREE
    if stat.S_ISLNK(found.st_mode) and os.readlink(name, dir_fd=parent_fd) == target:
        return Seen.OUR_LINK
    return Seen.OTHER


def recover_all(store: Store, journal: Journal) -> tuple[list[Operation], list[NeedsPerson]]:
    """
    Recover every unfinished operation and sweep staging; return what came of each, and what needs a person.

    What cannot be ended for another reason, such as a disk that fails, is among the latter. OSError about staging itself.
    """
    fs.allow_many_descriptors()
    ended: list[Operation] = []
    puzzles: list[NeedsPerson] = []
    for operation in journal.open_operations():
        try:
            ended.append(recover_operation(store, journal, operation))
        except NeedsPerson as puzzle:
            puzzles.append(puzzle)
        except (SurvivedError, OSError) as error:  # one that cannot be ended now must not keep the others from it
            why = error.message if isinstance(error, SurvivedError) else (error.strerror or str(error)).lower()
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
                fs.remove_tree(staging_fd, name, _quiet)
    return ended, puzzles


def recover_operation(store: Store, journal: Journal, operation: Operation, tick: Callable[[int], None] | None = None) -> Operation:
    """
    Bring one unfinished operation to an end; return it DONE, UNDONE, or EXCHANGED while somebody holds the old tree.

    `tick` is called for every entry that rolling back removes, and may raise to stop.

    Raises `NeedsPerson` where the disk looks as no crash of ours explains; nothing is touched then.
    """
    if not operation.target.startswith(f"{store.path}/"):
        raise _puzzled(operation, f"its store was at another place then, and is at '{store.path}' now")
    try:
        parent_fd = os.open(os.path.dirname(operation.source), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _puzzled(operation, f"its folder cannot be opened ({error.strerror})") from error
    try:
        name, aside = os.path.basename(operation.source), store.aside(operation.id)
        source, beside = look(parent_fd, name, operation.target), look(parent_fd, aside, operation.target)
        verdict = recovery(operation.verb, operation.stage, source, beside, target_is_there=os.path.isdir(operation.target))
        if verdict is Recovery.NOTHING:
            return operation
        if verdict is Recovery.ASK:
            raise _puzzled(operation, f"at its path is {source}, beside it {beside}, after the stage '{operation.stage}'")
        if verdict is Recovery.ROLL_BACK:
            return _roll_back(store, journal, operation, parent_fd, source, beside, tick or _quiet)
        if operation.stage is not Stage.EXCHANGED:
            os.fsync(parent_fd)  # the exchange is visible; make sure that it is durable before it is recorded
            operation = journal.advance(operation, Stage.EXCHANGED, time.time())
    finally:
        os.close(parent_fd)
    return finish(store, journal, operation, Task(threading.Event()))


def _puzzled(operation: Operation, why: str) -> NeedsPerson:
    return NeedsPerson(
        f"Cannot recover the {operation.verb} of '{operation.source}': {why}. Nothing was touched; the copies stay where they are.",
        f"Look at '{operation.source}' and '{operation.target}', then run survivectl recover.",
    )


def _roll_back(
    store: Store, journal: Journal, operation: Operation, parent_fd: int, source: Seen, beside: Seen, tick: Callable[[int], None]
) -> Operation:
    aside = store.aside(operation.id)
    if operation.verb is Verb.RELOCATE and source is Seen.OUR_LINK and beside is Seen.TREE:
        fs.exchange(parent_fd, aside, os.path.basename(operation.source))
        beside = Seen.OUR_LINK
    if beside is not Seen.NOTHING:
        fs.remove_tree(parent_fd, aside, tick)
        os.fsync(parent_fd)
    if operation.verb is Verb.RELOCATE:
        # The target was free when the operation began and nothing links to it: what is there is our copy.
        _remove_below(store, store.relative(operation.target), tick)
    _remove_below(store, store.staging(operation.id), tick)
    return journal.advance(operation, Stage.UNDONE, time.time())


def finish(store: Store, journal: Journal, operation: Operation, task: Task) -> Operation:
    """
    After the exchange: once nobody holds the old side, bring over what came late, remove it, record DONE.

    While somebody holds it the operation is returned as it is, EXCHANGED, with a note that names them.
    """
    with contextlib.ExitStack() as open_things:
        parent_fd = os.open(os.path.dirname(operation.source), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        open_things.callback(os.close, parent_fd)
        aside, scrap = store.aside(operation.id), f"{store.aside(operation.id)}.scrap"
        if operation.verb is Verb.RELOCATE:
            old_fd, old_name, scrap_fd = parent_fd, aside, parent_fd
            old_path = os.path.join(os.path.dirname(operation.source), aside)
            new_path = operation.target
        else:
            with contextlib.suppress(FileNotFoundError):
                if look(parent_fd, aside, operation.target) is Seen.OUR_LINK:
                    os.unlink(aside, dir_fd=parent_fd)
                    os.fsync(parent_fd)
            scrap_fd = fs.open_below(store.fd, store.staging(operation.id), make=True)
            open_things.callback(os.close, scrap_fd)
            folder = os.path.dirname(store.relative(operation.target))
            old_fd, old_name, old_path = (
                fs.open_below(store.fd, folder, make=True),
                os.path.basename(operation.target),
                operation.target,
            )
            open_things.callback(os.close, old_fd)
            new_path = operation.source
        if fs.exists(old_fd, old_name) is not None:
            task.enter("reconcile")
            if holders := holders_of(old_path):
                note = f"{name_holders(holders)} still uses the old place; what it holds goes when it ends."
                return journal.advance(operation, Stage.EXCHANGED, time.time(), note=note)
            note = _reconcile(old_fd, old_name, new_path, operation, task)
            # Under its new name it is scrap whatever happens next: a half-removed tree is never reconciled again.
            with fs.opened(old_name, dir_fd=old_fd) as scrapped_fd, fs.movable(scrapped_fd):
                fs.rename_new(old_fd, old_name, scrap_fd, scrap)
            operation = journal.advance(operation, Stage.EXCHANGED, time.time(), note=note)
        task.enter("remove")
        if operation.files >= pair.WORTH_FILES and fs.exists(scrap_fd, scrap) is not None:
            pair.remove(scrap_fd, scrap, task.walk)
        else:
            fs.remove_tree(scrap_fd, scrap, task.walk)
        os.fsync(scrap_fd)
    _remove_below(store, store.staging(operation.id), _quiet)
    if operation.verb is Verb.RESTORE:
        _prune(store, os.path.dirname(store.relative(operation.target)))
    return journal.advance(operation, Stage.DONE, time.time())


def _reconcile(old_fd: int, old_name: str, new_path: str, operation: Operation, task: Task) -> str:
    with fs.opened(old_name, dir_fd=old_fd) as old, fs.opened(new_path) as new:
        late = reconcile(
            old,
            new,
            source_mark_ns=operation.source_mark_ns,
            target_mark_ns=operation.target_mark_ns,
            source=operation.source,
            tick=task.walk,
        )
        # Also when there was nothing: an earlier start may have brought it and not come to this point.
        fs.sync_filesystem(new)
    if late.conflicts:
        return f"Changed on both sides, both kept (the older as *.survived-late): {', '.join(late.conflicts[:5])}"
    return ""


def _remove_below(store: Store, relative: str, tick: Callable[[int], None]) -> None:
    """Remove a tree of the store and the empty folders that led to it."""
    folder, _, name = relative.rpartition("/")
    with contextlib.suppress(FileNotFoundError):  # of the folders, too, only some may have been made
        folder_fd = fs.open_below(store.fd, folder)
        try:
            fs.remove_tree(folder_fd, name, tick)
            os.fsync(folder_fd)
        finally:
            os.close(folder_fd)
    _prune(store, folder)


def _prune(store: Store, relative: str) -> None:
    """Remove empty folders of the store upwards, but never `trees` and `staging` themselves."""
    while "/" in relative:
        folder, _, name = relative.rpartition("/")
        try:
            folder_fd = fs.open_below(store.fd, folder)
        except FileNotFoundError:
            relative = folder
            continue
        try:
            os.rmdir(name, dir_fd=folder_fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
                raise
            return  # somebody else's tree is below
        finally:
            os.close(folder_fd)
        relative = folder


def _quiet(_: int) -> None:
    return
