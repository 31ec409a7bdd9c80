"""Hogs: the right level, nothing counted twice, growth from two samples, and the same model in two caches."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
import tracemalloc
import warnings
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from survived.decide.hogs import growers, name_of, sample
from survived.findings import BigFile, Grower, Hog, Sizes
from survived.observe import hogs as observing
from survived.observe.hogs import Scope, look_around
from survived.observe.twins import find_twins
from survived.store import hogs as kept
from survived.store.database import Database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 1 << 20
DAY = 86400


def fill(path: Path, size: int, count: int = 1) -> None:
    """Make `count` files of together `size` bytes in a directory."""
    path.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        with open(path / f"file{number}", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size // count)


def may(*refused: Path, why: str = "no") -> Callable[[str, int], tuple[bool, str | None]]:
    """Return a judge that lets all but these directories stand."""
    names = {str(path) for path in refused}
    return lambda path, _owner: (False, why) if path in names else (True, None)


def look(root: Path, *refused: Path, **changes: object) -> dict[str, Hog]:
    """Return the hogs of at least 1 MiB below a root, where the root itself and `refused` cannot stand, by relative path."""
    values = {"uid": None, "caches": {}, "judge": may(root, *refused), "smallest_bytes": MIB, **changes}
    found = look_around([str(root)], Scope(**values))  # type: ignore[arg-type]
    return {os.path.relpath(name_of(hog), root) + ("/." if hog.is_rest else ""): hog for hog in found.hogs}


def test_a_chain_of_only_children_is_one_hog(tmp_path: Path) -> None:
    """Not each of the parents, but where the bulk lies; beside it what is big by itself, and not what is small."""
    fill(tmp_path / "a/b/c/d/models/one", 2 * MIB)
    fill(tmp_path / "a/b/c/d/models/two", 2 * MIB)
    fill(tmp_path / "a/b/notes", MIB // 4)
    fill(tmp_path / "data", 3 * MIB, 30)
    fill(tmp_path / "small", MIB // 2)

    found = look(tmp_path)

    assert {name: round(hog.size_bytes / MIB) for name, hog in found.items()} == {"a/b/c/d/models": 4, "data": 3}
    assert (found["data"].entries, found["data"].owner, found["data"].why_not) == (31, os.getuid(), None)


def test_where_a_directory_cannot_stand_its_parts_do(tmp_path: Path) -> None:
    """A home is never one hog: its directories are, its big files are, and its many small ones together if they are most of it."""
    home = tmp_path / "home"
    fill(home / "work", 2 * MIB)
    fill(home, 3 * MIB)
    (home / "file0").rename(home / "core.bin")
    fill(home, 8 * MIB, 40)

    found = look(tmp_path, home)

    assert {name: round(hog.size_bytes / MIB) for name, hog in found.items()} == {"home/work": 2, "home/core.bin": 3, "home/.": 8}
    assert not found["home/core.bin"].is_directory
    assert found["home/core.bin"].why_not is not None
    assert (found["home/."].is_rest, found["home/."].why_not) == (True, "no")


def test_sizes_of_hogs_never_overlap(tmp_path: Path) -> None:
    """Together they are not more than what du counts, and each byte of it is in one of them."""
    fill(tmp_path / "x/big", 9 * MIB)
    fill(tmp_path / "x", 4 * MIB)
    fill(tmp_path / "y/1/2/3", 5 * MIB, 50)
    fill(tmp_path / "y/1", 5 * MIB, 50)
    done = subprocess.run(["du", "-s", "--block-size=1", tmp_path], capture_output=True, check=True)

    for refused in ([], [tmp_path / "x"], [tmp_path / "y/1"], [tmp_path / "x", tmp_path / "y", tmp_path / "y/1"]):
        total = sum(hog.size_bytes for hog in look(tmp_path, *refused).values())
        assert 0.98 * int(done.stdout.split()[0]) < total <= int(done.stdout.split()[0])


def test_an_environment_is_a_thing_of_its_own(tmp_path: Path) -> None:
    """Nearly all of it is its site-packages, and yet it is the environment that can be moved."""
    fill(tmp_path / "venv/lib/python3.11/site-packages", 4 * MIB)
    assert set(look(tmp_path)) == {"venv/lib/python3.11/site-packages"}
    (tmp_path / "venv/pyvenv.cfg").touch()
    assert set(look(tmp_path)) == {"venv"}


def test_known_caches_are_accounted_for(tmp_path: Path) -> None:
    """What lies in a known cache makes no hog and is in none; its big files are still looked at for their twins."""
    fill(tmp_path / "cache/hub/x", 4 * MIB)
    fill(tmp_path / "cache/other", 2 * MIB)
    with open(tmp_path / "cache/hub/x/model", "wb") as file:
        file.truncate(observing.BIG_FILE_BYTES)
    scope = Scope(None, {str(tmp_path / "cache/hub"): "hf"}, may(tmp_path), MIB)

    found = look_around([str(tmp_path)], scope)

    assert [(hog.path, round(hog.size_bytes / MIB)) for hog in found.hogs] == [(str(tmp_path / "cache/other"), 2)]
    assert [(file.path, file.place) for file in found.files] == [(str(tmp_path / "cache/hub/x/model"), "hf")]
    assert look_around([str(tmp_path / "cache/hub")], scope).hogs == ()


def test_an_inode_with_two_names_is_shared_between_them(tmp_path: Path) -> None:
    """conda's pkgs and its environments: each has half of what they share, and nothing is there twice."""
    fill(tmp_path / "pkgs", 4 * MIB)
    (tmp_path / "envs").mkdir()
    os.link(tmp_path / "pkgs/file0", tmp_path / "envs/file0")

    assert {name: round(hog.size_bytes / MIB) for name, hog in look(tmp_path).items()} == {"pkgs": 2, "envs": 2}


def test_only_the_biggest_are_kept(tmp_path: Path) -> None:
    """However many there are, the answer has the first so many, in order; and no link leads anywhere."""
    for number in range(12):
        fill(tmp_path / f"d{number:02}", (number + 2) * MIB)
    (tmp_path / "link").symlink_to(tmp_path / "d11")
    found = look_around([str(tmp_path)], Scope(None, {}, may(tmp_path), MIB, most=3))

    assert [os.path.basename(hog.path) for hog in found.hogs] == ["d11", "d10", "d09"]


def test_what_is_somebody_elses(tmp_path: Path) -> None:
    """Only the user's own counts; a directory with a stranger's file in it stays, and its owner is told for root."""
    if os.getuid() != 0:
        pytest.skip("needs root to give files away")
    fill(tmp_path / "mine", 2 * MIB)
    fill(tmp_path / "theirs", 5 * MIB)
    fill(tmp_path / "mixed/deep", 2 * MIB, 2)
    for path in (tmp_path / "theirs", tmp_path / "theirs/file0", tmp_path / "mixed/deep/file1"):
        os.chown(path, 65534, 65534)

    found = look(tmp_path, uid=0)
    assert {name: round(hog.size_bytes / MIB) for name, hog in found.items()} == {"mine": 2, "mixed/deep": 1}
    assert found["mixed/deep"].why_not == f"'{tmp_path}/mixed/deep/file1' in it belongs to somebody else"

    everything = look_around([str(tmp_path)], Scope(None, {}, may(tmp_path), MIB))
    assert (os.path.basename(everything.hogs[0].path), everything.hogs[0].owner) == ("theirs", 65534)
    assert [(uid, round(size / MIB)) for uid, size in everything.owners] == [(65534, 6), (0, 3)]


def test_other_peoples_trees_are_not_searched_to_their_bottom(tmp_path: Path) -> None:
    """A few levels below what we may not write are looked into, for ours may be there; what is ours or writable, always."""
    if os.getuid() != 0:
        pytest.skip("needs root to give files away")
    deep = tmp_path / "1/2/3/4/5"
    fill(deep / "ours", 2 * MIB)
    fill(tmp_path / "1/2/3/ours", 2 * MIB)
    for path in (tmp_path / "1", *(tmp_path / "1/2/3/4/5").parents[:4]):
        os.chown(path, 65534, 65534)
        path.chmod(0o755)
    os.chown(deep, 65534, 65534)

    def ours(**changes: object) -> set[str]:
        return set(look(tmp_path, uid=0, judge=lambda path, owner: (owner == 0 and path != str(tmp_path), None), **changes))

    assert ours() == {"1/2/3/ours"}
    (tmp_path / "1/2/3/4").chmod(0o777)
    assert ours() == {"1/2/3/ours", "1/2/3/4/5/ours"}
    (tmp_path / "1/2/3/4").chmod(0o775)
    assert ours() == {"1/2/3/ours"}
    assert ours(groups=frozenset({65534})) == {"1/2/3/ours", "1/2/3/4/5/ours"}


def test_deep_and_odd_trees(tmp_path: Path) -> None:
    """Deeper than there are descriptors kept, with names that are not UTF-8, fifos and holes."""
    soft = os.path.join(tmp_path, *["d" * 5] * 250)
    os.makedirs(soft)
    with open(os.path.join(soft, "x"), "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 2 * MIB)
    odd = tmp_path / os.fsdecode(b"\xff\xfe")
    fill(odd, 2 * MIB)
    os.mkfifo(odd / "fifo")
    with open(tmp_path / "hole", "wb") as file:
        file.truncate(100 * MIB)
    before = len(os.listdir("/proc/self/fd"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 150, limits[1]))
    try:
        found = look(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert set(found) == {os.path.relpath(soft, tmp_path), os.fsdecode(b"\xff\xfe")}
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    """A root that is not there is the answer's unreadable one, and the others are looked at all the same."""
    fill(tmp_path / "x/y", 2 * MIB)
    found = look_around([str(tmp_path / "none"), str(tmp_path)], Scope(None, {}, may(), MIB))

    assert found.unreadable == str(tmp_path / "none")
    assert len(found.hogs) == 1


def test_memory_does_not_grow_with_the_tree(tmp_path: Path) -> None:
    """Ten times the entries take no more memory: files, directories and hard links alike."""

    def peak(scale: int) -> int:
        root = tmp_path / str(scale)
        for number in range(4 * scale):
            folder = root / f"{number % 7}" / f"{number}"
            folder.mkdir(parents=True)
            for name in range(25):
                (folder / f"{name}").touch()
            os.link(folder / "0", folder / "link")
        scope = Scope(None, {}, may(root), 1, most=10)
        tracemalloc.start()
        try:
            assert look_around([str(root)], scope).entries > 100 * scale
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)
    assert peak(60) < peak(6) + 200_000


def test_memory_does_not_grow_with_the_hogs(tmp_path: Path) -> None:
    """Of thousands that are big enough only the biggest are remembered on the way, too."""
    for number in range(4000):
        (tmp_path / "x" / f"{number}").mkdir(parents=True)
    scope = Scope(None, {}, may(tmp_path, tmp_path / "x"), 1, most=10)
    tracemalloc.start()
    try:
        assert len(look_around([str(tmp_path)], scope).hogs) == 10
        assert tracemalloc.get_traced_memory()[1] < 400_000
    finally:
        tracemalloc.stop()


def test_a_look_that_is_broken_off_leaves_nothing_open(tmp_path: Path) -> None:
    """Ctrl-C in the middle: no descriptor is left, and none is left to the collector to find."""
    fill(tmp_path / "a/b/c", 2 * MIB)
    for number in range(3):
        (tmp_path / f"a/{number}").mkdir()
        (tmp_path / f"a/b/{number}").mkdir()

    def judge(_path: str, _owner: int) -> tuple[bool, str | None]:
        raise KeyboardInterrupt

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ResourceWarning)
        with pytest.raises(KeyboardInterrupt):
            look_around([str(tmp_path)], Scope(None, {}, judge, MIB))
        gc.collect()
    assert told == []


# ---- growth ------------------------------------------------------------------------------------------------------


def test_growth_level_by_level() -> None:
    """A path with itself, a whole with its parts on either side; what is new is counted from what it can have been."""
    before = Sizes(0, {"/a": 10, "/b/1": 5, "/b/2": 5, "/c": 50, "/same": 7, "/less": 9}, smallest_bytes=2)
    after = Sizes(DAY, {"/a": 30, "/b": 25, "/c/1": 30, "/c/2": 60, "/same": 7, "/less": 1, "/new": 9, "/ab": 4})

    assert growers(before, after) == (
        Grower("/c", 50, 90),
        Grower("/a", 10, 30),
        Grower("/b", 10, 25),
        Grower("/new", 2, 9, is_new=True),
        Grower("/ab", 2, 4, is_new=True),
    )
    assert [item.path for item in growers(before, after, 20)] == ["/c", "/a"]


@given(st.dictionaries(st.sampled_from(["/a", "/a/b", "/a/c", "/d", "/d/e/f"]), st.integers(0, 1000)))
def test_what_stays_does_not_grow(sizes: dict[str, int]) -> None:
    """Two equal samples have no grower, and nothing grows by more than it is."""
    assert growers(Sizes(0, sizes), Sizes(1, sizes)) == ()
    for item in growers(Sizes(0, {}, 10), Sizes(1, sizes, 10)):
        assert 0 < item.grown_bytes <= item.size_bytes


def test_a_sample_knows_what_it_does_not_know() -> None:
    """A list that was full says nothing below its last; one that was not knows all above the smallest that counts."""
    hogs = [Hog(f"/{size}", size, 1, 0) for size in (10, 30, 20)] + [Hog("/30", 15, 1, 0, is_rest=True)]

    assert sample(hogs, 5.0, 4) == Sizes(5.0, {"/30": 30, "/20": 20, "/30/.": 15, "/10": 10}, 4)
    assert sample(hogs, 5.0, 4, most=2) == Sizes(5.0, {"/30": 30, "/20": 20}, 20)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """Yield a store's database with our tables."""
    made = Database(str(tmp_path / "state.db"), kept.SCHEMA)
    made.execute("PRAGMA synchronous=OFF")  # ten weeks in a second
    yield made
    made.close()


def test_samples_last_and_are_thinned(database: Database) -> None:
    """One an hour at most; yesterday's is found, of older days the first; after 60 days nothing is left. Any name survives."""
    odd = os.fsdecode(b"/\xff")
    start = 1_800_000_000 // DAY * DAY
    assert kept.before(database, start) is None
    for hour in range(24 * 70):
        sizes = Sizes(start + hour * 3600.0 + 1, {odd: hour, "/x": 1}, 7)
        assert kept.record(database, sizes)
        assert not kept.record(database, Sizes(sizes.time + 60, {}))
    now = start + 24 * 70 * 3600.0

    yesterday = kept.before(database, now - DAY)
    assert yesterday is not None
    assert (yesterday.time, yesterday.smallest_bytes) == (now - DAY - 3599, 7)
    assert yesterday.sizes == {odd: 24 * 69 - 1, "/x": 1}
    last_week = kept.before(database, now - 7 * DAY)
    assert last_week is not None
    assert last_week.time == now - 8 * DAY + 1
    assert kept.before(database, now - 61 * DAY) is None
    ((looks,),) = database.execute("SELECT COUNT(*) FROM hog_looks")
    ((rows,),) = database.execute("SELECT COUNT(*) FROM hogs")
    assert looks < 60 + 49 + 2
    assert rows == 2 * looks


def test_a_store_of_the_format_before_gets_the_tables(tmp_path: Path) -> None:
    """What was made without them is upgraded, and keeps samples."""
    from survived.machine import SCHEMA
    from survived.store.database import VERSION

    path = str(tmp_path / "state.db")
    old = Database(path, [text for text in SCHEMA if text not in kept.SCHEMA])
    for column in ("origin", "content_bytes"):
        old.execute(f"ALTER TABLE operations DROP COLUMN {column}")
    old.execute("PRAGMA user_version=1")
    old.close()
    new = Database(path, SCHEMA)
    assert kept.record(new, Sizes(5.0, {"/x": 1}))
    assert new.execute("PRAGMA user_version") == [(VERSION,)]
    new.close()


# ---- twins -------------------------------------------------------------------------------------------------------


def model(path: Path, place: str, seed: int, *, size: int = 3 * MIB, change: int | None = None) -> BigFile:
    """Make a file whose content is that of a seed, perhaps with one byte changed."""
    content = bytearray(bytes([seed, seed >> 1, 7]) * (size // 3))
    if change is not None:
        content[change] ^= 0xFF
    path.write_bytes(content)
    found = path.stat()
    return BigFile(str(path), found.st_size, found.st_blocks * 512, found.st_dev, found.st_ino, place)


def test_one_model_in_two_caches(tmp_path: Path) -> None:
    """The same content in different places is told with what one copy less would save; within one place it is not."""
    one, other = model(tmp_path / "blob", "hf", 1), model(tmp_path / "model.safetensors", "modelscope", 1)
    third = model(tmp_path / "third", "ollama", 1)
    unlike = model(tmp_path / "unlike", "torch", 2)
    inside = [model(tmp_path / "b1", "hf", 3), model(tmp_path / "b2", "hf", 3)]

    (twins,) = find_twins([one, unlike, other, third, *inside])

    assert {file.place for file in twins.files} == {"hf", "modelscope", "ollama"}
    assert twins.saved_bytes == one.size_bytes + other.size_bytes
    assert not twins.is_verified


def test_samples_see_head_and_tail_and_verify_sees_all(tmp_path: Path) -> None:
    """A change at either end is seen at once; one between the samples only when every byte is read."""
    one = model(tmp_path / "one", "a", 1)
    assert find_twins([one, model(tmp_path / "head", "b", 1, change=0)]) == ()
    assert find_twins([one, model(tmp_path / "tail", "b", 1, change=3 * MIB - 1)]) == ()
    between = model(tmp_path / "between", "b", 1, change=MIB // 5)
    assert len(find_twins([one, between])) == 1
    assert find_twins([one, between], verify=True) == ()
    (same,) = find_twins([one, between, model(tmp_path / "same", "c", 1)], verify=True)
    assert ({file.place for file in same.files}, same.is_verified) == ({"a", "c"}, True)


def test_what_changes_or_saves_nothing_has_no_twin(tmp_path: Path) -> None:
    """A file that was replaced, removed, or made of holes; and one inode of another length never gets opened."""
    one, other = model(tmp_path / "one", "a", 1), model(tmp_path / "other", "b", 1)
    assert len(find_twins([one, other])) == 1
    model(tmp_path / "fresh", "b", 1)
    (tmp_path / "fresh").rename(tmp_path / "other")
    assert find_twins([one, other]) == ()
    (tmp_path / "other").unlink()
    (tmp_path / "other").symlink_to(tmp_path / "one")
    assert find_twins([one, other]) == ()
    holes = []
    for name in ("h1", "h2"):
        with open(tmp_path / name, "wb") as file:
            file.truncate(100 * MIB)
        found = (tmp_path / name).stat()
        holes.append(BigFile(str(tmp_path / name), found.st_size, 0, found.st_dev, found.st_ino, name))
    assert find_twins(holes) == ()


def test_the_biggest_files_are_kept_each_inode_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more than can be remembered the longest stay."""
    monkeypatch.setattr(observing, "_BIG_FILES", 3)
    for number in range(8):
        with open(tmp_path / f"{number}", "wb") as file:
            file.truncate(observing.BIG_FILE_BYTES + number)
    os.link(tmp_path / "7", tmp_path / "again")
    with open(tmp_path / "small", "wb") as file:
        file.truncate(observing.BIG_FILE_BYTES - 1)
    found = look_around([str(tmp_path)], Scope(None, {}, may(), MIB))

    assert [file.length - observing.BIG_FILE_BYTES for file in found.files] == [7, 6, 5]


def test_nothing_heavy_is_loaded() -> None:
    """Looking around needs neither psutil nor pydantic, only what tells mounts."""
    code = "import sys, survived.observe.hogs, survived.observe.deleted; print({'psutil', 'pydantic'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
