"""Hard links and symbolic ones: inside, across, to the outside, in circles and to nowhere."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from survived.model import Reason
from tests.rig.nasty.tree import Context, Tree

if TYPE_CHECKING:
    from collections.abc import Callable


def _hard(ctx: Context) -> None:
    path = ctx.file("a/one", b"1" * 5000)
    ctx.folder("b/c")
    for name in ("a/two", "b/three", "b/c/four", "five"):
        os.link(path, ctx.root / name)
    path.chmod(0o640)
    os.setxattr(path, "user.note", b"shared")


def _hard_of_others(ctx: Context) -> None:
    """Links and FIFOs have second names, too."""
    os.symlink("nowhere", ctx.root / "to")
    os.mkfifo(ctx.root / "pipe")
    ctx.folder("d")
    for name in ("to", "pipe"):
        os.link(ctx.root / name, ctx.root / "d" / name, follow_symlinks=False)


def _hard_outside(ctx: Context) -> None:
    for name in ("a", "b"):
        os.link(ctx.file(name), ctx.outside / name)


def _group_outside(ctx: Context) -> None:
    path = ctx.file("a/one")
    ctx.folder("b")
    os.link(path, ctx.root / "b/two")
    os.link(path, ctx.outside / "three")


def _twins(ctx: Context) -> None:
    """Groups that are alike in all but their inode, interleaved by name."""
    for number in range(12):
        os.link(ctx.file(f"d{number}/a", b"same"), ctx.root / f"z{number}")
        for path in (ctx.root / f"z{number}", ctx.root / f"d{number}"):
            os.utime(path, ns=(1, 1))


def _many_names(ctx: Context) -> None:
    path = ctx.file("f")
    for number in range(3000):
        os.link(path, ctx.root / f"{number}")


def _symbolic(**links: str) -> Callable[[Context], None]:
    """Return a builder of links, by name (_ for /) and text, in a tree that has a/b/f and c/f."""

    def build(ctx: Context) -> None:
        ctx.folder("a/b")
        ctx.folder("c")
        for name, to in links.items():
            os.symlink(to, ctx.root / name.replace("_", "/"))

    return build


def _absolute(ctx: Context) -> None:
    path = ctx.file("d/f")
    for name, to in (("f", path), ("d", path.parent), ("root", ctx.root), ("gone", ctx.root / "gone-since")):
        os.symlink(to, ctx.root / f"to-{name}")
    os.symlink(ctx.outside, ctx.root / "outside")


TREES: tuple[Tree, ...] = (
    Tree("hard-links-across-folders", _hard, portable=True, user="moved"),
    Tree("hard-links-of-links-and-pipes", _hard_of_others, portable=True),
    Tree("hard-links-to-the-outside", _hard_outside),
    Tree("hard-links-one-outside", _group_outside),
    Tree("hard-links-that-look-alike", _twins, portable=True),
    Tree("hard-links-3000", _many_names, portable=True),
    Tree("links-inside", _symbolic(to="a/b/f", a_b_up="../../c/f", a_self=".", dots="a/../c/./f", slash="a//b/"), portable=True),
    Tree("links-absolute-into-itself", _absolute, portable=True),
    Tree("links-in-circles", _symbolic(x="y", y="x", me="me", a_down="../a", a_b_root="../.."), portable=True),
    Tree("links-to-nowhere", _symbolic(gone="not/here", far="/not/here", odd=" \n\x7f", c_gone="../a/nothing"), portable=True),
    Tree("link-of-4000-bytes", _symbolic(long="d/" * 2000)),
    Tree("link-that-leaves", _symbolic(out="../other"), Reason.LEAVING_LINK, "'out' in it", user=Reason.LEAVING_LINK),
    Tree("link-that-leaves-and-comes-back", _symbolic(a_b_out="../../../tool/c/f"), Reason.LEAVING_LINK, "'a/b/out' in it"),
    Tree("link-that-leaves-in-the-middle", _symbolic(a_out="../../tool/../../home"), Reason.LEAVING_LINK, "'a/out' in it"),
)
