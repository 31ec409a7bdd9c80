"""A daemon that dies or is told to stop at the worst moment, twice started, or told to read a broken configuration."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from survived.errors import SurvivedError
from tests.rig.disks import Disks
from tests.rig.receivers import receivers
from tests.rig.world import World, wait_until
from tests.unit.engine import nasty_tree, snapshot

pytestmark = pytest.mark.real

KILLS = 25


@pytest.fixture
def world(make_disks: Callable[..., Disks], tmp_path: Path) -> Iterator[World]:
    """Return a world that settles at once and moves nothing by itself."""
    with ExitStack() as stack:
        disks = make_disks(small="250M", data="400M", inodes=60_000)
        world = stack.enter_context(World(disks.small, (disks.data,), tmp_path / "run"))
        world.configure(watch={"high": "90%", "low": "80%"}, move={"settle": "0s"})
        yield world


def ask_for(world: World, verb: str) -> int:
    """Have pip's cache relocated or restored, and return the number of the request."""
    return int(world.ask(verb, what="pip")["number"])


def wait_done(world: World, number: int) -> dict[str, object]:
    """Wait for the end of a request and return its answer."""
    wait_until(lambda: world.ask("request", number=number)["state"] in ("done", "failed"), 60, what=world.log)
    answer: dict[str, object] = world.ask("request", number=number)
    assert answer["state"] == "done", answer
    return answer


# ---- kill -9 ----------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_kill_at_any_moment_loses_nothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """After kill -9 every byte is at its path at once, and the next start ends the move by itself and leaves no trace of it."""
    seed = int(os.environ.get("SURVIVED_TEST_SEED") or time.time_ns() % 1_000_000)
    choose = random.Random(seed)
    cache = world.fill(world.cache / "pip", 20, files=3000)
    nasty_tree(cache / "nasty")
    before = snapshot(cache)
    ends = {"finished": 0, "undone": 0, "over": 0}

    world.start()
    spans = {}
    for verb in ("relocate", "restore") * 2:  # the first time is slower than all others
        began = time.monotonic()
        wait_done(world, ask_for(world, verb))
        spans[verb] = time.monotonic() - began
    with capsys.disabled():
        print(f"\nseed {seed}; relocate takes {spans['relocate']:.2f} s, restore {spans['restore']:.2f} s", end="")

    for number in range(KILLS):
        was_moved = cache.is_symlink()
        verb = "restore" if was_moved else "relocate"
        where = f"seed {seed}, kill {number} while it {verb}s"
        ask_for(world, verb)
        if choose.random() < 0.3:  # just after the exchange, which is too short to be met by chance
            wait_until(lambda was_moved=was_moved: cache.is_symlink() != was_moved, 30, step=0.0002, what=world.log)  # type: ignore[misc]
            time.sleep(choose.uniform(0.0, 0.05))
        else:
            time.sleep(choose.uniform(0.0, spans[verb]))
        world.kill()

        assert snapshot(cache) == before, f"{where}: at once"
        journal_is_hot = any(map(is_hot, world.stores))  # in the middle of a write
        was_over = not journal_is_hot and not world.unfinished()
        world.start()
        world.wait_idle()
        assert snapshot(cache) == before, f"{where}: after recovery\n{world.log()}"
        assert world.leftovers() == [], f"{where}\n{world.log()}"
        is_moved = cache.is_symlink()
        listed = [item["path"] for item in world.must("list", "--json").json["relocated"]] if number % 5 == 0 else None
        assert listed in (None, [str(cache)] if is_moved else []), where
        ends["over" if was_over else "finished" if is_moved == (verb == "relocate") else "undone"] += 1
    with capsys.disabled():
        print(f"; {ends} ", end="")
    assert ends["undone"] > 0
    code, _ = world.stop()
    assert code == 0


def test_a_kill_of_survivectl_itself_is_recovered_by_the_daemon(world: World) -> None:
    """A move that survivectl does without a daemon is undone or finished by the daemon's next start."""
    cache = world.fill(world.cache / "pip", 20, files=3000)
    before = snapshot(cache)
    client = world.spawn("relocate", "pip", module="survived.ctl.main")
    wait_until(lambda: any((world.disks[0] / "survived/staging").glob("*/tree/*")), step=0.001)
    client.kill()
    client.wait()
    assert snapshot(cache) == before
    world.start()
    world.wait_idle()
    assert snapshot(cache) == before
    assert world.leftovers() == []


# ---- SIGTERM ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["relocate", "restore"])
def test_sigterm_in_the_middle_of_a_copy_ends_soon_and_is_cleaned_up(world: World, verb: str) -> None:
    """It ends within 5 s with exit code 0, every byte in place; nothing is left after that or after the next start."""
    cache = world.fill(world.cache / "pip", 30, files=8000)
    world.start()
    if verb == "restore":
        wait_done(world, ask_for(world, "relocate"))
    names = {path.relative_to(cache) for path in cache.rglob("*")}
    ask_for(world, verb)
    wait_until(lambda: (move := world.status()["move"]) is not None and move["files_done"] > 1000, step=0.005, what=world.log)
    code, seconds = world.stop()
    print(f"ended {seconds:.2f} s after SIGTERM")
    assert (code, seconds < 5.0) == (0, True), (seconds, world.log())
    assert cache.is_symlink() == (verb == "restore")
    assert {path.relative_to(cache) for path in cache.rglob("*")} == names
    assert not (world.run / "survived/control.sock").exists()

    world.start()
    world.wait_idle()
    assert world.leftovers() == []
    assert {path.relative_to(cache) for path in cache.rglob("*")} == names
    wait_done(world, ask_for(world, verb))
    assert {path.relative_to(cache) for path in cache.rglob("*")} == names


def test_sigterm_on_a_quiet_day_ends_at_once(world: World) -> None:
    """Nothing runs: the daemon is gone within a second, with its socket."""
    world.start()
    code, seconds = world.stop()
    assert (code, seconds < 1.0) == (0, True), seconds
    assert not (world.run / "survived/control.sock").exists()


# ---- two at once ------------------------------------------------------------------------------------------------------


def test_the_second_of_two_daemons_ends_with_a_sentence(world: World) -> None:
    """It names the first by its pid, exits 1, and the first goes on."""
    first = world.start()
    second = world.spawn()
    assert second.wait(10) == 1
    last = world.log().splitlines()[-1]
    assert f"Another survived is running (pid {first})" in last
    assert "Traceback" not in world.log()
    assert world.status()["daemon"]["pid"] == first


def test_a_second_daemon_ends_though_the_socket_of_the_first_is_gone(world: World) -> None:
    """As in the instant between two starts, or after somebody tidied the runtime directory: the lock file decides."""
    first = world.start()
    (world.run / "survived/control.sock").unlink()
    assert world.spawn().wait(10) == 1
    assert f"Another survived is running (pid {first})" in world.log().splitlines()[-1]


def test_of_daemons_that_start_in_the_same_instant_one_stays(world: World) -> None:
    """Whoever comes first, though a stale socket lies there: exactly one stays and can be asked."""
    for _ in range(3):
        (world.run / "survived").mkdir(mode=0o700, exist_ok=True)
        with socket.socket(socket.AF_UNIX) as stale, suppress(FileExistsError):
            (world.run / "survived/control.sock").unlink(missing_ok=True)
            stale.bind(str(world.run / "survived/control.sock"))
        daemons = [world.spawn() for _ in range(3)]
        try:
            wait_until(lambda daemons=daemons: sum(daemon.poll() is None for daemon in daemons) <= 1, 10, what=world.log)  # type: ignore[misc]
            (alive,) = [daemon for daemon in daemons if daemon.poll() is None]
            assert [daemon.returncode for daemon in daemons if daemon is not alive] == [1, 1]

            def asked(pid: int = alive.pid) -> bool:
                with suppress(SurvivedError):
                    return bool(world.status()["daemon"]["pid"] == pid)
                return False

            wait_until(asked, what=world.log)
        finally:
            for daemon in daemons:
                daemon.kill()
                daemon.wait()
    assert "Traceback" not in world.log()


def test_a_daemon_with_another_runtime_directory_does_not_touch_a_locked_store(world: World, tmp_path: Path) -> None:
    """A daemon that another one keeps from its only store says so in its status and moves nothing."""
    cache = world.fill(world.cache / "pip", 10)
    world.configure(caches={"pip": {"limit": "1 MiB", "move": False}})
    first = world.start()
    world.configure(caches={"pip": {"limit": "1 MiB"}})
    other = World.beside(world, tmp_path / "run2")
    with other:
        other.start()
        wait_until(lambda: other.status()["problems"], what=other.log)
        assert f"another survived (pid {first}) is working with it" in other.status()["problems"][0]
        other.stays_home(cache, 1.5)


def test_without_a_daemon_a_store_that_somebody_holds_is_left_alone(world: World) -> None:
    """survivectl relocate says who holds the store, exits 1 and changes nothing; afterwards it works."""
    world.fill(world.cache / "uv", 2)
    world.must("relocate", "uv-cache")
    cache = world.fill(world.cache / "pip", 2)
    with open(world.disks[0] / "survived/LOCK", "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(b"4711\n")
        lock.flush()
        for words in (("relocate", "pip"), ("restore", "uv-cache"), ("recover",)):
            answer = world.ctl(*words)
            assert answer.rc == 1, answer
            assert "another survived (pid 4711) is working with it. Nothing was changed." in answer.err
            assert answer.out == ""
        assert world.ctl("status").rc == 3
        assert world.ctl("list").rc == 0
    assert not cache.is_symlink()
    world.must("relocate", "pip")
    assert cache.is_symlink()


# ---- SIGHUP -----------------------------------------------------------------------------------------------------------


def test_sighup_takes_a_good_configuration_whole_and_a_bad_one_not_at_all(world: World, tmp_path: Path) -> None:
    """A good file changes the marks; a broken one changes nothing, is a problem in status, a notice, and exit code 6."""
    with receivers(tmp_path / "receivers") as servers:
        notify = {"urls": [servers.url("http")], "timeout": "10s"}
        world.configure(notify=notify)
        pid = world.start()

        def marks() -> tuple[float, float]:
            (fs,) = world.status()["filesystems"]
            return fs["high"], fs["low"]

        assert marks() == (0.6, 0.4)
        world.configure(watch={"high": "70%", "low": "30%"}, notify=notify)
        os.kill(pid, signal.SIGHUP)
        wait_until(lambda: marks() == (0.7, 0.3), what=world.log)

        world.configure(watch={"high": "20%", "low": "30%", "dwel": "3s"}, notify=notify)
        os.kill(pid, signal.SIGHUP)
        wait_until(lambda: world.status()["problems"], what=world.log)
        (problem,) = world.status()["problems"]
        assert "dwel" in problem
        assert marks() == (0.7, 0.3)
        wait_until(lambda: servers.received("http"), what=world.log)
        answer = world.ctl("reload")
        assert (answer.rc, "dwell" in answer.err) == (6, True), answer
        assert world.ctl("status").out.splitlines()[0].startswith("TROUBLE")

        world.config.write_text("[watch\n")
        os.kill(pid, signal.SIGHUP)
        wait_until(lambda: "dwel" not in str(world.status()["problems"]), what=world.log)
        assert world.status()["problems"]
        assert marks() == (0.7, 0.3)

        world.configure(notify=notify)
        world.must("reload")
        assert (marks(), world.status()["problems"], world.status()["daemon"]["pid"]) == ((0.6, 0.4), [], pid)
    assert "Traceback" not in world.log()


def is_hot(store: Path) -> bool:
    """Tell whether the rollback journal of a store's state.db holds anything: it is truncated when a write is complete."""
    path = store / "state.db-journal"
    return path.exists() and path.stat().st_size > 0
