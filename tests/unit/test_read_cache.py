"""Reading caches: every state a path can be in, and never an exception."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from survived.errors import Stopped
from survived.model import Cache, CacheState, Kind, TreeSize
from survived.observe.caches import read_cache, read_caches
from survived.observe.tree import measure_tree

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_700_000_000.0


def cache(path: Path | str, name: str = "pip") -> Cache:
    """Return a catalogue entry at `path`."""
    return Cache(id=name, title=name, kind=Kind.CACHE, path=str(path), rule="default")


def make(path: Path, size: int = 50_000) -> Path:
    """Make a directory with one file."""
    path.mkdir(parents=True)
    (path / "file").write_bytes(b"x" * size)
    return path


def test_absent(tmp_path: Path) -> None:
    """A cache that is not there, or whose parent is not even a directory, is absent without an error."""
    (tmp_path / "file").touch()
    for path in ("none", "no/ne", "file/none"):
        found = read_cache(cache(tmp_path / path), NOW, {})

        assert (CacheState.ABSENT, None, None, TreeSize()) == (found.state, found.error, found.device_id, found.size)
        assert found.time == NOW


def test_home(tmp_path: Path) -> None:
    """A directory is at home and measured."""
    make(tmp_path / "pip")

    found = read_cache(cache(tmp_path / "pip"), NOW, {})

    assert (found.state, found.error, found.target) == (CacheState.HOME, None, None)
    assert measure_tree(str(tmp_path / "pip")) == found.size
    assert os.stat(tmp_path).st_dev == found.device_id


@pytest.mark.parametrize("relative", [False, True])
def test_relocated(tmp_path: Path, relative: bool) -> None:
    """A link of ours is measured at its target, which is absolute; a link of somebody else's is not measured."""
    target = make(tmp_path / "data" / "pip")
    (tmp_path / "home").mkdir()
    source = tmp_path / "home" / "pip"
    source.symlink_to("../data/pip" if relative else target)

    ours = read_cache(cache(source), NOW, {str(source): str(target)})
    theirs = read_cache(cache(source), NOW, {})

    assert (CacheState.RELOCATED, str(target), None) == (ours.state, ours.target, ours.error)
    assert measure_tree(str(target)) == ours.size
    assert (CacheState.RELOCATED, str(target), TreeSize()) == (theirs.state, theirs.target, theirs.size)


def test_dangling(tmp_path: Path) -> None:
    """A link to nothing, to a file, or to itself is dangling and says where it points."""
    (tmp_path / "file").touch()
    for name, target in (("one", "none"), ("two", "file"), ("three", "three")):
        (tmp_path / name).symlink_to(target)
        found = read_cache(cache(tmp_path / name), NOW, {})

        assert (CacheState.DANGLING, str(tmp_path / target)) == (found.state, found.target)
        assert (name == "three") == (found.error is not None)  # ELOOP has a sentence of its own


def test_a_file_is_no_cache(tmp_path: Path) -> None:
    """Something else at the path is an error."""
    (tmp_path / "pip").touch()

    assert read_cache(cache(tmp_path / "pip"), NOW, {}).error == "not a directory"


def test_a_mount_point_is_not_touched() -> None:
    """A path that is a mount point is an error and not measured."""
    found = read_cache(cache("/proc"), NOW, {})

    assert found.error == "Cannot measure '/proc': it is a mount point."
    assert TreeSize(mount_below="/proc") == found.size


def test_oserror_is_a_sentence(tmp_path: Path) -> None:
    """What the kernel refuses becomes one sentence and nothing is raised."""
    found = read_cache(cache(tmp_path / ("x" * 300)), NOW, {})

    assert found.error == f"Cannot measure '{tmp_path}/{'x' * 300}': File name too long."


def test_known_size_is_kept(tmp_path: Path) -> None:
    """Without measuring, the known size stays as long as the cache is where it was."""
    source = make(tmp_path / "pip")
    known = read_cache(cache(source), NOW, {})
    (source / "more").write_bytes(b"x" * 50_000)

    again = read_cache(cache(source), NOW + 1, {}, measure=False, known=known)
    source.rename(tmp_path / "data")
    source.symlink_to(tmp_path / "data")
    moved = read_cache(cache(source), NOW + 2, {}, measure=False, known=known)

    assert (known.size, NOW + 1) == (again.size, again.time)
    assert (CacheState.RELOCATED, TreeSize()) == (moved.state, moved.size)
    assert TreeSize() == read_cache(cache(tmp_path / "data"), NOW, {}, measure=False).size


def test_parent_link(tmp_path: Path) -> None:
    """A cache behind a parent that is a link is at home, and measured once for its two names."""
    make(tmp_path / "real" / "pip")
    (tmp_path / "link").symlink_to("real")

    one, two = read_caches([cache(tmp_path / "real" / "pip"), cache(tmp_path / "link" / "pip", "two")], NOW, {})

    assert CacheState.HOME is one.state is two.state
    assert one.size is two.size
    assert os.stat(tmp_path / "real" / "pip").st_dev == two.device_id


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs a second filesystem")
def test_parent_link_to_another_device(tmp_path: Path) -> None:
    """The device of a cache behind a linked parent is that of the real directory."""
    name = f"survived-test-{os.getpid()}"
    (tmp_path / "link").symlink_to("/dev/shm")
    os.mkdir(f"/dev/shm/{name}")
    try:
        found = read_cache(cache(tmp_path / "link" / name), NOW, {})
    finally:
        os.rmdir(f"/dev/shm/{name}")

    assert (CacheState.HOME, os.stat("/dev/shm").st_dev) == (found.state, found.device_id)
    assert os.stat(tmp_path).st_dev != found.device_id


def test_relative_link_behind_a_parent_link(tmp_path: Path) -> None:
    """A relative link is read from where it really lies."""
    target = make(tmp_path / "deep" / "data")
    (tmp_path / "deep" / "real").mkdir()
    (tmp_path / "deep" / "real" / "pip").symlink_to("../data")
    (tmp_path / "link").symlink_to("deep/real")

    assert str(target) == read_cache(cache(tmp_path / "link" / "pip"), NOW, {}).target


def test_holders_are_filled(tmp_path: Path) -> None:
    """All caches are read in order, and those at home have their holders."""
    paths = [make(tmp_path / "one"), tmp_path / "none", make(tmp_path / "two")]
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], cwd=paths[2])
    try:
        found = read_caches([cache(path, path.name) for path in paths], NOW, {})
    finally:
        child.kill()
        child.wait()

    assert [reading.cache.id for reading in found] == ["one", "none", "two"]
    assert [[], [], [child.pid]] == [[holder.pid for holder in reading.holders] for reading in found]


def test_stop_is_passed_on(tmp_path: Path) -> None:
    """Measuring all caches can be stopped."""
    for number in range(1500):
        (tmp_path / str(number)).touch()

    with pytest.raises(Stopped):
        read_caches([cache(tmp_path)], time.time(), {}, stop=lambda: True)
