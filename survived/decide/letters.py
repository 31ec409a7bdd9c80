"""
Which notices go out together, when, and to whom: gathering, quiet hours, limits. And the text of a letter of several.

Each destination is looked at by itself. Pure: what waits and what was sent lately come in, letters come out.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from survived.decide.reasons import quiet_span
from survived.decide.sentences import GREW, HAPPENED, LONGEST_TITLE, PARTS, TITLE, body_of, shorten
from survived.model import Level, Notice, Topic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from survived.decide.sentences import Parts, Voice
    from survived.findings import Waiting

MOST = 20
"""Notices in one letter."""
_ALONE_AFTER = 3  # tries in company: what may be refused for one notice's sake is then sent one by one
_IN_FULL = 6  # of a letter of more only the titles, and what is worst in full
_HOUR = 3600.0
_LOUDNESS = (Level.INFO, Level.SUCCESS, Level.WARNING, Level.FAILURE)


@dataclass(frozen=True, slots=True)
class Manners:
    """How much the user wants to hear at a time. `loud` are tags that break quiet hours and limits; `limit` 0 is none."""

    gather_seconds: float = 0.0
    quiet_hours: tuple[tuple[int, int], ...] = ()
    loud: frozenset[str] = field(default_factory=lambda: frozenset({Topic.FLOOD.value}))
    limit: int = 0


@dataclass(frozen=True, slots=True)
class Letter:
    """What one destination gets now as one message. `was_quiet`: some of it waited for the end of quiet hours."""

    destination: str
    numbers: tuple[int, ...]
    was_quiet: bool = False


def tags_of(topic: str, level: Level) -> frozenset[str]:
    """Return the tags that a notice has: a destination with tags gets it if they share one."""
    return frozenset({topic, level.value, "all"})


def choose(
    waiting: Iterable[Waiting], sent: Mapping[str, Sequence[float]], manners: Manners, now: float, minute_of: Callable[[float], int]
) -> tuple[tuple[Letter, ...], float]:
    """
    Return the letters to be sent now, and when to ask again at the latest (`inf`: when there is something new).

    `sent` are the times of the messages that each destination got within the last hour; `minute_of` is the minute of the
    local day of a time.
    """
    by_destination: dict[str, list[Waiting]] = defaultdict(list)
    for item in waiting:
        by_destination[item.destination].append(item)
    letters: list[Letter] = []
    ask_at = math.inf
    for destination, items in by_destination.items():
        held_until = _held_until(sent.get(destination, ()), manners, now, minute_of)
        free = [item for item in items if held_until is None or tags_of(item.topic, item.level) & manners.loud]
        if held_until is not None and len(free) < len(items):
            ask_at = min(ask_at, held_until)
        found, later = _letters(free, manners, now, minute_of)
        letters += found
        ask_at = min(ask_at, later)
    return tuple(letters), ask_at


def _held_until(sent: Sequence[float], manners: Manners, now: float, minute_of: Callable[[float], int]) -> float | None:
    """Return until when a destination is left in peace, or None."""
    minute = minute_of(now)
    span = quiet_span(minute, manners.quiet_hours)
    if span is not None:
        return now + (span[1] - minute) % (24 * 60) * 60.0 - now % 60.0
    lately = sorted(time for time in sent if 0 <= now - time < _HOUR)
    if 0 < manners.limit <= len(lately):
        return lately[-manners.limit] + _HOUR
    return None


def _letters(items: list[Waiting], manners: Manners, now: float, minute_of: Callable[[float], int]) -> tuple[list[Letter], float]:
    alone = [item for item in items if item.attempts >= _ALONE_AFTER]
    together = sorted((item for item in items if item.attempts < _ALONE_AFTER), key=lambda item: item.number)[:MOST]
    ready = {item.number: _ready_at(item, manners, now) for item in items}
    letters = [_letter([item], manners, minute_of) for item in alone if ready[item.number] <= now][:MOST]
    if any(ready[item.number] <= now for item in together):
        letters.insert(0, _letter(together, manners, minute_of))
        return letters, min((ready[item.number] for item in alone if ready[item.number] > now), default=math.inf)
    return letters, min((time for time in ready.values() if time > now), default=math.inf)


def _ready_at(item: Waiting, manners: Manners, now: float) -> float:
    """Return when a notice may go: after its wait for company, unless its time is of a clock that was put back."""
    gathered = item.time + manners.gather_seconds
    return item.due_at if gathered > now + manners.gather_seconds else max(item.due_at, gathered)


def _letter(items: list[Waiting], manners: Manners, minute_of: Callable[[float], int]) -> Letter:
    quiet = [item for item in items if quiet_span(minute_of(item.time), manners.quiet_hours) is not None]
    was_quiet = any(not tags_of(item.topic, item.level) & manners.loud for item in quiet)
    return Letter(items[0].destination, tuple(item.number for item in items), was_quiet)


# ---- the text -------------------------------------------------------------------------------------------------------------


def compose(notices: Sequence[Notice], voice: Voice, clock: Callable[[float], str], *, was_quiet: bool = False) -> Notice:
    """
    Return the notices of one letter as one; a single one stays as it is, but that its time is told if it waited.

    `clock` prints a time as the reader's wall clock has it. The title is of the worst, and of those of the latest.
    """
    if len(notices) == 1:
        return _dated(notices[0], voice, clock) if was_quiet else notices[0]
    worst = max(notices, key=lambda item: (_LOUDNESS.index(item.level), item.time))
    count = len(notices) - 1
    if was_quiet:
        title = voice.say("{host}: {count} notices from the quiet hours", host=voice.host, count=len(notices))
    else:
        title = _with_more(voice, worst.title, count)
    full = _in_full(notices)
    parts: list[tuple[str, tuple[str, ...]]] = []
    if len(full) < len(notices):
        rows = tuple(f"- {clock(item.time)} {item.title}" for item in notices)
        parts += [
            (TITLE, (voice.say("{count} notices, those that matter most in full below:", count=len(notices)),)),
            (HAPPENED, rows),
        ]
    told: set[tuple[str, ...]] = set()
    for item in full:
        parts.append((TITLE, (f"{clock(item.time)} {item.title}" if was_quiet else item.title,)))
        for name, lines in _parts_of(item):
            if name != GREW or lines not in told:  # what happened together has the same growers
                parts.append((name, lines))
            told.add(lines)
    return Notice(worst.topic, worst.level, shorten(title), body_of(tuple(parts)), notices[-1].time, tuple(parts))


def _with_more(voice: Voice, title: str, count: int) -> str:
    """Return a title with how many more there are, of which the first gives way where both are too long."""
    whole = voice.say("{title} (and {count} more)", title=title, count=count)
    too_long = len(whole) - LONGEST_TITLE
    if too_long <= 0:
        return whole
    return voice.say("{title} (and {count} more)", title=f"{title[: len(title) - too_long - 1]}…", count=count)


def _parts_of(item: Notice) -> Parts:
    """Return the parts of a notice; one of a template, or of an older survived, has lines alone."""
    return item.parts or ((HAPPENED, tuple(item.body.splitlines())),)


def _in_full(notices: Sequence[Notice]) -> list[Notice]:
    if len(notices) <= _IN_FULL:
        return list(notices)
    order = sorted(range(len(notices)), key=lambda at: (-_LOUDNESS.index(notices[at].level), -at))
    return [notices[at] for at in sorted(order[: _IN_FULL // 2])]


def _dated(item: Notice, voice: Voice, clock: Callable[[float], str]) -> Notice:
    line = voice.say("This was at {time}, in the quiet hours.", time=clock(item.time))
    parts: Parts = ((HAPPENED, (line,)), *_parts_of(item))
    merged = tuple((name, tuple(line for part, lines in parts if part == name for line in lines)) for name in PARTS)
    kept = tuple(part for part in merged if part[1])
    return replace(item, body=body_of(kept), parts=kept)
