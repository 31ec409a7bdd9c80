"""Relocate and restore between two real filesystems: what arrives, what is left, and what a worse day makes of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from survived.act import fs, recover
from survived.act.ballast import Ballast
from survived.act.transfer import Care
from survived.errors import SurvivedError
from survived.model import Stage, Verb
from tests.unit.engine import (
    HookedTask,
    Rig,
    as_ordinary_user,
    build,
    nasty_tree,
    ordinary_folder,
    remove,
    snapshot,
)

if TYPE_CHECKING:
    pass


def test_relocate_and_restore(rig: Rig) -> None:
    """There and back again: everything is as it was at each step, and nothing else is left anywhere."""
    before = snapshot(rig.source)
    there = rig.relocate()
    assert there.stage is Stage.DONE
    assert os.readlink(rig.source) == there.target == str(rig.target)
    assert snapshot(rig.source) == before
    assert rig.leftovers() == []
    (item,) = rig.ends.journal.relocations()
    assert (item.source, item.target, item.cache_id, item.files) == (str(rig.source), str(rig.target), "tool", 9)
    assert 0 < there.freed_bytes <= there.size_bytes
    back = rig.restore()
    assert back.stage is Stage.DONE
    assert not rig.source.is_symlink()
    assert snapshot(rig.source) == before
    assert rig.leftovers() == []
    assert rig.ends.journal.relocations() == ()
    assert [operation.verb for operation in rig.ends.journal.recent(9)] == [Verb.RESTORE, Verb.RELOCATE]


def test_restore_brings_what_was_added(rig: Rig) -> None:
    """What was written at the new place comes home, too."""
    rig.relocate()
    (rig.source / "later").write_text("written through the link")
    (rig.source / "a").unlink()
    now = snapshot(rig.source)
    rig.restore()
    assert snapshot(rig.source) == now


@pytest.mark.parametrize("name", ["with space", "\udcff\n", "ü" * 100, "tool~2"])
def test_odd_names_of_a_source(rig: Rig, name: str) -> None:
    """A source may have any name; it is in the journal byte for byte."""
    rig.source = rig.source.rename(rig.source.with_name(name))
    before = snapshot(rig.source)
    rig.relocate()
    assert [item.source for item in rig.reopen().ends.journal.relocations()] == [str(rig.source)]
    rig.restore()
    assert snapshot(rig.source) == before


def test_an_empty_source(rig: Rig) -> None:
    """A directory without anything in it moves like any other."""
    remove(rig.source)
    rig.source.mkdir(mode=0o750)
    before = snapshot(rig.source)
    assert rig.relocate().files == 0
    rig.restore()
    assert snapshot(rig.source) == before


def test_a_taken_target_is_left_alone(rig: Rig) -> None:
    """What already lies where the source would go stays, and the source goes beside it."""
    rig.target.mkdir(parents=True)
    (rig.target / "other").write_text("not ours")
    assert rig.relocate().target == f"{rig.target}~2"
    assert (rig.target / "other").read_text() == "not ours"


def test_ordinary_users_and_directories_that_nobody_may_write() -> None:
    """A tree of read-only directories, its root among them, moves there and back for an ordinary user."""

    def work() -> str:
        with build(folder) as rig:
            nasty_tree(rig.source)
            (rig.source / "hollow").chmod(0o500)
            rig.source.chmod(0o555)
            before = snapshot(rig.source)
            stages = [rig.relocate().stage]
            same = [snapshot(rig.source) == before]
            stages.append(rig.restore().stage)
            same.append(snapshot(rig.source) == before)
            return f"{stages} {same} {rig.leftovers()}"

    with ordinary_folder() as folder:
        assert as_ordinary_user(work) == "[<Stage.DONE: 'done'>, <Stage.DONE: 'done'>] [True, True] []"


def test_default_acls_around_do_not_reach_the_tree(rig: Rig) -> None:
    """Default ACLs of the data disk's folder and of the home's folder are not inherited by what is moved."""
    before = snapshot(rig.source)
    for folder in (rig.disk, rig.disk / "survived", rig.disk / "survived/staging", rig.disk / "survived/trees", rig.source.parent):
        subprocess.run(["setfacl", "-d", "-m", "u:1:rwx", folder], check=True)
    rig.relocate()
    assert snapshot(rig.source) == before
    rig.restore()
    assert snapshot(rig.source) == before


def test_content_is_verified_when_asked(rig: Rig) -> None:
    """With verify the copy is read back; one that differs is removed and told."""
    spoiled: list[Path] = []

    def spoil() -> None:
        (path,) = (rig.disk / "survived/staging").glob("*/tree/a")
        info = path.stat()
        path.write_bytes(b"wrong" * 1000)
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
        spoiled.append(path)

    care = Care(0.0, 5.0, verify_content=True)
    with pytest.raises(SurvivedError, match=r"the copy of 'a' reads back differently. The copy is removed"):
        rig.relocate(care=care, task=HookedTask("sync", spoil))
    assert rig.leftovers() == []
    assert rig.relocate(care=care).stage is Stage.DONE


def test_a_lost_target_undoes_what_still_stands_aside(rig: Rig) -> None:
    """When the copy is lost while the old tree waits for a holder, the old tree gets its name back, and is not listed as moved."""
    before = snapshot(rig.source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recover, "finish", lambda _store, _journal, operation, *_: operation)
        assert rig.relocate().stage is Stage.EXCHANGED
    remove(rig.target)
    ended, puzzles = recover.recover_all(rig.ends.store, rig.ends.journal)
    assert ([operation.stage for operation in ended], puzzles) == ([Stage.UNDONE], [])
    assert not rig.source.is_symlink()
    assert snapshot(rig.source) == before
    assert rig.ends.journal.relocations() == ()
    assert rig.leftovers() == []


def test_one_stuck_operation_does_not_keep_the_others(rig: Rig) -> None:
    """What cannot be recovered is a puzzle with its reason; operations after it are recovered all the same."""
    journal = rig.ends.journal
    journal.begin(Verb.RELOCATE, "gone", str(rig.home / "no/where"), f"{rig.ends.store.path}/trees/x", 1.0)
    journal.begin(Verb.RELOCATE, "moved", str(rig.home / "x"), "/another/survived/trees/x", 2.0)
    good = journal.begin(Verb.RELOCATE, "tool", str(rig.source), str(rig.target), 3.0)
    ended, puzzles = recover.recover_all(rig.ends.store, journal)
    assert [(operation.id, operation.stage) for operation in ended] == [(good.id, Stage.UNDONE)]
    assert ["its folder cannot be opened" in str(puzzles[0]), "its store was at another place" in str(puzzles[1])] == [True, True]
    assert {puzzle.exit_code for puzzle in puzzles} == {5}


def test_the_ballast_makes_room(tmp_path: Path) -> None:
    """On a full disk the ballast is given up and the act is tried again; without one the error stays."""
    calls: list[bool] = []
    ballast = Ballast(str(tmp_path / "state"), 1 << 16)
    assert ballast.lay()
    assert os.stat(ballast.path).st_blocks * 512 >= 1 << 16

    def make() -> None:
        calls.append(os.path.exists(ballast.path))
        if calls[-1]:
            raise OSError(28, "No space left on device")

    with fs.opened(str(tmp_path)) as fd:
        ballast.with_room(make, fd)
        assert calls == [True, False]
        with pytest.raises(OSError, match="No space"):
            Ballast(str(tmp_path), 0).with_room(lambda: (_ for _ in ()).throw(OSError(28, "No space left on device")), fd)


def test_a_tree_whose_link_was_eaten_is_not_forgotten(rig: Rig) -> None:
    """Moved anew after a tool made its directory anew, both trees are kept, and the first is listed as an orphan."""
    before = snapshot(rig.source)
    first = rig.relocate().target
    rig.source.unlink()
    rig.source.mkdir()
    (rig.source / "new").write_text("new", encoding="utf-8")
    second = rig.relocate().target
    assert first != second == os.readlink(rig.source)
    assert [item.target for item in rig.ends.journal.relocations()] == [second]
    assert [item.target for item in rig.ends.journal.orphans()] == [first]
    assert snapshot(first) == before
    rig.restore()
    assert (rig.source / "new").read_text(encoding="utf-8") == "new"
    assert [item.target for item in rig.ends.journal.relocations()] == [first]
    assert rig.ends.journal.orphans() == ()
