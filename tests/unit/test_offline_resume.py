"""Packing and unpacking that stop in the middle, by whatever it is, and go on; and folders that are not what they seem."""

from __future__ import annotations

import json
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from survived.errors import Refused, Stopped, SurvivedError, UsageError
from survived.model import Reason
from survived.offline import archive, installing, packing, platform, space, unpacking
from survived.offline.command import Runner
from survived.offline.job import Options, Wish
from survived.offline.manifest import Target
from survived.offline.verifying import Verified, verify
from tests.rig.bundles import GOOD, document, good, tarred, tree, write
from tests.rig.disks import Disk, mounted

MIB = 1 << 20


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    """Return a folder with files small and large, empty, a program, and odd names."""
    folder = tmp_path / "data"
    (folder / "deep/er").mkdir(parents=True)
    for number, size in enumerate((0, 1, 511, 512, 513, 3 * MIB, 100_000)):
        (folder / f"file {number}").write_bytes(random.Random(number).randbytes(size))
    (folder / "deep/er/ä").write_bytes(b"x" * 2 * MIB)
    (folder / "program").write_text("#!/bin/sh\necho ran\n")
    (folder / "program").chmod(0o755)
    return folder


class Call:
    """Counts how often it is called, and raises at one of them."""

    def __init__(self, at: int = 0, error: Exception | None = None) -> None:
        self.count, self.at, self.error = 0, at, error or Stopped("Interrupted.")

    def __call__(self, *_: object) -> None:
        """Count."""
        self.count += 1
        if self.count == self.at:
            raise self.error


def order(output: Path, *words: Path, split: int = 0) -> packing.Order:
    """Return an order for plain files."""
    wish = Wish("files", tuple(map(str, words)))
    return packing.Order((wish,), Target("x86_64"), None, str(output), split, "2026-11-28T12:00:00Z", "a test")


def pack(made: packing.Order, stop: Callable[[], None] = lambda: None) -> Verified:
    """Pack, with no tools."""
    return packing.pack(made, Runner({}, "/nowhere", stop, lambda _: None), stop=stop)


def place(folder: Path, fd: int, keep_free: frozenset[int] = frozenset()) -> installing.Place:
    """Return where to unpack."""
    return installing.Place(fd, str(folder), keep_free, str(folder), dict(os.environ), lambda _: None, lambda: None)


def install(
    bundle: Path, folder: Path, tell: Callable[[str, int, int], None] = lambda *_: None, **options: str
) -> installing.Installed:
    """Verify and install a bundle into a folder."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return installing.install(verify(str(bundle)), place(folder, fd), Options(**options), tell=tell)
    finally:
        os.close(fd)


def same(one: Path, other: Path) -> None:
    """Two trees have the same files with the same content."""
    assert tree(one) == tree(other)
    for name in tree(one):
        if (one / name).is_file():
            assert (one / name).read_bytes() == (other / name).read_bytes()


@pytest.mark.parametrize("split", [0, MIB], ids=["one file", "parts"])
def test_packed_and_unpacked_is_the_same(split: int, payload: Path, tmp_path: Path) -> None:
    """Content, names and the right to run survive; nothing else is left beside the bundle."""
    verified = pack(order(tmp_path / "x.tar.zst", payload, split=split))
    assert [os.path.getsize(path) for path in verified.files[:-1]] == [MIB] * (len(verified.files) - 1)
    assert len(verified.files) == (4 if split else 1)
    assert sorted(os.listdir(tmp_path)) == sorted(["data", "x.tar.zst.sha256", *map(os.path.basename, verified.files)])
    (tmp_path / "to").mkdir()
    done = install(Path(verified.files[0]), tmp_path / "to")
    unpacked = Path(done.folder) / "payload/files/data"
    same(payload, unpacked)
    assert os.access(unpacked / "program", os.X_OK)
    assert not os.access(unpacked / "file 1", os.X_OK)
    assert stat.S_IMODE(Path(done.folder).stat().st_mode) == 0o700
    assert install(Path(verified.files[0]), tmp_path / "to").kept == len(verified.manifest.entries)


@pytest.mark.parametrize("split", [0, MIB], ids=["one file", "parts"])
def test_packing_goes_on_from_every_frame(split: int, payload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped again and again, it ends with a bundle that is whole, and what was written before is not written again."""
    monkeypatch.setattr(archive, "FRAME", 300_000)
    monkeypatch.setattr(archive, "CHUNK", 100_000)
    made, tries, written = order(tmp_path / "x.tar.zst", payload, split=split), 0, [0]
    while tries < 20:
        try:
            verified = pack(made, Call(at=34 if tries else 90))  # the first lists all files before
            break
        except Stopped:
            tries += 1
        state = tmp_path / "x.tar.zst.work/state.json"
        written.append(json.loads(state.read_text()).get("frames", [0, 0])[1] if state.exists() else 0)
        assert not list(tmp_path.glob("x.tar.zst")) + list(tmp_path.glob("*.00?"))
    assert 2 <= tries < 20
    assert written == sorted(written)
    assert len(set(written)) > 2
    assert verify(verified.files[0]).fingerprint == verified.fingerprint
    (tmp_path / "to").mkdir()
    same(payload, Path(install(Path(verified.files[0]), tmp_path / "to").folder) / "payload/files/data")


def test_another_order_begins_anew(payload: Path, tmp_path: Path) -> None:
    """After a try for other files, or for other parts, nothing of it gets into the bundle."""
    for first in (order(tmp_path / "x.tar.zst", payload), order(tmp_path / "x.tar.zst", payload / "deep", split=MIB)):
        with pytest.raises(Stopped):
            pack(first, Call(at=3))
    verified = pack(order(tmp_path / "x.tar.zst", payload / "deep"))
    assert [entry.path for entry in verified.manifest.entries] == ["files/deep/er/ä"]
    assert sorted(os.listdir(tmp_path)) == ["data", "x.tar.zst", "x.tar.zst.sha256"]


def test_a_file_that_changes_while_it_is_packed_is_said(payload: Path, tmp_path: Path) -> None:
    """What is collected and then changed does not get into a bundle as what it was."""
    with pytest.raises(Stopped):
        pack(order(tmp_path / "x.tar.zst", payload), Call(at=16))
    (tmp_path / "x.tar.zst.work/payload/files/data/file 6").write_bytes(bytes(100_000))
    with pytest.raises(SurvivedError, match="it was changed while it was packed"):
        pack(order(tmp_path / "x.tar.zst", payload))


def test_an_existing_bundle_is_never_overwritten(payload: Path, tmp_path: Path) -> None:
    """Neither the bundle nor a first part."""
    for name in ("x.tar.zst", "x.tar.zst.001"):
        (tmp_path / name).write_bytes(b"mine")
        with pytest.raises(SurvivedError, match="it is there already"):
            pack(order(tmp_path / "x.tar.zst", payload))
        assert (tmp_path / name).read_bytes() == b"mine"
        (tmp_path / name).unlink()
    with pytest.raises(UsageError, match=r"ends in \.tar\.zst"):
        pack(order(tmp_path / "x.zip", payload))
    with pytest.raises(SurvivedError, match="its folder is not there"):
        pack(order(tmp_path / "no/x.tar.zst", payload))


def test_what_is_no_file_is_not_packed(payload: Path, tmp_path: Path) -> None:
    """A pipe, a broken link and a link to a folder are refused by name; a link to a file becomes the file."""
    (payload / "link").symlink_to("program")
    assert "files/data/link" in [entry.path for entry in pack(order(tmp_path / "x.tar.zst", payload)).manifest.entries]
    for number, (make, why) in enumerate((
        (lambda path: os.mkfifo(path), "no regular file"),
        (lambda path: path.symlink_to("nothing"), "no such file"),
        (lambda path: path.symlink_to("deep"), "a link to a folder"),
    )):  # fmt: skip
        make(payload / "odd")
        with pytest.raises(SurvivedError, match=why):
            pack(order(tmp_path / f"{number}.tar.zst", payload))
        (payload / "odd").unlink()


# ---- unpacking ------------------------------------------------------------------------------------------------------


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Return a good bundle of three files."""
    return write(tmp_path / "x.tar.zst", tarred(good({**GOOD, "files/c": bytes(2 * MIB)})))


@pytest.fixture
def to(tmp_path: Path) -> Path:
    """Return an empty folder to unpack to."""
    (tmp_path / "to").mkdir()
    return tmp_path / "to"


def unpacked(to: Path) -> Path:
    """Return the one folder that was unpacked."""
    (found,) = to.iterdir()
    return found


def test_unpacking_goes_on(bundle: Path, to: Path) -> None:
    """Stopped at every place in turn, it keeps what is complete; half a file never has its name."""
    for at in range(1, 30):
        try:
            done = install(bundle, to, Call(at=at))
            break
        except Stopped:
            for path in (unpacked(to) / "payload").rglob("*"):
                inside = str(path.relative_to(unpacked(to) / "payload"))
                assert not path.is_file() or path.read_bytes() == {**GOOD, "files/c": bytes(2 * MIB)}[inside]
    assert done.kept > 0
    assert {name for name in tree(unpacked(to) / "payload") if "/" in name} == {*GOOD, "files/c", "files/sub"}


def test_what_a_power_cut_left_is_written_again(bundle: Path, to: Path) -> None:
    """A file with the right size and other content, as a power cut leaves it, is replaced."""
    install(bundle, to)
    (unpacked(to) / "payload/files/a").write_bytes(bytes(6))
    (unpacked(to) / "payload/files/sub/b").unlink()
    assert install(bundle, to).kept == 1
    assert (unpacked(to) / "payload/files/a").read_bytes() == b"alpha\n"


@pytest.mark.parametrize("where", ["", "payload", "payload/files", "payload/files/sub", "payload/files/a"])
def test_links_in_the_way_lead_nowhere(where: str, bundle: Path, to: Path, tmp_path: Path) -> None:
    """A link that somebody put in the place of a folder or a file is refused or replaced; what it leads to is untouched."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a").write_bytes(b"mine")
    found = verify(str(bundle))
    path = to / unpacking.folder_name(found) / where
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.symlink_to(outside / "a" if where.endswith("/a") else outside)
    if where.endswith("/a"):
        install(bundle, to)
        assert path.read_bytes() == b"alpha\n"
        assert not path.is_symlink()
    else:
        with pytest.raises(SurvivedError, match="Cannot unpack to"):
            install(bundle, to)
    assert tree(outside) == ["a"]
    assert (outside / "a").read_bytes() == b"mine"


def test_a_folder_of_others_is_refused(bundle: Path, to: Path) -> None:
    """A folder that others may write could be changed under our hands."""
    folder = to / unpacking.folder_name(verify(str(bundle)))
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(Refused, match="others own or may write it") as refused:
        install(bundle, to)
    assert refused.value.reason is Reason.NOT_OURS
    assert os.listdir(folder) == []


def test_two_at_once_are_one_too_many(bundle: Path, to: Path) -> None:
    """The second is told; the first goes on."""
    fd = os.open(to, os.O_RDONLY | os.O_DIRECTORY)
    name = unpacking.folder_name(verify(str(bundle)))
    with unpacking.opened(fd, name, name), pytest.raises(SurvivedError, match="another survivectl works there"):
        install(bundle, to)
    os.close(fd)
    install(bundle, to)


def test_a_bundle_exchanged_between_the_looks_is_refused(bundle: Path, to: Path) -> None:
    """Between verifying and unpacking somebody puts another whole bundle there."""
    found = verify(str(bundle))
    write(bundle, tarred(good({"files/a": b"other"})))
    fd = os.open(to, os.O_RDONLY | os.O_DIRECTORY)
    with pytest.raises(Refused, match="exchanged for another"):
        installing.install(found, place(to, fd), Options())
    os.close(fd)
    assert [path.name for path in to.rglob("*") if path.is_file()] == ["LOCK"]


def test_the_disk_to_keep_free_is_never_unpacked_to(bundle: Path, to: Path) -> None:
    """Not even with room, and before a folder is made."""
    fd = os.open(to, os.O_RDONLY | os.O_DIRECTORY)
    with pytest.raises(Refused, match="is to stay free") as refused:
        installing.install(verify(str(bundle)), place(to, fd, frozenset({os.stat(to).st_dev})), Options())
    os.close(fd)
    assert refused.value.reason is Reason.WOULD_FILL
    assert os.listdir(to) == []


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ({"machine": "s390x"}, "it is for s390x, and this machine is"),
        ({"glibc": "99.1"}, r"it needs glibc 99\.1 or newer, and here is"),
    ],
)
def test_another_platform_is_refused_before_anything_is_unpacked(
    target: dict[str, str], why: str, to: Path, tmp_path: Path
) -> None:
    """The reason is said, and there is no folder."""
    item = {**document(GOOD)["items"][0], "target": {"machine": None, "glibc": None, "python": None, **target}}
    bundle = write(tmp_path / "x.tar.zst", tarred(good(items=[item])))
    with pytest.raises(Refused, match=why) as refused:
        install(bundle, to)
    assert refused.value.reason is Reason.OTHER_PLATFORM
    assert os.listdir(to) == []


def test_platforms_are_compared_by_number() -> None:
    """2.9 is older than 2.28, another C library than glibc fits nothing that names one, and None fits all."""
    here = Target("x86_64", "2.28", "3.11")
    assert platform.why_not(Target(), here) is None
    assert platform.why_not(Target("x86_64", "2.9", "3.11"), here) is None
    assert "2.36 or newer" in str(platform.why_not(Target(glibc="2.36"), here))
    assert "Python 3.9" in str(platform.why_not(Target(python="3.9"), here))
    assert "C library" in str(platform.why_not(Target(glibc="2.17"), Target("x86_64", None, "3.11")))
    assert platform.parse_platform("manylinux_2_28_x86_64") == ("x86_64", "2.28")
    assert platform.parse_platform("manylinux2014_aarch64") == ("aarch64", "2.17")
    assert platform.parse_platform("glibc2.31_x86_64") == ("x86_64", "2.31")
    assert platform.parse_platform("x86_64") == ("x86_64", None)
    for wrong in ("windows", "manylinux_2_28", "manylinux_2_28_vax", ""):
        with pytest.raises(UsageError, match="a platform looks like"):
            platform.parse_platform(wrong)
    wheels = ["a-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", "b-1-cp311-cp311-manylinux_2_28_x86_64.whl"]
    assert platform.needed_glibc(wheels) == "2.28"
    assert platform.needed_glibc([*wheels[:1], "c-1-py3-none-any.whl"]) == "2.17"
    assert platform.needed_glibc(["c-1-py3-none-any.whl"]) is None


# ---- full disks -----------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(needs_root_mounts: None, tmp_path: Path) -> object:
    """Yield a data disk of 64 MB."""
    with mounted(tmp_path, "disk", "64M") as made:
        yield made


def test_too_little_room_is_seen_before_the_first_byte(disk: Disk, tmp_path: Path) -> None:
    """Sparse content that would not fit is refused with the numbers, and no folder is made."""
    bundle = write(tmp_path / "x.tar.zst", tarred(good({"files/big": bytes(80 * MIB)})))
    with pytest.raises(Refused, match=r"80\.0 MiB are needed") as refused:
        install(bundle, disk.path)
    assert refused.value.reason is Reason.NO_ROOM
    assert os.listdir(disk.path) == []


def test_a_disk_that_fills_while_unpacking_resumes(disk: Disk, tmp_path: Path) -> None:
    """Somebody fills the disk in the middle: what is complete is kept, no half file is left, and with room it goes on."""
    files = {f"files/{number}": random.Random(number).randbytes(4 * MIB) for number in range(8)}
    bundle = write(tmp_path / "x.tar.zst", tarred(good(files)))
    filled: list[int] = []

    def fill(phase: str, done: int, _total: int) -> None:
        if phase == "unpack" and done > 15 * MIB and not filled:
            disk.fill_bytes()
            filled.append(done)

    with pytest.raises(SurvivedError, match=r"no space left on device\. \d of 8 files are unpacked and kept") as full:
        install(bundle, disk.path, fill)
    assert "goes on where it stopped" in str(full.value.hint)
    complete = [path for path in disk.path.rglob("payload/files/*") if path.is_file()]
    assert 1 <= len(complete) < 8
    assert all(path.read_bytes() == files[f"files/{path.name}"] for path in complete)
    with pytest.raises(Refused, match="are needed"):
        install(bundle, disk.path)
    disk.empty()
    done = install(bundle, disk.path)
    assert done.kept == len(complete)
    assert all((Path(done.folder) / "payload" / name).read_bytes() == data for name, data in files.items())


def test_a_disk_that_fills_while_packing_resumes(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same on the side that packs: the archive is begun where it stopped."""
    monkeypatch.setattr(archive, "FRAME", MIB)
    data = tmp_path / "data"
    data.mkdir()
    for number in range(8):
        (data / str(number)).write_bytes(random.Random(number).randbytes(2 * MIB))
    made = order(disk.path / "x.tar.zst", data)
    calls = Call()

    def fill() -> None:
        calls()
        if calls.count == 26:
            disk.fill_bytes()

    with pytest.raises(SurvivedError, match=r"no space left on device\. What was packed is kept") as full:
        pack(made, fill)
    assert "goes on where it stopped" in str(full.value.hint)
    disk.empty()
    at = json.loads((disk.path / "x.tar.zst.work/state.json").read_text())["frames"][1]
    assert at > MIB
    assert verify(pack(made).files[0]).manifest.size == 16 * MIB


def test_room_is_asked_for_with_a_margin(tmp_path: Path) -> None:
    """What is left of a filesystem after us is a fiftieth, a GiB at the most; a path that is not there counts as its folder."""
    found = os.statvfs(tmp_path)
    free = found.f_bavail * found.f_frsize
    space.require(str(tmp_path / "not/there"), 0, "unpack to")
    with pytest.raises(Refused, match="are to stay free"):
        space.require(str(tmp_path / "not/there"), free, "unpack to")
