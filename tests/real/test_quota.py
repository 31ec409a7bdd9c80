"""
Quotas by real kernels: the running one where it has them, and one that is booted as a process where it has not.

In each an ordinary user writes until the kernel says EDQUOT, and the reading has to say the same.
"""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest

from tests.rig.uml import run_in_uml, why_no_uml

pytestmark = [pytest.mark.real, pytest.mark.skipif(why_no_uml() is not None, reason=str(why_no_uml()))]

SCRIPT = """
import errno
from dataclasses import asdict
from types import SimpleNamespace
from survived.act.room import check_room
from survived.decide.quota import limit
from survived.observe import quota as module
from survived.observe.disks import read_filesystem
from survived.errors import Refused
from survived.model import Mark, TreeSize
from survived.observe.quota import read_quota
load("fs/quota/quota_tree"); load("fs/quota/quota_v2")
sh("mount", "-t", "tmpfs", "tmpfs", "/mnt")
os.mkdir("/mnt/disk"); os.mkdir("/mnt/plain")
{mount}
os.chmod("/mnt/disk", 0o711); os.mkdir("/mnt/disk/alice"); os.chown("/mnt/disk/alice", 12345, 12345)

def read():
    found = read_quota("/mnt/disk/alice", "{device}", 12345)
    fs = read_filesystem("/mnt/disk")
    limited = limit(fs, found)
    return asdict(found), (fs.usage, fs.available_bytes), (limited.usage, limited.available_bytes, limited.inodes_usage)

def write(name, size):
    try:
        with open(f"/mnt/disk/alice/{{name}}", "wb", buffering=0) as file:
            for _ in range(size >> 16):
                file.write(bytes(1 << 16))
            os.fsync(file.fileno())
    except OSError as error:
        return errno.errorcode[error.errno]

def room(size, files):
    try:
        check_room(SimpleNamespace(path="/mnt/disk/alice"), "/tree", TreeSize(size, files=files), Mark(usage=1.0))
    except Refused as refused:
        return [refused.reason.value, refused.message]

def alice():
    told = [read()]
    told.append(write("first", 4 << 20)); told.append(read())
    told.append(write("second", 3 << 20)); told.append(read())
    told.append(write("third", 9 << 20)); told.append(read())
    rooms = [room(1 << 10, 1)]
    os.unlink("/mnt/disk/alice/third"); os.unlink("/mnt/disk/alice/second")
    made = 0
    try:
        for made in range(100):
            os.close(os.open(f"/mnt/disk/alice/{{made}}", os.O_CREAT | os.O_WRONLY))
    except OSError as error:
        told.append((made, errno.errorcode[error.errno]))
    rooms += [room(1 << 10, 5), room(1 << 10, 0), room(4 << 20, 0)]
    told.append(read())
    told.append(rooms)
    told.append(read_quota("/mnt/disk", "{device}", 0) is None)
    told.append(read_quota("/mnt/plain", "tmpfs", 12345) is None)
    module._QUOTACTL_FD = 99_999
    older = asdict(read_quota("/mnt/disk", "{device}", 12345))
    told.append([older[name] == told[-4][0][name] for name in ("soft_bytes", "hard_bytes", "hard_inodes", "is_enforced")])
    return told

told = as_user(12345, alice)
{counted}
answer = {{"told": told, "counted": as_user(12345, lambda: asdict(read_quota("/mnt/disk", "{device}", 12345))) }}
"""
MIB = 1 << 20
EXT4 = {
    "device": "/dev/ubda",
    "mount": """
sh("mount", "-o", "usrquota", "/dev/ubda", "/mnt/disk")
sh("setquota", "-u", "12345", str(6 << 10), str(10 << 10), "0", "50", "/mnt/disk")
""",
    "counted": """
sh("umount", "/mnt/disk"); sh("mount", "/dev/ubda", "/mnt/disk")
""",
}
XFS = {
    "device": "/dev/ubda",
    "mount": """
sh("mount", "-o", "uquota", "/dev/ubda", "/mnt/disk")
sh("xfs_quota", "-x", "-c", "limit -u bsoft=6m bhard=10m ihard=50 12345", "/mnt/disk")
""",
    "counted": """
sh("umount", "/mnt/disk"); sh("mount", "-o", "uqnoenforce", "/dev/ubda", "/mnt/disk")
""",
}


@pytest.fixture(scope="module", params=["ext4", "xfs"])
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what an ordinary user saw while he filled his quota on one filesystem."""
    folder = tmp_path_factory.mktemp("quota")
    image = folder / "disk.img"
    size, make = ("64M", ["mkfs.ext4", "-q", "-F", "-O", "quota", "-E", "quotatype=usrquota", "-m", "0"])
    if request.param == "xfs":
        size, make = "320M", ["mkfs.xfs", "-q"]
    subprocess.run(["truncate", "-s", size, image], check=True)
    try:
        subprocess.run([*make, image], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip(f"needs {make[0]}")
    parts = EXT4 if request.param == "ext4" else XFS
    answer: dict[str, Any] = run_in_uml(folder, [image], SCRIPT.format(**parts))
    return answer


def test_the_quota_is_the_disk_that_is_full(story: dict[str, Any]) -> None:
    """Use, limits, grace and inodes are the kernel's; at EDQUOT nothing is available, though the disk is nearly empty."""
    empty, wrote_first, first, wrote_second, second, wrote_third, third, inodes, out_of_inodes, rooms, *asked = story["told"]

    assert (empty[0]["soft_bytes"], empty[0]["hard_bytes"], empty[0]["hard_inodes"]) == (6 * MIB, 10 * MIB, 50)
    assert empty[0]["is_enforced"]
    assert empty[0]["used_bytes"] < MIB

    assert wrote_first is None
    assert 4 * MIB <= first[0]["used_bytes"] < 5 * MIB
    assert first[0]["bytes_until"] == 0
    assert first[2][0] == pytest.approx(4 / 6, abs=0.02)
    assert first[2][0] > first[1][0]

    assert wrote_second is None  # above the soft limit, on credit
    assert second[0]["bytes_until"] > 0
    assert second[2][:2] == [1.0, 0]

    assert wrote_third == "EDQUOT"
    assert 9 * MIB < third[0]["used_bytes"] <= 10 * MIB
    assert third[2][:2] == [1.0, 0]
    assert third[1][1] > 20 * MIB  # what df says is left

    assert inodes == [inodes[0], "EDQUOT"]
    assert 45 <= inodes[0] <= 50
    assert 45 <= out_of_inodes[0]["used_inodes"] <= 50
    assert out_of_inodes[2][2] >= 0.9

    # Moving there is refused before the first byte, and not by EDQUOT in the middle.
    assert [answer and answer[0] for answer in rooms] == ["no_room", "no_room", None, "no_room"]
    assert "your quota has 0 B left" in rooms[0][1]
    assert re.search(r"it needs 5 inodes, and your quota has [01] left", rooms[1][1])

    assert asked == [True, True, [True] * 4]  # nobody else's, none where none is kept, and by the older call the same


def test_a_quota_that_is_only_counted_limits_nothing(story: dict[str, Any]) -> None:
    """Mounted without enforcement the limits are still there, and the reading says that they are not enforced."""
    assert story["counted"]["hard_bytes"] == 10 * MIB
    assert 45 <= story["counted"]["used_inodes"] <= 50
    assert not story["counted"]["is_enforced"]
