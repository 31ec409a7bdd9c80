"""A neighbour on a shared machine who races us: a process of another uid that swaps names for links as fast as it can."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import struct
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ATTACKER = 12346
_libc = ctypes.CDLL(None, use_errno=True)
_EXCHANGE = 2


class Strikes:
    """How often the attacker succeeded, shared with its process."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, 8)

    def add(self) -> None:
        """Count one."""
        self._page[:] = struct.pack("q", self.count + 1)

    @property
    def count(self) -> int:
        """So many."""
        return int(struct.unpack("q", self._page[:])[0])


@contextmanager
def attacking(*strikes: Callable[[], object], uid: int = ATTACKER, share: float = 1.0) -> Iterator[Strikes]:
    """
    Run these in turn in a tight loop in a process of that uid, needs root; what the kernel denies it is tried again.

    With a `share` below 1 it strikes only in that share of each second, so that between two assaults something can succeed.
    """
    counted = Strikes()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            while True:
                while time.time() % 1 > share:
                    time.sleep(0.001)
                for strike in strikes:
                    with suppress(OSError):
                        strike()
                        counted.add()
        finally:
            os._exit(1)
    try:
        yield counted
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def swap(one: Path | str, other: Path | str) -> None:
    """Exchange two names in one step, so that each is always something."""
    if _libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), ctypes.c_uint(_EXCHANGE)) < 0:
        raise OSError(ctypes.get_errno(), "exchange")


def replace_by_link(name: Path, to: Path, aside: Path) -> None:
    """Move a name aside, put a link in its place, and put it back: three steps, between each of which we may come."""
    os.rename(name, aside)
    try:
        os.symlink(to, name)
        os.unlink(name)
    finally:
        os.rename(aside, name)
