"""Deleted files that are still open: real processes that hold them, and whom they are told of."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from survived.findings import DeletedOpen
from survived.observe.deleted import command_of, describe, find_deleted
from tests.unit.engine import as_ordinary_user, ordinary_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
HOLD = """
import mmap, os, sys
path, how = sys.argv[1:3]
file = open(path, "r+b")
if "map" in how:
    view = mmap.mmap(file.fileno(), 0)
if how == "map":
    os.closerange(3, 100)  # a map of Python's has a descriptor of its own
print("ready", flush=True)
sys.stdin.readline()
"""


@contextmanager
def holder(path: Path, how: str = "fd", *, script: str = "train.py") -> Iterator[int]:
    """Run `python train.py PATH HOW --password=secret`, which holds the file until the end of the block; yield its pid."""
    program = path.parent / script
    program.write_text(HOLD)
    words = [sys.executable, str(program), str(path), how, "--password=secret"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.communicate(b"\n")


def found(folder: Path) -> list[DeletedOpen]:
    """Return what is deleted and open below a folder."""
    return [item for item in find_deleted([os.stat(folder).st_dev]) if item.path.startswith(f"{folder}/")]


def test_what_a_process_holds_is_found_with_its_name(tmp_path: Path) -> None:
    """The path it had, its blocks, and who has it; while it has a name it is none of these, and afterwards it is gone."""
    path = tmp_path / "model.bin"
    path.write_bytes(os.urandom(3 * MIB))
    with holder(path) as pid:
        assert found(tmp_path) == []
        path.unlink()
        (item,) = found(tmp_path)
        assert (item.pid, item.path, item.also) == (pid, str(path), ())
        assert 3 * MIB <= item.size_bytes <= 3 * MIB + 65536
        assert item.command == f"{os.path.basename(sys.executable)} train.py"
        assert describe(item) == f"held by pid {pid} {item.command}, 3.00 MiB"
        assert find_deleted([os.stat("/proc").st_dev]) == ()
        assert [one for one in find_deleted([os.stat(tmp_path).st_dev], 100 * MIB) if one.pid == pid] == []
    assert found(tmp_path) == []


def test_blocks_count_once_however_many_hold_them(tmp_path: Path) -> None:
    """Two processes, a descriptor and a mapping: one file, of the first pid, and the other beside it. Holes take no room."""
    path = tmp_path / "shared"
    with open(path, "wb") as file:
        file.write(os.urandom(MIB))
        file.truncate(500 * MIB)
    with holder(path, "fd and map") as one, holder(path) as other:
        path.unlink()
        (item,) = found(tmp_path)
    assert (item.pid, item.also) == (min(one, other), (max(one, other),))
    assert item.size_bytes < 2 * MIB
    assert describe(item).endswith(" and 1 more, 1.00 MiB")


def test_a_mapping_is_enough(tmp_path: Path) -> None:
    """A file that is only mapped, its descriptor closed, is found too."""
    path = tmp_path / "mapped"
    path.write_bytes(os.urandom(2 * MIB))
    with holder(path, "map") as pid:
        path.unlink()
        (item,) = found(tmp_path)
    assert (item.pid, item.path) == (pid, str(path))
    assert item.size_bytes == pytest.approx(2 * MIB, rel=0.05)


def test_a_name_that_only_looks_deleted(tmp_path: Path) -> None:
    """A file may be called "x (deleted)"."""
    path = tmp_path / "x (deleted)"
    path.write_bytes(bytes(MIB))
    with holder(path, "fd and map"):
        assert found(tmp_path) == []


def test_ourselves_and_what_is_no_file(tmp_path: Path) -> None:
    """What this process holds, memory files and directories are no business of the disk's."""
    path = tmp_path / "ours"
    path.write_bytes(bytes(MIB))
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0):
        path.unlink()
        assert found(tmp_path) == []
    folder = tmp_path / "folder"
    folder.mkdir()
    with subprocess.Popen(["sleep", "60"], cwd=folder) as process:
        folder.rmdir()
        assert found(tmp_path) == []
        process.kill()


def test_an_ordinary_user_finds_his_own_and_no_error() -> None:
    """What root holds is not his to know; a mapping of his own, whose blocks he may not read, is as big as it is mapped."""
    with ordinary_folder() as folder:
        program = folder / "hold.py"
        program.write_text(HOLD)
        path = folder / "mine"
        path.write_bytes(os.urandom(2 * MIB))
        os.chmod(path, 0o666)

        def look() -> str:
            with subprocess.Popen(
                ["/usr/bin/python3", program, path, "map"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as process:
                assert process.stdout is not None
                process.stdout.readline()
                path.unlink()
                items = [item for item in find_deleted([os.stat(folder).st_dev]) if item.path == str(path)]
                process.communicate(b"\n")
                return str([(item.pid == process.pid, item.size_bytes, item.command) for item in items])

        assert as_ordinary_user(look) == str([(True, 2 * MIB, "python3 hold.py")])


@pytest.mark.parametrize(
    ("cmdline", "shown"),
    [
        (b"/usr/bin/python3\0/home/a/train.py\0--token=x\0", "python3 train.py"),
        (b"python\0-m\0torch.distributed.run\0--token=x\0", "python -m torch.distributed.run"),
        (b"mysql\0-psecret\0", "mysql"),
        (b"", "short"),
        (b"\0\0", "short"),
        (b"/x/" + b"y" * 200 + b"\0", "y" * 59 + "…"),
    ],
)
def test_the_command_without_its_secrets(cmdline: bytes, shown: str, tmp_path: Path) -> None:
    """The program and what it runs, and of further arguments nothing; a process without arguments has its name."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cmdline").write_bytes(cmdline)
    (tmp_path / "7/comm").write_bytes(b"short\n")

    assert command_of(7, proc=str(tmp_path)) == shown
    assert command_of(8, proc=str(tmp_path)) == "?"
