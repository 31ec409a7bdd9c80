"""Repeated passes: what changed since, openly or in hiding, is found and followed."""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from survived.observe.disks import read_filesystem
from tests.unit.engine import child, contents
from tests.unit.pairs import Pair

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_change_that_hides_is_found(pair: Pair) -> None:
    """A change of the same size whose mtime was put back is found by the ctime."""
    file = pair.source / "f"
    file.write_text("one")
    info = file.stat()
    pair.settle()
    file.write_text("two")
    os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert pair.run().copied == 1
    assert (pair.copy / "f").read_text() == "two"


def test_a_change_in_the_tick_of_the_copy_is_found(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that changed in the same tick of a coarse clock in which it was copied is copied again: its ctime would not tell."""
    file = pair.source / "f"
    file.write_text("one")
    info = file.stat()
    monkeypatch.setattr(time, "time_ns", lambda: info.st_ctime_ns + 1_000_000)
    pair.run()
    monkeypatch.undo()
    (pair.copy / "f").write_text("old")  # what the copy would have if the change came right after it
    os.utime(pair.copy / "f", ns=(info.st_atime_ns, info.st_mtime_ns))
    assert pair.run().copied >= 1
    assert (pair.copy / "f").read_text() == "one"


def test_a_write_through_a_mapping_is_found(pair: Pair) -> None:
    """A second write to a page that is mapped and dirty already is found, though only the first one sets the ctime."""
    (pair.source / "f").write_bytes(b"0" * 4096)
    if read_filesystem(str(pair.source)).fstype not in {"ext4", "xfs", "btrfs"}:
        pytest.skip("needs a source on a filesystem that tracks writes through mappings")
    with open(pair.source / "f", "r+b") as file:
        page = mmap.mmap(file.fileno(), 4096)
    with child(lambda: page.__setitem__(slice(0, 5), b"first"), lambda: page.__setitem__(slice(0, 5), b"later")) as step:
        page.close()
        pair.run()
        step()
    pair.settle()
    assert (pair.copy / "f").read_bytes()[:5] == b"later"


def _file_to_directory(root: Path) -> None:
    (root / "a").unlink()
    (root / "a").mkdir()
    (root / "a/below").write_text("x")


def _directory_to_link(root: Path) -> None:
    shutil.rmtree(root / "d")
    os.symlink("a", root / "d")


def _link_to_file(root: Path) -> None:
    (root / "s").unlink()
    (root / "s").write_text("a file now")


def _break_link(root: Path) -> None:
    (root / "one").unlink()
    (root / "one").write_text("alone")


CHANGES: dict[str, Callable[[Path], object]] = {
    "deletion": lambda root: (root / "a").unlink(),
    "deletion of a directory": lambda root: shutil.rmtree(root / "d"),
    "file to directory": _file_to_directory,
    "directory to link": _directory_to_link,
    "link to file": _link_to_file,
    "rename": lambda root: (root / "a").rename(root / "d/e/renamed"),
    "rename of a directory": lambda root: (root / "d").rename(root / "moved"),
    "names swapped": lambda root: [(root / one).rename(root / other) for one, other in ("at", "ba", "tb")],
    "hard link added": lambda root: os.link(root / "a", root / "d/another"),
    "hard link removed": lambda root: (root / "one").unlink(),
    "hard link broken": _break_link,
    "mode": lambda root: (root / "a").chmod(0o4711),
    "mode of a directory": lambda root: (root / "d").chmod(0o555),
    "attribute": lambda root: os.setxattr(root / "a", "user.x", b"1"),
    "attribute of the root": lambda root: os.setxattr(root, "user.x", b"1"),
    "growth": lambda root: (root / "a").write_text("much longer than before"),
    "a hole is punched": lambda root: os.truncate(root / "a", 1 << 20),
    "all gone": lambda root: subprocess.run(["find", root, "-mindepth", "1", "-delete"], check=True),
}


def make_changeable(root: Path) -> None:
    """Make the little tree that the changes are about."""
    (root / "d/e").mkdir(parents=True)
    for name in ("a", "b", "d/f", "d/e/g", "one"):
        (root / name).write_text(name)
    os.link(root / "one", root / "two")
    os.symlink("a", root / "s")


@pytest.mark.parametrize("change", CHANGES)
def test_changes_between_passes_are_followed(pair: Pair, change: str) -> None:
    """Whatever changed since the last pass is brought over by the next ones."""
    make_changeable(pair.source)
    pair.run()
    CHANGES[change](pair.source)
    assert pair.run().copied + pair.run().copied > 0 or change.endswith("root")
    pair.check()


def test_a_source_that_vanishes_midway(pair: Pair) -> None:
    """Entries that vanish, or become something else, while a pass runs do no harm; a later pass has the truth."""
    for number in range(40):
        (pair.source / f"{number:02}").mkdir()
        (pair.source / f"{number:02}/f").write_text("x")
        (pair.source / f"f{number:02}").write_text("y")
    seen = 0

    def disturb(_size: int, _entries: int) -> None:
        nonlocal seen
        seen += 1
        if seen == 20:
            for name in sorted(os.listdir(pair.source))[5:60]:
                path = pair.source / name
                if path.is_dir():
                    shutil.rmtree(path)
                    path.write_text("was a directory")
                else:
                    path.unlink()
                    path.mkdir()

    pair.run(disturb)
    pair.check()
    assert len(contents(pair.copy)) > 40
