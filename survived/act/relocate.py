"""
Relocate and restore: one engine with two ends. Source and link change places in one step, or nothing happens.

The order of what is made durable is the whole point, see design section 5: intent, copy, COPIED, exchange, EXCHANGED,
and only then does anything old go. Every failure before the exchange ends with the source as it was.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from survived.act import fs, recover
from survived.act.stages import Seen
from survived.act.survey import check_source, survey
from survived.act.transfer import Care, copy_settled
from survived.errors import Refused, Stopped, SurvivedError
from survived.model import Mark, Operation, Reason, Relocation, Stage, TreeSize, Verb
from survived.observe.disks import read_filesystem
from survived.units import print_bytes, print_share

if TYPE_CHECKING:
    from collections.abc import Iterator

    from survived.act.ballast import Ballast
    from survived.act.task import Task
    from survived.store.journal import Journal
    from survived.store.layout import Store

_HURRY_SECONDS = 3.0
"""How long a stopped operation may take to remove its copy; systemd's patience and the user's end soon after."""


@dataclass(frozen=True, slots=True)
class Ends:
    """What an operation works with besides its paths."""

    store: Store
    journal: Journal
    ballast: Ballast
    home: str


def relocate(
    ends: Ends, cache_id: str, source: str, *, size: TreeSize, keep_free: Mark, lock: str | None, care: Care, task: Task
) -> Operation:
    """
    Move `source` into the store and leave a link; return the operation, DONE, or EXCHANGED while somebody holds the old tree.

    Raises `Refused`, `Stopped` or `SurvivedError`; the source is complete at its path then, and the copy is gone or
    goes at the next start. `size` is the last measurement, for the check of room and the progress.
    """
    fs.allow_many_descriptors()
    with _said(source, Verb.RELOCATE):
        check_source(source, home=ends.home, store_device=ends.store.device_id)
        _check_unfinished(ends, source)
        survey(source, task.walk)
        _check_room(ends.store.path, source, size, keep_free)
    target = ends.store.target_for(source)
    operation = ends.journal.begin(Verb.RELOCATE, cache_id, source, target, time.time())
    task.begin(Verb.RELOCATE, cache_id, source, target, bytes_total=size.size_bytes, files_total=size.files + size.directories)
    with _undone_on_failure(ends, operation), contextlib.ExitStack() as open_things:
        source_fd = open_things.enter_context(fs.opened(source))
        staging_fd = fs.open_below(ends.store.fd, ends.store.staging(operation.id), make=True)
        open_things.callback(os.close, staging_fd)
        os.mkdir("tree", 0o700, dir_fd=staging_fd)
        copy_fd = open_things.enter_context(fs.opened("tree", dir_fd=staging_fd))
        found = copy_settled(source, source_fd, copy_fd, lock, care, task, open_things)
        task.enter("exchange")
        folder_fd = fs.open_below(ends.store.fd, os.path.dirname(ends.store.relative(target)), make=True)
        open_things.callback(os.close, folder_fd)
        with fs.movable(copy_fd):
            fs.rename_new(staging_fd, "tree", folder_fd, os.path.basename(target))
        operation = ends.journal.advance(
            operation, Stage.COPIED, time.time(), size_bytes=found.size_bytes, files=found.files,
            freed_bytes=found.reclaimable_bytes, source_mark_ns=found.source_mark_ns, target_mark_ns=found.target_mark_ns,
        )  # fmt: skip
        parent_fd = open_things.enter_context(fs.opened(os.path.dirname(source), follow=True))
        aside = ends.store.aside(operation.id)
        _prepare_link(ends.ballast, target, aside, parent_fd, source)
        there = fs.exists(parent_fd, os.path.basename(source))
        if there is None or not os.path.samestat(there, os.fstat(source_fd)):
            raise Refused(Reason.UNSETTLED, f"Cannot move '{source}': it was replaced while it was copied. Nothing was changed.")
        if not os.path.samestat(os.stat(target), os.fstat(copy_fd)):  # our descriptors outlive a lazy unmount, the link would not
            raise SurvivedError(f"Cannot move '{source}': the data disk was unmounted meanwhile. Nothing was changed.")
        _exchange(parent_fd, aside, os.path.basename(source), source)
        operation = ends.journal.advance(operation, Stage.EXCHANGED, time.time())
    return _finish(ends, operation, task)


def restore(
    ends: Ends, relocation: Relocation, *, high: Mark, forced: bool, lock: str | None, care: Care, task: Task, size: TreeSize
) -> Operation:
    """
    Bring a relocated tree home, byte for byte, and take the link away; return the operation as `relocate` does.

    Refuses (WOULD_FILL) when the source's filesystem would come to `high` or above, unless `forced`; never goes on
    where it would not fit at all.
    """
    fs.allow_many_descriptors()
    source, target = relocation.source, relocation.target
    if not os.path.islink(source) or os.readlink(source) != target:
        raise SurvivedError(
            f"Cannot restore '{source}': it is not the link that survived left there. Nothing was changed.", "Run survivectl list."
        )
    with _said(source, Verb.RESTORE):
        _check_unfinished(ends, source)
    if not os.path.isdir(target):
        raise SurvivedError(
            f"Cannot restore '{source}': '{target}' is not there. Nothing was changed.", "Is the data disk mounted?"
        )
    with _said(source, Verb.RESTORE):
        _check_home_room(source, size, high, forced=forced)
    operation = ends.journal.begin(Verb.RESTORE, relocation.cache_id, source, target, time.time())
    task.begin(
        Verb.RESTORE, relocation.cache_id, source, target, bytes_total=size.size_bytes, files_total=size.files + size.directories
    )
    with _undone_on_failure(ends, operation), contextlib.ExitStack() as open_things:
        target_fd = fs.open_below(ends.store.fd, ends.store.relative(target))
        open_things.callback(os.close, target_fd)
        parent_fd = open_things.enter_context(fs.opened(os.path.dirname(source), follow=True))
        aside = ends.store.aside(operation.id)
        os.mkdir(aside, 0o700, dir_fd=parent_fd)
        copy_fd = open_things.enter_context(fs.opened(aside, dir_fd=parent_fd))
        found = copy_settled(target, target_fd, copy_fd, lock, care, task, open_things)
        task.enter("exchange")
        os.fsync(parent_fd)
        operation = ends.journal.advance(
            operation, Stage.COPIED, time.time(), size_bytes=found.size_bytes, files=found.files,
            source_mark_ns=found.source_mark_ns, target_mark_ns=found.target_mark_ns,
        )  # fmt: skip
        if recover.look(parent_fd, os.path.basename(source), target) is not Seen.OUR_LINK:
            raise Refused(Reason.UNSETTLED, f"Cannot restore '{source}': its link was replaced meanwhile. Nothing was changed.")
        _exchange(parent_fd, aside, os.path.basename(source), source)
        operation = ends.journal.advance(operation, Stage.EXCHANGED, time.time())
    return _finish(ends, operation, task)


@contextlib.contextmanager
def _said(source: str, verb: Verb) -> Iterator[None]:
    """Say in a sentence what the kernel said while we only looked."""
    try:
        yield
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise SurvivedError(f"Cannot {verb} '{source}': {why}. Nothing was changed.") from error


@contextlib.contextmanager
def _undone_on_failure(ends: Ends, operation: Operation) -> Iterator[None]:
    """Roll back what a failure left, and say in one sentence what failed; a crash in here is what recovery is for."""
    try:
        yield
    except (SurvivedError, OSError) as error:
        outcome = _undo(ends, operation, hurry=isinstance(error, Stopped))
        if isinstance(error, Stopped):
            raise Stopped(f"Stopped while moving '{operation.source}'. {outcome}") from error
        if isinstance(error, SurvivedError):
            raise
        raise SurvivedError(f"Cannot {operation.verb} '{operation.source}': {_explain(error, operation)}. {outcome}") from error


def _undo(ends: Ends, operation: Operation, *, hurry: bool) -> str:
    deadline = time.monotonic() + (_HURRY_SECONDS if hurry else float("inf"))

    def in_time(_: int) -> None:
        if time.monotonic() > deadline:
            raise Stopped("Stopped while removing a copy.")

    try:
        current = ends.journal.operation(operation.id) or operation
        after = recover.recover_operation(ends.store, ends.journal, current, in_time)
    except (SurvivedError, OSError):
        return "The path is as it was; the copy is removed at the next start."
    return "The copy was removed, the path is as it was." if after.stage is Stage.UNDONE else "It is finished already."


def _finish(ends: Ends, operation: Operation, task: Task) -> Operation:
    try:
        return recover.finish(ends.store, ends.journal, operation, task)
    except (Refused, OSError) as error:
        why = _explain(error, operation) if isinstance(error, OSError) else error.message.removesuffix(" Nothing was changed.")
        raise SurvivedError(
            f"'{operation.source}' is in its new place, but what stood in the old one cannot be removed: {why.rstrip('.')}.",
            "It is tried again at the next start, or now by survivectl recover.",
        ) from error


def _explain(error: OSError, operation: Operation) -> str:
    where = "the data disk" if operation.verb is Verb.RELOCATE else "the disk"
    known = {
        errno.ENOSPC: f"{where} is full",
        errno.EDQUOT: f"the quota on {where} is used up",
        errno.EROFS: f"{where} became read-only",
        errno.EIO: f"{where} reports an input/output error",
        errno.ENODEV: f"{where} is gone",
    }
    return known.get(error.errno or 0, (error.strerror or str(error)).lower())


def _prepare_link(ballast: Ballast, target: str, aside: str, parent_fd: int, source: str) -> None:
    try:
        ballast.with_room(lambda: os.symlink(target, aside, dir_fd=parent_fd), parent_fd)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Refused(
            Reason.NO_INODE,
            f"Cannot move '{source}': its filesystem has no inode or block left for the link, and there is no ballast to give up. "
            "Nothing was changed.",
            "Remove any one file there; then it goes on by itself.",
        ) from error


def _exchange(parent_fd: int, aside: str, name: str, source: str) -> None:
    try:
        fs.exchange(parent_fd, aside, name)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise Refused(
                Reason.NO_EXCHANGE,
                f"Cannot move '{source}': its filesystem cannot exchange a directory and a link in one step. Nothing was changed.",
            ) from error
        raise


def _check_unfinished(ends: Ends, source: str) -> None:
    """An operation on the same path that is not at its end comes first; it raises `NeedsPerson` if it cannot."""
    for operation in ends.journal.open_operations():
        if operation.source == source and recover.recover_operation(ends.store, ends.journal, operation).stage is Stage.EXCHANGED:
            raise Refused(
                Reason.BUSY, f"Cannot move '{source}': an earlier move of it waits for a program to end. Nothing was changed."
            )


def _check_room(store_path: str, source: str, size: TreeSize, keep_free: Mark) -> None:
    disk = read_filesystem(store_path)
    total = disk.used_bytes + disk.available_bytes
    left = disk.available_bytes - size.size_bytes
    if left < 0 or total == 0 or (disk.used_bytes + size.size_bytes) / total > keep_free.as_usage(total):
        raise Refused(
            Reason.NO_ROOM,
            f"Cannot move '{source}': it needs {print_bytes(size.size_bytes)}, and '{disk.mount}' has "
            f"{print_bytes(disk.available_bytes)} of which a share is kept free. Nothing was changed.",
            "Name another disk under [data] disks, or lower keep_free.",
        )


def _check_home_room(source: str, size: TreeSize, high: Mark, *, forced: bool) -> None:
    disk = read_filesystem(os.path.dirname(source))
    total = disk.used_bytes + disk.available_bytes
    after = (disk.used_bytes + size.size_bytes) / total if total else 1.0
    if size.size_bytes >= disk.available_bytes or (after >= high.as_usage(total) and not forced):
        hint = "Free some space first." if size.size_bytes >= disk.available_bytes else "Add --force to do it all the same."
        raise Refused(
            Reason.WOULD_FILL,
            f"Cannot restore '{source}': its {print_bytes(size.size_bytes)} would bring '{disk.mount}' to {print_share(after)}. "
            "Nothing was changed.",
            hint,
        )
