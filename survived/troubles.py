"""
What is wrong now, logged once for as long as it lasts; and which moves failed, and when they may be tried again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from survived.events import Event, about
from survived.units import print_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)
_FIRST_WAIT, _LONGEST_WAIT = 30.0, 3600.0


class Troubles:
    """Sentences about lasting troubles, by kind and name; `status` shows them."""

    def __init__(self) -> None:
        self._texts: dict[tuple[str, str], str] = {}

    def texts(self) -> tuple[str, ...]:
        """Return what is wrong, oldest first."""
        return tuple(self._texts.values())

    def set(self, kind: str, texts: Mapping[str, str] | str | None) -> None:
        """Replace the troubles of one kind: those that are over go, new ones are logged."""
        named = {"": texts} if isinstance(texts, str) else dict(texts or {})
        kept = {key: text for key, text in self._texts.items() if key[0] != kind or key[1] in named}
        for name, text in named.items():
            if self._texts.get((kind, name)) != text:
                log.warning("%s", text, extra=about(Event.TROUBLE, topic=kind, error=text))
            kept[kind, name] = text
        self._texts = kept


class Failures:
    """Moves that failed: each is tried again after 30 s, then after twice as long each time, up to an hour."""

    def __init__(self) -> None:
        self._failed: dict[str, tuple[str, float, float]] = {}  # source: what went wrong, until when, how long

    def note(self, source: str, message: str, now: float, cache_id: str = "") -> None:
        """Remember a failure, and log it if it is another one than the last time."""
        before, _, waited = self._failed.get(source, ("", 0.0, 0.0))
        wait = min(_LONGEST_WAIT, max(_FIRST_WAIT, 2 * waited))
        self._failed[source] = (message, now + wait, wait)
        if message != before:
            extra = about(Event.MOVE_FAILED, cache=cache_id, path=source, error=message)
            log.warning("%s Trying again in %s.", message, print_seconds(wait), extra=extra)

    def forget(self, source: str) -> None:
        """A move succeeded."""
        self._failed.pop(source, None)

    def held_back(self, now: float) -> dict[str, str]:
        """Return what is not to be tried yet, with what went wrong."""
        return {source: message for source, (message, until, _) in self._failed.items() if now < until}
