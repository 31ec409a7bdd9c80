"""Measuring by two processes: the same answer as by one, and an answer whatever happens to the other."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from survived.errors import Stopped
from survived.observe import parallel
from survived.observe.tree import measure_tree

REPOSITORY = str(Path(__file__).resolve().parents[2])


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """Make a lopsided tree of 900 folders with links across them and outside."""
    made = tmp_path / "tree"
    choose = random.Random(5)
    folders = [made]
    made.mkdir()
    for number in range(900):
        folder = choose.choice(folders[-40:]) / f"ü{number}"
        folder.mkdir()
        folders.append(folder)
        for file in range(choose.randrange(9)):
            (folder / f"{file}").write_bytes(b"x" * choose.randrange(30_000))
        if number % 5 == 0:
            (folder / "l").write_bytes(b"x" * 9000)
            os.link(folder / "l", choose.choice(folders) / f"in the tree {number}")
            if number % 2:
                os.link(folder / "l", tmp_path / f"outside {number}")
    return made


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Have the child started at once; return those that were."""
    monkeypatch.setattr(parallel, "WORTH_ENTRIES", 1)
    children: list[subprocess.Popen[bytes]] = []
    real = parallel.subprocess.Popen

    def noted(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
        children.append(real(*arguments, **options))  # type: ignore[call-overload]
        return children[-1]

    monkeypatch.setattr(parallel.subprocess, "Popen", noted)
    return children


def test_two_say_what_one_says(top: Path, begun: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch) -> None:
    """All sums are equal, links across the two as well, and the child has counted some of it."""
    shares: list[int] = []
    home = parallel.Helper.bring_home

    def noted(helper: parallel.Helper) -> None:
        own = helper._walk.tally.directories
        home(helper)
        shares.append(helper._walk.tally.directories - own)

    monkeypatch.setattr(parallel.Helper, "bring_home", noted)
    alone = measure_tree(str(top), alone=True)
    for _ in range(5):
        # A tree as small as this may be done before the child is there; who begins alone then waits for it.
        monkeypatch.setattr(parallel.Helper, "_start", started_and_waited_for(parallel.Helper._start))
        assert measure_tree(str(top)) == alone

    assert len(begun) == 5
    assert all(0 < share < 901 for share in shares)
    assert all(child.returncode is not None for child in begun)
    assert alone.reclaimable_bytes < alone.size_bytes


def started_and_waited_for(start: object) -> object:
    """Return a `_start` that ends when the child has asked for work."""

    def both(helper: parallel.Helper) -> None:
        start(helper)  # type: ignore[operator]
        if helper.channel is not None:
            helper.channel.is_readable(30.0)

    return both


@pytest.mark.parametrize("script", ["import sys; sys.exit(3)", "raise SystemExit", "import os; os.kill(os.getpid(), 9)"])
def test_a_child_that_dies_at_once(
    top: Path, begun: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    """What it leaves undone is done alone."""
    monkeypatch.setattr(parallel, "_SCRIPT", script)

    assert measure_tree(str(top)) == measure_tree(str(top), alone=True)
    assert len(begun) == 1


def test_a_child_that_dies_with_work(top: Path, begun: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories that it was given and never counted are counted all the same."""
    give = parallel.Helper.give

    def deadly(helper: parallel.Helper, todo: list[tuple[str, int]]) -> None:
        give(helper, todo)
        begun[0].kill()

    monkeypatch.setattr(parallel.Helper, "_start", started_and_waited_for(parallel.Helper._start))
    monkeypatch.setattr(parallel.Helper, "give", deadly)

    assert measure_tree(str(top)) == measure_tree(str(top), alone=True)
    assert begun[0].returncode == -9


def test_an_interpreter_that_may_not_be_run(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no second process can be started one does it."""
    monkeypatch.setattr(parallel, "WORTH_ENTRIES", 1)
    monkeypatch.setattr(parallel.sys, "executable", "/nowhere/python")

    assert measure_tree(str(top)) == measure_tree(str(top), alone=True)


def test_stop_ends_both(top: Path, begun: list[subprocess.Popen[bytes]]) -> None:
    """Stopped leaves neither a child nor a descriptor."""
    before = len(os.listdir("/proc/self/fd"))

    with pytest.raises(Stopped):
        measure_tree(str(top), stop=lambda: bool(begun))

    assert [child.poll() is not None for child in begun] == [True]
    assert before == len(os.listdir("/proc/self/fd"))


def test_a_child_does_not_outlive_us(top: Path) -> None:
    """When we are killed the child reads the end of its socket."""
    script = f"""
import os, signal, sys
from survived.observe import parallel
from survived.observe.tree import measure_tree
parallel.WORTH_ENTRIES = 1
def give(helper, todo):
    print(helper._child.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
start = parallel.Helper._start
def started(helper):
    start(helper)
    helper.channel.is_readable(30.0)
parallel.Helper._start, parallel.Helper.give = started, give
measure_tree({str(top)!r})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    child = int(done.stdout)

    assert done.returncode == -9, done.stderr
    for _ in range(300):
        try:
            if Path(f"/proc/{child}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z":
                break
        except FileNotFoundError:
            break
        parallel.select.select([], [], [], 0.1)
    else:
        pytest.fail("the child is still there")


def test_a_very_wide_directory_is_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sub-directories beyond what is kept as a list are packed, and all of them are walked, by one and by two."""
    monkeypatch.setattr("survived.observe.walk.MOST_LOOSE", 500)
    for number in range(4000):
        (tmp_path / f"d\n{number}").mkdir()
    alone = measure_tree(str(tmp_path), alone=True)
    monkeypatch.setattr(parallel, "WORTH_ENTRIES", 1)
    monkeypatch.setattr(parallel.Helper, "_start", started_and_waited_for(parallel.Helper._start))

    assert alone.directories == 4001
    assert measure_tree(str(tmp_path)) == alone


MEMORY = """
import os, sys, time
from survived.observe import parallel
from survived.observe.tree import measure_tree
def peak(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
children = [0]
home = parallel.Helper.bring_home
def noted(helper):
    home(helper)
    if helper._child is not None:
        children.append(peak(helper._child.pid))
parallel.Helper.bring_home = noted
before = peak("self")
found = measure_tree(sys.argv[1])
print(peak("self") - before, max(children), found.files)
"""


def test_memory_is_bounded(tmp_path: Path) -> None:
    """A name of an inode with a link elsewhere, the dearest entry, takes 16 bytes and something: 40 MiB hold a million."""
    names, folders = 40_000, 200
    for folder in range(0, folders, 2):
        (tmp_path / f"{folder}").mkdir()
        (tmp_path / f"{folder + 1}").mkdir()
        for number in range(names // folders):
            os.close(os.open(tmp_path / f"{folder}" / f"{number}", os.O_CREAT | os.O_WRONLY))
            os.link(tmp_path / f"{folder}" / f"{number}", tmp_path / f"{folder + 1}" / f"{number}")

    done = subprocess.run([sys.executable, "-c", MEMORY, tmp_path], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    own, child, files = map(int, done.stdout.split())

    assert files == names
    # 2 MiB for what is imported and buffered once, and 40 bytes for each name. As a dict of ints it was over 200.
    assert own < 2048 + names * 40 / 1024
    assert child < 14 * 1024 + names * 40 / 1024


def test_the_unreadable_and_the_foreign_come_home() -> None:
    """Examples that only the child has met reach the result, with names of any bytes."""
    from survived.observe.tally import Tally

    one, other = Tally(), Tally()
    other.foreign, other.blocks, other.newest = "/x/caf\udce9", 7, 3.5
    one.unreadable, one.blocks, one.newest = "/y", 1, 2.5
    one.merge(other.pack())

    assert (one.foreign, one.unreadable, one.mount_below) == ("/x/caf\udce9", "/y", None)
    assert (one.blocks, one.newest) == (8, 3.5)
