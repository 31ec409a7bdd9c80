"""Small filesystems of every kind that a source or a store may be on, mounted for one test and gone after it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tests.rig.disks import unmount, why_no_mounts

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-b", "4096", "-i", "2048", "-I", "256", "-m", "0", "-E", "lazy_itable_init=1,nodiscard"],
    "ext4-128": ["mkfs.ext4", "-q", "-F", "-b", "4096", "-I", "128", "-m", "0", "-E", "lazy_itable_init=1,nodiscard"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
    "exfat": ["mkfs.exfat"],
    "vfat": ["mkfs.vfat"],
}
"""How to make each that has an image. ext4-128 has the small inodes of old disks: times in whole seconds, and only till 2038."""
_SMALLEST = {"xfs": "320M", "btrfs": "320M"}
FAITHFUL = ("ext4", "xfs", "btrfs", "tmpfs", "overlay")
"""Those that keep all of a tree. The overlay has both its layers on an ext4 image."""


@cache
def why_not(kind: str) -> str | None:
    """Return why this machine cannot mount a filesystem of this kind, or None if it can."""
    if reason := why_no_mounts():
        return reason
    known = Path("/proc/filesystems").read_text(encoding="ascii").split()
    driver = {"ext4-128": "ext4", "exfat": "fuseblk"}.get(kind, kind)
    if driver not in known and subprocess.run(["modprobe", "-q", driver], check=False, capture_output=True).returncode != 0:
        return f"the kernel has no {driver}"
    tools = [_MAKE[kind][0]] if kind in _MAKE else []
    for tool in [*tools, *(["mount.exfat-fuse"] if kind == "exfat" else [])]:
        if shutil.which(tool) is None:
            return f"needs {tool}"
    return None


@contextmanager
def mounted_as(folder: Path, name: str, kind: str, *, size: str = "800M", options: str = "noatime") -> Iterator[Path]:
    """Make a filesystem of `kind` and mount it at folder/name. Images are sparse: they take what is written to them."""
    path = folder / name
    path.mkdir()
    if kind == "tmpfs":
        _mount(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", path])
        yield from _used(path)
    elif kind == "overlay":
        with mounted_as(folder, f"{name}.layers", "ext4", size=size) as layers:
            for layer in ("lower", "upper", "work"):
                (layers / layer).mkdir()
            where = f"lowerdir={layers}/lower,upperdir={layers}/upper,workdir={layers}/work"
            _mount(["mount", "-t", "overlay", "-o", where, "overlay", path])
            yield from _used(path)
    else:
        image = folder / f"{name}.img"
        with open(image, "xb") as file:
            file.truncate(max(int(wanted.removesuffix("M")) for wanted in (size, _SMALLEST.get(kind, size))) << 20)
        try:
            subprocess.run([*_MAKE[kind], image], check=True, capture_output=True)
            if kind == "exfat":
                yield from _exfat(image, path)
            else:
                _mount(["mount", "-o", f"loop,{options}", image, path])
                if (path / "lost+found").exists():
                    (path / "lost+found").rmdir()
                yield from _used(path)
        finally:
            image.unlink()


def _mount(command: list[str | Path]) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _used(path: Path) -> Iterator[Path]:
    try:
        yield path
    finally:
        unmount(path)
        path.rmdir()


def _exfat(image: Path, path: Path) -> Iterator[Path]:
    """Mount as whoever plugs such a disk in: a block device behind FUSE, which the kernel calls fuseblk."""
    done = subprocess.run(["losetup", "-f", "--show", image], capture_output=True, text=True, check=True)
    device = done.stdout.strip()
    try:
        _mount(["mount.exfat-fuse", device, path])
        end = time.monotonic() + 5.0
        while not os.path.ismount(path) and time.monotonic() < end:
            time.sleep(0.01)
        yield from _used(path)
    finally:
        subprocess.run(["losetup", "-d", device], check=True, capture_output=True)
