"""
Measure one tree: what it takes and what removing it would give back, each inode once, on one device.

Memory is bounded by the widest directories' sub-directories and by 16 bytes for each name of an inode that has several, not
by the files: under 40 MiB at a million entries. `walk.py` is the work, `parallel.py` its second process, `past.py` what is
known from before, `tally.py` the sums.

A quick measurement, one by what is known, stats every directory and reads anew those whose times are others, those named as
changed (inotify), and those in which something was changed in the last minute before they were read and is another now;
files above 1 MiB are always stat'ed. What it can miss, for as long as `TRUTH_SECONDS` and until the next measurement in full:

- a file below 1 MiB, quiet for a minute when it was last seen, that is then written in place where no inotify watch is:
  its growth, its newer change or use (`newest_change`, `newest_use`), its new owner (`foreign`);
- a link made, or removed, outside the tree to a file that had none, or others (`reclaimable_bytes`).

So a quick measurement is for watching; before acting a tree is measured in full.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from survived.errors import Stopped, SurvivedError
from survived.model import TreeSize
from survived.observe.disks import is_below, read_mounts, resolve_parents
from survived.observe.extents import can_share
from survived.observe.parallel import WORTH_ENTRIES, Helper, PeerLostError
from survived.observe.past import Past
from survived.observe.walk import OPEN_FLAGS, Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from survived.observe.disks import Mount
    from survived.observe.past import Keeper
    from survived.observe.tally import Links

TRUTH_SECONDS = 86400.0
"""For so long at most is a tree measured by what is known."""
_STOP_EVERY = 1024
_WORTH_KEEPING = 3000
"""Entries; less is measured as fast as its past is read."""


def measure_tree(
    path: str,
    *,
    stop: Callable[[], bool] | None = None,
    keeper: Keeper | None = None,
    changed: Collection[str] = (),
    in_full: bool = False,
    alone: bool = False,
) -> TreeSize:
    """
    Return the size of the tree at `path`, the root directory included.

    `files` counts names, so an inode with two names in the tree is two files and one size. What vanishes meanwhile is
    ignored. So is an mtime in the future: only `utime` puts it there, and the tree would never be old enough.
    With a `keeper` the measurement is quick where it can be, unless `in_full`, and what it learns is kept; `changed` are
    directories, as absolute paths without links, of which something is known to have changed. A keeper that fails is done without.
    `alone`: without a second process.
    FileNotFoundError, NotADirectoryError (also for a link) about `path` itself; Stopped soon after `stop()` is true.
    """
    path = path.rstrip("/") or "/"
    return _Measurement(path, stop, keeper, changed, alone=alone).run(in_full=in_full)


def mount_points_below(path: str) -> frozenset[str]:
    """Return the mount points at and below `path`, bind mounts too, as paths relative to it ("" for itself)."""
    return _points_below(resolve_parents(path), read_mounts())


def _points_below(real: str, mounts: tuple[Mount, ...]) -> frozenset[str]:
    prefix = len(real.rstrip("/")) + 1
    return frozenset(mount.point[prefix:] for mount in mounts if is_below(mount.point, real))


class _TooMuchError(Exception):
    """So much has changed, or in such a way, that what is known does not help."""


class _Measurement:
    """One call of `measure_tree`."""

    def __init__(
        self, path: str, stop: Callable[[], bool] | None, keeper: Keeper | None, changed: Collection[str], *, alone: bool
    ) -> None:
        self.path, self.stop, self.keeper, self.alone = path, stop, keeper, alone
        self.began = time.time()
        self.until_stop = _STOP_EVERY
        self.changed = changed
        self.real, mounts = resolve_parents(path), read_mounts()
        self.mounts = _points_below(self.real, mounts) - {""}
        holding = [mount for mount in mounts if is_below(self.real, mount.point)]
        self.fstype = max(holding, key=lambda mount: len(mount.point)).fstype if holding else ""

    def run(self, *, in_full: bool) -> TreeSize:
        """Measure, in the quickest way that is known to be right."""
        found = os.lstat(self.path)
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), self.path)
        past = None
        if self.keeper is not None:
            with suppress(SurvivedError):  # a store whose disk has gone: we do without
                past = Past(self.keeper, os.path.abspath(self.path), (found.st_dev, found.st_ino, os.geteuid()))
        if past is not None and not in_full and past.may_be_used(self.began, TRUTH_SECONDS):
            with suppress(_TooMuchError, SurvivedError):
                return self._by_past(past)
        if not self.alone:
            with suppress(PeerLostError):  # what it was given is lost: all over again, alone
                return self._in_full(past, found, alone=False)
        return self._in_full(past, found, alone=True)

    def _open(self) -> int | None:
        """Open the tree's root; None if we may not read it."""
        try:
            return os.open(self.path, OPEN_FLAGS)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM):
                raise
            return None

    def _walk(self, descriptor: int) -> Walk:
        shares = can_share(self.fstype, descriptor)
        return Walk(self.path, descriptor, self.mounts, self.began, self._check_stop, shares=shares)

    def _in_full(self, past: Past | None, found: os.stat_result, *, alone: bool) -> TreeSize:
        """Read every entry, and note what was found."""
        descriptor = self._open()
        if descriptor is None:
            own = found.st_blocks * 512
            mtime = found.st_mtime if found.st_mtime <= self.began else 0.0
            foreign = self.path if os.geteuid() not in (0, found.st_uid) else None
            return TreeSize(
                size_bytes=own, reclaimable_bytes=own, directories=1, newest_change=max(found.st_ctime, mtime),
                foreign=foreign, unreadable=self.path,
            )  # fmt: skip
        walk = self._walk(descriptor)
        helper = None if alone else Helper(walk, descriptor, lambda: self._check_stop(_STOP_EVERY))
        try:
            walk.notes = past.begin_anew(self.began) if past is not None else None
            walk.peer = helper
            walk.run_all()
            if helper is not None:
                helper.bring_home()
        finally:
            if helper is not None:
                helper.close()
            walk.close()
        links = walk.tally.resolve()
        if past is not None and walk.tally.files + walk.tally.directories >= _WORTH_KEEPING:
            self._keep(past, walk, links)
        return self._result(walk, links.blocks, links.outside_blocks)

    def _by_past(self, past: Past) -> TreeSize:
        """Read only what has changed; `_TooMuchError` if that is too much, or if links make it doubtful."""
        descriptor = self._open()
        if descriptor is None:
            raise _TooMuchError
        walk = self._walk(descriptor)
        walk.past, walk.notes = past, past.begin_more()
        start = len(self.real.rstrip("/")) + 1
        walk.changed = {place[start:] for place in self.changed if is_below(place, self.real)}
        most = 2 * WORTH_ENTRIES + past.files // 4

        def check(seen: int) -> None:
            if walk.seen + seen > most:
                raise _TooMuchError
            self._check_stop(seen)

        walk.check = check
        try:
            walk.run_all()
        finally:
            walk.close()
        if not (walk.was_read_anew or walk.tally.ranges) and len(walk.used) == past.directories:  # not one less, either
            return self._result(walk, past.linked_blocks, past.outside_blocks)
        for place in walk.used:
            record = past.at(place)
            if record is None:
                raise _TooMuchError
            walk.tally.add_links(record.links)
        # A link that is missing may be one that the records tell wrongly: they are from before it was made, or removed.
        links = walk.tally.resolve(past.outside())
        if links.is_doubtful:
            raise _TooMuchError
        # A past that is a little old does no harm; but what we were told is not told again.
        if walk.was_told or walk.seen > _WORTH_KEEPING // 3 + past.files // 50:
            self._keep(past, walk, links)
        return self._result(walk, links.blocks, links.outside_blocks)

    def _keep(self, past: Past, walk: Walk, links: Links) -> None:
        if walk.notes is not None:
            with suppress(SurvivedError):
                past.keep(walk.notes, links, walk.tally.files, walk.tally.directories, self.began)

    @staticmethod
    def _result(walk: Walk, linked: int, outside: int) -> TreeSize:
        """Return what was counted; an inode whose links were not all seen gives nothing back."""
        tally = walk.tally
        size = (tally.blocks + linked) * 512
        return TreeSize(
            size_bytes=size,
            reclaimable_bytes=max(0, size - outside * 512 - tally.kept_by_others()),
            files=tally.files,
            directories=tally.directories,
            newest_change=tally.newest,
            newest_use=tally.used,
            foreign=tally.foreign,
            unreadable=tally.unreadable,
            mount_below=tally.mount_below,
        )

    def _check_stop(self, seen: int) -> None:
        """Ask `stop` after about every thousand entries."""
        self.until_stop -= seen + 1
        if self.until_stop <= 0:
            self.until_stop = _STOP_EVERY
            if self.stop is not None and self.stop():
                raise Stopped(f"Stopped measuring '{self.path}'.")
