"""What is neither file, folder nor link; mounts; and what may not be changed."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

from survived.model import Reason
from tests.rig.nasty.tree import Context, Tree, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_BIND = """
import os, socket, sys
os.chdir(sys.argv[1])
s = socket.socket(socket.AF_UNIX, int(sys.argv[3]))
s.bind(sys.argv[2])
if s.type == socket.SOCK_STREAM:
    s.listen()
os.chdir("/")
print(flush=True)
sys.stdin.read()
"""


def _serve(ctx: Context, folder: Path, name: str, kind: int = socket.SOCK_STREAM, *before: str) -> None:
    """Have a process bind a socket by a name relative to `folder` or absolute, and keep it."""
    command = [*before, sys.executable, "-c", _BIND, str(folder), name, str(int(kind))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    ctx.stack.callback(process.communicate)
    if process.stdout is None or not process.stdout.readline():
        raise OSError("the process that should bind a socket did not")


def _bound(kind: int, *before: str, relative: bool = False, name: str = "a socket") -> Callable[[Context], None]:
    def build(ctx: Context) -> None:
        folder = ctx.folder("d e")
        _serve(ctx, folder, name if relative else str(folder / name), kind, *before)

    return build


def _stale(ctx: Context) -> None:
    for name in ("stream", "datagram", "n" * 100):
        fd = os.open(ctx.root, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM if name == "datagram" else socket.SOCK_STREAM) as stale:
            here = os.open(".", os.O_RDONLY)
            os.fchdir(fd)
            try:
                stale.bind(name)
            finally:
                os.fchdir(here)
                os.close(here)
                os.close(fd)
        (ctx.root / name).chmod(0o620)


def _fifos(ctx: Context) -> None:
    os.mkfifo(ctx.root / "pipe", 0o640)
    ctx.folder("d")
    os.mkfifo(ctx.root / "d/pipe", 0o600)
    os.utime(ctx.root / "pipe", ns=(3, 4))


def _device(mode: int, major: int, minor: int) -> Callable[[Context], None]:
    def build(ctx: Context) -> None:
        ctx.folder("d")
        os.mknod(ctx.root / "d/dev", mode, os.makedev(major, minor))

    return build


def _fixed(what: str, flag: str) -> Callable[[Context], None]:
    """Return a builder that gives the flag (chattr) to one place of the tree: "." for its root, ".." for the folder above."""

    def build(ctx: Context) -> None:
        ctx.folder("d")
        place = ctx.root / what
        with ctx.as_root():
            run("chattr", f"+{flag}", place)
        ctx.undo("chattr", f"-{flag}", place)

    return build


def _tmpfs(ctx: Context) -> None:
    folder = ctx.folder("d")
    run("mount", "-t", "tmpfs", "none", folder)
    ctx.undo("umount", folder)
    (folder / "not ours").write_text("of the other filesystem")


def _bind_folder(ctx: Context) -> None:
    folder = ctx.folder("d\n x")
    (ctx.outside / "precious").write_text("not of the tree")
    run("mount", "--bind", ctx.outside, folder)
    ctx.undo("umount", folder)


def _bind_file(ctx: Context) -> None:
    path, other = ctx.file("d/f"), ctx.outside / "precious"
    other.write_text("not of the tree")
    run("mount", "--bind", other, path)
    ctx.undo("umount", path)


def _bind_root(ctx: Context) -> None:
    (ctx.outside / "precious").write_text("not of the tree")
    run("mount", "--bind", ctx.outside, ctx.root)
    ctx.undo("umount", ctx.root)


_IN_USE, _NODE = "it is a socket in use", "'d/dev' in it: it is a device node"
_FIXED, _MOUNT = "immutable or append-only", "mount"
TREES: tuple[Tree, ...] = (
    Tree("pipes", _fifos, portable=True, user="moved"),
    Tree("sockets-stale", _stale, portable=True, user="moved"),
    Tree("socket-bound", _bound(socket.SOCK_STREAM), Reason.SOCKET, _IN_USE),
    Tree("socket-of-datagrams", _bound(socket.SOCK_DGRAM), Reason.SOCKET, _IN_USE),
    Tree("socket-bound-by-a-relative-path", _bound(socket.SOCK_STREAM, relative=True), Reason.SOCKET, _IN_USE),
    Tree("socket-with-a-long-name", _bound(socket.SOCK_SEQPACKET, relative=True, name="s" * 105), Reason.SOCKET, _IN_USE),
    Tree("socket-of-another-network", _bound(socket.SOCK_STREAM, "unshare", "--net"), Reason.SOCKET, _IN_USE),
    Tree("device-of-characters", _device(stat.S_IFCHR | 0o666, 1, 3), Reason.DEVICE_NODE, _NODE),
    Tree("device-of-blocks", _device(stat.S_IFBLK | 0o600, 7, 200), Reason.DEVICE_NODE, _NODE),
    Tree("whiteout", _device(stat.S_IFCHR, 0, 0), Reason.DEVICE_NODE, _NODE),
    Tree("immutable-file", _fixed("d/f", "i"), Reason.IMMUTABLE, f"'d/f' in it: it is {_FIXED}", user=Reason.IMMUTABLE),
    Tree("append-only-file", _fixed("d/f", "a"), Reason.IMMUTABLE, f"'d/f' in it: it is {_FIXED}"),
    Tree("immutable-folder", _fixed("d", "i"), Reason.IMMUTABLE, f"'d' in it: it is {_FIXED}"),
    Tree("append-only-folder", _fixed("d", "a"), Reason.IMMUTABLE, f"'d' in it: it is {_FIXED}"),
    Tree("immutable-root", _fixed(".", "i"), Reason.IMMUTABLE, f"'.' in it: it is {_FIXED}"),
    Tree("immutable-folder-above", _fixed("..", "i"), Reason.IMMUTABLE, f"is {_FIXED}"),
    Tree("append-only-folder-above", _fixed("..", "a"), Reason.IMMUTABLE, f"is {_FIXED}"),
    Tree("mount-inside", _tmpfs, Reason.MOUNT_POINT, _MOUNT),
    Tree("bind-mount-inside", _bind_folder, Reason.MOUNT_POINT, _MOUNT),
    Tree("bind-mount-on-a-file", _bind_file, Reason.MOUNT_POINT, _MOUNT),
    Tree("bind-mount-on-the-root", _bind_root, Reason.MOUNT_POINT, _MOUNT),
)
