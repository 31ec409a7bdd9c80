"""The directories that a walk has still to read: a list of paths with the inodes they must be, and who takes some of them."""

from __future__ import annotations

from typing import Protocol

Todo = list[tuple[str, int]]
"""Of a very wide directory many stand as one text, with `PACKED` for an inode."""
PACKED = -1
MOST_LOOSE = 16_384
Frame = tuple[str, str, Todo]
"""Of a walk's stack: the path below its newest anchor with its slash, the same below the root, what is still to do there."""
_GIVE = 64


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


def take_half(stack: list[Frame], longest: int) -> Todo:
    """
    Take half of what is nearest to the root, where the largest branches are, out of a walk's stack, and never very much.

    Return it as paths below the root; nothing if there is too little to share, or only below paths longer than `longest`.
    """
    for depth, (_, prefix, todo) in enumerate(stack):
        if len(prefix) > longest:
            return []
        if todo and todo[0][1] == PACKED:
            todo[:1] = unpack(todo[0][0])
        number = min(_GIVE, (len(todo) + 1) // 2)
        if PACKED in (inode for _, inode in todo[:number]):
            return []
        if number and (len(todo) > 1 or depth + 1 < len(stack)):
            taken = [(prefix + name, inode) for name, inode in todo[:number]]
            del todo[:number]
            return taken
    return []
