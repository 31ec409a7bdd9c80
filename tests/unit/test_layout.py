"""The store: where it is refused, how it is made so that a crash does no harm, and who may hold it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from survived.errors import Refused, SurvivedError
from survived.model import Filesystem, StoreReading
from survived.observe.disks import read_filesystem
from survived.store import journal, layout
from survived.store.database import Database
from tests.unit.engine import as_ordinary_user, child, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

UID = os.getuid()
KNOWN = "0123456789abcdef" * 2


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Return a directory that stands for the user's own on a data disk."""
    path = tmp_path / "data/alice"
    path.mkdir(parents=True)
    return path


def read(disk: Path, filesystem: Filesystem | None = None, **changes: Any) -> StoreReading:
    """Read the store, by default of a disk that is not among those we keep free."""
    values: dict[str, Any] = {"uid": UID, "avoid": set(), **changes}
    return layout.read_store(str(disk), filesystem or read_filesystem(str(disk.parent)), **values)


def make(disk: Path) -> layout.Store:
    """Make a store and close it."""
    store = layout.open_store(read(disk), uid=UID)
    store.close()
    return store


def test_a_new_store(disk: Path) -> None:
    """A store is made with its marker, 0700 and empty; reading changes nothing, and opening again finds the same one."""
    reading = read(disk)
    assert reading.ok
    assert os.listdir(disk) == []
    store = make(disk)
    assert sorted(os.listdir(store.path)) == ["LOCK", "STORE", "staging", "trees"]
    assert [os.stat(f"{store.path}/{name}").st_mode & 0o7777 for name in (".", "trees", "staging")] == [0o700] * 3
    assert json.loads(Path(store.path, "STORE").read_text()) == {
        "format": 1, "id": store.id, "uid": UID, "machine": layout.machine_id()
    }  # fmt: skip
    assert make(disk).id == store.id
    assert read(disk, known_id=store.id).ok


def test_a_missing_folder_on_the_disk_is_made(tmp_path: Path) -> None:
    """The user's own folder on the data disk is made if only it is missing."""
    (tmp_path / "data").mkdir()
    assert make(tmp_path / "data/alice").path == str(tmp_path / "data/alice/survived")


def _marker(disk: Path, **changes: object) -> None:
    path = Path(make(disk).path, "STORE")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _used_without_marker(disk: Path) -> None:
    os.unlink(f"{make(disk).path}/STORE")
    (disk / "survived/trees/home").mkdir()


def _database_without_marker(disk: Path) -> None:
    os.unlink(f"{make(disk).path}/STORE")
    (disk / "survived/state.db").touch()


def _link(disk: Path) -> None:
    (disk / "real").mkdir(mode=0o700)
    (disk / "survived").symlink_to("real")


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link": (_link, "is not a directory"),
    "a file": (lambda disk: (disk / "survived").touch(), "is not a directory"),
    "writable for others": (lambda disk: os.chmod(make(disk).path, 0o770), "is writable for others (mode 0770)"),
    "used, no marker": (_used_without_marker, "has no marker file STORE: is another disk mounted there?"),
    "a database, no marker": (_database_without_marker, "has no marker file STORE"),
    "another machine": (lambda disk: _marker(disk, machine="other"), "was made for another user or machine"),
    "another user": (lambda disk: _marker(disk, uid=UID + 1), "was made for another user or machine"),
    "a newer format": (lambda disk: _marker(disk, format=2), "has a format that this survived does not know"),
    "no id": (lambda disk: _marker(disk, id="../../x"), "has a format that this survived does not know"),
    "no JSON": (lambda disk: Path(make(disk).path, "STORE").write_text("{"), "cannot be read"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_what_may_be_another_store_is_refused(disk: Path, what: str) -> None:
    """Whatever is not surely our own store is refused with a sentence, by open_store with exit 4, and nothing is written."""
    spoil, text = SPOILT[what]
    spoil(disk)
    before = snapshot(disk)
    reading = read(disk)
    assert not reading.ok
    assert text in str(reading.reason)
    with pytest.raises(Refused, match=r"^Cannot use '.*Nothing was written") as caught:
        layout.open_store(reading, uid=UID)
    assert caught.value.reason == "no_store"
    assert snapshot(disk) == before


def test_another_owner(disk: Path) -> None:
    """A store of somebody else is refused by its owner, before anything in it is read."""
    make(disk)
    assert f"belongs to another user (uid {UID})" in str(read(disk, uid=UID + 1).reason)


def test_a_store_that_is_known(disk: Path) -> None:
    """Where a store was seen before, its absence or another one means that another disk, or none, is mounted."""
    assert "is gone: is another disk mounted there?" in str(read(disk, known_id=KNOWN).reason)
    store = make(disk)
    assert "is another store than the one used here before" in str(read(disk, known_id=KNOWN).reason)
    os.unlink(f"{store.path}/STORE")
    assert "has no marker file STORE" in str(read(disk, known_id=store.id).reason)


def test_the_same_device(disk: Path) -> None:
    """A disk on a filesystem that we keep free is refused; for a store that is known it is a disk that is not mounted."""
    avoid = {disk.stat().st_dev}
    assert "must be another filesystem than those we keep free" in str(read(disk, avoid=avoid).reason)
    assert "is the disk mounted?" in str(read(disk, avoid=avoid, known_id=KNOWN).reason)
    other = dataclasses.replace(read_filesystem(str(disk)), device_id=12345)
    assert not read(disk, other, avoid=avoid).ok  # what statvfs said is not what is there now


@pytest.mark.parametrize(
    ("changes", "named", "text"),
    [
        ({"read_only": True}, True, "is mounted read-only"),
        ({"fstype": "vfat"}, True, "is vfat, which keeps no owners, modes and links"),
        ({"fstype": "nfs4"}, False, "is a network filesystem (nfs4); name it under [data] disks to use it"),
        ({"fstype": "nfs4"}, True, None),
        ({"fstype": "xfs"}, False, None),
    ],
)
def test_kinds_of_filesystems(disk: Path, changes: dict[str, Any], named: bool, text: str | None) -> None:
    """A filesystem that is read-only or keeps too little is refused, and a network one unless it is named."""
    reading = read(disk, dataclasses.replace(read_filesystem(str(disk)), **changes), named=named)
    assert reading.ok == (text is None)
    assert (text or "") in str(reading.reason or "")


def test_a_disk_that_is_not_there(tmp_path: Path) -> None:
    """A disk that is not there, or cannot be read, is refused."""
    for reading in (read(tmp_path / "no/disk", read_filesystem("/")), layout.read_store("/x/y", None, uid=UID, avoid=())):
        assert "is not there: is the disk mounted?" in str(reading.reason)


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    """A disk on which an ordinary user may not write is refused."""
    assert "'/usr' is not writable for us" in as_ordinary_user(
        lambda: layout.read_store("/usr", read_filesystem("/usr"), uid=os.getuid(), avoid=()).reason
    )


def test_the_lock(disk: Path) -> None:
    """A store that another process holds is refused, with its pid; the lock ends with its holder."""
    with child(lambda: layout.open_store(read(disk), uid=UID)):
        pid = Path(disk, "survived/LOCK").read_text().strip()
        with pytest.raises(SurvivedError, match=rf"another survived \(pid {pid}\) is working with it. Nothing was changed"):
            layout.open_store(read(disk), uid=UID)
        layout.open_store(read(disk), uid=UID, lock=False).close()
    make(disk)


def test_a_failure_gives_the_lock_back(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that cannot be made now, as on a full disk, can be made by the same process later."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space left"):
            layout.open_store(read(disk), uid=UID)
    make(disk)


STEPS = ("mkdir", "write", "fsync", "link", "unlink")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_while_it_is_made(disk: Path, step: str, when: str) -> None:
    """Death before or after each step of making a store leaves none or one, and the next start makes it whole."""
    for number in range(1, 9):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                _die_at(step, number, after=when == "after")
                layout.open_store(read(disk), uid=UID)
                code = 0
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        reading = read(disk)
        assert reading.ok, (number, reading.reason)
        marker = disk / "survived/STORE"
        seen = json.loads(marker.read_text())["id"] if marker.exists() else None
        store = make(disk)
        assert store.id == (seen or store.id)
        assert sorted(os.listdir(store.path)) == ["LOCK", "STORE", "staging", "trees"]
        shutil.rmtree(store.path)
        if code == 0:
            break
    assert code == 0
    assert number > 1


def _die_at(step: str, number: int, *, after: bool) -> None:
    real, left = getattr(os, step), [number]

    def call(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            try:
                if after:
                    real(*arguments, **named)
            finally:
                os._exit(9)
        return real(*arguments, **named)

    setattr(os, step, call)


def test_a_store_that_is_swapped_while_we_look(disk: Path) -> None:
    """A link, or another device, put in its place between reading and opening is never entered."""
    store = make(disk)
    reading = read(disk)
    os.rename(store.path, disk / "real")
    (disk / "survived").symlink_to("real")
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        layout.open_store(reading, uid=UID)
    (disk / "survived").unlink()
    os.rename(disk / "real", store.path)
    with pytest.raises(Refused, match="it was replaced while we looked"):
        layout.open_store(dataclasses.replace(reading, device_id=12345), uid=UID)


def test_targets_and_names(disk: Path) -> None:
    """A target mirrors its source, beside what is there already; names of our own carry the store and the operation."""
    store = layout.open_store(read(disk), uid=UID)
    try:
        wanted = f"{store.path}/trees/home/alice/.cache"
        assert store.target_for("/home/alice/.cache") == wanted
        os.makedirs(f"{wanted}/pip")
        assert store.target_for("/home/alice/.cache") == f"{wanted}~2"
        os.symlink("nowhere", f"{wanted}~2")
        assert store.target_for("/home/alice/.cache") == f"{wanted}~3"
        assert store.target_for("/home/alice/.cache/uv") == f"{wanted}/uv"
        assert store.target_for("/home/alice/.cache/uv", {wanted}) == f"{wanted}~2/uv"  # never into somebody's tree
        assert store.target_for("/home/alice/.cache/uv", {wanted, f"{wanted}~2"}) == f"{wanted}~3/uv"
        assert store.relative(wanted) == "trees/home/alice/.cache"
        with pytest.raises(ValueError, match="is not in the store"):
            store.relative(f"{store.path}-other/x")
        assert store.aside(7) == f".survived-{store.id[:8]}-7"
    finally:
        store.close()


def test_a_database_of_a_newer_survived(tmp_path: Path) -> None:
    """A journal with a newer format is refused and left alone; one that is no database, too."""
    path = tmp_path / "state.db"
    database = Database(str(path), journal.SCHEMA)
    database.connection.execute("PRAGMA user_version=99")
    database.close()
    before = path.read_bytes()
    with pytest.raises(SurvivedError, match="written by a newer survived"):
        Database(str(path), journal.SCHEMA)
    assert path.read_bytes() == before
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(SurvivedError, match="Cannot open"):
        Database(str(path), journal.SCHEMA)
