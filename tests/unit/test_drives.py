"""Drives by sysfs, as it looks on machines that are not here: NVMe, RAID on rotating disks, LUKS on a stick, a card."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from survived.findings import DataDisk, Speed
from survived.observe.drives import device_of, is_removable, rank, read_speed

if TYPE_CHECKING:
    from pathlib import Path

TIB = 1 << 40


class Sysfs:
    """A sysfs below a folder, with the links that the kernel makes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "dev/block").mkdir(parents=True)

    def disk(self, place: str, number: tuple[int, int], rotational: str = "0", removable: str = "0", card: str = "") -> None:
        """Add a whole disk below devices/."""
        folder = self.root / "devices" / place
        (folder / "queue").mkdir(parents=True)
        (folder / "slaves").mkdir()
        (folder / "queue/rotational").write_text(f"{rotational}\n")
        (folder / "removable").write_text(f"{removable}\n")
        if card:
            (folder / "device").mkdir()
            (folder / "device/type").write_text(f"{card}\n")
        self.link(place, number)

    def part(self, place: str, number: tuple[int, int]) -> None:
        """Add a partition, which has neither queue nor slaves."""
        folder = self.root / "devices" / place
        folder.mkdir()
        (folder / "partition").write_text("1\n")
        self.link(place, number)

    def link(self, place: str, number: tuple[int, int]) -> None:
        """Let a device number lead to a folder."""
        (self.root / f"dev/block/{number[0]}:{number[1]}").symlink_to(f"../../devices/{place}")

    def volume(self, name: str, number: tuple[int, int], *members: str, rotational: str = "0") -> None:
        """Add a volume made of members."""
        self.disk(f"virtual/block/{name}", number, rotational)
        for member in members:
            link = self.root / f"devices/virtual/block/{name}/slaves/{os.path.basename(member)}"
            link.symlink_to(self.root / "devices" / member)

    def speed(self, *number: int, fstype: str = "ext4") -> Speed:
        """Return what we read of a device."""
        return read_speed(os.makedev(*number), fstype, str(self.root))

    def removable(self, *number: int) -> bool:
        """Return what we read of a device."""
        return is_removable(os.makedev(*number), str(self.root))


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    """Return a machine with every kind of drive."""
    made = Sysfs(tmp_path)
    made.disk("pci0/nvme/nvme0n1", (259, 0))
    made.part("pci0/nvme/nvme0n1/nvme0n1p2", (259, 2))
    made.disk("pci0/ata1/block/sda", (8, 0))
    made.part("pci0/ata1/block/sda/sda1", (8, 1))
    made.disk("pci0/ata2/block/sdb", (8, 16), rotational="1")
    made.part("pci0/ata2/block/sdb/sdb1", (8, 17))
    made.disk("pci0/usb3/3-1/block/sdc", (8, 32), rotational="1")
    made.part("pci0/usb3/3-1/block/sdc/sdc1", (8, 33))
    made.disk("pci0/ata3/block/sr0", (11, 0), removable="1")
    made.disk("platform/mmc0/block/mmcblk0", (179, 0), card="SD")
    made.disk("platform/mmc1/block/mmcblk1", (179, 8), card="MMC")
    made.volume("md0", (9, 0), "pci0/ata1/block/sda/sda1", "pci0/ata2/block/sdb/sdb1")
    made.volume("dm-0", (253, 0), "pci0/nvme/nvme0n1/nvme0n1p2")
    made.volume("dm-1", (253, 1), "virtual/block/dm-2")
    made.volume("dm-2", (253, 2), "pci0/usb3/3-1/block/sdc/sdc1")
    made.disk("virtual/block/zram0", (252, 0), rotational="?")
    return made


def test_speed_is_that_of_the_slowest_drive_below(sysfs: Sysfs) -> None:
    """A partition is as fast as its disk, a volume as its slowest member, through any layers of them."""
    assert [sysfs.speed(259, 0), sysfs.speed(259, 2), sysfs.speed(253, 0)] == [Speed.NVME] * 3
    assert [sysfs.speed(8, 0), sysfs.speed(8, 1)] == [Speed.SSD] * 2
    assert [sysfs.speed(8, 16), sysfs.speed(8, 17), sysfs.speed(9, 0), sysfs.speed(253, 1)] == [Speed.ROTATIONAL] * 4


def test_what_sysfs_does_not_tell_is_unknown(sysfs: Sysfs) -> None:
    """A device that is not there, or whose queue says nothing, is unknown; a network filesystem has no device."""
    assert [sysfs.speed(252, 0), sysfs.speed(0, 40), sysfs.speed(77, 7)] == [Speed.UNKNOWN] * 3
    assert sysfs.speed(0, 50, fstype="nfs4") is Speed.NETWORK


def test_what_can_be_pulled_out(sysfs: Sysfs) -> None:
    """Removable drives, what hangs on USB even below LUKS and LVM, and cards; not what is soldered in."""
    assert [sysfs.removable(11, 0), sysfs.removable(8, 33), sysfs.removable(253, 1), sysfs.removable(179, 0)] == [True] * 4
    assert not any(sysfs.removable(*number) for number in ((8, 1), (259, 2), (9, 0), (179, 8), (253, 0), (77, 7)))


def test_volumes_in_a_circle_end(sysfs: Sysfs) -> None:
    """What no kernel makes is no reason to hang."""
    sysfs.volume("dm-8", (253, 8), "virtual/block/dm-9")
    sysfs.volume("dm-9", (253, 9), "virtual/block/dm-8")

    assert sysfs.speed(253, 8) in set(Speed)


def test_the_number_of_a_device() -> None:
    """The mounted name's own number where it is a device, else what the mount table says."""
    assert device_of("/dev/null", 5) == os.makedev(1, 3)
    assert device_of("/dev/none", 5) == device_of("tank/home", 5) == device_of("/etc", 5) == 5


def disk(name: str, available: float, speed: Speed = Speed.SSD, standing: int = 1) -> DataDisk:
    """Return a data disk."""
    return DataDisk(name, f"/{name}", "ext4", int(available * TIB), speed, standing)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (disk("a", 7, Speed.ROTATIONAL), disk("b", 1, Speed.NVME)),  # much more room
        (disk("a", 5, Speed.NVME), disk("b", 7, Speed.ROTATIONAL)),  # like room: the faster
        (disk("a", 5), disk("b", 7, standing=2)),  # like room and speed: one that is the user's already
        (disk("a", 7), disk("b", 5)),
        (disk("a", 5), disk("b", 5)),
        (disk("a", 5, Speed.UNKNOWN), disk("b", 5, Speed.ROTATIONAL)),
    ],
)
def test_the_order_of_data_disks(first: DataDisk, second: DataDisk) -> None:
    """Room, then speed, then whose it is, then room to the byte."""
    assert sorted([second, first], key=rank) == sorted([first, second], key=rank) == [first, second]


@given(st.lists(st.tuples(st.floats(0, 100), st.sampled_from(Speed), st.integers(0, 2)), min_size=1, max_size=6))
def test_the_first_has_at_least_half_of_the_most_room(facts: list[tuple[float, Speed, int]]) -> None:
    """However fast the others are, the disk that is taken first is never one with little room."""
    disks = sorted((disk(str(at), *fact) for at, fact in enumerate(facts)), key=rank)

    assert 2 * disks[0].available_bytes >= max(item.available_bytes for item in disks)
