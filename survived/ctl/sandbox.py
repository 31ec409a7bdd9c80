"""
The demo's sandbox: a small root disk and a data disk that nobody else has, with a daemon of their own.

Two tmpfs in a user namespace where the kernel lets us, else two directories on two real filesystems. Whatever runs
inside has HOME, the XDG directories and TMPDIR below the sandbox and nothing else of our environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any, Self

from survived.ctl.mailbox import Mailbox
from survived.errors import DaemonNotRunning, Refused, SurvivedError
from survived.model import Reason
from survived.observe.disks import is_below, read_mounts
from survived.tell.control import ControlClient

MIB = 1024**2
ROOT_BYTES, DATA_BYTES = 64 * MIB, 256 * MIB
HIGH_BYTES, LOW_BYTES, FLOOD_BYTES = 48 * MIB, 32 * MIB, 61 * MIB
"""The marks, counted from where the root disk stands when the demo begins: in a tmpfs of 64 MiB 75 %, 50 % and 95 %."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_UNSHARE = ("unshare", "-Urm", "--")  # short options: busybox has them, too
_ROOM = {"root": FLOOD_BYTES + MIB, "data": 128 * MIB}
_STOP_SECONDS = 6.0
_KEPT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "PYTHONHOME")
_CONFIG = """\
[watch]
filesystems = [{root}]
high = "{high}"
low = "{low}"
flood = "{flood}"
inodes_high = "200 free"
inodes_low = "300 free"
inodes_flood = "100 free"
dwell = "1s"
cooldown = "1s"
[data]
disks = [{disk}]
keep_free = "8 MiB"
[move]
min_size = "1 MiB"
settle = "500ms"
[notify]
urls = [{url}]
timeout = "20s"
gather = "0s"
"""


def find_place() -> tuple[str, bool]:
    """
    Return the directory to mount in, and whether it was made for that and is to be removed.

    In a namespace of our own a short and usual path can be covered without anybody noticing, unless something that we run
    lies there, or a mount that would be in the way.
    """
    needed = {sys.executable, sys.prefix, sys.base_prefix, os.getcwd(), *sys.path}
    needed |= {os.path.realpath(path) for path in needed}
    used = {*needed, *(mount.point for mount in read_mounts())}
    for place in ("/mnt", "/media", "/srv"):
        if os.path.isdir(place) and not os.path.islink(place) and not any(is_below(path, place) for path in used):
            return place, False
    for folder in (tempfile.gettempdir(), "/dev/shm", os.environ.get("XDG_RUNTIME_DIR")):  # noqa: S108  mkdtemp is safe there
        with contextlib.suppress(OSError):  # `/` may be full: that is what brings people here
            return tempfile.mkdtemp(prefix="survived-", dir=folder or None), True
    raise SurvivedError("Cannot make a sandbox: no temporary directory can be written. Nothing was started.", "Set TMPDIR.")


def may_unshare(place: str) -> bool:
    """Tell by trying whether a namespace of our own can be made and a tmpfs mounted in it: many a system forbids one of them."""
    try:
        return (
            subprocess.run((*_UNSHARE, *_mount(place, MIB)), capture_output=True, timeout=10, stdin=subprocess.DEVNULL).returncode
            == 0
        )
    except (OSError, subprocess.SubprocessError):
        return False


def _mount(place: str, size: int) -> tuple[str, ...]:
    return ("mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "survived", place)


def enter(words: list[str], descriptor: int) -> subprocess.Popen[bytes]:
    """
    Start survivectl with `words` in a namespace of its own, with one more descriptor open; mounts end with its last process.

    It starts with signals blocked, so that none comes before it can note it: see `demo.Alarm`.
    """
    command = [*_UNSHARE, sys.executable, "-m", "survived.ctl.main", *words]
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        return subprocess.Popen(command, env={**os.environ, **_python()}, pass_fds=(descriptor,))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _python() -> dict[str, str]:
    """Return what makes a child find the very modules that we run, though its HOME (and so pip's user site) is another."""
    return {"PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path if path.find(os.pathsep) < 0)}


@dataclass
class Sandbox:
    """The places, the environment and the daemon of one demo. A context manager: whatever happens, `close` is called."""

    root: str
    data: str
    marks: tuple[str, str, str]  # high, low, flood
    begin: int  # bytes available on the root disk before anything was written
    in_namespace: bool
    folders: tuple[str, ...] = ()  # what `close` removes
    mailbox: Mailbox = field(default_factory=Mailbox)
    daemon: subprocess.Popen[bytes] | None = None

    @classmethod
    def mounted(cls, folder: str) -> Sandbox:
        """Mount the two tmpfs; only inside a namespace of our own."""
        root, data = os.path.join(folder, "root"), os.path.join(folder, "data")
        for place, size in ((folder, MIB), (root, ROOT_BYTES), (data, DATA_BYTES)):
            os.makedirs(place, 0o700, exist_ok=True)
            done = subprocess.run(_mount(place, size), capture_output=True, text=True, check=False)
            if done.returncode:
                raise SurvivedError(f"Cannot mount '{place}': {done.stderr.strip()}. Nothing was started.", "Add --no-namespace.")
        high, low, flood = (f"{size * 100 // ROOT_BYTES}%" for size in (HIGH_BYTES, LOW_BYTES, FLOOD_BYTES))
        return cls(root, data, (high, low, flood), _available(root), in_namespace=True)

    @classmethod
    def on_disks(cls) -> Sandbox:
        """Make two directories on two real filesystems, the roomier one for the data; `Refused` where there are not two."""
        places = _places()
        for root in reversed(places):
            for data in places:
                if root.device == data.device or root.available < _ROOM["root"] or data.available < _ROOM["data"]:
                    continue
                folders = tuple(tempfile.mkdtemp(prefix="survived-", dir=place.path) for place in (root, data))
                if not _can_exchange(folders[0]):
                    remove_folders(folders)
                    continue
                available = _available(folders[0])
                high, low, flood = (f"{available - size} free" for size in (HIGH_BYTES, LOW_BYTES, FLOOD_BYTES))
                return cls(folders[0], folders[1], (high, low, flood), available, in_namespace=False, folders=folders)
        raise Refused(
            Reason.NO_STORE,
            "Cannot make a sandbox: namespaces are not allowed here, and no two filesystems with room for it can be written "
            f"({', '.join(place.path for place in places) or 'none'}). Nothing was started.",
            "Set TMPDIR to a directory on another filesystem with 128 MiB available.",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- places ---------------------------------------------------------------------------------------------------

    @property
    def home(self) -> str:
        """The home directory on the small root disk."""
        return os.path.join(self.root, "home/you")

    @property
    def run(self) -> str:
        """The runtime directory, for the socket and the log."""
        return os.path.join(self.root, "run")

    @property
    def config(self) -> str:
        """The configuration file."""
        return os.path.join(self.home, ".config/survived/config.toml")

    @property
    def disk(self) -> str:
        """The user's directory on the data disk."""
        return os.path.join(self.data, "you")

    def environment(self) -> dict[str, str]:
        """Return the whole environment of what runs inside: no cache variable, proxy or service manager of ours leaks in."""
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        places = {
            "HOME": self.home,
            "XDG_CONFIG_HOME": os.path.join(self.home, ".config"),
            "XDG_CACHE_HOME": os.path.join(self.home, ".cache"),
            "XDG_DATA_HOME": os.path.join(self.home, ".local/share"),
            "XDG_STATE_HOME": os.path.join(self.home, ".local/state"),
            "XDG_RUNTIME_DIR": self.run,
            "TMPDIR": os.path.join(self.root, "tmp"),
        }
        return {**kept, **places, **_python(), "PYTHONUNBUFFERED": "1"}

    def prepare(self) -> None:
        """Make the directories and the configuration, which holds the mailbox's address and so is ours alone."""
        places = self.environment()
        for place in (
            self.home,
            places["TMPDIR"],
            self.run,
            self.disk,
            os.path.dirname(self.config),
            places["XDG_CACHE_HOME"],
        ):
            os.makedirs(place, mode=0o700, exist_ok=True)
        high, low, flood = self.marks
        root, disk, url = (json.dumps(value) for value in (self.root, self.disk, self.mailbox.url))  # quoted as TOML does
        text = _CONFIG.format(root=root, high=high, low=low, flood=flood, disk=disk, url=url)
        with open(self.config, "x", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(text)

    # ---- the daemon -----------------------------------------------------------------------------------------------

    def start(self) -> int:
        """Start the real daemon, out of reach of the terminal's Ctrl-C, and return its pid."""
        command = (sys.executable, "-m", "survived", "--config", self.config)
        with open(os.path.join(self.run, "log"), "wb") as log:
            self.daemon = subprocess.Popen(
                command,
                env=self.environment(),
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        return self.daemon.pid

    def status(self) -> dict[str, Any] | None:
        """Return the daemon's status; None while it does not listen yet; `SurvivedError` if it has ended."""
        if self.daemon is not None and (code := self.daemon.poll()) is not None:
            raise SurvivedError(f"the daemon has ended with exit code {code}")
        with contextlib.suppress(DaemonNotRunning):
            return dict(ControlClient(os.path.join(self.run, "survived/control.sock"), 10.0).call("status"))
        return None

    def survivectl(self, *words: str) -> subprocess.Popen[bytes]:
        """Start the real survivectl inside."""
        command = (sys.executable, "-m", "survived.ctl.main", *words)
        return subprocess.Popen(
            command,
            env=self.environment(),
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )

    def last_words(self, count: int = 5) -> list[str]:
        """Return the last lines of the daemon's log."""
        with contextlib.suppress(OSError), open(os.path.join(self.run, "log"), errors="replace") as file:
            return [line.rstrip() for line in file.readlines()[-count:]]
        return []

    def available(self) -> int:
        """Return the bytes available on the root disk, as the kernel has it."""
        return _available(self.root)

    def close(self) -> None:
        """Stop the daemon, kindly and then not, and remove what is on real filesystems."""
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.terminate()
            try:
                self.daemon.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.daemon.pid, signal.SIGKILL)
                self.daemon.wait()
        self.mailbox.close()
        remove_folders(self.folders)


@dataclass(frozen=True)
class _Place:
    path: str
    device: int
    available: int


def _places() -> list[_Place]:
    """Return writable directories on different filesystems, the roomiest first."""
    names = (os.environ.get("XDG_RUNTIME_DIR"), "/dev/shm", tempfile.gettempdir(), "/var/tmp", os.environ.get("HOME"))  # noqa: S108
    found: dict[int, _Place] = {}
    for name in names:
        with contextlib.suppress(OSError):
            if name and os.path.isabs(name) and os.access(name, os.W_OK | os.X_OK):
                place = _Place(name, os.stat(name).st_dev, _available(name))
                found.setdefault(place.device, place)
    return sorted(found.values(), key=lambda place: -place.available)


def _available(path: str) -> int:
    reading = os.statvfs(path)
    return reading.f_bavail * reading.f_frsize


def _can_exchange(folder: str) -> bool:
    """Tell by trying whether a filesystem swaps a directory and a link in one step, and holds a socket."""
    from survived.act import fs

    try:
        os.mkdir(os.path.join(folder, "a"))
        os.symlink("a", os.path.join(folder, "b"))
        with fs.opened(folder) as descriptor, socket.socket(socket.AF_UNIX) as listener:
            fs.exchange(descriptor, "a", "b")
            listener.bind(f"/proc/self/fd/{descriptor}/s")
    except OSError:
        return False
    for name in ("a", "s"):
        os.unlink(os.path.join(folder, name))
    os.rmdir(os.path.join(folder, "b"))
    return True


def remove_folders(folders: tuple[str, ...]) -> None:
    """Remove directories with all that is in them; what is left is told, for it is a place on the user's own disk."""
    for _ in range(3):
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        left = [folder for folder in folders if os.path.lexists(folder)]
        if not left:
            return
        time.sleep(0.2)
    print(f"survivectl: Cannot remove '{left[0]}'.", file=sys.stderr)
