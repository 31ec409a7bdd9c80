"""A racing neighbour, another uid, on the data disk and at the source: it never makes us touch, follow or give away anything."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from survived.act import fs
from survived.errors import Refused, SurvivedError
from survived.observe.disks import read_filesystem
from survived.observe.neighbours import find_exposed
from survived.store import layout
from tests.rig.attacker import ATTACKER, attacking, replace_by_link, swap
from tests.rig.world import World
from tests.unit.engine import ORDINARY, Entry, Rig, as_ordinary_user, ordinary_folder, remove, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.rig.disks import Disks

pytestmark = pytest.mark.real

SECONDS = 4.0
SECRET = b"alice's own words"


class Yard:
    """A folder that everybody may enter, with alice's home, a data disk on another filesystem, and her things nearby."""

    def __init__(self, folder: Path, disk: Path) -> None:
        self.folder, self.disk = folder, disk
        self.rig = Rig(folder / "home", disk / "alice", folder / "home/.cache/tool")
        self.victims = (folder / "victim", disk / "victim")
        for place in (folder, disk):
            place.chmod(0o755)
        for victim in self.victims:
            (victim / "below").mkdir(parents=True)
            (victim / "keys").write_bytes(SECRET)
            (victim / "keys").chmod(0o640)
            (victim / "below/file").write_bytes(SECRET)
            (victim / "below").chmod(0o555)
            victim.chmod(0o751)
        self.open = self.rig.source / "open"
        self.fill()
        for place in (folder, disk):
            own(place)
        self.before = [snapshot(victim) for victim in self.victims]
        self.content = whole(self.rig.source)

    def fill(self) -> None:
        """Make the source: everybody may write in `open` and in what is in it."""
        for number in range(40):
            for name in ("private", "open/a", "open/ro"):
                path = self.rig.source / name / f"{number % 4}/{number}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"%s %d %s" % (SECRET, number, name.encode()))
        for path in (self.open, *self.open.glob("a/*"), self.open / "a"):
            path.chmod(0o777)
        for path in (*self.open.glob("ro/*"), self.open / "ro"):
            path.chmod(0o555)
        for number, victim in enumerate(self.victims):
            (self.open / f"link{number}").symlink_to(victim)
        self.rig.disk.mkdir(exist_ok=True)

    def strikes(self) -> list[Callable[[], None]]:
        """Return what the attacker does inside: swap folders and files for links to the victims, there and back."""
        inner, links = self.open / "a", [self.open / f"link{number}" for number in range(2)]
        pairs = [(self.open / "ro", links[0]), (inner, links[1]), (inner / "1", links[0]), (self.open / "ro", links[1])]
        return [lambda one=one, other=other: swap(one, other) for one, other in pairs for _ in range(2)]  # type: ignore[misc]

    def check_victims(self) -> None:
        """Assert that nothing of them has changed, not even a mode or a time."""
        assert [snapshot(victim) for victim in self.victims] == self.before


def own(folder: Path) -> None:
    """Give everything to the ordinary user."""
    for place, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            os.chown(os.path.join(place, name), ORDINARY, ORDINARY, follow_symlinks=False)


def whole(tree: Path) -> set[str]:
    """
    Return the contents of all files, no two of which are alike: a neighbour with the right to rename may change their places.

    What is renamed in the moment between our last look and the exchange is kept at both places: nothing tells a rename from a
    removal that we must not repeat, so a file may be there twice, never not at all.
    """
    return {entry.content for entry in snapshot(tree).values() if is_file(entry)}


def is_file(entry: Entry) -> bool:
    """Tell whether an entry is a regular file."""
    return entry.kind == 0o100000


@pytest.fixture
def yard(needs_root_mounts: None) -> Iterator[Yard]:
    """Yield a yard in /tmp and /dev/shm."""
    with ordinary_folder() as folder, ordinary_folder("/dev/shm") as disk:
        yield Yard(folder, disk)


@contextmanager
def opened(rig: Rig) -> Iterator[Rig]:
    """Open the store for a block."""
    rig.open()
    try:
        yield rig
    finally:
        rig.close()


def until(seconds: float, act: Callable[[], object]) -> tuple[int, list[str]]:
    """Act again and again; return how often it went well, and what was said where it did not: one sentence, never a traceback."""
    done, said = 0, []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            act()
            done += 1
        except (Refused, SurvivedError) as error:
            said.append(error.message)
    return done, said


def test_removal(yard: Yard) -> None:
    """A tree in which others may write is removed while they swap its folders for links: what those lead to stays as it is."""

    def work() -> str:
        removed, deadline = 0, time.monotonic() + SECONDS
        with fs.opened(str(yard.folder)) as fd:
            while time.monotonic() < deadline:
                with suppress(OSError):  # a folder that became a link in the middle; the next start removes the rest
                    fs.remove_tree(fd, "home", lambda _: None)
                    removed += 1
                if not yard.rig.source.exists():
                    yard.fill()
        return str(removed)

    with attacking(*yard.strikes()) as strikes:
        said = as_ordinary_user(work)
    print(f"{said} removals, {strikes.count} strikes")
    assert int(said) > 5
    assert strikes.count > 500
    yard.check_victims()


@pytest.mark.parametrize("doomed", ["ro", "ro/1", "a", "a/1", "ro/1/1"])
def test_removal_in_every_gap(tmp_path: Path, doomed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each single call of a removal a folder or file becomes a link: what that leads to stays as it is."""
    victim = tmp_path / "victim"
    (victim / "1").mkdir(parents=True)
    (victim / "1/file").write_bytes(SECRET)
    (victim / "1").chmod(0o555)
    victim.chmod(0o555)
    before, calls = snapshot(victim), ("stat", "open", "chmod", "unlink", "rmdir", "scandir")
    for number in range(1, 500):
        tree, left = tmp_path / f"tree{number}", number
        for name in ("ro/1/1", "a/1/1"):
            (tree / name).parent.mkdir(parents=True)
            (tree / name).write_text("x")
        for path in (tree / "ro/1", tree / "ro"):
            path.chmod(0o555)
        (tmp_path / "link").symlink_to(victim)

        def strike(tree: Path = tree) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                with suppress(OSError):
                    swap(tree / doomed, tmp_path / "link")

        with monkeypatch.context() as patch:
            for call in calls:
                patch.setattr(os, call, _after(strike, getattr(os, call)))
            with fs.opened(str(tmp_path)) as fd, suppress(OSError):
                fs.remove_tree(fd, tree.name, lambda _: None)
        assert snapshot(victim) == before, number
        for path in (tmp_path / "link", tree):
            path.unlink() if path.is_symlink() else remove(path)
        if left > 0:
            break
    assert 20 < number < 499


def _after(first: Callable[[], None], real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        first()
        return real(*arguments, **named)

    return call


def test_moving(yard: Yard) -> None:
    """A source in which others may write is moved and restored while they swap folders for links: it stays whole."""

    def work() -> str:
        with opened(yard.rig) as rig:
            done, said = until(SECONDS, lambda: (rig.restore if rig.source.is_symlink() else rig.relocate)())
        assert all("\n" not in line for line in said)
        return f"{done} moves; {len(said)} refusals, such as: {said[:1]}"

    with attacking(*yard.strikes(), share=0.4) as strikes:
        said = as_ordinary_user(work)
    print(said, strikes.count)
    assert " moves; " in said, said
    assert strikes.count > 500
    yard.check_victims()
    check_after(yard)


def test_a_disk_that_is_swapped(yard: Yard) -> None:
    """Where the disk may be renamed and its owner has allowed it: no data in the attacker's tree, nothing through its links."""
    evil = yard.disk / "evil"
    (evil / "survived/trees").mkdir(parents=True)
    for path in (evil, evil / "survived", evil / "survived/trees"):
        os.chown(path, ATTACKER, ATTACKER)
        path.chmod(0o777)
    (yard.disk / "to-victim").symlink_to(yard.victims[1])
    yard.disk.chmod(0o777)
    alice = yard.rig.disk

    def work() -> str:
        with opened(yard.rig) as rig:
            ready.touch()
            done, said = until(SECONDS, lambda: (rig.restore if rig.source.is_symlink() else rig.relocate)())
        assert all("\n" not in line for line in said)
        return f"{done} moves; {len(said)} refusals, such as: {said[:1]}"

    ready = yard.folder / "home/ready"
    strikes = [lambda: swap(alice, evil)] * 2 + [lambda: swap(alice, yard.disk / "to-victim")] * 2
    strikes.append(lambda: replace_by_link(alice, yard.victims[1], yard.disk / "aside"))

    def strike_when_ready(strike: Callable[[], object]) -> Callable[[], object]:
        def act() -> None:
            if not ready.exists():
                raise FileNotFoundError
            strike()

        return act

    (yard.folder / "home").chmod(0o755)
    with attacking(*map(strike_when_ready, strikes), share=0.4) as struck:
        said = as_ordinary_user(work)
    print(said, struck.count)
    assert " moves; " in said, said
    assert struck.count > 500
    put_back(yard)
    yard.check_victims()
    assert [name for name, entry in snapshot(evil).items() if is_file(entry) and not name.startswith(b"survived/state.db")] == []
    check_after(yard)


def put_back(yard: Yard) -> None:
    """Give the disk and the attacker's own folder their names again; they may have any when the attacker is killed."""
    places = [path.rename(path.with_name(f"{number}")) for number, path in enumerate(yard.disk.iterdir())]
    for path in places:
        if path.is_symlink():
            path.unlink()
        elif path.stat().st_uid == ATTACKER:
            path.rename(yard.disk / "evil")
        else:
            path.rename(yard.rig.disk if (path / "survived").is_dir() else yard.victims[1])


def check_after(yard: Yard) -> None:
    """Assert that after the attack all is there, nothing is left over, and moving works."""

    def work() -> str:
        with opened(yard.rig) as rig:
            _, puzzles = rig.recover()
            assert puzzles == []
            assert rig.leftovers() == []
            assert whole(rig.source) == yard.content
            (rig.restore if rig.source.is_symlink() else rig.relocate)()
            assert whole(rig.source) == yard.content
        return "all well"

    assert as_ordinary_user(work) == "all well"


def test_opening_a_store_that_is_swapped(yard: Yard) -> None:
    """Opening it meanwhile gives the store, or is refused; never another's, and nothing is made in theirs."""
    evil = yard.disk / "evil"
    evil.mkdir()
    evil.chmod(0o777)
    os.chown(evil, ATTACKER, ATTACKER)
    yard.disk.chmod(0o777)

    def work() -> str:
        def act() -> None:
            with suppress(OSError):
                reading = layout.read_store(str(disk), read_filesystem(str(yard.disk)), uid=ORDINARY, avoid=())
                store = layout.open_store(reading, uid=ORDINARY)
                found.add((store.id, os.fstat(store.fd).st_ino))
                store.close()

        disk, found = yard.rig.disk, set[tuple[str, int]]()
        done, _ = until(SECONDS / 2, act)
        return f"{done > 50} {len(found)}"

    with attacking(*[lambda: swap(yard.rig.disk, evil)] * 2) as strikes:
        said = as_ordinary_user(work)
    assert said == "True 1"
    assert strikes.count > 500
    (theirs,) = [path for path in (evil, yard.rig.disk) if path.stat().st_uid == ATTACKER]
    assert list(theirs.iterdir()) == []


def test_a_planted_store(yard: Yard) -> None:
    """A store that another user laid out beforehand is refused, whether it is theirs or leads elsewhere."""
    for plant in ("theirs", "link"):
        path = yard.rig.disk / "survived"
        if plant == "link":
            path.symlink_to(yard.victims[1])
        else:
            path.mkdir()
            os.chown(path, ATTACKER, ATTACKER)
        said = as_ordinary_user(yard.rig.open)
        assert "Nothing was written" in said, said
        assert ("is not a directory" if plant == "link" else f"belongs to another user (uid {ATTACKER})") in said, said
        path.unlink() if plant == "link" else path.rmdir()
    yard.check_victims()


EXPOSED: dict[str, tuple[int, int, int, str | None]] = {  # mode, uid, gid of the folder above
    "shared, sticky": (0o1777, 0, 0, None),
    "ours": (0o755, ORDINARY, ORDINARY, None),
    "root's group": (0o775, 0, 0, None),
    "for all": (0o777, 0, 0, "is writable for everybody without the sticky bit"),
    "for a group": (0o2775, 0, 100, "is writable for its group without the sticky bit"),
    "another's": (0o755, ATTACKER, 0, f"belongs to uid {ATTACKER}"),
    "another's, sticky": (0o1777, ATTACKER, 0, f"belongs to uid {ATTACKER}"),
}


@pytest.mark.parametrize("case", EXPOSED)
def test_who_could_swap_a_folder(yard: Yard, case: str) -> None:
    """Of the folders above a path each counts, by its own name and behind a link."""
    mode, uid, gid, why = EXPOSED[case]
    above = yard.disk / "above"
    (above / "alice").mkdir(parents=True)
    os.chown(above / "alice", ORDINARY, ORDINARY)
    os.chown(above, uid, gid)
    above.chmod(mode)
    link = yard.disk / "link"
    link.symlink_to(above / "alice")
    for path in (above / "alice", link):
        found = find_exposed(str(path), frozenset({ORDINARY}))
        assert found is None if why is None else why in str(found)


def test_an_exposed_disk_is_refused(small_and_data: Disks, tmp_path: Path) -> None:
    """A data disk where everybody may rename is refused with what mends it, and used when its owner allows it."""
    small_and_data.data.path.chmod(0o777)
    with World(small_and_data.small, (small_and_data.data,), tmp_path / "run") as world:
        cache = world.fill(world.cache / "pip", 3)
        answer = world.ctl("relocate", "pip")
        assert answer.rc == 4
        assert "without the sticky bit, so that others can replace what is in it: chmod +t mends that" in answer.err
        assert not cache.is_symlink()
        world.configure(data={"disks": [str(disk) for disk in world.disks], "allow_exposed": True})
        world.must("relocate", "pip")
        assert cache.is_symlink()


def test_an_exposed_source_is_refused(yard: Yard) -> None:
    """A source whose folder others may rename is refused: the path could lead to another tree at any time."""
    yard.rig.source.parent.chmod(0o777)

    def work() -> str:
        with opened(yard.rig) as rig:
            return str(rig.relocate())

    said = as_ordinary_user(work)
    assert "exposed" in said
    assert "is writable for everybody without the sticky bit" in said
    assert whole(yard.rig.source) == yard.content
