"""
A whole tree of root's, copied as it is while nobody uses it: device nodes, whiteouts, foreign owners, stale sockets and all.

The copy is made by the passes that move every cache; what they refuse for an ordinary user's sake, root may have. A last
pass finds nothing to do, else something still writes there, and that is refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import subprocess
from typing import TYPE_CHECKING

from survived.act import fs
from survived.act.copying import TreeCopy
from survived.errors import Refused, SurvivedError, cause_of
from survived.model import Reason
from survived.observe.disks import is_below, read_mounts
from survived.observe.holders import find_binds, find_holders

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from survived.act.passes import Pass
    from survived.observe.disks import Mount

_PASSES = 4
_LEFT_BEHIND = frozenset({"overlay", "tmpfs", "nsfs", "fuse.fuse-overlayfs", "shm", "mqueue"})
"""What docker mounts below its root for a container, and may leave when it is killed."""


class WholeCopy(TreeCopy):
    """A `TreeCopy` that takes device nodes, and sockets whoever has them bound: a socket's file holds nothing."""

    def copy_entry(self, source_fd: int, copy_fd: int, name: str, info: os.stat_result, where: str, to: str | None = None) -> None:
        """Copy one entry that is no directory; a device node as the same device, an overlay's whiteout (0, 0) among them."""
        to = to or name
        if not (stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode) or stat.S_ISSOCK(info.st_mode)):
            super().copy_entry(source_fd, copy_fd, name, info, where, to)
            return
        os.mknod(to, info.st_mode, info.st_rdev, dir_fd=copy_fd)
        self._metadata(f"/proc/self/fd/{source_fd}/{name}", f"/proc/self/fd/{copy_fd}/{to}", info, where)


def replicate(source: str, copy: str, tick: Callable[[int, int], None]) -> Pass:
    """
    Copy the directory `source` into the empty directory `copy`, durably; return what the last pass saw.

    `tick(bytes, entries)` is called often and may raise to stop. Raises `Refused` for what cannot be kept or keeps
    changing, and OSError for what either disk says.
    """
    with fs.opened(source) as source_fd, fs.opened(copy) as copy_fd:
        whole = WholeCopy(source_fd, copy_fd, source, tick)
        found = whole.run_pass()
        for _ in range(_PASSES):
            fs.sync_filesystem(copy_fd)
            found = whole.run_pass()
            if found.copied == 0:
                break
        else:
            raise Refused(Reason.UNSETTLED, f"Cannot move '{source}': something still writes there. Nothing was changed.")
        fs.sync_filesystem(copy_fd)
        if not os.path.samestat(os.fstat(copy_fd), os.stat(copy)):
            raise OSError(errno.ENODEV, "its disk was taken away while it was copied to", copy)
    with fs.opened(os.path.dirname(copy), follow=True) as parent_fd:
        os.fsync(parent_fd)
    return found


def free_of_mounts(root: str) -> None:
    """
    Unmount what docker left below its root after it stopped, and the root where docker mounted it on itself.

    Raises `Refused` for any other mount: a disk that a person put there, whose content must not be copied or removed.
    """
    below = sorted((m for m in read_mounts() if is_below(m.point, root)), key=lambda m: (len(m.point), m.id), reverse=True)
    own = min((m.id for m in below if m.point == root), default=-1) if is_own_disk(root) else -1
    for mount in below:
        if mount.id == own:
            continue
        if not (mount.fstype in _LEFT_BEHIND or mount.point == root):
            raise Refused(
                Reason.MOUNT_POINT,
                f"Cannot move '{root}': '{mount.point}' is a mount of its own ({mount.fstype}). Nothing was changed.",
                "Unmount it first; it need not be moved.",
            )
        done = subprocess.run(["umount", mount.point], capture_output=True, text=True, check=False)
        if done.returncode != 0 and any(m.id == mount.id for m in read_mounts()):
            raise Refused(Reason.BUSY, f"Cannot move '{root}': '{mount.point}' cannot be unmounted: {done.stderr.strip()}. "
                          "Nothing was changed.", "See who has it open: fuser -vm.")  # fmt: skip


def foreign_mount(root: str) -> Mount | None:
    """Return a mount below a root that is not docker's own doing, or None; also while docker runs."""
    mounts = (m for m in read_mounts() if m.point != root and is_below(m.point, root))
    return next((m for m in mounts if m.fstype not in _LEFT_BEHIND), None)


def is_own_disk(root: str) -> bool:
    """Tell whether a filesystem of its own is mounted at `root`, other than `root` itself once more."""
    with contextlib.suppress(OSError):
        return os.lstat(root).st_dev != os.stat(os.path.dirname(root)).st_dev
    return False


def users_of(root: str) -> tuple[str, ...]:
    """
    Return who writes below a root, or has some of it mounted at another place, as containers that outlived their docker do.

    Services with a mount namespace of their own (PrivateTmp=) have docker's mounts in it at docker's own paths: no users.
    """
    writers = [holder for holder in find_holders([root]).get(root, ()) if holder.writes]
    mounters = [holder for holder in find_binds(root) if not is_below(holder.path, root)]
    users = (*writers, *mounters)
    return tuple(dict.fromkeys(f"{user.name} (pid {user.pid})" if user.pid else f"the mount '{user.path}'" for user in users))


def empty(folder: str, tick: Callable[[int], None], *, spare: Collection[str] = ()) -> None:
    """Remove all that is in a directory but names to `spare`, never following a link and never leaving the device."""
    try:
        with fs.opened(folder) as fd:
            for name in sorted(os.listdir(fd)):
                if name not in spare:
                    fs.remove_tree(fd, name, tick)
            os.fsync(fd)
    except FileNotFoundError:
        return
    except OSError as error:
        raise SurvivedError(f"Cannot remove '{folder}': {cause_of(error)}.") from error


def remove(folder: str, tick: Callable[[int], None]) -> None:
    """Remove a directory with all that is in it; of a mount point only the content."""
    empty(folder, tick)
    if is_own_disk(folder):
        return
    try:
        with fs.opened(os.path.dirname(folder), follow=True) as fd:
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(os.path.basename(folder), dir_fd=fd)
            os.fsync(fd)
    except OSError as error:
        raise SurvivedError(f"Cannot remove '{folder}': {cause_of(error)}.") from error
