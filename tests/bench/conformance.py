"""
The nasty trees of the conformance suite, moved by survived and by what people move with: who keeps what, who says so.

Each tree is moved from one ext4 to another, and what stands at its path afterwards, and what was beside it, is compared with
what was there before. A peer runs as one would at a prompt: copy, remove the old tree, leave a link.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from survived.act.transfer import Care
from survived.errors import SurvivedError
from tests.rig.filesystems import mounted_as
from tests.rig.nasty import TREES, Context, Tree
from tests.unit.engine import Entry, Rig, remove, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

PEERS = {
    "rsync -aHAX": 'mkdir -p "$2" && rsync -aHAX "$1/" "$2/" && rm -rf "$1" && ln -s "$2" "$1"',
    "cp -a": 'mkdir -p "$2" && cp -a "$1/." "$2/" && rm -rf "$1" && ln -s "$2" "$1"',
    "mv": 'mv "$1" "$2" && ln -s "$2" "$1"',
}
_SECONDS = 20
_FIELDS = {
    "kind": "kind",
    "mode": "modes",
    "owner": "owners",
    "mtime_ns": "times",
    "xattrs": "attributes",
    "content": "content",
} | {
    "data": "holes",
    "links": "hard links",
}
WORDS = ("identical", "refused", "differs", "failed", "hangs")


def judge_all(folder: Path) -> tuple[list[list[str]], list[list[str]], list[str]]:
    """Return the rows of the totals, the rows of the trees in which anybody is not identical, and the names of those left out."""
    found: dict[str, dict[str, str]] = {}
    trees = [tree for tree in TREES if not tree.left_out]
    with mounted_as(folder, "home", "ext4") as small, mounted_as(folder, "disk", "ext4") as data:
        for tree in trees:
            movers: dict[str, Callable[[Rig], str]] = {"survived": _survived}
            movers |= {name: _peer(script) for name, script in PEERS.items()}
            found[tree.name] = {name: _judge(small, data, tree, mover) for name, mover in movers.items()}
    names = ["survived", *PEERS]
    totals = []
    for name in names:
        count = Counter(verdict[name].partition(":")[0] for verdict in found.values())
        totals.append([f"`{name}`", *(str(count[word]) for word in WORDS)])
    rows = [
        [tree, *(verdict[name] for name in names)]
        for tree, verdict in found.items()
        if any(verdict[name] != "identical" for name in PEERS) or not verdict["survived"].startswith(("identical", "refused"))
    ]
    return totals, rows, [tree.name for tree in TREES if tree.left_out]


def _judge(small: Path, data: Path, tree: Tree, mover: Callable[[Rig], str]) -> str:
    """Build the tree, have it moved, and return the verdict."""
    home, disk = small / "home", data / "disk"
    rig = Rig(home, disk, home / ".cache" / os.fsdecode(tree.source))
    with ExitStack() as cleaning:
        for end in (home, disk):
            cleaning.callback(remove, end)
        for place in (rig.source, home / "outside", disk):
            place.mkdir(parents=True)
        tree.build(Context(rig.source, home / "outside", home, cleaning.enter_context(ExitStack())))
        cleaning.callback(rig.close)
        _age(rig.source)
        time.sleep(0.021)
        before = _look(rig)
        said = mover(rig)
        after = _look(rig)
        if said and not said.startswith("hangs"):
            return said if after == before else f"{said}, and the tree is damaged"
        return said or _differences(before, after)


def _age(source: Path) -> None:
    """Make what was just built an hour older: rsync takes times within one second for equal, which no old tree meets."""
    now = time.time_ns()
    with suppress(RecursionError):  # os.fwalk does not reach the end of 1,200 levels
        for _, folders, files, fd in os.fwalk(source, topdown=False):
            for name in (*folders, *files, "."):
                with suppress(OSError):  # immutable, or a mount's
                    info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    if abs(now - info.st_mtime_ns) < 60 * 10**9:
                        at = info.st_mtime_ns - 3600 * 10**9
                        os.utime(name, ns=(at, at), dir_fd=fd, follow_symlinks=False)


def _look(rig: Rig) -> dict[bytes, object]:
    """Describe the tree, where its links lead and whether somebody answers at its sockets, and what is beside it."""
    found: dict[bytes, object] = dict(snapshot(rig.source)) if rig.source.is_dir() else {}
    real = os.path.realpath(rig.source)
    for name, entry in list(found.items()):
        if isinstance(entry, Entry) and entry.kind == 0o120000:
            to = os.path.realpath(os.path.join(os.fsencode(real), name))
            found[name + b"\0leads"] = to.replace(os.fsencode(real), b"=", 1) if to.startswith(os.fsencode(real)) else to
        elif isinstance(entry, Entry) and entry.kind == 0o140000:
            found[name + b"\0answers"] = _answers(rig.source, name)
    found |= {b"\0beside/" + name: entry for name, entry in snapshot(rig.home / "outside").items() if name}
    return found


def _answers(source: Path, name: bytes) -> bool:
    """Tell whether a process has the socket bound."""
    from survived.act import fs

    with fs.opened(os.path.dirname(os.path.join(source, os.fsdecode(name))), follow=True) as fd:
        return fs.is_bound(fd, os.path.basename(os.fsdecode(name)))


def _differences(before: dict[bytes, object], after: dict[bytes, object]) -> str:
    if not after:
        return "differs: all is gone"
    what: set[str] = set()
    for name in before.keys() | after.keys():
        one, other = before.get(name), after.get(name)
        if one == other:
            continue
        if name.startswith(b"\0beside"):
            what.add("**what was beside it**")
        elif name.endswith(b"\0leads"):
            what.add("where a link leads")
        elif name.endswith(b"\0answers"):
            what.add("a socket is dead")
        elif isinstance(one, Entry) and isinstance(other, Entry):
            what |= {word for field, word in _FIELDS.items() if getattr(one, field) != getattr(other, field)}
        else:
            what.add("entries")
    return f"differs: {', '.join(sorted(what))}" if what else "identical"


def _survived(rig: Rig) -> str:
    try:
        rig.open().relocate(care=Care(settle_seconds=0.0, patience_seconds=5.0))
    except SurvivedError as error:
        return f"refused: {getattr(error, 'reason', '') or error.message}"
    return ""


def _peer(script: str) -> Callable[[Rig], str]:
    def move(rig: Rig) -> str:
        command = ["sh", "-c", script, "sh", str(rig.source), str(rig.disk / "target")]
        try:
            done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return "hangs"
        if done.returncode == 0:
            return ""
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        return f"failed: {lines[0].rpartition(': ')[2][:60] if lines else done.returncode}".replace("|", "/")

    return move
