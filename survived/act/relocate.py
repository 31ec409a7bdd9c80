"""
Relocate, restore and rehome: one engine with other ends. What stands at the path and what takes its place swap in one step.

The order of what is made durable is the whole point, see design section 5: intent, copy, COPIED, exchange, EXCHANGED,
and only then does anything old go. Every failure before the exchange ends with the path as it was.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from survived.act import fs, recover
from survived.act.attempt import Ends as Ends
from survived.act.attempt import check_unfinished, exchange, finish, prepare_link, said, undone_on_failure
from survived.act.kin import Kin, remember
from survived.act.room import check_home_room, check_room
from survived.act.stages import Seen
from survived.act.survey import check_source, survey
from survived.act.transfer import Care, copy_settled
from survived.errors import Refused, SurvivedError
from survived.model import Mark, Operation, Reason, Relocation, Stage, TreeSize, Verb
from survived.observe.disks import is_below
from survived.store import kinship, sums

if TYPE_CHECKING:
    from survived.act.passes import Pass
    from survived.act.task import Task


def relocate(
    ends: Ends, cache_id: str, source: str, *, size: TreeSize, keep_free: Mark, lock: tuple[str, ...], care: Care, task: Task
) -> Operation:
    """
    Move `source` into the store and leave a link; return the operation, DONE, or EXCHANGED while somebody holds the old tree.

    Raises `Refused`, `Stopped` or `SurvivedError`; the source is complete at its path then, and the copy is gone or
    goes at the next start. `size` is the last measurement, for the check of room and the progress.
    """
    fs.allow_many_descriptors()
    with said(source, Verb.RELOCATE):
        check_source(source, home=ends.home, store_device=ends.store.device_id)
        _check_ours(ends, source)
        check_unfinished(ends, source)
        survey(source, task.walk)
        check_room(ends.store, source, size, keep_free)
    operation = ends.journal.begin(Verb.RELOCATE, cache_id, source, _target(ends, source), time.time())
    _show(task, operation, size)
    with undone_on_failure(ends, operation), contextlib.ExitStack() as open_things:
        source_fd = open_things.enter_context(fs.opened(source))
        kin = _kin_of(ends, operation, source_fd, size, operation.target, task, open_things)
        copy_fd, operation = _copy_into_store(ends, operation, source, source_fd, lock, care, task, open_things, kin)
        parent_fd = open_things.enter_context(fs.opened(os.path.dirname(source), follow=True))
        prepare_link(ends.ballast, operation.target, ends.store.aside(operation.id), parent_fd, source)
        there = fs.exists(parent_fd, os.path.basename(source))
        if there is None or not os.path.samestat(there, os.fstat(source_fd)):
            raise Refused(Reason.UNSETTLED, f"Cannot move '{source}': it was replaced while it was copied. Nothing was changed.")
        operation = _swap(ends, operation, parent_fd, copy_fd)
    return finish(ends, operation, task)


def rehome(
    ends: Ends, origin: Ends, relocation: Relocation, *, size: TreeSize, keep_free: Mark, lock: tuple[str, ...], care: Care,
    task: Task,
) -> Operation:  # fmt: skip
    """
    Move a relocated tree from the store of `origin` into the one of `ends` and swap its link; return it as `relocate` does.

    Raises as `relocate` does; the link leads to the complete old tree then.
    """
    fs.allow_many_descriptors()
    source = relocation.source
    _check_link(relocation, Verb.REHOME)
    with said(source, Verb.REHOME):
        if ends.store.device_id == origin.store.device_id:
            raise Refused(
                Reason.OTHER_FILESYSTEM, f"Cannot rehome '{source}': it is on that disk already. Nothing was changed.",
                "survivectl check shows the data disks.",
            )  # fmt: skip
        check_unfinished(ends, source)
        check_unfinished(origin, source)
        survey(relocation.target, task.walk)
        check_room(ends.store, source, size, keep_free)
    operation = ends.journal.begin(
        Verb.REHOME, relocation.cache_id, source, _target(ends, source), time.time(), origin=relocation.target
    )
    _show(task, operation, size)
    made = origin.journal.maker(relocation.target)
    if made is not None and sums.are_kept(origin.store.fd, made.id):
        care = replace(care, verify_content=True)  # whoever has sums of it goes on having them
    with undone_on_failure(ends, operation), contextlib.ExitStack() as open_things:
        old_fd = fs.open_below(origin.store.fd, origin.store.relative(relocation.target))
        open_things.callback(os.close, old_fd)
        kin = _kin_of(ends, operation, old_fd, size, operation.target, task, open_things)
        copy_fd, operation = _copy_into_store(ends, operation, relocation.target, old_fd, lock, care, task, open_things, kin)
        parent_fd = open_things.enter_context(fs.opened(os.path.dirname(source), follow=True))
        prepare_link(ends.ballast, operation.target, ends.store.aside(operation.id), parent_fd, source)
        if recover.look(parent_fd, os.path.basename(source), operation) is not Seen.OLD_LINK:
            raise Refused(Reason.UNSETTLED, f"Cannot rehome '{source}': its link was replaced meanwhile. Nothing was changed.")
        operation = _swap(ends, operation, parent_fd, copy_fd)
    return finish(ends, operation, task)


def restore(
    ends: Ends, relocation: Relocation, *, high: Mark, forced: bool, lock: tuple[str, ...], care: Care, task: Task, size: TreeSize
) -> Operation:
    """
    Bring a relocated tree home, byte for byte, and take the link away; return the operation as `relocate` does.

    Refuses (WOULD_FILL) when the source's filesystem would come to `high` or above, unless `forced`; never goes on
    where it would not fit at all.
    """
    fs.allow_many_descriptors()
    source, target = relocation.source, relocation.target
    _check_link(relocation, Verb.RESTORE)
    with said(source, Verb.RESTORE):
        check_unfinished(ends, source)
        check_home_room(source, size, high, forced=forced)
    operation = ends.journal.begin(Verb.RESTORE, relocation.cache_id, source, target, time.time())
    _show(task, operation, size)
    with undone_on_failure(ends, operation), contextlib.ExitStack() as open_things:
        target_fd = fs.open_below(ends.store.fd, ends.store.relative(target))
        open_things.callback(os.close, target_fd)
        parent_fd = open_things.enter_context(fs.opened(os.path.dirname(source), follow=True))
        aside = ends.store.aside(operation.id)
        os.mkdir(aside, 0o700, dir_fd=parent_fd)
        copy_fd = open_things.enter_context(fs.opened(aside, dir_fd=parent_fd))
        kin_fd = _kin_of(ends, operation, target_fd, size, source, task, open_things)
        with Kin(kin_fd, target_fd, copy_fd) as kin:
            found = copy_settled(target, target_fd, copy_fd, lock, care, task, open_things, kin=kin)
        task.enter("exchange")
        os.fsync(parent_fd)
        operation = _copied(ends, operation, found)
        if recover.look(parent_fd, os.path.basename(source), operation) is not Seen.OUR_LINK:
            raise Refused(Reason.UNSETTLED, f"Cannot restore '{source}': its link was replaced meanwhile. Nothing was changed.")
        exchange(parent_fd, aside, os.path.basename(source), source)
        operation = ends.journal.advance(operation, Stage.EXCHANGED, time.time())
    return finish(ends, operation, task)


def _check_ours(ends: Ends, source: str) -> None:
    """The ballast has to stay where it can be given up."""
    if is_below(os.path.dirname(ends.ballast.path), os.path.realpath(source)):
        raise Refused(Reason.OURS, f"Cannot move '{source}': survived keeps its own files there. Nothing was changed.")


def _target(ends: Ends, source: str) -> str:
    known = (*ends.journal.relocations(), *ends.journal.orphans())
    return ends.store.target_for(source, {item.target for item in known})


def _show(task: Task, operation: Operation, size: TreeSize) -> None:
    total, entries = size.size_bytes, size.files + size.directories
    task.begin(
        operation.verb, operation.cache_id, operation.source, operation.target, bytes_total=total, files_total=entries
    )  # fmt: skip


def _check_link(relocation: Relocation, verb: Verb) -> None:
    """Raise unless the path is the link that we left and leads to its tree."""
    source, target = relocation.source, relocation.target
    if not os.path.islink(source) or os.readlink(source) != target:
        raise SurvivedError(
            f"Cannot {verb} '{source}': it is not the link that survived left there. Nothing was changed.", "Run survivectl list."
        )
    if not os.path.isdir(target):
        raise SurvivedError(f"Cannot {verb} '{source}': '{target}' is not there. Nothing was changed.", "Is the data disk mounted?")


def _copy_into_store(
    ends: Ends, operation: Operation, source: str, source_fd: int, lock: tuple[str, ...], care: Care, task: Task,
    open_things: contextlib.ExitStack, kin_fd: int,
) -> tuple[int, Operation]:  # fmt: skip
    """Copy a tree into staging until it is settled, give the copy its place, record COPIED; return the copy's descriptor, too."""
    staging_fd = fs.open_below(ends.store.fd, ends.store.staging(operation.id), make=True)
    open_things.callback(os.close, staging_fd)
    os.mkdir("tree", 0o700, dir_fd=staging_fd)
    copy_fd = open_things.enter_context(fs.opened("tree", dir_fd=staging_fd))
    noting = sums.SumsFile(staging_fd) if care.verify_content else contextlib.nullcontext()
    with noting as kept, Kin(kin_fd, source_fd, copy_fd) as kin:
        found = copy_settled(source, source_fd, copy_fd, lock, care, task, open_things, kept, kin)
    task.enter("exchange")
    folder_fd = fs.open_below(ends.store.fd, os.path.dirname(ends.store.relative(operation.target)), make=True)
    open_things.callback(os.close, folder_fd)
    with fs.movable(copy_fd):
        fs.rename_new(staging_fd, "tree", folder_fd, os.path.basename(operation.target))
    sums.remove(ends.store.fd, operation.id)  # of an operation that a lost journal knew by the same number
    if kept is not None:
        sums_fd = sums.open_folder(ends.store.fd)
        open_things.callback(os.close, sums_fd)
        fs.rename_new(staging_fd, sums.PREPARED, sums_fd, sums.file_name(operation.id))
    return copy_fd, _copied(ends, operation, found)


def _kin_of(
    ends: Ends, operation: Operation, tree_fd: int, size: TreeSize, base: str, task: Task, open_things: contextlib.ExitStack
) -> int:
    """
    Remember, of a tree that has hard links to others, where its copies will be; return the open folder of all such notes.

    -1 where nothing was ever noted: whoever has no links pays nothing.
    """
    kinship.remove(ends.store.fd, operation.id)  # of an operation that a lost journal knew by the same number
    if size.reclaimable_bytes < size.size_bytes:
        task.enter("links")
        remember(ends.store, operation.id, tree_fd, base, task.walk)
    try:
        fd = os.open(kinship.FOLDER, fs.DIRECTORY, dir_fd=ends.store.fd)
    except OSError:
        return -1
    open_things.callback(os.close, fd)
    return fd


def _copied(ends: Ends, operation: Operation, found: Pass) -> Operation:
    return ends.journal.advance(
        operation, Stage.COPIED, time.time(), size_bytes=found.size_bytes, files=found.files,
        freed_bytes=0 if operation.verb is Verb.RESTORE else found.reclaimable_bytes,
        source_mark_ns=found.source_mark_ns, target_mark_ns=found.target_mark_ns, content_bytes=found.content_bytes,
    )  # fmt: skip


def _swap(ends: Ends, operation: Operation, parent_fd: int, copy_fd: int) -> Operation:
    """Exchange what stands at the path with the link that was prepared beside it."""
    source = operation.source
    if not os.path.samestat(
        os.stat(operation.target), os.fstat(copy_fd)
    ):  # our descriptors outlive a lazy unmount, the link would not
        raise SurvivedError(f"Cannot move '{source}': the data disk was unmounted meanwhile. Nothing was changed.")
    exchange(parent_fd, ends.store.aside(operation.id), os.path.basename(source), source)
    return ends.journal.advance(operation, Stage.EXCHANGED, time.time())
