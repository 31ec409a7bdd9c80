"""Bad days: what is wrong is said once in a sentence, the daemon lives on where it can, and nothing is lost."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.rig.disks import Disks, small_and_data_disks
from tests.rig.world import MIB, ROOT, Answer, World, wait_until

pytestmark = pytest.mark.real

Repair = Callable[[], object]
UID = 12345
DROP = (
    "setpriv",
    f"--reuid={UID}",
    f"--regid={UID}",
    "--clear-groups",
    "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
)
"""An ordinary user who may also read everything: the interpreter can lie in a private home (pyenv)."""
STAMP = re.compile(r"^\S+ \S+ ")


@pytest.fixture
def folder(needs_root_mounts: None) -> Iterator[Path]:
    """Return a folder that everybody may enter, which pytest's own is not, with a path that is short enough for titles."""
    with tempfile.TemporaryDirectory(prefix="bad", ignore_cleanup_errors=True) as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.fixture
def world(folder: Path) -> Iterator[World]:
    """Return a sandbox of 100 MB with a data disk of 150 MB."""
    with (
        small_and_data_disks(folder, small="100M", data="150M") as disks,
        World(disks.small, (disks.data,), folder / "run") as made,
    ):
        yield made


def digest(tree: Path) -> str:
    """Return one number for the names and contents of a tree, seen through a link at its top."""
    total = hashlib.sha256()
    for path in sorted(tree.rglob("*") if not tree.is_symlink() else tree.resolve().rglob("*")):
        total.update(os.fsencode(path.name) + (path.read_bytes() if path.is_file() else b"/"))
    return total.hexdigest()


def stamp(path: Path) -> tuple[int, ...]:
    """Return what tells whether an entry was touched."""
    found = os.lstat(path)
    return found.st_ino, found.st_mode, found.st_mtime_ns, found.st_ctime_ns


def repeated(world: World) -> dict[str, int]:
    """Return the lines that the log says more than once, without those of reloads."""
    lines = Counter(STAMP.sub("", line) for line in world.log().splitlines())
    return {line: count for line, count in lines.items() if count > 1 and "was read again" not in line}


def one_sentence(answer: Answer) -> str:
    """Return the sentence of a failure, which stands alone but for a hint."""
    first, *rest = answer.err.splitlines()
    assert len(rest) <= 1, answer.err
    assert first.startswith("survivectl: "), first
    return first.removeprefix("survivectl: ")


def look_again(world: World) -> None:
    """Have the data disks read and everything measured again now; the small trees here take a few hundredths of a second."""
    world.ask("reload")
    for _ in range(8):
        time.sleep(0.05)
        world.ask("status")  # wakes the loop, which would sleep up to a minute on a quiet day


def wait_looking(world: World, condition: Callable[[], bool], timeout: float = 20.0) -> None:
    """Have everything looked at again until a condition is true."""

    def holds() -> bool:
        look_again(world)
        return condition()

    wait_until(holds, timeout, what=world.log)


# ---- the data disk --------------------------------------------------------------------------------------------------


def read_only(world: World) -> Repair:
    """Mount it read-only."""
    world.data[0].remount("ro")
    return lambda: world.data[0].remount("rw")


def somebody_elses(world: World) -> Repair:
    """Give the store to another user."""
    store = world.disks[0] / "survived"
    os.chown(store, UID, UID)
    return lambda: os.chown(store, 0, 0)


def without_marker(world: World) -> Repair:
    """Take the marker file away."""
    marker = world.disks[0] / "survived/STORE"
    aside = marker.rename(world.disks[0] / "aside")
    return lambda: aside.rename(marker)


def strange_marker(world: World) -> Repair:
    """Overwrite the marker file."""
    marker = world.disks[0] / "survived/STORE"
    before = marker.read_bytes()
    marker.write_text("once upon a time")
    return lambda: marker.write_bytes(before)


def torn_database(world: World) -> Repair:
    """Overwrite the journal with noise."""
    database = world.disks[0] / "survived/state.db"
    before = database.read_bytes()
    database.write_bytes(os.urandom(len(before)))
    return lambda: database.write_bytes(before)


def newer_database(world: World) -> Repair:
    """Let a later version have written the journal."""
    database = world.disks[0] / "survived/state.db"
    before = database.read_bytes()
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    return lambda: database.write_bytes(before)


def not_mounted(world: World) -> Repair:
    """Unmount it: what is left is the empty mount point on another disk."""
    subprocess.run(["umount", world.data[0].path], check=True)
    return lambda: subprocess.run(["mount", "-o", "loop,noatime", world.data[0].image, world.data[0].path], check=True)


def full(world: World) -> Repair:
    """Leave not a block on it."""
    world.data[0].fill_bytes()
    return world.data[0].empty


STATES: dict[Callable[[World], Repair], tuple[int, str]] = {
    read_only: (4, "is mounted read-only"),
    somebody_elses: (4, f"belongs to another user \\(uid {UID}\\)"),
    without_marker: (4, "has no marker file STORE"),
    strange_marker: (4, "marker .* cannot be read"),
    torn_database: (1, "file is not a database"),
    newer_database: (1, "written by a newer survived"),
    not_mounted: (4, "is gone: is another disk mounted there|is not there: is the disk mounted"),
    full: (4, "available"),
}


@pytest.mark.parametrize("spoil", STATES, ids=lambda spoil: spoil.__name__)
def test_a_data_disk_that_cannot_be_used(spoil: Callable[[World], Repair], world: World) -> None:
    """Under pressure with a useless data disk nothing moves and nothing is lost; each thing is said once; repaired, it moves."""
    rc, why = STATES[spoil]
    pip = world.fill(world.cache / "pip", 10)
    world.must("relocate", "pip")  # so that the store exists
    world.must("restore", "pip")
    before = digest(pip)
    repair = spoil(world)
    points = sorted(os.listdir(world.data[0].path))
    world.small.fill_bytes(0.8)
    world.start()
    wait_until(lambda: world.status()["pressure"] == "high", what=world.log)
    for _ in range(4):
        look_again(world)
    status = world.must("status").out
    assert status.startswith("HIGH")
    assert not pip.is_symlink()
    answer = world.ctl("relocate", "pip")
    assert answer.rc == rc
    assert re.search(why, one_sentence(answer))
    check = world.ctl("check")
    if spoil is not full:
        assert world.status()["stores"][0]["ok"] is False
        assert check.rc == 1
        assert re.search(why, " ".join(check.out.split()))
    assert (digest(pip), sorted(os.listdir(world.data[0].path))) == (before, points)
    asked_for = {line for line in repeated(world) if line.startswith("warning: Cannot move")}
    assert repeated(world).keys() - asked_for == set()
    repair()
    wait_looking(world, pip.is_symlink)
    assert digest(pip) == before
    assert world.stop()[0] == 0


def test_a_data_disk_that_goes_away_and_comes_back(world: World) -> None:
    """While it is away its caches are dangling and nothing is written to the mount point; back, all is as before."""
    pip = world.fill(world.cache / "pip", 10)
    before = digest(pip)
    world.start()
    world.must("relocate", "pip")
    subprocess.run(["umount", "--lazy", world.data[0].path], check=True)
    wait_looking(world, lambda: bool(world.known("pip")["state"] == "dangling"))
    assert world.must("status").out.startswith("TROUBLE")
    for words, rc in (
        (("restore", "pip"), 4),
        (("restore", "--all"), 4),
        (("relocate", "pip"), 4),
        (("list",), 1),
        (("check",), 1),
    ):
        answer = world.ctl(*words)
        assert (answer.rc, "Nothing is relocated" in answer.out) == (rc, False), words
    assert list(world.data[0].path.iterdir()) == []
    subprocess.run(["mount", "-o", "loop,noatime", world.data[0].image, world.data[0].path], check=True)
    wait_looking(world, lambda: bool(world.known("pip")["state"] == "relocated"))
    assert world.must("status").out.startswith("OK")
    assert digest(pip) == before
    world.must("restore", "--all")
    assert (digest(pip), pip.is_symlink(), world.leftovers()) == (before, False, [])
    log = world.log()
    assert (log.count("has vanished"), log.count("is back")) == (1, 1), log


@pytest.mark.parametrize("where", ["/", "the watched filesystem"])
def test_a_data_disk_that_is_none(where: str, world: World) -> None:
    """`/` itself and a directory on the watched filesystem are refused, and no store is made there."""
    disk = "/" if where == "/" else str(world.home / "data")
    world.configure(data={"disks": [disk]})
    had = os.path.lexists("/survived")
    pip = world.fill(world.cache / "pip", 5)
    world.start()
    assert world.status()["stores"][0]["ok"] is False
    answer = world.ctl("relocate", "pip")
    assert (answer.rc, pip.is_symlink()) == (4, False)
    assert re.search("is no data disk|on the same filesystem", one_sentence(answer))
    assert world.ctl("check").rc == 1
    assert os.path.lexists("/survived") == had
    assert not (world.home / "data").exists()


# ---- configuration --------------------------------------------------------------------------------------------------


MISTAKES = {
    "unknown key": ('[watch]\nhihg = "90%"\n', "Did you mean 'watch.high'"),
    "unknown table": ('[wacth]\nhigh = "90%"\n', "Did you mean 'watch'"),
    "wrong type": ("[watch]\ndwell = [1]\n", "watch.dwell"),
    "high below low": ('[watch]\nhigh = "40%"\nlow = "50%"\n', "must be below"),
    "misspelt cache": ('[caches.pipp]\nlimit = "1 GiB"\n', r"Did you mean \[caches.pip\]"),
    "no TOML": ("[watch\n", "is not TOML"),
    "no Apprise URL": ('[notify]\nurls = ["garbage:pa55word"]\n', "no Apprise URL"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_configuration(mistake: str, world: World) -> None:
    """Daemon and client end with 6 and one sentence that names the nearest right word; a secret is not shown."""
    text, sentence = MISTAKES[mistake]
    world.config.write_text(text)
    daemon = world.spawn()
    assert daemon.wait(10) == 6
    assert re.search(sentence, world.log())
    assert len(world.log().splitlines()) == 1
    for words in (("check",), ("plan",), ("relocate", "pip")):
        answer = world.ctl(*words)
        assert answer.rc == 6
        assert re.search(sentence, one_sentence(answer))
        assert "pa55word" not in answer.err + world.log()


def test_secrets_that_others_may_read(world: World) -> None:
    """A configuration with Apprise URLs has to be private; the sentence is the command that makes it so."""
    world.configure(notify={"urls": ["json://127.0.0.1:9/pa55word"]})
    world.config.chmod(0o640)
    answer = world.ctl("check")
    assert (answer.rc, "pa55word" in answer.err) == (6, False)
    assert f"chmod 600 {world.config}" in answer.err
    world.config.chmod(0o600)
    assert "pa55word" not in world.ctl("check").out


def test_a_reload_with_a_wrong_configuration_keeps_the_old_one(world: World) -> None:
    """`reload` ends with 6, SIGHUP is told of in status; the daemon goes on with what it had until the file is right."""
    pid = world.start()
    right = world.config.read_text()
    world.config.write_text(right.replace("high", "hihg"))
    answer = world.ctl("reload")
    assert (answer.rc, "watch.hihg" in one_sentence(answer)) == (6, True)
    os.kill(pid, signal.SIGHUP)
    wait_until(lambda: world.status()["problems"])
    assert "The old configuration stays in use" in " ".join(world.must("status").out.split())
    assert world.status()["filesystems"][0]["high"] == 0.6
    assert repeated(world) == {}
    world.config.write_text(right.replace('"60%"', '"70%"'))
    world.must("reload")
    assert (world.status()["problems"], world.status()["filesystems"][0]["high"]) == ([], 0.7)


# ---- the daemon and its socket ----------------------------------------------------------------------------------------


def test_two_daemons(world: World, folder: Path) -> None:
    """The second ends with 1; one with another runtime directory finds the store's lock taken, and moves nothing."""
    pid = world.start()
    second = world.spawn()
    assert second.wait(10) == 1
    assert f"Another survived is running (pid {pid})" in world.log()
    assert world.status()["daemon"]["pid"] == pid
    with World.beside(world, folder / "run2") as other:
        pip = world.fill(world.cache / "pip", 60)
        world.must("pause")
        other.start()
        for _ in range(3):
            look_again(other)
        assert (pip.is_symlink(), f"(pid {pid}) is working with it" in other.log()) == (False, True)
        assert repeated(other) == {}
        answer = other.ctl("relocate", "pip")
        assert (answer.rc, "is working with it" in one_sentence(answer)) == (1, True)
    world.must("resume")
    world.wait_link(pip)


def test_a_stale_socket(world: World) -> None:
    """After a power cut the socket file is still there: clients say that nobody runs, and the next daemon takes it."""
    world.start()
    world.kill()
    assert (world.run / "survived/control.sock").is_socket()
    assert (world.ctl("pause").rc, world.ctl("status").rc) == (3, 3)
    world.start()
    assert world.ctl("status").rc == 0


@pytest.mark.parametrize("what", ["file", "directory", "foreign"])
def test_a_place_for_the_socket_that_is_none(what: str, world: World) -> None:
    """A file, a directory or somebody else's directory there is left alone: the daemon ends with 1 and one sentence."""
    folder = world.run / "survived"
    folder.mkdir(mode=0o700)
    if what == "foreign":
        os.chown(folder, UID, UID)
    else:
        getattr(folder / "control.sock", "touch" if what == "file" else "mkdir")()
    daemon = world.spawn()
    assert daemon.wait(10) == 1
    (line,) = [line for line in world.log().splitlines() if "error: " in line]
    assert "Cannot listen on" in line
    assert (world.ctl("pause").rc, world.ctl("status").rc) == (3, 3)
    assert folder.stat().st_uid == (UID if what == "foreign" else 0)
    assert (folder / "control.sock").exists() == (what != "foreign")


def test_a_daemon_with_everything_closed(world: World) -> None:
    """Without stdin, stdout and stderr nothing of the log ends up in a file that got the number 2."""
    world.fill(world.cache / "pip", 60)
    time.sleep(0.6)  # `--once` waits for nothing to settle
    script = f"exec {sys.executable} -m survived --once <&- >&- 2>&-"
    done = subprocess.run(
        ["bash", "-c", script], env={**world.env, "PYTHONPATH": str(ROOT)}, cwd=world.run, timeout=60, check=False
    )
    assert done.returncode == 0
    assert (world.cache / "pip").is_symlink()
    store = world.disks[0] / "survived"
    connection = sqlite3.connect(store / "state.db")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    assert re.fullmatch(r"\d+\n", (store / "LOCK").read_text())
    assert json.loads((store / "STORE").read_text())["uid"] == 0


def test_a_systemd_that_is_not_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an environment says of systemd and the journal may be stale or nonsense: the daemon works all the same."""
    nonsense = {"NOTIFY_SOCKET": "/nonexistent/notify", "JOURNAL_STREAM": "1:2", "WATCHDOG_USEC": "soon", "WATCHDOG_PID": "x"}
    env = {**world.env, **nonsense}
    monkeypatch.setattr(World, "env", env)
    pip = world.fill(world.cache / "pip", 60)
    world.start()
    world.wait_link(pip)
    assert world.stop()[0] == 0


def test_sigterm_twice(world: World) -> None:
    """Whoever asks twice gets an end at once; the path is whole, and the next daemon tidies up by itself."""
    pip = world.fill(world.cache / "pip", 20)
    before = digest(pip)
    world.start()
    world.ask("relocate", what="pip")
    assert world.daemon is not None
    for _ in range(2):
        world.daemon.send_signal(signal.SIGTERM)
        time.sleep(0.02)
    assert world.daemon.wait(6) in (0, 1, -signal.SIGTERM)
    assert digest(pip) == before
    world.start()
    world.wait_idle()
    assert (digest(pip), world.leftovers()) == (before, [])


def test_it_does_not_hold_the_disk_it_was_started_on(world: World) -> None:
    """A daemon started by hand leaves its working directory, which may be on the very disk that is to be unmounted."""
    world.start()
    assert world.daemon is not None
    assert os.readlink(f"/proc/{world.daemon.pid}/cwd") == "/"


# ---- the caches -------------------------------------------------------------------------------------------------------


def link_elsewhere(pip: Path) -> None:
    """Somebody moved it by hand already."""
    (pip.parent / "mine").mkdir()
    pip.symlink_to(pip.parent / "mine")


def dangling_link(pip: Path) -> None:
    """A link that leads nowhere."""
    pip.symlink_to("/nonexistent/pip")


def link_to_a_file(pip: Path) -> None:
    """A link to something that is no directory."""
    pip.symlink_to("/etc/hostname")


def plain_file(pip: Path) -> None:
    """A file where a directory should be."""
    pip.write_bytes(bytes(2 * MIB))


def mount_point(pip: Path) -> None:
    """Something is mounted right there."""
    pip.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", pip], check=True)


def mount_below(pip: Path) -> None:
    """Something is mounted below it."""
    (pip / "deep/er").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", pip / "deep/er"], check=True)


ODD: dict[Callable[[Path], None], tuple[str, str]] = {
    link_elsewhere: ("already_link", "it is a link already, to '"),
    dangling_link: ("already_link", "it is a link already, to '/nonexistent/pip'"),
    link_to_a_file: ("already_link", "it is a link already"),
    plain_file: ("not_a_directory", "it is not a directory"),
    mount_point: ("mount_point", "mount point"),
    mount_below: ("mount_point", "mount point"),
}


@pytest.mark.parametrize("make", ODD, ids=lambda make: make.__name__)
def test_a_cache_that_cannot_be_moved(make: Callable[[Path], None], world: World) -> None:
    """Asked for it is refused with its reason; under pressure the daemon leaves it alone and says so once."""
    reason, sentence = ODD[make]
    pip = world.cache / "pip"
    make(pip)
    try:
        before = stamp(pip)
        alone = world.ctl("relocate", "pip", "--json")
        world.small.fill_bytes(0.8)
        world.start()
        for _ in range(4):
            look_again(world)
        asked = world.ctl("relocate", "pip", "--json")
        for answer in (alone, asked):
            assert (answer.rc, answer.json["error"]["reason"]) == (4, reason)
            assert sentence in one_sentence(answer)
        assert stamp(pip) == before
        assert "pip" in world.reasons()
        assert repeated(world) == {}
        assert world.leftovers() == []
    finally:
        for place in (pip, pip / "deep/er"):
            subprocess.run(["umount", place], check=False, capture_output=True)


def test_a_cache_that_vanishes(world: World) -> None:
    """Removed by its tool while it is measured and copied: a sentence, no remains, and the daemon lives."""
    pid = world.start()
    for number in range(3):
        pip = world.fill(world.cache / "pip", 4, files=2000, seed=number)
        gone = threading.Thread(target=lambda path=pip: shutil.rmtree(path, ignore_errors=True))
        asked = world.ask("relocate", what="pip")
        time.sleep(0.02 * number)
        gone.start()
        answer = world.ctl("measure", "pip", "--json")
        assert (answer.rc in (0, 1), answer.json["schema"]) == (True, 1)
        gone.join()
        wait_until(lambda asked=asked: world.ask("request", number=asked["number"])["state"] in ("done", "failed"), what=world.log)  # type: ignore[misc]
        if pip.is_symlink():
            world.must("restore", "pip")
        shutil.rmtree(pip, ignore_errors=True)
    world.fill(world.cache / "pip", 1)  # nothing at the path while a copy is there is for a person to judge
    world.must("recover")
    assert world.status()["daemon"]["pid"] == pid
    assert "Traceback" not in world.log()
    assert world.leftovers() == []


def test_restore_all_goes_on(world: World) -> None:
    """One that cannot come home does not keep the others away; the exit code is the first failure's."""
    trees = {name: world.fill(world.cache / name, 3) for name in ("pip", "uv", "huggingface/hub")}
    before = {name: digest(tree) for name, tree in trees.items()}
    for name in ("pip", "uv-cache", "hf-hub"):
        world.must("relocate", name)
    target = os.readlink(trees["pip"])
    trees["pip"].unlink()
    trees["pip"].mkdir()  # its tool made a new one
    for daemon in (False, True):
        if daemon:
            world.must("relocate", "uv-cache")
            world.start()
        answer = world.ctl("restore", "--all", "--json")
        assert answer.rc == 1
        outcome = {item["path"]: item.get("error", {}).get("exit_code", 0) for item in answer.json["results"]}
        assert outcome[str(trees["pip"])] == 1
        assert outcome[str(trees["uv"])] == 0
        assert "it is not the link that survived left there" in one_sentence(answer)
        assert (digest(trees["uv"]), trees["uv"].is_symlink()) == (before["uv"], False)
    assert digest(Path(target)) == before["pip"]


@pytest.mark.parametrize("daemon", [False, True], ids=["alone", "through the daemon"])
@pytest.mark.parametrize("verb", ["relocate", "restore"])
def test_ctrl_c(verb: str, daemon: bool, world: World) -> None:
    """In the middle of a move Ctrl-C ends with 130 and one sentence; the path is whole and nothing is left behind."""
    world.configure(move={"settle": "20s"})  # a fresh tree is waited for: the middle is long
    pip = world.fill(world.cache / "pip", 5)
    if verb == "restore":
        subprocess.run(["find", pip, "-exec", "touch", "-d", "2020-01-01", "{}", "+"], check=True)
        world.must("relocate", "pip")
    before = digest(pip)
    if daemon:
        world.start()
    toucher = threading.Event()

    def touch() -> None:
        while not toucher.wait(0.1):
            (pip / "still at work").write_text(str(time.time()))
        (pip / "still at work").unlink()

    worker = threading.Thread(target=touch)
    worker.start()
    try:
        words = [sys.executable, "-m", "survived.ctl.main", verb, "pip"]
        env = {**world.env, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(words, env=env, cwd=world.run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
            wait_until(world.leftovers, what=world.log)  # a copy is begun; it waits for quiet then
            time.sleep(0.3)
            client.send_signal(signal.SIGINT)
            out, err = client.communicate(timeout=20)
    finally:
        toucher.set()
        worker.join()
    assert (client.returncode, out) == (130, "")
    assert one_sentence(Answer(130, out, err)).startswith("Stopped")
    assert (digest(pip), pip.is_symlink()) == (before, verb == "restore")
    if not daemon:
        world.must("recover")
    wait_until(lambda: not world.leftovers(), what=lambda: world.leftovers())


# ---- an ordinary user on a disk without a block or an inode -------------------------------------------------------------


class Unprivileged(World):
    """The sandbox of an ordinary user, for whom no blocks are reserved."""

    def __init__(self, disks: Disks, run: Path) -> None:
        super().__init__(disks.small, (disks.data,), run)
        self.give()

    def __enter__(self) -> Unprivileged:
        return self

    def give(self) -> None:
        """Make everything the user's."""
        for place in (self.home, self.run, *self.disks):
            subprocess.run(["chown", "-R", f"{UID}:{UID}", place], check=True)

    def spawn(self, *words: str, module: str = "survived") -> subprocess.Popen[bytes]:
        """Start it as the user."""
        env = {**self.env, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        with open(self.run / "log", "ab") as log:
            command = [*DROP, sys.executable, "-m", module, *words]
            return subprocess.Popen(command, env=env, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def ctl(self, *words: str, timeout: float = 90.0) -> Answer:
        """Run survivectl as the user."""
        return self.ctl_with({}, *words, timeout=timeout)

    def ctl_with(self, changes: dict[str, str | None], *words: str, timeout: float = 90.0) -> Answer:
        """Run survivectl as the user in another environment; None takes a variable away."""
        env = {key: value for key, value in {**self.env, "PYTHONPATH": str(ROOT), **changes}.items() if value is not None}
        command = [*DROP, sys.executable, "-m", "survived.ctl.quick", *words]
        done = subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, timeout=timeout, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return Answer(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def user(folder: Path) -> Iterator[Unprivileged]:
    """Return the sandbox of an ordinary user on 40 MB and 600 inodes."""
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv")
    with small_and_data_disks(folder, small="40M", data="100M", inodes=600) as disks, Unprivileged(disks, folder / "run") as made:
        yield made


@pytest.mark.parametrize("short", ["bytes", "inodes", "both"])
def test_not_a_block_or_an_inode_left(short: str, user: Unprivileged) -> None:
    """Even the link finds no room: the ballast is given up for it, the move is done, and the ballast comes back."""
    pip = user.fill(user.cache / "pip", 15, files=60)
    user.give()
    before = digest(pip)
    user.start()
    ballast = user.home / ".local/state/survived/ballast"
    wait_until(ballast.exists, what=user.log)
    assert ballast.stat().st_blocks * 512 >= MIB
    if short != "bytes":
        user.small.fill_inodes(keep=0 if short == "inodes" else 1)
    if short != "inodes":
        user.small.fill_bytes()  # takes the inode that is left
        assert os.statvfs(user.small.path).f_bavail == 0
    assert short == "bytes" or os.statvfs(user.small.path).f_favail == 0
    wait_looking(user, pip.is_symlink)
    user.wait_idle()
    assert digest(pip) == before
    log = user.log()
    assert "Traceback" not in log
    assert log.count("pip relocated") == 1
    user.small.empty()
    wait_looking(user, ballast.exists)
    assert user.ctl("restore", "pip").rc == 0
    assert digest(pip) == before


def test_a_full_disk_and_no_daemon(user: Unprivileged) -> None:
    """survivectl alone, without ballast, fails with a sentence and leaves everything as it was; with a little room it moves."""
    pip = user.fill(user.cache / "pip", 15, files=60)
    user.give()
    before = digest(pip)
    user.small.fill_inodes(keep=1)
    user.small.fill_bytes()
    answer = user.ctl("relocate", "pip")
    # Nobody laid a ballast before it was full: the engine sees that at once, or when not even the link finds room.
    assert (answer.rc in (1, 4), digest(pip), pip.is_symlink()) == (True, before, False)
    assert re.match("Cannot (relocate|move) ", one_sentence(answer))
    for number in range(8):
        (user.small.path / ".inodes" / f"{number}").unlink()
    (pip / "00/0/00000").unlink()
    left = digest(pip)
    answer = user.ctl("relocate", "pip")
    assert (answer.rc, digest(pip), pip.is_symlink()) == (0, left, True), answer


def test_a_user_without_an_account(user: Unprivileged) -> None:
    """No HOME and no line in the password database is one sentence, for the client and for the daemon."""
    answer = user.ctl_with({"HOME": None}, "status")
    assert (answer.rc, "HOME is not set" in one_sentence(answer)) == (1, True)
    assert user.ctl_with({"HOME": "/nonexistent"}, "status").rc == 3
