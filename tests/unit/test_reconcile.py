"""What was written late into the old tree gets into the new one, and what happened there meanwhile is never lost."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from survived.act.reconcile import Late
from survived.act.recover import recover_all
from survived.act.task import Task
from tests.unit.engine import as_ordinary_user, build, child, contents, ordinary_folder, other_filesystem, remove, snapshot
from tests.unit.pairs import Sides, equal_sides

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[Sides]:
    """Yield two equal trees on two filesystems."""
    with other_filesystem(tmp_path) as folder:
        yield equal_sides(tmp_path / "old", folder / "new")


def _put_back(old: Path) -> None:
    info = (old / "a").stat()
    (old / "a").write_text("CONTENT OF a")
    os.utime(old / "a", ns=(info.st_atime_ns, info.st_mtime_ns))


def _in_place_of(old: Path) -> None:
    shutil.rmtree(old / "d")
    (old / "e").rename(old / "d")


def _link_later(old: Path) -> None:
    os.link(old / "a", old / "d/link")
    os.link(old / "b", old / "b2")


def _linked_change(old: Path) -> None:
    with open(old / "one", "a") as file:
        file.write("late")


def _new_folder(old: Path) -> None:
    (old / "n/m").mkdir(parents=True)
    (old / "n/m/f").write_text("new")
    (old / "n/m").chmod(0o555)


def _another_link(old: Path) -> None:
    (old / "s").unlink()
    os.symlink("b", old / "s")


def _file_for_link(old: Path) -> None:
    (old / "s").unlink()
    (old / "s").write_text("now a file")


def _file_for_folder(new: Path) -> None:
    shutil.rmtree(new / "d/sub")
    (new / "d/sub").write_text("file now")


LATE: dict[str, Callable[[Path], object]] = {
    "a new file": lambda old: (old / "d/sub/new").write_text("new"),
    "a new folder": _new_folder,
    "a change": lambda old: (old / "d/f").write_text("changed"),
    "a change with size and mtime put back": _put_back,
    "a mode": lambda old: (old / "a").chmod(0o4711),
    "an attribute": lambda old: os.setxattr(old / "a", "user.x", b"late"),
    "a mode of a folder": lambda old: (old / "d").chmod(0o750),
    "a deletion": lambda old: (old / "a").unlink(),
    "a deletion of a folder": lambda old: shutil.rmtree(old / "d"),
    "a rename": lambda old: (old / "a").rename(old / "e/sub/a2"),
    "a rename over another": lambda old: (old / "a").rename(old / "b"),
    "a rename of a folder": lambda old: (old / "d").rename(old / "e/d2"),
    "a folder in place of another": _in_place_of,
    "two names swapped": lambda old: [(old / one).rename(old / other) for one, other in ("at", "ba", "tb")],
    "a link": _link_later,
    "a change of two names": _linked_change,
    "a deletion of two names": lambda old: ((old / "one").unlink(), (old / "d/two").unlink()),  # type: ignore[func-returns-value]
    "another link target": _another_link,
    "a file for a link": _file_for_link,
    "a pipe": lambda old: os.mkfifo(old / "pipe"),
}


@pytest.mark.parametrize("what", LATE)
def test_late_changes_arrive(sides: Sides, what: str) -> None:
    """Whatever is done late to the old tree is done to the new one, in everything, and a repeat changes nothing."""
    if what == "a rename of a folder":  # whose files are not late, so that a link to one outside it becomes a copy
        (sides.old / "d/two").unlink()
        sides.copy()
    LATE[what](sides.old)
    assert snapshot(sides.old) != snapshot(sides.new)
    sides.check_same()


def test_without_late_changes_nothing_is_done(sides: Sides) -> None:
    """Nothing late: nothing brought, removed or kept twice, and not even a time moves."""
    before = snapshot(sides.new)
    assert sides.reconcile() == Late()
    assert snapshot(sides.new) == before


NEWER: dict[str, Callable[[Path], object]] = {
    "a new file": lambda new: (new / "d/new").write_text("new there"),
    "a change": lambda new: (new / "d/f").write_text("changed there"),
    "a deletion": lambda new: (new / "a").unlink(),
    "a deletion of a folder": lambda new: shutil.rmtree(new / "d"),
    "a rename": lambda new: (new / "a").rename(new / "d/a2"),
    "a rename of a folder": lambda new: (new / "d").rename(new / "d2"),
    "a rename of a folder into another": lambda new: (new / "d").rename(new / "e/d2"),
    "a folder in place of another": _in_place_of,
    "two folders swapped": lambda new: [(new / one).rename(new / other) for one, other in ("dt", "ed", "te")],
    "a file for a folder": _file_for_folder,
}


@pytest.mark.parametrize("what", NEWER)
def test_what_happens_in_the_new_tree_stays(sides: Sides, what: str) -> None:
    """Whatever is done in the new tree is kept when nothing was late: no content is lost, nothing comes back."""
    NEWER[what](sides.new)
    before = contents(sides.new)
    late = sides.reconcile()
    after = contents(sides.new)
    assert {name: after.get(name) for name in before} == before
    assert late.removed == 0
    assert set(after) - set(before) <= {b"d/sub.survived-late", b"d/sub.survived-late/x"}


@pytest.mark.parametrize("what", [name for name in NEWER if "deletion" not in name])
def test_late_deletions_respect_the_new_tree(sides: Sides, what: str) -> None:
    """When everything but one entry is deleted late, what was changed or moved in the new tree is still there."""
    NEWER[what](sides.new)
    before = contents(sides.new)
    for name in ("d", "e"):
        shutil.rmtree(sides.old / name)
    for name in ("a", "b", "s"):
        (sides.old / name).unlink()
    sides.reconcile()
    after = contents(sides.new)
    changed = {name for name, entry in before.items() if (sides.marks[1] < _ctime(sides.new, name))}
    assert {name: after.get(name) for name in changed} == {name: before[name] for name in changed}
    assert (sides.new / "one").read_text() == "content of one"


def test_a_late_deletion_where_others_work(sides: Sides) -> None:
    """A file deleted late does not come back because others made one beside it; below a folder that was moved it may."""
    (sides.new / "d/beside").write_text("by others")
    (sides.old / "d/f").unlink()
    assert sides.reconcile().removed == 1
    assert sorted(os.listdir(sides.new / "d")) == ["beside", "sub", "two"]
    (sides.new / "top").write_text("so that d may have been moved")
    (sides.old / "d/sub/x").unlink()
    (sides.new / "d/sub/beside").write_text("by others")
    assert sides.reconcile().removed == 0
    assert (sides.new / "d/sub/x").exists()


def _ctime(root: Path, name: bytes) -> int:
    try:
        return os.lstat(os.fsencode(root) + b"/" + name).st_ctime_ns
    except FileNotFoundError:
        return 0


def test_both_sides_changed(sides: Sides) -> None:
    """A file that both sides changed is kept twice, the old side's under a name that says so; a repeat keeps it once."""
    for side in ("old", "new"):
        (getattr(sides, side) / "d/f").write_text(f"by {side}")
    late = sides.reconcile()
    assert late.conflicts == ["d/f"]
    assert (sides.new / "d/f").read_text() == "by new"
    assert (sides.new / "d/f.survived-late").read_text() == "by old"
    before = snapshot(sides.new)
    assert sides.reconcile().conflicts == []
    assert snapshot(sides.new) == before
    (sides.old / "d/f").write_text("by old again")
    sides.reconcile()
    assert (sides.new / "d/f.survived-late-2").read_text() == "by old again"


def test_both_sides_changed_a_long_name(sides: Sides) -> None:
    """A name of 255 bytes, all of two, can be kept twice as well."""
    name = "ü" * 127
    (sides.old / name).write_text("one")
    sides.copy()
    for side in (sides.old, sides.new):
        (side / name).write_text(f"by {side.name}")
    assert sides.reconcile().conflicts == [name]
    assert sorted(path.read_text() for path in sides.new.iterdir() if "ü" in path.name) == ["by new", "by old"]


def test_a_file_against_a_folder(sides: Sides) -> None:
    """Where one side has a file and the other a folder, both are kept."""
    (sides.old / "a").write_text("late")
    (sides.new / "a").unlink()
    (sides.new / "a/b").mkdir(parents=True)
    shutil.rmtree(sides.new / "e")
    (sides.new / "e").write_text("a file now")
    assert sorted(sides.reconcile().conflicts) == ["a", "e"]
    assert (sides.new / "a/b").is_dir()
    assert (sides.new / "a.survived-late").read_text() == "late"
    assert (sides.new / "e").read_text() == "a file now"
    assert contents(sides.new / "e.survived-late") == contents(sides.old / "e")


def test_an_empty_old_tree_removes_nothing(sides: Sides) -> None:
    """An old tree without anything is taken for an accident."""
    before = snapshot(sides.new)
    shutil.rmtree(sides.old)
    sides.old.mkdir()
    assert sides.reconcile() == Late()
    assert snapshot(sides.new) == before


def test_many_need_few_descriptors(sides: Sides) -> None:
    """Thousands of sub-directories are reconciled and removed with some forty descriptors."""
    for number in range(1500):
        (sides.old / f"many/{number}").mkdir(parents=True)
    sides.copy()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 40, hard))
    try:
        (sides.old / "e/sub/late").write_text("x")
        sides.reconcile()
        assert (sides.new / "e/sub/late").read_text() == "x"
        shutil.rmtree(sides.old / "many")
        assert sides.reconcile().removed == 1501
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_deep_trees_need_no_recursion(sides: Sides) -> None:
    """A tree of more levels than Python has frames is moved late, and its old place removed."""
    deep = "/".join(["n"] * 1100)
    try:
        subprocess.run(["mkdir", "-p", sides.old / deep], check=True)
        sides.copy()
        (sides.old / "n").rename(sides.old / "moved")
        assert (sides.reconcile().brought, (sides.new / "n").exists()) == (1, False)
        assert os.path.isdir(f"{sides.new}/moved{deep[1:]}")
    finally:
        for side in (sides.old, sides.new):  # pytest's own cleaning fails on such depth
            for name in ("n", "moved"):
                remove(side / name)


def test_folders_that_nobody_may_write() -> None:
    """An ordinary user's read-only folders take late changes and deletions and keep their mode."""

    def work() -> str:
        sides = Sides(folder / "old", folder / "new")
        for name in ("ro/sub/f", "ro/g", "w"):
            (sides.old / name).parent.mkdir(parents=True, exist_ok=True)
            (sides.old / name).write_text(name)
        for name in ("ro/sub", "ro"):
            (sides.old / name).chmod(0o555)
        sides.new.mkdir()
        sides.copy()
        with open(sides.old / "ro/g", "a") as file:
            file.write("late")
        for name in ("ro", "ro/sub"):
            (sides.old / name).chmod(0o755)
        (sides.old / "ro/sub/f").unlink()
        (sides.old / "ro/new").write_text("new")
        for name in ("ro/sub", "ro"):
            (sides.old / name).chmod(0o555)
        sides.check_same()
        return "same"

    with ordinary_folder() as folder:
        assert as_ordinary_user(work) == "same"


class Cut(Exception):  # noqa: N818
    """The end of a run in the middle."""


@pytest.mark.parametrize("what", ["a new folder", "a rename of a folder", "a change", "a folder in place of another"])
def test_an_end_in_the_middle_is_made_good(tmp_path: Path, what: str) -> None:
    """Wherever reconciling is cut short, a repeat has all that was late: half of a file or a folder never counts."""

    ticks = 0

    def cut(_size: int, _entries: int) -> None:
        nonlocal ticks
        ticks -= 1
        if ticks == 0:
            raise Cut

    with other_filesystem(tmp_path) as folder:
        for stop_at in range(1, 200):
            sides = equal_sides(tmp_path / f"old{stop_at}", folder / f"new{stop_at}")
            first = set(contents(sides.old))
            LATE[what](sides.old)
            ticks = stop_at
            try:
                sides.reconcile(cut)
            except Cut:
                sides.reconcile()
                old, new = contents(sides.old), contents(sides.new)
                assert {name: new.get(name) for name in old} == old, stop_at
                # What was deleted late may stay where we had changed its folder already: that looks like another's change.
                assert set(new) - set(old) <= first
            else:
                break
        assert 3 < stop_at < 199


def test_an_odd_name_in_conflict_is_recorded(tmp_path: Path) -> None:
    """A name that is not UTF-8 in the note of a conflict does not keep an operation from its end."""
    with build(tmp_path) as rig:
        rig.source.mkdir()
        odd = rig.source / "\udcff"
        odd.write_text("first")
        time.sleep(0.025)
        stack = contextlib.ExitStack()

        class LateTask(Task):
            def enter(self, phase: str) -> None:
                super().enter(phase)
                if phase == "exchange":
                    path = Path(os.path.realpath(rig.source)) / odd.name
                    stack.enter_context(child(lambda: open(path, "a")))  # noqa: SIM115

        operation = rig.relocate(task=LateTask(threading.Event()))
        (aside,) = [path for path in rig.source.parent.iterdir() if path.name.startswith(".survived")]
        (aside / odd.name).write_text("by the late one")
        odd.write_text("by somebody in the new tree")
        stack.close()
        ended, puzzles = recover_all(rig.ends.store, rig.ends.journal)
        assert puzzles == []
        assert (ended[0].id, ended[0].stage) == (operation.id, "done")
        recorded = rig.ends.journal.operation(operation.id)
        assert recorded is not None
        assert r"\udcff" in recorded.note
        assert (rig.source / f"{odd.name}.survived-late").read_text() == "by the late one"
