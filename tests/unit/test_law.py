"""
The law, whatever happens in whatever order: what was acknowledged is readable at the path it was written to, and nothing else is.

Users work on files, trees move, die and fail in the middle, disks fill up, go and come back; after every step the tree at
the path is compared with what its user was told. While its disk is away the path is a dangling link, and nothing is written
into the empty mount point.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, assume, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from survived.act import fs, recover, transfer
from survived.errors import SurvivedError
from survived.model import Stage
from tests.rig.disks import why_no_mounts
from tests.unit.law import User, World, world
from tests.unit.sabotage import CALLS, ERRORS, FINISHED, KILL, TOLD, Saboteur, in_child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDERS = ["", "d", "d/e", "f"]
NAMES = [f"{folder}/{name}".lstrip("/") for folder in FOLDERS for name in ("a", "b", "\n\udcff")]
MODES = {True: [0o700, 0o755, 0o555], False: [0o4755, 0o600, 0o444]}

some_file, some_folder = st.sampled_from(NAMES), st.sampled_from(FOLDERS[1:])
something = st.one_of(some_file, some_folder)
some_data = st.builds(lambda byte, size: bytes([byte]) * size, st.integers(0, 255), st.sampled_from([0, 1, 4095, 30_000]))
some_disk = st.integers(0, 1)
some_step = st.integers(1, 100)
NEVER = 1 << 30
some_end = st.sampled_from([KILL, KILL, KILL, *ERRORS])


class Law(RuleBasedStateMachine):
    """One user, one path, two data disks."""

    place: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.world = self.place
        self.world.begin()
        self.user = User(self.world.source)
        for folder in FOLDERS[1:]:
            self.user.make_folder(folder)
        for name in NAMES[::2]:
            self.user.write(name, name.encode(errors="surrogateescape"), None)
        self.user.link("f/b", "a")
        self.user.note()
        self.full = False
        self.unfinished = False  # an operation may be
        self.kept_away: set[int] = set()  # disks that went with an operation unfinished
        self.tangled = False  # something moved while such a disk was away: a person may be asked

    def reachable(self) -> bool:
        """Tell whether the disk of the tree is there."""
        return self.world.lives_on() not in self.world.away

    def use(self, work: Callable[[], None]) -> None:
        """Have the user do something, or see that it cannot be done."""
        if self.reachable():
            work()
            self.user.note()
        else:
            with pytest.raises(FileNotFoundError):
                (self.world.source / "a").touch()

    @rule(name=some_file, data=some_data)
    def write(self, name: str, data: bytes) -> None:
        self.use(lambda: self.user.write(name, data, None))

    @rule(name=some_file, data=some_data)
    def append(self, name: str, data: bytes) -> None:
        self.use(lambda: self.user.write(name, data, -1))

    @rule(name=some_file, data=some_data, at=st.sampled_from([0, 1, 4096]))
    def overwrite(self, name: str, data: bytes, at: int) -> None:
        self.use(lambda: self.user.write(name, data, at))

    @rule(name=some_folder)
    def make_folder(self, name: str) -> None:
        self.use(lambda: self.user.make_folder(name))

    @rule(name=something, to=something)
    def rename(self, name: str, to: str) -> None:
        self.use(lambda: self.user.rename(name, to))

    @rule(name=some_file, to=some_file)
    def link(self, name: str, to: str) -> None:
        self.use(lambda: self.user.link(name, to))

    @rule(name=something)
    def delete(self, name: str) -> None:
        self.use(lambda: self.user.delete(name))

    @rule(name=st.one_of(something, st.just("")), number=st.integers(0, 3))
    def chmod(self, name: str, number: int) -> None:
        modes = MODES[name in FOLDERS]
        self.use(lambda: self.user.chmod(name, modes[number % len(modes)]))

    @rule(home=st.booleans(), to=some_disk)
    def move(self, home: bool, to: int) -> None:
        """An operation that nothing spoils."""
        may_fail = self.full or self.unfinished or bool(self.world.away) or self.tangled
        self.tangled |= bool(self.kept_away)
        with self.world.opened():
            self.world.recover()
            try:
                done = self.world.act(home, to)
            except SurvivedError:
                if not may_fail:
                    raise
                done, self.unfinished = None, True
        if done is not None:
            assert may_fail or done.stage is Stage.DONE
            self.unfinished |= done.stage is not Stage.DONE

    @rule(home=st.booleans(), to=some_disk, step=some_step, error=some_end, lasting=st.booleans())
    def spoil(self, home: bool, to: int, step: int, error: int, lasting: bool) -> None:
        """An operation dies, or a call of it fails, at any step."""
        self.spoilt(lambda it: it.act(home, to), step, error, lasting=lasting)

    @rule(home=st.booleans(), to=some_disk, step=st.integers(1, 30), error=some_end, lasting=st.booleans())
    def spoil_late(self, home: bool, to: int, step: int, error: int, lasting: bool) -> None:
        """The same at a step past the commit point, where both sides are there and the user goes on with the new one."""

        def act(it: World) -> None:
            exchange = fs.exchange

            def and_then(*arguments: Any) -> None:
                exchange(*arguments)
                saboteur = Saboteur(step, error, lasting=lasting)
                for owner, name in CALLS:
                    saboteur.wrap(owner, name)

            fs.exchange = and_then  # of the child
            it.act(home, to)

        self.spoilt(act, NEVER, KILL)

    @precondition(lambda self: self.unfinished)
    @rule(step=some_step, error=some_end, lasting=st.booleans())
    def spoil_recovery(self, step: int, error: int, lasting: bool) -> None:
        """The next start dies, or fails, too."""
        self.spoilt(lambda _: None, step, error, lasting=lasting)

    def spoilt(self, act: Callable[[World], object], step: int, error: int, *, lasting: bool = False) -> None:
        """Recover and act in a child that dies or fails."""
        self.tangled |= bool(self.kept_away)
        self.unfinished = True

        def recover_and_act(it: Any) -> None:
            try:
                it.recover()
            except OSError as told:
                raise SurvivedError(f"Cannot recover: {told}.") from told
            act(it)

        assert in_child(self.world, recover_and_act, step, error, lasting=lasting) in (FINISHED, TOLD, -9)  # type: ignore[arg-type]

    @rule()
    def recover(self) -> None:
        """A start that nothing spoils."""
        with self.world.opened():
            if self.full:
                self.world.recover()
                return
            _, puzzles = self.world.recover()
            if self.tangled or self.world.away:
                return
            assert puzzles == []
            self.user.check()
            assert self.world.recover() == ([], [])
            assert self.world.leftovers() == []
            assert self.world.unfinished() == []
            self.world.check_journals()
            self.unfinished = False

    @rule(number=some_disk)
    def unplug(self, number: int) -> None:
        assume(number not in self.world.away)
        with self.world.opened():
            if self.unfinished and number in {disk for disk, _ in self.world.unfinished()}:
                self.kept_away.add(number)
        self.world.unplug(number)

    @precondition(lambda self: self.world.away)
    @rule(number=some_disk)
    def plug(self, number: int) -> None:
        assume(number in self.world.away)
        self.world.plug(number)
        self.kept_away.discard(number)

    @rule(place=st.integers(0, 2), pages=st.sampled_from([0, 1, 2, 5, 12, 40]))
    def fill(self, place: int, pages: int) -> None:
        assume(place == 2 or place not in self.world.away)
        self.world.fill([*self.world.disks, self.world.home][place], pages)
        self.full = True

    @precondition(lambda self: self.full and not self.world.away)
    @rule()
    def empty(self) -> None:
        self.world.empty()
        self.full = False

    @invariant()
    def law(self) -> None:
        if self.reachable():
            self.user.check()
        else:
            assert not self.world.source.exists()
        for number in self.world.away:
            assert os.listdir(self.world.disks[number]) == []


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Yield a world without the waiting: syncs mean nothing in memory, and nobody else is there to hold files."""
    if reason := why_no_mounts():
        pytest.skip(reason)
    monkeypatch.setattr(transfer, "find_holders", lambda paths, **_: dict.fromkeys(paths, ()))
    monkeypatch.setattr(recover, "holders_of", lambda _: ())
    monkeypatch.setattr(fs, "sync_filesystem", lambda _: None)
    folder = Path(tempfile.mkdtemp(prefix="survived-law-"))
    try:
        with world(folder) as made:
            yield made
    finally:
        folder.rmdir()


@pytest.mark.timeout(900)
def test_law(place: World) -> None:
    """The same runs each time, or, with SURVIVED_TEST_SEED, many others."""
    Law.place = place
    options: dict[str, Any] = {"deadline": None, "print_blob": True, "database": None, "suppress_health_check": list(HealthCheck)}
    if (number := os.environ.get("SURVIVED_TEST_SEED")) is None:
        options |= {"derandomize": True, "max_examples": 40, "stateful_step_count": 40}
    else:
        seed(int(number))(Law)
        options |= {"max_examples": 150, "stateful_step_count": 60}
    run_state_machine_as_test(Law, settings=settings(**options))
