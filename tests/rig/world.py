"""A survived of its own for one test: real disks, a home on the small one, the daemon and survivectl as real processes."""

from __future__ import annotations

import copy
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from survived.errors import SurvivedError
from survived.machine import SCHEMA
from survived.store.database import Database
from survived.store.journal import Journal
from survived.tell.control import ControlClient

if TYPE_CHECKING:
    from collections.abc import Callable

    from survived.model import Operation
    from tests.rig.disks import Disk

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
MIB = 1024**2
KEPT = ("PATH", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
"""What a process inside gets of our environment: nothing that names a cache, a home or an index."""


class Answer(NamedTuple):
    """What survivectl answered."""

    rc: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one object on stdout."""
        return json.loads(self.out)


def wait_until(condition: Callable[[], T], timeout: float = 20.0, *, step: float = 0.02, what: Callable[[], object] = str) -> T:
    """Return the first true value of `condition`; AssertionError with `what()` if there is none in time."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, f"not true within {timeout:g} s\n{what()}"
        time.sleep(step)
    return value


class World:
    """The sandbox. The runtime directory and the log are in `run`, on neither disk; a context manager that ends its daemon."""

    def __init__(self, small: Disk, data: tuple[Disk, ...], run: Path) -> None:
        self.small, self.data, self.run = small, data, run
        self.home = small.path / "home"
        self.cache = self.home / ".cache"
        self.config = self.home / ".config/survived/config.toml"
        self.disks = tuple(disk.path / "me" for disk in data)
        self.daemon: subprocess.Popen[bytes] | None = None
        for place in (self.cache, self.config.parent, run, *self.disks):
            place.mkdir(mode=0o700, parents=True)
        self.configure()

    @classmethod
    def beside(cls, other: World, run: Path) -> World:
        """Return the same disks, home and configuration for a daemon with another runtime directory."""
        world = copy.copy(other)
        world.run, world.daemon = run, None
        run.mkdir(mode=0o700)
        return world

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    # ---- what the user has ------------------------------------------------------------------------------------------

    @property
    def env(self) -> dict[str, str]:
        """The environment of everything inside."""
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        return {**kept, "HOME": str(self.home), "XDG_RUNTIME_DIR": str(self.run), "XDG_CONFIG_HOME": str(self.home / ".config")}

    def configure(self, **tables: dict[str, Any]) -> None:
        """Write a swift configuration with these tables' keys over it; a key that holds a dict is a table of its own."""
        marks = {"high": "60%", "low": "40%", "flood": "95%"}
        settings: dict[str, dict[str, Any]] = {
            "watch": {"filesystems": [str(self.small.path)], **marks, "dwell": "500ms", "cooldown": "500ms"},
            "data": {"disks": [str(disk) for disk in self.disks]},
            "move": {"min_size": "1 MiB", "settle": "500ms"},
            "notify": {"gather": "0s"},
        }
        lines: list[str] = []
        for name in dict.fromkeys((*settings, *tables)):
            table = {**settings.get(name, {}), **tables.get(name, {})}
            plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
            below = {f"{name}.{key}": value for key, value in table.items() if isinstance(value, dict)}
            for head, values in ({name: plain} | below).items():
                lines += [f"[{head}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        self.config.write_text("\n".join(lines) + "\n")
        self.config.chmod(0o600)

    def fill(self, path: Path, mib: float, files: int = 20, seed: int = 0) -> Path:
        """Make a tree of random content in nested folders; return its path."""
        choose = random.Random(f"{path} {seed}")
        size = int(mib * MIB / files)
        for number in range(files):
            folder = path / f"{number % 23:02x}" / f"{number % 7}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:05d}").write_bytes(choose.randbytes(size))
        return path

    # ---- the daemon -------------------------------------------------------------------------------------------------

    def spawn(self, *words: str, module: str = "survived") -> subprocess.Popen[bytes]:
        """Start `survived` (or survivectl, as survived.ctl.main) and return at once; what it says goes to the log."""
        command, env = [sys.executable, "-m", module, *words], {**self.env, "PYTHONPATH": str(ROOT)}
        with open(self.run / "log", "ab") as log:
            return subprocess.Popen(command, env=env, cwd=self.run, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def start(self, *words: str) -> int:
        """Start the daemon and wait until it has measured everything once; return its pid."""
        self.daemon = daemon = self.spawn(*words)

        def answers() -> bool:
            assert daemon.poll() is None, f"the daemon ended with {daemon.returncode}:\n{self.log()}"
            with suppress(SurvivedError):
                return bool(self.status()["daemon"]["pid"] == daemon.pid)
            return False

        wait_until(answers, what=self.log)
        wait_until(lambda: self.status()["caches"], what=self.log)
        return daemon.pid

    def kill(self) -> None:
        """End the daemon as a power cut would."""
        if self.daemon is not None:
            self.daemon.kill()
            self.daemon.wait()
            self.daemon = None

    def stop(self, timeout: float = 10.0) -> tuple[int, float]:
        """Ask the daemon to end; return its exit code and how long it took."""
        assert self.daemon is not None
        began = time.monotonic()
        self.daemon.send_signal(signal.SIGTERM)
        code = self.daemon.wait(timeout)
        self.daemon = None
        return code, time.monotonic() - began

    def log(self) -> str:
        """Everything that all daemons of this world have said."""
        return (self.run / "log").read_text(errors="replace")

    # ---- asking -----------------------------------------------------------------------------------------------------

    def ctl(self, *words: str, timeout: float = 90.0) -> Answer:
        """Run survivectl."""
        done = subprocess.run(
            [sys.executable, "-m", "survived.ctl.main", *words],
            env={**self.env, "PYTHONPATH": str(ROOT)}, cwd=self.run, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=timeout, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return Answer(done.returncode, done.stdout, done.stderr)

    def must(self, *words: str) -> Answer:
        """Run survivectl, which must succeed."""
        answer = self.ctl(*words)
        assert answer.rc == 0, f"{words}: {answer}\n{self.log()}"
        return answer

    def ask(self, method: str, **params: Any) -> Any:
        """Ask the daemon at its socket, without the half second that a process takes to start."""
        return ControlClient(str(self.run / "survived/control.sock"), 10.0).call(method, **params)

    def status(self) -> dict[str, Any]:
        """Return the daemon's status document."""
        return dict(self.ask("status"))

    def known(self, cache_id: str) -> dict[str, Any]:
        """Return one cache of the daemon's status."""
        (found,) = [cache for cache in self.status()["caches"] if cache["id"] == cache_id]
        return dict(found)

    def reasons(self) -> dict[str, str]:
        """Return the plan's reason for everything that stays, by id."""
        return {item["id"]: item["reason"] for item in self.must("plan", "--json").json["refusals"]}

    def wait_link(self, path: Path, timeout: float = 20.0) -> float:
        """Wait until a path is a link; return the moment, monotonic."""
        wait_until(path.is_symlink, timeout, what=lambda: f"{path} is no link; {self.ctl('plan').out}\n{self.log()}")
        return time.monotonic()

    def stays_home(self, path: Path, seconds: float) -> None:
        """Look for so long that a path remains a directory, though the daemon looks often enough to move it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert not path.is_symlink(), f"{path} was moved\n{self.log()}"
            time.sleep(0.05)

    def wait_idle(self, timeout: float = 20.0) -> None:
        """Wait until no move runs and the journal has no open operation."""
        wait_until(lambda: self.status()["move"] is None and not self.unfinished(), timeout, what=self.log)

    # ---- the store, read without its lock ---------------------------------------------------------------------------

    @property
    def stores(self) -> tuple[Path, ...]:
        """The stores that exist."""
        return tuple(store for disk in self.disks if (store := disk / "survived").is_dir())

    def unfinished(self) -> tuple[Operation, ...]:
        """Return the operations that are not at an end."""
        return tuple(item for store in self.stores for item in read_journal(store, Journal.open_operations))

    def leftovers(self) -> list[str]:
        """Return what moves left that they should not have: beside sources, in staging, trees that no link leads to."""
        found = [str(path) for path in self.home.rglob(".survived-*")]
        for store in self.stores:
            if not (store / "state.db").exists():  # it is being made
                continue
            found += [str(path) for path in (store / "staging").iterdir()]
            moved = read_journal(store, Journal.relocations)
            linked = {item.target for item in moved if os.path.realpath(item.source) == item.target}
            for folder, folders, files in os.walk(store / "trees"):
                if folder in linked:
                    folders.clear()
                elif files or not (folders or folder == str(store / "trees")):
                    found.append(folder)
        return found


def read_journal(store: Path, read: Callable[[Journal], tuple[T, ...]]) -> tuple[T, ...]:
    """Read a store's journal without its lock; a daemon that is just starting may still have to make or mend it."""
    end = time.monotonic() + 5.0
    while True:
        try:
            database = Database(str(store / "state.db"), SCHEMA, read_only=True)
            try:
                return read(Journal(database))
            finally:
                database.close()
        except SurvivedError:
            if time.monotonic() > end:
                raise
        time.sleep(0.02)
