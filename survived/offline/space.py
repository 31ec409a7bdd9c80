"""
Room for a bundle: measured before anything is written, on the disk that will hold it, with a margin that stays free.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from survived.errors import Refused, SurvivedError, cause_of
from survived.terms import Reason
from survived.units import print_bytes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

MARGIN_SHARE, MARGIN_BYTES = 0.02, 1 << 30
"""What stays free: 2 % of the filesystem, 1 GiB at the most."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


def nearest(path: str) -> str:
    """Return the path, or the nearest folder above it that exists."""
    path = os.path.abspath(path)
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def is_on(path: str, devices: Collection[int]) -> bool:
    """Tell whether a path, or what of it exists, lies on one of these filesystems."""
    return os.stat(nearest(path)).st_dev in devices


def require(path: str, size: int, verb: str) -> None:
    """Raise `Refused` (no_room) unless the filesystem of `path` takes `size` bytes more and keeps its margin."""
    found = os.statvfs(nearest(path))
    free = found.f_bavail * found.f_frsize
    margin = min(int(found.f_blocks * found.f_frsize * MARGIN_SHARE), MARGIN_BYTES)
    if size + margin > free:
        why = f"{print_bytes(size)} are needed, {print_bytes(free)} are free, and {print_bytes(margin)} are to stay free"
        raise Refused(
            Reason.NO_ROOM,
            f"Cannot {verb} '{path}': {why}. Nothing was written there.",
            "Make room, or name another disk: see --help.",
        )


@contextlib.contextmanager
def explained(verb: str, path: str, kept: str) -> Iterator[None]:
    """Turn a full disk, a quota or any other word of the kernel in the block into one sentence; `kept` says what is left."""
    try:
        yield
    except OSError as error:
        where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else path
        why = cause_of(error)
        hint = "Make room, then run the same command again: it goes on where it stopped." if error.errno in _FULL else None
        raise SurvivedError(f"Cannot {verb} '{where}': {why}. {kept}", hint) from error
