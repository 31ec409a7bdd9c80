"""
What the daemon does besides relocating: it purges what is to be purged, relieves data disks, and lets others go first.
"""

from __future__ import annotations

import logging
import os
import shlex
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from survived import errands, purges
from survived.decide.reasons import quiet_span
from survived.decide.relief import delay_of, is_full, relieve
from survived.errors import Stopped, SurvivedError
from survived.events import Event, about
from survived.levels import minute_of_day
from survived.model import Verb
from survived.store.layout import machine_id
from survived.units import print_bytes
from survived.worker import Job

if TYPE_CHECKING:
    from survived.act.task import Task
    from survived.daemon import Daemon
    from survived.findings import Handover
    from survived.model import Move, Observation, Operation

log = logging.getLogger(__name__)
_LITTLE = 0.1  # of what was to be freed: a purge that frees less is not tried again soon


class Deeds:
    """The daemon's acts of this kind, one at a time as all of them."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._seed = f"{machine_id()}:{daemon.machine.uid}"
        self._wanted_since: float | None = None

    def not_before(self, now: float) -> float:
        """Return when a move that is planned now may begin: several users' daemons see one filesystem and do not storm."""
        if not self._daemon.plan.moves:
            self._wanted_since = None
            return now
        if self._wanted_since is None or self._wanted_since > now:
            self._wanted_since = now
        return self._wanted_since + delay_of(self._seed, self._daemon.machine.rules.dwell_seconds)

    def say_moves(self) -> None:
        """In a dry run say what would be done, once an hour."""
        daemon = self._daemon
        for move in daemon.plan.moves:
            doing = "move" if move.command is None else "purge"
            extra = about(Event.WOULD_MOVE, cache=move.cache_id, path=move.source, size_bytes=move.size_bytes)
            log.info("Would %s '%s': %s", doing, move.source, move.why, extra=extra)
        daemon.plan = replace(daemon.plan, moves=())
        daemon.cooldown_until = time.time() + 3600.0

    def start_purge(self, move: Move) -> None:
        """Have a cache emptied by its tool's own command."""
        daemon = self._daemon
        cache = next(cache for cache in daemon.machine.known_caches() if cache.path == move.source)
        log.info("Purging '%s' (%s): %s", move.source, print_bytes(move.size_bytes), move.why)

        def done(result: Any, error: SurvivedError | None) -> None:
            self.purged(move.cache_id, move.source, move.reclaimable_bytes, result, error)

        def work(task: Task) -> dict[str, Any]:
            return purges.purge(daemon.machine, cache, task, asked=False)

        daemon.act(Job(f"purging {move.cache_id}", work, done), move.source)

    def purged(self, cache_id: str, source: str, hoped: int, result: dict[str, Any] | None, error: SurvivedError | None) -> None:
        """Note and tell what came of a purge."""
        daemon, now = self._daemon, time.time()
        if error is not None:
            daemon.moved(cache_id, source, None, error)
            return
        daemon.moved(cache_id, source, None, None)
        if result is None:
            return
        freed = int(result["freed_bytes"])
        log.info("Purged '%s'; freed %s.", source, print_bytes(freed))
        daemon.failures.forget(source)
        if freed < hoped * _LITTLE:
            daemon.failures.note(source, f"Purging '{source}' freed {print_bytes(freed)} of {print_bytes(hoped)}.", now, cache_id)
        daemon.post.purged(cache_id, source, shlex.join(result["command"]), int(result["size_bytes"]), freed, now)

    def relieve(self, seen: Observation, now: float) -> None:
        """Start to hand on what lies on a data disk that fills, if there is such a thing and moving is allowed now."""
        daemon = self._daemon
        rules, minute = daemon.machine.rules, minute_of_day(now)
        if len(seen.stores) < 2 or not any(store.ok and is_full(store, rules) for store in seen.stores):
            return
        if daemon.is_paused(now) or quiet_span(minute, rules.quiet_hours) is not None:
            return
        found = relieve(seen, rules, came=self._came(), failed=daemon.failures.held_back(now))
        if found:
            self._start(found[0])

    def _came(self) -> dict[str, float]:
        """Return when trees came to where they are by a rehome."""
        came: dict[str, float] = {}
        for opened in list(self._daemon.machine.open.values()):
            for item in opened.journal.relocations():
                made = opened.journal.maker(item.target)
                if made is not None and made.verb is Verb.REHOME:
                    came[item.target] = made.changed
        return came

    def _start(self, item: Handover) -> None:
        daemon, disk = self._daemon, os.path.dirname(item.store_path)
        log.info("Rehoming '%s' (%s) to '%s': %s", item.source, print_bytes(item.size_bytes), disk, item.why)

        def work(task: Task) -> Operation:
            store, relocation = errands.find_relocation(daemon.machine, item.source, Verb.REHOME)
            return errands.rehome(daemon.machine, store, relocation, task, to=disk)

        def done(operation: Operation | None, error: SurvivedError | None) -> None:
            if isinstance(error, Stopped):
                return
            daemon.moved(item.cache_id, item.source, operation, error)

        daemon.act(Job(f"rehoming {item.cache_id}", work, done), item.source)
