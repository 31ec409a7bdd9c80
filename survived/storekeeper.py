"""
The daemon's end of the stores: looks at the data disks now and then, opens and closes the stores, and finishes what a crash left.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from survived import errands
from survived.errors import Stopped, SurvivedError
from survived.events import Event, about
from survived.model import Stage
from survived.worker import Job

if TYPE_CHECKING:
    from survived.daemon import Daemon
    from survived.model import StoreReading

log = logging.getLogger(__name__)
_LOOK_SECONDS = 15.0


class Storekeeper:
    """Keeps the stores of one daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._looked_at = self._recover_at = 0.0
        self.stores: tuple[StoreReading, ...] = ()

    def tick(self, now: float) -> None:
        """Look at the data disks now and then, open what came back, finish what a crash left there."""
        daemon = self._daemon
        if not daemon.worker.is_idle or now - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        before = {store.path for store in self.stores if store.ok}
        readings = daemon.machine.read_stores()
        had = set(daemon.machine.open)
        troubles = {}
        if not daemon.dry_run:  # it makes no store, finishes no move and gives up no ballast
            try:
                daemon.machine.open_stores(readings)
            except SurvivedError as error:
                troubles = {"open": str(error)}  # a survivectl works there without us, or its database is broken: look again soon
        daemon.troubles.set("stores", troubles)
        self.stores = self.marked(readings)
        changed = before != {store.path for store in self.stores if store.ok}
        if changed:
            daemon.measure_soon()  # links lead somewhere again, or nowhere any more
            daemon.guard.look_again()
        if daemon.dry_run:
            return
        if daemon.post.use_store(daemon.machine):
            daemon.levels.resume(daemon.post.episodes())
        if changed and daemon.observation is not None:
            daemon.post.stores(replace(daemon.observation, stores=self.stores), now)
        daemon.machine.ballast.lay()
        if set(daemon.machine.open) - had or now >= self._recover_at:
            self._recover_at = now + _LOOK_SECONDS
            self._start_recovery()

    def look_again(self) -> None:
        """Look at the next tick."""
        self._looked_at = 0.0

    def marked(self, readings: tuple[StoreReading, ...]) -> tuple[StoreReading, ...]:
        """Return readings of the data disks in which a store is not ok whose database is broken."""
        broken = self._daemon.machine.broken
        return tuple(replace(r, ok=False, reason=broken[r.path]) if r.ok and r.path in broken else r for r in readings)

    def see(self, readings: tuple[StoreReading, ...], now: float) -> None:
        """Take a reading of the data disks that differs from the last, and tell of it at once; opening and closing can wait."""
        daemon = self._daemon
        self.stores = readings
        self._looked_at = 0.0
        daemon.measure_soon()
        if daemon.worker.is_idle:
            for path in set(daemon.machine.open) - {store.path for store in readings if store.ok}:
                daemon.machine.close_store(path)
            daemon.post.use_store(daemon.machine)
        if daemon.observation is not None and not daemon.dry_run:
            daemon.post.stores(replace(daemon.observation, stores=readings), now)

    def _start_recovery(self) -> None:
        daemon = self._daemon
        if any(opened.journal.open_operations() for opened in daemon.machine.open.values()):
            daemon.worker.start(Job("recovering", lambda task: errands.recover(daemon.machine, task), self._recovered))

    def _recovered(self, result: Any, error: SurvivedError | None) -> None:
        daemon = self._daemon
        if isinstance(error, Stopped):
            return
        if error is not None:
            daemon.troubles.set("recover", str(error))
            return
        ended, puzzles = result
        for operation in ended:
            if operation.stage in (Stage.DONE, Stage.UNDONE):
                extra = about(Event.RECOVERED, cache=operation.cache_id, path=operation.source, verb=operation.verb)
                log.info("Recovered: the %s of '%s' is %s.", operation.verb, operation.source, operation.stage, extra=extra)
                daemon.post.moved(operation, None, daemon.machine.filesystem_of(operation.source), time.time())
        daemon.troubles.set("recover", {puzzle.message: str(puzzle) for puzzle in puzzles})
        for puzzle in puzzles:
            daemon.post.trouble("A move needs you to look at it", str(puzzle), time.time())
        if any(operation.stage in (Stage.DONE, Stage.UNDONE) for operation in ended):
            daemon.measure_soon()
