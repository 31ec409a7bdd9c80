"""
`survivectl demo`: all that survived does, on a small disk of its own, in a quarter of a minute.

Everything is real: the daemon, the cache's files, the move, the notice and the undo. Every figure on the screen is the
daemon's or the kernel's. Whatever happens, nothing is left: a namespace ends with its last process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

from survived.ctl import sandbox
from survived.ctl.main import print_json
from survived.ctl.play import STEPS, Play
from survived.ctl.sandbox import SIGNALS, Sandbox
from survived.ctl.screen import open_screen
from survived.errors import Stopped

if TYPE_CHECKING:
    import argparse

_POLL_SECONDS = 0.1
_KILL_SECONDS = 12.0
"""How long the play in the namespace has for stopping its daemon."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `demo`."""
    import argparse

    parser.add_argument(
        "--no-namespace",
        action="store_true",
        help="use directories on two real filesystems, as where namespaces are forbidden",
    )
    parser.add_argument("--inside", metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--report", type=int, metavar="FD", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Perform, clean up, and only then say so; 130 when interrupted, 4 where there is no place for a sandbox."""
    began, alarm = time.monotonic(), Alarm()
    if args.inside:
        with Sandbox.mounted(args.inside) as box:
            facts = Play(box, alarm.check, silent=args.json).perform()
        with os.fdopen(args.report, "w") as report:
            json.dump(facts, report)
        return 0
    found = None if args.no_namespace else _perform_inside(args, alarm)
    if isinstance(found, int):
        return found
    if found is None:
        with Sandbox.on_disks() as box:
            found = Play(box, alarm.check, silent=args.json).perform()
    found["seconds"] = round(time.monotonic() - began, 1)
    if args.json:
        print_json(found)
        return 0
    with open_screen(0, sandbox.ROOT_BYTES, (0, 0), whole=True, first=STEPS + 1) as screen:
        screen.step(f"the daemon has stopped and the sandbox is gone; all of it took {found['seconds']:g} s")
        screen.say("On your own disks: survivectl install")
    return 0


def _perform_inside(args: argparse.Namespace, alarm: Alarm) -> dict[str, Any] | int | None:
    """Perform in a namespace: the facts, or the exit code of what failed and has said why, or None where it is not allowed."""
    folder, is_ours = sandbox.find_place()
    try:
        if not sandbox.may_unshare(folder):
            return None
        read_end, write_end = os.pipe()
        with os.fdopen(read_end, "rb") as report:
            words = ["demo", "--inside", folder, "--report", str(write_end), *(["--json"] if args.json else [])]
            inner = sandbox.enter(words, write_end)
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
            sandbox.remove_folders((folder,))


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
            raise Stopped("Interrupted. The daemon was stopped and the sandbox removed.")
