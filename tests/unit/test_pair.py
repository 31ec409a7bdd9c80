"""A first pass by two processes is as faithful as one by one, and the second never outlives the first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from survived.act import branches, fs, pair
from survived.act.sharing import SharedCopy
from survived.act.transfer import Care
from survived.errors import Refused, Stopped
from survived.model import Reason, Stage
from tests.unit import engine
from tests.unit.engine import Rig

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """Yield a rig in which every move is shared, however small."""
    monkeypatch.setattr(branches, "WORTH_FILES", 0)
    with engine.build(tmp_path) as made:
        yield made


def fill(source: Path, folders: int = 20, files: int = 40) -> None:
    """Make a tree with hard links across folders, a link, a hole and read-only folders."""
    for folder in range(folders):
        (source / f"d{folder}/sub").mkdir(parents=True)
        for number in range(files):
            (source / f"d{folder}/f{number}").write_bytes(os.urandom(100 + number))
        os.link(source / f"d{folder}/f0", source / f"d{folder}/sub/link")
    for folder in range(1, folders):
        os.link(source / "d0/f1", source / f"d{folder}/same")
    (source / "to").symlink_to("d0/f1")
    with (source / "hole").open("wb") as file:
        file.truncate(1 << 24)
    os.setxattr(source / "d1/f1", "user.a", b"b")
    (source / "d2/sub").chmod(0o555)
    os.utime(source / "d3", ns=(1, 2))


@pytest.mark.usefixtures("cold")
def test_what_two_copy_is_what_one_copies(rig: Rig) -> None:
    """Every file, link group, attribute, mode and time is there, and the way back gives the same."""
    fill(rig.source)
    before = engine.snapshot(rig.source)
    assert rig.relocate().stage is Stage.DONE
    assert engine.snapshot(rig.source) == before
    assert rig.restore().stage is Stage.DONE
    assert engine.snapshot(rig.source) == before
    assert rig.leftovers() == []


def test_together_they_copy_everything(tmp_path: Path) -> None:
    """Neither misses an entry of the top folder because the other listed it: a later pass finds nothing to do."""
    with engine.other_filesystem(tmp_path) as elsewhere:
        source, copy = tmp_path / "source", elsewhere / "copy"
        for folder in (source, copy):
            folder.mkdir()
        for number in range(5000):
            (source / f"{number}").touch()
        (source / "d").mkdir()
        time.sleep(0.025)
        with fs.opened(str(source)) as source_fd, fs.opened(str(copy)) as copy_fd:
            waits = iter([0.5])  # in the middle of its own listing, until the other has begun
            copier = SharedCopy(source_fd, copy_fd, str(source), lambda *_: time.sleep(next(waits, 0.0)))
            found = pair.first_pass(copier, str(source), source_fd, copy_fd, lambda *_: None)
            assert len(found.signatures) == 5002
            assert copier.run_pass().copied == 0


@pytest.fixture(params=[True, False], ids=["cold", "warm"])
def cold(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Have the kernel say that all has to be read from the disk, or nothing."""
    monkeypatch.setattr(pair, "is_cold", lambda *_: request.param)
    return bool(request.param)


@pytest.fixture
def modes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tell by which ways first passes were shared."""
    taken: list[str] = []
    for name in ("run_top", "run_share"):
        real = getattr(SharedCopy, name)

        def call(self: SharedCopy, *arguments: Any, name: str = name, real: Callable[..., Any] = real, **options: Any) -> Any:
            taken.append(name)
            return real(self, *arguments, **options)

        monkeypatch.setattr(SharedCopy, name, call)
    return taken


@pytest.mark.usefixtures("cold")
def test_a_tree_without_hard_links_is_shared_by_branches(rig: Rig, modes: list[str]) -> None:
    """Each branch is one process's, with its own modes and times, and those of the folders above come last."""
    for number in range(60):
        branch = rig.source / f"top{number % 3}/b{number}"
        (branch / "deep/er").mkdir(parents=True)
        for file in range(20):
            (branch / f"deep/er/{file}").write_bytes(os.urandom(50 + file))
        (branch / "f").write_text("f")
        (branch / "deep").chmod(0o555)
        branch.chmod(0o555 if number % 2 else 0o2750)
        os.utime(branch, ns=(number, number))
    (rig.source / "top0/file").write_text("x")
    (rig.source / "top1").chmod(0o500)
    before = engine.snapshot(rig.source)
    assert rig.relocate().stage is Stage.DONE
    assert modes == ["run_top"]
    assert engine.snapshot(rig.source) == before
    assert rig.restore().stage is Stage.DONE
    assert engine.snapshot(rig.source) == before
    assert rig.leftovers() == []


@pytest.mark.parametrize("found", [True, False])
def test_hard_links_that_are_found_or_not(rig: Rig, modes: list[str], monkeypatch: pytest.MonkeyPatch, found: bool) -> None:
    """Names of one inode are one process's work, or, where nobody saw that there are any, left to the next pass."""
    fill(rig.source, folders=40, files=6)
    os.link(rig.source / "to", rig.source / "d5/to", follow_symlinks=False)
    if not found:
        monkeypatch.setattr(pair, "has_links", lambda *_: False)
    before = engine.snapshot(rig.source)
    assert rig.relocate().stage is Stage.DONE
    assert modes == ["run_share" if found else "run_top"]
    assert engine.snapshot(rig.source) == before
    assert rig.leftovers() == []


def test_what_either_refuses_is_refused(rig: Rig) -> None:
    """A file that cannot be kept faithfully is refused whichever process meets it, and nothing is left."""
    fill(rig.source, folders=4)
    before = engine.snapshot(rig.source)
    for number in range(6):  # some fall to the one, some to the other
        path = rig.source / f"x{number}"
        path.write_bytes(b"x")
        if subprocess.run(["chattr", "+i", path], check=False, capture_output=True).returncode != 0:
            pytest.skip("needs root and a filesystem with chattr for the immutable files")
        try:
            with pytest.raises(Refused) as refused:
                rig.relocate()
            assert refused.value.reason is Reason.IMMUTABLE
        finally:
            subprocess.run(["chattr", "-i", path], check=True)
            path.unlink()
    os.utime(rig.source, ns=(before[b""].mtime_ns, before[b""].mtime_ns))
    assert engine.snapshot(rig.source) == before
    assert rig.leftovers() == []


def test_stopping_stops_both(rig: Rig) -> None:
    """When the first is told to stop in mid-copy the second is gone too, and the copy with it."""
    fill(rig.source)
    task = engine.new_task()
    seen: list[int] = []

    class Hasty:
        """A tick that stops the task at the tenth file."""

        def __call__(self, size: int, entries: int) -> None:
            seen.append(entries)
            if len(seen) == 10:
                task.stop.set()
            type(task).tick(task, size, entries)

    task.tick = Hasty()  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        rig.relocate(task=task, care=Care(0.0, 5.0))
    assert rig.leftovers() == []
    assert children_of(os.getpid()) == []


def children_of(pid: int) -> list[int]:
    """Return the living processes that copy for `pid` or were started by it."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                command = Path(f"/proc/{name}/cmdline").read_bytes()
                parent = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            if b"survived.act.child" in command and parent == pid:
                found.append(int(name))
    return found


def test_the_second_dies_with_the_first(tmp_path: Path) -> None:
    """After kill -9 of the first no process goes on copying into what the next start removes."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir()
    copy.mkdir()
    for number in range(300):
        (source / f"f{number}").write_bytes(os.urandom(200_000))
    script = (
        "import os, sys, time\n"
        "from survived.act import pair\n"
        "from survived.act.sharing import SharedCopy\n"
        "s, c = (os.open(p, os.O_RDONLY) for p in sys.argv[1:])\n"
        "tick = lambda *_: time.sleep(0.05)\n"
        "pair.first_pass(SharedCopy(s, c, sys.argv[1], tick), sys.argv[1], s, c, tick)\n"
    )
    root = str(Path(pair.__file__).parents[2])
    first = subprocess.Popen([sys.executable, "-c", script, source, copy], env={**os.environ, "PYTHONPATH": root})
    deadline = time.monotonic() + 20
    while not (second := children_of(first.pid)) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert second
    first.send_signal(signal.SIGKILL)
    first.wait()
    while Path(f"/proc/{second[0]}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{second[0]}").exists()
