"""The checksums of a relocated tree: coreutils' b2sum takes them, whatever the names, and they come and go with their tree."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from survived.act import comparing
from survived.act import relocate as engine
from survived.act.transfer import Care
from survived.errors import SurvivedError
from survived.model import Verb
from survived.store import sums
from tests.unit.engine import Rig, nasty_tree, remove, snapshot
from tests.unit.sabotage import FINISHED, KILL, in_child
from tests.unit.test_crash import check_aftermath, fresh_rig

if TYPE_CHECKING:
    from collections.abc import Iterator

SUMMED = Care(settle_seconds=0.0, patience_seconds=1.0, verify_content=True)
ODD = (b"new\nline", b"back\\slash", b"carriage\r", b"\\n", b"\xff\xfe", b"-", b" blank ", b"*star", "\N{SNOWMAN}".encode(), b"\\")
NAMES = st.binary(min_size=1, max_size=12).filter(lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b".."))
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda parts: os.fsdecode(b"/".join(parts)))


def kept(store: Path) -> list[str]:
    """Return the names of all sums files of a store."""
    folder = store / "survived/sums"
    return sorted(os.listdir(folder)) if folder.exists() else []


def b2sum(rig: Rig, operation_id: int, tree: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """Have coreutils compare a tree with its sums, as the README tells."""
    place = rig.disk / "survived/sums" / sums.file_name(operation_id)
    return subprocess.run(["b2sum", "-c", "--strict", "--quiet", place], cwd=tree or rig.target, capture_output=True, check=False)


def odd_tree(root: Path) -> None:
    """Make the nasty tree and files of all odd names, at the top and in a folder of an odd name."""
    nasty_tree(root)
    for folder in (b"", b"fold\ner\\"):
        os.makedirs(os.path.join(bytes(root), folder), exist_ok=True)
        for number, name in enumerate(ODD):
            Path(os.fsdecode(os.path.join(bytes(root), folder, name))).write_bytes(b"odd" * number)


def files_below(root: Path) -> Iterator[Path]:
    """Yield every regular file."""
    for folder, _, names in os.walk(root):
        yield from (path for name in names if not (path := Path(folder, name)).is_symlink() and path.is_file())


@given(PATHS)
def test_a_line_reads_back(path: str) -> None:
    """Any name at all survives being written and read."""
    assert sums.read_line(sums.write_line(path, "0a" * 64)) == (path, "0a" * 64)


@given(st.lists(PATHS, unique=True, max_size=12))
def test_lines_have_to_be_in_order(paths: list[str]) -> None:
    """Lines in walk order are taken, the same in any other order are not."""
    right = sorted(paths, key=sums.order)
    lines = [sums.write_line(path, "0a" * 64) for path in right]
    assert [path for path, _ in sums.read_lines(lines)] == right
    if len(lines) > 1:
        with pytest.raises(ValueError, match="out of order"):
            list(sums.read_lines(reversed(lines)))


@pytest.mark.parametrize("line", [b"", b"\n", b"0a  ./x\n", b"0a" * 64 + b"  x\n", b"0A" * 64 + b"  ./x\n", b"0a" * 64 + b"  ./x"])
def test_what_is_no_line(line: bytes) -> None:
    """A damaged line is told from a good one."""
    with pytest.raises(ValueError, match="no line"):
        sums.read_line(line)


def test_coreutils_takes_our_sums(rig: Rig) -> None:
    """Odd names, hard links, holes: `b2sum -c --strict` is content, has every file, and sees a changed byte."""
    odd_tree(rig.source / "more")
    done = rig.relocate(care=SUMMED)
    found = b2sum(rig, done.id)
    assert (found.returncode, found.stdout, found.stderr) == (0, b"", b"")
    lines = (rig.disk / "survived/sums" / sums.file_name(done.id)).read_bytes().splitlines()
    assert len(lines) == len(list(files_below(rig.target)))
    with (rig.target / "sparse").open("r+b") as file:
        file.seek(5)
        file.write(b"x")
    found = b2sum(rig, done.id)
    assert (found.returncode, found.stdout) == (1, b"./sparse: FAILED\n")


def test_a_file_of_nothing_but_holes_is_left_out(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Terabytes of zeros are not summed up; everything else is."""
    monkeypatch.setattr(comparing, "MOST_HOLES", 1 << 20)
    done = rig.relocate(care=SUMMED)
    text = (rig.disk / "survived/sums" / sums.file_name(done.id)).read_bytes()
    assert b"./sparse" not in text
    assert b"./dir/file\n" in text
    assert b2sum(rig, done.id).returncode == 0


def test_sums_go_with_their_tree(rig: Rig) -> None:
    """Kept when content is verified, moved along by a rehome, gone after a restore; without content none are made."""
    first = rig.relocate(care=SUMMED)
    assert kept(rig.disk) == [sums.file_name(first.id)]
    rig.second = rig.disk.with_name("second")
    rig.reopen()
    again = rig.rehome()  # by a config that no longer asks for content
    assert (kept(rig.disk), kept(rig.second)) == ([], [sums.file_name(again.id)])
    assert rig.other is not None
    assert b2sum(rig.other, again.id, Path(again.target)).returncode == 0
    rig.other.restore()
    assert kept(rig.second) == []
    rig.relocate()
    assert kept(rig.disk) == []


@pytest.mark.parametrize("at", ["prepare_link", "exchange"])
def test_an_undone_move_leaves_no_sums(rig: Rig, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure after the sums have their place takes them back."""

    def fail(*_: object) -> None:
        assert len(kept(rig.disk)) == 1
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(engine, at, fail)
    with pytest.raises(SurvivedError, match="input/output error"):
        rig.relocate(care=SUMMED)
    assert (kept(rig.disk), rig.leftovers()) == ([], [])


@pytest.mark.parametrize(("verb", "error"), [(Verb.RELOCATE, KILL), (Verb.RELOCATE, errno.ENOSPC), (Verb.RESTORE, KILL)])
def test_sums_and_their_tree_are_never_apart(template: Rig, verb: Verb, error: int) -> None:
    """Death or failure at each call: after the next start there are sums of just those trees that are on the data disk."""
    for number in range(1, 400):
        rig = fresh_rig(template, Verb.RELOCATE)
        remove(rig.source)
        (rig.source / "folder").mkdir(parents=True)
        (rig.source / "folder/file").write_text("short: this is about the sums")
        if verb is Verb.RESTORE:
            rig.open().relocate(care=SUMMED)
            rig.close()
        before = snapshot(rig.source)
        ended = in_child(rig, lambda rig: rig.act(verb, care=SUMMED), number, error)
        check_aftermath(rig, before, verb, number)
        rig.open()
        made = [rig.ends.journal.maker(item.target) for item in rig.ends.journal.relocations()]
        assert kept(rig.disk) == sorted(sums.file_name(item.id) for item in made if item is not None), number
        rig.close()
        if ended == FINISHED:
            break
    assert ended == FINISHED


def test_sums_of_a_lost_journal_are_not_taken_for_ours(rig: Rig) -> None:
    """After a lost journal numbers begin anew: what lies there under our number goes before our tree counts."""
    stale = rig.disk / "survived/sums" / sums.file_name(1)
    stale.parent.mkdir()
    stale.write_bytes(sums.write_line("a", "0a" * 64))
    assert rig.relocate().id == 1
    assert kept(rig.disk) == []
