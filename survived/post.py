"""
From events to delivered notices: decides what is news, keeps it in the outbox, and has it sent by one child at a time.

Without a store (no data disk, or it is full) memory and outbox live in this process, and move to the store when it is
there. A destination that hangs never delays anything else: the child is killed at its time limit.
"""

from __future__ import annotations

import json
import logging
import selectors
import socket
import time
from typing import TYPE_CHECKING, Any

from survived.decide import notices
from survived.errors import SurvivedError
from survived.store.outbox import Outbox
from survived.tell.deliver import Delivery, destination_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from survived.machine import Machine
    from survived.model import Filesystem, Notice, Observation, Operation, Plan, Pressure
    from survived.store.database import Database

log = logging.getLogger(__name__)
_MEMORY = "notices"


class Post:
    """The daemon's end of telling; `selector` is the loop's."""

    def __init__(self, machine: Machine, selector: selectors.BaseSelector) -> None:
        self._machine, self._selector = machine, selector
        self._host = socket.gethostname().split(".")[0]
        self._memory = notices.Memory()
        self._database: Database | None = None
        self._outbox = Outbox(None)
        self._delivery: Delivery | None = None

    def use_store(self, machine: Machine) -> None:
        """Keep notices in the first open store; what waited in this process goes there. Without one they stay here."""
        database = next((opened.database for opened in machine.open.values()), None)
        if database is self._database:
            return
        if database is None:
            # What the store kept cannot be read any more; it goes out when the store is back.
            self._database, self._outbox = None, Outbox(None)
            return
        fresh = Outbox(database)
        try:
            fresh.adopt(self._outbox)
            if (kept := database.recall(_MEMORY)) is not None:
                self._memory = notices.Memory.from_dict(json.loads(kept))
        except (SurvivedError, ValueError) as error:
            log.warning("Notices stay in memory: %s", error)
            return
        self._database, self._outbox = database, fresh

    # ---- events -------------------------------------------------------------------------------------------------

    def observed(self, seen: Observation, pressures: Mapping[str, Pressure], plan: Plan, now: float) -> None:
        """Tell what changed since the last observation."""
        self._take(notices.on_observation(self._memory, seen, pressures, plan, now, rules=self._machine.rules, host=self._host))

    def moved(self, done: Operation, before: Filesystem | None, after: Filesystem | None, now: float) -> None:
        """Tell that an operation is done."""
        self._take(notices.on_moved(self._memory, done, before, after, now, host=self._host))

    def failed(self, cache_id: str, source: str, error: str, now: float) -> None:
        """Tell that something failed, once for as long as it fails the same way."""
        self._take(notices.on_failed(self._memory, cache_id, source, error, now, host=self._host))

    def trouble(self, title: str, text: str, now: float) -> None:
        """Tell what concerns no cache, once for as long as it is the same."""
        self._take(notices.on_trouble(self._memory, title, text, now, host=self._host))

    def _take(self, told: notices.Told) -> None:
        memory, news = told
        changed, self._memory = memory != self._memory, memory
        for notice in news:
            log.info("Notice: %s", notice.title)
            self._put(notice)
        if changed and self._database is not None:
            try:
                self._database.remember(_MEMORY, json.dumps(memory.to_dict()))
            except SurvivedError as error:
                log.warning("%s What has been told may be told again after a restart.", error)

    def _put(self, notice: Notice) -> int:
        destinations = [destination_key(url) for url in self._machine.settings.notify_urls()]
        try:
            return self._outbox.put(notice, destinations)
        except SurvivedError as error:
            # The data disk is full or gone: what it cannot keep waits here.
            log.warning("%s The notice waits in memory.", error)
            self._database, self._outbox = None, Outbox(None)
            return self._outbox.put(notice, destinations)

    # ---- sending --------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Start a delivery if one is due, end one that takes too long."""
        if self._delivery is not None:
            if self._delivery.expired(now):
                self._collect()
            return
        urls = {destination_key(url): url for url in self._machine.settings.notify_urls()}
        batch = self._outbox.due(now, tuple(urls))
        if not batch:
            return
        self._delivery = Delivery(self._machine.settings.notify.timeout)
        self._delivery.start(batch, urls, now)
        self._selector.register(self._delivery.fileno(), selectors.EVENT_READ, lambda _: self._collect())

    def _collect(self) -> None:
        delivery = self._delivery
        if delivery is None:
            return
        self._outbox.record(delivery.on_readable(), time.time())
        if delivery.done:
            self._selector.unregister(delivery.fileno())
            delivery.close()
            self._delivery = None

    def wait(self, now: float) -> float:
        """Return in how many seconds `tick` has something to do."""
        if self._delivery is not None:
            return 1.0
        return max(0.0, self._outbox.next_due(now) - now)

    def is_idle(self, now: float) -> bool:
        """Tell whether nothing is being sent and nothing is due."""
        return self._delivery is None and self._outbox.next_due(now) > now

    def summary(self) -> dict[str, Any]:
        """Return what status says of notices."""
        return self._outbox.summary()

    def recent(self) -> list[dict[str, Any]]:
        """Return the last notices."""
        return self._outbox.recent(5)

    def close(self) -> None:
        """End a delivery that runs; what it has not sent goes out after the next start."""
        if self._delivery is not None:
            self._collect()
        if self._delivery is not None:
            self._delivery.close()
