"""Small ext4 filesystems on loop images, mounted for one test and gone after it, whatever happens."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

FILLER = ".filler"


@cache
def why_no_mounts() -> str | None:
    """Return why this process cannot mount loop images, or None if it can."""
    if os.geteuid() != 0:
        return "needs root"
    for tool in ("mkfs.ext4", "losetup", "mount"):
        if shutil.which(tool) is None:
            return f"needs {tool}"
    if subprocess.run(["losetup", "-f"], capture_output=True, check=False).returncode != 0:
        return "needs a free loop device"
    return None


@dataclass(frozen=True)
class Disk:
    """One mounted image."""

    path: Path
    image: Path

    def usage(self) -> float:
        """Used / (used + available) of blocks, as df has it."""
        found = os.statvfs(self.path)
        used = found.f_blocks - found.f_bfree
        return used / (used + found.f_bavail)

    def inodes_usage(self) -> float:
        """Used / all of inodes."""
        found = os.statvfs(self.path)
        return (found.f_files - found.f_ffree) / found.f_files

    def available_bytes(self) -> int:
        """What an ordinary user may still write."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill_bytes(self, usage: float | None = None) -> None:
        """Fill up to `usage` with one file, or, without it, until not even one more block can be had."""
        found = os.statvfs(self.path)
        used = found.f_blocks - found.f_bfree
        total = (used + found.f_bavail) * found.f_frsize
        want = found.f_bavail * found.f_frsize if usage is None else int(usage * total) - used * found.f_frsize
        if want <= 0:
            return
        with open(self.path / FILLER, "ab") as file:
            with suppress(OSError):  # ENOSPC: extents take blocks too; the rest is filled below
                os.posix_fallocate(file.fileno(), file.tell(), want)
            if usage is not None:
                return
        for size in (1 << 20, 1 << 12):
            with open(self.path / FILLER, "ab", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(size))
                        os.fsync(file.fileno())
                except OSError:
                    continue

    def fill_inodes(self, keep: int = 0) -> None:
        """Make empty files until only `keep` inodes are left."""
        folder = self.path / ".inodes"
        folder.mkdir(exist_ok=True)
        for number in range(max(0, os.statvfs(self.path).f_favail - keep)):
            try:
                os.close(os.open(folder / f"{number}", os.O_CREAT | os.O_WRONLY, 0o600))
            except OSError:  # ENOSPC: the last one
                return

    def empty(self) -> None:
        """Remove what the fill methods made."""
        (self.path / FILLER).unlink(missing_ok=True)
        shutil.rmtree(self.path / ".inodes", ignore_errors=True)

    def remount(self, options: str) -> None:
        """Remount with other options, such as `ro`."""
        subprocess.run(["mount", "-o", f"remount,{options}", self.path], check=True, capture_output=True)


@dataclass(frozen=True)
class Disks:
    """The pair most tests want: a small filesystem to watch and a roomier one to move to."""

    small: Disk
    data: Disk


@contextmanager
def mounted(folder: Path, name: str, size: str, *, inodes: int | None = None) -> Iterator[Disk]:
    """Make an ext4 image of `size` ("200M") without reserved blocks and mount it at folder/name."""
    image, path = folder / f"{name}.img", folder / name
    path.mkdir()
    subprocess.run(["truncate", "-s", size, image], check=True)
    count = ["-N", str(inodes)] if inodes else []
    make = ["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,nodiscard", *count, "-L", name[:16], image]
    subprocess.run(make, check=True, capture_output=True)
    mount(image, path)
    try:
        (path / "lost+found").rmdir()
        yield Disk(path, image)
    finally:
        unmount(path)
        image.unlink(missing_ok=True)


def mount(image: Path, path: Path) -> None:
    """Mount an image, for the first time or again; noatime, since measuring a tree must not write to a full disk."""
    subprocess.run(["mount", "-o", "loop,noatime", image, path], check=True, capture_output=True)


def unmount(path: Path) -> None:
    """Unmount, lazily if somebody still holds it; the loop device frees itself with the last user."""
    if not os.path.ismount(path):
        return
    if subprocess.run(["umount", path], capture_output=True, check=False).returncode != 0:
        subprocess.run(["umount", "--lazy", path], capture_output=True, check=False)


def wait_released(image: Path, seconds: float = 20.0) -> None:
    """
    Wait until the kernel has let go of an unmounted image.

    Mounted while it is still held, it would be the old filesystem again, read-only or dead as it was.
    """
    end = time.monotonic() + seconds
    while held := subprocess.run(["losetup", "-j", image], capture_output=True, text=True, check=True).stdout:
        assert time.monotonic() < end, f"still held after {seconds} s: {held}"
        time.sleep(0.05)


@contextmanager
def small_and_data_disks(folder: Path, *, small: str = "200M", data: str = "400M", inodes: int | None = None) -> Iterator[Disks]:
    """Mount a pair of images below `folder`."""
    with mounted(folder, "small", small, inodes=inodes) as one, mounted(folder, "data", data) as other:
        yield Disks(one, other)
