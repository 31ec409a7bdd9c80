"""Every kind of damage to a relocated tree is found and named, and nothing that a tool may do is taken for damage."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from survived.act import comparing
from survived.act import verify as look
from survived.act.transfer import Care
from survived.decide.soundness import Soundness, judge
from survived.findings import Damage
from survived.model import Relocation
from survived.store import sums
from tests.unit.engine import ORDINARY, Rig

if TYPE_CHECKING:
    from collections.abc import Callable

SUMMED = Care(settle_seconds=0.0, patience_seconds=1.0, verify_content=True)


def verify(rig: Rig, *, content: bool = True, unseen: bool = False) -> tuple[Soundness, dict[str, str], object]:
    """
    Judge the relocated source; return its state, its damage by path, and what was seen.

    `unseen` puts the mark behind all that was done to the tree: below the filesystem nobody sets a ctime.
    """
    made = rig.ends.journal.maker(str(rig.target))
    assert made is not None
    mark = time.time_ns() + 10**12 if unseen else made.target_mark_ns
    top = os.open(rig.target, os.O_RDONLY | os.O_DIRECTORY)
    file = sums.open_sums(rig.ends.store.fd, made.id)
    try:
        lines = sums.read_lines(file) if file is not None else None
        seen = look.check_tree(top, mark_ns=mark, sums=lines, content=content, tick=lambda _size, _entries: None)
    finally:
        os.close(top)
        if file is not None:
            file.close()
    state, damage = judge(made, seen)
    return state, {item.path: item.why for item in damage}, seen


def flip(path: Path) -> None:
    """Change one byte in the middle of a file and put its times back."""
    info = path.stat()
    with path.open("r+b") as file:
        file.seek(info.st_size // 2)
        byte = file.read(1)
        file.seek(info.st_size // 2)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


@pytest.mark.parametrize("content", [False, True])
def test_an_untouched_tree_is_ok(rig: Rig, content: bool) -> None:
    """Nothing was touched: as many files and bytes as were moved, and with content each is as its sum says."""
    rig.relocate(care=SUMMED)
    state, damage, seen = verify(rig, content=content)
    assert (state, damage) == (Soundness.OK, {})
    assert isinstance(seen, look.TreeCheck)
    assert (seen.files, seen.changed) == (9, 0)
    assert (seen.compared, seen.unsummed) == ((6, 0) if content else (0, 0))


def test_what_its_tool_does_is_no_damage(rig: Rig) -> None:
    """Written, made, removed with its folder, renamed, replaced: changed, and that is what a cache is for."""
    rig.relocate(care=SUMMED)
    target = rig.target
    (target / "a").write_bytes(b"new")
    (target / "fresh").write_bytes(b"new")
    (target / "empty").unlink()
    (target / "dir/sub").chmod(0o755)
    (target / "dir/sub/same").unlink()
    (target / "dir/sub").rmdir()
    (target / "sparse").rename(target / "hollow/sparse")
    (target / "dir/file").unlink()
    (target / "dir/file").mkdir()
    assert verify(rig)[:2] == (Soundness.CHANGED, {})
    assert verify(rig, content=False)[:2] == (Soundness.CHANGED, {})


DAMAGES: dict[str, tuple[Callable[[Path], object], dict[str, str], str]] = {
    "a flipped byte": (lambda top: flip(top / "a"), {"a": "its content is not what was moved"}, "ok"),
    "a flipped byte under two names": (
        lambda top: flip(top / "dir/file"),
        {"dir/file": "its content", "dir/sub/same": "its content"},
        "ok",
    ),
    "a file that is cut": (lambda top: os.truncate(top / "a", 10), {"a": "its content"}, "damaged"),
    "a file that is longer by a hole": (lambda top: os.truncate(top / "a", 5001), {"a": "its content"}, "damaged"),
    "a lost file": (lambda top: (top / "dir/file").unlink(), {"dir/file": "it is gone"}, "damaged"),
    "a lost first file": (lambda top: (top / "a").unlink(), {"a": "it is gone"}, "damaged"),
    "a lost folder": (
        lambda top: [(top / "dir").rename(top.parent / "dir"), (top / "hollow").rmdir()],
        {"dir/file": "it is gone", "dir/sub/same": "it is gone"},
        "damaged",
    ),
    "a file that nobody made": (lambda top: (top / "dir/zzz").touch(), {"": "it holds 10 files where 9 were moved"}, "damaged"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_below_the_filesystem_is_named(rig: Rig, name: str) -> None:
    """What changes and leaves no trace is found by the kept sums, file by file, and without content as far as counts tell."""
    rig.relocate(care=SUMMED)
    harm, expected, without = DAMAGES[name]
    harm(rig.target)
    state, damage, _ = verify(rig, unseen=True)
    assert state is Soundness.DAMAGED
    assert {path: why[: len(expected.get(path, ""))] for path, why in damage.items()} == expected
    assert verify(rig, unseen=True, content=False)[0] == without


def test_without_sums_content_is_only_read(rig: Rig) -> None:
    """Rot cannot be told then, and nothing is claimed to be compared; a file that cannot be read still is found."""
    rig.relocate()
    flip(rig.target / "a")
    state, damage, seen = verify(rig, unseen=True)
    assert (state, damage) == (Soundness.OK, {})
    assert isinstance(seen, look.TreeCheck)
    assert (seen.compared, seen.unsummed) == (0, 6)
    assert seen.read_bytes >= 5000 + 5000 + 4096


def test_what_the_disk_cannot_read_is_named(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """EIO at one file's data: that file, also when its tool has changed it since, and the walk goes on."""
    rig.relocate(care=SUMMED)
    (rig.target / "a").write_bytes(b"changed")
    real, broken = os.pread, (rig.target / "a").stat().st_ino

    def pread(fd: int, count: int, at: int) -> bytes:
        if os.fstat(fd).st_ino == broken:
            raise OSError(5, os.strerror(5))
        return real(fd, count, at)

    monkeypatch.setattr(os, "pread", pread)
    state, damage, seen = verify(rig)
    assert (state, damage) == (Soundness.DAMAGED, {"a": "it cannot be read: input/output error"})
    assert isinstance(seen, look.TreeCheck)
    assert seen.compared == 5


def test_what_we_may_not_read_is_no_damage(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool that closes a folder to its owner, too, has changed it: counted, and what is below is not called lost."""
    rig.relocate(care=SUMMED)
    real = os.open

    def closed(path: str, flags: int, *args: int, dir_fd: int | None = None) -> int:
        if path == "dir":
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *args, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", closed)
    state, damage, seen = verify(rig)
    assert (state, damage) == (Soundness.CHANGED, {})
    assert isinstance(seen, look.TreeCheck)
    assert seen.closed == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
def test_a_foreign_owner_is_damage(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a tree of one user nothing belongs to another."""
    rig.relocate()
    for folder, folders, names in os.walk(rig.target):
        for name in (*folders, *names):
            os.chown(os.path.join(folder, name), ORDINARY, ORDINARY, follow_symlinks=False)
    os.chown(rig.target / "dir/link", 0, 0, follow_symlinks=False)
    monkeypatch.setattr(os, "geteuid", lambda: ORDINARY)
    assert verify(rig, content=False)[:2] == (Soundness.DAMAGED, {"dir/link": "it belongs to another user (uid 0)"})


@pytest.mark.parametrize("harm", [b"nonsense\n", b"0b" * 64 + b"  ./a\n"])
def test_damaged_sums_are_told_from_a_damaged_tree(rig: Rig, harm: bytes) -> None:
    """A sums file that rots itself says so, and accuses no file."""
    done = rig.relocate(care=SUMMED)
    place = rig.disk / "survived/sums" / sums.file_name(done.id)
    lines = place.read_bytes().splitlines(keepends=True)
    place.write_bytes(b"".join([*lines[:3], harm, *lines[3:]]))
    state, damage, _ = verify(rig)
    assert state is Soundness.DAMAGED
    assert list(damage) == [""]
    assert damage[""].startswith("the sums that were kept of it are damaged themselves")


def test_the_link_has_to_be_ours(rig: Rig) -> None:
    """Gone, replaced by a directory, or leading elsewhere: each is said."""
    done = rig.relocate()
    item = Relocation("tool", str(rig.source), done.target, 0.0, 0, 0)
    assert look.check_link(item) is None
    rig.source.unlink()
    assert look.check_link(item) == Damage("", f"its link is gone: nothing is at '{rig.source}'")
    rig.source.mkdir()
    assert look.check_link(item) == Damage("", f"its link was replaced: something else is at '{rig.source}'")
    rig.source.rmdir()
    rig.source.symlink_to("/elsewhere")
    assert look.check_link(item) == Damage("", f"its link at '{rig.source}' leads to '/elsewhere'")


def test_a_journal_that_knows_less(rig: Rig) -> None:
    """Made anew it knows nothing; written before lengths were counted it holds a tree to its files alone."""
    done = rig.relocate()
    seen = verify(rig, content=False)[2]
    assert isinstance(seen, look.TreeCheck)
    assert judge(None, seen) == (Soundness.UNKNOWN, ())
    assert judge(replace(done, content_bytes=-1), seen) == (Soundness.OK, ())
    assert judge(replace(done, content_bytes=1), seen)[0] is Soundness.DAMAGED
    assert judge(replace(done, files=1), seen)[0] is Soundness.DAMAGED


def test_a_wrongly_linked_copy_is_no_twin(tmp_path: Path) -> None:
    """Two names of one inode in the copy that are two files in the source are each compared."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "one/a").write_bytes(b"same")
    (tmp_path / "one/b").write_bytes(b"else")
    (tmp_path / "other/a").write_bytes(b"same")
    os.link(tmp_path / "other/a", tmp_path / "other/b")
    fds = [os.open(tmp_path / name, os.O_RDONLY | os.O_DIRECTORY) for name in ("one", "other")]
    try:
        assert comparing.same_content(fds[0], fds[1], lambda _size, _entries: None) == "b"
    finally:
        for fd in fds:
            os.close(fd)
