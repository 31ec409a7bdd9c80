"""The quota may be the disk that is full: what it leaves of a reading, and how the status tells it."""

from __future__ import annotations

import dataclasses
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from survived.decide.pressure import excess_bytes, step_filesystem
from survived.decide.quota import limit, lowest
from survived.findings import Quota
from survived.model import Gauge, Pressure
from survived.observe.quota import parse_quota, read_quota
from survived.tell import quotas, status
from tests.unit.scene import GIB, NOW, RULES, filesystem, scene

NONE = Quota(12345, 0, 0, 0, 0, 0, 0)


def quota(**changes: int | bool) -> Quota:
    """Return a quota of 50 GiB without a soft limit, of which 48 are used."""
    values = {"used_bytes": 48 * GIB, "hard_bytes": 50 * GIB, "used_inodes": 1000, **changes}
    return dataclasses.replace(NONE, **values)


def test_a_full_quota_on_an_empty_disk_is_pressure() -> None:
    """48 of 50 GiB are 96 %, whatever the disk has, and what is to be freed is counted from the quota."""
    limited = limit(filesystem(0.2, 400 * GIB), quota())

    assert (limited.usage, limited.available_bytes, limited.capacity_bytes) == (0.96, 2 * GIB, 50 * GIB)
    assert limited.disk is not None
    assert (limited.disk.used_bytes, limited.disk.available_bytes) == (80 * GIB, 320 * GIB)
    rules = dataclasses.replace(RULES, dwell_seconds=0.0)
    gauges = step_filesystem((Gauge(), Gauge()), limited, rules, 0.0)
    assert [gauge.pressure for gauge in gauges] == [Pressure.HIGH, Pressure.NORMAL]
    assert excess_bytes(limited, rules) == 8 * GIB


def test_a_full_disk_stays_a_full_disk() -> None:
    """A quota that is less full than the disk changes no figure; it is only known."""
    fs = filesystem(0.95)
    limited = limit(fs, quota(used_bytes=10 * GIB))

    assert dataclasses.replace(limited, quota=None) == fs
    assert limited.quota is not None


def test_what_the_disk_lacks_no_quota_gives() -> None:
    """The quota is fuller, and has more room than the disk: what can be written is the disk's room."""
    limited = limit(filesystem(0.9, 10 * GIB), quota(used_bytes=45 * GIB, hard_bytes=47 * GIB))

    assert limited.available_bytes == 1 * GIB
    assert limited.used_bytes == 45 * GIB


@pytest.mark.parametrize("absent", [None, NONE, quota(is_enforced=False)])
def test_no_limit_no_difference(absent: Quota | None) -> None:
    """Without a quota, without a limit, or where it is only counted, the reading's figures are the disk's."""
    fs = filesystem()

    assert dataclasses.replace(limit(fs, absent), quota=None) == fs


def test_the_soft_limit_counts() -> None:
    """What lies above the soft limit is lent: nothing is available, though more could be written for a while."""
    limited = limit(filesystem(0.2, 400 * GIB), quota(soft_bytes=40 * GIB))

    assert (limited.available_bytes, limited.usage, limited.capacity_bytes) == (0, 1.0, 40 * GIB)
    assert [lowest(0, 0), lowest(0, 7), lowest(7, 0), lowest(5, 7), lowest(9, 7)] == [0, 7, 7, 5, 7]


def test_inodes_are_judged_apart() -> None:
    """A quota that is out of inodes has nothing to say about bytes; and it counts where the filesystem counts none (btrfs)."""
    fs = filesystem(0.2, 400 * GIB)
    limited = limit(fs, quota(used_bytes=1 * GIB, used_inodes=990, hard_inodes=1000))

    assert (limited.inodes_used, limited.inodes_available, limited.used_bytes) == (990, 10, fs.used_bytes)
    counted = limit(dataclasses.replace(fs, inodes_used=0, inodes_available=0), quota(used_inodes=990, hard_inodes=1000))
    assert (counted.inodes_used, counted.inodes_available) == (990, 10)


def test_where_data_goes_room_counts() -> None:
    """A data disk at 50 % with a quota at 40 % has the room of the quota, for that is what fits."""
    fs = filesystem(0.5, 7000 * GIB)
    used = quota(used_bytes=20 * GIB)

    assert limit(fs, used).available_bytes == 3500 * GIB
    assert limit(fs, used, by_room=True).available_bytes == 30 * GIB


@given(
    disk=st.tuples(st.integers(0, 10**13), st.integers(0, 10**13)),
    used=st.integers(0, 10**13),
    soft=st.integers(0, 10**13),
    hard=st.integers(0, 10**13),
    by_room=st.booleans(),
)
def test_a_quota_never_makes_room(disk: tuple[int, int], used: int, soft: int, hard: int, by_room: bool) -> None:
    """There is never more available than the disk has, nor is what is watched less full, and elsewhere the room is the quota's."""
    fs = filesystem(used_bytes=disk[0], available_bytes=disk[1])
    limited = limit(fs, quota(used_bytes=used, soft_bytes=soft, hard_bytes=hard), by_room=by_room)

    assert 0 <= limited.available_bytes <= fs.available_bytes
    if not by_room:
        assert limited.usage >= fs.usage
    elif most := lowest(soft, hard):
        assert limited.available_bytes <= max(0, most - used)


def test_the_kernels_answer_is_parsed() -> None:
    """Limits come in KiB, use in bytes; the state tells whether limits are enforced, and where there is none they are."""
    answer = struct.pack("=8QI4x", 2000, 1000, 1_500_000, 20, 10, 12, 1_800_000_000, 0, 0x3F)
    found = parse_quota(answer, struct.pack("=bxH", 1, 0b11) + bytes(100), 7)

    assert found == Quota(7, 1_500_000, 1_024_000, 2_048_000, 12, 10, 20, 1_800_000_000, 0)
    assert not parse_quota(answer, struct.pack("=bxH", 1, 0b01) + bytes(100), 7).is_enforced
    assert parse_quota(answer, None, 7).is_enforced


def test_where_there_is_no_quota_there_is_none() -> None:
    """proc keeps none, and what is not there has none; neither is an error."""
    assert read_quota("/proc", "proc", 12345) is None
    assert read_quota("/nonexistent", "/dev/none", 12345) is None


def test_the_status_tells_whose_figures_they_are() -> None:
    """The document has the quota and the disk beside the gauge, and the text says which of them is full, and when grace ends."""
    used = quota(soft_bytes=40 * GIB, bytes_until=int(NOW) + 6 * 86400, hard_inodes=5000)
    fs = dataclasses.replace(limit(filesystem(0.2, 400 * GIB), used), reserved_bytes=20 * GIB)
    doc = status.document(status.Snapshot(NOW, scene(fs=fs), RULES, {"/": (Gauge(Pressure.FLOOD), Gauge())}, pid=1, since=NOW))

    (told,) = json.loads(json.dumps(doc))["filesystems"]
    assert told["usage"] == 1.0
    assert told["quota"]["soft_bytes"] == 40 * GIB
    assert told["quota"]["bytes_until"] is not None
    assert told["quota"]["inodes_until"] is None
    assert told["disk"]["available_bytes"] == 320 * GIB
    text = " ".join(status.render(doc, width=200).split())
    assert "your quota on / is 100 % full" in text
    assert "48.0 GiB of 40.0 GiB used, 1,000 of 5,000 inodes used, the grace time for bytes ends in 6 d" in text
    assert "the disk itself has 320 GiB available" in text
    assert "20.0 GiB on / are free, but only for root" in text


def test_a_status_without_quota_reads_as_ever() -> None:
    """Neither the verdict nor the lines below speak of quotas or reserved blocks where those are no matter."""
    fs = dataclasses.replace(filesystem(), reserved_bytes=1 * GIB)
    doc = status.document(status.Snapshot(NOW, scene(fs=fs), RULES, pid=1, since=NOW))

    assert (doc["filesystems"][0]["quota"], doc["filesystems"][0]["disk"]) == (None, None)
    assert not {"quota", "reserved"} & set(status.render(doc).split())


def test_grace_that_has_ended() -> None:
    """Then nothing can be written any more, and the line says so."""
    doc = quotas.documents(limit(filesystem(0.2), quota(soft_bytes=40 * GIB, bytes_until=int(NOW) - 5)))
    assert quotas.describe(doc["quota"], "2027-01-15T08:00:00Z").endswith("has ended: nothing more can be written")
    assert quotas.describe({**doc["quota"], "soft_bytes": None, "hard_bytes": None}, "2027-01-15T08:00:00Z") == ""
