"""
Runs a tool's own command for its user: never through a shell, in a defined place and environment, and not for ever.

The command ends with us: it has a process group of its own, which is killed at the time limit or when we are stopped.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from survived.errors import SurvivedError, cause_of
from survived.units import print_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from survived.act.task import Task

LONGEST_SECONDS = 1800.0
"""A purge of a terabyte of small files on a disk that seeks takes some minutes."""
_PLACES = (
    ".local/bin",
    "bin",
    ".cargo/bin",
    ".npm-global/bin",
    "miniforge3/bin",
    "miniconda3/bin",
    "anaconda3/bin",
    "mambaforge/bin",
)
"""Where users have tools that a service's PATH does not know."""
_OURS = ("SURVIVED_", "NOTIFY_", "WATCHDOG_", "LISTEN_", "INVOCATION_", "JOURNAL_", "PYTHON")
"""What is about us and not about the tool."""
_KEPT_BYTES = 64 << 10
_STEP_SECONDS, _GRACE_SECONDS = 0.05, 5.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended, and the end of what it said."""

    code: int
    said: str
    seconds: float


def environment_of(env: Mapping[str, str], home: str) -> dict[str, str]:
    """Return the environment of a tool: the user's own, without what is about us, and with the places of user's tools in PATH."""
    kept = {name: value for name, value in env.items() if not name.startswith(_OURS)}
    path = kept.get("PATH") or os.defpath
    more = [place for name in _PLACES if (place := os.path.join(home, name)) not in path.split(":") and os.path.isdir(place)]
    return {**kept, "HOME": home, "PATH": ":".join([path, *more]), "PWD": _place(home)}


def find(command: Sequence[str], env: Mapping[str, str]) -> str | None:
    """Return the file that a command runs, or None."""
    return shutil.which(command[0], path=env.get("PATH"))


def run(command: Sequence[str], env: Mapping[str, str], home: str, task: Task, *, longest: float = LONGEST_SECONDS) -> Ended:
    """
    Run a command in the user's home, with nothing to read; return how it ended, whatever its code.

    `env` is as `environment_of` gives it. Raises `SurvivedError` if there is no such command or it takes longer than `longest`
    seconds, `Stopped` if the task is to end; it is ended then, with all that it started.
    """
    file = find(command, env)
    if file is None:
        raise SurvivedError(
            f"Cannot run '{command[0]}': it is not found. Nothing was changed.", f"Looked in: {env.get('PATH', '')}"
        )
    began = time.monotonic()
    # A file and no pipe: what it leaves behind, such as a server, could hold a pipe open for ever.
    with tempfile.TemporaryFile() as said:
        try:
            child = subprocess.Popen(
                [file, *command[1:]], env=dict(env), cwd=_place(home), stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            why = cause_of(error)
            raise SurvivedError(f"Cannot run '{file}': {why}. Nothing was changed.") from error
        try:
            while child.poll() is None:
                if time.monotonic() - began > longest:
                    raise SurvivedError(f"'{' '.join(command)}' was ended: it took longer than {print_seconds(longest)}.")
                task.wait(_STEP_SECONDS)
        except BaseException:
            _end(child)
            raise
        size = said.seek(0, os.SEEK_END)
        said.seek(max(0, size - _KEPT_BYTES))
        text = said.read().decode("utf-8", "replace").strip()
    return Ended(child.returncode, text, time.monotonic() - began)


def _place(home: str) -> str:
    return home if os.path.isdir(home) else "/"


def _end(child: subprocess.Popen[bytes]) -> None:
    for number, seconds in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, _GRACE_SECONDS)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(seconds)
            return
