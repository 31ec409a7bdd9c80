"""
A look at a tree that only asks whether anything changed: no copy is touched, and the first change ends it.
"""

from __future__ import annotations

import errno
import os
import zlib
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from survived.act import fs
from survived.act.passes import signature_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from survived.act.passes import Known, Pass

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES)


_AT_ONCE = 1024
"""So many entries of a folder are sorted at a time: some 250 KB, however many it has."""
_MET = 100_000
"""So many inodes that have more names are remembered, some 12 MB; what comes beyond is looked at by each of its names."""


class Seen(NamedTuple):
    """
    An entry that `walk` met: in the open directory `fd` under `name`, or that directory itself (no name).

    `path` is that of the folder of a file, and a directory's own; "" or with a slash at its end. No `info`: it vanished,
    became something else, or cannot be read any more.
    """

    fd: int
    name: str
    path: str
    info: os.stat_result | None


def in_order(folder_fd: int) -> Iterator[os.DirEntry[str]]:
    """
    Yield the entries of a folder by inode, as they mostly lie on the disk: ext4 lists them by a hash of their names.

    A large folder comes in several such runs.
    """
    with os.scandir(folder_fd) as entries:
        while some := list(islice(entries, _AT_ONCE)):
            if len(some) > 1:
                some.sort(key=os.DirEntry.inode)
            yield from some


def walk(top_fd: int, branch: str = "", skip: Collection[str] = (), *, once: bool = False) -> Iterator[Seen]:
    """
    Yield every entry below a branch of a tree and the branch, a directory after all that is in it; without branches to skip.

    `once`: of an inode with several names mostly the first that is met, for who asks only what an inode can tell.
    """
    stack: list[tuple[int, str, list[str]]] = []
    left: dict[int, int] | None = {} if once else None  # inodes that have more names, and how many
    device = os.fstat(top_fd).st_dev
    try:
        fd, path = fs.open_below(top_fd, branch), f"{branch}/" if branch else ""
        while True:
            below: list[str] = []
            stack.append((fd, path, below))
            with os.scandir(fd) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if not skip or f"{path}{entry.name}" not in skip:
                            below.append(entry.name)
                        continue
                    if left and _is_met(left, entry.inode()):
                        continue
                    try:
                        info = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        yield Seen(fd, entry.name, path, None)
                        continue
                    # In an overlay a listing may name another layer's inode by the same number: those have another device.
                    if left is not None and info.st_nlink > 1 and info.st_dev == device and len(left) < _MET:
                        left[info.st_ino] = info.st_nlink - 1
                    yield Seen(fd, entry.name, path, info)
            while not (below := stack[-1][2]):
                fd, path, _ = stack[-1]
                yield Seen(fd, "", path, os.fstat(fd))
                stack.pop()
                os.close(fd)
                if not stack:
                    return
            above_fd, above, _ = stack[-1]
            path = f"{above}{below.pop()}/"
            try:
                fd = os.open(path[len(above) : -1], fs.DIRECTORY, dir_fd=above_fd)
            except OSError as error:
                if error.errno not in _GONE:
                    raise
                yield Seen(above_fd, "", path, None)
                return
    finally:
        for fd, *_ in stack:
            os.close(fd)


def _is_met(left: dict[int, int], inode: int) -> bool:
    """Tell whether a name of an inode came before, and forget it with its last name."""
    names = left.get(inode, 0)
    if names > 1:
        left[inode] = names - 1
    elif names == 1:
        del left[inode]
    return names > 0


def look(top_fd: int, known: Known, found: Pass, tick: Callable[[int, int], None]) -> None:
    """
    Note in `found` the latest ctime; its `copied` becomes 1 at the first entry that is not as `known`, which ends the look.

    A name that is new, gone or another's shows in its folder's ctime, all else in the entry's own.
    """
    device, mark, holds = os.fstat(top_fd).st_dev, 0, known.holds
    last, place, entries = "", 0, 0
    try:
        for _, name, path, info in walk(top_fd, once=True):
            if info is None or (not name and info.st_dev != device):
                found.copied = 1
                return
            if path is not last:
                last, place = path, zlib.crc32(os.fsencode(path))
                tick(0, entries)
                entries = 0
            entries += 1
            ctime = info.st_ctime_ns
            if not holds(signature_of(info, ctime, place)):
                found.copied = 1
                return
            if ctime > mark and (name or path):  # the exchange moves a root's ctime
                mark = ctime
    finally:
        found.source_mark_ns = mark
