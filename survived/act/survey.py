"""
The early refusal: one look at a source before anything is written, for all that makes a move wrong or impossible.

Each refusal names the first entry that causes it. The copy checks again what can change meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import stat
from typing import TYPE_CHECKING

from survived.act import fs
from survived.errors import Refused
from survived.model import Reason
from survived.observe.disks import is_below, read_mounts
from survived.observe.holders import holds_interpreter
from survived.observe.neighbours import find_exposed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


_SYSTEM = frozenset(
    {"/", "/dev", "/home", "/media", "/mnt", "/opt", "/root", "/run", "/srv", "/tmp", "/var", "/var/lib", "/var/tmp"}  # noqa: S108
)
_SYSTEM_TREES = ("/bin", "/boot", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr")


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
    if real in _SYSTEM or any(is_below(real, place) for place in _SYSTEM_TREES):
        raise refuse(Reason.SYSTEM, "it belongs to the system")
    if os.geteuid() != 0 and found.st_uid != os.geteuid():
        raise refuse(Reason.NOT_OURS, f"it belongs to uid {found.st_uid}")
    if (why := find_exposed(os.path.dirname(source), frozenset({os.geteuid(), found.st_uid}))) is not None:
        raise refuse(Reason.EXPOSED, why, "Take that right away: chmod go-w, or chmod +t where others must write.")
    if _is_fixed(os.path.dirname(real)):
        why = f"'{os.path.dirname(real)}' is immutable or append-only (chattr), and the link must stand there"
        raise refuse(Reason.IMMUTABLE, why)
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


def check_for_root(source: str, *, home: str) -> None:
    """
    Refuse root what no catalogue names and is the system's or another user's: they find out only when it is gone.

    Raises `Refused` (SYSTEM, NOT_OURS). An ordinary user is kept from both by owners and modes.
    """
    real = os.path.realpath(source)
    if is_below(real, "/var") and not is_below(real, "/var/tmp"):  # noqa: S108
        why, reason = "it belongs to the system, and the catalogue does not name it", Reason.SYSTEM
    elif (user := _whose_home(real, os.path.realpath(home))) is not None:
        why, reason = f"it lies in the home of {user}, who can move it himself", Reason.NOT_OURS
    else:
        return
    raise Refused(
        reason, f"Cannot move '{source}': {why}. Nothing was changed.", "If you want it all the same, name it in [caches.NAME]."
    )


def _whose_home(real: str, home: str) -> str | None:
    """Return the name of another ordinary user in whose home a path lies, or which it is or holds."""
    place = real
    while place not in ("/", ""):
        with contextlib.suppress(OSError, KeyError):
            owner = os.lstat(place).st_uid
            if owner != 0 and os.path.realpath(pwd.getpwuid(owner).pw_dir) == place and place != home:
                return pwd.getpwuid(owner).pw_name
        place = os.path.dirname(place)
    return None


def survey(source: str, tick: Callable[[int, int], None]) -> None:
    """
    Walk the source and refuse what cannot be moved faithfully: foreign owners, device nodes, sockets in use, links that leave it.

    A relative link that leads out of the tree would lead elsewhere from the data disk. `tick(0, 1)` for each entry.
    """
    with _opened_top(source) as top_fd:
        device = os.fstat(top_fd).st_dev
        # A frame: an open directory, its path, its sub directories still to do. One descriptor a level, not a directory.
        stack = [(os.dup(top_fd), "", [""])]
        try:
            while stack:
                fd, path, below = stack[-1]
                if not below:
                    stack.pop()
                    os.close(fd)
                    continue
                name = below.pop()
                try:
                    deeper_fd = os.open(name or ".", fs.DIRECTORY, dir_fd=fd)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                except PermissionError as error:
                    raise _refuse(source, f"{path}{name}", Reason.UNREADABLE, "it cannot be read") from error
                stack.append((deeper_fd, f"{path}{name}/" if name else "", []))
                if os.fstat(deeper_fd).st_dev != device:
                    raise _refuse(source, f"{path}{name}", Reason.MOUNT_POINT, "another filesystem is mounted there")
                stack[-1][2].extend(_folder(source, deeper_fd, stack[-1][1], tick))
        finally:
            for fd, *_ in stack:
                os.close(fd)


@contextlib.contextmanager
def _opened_top(source: str) -> Iterator[int]:
    try:
        fd = os.open(source, fs.DIRECTORY)
    except PermissionError as error:
        raise _refuse(source, "", Reason.UNREADABLE, "it cannot be read") from error
    try:
        yield fd
    finally:
        os.close(fd)


def _is_fixed(folder: str) -> bool:
    """Tell whether nothing may be renamed in a folder; one that cannot be opened tells nothing."""
    try:
        with fs.opened(folder) as fd:
            return fs.is_fixed(fd)
    except OSError:
        return False


def _folder(source: str, fd: int, path: str, tick: Callable[[int, int], None]) -> list[str]:
    """Look at each entry of one open directory; return the names of its sub directories."""
    me, below = os.geteuid(), []
    with os.scandir(fd) as entries:
        for entry in entries:
            where = f"{path}{entry.name}"
            if me == 0 and entry.is_file(follow_symlinks=False):  # whoever owns it, root may read it and give it away
                tick(0, 1)
                continue
            try:
                found = entry.stat(follow_symlinks=False)
                why = _objection(entry, found, where, me, fd)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno != errno.EACCES and error.errno != errno.EINVAL:  # EINVAL: no link any more
                    raise
                why = (Reason.UNREADABLE, "it cannot be read") if error.errno == errno.EACCES else None
            if why is not None:
                raise _refuse(source, where, *why)
            if stat.S_ISDIR(found.st_mode):
                below.append(entry.name)
            tick(0, 1)
    return below


def _refuse(source: str, where: str, reason: Reason, why: str) -> Refused:
    return Refused(reason, f"Cannot move '{source}': '{where or '.'}' in it: {why}. Nothing was changed.")


def _objection(entry: os.DirEntry[str], found: os.stat_result, where: str, me: int, fd: int) -> tuple[Reason, str] | None:
    mode = found.st_mode
    if me not in (0, found.st_uid):
        return Reason.NOT_OURS, f"it belongs to uid {found.st_uid}"
    if (me and not stat.S_ISLNK(mode) and mode & 0o400 == 0) or (me and stat.S_ISDIR(mode) and mode & 0o100 == 0):
        return Reason.UNREADABLE, f"its mode {stat.S_IMODE(mode):04o} lets nobody read it"
    if stat.S_ISLNK(mode):
        to = os.readlink(entry.name, dir_fd=fd)
        if not to.startswith("/") and _climbs_out(where, to):
            return (
                Reason.LEAVING_LINK,
                f"it is a relative link to '{to}', out of the tree, and would point elsewhere from the data disk",
            )
    elif stat.S_ISSOCK(mode) and fs.is_bound(fd, entry.name):
        return Reason.SOCKET, "it is a socket in use"
    elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        return Reason.DEVICE_NODE, "it is a device node"
    return None


def _climbs_out(where: str, to: str) -> bool:
    """Tell whether a relative link at `where` leaves the tree, even if it comes back: its root has another name there."""
    depth = where.count("/")
    for part in to.split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0:
            return True
    return False
