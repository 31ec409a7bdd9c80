"""
What `top` finds on the disks: the overview of what is big, the entries of a directory, their sizes, and what may be moved.

Everything here may take long and is called in a thread of its own; it takes no lock, keeps nothing and changes nothing.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from typing import TYPE_CHECKING, Any

from survived.act.survey import check_source
from survived.ctl import local
from survived.ctl.explorer import Nature, Row, remeasured, short_path
from survived.ctl.guess import MARKERS, identify
from survived.ctl.look import judge, look
from survived.errors import Refused, SurvivedError, cause_of
from survived.model import CacheState, Observation, Reason
from survived.observe.caches import read_cache
from survived.observe.disks import is_below, read_mounts
from survived.observe.tree import measure_tree
from survived.settings.catalog import wrong_level
from survived.tell import status
from survived.tell.wire import path_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from survived.machine import Machine
    from survived.model import Relocation

_BLOCK = 512
_STOP_EVERY = 512


class Scout:
    """One user's view of the disks; `read` again makes it fresh."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.machine: Machine = local.open_machine(args)
        self.home = self.machine.home
        self.doc: dict[str, Any] = {"daemon": {"running": False}, "filesystems": [], "caches": [], "stores": []}
        self._caches: dict[str, dict[str, Any]] = {}
        self._words: dict[str, str] = {}
        self._cautions: dict[str, str] = {}
        self._relocated: dict[str, Relocation] = {}
        self.is_read = False
        self.is_full = False  # sizes and plan are known too
        self._mounts: frozenset[str] = frozenset()
        self._disks: frozenset[int] = frozenset()
        self._big: list[Row] | None = None
        self._lock = threading.Lock()

    def read(self) -> None:
        """Read how everything stands, from the daemon where one runs, without measuring anything. Raises `SurvivedError`."""
        now = time.time()
        targets = {item.source: item.target for _, item in self.machine.relocations()}
        doc = local.ask_or_none("status")
        self.is_full = doc is not None and bool(doc["caches"])
        if doc is None or not self.is_full:
            readings = tuple(read_cache(cache, now, targets, measure=False) for cache in self.machine.known_caches())
            seen = Observation(now, self.machine.read_filesystems(), readings, self.machine.read_stores())
            doc = status.document(status.Snapshot(now, seen, self.machine.rules, judge(self.machine, seen)))
        self._relocated = {item.source: item for _, item in self.machine.relocations()}
        self._mounts = frozenset(mount.point for mount in read_mounts())
        self._take(doc)

    def read_plan(self) -> None:
        """Measure and plan as a daemon would, where `read` found none to ask; what is moved and what not is known then."""
        if not self.is_full:
            self._take(status.document(look(self.machine)))
            self.is_full = True

    def _take(self, doc: dict[str, Any]) -> None:
        plan = doc.get("plan") or {"moves": [], "refusals": []}
        words = {path_of(item): f"moved next: {item['why']}" for item in plan["moves"]}
        words |= {path_of(item): item["why"] for item in plan["refusals"]}
        self._caches = {path_of(cache): cache for cache in doc["caches"] if cache["state"] != CacheState.ABSENT}
        self._words = words
        only_told = [item for item in plan["refusals"] if item["reason"] == Reason.REPORT_ONLY]
        self._cautions = {path_of(item): f"{item['id']} {item['why']}." for item in only_told}
        self._disks = frozenset(_devices(path_of(store) for store in doc["stores"] if store["ok"]))
        self.doc = doc
        self.is_read = True

    def forget(self) -> None:
        """Look for what is big anew when that is asked for next."""
        self._big = None

    # ---- the overview ----------------------------------------------------------------------------------------------

    def overview(self) -> list[Row]:
        """Return the caches that are there, as `read` found them."""
        return [self._cache_row(path, cache) for path, cache in self._caches.items()]

    def _cache_row(self, path: str, cache: dict[str, Any]) -> Row:
        # The daemon's view may be older than a move that has just ended; whether there is a link is seen at once.
        if os.path.islink(path):
            return self._link(path, short_path(path, self.home))
        size = cache["size_bytes"] if self.is_full and cache["state"] in (CacheState.HOME, CacheState.MOVING) else None
        return self._directory(path, short_path(path, self.home), size)

    def _directory(self, path: str, name: str, size: int | None = None) -> Row:
        cache = self._caches.get(path)
        if cache is None:
            return Row(path, name, Nature.DIRECTORY, size, identify(os.path.basename(path)))
        what = "" if cache["title"] == path else cache["title"]
        return Row(path, name, Nature.DIRECTORY, size, what, None, cache["id"], self._words.get(path, ""))

    def big(self) -> list[Row]:
        """Return what else is big: minutes on a large disk. It is looked for once, until `forget`."""
        with self._lock:
            if self._big is None:
                self._big = self._find_big()
            return self._big

    def _find_big(self) -> list[Row]:
        from survived.ctl.hogs import find_big

        rows = []
        for hog in find_big(self.machine).hogs:
            what = "what else is in it" if hog.is_rest else self._identify(hog.path, is_directory=hog.is_directory)
            nature = Nature.DIRECTORY if hog.is_directory else Nature.FILE
            rows.append(Row(hog.path, short_path(hog.path, self.home), nature, hog.size_bytes, what, is_rest=hog.is_rest))
        return rows

    # ---- one directory ---------------------------------------------------------------------------------------------

    def entries(self, path: str, stop: Callable[[], bool]) -> list[Row]:
        """Return what is in a directory, directories not measured. OSError if it cannot be read; less when `stop()` is true."""
        rows: list[Row] = []
        device = os.stat(path).st_dev
        with os.scandir(path) as entries:
            for entry in entries:
                if len(rows) % _STOP_EVERY == 0 and stop():
                    break
                place = os.path.join(path, entry.name)
                if place in self._mounts:
                    rows.append(Row(place, entry.name, Nature.MOUNT))  # not even looked at: it may be a dead one
                    continue
                try:
                    found = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                rows.append(self._row(place, entry.name, found, device))
        return rows

    def _row(self, path: str, name: str, found: os.stat_result, device: int) -> Row:
        if stat.S_ISLNK(found.st_mode):
            return self._link(path, name)
        if stat.S_ISDIR(found.st_mode):
            if found.st_dev != device:
                return Row(path, name, Nature.MOUNT)
            return self._directory(path, name)
        if stat.S_ISREG(found.st_mode):
            return Row(path, name, Nature.FILE, found.st_blocks * _BLOCK, identify(name, is_directory=False))
        return Row(path, name, Nature.OTHER)

    def _link(self, path: str, name: str) -> Row:
        try:
            target: str | None = os.readlink(path)
        except OSError:
            target = None
        item, cache = self._relocated.get(path), self._caches.get(path)
        what = cache["title"] if cache is not None and cache["title"] != path else ""
        if item is None or item.target != target:
            is_lost = cache is not None and cache["state"] == CacheState.DANGLING
            return Row(path, name, Nature.LOST if is_lost else Nature.LINK, what=what if is_lost else "", target=target)
        nature = Nature.RELOCATED if os.path.isdir(path) else Nature.LOST
        return Row(path, name, nature, item.size_bytes, what, target, cache["id"] if cache is not None else None)

    def measure(self, row: Row, stop: Callable[[], bool]) -> Row:
        """Return a directory's row with its size. Raises `Stopped` soon after `stop()` is true."""
        try:
            size = measure_tree(row.path, stop=stop, alone=True)
        except OSError:
            return remeasured(row, 0, partial=True, what="")
        return remeasured(row, size.size_bytes, partial=size.unreadable is not None, what=self._identify(row.path))

    @staticmethod
    def _identify(path: str, *, is_directory: bool = True) -> str:
        has = [marker for marker in MARKERS if os.path.lexists(os.path.join(path, marker))] if is_directory else []
        return identify(os.path.basename(path), has, is_directory=is_directory)

    # ---- what may be moved -----------------------------------------------------------------------------------------

    def why_not(self, row: Row) -> str | None:
        """Return why a row cannot be moved to a data disk, or None if it can; by the engine's own rules, where those are quick."""
        if row.nature is Nature.FILE:
            return "it is a file, and only directories are moved"
        if row.nature is not Nature.DIRECTORY:
            return "it is not here" if row.nature in (Nature.RELOCATED, Nature.LOST) else "it is no directory of its own"
        if row.is_rest:
            return "what is big in it is listed by itself"
        try:
            found = check_source(row.path, home=self.home, store_device=-1)
        except Refused as refusal:
            return refusal.message.partition("': ")[2].removesuffix(". Nothing was changed.")
        except OSError as error:
            return cause_of(error)
        if found.st_dev in self._disks:
            return "it is on a data disk already"
        level = wrong_level(row.path, self.machine.caches)
        if level is not None and level.breaks:
            return f"{level.cache.title} breaks if that is a link; the right level is '{level.cache.path}'"
        if not self._disks:
            return "there is no data disk to move it to; survivectl check says why"
        return None

    def word_of(self, path: str) -> str:
        """Return what the plan says of a path, or ""."""
        return self._words.get(path, "")

    def caution(self, row: Row) -> str:
        """Return what to know before a row is moved, or ""."""
        from survived import errands

        said = [self._cautions[row.path]] if row.path in self._cautions else []
        if row.nature is Nature.DIRECTORY and (advice := errands.advice(self.machine, errands.find_cache(self.machine, row.path))):
            said.append(advice)
        return " ".join(said)

    def filesystem_of(self, path: str | None) -> dict[str, Any] | None:
        """Return the watched filesystem that a path is on, as the status document has it; the fullest for None."""
        filesystems: list[dict[str, Any]] = self.doc["filesystems"]
        if path is None:
            return max(filesystems, key=lambda fs: float(fs["usage"]), default=None)
        on = [fs for fs in filesystems if is_below(path, path_of(fs, "mount"))]
        return max(on, key=lambda fs: len(fs["mount"]), default=None)


def _devices(paths: Any) -> list[int]:
    found = []
    for path in paths:
        for place in (path, os.path.dirname(path)):
            try:
                found.append(os.stat(place).st_dev)
                break
            except OSError:
                continue
    return found


def start_of(word: str | None) -> str | None:
    """Return the directory to begin with, None for the overview. Raises `SurvivedError` if it is none."""
    if word is None:
        return None
    path = os.path.abspath(os.path.expanduser(word))
    try:
        os.scandir(path).close()
    except OSError as error:
        raise SurvivedError(f"Cannot look into '{word}': {cause_of(error)}. Nothing was changed.") from error
    return path
