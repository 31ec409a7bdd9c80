"""Names and shapes: bytes that are no text, lengths at the limits, depth and width."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.rig.nasty.tree import Context, Tree

if TYPE_CHECKING:
    from collections.abc import Callable

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def _named(*names: bytes) -> Callable[[Context], None]:
    """Return a builder that makes a file, a folder and a link to it of each name."""

    def build(ctx: Context) -> None:
        for name in names:
            ctx.file(b"files/" + name, name)
            ctx.folder(b"folders/" + name)
            os.makedirs(bytes(ctx.root) + b"/links", exist_ok=True)
            os.symlink(b"../files/" + name, bytes(ctx.root) + b"/links/" + name)

    return build


def _deep(name: str, levels: int) -> Callable[[Context], None]:
    def build(ctx: Context) -> None:
        ctx.file("beside")
        fd = os.open(ctx.root, _DIRECTORY)
        for _ in range(levels):
            os.mkdir(name, dir_fd=fd)
            deeper = os.open(name, _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = deeper
        end = os.open("end", os.O_CREAT | os.O_WRONLY, 0o640, dir_fd=fd)
        os.write(end, b"so deep")
        os.close(end)
        os.link("end", "same", src_dir_fd=fd, dst_dir_fd=fd)
        os.symlink("end", "to", dir_fd=fd)
        os.close(fd)

    return build


def _flat(count: int) -> Callable[[Context], None]:
    def build(ctx: Context) -> None:
        fd = os.open(ctx.root, _DIRECTORY)
        for number in range(count):
            os.close(os.open(f"entry-{number:06d}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644, dir_fd=fd))
        os.close(fd)

    return build


def _siblings(ctx: Context) -> None:
    for number in range(2_000):
        (ctx.root / f"{number}").mkdir()
    ctx.file("1999/f")


def _empty_things(ctx: Context) -> None:
    (ctx.root / "a/b/c").mkdir(parents=True)
    for name in ("x", "a/y", "a/b/z"):
        ctx.file(name, b"")


_EVERY = tuple(bytes((byte,)) for byte in range(1, 256) if byte not in b"/.")
TREES: tuple[Tree, ...] = (
    Tree("names-not-utf8", _named(b"\xff\xfe", b"caf\xe9", b"\xc3", b"\xed\xa0\x80", b"\x80" * 255), portable=True, user="moved"),
    Tree("names-newlines", _named(b"a\nb", b"\n", b"\r", b"\t\x1b[31m", b"\x01\x7f"), portable=True),
    Tree("names-255-bytes", _named(b"n" * 255, "é".encode() * 127 + b"x", "文".encode() * 85), portable=True),
    Tree("names-every-byte", _named(*_EVERY), portable=True),
    Tree(
        "names-like-options", _named(b"-rf", b"--", b"--delete", b"*", b"~", b"$HOME", b"%s", b"\\012", b" ", b"'\""), portable=True
    ),
    Tree("names-of-dots", _named(b"...", b"..a", b".hidden", b"end.", b"end ", b".survived-0-1", b"LOCK", b"STORE"), portable=True),
    Tree("names-that-look-alike", _named("é".encode(), "e\u0301".encode(), b"A", b"a", b"a ", "ａ".encode()), portable=True),
    Tree("source-not-utf8", _named(b"f"), source=b"caf\xe9\n %s"),
    Tree("source-255-bytes", _named(b"f"), source=b"s" * 255),
    Tree("path-beyond-path-max", _deep("n" * 240, 20), portable=True, user="moved"),
    Tree("levels-1200", _deep("d", 1200)),
    Tree("folders-2000", _siblings),
    Tree("entries-200000", _flat(200_000), many=True, left_out="takes each a minute"),
    Tree("empty", lambda ctx: None, user="moved"),
    Tree("empty-folders-and-files", _empty_things, portable=True),
)
