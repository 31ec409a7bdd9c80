"""Holes, preallocated blocks and sizes around the limits of blocks and chunks."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

from tests.rig.nasty.tree import Context, Tree

if TYPE_CHECKING:
    from collections.abc import Callable

_MIB = 1 << 20
_KEEP_SIZE = 1


def _holes(size: int, *pieces: int) -> Callable[[Context], None]:
    """Return a builder of one file of `size` with 64 KiB of data at each of `pieces`."""

    def build(ctx: Context) -> None:
        with open(ctx.file("f", b""), "r+b") as file:
            file.truncate(size)
            for at in pieces:
                file.seek(at)
                file.write(os.urandom(min(1 << 16, size - at)))
            file.flush()
            os.fsync(file.fileno())

    return build


def _preallocated(ctx: Context) -> None:
    with open(ctx.file("f", b"begin"), "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 3 * _MIB)
        os.pwrite(file.fileno(), b"in the middle", _MIB)
        os.fsync(file.fileno())


def _preallocated_beyond(ctx: Context) -> None:
    """A hole in front of blocks beyond the end: by its blocks the file looks full."""
    with open(ctx.file("f", b""), "r+b") as file:
        file.truncate(2 * _MIB)
        os.pwrite(file.fileno(), b"end", 2 * _MIB - 3)
        call = ctypes.CDLL(None, use_errno=True).fallocate64
        if call(file.fileno(), _KEEP_SIZE, ctypes.c_int64(2 * _MIB), ctypes.c_int64(4 * _MIB)) != 0:
            raise OSError(ctypes.get_errno(), "fallocate")
        os.fsync(file.fileno())


def _zeros(ctx: Context) -> None:
    """Zeros that were written are no hole and take their blocks."""
    ctx.file("f", bytes(3 * _MIB))


def _sizes(ctx: Context) -> None:
    for size in (0, 1, 59, 511, 512, 4095, 4096, 4097, 65_535, _MIB - 1, _MIB, _MIB + 1, 17 * _MIB + 3):
        ctx.file(f"{size}", os.urandom(size))


TREES: tuple[Tree, ...] = (
    Tree("sparse-1-tb", _holes(1 << 40, 0, 1 << 39, (1 << 40) - 100), portable=True, user="moved"),
    Tree("hole-at-the-start", _holes(4 * _MIB, 3 * _MIB), portable=True),
    Tree("hole-in-the-middle", _holes(4 * _MIB, 0, 4 * _MIB - (1 << 16)), portable=True),
    Tree("hole-at-the-end", _holes(4 * _MIB, 0), portable=True),
    Tree("nothing-but-a-hole", _holes(64 * _MIB), portable=True),
    Tree("holes-500", _holes(64 * _MIB, *range(0, 63 * _MIB, 1 << 17)), portable=True),
    Tree("preallocated", _preallocated, portable=True),
    Tree("preallocated-beyond-the-end", _preallocated_beyond),
    Tree("zeros-that-were-written", _zeros, portable=True),
    Tree("sizes", _sizes, portable=True, user="moved"),
)
