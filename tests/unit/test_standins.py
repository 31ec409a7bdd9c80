"""Stand-ins and orphans with a whole machine: what a person may ask for, and a death at every step of it."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import signal
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from survived import errands, orphans, standins
from survived.act import fs, passes, recover, transfer
from survived.act.task import Task
from survived.errors import Refused, SurvivedError, UsageError
from survived.machine import Machine
from survived.model import LinkState, Reason
from survived.settings.config import load_settings
from survived.settings.paths import resolve_paths
from tests.unit.engine import Rig, contents, other_filesystem
from tests.unit.sabotage import FINISHED, KILL, TOLD, in_child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST = 600
NUMBERS = itertools.count()


class Place:
    """A home and a data disk that can be away: then its directory has another name, and an empty one is in its place."""

    def __init__(self, home: Path, disk: Path) -> None:
        self.home, self.disk = home, disk
        self.source = home / ".cache/pip"
        config = home / ".config/survived/config.toml"
        for path in (config.parent, self.source.parent, disk, home / "run"):
            path.mkdir(parents=True)
        config.write_text(
            f'[watch]\nfilesystems = ["{home}"]\n[data]\ndisks = ["{disk}"]\nkeep_free = "1 MiB free"\n'
            '[move]\nsettle = "0s"\nballast = "64 KiB"\n'
        )
        config.chmod(0o600)

    def machine(self) -> Machine:
        """Return a machine as a new process has it."""
        env = {"HOME": str(self.home), "XDG_RUNTIME_DIR": str(self.home / "run")}
        paths = resolve_paths(env, str(self.home), os.getuid())
        return Machine(load_settings(None, env, str(self.home)), paths, env, str(self.home), os.getuid())

    @contextmanager
    def opened(self) -> Iterator[Machine]:
        """Yield a machine with its stores open and recovered, as a start leaves it."""
        machine = self.machine()
        try:
            machine.open_stores(machine.read_stores())
            _, puzzles = errands.recover(machine)
            assert puzzles == []
            yield machine
        finally:
            machine.close()

    def relocate(self) -> None:
        """Relocate the source."""
        with self.opened() as machine:
            errands.relocate(machine, errands.find_cache(machine, str(self.source)), task())

    def take_away(self) -> None:
        """Let the disk be away."""
        self.disk.rename(self.disk.with_name("away"))
        self.disk.mkdir()

    def bring_back(self) -> None:
        """Let the disk be back; nothing may have been written meanwhile."""
        self.disk.rmdir()
        self.disk.with_name("away").rename(self.disk)

    def fill(self, text: str, *names: str) -> None:
        """Write files below the source."""
        for name in names:
            path = self.source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def clean(self) -> bool:
        """Tell whether nothing is left that should not be there."""
        beside = [path.name for path in self.source.parent.iterdir() if path != self.source]
        return beside == [] and list((self.disk / "survived/staging").iterdir()) == []

    def keep_sums(self) -> None:
        """Have checksums kept of what is moved from here on."""
        config = self.home / ".config/survived/config.toml"
        config.write_text(config.read_text() + 'verify = "content"\n')

    def sums(self) -> int:
        """Return of how many trees there are checksums."""
        return len(list((self.disk / "survived/sums").glob("*")))


def task() -> Task:
    """Return a task that nobody stops."""
    return Task(threading.Event())


def text_of(place: Place) -> dict[str, str]:
    """Return what the files below the source hold."""
    top = place.source.resolve()
    return {str(path.relative_to(top)): path.read_text() for path in sorted(top.rglob("*")) if path.is_file()}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[], Place]]:
    """Return a function that makes a place; syncs, holders and clock ticks take nearly all the time and are left out."""
    with pytest.MonkeyPatch.context() as patch, other_filesystem(tmp_path) as folder:
        for module in (transfer, recover, orphans, standins):
            for name in ("find_holders", "holders_of"):
                if hasattr(module, name):
                    patch.setattr(module, name, (lambda paths, **_: dict.fromkeys(paths, ())) if name[0] == "f" else lambda *_: ())
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(fs, "sync_filesystem", lambda _: None)
        for module in (passes, transfer):
            if hasattr(module, "TICK_NS"):
                patch.setattr(module, "TICK_NS", 0)

        def fresh() -> Place:
            number = next(NUMBERS)
            return Place(tmp_path / f"home-{number}", folder / f"{number}/alice")

        yield fresh


# ---- what may be asked for ------------------------------------------------------------------------------------------


def test_a_standin_from_begin_to_end(make: Callable[[], Place]) -> None:
    """Made while the disk is away, written into, and merged when it is back; each wrong moment is refused."""
    place = make()
    place.keep_sums()
    place.fill("earlier", "a", "both", "d/x")
    place.relocate()
    with place.opened() as machine, pytest.raises(Refused) as refused:
        standins.place(machine, "pip")
    assert refused.value.reason is Reason.DISK_THERE
    place.take_away()
    machine = place.machine()
    assert [item.source for _, item in machine.relocations()] == [str(place.source)]  # though the journal is away
    assert standins.place(machine, "pip")["path"] == str(place.source)
    assert (place.source.is_symlink(), list(place.source.iterdir())) == (False, [])
    assert [link.is_standin for link in machine.records.links(machine.read_stores())] == [True]
    with pytest.raises(Refused, match="has one already"):
        standins.place(machine, "pip")
    assert "report" in str(next(cache for cache in machine.known_caches() if cache.id == "pip"))
    place.fill("later", "both", "d/y")
    with pytest.raises(Refused) as refused:
        standins.undo(machine, "pip")
    assert refused.value.reason is Reason.NOT_EMPTY
    assert standins.due(machine, machine.read_stores()) == ()
    (standin,) = machine.records.standins()
    with pytest.raises(Refused) as refused:
        standins.merge(machine, standin, task())
    assert (refused.value.reason, machine.records.standins()) == (Reason.NO_STORE, (standin,))

    place.bring_back()
    with place.opened() as machine:
        assert standins.due(machine, machine.read_stores()) == (standin,)
        with pytest.raises(Refused, match="is a stand-in"):
            errands.relocate(machine, errands.find_cache(machine, "pip"), task())
        done = standins.merge(machine, standin, task())
        assert (done["how"], done["moved"], [item["path"] for item in done["kept"]]) == ("merged", 2, ["both"])
        assert text_of(place) == {
            "a": "earlier",
            "both": "later",
            "both.survived-earlier": "earlier",
            "d/x": "earlier",
            "d/y": "later",
        }
        assert (orphans.find(machine), machine.records.standins()) == ((), ())
        assert [item.files for _, item in machine.relocations()] == [5]
    assert (place.clean(), place.sums()) == (True, 1)


def test_an_empty_standin_just_goes(make: Callable[[], Place]) -> None:
    """Undone by hand or when the disk is back, the link leads where it led; nothing is copied."""
    place = make()
    place.fill("x", "a")
    place.relocate()
    place.take_away()
    machine = place.machine()
    before = os.readlink(place.source)
    standins.place_all(machine)
    standins.undo(machine, str(place.source))
    assert (os.readlink(place.source), machine.records.standins()) == (before, ())
    standins.place_all(machine)
    assert standins.place_all(machine) == []
    (standin,) = machine.records.standins()
    place.bring_back()
    with place.opened() as machine:
        assert standins.merge(machine, standin, task())["how"] == "put back"
    assert (os.readlink(place.source), text_of(place)) == (before, {"a": "x"})
    assert place.clean()


def test_a_held_standin_waits(make: Callable[[], Place], monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody uses it nothing is merged and nothing forgotten."""
    place = make()
    place.fill("x", "a")
    place.relocate()
    place.take_away()
    standins.place(place.machine(), "pip")
    place.bring_back()
    with place.opened() as machine:
        (standin,) = machine.records.standins()
        monkeypatch.setattr(standins, "holders_of", lambda _: ("somebody",))
        monkeypatch.setattr(standins, "name_holders", lambda _: "sh (pid 1)")
        assert standins.merge(machine, standin, task()) == {
            "schema": 1, "verb": "merge", "id": "pip", "path": standin.source, "target": standin.target, "how": "held",
            "by": "sh (pid 1)",
        }  # fmt: skip
        assert machine.records.standins() == (standin,)
        with pytest.raises(Refused, match="uses the stand-in"):
            standins.undo(machine, "pip")


def test_what_a_tool_made_in_the_mount_point(make: Callable[[], Place]) -> None:
    """A target made anew on the filesystem we keep free (pip does that) is no tree of ours: the link is missing its disk."""
    place = make()
    place.fill("x", "a")
    place.relocate()
    target = Path(os.readlink(place.source))
    place.take_away()
    place.disk.rmdir()
    (place.home / "point").mkdir()
    place.disk.symlink_to(place.home / "point")
    target.mkdir(parents=True)
    machine = place.machine()
    states = [link for link in machine.records.links(machine.read_stores()) if link.disk_is_there]
    assert states == []
    standins.place(machine, "pip")
    assert not place.source.is_symlink()


def test_orphans_are_told_apart(make: Callable[[], Place]) -> None:
    """Each has its reason; a word that means several is no guess; one that means none is refused."""
    place = make()
    place.fill("one", "a")
    place.relocate()
    shutil.move(os.readlink(place.source), place.disk / "survived/trees/loose")
    (place.disk / "survived/trees/loose").rename(os.readlink(place.source))
    place.source.unlink()
    with place.opened() as machine:
        assert [item.why for item in orphans.find(machine)] == ["gone"]
        place.fill("two", "a")
        assert [item.why for item in orphans.find(machine)] == ["eaten"]
    place.relocate()
    stray = place.disk / "survived/trees/somewhere/stray"
    stray.mkdir(parents=True)
    (stray / "f").write_text("f" * 5000)
    with place.opened() as machine:
        found = {item.why: item for item in orphans.find(machine, measure=True)}
        assert set(found) == {"relocated anew", "unknown"}
        assert (found["unknown"].target, found["unknown"].since) == (str(stray.parent), None)
        assert found["unknown"].size_bytes >= 5000
        place.source.unlink()
        assert len(orphans.find(machine)) == 3
        with pytest.raises(UsageError, match="has 2 trees"):
            orphans.choose(machine, "pip", "remove")
        with pytest.raises(Refused) as refused:
            orphans.choose(machine, "uv-cache", "remove")
        assert refused.value.reason is Reason.NO_ORPHAN
        targets = [item.target for item in orphans.find(machine) if item.cache_id == "pip"]
        assert orphans.link(machine, targets[0], task())["how"] == "made anew"
        assert text_of(place) == {"a": "one"}
        assert [item.target for item in orphans.find(machine) if item.cache_id == "pip"] == targets[1:]
        merged = orphans.link(machine, targets[1], task())
        assert (merged["how"], [item["path"] for item in merged["kept"]]) == ("merged", ["a"])
        assert text_of(place) == {"a": "one", "a.survived-earlier": "two"}
        orphans.remove(machine, [str(stray.parent)], task())
        assert (orphans.find(machine), stray.parent.exists()) == ((), False)
    assert place.clean()


def test_removing_looks_at_all_first(make: Callable[[], Place]) -> None:
    """One word that is wrong keeps all of them; what goes takes its checksums along."""
    place = make()
    place.keep_sums()
    place.fill("one", "a")
    place.relocate()
    target = os.readlink(place.source)
    place.source.unlink()
    with place.opened() as machine:
        with pytest.raises(Refused):
            orphans.remove(machine, [target, "/nonexistent"], task())
        assert (os.path.isdir(target), place.sums()) == (True, 1)
        orphans.remove(machine, [target, target], task())
    assert (os.path.isdir(target), place.sums(), place.clean()) == (False, 0, True)


def test_the_wrong_level_is_refused_only_at_first(make: Callable[[], Place]) -> None:
    """A level that breaks its tool is refused with the right one; the files stay where they are."""
    place = make()
    place.source = place.home / ".cache/uv/archive-v0"
    place.fill("x", "a")
    with pytest.raises(Refused) as refused:
        place.relocate()
    assert refused.value.reason is Reason.WRONG_LEVEL
    assert "survivectl relocate uv-cache" in str(refused.value.hint)
    assert text_of(place) == {"a": "x"}


# ---- a death at every step ------------------------------------------------------------------------------------------


class Bare(Rig):
    """A rig without a store: `in_child` opens it in the child."""

    def open(self) -> Bare:
        """There is nothing to open."""
        return self


def spoilt(place: Place, act: Callable[[Machine], object], number: int, error: int) -> int:
    """Run `act` on an open machine in a child whose n-th change of a disk is spoilt; return how it ended."""

    def work(_rig: Rig) -> None:
        machine = place.machine()
        machine.open_stores(machine.read_stores())
        act(machine)

    return in_child(Bare(place.home, place.disk, place.source), work, number, error)


def eaten(place: Place) -> dict[str, str]:
    """Leave an orphan and a directory in its link's place; return what is to be read in the end."""
    place.fill("earlier", "a", "both", "d/x", "d/deep/y")
    place.relocate()
    place.source.unlink()
    place.fill("later", "both", "d/z")
    return {
        "a": "earlier", "both": "later", "both.survived-earlier": "earlier",
        "d/x": "earlier", "d/deep/y": "earlier", "d/z": "later",
    }  # fmt: skip


def waiting(place: Place, *, empty: bool = False) -> dict[str, str]:
    """Leave a stand-in whose disk is back; return what is to be read in the end."""
    place.fill("earlier", "a", "both", "d/x")
    place.relocate()
    place.take_away()
    standins.place(place.machine(), "pip")
    if not empty:
        place.fill("later", "both", "d/z")
    place.bring_back()
    ours = {"a": "earlier", "both": "earlier", "d/x": "earlier"}
    return ours if empty else {**ours, "both": "later", "both.survived-earlier": "earlier", "d/z": "later"}


def link_again(machine: Machine) -> None:
    """What `survivectl orphans link` does, until there is nothing left to do."""
    for item in orphans.find(machine):
        orphans.link(machine, item.target, task())


def merge_due(machine: Machine) -> None:
    """What the daemon does at a tick."""
    for standin in standins.due(machine, machine.read_stores()):
        standins.merge(machine, standin, task())


STORIES: dict[str, tuple[Callable[[Place], dict[str, str]], Callable[[Machine], None]]] = {
    "orphans link": (eaten, link_again),
    "merge": (waiting, merge_due),
    "merge of an empty one": (lambda place: waiting(place, empty=True), merge_due),
}


@pytest.mark.parametrize(
    ("story", "error"), [*((story, KILL) for story in STORIES), ("orphans link", errno.EIO), ("merge of an empty one", errno.EIO)]
)
def test_at_every_step(make: Callable[[], Place], story: str, error: int) -> None:
    """Dead or failed at each call: nothing is lost at once, and after a start the same again comes to the same end."""
    prepare, act = STORIES[story]
    for number in range(1, MOST):
        place = make()
        wanted = prepare(place)
        ended = spoilt(place, act, number, error)
        with place.opened() as machine:
            act(machine)
            act(machine)
            assert text_of(place) == wanted, number
            assert place.source.is_symlink(), number
            assert (orphans.find(machine), machine.records.standins()) == ((), ()), number
            assert [link for link in machine.records.links(machine.read_stores()) if not link.tree_is_there] == []
        assert place.clean(), number
        shutil.rmtree(place.home)
        shutil.rmtree(place.disk.parent)
        if ended == FINISHED:
            break
        assert ended == (-signal.SIGKILL if error == KILL else TOLD), number
    assert ended == FINISHED
    assert number > 5


@pytest.mark.parametrize("error", [KILL, errno.EIO], ids=["killed", "EIO"])
def test_removing_at_every_step(make: Callable[[], Place], error: int) -> None:
    """An orphan is whole or gone at every instant, and never half a tree; what was in the middle goes at the next start."""
    for number in range(1, MOST):
        place = make()
        place.fill("one", "a", "d/x", "d/y")
        place.relocate()
        target = Path(os.readlink(place.source))
        had = contents(target)
        place.source.unlink()
        ended = spoilt(place, lambda machine: orphans.remove(machine, [str(target)], task()), number, error)  # noqa: B023
        assert not target.exists() or contents(target) == had, number
        with place.opened() as machine:
            for item in orphans.find(machine):
                orphans.remove(machine, [item.target], task())
            assert orphans.find(machine) == ()
        assert place.clean(), number
        assert not target.exists()
        if ended == FINISHED:
            break
    assert ended == FINISHED
    assert number > 5


def test_a_death_while_a_standin_is_made(make: Callable[[], Place]) -> None:
    """The path is the link or an empty directory; with the disk back it is the link again, whatever was recorded by then."""
    for number in range(1, MOST):
        place = make()
        place.fill("one", "a")
        place.relocate()
        place.take_away()
        ended = in_child(Bare(place.home, place.disk, place.source), lambda _: standins.place(place.machine(), "pip"), number, KILL)  # noqa: B023
        assert place.source.is_symlink() or list(place.source.iterdir()) == []
        place.bring_back()
        with place.opened() as machine:
            merge_due(machine)
            assert text_of(place) == {"a": "one"}, number
            assert machine.records.standins() == ()
            assert place.clean(), number
        if ended == FINISHED:
            break
    assert ended == FINISHED
    assert number > 5


def test_the_words_of_states_are_those_of_the_document() -> None:
    """`list --json` and `status --json` say the verdict itself."""
    assert {state.value for state in LinkState} == {"ok", "eaten", "gone", "elsewhere", "dangling", "disk_missing", "standin"}
    assert issubclass(Refused, SurvivedError)
