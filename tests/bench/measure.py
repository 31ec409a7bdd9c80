"""A child of run.py: print the seconds that measuring the given tree takes in a running Python."""

from __future__ import annotations

import sys
import time

from survived.observe.tree import measure_tree

began = time.perf_counter()
measure_tree(sys.argv[1])
print(time.perf_counter() - began)
