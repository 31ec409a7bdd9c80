"""
How docker and containerd are stopped and started: as units of systemd, as a service of another init, or as a bare process.

Which it is, is found once and kept with the journal, for after a crash a process that is gone tells nothing any more.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from survived.act.dockerd import complaint, run
from survived.errors import cause_of

if TYPE_CHECKING:
    from collections.abc import Mapping

STOP_SECONDS, START_SECONDS = 300.0, 180.0
_PROCESS_STOP_SECONDS = 60.0
"""docker gives its containers 15 s to end."""
_POLL_SECONDS = 0.1
_FLAGS = {"-g": "data-root", "--graph": "data-root", "--data-root": "data-root", "--config-file": "config-file",
          "--containerd": "containerd", "--root": "root", "--config": "config", "-c": "config"}  # fmt: skip
_OUTLIVING: list[subprocess.Popen[bytes]] = []
"""What was started and goes on when we end: nobody waits for it."""
_SPLIT = re.compile(r"[\s\"']+")


@dataclass(frozen=True, slots=True)
class Unit:
    """
    One service. `manner`: "systemd", "service" or "process"; `names` are systemd's units, a socket before its service.

    Of a process `command` is what it was started with, `folder` where, and `log` the file that it writes to.
    """

    manner: str
    names: tuple[str, ...]
    user: bool = False
    pid: int = 0
    command: tuple[str, ...] = ()
    folder: str = "/"
    log: str = os.devnull

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**asdict(self), "names": list(self.names), "command": list(self.command)}

    @classmethod
    def from_document(cls, found: Mapping[str, Any]) -> Unit:
        """Return what `document` made."""
        return cls(**{**found, "names": tuple(found["names"]), "command": tuple(found["command"])})

    @property
    def title(self) -> str:
        """What a person calls it."""
        return self.names[-1].removesuffix(".service")

    @property
    def stop_command(self) -> str:
        """How a person stops it."""
        if self.manner == "systemd":
            return " ".join(["systemctl", *(["--user"] if self.user else []), "stop", *self.names])
        return f"service {self.title} stop" if self.manner == "service" else f"kill {self.pid}"

    @property
    def start_command(self) -> str:
        """How a person starts it."""
        if self.manner == "systemd":
            return " ".join(["systemctl", *(["--user"] if self.user else []), "start", *self.names])
        return f"service {self.title} start" if self.manner == "service" else f"{' '.join(self.command)} &"

    @property
    def log_command(self) -> str:
        """How a person reads what it said."""
        if self.manner == "systemd":
            return f"journalctl {'--user ' if self.user else ''}-u {self.names[-1]} -n 20"
        return f"tail -n 20 {self.log if self.manner == 'process' else f'/var/log/{self.title}.log'}"

    def is_active(self, env: Mapping[str, str], at: str) -> bool:
        """Tell whether it runs, or would be started by a connection to its socket; `at` is the path of the socket."""
        if self.manner == "systemd":
            answers = (run([*self.systemctl(), "is-active", name], env).stdout.strip() for name in self.names)
            return any(answer not in ("inactive", "failed") for answer in answers)
        return peer_of(at) is not None

    def stop(self, env: Mapping[str, str], at: str) -> str | None:
        """Stop it, and wait until it has ended; return why it did not, or None."""
        if self.manner == "process":
            pid = peer_of(at) or (self.pid if command_of(self.pid) == self.command else 0)
            return _end(pid, at) if pid else None
        done = run(self.stop_command.split(), env, STOP_SECONDS)
        if done.returncode != 0:
            return complaint(done)
        deadline = time.monotonic() + _PROCESS_STOP_SECONDS
        while self.is_active(env, at):
            if time.monotonic() > deadline:
                return "it says that it stopped, and still runs or was started again"
            time.sleep(_POLL_SECONDS)
        return None

    def start(self, env: Mapping[str, str], at: str) -> str | None:
        """Start it, and wait until it listens where that can be told; return why that failed, or None."""
        if self.manner == "systemd":
            run([*self.systemctl(), "reset-failed", *self.names], env)  # systemd counts the starts of a minute
        if self.manner != "process":
            done = run(self.start_command.split(), env, START_SECONDS)
            return None if done.returncode == 0 else complaint(done)
        try:
            with open(self.log, "ab") as log:
                process = subprocess.Popen(
                    self.command, env=dict(env), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            return cause_of(error)
        _OUTLIVING.append(process)
        deadline = time.monotonic() + START_SECONDS
        while peer_of(at) is None:
            if (status := process.poll()) is not None:
                return f"it ended with status {status}"
            if time.monotonic() > deadline:
                return f"it does not listen within {START_SECONDS:.0f} s"
            time.sleep(_POLL_SECONDS)
        return None

    def reload(self, env: Mapping[str, str]) -> None:
        """Have systemd read its units' files again."""
        if self.manner == "systemd":
            run([*self.systemctl(), "daemon-reload"], env)

    def systemctl(self) -> list[str]:
        """Return how the systemd that runs it is called."""
        return ["systemctl", "--user"] if self.user else ["systemctl"]


def find_unit(title: str, at: str, env: Mapping[str, str], *, user: bool = False) -> Unit | None:
    """
    Return how `title` ("docker" or "containerd") that listens at the socket `at` is stopped and started; None if nobody knows.

    `user`: it is the user's own systemd that may run it.
    """
    systemctl = ["systemctl", "--user"] if user else ["systemctl"]
    pid = peer_of(at)
    if shutil.which("systemctl", path=env.get("PATH")) is not None:
        service = f"{title}.service"
        shown = run([*systemctl, "show", service, "--property=LoadState,MainPID,ActiveState"], env)
        facts = dict(line.split("=", 1) for line in shown.stdout.splitlines() if "=" in line)
        main = int(facts.get("MainPID") or 0)
        # By its socket it is systemd's if systemd itself listens there, or the unit's process does.
        if facts.get("LoadState") == "loaded" and (pid in (None, 1, main) or (user and main)):
            listener = run([*systemctl, "show", f"{title}.socket", "--property=LoadState", "--value"], env).stdout.strip()
            names = (f"{title}.socket", service) if listener == "loaded" else (service,)
            return Unit("systemd", names, user=user, pid=main)
    if not user and os.path.exists(f"/etc/init.d/{title}") and run(["service", title, "status"], env).returncode == 0:
        return Unit("service", (title,), pid=pid or 0)
    if pid is not None and pid > 1 and (command := command_of(pid)):
        folder, log = "/", os.devnull
        with contextlib.suppress(OSError):
            folder = os.readlink(f"/proc/{pid}/cwd")
            writes_to = os.readlink(f"/proc/{pid}/fd/2")
            log = writes_to if os.path.isfile(writes_to) else log
        return Unit("process", (title,), pid=pid, command=command, folder=folder, log=log)
    return None


def read_flags(unit: Unit | None, env: Mapping[str, str]) -> dict[str, str]:
    """Return the flags of a unit's command that matter: `data-root`, `config-file`, `containerd`; from its process or its files."""
    words = command_of(unit.pid) if unit is not None and unit.pid > 1 else ()
    if not words and unit is not None and unit.manner == "systemd":
        shown = run([*unit.systemctl(), "show", unit.names[-1], "--property=ExecStart", "--value"], env)
        words = tuple(_SPLIT.split(shown.stdout))
    if unit is not None and unit.title == "docker" and not unit.user:
        with contextlib.suppress(OSError), open("/etc/default/docker", encoding="utf-8", errors="replace") as file:
            lines = [line for line in file if not line.lstrip().startswith("#")]
            words = (*words, *_SPLIT.split(" ".join(lines).replace("OPTS=", " ")))
    found: dict[str, str] = {}
    for word, following in zip(words, (*words, "")[1:], strict=True):
        flag, equals, value = word.partition("=")
        if flag in _FLAGS:
            found.setdefault(_FLAGS[flag], value if equals else following)
    return found


def peer_of(at: str) -> int | None:
    """Return the pid of who listens at a unix socket, or None if nobody does; 1 is systemd, that starts one at need."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(5.0)
        asking.connect(at)
        credentials = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[0])
    return None


def command_of(pid: int) -> tuple[str, ...]:
    """Return the command line of a process, () if it has ended."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        return tuple(os.fsdecode(word) for word in file.read().split(b"\0")[:-1])
    return ()


def _end(pid: int, at: str) -> str | None:
    """End a process by SIGTERM and wait for it; return why it goes on, or None. It is never killed harder."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return None
    except PermissionError:
        return f"process {pid} is not ours to end"
    deadline = time.monotonic() + _PROCESS_STOP_SECONDS
    while command_of(pid):
        if time.monotonic() > deadline:
            return f"process {pid} does not end within {_PROCESS_STOP_SECONDS:.0f} s"
        time.sleep(_POLL_SECONDS)
    time.sleep(_POLL_SECONDS)
    if (again := peer_of(at)) is not None:
        return f"something started it again, as process {again}"
    return None
