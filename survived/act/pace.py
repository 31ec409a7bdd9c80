"""
A rate limit: whoever moves bytes tells how many, and sleeps until the next ones are due.

Sleeps are slices of a tenth of a second at most, through a `wait` that may raise to stop.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_SLICE_SECONDS = 0.1
_SLACK_SECONDS = 0.05
"""What was not used up so long ago is not made up for: a pause is no licence for a burst."""
_ENTRY_BYTES = 4096
_MOST_CHUNK, _LEAST_CHUNK, _CHUNKS_A_SECOND = 16 << 20, 64 << 10, 20


class Pace:
    """At most so many bytes a second; each entry counts as a block besides its bytes, for what it costs the disk."""

    def __init__(self, bytes_per_second: int, wait: Callable[[float], None]) -> None:
        self.bytes_per_second, self._wait = bytes_per_second, wait
        self._due = time.monotonic()

    def spend(self, size: int, entries: int) -> None:
        """Account for what was done and return when more may be."""
        now = time.monotonic()
        self._due = max(self._due, now - _SLACK_SECONDS) + (size + entries * _ENTRY_BYTES) / self.bytes_per_second
        while (left := self._due - time.monotonic()) > 0:
            self._wait(min(left, _SLICE_SECONDS))


def chunk_for(bytes_per_second: int) -> int:
    """Return how many bytes to copy at once, so that a limited rate is smooth; 0 bytes a second means no limit."""
    if bytes_per_second <= 0:
        return _MOST_CHUNK
    return max(_LEAST_CHUNK, min(_MOST_CHUNK, bytes_per_second // _CHUNKS_A_SECOND))
