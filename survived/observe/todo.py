"""The directories that a walk has still to read: a list of paths with the inodes they must be, and who takes some of them."""

from __future__ import annotations

from typing import Protocol

Todo = list[tuple[str, int]]
"""Of a very wide directory many stand as one text, with `PACKED` for an inode."""
PACKED = -1
MOST_LOOSE = 16_384


class Peer(Protocol):
    """The other process of a measurement."""

    def wants(self, seen: int) -> bool:
        """Tell whether it has nothing to do; asked once for each directory, with the entries read so far."""

    def give(self, todo: Todo) -> None:
        """Hand it directories, as paths below the tree's root."""

    def take(self) -> Todo:
        """Wait for directories from it; none when all is done."""


def pack(todo: Todo) -> str:
    """Return them as one text: a million tuples would take 170 MB, which is ten times as much."""
    return "/".join([f"{inode}:{name}" for name, inode in todo])


def unpack(text: str) -> Todo:
    """Undo `pack`."""
    return [(name, int(inode)) for inode, _, name in (item.partition(":") for item in text.split("/"))]
