"""Measuring by what is known from before: as true as a measurement in full, and quick because it reads next to nothing."""

from __future__ import annotations

import os
import random
import shutil
import struct
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from survived.errors import SurvivedError
from survived.machine import Machine
from survived.model import Holder
from survived.observe import past, tree, walk
from survived.observe.tree import measure_tree
from survived.observe.watch import Watcher
from survived.settings.config import load_settings
from survived.settings.paths import resolve_paths
from survived.store.database import Database
from survived.store.known import SCHEMA, KnownTrees

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from survived.model import Observation, TreeSize


class Reads:
    """Counts the directories that are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        scan = walk.Walk._scan

        def counted(*arguments: object) -> object:
            self.count += 1
            return scan(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(walk.Walk, "_scan", counted)

    def since(self) -> int:
        """Return the count and begin anew."""
        count, self.count = self.count, 0
        return count


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[KnownTrees]:
    """Yield what a store of its own knows."""
    database = Database(str(tmp_path / "state.db"), SCHEMA)
    yield KnownTrees(database)
    database.close()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Count reads; and no file is too young, no tree too small to be remembered."""
    monkeypatch.setattr(walk, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(walk, "_RACY_SECONDS", -1.0)
    monkeypatch.setattr(tree, "_WORTH_KEEPING", 1)
    return Reads(monkeypatch)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """Make 6 folders with 5 folders with 4 files each: 37 directories."""
    made = tmp_path / "tree"
    for number in range(30):
        folder = made / f"é{number // 5}" / f"b{number % 5}"
        folder.mkdir(parents=True)
        for file in range(4):
            (folder / f"file {file}").write_bytes(b"x" * (number * 1000 + file))
    return made


def in_full(top: Path) -> TreeSize:
    """Return what measuring says without knowing anything."""
    return measure_tree(str(top), alone=True)


def test_an_unchanged_tree_is_not_read(keeper: KnownTrees, reads: Reads, top: Path) -> None:
    """The second measurement says the same and opens no directory at all."""
    first = measure_tree(str(top), keeper=keeper)
    assert reads.since() == 37

    assert measure_tree(str(top), keeper=keeper) == first == in_full(top)
    assert reads.since() == 37  # by in_full
    assert measure_tree(str(top), keeper=keeper, in_full=True) == first
    assert reads.since() == 37


def test_only_what_changed_is_read(keeper: KnownTrees, reads: Reads, top: Path) -> None:
    """A new file costs reading its folder, a new branch is read as a whole, and a removed one is not missed."""
    measure_tree(str(top), keeper=keeper)
    reads.since()
    (top / "é3" / "b3" / "new").write_bytes(b"x" * 50_000)
    found = measure_tree(str(top), keeper=keeper)
    assert reads.since() == 1
    assert found == in_full(top)
    reads.since()

    (top / "é1" / "new" / "newer").mkdir(parents=True)
    shutil.rmtree(top / "é2")
    found = measure_tree(str(top), keeper=keeper)
    assert reads.since() == 1 + 2 + 1  # é1, what is new in it, and where é2 was
    assert found == in_full(top)


def test_a_large_file_that_grows_in_place_is_seen(keeper: KnownTrees, reads: Reads, top: Path) -> None:
    """Its folder's times do not change; files above 1 MiB are asked all the same."""
    large = top / "é0" / "b0" / "large"
    large.write_bytes(b"x" * 2_000_000)
    measure_tree(str(top), keeper=keeper)
    reads.since()
    with open(large, "ab") as file:
        file.write(b"x" * 3_000_000)

    found = measure_tree(str(top), keeper=keeper)

    assert reads.since() == 1
    assert found == in_full(top)


def test_a_young_file_that_grows_in_place_is_seen(
    keeper: KnownTrees, reads: Reads, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was changed in the last minute is asked again, however small it is."""
    time.sleep(0.05)
    young = top / "é0" / "b0" / "young"
    young.write_bytes(b"x")
    monkeypatch.setattr(walk, "QUIET_SECONDS", time.time() - young.stat().st_ctime + 0.03)
    measure_tree(str(top), keeper=keeper)
    reads.since()
    with open(young, "ab") as file:
        file.write(b"x" * 100_000)

    found = measure_tree(str(top), keeper=keeper)

    assert reads.since() >= 1
    assert found == in_full(top)


def test_a_quiet_small_file_needs_a_hint_or_the_truth(keeper: KnownTrees, reads: Reads, top: Path) -> None:
    """What the docstring owns up to; a hint about its folder ends it for good, though nothing else tells of the change."""
    before = measure_tree(str(top), keeper=keeper)
    with open(top / "é0" / "b0" / "file 0", "ab") as file:
        file.write(b"x" * 100_000)
    truth = in_full(top)
    reads.since()

    assert measure_tree(str(top), keeper=keeper) == before != truth
    hinted = measure_tree(str(top), keeper=keeper, changed=[str(top / "é0" / "b0"), "/elsewhere"])
    assert (hinted, reads.since()) == (truth, 1)
    assert (measure_tree(str(top), keeper=keeper), reads.since()) == (truth, 0)


def test_the_truth_is_due_after_a_day(keeper: KnownTrees, reads: Reads, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A past older than a day, or from the future, is not used."""
    measure_tree(str(top), keeper=keeper)
    reads.since()
    for shift in (86_401, -10):
        now = time.time() + shift
        with monkeypatch.context() as patched:
            patched.setattr(tree.time, "time", lambda now=now: now)
            measure_tree(str(top), keeper=keeper)
        assert reads.since() == 37
        measure_tree(str(top), keeper=keeper, in_full=True)
        reads.since()


def test_links_made_later_are_not_counted_twice(keeper: KnownTrees, reads: Reads, top: Path) -> None:
    """A file that was known with one name gets a second one elsewhere in the tree, and loses it again."""
    measure_tree(str(top), keeper=keeper)
    os.link(top / "é0" / "b0" / "file 3", top / "é5" / "link")
    assert measure_tree(str(top), keeper=keeper) == in_full(top)
    assert measure_tree(str(top), keeper=keeper) == in_full(top)
    (top / "é5" / "link").unlink()
    assert measure_tree(str(top), keeper=keeper) == in_full(top)
    os.link(top / "é0" / "b0" / "file 3", top.parent / "outside")
    os.utime(top / "é0" / "b0")
    assert measure_tree(str(top), keeper=keeper) == in_full(top)
    shutil.rmtree(top / "é1")
    reads.since()
    found = measure_tree(str(top), keeper=keeper)
    assert reads.since() == 1  # a link elsewhere that is known is no reason for a reading in full
    assert found == in_full(top)


@pytest.mark.parametrize("seed", range(12))
def test_any_change_of_names_is_seen(keeper: KnownTrees, reads: Reads, top: Path, seed: int) -> None:
    """Whatever is made, moved, linked and removed, a quick measurement says what one in full does."""
    assert reads.since() == 0
    choose = random.Random(seed)
    outside = top.parent / "outside"
    outside.mkdir()
    for turn in range(60):
        folders = [folder for folder, _, _ in os.walk(top)]
        files = [os.path.join(folder, name) for folder, _, names in os.walk(top) for name in names]
        folder, name = choose.choice(folders), f"n{turn}"
        match choose.randrange(8):
            case 0 | 1:
                with open(f"{folder}/{name}", "wb") as made:
                    made.write(b"x" * choose.choice((10, 9000, 1_500_000)))
            case 2:
                os.makedirs(f"{folder}/{name}/deep")
            case 3 if files:
                os.link(choose.choice(files), f"{folder}/{name}")
            case 4 if files:
                target, source = choose.choice((folder, str(outside))), choose.choice(files)
                os.rename(source, f"{target}/{name}")
                if target == str(outside):
                    os.link(f"{target}/{name}", f"{folder}/{name}")
            case 5 if files:
                os.unlink(choose.choice(files))
            case 6 if folder != str(top):
                shutil.rmtree(folder)
            case 7 if folder != str(top):
                other = choose.choice([other for other in folders if not f"{other}/".startswith(f"{folder}/")])
                os.rename(folder, f"{other}/{name}")
                if choose.random() < 0.5:
                    os.symlink(f"{other}/{name}", folder)
        if choose.random() < 0.5:
            found = measure_tree(str(top), keeper=keeper, in_full=choose.random() < 0.2)
            truth = in_full(top)
            # A link removed outside is what a quick measurement may miss, and only that.
            assert (found.size_bytes, found.files, found.directories) == (truth.size_bytes, truth.files, truth.directories)
            assert found.reclaimable_bytes == truth.reclaimable_bytes
            assert found.newest_change == truth.newest_change


def test_a_folder_exchanged_for_a_link_to_itself(keeper: KnownTrees, reads: Reads, top: Path) -> None:
    """A folder that moved out of the tree and left a link is a link, though everything below it is as it was known."""
    measure_tree(str(top), keeper=keeper)
    (top / "é4").rename(top.parent / "moved")
    (top / "é4").symlink_to(top.parent / "moved")
    reads.since()

    found = measure_tree(str(top), keeper=keeper)

    assert reads.since() == 1
    assert found == in_full(top)
    assert found.directories == 37 - 6


def test_another_root_is_not_the_known_one(keeper: KnownTrees, reads: Reads, top: Path) -> None:
    """A new tree at an old path has no past."""
    measure_tree(str(top), keeper=keeper)
    top.rename(top.parent / "old")
    (top / "only").mkdir(parents=True)
    reads.since()

    assert measure_tree(str(top), keeper=keeper).directories == 2
    assert reads.since() == 2


@pytest.mark.parametrize("damage", ["index", "chunk", "gone", "closed"])
def test_a_damaged_past_is_no_past(keeper: KnownTrees, reads: Reads, top: Path, damage: str) -> None:
    """Bytes that are none of ours, lost chunks and a database that fails make a measurement slow and never wrong."""
    truth = measure_tree(str(top), keeper=keeper)
    database = keeper._database
    match damage:
        case "index":
            database.execute("UPDATE known_trees SET data=x'0011223344'")
        case "chunk":
            database.execute("UPDATE known_chunks SET data=substr(data, 1, length(data) / 2)")
        case "gone":
            database.execute("DELETE FROM known_chunks")
        case "closed":
            keeper = KnownTrees(Broken())  # type: ignore[arg-type]
    reads.since()

    assert measure_tree(str(top), keeper=keeper) == truth
    assert reads.since() == 37


class Broken:
    """A database whose disk has gone."""

    def execute(self, *_: object) -> list[tuple[object, ...]]:
        """Fail."""
        raise SurvivedError("Cannot write: gone.")

    transaction = execute


def test_too_many_directories_are_forgotten(keeper: KnownTrees, reads: Reads, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the most nothing is kept, not even what was known before."""
    measure_tree(str(top), keeper=keeper)
    monkeypatch.setattr(past, "MOST_DIRECTORIES", 36)
    measure_tree(str(top), keeper=keeper, in_full=True)
    reads.since()

    measure_tree(str(top), keeper=keeper)

    assert reads.since() == 37
    assert keeper._database.execute("SELECT count(*) FROM known_chunks") == [(0,)]


def test_small_trees_are_not_remembered(keeper: KnownTrees, top: Path) -> None:
    """Reading what is known of them would take as long as they do."""
    measure_tree(str(top), keeper=keeper)

    assert keeper.index(str(top)) is None


def test_thin_forgets_what_is_not_measured(keeper: KnownTrees) -> None:
    """A tree whose past is two weeks old goes with its chunks, and a younger one stays."""
    keeper.keep("/old", b"x", {0: b"y"}, anew=True, now=1_000)
    keeper.keep("/new", b"x", {0: b"y"}, anew=True, now=1_000_000)

    keeper.thin(1_000 + 15 * 86_400)

    assert (keeper.index("/old"), keeper.chunk("/old", 0)) == (None, None)
    assert (keeper.index("/new"), keeper.chunk("/new", 0)) == (b"x", b"y")


def test_records_of_odd_names_and_many_chunks(keeper: KnownTrees, reads: Reads, tmp_path: Path) -> None:
    """Names of any bytes come back as they were, from several chunks."""
    top = tmp_path / "odd"
    for number in range(700):
        folder = os.fsencode(top) + b"/%d" % (number // 100) + b"/\xff\xfe\n%d" % number
        os.makedirs(folder)
        with open(folder + b"/caf\xe9", "wb") as file:
            file.truncate(number)
        os.link(folder + b"/caf\xe9", b"%b/outside %d" % (os.fsencode(tmp_path), number))
    first = measure_tree(str(top), keeper=keeper)
    reads.since()

    assert measure_tree(str(top), keeper=keeper) == first == in_full(top)
    assert reads.since() == 708


def test_the_watcher_tells_which_folders_grew(tmp_path: Path) -> None:
    """Growth in place is told by its folder, once, and again when nobody looked; of what overflowed nothing is known."""
    folder = tmp_path / "cache" / "deep"
    folder.mkdir(parents=True)
    (folder / "file").touch()
    watcher = Watcher(100)
    try:
        watcher.watch([str(tmp_path / "cache")])
        assert watcher.take_changed() == frozenset()
        with open(folder / "file", "ab") as file:
            file.write(b"x" * 5000)
        assert watcher.take_changed() == {str(folder)}
        assert watcher.take_changed() == frozenset()
        watcher.give_back(frozenset({"/a"}))
        (tmp_path / "cache" / "new").touch()
        assert watcher.take_changed() == {"/a", str(tmp_path / "cache")}
        watcher._take(struct.pack("iIII", -1, 0x4000, 0, 0))
        assert watcher.take_changed() is None
        watcher.give_back(None)
        assert watcher.take_changed() is None
        assert watcher.take_changed() == frozenset()
    finally:
        watcher.close()


def test_the_machine_measures_by_what_it_knows(tmp_path: Path, reads: Reads, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a store open an unchanged cache is not read again; it is when somebody writes there, or changes went unseen."""
    disk, home = tmp_path / "data", tmp_path / "home"
    for folder in (disk, home / ".config/survived"):
        folder.mkdir(parents=True)
    config = home / ".config/survived/config.toml"
    config.write_text(f'[watch]\nfilesystems = ["{home}"]\n[data]\ndisks = ["{disk}"]\n[caches.mine]\npath = "{top}"\n')
    config.chmod(0o600)
    env = {"HOME": str(home), "XDG_RUNTIME_DIR": str(tmp_path)}
    machine = Machine(load_settings(None, env, str(home)), resolve_paths(env, str(home), os.getuid()), env, str(home), os.getuid())
    database = Database(str(disk / "state.db"), SCHEMA)
    try:
        opened = SimpleNamespace(store=SimpleNamespace(path=str(disk), close=lambda: None), database=database, close=database.close)
        machine.open[str(disk)] = opened  # type: ignore[assignment]
        monkeypatch.setattr(machine, "relocations", tuple)
        first = machine.observe(stores=())
        assert reads.since() >= 37
        second = machine.observe(first, stores=())
        assert reads.since() == 0
        assert size_of(first) == size_of(second) == in_full(top)
        reads.since()

        with open(top / "é0" / "b0" / "file 0", "ab") as file:
            file.write(b"x" * 100_000)
        third = machine.observe(second, stores=(), changed=[str(top / "é0" / "b0")])
        assert (reads.since(), size_of(third)) == (1, in_full(top))
        reads.since()

        machine.observe(third, stores=(), changed=None)
        assert reads.since() >= 37
        holder = Holder(1, "python", str(top), writes=True)
        held = replace(third, caches=tuple(replace(r, holders=(holder,)) if r.cache.id == "mine" else r for r in third.caches))
        machine.observe(held, stores=())
        assert reads.since() == 37
    finally:
        database.close()


def size_of(seen: Observation) -> TreeSize:
    """Return the size of the cache called mine."""
    return next(reading.size for reading in seen.caches if reading.cache.id == "mine")
