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
    from collections.abc import Collection, Mapping, Sequence

    from survived.machine import Machine
    from survived.model import Filesystem, LinkReading, Notice, Observation, Operation, Plan, Pressure
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
        self._spare = Outbox(None)  # for as long as there is no store, or the store cannot be written
        self._outbox = self._spare
        self._stored: dict[str, Outbox] = {}  # by database: what was sent and could not be recorded is not forgotten
        self._delivery: Delivery | None = None
        self._sending = self._spare
        self._is_told = self._is_recalled = self._is_forgetful = False

    def use_store(self, machine: Machine) -> bool:
        """
        Keep notices in the first open store; what waited in this process goes there. Without one they stay here.

        Returns whether what had been told before this process began was read just now.
        """
        database = next((opened.database for opened in machine.open.values()), None)
        if database is None:
            # What the store kept cannot be read any more; it goes out when the store is back.
            self._database, self._outbox = None, self._spare
            return False
        if database is self._database and self._outbox is not self._spare:
            return False
        if database is not self._database:
            self._stored[database.path] = Outbox(database)
        stored = self._stored[database.path]
        was_recalled = self._is_recalled
        try:
            if not self._is_recalled and (kept := database.recall(_MEMORY)) is not None:
                self._memory = notices.recalled(notices.Memory.from_dict(json.loads(kept)), self._memory)
            self._is_recalled = True  # later ours is newer: it knows that the disk was away
            stored.adopt(self._spare)
        except (SurvivedError, ValueError) as error:
            self._stay_in_memory(str(error))
            return False
        self._database, self._outbox, self._is_told = database, stored, False
        if self._sending is self._spare:
            self._sending = stored
        return not was_recalled

    def _stay_in_memory(self, why: str) -> None:
        """Keep new notices here while the store cannot be written, saying so once."""
        if not self._is_told:
            log.warning("%s Notices wait in memory.", why)
        self._outbox, self._is_told = self._spare, True

    def episodes(self) -> dict[str, str]:
        """Return on which mounts pressure was told and has not ended, and of what: "bytes" or "inodes"."""
        return {episode.mount: episode.quantity for episode in self._memory.episodes}

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

    def stores(self, seen: Observation, now: float) -> None:
        """Tell at once what changed of the data disks."""
        self._take(notices.on_stores(self._memory, seen, now, rules=self._machine.rules, host=self._host))

    def links(self, readings: Sequence[LinkReading], now: float, spared: Collection[str]) -> None:
        """Tell which links of ours stand otherwise than was told; `spared` are targets that cannot be judged now."""
        self._take(notices.on_links(self._memory, readings, now, host=self._host, spared=spared))

    def merged(self, name: str, source: str, target: str, kept: Sequence[str], now: float) -> None:
        """Tell that a stand-in and the tree behind its link are one again."""
        self._take(notices.on_merged(self._memory, name, source, target, kept, now, host=self._host))

    def _take(self, told: notices.Told) -> None:
        memory, news = told
        changed, self._memory = memory != self._memory, memory
        for notice in news:
            log.info("Notice: %s", notice.title)
            self._put(notice)
        if changed and self._database is not None:
            try:
                self._database.remember(_MEMORY, json.dumps(memory.to_dict()))
                self._is_forgetful = False
            except SurvivedError as error:
                if not self._is_forgetful:
                    log.warning("%s What has been told may be told again after a restart.", error)
                self._is_forgetful = True

    def _put(self, notice: Notice) -> None:
        destinations = [destination_key(url) for url in self._machine.settings.notify_urls()]
        try:
            self._outbox.put(notice, destinations)
        except SurvivedError as error:
            self._stay_in_memory(error.message)
            self._spare.put(notice, destinations)

    # ---- sending --------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Start a delivery if one is due, end one that takes too long."""
        if self._delivery is not None:
            if self._delivery.expired(time.monotonic()):
                self._collect()
            return
        urls = {destination_key(url): url for url in self._machine.settings.notify_urls()}
        batch = self._outbox.due(now, tuple(urls))
        if not batch:
            return
        delivery = Delivery(self._machine.settings.notify.timeout)
        try:
            delivery.start(batch, urls, time.monotonic())
        except OSError as error:  # EMFILE, ENOMEM: the batch is still due at the next tick
            log.warning("Cannot send notices: %s, trying again", error.strerror)
            return
        self._delivery, self._sending = delivery, self._outbox
        self._selector.register(delivery.fileno(), selectors.EVENT_READ, lambda _: self._collect())

    def _collect(self) -> None:
        delivery = self._delivery
        if delivery is None:
            return
        self._sending.record(delivery.on_readable(), time.time())
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
