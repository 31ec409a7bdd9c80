"""
The link's guardian: how each link of ours stands, and which of that is news.

Tools' own clean commands remove a link and believe they freed the data. What was meant nobody knows, so nothing is guessed:
a person is told once, and the tree on the data disk stays until they say what to do with it. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from survived.model import LinkReading, LinkState, Standing

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

_STANDING = {
    Standing.NOTHING: LinkState.GONE,
    Standing.DIRECTORY: LinkState.EATEN,
    Standing.OTHER_LINK: LinkState.ELSEWHERE,
    Standing.OTHER: LinkState.ELSEWHERE,
}
ORPHANED = frozenset({LinkState.EATEN, LinkState.GONE, LinkState.ELSEWHERE})
"""The states in which no link leads to the tree."""
TOLD = ORPHANED | {LinkState.DANGLING}
"""What makes a notice. A missing disk is told by itself, once and not for each of its links."""


@dataclass(frozen=True, slots=True)
class ToldLink:
    """What was last told of one link."""

    target: str
    state: LinkState
    leads_to: str | None = None
    told_at: float = 0.0


def judge(reading: LinkReading) -> LinkState:
    """Return how one link stands."""
    if reading.is_standin and reading.standing is Standing.DIRECTORY:
        return LinkState.STANDIN
    if reading.standing is not Standing.OUR_LINK:
        return _STANDING[reading.standing]
    if not reading.disk_is_there:
        return LinkState.DISK_MISSING
    return LinkState.OK if reading.tree_is_there else LinkState.DANGLING


def is_void(reading: LinkReading) -> bool:
    """Tell whether link and tree are both gone, so that the record is of nothing: a person has removed them, and needs no word."""
    return reading.disk_is_there and not reading.tree_is_there and judge(reading) in ORPHANED


def news(
    told: Sequence[ToldLink],
    readings: Iterable[LinkReading],
    spared: Collection[str] = (),
    *,
    now: float = 0.0,
    repeat_seconds: float = 0.0,
) -> tuple[tuple[ToldLink, ...], tuple[LinkReading, ...]]:
    """
    Return what counts as told from here on, and what has to be told.

    What was told is told again only when the link was well meanwhile, or stands otherwise than it was told, or that is
    `repeat_seconds` ago (0: never). While a disk is missing nothing is forgotten: it comes back with its links as they were.
    `spared` are targets that cannot be judged now.
    """
    known = {item.target: item for item in told}
    kept = [item for item in told if item.target in spared]
    fresh: list[LinkReading] = []
    for reading in readings:
        state, before = judge(reading), known.get(reading.item.target)
        if state in TOLD and not is_void(reading):
            same = before is not None and (before.state, before.leads_to) == (state, reading.leads_to)
            if before is None or not same or 0.0 < repeat_seconds <= now - before.told_at:
                fresh.append(reading)
                before = ToldLink(reading.item.target, state, reading.leads_to, now)
            kept.append(before)
        elif before is not None and state is LinkState.DISK_MISSING and before.state is LinkState.DANGLING:
            kept.append(before)
    return tuple(kept), tuple(fresh)
