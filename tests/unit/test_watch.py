"""The watcher: it wakes when caches grow, stays within its bounds, and survives what inotify does not."""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from survived.observe.watch import Watcher

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = str(Path(__file__).resolve().parents[2])
QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    """Return a watcher with room for 100 watches."""
    found = Watcher(100)
    yield found
    found.close()


def is_ready(watcher: Watcher) -> bool:
    """Return whether the descriptor is readable."""
    return bool(select.select([watcher.fileno()], [], [], 0)[0])


def kernel_watches(watcher: Watcher) -> int:
    """Return how many watches the kernel holds for the descriptor."""
    return Path(f"/proc/self/fdinfo/{watcher.fileno()}").read_text().count("inotify wd:")


def test_growth_wakes(tmp_path: Path, watcher: Watcher) -> None:
    """A new file, a bigger file and a file moved in make the descriptor readable; drain says so once and empties it."""
    (tmp_path / "cache" / "sub").mkdir(parents=True)
    (tmp_path / "old").touch()
    watcher.watch([str(tmp_path / "cache")])

    assert not watcher.drain()
    for grow in (
        (tmp_path / "cache" / "new").touch,
        lambda: (tmp_path / "cache" / "sub" / "new").write_bytes(b"x"),
        lambda: (tmp_path / "cache" / "sub" / "new").write_bytes(b"xx"),
        lambda: (tmp_path / "old").rename(tmp_path / "cache" / "moved"),
    ):
        grow()
        assert is_ready(watcher)
        assert watcher.drain()
        assert not is_ready(watcher)
        assert not watcher.drain()
    assert watcher.degraded is None


def test_shrinking_and_reading_do_not_wake(tmp_path: Path, watcher: Watcher) -> None:
    """Deleting a file or reading it is no growth."""
    (tmp_path / "file").write_bytes(b"x")
    watcher.watch([str(tmp_path)])

    (tmp_path / "file").read_bytes()
    (tmp_path / "file").unlink()

    assert not is_ready(watcher)
    assert not watcher.drain()


def test_one_growing_file_queues_one_event(tmp_path: Path, watcher: Watcher) -> None:
    """A download of a thousand writes does not fill the queue: the kernel merges equal events."""
    with open(tmp_path / "file", "wb", buffering=0) as file:
        watcher.watch([str(tmp_path)])
        file.writelines(b"x" * 100 for _ in range(1000))
        queued = os.read(watcher.fileno(), 1 << 16)

    assert len(queued) <= 64


def test_new_folders_are_taken_up(tmp_path: Path, watcher: Watcher) -> None:
    """Folders made later, even several levels at once or moved in full, are watched after the next drain."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "outside" / "inner").mkdir(parents=True)
    watcher.watch([str(tmp_path / "cache")])

    (tmp_path / "cache" / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "outside").rename(tmp_path / "cache" / "inside")
    assert watcher.drain()
    watcher.drain()
    for place in ("a/b/c", "inside/inner"):
        (tmp_path / "cache" / place / "file").touch()
        assert watcher.drain()
    assert watcher.watches == kernel_watches(watcher) == 6


@pytest.mark.parametrize("name", [b"\xff\xfe", "ü".encode(), b"new\nline", b"two words"])
def test_odd_names(tmp_path: Path, watcher: Watcher, name: bytes) -> None:
    """Folders with names that pyinotify cannot encode are watched too, found or made later."""
    place = os.fsencode(tmp_path) + b"/" + name
    os.mkdir(place)
    watcher.watch([os.fsdecode(place)])
    os.mkdir(place + b"/" + name)
    assert watcher.drain()
    watcher.drain()

    os.close(os.open(place + b"/" + name + b"/file", os.O_CREAT))
    assert watcher.drain()


def test_links_are_not_followed(tmp_path: Path, watcher: Watcher) -> None:
    """What grows behind a link, be it the cache or inside one, does not wake: it grows on another disk."""
    for name in ("data", "inside", "cache"):
        (tmp_path / name).mkdir()
    (tmp_path / "moved").symlink_to("data")
    (tmp_path / "cache" / "link").symlink_to("../inside")
    watcher.watch([str(tmp_path / "moved"), str(tmp_path / "cache")])

    (tmp_path / "data" / "file").touch()
    (tmp_path / "inside" / "file").touch()

    assert not watcher.drain()


def test_missing_cache_is_awaited(tmp_path: Path, watcher: Watcher) -> None:
    """A cache that is not there yet is seen when it comes, whatever else comes beside it."""
    watcher.watch([str(tmp_path / "a" / "b" / "cache")])

    (tmp_path / "other").mkdir()
    (tmp_path / "a").mkdir()
    assert not watcher.drain()
    (tmp_path / "a" / "b").mkdir()
    assert not watcher.drain()
    (tmp_path / "a" / "b" / "cache").mkdir()
    assert watcher.drain()
    (tmp_path / "a" / "b" / "cache" / "file").touch()
    assert watcher.drain()
    assert watcher.watches == kernel_watches(watcher) == 1


def test_asking_again_is_quiet(tmp_path: Path, watcher: Watcher) -> None:
    """Asking again for the same caches makes no events, or the loop would wake itself for ever."""
    (tmp_path / "x" / "y" / "z").mkdir(parents=True)
    (tmp_path / "link").symlink_to("x")
    paths = [str(tmp_path / name) for name in ("one", "two", "three/four", "x", "x/y", "x/y/z", "link", "link/y")]
    for _ in range(3):
        watcher.watch(paths)
        assert not is_ready(watcher)
    assert watcher.watches == kernel_watches(watcher) == 4


def test_replaced_cache_is_watched_anew(tmp_path: Path, watcher: Watcher) -> None:
    """When a cache is replaced by another directory the new one is watched and the old one is not."""
    cache = tmp_path / "cache"
    cache.mkdir()
    watcher.watch([str(cache)])
    cache.rename(tmp_path / "retired")
    cache.mkdir()
    watcher.watch([str(cache)])
    watcher.drain()

    (tmp_path / "retired" / "file").touch()
    assert not watcher.drain()
    (cache / "file").touch()
    assert watcher.drain()


def test_set_is_replaced_without_leaks(tmp_path: Path, watcher: Watcher) -> None:
    """Watches of what is gone or no longer asked for go back to the kernel; nested and doubly named caches stay."""
    for name in ("a/x/y", "b/z", "c"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "alias").symlink_to("a")
    paths = [str(tmp_path / name) for name in ("a", "a/x", "alias/x", "b", "c")]
    for _ in range(20):
        watcher.watch(paths)
        assert watcher.watches == kernel_watches(watcher) == 6
        watcher.watch(paths[2:4])
        assert watcher.watches == kernel_watches(watcher) == 4
        watcher.drain()
    (tmp_path / "a" / "x" / "y" / "file").touch()
    assert watcher.drain()
    (tmp_path / "c" / "file").touch()
    assert not watcher.drain()
    watcher.watch([])
    assert watcher.watches == kernel_watches(watcher) == 0


def test_deleted_folders_give_their_watches_back(tmp_path: Path, watcher: Watcher) -> None:
    """Folders that come and go do not use up the watches."""
    watcher.watch([str(tmp_path)])
    for number in range(300):
        (tmp_path / str(number)).mkdir()
        watcher.drain()
        (tmp_path / str(number)).rmdir()
        watcher.drain()

    assert watcher.watches == kernel_watches(watcher) == 1
    assert watcher.degraded is None


def test_watches_are_shared_fairly(tmp_path: Path) -> None:
    """A huge cache leaves room for small ones, also when they come later, and folders near the root come first."""
    for number in range(300):
        (tmp_path / "huge" / str(number) / "deep").mkdir(parents=True)
    for name in ("small/x/y", "late/x/y"):
        (tmp_path / name).mkdir(parents=True)
    watcher = Watcher(60)
    try:
        watcher.watch([str(tmp_path / "huge"), str(tmp_path / "small")])
        assert watcher.watches == kernel_watches(watcher) == 60
        assert watcher.degraded is not None
        assert "60" in watcher.degraded
        watcher.watch([str(tmp_path / name) for name in ("huge", "small", "late")])
        assert watcher.watches == kernel_watches(watcher) == 60
        watcher.drain()
        for place in ("huge", "small/x/y", "late/x/y"):
            (tmp_path / place / "file").touch()
            assert watcher.drain()
        watcher.watch([str(tmp_path / "late")])
        assert watcher.degraded is None
    finally:
        watcher.close()


def test_close_frees_everything(tmp_path: Path) -> None:
    """After close there is no descriptor, every call is harmless, and no descriptor reaches a child."""
    before = os.listdir("/proc/self/fd")
    watcher = Watcher(10)
    watcher.watch([str(tmp_path)])
    assert not os.get_inheritable(watcher.fileno())
    for _ in range(2):
        watcher.close()
        assert watcher.fileno() == -1
        watcher.watch([str(tmp_path)])
        assert not watcher.drain()
    assert len(before) == len(os.listdir("/proc/self/fd"))


def test_import_is_silent() -> None:
    """Neither the import nor a failure writes anything, even with all warnings on: pyinotify is chatty."""
    script = """
from survived.observe.watch import Watcher
watcher = Watcher(10)
watcher.watch(["/none/such", "/proc/self/mem"])
watcher.close()
"""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", script], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )

    assert (done.stdout, done.stderr) == ("", "")


def test_nested_cache_outlives_the_one_around_it(tmp_path: Path, watcher: Watcher) -> None:
    """A cache whose folders were watched for the cache around it is still watched when that one goes."""
    (tmp_path / "a" / "x" / "y").mkdir(parents=True)
    for names in (["a"], ["a", "a/x"], ["a/x"]):
        watcher.watch([str(tmp_path / name) for name in names])
    watcher.drain()

    (tmp_path / "a" / "x" / "y" / "file").touch()
    assert watcher.drain()
    assert watcher.watches == kernel_watches(watcher) == 2


@pytest.mark.real
def test_queue_overflow(tmp_path: Path, watcher: Watcher) -> None:
    """More events than the queue holds count as growth, and folders that went unseen are found at the next watch."""
    limit = int(QUEUE.read_text())
    if limit > 50_000:
        pytest.skip(f"fs.inotify.max_queued_events is {limit}: too many files to make")
    watcher.watch([str(tmp_path)])
    for number in range(limit + 500):
        os.close(os.open(tmp_path / f"f{number % 5000}-{number // 5000}", os.O_CREAT))
    (tmp_path / "unseen").mkdir()

    assert watcher.drain()
    assert not is_ready(watcher)
    (tmp_path / "unseen" / "file").touch()
    assert not watcher.drain()
    watcher.watch([str(tmp_path)])
    (tmp_path / "unseen" / "more").touch()
    assert watcher.drain()
    assert watcher.watches == kernel_watches(watcher) == 2


def run_limited(limit: str, script: str, *arguments: str) -> str:
    """Run a script in a user namespace where one of inotify's limits is small; return what it prints."""
    code = f"""
import logging, os, sys
logging.basicConfig(format="LOG %(levelname)s %(message)s", stream=sys.stdout)
name, value = {limit!r}.split("=")
with open("/proc/sys/user/" + name, "w") as file:
    file.write(value)
from survived.observe.watch import Watcher
{script}
"""
    command = ["unshare", "-Ur", sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    if done.returncode != 0 and ("unshare" in done.stderr or "/proc/sys/user" in done.stderr):
        pytest.skip(f"no user namespace with limits of its own: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.real
def test_max_user_watches(tmp_path: Path) -> None:
    """When the kernel has no more watches we go on with those we have, share them, say why, and log it once."""
    for name in ("one", "two", "three"):
        for number in range(5):
            (tmp_path / name / str(number)).mkdir(parents=True)
    script = """
watcher = Watcher(1000)
paths = [os.path.join(sys.argv[1], name) for name in ("one", "two", "three")]
watcher.watch(paths[:1])
for _ in range(3):
    watcher.watch(paths)
    watcher.drain()
print(watcher.watches, watcher.degraded)
for path in paths:
    open(path + "/file", "w").close()
    print(watcher.drain())
"""
    said = run_limited("max_inotify_watches=5", script, str(tmp_path)).splitlines()

    assert said == [
        "LOG WARNING Cannot watch all caches: fs.inotify.max_user_watches is reached. We go on with what we have.",
        "5 fs.inotify.max_user_watches is reached; growth is seen by the timer only",
        "True",
        "True",
        "True",
    ]


@pytest.mark.real
def test_max_user_instances(tmp_path: Path) -> None:
    """Without inotify the watcher still constructs, has no descriptor, and says why."""
    script = """
watcher = Watcher(1000)
watcher.watch([sys.argv[1]])
print(watcher.fileno(), watcher.drain(), watcher.degraded)
watcher.close()
"""
    said = run_limited("max_inotify_instances=0", script, str(tmp_path)).splitlines()

    assert said[-1] == "-1 False fs.inotify.max_user_instances is reached; growth is seen by the timer only"
    assert len(said) == 2


def test_a_quiet_day_is_a_quiet_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Missing caches, links and a full set of watches are nothing to log above debug."""
    caplog.set_level(logging.INFO)
    for number in range(20):
        (tmp_path / str(number)).mkdir()
    watcher = Watcher(5)
    watcher.watch([str(tmp_path), str(tmp_path / "none")])
    watcher.close()
    assert caplog.records == []
