"""
What the demo plays in its sandbox: the cache fills, the daemon moves it and tells, and all is undone.

Everything is real, and every figure on the screen is the daemon's or the kernel's.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from typing import TYPE_CHECKING, Any

from survived.ctl.main import say
from survived.ctl.sandbox import HIGH_BYTES, LOW_BYTES, MIB, ROOT_BYTES, Sandbox
from survived.ctl.screen import Screen, open_screen
from survived.errors import Stopped, SurvivedError
from survived.units import print_bytes, print_share

if TYPE_CHECKING:
    from collections.abc import Callable

_OTHERS_BYTES = 20 * MIB
_CACHE_BYTES, _CACHE_MOST_BYTES = 36 * MIB, 64 * MIB
_WHEEL_KIB = (96, 1400, 320, 40, 2100, 180, 760, 24)  # bytes of the wheels in a pip cache, as varied as they are
_POLL_SECONDS = 0.05
_LIMIT_SECONDS = 20.0
_OTHERS_SECONDS = 5.0
"""On a real filesystem others may have written so much that low is not reached: then we wait no longer than that."""
STEPS = 7
"""Those that are played; the last one is told when all is cleaned up."""
_READING_SECONDS = (1, 1, 0, 0, 1.5, 2.5, 1)


class Play:
    """One performance. `check` is called again and again, and raises `Stopped` when it is to end."""

    def __init__(self, sandbox: Sandbox, check: Callable[[], None], *, silent: bool) -> None:
        self._box, self._check = sandbox, check
        self._screen: Screen = open_screen(
            sandbox.begin, ROOT_BYTES, (LOW_BYTES, HIGH_BYTES), whole=sandbox.in_namespace, silent=silent
        )
        self._cache = os.path.join(sandbox.home, ".cache/pip")
        self._others = os.path.join(sandbox.home, "results.bin")
        self._scene = "the sandbox"
        self._facts: dict[str, Any] = {}

    def perform(self) -> dict[str, Any]:
        """Show all steps but the last; `SurvivedError` names the step that did not happen, and the daemon's last words."""
        try:
            with self._screen:
                acts = (self._set, self._start, self._fill, self._move, self._follow, self._read, self._undo)
                for act, seconds in zip(acts, _READING_SECONDS, strict=True):
                    act()
                    self._hold(seconds)
        except (Stopped, BrokenPipeError):
            raise
        except (SurvivedError, OSError) as error:
            why = error.message if isinstance(error, SurvivedError) else error.strerror or str(error)
            for line in (words := self._box.last_words()):
                say(f"  {line}")
            raise SurvivedError(
                f"Cannot show {self._scene}: {why.rstrip('.')}. The daemon was stopped and the sandbox removed.",
                "Above are the last lines of the daemon's log." if words else None,
            ) from error
        return self._facts

    # ---- the steps ------------------------------------------------------------------------------------------------

    def _set(self) -> None:
        box = self._box
        box.prepare()
        self._write(self._others, _OTHERS_BYTES)
        self._screen.title("survivectl demo: a small root disk fills up. Nothing of yours is touched.")
        data = os.statvfs(box.data)
        size, room = print_bytes(box.begin), print_bytes(data.f_bavail * data.f_frsize)
        if box.in_namespace:
            self._screen.step(f"a sandbox in memory: a root disk of {size} and a data disk of {room}")
            marks = f"high is {box.marks[0].replace('%', ' %')}, low is {box.marks[1].replace('%', ' %')}"
        else:
            self._screen.step("a sandbox of two directories on two of your filesystems")
            self._screen.say(f"root disk: {box.root}, {size} available")
            self._screen.say(f"data disk: {box.data}, {room} available")
            marks = f"high is at +{print_bytes(HIGH_BYTES)}, low at +{print_bytes(LOW_BYTES)}"
        others = print_bytes(os.stat(self._others).st_blocks * 512)
        self._screen.say(f"{others} of other files are on the root disk already")
        self._facts["sandbox"] = {
            "kind": "namespace" if box.in_namespace else "directories",
            "root": box.root,
            "data": box.data,
        }
        self._facts["marks"] = dict(zip(("high", "low", "flood"), box.marks, strict=True))
        self._marks = marks

    def _start(self) -> None:
        self._scene = "the daemon"
        pid = self._box.start()
        status = self._wait("the daemon starts", lambda status: bool(status["stores"]))
        self._screen.step(f"survived watches it, as process {pid}: {self._marks}")
        self._screen.bar(_root(status))
        self._facts["daemon"] = {"pid": status["daemon"]["pid"], "version": status["version"]}
        self._facts["usage"] = {"begin": _root(status)["usage"]}

    def _fill(self) -> None:
        self._scene = "the cache"
        self._screen.step("pip's cache grows: files as pip keeps them, written to ~/.cache/pip")
        written = 0
        for number in itertools.count():
            risen = self._box.begin - self._box.available()
            # On a real filesystem others may free space meanwhile: then it takes a little more.
            if written >= _CACHE_MOST_BYTES or (written >= _CACHE_BYTES and risen > HIGH_BYTES + MIB):
                break
            written += self._write_wheel(number)
            # From near the mark on in one go: what has been quiet for as long as the pressure lasts is moved at once.
            if risen < HIGH_BYTES - 3 * MIB:
                self._wait("pip's cache grows", lambda _: True)
                self._pause()
        status = self._wait("pip's cache grows", lambda _: True)
        self._before = _digest(self._cache)
        files = sum(len(names) for _, _, names in os.walk(self._cache))
        self._facts["cache"] = {"path": self._cache, "bytes_written": written, "files": files, "sha256": self._before}
        self._screen.bar(_root(status))

    def _move(self) -> None:
        self._scene = "the move"
        status = self._wait(
            "waiting for a second of pressure", lambda status: status["pressure"] != "normal" or _pip(status)["target"]
        )
        fs = _root(status)
        share = f" at {print_share(fs['usage'])}" if self._box.in_namespace else ""
        how = "a flood" if status["pressure"] == "flood" else "high"
        self._screen.step(f"pressure is {how}{share}, so survived moves pip's cache and leaves a link")
        self._facts["usage"]["high"] = fs["usage"]
        self._wait("copying pip's cache", lambda _: os.path.islink(self._cache))
        target = os.readlink(self._cache)
        self._screen.say(f"~/.cache/pip → {target}")
        self._hold(0.5)
        status = self._wait("removing the old copy", lambda status: _pip(status)["target"] == target and status["move"] is None)
        self._facts["move"] = {"target": target, "size_bytes": _pip(status)["size_bytes"]}

    def _follow(self) -> None:
        self._scene = "usage falling"
        patience = time.monotonic() + (2 * _LIMIT_SECONDS if self._box.in_namespace else _OTHERS_SECONDS)
        status = self._wait("usage falls", lambda status: status["pressure"] == "normal" or time.monotonic() > patience)
        fs = _root(status)
        if _digest(self._cache) != self._before:
            raise SurvivedError("the cache behind the link is not what it was")
        far = "is below low again" if status["pressure"] == "normal" else "has fallen, as far as others let it"
        self._screen.step(f"usage {far}, and pip finds every byte where it was")
        self._screen.bar(fs)
        self._facts["usage"]["after"] = fs["usage"]

    def _read(self) -> None:
        self._scene = "the notice"
        mails = self._box.mailbox.notices
        self._wait("Apprise is delivering the notice", lambda _: any("relocated" in mail["title"] for mail in mails))
        mail = next(mail for mail in mails if "relocated" in mail["title"])
        self._screen.step("the notice, as it arrives by chat or e-mail (here: a web server of the demo)")
        for line in (mail["title"], *mail["message"].splitlines()):
            self._screen.say(line, 2)
        self._facts["notices"] = list(mails)

    def _undo(self) -> None:
        self._scene = "the undo"
        os.unlink(self._others)
        self._screen.step("the other files are deleted, so there is room to undo it: survivectl restore pip")
        words, output = ["restore", "pip"], ""
        while True:
            restoring = self._box.survivectl(*words)
            try:
                self._wait("bringing pip's cache home", lambda _: restoring.poll() is not None)  # noqa: B023
            finally:
                if restoring.poll() is None:
                    restoring.terminate()
                output = restoring.communicate()[0].decode(errors="replace").strip()
            if restoring.returncode != 4 or "--force" in words:
                break
            words.append("--force")  # others have filled a real disk meanwhile
        for line in output.splitlines():
            self._screen.say(line)
        if restoring.returncode:
            raise SurvivedError(f"survivectl {' '.join(words)} ended with exit code {restoring.returncode}: {output}")
        is_home = os.path.isdir(self._cache) and not os.path.islink(self._cache)
        if not is_home or _digest(self._cache) != self._before:
            raise SurvivedError("the cache did not come home byte for byte")
        status = self._wait("looking again", lambda status: _pip(status)["state"] == "home")
        self._screen.say("Names, modes, times and contents are what they were.")
        self._screen.bar(_root(status))
        self._facts["usage"]["end"] = _root(status)["usage"]
        self._facts["undo"] = {"command": f"survivectl {' '.join(words)}", "identical": True}

    # ---- what they are made of ------------------------------------------------------------------------------------

    def _hold(self, seconds: float) -> None:
        """Give a person time to read; a pipe needs none."""
        self._screen.rest()
        end = time.monotonic() + seconds * self._screen.patience
        while time.monotonic() < end:
            self._pause()

    def _pause(self) -> None:
        time.sleep(_POLL_SECONDS)
        self._check()

    def _wait(self, doing: str, is_so: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """Return the daemon's status as soon as something is so; `SurvivedError` if that takes too long."""
        deadline = time.monotonic() + _LIMIT_SECONDS
        while True:
            self._check()
            status = self._box.status()
            if status is not None and status["filesystems"]:
                self._screen.level(_root(status), _doing(status) or doing)
                if is_so(status):
                    return status
            if time.monotonic() > deadline:
                raise SurvivedError(f"it did not happen within {_LIMIT_SECONDS:g} s ({doing})")
            self._pause()

    def _write_wheel(self, number: int) -> int:
        """Write two files as pip does for one download, and return their bytes."""
        name = hashlib.sha256(str(number).encode()).hexdigest()[:56]
        folder = os.path.join(self._cache, "http-v2", *name[:5])
        os.makedirs(folder, mode=0o700, exist_ok=True)
        size = _WHEEL_KIB[number % len(_WHEEL_KIB)] * 1024
        self._write(os.path.join(folder, name), 1800)
        self._write(os.path.join(folder, f"{name}.body"), size)
        return 1800 + size

    def _write(self, path: str, size: int) -> None:
        with open(path, "xb") as file:
            for begin in range(0, size, MIB):
                self._check()
                file.write(os.urandom(min(MIB, size - begin)))
            file.flush()
            if not self._box.in_namespace:
                os.fdatasync(file.fileno())  # some filesystems count a file when it is written out


def _root(status: dict[str, Any]) -> dict[str, Any]:
    return dict(status["filesystems"][0])


def _pip(status: dict[str, Any]) -> dict[str, Any]:
    return next(
        (cache for cache in status["caches"] if cache["id"] == "pip"),
        {"target": None, "state": "absent", "size_bytes": 0},
    )


def _doing(status: dict[str, Any]) -> str:
    move = status["move"]
    if move is None:
        return ""
    return f"{move['verb']} {move['id']}: {move['phase']}, {print_bytes(move['bytes_done'])} of {print_bytes(move['bytes_total'])}"


def _digest(top: str) -> str:
    """Return a hash of a tree: names, modes, times and contents. A link at `top` is followed, below it there is none."""
    total = hashlib.sha256()
    for folder, folders, names in os.walk(os.path.realpath(top)):
        folders.sort()
        for name in ("", *sorted(names)):
            path = os.path.join(folder, name)
            found = os.stat(path)
            where = os.path.relpath(path, os.path.realpath(top))
            total.update(f"{where}\0{found.st_mode}\0{found.st_uid}\0{found.st_mtime_ns}\0".encode(errors="surrogateescape"))
            if name:
                with open(path, "rb") as file:
                    total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
