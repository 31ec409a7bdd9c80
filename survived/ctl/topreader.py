"""
The thread that reads and measures for one listing of the explorer, as long as somebody looks at it.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from survived.ctl.explorer import Nature, short_path
from survived.errors import Stopped, SurvivedError, cause_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from survived.ctl.explorer import Listing, Row
    from survived.ctl.scout import Scout

    Tell = Callable[[Callable[[], None]], None]

_BATCH_SECONDS = 0.2


class Reader:
    """
    Fills a listing. `tell(change)` has the app's own thread call `change` and draw, and returns when that is done.

    `is_stale`: what the scout knows of caches and links is read again first.
    """

    def __init__(self, scout: Scout, listing: Listing, tell: Tell, *, is_stale: bool) -> None:
        self._scout, self._listing, self._tell_app, self._is_stale = scout, listing, tell, is_stale
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="survivectl-scout", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether it still fills the listing."""
        return self._thread.is_alive() and not self._stop.is_set()

    def stop(self) -> None:
        """End soon; nothing that it finds from here on is shown."""
        self._stop.set()

    def _run(self) -> None:
        listing, path = self._listing, self._listing.path
        try:
            if self._is_stale:
                self._scout.read()
            if path is None:
                self._overview()
                return
            if not listing.is_read:
                rows = self._scout.entries(path, self._stop.is_set)
                self._tell(lambda: self._take(rows))
            self._measure()
        except Stopped:
            pass
        except SurvivedError as error:
            self._give_up(str(error))
        except OSError as error:
            self._give_up(f"Cannot look into '{short_path(path or '/', self._scout.home)}': {cause_of(error)}.")

    def _tell(self, change: Callable[[], None]) -> None:
        """Change the listing in the app's thread. Raises `Stopped` if nobody looks at it any more."""

        def unless_stopped() -> None:
            if not self._stop.is_set():
                change()

        if self._stop.is_set():
            raise Stopped("Nobody looks there any more.")
        self._tell_app(unless_stopped)

    def _give_up(self, why: str) -> None:
        def fail() -> None:
            self._listing.error, self._listing.is_read, self._listing.pending = why, True, 0

        if not self._stop.is_set():
            self._tell(fail)

    def _overview(self) -> None:
        rows = self._scout.overview()
        self._tell(lambda: self._listing.put(rows))
        self._measure()
        more = self._scout.big()
        self._tell(lambda: self._listing.add(more))
        self._scout.read_plan()
        words = {row.path: replace(row, word=self._scout.word_of(row.path)) for row in self._listing.rows}

        def end() -> None:
            self._listing.update(words)
            self._listing.is_read = True

        self._tell(end)

    def _take(self, rows: list[Row]) -> None:
        listing = self._listing
        listing.put(rows)
        listing.is_read = True
        listing.pending = sum(row.size_bytes is None and row.nature is Nature.DIRECTORY for row in rows)

    def _measure(self) -> None:
        """Measure the directories one by one, and hand over what is done in batches."""
        listing = self._listing
        left = [row for row in list(listing.rows) if row.size_bytes is None and row.nature is Nature.DIRECTORY]
        done: dict[str, Row] = {}
        wait, began = _BATCH_SECONDS, time.monotonic()
        for number, row in enumerate(left, 1):
            done[row.path] = self._scout.measure(row, self._stop.is_set)
            if time.monotonic() - began >= wait or number == len(left):
                batch, done, pending = done, {}, len(left) - number
                sent = time.monotonic()
                self._tell(lambda batch=batch, pending=pending: listing.update(batch, pending))  # type: ignore[misc]
                began = time.monotonic()
                wait = max(_BATCH_SECONDS, 10 * (began - sent))  # sorting 100,000 rows takes its time
