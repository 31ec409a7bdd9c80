"""Rot below the filesystem, on a real ext4: a byte changed on the device is found, and exactly its file is named."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.rig.disks import Disk, mount, mounted, unmount, wait_released
from tests.rig.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.real


@pytest.fixture
def world(needs_root_mounts: None, tmp_path: Path) -> Iterator[World]:
    """Return a world without a daemon that verifies content and settles at once."""
    with ExitStack() as stack:
        disks = [stack.enter_context(mounted(tmp_path, name, size)) for name, size in (("small", "60M"), ("data", "80M"))]
        world = stack.enter_context(World(disks[0], (disks[1],), tmp_path / "run"))
        world.configure(move={"settle": "0s", "verify": "content"})
        yield world


def physical(path: Path) -> int:
    """Return where on its device the first byte of a file is."""
    text = subprocess.run(["filefrag", "-v", "-e", path], capture_output=True, text=True, check=True).stdout
    found = re.search(r"^\s*0:\s+0\.\.\s*\d+:\s+(\d+)\.\.", text, re.MULTILINE)
    assert found is not None, text
    return int(found.group(1)) * os.statvfs(path).f_bsize


def rot(disk: Disk, at: int, data: bytes) -> None:
    """Write to the device below a filesystem, which does not see it."""
    with disk.image.open("r+b") as image:
        image.seek(at)
        image.write(data)
        image.flush()
        os.fsync(image.fileno())


def test_a_byte_that_changes_on_the_device_is_found(world: World) -> None:
    """Sizes, times and counts are as before, so only reading everything back tells; b2sum says the same."""
    cache = world.fill(world.cache / "pip", 8, files=200)
    other = world.fill(world.cache / "uv", 2, files=20)
    target = Path(world.must("relocate", "pip", "--json").json["target"])
    world.must("relocate", "uv-cache")
    victim = sorted(path for path in target.rglob("*") if path.is_file())[77]
    world.must("verify", "--content")

    data = victim.read_bytes()
    at = physical(victim) + 1000
    with world.data[0].image.open("rb") as image:
        image.seek(at)
        assert image.read(16) == data[1000:1016]
    rot(world.data[0], at, bytes([data[1000] ^ 0x10]))
    assert victim.read_bytes() == data, "the page cache should still have what was there"

    assert world.must("verify").out.count("untouched since the move") == 2
    answer = world.ctl("verify", "--content")
    assert answer.rc == 5, answer
    assert answer.out.splitlines()[0] == f"DAMAGED: '{cache}', 1 time:"
    assert answer.out.splitlines()[1] == f"  '{victim}': its content is not what was moved, and nobody has written to it since"
    assert f"ok: '{other}'" in answer.out
    (found,) = world.ctl("verify", "pip", "--content", "--json").json["trees"]
    assert (found["state"], found["damaged"], found["compared"], found["unsummed"]) == ("damaged", 1, 199, 0)
    assert [item["path"] for item in found["damage"]] == [str(victim.relative_to(target))]

    said = subprocess.run(["b2sum", "-c", "--quiet", found["sums"]], cwd=target, capture_output=True, text=True, check=False)
    assert said.stdout == f"./{victim.relative_to(target)}: FAILED\n"

    victim.write_bytes(data)  # its tool heals it, and vouches for it from here on
    assert world.must("verify", "--content", "--json").json["trees"][0]["state"] == "changed"


def test_an_inode_that_the_disk_cannot_read(world: World) -> None:
    """A rotten block of inodes: what the kernel refuses to read is named, without a traceback, and the rest is looked at."""
    cache = world.fill(world.cache / "pip", 2, files=60)
    target = Path(world.must("relocate", "pip", "--json").json["target"])
    victim = next(path for path in sorted(target.rglob("*")) if path.is_file())
    size, command = os.statvfs(target).f_bsize, ["debugfs", "-R", f"imap <{victim.stat().st_ino}>", world.data[0].image]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"located at block (\d+), offset 0x([0-9a-f]+)", told.stdout)
    assert found is not None, told
    unmount(world.data[0].path)
    wait_released(world.data[0].image)
    rot(world.data[0], int(found.group(1)) * size + int(found.group(2), 16), b"\xaa" * 64)
    mount(world.data[0].image, world.data[0].path)

    answer = world.ctl("verify")
    assert (answer.rc, answer.out.splitlines()[0]) == (5, f"DAMAGED: '{cache}', 1 time:"), answer
    assert answer.out.splitlines()[1].startswith(f"  '{victim}': it cannot be read: ")


def test_a_disk_that_is_away_and_a_link_that_is_gone(world: World) -> None:
    """What cannot be looked at is 1, what is wrong is 5, and nothing known is refused; a daemon on top changes nothing."""
    cache = world.fill(world.cache / "pip", 1)
    world.must("relocate", "pip")
    assert world.ctl("verify", "uv-cache").rc == 4
    world.start()
    assert world.must("verify", "pip", "--json").json["trees"][0]["state"] == "ok"
    world.kill()

    unmount(world.data[0].path)
    answer = world.ctl("verify")
    assert answer.rc == 1, answer
    assert answer.out.startswith(f"not looked at: '{cache}': ")
    mount(world.data[0].image, world.data[0].path)

    cache.unlink()
    answer = world.ctl("verify")
    assert (answer.rc, "its link is gone" in answer.out) == (5, True), answer
