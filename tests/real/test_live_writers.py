"""Real writers that never let the tree rest while it moves: what they were told was written is there afterwards, and only that."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from survived.act.reconcile import LATE
from survived.act.transfer import Care
from survived.errors import Refused
from survived.model import Stage, Verb
from tests.rig.disks import mounted
from tests.rig.torture import HOLDING, KINDS, NEVER_QUIET, Account, Rhythm, Torture, soak
from tests.unit.engine import ORDINARY, HookedTask, Rig, as_ordinary_user, build, child, ordinary_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from survived.model import Operation

pytestmark = pytest.mark.real

CARE = Care(settle_seconds=0.3, patience_seconds=30.0)
BRIEF = Care(settle_seconds=0.3, patience_seconds=1.2)


@pytest.fixture
def rig(needs_root_mounts: None, tmp_path: Path) -> Iterator[Rig]:
    """Yield a rig whose home and store are on an ext4 each."""
    with ExitStack() as stack:
        home, data = (stack.enter_context(mounted(tmp_path, name, "96M")).path for name in ("home-disk", "data-disk"))
        yield stack.enter_context(build(home, data))


@pytest.fixture
def two_stores(rig: Rig, tmp_path: Path) -> Iterator[Rig]:
    """Yield the rig with a second data disk."""
    with mounted(tmp_path, "other-disk", "96M") as disk:
        rig.second = disk.path / "alice"
        yield rig.reopen()
        rig.close()


def torture_of(rig: Rig, tmp_path: Path, rhythm: Rhythm, *, seed: int = 1) -> Torture:
    """Return the writers of the rig's source, with their folders made."""
    made = Torture(rig.source, tmp_path / "logs", seed=seed, rhythm=rhythm)
    made.prepare()
    return made


def recovered(rig: Rig) -> list[Operation]:
    """Recover as the next start does; nothing may need a person."""
    ended, puzzles = rig.recover()
    assert puzzles == []
    return ended


def check(account: Account, *, at_least: int) -> None:
    """Assert that enough was acknowledged to matter and that none of it was lost, is wrong or came back."""
    assert account.is_clean(), account
    assert account.acknowledged >= at_least, account


def test_with_quiet_spells(two_stores: Rig, tmp_path: Path) -> None:
    """Writers that pause now and then: there, on to another disk, and home again, each within seconds, and nothing amiss."""
    rig, took = two_stores, []
    assert rig.other is not None
    verbs: tuple[Callable[..., object], ...] = (rig.relocate, rig.rehome, rig.other.restore)
    with torture_of(rig, tmp_path, Rhythm(0.8, 1.4)) as torture:
        torture.start()
        for verb in verbs:
            torture.wait_for(20)
            began = time.monotonic()
            with torture.exchanging() as task:
                verb(care=CARE, task=task)
            took.append(time.monotonic() - began)
            while recovered(rig) and rig.open_operations():
                time.sleep(0.1)  # writers came between the last look and the exchange, and hold the old tree
        torture.wait_for(20)
    account = torture.account()
    print(f"{account.acknowledged} acknowledged; moves took {', '.join(f'{seconds:.1f} s' for seconds in took)}; {account.errors}")
    check(account, at_least=500)
    assert not rig.source.is_symlink()
    assert rig.leftovers() == []


def test_writers_that_never_pause(rig: Rig, tmp_path: Path) -> None:
    """They are named and nothing is moved; those who hold nothing, but never stop, are too lively."""
    with torture_of(rig, tmp_path, NEVER_QUIET) as torture:
        torture.start(["path"])
        with pytest.raises(Refused, match=r"it keeps changing .* Nothing was changed|has files open there") as caught:
            rig.relocate(care=BRIEF)
        assert caught.value.reason in ("unsettled", "busy")  # busy: the last look caught a file open
        torture.start(HOLDING)
        pids = "|".join(str(process.pid) for process in torture.running)
        with pytest.raises(Refused, match=rf"\(pid ({pids})\) and \d+ more has files open there. Nothing was changed") as caught:
            rig.relocate(care=BRIEF)
        assert caught.value.reason == "busy"
        assert not rig.source.is_symlink()
    account = torture.account()
    check(account, at_least=500)
    assert account.errors == []
    assert rig.leftovers() == []


def come_late(rig: Rig, torture: Torture) -> HookedTask:
    """Return a task for which all that can hold an old tree begin to work in it between the last look and the exchange."""
    return HookedTask("exchange", lambda: torture.start(HOLDING, at=Path(os.path.realpath(rig.source))))


@pytest.mark.parametrize("verb", [Verb.RELOCATE, Verb.RESTORE])
def test_held_across_the_exchange(rig: Rig, tmp_path: Path, verb: Verb) -> None:
    """The old tree waits for them, what they do there arrives, and where others did it at the new place both are kept and told."""
    with torture_of(rig, tmp_path, NEVER_QUIET) as torture:
        for kind in KINDS:
            (torture.tree / kind / "as before").write_text("untouched")
        time.sleep(0.03)
        if verb is Verb.RESTORE:
            rig.relocate()
        operation = (rig.relocate if verb is Verb.RELOCATE else rig.restore)(task=come_late(rig, torture))
        assert operation.stage is Stage.EXCHANGED
        assert "still uses the old place" in operation.note
        torture.wait_for(40)
        contested = [torture.tree / "append/log-0", torture.tree / "stealth/s0"]
        for path in contested:
            path.write_text("by others")
        torture.wait_for(40)
        assert [each.stage for each in recovered(rig)] == [Stage.EXCHANGED]
        assert (torture.tree / "cwd/as before").read_text() == "untouched"
    (ended,) = recovered(rig)
    assert ended.stage is Stage.DONE
    for path in contested:
        assert path.read_text() == "by others"
        assert str(path.relative_to(torture.tree)) in ended.note
        os.replace(f"{path}{LATE}", path)  # the account is about what the writers wrote
    for kind in KINDS:
        (torture.tree / kind / "as before").unlink()
    account = torture.account()
    check(account, at_least=400)
    assert account.errors == []
    assert rig.leftovers() == []


def test_killed_while_writers_hold_the_old_tree(rig: Rig, tmp_path: Path) -> None:
    """kill -9 again and again, while they write there and while what they wrote is brought over: the next start does the rest."""
    with torture_of(rig, tmp_path, NEVER_QUIET, seed=2) as torture:
        rig.close()

        def daemon(begin: bool) -> int:
            pid = os.fork()
            if pid == 0:
                try:
                    rig.open()
                    if begin:
                        rig.relocate(task=come_late(rig, torture))
                    while True:
                        recovered(rig)
                finally:
                    os._exit(1)
            return pid

        def kill(pid: int) -> None:
            os.kill(pid, signal.SIGKILL)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL

        pid = daemon(begin=True)
        deadline = time.monotonic() + 30
        while not rig.source.is_symlink():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        torture.kinds = list(HOLDING)  # the child started them
        torture.wait_for(10)
        kill(pid)
        for delay in (0.2, 0.05):
            pid = daemon(begin=False)
            time.sleep(delay)
            torture.wait_for(5)
            kill(pid)
        torture.end_adopted()
        for delay in (0.03, 0.06, 0.09, 0.12):  # starting takes some of it; the rest is spent in bringing over
            pid = daemon(begin=False)
            time.sleep(delay)
            kill(pid)
    rig.open()
    recovered(rig)
    assert rig.open_operations() == []
    check(torture.account(), at_least=100)
    assert rig.leftovers() == []


def test_a_mapping_between_two_looks(rig: Rig) -> None:
    """What is stored through a mapping after its file was copied gives it no new ctime, and is in the copy all the same."""
    rig.source.mkdir(parents=True)
    path = rig.source / "map"
    path.write_bytes(bytes(4096))
    time.sleep(0.03)
    kept: list[mmap.mmap] = []

    def store(text: bytes) -> None:
        kept[0][: len(text)] = text

    def arrive() -> None:
        with open(path, "r+b") as file:
            kept.append(mmap.mmap(file.fileno(), 4096))
        store(b"first")
        time.sleep(0.05)

    def leave() -> None:
        store(b"later")
        kept.pop().close()

    with child(lambda: None, arrive, leave) as step:
        task = HookedTask("copy", step)
        enter = task.enter

        def also(phase: str, *more: object) -> None:
            enter(phase, *more)  # type: ignore[arg-type]
            if phase == "settle" and step_left:
                step_left.pop()()

        step_left = [step]
        task.enter = also  # type: ignore[method-assign]
        assert rig.relocate(task=task).stage is Stage.DONE
    assert path.read_bytes()[:5] == b"later"


def test_a_writer_that_we_cannot_see(needs_root_mounts: None) -> None:
    """An ordinary user sees no files of root's processes; what one of them writes late into the old tree arrives all the same."""

    def work(act: Callable[[Rig], Operation]) -> str:
        with _again(folder, disk) as rig:
            operation = act(rig)
            return f"{operation.stage}: {operation.note}"

    def relocate(rig: Rig) -> Operation:
        return rig.relocate()

    with ordinary_folder() as folder, ordinary_folder("/dev/shm") as disk:
        source = folder / "home/.cache/tool"
        source.mkdir(parents=True)
        (source / "log").write_text("first")
        for path in (folder / "home", folder / "home/.cache", source, source / "log"):
            os.chown(path, ORDINARY, ORDINARY)
        time.sleep(0.03)
        with open(source / "log", "a") as file, open(source / "log", "r+b") as mapped, mmap.mmap(mapped.fileno(), 5) as pages:
            said = as_ordinary_user(lambda: work(relocate))
            assert said.startswith("exchanged: A process that we cannot see writes to 'log' in the old place"), said
            file.write(" and last")
            file.flush()
            pages[:5] = b"FIRST"
        said = as_ordinary_user(lambda: work(lambda rig: recovered(rig)[0]))
        assert said.startswith("done: "), said
        assert source.is_symlink()
        assert (source / "log").read_text() == "FIRST and last"


@contextmanager
def _again(folder: Path, disk: Path) -> Iterator[Rig]:
    rig = Rig(folder / "home", disk / "alice", folder / "home/.cache/tool")
    rig.disk.mkdir(exist_ok=True)
    rig.open()
    try:
        yield rig
    finally:
        rig.close()


@pytest.mark.parametrize("below", ["", "path"])
def test_a_container_has_it_mounted(rig: Rig, tmp_path: Path, below: str) -> None:
    """A cache, or part of one, that a container has bind-mounted is in use, though no file of it is open."""
    torture_of(rig, tmp_path, NEVER_QUIET)
    inside = tmp_path / "inside"
    inside.mkdir()
    command = f"mount --bind '{rig.source / below}' '{inside}' && echo && read x"
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", command]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/") as container:
        assert container.stdout is not None
        assert container.stdout.readline() == b"\n"
        with pytest.raises(Refused, match=rf"sh \(pid {container.pid}\) has files open there") as caught:
            rig.relocate(care=BRIEF)
        assert caught.value.reason == "busy"
        container.communicate(b"\n")
    assert rig.relocate(care=BRIEF).stage is Stage.DONE


def test_a_soak_of_seconds(needs_root_mounts: None, tmp_path: Path) -> None:
    """The soak that one command runs for hours."""
    with mounted(tmp_path, "one", "96M") as one, mounted(tmp_path, "two", "96M") as two:
        account = soak(6.0, seed=int(time.time()) // 86400, disks=(one.path, two.path))
    check(account, at_least=100)
