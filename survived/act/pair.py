"""
A first pass by two processes, us and a child; what they share out is in `branches.py`, what each does in `sharing.py`.

Both take branches of the tree from one queue until it is empty, so that nothing is walked twice and neither waits long for
the other. A tree with many hard links, or of few folders, is copied by inode instead: both walk all of it, from its two ends,
and each copies the files whose inode falls to it. More of them would only wait for each other: it is the processor that they
share, or, while all has to be read, a disk that is asked ahead.
"""

from __future__ import annotations

import os
import threading
from array import array
from typing import TYPE_CHECKING, Any

from survived.act.branches import ENOUGH_BRANCHES, Queue, branches_of, has_links, is_cold
from survived.act.children import start_child
from survived.act.passes import SUMS
from survived.errors import Refused, SurvivedError
from survived.terms import Reason

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from survived.act.passes import Pass
    from survived.act.sharing import SharedCopy


def first_pass(copy: SharedCopy, source: str, source_fd: int, copy_fd: int, tick: Callable[[int, int], None]) -> Pass:
    """Run the first pass of `copy` with a child's help; `tick` is told what it does. Raises what either of them meets."""
    branches = branches_of(source_fd)
    cold = is_cold(source_fd, branches)
    if len(branches) < ENOUGH_BRANCHES or has_links(source_fd, branches):
        branches = []
    copy.prepare_root()
    queue = Queue(branches)
    kin_fd = copy.kin.folder_fd if copy.kin is not None else -1
    fds = tuple(fd for fd in (source_fd, copy_fd, kin_fd, *queue.fds) if fd >= 0)
    words = [os.fsencode(source).hex(), *map(str, (int(cold), source_fd, copy_fd, kin_fd, *queue.fds))]
    helper = _Helper(words, fds, tick)
    try:
        if branches:
            own = copy.run_top(frozenset(branches))
            queue.open()
            copy.run_branches(queue.take(), own, ahead=cold)
        else:
            own = copy.run_share(0, 2, ahead=cold)
        while helper.is_at_work(0.05):
            tick(0, 0)  # raises if we are to stop
    finally:
        helper.end()
        queue.close()
    sums, signatures = helper.result(source)
    own.add(sums)
    return copy.complete(own, signatures)


class _Helper:
    """A child that copies a share of a tree, and the thread that listens to it."""

    def __init__(self, words: list[str], fds: tuple[int, ...], tick: Callable[[int, int], None]) -> None:
        self._child = start_child("share", words, fds)
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
            raise self._heard["error"]
        if "signatures" not in self._heard:
            raise SurvivedError(f"Cannot move '{source}': the second copying process ended early. Nothing was changed.")
        return self._heard["sums"], self._heard["signatures"]


def _listen(child: subprocess.Popen[bytes], tick: Callable[[int, int], None], heard: dict[str, Any]) -> None:
    """Read what the child says, see `child.py`: lines of progress, then its sums and signatures or its error."""
    stream = child.stdout
    if stream is None:
        return
    for line in stream:
        word, *values = line.split()
        if word == b"did":
            try:
                tick(*map(int, values))
            except SurvivedError:  # the other thread meets it, too
                continue
        elif word == b"found":
            length, *sums = map(int, values)
            signatures = array("Q")
            signatures.frombytes(stream.read(length))
            heard.update(sums=dict(zip(SUMS, sums, strict=True)), signatures=signatures)
            return
        else:
            heard["error"] = _error(word, *values)
            return


def _error(word: bytes, *values: bytes) -> Exception:
    if word == b"errno":
        return OSError(int(values[0]), os.strerror(int(values[0])))
    return Refused(Reason(values[0].decode()), bytes.fromhex(values[1].decode()).decode())
