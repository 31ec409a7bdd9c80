"""
Who has something open below a path: file descriptors, working directory, root, program, mapped files.

A process that we may not look into is unknown and not a holder. Paths are compared as the kernel prints them for us, so
a file opened through a bind mount elsewhere or inside a container's own mount namespace goes unseen; `find_binds` sees the
mount, and `act.stillness` whoever may write. The kernel itself
holds the files behind loop devices and swap, as pid 0.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING

from survived.model import Holder
from survived.observe.disks import find_mount, is_below, parse_mounts, read_mounts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from survived.observe.disks import Mount

_DELETED = " (deleted)"
_MAPS_PATH_FIELD = 5  # address, permissions, offset, device, inode, path


def find_holders(paths: Sequence[str], *, ignore_pids: frozenset[int] = frozenset()) -> dict[str, tuple[Holder, ...]]:
    """
    Return for each of `paths` the processes that hold it or something below it, one Holder for each process and file.

    One walk of /proc serves all paths. This process is never reported, for what it has open it opened itself. `writes`
    means a descriptor open for writing or a writable shared mapping. Mapped files are looked up only for processes of
    our own user, for root of all.
    """
    ignored = ignore_pids | {os.getpid()}
    ends = {path: {os.path.abspath(path), os.path.realpath(path)} for path in paths}
    wanted = [(path, real) for path, reals in ends.items() for real in reals]
    found: dict[str, dict[tuple[int, str], bool]] = {path: {} for path in paths}
    below = _Below([real for _, real in wanted])
    if wanted:
        euid = os.geteuid()
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) not in ignored:
                for file, writes in _read_open_files(f"/proc/{name}", below, euid):
                    for path, real in wanted:
                        if is_below(file, real):
                            key = (int(name), file)
                            found[path][key] = found[path].get(key, False) or writes
        for file in filter(below.holds, _read_kernels_files()):
            for path, real in wanted:
                if is_below(file, real):
                    found[path][0, file] = True
    names = {pid: _name_of(pid) for pid in {pid for held in found.values() for pid, _ in held}}
    return {
        path: tuple(Holder(pid, names[pid], file, writes) for (pid, file), writes in sorted(held.items()))
        for path, held in found.items()
    }


def find_binds(path: str) -> tuple[Holder, ...]:
    """
    Return who has `path` or something below it mounted elsewhere, as containers have a cache: one process for each mount.

    What a process has mounted can be read of all, also of those that we may not look into. What is mounted for us, too, is
    the kernel's, pid 0.
    """
    own = read_mounts()
    real = os.path.realpath(path)
    on = find_mount(real, own)
    below = os.path.relpath(real, on.point)
    wanted = on.root if below == "." else f"{on.root.rstrip('/')}/{below}"
    found = {mount.point: 0 for mount in own if mount.id != on.id and _shows(mount, on, wanted)}
    seen: set[str | bytes | None] = {_namespace("self")}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if (namespace := _namespace(pid)) is not None and namespace in seen:
            continue
        with contextlib.suppress(OSError):  # ended meanwhile
            with open(f"/proc/{pid}/mountinfo", "rb") as file:
                text = file.read()
            if text not in seen:  # of a namespace that we may not ask for
                for mount in parse_mounts(text):
                    if _shows(mount, on, wanted):
                        found.setdefault(mount.point, int(pid))
            seen |= {namespace, text}
    return tuple(Holder(pid, _name_of(pid), point) for point, pid in found.items())


def _shows(mount: Mount, on: Mount, wanted: str) -> bool:
    return mount.device_number == on.device_number and is_below(mount.root, wanted)


def _namespace(pid: str) -> str | None:
    """Return the mount namespace of a process, or None if we may not ask."""
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return None


def holds_interpreter(path: str) -> bool:
    """Return whether the Python that runs us, its environment or this package lie at or below `path`, by any name."""
    import survived

    needed = [sys.executable, sys.prefix, sys.base_prefix, *survived.__path__]
    needed = [place for place in needed if place]  # an embedded Python has no executable
    needed += [os.path.realpath(place) for place in needed]
    ends = {os.path.abspath(path), os.path.realpath(path)}
    return any(is_below(os.path.abspath(place), end) for place in needed for end in ends)


class _Below:
    """The paths asked about, in the forms in which they are compared fast."""

    __slots__ = ("devices", "exact", "inodes", "mapped", "prefixes")

    def __init__(self, paths: list[str]) -> None:
        self.devices: dict[int, str] = {}
        self.inodes: dict[tuple[int, int], str] = {}
        for path in paths:
            with contextlib.suppress(OSError):
                inode = _inode(path)
                self.devices[inode[0]] = self.inodes[inode] = path
        self.exact = frozenset(paths) | {path + _DELETED for path in paths}
        self.prefixes = tuple(path.rstrip("/") + "/" for path in paths)
        # The kernel escapes only newlines in maps.
        self.mapped = tuple(os.fsencode(prefix).replace(b"\n", b"\\012") for prefix in self.prefixes)

    def holds(self, link: str) -> bool:
        """Return whether what /proc prints is one of the paths or below one."""
        return link.startswith(self.prefixes) or link in self.exact


def _read_open_files(folder: str, below: _Below, euid: int) -> Iterator[tuple[str, bool]]:
    """Yield (path, open for writing) of what one process holds below; nothing of a process that hides or ends."""
    try:
        descriptors = os.listdir(f"{folder}/fd")
        ours = euid in (0, os.stat(folder).st_uid)
    except OSError:
        return  # ended, another user's, or PID 1 of a sandbox
    readlink, holds = os.readlink, below.holds
    places = [f"{folder}/fd/{number}" for number in descriptors]
    places += [f"{folder}/cwd", f"{folder}/root", f"{folder}/exe"]
    for place in places:
        try:
            link = readlink(place)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG or (link := _where_too_deep(place, below)) == "":
                continue  # closed meanwhile; a kernel thread has no exe
        if holds(link):
            number = place[len(folder) + 4 :] if "/fd/" in place else None
            yield link.removesuffix(_DELETED), number is not None and _is_for_writing(folder, number)
    if ours:
        yield from _read_mapped_files(folder, below)


def _where_too_deep(place: str, below: _Below) -> str:
    """
    Return which path asked about holds something whose own path is longer than the kernel prints, or "".

    A directory is followed upwards. What cannot be, as a file, counts if it is on the same device: a wrong holder costs a
    move, and a missed one a write.
    """
    try:
        on_device = below.devices.get(os.stat(place).st_dev, "")
    except OSError:
        return ""  # closed meanwhile
    try:
        fd = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return on_device
    try:
        last = None
        while (inode := _inode(fd)) != last:  # the root is its own parent
            if inode in below.inodes:
                return below.inodes[inode]
            above, last = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd), inode
            os.close(fd)
            fd = above
    except OSError:
        return on_device
    finally:
        os.close(fd)
    return ""


def _inode(place: str | int) -> tuple[int, int]:
    found = os.stat(place)
    return found.st_dev, found.st_ino


def _read_kernels_files() -> Iterator[str]:
    """Yield the files in which loop devices and swap lie; the kernel holds them without a descriptor of anybody."""
    with contextlib.suppress(OSError):
        for name in os.listdir("/sys/block"):
            if name.startswith("loop"):
                with contextlib.suppress(OSError), open(f"/sys/block/{name}/loop/backing_file", "rb") as file:
                    yield os.fsdecode(file.read().removesuffix(b"\n"))
    with contextlib.suppress(OSError), open("/proc/swaps", "rb") as file:
        for line in file.read().splitlines()[1:]:
            yield os.fsdecode(line.split()[0].decode("unicode_escape").encode("latin-1"))  # a space is \040


def _is_for_writing(folder: str, number: str) -> bool:
    """Return whether a descriptor is open for writing; one that was closed meanwhile is not."""
    try:
        with open(f"{folder}/fdinfo/{number}", "rb") as file:
            for line in file:
                if line.startswith(b"flags:"):
                    flags = int(line.split()[1], 8)
                    return not flags & os.O_PATH and flags & os.O_ACCMODE != os.O_RDONLY
    except OSError:
        pass
    return False


def _read_mapped_files(folder: str, below: _Below) -> Iterator[tuple[str, bool]]:
    """Yield (path, writable and shared) of what one process has mapped; that lasts when its descriptor is closed."""
    try:
        with open(f"{folder}/maps", "rb", buffering=0) as file:
            text = file.readall()
    except OSError:
        return
    if not any(prefix in text for prefix in below.mapped):
        return  # the usual case, decided without splitting some hundred lines
    seen: set[bytes] = set()
    for line in text.splitlines():
        fields = line.split(None, _MAPS_PATH_FIELD)
        if len(fields) <= _MAPS_PATH_FIELD or not fields[_MAPS_PATH_FIELD].startswith(b"/"):
            continue
        writes = fields[1].startswith(b"w", 1) and fields[1].endswith(b"s")
        if (key := fields[_MAPS_PATH_FIELD] + (b"w" if writes else b"r")) in seen:
            continue
        seen.add(key)
        link = os.fsdecode(fields[_MAPS_PATH_FIELD].replace(b"\\012", b"\n"))
        if below.holds(link):
            yield link.removesuffix(_DELETED), writes


def _name_of(pid: int) -> str:
    """Return the program's name; psutil completes what the kernel cuts after 15 characters. "?" once it has ended."""
    if pid == 0:
        return "the kernel"
    import psutil  # a few MiB that are needed only when somebody holds something

    try:
        return psutil.Process(pid).name() or "?"
    except psutil.Error:
        return "?"
