"""
The known caches as they are found: where each is, how big, who holds it.

Reading never fails: what the kernel refuses becomes the reading's `error`, one sentence, and the other caches go on.
"""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from typing import TYPE_CHECKING

from survived.model import Cache, CacheReading, CacheState, TreeSize
from survived.observe.disks import answers, resolve_parents
from survived.observe.holders import find_holders
from survived.observe.tree import measure_tree, mount_points_below

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from survived.observe.past import Keeper

    Measure = Callable[[str], TreeSize]


def read_caches(
    caches: Iterable[Cache],
    now: float,
    targets: Mapping[str, str],
    *,
    stop: Callable[[], bool] | None = None,
    keeper: Keeper | None = None,
    changed: Collection[str] = (),
    in_full: Collection[str] = (),
) -> tuple[CacheReading, ...]:
    """
    Return a reading of each cache, with the holders of those at home; Stopped soon after `stop()` is true.

    `targets`: source -> target of our own relocations. Two entries that resolve to one directory are measured once and
    both have its size: who adds sizes up should do so by real directory.
    With a `keeper`, which knows trees from before, they are measured by what has changed, but for the paths `in_full`;
    `changed` are directories that inotify told of. What that may miss: see `observe/tree.py`.
    """
    sizes: dict[tuple[int, int], TreeSize] = {}

    def measure_once(path: str) -> TreeSize:
        found = os.lstat(path)
        key = (found.st_dev, found.st_ino)
        if key not in sizes:
            sizes[key] = measure_tree(path, stop=stop, keeper=keeper, changed=changed, in_full=path in in_full)
        return sizes[key]

    readings = [_read(cache, now, targets, measure_once) for cache in caches]
    at_home = [reading.cache.path for reading in readings if reading.state is CacheState.HOME and reading.error is None]
    holders = find_holders(at_home)
    return tuple(replace(reading, holders=holders.get(reading.cache.path, ())) for reading in readings)


def read_cache(
    cache: Cache,
    now: float,
    targets: Mapping[str, str],
    *,
    measure: bool = True,
    known: CacheReading | None = None,
    stop: Callable[[], bool] | None = None,
) -> CacheReading:
    """
    Return one cache as it is now, without holders; never raises but Stopped.

    A directory is measured where it is and a link of ours at its target; a link of somebody else's is not measured.
    With `measure=False` the size is `known`'s, as long as the cache is still in the same state.
    """
    if measure:
        return _read(cache, now, targets, lambda path: measure_tree(path, stop=stop))
    reading = _read(cache, now, targets, lambda _: TreeSize())
    if known is not None and known.state is reading.state and known.target == reading.target and reading.error is None:
        return replace(reading, size=known.size)
    return reading


def _read(cache: Cache, now: float, targets: Mapping[str, str], measure: Measure) -> CacheReading:
    """Return the reading, measured by `measure`; an OSError becomes its error."""
    reading = CacheReading(cache=cache, time=now, state=CacheState.ABSENT)
    try:
        if "" in mount_points_below(cache.path):
            # Before any lstat: the mount may be a dead one.
            error = f"Cannot measure '{cache.path}': it is a mount point."
            return replace(reading, state=CacheState.HOME, size=TreeSize(mount_below=cache.path), error=error)
        found = os.lstat(cache.path)
        if stat.S_ISLNK(found.st_mode):
            return _read_link(reading, targets, measure)
        reading = replace(reading, state=CacheState.HOME, device_id=found.st_dev)
        if not stat.S_ISDIR(found.st_mode):
            return replace(reading, error="not a directory")
        return replace(reading, size=measure(cache.path))
    except (FileNotFoundError, NotADirectoryError):
        # ENOTDIR: a parent is a file. Either way also when it vanishes while it is measured.
        return replace(reading, state=CacheState.ABSENT, device_id=None)
    except OSError as error:
        return replace(reading, error=_sentence(cache.path, error))


def _read_link(reading: CacheReading, targets: Mapping[str, str], measure: Measure) -> CacheReading:
    """Return the reading of a cache that is a link: relocated, or dangling."""
    path = reading.cache.path
    text = os.readlink(path)
    # A relative link starts where the link really lies, which matters when a parent is a link too.
    start = os.path.dirname(resolve_parents(path))
    target = text if os.path.isabs(text) else os.path.normpath(os.path.join(start, text))
    reading = replace(reading, state=CacheState.DANGLING, target=target)
    if not answers(path):
        return replace(reading, error=f"Cannot read '{target}': its filesystem does not answer.")
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return reading
    except OSError as error:
        return replace(reading, error=_sentence(target, error))
    if not stat.S_ISDIR(found.st_mode):
        return reading
    reading = replace(reading, state=CacheState.RELOCATED, device_id=found.st_dev)
    if targets.get(path) not in (text, target):
        return reading
    try:
        return replace(reading, size=measure(target))
    except OSError as error:
        return replace(reading, error=_sentence(target, error))


def _sentence(path: str, error: OSError) -> str:
    """Return what went wrong as one sentence."""
    return f"Cannot measure '{path}': {error.strerror or error}."
