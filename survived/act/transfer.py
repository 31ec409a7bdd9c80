"""
From a live tree to a complete, synced, settled copy: passes until nothing differs, nobody holds the source and it is quiet.

Leaves the tool's own lock held, where the tool has one, so that the caller can exchange before anybody begins anew.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from survived.act import branches, fs, pair
from survived.act.comparing import same_content
from survived.act.locks import ToolLocks
from survived.act.pace import chunk_for
from survived.act.passes import TICK_NS, Pass
from survived.act.sharing import SharedCopy
from survived.act.writeback import Sync, WriteBack
from survived.errors import Refused, SurvivedError
from survived.model import Holder, Reason
from survived.observe.holders import find_binds, find_holders
from survived.units import print_seconds

if TYPE_CHECKING:
    from survived.act.kin import Kin
    from survived.act.task import Task
    from survived.store.sums import SumsFile


@dataclass(frozen=True, slots=True)
class Care:
    """How careful to be: seconds of quiet before the exchange, how long to wait for them, how to verify, and how fast."""

    settle_seconds: float = 60.0
    patience_seconds: float = 180.0
    verify_content: bool = False
    rate: int = 0  # bytes a second for copying and verifying; 0: no limit


def holders_of(path: str, excused: frozenset[str] = frozenset()) -> tuple[Holder, ...]:
    """Return who holds anything below `path`, but for those who only wait for a lock that is `excused`, and ourselves."""
    found = (*find_holders([path]).get(path, ()), *find_binds(path))
    return tuple(holder for holder in found if holder.path not in excused)


def name_holders(holders: tuple[Holder, ...]) -> str:
    """Return "python (pid 4711) and 2 more"."""
    names = [f"{h.name} (pid {h.pid})" if h.pid else h.name for h in {holder.pid: holder for holder in holders}.values()]
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def copy_settled(
    source: str, source_fd: int, copy_fd: int, lock: tuple[str, ...], care: Care, task: Task, locks: contextlib.ExitStack,
    sums: SumsFile | None = None, kin: Kin | None = None,
) -> Pass:  # fmt: skip
    """
    Copy until a pass finds the copy complete, synced, and the source settled; return that last pass.

    The tool's lock, once got, stays held in `locks`. Where content is verified, `sums` gets what was read back. Raises
    `Refused` (BUSY or UNSETTLED) when patience ends, after which the caller removes the copy; whatever the copy's
    filesystem says comes as OSError.
    """
    copy = SharedCopy(source_fd, copy_fd, source, task.tick)
    copy.content.chunk, copy.kin = chunk_for(care.rate), kin
    task.limit(care.rate)
    tool = ToolLocks(source, source_fd, lock, locks)
    began_ns, holders = _look_before(source, source_fd, tool)
    task.enter("copy")
    is_large = syncs_beside = task.files_total >= branches.WORTH_FILES
    # One process is fast enough for any rate that is meant to be kind, and leaves the other processors alone.
    if is_large and care.rate == 0 and not any(holder.writes for holder in holders):
        write_back = locks.enter_context(WriteBack(copy_fd))  # whoever closes `locks` waits for the last of it
        found = pair.first_pass(copy, source, source_fd, copy_fd, task.tick)
        write_back.stop()
    else:
        found = copy.run_pass(began_ns)
    task.enter("settle")
    deadline = time.monotonic() + care.patience_seconds
    verified, suspect = not care.verify_content, ""
    while True:
        # Synced before, or at least beside, the look that decides: nothing is left to write when it says that all is there.
        task.enter("sync")
        beside = Sync(copy_fd) if syncs_beside and found.copied == 0 else None
        if beside is None:
            fs.sync_filesystem(copy_fd)
        task.enter("settle")
        time.sleep(TICK_NS / 1e9)
        locked, looking = tool.take(), time.monotonic()
        began_ns, _ = _look_before(source, source_fd, tool)
        # A copy that is faithful needs no second look as long as nothing changed in the source.
        found = copy.run_pass(began_ns) if found.copied else copy.look(found, began_ns)
        looked = time.monotonic() - looking
        is_old = beside is not None and beside.wait(task.check) > looked
        quiet = time.time() - found.source_mark_ns / 1e9
        holders = holders_of(source, tool.excused())
        if found.copied:
            verified, suspect = not care.verify_content, ""  # what differed may have changed after it was copied
        elif suspect:
            raise SurvivedError(f"Cannot move '{source}': the copy of '{suspect}' reads back differently. The copy is removed.")
        if found.copied == 0 and locked and not holders and (quiet >= care.settle_seconds or quiet < -5):
            if is_old:  # what lies between the look and the exchange is to be a moment
                syncs_beside = False
                continue
            if verified:
                # A ctime from the future tells nothing; whatever changes from now on is later than this pass began.
                found.source_mark_ns = min(found.source_mark_ns, found.began_ns - TICK_NS)
                return found
            task.enter("verify")
            verifying = time.monotonic()
            suspect = same_content(source_fd, copy_fd, task.tick, sums) or ""
            verified = not suspect
            deadline += time.monotonic() - verifying
            continue  # comparing takes long: look once more
        if time.monotonic() >= deadline:
            raise _impatient(source, holders, locked, care)
        missing = max(0.0, care.settle_seconds - quiet) if found.copied == 0 and not holders and locked else 0.2
        task.note = _waits_for(holders, care, locked=locked)
        task.wait(min(missing + 0.02, max(0.0, deadline - time.monotonic()), 5.0))


def _look_before(source: str, source_fd: int, tool: ToolLocks) -> tuple[int, tuple[Holder, ...]]:
    """
    Look for holders right before a pass, and write back what they may have mapped; return when that began, and who they are.

    A page gives its file a new ctime at the first write since it was written back, and at none after it. Who maps one
    later than this look gives it a ctime that the pass does not trust.
    """
    began_ns, holders = time.time_ns(), holders_of(source, tool.excused())
    if any(holder.writes for holder in holders):
        with contextlib.suppress(OSError):  # a write that others lost, on a disk that is not ours to mend
            fs.sync_filesystem(source_fd)
    return began_ns, holders


def _waits_for(holders: tuple[Holder, ...], care: Care, *, locked: bool) -> str:
    if holders:
        return f"{name_holders(holders)} has files open there"
    return f"until it is quiet for {print_seconds(care.settle_seconds)}" if locked else "its tool holds its lock"


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
