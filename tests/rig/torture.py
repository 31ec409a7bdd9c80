"""
Writers that never let a tree rest: real processes that create, append, map, rename, swap and delete, and remember what succeeded.

Each kind works in a folder of its own below the tree, by absolute path or from what it opened before. Whatever succeeded is
acknowledged: a line in a log outside the tree. A clean end acknowledges everything, so that afterwards the log says exactly what
the folder must hold: nothing lost, nothing wrong, nothing that comes back.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.rig import writers
from tests.rig.writers import NEVER_QUIET as NEVER_QUIET
from tests.rig.writers import SLOT, SLOTS, Rhythm

ROOT = Path(__file__).resolve().parents[2]
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

KINDS = ("path", "append", "dirfd", "cwd", "mmap", "stealth", "swap")
HOLDING = KINDS[1:]
"""The kinds that go on in the old tree after an exchange, through what they have open."""


@dataclass
class Account:
    """
    What the logs promise against what is there. Everything but `acknowledged` should be empty.

    `straddled` tells that the writer by path worked between a last look and an exchange. It may then have changed one name in
    both trees, and what it says is no measure: a file that it wrote in the old tree and removed in the new one is kept.
    """

    acknowledged: int = 0
    straddled: bool = False
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    came_back: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def is_clean(self) -> bool:
        """Tell whether nothing acknowledged was lost, is wrong or came back."""
        return not (self.lost or self.wrong or self.came_back)


class Torture:
    """The writers of one tree; a context manager that ends them. `start` more than once, for other kinds at other times."""

    def __init__(self, tree: Path, logs: Path, *, seed: int = 0, rhythm: Rhythm = NEVER_QUIET, pause: float = 0.012) -> None:
        self.tree, self.logs, self.seed, self.rhythm, self.pause = tree, logs, seed, rhythm, pause
        self.running: list[subprocess.Popen[bytes]] = []
        self.kinds: list[str] = []
        self.exchanges: list[tuple[float, float]] = []
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Torture:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def prepare(self, kinds: Sequence[str] = KINDS) -> None:
        """Make the writers' folders, before anybody moves anything."""
        for kind in kinds:
            (self.tree / kind).mkdir(parents=True)

    def start(self, kinds: Sequence[str] = KINDS, *, at: Path | None = None) -> None:
        """Start a writer of each kind and wait until all have begun; `at` is where the tree is, if not at its path."""
        for kind in kinds:
            words = [kind, str((at or self.tree) / kind), str(self.logs / kind), json.dumps([self.rhythm.busy, self.rhythm.rest])]
            command = [sys.executable, "-I", writers.__file__, *words, str(self.seed), str(self.pause)]
            self.running.append(subprocess.Popen(command, cwd="/", stdin=subprocess.DEVNULL))
            self.kinds.append(kind)
        deadline = time.monotonic() + 30
        while not all(self._log(kind) for kind in kinds):
            assert time.monotonic() < deadline, "a writer did not begin"
            time.sleep(0.01)

    def wait_for(self, more: int, kinds: Sequence[str] | None = None) -> None:
        """Wait until each writer has acknowledged so many steps more."""
        goal = {kind: len(self._log(kind)) + more for kind in kinds or self.kinds}
        deadline = time.monotonic() + 30
        while any(len(self._log(kind)) < count for kind, count in goal.items()):
            assert time.monotonic() < deadline, "a writer stands still"
            time.sleep(0.01)

    def end_adopted(self) -> None:
        """Let the writers go that another process of ours has started, and that has died since."""
        pids = [said["ready"] for kind in self.kinds for said in self._log(kind) if "ready" in said]
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 30
        while any(_is_writer(pid) for pid in pids):
            assert time.monotonic() < deadline, "a writer does not end"
            time.sleep(0.01)

    def end(self) -> None:
        """Let every writer end its step and go; what is mapped, open or stood in goes with it."""
        for process in self.running:
            process.terminate()
        for process in self.running:
            assert process.wait(30) == 0
        self.running.clear()

    def _log(self, kind: str) -> list[dict[str, Any]]:
        try:
            return [json.loads(line) for line in (self.logs / kind).read_bytes().split(b"\n")[:-1]]
        except FileNotFoundError:
            return []

    @contextlib.contextmanager
    def exchanging(self) -> Iterator[Any]:
        """Yield a task for one move, of which it remembers when it exchanged."""
        from survived.act.task import Task

        task, times = Task(threading.Event()), []
        enter = task.enter

        def noting(phase: str, *more: Any) -> None:
            times.append((phase, time.time()))
            enter(phase, *more)

        task.enter = noting  # type: ignore[method-assign]
        yield task
        begins = [at for phase, at in times if phase == "exchange"]
        if begins:
            after = [at for phase, at in times if phase != "exchange" and at > begins[-1]]
            # The look before the phase begins takes time, too.
            self.exchanges.append((begins[-1] - 0.15, (after or [time.time()])[0] + 0.02))

    def account(self, *, ignore: str = ".survived-late") -> Account:
        """Compare what was acknowledged with what is at the path; names with `ignore` in them are somebody's other side."""
        found = Account()
        for kind in dict.fromkeys(self.kinds):
            log = self._log(kind)
            found.acknowledged += sum("error" not in said and "ready" not in said for said in log)
            found.errors += [f"{kind}: {said['error']}" for said in log if "error" in said]
            if kind == "path" and any(begin < said["time"] < end for said in log for begin, end in self.exchanges):
                found.straddled = True
                continue
            wanted, gone = _replay(log)
            there = _read(self.tree / kind, ignore)
            found.lost += [f"{kind}/{name}" for name in wanted if name not in there]
            found.wrong += [f"{kind}/{name}" for name, text in wanted.items() if there.get(name, text) != text]
            extra = [name for name in there if name not in wanted]
            found.came_back += [f"{kind}/{name}{'' if name in gone else ' (unknown)'}" for name in extra]
        return found


def _is_writer(pid: int) -> bool:
    """Tell whether a process is alive, and one of the writers."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().find(b"writers.py") >= 0
    except OSError:
        return False


def _replay(log: list[dict[str, Any]]) -> tuple[dict[str, bytes], set[str]]:
    """Return what a log says is there, and every name that is gone."""
    files: dict[str, bytes] = {}
    gone: set[str] = set()
    for said in log:
        if "put" in said:
            files[said["put"]] = said["text"].encode()
        elif "append" in said:
            files[said["append"]] = files.get(said["append"], b"") + said["text"].encode()
        elif "store" in said:
            old, slot = bytearray(files.get(said["store"], bytes(SLOTS * SLOT))), said["slot"]
            old[slot * SLOT : (slot + 1) * SLOT] = said["text"].encode()
            files[said["store"]] = bytes(old)
        elif "gone" in said:
            del files[said["gone"]]
            gone.add(said["gone"])
        elif "move" in said:
            one, other = said["move"], said["to"]
            for name in [name for name in files if name == one or name.startswith(f"{one}/")]:
                files[other + name[len(one) :]] = files.pop(name)
                gone.add(name)
    return files, gone


def _read(folder: Path, ignore: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            if ignore not in path and stat.S_ISREG(os.lstat(path).st_mode):
                with open(path, "rb") as file:
                    found[os.path.relpath(path, folder)] = file.read()
    return found


def soak(seconds: float, seed: int = 0, disks: tuple[Path, Path] | None = None) -> Account:
    """
    Relocate and restore a tortured tree until the time is over; AssertionError if anything is amiss. Returns a clean account.

    `disks` are folders on two filesystems, for the home and the store; without them it is a temporary folder and /dev/shm,
    and nobody maps files then: tmpfs gives a file no new ctime for what is stored through a mapping.
    """
    from survived.act import recover
    from survived.act.transfer import Care
    from survived.errors import Refused
    from survived.model import Reason, Stage
    from tests.unit.engine import build

    care = Care(settle_seconds=0.2, patience_seconds=3.0)
    choose = random.Random(seed)
    kinds = KINDS if disks else tuple(kind for kind in KINDS if kind != "mmap")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="survived-soak-")))
        home, store = folder, None
        if disks:
            home, store = (Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-", dir=disk))) for disk in disks)
        rig = stack.enter_context(build(home, store))
        rhythm = Rhythm(choose.uniform(0.3, 1.5), choose.uniform(0.8, 2.0))
        with Torture(rig.source, folder / "logs", seed=seed, rhythm=rhythm) as torture:
            torture.prepare(kinds)
            torture.start(kinds)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                try:
                    with torture.exchanging() as task:
                        (rig.restore if rig.source.is_symlink() else rig.relocate)(care=care, task=task)
                except Refused as error:
                    if error.reason not in (Reason.BUSY, Reason.UNSETTLED):
                        raise
                _, puzzles = recover.recover_all(rig.ends.store, rig.ends.journal)
                assert puzzles == []
        ended, puzzles = recover.recover_all(rig.ends.store, rig.ends.journal)
        assert puzzles == []
        assert all(operation.stage in (Stage.DONE, Stage.UNDONE) for operation in ended)
        account = torture.account()
        assert account.is_clean(), account
        assert rig.leftovers() == []
        return account
