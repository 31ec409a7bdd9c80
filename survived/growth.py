"""
Inotify as a wake-up: something grew below a known cache, so the loop looks sooner than it meant to. Never more than that.
"""

from __future__ import annotations

import selectors
import time
from typing import TYPE_CHECKING

from survived.model import CacheState
from survived.observe.watch import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from survived.levels import Levels
    from survived.model import Observation

_DEAF_SECONDS, _LONGEST_DEAF_SECONDS = 1.0, 30.0
_GROWN_BYTES = 1 << 20


class Growth:
    """Wakes the loop's selector when a cache grows, and goes deaf for a while after each time."""

    def __init__(self, max_watches: int, selector: selectors.BaseSelector, levels: Levels, woken: Callable[[], None]) -> None:
        self._watcher, self._selector, self._levels, self._woken = Watcher(max_watches), selector, levels, woken
        self._deaf_until: float | None = 0.0
        self._deaf_seconds, self._used_bytes = _DEAF_SECONDS, 0

    def watch(self, seen: Observation) -> None:
        """Watch what may grow: not what is missing and never moved, for which /tmp itself would have to be watched."""
        worth = [r.target or r.cache.path for r in seen.caches if r.state is not CacheState.ABSENT or r.cache.report_only is None]
        self._watcher.watch(worth)

    def listen(self) -> None:
        """Hear again what was not heard for a while; during a download it would wake us without end."""
        fd = self._watcher.fileno()
        if fd >= 0 and self._deaf_until is not None and time.monotonic() >= self._deaf_until:
            self._deaf_until = None
            self._selector.register(fd, selectors.EVENT_READ, self._wake)

    def wait(self) -> float:
        """Return in how many seconds `listen` has something to do."""
        return float("inf") if self._deaf_until is None else self._deaf_until - time.monotonic()

    def _wake(self, _mask: int) -> None:
        self._selector.unregister(self._watcher.fileno())
        # Events that fill nothing, as of a tool that looks through its cache, are heard more and more seldom.
        used = sum(fs.used_bytes for fs in self._levels.filesystems)
        grown = used > self._used_bytes + _GROWN_BYTES
        self._deaf_seconds = _DEAF_SECONDS if grown else min(_LONGEST_DEAF_SECONDS, 2 * self._deaf_seconds)
        self._used_bytes = used
        self._deaf_until = time.monotonic() + self._deaf_seconds
        if self._watcher.drain():
            self._woken()

    def take_changed(self) -> frozenset[str] | None:
        """Return the folders in which something grew since the last call; None if some are not known."""
        return self._watcher.take_changed()

    def give_back(self, changed: frozenset[str] | None) -> None:
        """Have `take_changed` return these again: nobody looked."""
        self._watcher.give_back(changed)

    def close(self) -> None:
        """Free all watches."""
        self._watcher.close()
