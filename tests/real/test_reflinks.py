"""Shared extents on filesystems that have them: what `cp --reflink` made frees nothing as long as its other half stands."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from survived.observe.tree import measure_tree
from tests.rig.disks import unmount, why_no_mounts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.real
MIB = 1 << 20
MAKERS = {
    "btrfs": (["mkfs.btrfs", "-q"], "400M"),
    "xfs": (["mkfs.xfs", "-q", "-m", "reflink=1"], "400M"),
}


@pytest.fixture(params=sorted(MAKERS))
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Mount a filesystem that can share extents."""
    make, size = MAKERS[request.param]
    reason = why_no_mounts() or (None if shutil.which(make[0]) else f"needs {make[0]}")
    if reason:
        pytest.skip(reason)
    image, path = tmp_path / "image", tmp_path / "disk"
    path.mkdir()
    subprocess.run(["truncate", "-s", size, image], check=True)
    subprocess.run([*make, image], check=True, capture_output=True)
    done = subprocess.run(["mount", "-o", "loop,noatime", image, path], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount {request.param}: {done.stderr.strip()}")
    try:
        yield path
    finally:
        unmount(path)


def write(path: Path, mib: int) -> Path:
    """Write a file of random bytes, durably."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(os.urandom(mib * MIB))
    os.sync()
    return path


def reflink(source: Path, copy: Path) -> None:
    """Copy a file by sharing its extents."""
    subprocess.run(["cp", "--reflink=always", source, copy], check=True)
    os.sync()


def kept(path: Path) -> int:
    """Return what does not come back, in MiB."""
    found = measure_tree(str(path))
    assert found.size_bytes // MIB == sum(file.stat().st_blocks * 512 for file in path.iterdir()) // MIB
    return round((found.size_bytes - found.reclaimable_bytes) / MIB)


def test_shared_with_outside_gives_nothing_back(disk: Path) -> None:
    """A file that shares all its extents with one outside frees nothing, one of its own frees itself."""
    tree = disk / "tree"
    write(tree / "own", 7)
    shared = write(tree / "shared", 20)
    assert kept(tree) == 0
    reflink(shared, disk / "outside")
    assert kept(tree) == 20

    (disk / "outside").unlink()
    until = time.monotonic() + 30
    while kept(tree) and time.monotonic() < until:  # xfs frees an inode in the background
        os.statvfs(disk)
        subprocess.run(["sync", "-f", disk], check=True)
        time.sleep(0.05)
    assert kept(tree) == 0


def test_what_the_filesystem_says(disk: Path) -> None:
    """The prediction is what statfs shows after the removal."""
    tree = disk / "tree"
    reflink(write(tree / "one", 30), disk / "outside")
    reflink(write(tree / "two", 40), tree / "twin of two")
    write(tree / "three", 10)
    expected = measure_tree(str(tree))
    before = os.statvfs(disk)
    shutil.rmtree(tree)
    for _ in range(50):  # btrfs frees when it commits, xfs in the background
        subprocess.run(["sync", "-f", disk], check=True)
        after = os.statvfs(disk)
        freed = (after.f_bfree - before.f_bfree) * after.f_frsize
        if freed > 45 * MIB:
            break
        time.sleep(0.1)

    assert expected.size_bytes // MIB == 30 + 40 + 40 + 10
    assert expected.reclaimable_bytes // MIB == 40 + 10
    assert abs(freed - expected.reclaimable_bytes) < 4 * MIB


def test_half_shared(disk: Path) -> None:
    """Of a file half of which was written anew since it was shared, that half comes back."""
    tree = disk / "tree"
    shared = write(tree / "file", 16)
    reflink(shared, disk / "outside")
    with open(shared, "r+b") as file:
        file.write(os.urandom(8 * MIB))
    os.sync()

    assert kept(tree) == 8


def test_a_link_outside_is_not_counted_twice(disk: Path) -> None:
    """An inode that is linked and shared outside frees nothing once, and its reflinked copy inside frees nothing, too."""
    tree = disk / "tree"
    file = write(tree / "file", 12)
    os.link(file, disk / "linked")
    reflink(file, disk / "shared")
    write(tree / "own", 5)
    assert kept(tree) == 12
    reflink(file, tree / "copy")
    assert kept(tree) == 24


def test_xfs_without_reflinks_is_not_asked(tmp_path: Path) -> None:
    """The geometry of an xfs tells whether it can share."""
    from survived.observe.extents import can_share

    reason = why_no_mounts() or (None if shutil.which("mkfs.xfs") else "needs mkfs.xfs")
    if reason:
        pytest.skip(reason)
    path = tmp_path / "disk"
    path.mkdir()
    for able in (0, 1):
        image = tmp_path / f"image{able}"
        subprocess.run(["truncate", "-s", "400M", image], check=True)
        subprocess.run(["mkfs.xfs", "-q", "-m", f"reflink={able}", image], check=True, capture_output=True)
        if subprocess.run(["mount", "-o", "loop", image, path], capture_output=True, check=False).returncode != 0:
            pytest.skip("cannot mount xfs")
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                assert can_share("xfs", descriptor) == bool(able)
                assert not can_share("ext4", descriptor)
            finally:
                os.close(descriptor)
        finally:
            unmount(path)
