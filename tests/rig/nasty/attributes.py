"""Extended attributes, ACLs and capabilities."""

from __future__ import annotations

import os
import struct

from survived.model import Reason
from tests.rig.nasty.tree import Context, Tree, run

_CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # version 2, effective: cap_net_bind_service


def _user(ctx: Context) -> None:
    folder, path = ctx.folder("d"), ctx.file("f")
    for place in (folder, path, ctx.file("read-only")):
        os.setxattr(place, "user.empty", b"")
        os.setxattr(place, "user.bytes", bytes(range(256)))
        os.setxattr(place, "user." + "é" * 100, b"odd name")
    (ctx.root / "read-only").chmod(0o444)
    for number in range(40):
        os.setxattr(path, f"user.many.{number}", b"%d" % number)
    os.setxattr(ctx.file("big"), "user.big", b"b" * 3000)


def _trusted(ctx: Context) -> None:
    os.symlink("nowhere", ctx.root / "to")
    os.mkfifo(ctx.root / "pipe")
    for place in (ctx.folder("d"), ctx.file("f"), ctx.root / "to", ctx.root / "pipe"):
        os.setxattr(place, "trusted.note", b"only root sees this", follow_symlinks=False)


def _acls(ctx: Context) -> None:
    os.mkfifo(ctx.root / "pipe")
    for place in (ctx.folder("d"), ctx.file("f"), ctx.root / "pipe"):
        run("setfacl", "-m", "u:1:rw,u:54321:---,g:2:r,m::r", place)
    path = ctx.file("locked")
    path.chmod(0)
    run("setfacl", "-n", "-m", "u:1:rwx", path)


def _default_acls(ctx: Context) -> None:
    folder = ctx.folder("d")
    run("setfacl", "-d", "-m", "u:1:rwx,g:2:rx", folder)
    ctx.folder("d/inherits")
    ctx.file("d/inherits-too")
    plain = ctx.folder("plain")
    plain.rename(folder / "plain")
    run("setfacl", "-d", "-m", "u:3:r", ctx.folder("empty"))


def _root_with_default_acl(ctx: Context) -> None:
    plain = ctx.outside / "plain"
    plain.write_text("has no ACL of its own")
    run("setfacl", "-m", "u:1:rx", "-d", "-m", "u:1:rwx", ctx.root)
    plain.rename(ctx.root / "plain")
    ctx.folder("d")


def _capability(ctx: Context) -> None:
    path = ctx.file("server", b"#!/bin/true\n")
    path.chmod(0o4755)
    with ctx.as_root():
        os.setxattr(path, "security.capability", _CAPABILITY)


def _only_the_root(ctx: Context) -> None:
    os.setxattr(ctx.root, "user.note", b"the tree is empty but for this")
    os.setxattr(ctx.root, "user.other", b"")


def _of_an_overlay(ctx: Context) -> None:
    """What an overlay wrote into its upper layer, moved as a plain tree."""
    os.setxattr(ctx.folder("d"), "trusted.overlay.opaque", b"y")
    os.setxattr(ctx.folder("e"), "trusted.overlay.redirect", b"/elsewhere")


TREES: tuple[Tree, ...] = (
    Tree("attributes-of-users", _user, portable=True, user="moved"),
    Tree("attributes-trusted", _trusted, portable=True),
    Tree("attributes-of-the-root-alone", _only_the_root, portable=True, user="moved"),
    Tree("attributes-of-an-overlay", _of_an_overlay),
    Tree("acls", _acls, portable=True, user=Reason.UNREADABLE),
    Tree("acls-by-default", _default_acls, portable=True, user="moved"),
    Tree("acls-of-the-root", _root_with_default_acl, user="moved"),
    Tree("capability", _capability, portable=True, user=Reason.UNFAITHFUL),
)
