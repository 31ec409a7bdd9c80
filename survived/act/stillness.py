"""
One look at a tree that is to go: does anybody still write there, and what is the latest that ever happened in it?
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from survived.act.leases import is_written
from survived.act.looking import walk

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


class Stillness:
    """
    What was found of a tree, or of some of its branches.

    `latest_ns` is the latest ctime of all but the root, whose own an exchange moves; `is_whole`: nothing vanished meanwhile
    and nothing is mounted there; `written` are paths of files that somebody has open for writing or mapped so.
    """

    def __init__(self) -> None:
        self.latest_ns, self.is_whole = 0, True
        self.written: list[str] = []

    def add(self, latest_ns: int, written: list[str], *, is_whole: bool) -> None:
        """Take in what another process found."""
        self.latest_ns = max(self.latest_ns, latest_ns)
        self.is_whole &= is_whole
        self.written += written

    def look(
        self, top_fd: int, tick: Callable[[int], None], branch: str = "", skip: Collection[str] = (), *, leases: bool = True
    ) -> None:
        """Look at a branch of a tree, without those to skip. `leases`: also ask about every file who writes there."""
        device = os.fstat(top_fd).st_dev
        for fd, name, path, info in walk(top_fd, branch, skip, once=True):
            if info is None or (not name and info.st_dev != device):
                self.is_whole = False
                continue
            if name or path:
                self.latest_ns = max(self.latest_ns, info.st_ctime_ns)
            if leases and name and stat.S_ISREG(info.st_mode) and is_written(name, fd):
                self.written.append(f"{path}{name}")
            tick(1)

    def look_branch(self, top_fd: int, branch: str, tick: Callable[[int], None]) -> None:
        """Look at a branch that may have vanished meanwhile."""
        try:
            self.look(top_fd, tick, branch)
        except FileNotFoundError:
            self.is_whole = False


def look_through(top_fd: int, tick: Callable[[int], None], *, leases: bool = True) -> Stillness:
    """Look at a whole tree."""
    found = Stillness()
    found.look(top_fd, tick, leases=leases)
    return found
