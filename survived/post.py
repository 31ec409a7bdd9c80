"""
From events to notices in the outbox: decides what is news, finds what explains it, and has the postman send it.

Without a store (no data disk, or it is full) memory and outbox live in this process, and move to the store when it is
there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from survived.decide import hogs as deciding
from survived.decide import letters, notices
from survived.decide.evidence import Evidence, Growth, cache_sizes, growth, with_growth
from survived.decide.memory import Memory, measured, recalled
from survived.decide.sentences import Voice
from survived.errors import SurvivedError
from survived.events import Event, about
from survived.model import Topic
from survived.observe.deleted import find_deleted
from survived.observe.disks import is_below, rooms_of
from survived.postman import Postman
from survived.store import history, hogs
from survived.store.outbox import Outbox
from survived.tell.catalogue import translation
from survived.tell.heartbeat import Heartbeat
from survived.tell.templates import Templates

if TYPE_CHECKING:
    import selectors
    from collections.abc import Collection, Mapping, Sequence

    from survived.machine import Machine
    from survived.model import Filesystem, LinkReading, Notice, Observation, Operation, Plan, Pressure
    from survived.settings.config import Settings
    from survived.store.database import Database

log = logging.getLogger(__name__)
_MEMORY = "notices"
_EXPLAINED = frozenset({Topic.PRESSURE, Topic.FLOOD, Topic.STUCK, Topic.WORSE, Topic.STILL})
_DELETED_BYTES = 1 << 20
_FAILURE_SECONDS = 86400.0
_CURVE_SECONDS = 7 * 86400.0
_CURVE_POINTS = 500
_POINT_SECONDS, _POINTS = 60.0, 360  # of the curve that is known without a store


class Post:
    """The daemon's end of telling; `selector` is the loop's."""

    def __init__(self, machine: Machine, selector: selectors.BaseSelector) -> None:
        self._machine = machine
        self._host = socket.gethostname().split(".")[0]
        self._memory = Memory()
        self._database: Database | None = None
        self._spare = Outbox(None)  # for as long as there is no store, or the store cannot be written
        self._outbox = self._spare
        self._stored: dict[str, Outbox] = {}  # by database: what was sent and could not be recorded is not forgotten
        self._is_told = self._is_recalled = self._is_forgetful = False
        self._sizes: dict[str, int] = {}  # of the caches, as last seen
        self._seen: tuple[Filesystem, ...] = ()
        self._points: dict[str, deque[tuple[float, float]]] = {}
        self._postman = Postman(machine, selector, self._curves, self._unusable)
        self._heartbeat = Heartbeat(machine.env)
        self._settings: Settings | None = None
        self._voice, self._templates = Voice(self._host), Templates(None)
        self._told_templates: dict[str, str] = {}

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
                self._memory = recalled(Memory.from_dict(json.loads(kept)), self._memory)
            self._is_recalled = True  # later ours is newer: it knows that the disk was away
            stored.adopt(self._spare)
        except (SurvivedError, ValueError) as error:
            self._stay_in_memory(str(error))
            return False
        self._database, self._outbox, self._is_told = database, stored, False
        self._postman.moved(self._spare, stored)
        return not was_recalled

    def _stay_in_memory(self, why: str) -> None:
        """Keep new notices here while the store cannot be written, saying so once."""
        if not self._is_told:
            log.warning("%s Notices wait in memory.", why)
        self._outbox, self._is_told = self._spare, True

    def episodes(self) -> dict[str, str]:
        """Return on which mounts pressure was told and has not ended, and of what: "bytes" or "inodes"."""
        return {episode.mount: episode.quantity for episode in self._memory.episodes}

    def _speak(self) -> Voice:
        """Return the voice of the settings as they are now."""
        settings = self._machine.settings
        if self._settings is not settings:
            self._settings = settings
            self._voice = Voice(self._host, translation(settings.notify.language, self._machine.env))
            self._templates = Templates(settings.notify.templates)
        return self._voice

    # ---- events -------------------------------------------------------------------------------------------------

    def observed(self, seen: Observation, pressures: Mapping[str, Pressure], plan: Plan, now: float) -> None:
        """Tell what changed since the last observation."""
        self._look(seen, now)
        repeat = self._machine.settings.notify.repeat

        def told(evidence: Mapping[str, Evidence] | None = None) -> notices.Told:
            return notices.on_observation(
                self._memory, seen, pressures, plan, now,
                rules=self._machine.rules, voice=self._speak(), repeat_seconds=repeat, evidence=evidence,
            )  # fmt: skip

        news = told()
        if any(item.topic in _EXPLAINED for item in news[1]):  # worth a look at what explains it
            news = told({fs.mount: self._evidence(fs) for fs in seen.filesystems})
        self._take(news, now)

    def moved(self, done: Operation, before: Filesystem | None, after: Filesystem | None, now: float) -> None:
        """Tell that an operation is done."""
        self._take(notices.on_moved(self._memory, done, before, after, now, voice=self._speak()), now)

    def purged(self, name: str, source: str, command: str, size_bytes: int, freed_bytes: int, now: float) -> None:
        """Tell that a cache was purged."""
        told = notices.on_purged(self._memory, name, source, command, size_bytes, freed_bytes, now, voice=self._speak())
        self._take(told, now)

    def failed(self, cache_id: str, source: str, error: str, now: float) -> None:
        """Tell that something failed, once for as long as it fails the same way."""
        again = self._machine.settings.notify.repeat or _FAILURE_SECONDS
        voice = self._speak()
        self._take(notices.on_failed(self._memory, cache_id, source, error, now, voice=voice, repeat_seconds=again), now)

    def trouble(self, title: str, text: str, now: float) -> None:
        """Tell what concerns no cache, once for as long as it is the same."""
        again = self._machine.settings.notify.repeat or _FAILURE_SECONDS
        self._take(notices.on_trouble(self._memory, title, text, now, voice=self._speak(), repeat_seconds=again), now)

    def stores(self, seen: Observation, now: float) -> None:
        """Tell at once what changed of the data disks."""
        self._take(notices.on_stores(self._memory, seen, now, rules=self._machine.rules, voice=self._speak()), now)

    def links(self, readings: Sequence[LinkReading], now: float, spared: Collection[str]) -> None:
        """Tell which links of ours stand otherwise than was told; `spared` are targets that cannot be judged now."""
        repeat, voice = self._machine.settings.notify.repeat, self._speak()
        self._take(notices.on_links(self._memory, readings, now, voice=voice, spared=spared, repeat_seconds=repeat), now)

    def merged(self, name: str, source: str, target: str, kept: Sequence[str], now: float) -> None:
        """Tell that a stand-in and the tree behind its link are one again."""
        self._take(notices.on_merged(self._memory, name, source, target, kept, now, voice=self._speak()), now)

    def _unusable(self, error: str) -> None:
        text = f"{error}. It gets nothing; the others do. Correct [notify] urls, then: survivectl notify test"
        self.trouble("a destination for notices cannot be used", text, time.time())

    def _take(self, told: notices.Told, now: float) -> None:
        memory, news = told
        if news:
            news = with_growth(news, self._speak(), self._growth(now), now)
            memory = measured(memory, self._sizes or dict(memory.sizes), now, is_told=True)
        changed, self._memory = memory != self._memory, memory
        for notice in news:
            log.info("Notice: %s", notice.title, extra=about(Event.NOTICE, topic=notice.topic))
            self._put(self._templates.apply(notice, self._host))
        if changed and self._database is not None:
            try:
                self._database.remember(_MEMORY, json.dumps(memory.to_dict()))
                self._is_forgetful = False
            except SurvivedError as error:
                if not self._is_forgetful:
                    log.warning("%s What has been told may be told again after a restart.", error)
                self._is_forgetful = True
        self._tell_templates(now)

    def _put(self, notice: Notice) -> None:
        destinations = self._postman.destinations(letters.tags_of(notice.topic, notice.level))
        try:
            self._outbox.put(notice, destinations)
        except SurvivedError as error:
            self._stay_in_memory(error.message)
            self._spare.put(notice, destinations)
        self._postman.soon()

    def _tell_templates(self, now: float) -> None:
        """Tell once of each template that cannot be used."""
        fresh = {name: text for name, text in self._templates.troubles.items() if self._told_templates.get(name) != text}
        self._told_templates = dict(self._templates.troubles)
        for text in fresh.values():
            log.warning("%s", text)
            self.trouble(
                "a template for notices cannot be used", f"{text} To see what is sent: survivectl notify test --dry-run", now
            )

    # ---- what explains it -------------------------------------------------------------------------------------------

    def _look(self, seen: Observation, now: float) -> None:
        self._sizes, self._seen = cache_sizes(seen), seen.filesystems
        self._memory = measured(self._memory, self._sizes, now, is_told=False)
        for fs in seen.filesystems:
            points = self._points.setdefault(fs.mount, deque(maxlen=_POINTS))
            if not points or not 0 <= now - points[-1][0] < _POINT_SECONDS:
                points.append((now, fs.usage))

    def _evidence(self, fs: Filesystem) -> Evidence:
        """Look for what fills a filesystem beside the known caches: only our own processes, and what the last look found."""
        deleted = find_deleted(rooms_of([fs.device_id]), _DELETED_BYTES)
        found: list[tuple[str, int]] = []
        with contextlib.suppress(SurvivedError):
            if self._database is not None and (sizes := hogs.before(self._database, time.time())) is not None:
                mounts = [other.mount for other in self._seen if other.mount != fs.mount and is_below(other.mount, fs.mount)]
                here = [(path, size) for path, size in sizes.sizes.items() if is_below(path, fs.mount)]
                found = [item for item in here if not any(is_below(item[0], mount) for mount in mounts)]
        return Evidence(deleted, tuple(sorted(found, key=lambda item: (-item[1], item[0]))))

    def _growth(self, now: float) -> Growth:
        memory = self._memory
        grown: tuple[Any, ...] = ()
        with contextlib.suppress(SurvivedError):
            if self._database is not None and memory.sizes_at > 0.0:
                then, latest = hogs.before(self._database, memory.sizes_at), hogs.before(self._database, now)
                if then is not None and latest is not None and latest.time > then.time:
                    grown = deciding.growers(then, latest)
        return growth(dict(memory.sizes), self._sizes, grown, memory.sizes_at, is_first=memory.told_at == 0.0)

    def _curves(self, now: float) -> tuple[dict[str, Any], ...]:
        """Return the usage of the last week of each filesystem, for the picture in a mail."""
        marks, curves = self._machine.rules.bytes_marks, []
        for fs in self._seen:
            points = list(self._points.get(fs.mount, ()))
            with contextlib.suppress(SurvivedError):
                if self._database is not None:
                    samples = history.since(self._database, fs.mount, now - _CURVE_SECONDS)
                    kept = [(s.time, s.used_bytes / max(1, s.used_bytes + s.available_bytes)) for s in samples if s.time < now]
                    points = kept if len(kept) > len(points) else points
            points = [*points[:: max(1, len(points) // _CURVE_POINTS)], (now, fs.usage)]
            total = fs.used_bytes + fs.available_bytes
            shares = {name: getattr(marks, name).as_usage(total) for name in ("low", "high", "flood")}
            curves.append({"mount": fs.mount, "points": points, **shares})
        return tuple(curves)

    # ---- sending --------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Start a delivery if one is due, end one that takes too long."""
        self._postman.tick(self._outbox, self._speak(), self._templates, now)

    def beat(self, *, is_well: bool) -> None:
        """Tell the dead man's switch, when it is time, that we live, and whether all is well."""
        settings = self._machine.settings
        self._heartbeat.tick(settings.heartbeat_url(), settings.notify.heartbeat, time.monotonic(), is_well=is_well)

    def wait(self, now: float) -> float:
        """Return in how many seconds `tick` or `beat` has something to do."""
        return min(self._postman.wait(now), self._heartbeat.wait(self._machine.settings.heartbeat_url(), time.monotonic()))

    def is_idle(self, now: float) -> bool:
        """Tell whether nothing is being sent and nothing is due."""
        return self._postman.is_idle(now)

    def summary(self) -> dict[str, Any]:
        """Return what status says of notices."""
        return self._outbox.summary()

    def recent(self) -> list[dict[str, Any]]:
        """Return the last notices."""
        return self._outbox.recent(5)

    def close(self) -> None:
        """End what runs; what was not sent goes out after the next start."""
        self._postman.close()
        self._heartbeat.close()
