"""Data disks as they are mounted: the same device under another name is no other disk."""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from survived.observe.disks import find_data_disks, read_data_disks, rooms_of
from tests.rig.disks import mounted, unmount, why_no_mounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.rig.disks import Disks

pytestmark = [pytest.mark.real, pytest.mark.skipif(why_no_mounts() is not None, reason=str(why_no_mounts()))]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Return a function that mounts below tmp_path: `mount(name, *words)`; all is unmounted afterwards."""
    with ExitStack() as stack:

        def make(name: str, *words: object) -> Path:
            path = tmp_path / name
            path.mkdir()
            subprocess.run(["mount", *map(str, words), str(path)], check=True, capture_output=True)
            stack.callback(unmount, path)
            return path

        yield make


def found(below: Path, *avoid: Path) -> list[str]:
    """Return the data disks that root finds below a folder, relative to it, while some filesystems are watched."""
    disks = find_data_disks("/", 0, [os.stat(path).st_dev for path in avoid])
    return [os.path.relpath(path, below) for path in disks if path.startswith(f"{below}/")]


def test_a_bind_mount_is_no_second_disk(make_disks: Callable[..., Disks], mount: Callable[..., Path], tmp_path: Path) -> None:
    """One disk, mounted again in part and whole, is found once, at its own place; and not at all where it is watched."""
    disks = make_disks()
    (disks.data.path / "part").mkdir()
    again = mount("again", "--bind", disks.data.path / "part")
    mount("whole", "--bind", disks.data.path)

    assert found(tmp_path) == ["data", "small"]
    assert found(tmp_path, again) == ["small"]


def test_subvolumes_of_one_btrfs_are_one_disk(mount: Callable[..., Path], tmp_path: Path) -> None:
    """Two subvolumes have two st_dev and one room: one data disk, none where either is watched, and one in /proc/PID/maps."""
    image = tmp_path / "btrfs.img"
    subprocess.run(["truncate", "-s", "160M", image], check=True)
    try:
        subprocess.run(["mkfs.btrfs", "-q", image], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs btrfs-progs")
    top = mount("top", "-o", "loop", image)
    for name in ("@", "@data"):
        subprocess.run(["btrfs", "subvolume", "create", top / name], check=True, capture_output=True)
    unmount(top)
    # The loop device went with its mount; the same image gets another.
    system = mount("system", "-o", "loop,subvol=@", image)
    device = subprocess.run(["findmnt", "-nvo", "SOURCE", system], check=True, capture_output=True, text=True).stdout.strip()
    data = mount("data", "-o", "subvol=@data", device)
    (system / "nested").mkdir()

    assert len(found(tmp_path)) == 1
    assert found(tmp_path, system) == found(tmp_path, data) == []
    assert {os.stat(system).st_dev, os.stat(data).st_dev} <= rooms_of([os.stat(system).st_dev])
    assert os.stat("/").st_dev not in rooms_of([os.stat(system).st_dev])


def test_what_an_overlay_writes_to_is_its_disk(
    make_disks: Callable[..., Disks], mount: Callable[..., Path], tmp_path: Path
) -> None:
    """Where the watched filesystem is an overlay, the disk of its upper folder is no other disk, even below another name."""
    disks = make_disks()
    for name in ("lower", "up per", "work"):
        (disks.small.path / name).mkdir()
    small = disks.small.path
    over = mount("over", "-t", "overlay", "-o", f"lowerdir={small}/lower,upperdir={small}/up per,workdir={small}/work", "overlay")

    assert found(tmp_path) == ["data", "small"]
    assert found(tmp_path, over) == ["data"]


def test_what_is_read_of_a_data_disk(make_disks: Callable[..., Disks], tmp_path: Path) -> None:
    """The facts that it is ranked by are there, and what is mounted to be looked at is no data disk."""
    disks = make_disks()
    (disk,) = [item for item in read_data_disks("/", 0, []) if item.directory == str(disks.data.path)]
    assert (disk.mount, disk.fstype, disk.standing) == (str(disks.data.path), "ext4", 1)
    assert disk.available_bytes == disks.data.available_bytes()
    disks.data.remount("ro")
    assert found(tmp_path) == ["small"]


def test_media_is_for_what_comes_and_goes(tmp_path: Path) -> None:
    """Desktops mount sticks below /media: only a disk that is named is used there."""
    if not os.path.isdir("/media"):
        pytest.skip("needs /media")
    folder = Path("/media") / f"survived-{os.getpid()}"
    folder.mkdir()
    try:
        with mounted(folder, "stick", "64M"):
            assert found(folder) == []
    finally:
        (folder / "stick").rmdir()
        folder.rmdir()
