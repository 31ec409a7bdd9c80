"""Modes, owners and what a folder hands down to what is made in it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from survived.model import Reason
from tests.rig.nasty.tree import Context, Tree, run

if TYPE_CHECKING:
    from collections.abc import Callable

_SOMEBODY, _GROUP = 54_321, 54_322


def _folders(*modes: int) -> Callable[[Context], None]:
    """Return a builder of folders with these modes, each with a file, a folder and a link in it."""

    def build(ctx: Context) -> None:
        for mode in modes:
            folder = ctx.folder(f"{mode:04o}")
            ctx.folder(f"{mode:04o}/below")
            os.symlink("f", folder / "to")
            folder.chmod(mode)

    return build


def _files(*modes: int) -> Callable[[Context], None]:
    def build(ctx: Context) -> None:
        for mode in modes:
            ctx.file(f"{mode:04o}").chmod(mode)

    return build


def _root(mode: int) -> Callable[[Context], None]:
    def build(ctx: Context) -> None:
        ctx.folder("d")
        ctx.root.chmod(mode)

    return build


def _go_cache(ctx: Context) -> None:
    """Everything is read-only, as in Go's module cache."""
    for name in ("m@v1/p/q/f.go", "m@v1/p/g.go", "m@v2/h.go"):
        ctx.file(name).chmod(0o444)
    for name in ("m@v1/p/q", "m@v1/p", "m@v1", "m@v2"):
        (ctx.root / name).chmod(0o555)
    ctx.root.chmod(0o555)


def _owners(ctx: Context) -> None:
    folder, path = ctx.folder("theirs"), ctx.file("mine")
    os.symlink("mine", ctx.root / "to")
    os.mkfifo(ctx.root / "pipe")
    with ctx.as_root():
        os.chown(folder, _SOMEBODY, _GROUP)
        os.chown(folder / "f", 4_294_967_294, 4_294_967_294)
        os.chown(path, 0, _GROUP)
        os.chown(ctx.root / "to", _SOMEBODY, _GROUP, follow_symlinks=False)
        os.chown(ctx.root / "pipe", _SOMEBODY, 0)


def _setuid_of_others(ctx: Context) -> None:
    path = ctx.file("su")
    os.chown(path, _SOMEBODY, _GROUP)
    path.chmod(0o6755)


def _foreign_group(ctx: Context) -> None:
    """Ours, but with a group that an ordinary user cannot give to a copy."""
    path = ctx.file("d/f")
    with ctx.as_root():
        os.chown(path, -1, _GROUP)


def _foreign_root(ctx: Context) -> None:
    ctx.file("f")
    with ctx.as_root():
        os.chown(ctx.root, _SOMEBODY, _GROUP)


def _parent_with_default_acl(ctx: Context) -> None:
    ctx.folder("d")
    run("setfacl", "-d", "-m", f"u:{_SOMEBODY}:rwx,g:{_GROUP}:rx", ctx.root.parent)
    ctx.undo("setfacl", "-k", ctx.root.parent)


def _parent_setgid(ctx: Context) -> None:
    ctx.folder("d")
    os.chown(ctx.root.parent, -1, _GROUP)
    ctx.root.parent.chmod(0o2755)
    ctx.stack.callback(ctx.root.parent.chmod, 0o755)
    ctx.stack.callback(os.chown, ctx.root.parent, -1, 0)


def _parent_open_to_others(ctx: Context) -> None:
    ctx.folder("d")
    ctx.root.parent.chmod(0o777)
    ctx.stack.callback(ctx.root.parent.chmod, 0o755)


TREES: tuple[Tree, ...] = (
    Tree("folders-0000", _folders(0), portable=True, user=Reason.UNREADABLE),
    Tree("folders-without-write", _folders(0o555, 0o500, 0o111), portable=True, user=Reason.UNREADABLE),
    Tree("folders-0555", _folders(0o555, 0o500), user="moved"),
    Tree("read-only-everywhere", _go_cache, portable=True, user="moved"),
    Tree("files-0000", _files(0), portable=True, user=Reason.UNREADABLE),
    Tree("files-write-only", _files(0o200, 0o222), portable=True, user=Reason.UNREADABLE),
    Tree("files-setuid-setgid", _files(0o4755, 0o2755, 0o6711, 0o4000, 0o7777), portable=True),
    Tree("files-of-ones-own-setuid", _files(0o4755, 0o2755, 0o1644, 0o6511), user="moved"),
    Tree("folders-sticky-setgid", _folders(0o1777, 0o2775, 0o3770, 0o7777), portable=True, user="moved"),
    Tree("root-0555", _root(0o555), user="moved"),
    Tree("root-0700", _root(0o700), user="moved"),
    Tree("root-0000", _root(0), user=Reason.UNREADABLE),
    Tree("root-sticky-setgid", _root(0o3777), user="moved"),
    Tree("foreign-owners", _owners, portable=True, user=Reason.NOT_OURS),
    Tree("setuid-of-others", _setuid_of_others, portable=True),
    Tree("foreign-group", _foreign_group, portable=True, user=Reason.NOT_OURS),
    Tree("foreign-root", _foreign_root, portable=True, user=Reason.NOT_OURS),
    Tree("parent-with-default-acl", _parent_with_default_acl),
    Tree("parent-setgid", _parent_setgid),
    Tree("parent-open-to-others", _parent_open_to_others, Reason.EXPOSED),
)
