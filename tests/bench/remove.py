"""A child of run.py: print the seconds that removing the given tree takes, as after an exchange."""

from __future__ import annotations

import os
import sys
import time

from survived.act import fs, partner

folder, name = os.path.split(sys.argv[1])
with fs.opened(folder) as fd:
    began = time.perf_counter()
    partner.remove(fd, name, lambda _: None)
print(time.perf_counter() - began)
