"""
A child that looks through an old tree with us, and then removes it with us: each takes branches of it until none is left.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from survived.act import fs
from survived.act.branches import Queue, branches_of
from survived.act.children import start_child
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
            found.look_branch(self._top_fd, branch, tick)
        line = self._child.stdout.readline() if self._child.stdout is not None else b""
        if not line:
            raise SurvivedError("The second process that looked through the old place ended early.")
        latest_ns, is_whole, *written = line.decode().split()
        found.add(int(latest_ns), [os.fsdecode(bytes.fromhex(path)) for path in written], is_whole=is_whole == "1")
        return found

    def remove(self, parent_fd: int, name: str, tick: Callable[[int], None]) -> None:
        """Remove the tree, which is called so now, and what the two leave of it."""
        self._looks.shut()
        self._removals.open()
        for branch in self._removals.take():
            fs.remove_branch(self._top_fd, branch, tick)
        while self._child.poll() is None:
            tick(0)
            time.sleep(0.002)
        fs.remove_tree(parent_fd, name, tick)
