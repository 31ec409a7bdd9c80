"""Reading filesystems: against df and findmnt-like truths, and mountinfo in all its forms."""

from __future__ import annotations

import os
import pwd
import stat
import threading
import time
from pathlib import Path

import pytest

from survived.observe import disks
from survived.observe.disks import answers, find_data_disks, read_filesystem, read_mounts, watched_paths

LINES = rb"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
40 27 8:17 / /data\0401 rw,noatime shared:7 master:3 - ext4 /dev/sdb1 rw
41 27 8:17 /sub /mnt/b\134ind ro,noatime - ext4 /dev/sdb1 rw
42 27 0:50 / /caf\303\251\012x rw - tmpfs tmpfs ro,size=1k
43 27 0:51 / /net rw - nfs4 server:/export/a\040b rw
44 27 0:52 / /over rw - overlay overlay rw,lowerdir=/l,upperdir=/up\040per,workdir=/w
this is no line of the kernel's
"""


def test_mountinfo_is_parsed(tmp_path: Path) -> None:
    """Escapes, optional fields, bind roots and both kinds of read-only are understood; other lines are left out."""
    (tmp_path / "mountinfo").write_bytes(LINES)

    mounts = read_mounts(str(tmp_path / "mountinfo"))

    assert [mount.point for mount in mounts] == ["/proc", "/", "/data 1", "/mnt/b\\ind", "/café\nx", "/net", "/over"]
    assert [mount.read_only for mount in mounts] == [False, False, False, True, True, False, False]
    assert [mount.upper for mount in mounts if mount.upper] == ["/up per"]
    assert (os.makedev(8, 17), "/sub", "/dev/sdb1", "ext4") == (
        mounts[3].device_number,
        mounts[3].root,
        mounts[3].device,
        mounts[3].fstype,
    )
    assert mounts[5].device == "server:/export/a b"


def test_longest_mount_point_wins(tmp_path: Path) -> None:
    """Without the kernel's word the longest mount point above wins, of one device before others, the last of equals."""
    (tmp_path / "mountinfo").write_bytes(LINES + rb"44 27 8:18 / /data\0401 rw - xfs /dev/sdc1 rw" + b"\n")
    mounts = read_mounts(str(tmp_path / "mountinfo"))

    assert disks._longest_mount("/data 1/x", os.makedev(8, 17), mounts).id == 40
    assert disks._longest_mount("/data 1/x", os.makedev(9, 9), mounts).id == 44
    assert disks._longest_mount("/data 10", os.makedev(9, 9), mounts).id == 27
    with pytest.raises(FileNotFoundError):
        disks._longest_mount("/data 1", 0, mounts[:1])


@pytest.mark.parametrize("path", ["/", "/proc", "/dev/shm", "/usr/bin"])
def test_reading_is_statvfs(path: str) -> None:
    """Figures are those of statvfs and the mount point leads to the same device."""
    found, truth = read_filesystem(path), os.statvfs(path)

    assert truth.f_blocks * truth.f_frsize == found.capacity_bytes
    assert (truth.f_blocks - truth.f_bfree) * truth.f_frsize == pytest.approx(found.used_bytes, rel=0.01)
    assert truth.f_bavail * truth.f_frsize == pytest.approx(found.available_bytes, rel=0.01)
    assert os.stat(path).st_dev == found.device_id == os.stat(found.mount).st_dev
    assert os.path.ismount(found.mount)
    assert path == found.mount or path.startswith(found.mount)


def test_missing_path_raises(tmp_path: Path) -> None:
    """A path that is not there is an OSError."""
    with pytest.raises(FileNotFoundError):
        read_filesystem(str(tmp_path / "none"))


def test_watched_paths_name_each_device_once(tmp_path: Path) -> None:
    """Where home lies on the root filesystem, or does not exist there yet, only the root is watched; else both are."""
    assert watched_paths("/") == watched_paths("/none/such/home") == ("/",)
    assert watched_paths("/proc") == ("/", "/proc")


def test_answers() -> None:
    """A mount that replies answers, and so does an error."""
    assert answers("/")
    assert answers("/none/such")


def test_a_dead_mount_leaks_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount that hangs is given up after the time limit, asked by one thread only, and answers once it is back."""
    back = threading.Event()
    monkeypatch.setattr(os, "statvfs", lambda _: back.wait())
    before = threading.active_count()
    began = time.monotonic()
    try:
        assert [answers("/dead", 0.05) for _ in range(3)] == [False] * 3
        assert before + 1 == threading.active_count()
        assert time.monotonic() - began < 2
    finally:
        back.set()
    assert answers("/dead", 5)
    assert before == threading.active_count()


def test_rooms_under_other_names_are_avoided(tmp_path: Path) -> None:
    """Another subvolume of an avoided btrfs and another dataset of an avoided zfs pool are avoided, other disks are not."""
    lines = b"""1 0 0:40 /@ /none/root rw - btrfs /dev/none2 rw
2 0 0:41 /@data /none/data rw - btrfs /dev/none2 rw
3 0 0:42 / /none/a rw - zfs tank/a rw
4 0 0:43 / /none/b rw - zfs tank/b rw
5 0 0:44 / /none/c rw - zfs tanks/c rw
6 0 8:1 / /none/d rw - ext4 /dev/none1 rw
"""
    (tmp_path / "mountinfo").write_bytes(lines)
    mounts = read_mounts(str(tmp_path / "mountinfo"))

    avoided = disks._avoided(mounts, {os.makedev(0, 40), os.makedev(0, 43)})

    assert [mount.id for mount in mounts if disks._device_names(mount) & avoided] == [1, 2, 3, 4]


@pytest.mark.real
def test_candidates_on_one_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An existing store wins, then a directory of ours, then one that may be made, and nobody else's is taken."""
    user = pwd.getpwuid(os.geteuid())
    if user.pw_uid != 0:
        pytest.skip("the mount point would be ours: needs root to give it away")
    (tmp_path / "users").mkdir()
    tmp_path.chmod(0o755)
    os.chown(tmp_path, 65534, 65534)
    # Root may write everywhere; here its rights are those of others.
    monkeypatch.setattr(os, "access", lambda path, *_, **__: bool(os.stat(path).st_mode & stat.S_IWOTH))
    os.chown(tmp_path / "users", 65534, 65534)

    def choose() -> tuple[int, str] | None:
        return disks._choose_directory(str(tmp_path), user)

    assert choose() is None
    (tmp_path / "users").chmod(0o1777)
    assert choose() == (2, f"{tmp_path}/users/{user.pw_name}")
    tmp_path.chmod(0o1777)
    assert choose() == (2, f"{tmp_path}/{user.pw_name}")
    (tmp_path / user.pw_name).symlink_to("/")
    assert choose() == (2, f"{tmp_path}/users/{user.pw_name}")
    (tmp_path / "users" / user.pw_name).mkdir()
    assert choose() == (1, f"{tmp_path}/users/{user.pw_name}")
    (tmp_path / user.pw_name).unlink()
    (tmp_path / user.pw_name).mkdir()
    assert choose() == (1, f"{tmp_path}/{user.pw_name}")
    (tmp_path / "users" / user.pw_name / "survived").mkdir()
    (tmp_path / "users" / user.pw_name / "survived" / "STORE").touch()
    assert choose() == (0, f"{tmp_path}/users/{user.pw_name}")


def test_the_root_disk_is_no_data_disk() -> None:
    """What is found lies on none of the avoided devices nor on the root's, and an unknown user has nothing."""
    found = find_data_disks("/", os.geteuid(), [])
    devices = {os.stat(path if os.path.exists(path) else os.path.dirname(path)).st_dev for path in found}

    assert os.stat("/").st_dev not in devices
    assert find_data_disks("/", os.geteuid(), devices) == ()
    assert find_data_disks("/", 3_999_999_999, []) == ()
