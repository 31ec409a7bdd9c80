"""
From the outbox to those who are told: chooses the letters that are due, and has one child at a time send them.

A destination that hangs never delays anything else: the child is killed at its time limit. What a child has sent when this
process is killed is not sent again: it leaves receipts in the runtime directory, and the next daemon waits for its end.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import selectors
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from survived.decide import letters
from survived.levels import minute_of_day
from survived.tell.delivery import Delivery, Message, Page, destination_key, is_mail

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from survived.decide.letters import Letter
    from survived.decide.sentences import Voice
    from survived.machine import Machine
    from survived.settings.config import Settings
    from survived.store.outbox import Outbox, Result
    from survived.tell.templates import Templates

log = logging.getLogger(__name__)
_ASK_SECONDS = 1800.0  # look whether something is due at the latest then, for a clock that was put back
_BROKEN_SECONDS = 60.0
_HOUR = 3600.0
LABELS = {
    "happened": "What happened",
    "did": "What survived did",
    "left": "What is left to do",
    "grew": "What grew",
    "undo": "How to undo it",
}
"""The words above the parts of a notice in a mail."""


def manners_of(settings: Settings) -> letters.Manners:
    """Return what the user chose about how much to hear at a time."""
    notify = settings.notify
    return letters.Manners(notify.gather, notify.quiet_hours, notify.loud, notify.per_hour)


def wall_clock(when: float) -> str:
    """Return a time as the clock on the wall has it, with the date where that was not today."""
    then = time.localtime(when)
    return time.strftime("%H:%M" if then[:3] == time.localtime()[:3] else "%m-%d %H:%M", then)


def page_of(voice: Voice, templates: Templates, curves: tuple[dict[str, Any], ...] = ()) -> Page:
    """Return what a mail has beside its notice."""
    labels = {name: voice.say(text) for name, text in LABELS.items()}
    stamp = time.strftime("%Y-%m-%d %H:%M %Z")
    footer = voice.say("survived on {host}, {time}. How it stands now: survivectl status", host=voice.host, time=stamp)
    return Page(voice.host, labels, footer, templates.page(), curves)


class Postman:
    """Sends what waits in an outbox; `curves` and `unusable` are what the sender needs to ask and to tell the post."""

    def __init__(
        self,
        machine: Machine,
        selector: selectors.BaseSelector,
        curves: Callable[[float], tuple[dict[str, Any], ...]],
        unusable: Callable[[str], None],
    ) -> None:
        self._machine, self._selector, self._curves, self._unusable = machine, selector, curves, unusable
        self._delivery: Delivery | None = None
        self._outbox: Outbox | None = None  # of what is being sent
        self._sending: dict[int, Letter] = {}
        self._ask_at = 0.0
        self._failed: dict[str, str] = {}  # by destination, what was logged of it
        self._urls: dict[str, str] = {}
        self._settings: Settings | None = None

    def urls(self) -> dict[str, str]:
        """Return the destinations by key, in the order of the configuration."""
        if self._settings is not self._machine.settings:
            self._settings = self._machine.settings
            self._urls = {destination_key(url): url for url in self._settings.notify_urls()}
        return self._urls

    def destinations(self, tags: frozenset[str]) -> list[str]:
        """Return the keys of those who get a notice with these tags."""
        routes = self._machine.settings.routes()
        return [key for key, url in self.urls().items() if not routes[url] or routes[url] & tags]

    def soon(self) -> None:
        """Something new waits, or may be sent now that could not be."""
        self._ask_at = 0.0

    def moved(self, before: Outbox, after: Outbox) -> None:
        """What waits in one outbox waits in another from here on."""
        if self._outbox is before:
            self._outbox = after
        self.soon()

    def tick(self, outbox: Outbox, voice: Voice, templates: Templates, now: float) -> None:
        """Start a delivery if one is due, end one that takes too long."""
        if self._delivery is not None:
            if self._delivery.expired(time.monotonic()):
                self._collect()
            return
        if self._settings is not self._machine.settings:
            self.soon()  # other hours, limits or destinations
        if now < self._ask_at <= now + _ASK_SECONDS or not (chosen := self._choose(outbox, now)):
            return
        receipts = self._take_receipts(outbox, now)
        if receipts is None:
            self._ask_at = now + 1.0
            return
        try:
            chosen = self._choose(outbox, now)
            batch = self._messages(outbox, chosen, voice)
            if batch:
                self._send(batch, page_of(voice, templates, self._curves_for(chosen, now)), receipts)
                self._outbox, self._sending = outbox, dict(enumerate(chosen))
        except OSError as error:  # EMFILE, ENOMEM: the batch is still due at the next tick
            self._delivery = None
            log.warning("Cannot send notices: %s, trying again", error.strerror)
        finally:
            if receipts >= 0:
                os.close(receipts)

    def _choose(self, outbox: Outbox, now: float) -> Sequence[Letter]:
        waiting = outbox.waiting(now, tuple(self.urls()))
        sent = outbox.sent_since(now - _HOUR) if waiting else {}
        chosen, ask_at = letters.choose(waiting, sent, manners_of(self._machine.settings), now, minute_of_day)
        self._ask_at = min(ask_at, now + (_BROKEN_SECONDS if outbox.is_broken else _ASK_SECONDS))
        return chosen

    def _messages(self, outbox: Outbox, chosen: Sequence[Letter], voice: Voice) -> list[Message]:
        batch = []
        for number, letter in enumerate(chosen):
            notices = outbox.notices(letter.numbers)
            if notices:
                whole = letters.compose(list(notices.values()), voice, wall_clock, was_quiet=letter.was_quiet)
                receipts = tuple((known, item.time) for known, item in notices.items())
                batch.append(Message(number, letter.destination, whole, receipts))
        return batch

    def _send(self, batch: list[Message], page: Page, receipts: int) -> None:
        delivery = Delivery(self._machine.settings.notify.timeout)
        delivery.start(batch, self.urls(), time.monotonic(), page=page, receipts=receipts)
        self._delivery = delivery
        self._selector.register(delivery.fileno(), selectors.EVENT_READ, lambda _: self._collect())

    def _curves_for(self, chosen: Sequence[Letter], now: float) -> tuple[dict[str, Any], ...]:
        urls = self.urls()
        return self._curves(now) if any(is_mail(urls[letter.destination]) for letter in chosen) else ()

    # ---- what became of it ----------------------------------------------------------------------------------------

    def _collect(self) -> None:
        delivery, outbox = self._delivery, self._outbox
        if delivery is None or outbox is None:
            return
        results = [
            replace(r, notice=n) for r in delivery.on_readable() if (letter := self._sending.get(r.notice)) for n in letter.numbers
        ]
        outbox.record(results, time.time())
        self._note(results)
        if delivery.done:
            self._selector.unregister(delivery.fileno())
            delivery.close()
            self._delivery = None
            # What failed and could not be recorded would be tried again at once, and again.
            self._ask_at = time.time() + _BROKEN_SECONDS if outbox.is_broken else 0.0

    def _note(self, results: list[Result]) -> None:
        """Log what fails, once for as long as it fails the same way; what can never work is told to the others, too."""
        for result in results:
            if result.ok:
                if self._failed.pop(result.destination, None) is not None:
                    log.info("Notices reach %s again.", self._name(result.destination))
            elif self._failed.get(result.destination) != result.error:
                self._failed[result.destination] = result.error
                log.warning("A notice was not sent: %s%s", result.error, "." if result.permanent else ", trying again")
                if result.permanent:
                    self._unusable(result.error)

    def _name(self, key: str) -> str:
        return f"destination {list(self.urls()).index(key) + 1}" if key in self.urls() else "a destination"

    def wait(self, now: float) -> float:
        """Return in how many seconds `tick` has something to do."""
        if self._delivery is not None:
            return 1.0
        return min(_ASK_SECONDS, max(0.0, self._ask_at - now))

    def is_idle(self, now: float) -> bool:
        """Tell whether nothing is being sent, and nothing waits only for company."""
        return self._delivery is None and self._ask_at > now + self._machine.settings.notify.gather

    def close(self) -> None:
        """End a delivery that runs; what it has not sent goes out after the next start."""
        if self._delivery is not None:
            self._collect()
        if self._delivery is not None:
            self._delivery.close()

    # ---- receipts -------------------------------------------------------------------------------------------------

    def _take_receipts(self, outbox: Outbox, now: float) -> int | None:
        """
        Open the receipts for a new child, having read those of the last one.

        None: a child of a daemon that was killed still sends. -1: there is no place for receipts.
        """
        path = os.path.join(self._machine.paths.runtime_dir, "receipts")
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:
            return -1
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = _read_receipts(os.pread(fd, 1 << 20, 0))
            if found:
                outbox.confirm(found, now)
                os.truncate(fd, 0)
        except BlockingIOError:
            os.close(fd)
            return None
        except OSError:
            os.close(fd)
            return -1
        return fd


def _read_receipts(content: bytes) -> list[tuple[int, float, str]]:
    """Return number and time of the notice and the destination of each receipt; a torn line is none."""
    found = []
    for line in content.splitlines():
        with suppress(ValueError, KeyError, TypeError):
            told = json.loads(line)
            found += [(int(number), float(when), str(told["destination"])) for number, when in told["notices"]]
    return found
