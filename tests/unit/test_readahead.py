"""What is asked for ahead: the kernel has it when its turn comes, nothing is missed, and odd trees cost no more than they may."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from survived.act import fs, readahead
from survived.act.looking import in_order
from survived.act.readahead import branches_ahead, entries_ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """Tell which inodes the kernel was asked to read, and from where to where."""
    told: list[tuple[int, int, int]] = []
    real = os.posix_fadvise

    def advise(fd: int, begin: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        told.append((os.fstat(fd).st_ino, begin, length))
        real(fd, begin, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", advise)
    return told


@pytest.fixture
def tree_fd(tmp_path: Path) -> Iterator[int]:
    """Yield an open tree of three branches of ten files and a link each."""
    for branch in "abc":
        (tmp_path / branch / "deep").mkdir(parents=True)
        for number in range(5):
            (tmp_path / branch / f"{number}").write_text("x")
            (tmp_path / branch / "deep" / f"{number}").write_text("x")
        (tmp_path / branch / "link").symlink_to("0")
    with fs.opened(str(tmp_path)) as fd:
        yield fd


def inodes(path: Path) -> set[int]:
    """Return the inodes of all regular files below a path."""
    return {file.stat().st_ino for file in path.rglob("*") if file.is_file() and not file.is_symlink()}


def test_the_next_branch_is_asked_for_before_one_comes(tmp_path: Path, tree_fd: int, asked: list[tuple[int, int, int]]) -> None:
    """When the first comes the second is on its way, all of it, and every branch comes once and in order."""
    coming = branches_ahead(tree_fd, ["a", "b", "c"])
    assert next(coming) == "a"
    assert {inode for inode, _, _ in asked} == inodes(tmp_path / "a") | inodes(tmp_path / "b")
    assert list(coming) == ["b", "c"]
    assert len(asked) == 30
    assert {(begin, length) for _, begin, length in asked} == {(0, 128 << 10)}


def test_a_branch_that_is_gone_comes_all_the_same(tree_fd: int) -> None:
    """Whoever copies it says what is the matter with it."""
    assert list(branches_ahead(tree_fd, ["a", "gone", "a/0", "c"])) == ["a", "gone", "a/0", "c"]
    assert list(branches_ahead(tree_fd, [])) == []


def test_only_what_is_wanted_is_asked_for(tmp_path: Path, tree_fd: int, asked: list[tuple[int, int, int]]) -> None:
    """Of a folder that is shared each process asks for its own files, and gets all entries in the order they had."""
    with fs.opened("a", dir_fd=tree_fd) as fd:
        names = [entry.name for entry in in_order(fd)]
        got = [entry.name for entry in entries_ahead(fd, in_order(fd), lambda entry: entry.name in {"1", "3", "link", "deep"})]
    assert got == names
    assert {inode for inode, _, _ in asked} == {(tmp_path / f"a/{name}").stat().st_ino for name in "13"}


def test_a_large_folder_is_asked_for_in_a_window(tmp_path: Path, asked: list[tuple[int, int, int]]) -> None:
    """However many entries there are, only so many are ahead of what is copied."""
    for number in range(500):
        (tmp_path / f"{number}").touch()
    with fs.opened(str(tmp_path)) as fd:
        for done, _ in enumerate(entries_ahead(fd, in_order(fd), lambda _: True), 1):
            assert len(asked) - done <= readahead._WINDOW
    assert len(asked) == 500


@pytest.mark.parametrize("make", [lambda top: wide(top), lambda top: deep(top), lambda top: empty(top)])
def test_a_branch_is_asked_for_up_to_a_limit(
    tmp_path: Path, asked: list[tuple[int, int, int]], make: Callable[[Path], None]
) -> None:
    """Neither a million files, nor folders in folders, nor folders without files make it long, deep or many descriptors."""
    make(tmp_path / "branch")
    before = len(os.listdir("/proc/self/fd"))
    with fs.opened(str(tmp_path)) as fd:
        assert list(branches_ahead(fd, ["branch"])) == ["branch"]
    assert len(asked) <= 256
    assert len(os.listdir("/proc/self/fd")) == before


def wide(top: Path) -> None:
    """Make a folder of many files."""
    top.mkdir()
    for number in range(1000):
        (top / f"{number}").touch()


def deep(top: Path) -> None:
    """Make folders in folders, deeper than a program can call itself."""
    top.mkdir()
    fd = os.open(top, fs.DIRECTORY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=fd)
        deeper = os.open("d", fs.DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)


def empty(top: Path) -> None:
    """Make many folders with nothing in them."""
    for number in range(1000):
        (top / f"{number}").mkdir(parents=True)
