"""
The daemon's end of the metrics: counts what it did and puts the page where node_exporter's textfile collector reads it.

The page is replaced in one step, so that no half of one is ever read, and not synced: after a power cut the next is soon there.
"""

from __future__ import annotations

import os
import pwd
import time
from typing import TYPE_CHECKING, Any

from survived import __version__
from survived.act import fs
from survived.errors import cause_of
from survived.model import Stage, Verb
from survived.tell import metrics
from survived.tell.logbook import lost_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from survived.errors import SurvivedError
    from survived.machine import Machine
    from survived.model import Operation

_EVERY_SECONDS = 15.0
_MODE = 0o644  # node_exporter is another user


class Meters:
    """Counts and writes for one daemon; `trouble` is why the page could not be written the last time, or None."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._counters = metrics.Counters()
        self._at = 0.0  # of the monotonic clock
        self._written = ""
        self.trouble: str | None = None

    def moved(self, done: Operation | None, error: SurvivedError | None) -> None:
        """Count what came of one operation that acted."""
        counters = self._counters
        if error is not None:
            counters.failures += 1
        elif done is not None and done.stage is Stage.DONE:
            counters.relocations += done.verb is Verb.RELOCATE
            counters.restores += done.verb is Verb.RESTORE
            counters.rehomes += done.verb is Verb.REHOME
            counters.freed_bytes += done.freed_bytes if done.verb is Verb.RELOCATE else 0

    def text(self, doc: Mapping[str, Any]) -> str:
        """Return the page that belongs to a status document."""
        self._counters.lost_lines = lost_lines()
        return metrics.render(doc, self._counters, user_name(self._machine.uid))

    def tick(self, read_status: Callable[[], Mapping[str, Any]]) -> None:
        """Write the page if one is wanted and the last is 15 s old; never raises for what a disk does."""
        place, now = self._machine.settings.metrics.textfile, time.monotonic()
        if self._written and self._written != place:
            self._put(self._written, None)  # the configuration names another place, or none
        if place is None:
            self.trouble = None
        elif place != self._written or now - self._at >= _EVERY_SECONDS:
            self._at = now
            self._put(place, self.text(read_status()))

    def close(self) -> None:
        """Say on the page that this daemon has ended."""
        if self._written:
            self._put(self._written, metrics.render_end(__version__, time.time(), user_name(self._machine.uid)))

    def _put(self, place: str, text: str | None) -> None:
        """Replace the page, or remove it where there is no text."""
        self._written = place if text is not None else ""
        try:
            if text is None:
                fs.remove_file(place)
                return
            os.stat(os.path.dirname(place))  # a folder that we made would be one that node_exporter cannot read
            fs.write_file(place, text.encode(), _MODE, durable=False)
        except OSError as error:
            self.trouble = f"Cannot write '{place}': {cause_of(error)}. Prometheus sees what is there."
        else:
            self.trouble = None


def user_name(uid: int) -> str:
    """Return the account's name, or its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
