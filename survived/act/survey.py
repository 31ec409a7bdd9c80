"""
The early refusal: one look at a source before anything is written, for all that makes a move wrong or impossible.

Each refusal names the first entry that causes it. The copy checks again what can change meanwhile.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from survived.act import fs
from survived.errors import Refused
from survived.model import Reason
from survived.observe.disks import is_below, read_mounts
from survived.observe.holders import holds_interpreter

if TYPE_CHECKING:
    from collections.abc import Callable


def check_source(source: str, *, home: str, store_device: int, verb: str = "move") -> os.stat_result:
    """
    Refuse a source that cannot be relocated for what it is itself; return its stat.

    Raises `Refused`. `home` is the user's home directory; `store_device` is st_dev of the store.
    """

    def refuse(reason: Reason, why: str, hint: str | None = None) -> Refused:
        return Refused(reason, f"Cannot {verb} '{source}': {why}. Nothing was changed.", hint)

    try:
        found = os.lstat(source)
    except OSError as error:
        raise refuse(Reason.ABSENT, error.strerror.lower() if error.strerror else "it cannot be read") from error
    if stat.S_ISLNK(found.st_mode):
        raise refuse(Reason.ALREADY_LINK, f"it is a link already, to '{os.readlink(source)}'", "Run survivectl list.")
    if not stat.S_ISDIR(found.st_mode):
        raise refuse(Reason.NOT_A_DIRECTORY, "it is not a directory")
    real = os.path.realpath(source)
    if is_below(os.path.realpath(home), real):
        raise refuse(Reason.HOME_ITSELF, "it is or holds your home directory")
    if os.geteuid() != 0 and found.st_uid != os.geteuid():
        raise refuse(Reason.NOT_OURS, f"it belongs to uid {found.st_uid}")
    if not os.access(os.path.dirname(real), os.W_OK | os.X_OK):
        raise refuse(Reason.NOT_OURS, f"'{os.path.dirname(real)}' is not writable for us, and the link must stand there")
    if os.stat(os.path.dirname(real)).st_dev != found.st_dev:
        raise refuse(Reason.MOUNT_POINT, "it is a mount point")
    for mount in read_mounts():  # also bind mounts of one filesystem on itself, which st_dev hides
        if is_below(mount.point, real):
            raise refuse(Reason.MOUNT_POINT, f"'{mount.point}' is a mount point")
    if found.st_dev == store_device:
        raise refuse(Reason.OTHER_FILESYSTEM, "it is on the same filesystem as the store, so that nothing would be freed")
    if holds_interpreter(source):
        raise refuse(Reason.INTERPRETER, "survived itself runs from there")
    return found


def survey(source: str, tick: Callable[[int, int], None]) -> None:
    """
    Walk the source and refuse what cannot be moved faithfully: foreign owners, device nodes, sockets in use, links that leave it.

    A relative link that leads out of the tree would lead elsewhere from the data disk. `tick(0, 1)` for each entry.
    """
    me, root = os.geteuid(), os.path.realpath(source)
    bound = _bound_sockets()
    with fs.opened(source) as top_fd:
        device = os.fstat(top_fd).st_dev
        stack = [(os.dup(top_fd), "")]
        try:
            while stack:
                fd, path = stack.pop()
                try:
                    with os.scandir(fd) as entries:
                        listed = list(entries)
                    for entry in listed:
                        where = f"{path}{entry.name}"
                        try:
                            found = entry.stat(follow_symlinks=False)
                            why = _objection(entry, found, root, where, me, bound, fd)
                            if why is None and stat.S_ISDIR(found.st_mode):
                                if found.st_dev != device:
                                    why = Reason.MOUNT_POINT, "another filesystem is mounted there"
                                else:
                                    stack.append((os.open(entry.name, fs.DIRECTORY, dir_fd=fd), f"{where}/"))
                        except FileNotFoundError:
                            continue
                        except PermissionError:
                            why = Reason.UNREADABLE, "it cannot be read"
                        if why is not None:
                            raise Refused(why[0], f"Cannot move '{source}': '{where}' in it: {why[1]}. Nothing was changed.")
                        tick(0, 1)
                finally:
                    os.close(fd)
        finally:
            for fd, _ in stack:
                os.close(fd)


def _objection(
    entry: os.DirEntry[str], found: os.stat_result, root: str, where: str, me: int, bound: frozenset[str], fd: int
) -> tuple[Reason, str] | None:
    mode = found.st_mode
    if me not in (0, found.st_uid):
        return Reason.NOT_OURS, f"it belongs to uid {found.st_uid}"
    if (me and not stat.S_ISLNK(mode) and mode & 0o400 == 0) or (me and stat.S_ISDIR(mode) and mode & 0o100 == 0):
        return Reason.UNREADABLE, f"its mode {stat.S_IMODE(mode):04o} lets nobody read it"
    if stat.S_ISLNK(mode):
        to = os.readlink(entry.name, dir_fd=fd)
        full = os.path.normpath(os.path.join(root, os.path.dirname(where), to))
        if not to.startswith("/") and not is_below(full, root):
            return (
                Reason.LEAVING_LINK,
                f"it is a relative link to '{to}', out of the tree, and would point elsewhere from the data disk",
            )
    elif stat.S_ISSOCK(mode) and os.path.join(root, where) in bound:
        return Reason.SOCKET, "it is a socket in use"
    elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        return Reason.DEVICE_NODE, "it is a device node"
    return None


def _bound_sockets() -> frozenset[str]:
    """Return the paths of all bound Unix sockets (/proc/net/unix, last column)."""
    try:
        with open("/proc/net/unix", encoding="utf-8", errors="surrogateescape") as file:
            return frozenset(line.rstrip("\n").split(" ", 7)[-1].strip().split(" ")[-1] for line in file)
    except OSError:
        return frozenset()
