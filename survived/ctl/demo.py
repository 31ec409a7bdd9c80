"""
`survivectl demo`: all that survived does, on a small disk of its own, in a quarter of a minute.

Everything is real: the daemon, the cache's files, the move, the notice and the undo. Every figure on the screen is the
daemon's or the kernel's. Whatever happens, nothing is left: a namespace ends with its last process.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

from survived.ctl.main import print_json
from survived.ctl.sandbox import HIGH_BYTES, LOW_BYTES, MIB, ROOT_BYTES, SIGNALS, Sandbox, enter, find_place, may_unshare, remove_folders
from survived.ctl.screen import Screen, open_screen
from survived.errors import Stopped, SurvivedError
from survived.units import print_bytes, print_share

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

_OTHERS_BYTES = 20 * MIB
_CACHE_BYTES, _CACHE_MOST_BYTES = 36 * MIB, 39 * MIB
_WHEEL_KIB = (96, 1400, 320, 40, 2100, 180, 760, 24)  # bytes of the wheels in a pip cache, as varied as they are
_POLL_SECONDS = 0.05
_LIMIT_SECONDS = 15.0
_KILL_SECONDS = 12.0
_STEPS = 7  # before the last one, which is told from outside


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `demo`."""
    import argparse

    parser.add_argument("--no-namespace", action="store_true", help="use directories on two real filesystems, as where namespaces are forbidden")
    parser.add_argument("--inside", metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--report", type=int, metavar="FD", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Perform, clean up, and only then say so; 130 when interrupted, 4 where there is no place for a sandbox."""
    began, alarm = time.monotonic(), Alarm()
    if args.inside:
        with Sandbox.mounted(args.inside) as sandbox:
            facts = Play(sandbox, alarm, silent=args.json).perform()
        with os.fdopen(args.report, "w") as report:
            json.dump(facts, report)
        return 0
    found = None if args.no_namespace else _perform_inside(args, alarm)
    if isinstance(found, int):
        return found
    if found is None:
        with Sandbox.on_disks() as sandbox:
            found = Play(sandbox, alarm, silent=args.json).perform()
    found["seconds"] = round(time.monotonic() - began, 1)
    if args.json:
        print_json(found)
        return 0
    with open_screen(0, ROOT_BYTES, (0, 0), whole=True, first=_STEPS + 1) as screen:
        screen.step(f"the daemon has stopped and the sandbox is gone; all of it took {found['seconds']:g} s")
        screen.say("On your own disks: survivectl install")
    return 0


def _perform_inside(args: argparse.Namespace, alarm: Alarm) -> dict[str, Any] | int | None:
    """Perform in a namespace: the facts, or the exit code of what failed and has said why, or None where it is not allowed."""
    folder, is_ours = find_place()
    try:
        if not may_unshare(folder):
            return None
        read_end, write_end = os.pipe()
        with os.fdopen(read_end, "rb") as report:
            words = ["demo", "--inside", folder, "--report", str(write_end), *(["--json"] if args.json else [])]
            inner = enter(words, write_end)
            os.close(write_end)
            try:
                code = _wait(inner, alarm)
            finally:
                if inner.poll() is None:
                    inner.kill()
                    inner.wait()
            if code:
                return code if code > 0 else 1
            facts = report.read()
            return dict(json.loads(facts)) if facts else 0  # nothing: whoever read the play's output had enough
    finally:
        if is_ours:
            remove_folders((folder,))


def _wait(inner: subprocess.Popen[bytes], alarm: Alarm) -> int:
    """Return the exit code of the play in the namespace, which a signal of ours reaches, too, even if it was sent to us alone."""
    asked_at = None
    while True:
        try:
            return inner.wait(_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if alarm.rung and asked_at is None:
                inner.terminate()
                asked_at = time.monotonic()
            if asked_at is not None and time.monotonic() - asked_at > _KILL_SECONDS:
                inner.kill()


class Alarm:
    """A signal that asks us to end is noted and looked at between two acts, so that no act is torn and each is cleaned up."""

    def __init__(self) -> None:
        self.rung, self._parent = False, os.getppid()
        for number in SIGNALS:
            signal.signal(number, self._ring)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # see `sandbox.enter`

    def _ring(self, _number: int, _frame: object) -> None:
        self.rung = True

    def check(self) -> None:
        """Raise `Stopped` once somebody wants us to end, or whoever started us is gone."""
        if self.rung or os.getppid() != self._parent:
            raise Stopped("Interrupted in the middle of the demo. The daemon was stopped and the sandbox removed.")


class Play:
    """One performance in a sandbox. `perform` shows it and returns what happened, for --json."""

    def __init__(self, sandbox: Sandbox, alarm: Alarm, *, silent: bool) -> None:
        self._box, self._alarm = sandbox, alarm
        self._screen: Screen = open_screen(sandbox.begin, ROOT_BYTES, (LOW_BYTES, HIGH_BYTES), whole=sandbox.in_namespace, silent=silent)
        self._cache = os.path.join(sandbox.home, ".cache/pip")
        self._others = os.path.join(sandbox.home, "results.bin")
        self._scene = "the sandbox"
        self._facts: dict[str, Any] = {}

    def perform(self) -> dict[str, Any]:
        """Show all steps but the last; `SurvivedError` names the step that did not happen, and the daemon's last words."""
        try:
            with self._screen:
                for scene, seconds in ((self._set, 1), (self._start, 1), (self._fill, 0), (self._move, 0), (self._follow, 1.5), (self._read, 2.5), (self._undo, 1)):
                    scene()
                    self._hold(seconds)
        except (Stopped, BrokenPipeError):
            raise
        except (SurvivedError, OSError) as error:
            words = self._box.last_words()
            why = error.message if isinstance(error, SurvivedError) else error.strerror or str(error)
            raise SurvivedError(
                f"Cannot show {self._scene}: {why.rstrip('.')}. The daemon was stopped and the sandbox removed.",
                "\n    ".join(["The daemon's last words:", *words]) if words else None,
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
            self._screen.step("a sandbox of two directories on two of your disks, as namespaces are not used")
            self._screen.say(f"root disk: {box.root}, {size} available")
            self._screen.say(f"data disk: {box.data}, {room} available")
            marks = f"high is {print_bytes(HIGH_BYTES)} more in use than now, low is {print_bytes(LOW_BYTES)} more"
        self._facts["sandbox"] = {"kind": "namespace" if box.in_namespace else "directories", "root": box.root, "data": box.data}
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
        self._screen.step("pip installs this and that, and keeps all of it in ~/.cache/pip")
        written = 0
        for number in itertools.count():
            status = self._wait("pip fills its cache", lambda _: True)
            # Others may free space on a real filesystem meanwhile: then it takes a little more.
            is_high = self._box.begin - self._box.available() > HIGH_BYTES + MIB
            if written >= _CACHE_MOST_BYTES or (written >= _CACHE_BYTES and is_high):
                break
            written += self._write_wheel(number)
            self._pause()
        self._before = _digest(self._cache)
        files = sum(len(names) for _, _, names in os.walk(self._cache))
        self._facts["cache"] = {"path": self._cache, "bytes_written": written, "files": files, "sha256": self._before}
        self._screen.bar(_root(status))

    def _move(self) -> None:
        self._scene = "the move"
        status = self._wait("waiting for a second of pressure", lambda status: status["pressure"] != "normal" or _pip(status)["target"])
        fs = _root(status)
        share = f" at {print_share(fs['usage'])}" if self._box.in_namespace else ""
        self._screen.step(f"pressure is high{share}, so survived moves pip's cache and leaves a link")
        self._facts["usage"]["high"] = fs["usage"]
        self._wait("copying pip's cache", lambda _: os.path.islink(self._cache))
        target = os.readlink(self._cache)
        self._screen.say(f"~/.cache/pip → {target}")
        self._hold(0.5)
        status = self._wait("removing the old copy", lambda status: _pip(status)["target"] == target and status["move"] is None)
        self._facts["move"] = {"target": target, "size_bytes": _pip(status)["size_bytes"]}

    def _follow(self) -> None:
        self._scene = "usage falling"
        status = self._wait("usage falls", lambda status: status["pressure"] == "normal")
        fs = _root(status)
        if _digest(self._cache) != self._before:
            raise SurvivedError("the cache behind the link is not what it was")
        self._screen.step("usage is below low again, and pip finds every byte where it was")
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
        self._screen.step("there is room again, so the undo: survivectl restore pip")
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
        self._screen.say(output)
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
        self._alarm.check()

    def _wait(self, doing: str, is_so: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """Return the daemon's status as soon as something is so; `SurvivedError` if that takes too long."""
        deadline = time.monotonic() + _LIMIT_SECONDS
        while True:
            self._alarm.check()
            status = self._box.status()
            if status is not None:
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
                self._alarm.check()
                file.write(os.urandom(min(MIB, size - begin)))
            file.flush()
            if not self._box.in_namespace:
                os.fdatasync(file.fileno())  # some filesystems count a file when it is written out


def _root(status: dict[str, Any]) -> dict[str, Any]:
    return dict(status["filesystems"][0])


def _pip(status: dict[str, Any]) -> dict[str, Any]:
    return next((cache for cache in status["caches"] if cache["id"] == "pip"), {"target": None, "state": "absent", "size_bytes": 0})


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


