"""
A child that looks through an old tree with us, and then removes it with us: each takes branches of it until none is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import TYPE_CHECKING

from survived.act import fs
from survived.act.branches import Queue, branches_of, start_child, take
from survived.act.stillness import Stillness
from survived.errors import SurvivedError

if TYPE_CHECKING:
    from collections.abc import Callable


def remove(parent_fd: int, name: str, tick: Callable[[int], None]) -> None:
    """Remove a large tree as `fs.remove_tree` does, with a child's help."""
    with fs.opened(name, dir_fd=parent_fd) as top_fd, Partner(top_fd) as partner:
        partner.remove(parent_fd, name, tick)


class Partner:
    """A child that looks through an old tree with us and then removes it with us; it is ready while we begin."""

    def __init__(self, top_fd: int) -> None:
        self._top_fd = top_fd
        self._branches = branches_of(top_fd)
        self._looks, self._removals = Queue(self._branches), Queue(self._branches)
        fds = (*self._looks.fds, *self._removals.fds)
        self._child = start_child("partner", [*map(str, (top_fd, *fds))], (top_fd, *fds))

    def __enter__(self) -> Partner:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()
        self._looks.close()
        self._removals.close()
        if self._child.stdout is not None:
            self._child.stdout.close()

    def look(self, tick: Callable[[int], None]) -> Stillness:
        """Return what `stillness.look_through` would; `SurvivedError` if the child is lost."""
        found = Stillness()
        self._looks.open()
        found.look(self._top_fd, tick, skip=frozenset(self._branches))
        for branch in self._looks.take():
            _look_branch(self._top_fd, branch, found, tick)
        line = self._child.stdout.readline() if self._child.stdout is not None else b""
        if not line:
            raise SurvivedError("The second process that looked through the old place ended early.")
        said = json.loads(line)
        written = [os.fsdecode(bytes.fromhex(path)) for path in said["written"]]
        found.add(said["latest_ns"], written, is_whole=said["is_whole"])
        return found

    def remove(self, parent_fd: int, name: str, tick: Callable[[int], None]) -> None:
        """Remove the tree, which is called so now, and what the two leave of it."""
        self._looks.shut()
        self._removals.open()
        for branch in self._removals.take():
            _remove_branch(self._top_fd, branch, tick)
        while self._child.poll() is None:
            tick(0)
            time.sleep(0.002)
        fs.remove_tree(parent_fd, name, tick)


def _look_branch(top_fd: int, branch: str, found: Stillness, tick: Callable[[int], None]) -> None:
    try:
        found.look(top_fd, tick, branch)
    except FileNotFoundError:
        found.is_whole = False


def _remove_branch(top_fd: int, branch: str, tick: Callable[[int], None]) -> None:
    folder, _, name = branch.rpartition("/")
    with contextlib.suppress(OSError):  # a folder that may not be written: whoever comes last makes it writable
        folder_fd = fs.open_below(top_fd, folder)
        try:
            fs.remove_tree(folder_fd, name, tick)
        finally:
            os.close(folder_fd)


def _finish(top_fd: int, looks: int, look_names: int, removals: int, removal_names: int) -> None:
    found = Stillness()
    for branch in take(looks, look_names):
        _look_branch(top_fd, branch, found, lambda _: None)
    written = [os.fsencode(path).hex() for path in found.written]
    said = {"latest_ns": found.latest_ns, "is_whole": found.is_whole, "written": written}
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()
    for branch in take(removals, removal_names):
        _remove_branch(top_fd, branch, lambda _: None)


def main() -> None:
    """Be the child: `TOP_FD QUEUE_FD NAMES_FD QUEUE_FD NAMES_FD`."""
    fs.die_with_parent()
    _finish(*map(int, sys.argv[1:]))


if __name__ == "__main__":
    main()
