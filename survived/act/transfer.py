"""
From a live tree to a complete, synced, settled copy: passes until nothing differs, nobody holds the source and it is quiet.

Leaves the tool's own lock held, where the tool has one, so that the caller can exchange before anybody begins anew.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from survived.act import fs, pair
from survived.act.comparing import same_content
from survived.act.copying import TreeCopy
from survived.act.passes import TICK_NS, Pass
from survived.errors import Refused, SurvivedError
from survived.model import Holder, Reason
from survived.observe.holders import find_holders
from survived.units import print_seconds

if TYPE_CHECKING:
    from survived.act.task import Task


@dataclass(frozen=True, slots=True)
class Care:
    """How careful to be: seconds of quiet before the exchange, how long to wait for them, and how to verify."""

    settle_seconds: float = 60.0
    patience_seconds: float = 180.0
    verify_content: bool = False


def holders_of(path: str, lock: str | None = None) -> tuple[Holder, ...]:
    """Return who holds anything below `path`, but for those who only wait for the tool's own lock, and ourselves."""
    found = find_holders([path]).get(path, ())
    waiting = None if lock is None else os.path.join(os.path.realpath(path), lock)
    return tuple(holder for holder in found if holder.path != waiting)


def name_holders(holders: tuple[Holder, ...]) -> str:
    """Return "python (pid 4711) and 2 more"."""
    names = [f"{holder.name} (pid {holder.pid})" for holder in {h.pid: h for h in holders}.values()]
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def copy_settled(
    source: str, source_fd: int, copy_fd: int, lock: str | None, care: Care, task: Task, locks: contextlib.ExitStack
) -> Pass:
    """
    Copy until a pass finds the copy complete, synced, and the source settled; return that last pass.

    The tool's lock, once got, stays held in `locks`. Raises `Refused` (BUSY or UNSETTLED) when patience ends, after
    which the caller removes the copy; whatever the copy's filesystem says comes as OSError.
    """
    copy = TreeCopy(source_fd, copy_fd, source, task.tick)
    holders = holders_of(source, lock)
    _write_back(source_fd, holders)
    task.enter("copy")
    if task.files_total >= pair.WORTH_FILES:
        found = pair.first_pass(copy, source, source_fd, copy_fd, task.tick)
    else:
        found = copy.run_pass()
    task.enter("settle")
    deadline = time.monotonic() + care.patience_seconds
    locked = lock is None
    verified, suspect = not care.verify_content, ""
    while True:
        # Synced before the look that decides, so that nothing is left to write when it says that all is there.
        task.enter("sync")
        fs.sync_filesystem(copy_fd)
        task.enter("settle")
        time.sleep(TICK_NS / 1e9)
        locked = locked or _take_lock(source_fd, str(lock), locks)
        _write_back(source_fd, holders)
        found = copy.run_pass()
        quiet = time.time() - found.source_mark_ns / 1e9
        holders = holders_of(source, lock)
        if found.copied:
            verified, suspect = not care.verify_content, ""  # what differed may have changed after it was copied
        elif suspect:
            raise SurvivedError(f"Cannot move '{source}': the copy of '{suspect}' reads back differently. The copy is removed.")
        if found.copied == 0 and locked and not holders and (quiet >= care.settle_seconds or quiet < -5):
            if verified:
                # A ctime from the future tells nothing; whatever changes from now on is later than this pass began.
                found.source_mark_ns = min(found.source_mark_ns, found.began_ns - TICK_NS)
                return found
            suspect = same_content(source_fd, copy_fd, task.walk) or ""
            verified = not suspect
            continue  # comparing takes long: look once more
        if time.monotonic() >= deadline:
            raise _impatient(source, holders, locked, care)
        missing = max(0.0, care.settle_seconds - quiet) if found.copied == 0 and not holders and locked else 0.2
        task.wait(min(missing + 0.02, max(0.0, deadline - time.monotonic()), 5.0))


def _write_back(source_fd: int, holders: tuple[Holder, ...]) -> None:
    """Where somebody may have pages mapped, write them back, so that the next write to each gives the file a new ctime."""
    if holders:
        with contextlib.suppress(OSError):  # a write that others lost, on a disk that is not ours to mend
            fs.sync_filesystem(source_fd)


def _impatient(source: str, holders: tuple[Holder, ...], locked: bool, care: Care) -> Refused:
    if holders:
        why = f"{name_holders(holders)} has files open there"
        return Refused(Reason.BUSY, f"Cannot move '{source}': {why}. Nothing was changed.", "Try again when it has ended.")
    if not locked:
        return Refused(
            Reason.BUSY, f"Cannot move '{source}': its tool holds its lock. Nothing was changed.", "Try again when it has ended."
        )
    return Refused(
        Reason.UNSETTLED,
        f"Cannot move '{source}': it keeps changing and was never quiet for {print_seconds(care.settle_seconds)}. "
        "Nothing was changed.",
    )


def _take_lock(source_fd: int, lock: str, locks: contextlib.ExitStack) -> bool:
    """Hold the tool's own lock file exclusively; False if somebody has it. A tree without the file needs no lock."""
    try:
        fd = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=source_fd)
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        return error.errno not in (errno.EWOULDBLOCK, errno.EINTR)  # ENOLCK: no locks on this filesystem, for its tool neither
    locks.callback(os.close, fd)
    return True
