"""Real small disks on their worst days: full to the last inode, gone in the middle, read-only, of another kind."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from survived.act import recover
from survived.act.task import Task
from survived.errors import Refused, SurvivedError
from survived.model import Stage, TreeSize
from tests.rig.disks import FILLER, Disk, Disks, mount, small_and_data_disks, unmount, wait_released
from tests.unit.engine import ORDINARY, Rig, as_ordinary_user, build, nasty_tree, new_task, ordinary_folder, remove, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("needs_root_mounts")]
_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
_NO_FLUSH = 2


class MidwayTask(Task):
    """A task that calls `hook` once, when `size` bytes are copied."""

    def __init__(self, size: int, hook: Callable[[], object]) -> None:
        super().__init__(new_task().stop)
        self._left, self._hook = size, hook

    def tick(self, size: int, entries: int) -> None:
        """Count."""
        super().tick(size, entries)
        if self._left > 0 >= self._left - size:
            self._left = 0
            self._hook()
        self._left -= size


@contextmanager
def users_disks(**sizes: object) -> Iterator[Disks]:
    """Mount the two disks where an ordinary user can reach them, and give them to him."""
    with ordinary_folder() as folder, small_and_data_disks(folder, **sizes) as disks:  # type: ignore[arg-type]
        for disk in (disks.small, disks.data):
            os.chown(disk.path, ORDINARY, ORDINARY)
        yield disks


def big_tree(root: Path, count: int = 40) -> None:
    """Make a nasty tree with `count` MiB of files in it."""
    nasty_tree(root)
    for number in range(count):
        (root / f"dir/{number:03}").write_bytes(os.urandom(1 << 20))


@pytest.mark.parametrize("lack", ["bytes", "inodes", "both"])
@pytest.mark.parametrize("has_ballast", [True, False])
def test_the_watched_disk_is_full_to_the_last(lack: str, has_ballast: bool) -> None:
    """With no byte and no inode left an ordinary user's cache still moves, by the ballast; without one it stays whole."""
    with users_disks(small="64M", data="128M", inodes=2000) as disks:
        rig = Rig(disks.small.path, disks.data.path / "alice", disks.small.path / ".cache/a rather long name of a tool", 1 << 20)

        def prepare() -> str:
            big_tree(rig.source, 8)
            rig.disk.mkdir()
            rig.open()
            if has_ballast:
                assert rig.ends.ballast.lay()
            rig.close()
            return "ready"

        def move() -> str:
            before = snapshot(rig.source)
            with pytest.raises(OSError, match="No space left"):
                (rig.home / "one").write_bytes(b"more than an inode holds" * 100)
            rig.open()
            if not has_ballast:
                rig.ends.ballast._size = 0
            try:
                stage = rig.relocate().stage
            except SurvivedError as error:
                assert snapshot(rig.source) == before
                assert rig.leftovers() == []
                return str(error)
            assert snapshot(rig.source) == before
            return f"{stage} {rig.source.is_symlink()} {rig.leftovers()}"

        assert as_ordinary_user(prepare) == "ready"
        (disks.small.path / FILLER).touch()  # while there is an inode for it
        if lack != "bytes":
            disks.small.fill_inodes()
        if lack != "inodes":
            disks.small.fill_bytes()
        said = as_ordinary_user(move)
        if has_ballast:
            assert said == "done True []"
            assert disks.small.available_bytes() > 7 << 20
        else:
            assert "has no inode or block left for the link" in said
            assert "Nothing was changed." in said


def test_the_data_disk_fills_in_the_middle(make_disks: Callable[..., Disks]) -> None:
    """A data disk that fills up while we copy, whoever fills it: the copy goes, the source stays, and it is said."""
    disks = make_disks(small="100M", data="48M")
    with build(disks.small.path, disks.data.path) as rig:
        big_tree(rig.source)
        before, used = snapshot(rig.source), disks.data.usage()
        with pytest.raises(SurvivedError, match=r"the data disk is full\. The copy was removed, the path is as it was\."):
            rig.relocate(size=TreeSize())
        assert snapshot(rig.source) == before
        assert rig.leftovers() == []
        assert disks.data.usage() < used + 0.02
        assert rig.ends.journal.recent(1)[0].stage is Stage.UNDONE


def test_a_restore_onto_a_disk_that_fills(make_disks: Callable[..., Disks]) -> None:
    """The watched disk fills up while we restore: the link stays and leads to everything."""
    disks = make_disks(small="100M", data="100M")
    with build(disks.small.path, disks.data.path) as rig:
        big_tree(rig.source)
        before = snapshot(rig.source)
        rig.relocate()
        disks.small.fill_bytes(0.7)
        with pytest.raises(SurvivedError, match=r"Cannot restore .*: the disk is full\."):
            rig.restore(size=TreeSize(), forced=True)
        assert rig.source.is_symlink()
        assert snapshot(rig.source) == before
        assert rig.leftovers() == []


def _read_only(disk: Disk) -> None:
    """Make ext4 do what it does when its device fails."""
    disk.remount("errors=remount-ro")
    device = subprocess.run(["findmnt", "-no", "SOURCE", disk.path], capture_output=True, text=True, check=True).stdout.strip()
    Path(f"/sys/fs/ext4/{os.path.basename(device)}/trigger_fs_error").write_text("a test of survived")


def _shut_down(disk: Disk) -> None:
    fd = os.open(disk.path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _NO_FLUSH))
    finally:
        os.close(fd)


def _unmount_lazily(disk: Disk) -> None:
    subprocess.run(["umount", "--lazy", disk.path], check=True)


ENDS: dict[str, Callable[[Disk], None]] = {"unmounted": _unmount_lazily, "read-only": _read_only, "dead": _shut_down}


@pytest.mark.parametrize("midway", [1 << 20, 39 << 20])
@pytest.mark.parametrize("how", ENDS)
def test_the_data_disk_goes_in_the_middle(make_disks: Callable[..., Disks], how: str, midway: int) -> None:
    """A data disk that is unmounted, turns read-only or dies while we copy: the source stays, and all is clean when it is back."""
    disks = make_disks(small="100M", data="100M")
    with ExitStack() as stack:
        rig = stack.enter_context(build(disks.small.path, disks.data.path))
        big_tree(rig.source)
        before = snapshot(rig.source)
        with pytest.raises(SurvivedError, match=r"^Cannot [^\n]*$") as caught:
            rig.relocate(task=MidwayTask(midway, lambda: ENDS[how](disks.data)))
        assert caught.value.exit_code == 1
        assert not rig.source.is_symlink()
        assert snapshot(rig.source) == before
        rig.close()
        unmount(disks.data.path)
        wait_released(disks.data.image)
        subprocess.run(["fsck.ext4", "-fy", disks.data.image], capture_output=True, check=False)
        mount(disks.data.image, disks.data.path)
        rig.open()
        _, puzzles = recover.recover_all(rig.ends.store, rig.ends.journal)
        assert puzzles == []
        assert rig.leftovers() == []
        assert rig.ends.journal.open_operations() == ()
        assert rig.relocate().stage is Stage.DONE
        assert snapshot(rig.source) == before


def test_ext4_to_xfs_and_back(make_disks: Callable[..., Disks], tmp_path: Path) -> None:
    """Another kind of filesystem keeps everything, there and back."""
    if shutil.which("mkfs.xfs") is None:
        pytest.skip("needs xfsprogs")
    image, path = tmp_path / "xfs.img", tmp_path / "xfs"
    path.mkdir()
    subprocess.run(["truncate", "-s", "400M", image], check=True)
    subprocess.run(["mkfs.xfs", "-q", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, path], capture_output=True, check=False).returncode != 0:
        pytest.skip("this kernel cannot mount xfs")
    try:
        with build(make_disks(small="150M").small.path, path) as rig:
            big_tree(rig.source, 4)
            (rig.source / "d").mkdir()
            subprocess.run(["setfacl", "-d", "-m", "u:1:rwx", rig.source / "d"], check=True)
            subprocess.run(["setfacl", "-m", "g:2:r", rig.source / "a"], check=True)
            os.setxattr(rig.source / "a", "trusted.note", b"root's own")
            for number in range(500):
                os.symlink(f"{number}" * 20, rig.source / f"d/{number}")
            before = snapshot(rig.source)
            assert rig.relocate().stage is Stage.DONE
            assert snapshot(rig.source) == before
            assert rig.restore().stage is Stage.DONE
            assert snapshot(rig.source) == before
            assert rig.leftovers() == []
    finally:
        unmount(path)


@pytest.mark.parametrize("where", ["", "dir", "a"])
def test_mount_points_are_not_moved(make_disks: Callable[..., Disks], where: str) -> None:
    """A bind mount at or below the source, of a folder or of a file, of the same filesystem even, is a refusal."""
    disks = make_disks(small="64M", data="64M")
    with build(disks.small.path, disks.data.path) as rig:
        nasty_tree(rig.source)
        point = rig.source / where
        subprocess.run(["mount", "--bind", point, point], check=True)
        try:
            with pytest.raises(Refused, match="is a mount point") as caught:
                rig.relocate()
        finally:
            subprocess.run(["umount", point], check=True)
        assert caught.value.reason == "mount_point"


@pytest.mark.parametrize("flag", ["i", "a"])
@pytest.mark.parametrize("name", ["a", "dir/sub"])
def test_what_chattr_fixed_is_not_moved(make_disks: Callable[..., Disks], flag: str, name: str) -> None:
    """An immutable or append-only entry could not be removed afterwards, so it is a refusal that names it."""
    disks = make_disks(small="64M", data="64M")
    with build(disks.small.path, disks.data.path) as rig:
        nasty_tree(rig.source)
        subprocess.run(["chattr", f"+{flag}", rig.source / name], check=True)
        try:
            with pytest.raises(Refused, match=f"'{name}' in it: it is immutable or append-only") as caught:
                rig.relocate()
        finally:
            subprocess.run(["chattr", f"-{flag}", rig.source / name], check=True)
        assert caught.value.reason == "immutable"
        assert rig.leftovers() == []
        remove(rig.source)
