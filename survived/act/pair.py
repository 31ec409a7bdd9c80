"""
A first pass by several processes; what they share out is in `branches.py`.

Each takes branches of the tree from one queue until it is empty, so that nothing is walked twice and neither waits long for
the others. A tree with many hard links, or of few folders, is copied by inode instead: all walk all of it, each copies the
files whose inode falls to it, so that all names of one inode are one process's work and nothing has to be agreed upon.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
from array import array
from typing import TYPE_CHECKING, Any

from survived.act import fs
from survived.act.branches import ENOUGH_BRANCHES, Queue, branches_of, has_links, is_cold, start_child, take
from survived.act.copying import TreeCopy
from survived.act.kin import Kin
from survived.act.pace import Pace, chunk_for
from survived.act.passes import Pass
from survived.errors import Refused, SurvivedError
from survived.terms import Reason

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

_REPORT_ENTRIES, _REPORT_SECONDS = 500, 0.3
_COLD_HELPERS = 3
"""Who waits for a disk leaves its processor to others, and a disk likes to be asked for several things at once."""


def first_pass(copy: TreeCopy, source: str, source_fd: int, copy_fd: int, tick: Callable[[int, int], None], rate: int = 0) -> Pass:
    """
    Run the first pass of `copy` with a child's help, or that of some; raises what any of them meets.

    `tick` is told what a child does, which keeps to `rate` bytes a second by itself (0: no limit).
    """
    branches = branches_of(source_fd)
    many = _COLD_HELPERS if rate == 0 and is_cold(source_fd, branches) else 1
    if len(branches) < ENOUGH_BRANCHES or has_links(source_fd, branches):
        branches = []
    copy.prepare_root()
    queue = Queue(branches)
    kin_fd = copy.kin.folder_fd if copy.kin is not None else -1
    words = [os.fsencode(source).hex(), *map(str, (rate, source_fd, copy_fd, kin_fd, *queue.fds, many + 1))]
    fds = tuple(fd for fd in (source_fd, copy_fd, kin_fd, *queue.fds) if fd >= 0)
    helpers = [_Helper([*words, str(part)], fds, tick) for part in range(1, many + 1)]
    try:
        if branches:
            own = copy.run_top(frozenset(branches))
            queue.open()
            for branch in queue.take():
                copy.run_branch(branch, own)
        else:
            own = copy.run_share(0, many + 1)
        for helper in helpers:
            while helper.is_at_work(0.05):
                tick(0, 0)  # raises if we are to stop
    finally:
        for helper in helpers:
            helper.end()
        queue.close()
    signatures = array("Q")
    for helper in helpers:
        sums, theirs = helper.result(source)
        own.add(sums)
        signatures.extend(theirs)
    return copy.complete(own, signatures)


class _Helper:
    """A child that copies a share of a tree, and the thread that listens to it."""

    def __init__(self, words: list[str], fds: tuple[int, ...], tick: Callable[[int, int], None]) -> None:
        self._child = start_child("pair", words, fds)
        self._heard: dict[str, Any] = {}
        self._listener = threading.Thread(target=_listen, args=(self._child, tick, self._heard), name="survived-pair", daemon=True)
        self._listener.start()

    def is_at_work(self, seconds: float) -> bool:
        """Wait for it to end, for so long; tell whether it goes on."""
        self._listener.join(seconds)
        return self._listener.is_alive()

    def end(self) -> None:
        """End it, whatever it does."""
        self._child.kill()
        self._child.wait()
        self._listener.join()
        if self._child.stdout is not None:
            self._child.stdout.close()

    def result(self, source: str) -> tuple[dict[str, int], array[int]]:
        """Return its sums and signatures. Raises what it met."""
        if "error" in self._heard:
            raise _rebuilt(self._heard["error"])
        if "signatures" not in self._heard:
            raise SurvivedError(f"Cannot move '{source}': the second copying process ended early. Nothing was changed.")
        return self._heard["sums"], self._heard["signatures"]


def _listen(child: subprocess.Popen[bytes], tick: Callable[[int, int], None], heard: dict[str, Any]) -> None:
    """Read what the child says: lines of progress, then its signatures or its error."""
    stream = child.stdout
    if stream is None:
        return
    for line in stream:
        said = json.loads(line)
        if "entries" in said:
            try:
                tick(said["bytes"], said["entries"])
            except SurvivedError:  # the other thread meets it, too
                continue
        elif "signatures" in said:
            heard["sums"] = said["sums"]
            signatures = array("Q")
            signatures.frombytes(stream.read(said["signatures"]))
            heard["signatures"] = signatures
            return
        else:
            heard.update(said)
            return


def _rebuilt(error: dict[str, Any]) -> Exception:
    if "errno" in error:
        return OSError(error["errno"], os.strerror(error["errno"]))
    return Refused(Reason(error["reason"]), error["message"])


def main() -> None:
    """Be the child: `SOURCE_IN_HEX RATE SOURCE_FD COPY_FD KIN_FD QUEUE_FD NAMES_FD PARTS PART`."""
    fs.die_with_parent()
    gc.disable()  # nothing here is part of a cycle, and it would look through every inode that has several names
    source = os.fsdecode(bytes.fromhex(sys.argv[1]))
    rate, there, here, kin_fd, read, names, parts, part = map(int, sys.argv[2:])
    # Opened anew: a descriptor that was handed on has one place in its listing for all, and each would miss what others get.
    source_fd, copy_fd = (os.open(".", fs.DIRECTORY, dir_fd=fd) for fd in (there, here))
    pace = Pace(rate, time.sleep) if rate > 0 else None
    done = {"bytes": 0, "entries": 0}
    said_at = time.monotonic()

    def say(said: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()

    def tick(size: int, entries: int) -> None:
        nonlocal said_at
        done["bytes"] += size
        done["entries"] += entries
        if done["entries"] >= _REPORT_ENTRIES or time.monotonic() - said_at > _REPORT_SECONDS:
            say(done)
            said_at = time.monotonic()
            done.update(bytes=0, entries=0)
        if pace is not None:
            pace.spend(size, entries)

    try:
        copy = TreeCopy(source_fd, copy_fd, source, tick)
        copy.content.chunk = chunk_for(rate)
        copy.kin = Kin(kin_fd, source_fd, copy_fd)
        if os.fstat(names).st_size:
            found = Pass()
            for branch in take(read, names):
                copy.run_branch(branch, found)
        else:
            found = copy.run_share(part, parts)
    except Refused as error:
        say({"error": {"reason": error.reason.value, "message": error.message}})
    except OSError as error:
        say({"error": {"errno": error.errno or 5}})
    else:
        raw = found.signatures.tobytes()
        say({"signatures": len(raw), "sums": found.sums()})
        sys.stdout.buffer.write(raw)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
