"""
One user's view of the machine: settings, paths, caches and stores brought together, for the daemon and survivectl alike.

The only place that knows which disks are data disks. Opening a store takes its lock, so whoever has opened one is the
only writer; `read_only` views take no lock, make nothing and write nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from survived.act import fs
from survived.act.ballast import Ballast
from survived.act.rebuild import set_aside
from survived.act.relocate import Ends
from survived.decide.quota import limit
from survived.errors import Refused, SurvivedError, cause_of
from survived.events import Event, about
from survived.findings import Speed
from survived.model import Cache, Filesystem, Kind, Observation, Reason, Relocation, StoreReading
from survived.observe.disks import answers, find_data_disks, read_filesystem, watched_paths
from survived.observe.drives import device_of, read_speed
from survived.observe.neighbours import find_exposed
from survived.observe.quota import read_quota
from survived.readings import Readings
from survived.records import Records
from survived.settings.catalog import resolve_caches
from survived.store import edits, history, hogs, journal, known, layout, outbox
from survived.store.database import Database

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from survived.settings.config import Settings
    from survived.settings.paths import Paths

log = logging.getLogger(__name__)
_RESOLVED_SECONDS = 60.0
"""How long the caches' places count as known."""
SCHEMA = (*journal.SCHEMA, *history.SCHEMA, *outbox.SCHEMA, *hogs.SCHEMA, *known.SCHEMA, *edits.SCHEMA)


@dataclass(slots=True)
class OpenStore:
    """A store with its database, as long as it is open."""

    store: layout.Store
    database: Database
    journal: journal.Journal

    def close(self) -> None:
        """Close database and directory; the lock ends."""
        self.database.close()
        self.store.close()


class Machine:
    """Reads observations and opens stores for one user, by one set of settings."""

    def __init__(self, settings: Settings, paths: Paths, env: Mapping[str, str], home: str, uid: int) -> None:
        self.paths, self.env, self.home, self.uid = paths, env, home, uid
        self.open: dict[str, OpenStore] = {}
        self.broken: dict[str, str] = {}  # stores that are there, but whose database cannot be used, and why
        self._lock = threading.RLock()  # the worker opens stores too
        self.records = Records(self)
        self.readings = Readings(self)
        self.use(settings)
        self._known_path = os.path.join(paths.state_dir, "stores.json")
        self.known = self._read_known()  # ids of the stores seen before, by path

    def use(self, settings: Settings) -> None:
        """Take new settings whole; stores that are open stay open until `open_stores` sees that they are not wanted."""
        self.settings = settings
        self.rules = settings.rules()
        self.resolve()
        self.ballast = Ballast(str(self.paths.state_dir), settings.move.ballast)

    def resolve(self) -> None:
        """Find the caches anew: tools' files change, and directories with a tag or behind a pattern come and go."""
        self.caches: tuple[Cache, ...] = resolve_caches(
            self.env, self.home, self.settings.overrides(), uid=self.uid, root_mode=self.paths.root_mode,
            search=self.settings.search(),
        )  # fmt: skip
        self._resolved = time.monotonic()

    # ---- disks ----------------------------------------------------------------------------------------------------

    def watched(self) -> tuple[str, ...]:
        """Return the paths whose filesystems we keep free."""
        named = self.settings.watch.filesystems
        return tuple(named) if named is not None else watched_paths(self.home)

    def read_filesystems(self) -> tuple[Filesystem, ...]:
        """Return a reading of each watched filesystem, each once; `SurvivedError` if none can be read."""
        found: dict[int, Filesystem] = {}
        trouble = ""
        for path in self.watched():
            try:
                filesystem = self._limited(path)
                found.setdefault(filesystem.device_id, filesystem)
            except OSError as error:
                trouble = f"'{path}': {cause_of(error)}"
        if not found:
            raise SurvivedError(f"Cannot watch {trouble or 'anything'}. Nothing is watched.", "Check [watch] filesystems.")
        return tuple(found.values())

    def _limited(self, path: str, *, by_room: bool = False) -> Filesystem:
        """Return the filesystem that holds `path` as our quota leaves it; root has none that binds."""
        filesystem = read_filesystem(path)
        quota = read_quota(path, filesystem.device, self.uid) if self.uid != 0 else None
        return limit(filesystem, quota, by_room=by_room)

    def filesystem_of(self, source: str) -> Filesystem | None:
        """Return the watched filesystem that a path's folder is on, or None."""
        with contextlib.suppress(OSError, SurvivedError):
            device = os.stat(os.path.dirname(source)).st_dev
            return next((fs for fs in self.read_filesystems() if fs.device_id == device), None)
        return None

    def disks(self) -> tuple[str, ...]:
        """Return the directories on data disks that may hold a store: those named, else those found and those used before."""
        if self.settings.data.disks is not None:
            return tuple(self.settings.data.disks)
        found = find_data_disks(self.home, self.uid, self._avoided())
        before = (os.path.dirname(path) for path in self.known)
        return tuple(dict.fromkeys((*found, *before)))

    def _avoided(self) -> frozenset[int]:
        devices = set()
        for path in self.watched():
            with contextlib.suppress(OSError):
                devices.add(os.stat(path).st_dev)
        return frozenset(devices)

    def read_stores(self) -> tuple[StoreReading, ...]:
        """Return a reading of each data disk's store. A disk that does not answer is not ok, and never waited for long."""
        return tuple(self._read_store(disk) for disk in self.disks())

    def _read_store(self, disk: str) -> StoreReading:
        path = os.path.join(disk, layout.NAME)
        if os.path.realpath(disk) == "/":
            return StoreReading(path, disk, ok=False, reason="'/' itself is no data disk")
        if not answers(disk):
            return StoreReading(path, disk, ok=False, reason=f"'{disk}' does not answer: is its server or disk gone?")
        filesystem = None
        for place in (disk, os.path.dirname(disk)):
            with contextlib.suppress(OSError):
                filesystem = self._limited(place, by_room=True)
                break
        reading = layout.read_store(
            disk,
            filesystem,
            uid=self.uid,
            avoid=self._avoided(),
            known_id=self.known.get(path),
            named=self.settings.data.disks is not None,
        )
        if reading.ok and filesystem is not None:
            speed = read_speed(device_of(filesystem.device, filesystem.device_id), filesystem.fstype)
            reading = replace(reading, rotational=speed is Speed.ROTATIONAL)
        if reading.ok and not self.settings.data.allow_exposed and (why := find_exposed(disk, frozenset({self.uid}))):
            return replace(reading, ok=False, reason=f"{why}: chmod +t mends that, and [data] allow_exposed allows it")
        return reading

    # ---- stores ---------------------------------------------------------------------------------------------------

    def open_stores(self, readings: tuple[StoreReading, ...]) -> None:
        """
        Open what is good and not open yet, close what is good no more. Makes a store only where one exists or none is open.

        Raises `SurvivedError`, after all were tried, if another survived holds a store's lock or its database is broken.
        """
        with self._lock:
            self._open_stores(readings)

    def _open_stores(self, readings: tuple[StoreReading, ...]) -> None:
        for path in set(self.open) - {reading.path for reading in readings if reading.ok}:
            self.close_store(path)
        trouble: SurvivedError | None = None
        good = [reading for reading in readings if reading.ok and reading.path not in self.open]
        wanted = [reading for reading in good if reading.path in self.known or self._exists(reading)]
        if not self.open and not wanted and good:
            wanted = [max(good, key=lambda reading: reading.available_bytes)]
        for reading in wanted:
            try:
                self.open_store(reading)
            except SurvivedError as error:  # one broken store is no reason to do without the others
                trouble = error
        if trouble is not None:
            raise trouble

    @staticmethod
    def _exists(reading: StoreReading) -> bool:
        return os.path.exists(os.path.join(reading.path, "STORE"))

    def open_store(self, reading: StoreReading, *, without_database: bool = False) -> OpenStore:
        """
        Open one store with its lock, making it if it is new, and remember its id.

        `without_database` sets a broken state.db aside and begins a new one.
        """
        with self._lock:
            return self._open_store(reading, without_database=without_database)

    def _open_store(self, reading: StoreReading, *, without_database: bool) -> OpenStore:
        if (known := self.open.get(reading.path)) is not None:
            return known
        try:
            store = layout.open_store(reading, uid=self.uid)
        except OSError as error:
            raise Refused(Reason.NO_STORE, f"Cannot use '{reading.path}': {cause_of(error)}. Nothing was written.") from error
        if without_database:
            log.warning("'%s/state.db' is now '%s'.", store.path, set_aside(store, "state.db"))
        was_lost = fs.exists(store.fd, "state.db") is None and store.is_used()
        try:
            database = Database(os.path.join(store.path, "state.db"), SCHEMA)
            if not os.path.samestat(os.stat(database.path), os.stat("state.db", dir_fd=store.fd)):  # SQLite knows only paths
                database.close()
                raise SurvivedError(f"Cannot use '{store.path}': it was replaced while we looked. Nothing was written.")
        except SurvivedError as error:
            self.broken[store.path] = error.message
            store.close()
            raise
        self.broken.pop(store.path, None)
        self.open[reading.path] = OpenStore(store, database, journal.Journal(database))
        if was_lost:  # seconds of Unix time: far above any number that was counted
            text = "'%s/state.db' was lost; survivectl recover --rebuild makes it anew from trees and links."
            log.warning(text, store.path, extra=about(Event.STORE_LOST, path=store.path))
            self.open[reading.path].journal.begin_after(int(time.time()))
        if self.known.get(store.path) != store.id:
            self.known[store.path] = store.id
            with contextlib.suppress(OSError):  # a full `/`: the links themselves tell what is where
                fs.write_file(self._known_path, json.dumps(self.known).encode(), 0o600)
        return self.open[reading.path]

    def close_store(self, path: str) -> None:
        """Close one store that was opened, if it still lets us."""
        if (opened := self.open.get(path)) is not None:
            with contextlib.suppress(SurvivedError):
                self.records.remember(path, opened.journal.relocations())
            del self.open[path]
            with contextlib.suppress(SurvivedError, OSError):
                opened.close()

    def claim(self) -> None:
        """Be the one daemon of this user for as long as the process lives; `SurvivedError` if there is one already."""
        place = self.paths.lock_file
        try:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:
            return  # whoever listens there next says what is wrong with the place
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = os.pread(fd, 32, 0).decode(errors="replace").strip()
            os.close(fd)
            if not isinstance(error, BlockingIOError):
                return  # ENOLCK, ENOSYS: a filesystem without locks
            raise SurvivedError(
                f"Another survived is running{f' (pid {pid})' if pid else ''}.", "Ask it: survivectl status."
            ) from error
        with contextlib.suppress(OSError):  # ENOSPC: the number is only for the sentence above
            os.truncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Close every store."""
        for path in list(self.open):
            self.close_store(path)

    def _read_known(self) -> dict[str, str]:
        try:
            with open(self._known_path, encoding="utf-8") as file:
                known = json.load(file)
        except (OSError, ValueError):
            return {}
        return {str(path): str(ident) for path, ident in known.items()} if isinstance(known, dict) else {}

    def ends(self, opened: OpenStore) -> Ends:
        """Return what the engine works with in this store."""
        return Ends(opened.store, opened.journal, self.ballast, self.home, self.find_store)

    def find_store(self, path: str) -> tuple[layout.Store, journal.Journal] | None:
        """Open the store that holds `path`; None while its disk is away. `SurvivedError` if another survived works with it."""
        reading = next((reading for reading in self.read_stores() if path.startswith(f"{reading.path}/")), None)
        if reading is None or not reading.ok:
            return None
        opened = self.open_store(reading)
        return opened.store, opened.journal

    def relocations(self) -> tuple[tuple[str, Relocation], ...]:
        """Return what is relocated, with the path of its store, also of stores whose disk is away."""
        return self.records.relocations()

    # ---- observing ------------------------------------------------------------------------------------------------

    def known_caches(self) -> tuple[Cache, ...]:
        """Return the catalogue's caches and, besides them, every relocated path that none of them names."""
        paths = {cache.path for cache in self.caches}
        ids = {cache.id for cache in self.caches}
        more = []
        for _, item in self.relocations():
            if item.source not in paths:
                ident = item.cache_id if item.cache_id not in ids else item.source
                more.append(
                    Cache(
                        ident,
                        item.cache_id,
                        kind=Kind.STATE,
                        path=item.source,
                        rule="relocated by hand",
                        report_only="relocated by hand",
                    )
                )
        standins = {item.source for item in self.records.standins()}
        why = "it is a stand-in, and is merged when its data disk is back"
        return tuple(replace(cache, report_only=why) if cache.path in standins else cache for cache in (*self.caches, *more))

    def observe(
        self,
        last: Observation | None = None,
        *,
        stop: Callable[[], bool] | None = None,
        stores: tuple[StoreReading, ...] | None = None,
        changed: Collection[str] | None = (),
        together: bool = False,
    ) -> Observation:
        """
        Read everything; caches at home are measured anew, those on a data disk once an hour.

        `stores` saves reading them twice. With a store open, trees are measured by what it knows of them and by `changed`,
        the folders that inotify told of; in full where somebody was writing when last seen, or if `changed` is None: not known.
        `together`: also which caches share inodes, for a plan. Raises `Stopped` soon after `stop()` is true.
        """
        now = time.time()
        if time.monotonic() - self._resolved > _RESOLVED_SECONDS:
            self.resolve()
        caches = self.readings.read(last, now, stop=stop, changed=changed)
        groups = self.readings.groups.measure(caches, stop) if together else ()
        return Observation(now, self.read_filesystems(), caches, stores if stores is not None else self.read_stores(), groups)
