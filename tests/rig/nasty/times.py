"""Times before, after and between those that programs expect."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.rig.nasty.tree import Context, Tree

if TYPE_CHECKING:
    from collections.abc import Callable

_SECOND = 10**9


def _files(*times: int) -> Callable[[Context], None]:
    """Return a builder of a file, a folder and a link of each time, in ns."""

    def build(ctx: Context) -> None:
        for number, at in enumerate(times):
            os.symlink("f", ctx.root / f"to{number}")
            for place in (ctx.file(f"f{number}"), ctx.folder(f"d{number}"), ctx.root / f"to{number}"):
                os.utime(place, ns=(at, at), follow_symlinks=False)

    return build


def _folders(ctx: Context) -> None:
    """A folder's own time is older than what is in it, at every level, the root's too."""
    ctx.file("a/b/c/f")
    for number, name in enumerate(("a/b/c", "a/b", "a", ".")):
        os.utime(ctx.root / name, ns=(5, number * _SECOND + 7))


def _links(ctx: Context) -> None:
    os.symlink("nowhere", ctx.root / "dangling")
    os.symlink("f", ctx.root / "to")
    ctx.file("f")
    for number, name in enumerate(("dangling", "to", "f")):
        with ctx.as_root():
            os.chown(ctx.root / name, 100 + number, 200 + number, follow_symlinks=False)
            os.utime(ctx.root / name, ns=(number, number + 11), follow_symlinks=False)


TREES: tuple[Tree, ...] = (
    Tree("times-before-1970", _files(-1, -_SECOND, -_SECOND * (2**31 - 1) + 1, -1_000_000_001), portable=True, user="moved"),
    Tree("times-after-2038", _files(2**31 * _SECOND, 2**32 * _SECOND + 999_999_999, 13_000_000_000 * _SECOND), portable=True),
    Tree("times-to-the-nanosecond", _files(0, 1, 999_999_999, 1_234_567_890_123_456_789), portable=True, user="moved"),
    Tree("times-of-folders", _folders, portable=True, user="moved"),
    Tree("times-and-owners-of-links", _links, portable=True),
)
