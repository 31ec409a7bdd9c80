"""
What a running operation tells the loop, and how the loop stops it: counters written by the worker, read by anybody.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from survived.errors import Stopped
from survived.model import Progress, Verb

if TYPE_CHECKING:
    import threading


class Task:
    """One operation in flight. `stop` is set by whoever wants it to end; the next tick then raises `Stopped`."""

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop
        self.verb, self.cache_id, self.source, self.target = Verb.RELOCATE, "", "", ""
        self.phase = "begin"
        self.note = ""
        self.began = time.time()
        self.bytes_done = self.bytes_total = self.files_done = self.files_total = 0
        self._copy_began = time.monotonic()
        self._copy_seconds = 0.0

    def begin(self, verb: Verb, cache_id: str, source: str, target: str, *, bytes_total: int, files_total: int) -> None:
        """Name what is being done and how much is expected."""
        self.verb, self.cache_id, self.source, self.target = verb, cache_id, source, target
        self.bytes_total, self.files_total = bytes_total, files_total

    def enter(self, phase: str) -> None:
        """Begin a phase; "copy" starts the clock of the rate."""
        self.phase = phase
        if phase == "copy":
            self._copy_began = time.monotonic()
        elif not self._copy_seconds:
            self._copy_seconds = time.monotonic() - self._copy_began
        self.check()

    def check(self) -> None:
        """Raise `Stopped` if this operation is to end."""
        if self.stop.is_set():
            raise Stopped(f"Stopped while moving '{self.source}'. It is undone or finished by itself at the next start.")

    def tick(self, size: int, entries: int) -> None:
        """Count what was copied; raises `Stopped`."""
        if self.phase == "copy":
            self.bytes_done += size
            self.files_done += entries
        if self.stop.is_set():
            self.check()

    def walk(self, _size: int, _entries: int = 0) -> None:
        """A tick that counts nothing, for looking and removing."""
        if self.stop.is_set():
            self.check()

    def wait(self, seconds: float) -> None:
        """Sleep, unless stopped."""
        if self.stop.wait(seconds):
            self.check()

    def progress(self) -> Progress:
        """Return a snapshot; rate and time left are about the copy."""
        spent = self._copy_seconds or time.monotonic() - self._copy_began
        rate = self.bytes_done / spent if spent > 0.05 else 0.0
        left = max(0, self.bytes_total - self.bytes_done)
        return Progress(
            self.verb, self.cache_id, self.source, self.target, self.phase, self.began, self.bytes_done,
            max(self.bytes_total, self.bytes_done), self.files_done, max(self.files_total, self.files_done), rate,
            left / rate if self.phase == "copy" and rate > 0 else None,
        )  # fmt: skip
