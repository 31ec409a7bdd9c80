"""
What a running operation tells the loop, and how the loop stops it: counters written by the worker, read by anybody.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from survived.act.pace import Pace
from survived.errors import Stopped
from survived.model import Progress, Verb

if TYPE_CHECKING:
    import threading

COUNTED = ("copy", "verify")
"""The phases that have bytes, a rate and an end in sight; each begins at zero."""


_WAITING = ("sync", "settle")
"""The phases that take turns while something is waited for, which `note` names."""


class Task:
    """One operation in flight. `stop` is set by whoever wants it to end; the next tick then raises `Stopped`."""

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop
        self.verb, self.cache_id, self.source, self.target = Verb.RELOCATE, "", "", ""
        self.phase = "begin"
        self.note = ""
        self.advice = ""  # what whoever asked should know, beside the result
        self.began = time.time()
        self.bytes_done = self.bytes_total = self.files_done = self.files_total = 0
        self.rate = 0  # bytes a second that counted phases are limited to; 0: no limit
        self._pace: Pace | None = None
        self._clock = time.monotonic()
        self._seconds: float | None = None  # what the last counted phase took, when it has ended

    def begin(self, verb: Verb, cache_id: str, source: str, target: str, *, bytes_total: int, files_total: int) -> None:
        """Name what is being done and how much is expected."""
        self.verb, self.cache_id, self.source, self.target = verb, cache_id, source, target
        self.bytes_total, self.files_total = bytes_total, files_total

    def limit(self, bytes_per_second: int) -> None:
        """Limit the rate of what is counted from here on; 0 for no limit."""
        self.rate = bytes_per_second
        self._pace = Pace(bytes_per_second, self.wait) if bytes_per_second > 0 else None

    def enter(self, phase: str) -> None:
        """Begin a phase; a counted one starts the clock of the rate."""
        if phase in COUNTED:
            self.bytes_done = self.files_done = 0
            self._clock, self._seconds = time.monotonic(), None
        elif self.phase in COUNTED:
            self._seconds = time.monotonic() - self._clock
        self.phase = phase
        if phase not in _WAITING:
            self.note = ""
        self.check()

    def check(self) -> None:
        """Raise `Stopped` if this operation is to end."""
        if self.stop.is_set():
            raise Stopped(f"Stopped while moving '{self.source}'. It is undone or finished by itself at the next start.")

    def tick(self, size: int, entries: int) -> None:
        """Count what was done, and wait if that was too fast; raises `Stopped`."""
        if self.phase in COUNTED:
            self.bytes_done += size
            self.files_done += entries
            if self._pace is not None:
                self._pace.spend(size, entries)
        if self.stop.is_set():
            self.check()

    def walk(self, _size: int, _entries: int = 0) -> None:
        """A tick that counts nothing, for looking."""
        if self.stop.is_set():
            self.check()

    def removed(self, entries: int) -> None:
        """A tick that counts nothing, and waits if that was too fast: neighbours' fsyncs carry what is removed, too."""
        self.walk(0)
        if self._pace is not None:
            self._pace.spend(0, entries)

    def wait(self, seconds: float) -> None:
        """Sleep, unless stopped."""
        if self.stop.wait(seconds):
            self.check()

    def progress(self) -> Progress:
        """Return a snapshot; rate and time left are about the phase that is counted, or was last."""
        spent = self._seconds if self._seconds is not None else time.monotonic() - self._clock
        rate = self.bytes_done / spent if spent > 0.05 else 0.0
        left = max(0, self.bytes_total - self.bytes_done)
        return Progress(
            self.verb, self.cache_id, self.source, self.target, self.phase, self.began, self.bytes_done,
            max(self.bytes_total, self.bytes_done), self.files_done, max(self.files_total, self.files_done), rate,
            left / rate if self.phase in COUNTED and rate > 0 else None, self.note, self.rate,
        )  # fmt: skip
