"""
A look at a tree that only asks whether anything changed: no copy is touched, and the first change ends it.
"""

from __future__ import annotations

import errno
import os
import zlib
from typing import TYPE_CHECKING

from survived.act import fs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from survived.act.passes import Known, Pass

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES)


def walk(top_fd: int) -> Iterator[tuple[str, bool, os.stat_result | None]]:
    """
    Yield (path, whether it is a directory, its stat) of every entry, a directory itself after all that is in it.

    The path is that of the folder of a file, and a directory's own; "" or with a slash at its end. No stat: it vanished,
    became something else, or cannot be read any more.
    """
    stack: list[tuple[int, str, list[str]]] = []
    try:
        fd, path = os.dup(top_fd), ""
        while True:
            below: list[str] = []
            stack.append((fd, path, below))
            with os.scandir(fd) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        below.append(entry.name)
                        continue
                    try:
                        info = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        yield path, False, None
                        continue
                    yield path, False, info
            while not (below := stack[-1][2]):
                fd, path, _ = stack[-1]
                yield path, True, os.fstat(fd)
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
                yield path, True, None
                return
    finally:
        for fd, *_ in stack:
            os.close(fd)


def look(top_fd: int, known: Known, found: Pass, tick: Callable[[int, int], None]) -> None:
    """
    Count a tree in `found`, whose `copied` becomes 1 at the first entry that is not as `known`, which ends the look.

    A name that is new, gone or another's shows in its folder's ctime, all else in the entry's own.
    """
    met: dict[tuple[int, int], int] = {}  # inodes with several names, until all were met
    device, last, place = os.fstat(top_fd).st_dev, "", 0
    for path, is_directory, info in walk(top_fd):
        if info is None or (is_directory and info.st_dev != device):
            found.copied = 1
            return
        before = 0
        if info.st_nlink > 1 and not is_directory:
            inode = (info.st_dev, info.st_ino)
            before = met.pop(inode, 0)
            if before + 1 < info.st_nlink:
                met[inode] = before + 1
        if path is not last:
            last, place = path, zlib.crc32(os.fsencode(path))
        if found.see(info, before, place, is_root=is_directory and path == "") not in known:
            found.copied = 1
            return
        tick(0, 1)


def latest_change(top_fd: int, tick: Callable[[int, int], None]) -> int | None:
    """Return the latest ctime, in ns, of all below a directory, or None if something vanished or is mounted there."""
    latest, device = 0, os.fstat(top_fd).st_dev
    for path, is_directory, info in walk(top_fd):
        if info is None or (is_directory and info.st_dev != device):
            return None
        if path or not is_directory:
            latest = max(latest, info.st_ctime_ns)
        tick(0, 1)
    return latest
