"""Two trees that share inodes move one after the other: they share them there, too, and come home so."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from survived.act import branches
from survived.act.transfer import Care
from survived.model import Stage
from survived.store import kinship
from tests.unit.engine import Rig, build, contents, snapshot
from tests.unit.sabotage import FINISHED, KILL, TOLD, in_child

if TYPE_CHECKING:
    from collections.abc import Iterator

NUMBERS = itertools.count()
MOST = 600
CALM = Care(settle_seconds=0.0, patience_seconds=30.0)
"""A tree whose other names were just removed has changed just now; a busy machine takes its time to look again."""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Yield an open rig whose source is `pkgs`."""
    with build(tmp_path) as made:
        made.source = made.home / ".conda/pkgs"
        yield made


def envs_of(rig: Rig) -> Rig:
    """Return the same store with `envs` beside it as its source."""
    return replace(rig, source=rig.source.with_name("envs"))


def fill(rig: Rig, files: int = 6) -> tuple[Path, Path]:
    """Make a package cache and two environments as conda does: most files are links, those with a prefix are copies."""
    pkgs, envs = rig.source, rig.source.with_name("envs")
    for number in range(files):
        (pkgs / f"p{number % 40}").mkdir(parents=True, exist_ok=True)
        (pkgs / f"p{number % 40}/lib{number}").write_bytes(os.urandom(3000 + number))
    for env in ("a", "b"):
        for number in range(files):
            (envs / env / f"p{number % 40}").mkdir(parents=True, exist_ok=True)
            os.link(pkgs / f"p{number % 40}/lib{number}", envs / env / f"p{number % 40}/lib{number}")
        (envs / env / "script").write_text(f"#!{envs}/{env}")
    (pkgs / "tarball").write_bytes(os.urandom(9000))
    (pkgs / "p0/lib0").chmod(0o755)
    os.setxattr(pkgs / "p1/lib1", "user.note", b"kept")
    time.sleep(0.025)
    return pkgs, envs


def inodes(*trees: Path) -> set[int]:
    """Return the inodes of all files."""
    return {
        os.lstat(os.path.join(folder, name)).st_ino for tree in trees for folder, _, names in os.walk(f"{tree}/") for name in names
    }


def test_both_ways_keep_their_links(rig: Rig) -> None:
    """Whichever goes first: on the disk each inode is there once, names count as before, and so it is when both are home again."""
    pkgs, envs = fill(rig)
    before, count = (snapshot(pkgs), snapshot(envs)), len(inodes(pkgs, envs))
    for first, second in ((rig, envs_of(rig)), (envs_of(rig), rig)):
        assert first.relocate(care=CALM).stage is second.relocate(care=CALM).stage is Stage.DONE
        assert (snapshot(pkgs), snapshot(envs)) == before
        assert len(inodes(pkgs, envs)) == count
        assert os.stat(pkgs / "p0/lib0").st_nlink == 3
        assert os.path.samefile(pkgs / "p1/lib1", envs / "b/p1/lib1")
        assert second.restore(care=CALM).stage is first.restore(care=CALM).stage is Stage.DONE
        assert (snapshot(pkgs), snapshot(envs)) == before
        assert len(inodes(pkgs, envs)) == count
        assert [name for name in rig.leftovers() if name != "envs"] == []


def test_by_two_processes(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large tree is copied by two processes, and both know what went before."""
    monkeypatch.setattr(branches, "WORTH_FILES", 100)
    pkgs, envs = fill(rig, files=300)
    count = len(inodes(pkgs, envs))
    envs_of(rig).relocate(care=CALM)
    rig.relocate(care=CALM)

    assert len(inodes(pkgs, envs)) == count
    assert rig.restore(care=CALM).stage is envs_of(rig).restore(care=CALM).stage is Stage.DONE
    assert len(inodes(pkgs, envs)) == count


def test_from_one_disk_to_another(rig: Rig) -> None:
    """A rehome of both keeps their links, too."""
    pkgs, envs = fill(rig)
    count, before = len(inodes(pkgs, envs)), (contents(pkgs), contents(envs))
    rig.relocate(care=CALM)
    envs_of(rig).relocate(care=CALM)
    rig.second = rig.disk.with_name("second")
    rig.reopen()
    rig.rehome(care=CALM)
    envs_of(rig).rehome(care=CALM)

    assert (contents(pkgs), contents(envs)) == before
    assert len(inodes(pkgs, envs)) == count
    assert str(rig.second) in os.readlink(pkgs)


def spoil_content(there: Path) -> None:
    """Write other bytes and put the mtime back."""
    info = there.stat()
    there.write_bytes(os.urandom(info.st_size))
    os.utime(there, ns=(info.st_atime_ns, info.st_mtime_ns))


def swap(there: Path) -> None:
    """Put a link in the place of a file."""
    there.rename(there.with_name("moved"))
    there.symlink_to("moved")


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_content,
        swap,
        Path.unlink,
        lambda there: there.chmod(0o600),
        lambda there: os.utime(there, ns=(1, 1)),
        lambda there: os.setxattr(there, "user.more", b"1"),
        lambda there: os.truncate(there, 5),
    ],
    ids=["bytes", "link", "gone", "mode", "mtime", "xattr", "size"],
)
def test_what_is_not_alike_is_copied(rig: Rig, spoil: object) -> None:
    """A file that its tool changed since it went, in whatever it may be, gets no second name: the other tree keeps its own."""
    pkgs, envs = fill(rig)
    before = snapshot(envs)
    rig.relocate(care=CALM)
    spoil(rig.target / "p2/lib2")  # type: ignore[operator]
    changed = contents(pkgs)
    envs_of(rig).relocate(care=CALM)

    assert snapshot(envs) == before
    assert contents(pkgs) == changed
    assert not (pkgs / "p2/lib2").exists() or not os.path.samefile(pkgs / "p2/lib2", envs / "a/p2/lib2")
    assert os.path.samefile(pkgs / "p3/lib3", envs / "a/p3/lib3")


def test_an_inode_number_that_is_used_again(rig: Rig) -> None:
    """What is believed is the file, not its number: one of the same number, size and mtime is not taken for the other."""
    _, envs = fill(rig)
    rig.relocate(care=CALM)
    script = envs / "a/script"
    (name,) = os.listdir(rig.disk / "survived" / kinship.FOLDER)
    folder = os.open(rig.disk / "survived" / kinship.FOLDER, os.O_RDONLY)
    try:
        noted = kinship.Kinship()
        noted.note(_with_links(script.stat()), "p4/lib4")
        assert noted.write(folder, int(name), _filesystem(envs), str(rig.target))
    finally:
        os.close(folder)
    before = snapshot(envs)
    envs_of(rig).relocate(care=CALM)

    assert snapshot(envs) == before


class _Links:
    """A stat whose number of links is another."""

    def __init__(self, info: os.stat_result) -> None:
        self._info = info
        self.st_nlink = 9

    def __getattr__(self, name: str) -> object:
        return getattr(self._info, name)


def _with_links(info: os.stat_result) -> os.stat_result:
    return _Links(info)  # type: ignore[return-value]


def _filesystem(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        return kinship.filesystem_id(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("damage", [b"", b"svlinks1", b"x" * 4096, None], ids=["empty", "short", "noise", "torn"])
def test_a_note_that_is_none_is_left_out(rig: Rig, damage: bytes | None) -> None:
    """A torn or foreign file in the place of a note costs the links and nothing else."""
    _, envs = fill(rig)
    before = snapshot(envs)
    rig.relocate(care=CALM)
    (note,) = (rig.disk / "survived" / kinship.FOLDER).iterdir()
    note.write_bytes(note.read_bytes()[200:] if damage is None else damage)
    envs_of(rig).relocate(care=CALM)

    assert snapshot(envs) == before


def test_notes_go_with_what_they_are_about(rig: Rig) -> None:
    """A tree without links elsewhere is not noted; the note of one that came home again goes, and so does an old one."""
    pkgs, envs = fill(rig)
    folder = rig.disk / "survived" / kinship.FOLDER
    rig.relocate(care=CALM)
    (note,) = folder.iterdir()
    envs_of(rig).relocate(care=CALM)
    assert list(folder.iterdir()) == [note]
    rig.restore(care=CALM)  # what it leaves is noted in turn: where the links of envs are to lead when these come home
    assert note not in folder.iterdir()
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    envs_of(rig).restore(care=CALM)
    assert len(inodes(pkgs, envs)) > len(inodes(envs))
    fill(replace(rig, source=rig.home / ".other/pkgs"))
    replace(rig, source=rig.home / ".other/pkgs").relocate(care=CALM)
    assert len(list(folder.iterdir())) == 1


def few(rig: Rig) -> tuple[Path, Path]:
    """Make two trees with one shared inode and one of each's own."""
    pkgs, envs = rig.source, rig.source.with_name("envs")
    for tree in (pkgs, envs):
        tree.mkdir(parents=True)
        (tree / "own").write_text(tree.name)
    (pkgs / "lib").write_bytes(b"shared" * 1000)
    os.link(pkgs / "lib", envs / "lib")
    return pkgs, envs


@pytest.mark.parametrize(
    ("error", "home", "stride"),
    [(KILL, False, 1), (KILL, True, 3), (errno.ENOSPC, False, 3)],
    ids=["relocate", "restore", "ENOSPC"],
)
def test_dying_and_failing_at_every_step(template: Rig, error: int, home: bool, stride: int) -> None:
    """Before each call of the second move: both paths stay whole, the first tree is not touched, and another try is a success."""
    for number in range(1, MOST, stride):
        rig = replace(template, source=template.home / f".conda-{next(NUMBERS)}/pkgs", database=None).open()  # type: ignore[arg-type]
        pkgs, envs = few(rig)
        count, before = len(inodes(pkgs, envs)), (snapshot(pkgs), snapshot(envs))
        rig.relocate(care=CALM)
        if home:
            envs_of(rig).relocate(care=CALM)
            rig.restore(care=CALM)
        rig.close()
        other = envs_of(rig)
        ended = in_child(other, lambda it: it.restore(care=CALM) if home else it.relocate(care=CALM), number, error)
        assert ended in (FINISHED, TOLD, -signal.SIGKILL)
        assert (contents(pkgs), contents(envs)) == tuple(map(_contents, before)), number
        other.open()
        assert other.recover()[1] == []
        assert (snapshot(pkgs), snapshot(envs)) == before, number
        if envs.is_symlink() == home:
            assert (other.restore(care=CALM) if home else other.relocate(care=CALM)).stage is Stage.DONE
        assert (snapshot(pkgs), snapshot(envs)) == before
        note_failed = error != KILL and ended == FINISHED  # whoever cannot note goes on, and then copies
        assert len(inodes(pkgs, envs)) == count or note_failed, number
        other.close()
        if ended == FINISHED:
            break
    assert ended == FINISHED
    assert number > 30


def _contents(entries: dict[bytes, object]) -> dict[bytes, tuple[int, str]]:
    return {name: (entry.kind, entry.content) for name, entry in entries.items()}  # type: ignore[attr-defined]
