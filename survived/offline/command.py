"""
Runs the package tools: by name, without a shell, with everything they say in a log, and one sentence if they fail.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING

from survived.act import fs
from survived.errors import SurvivedError
from survived.units import sentence

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 20.0
_SECRET = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Runner:
    """
    Starts tools with one environment and one folder for logs.

    `stop` is called while a tool runs and raises to end it; `tell` is given a line that says what is being run. A tool that
    only collects is `mortal`: it dies with us, even by kill -9; one that installs is left to finish.
    """

    def __init__(
        self, env: Mapping[str, str], logs: str, stop: Callable[[], None], tell: Callable[[str], None], *, mortal: bool = False
    ) -> None:
        self.env, self.logs, self._mortal = dict(env), logs, mortal
        self._stop, self._tell = stop, tell

    def find(self, *names: str) -> str:
        """Return the first of these programs that is on the PATH; `SurvivedError` if none is."""
        for name in names:
            if (found := shutil.which(name, path=self.env.get("PATH"))) is not None:
                return found
        listed = " or ".join(f"'{name}'" for name in names)
        raise SurvivedError(
            f"Cannot find {listed}: it is not installed, or not on the PATH. Nothing was changed.", "Install it first."
        )

    def has(self, name: str) -> bool:
        """Tell whether a program is on the PATH."""
        return shutil.which(name, path=self.env.get("PATH")) is not None

    def log(self, name: str) -> str:
        """Return the path of a tool's log."""
        return os.path.join(self.logs, f"{name}.log")

    def run(
        self,
        words: Sequence[str],
        *,
        log: str,
        doing: str,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        kept: str = "",
    ) -> None:
        """
        Run a tool to its end; what it says goes to its log. `SurvivedError` with its own last words if it fails.

        `doing` completes `Cannot …`; `kept` is a sentence about what is left.
        """
        os.makedirs(self.logs, mode=0o700, exist_ok=True)
        self._tell(shown(words))
        with open(self.log(log), "ab") as file:
            file.write(f"{time.strftime('%FT%TZ', time.gmtime())} $ {shown(words)}\n".encode("utf-8", "surrogateescape"))
            file.flush()
            at = file.tell()
            code = self._wait(words, file.fileno(), cwd, {**self.env, **(env or {})})
            file.write(f"{time.strftime('%FT%TZ', time.gmtime())} = {code}\n".encode())
        if code != 0:
            said = _last_words(self.log(log), at)
            failed = f"Cannot {doing}: {os.path.basename(words[0])} failed: {sentence(said)} {kept}"
            raise SurvivedError(failed.rstrip(), f"All it said is in {self.log(log)}.")

    def _wait(self, words: Sequence[str], output_fd: int, cwd: str | None, env: Mapping[str, str]) -> int:
        process = subprocess.Popen(
            list(words),
            stdin=subprocess.DEVNULL,
            stdout=output_fd,
            stderr=output_fd,
            cwd=cwd,
            env=dict(env),
            start_new_session=True,
            preexec_fn=fs.die_with_parent if self._mortal else None,
        )
        try:
            while True:
                try:
                    return process.wait(_POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    self._stop()
        except BaseException:
            _end(process)
            raise

    def ask(self, words: Sequence[str], *, doing: str, env: Mapping[str, str] | None = None, limit: float = 120.0) -> str:
        """Return what a tool prints; `SurvivedError` with its own last words if it fails or takes longer than `limit` seconds."""
        try:
            done = subprocess.run(
                list(words),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env={**self.env, **(env or {})},
                check=False,
                timeout=limit,
            )
        except subprocess.TimeoutExpired as error:
            raise SurvivedError(f"Cannot {doing}: {os.path.basename(words[0])} did not answer within {limit:.0f} s.") from error
        if done.returncode != 0:
            said = _meaning((done.stderr or done.stdout).decode("utf-8", "replace"))
            raise SurvivedError(f"Cannot {doing}: {os.path.basename(words[0])} failed: {sentence(said)}")
        return done.stdout.decode("utf-8", "surrogateescape")


def shown(words: Sequence[str]) -> str:
    """Return a command as a shell would take it, passwords in URLs hidden."""
    return _SECRET.sub("***", shlex.join(words))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a tool and what it started: politely, then not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(_GRACE_SECONDS)
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _last_words(path: str, at: int) -> str:
    with open(path, "rb") as file:
        file.seek(max(at, os.fstat(file.fileno()).st_size - 65536))
        return _meaning(file.read().decode("utf-8", "replace"))


def _meaning(text: str) -> str:
    """Return the lines that say what is wrong: those that call themselves an error, else the last one."""
    lines = [_SECRET.sub("***", _COLOUR.sub("", line)).strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not re.fullmatch(r"\S+T\S+Z = -?\d+", line)]
    errors = [line for line in lines if re.match(r"(npm )?(error|err!|e:|fatal|×)", line, re.IGNORECASE)]
    return " ".join(errors[:2] or lines[-1:])[:400] or "it did not say why"
