"""Measuring trees: against du, and with everything a live home directory has in it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from survived.errors import Stopped
from survived.model import TreeSize
from survived.observe.tree import measure_tree, mount_points_below

REPOSITORY = str(Path(__file__).resolve().parents[2])


def du(path: Path) -> int:
    """Return what `du -s` says, in bytes of allocated blocks."""
    done = subprocess.run(["du", "-s", "-x", "--block-size=1", path], capture_output=True, check=True)
    return int(done.stdout.split()[0])


def fill(path: Path) -> None:
    """Make a small tree with files of several sizes, a link, a fifo and a socket."""
    (path / "a" / "b").mkdir(parents=True)
    for name, size in (("one", 1), ("a/two", 5000), ("a/b/three", 70_000), ("empty", 0)):
        (path / name).write_bytes(b"x" * size)
    (path / "link").symlink_to("/usr")
    (path / "a" / "long link").symlink_to("x" * 200)
    os.mkfifo(path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{os.open(path, os.O_RDONLY)}/socket")


def test_equals_du(tmp_path: Path) -> None:
    """The size is that of du and the root directory itself counts."""
    fill(tmp_path)

    found = measure_tree(str(tmp_path))

    assert du(tmp_path) == found.size_bytes == found.reclaimable_bytes
    assert (found.files, found.directories) == (8, 3)
    assert found.foreign is found.unreadable is found.mount_below is None


def test_empty_directory(tmp_path: Path) -> None:
    """An empty directory is one directory with its own blocks."""
    assert TreeSize(
        size_bytes=du(tmp_path), reclaimable_bytes=du(tmp_path), directories=1, newest_change=tmp_path.stat().st_ctime
    ) == measure_tree(f"{tmp_path}/")


def test_link_inside_counts_once(tmp_path: Path) -> None:
    """An inode with two names in the tree is counted once and all of it comes back."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "one").write_bytes(b"x" * 100_000)
    os.link(tmp_path / "one", tmp_path / "sub" / "two")

    found = measure_tree(str(tmp_path))

    assert du(tmp_path) == found.size_bytes == found.reclaimable_bytes
    assert found.files == 2


def test_link_outside_gives_nothing_back(tmp_path: Path) -> None:
    """An inode with a name outside the tree has a size but frees nothing, however many names are inside."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "one").write_bytes(b"x" * 100_000)
    os.link(tree / "one", tree / "two")
    os.link(tree / "one", tmp_path / "outside")

    found = measure_tree(str(tree))

    assert du(tree) == found.size_bytes
    assert found.size_bytes - (tree / "one").stat().st_blocks * 512 == found.reclaimable_bytes


def test_sparse_file_counts_its_blocks(tmp_path: Path) -> None:
    """A file of 1 GiB that is a hole has the size of its blocks."""
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 30)
        file.write(b"x")

    assert du(tmp_path) == measure_tree(str(tmp_path)).size_bytes < 1 << 20


@pytest.mark.parametrize("name", [b"\xff\xfe", b"new\nline", b" ", b"-rf", b"caf\xe9", "é".encode() * 127, b"\\040"])
def test_names_of_any_bytes(tmp_path: Path, name: bytes) -> None:
    """Directories and files with odd names are counted."""
    place = os.fsencode(tmp_path) + b"/" + name
    os.mkdir(place)
    with open(place + b"/" + name, "wb") as file:
        file.write(b"x" * 10_000)

    found = measure_tree(str(tmp_path))

    assert du(tmp_path) == found.size_bytes
    assert (found.files, found.directories) == (1, 2)


@pytest.mark.parametrize("name", ["d" * 200, "ü" * 120, "x"])
def test_deeper_than_path_max(tmp_path: Path, name: str) -> None:
    """A tree many times deeper than PATH_MAX is walked to its end, and no descriptor stays open."""
    depth = 20_000 // len(os.fsencode(name)) if name != "x" else 3000
    descriptor = os.open(tmp_path, os.O_RDONLY)
    siblings = [f"sibling {number}" for number in range(4)]  # some are walked before `name`, some after it
    for level in range(depth):
        for made in (name, *siblings):
            os.mkdir(made, dir_fd=descriptor)
        if level % 100 == 0:
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
        below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.write(leaf := os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor), b"x" * 9000)
    os.close(leaf)
    os.close(descriptor)
    before = len(os.listdir("/proc/self/fd"))
    try:
        found = measure_tree(str(tmp_path))

        assert (5 * depth + 1, (depth + 99) // 100 + 1) == (found.directories, found.files)
        assert du(tmp_path) == found.size_bytes
        assert before == len(os.listdir("/proc/self/fd"))
    finally:
        subprocess.run(["rm", "-rf", tmp_path / name], check=True)


def test_never_follows_a_link(tmp_path: Path) -> None:
    """A link to a directory is one entry and nothing behind it counts."""
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "file").write_bytes(b"x" * 1_000_000)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to("../big")
    (tmp_path / "tree" / "loop").symlink_to(".")

    found = measure_tree(str(tmp_path / "tree"))

    assert (found.files, found.directories) == (2, 1)
    assert found.size_bytes < 1_000_000


def test_newest_change_sees_all_kinds(tmp_path: Path) -> None:
    """The newest change is the latest ctime of files, links and directories, whatever their mtime says."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    os.utime(tmp_path / "file", (1, 1))
    first = measure_tree(str(tmp_path)).newest_change
    time.sleep(0.02)
    (tmp_path / "sub").chmod(0o700)
    second = measure_tree(str(tmp_path)).newest_change
    time.sleep(0.02)
    os.utime(tmp_path / "file", (2, 2))
    third = measure_tree(str(tmp_path)).newest_change

    assert (tmp_path / "file").stat().st_ctime == third
    assert (tmp_path / "sub").stat().st_ctime == second
    assert first < second < third


def test_future_mtime_is_ignored(tmp_path: Path) -> None:
    """A file unpacked with an mtime in the future does not make its tree look busy for ever."""
    (tmp_path / "file").write_bytes(b"x")
    os.utime(tmp_path / "file", (4e9, 4e9))

    assert measure_tree(str(tmp_path)).newest_change <= time.time()


def test_missing_raises(tmp_path: Path) -> None:
    """A path that is not there raises FileNotFoundError."""
    with pytest.raises(FileNotFoundError):
        measure_tree(str(tmp_path / "none"))


def test_link_and_file_raise(tmp_path: Path) -> None:
    """A path that is a link, also with a slash after it, or a file raises NotADirectoryError."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for path in ("file", "link", "link/"):
        with pytest.raises(NotADirectoryError):
            measure_tree(f"{tmp_path}/{path}")


def test_stop_is_heeded_and_closes(tmp_path: Path) -> None:
    """A true `stop()` ends the walk within a few thousand entries and leaves no descriptor open."""
    for number in range(40):
        (tmp_path / f"d{number}").mkdir()
        for file in range(100):
            (tmp_path / f"d{number}" / str(file)).touch()
    answers = [False, True]  # a third question would be an IndexError
    before = len(os.listdir("/proc/self/fd"))

    with pytest.raises(Stopped):
        measure_tree(str(tmp_path), stop=lambda: answers.pop(0))

    assert answers == []
    assert before == len(os.listdir("/proc/self/fd"))
    assert measure_tree(str(tmp_path), stop=lambda: False).files == 4000


def test_a_tree_that_changes_is_measured(tmp_path: Path) -> None:
    """Files and folders that come and go, and folders replaced by links to elsewhere, raise nothing and lead nowhere."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "big").write_bytes(b"x" * 50_000_000)
    tree = tmp_path / "tree"
    ended = threading.Event()

    def churn() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            place = tree / f"n{number % 20}"
            if place.is_symlink():
                place.unlink()
            elif place.exists():
                shutil.rmtree(place)
                place.symlink_to("../elsewhere")
            else:
                (place / "x" / "y").mkdir(parents=True)
                (place / "x" / "file").touch()

    (tree / "steady").mkdir(parents=True)
    for file in range(2000):
        (tree / "steady" / str(file)).touch()
    thread = threading.Thread(target=churn)
    thread.start()
    try:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            found = measure_tree(str(tree))
            assert 2000 <= found.files <= 2100
            assert found.size_bytes < 50_000_000
            assert found.unreadable is None
    finally:
        ended.set()
        thread.join()


def test_a_parent_that_becomes_a_link_leads_nowhere(tmp_path: Path) -> None:
    """When a folder is replaced by a link between its listing and its sub-folders' turn, nothing behind the link counts."""
    (tmp_path / "elsewhere" / "sub").mkdir(parents=True)
    (tmp_path / "elsewhere" / "sub" / "big").write_bytes(b"x" * 5_000_000)
    moving = tmp_path / "tree" / "moving"
    (moving / "sub").mkdir(parents=True)
    for number in range(1500):
        (moving / str(number)).touch()

    def replace() -> bool:
        if not moving.is_symlink():
            moving.rename(tmp_path / "moved")
            moving.symlink_to(tmp_path / "elsewhere")
        return False

    found = measure_tree(str(tmp_path / "tree"), stop=replace)

    assert moving.is_symlink()
    assert (found.files, found.directories) == (1500, 2)
    assert found.size_bytes < 5_000_000


def measure_as_nobody(path: Path) -> str:
    """Return the repr of the tree's size as user 65534 sees it, or as we do if we are not root."""
    # The rights go after the imports: the interpreter itself may lie where nobody cannot reach it.
    script = f"""
import os
from survived.observe.tree import measure_tree
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
print(measure_tree({str(path)!r}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_unreadable_is_named() -> None:
    """A directory that may not be read or searched is named and itself counted, and the rest is measured."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # not tmp_path: nobody cannot reach that
        root = Path(folder)
        for name in ("closed", "listed", "open"):
            (root / name).mkdir()
            (root / name / "file").write_bytes(b"x" * 10_000)
        if os.geteuid() == 0:
            for place in (root, *root.rglob("*")):
                os.chown(place, 65534, 65534)
        root.chmod(0o755)
        try:
            (root / "closed").chmod(0)
            one = measure_as_nobody(root)
            itself = measure_as_nobody(root / "closed")
            (root / "closed").chmod(0o700)
            (root / "listed").chmod(0o400)
            two = measure_as_nobody(root)
        finally:
            for name in ("closed", "listed"):
                (root / name).chmod(0o700)

    assert f"unreadable='{root}/closed'" in one
    assert "files=2, directories=4" in one
    assert f"unreadable='{root}/closed'" in itself
    assert "files=0, directories=1" in itself
    assert f"unreadable='{root}/listed'" in two
    assert "files=2, directories=4" in two


@pytest.mark.real
def test_foreign_is_named() -> None:
    """An entry of another user is named to an ordinary user and is no matter to root."""
    if os.geteuid() != 0:
        pytest.skip("needs root to give a file away")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        root = Path(folder)
        root.chmod(0o755)
        (root / "sub").mkdir()
        (root / "sub" / "theirs").touch()
        for place in (root, root / "sub"):
            os.chown(place, 65534, 65534)

        assert f"foreign='{root}/sub/theirs'" in measure_as_nobody(root)
        assert measure_tree(folder).foreign is None


def test_mount_points_below_are_relative() -> None:
    """Mount points are found below a path, relative to it, the path itself as an empty name."""
    assert "" in mount_points_below("/proc")
    assert "proc" in mount_points_below("/")
    assert mount_points_below("/nowhere") == frozenset()
