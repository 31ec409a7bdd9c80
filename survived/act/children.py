"""
Starts the children that share the work on a large tree; what they do is in `child.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys


def start_child(work: str, words: list[str], fds: tuple[int, ...]) -> subprocess.Popen[bytes]:
    """Start a child that does one kind of work with these words and descriptors, and nothing else of ours."""
    house = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return subprocess.Popen(
        [sys.executable, "-P", "-S", "-m", "survived.act.child", work, *words],  # no site: nothing of others is needed
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, pass_fds=fds, cwd="/", process_group=0,  # Ctrl-C is for us
        env={"PYTHONPATH": house, "PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
