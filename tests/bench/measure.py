"""
A child of run.py: print the seconds that measuring the given tree takes in a running Python, and the peaks of its memory.

With a second path, of a database, the tree is measured by what is known of it there: in full the first time, then quickly.
"""

from __future__ import annotations

import sys
import time

from survived.observe import parallel
from survived.observe.tree import measure_tree
from survived.store.database import Database
from survived.store.known import SCHEMA, KnownTrees


def peak(pid: int | str) -> int:
    """Return the most memory a process has had resident, in KiB."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))


class Watched(parallel.Helper):
    """Notes what the second process had before it ends."""

    peak = 0

    def bring_home(self) -> None:
        """Add what the child counted."""
        super().bring_home()
        if self._child is not None:
            Watched.peak = peak(self._child.pid)


keeper = KnownTrees(Database(sys.argv[2], SCHEMA)) if len(sys.argv) > 2 else None
setattr(sys.modules["survived.observe.tree"], "Helper", Watched)  # noqa: B010 - a patch, and mypy should not see a constant
before = peak("self")
began = time.perf_counter()
measure_tree(sys.argv[1], keeper=keeper)
print(time.perf_counter() - began, peak("self") - before, Watched.peak)
