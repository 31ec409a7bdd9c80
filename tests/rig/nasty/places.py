"""Sources that are wrong as a whole: the home, the system, ourselves, a link, a file, nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

from survived.model import Reason
from tests.rig.nasty.tree import Context, Tree


def _interpreter(ctx: Context) -> None:
    """The environment that we run from; the test suite also does it with a real one."""
    ctx.folder("venv/bin")
    ctx.stack.enter_context(mock.patch.object(sys, "prefix", str(ctx.root / "venv")))


def _link(ctx: Context) -> None:
    ctx.root.rmdir()
    ctx.root.symlink_to(ctx.outside)
    (ctx.outside / "f").write_text("x")


def _file(ctx: Context) -> None:
    ctx.root.rmdir()
    ctx.root.write_text("x")


def _holds_home(ctx: Context) -> Path:
    ctx.folder("d")
    return ctx.home.parent


def _home(ctx: Context) -> Path:
    ctx.folder("d")
    return ctx.home


_OURS = "not ours to move"
TREES: tuple[Tree, ...] = (
    Tree("the-home", _home, Reason.HOME_ITSELF, "your home directory", left_out=_OURS),
    Tree("what-holds-the-home", _holds_home, Reason.HOME_ITSELF, "your home directory", left_out=_OURS, look=False),
    Tree("the-root", lambda ctx: Path("/"), Reason.HOME_ITSELF, "your home directory", left_out=_OURS, look=False),
    Tree("the-system", lambda ctx: Path("/usr/share"), Reason.SYSTEM, "belongs to the system", left_out=_OURS, look=False),
    Tree("our-own-interpreter", _interpreter, Reason.INTERPRETER, "survived itself runs from there", left_out=_OURS),
    Tree("a-link", _link, Reason.ALREADY_LINK, "it is a link already", left_out=_OURS),
    Tree("a-file", _file, Reason.NOT_A_DIRECTORY, "it is not a directory", left_out=_OURS),
    Tree("nothing", lambda ctx: ctx.root.rmdir(), Reason.ABSENT, "no such file", left_out=_OURS, look=False),
)
