"""
A child of run.py: relocate SOURCE into the store on DISK with the real engine and journal, as the daemon's worker does.

A third argument is a rate in bytes a second, 0 for no limit, and makes it step back as the worker does.

Prints the seconds until the copy is complete, synced and looked at again, and those for all that a running daemon does then:
exchange, a look for late writers, removal of the old tree. It has measured the tree before, so that is not counted.
"""

from __future__ import annotations

import os
import sys
import threading
import time

from survived.act import fs
from survived.act.ballast import Ballast
from survived.act.relocate import Ends, relocate
from survived.act.task import Task
from survived.act.transfer import Care
from survived.model import Mark, Stage
from survived.observe.disks import read_filesystem
from survived.observe.tree import measure_tree
from survived.store.database import Database
from survived.store.journal import SCHEMA, Journal
from survived.store.layout import open_store, read_store

source, disk, *more = sys.argv[1:]
if more:  # beside neighbours: as polite as the worker, at a rate
    fs.step_back()
reading = read_store(disk, read_filesystem(disk), uid=os.getuid(), avoid=())
store = open_store(reading, uid=os.getuid())
ends = Ends(
    store=store,
    journal=Journal(Database(os.path.join(store.path, "state.db"), SCHEMA)),
    ballast=Ballast(os.path.dirname(source), 0),
    home=os.path.dirname(source),
)
size = measure_tree(source)
copied = 0.0


class Timed(Task):
    """Notes when the copy is done."""

    def enter(self, phase: str) -> None:
        """Begin a phase."""
        global copied
        if phase == "exchange":
            copied = time.perf_counter() - began
        super().enter(phase)


began = time.perf_counter()
done = relocate(
    ends,
    "pip",
    source,
    size=size,
    keep_free=Mark(usage=0.95),
    lock=(),
    care=Care(settle_seconds=0.0, rate=int(more[0]) if more else 0),
    task=Timed(threading.Event()),
)
print(copied, time.perf_counter() - began)
sys.exit(0 if done.stage is Stage.DONE else f"the move ended at {done.stage}")
