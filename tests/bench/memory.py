"""
A child of run.py: make a tree of FILES names on HOME, a tenth of them second ones, and relocate it to a store on DATA.

Prints the seconds, then, in KiB, its own peak before and after, and the highest of its helpers: VmHWM, for what getrusage
tells goes on from whoever started a process. The tree is made by another process.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading
from contextlib import suppress
from pathlib import Path

from tests.bench.trees import make_wide_tree


def peak(pid: int | str) -> int:
    """Return the most that a process has had resident, in KiB; 0 if it is gone."""
    with suppress(OSError, StopIteration):
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        return int(next(line for line in text.splitlines() if line.startswith("VmHWM")).split()[1])
    return 0


def watch(ended: threading.Event, highest: list[int]) -> None:
    """Look at our children until the end."""
    while not ended.wait(0.02):
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()
        highest[0] = max(highest[0], *(peak(pid) for pid in children), 0)


home, data, files = sys.argv[1:]
source = Path(home) / "cache"
if (pid := os.fork()) == 0:
    make_wide_tree(source, int(files))
    os._exit(0)
if os.waitpid(pid, 0)[1] != 0:
    sys.exit("the tree could not be made")
for name in ("survived.act.relocate", "survived.act.child", "survived.store.journal", "survived.observe.tree"):
    __import__(name)
before = peak("self")
over, most_of_child = threading.Event(), [0]
watcher = threading.Thread(target=watch, args=(over, most_of_child))
watcher.start()
sys.argv = ["relocate.py", str(source), data]
try:
    runpy.run_path(str(Path(__file__).with_name("relocate.py")))
except SystemExit as end:
    if end.code:
        raise
finally:
    over.set()
    watcher.join()
print(before, peak("self"), most_of_child[0])
