"""
Files that were deleted while somebody has them open: they fill the disk, and no walk of it finds them.

Told apart from a file whose name merely ends that way by its inode, which has no name left. A process that we may not look
into is unknown, so an ordinary user finds only his own. A mapped file shows its room only to root; for others it is as big
as what is mapped of it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from survived.findings import DeletedOpen
from survived.observe.disks import rooms_of
from survived.units import print_bytes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_MARK = " (deleted)"
_BLOCK = 512
_MAPS_FIELDS = 5  # address, permissions, offset, device, inode, path
_WORD = 60


@dataclass(slots=True)
class _Found:
    path: str
    size_bytes: int
    pids: list[int] = field(default_factory=list)


def find_deleted(devices: Collection[int], smallest_bytes: int = 1, *, proc: str = "/proc") -> tuple[DeletedOpen, ...]:
    """
    Return the deleted files on `devices` (st_dev) that somebody has open or mapped, the biggest first, each inode once.

    Of several holders the one with the lowest pid is `pid`. This process is never reported.
    """
    rooms = rooms_of(devices)
    found: dict[tuple[int, int], _Found] = {}
    with contextlib.suppress(OSError):
        for pid in sorted(int(name) for name in os.listdir(proc) if name.isdigit()):
            if pid == os.getpid():
                continue
            for key, path, size in (*_descriptors(f"{proc}/{pid}", rooms), *_mapped(f"{proc}/{pid}", rooms)):
                entry = found.setdefault(key, _Found(path, size))
                if pid not in entry.pids:
                    entry.pids.append(pid)
    big = [entry for entry in found.values() if entry.size_bytes >= smallest_bytes]
    return tuple(
        DeletedOpen(entry.pids[0], command_of(entry.pids[0], proc=proc), entry.path, entry.size_bytes, tuple(entry.pids[1:]))
        for entry in sorted(big, key=lambda entry: (-entry.size_bytes, entry.pids[0], entry.path))
    )


def describe(item: DeletedOpen) -> str:
    """Return `"held by pid 4711 python train.py, 38.0 GiB"`."""
    others = f" and {len(item.also)} more" if item.also else ""
    return f"held by pid {item.pid} {item.command}{others}, {print_bytes(item.size_bytes)}"


def command_of(pid: int, *, proc: str = "/proc") -> str:
    """Return the program of a process and what it runs, as in `python train.py`; further arguments may be secrets."""
    words: list[str] = []
    with contextlib.suppress(OSError), open(f"{proc}/{pid}/cmdline", "rb") as file:
        words = [os.fsdecode(word) for word in file.read(4096).split(b"\0")]
    name = os.path.basename(words[0]) if words and words[0] else ""
    if not name:
        with contextlib.suppress(OSError), open(f"{proc}/{pid}/comm", "rb") as file:
            return os.fsdecode(file.read().rstrip(b"\n")) or "?"
        return "?"
    if words[1:2] == ["-m"]:
        name += " -m " + "".join(words[2:3])
    elif words[1:2] and words[1] and not words[1].startswith("-"):
        name += " " + (os.path.basename(words[1]) or words[1])
    return name if len(name) <= _WORD else name[: _WORD - 1] + "…"


def _descriptors(folder: str, rooms: Collection[int]) -> Iterator[tuple[tuple[int, int], str, int]]:
    """Yield inode, path and size of the deleted files that one process has open; nothing of a process that hides or ends."""
    try:
        numbers = os.listdir(f"{folder}/fd")
    except OSError:
        return
    for number in numbers:
        with contextlib.suppress(OSError):
            path = os.readlink(f"{folder}/fd/{number}")
            if path.endswith(_MARK) and path.startswith("/"):
                found = os.stat(f"{folder}/fd/{number}")
                if found.st_nlink == 0 and found.st_dev in rooms and stat.S_ISREG(found.st_mode):
                    yield (found.st_dev, found.st_ino), path.removesuffix(_MARK), found.st_blocks * _BLOCK


def _mapped(folder: str, rooms: Collection[int]) -> Iterator[tuple[tuple[int, int], str, int]]:
    """Yield inode, path and size of the deleted files that one process has mapped."""
    try:
        with open(f"{folder}/maps", "rb", buffering=0) as file:
            text = file.readall() or b""
    except OSError:
        return
    if b" (deleted)\n" not in text:
        return
    sizes: dict[tuple[int, int], int] = {}
    paths: dict[tuple[int, int], str] = {}
    for line in text.splitlines():
        fields = line.split(None, _MAPS_FIELDS)
        if (
            len(fields) <= _MAPS_FIELDS
            or not fields[_MAPS_FIELDS].endswith(b" (deleted)")
            or not fields[_MAPS_FIELDS].startswith(b"/")
        ):
            continue
        major, _, minor = fields[3].partition(b":")
        device, inode = os.makedev(int(major, 16), int(minor, 16)), int(fields[4])
        if device not in rooms or inode == 0:
            continue
        first, last = (int(end, 16) for end in fields[0].split(b"-"))
        size = last - first
        key = (device, inode)
        with contextlib.suppress(OSError):  # EPERM: not root
            found = os.stat(f"{folder}/map_files/{first:x}-{last:x}")
            if found.st_nlink > 0:
                continue
            key, size = (found.st_dev, found.st_ino), found.st_blocks * _BLOCK
            sizes[key] = 0
        sizes[key] = sizes.get(key, 0) + size
        paths[key] = os.fsdecode(fields[_MAPS_FIELDS].removesuffix(b" (deleted)").replace(b"\\012", b"\n"))
    for key, size in sizes.items():
        yield key, paths[key], size
