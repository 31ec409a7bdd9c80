"""
What every operation does around its copy: the two ends, one sentence for what the kernel said, the way back after a failure.

An attempt ends in one of three ways: undone at once, left to the next start, or past the commit point and so finished.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from survived.act import fs, recover
from survived.errors import Refused, Stopped, SurvivedError, cause_of
from survived.model import Operation, Reason, Stage, Verb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from survived.act.ballast import Ballast
    from survived.act.recover import Find
    from survived.act.task import Task
    from survived.store.journal import Journal
    from survived.store.layout import Store

_HURRY_SECONDS = 3.0
"""How long a stopped operation may take to remove its copy; systemd's patience and the user's end soon after."""


@dataclass(frozen=True, slots=True)
class Ends:
    """What an operation works with besides its paths. `find` opens the store that holds a path, for a rehome's other end."""

    store: Store
    journal: Journal
    ballast: Ballast
    home: str
    find: Find = recover.nowhere


@contextlib.contextmanager
def said(source: str, verb: Verb) -> Iterator[None]:
    """Say in a sentence what the kernel said while we only looked."""
    try:
        yield
    except OSError as error:
        why = cause_of(error)
        raise SurvivedError(f"Cannot {verb} '{source}': {why}. Nothing was changed.") from error


@contextlib.contextmanager
def undone_on_failure(ends: Ends, operation: Operation) -> Iterator[None]:
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
        after = recover.recover_operation(ends.store, ends.journal, current, ends.find, in_time)
    except (SurvivedError, OSError):
        return "The path is as it was; the copy is removed at the next start."
    return "The copy was removed, the path is as it was." if after.stage is Stage.UNDONE else "It is finished already."


def finish(ends: Ends, operation: Operation, task: Task) -> Operation:
    """Do what comes after the exchange; whatever keeps it from its end now is said, and tried again at the next start."""
    try:
        return recover.finish(ends.store, ends.journal, operation, task, ends.find)
    except (Refused, OSError) as error:
        why = _explain(error, operation) if isinstance(error, OSError) else error.message.removesuffix(" Nothing was changed.")
        raise SurvivedError(
            f"'{operation.source}' is in its new place, but what stood in the old one cannot be removed: {why.rstrip('.')}.",
            "It is tried again at the next start, or now by survivectl recover.",
        ) from error


def _explain(error: OSError, operation: Operation) -> str:
    where = "the disk" if operation.verb is Verb.RESTORE else "the data disk"
    known = {
        errno.ENOSPC: f"{where} is full",
        errno.EDQUOT: f"the quota on {where} is used up",
        errno.EROFS: f"{where} became read-only",
        errno.EIO: f"{where} reports an input/output error",
        errno.ENODEV: f"{where} is gone",
    }
    return known.get(error.errno or 0, cause_of(error))


def prepare_link(ballast: Ballast, target: str, aside: str, parent_fd: int, source: str) -> None:
    """Make the link under the name that the exchange will swap, on a full disk by giving up the ballast."""
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


def exchange(parent_fd: int, aside: str, name: str, source: str) -> None:
    """The commit point; a filesystem that has no such step is refused."""
    try:
        fs.exchange(parent_fd, aside, name)
    except OSError as error:
        # EXDEV: an overlay that may not rename what its lower layer has (redirect_dir=off).
        if error.errno in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV):
            raise Refused(
                Reason.NO_EXCHANGE,
                f"Cannot move '{source}': its filesystem cannot exchange a directory and a link in one step. Nothing was changed.",
            ) from error
        raise


def check_unfinished(ends: Ends, source: str) -> None:
    """An operation on the same path that is not at its end comes first; it raises `NeedsPerson` if it cannot."""
    for operation in ends.journal.open_operations():
        if operation.source != source:
            continue
        if recover.recover_operation(ends.store, ends.journal, operation, ends.find).stage is Stage.EXCHANGED:
            raise Refused(
                Reason.BUSY, f"Cannot move '{source}': an earlier move of it waits for a program to end. Nothing was changed."
            )
