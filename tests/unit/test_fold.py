"""An earlier tree is folded into the later one: nothing is lost, what stands at a name stays, and any crash is gone on from."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from survived.act import fs
from survived.act.fold import EARLIER, Folded, fold
from survived.act.standin import link_anew, place, put_back, tidy
from survived.errors import Refused, SurvivedError
from tests.unit.engine import Entry, Rig, as_ordinary_user, nasty_tree, ordinary_folder, remove, snapshot
from tests.unit.sabotage import ERRORS, FINISHED, KILL, TOLD, in_child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NUMBERS = itertools.count()
MOST = 300


def run(earlier: Path, later: Path) -> Folded:
    """Fold one path into another."""
    with fs.opened(str(earlier.parent)) as parent_fd, fs.opened(str(later)) as into_fd:
        return fold(parent_fd, earlier.name, into_fd, lambda _size, _entries: None)


def data(path: Path) -> dict[bytes, tuple[int, str]]:
    """Return kind and content of what is no directory, by name."""
    return {name: (entry.kind, entry.content) for name, entry in snapshot(path).items() if not _is_folder(entry)}


def _is_folder(entry: Entry) -> bool:
    return entry.kind == 0o040000


def make_pair(folder: Path) -> tuple[Path, Path]:
    """Make an earlier and a later tree with every sort of meeting in them; return both."""
    earlier, later = folder / "tool", folder / "tool~2"
    nasty_tree(earlier, rest=False)
    for path in (later, later / "dir/sub", later / "both/deep", earlier / "both/deep", earlier / "dir-here", later / "file-here"):
        path.mkdir(parents=True, exist_ok=True)
    (earlier / "both/deep/only-earlier").write_text("1")
    (later / "both/deep/only-later").write_text("2")
    for tree, text in ((earlier, "same"), (later, "same")):
        (tree / "both/alike").write_text(text)
        os.symlink("to", tree / "both/link")
        os.mkfifo(tree / "both/fifo")
    for tree, text in ((earlier, "old"), (later, "new")):
        (tree / "both/differs").write_text(text)
        os.symlink(text, tree / "both/other-link")
    (earlier / "file-here").write_text("a file in one")
    (later / "dir-here").write_text("a file in the other")
    (earlier / "dir-here/in it").write_text("kept")
    (later / "both" / f"differs{EARLIER}").write_text("from another time")
    (later / "a").write_bytes(b"first" * 999)  # shorter than the earlier one
    return earlier, later


def merged(earlier: Path, later: Path) -> dict[bytes, set[tuple[int, str]]]:
    """Return what must be found by name: all the later has, and where it has nothing all the earlier has."""
    wanted = {name: {found} for name, found in data(earlier).items()}
    return wanted | {name: {found} for name, found in data(later).items()}


def test_everything_of_both_is_there(tmp_path: Path) -> None:
    """Each name of the later tree is as it was; what only the earlier had is at its name; what differed is beside it."""
    earlier, later = make_pair(tmp_path)
    had, stood = snapshot(earlier), data(later)
    folded = run(earlier, later)

    found = data(later)
    assert not earlier.exists()
    assert {name: found.get(name) for name in stood} == stood
    assert (later / f"both/differs{EARLIER}-2").read_text() == "old"
    assert (later / f"both/differs{EARLIER}").read_text() == "from another time"
    assert os.readlink(later / f"both/other-link{EARLIER}") == "old"
    assert (later / f"file-here{EARLIER}").read_text() == "a file in one"
    assert (later / f"dir-here{EARLIER}/in it").read_text() == "kept"
    assert (later / f"a{EARLIER}").read_bytes() == b"first" * 1000
    assert sorted(folded.kept) == ["a", "both/differs", "both/other-link", "dir-here", "file-here"]
    assert folded.same == 3
    now = snapshot(later)
    for name in (b"sparse", b"dir/file", b"dir/sub/same", b"dir/link", b"dangling", b"fifo", b"\xff\n", b"hollow"):
        assert now[name] == had[name], name
    assert now[b"a" + EARLIER.encode()] == had[b"a"]


def test_hard_links_and_holes_compare(tmp_path: Path) -> None:
    """Two names of one inode are alike without reading; a hole is alike to zeros, and unlike to anything else."""
    earlier, later = tmp_path / "t", tmp_path / "t2"
    for tree in (earlier, later):
        tree.mkdir()
    (earlier / "one").write_text("x")
    os.link(earlier / "one", later / "one")
    os.truncate(os.open(earlier / "hole", os.O_CREAT | os.O_WRONLY), 3 << 20)
    (later / "hole").write_bytes(bytes(3 << 20))
    os.truncate(os.open(earlier / "tail", os.O_CREAT | os.O_WRONLY), 3 << 20)
    (later / "tail").write_bytes(bytes((3 << 20) - 1) + b"x")
    folded = run(earlier, later)
    assert (folded.same, folded.kept) == (2, ["tail"])
    assert (later / f"tail{EARLIER}").stat().st_blocks == 0


def test_long_names_find_a_place(tmp_path: Path) -> None:
    """Of a name of 255 bytes enough is cut, and never into another's name."""
    earlier, later = tmp_path / "t", tmp_path / "t2"
    for tree, text in ((earlier, "1"), (later, "2")):
        tree.mkdir()
        for end in "ab":
            (tree / (("é" * 127) + end)).write_text(text + end)
    folded = run(earlier, later)
    assert len(folded.kept) == 2
    assert sorted(path.read_text() for path in later.iterdir()) == ["1a", "1b", "2a", "2b"]


def test_a_tree_that_is_not_there(tmp_path: Path) -> None:
    """A repeat after the end does nothing."""
    (tmp_path / "t2").mkdir()
    assert run(tmp_path / "t", tmp_path / "t2") == Folded()


def test_folders_that_nobody_may_write(tmp_path: Path) -> None:
    """Go's module cache is 0555 and 0444 all over; an ordinary user's is folded all the same, and the modes stay."""
    with ordinary_folder() as folder:

        def act() -> object:
            for tree, text in (("t", "earlier"), ("t2", "later")):
                for module in ("both", f"only-{text}"):
                    place_ = folder / tree / f"mod/{module}"
                    place_.mkdir(parents=True)
                    (place_ / "f").write_text(text)
                    (place_ / text).write_text(text)
                    for path in (place_ / "f", place_ / text):
                        path.chmod(0o444)
                    place_.chmod(0o555)
                (folder / tree / "mod").chmod(0o555)
            folded = run(folder / "t", folder / "t2")
            modes = {oct(path.stat().st_mode & 0o777) for path in (folder / "t2/mod").rglob("*") if path.is_dir()}
            return folded.moved, folded.kept, modes, sorted(path.name for path in (folder / "t2/mod/both").iterdir())

        names = sorted(["earlier", "f", f"f{EARLIER}", "later"])
        assert as_ordinary_user(act) == str((2, ["mod/both/f"], {"0o555"}, names))


def test_a_deep_tree(tmp_path: Path) -> None:
    """Deeper than a path may be long and than Python may recurse."""
    for tree in ("t", "t2"):
        (tmp_path / tree).mkdir()
        fd = os.open(tmp_path / tree, os.O_RDONLY)
        for _ in range(1200):
            os.mkdir("ddddd", dir_fd=fd)
            deeper = os.open("ddddd", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = deeper
        os.close(os.open(tree, os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.close(fd)
    fs.allow_many_descriptors()
    assert run(tmp_path / "t", tmp_path / "t2").moved == 1
    assert not (tmp_path / "t").exists()
    remove(tmp_path / "t2")


names = st.sampled_from(["a", "b", "c", f"a{EARLIER}"])
trees = st.recursive(st.sampled_from(["1", "2", "->x"]), lambda below: st.dictionaries(names, below, max_size=3), max_leaves=9)


def build_tree(path: Path, tree: str | dict[str, object]) -> None:
    """Make what a strategy drew."""
    if isinstance(tree, dict):
        path.mkdir()
        for name, below in tree.items():
            build_tree(path / name, below)  # type: ignore[arg-type]
    elif tree.startswith("->"):
        os.symlink(tree[2:], path)
    else:
        path.write_text(tree)


@settings(max_examples=150, deadline=None)
@given(earlier=st.dictionaries(names, trees, max_size=4), later=st.dictionaries(names, trees, max_size=4))
def test_nothing_is_lost_of_any_two_trees(
    tmp_path_factory: pytest.TempPathFactory, earlier: dict[str, object], later: dict[str, object]
) -> None:
    """The later tree is in the result unchanged, each file of the earlier under its name or beside it, and a repeat is quiet."""
    folder = tmp_path_factory.mktemp("fold")
    one, other = folder / "one", folder / "other"
    build_tree(one, earlier)
    build_tree(other, later)
    had, stood = sorted(data(one).values()), data(other)
    folded = run(one, other)
    found = data(other)
    assert {name: found.get(name) for name in stood} == stood
    assert all(found_values(found).count(value) >= 1 for value in had)
    assert len(found) == len(stood) + len(had) - folded.same
    assert run(one, other) == Folded()
    shutil.rmtree(folder)


def found_values(found: dict[bytes, tuple[int, str]]) -> list[tuple[int, str]]:
    """Return what there is, without names."""
    return list(found.values())


# ---- a crash at every step ------------------------------------------------------------------------------------------


@contextmanager
def quiet_disk() -> Iterator[pytest.MonkeyPatch]:
    """Leave out the syncs, which take nearly all the time: dying does not lose what the kernel has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(fs, "sync_filesystem", lambda _: None)
        yield patch


class Bare(Rig):
    """A rig without a store: `in_child` opens it in the child."""

    def open(self) -> Bare:
        """There is nothing to open."""
        return self


def spoil(folder: Path, act: Callable[[], object], number: int, error: int) -> int:
    """Run `act` in a child whose n-th call that changes a disk is spoilt; return how it ended."""

    def told(_rig: Rig) -> None:
        try:
            act()
        except OSError as failed:
            raise SurvivedError(f"Cannot go on: {failed.strerror}.") from failed

    return in_child(Bare(folder, folder, folder / "source"), told, number, error)


@pytest.mark.parametrize("error", [KILL, *ERRORS], ids=lambda error: errno.errorcode.get(error, "killed"))
def test_a_fold_at_every_step(tmp_path: Path, error: int) -> None:
    """Dead or failed at each call, every file of both trees is there at once, and the same call again ends the rest."""
    with quiet_disk():
        for number in range(1, MOST):
            folder = tmp_path / f"{next(NUMBERS)}"
            folder.mkdir()
            earlier, later = make_pair(folder)
            had, stood = set(data(earlier).values()), data(later)
            ended = spoil(folder, lambda: run(earlier, later), number, error)  # noqa: B023
            here = set(data(later).values()) | (set(data(earlier).values()) if earlier.exists() else set())
            assert had <= here, number
            assert {name: data(later).get(name) for name in stood} == stood, number
            run(earlier, later)
            assert not earlier.exists()
            assert had <= set(data(later).values()), number
            assert {name: data(later).get(name) for name in stood} == stood, number
            assert not (later / f"both/differs{EARLIER}-3").exists()
            shutil.rmtree(folder)
            if ended == FINISHED:
                break
            assert ended == (-signal.SIGKILL if error == KILL else TOLD), number
    assert ended == FINISHED
    assert number > 25


class NoBallast:
    """Nothing to give up."""

    @staticmethod
    def with_room(make: Callable[[], None], _fd: int) -> None:
        """Just do it."""
        make()


BALLAST: object = NoBallast()


def put_back_late(source: str, target: str) -> bool:
    """Put a link back while somebody writes into the stand-in between our look and the exchange."""
    real = fs.exchange

    def late(parent_fd: int, one: str, other: str) -> None:
        fs.exchange = real
        Path(source, "late").write_text("late")
        real(parent_fd, one, other)

    fs.exchange = late
    try:
        return put_back(BALLAST, source, target)  # type: ignore[arg-type]
    finally:
        fs.exchange = real


@pytest.mark.parametrize("error", [KILL, errno.ENOSPC, errno.EIO], ids=lambda error: errno.errorcode.get(error, "killed"))
@pytest.mark.parametrize("way", ["place", "put back", "put back, and a file comes", "link anew"])
def test_a_standin_at_every_step(tmp_path: Path, error: int, way: str) -> None:
    """The path is at every instant our link or a directory with what was written into it; the next try ends it cleanly."""
    with quiet_disk():
        for number in range(1, MOST):
            folder = tmp_path / f"{next(NUMBERS)}"
            folder.mkdir()
            source, target = str(folder / "source"), "/data1/gone"
            act: Callable[[], object]
            if way == "place":
                os.symlink(target, source)
                act = lambda: place(BALLAST, source, target)  # type: ignore[arg-type]  # noqa: B023, E731
            elif way == "link anew":
                act = lambda: link_anew(BALLAST, source, target)  # type: ignore[arg-type]  # noqa: B023, E731
            else:
                os.mkdir(source)
                act = lambda: put_back(BALLAST, source, target)  # type: ignore[arg-type]  # noqa: B023, E731
                if "comes" in way:
                    act = lambda: put_back_late(source, target)  # noqa: B023, E731
            ended = spoil(folder, act, number, error)
            is_link, is_folder = os.path.islink(source), os.path.isdir(source)
            assert is_link or is_folder or way == "link anew", number
            assert not is_link or os.readlink(source) == target
            if way == "place" and is_folder:
                assert (os.stat(source).st_mode & 0o777, os.listdir(source)) == (0o700, [])
            came = [path.read_text() for path in folder.rglob("late")]
            tidy(source, target)
            if came:
                assert Path(source, "late").read_text() == "late", number
                assert not os.path.islink(source)
            assert os.listdir(folder) in ([], ["source"]), number
            if not came and is_link == (way == "place"):
                assert act() is not True or os.readlink(source) == target
            assert os.listdir(folder) == ["source"], number
            shutil.rmtree(folder)
            if ended == FINISHED:
                break
            assert ended == (-signal.SIGKILL if error == KILL else TOLD), number
    assert ended == FINISHED
    assert number > 3


def test_a_file_that_comes_in_the_last_moment(tmp_path: Path) -> None:
    """Written into the stand-in between our look and the exchange, it stands at the path afterwards, and the stand-in stays."""
    source = tmp_path / "source"
    source.mkdir()
    assert put_back_late(str(source), "/data1/gone") is False
    assert (source / "late").read_text() == "late"
    assert os.listdir(tmp_path) == ["source"]


def test_a_link_that_was_replaced_in_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user put in the place of our link meanwhile stands there again, and no stand-in is made."""
    source, real = tmp_path / "source", fs.exchange
    os.symlink("/data1/gone", source)

    def late(parent_fd: int, one: str, other: str) -> None:
        monkeypatch.setattr(fs, "exchange", real)
        source.unlink()
        source.write_text("theirs")
        real(parent_fd, one, other)

    monkeypatch.setattr(fs, "exchange", late)
    with pytest.raises(Refused, match="was replaced"):
        place(BALLAST, str(source), "/data1/gone")  # type: ignore[arg-type]
    assert source.read_text() == "theirs"
    assert os.listdir(tmp_path) == ["source"]


def test_a_link_anew_replaces_nothing(tmp_path: Path) -> None:
    """Whatever stands at the path by then stays."""
    source = tmp_path / "source"
    source.write_text(random.Random(1).randbytes(9).hex())
    with pytest.raises(FileExistsError):
        link_anew(BALLAST, str(source), "/data1/gone")  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == ["source"]
    assert source.is_file()
