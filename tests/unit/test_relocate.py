"""Relocate and restore between two real filesystems: what arrives, what is refused, who is waited for, what is left."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from survived.act import fs, recover
from survived.act import relocate as engine
from survived.act.ballast import Ballast
from survived.act.task import Task
from survived.act.transfer import Care
from survived.errors import Refused, Stopped, SurvivedError
from survived.model import Mark, Operation, Stage, TreeSize, Verb
from tests.unit.engine import Rig, as_ordinary_user, build, child, nasty_tree, new_task, ordinary_folder, remove, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IMPATIENT = Care(settle_seconds=0.0, patience_seconds=0.0)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Yield a rig with a nasty little source."""
    with build(tmp_path) as made:
        nasty_tree(made.source)
        yield made


class HookedTask(Task):
    """A task that calls `hook` when it first enters a phase."""

    def __init__(self, phase: str, hook: Callable[[], object]) -> None:
        super().__init__(new_task().stop)
        self._hooked, self._hook = phase, hook

    def enter(self, phase: str) -> None:
        """Enter a phase."""
        super().enter(phase)
        if phase == self._hooked:
            self._hooked = ""
            self._hook()


def test_relocate_and_restore(rig: Rig) -> None:
    """There and back again: everything is as it was at each step, and nothing else is left anywhere."""
    before = snapshot(rig.source)
    there = rig.relocate()
    assert there.stage is Stage.DONE
    assert os.readlink(rig.source) == there.target == str(rig.target)
    assert snapshot(rig.source) == before
    assert rig.leftovers() == []
    (item,) = rig.ends.journal.relocations()
    assert (item.source, item.target, item.cache_id, item.files) == (str(rig.source), str(rig.target), "tool", 9)
    assert 0 < there.freed_bytes <= there.size_bytes
    back = rig.restore()
    assert back.stage is Stage.DONE
    assert not rig.source.is_symlink()
    assert snapshot(rig.source) == before
    assert rig.leftovers() == []
    assert rig.ends.journal.relocations() == ()
    assert [operation.verb for operation in rig.ends.journal.recent(9)] == [Verb.RESTORE, Verb.RELOCATE]


def test_restore_brings_what_was_added(rig: Rig) -> None:
    """What was written at the new place comes home, too."""
    rig.relocate()
    (rig.source / "later").write_text("written through the link")
    (rig.source / "a").unlink()
    now = snapshot(rig.source)
    rig.restore()
    assert snapshot(rig.source) == now


@pytest.mark.parametrize("name", ["with space", "\udcff\n", "ü" * 100, "tool~2"])
def test_odd_names_of_a_source(rig: Rig, name: str) -> None:
    """A source may have any name; it is in the journal byte for byte."""
    rig.source = rig.source.rename(rig.source.with_name(name))
    before = snapshot(rig.source)
    rig.relocate()
    assert [item.source for item in rig.reopen().ends.journal.relocations()] == [str(rig.source)]
    rig.restore()
    assert snapshot(rig.source) == before


def test_an_empty_source(rig: Rig) -> None:
    """A directory without anything in it moves like any other."""
    remove(rig.source)
    rig.source.mkdir(mode=0o750)
    before = snapshot(rig.source)
    assert rig.relocate().files == 0
    rig.restore()
    assert snapshot(rig.source) == before


def test_a_taken_target_is_left_alone(rig: Rig) -> None:
    """What already lies where the source would go stays, and the source goes beside it."""
    rig.target.mkdir(parents=True)
    (rig.target / "other").write_text("not ours")
    assert rig.relocate().target == f"{rig.target}~2"
    assert (rig.target / "other").read_text() == "not ours"


def test_ordinary_users_and_directories_that_nobody_may_write() -> None:
    """A tree of read-only directories, its root among them, moves there and back for an ordinary user."""

    def work() -> str:
        with build(folder) as rig:
            nasty_tree(rig.source)
            (rig.source / "hollow").chmod(0o500)
            rig.source.chmod(0o555)
            before = snapshot(rig.source)
            stages = [rig.relocate().stage]
            same = [snapshot(rig.source) == before]
            stages.append(rig.restore().stage)
            same.append(snapshot(rig.source) == before)
            return f"{stages} {same} {rig.leftovers()}"

    with ordinary_folder() as folder:
        assert as_ordinary_user(work) == "[<Stage.DONE: 'done'>, <Stage.DONE: 'done'>] [True, True] []"


def test_default_acls_around_do_not_reach_the_tree(rig: Rig) -> None:
    """Default ACLs of the data disk's folder and of the home's folder are not inherited by what is moved."""
    before = snapshot(rig.source)
    for folder in (rig.disk, rig.disk / "survived", rig.disk / "survived/staging", rig.disk / "survived/trees", rig.source.parent):
        subprocess.run(["setfacl", "-d", "-m", "u:1:rwx", folder], check=True)
    rig.relocate()
    assert snapshot(rig.source) == before
    rig.restore()
    assert snapshot(rig.source) == before


# ---- refusals: reason, exit code, and nothing changed ----------------------------------------------------------------


def _gone(rig: Rig) -> None:
    remove(rig.source)


def _a_link(rig: Rig) -> None:
    rig.source.rename(rig.home / "elsewhere")
    rig.source.symlink_to(rig.home / "elsewhere")


def _a_file(rig: Rig) -> None:
    remove(rig.source)
    rig.source.write_text("x")


def _a_socket(rig: Rig) -> None:
    code = "import socket,sys\ns=socket.socket(socket.AF_UNIX);s.bind(sys.argv[1]);print(flush=True);input()"
    (rig.source / "a b").mkdir()
    path = str(rig.source / "a b/agent socket")
    process = subprocess.Popen(["python3", "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    rig.__dict__["process"] = process


REFUSALS: dict[str, tuple[Callable[[Rig], object], str]] = {
    "absent": (_gone, "no such file or directory"),
    "already_link": (_a_link, "it is a link already"),
    "not_a_directory": (_a_file, "it is not a directory"),
    "home_itself": (lambda rig: setattr(rig, "source", rig.home), "it is or holds your home directory"),
    "leaving_link": (lambda rig: os.symlink("../other", rig.source / "out"), "'out' in it: it is a relative link"),
    "leaving_link ": (lambda rig: os.symlink("../../tool/a", rig.source / "dir/out"), "'dir/out' in it: it is a relative link"),
    "socket": (_a_socket, "'a b/agent socket' in it: it is a socket in use"),
    "device_node": (lambda rig: os.mknod(rig.source / "dev", 0o020600, 0), "'dev' in it: it is a device node"),
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_early_refusals(rig: Rig, reason: str) -> None:
    """What makes a move wrong or impossible is refused in one sentence, with exit 4, before anything is written."""
    spoil, text = REFUSALS[reason]
    spoil(rig)
    before = snapshot(rig.home)
    with pytest.raises(Refused) as caught:
        rig.relocate()
    if (process := rig.__dict__.get("process")) is not None:
        process.communicate(b"\n")
    assert (caught.value.reason, caught.value.exit_code) == (reason.strip(), 4)
    assert f"Cannot move '{rig.source}': {text}" in caught.value.message
    assert caught.value.message.endswith("Nothing was changed.")
    assert snapshot(rig.home) == before
    assert rig.ends.journal.recent(1) == ()


def test_a_link_within_the_tree_is_no_refusal(rig: Rig) -> None:
    """Links that stay in the tree, and absolute ones, lead to the same place from the data disk."""
    os.symlink("../a", rig.source / "dir/up")
    os.symlink("dir/../dir/./file", rig.source / "around")
    os.symlink(str(rig.source / "a"), rig.source / "absolute")
    rig.relocate()
    for name in ("dir/up", "around", "absolute"):
        assert (rig.source / name).stat().st_size == 5000


def test_the_interpreter_is_not_moved(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment that survived runs from stays."""
    monkeypatch.setattr(sys, "prefix", str(rig.source / "venv"))
    with pytest.raises(Refused, match="survived itself runs from there") as caught:
        rig.relocate()
    assert caught.value.reason == "interpreter"


def test_a_store_on_the_same_filesystem_frees_nothing(rig: Rig) -> None:
    """A source on the data disk itself is refused."""
    rig.source = rig.disk / "cache"
    nasty_tree(rig.source)
    with pytest.raises(Refused, match="on the same filesystem as the store") as caught:
        rig.relocate()
    assert caught.value.reason == "other_filesystem"


@pytest.mark.parametrize("case", ["not_ours", "not_ours ", "unreadable", "unreadable "])
def test_what_an_ordinary_user_may_not(case: str) -> None:
    """Somebody else's entries, a folder that may not be written, and what cannot be read are refused."""

    def work() -> str:
        with build(folder) as rig:
            nasty_tree(rig.source)
            if case == "not_ours":
                rig.source = Path("/etc/ssl")
            elif case == "not_ours ":
                rig.source.parent.chmod(0o500)
            else:
                (rig.source / ("dir" if case == "unreadable" else "a")).chmod(0)
            return str(rig.relocate())

    with ordinary_folder() as folder:
        assert as_ordinary_user(work).startswith(f"Refused {case.strip()}: Cannot move")


def test_no_room(rig: Rig) -> None:
    """A source that does not fit beside the share that is kept free is refused, by size or by share."""
    with pytest.raises(Refused, match="of which a share is kept free") as caught:
        rig.relocate(size=TreeSize(size_bytes=1 << 60))
    assert caught.value.reason == "no_room"
    with pytest.raises(Refused):
        rig.relocate(keep_free=Mark(usage=0.0))
    assert rig.ends.journal.recent(1) == ()


def test_a_restore_that_would_fill(rig: Rig) -> None:
    """A restore that brings the home's disk to the high mark is refused, unless forced; one that does not fit, always."""
    rig.relocate()
    before = snapshot(rig.source)
    with pytest.raises(Refused, match=r"would bring .* Add --force") as caught:
        rig.restore(high=Mark(usage=0.0))
    assert caught.value.reason == "would_fill"
    for forced in (False, True):
        with pytest.raises(Refused, match="Free some space first"):
            rig.restore(size=TreeSize(size_bytes=1 << 60), forced=forced)
    assert snapshot(rig.source) == before
    assert rig.restore(high=Mark(usage=0.0), forced=True).stage is Stage.DONE


def test_no_exchange(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the filesystem cannot exchange two names, the copy is removed and the source stays."""
    before, real = snapshot(rig.source), fs._renameat2

    def renameat2(from_fd: int, from_name: str, to_fd: int, to_name: str, flags: int) -> None:
        if flags == 2:
            raise OSError(22, "Invalid argument")
        real(from_fd, from_name, to_fd, to_name, flags)

    monkeypatch.setattr(fs, "_renameat2", renameat2)
    with pytest.raises(Refused) as caught:
        rig.relocate()
    assert caught.value.reason == "no_exchange"
    assert snapshot(rig.source) == before
    assert rig.leftovers() == []


@pytest.mark.parametrize("spoil", ["removed", "elsewhere", "directory"])
def test_restore_wants_its_own_link(rig: Rig, spoil: str) -> None:
    """A source that is not the link that we left is not touched by restore."""
    rig.relocate()
    rig.source.unlink()
    if spoil == "elsewhere":
        rig.source.symlink_to("/nowhere")
    elif spoil == "directory":
        rig.source.mkdir()
    with pytest.raises(SurvivedError, match=r"it is not the link that survived left there. Nothing was changed"):
        rig.restore()
    assert (rig.target / "a").exists()


def test_what_the_kernel_says_is_a_sentence(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error while we only look is told in one sentence and nothing is changed."""

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(engine, "survey", fail)
    with pytest.raises(SurvivedError, match=r"^Cannot relocate '.*': input/output error. Nothing was changed.$"):
        rig.relocate()


# ---- who is waited for -----------------------------------------------------------------------------------------------


def _mapped(path: Path) -> mmap.mmap:
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), 5)


def _unlinked(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    path.unlink()
    return fd


HOLDS: dict[str, Callable[[Path], object]] = {
    "file": lambda source: open(source / "a", "rb"),  # noqa: SIM115  held open is the point
    "folder": lambda source: os.open(source / "dir", os.O_RDONLY),
    "working directory": lambda source: os.chdir(source / "dir/sub"),
    "mapping": lambda source: _mapped(source / "a"),
    "unlinked file": lambda source: _unlinked(source / "t"),
}


@pytest.mark.parametrize("how", HOLDS)
def test_a_holder_makes_it_busy(rig: Rig, how: str) -> None:
    """A process with anything open below the source, or standing in it, is named, and nothing is changed."""
    with child(lambda: HOLDS[how](rig.source)):
        before = snapshot(rig.source)
        with pytest.raises(Refused, match=r"\(pid \d+\) has files open there. Nothing was changed") as caught:
            rig.relocate(care=IMPATIENT)
        assert caught.value.reason == "busy"
        assert snapshot(rig.source) == before
        assert rig.leftovers() == []
    assert rig.relocate().stage is Stage.DONE


def test_a_holder_of_the_target_keeps_a_restore(rig: Rig) -> None:
    """Restore waits for those who work at the new place, too."""
    rig.relocate()
    with child(lambda: HOLDS["file"](rig.source)):
        with pytest.raises(Refused, match="has files open there"):
            rig.restore(care=IMPATIENT)
        assert rig.source.is_symlink()
        assert rig.leftovers() == []


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def test_the_lock_of_the_tool(rig: Rig) -> None:
    """While the tool holds its lock the source is busy; when it does not, we hold it until the exchange."""
    with child(lambda: _lock(rig.source / ".lock")):
        with pytest.raises(Refused, match="its tool holds its lock") as caught:
            rig.relocate(lock=".lock", care=IMPATIENT)
        assert caught.value.reason == "busy"
    held: list[bool] = []

    def try_lock() -> None:
        with open(rig.source / ".lock", "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(True)

    assert rig.relocate(lock=".lock", task=HookedTask("exchange", try_lock)).stage is Stage.DONE
    assert held == [True]


def test_who_waits_for_the_lock_is_no_holder(rig: Rig) -> None:
    """A process that has only the lock file open, and waits for it, does not keep us from moving."""
    (rig.source / ".lock").touch()
    with child(lambda: os.open(rig.source / ".lock", os.O_RDWR)):
        assert rig.relocate(lock=".lock").stage is Stage.EXCHANGED
        assert rig.source.is_symlink()


def test_a_tree_that_never_rests(rig: Rig) -> None:
    """A source that was changed less than the settle time ago is refused when patience ends."""
    (rig.source / "a").write_text("just now")
    with pytest.raises(Refused, match="it keeps changing") as caught:
        rig.relocate(care=Care(settle_seconds=600, patience_seconds=0.1))
    assert caught.value.reason == "unsettled"
    assert rig.leftovers() == []


def test_a_change_during_the_copy_arrives(rig: Rig) -> None:
    """What is written while the copy is made is in the copy."""
    rig.relocate(task=HookedTask("sync", lambda: (rig.source / "dir/new").write_text("while it was copied")))
    assert (rig.source / "dir/new").read_text() == "while it was copied"


def test_a_source_that_is_replaced_is_not_exchanged(rig: Rig) -> None:
    """A source that was moved away while it was copied, and another in its place, is not taken for it."""

    def replace() -> None:
        rig.source.rename(rig.source.with_name("moved"))
        rig.source.mkdir()

    with pytest.raises(Refused, match="it was replaced while it was copied"):
        rig.relocate(task=HookedTask("exchange", replace))
    assert os.listdir(rig.source) == []
    assert rig.leftovers() == ["moved"]


@pytest.mark.parametrize("verb", Verb)
def test_a_late_writer_is_waited_for(rig: Rig, verb: Verb) -> None:
    """Who came between the last look and the exchange keeps the old place; what it writes arrives when it has ended."""
    if verb is Verb.RESTORE:
        rig.relocate()
    before = snapshot(rig.source)
    with contextlib.ExitStack() as stack:
        steps: list[Callable[[], None]] = []

        def come_late() -> None:
            # Resolved before the exchange: to the old tree of either verb.
            path = Path(os.path.realpath(rig.source)) / "a"
            file: list[int] = []
            acts = (lambda: file.append(os.open(path, os.O_WRONLY | os.O_APPEND)), lambda: os.write(file[0], b"late"))
            steps.append(stack.enter_context(child(*acts)))

        move = rig.relocate if verb is Verb.RELOCATE else rig.restore
        operation = move(task=HookedTask("exchange", come_late))
        check_waiting(rig, operation, before)
        steps[0]()
    ended, puzzles = recover.recover_all(rig.ends.store, rig.ends.journal)
    assert ([ended_one.stage for ended_one in ended], puzzles) == ([Stage.DONE], [])
    now = snapshot(rig.source)
    assert (rig.source / "a").read_bytes() == b"first" * 1000 + b"late"
    assert {name for name in now if now[name] != before[name]} == {b"a"}
    assert rig.leftovers() == []


def check_waiting(rig: Rig, operation: Operation, before: object) -> None:
    """Assert that an exchanged operation waits for its holder, and that no other one begins on its path."""
    assert operation.stage is Stage.EXCHANGED
    assert "still uses the old place" in operation.note
    assert snapshot(rig.source) == before
    assert recover.recover_all(rig.ends.store, rig.ends.journal)[0][0].stage is Stage.EXCHANGED
    if operation.verb is Verb.RESTORE:
        with pytest.raises(Refused, match="an earlier move of it waits for a program to end"):
            rig.relocate()


@pytest.mark.parametrize("phase", ["copy", "settle", "sync", "exchange"])
@pytest.mark.parametrize("verb", Verb)
def test_a_stop_undoes(rig: Rig, verb: Verb, phase: str) -> None:
    """After a stop in any phase the path is whole, and what was begun is undone, or finished where it was exchanged already."""
    if verb is Verb.RESTORE:
        rig.relocate()
    before = snapshot(rig.source)
    hooked = HookedTask(phase, lambda: hooked.stop.set())
    move = rig.relocate if verb is Verb.RELOCATE else rig.restore
    with pytest.raises(Stopped) as caught:
        move(task=hooked)
    assert caught.value.exit_code == 130
    recover.recover_all(rig.ends.store, rig.ends.journal)
    assert snapshot(rig.source) == before
    assert rig.leftovers() == []


def test_content_is_verified_when_asked(rig: Rig) -> None:
    """With verify the copy is read back; one that differs is removed and told."""
    spoiled: list[Path] = []

    def spoil() -> None:
        (path,) = (rig.disk / "survived/staging").glob("*/tree/a")
        info = path.stat()
        path.write_bytes(b"wrong" * 1000)
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
        spoiled.append(path)

    care = Care(0.0, 5.0, verify_content=True)
    with pytest.raises(SurvivedError, match=r"the copy of 'a' reads back differently. The copy is removed"):
        rig.relocate(care=care, task=HookedTask("sync", spoil))
    assert rig.leftovers() == []
    assert rig.relocate(care=care).stage is Stage.DONE


def test_a_lost_target_undoes_what_still_stands_aside(rig: Rig) -> None:
    """When the copy is lost while the old tree waits for a holder, the old tree gets its name back, and is not listed as moved."""
    before = snapshot(rig.source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recover, "finish", lambda _store, _journal, operation, _task: operation)
        assert rig.relocate().stage is Stage.EXCHANGED
    remove(rig.target)
    ended, puzzles = recover.recover_all(rig.ends.store, rig.ends.journal)
    assert ([operation.stage for operation in ended], puzzles) == ([Stage.UNDONE], [])
    assert not rig.source.is_symlink()
    assert snapshot(rig.source) == before
    assert rig.ends.journal.relocations() == ()
    assert rig.leftovers() == []


def test_one_stuck_operation_does_not_keep_the_others(rig: Rig) -> None:
    """What cannot be recovered is a puzzle with its reason; operations after it are recovered all the same."""
    journal = rig.ends.journal
    journal.begin(Verb.RELOCATE, "gone", str(rig.home / "no/where"), f"{rig.ends.store.path}/trees/x", 1.0)
    journal.begin(Verb.RELOCATE, "moved", str(rig.home / "x"), "/another/survived/trees/x", 2.0)
    good = journal.begin(Verb.RELOCATE, "tool", str(rig.source), str(rig.target), 3.0)
    ended, puzzles = recover.recover_all(rig.ends.store, journal)
    assert [(operation.id, operation.stage) for operation in ended] == [(good.id, Stage.UNDONE)]
    assert ["its folder cannot be opened" in str(puzzles[0]), "its store was at another place" in str(puzzles[1])] == [True, True]
    assert {puzzle.exit_code for puzzle in puzzles} == {5}


def test_the_ballast_makes_room(tmp_path: Path) -> None:
    """On a full disk the ballast is given up and the act is tried again; without one the error stays."""
    calls: list[bool] = []
    ballast = Ballast(str(tmp_path / "state"), 1 << 16)
    assert ballast.lay()
    assert os.stat(ballast.path).st_blocks * 512 >= 1 << 16

    def make() -> None:
        calls.append(os.path.exists(ballast.path))
        if calls[-1]:
            raise OSError(28, "No space left on device")

    with fs.opened(str(tmp_path)) as fd:
        ballast.with_room(make, fd)
        assert calls == [True, False]
        with pytest.raises(OSError, match="No space"):
            Ballast(str(tmp_path), 0).with_room(lambda: (_ for _ in ()).throw(OSError(28, "No space left on device")), fd)
