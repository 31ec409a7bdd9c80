"""Who holds a path: real processes with real descriptors, directories and mappings."""

from __future__ import annotations

import mmap
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

import survived
from survived.observe.holders import find_holders, holds_interpreter
from tests.unit.engine import remove

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def process(script: str, *arguments: str | bytes) -> Iterator[int]:
    """Run a Python script that prints a line when it is ready; yield its pid."""
    code = f"import os, sys, time, mmap\n{script}\nprint(flush=True)\ntime.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        child.stdout.readline()
        yield child.pid
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()


def held(path: Path | str) -> set[tuple[int, str, bool]]:
    """Return (pid, path, writes) of the holders."""
    return {(holder.pid, holder.path, holder.writes) for holder in find_holders([str(path)])[str(path)]}


@pytest.mark.parametrize(("mode", "writes"), [("r", False), ("a", True), ("r+", True)])
def test_descriptor(tmp_path: Path, mode: str, writes: bool) -> None:
    """An open file is held, and written to if it is open for that."""
    file = tmp_path / "sub" / "file"
    file.parent.mkdir()
    file.touch()
    with process(f"held = open(sys.argv[1], {mode!r})", str(file)) as pid:
        assert {(pid, str(file), writes)} == held(tmp_path)
        assert {(pid, str(file), writes)} == held(file)
    assert held(tmp_path) == set()


DESCEND = """
os.chdir(sys.argv[1])
for _ in range(30):
    os.mkdir("d" * 200)
    os.chdir("d" * 200)
"""


@pytest.mark.parametrize(("more", "is_exact"), [("", True), ("held = open('file', 'w'); os.chdir('/')", False)])
def test_what_is_too_deep_to_print(tmp_path: Path, more: str, is_exact: bool) -> None:
    """A folder beyond PATH_MAX is held by its own top alone; of a file nobody can tell, so it counts on its device."""
    ours, other = tmp_path / "ours", tmp_path / "other"
    for top in (ours, other):
        top.mkdir()
    try:
        with process(DESCEND + more, str(ours)) as pid:
            assert held(ours) == {(pid, str(ours), bool(more))}
        with process(DESCEND + more, str(other)) as pid:
            assert {holder[0] for holder in held(ours)} == (set() if is_exact else {pid})
            assert {holder[0] for holder in held(other)} == {pid}
    finally:
        remove(tmp_path)


def test_working_directory_and_open_directory(tmp_path: Path) -> None:
    """A working directory and an open directory hold the path itself and what is above, for reading."""
    with process("os.chdir(sys.argv[1])", str(tmp_path)) as pid:
        assert {(pid, str(tmp_path), False)} == held(tmp_path)
    with process("held = os.open(sys.argv[1], os.O_RDONLY)", str(tmp_path)) as pid:
        assert {(pid, str(tmp_path), False)} == held(tmp_path)


def test_program(tmp_path: Path) -> None:
    """A running program is held, and named."""
    program = tmp_path / "a program with a long name"
    shutil.copy("/bin/sleep", program)
    child = subprocess.Popen([program, "60"])
    try:
        until = time.monotonic() + 5
        while not (found := find_holders([str(tmp_path)])[str(tmp_path)]) and time.monotonic() < until:
            time.sleep(0.01)
    finally:
        child.kill()
        child.wait()

    assert {(child.pid, "a program with a long name", str(program))} == {(one.pid, one.name, one.path) for one in found}


@pytest.mark.parametrize(("access", "writes"), [("ACCESS_READ", False), ("ACCESS_COPY", False), ("ACCESS_WRITE", True)])
def test_mapping_without_descriptor(tmp_path: Path, access: str, writes: bool) -> None:
    """A mapped file is held when its descriptor is closed, and written to if the mapping is shared and writable."""
    file = tmp_path / "a\nline" / "two words\nand a line"
    file.parent.mkdir()
    file.write_bytes(b"x" * mmap.PAGESIZE)
    script = f"""
held = open(sys.argv[1], "r+b")
address = mmap.mmap(held.fileno(), 0, access=mmap.{access})
for number in range(3, 64):
    try: os.close(number)
    except OSError: pass
"""
    with process(script, str(file)) as pid:
        assert {(pid, str(file), writes)} == held(file.parent)


def test_deleted_file(tmp_path: Path) -> None:
    """A deleted file that is still open is held under its old name."""
    file = tmp_path / "file"
    file.touch()
    with process("held = open(sys.argv[1], 'w'); os.unlink(sys.argv[1])", str(file)) as pid:
        assert {(pid, str(file), True)} == held(tmp_path)
        assert {(pid, str(file), True)} == held(file)


def test_odd_names(tmp_path: Path) -> None:
    """Names that are not UTF-8 or have newlines are compared and reported as they are."""
    place = os.fsencode(tmp_path) + b"/\xff\n\xfe"
    os.mkdir(place)
    with process("held = open(sys.argv[1] + '/fi\\nle', 'w')", place) as pid:
        assert {(pid, os.fsdecode(place) + "/fi\nle", True)} == held(os.fsdecode(place))


def test_link_and_sibling(tmp_path: Path) -> None:
    """A path given through a link finds the holders of what it leads to; a sibling named alike has none."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real2").mkdir()
    (tmp_path / "link").symlink_to("real")
    with process("held = open(sys.argv[1], 'w')", str(tmp_path / "real" / "file")) as pid:
        assert {(pid, str(tmp_path / "real" / "file"), True)} == held(tmp_path / "link")
        assert held(tmp_path / "real2") == set()


def test_one_walk_for_all(tmp_path: Path) -> None:
    """Each path has its own answer, nested ones both have, and the same file held twice is one holder."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "c").mkdir()
    paths = [str(tmp_path / name) for name in ("a", "a/b", "c")]
    with process("one = open(sys.argv[1], 'w'); two = open(sys.argv[1])", str(tmp_path / "a" / "b" / "f")) as pid:
        found = find_holders(paths)

    assert paths == list(found)
    assert [[pid], [pid], []] == [[holder.pid for holder in found[path]] for path in paths]
    assert found[paths[0]][0].writes
    assert found[paths[0]][0].name.startswith("python")


def test_ignored(tmp_path: Path) -> None:
    """This process is never a holder, and others are not when they are to be ignored."""
    with open(tmp_path / "ours", "w"), process("os.chdir(sys.argv[1])", str(tmp_path)) as pid:
        found = find_holders([str(tmp_path)], ignore_pids=frozenset({pid}))

    assert found == {str(tmp_path): ()}


def test_nothing_asked() -> None:
    """No path, no walk."""
    assert find_holders([]) == {}


@pytest.mark.parametrize("path", [sys.executable, sys.prefix, sys.base_prefix, survived.__path__[0], "/"])
def test_interpreter_is_held(path: str) -> None:
    """Each place that we run from is recognised, and so is everything above it."""
    assert holds_interpreter(path)
    assert holds_interpreter(os.path.dirname(path))


def test_interpreter_through_a_link(tmp_path: Path) -> None:
    """A link to the environment is the environment; an unrelated directory is not, nor one with the same beginning."""
    (tmp_path / "link").symlink_to(sys.prefix)

    assert holds_interpreter(str(tmp_path / "link"))
    assert not holds_interpreter(str(tmp_path))
    assert not holds_interpreter(sys.prefix[:-1])
