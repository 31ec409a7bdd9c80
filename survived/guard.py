"""
The daemon's end of the guardian: looks at our links every few seconds, has news told, and merges stand-ins.

What a tool did to a link is only told. A link is judged by a journal that was read after it, so that a move that is going on
is never taken for a tool's work.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from survived import standins
from survived.decide import guardian
from survived.errors import Refused, Stopped, SurvivedError
from survived.events import Event, about
from survived.model import LinkReading, LinkState, Reason
from survived.worker import Job

if TYPE_CHECKING:
    from survived.daemon import Daemon
    from survived.findings import Standin

log = logging.getLogger(__name__)
_LOOK_SECONDS = 5.0
_QUIET = frozenset({LinkState.OK, LinkState.DISK_MISSING, LinkState.STANDIN})


class Guard:
    """Guards the links of one daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._look_at = 0.0
        self._is_needed = False
        self._states: dict[str, LinkState] = {}
        self._held: dict[str, str] = {}  # stand-ins that somebody uses, and who was said to
        self.links: tuple[LinkReading, ...] = ()

    def tick(self, now: float) -> None:
        """Look at the links if it is time, and begin what is due. Raises `SurvivedError` for a journal that cannot be read."""
        if now < self._look_at or not self._daemon.storekeeper.stores:
            return
        self._look_at = now + _LOOK_SECONDS
        self._look(now)
        if self._daemon.worker.is_idle and not self._daemon.dry_run:
            self._begin_merge(now)

    def wait(self, now: float) -> float:
        """Return in how many seconds `tick` has something to do."""
        return self._look_at - now if self._is_needed and self._daemon.storekeeper.stores else float("inf")

    def look_again(self) -> None:
        """Look at the next tick."""
        self._look_at = 0.0

    def _look(self, now: float) -> None:
        daemon, records, keeper = self._daemon, self._daemon.machine.records, self._daemon.storekeeper
        readings = records.links(keeper.stores)
        if any(reading.disk_is_there and not reading.tree_is_there for reading in readings):
            # Its disk may be gone since the disks were last looked at: that is said at once, and not for each of its links.
            fresh = keeper.marked(daemon.machine.read_stores())
            if {store.path for store in fresh if store.ok} != {store.path for store in keeper.stores if store.ok}:
                keeper.see(fresh, now)
            readings = records.links(keeper.stores)
        spared: frozenset[str] = frozenset()
        if any(guardian.judge(reading) not in _QUIET for reading in readings):
            job = daemon.worker.job
            busy = records.unfinished() | {job.task.source if job else ""}
            known = {item for _, item in records.relocations()}
            settled = tuple(item for item in readings if item.item in known and item.item.source not in busy)
            spared = frozenset(reading.item.target for reading in readings) - {reading.item.target for reading in settled}
            readings = settled
        self.links = readings
        self._is_needed = bool(readings or spared or records.standins())
        states = {reading.item.target: guardian.judge(reading) for reading in readings}
        if any(self._states.get(target, LinkState.OK) is not state for target, state in states.items()):
            daemon.measure_soon()  # what status says of the cache is old
        self._states = states
        if daemon.dry_run:
            return
        daemon.post.links(readings, now, spared)
        for path, opened in daemon.machine.open.items():
            records.remember(path, opened.journal.relocations())
        if daemon.worker.is_idle:
            self._forget_void(readings)

    def _forget_void(self, readings: tuple[LinkReading, ...]) -> None:
        for reading in readings:
            store = next((path for path in self._daemon.machine.open if reading.item.target.startswith(f"{path}/")), None)
            if store is not None and guardian.is_void(reading):
                self._daemon.machine.open[store].journal.forget(reading.item.target)
                item = reading.item
                extra = about(Event.LINK_FORGOTTEN, cache=item.cache_id, path=item.source, target=item.target)
                log.info("'%s' and its tree '%s' are both gone: it is forgotten.", item.source, item.target, extra=extra)

    # ---- stand-ins --------------------------------------------------------------------------------------------------

    def _begin_merge(self, now: float) -> None:
        daemon = self._daemon
        held = daemon.failures.held_back(now)
        standin = next((item for item in standins.due(daemon.machine, daemon.storekeeper.stores) if item.source not in held), None)
        if standin is None:
            return
        chosen = standin
        job = Job(
            f"merging {chosen.cache_id}",
            lambda task: standins.merge(daemon.machine, chosen, task),
            lambda done, error: self._merged(chosen, done, error),
        )
        daemon.act(job, chosen.source)

    def _merged(self, standin: Standin, done: dict[str, Any] | None, error: SurvivedError | None) -> None:
        daemon, now = self._daemon, time.time()
        self.look_again()
        if error is not None:
            if not isinstance(error, Stopped):
                daemon.failures.note(standin.source, error.message, now, standin.cache_id)
                if not (isinstance(error, Refused) and error.reason in (Reason.BUSY, Reason.UNSETTLED, Reason.NO_STORE)):
                    daemon.post.trouble("A stand-in cannot be merged", f"{error} It is tried again.", now)
        elif done is not None and done["how"] == "held":
            self._look_at = now + _LOOK_SECONDS
            if self._held.get(standin.source) != done["by"]:
                log.info("The stand-in of '%s' is merged when %s has ended.", standin.source, done["by"])
            self._held[standin.source] = done["by"]
        elif done is not None:
            daemon.failures.forget(standin.source)
            self._held.pop(standin.source, None)
            daemon.measure_soon()
            extra = about(Event.STANDIN_MERGED, cache=standin.cache_id, path=standin.source)
            log.info("The stand-in of '%s' is gone, and its link %s.", standin.source, done["how"], extra=extra)
            if done["how"] == "merged":
                kept = [item["path"] for item in done["kept"]]
                daemon.post.merged(standin.cache_id, standin.source, done["target"], kept, now)
