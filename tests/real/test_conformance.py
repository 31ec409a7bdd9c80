"""
Every nasty tree is moved and brought back so that nothing can tell the difference, or refused for its reason and left alone.

On ext4, where users have their homes and disks, each tree by itself; on every other ordered pair of faithful filesystems a
sampler of them; and what an ordinary user and an unfaithful disk get.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from survived.act import branches
from survived.act import task as tasks
from survived.act.transfer import Care
from survived.errors import Refused
from survived.model import Reason, Stage, TreeSize
from survived.observe.disks import read_filesystem
from survived.store import layout
from tests.rig.filesystems import FAITHFUL, mounted_as, why_not
from tests.rig.nasty import TREES, Context, Tree, sampler
from tests.rig.nasty.tree import run
from tests.unit import engine
from tests.unit.engine import ORDINARY, Rig, as_ordinary_user, snapshot
from tests.unit.pairs import Pair

pytestmark = [pytest.mark.real, pytest.mark.skipif(why_not("ext4") is not None, reason=str(why_not("ext4")))]
PATIENT = Care(settle_seconds=0.0, patience_seconds=15.0)
IMPATIENT = Care(settle_seconds=0.0, patience_seconds=0.0)
TICK = 0.021


@pytest.fixture(scope="module")
def disks() -> Iterator[tuple[Path, Path]]:
    """Yield two ext4 filesystems for all tests of this file, where an ordinary user can get at them."""
    with ends_of("ext4", "ext4") as ends:
        yield ends


@contextmanager
def ends_of(one: str, other: str, options: str = "noatime") -> Iterator[tuple[Path, Path]]:
    """Yield two filesystems of these kinds, for one test; the second is mounted with `options`."""
    with ExitStack() as stack:
        folder = stack.enter_context(public_folder())
        small = stack.enter_context(mounted_as(folder, "small", one))
        yield small, stack.enter_context(mounted_as(folder, "data", other, options=options))


@contextmanager
def public_folder() -> Iterator[Path]:
    """Yield a folder in /tmp that others may pass: pytest's own are closed to them."""
    with tempfile.TemporaryDirectory(prefix="survived-conformance-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def place(small: Path, data: Path, name: str, owner: int = 0, *, clean: bool = True) -> Iterator[tuple[Rig, Context]]:
    """Yield a rig that is not open yet, and the context of a tree that is not built yet; `clean` empties both ends afterwards."""
    home, disk = small / "home", data / "alice"
    rig = Rig(home, disk, home / ".cache" / name)
    for folder in (rig.source, home / "outside", disk):
        folder.mkdir(parents=True)
    for folder in (home, home / ".cache", home / "outside", rig.source, disk):
        os.chown(folder, owner, owner)
    with ExitStack() as cleaning:
        for end in (disk, home) if clean else ():
            cleaning.callback(engine.remove, end)
        stack = cleaning.enter_context(ExitStack())
        cleaning.callback(rig.close)
        yield rig, Context(rig.source, home / "outside", home, stack)


class MeanwhileTask(tasks.Task):
    """A task during which `act` is done once, as soon as the first of `d/f` is copied."""

    def __init__(self, act: Any) -> None:
        super().__init__(threading.Event())
        self._act: Any = act

    def tick(self, size: int, entries: int) -> None:
        """Count, and act when a chunk was copied."""
        super().tick(size, entries)
        if size >= 1 << 20 and self._act is not None:
            act, self._act = self._act, None
            act()


def describe(tree: Tree, path: Path) -> object:
    """Return what must be the same before and after: everything, or a look at each entry where there are very many."""
    if not tree.look:
        return None
    if not tree.many:
        return (os.path.islink(path), path.read_bytes() if path.is_file() else snapshot(path))
    with os.scandir(path) as entries:
        return {entry.name: _look(entry.stat(follow_symlinks=False)) for entry in entries}


def _look(info: os.stat_result) -> tuple[int, ...]:
    return info.st_mode, info.st_uid, info.st_gid, info.st_size, info.st_mtime_ns


@contextmanager
def places(disks: tuple[Path, Path], tree: Tree) -> Iterator[tuple[Path, Path]]:
    """Yield the two filesystems; a tree of very many entries gets its own, so that unmounting them is all of the cleaning."""
    if not tree.many:
        yield disks
        return
    with ends_of("ext4", "tmpfs") as ends:
        yield ends


@pytest.mark.parametrize("tree", [pytest.param(tree, id=tree.name) for tree in TREES])
def test_every_tree(disks: tuple[Path, Path], tree: Tree) -> None:
    """A tree is moved and brought back identically, or refused for its reason with nothing changed, written or left."""
    with places(disks, tree) as ends, place(*ends, os.fsdecode(tree.source), clean=not tree.many) as (rig, ctx):
        other = tree.build(ctx)
        rig.open()
        rig.source = other or rig.source
        time.sleep(TICK)
        before = describe(tree, rig.source)
        if tree.refused:
            check_refused(rig, tree, before)
        else:
            check_moved(rig, tree, before)


def check_refused(rig: Rig, tree: Tree, before: object) -> None:
    """Ask for the move and see that the answer is no."""
    beside = sorted(os.listdir(rig.source.parent))
    unmeasured = {} if tree.look else {"size": TreeSize()}
    with pytest.raises(Refused) as caught:
        rig.relocate(care=IMPATIENT, **unmeasured)
    assert (caught.value.reason, caught.value.exit_code) == (tree.refused, 4)
    assert tree.says in caught.value.message
    assert caught.value.message.endswith("Nothing was changed.")
    assert describe(tree, rig.source) == before
    assert sorted(os.listdir(rig.source.parent)) == beside
    assert os.listdir(rig.disk / "survived/staging") == []
    assert os.listdir(rig.disk / "survived/trees") == []
    assert rig.ends.journal.relocations() == ()


def check_moved(rig: Rig, tree: Tree, before: object) -> None:
    """Move there and back; what is done meanwhile is part of what must arrive."""
    act = tree.meanwhile
    seen: list[object] = [before]

    def meanwhile() -> None:
        assert act is not None
        act(rig.source)
        seen.append(describe(tree, rig.source))

    task = MeanwhileTask(meanwhile) if act else engine.new_task()
    assert rig.relocate(care=PATIENT, task=task).stage is Stage.DONE
    assert len(seen) == (2 if act else 1)
    assert rig.source.is_symlink()
    assert same(describe(tree, rig.source), seen[-1]) == []
    assert rig.leftovers() == []
    if tree.many:
        return
    assert rig.restore(care=PATIENT).stage is Stage.DONE
    assert not rig.source.is_symlink()
    assert describe(tree, rig.source) == seen[-1]
    assert rig.leftovers() == []


def same(after: Any, before: Any) -> list[object]:
    """Return a few of the differences of two descriptions, by path: what a person wants to read when a test fails."""
    one, other = ((found if isinstance(found, dict) else found[1]) for found in (after, before))
    return [(name, one.get(name), other.get(name)) for name in {*one, *other} if one.get(name) != other.get(name)][:3]


@pytest.mark.parametrize("tree", [pytest.param(tree, id=tree.name) for tree in TREES if tree.user])
def test_as_an_ordinary_user(disks: tuple[Path, Path], tree: Tree) -> None:
    """Without root a tree of one's own is moved as faithfully, and what one may not read, keep or give is refused and says so."""
    with place(*disks, os.fsdecode(tree.source), owner=ORDINARY) as (rig, ctx):
        os.setegid(ORDINARY)
        os.seteuid(ORDINARY)
        try:
            tree.build(ctx)
        finally:
            os.seteuid(0)
            os.setegid(0)
        time.sleep(TICK)
        before = snapshot(rig.source)

        def there() -> str:
            return f"{rig.open().relocate(care=PATIENT).stage} {rig.leftovers()}"

        said = as_ordinary_user(there)
        assert snapshot(rig.source) == before
        if isinstance(tree.user, Reason):
            assert said.startswith(f"Refused {tree.user.value}: Cannot move ")
            assert os.listdir(rig.source.parent) == [rig.source.name]
            assert os.listdir(rig.disk / "survived/staging") == os.listdir(rig.disk / "survived/trees") == []
            return
        assert said == "done []"
        assert rig.source.is_symlink()
        assert as_ordinary_user(lambda: f"{rig.open().restore(care=PATIENT).stage} {rig.leftovers()}") == "done []"
        assert snapshot(rig.source) == before


def test_the_trees_are_what_they_claim() -> None:
    """There are at least sixty, no two of one name, and neither outcome is rare."""
    assert len({tree.name for tree in TREES}) == len(TREES) >= 60
    assert sum(tree.refused is None for tree in TREES) >= 30
    assert sum(tree.refused is not None for tree in TREES) >= 20
    assert {tree.refused for tree in TREES if tree.refused} >= {
        Reason.BUSY, Reason.DEVICE_NODE, Reason.IMMUTABLE, Reason.LEAVING_LINK, Reason.MOUNT_POINT, Reason.SOCKET,
    }  # fmt: skip


# ---- the other filesystems -----------------------------------------------


@pytest.fixture(scope="module")
def every_kind() -> Iterator[dict[str, Path]]:
    """Yield a mount of each faithful kind that this machine has."""
    with public_folder() as folder, ExitStack() as stack:
        yield {kind: stack.enter_context(mounted_as(folder, kind, kind)) for kind in FAITHFUL if why_not(kind) is None}


ROUND = [(FAITHFUL[at], FAITHFUL[(at + step) % len(FAITHFUL)]) for step in (1, 2) for at in range(len(FAITHFUL))]
"""Every two, each kind twice as the home and twice as the data disk; with the way back that is every ordered pair."""


@pytest.mark.parametrize(("one", "other", "by"), [(*kinds, number % 2 + 1) for number, kinds in enumerate(ROUND)])
def test_every_pair(every_kind: dict[str, Path], monkeypatch: pytest.MonkeyPatch, one: str, other: str, by: int) -> None:
    """The sampler goes from any faithful filesystem to any other and back, one way by one process and the other by two."""
    for kind in (one, other):
        if reason := why_not(kind):
            pytest.skip(reason)
    with place(every_kind[one], every_kind[other], "tool") as (rig, ctx):
        sampler(ctx)
        rig.open()
        time.sleep(TICK)
        before = snapshot(rig.source)
        assert len(before) > 900
        monkeypatch.setattr(branches, "WORTH_FILES", 0 if by == 2 else 10**9)
        assert rig.relocate(care=PATIENT).stage is Stage.DONE
        assert same(snapshot(rig.source), before) == []
        monkeypatch.setattr(branches, "WORTH_FILES", 0 if by == 1 else 10**9)
        assert rig.restore(care=PATIENT).stage is Stage.DONE
        assert same(snapshot(rig.source), before) == []
        assert rig.leftovers() == []


# ---- what a target cannot keep -------------------------------------------


def _long_link(ctx: Context) -> None:
    os.symlink("d/" * 1000, ctx.root / "long")


def _big_attribute(ctx: Context) -> None:
    os.setxattr(ctx.file("f"), "user.big", bytes(30_000))


def _huge(ctx: Context) -> None:
    with open(ctx.file("f"), "r+b") as file:
        file.truncate(20 << 40)


def _popular(ctx: Context) -> None:
    path = ctx.file("f")
    for number in range(65_010):
        os.link(path, ctx.root / f"{number}")


def _dated(*times: int) -> Any:
    def build(ctx: Context) -> None:
        for at in times:
            os.utime(ctx.file(f"{at}"), (at, at))

    return build


def _only(name: str) -> Any:
    return next(tree for tree in TREES if tree.name == name).build


BEYOND = {
    "a link of 2000 bytes": ("btrfs", "xfs", _long_link, "the text of its link is beyond"),
    "an attribute of 30 kB": ("xfs", "ext4", _big_attribute, "its extended attribute user.big cannot be kept there"),
    "20 TB": ("xfs", "ext4", _huge, "'f' in it: its kind, its name, its size"),
    "65,010 names": ("tmpfs", "ext4", _popular, "its hard links cannot be kept there"),
    "the year 3554": ("btrfs", "ext4", _dated(50_000_000_000), "times cannot be kept there"),
    "the year 1811": ("btrfs", "xfs", _dated(-5_000_000_000), "times cannot be kept there"),
    "nanoseconds": ("ext4", "ext4-128", _only("times-to-the-nanosecond"), "times cannot be kept there"),
    "an ACL": ("ext4", "btrfs,noacl", _only("acls"), "its extended attribute system.posix_acl_access cannot be kept there"),
}


@pytest.mark.parametrize("what", BEYOND)
def test_what_the_target_cannot_keep(what: str) -> None:
    """What is beyond the target's limits is refused by name, in a sentence that blames neither room nor the disk."""
    one, other, build, says = BEYOND[what]
    other, _, options = other.partition(",")
    for kind in (one, other):
        if reason := why_not(kind):
            pytest.skip(reason)
    with ends_of(one, other, options or "noatime") as ends, place(*ends, "tool") as (rig, ctx):
        build(ctx)
        rig.open()
        time.sleep(TICK)
        check_refused(rig, Tree(what, build, Reason.UNFAITHFUL, says), describe(Tree(what, build), rig.source))


def test_a_restore_that_the_home_cannot_keep() -> None:
    """What came to the data disk since, and the home's filesystem cannot keep, is refused; the link stays."""
    with ends_of("ext4-128", "ext4") as ends, place(*ends, "tool") as (rig, ctx):
        for path in (ctx.file("f"), ctx.root):
            os.utime(path, (7, 7))
        rig.open()
        time.sleep(TICK)
        assert rig.relocate(care=PATIENT).stage is Stage.DONE
        os.utime(rig.source / "f", ns=(8, 8_000_000_001))
        time.sleep(TICK)
        before = snapshot(rig.source)
        with pytest.raises(Refused, match="times cannot be kept there") as caught:
            rig.restore(care=IMPATIENT)
        assert caught.value.reason is Reason.UNFAITHFUL
        assert rig.source.is_symlink()
        assert snapshot(rig.source) == before
        assert rig.leftovers() == []


def _pass_by_pass(copies: Pair) -> None:
    """A first pass copies; only the later ones compare."""
    copies.run()
    copies.settle()


UNKEPT: list[tuple[Any, str]] = [
    (lambda ctx: ctx.file("f").chmod(0o640), "'f' in it: its mode, owner or times cannot be kept there"),
    (lambda ctx: os.chown(ctx.file("f"), 5, 5), "'f' in it: its owner or group is not ours to give"),
    (lambda ctx: os.symlink("f", ctx.root / "to"), "'to' in it: its kind, its name"),
    (lambda ctx: os.setxattr(ctx.file("f"), "user.a", b"1"), r"'f' in it: its extended attribute user\.a cannot be kept there"),
    (lambda ctx: os.link(ctx.file("f"), ctx.root / "same"), "cannot be kept there"),
]


@pytest.mark.skipif(why_not("exfat") is not None, reason=str(why_not("exfat")))
def test_exfat_is_no_data_disk(disks: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """An exfat disk is refused by its type, by what it answers where the type is unknown, and by the copy as the last."""
    with public_folder() as folder, mounted_as(folder, "stick", "exfat") as stick, place(disks[0], disks[1], "tool") as (rig, ctx):
        reading = layout.read_store(str(stick / "alice"), read_filesystem(str(stick)), uid=0, avoid=())
        assert not reading.ok
        assert "is fuseblk, which keeps no owners" in str(reading.reason)
        assert os.listdir(stick) == []
        monkeypatch.setattr(layout, "_UNFAITHFUL", frozenset())
        unknown = layout.read_store(str(stick / "alice"), read_filesystem(str(stick)), uid=0, avoid=())
        with pytest.raises(Refused, match="keeps no hard links") as caught:
            layout.open_store(unknown, uid=0)
        assert caught.value.reason is Reason.NO_STORE
        for number, (build, says) in enumerate(UNKEPT):
            ctx.stack.callback(engine.remove, ctx.below(f"{number}").root)
            ctx.below(f"{number}").root.mkdir()
            (stick / f"copy{number}").mkdir()
            build(ctx.below(f"{number}"))
            time.sleep(TICK)
            copies = Pair(rig.source / f"{number}", stick / f"copy{number}")
            with pytest.raises(Refused, match=says) as caught:
                _pass_by_pass(copies)
            copies.close()
            assert caught.value.reason in (Reason.UNFAITHFUL, Reason.NOT_OURS)


@pytest.mark.parametrize("fstype", ["vfat", "exfat", "ntfs3", "fuseblk", "fuse.exfat", "fuse.vfat"])
def test_unfaithful_kinds(disks: tuple[Path, Path], fstype: str) -> None:
    """Filesystems without owners, modes and links are refused by their types; the kernel here has no driver for most of them."""
    found = replace(read_filesystem(str(disks[1])), fstype=fstype)
    assert f"is {fstype}, which keeps no" in str(layout.read_store(str(disks[1]), found, uid=0, avoid=()).reason)


# ---- overlays whose layers are apart -------------------------------------


@contextmanager
def layered(folder: Path, options: str) -> Iterator[Path]:
    """
    Yield an overlay of two tmpfs with a source in both layers: two files of each, which have one inode number there and here.

    Every container's home is of this kind when its image and its writable layer are on two filesystems.
    """
    with mounted_as(folder, "low", "tmpfs") as low, mounted_as(folder, "up", "tmpfs") as up:
        for name in ("pad", "work"):
            (up / name).mkdir()
        for number in range(100):
            (low / f"{number}").touch()
        trees = [layer / "home/.cache/tool" for layer in (low / "layer", up / "layer")]
        for tree in trees:
            tree.mkdir(parents=True)
        (trees[0] / "a").write_text("from below")
        wanted, path = (trees[0] / "a").stat().st_ino, trees[1] / "b"
        while path.write_text("from above") and path.stat().st_ino != wanted:
            assert path.stat().st_ino < wanted
            path.rename(up / "pad" / f"{path.stat().st_ino}")
        for tree, name, layer in zip(trees, "ab", (low, up), strict=True):
            os.link(tree / name, tree / f"{name}2")
            os.link(tree / name, layer / "outside")  # so that neither group is complete when the other is met
            os.utime(tree / name, (5, 5))
        (folder / "both").mkdir()
        where = f"lowerdir={low}/layer,upperdir={up}/layer,workdir={up}/work,{options}"
        run("mount", "-t", "overlay", "-o", where, "overlay", folder / "both")
        try:
            yield folder / "both"
        finally:
            run("umount", folder / "both")


@pytest.mark.parametrize("options", ["redirect_dir=on,xino=off", "redirect_dir=off,xino=off"])
def test_layers_with_the_same_inodes(disks: tuple[Path, Path], options: str) -> None:
    """Files of two layers are not taken for one because of their number; what an overlay cannot rename is refused."""
    with public_folder() as folder, layered(folder, options) as both:
        disk = disks[1] / "alice"
        disk.mkdir()
        rig = Rig(both / "home", disk, both / "home/.cache/tool").open()
        try:
            a, b = ((rig.source / name).stat() for name in "ab")
            assert a.st_ino == b.st_ino
            assert (a.st_dev, a.st_nlink, b.st_nlink) != (b.st_dev, 3, 3)
            time.sleep(TICK)
            before = snapshot(rig.source)
            if "redirect_dir=on" in options:
                assert rig.relocate(care=PATIENT).stage is Stage.DONE
            else:
                with pytest.raises(Refused) as caught:
                    rig.relocate(care=PATIENT)
                assert caught.value.reason is Reason.NO_EXCHANGE
            assert same(snapshot(rig.source), before) == []
            assert rig.leftovers() == []
        finally:
            rig.close()
            engine.remove(disk)


# ---- ourselves -----------------------------------------------------------

_MOVE_OURSELVES = """
import sys
from pathlib import Path
from tests.unit.engine import Rig
home, disk, source = map(Path, sys.argv[1:])
print(Rig(home, disk, source).open().relocate().stage)
"""


def test_a_real_environment_does_not_move_itself(disks: tuple[Path, Path]) -> None:
    """The virtual environment whose Python runs the move is refused, though nobody but we holds it."""
    with place(*disks, "tool") as (rig, ctx):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", ctx.root / "venv"], check=True)
        before = snapshot(rig.source)
        root = str(Path(__file__).resolve().parents[2])
        found = [path for path in sys.path if path.endswith("site-packages")]
        done = subprocess.run(
            [ctx.root / "venv/bin/python", "-B", "-c", _MOVE_OURSELVES, rig.home, rig.disk, rig.source],
            env={**os.environ, "PYTHONPATH": ":".join([root, *found])}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "survived itself runs from there" in done.stderr
        assert done.stdout == ""
        assert snapshot(rig.source) == before
