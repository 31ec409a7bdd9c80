"""Trees that somebody works in: held while they should move, or changed while they are copied."""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from survived.model import Reason
from tests.rig.nasty.tree import Context, Tree

if TYPE_CHECKING:
    from collections.abc import Callable

_MIB = 1 << 20
_LATER = "a peer has no way to know"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_WAIT = "print(flush=True); sys.stdin.read()"
_HOLD = {
    "read": "f = open('d/f', 'rb')",
    "write": "f = open('d/f', 'ab'); f.write(b'half a record'); f.flush()",
    "path": "f = os.open('d/f', os.O_PATH)",
    "folder": "f = os.open('d', os.O_RDONLY)",
    "unlinked": "f = open('d/gone', 'wb'); os.unlink('d/gone')",
    "mapped": "f = open('d/f', 'r+b'); m = mmap.mmap(f.fileno(), 4); f.close()",
    "mapped-private": "f = open('d/f', 'rb'); m = mmap.mmap(f.fileno(), 4, mmap.MAP_PRIVATE, mmap.PROT_READ); f.close()",
    "flock": "f = open('d/f', 'ab'); fcntl.flock(f, fcntl.LOCK_EX)",
    "lockf": "f = open('d/f', 'ab'); fcntl.lockf(f, fcntl.LOCK_EX)",
    "root": "os.chroot('d')",
    "cwd": "os.chdir('d')",
}


def _start(ctx: Context, command: list[str], **options: Any) -> None:
    """Start a process that says when it is ready and ends with its stdin."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)
    ctx.stack.callback(process.communicate)
    if process.stdout is None or not process.stdout.readline():
        raise OSError("the process that should hold the tree did not start")


def _held(how: str) -> Callable[[Context], None]:
    """Return a builder whose tree a process holds in one of the ways of `_HOLD`."""

    def build(ctx: Context) -> None:
        ctx.folder("d")
        leave = "" if how in ("cwd", "root") else "; os.chdir('/')"
        code = f"import fcntl, mmap, os, sys; {_HOLD[how]}{leave}; {_WAIT}"
        _start(ctx, [sys.executable, "-c", code], cwd=ctx.root)

    return build


def _running(ctx: Context) -> None:
    path = ctx.root / "bin/cat"
    path.parent.mkdir()
    shutil.copy2("/bin/cat", path)
    process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/")
    ctx.stack.callback(process.communicate)


def _held_deep(ctx: Context) -> None:
    """A descriptor whose path is longer than the kernel ever prints."""
    code = (
        "import os, sys\n"
        "for _ in range(20): os.mkdir('n' * 240); os.chdir('n' * 240)\n"
        "f = open('end', 'wb'); f.write(b'acknowledged'); f.flush(); os.chdir('/')\n"
    )
    _start(ctx, [sys.executable, "-c", code + _WAIT], cwd=ctx.root)


def _loop_device(ctx: Context) -> None:
    image = ctx.file("d/disk image", bytes(_MIB))
    done = subprocess.run(["losetup", "-f", "--show", image], capture_output=True, text=True, check=True)
    ctx.undo("losetup", "-d", done.stdout.strip())


def _big(ctx: Context) -> None:
    """One file of several chunks, so that what happens at the first is in its middle, and neighbours before and after."""
    ctx.file("d/f", os.urandom(18 * _MIB))
    for number in range(20):
        ctx.file(f"d/a{number}", b"%d" % number)
        ctx.file(f"e/{number}/x", b"%d" % number)


def _append(root: Path) -> None:
    with open(root / "d/f", "ab") as file:
        file.write(os.urandom(3 * _MIB))


def _shrink(root: Path) -> None:
    os.truncate(root / "d/f", 1000)


def _replace(root: Path) -> None:
    (root / "d/new").write_bytes(os.urandom(5000))
    (root / "d/new").rename(root / "d/f")


def _become_folder(root: Path) -> None:
    (root / "d/f").unlink()
    (root / "d/f").mkdir()
    (root / "d/f/inside").write_text("x")
    shutil.rmtree(root / "e")
    (root / "e").write_text("was a folder")


def _move_folders(root: Path) -> None:
    (root / "e/3").rename(root / "d/three")
    (root / "e/4").rename(root / "e/3")
    (root / "d").rename(root / "g")


def _vanish(root: Path) -> None:
    shutil.rmtree(root / "d")
    (root / "e/7/x").unlink()


def _secretly(root: Path) -> None:
    """Equal size, and the time put back: only the ctime tells."""
    path = root / "d/f"
    before = path.stat()
    with open(path, "r+b") as file:
        file.seek(9 * _MIB)
        file.write(b"other bytes")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _map_and_write(root: Path) -> None:
    with open(root / "d/f", "r+b") as file, mmap.mmap(file.fileno(), 4096) as pages:
        pages[100:104] = b"page"


def _metadata(root: Path) -> None:
    (root / "d/f").chmod(0o751)
    os.setxattr(root / "e/1", "user.late", b"1")
    os.link(root / "e/2/x", root / "e/3/linked")
    os.utime(root / "e", ns=(3, 3))


def _locked_while_copied(root: Path) -> None:
    with open(root / "d/f", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(b"a record")


def _busy(name: str, build: Callable[[Context], None], says: str = "(pid ") -> Tree:
    return Tree(name, build, Reason.BUSY, says, left_out=_LATER)


def _changing(name: str, meanwhile: Callable[[Path], object]) -> Tree:
    return Tree(name, _big, meanwhile=meanwhile, left_out=_LATER)


TREES: tuple[Tree, ...] = (
    *(_busy(f"held-{how}", _held(how)) for how in _HOLD),
    _busy("running-program", _running, "cat (pid "),
    _busy("held-beyond-path-max", _held_deep),
    _busy("behind-a-loop-device", _loop_device, "the kernel"),
    _changing("grows-meanwhile", _append),
    _changing("shrinks-meanwhile", _shrink),
    _changing("vanishes-meanwhile", _vanish),
    _changing("replaced-meanwhile", _replace),
    _changing("other-kind-meanwhile", _become_folder),
    _changing("folders-moved-meanwhile", _move_folders),
    _changing("rewritten-in-secret-meanwhile", _secretly),
    _changing("mapped-and-written-meanwhile", _map_and_write),
    _changing("metadata-meanwhile", _metadata),
    _changing("locked-and-written-meanwhile", _locked_while_copied),
)
