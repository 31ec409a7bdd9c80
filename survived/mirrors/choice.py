"""
Which mirror to take, and when to leave one: pure rules over findings.

Slow to leave and slower to come back: a mirror that is down for a moment, or up for one, changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from survived.mirrors.facts import Finding
    from survived.mirrors.known import Mirror

_TYPICAL_BYTES = 20 << 20
"""What one install of some size downloads."""
_BEHIND_SECONDS = 86400.0
"""A mirror of something dated is behind when it is a day older than the newest that answers."""
_TOLD_AFTER, _LEFT_AFTER, _BACK_AFTER = 2, 3, 6


def is_stale(finding: Finding, findings: Sequence[Finding]) -> bool:
    """Tell whether a mirror lacks what others of its tool have; one that says nothing of its age is not judged."""
    newest = max((other.fresh_key for other in findings if other.ok and other.fresh_key), default=())
    if not finding.fresh_key or not newest:
        return False
    if len(newest) == 1:  # a date
        return finding.fresh_key[0] < newest[0] - _BEHIND_SECONDS
    return finding.fresh_key < newest


def cost_seconds(finding: Finding) -> float:
    """Return how long a typical download takes from it."""
    speed = finding.bytes_per_second or 1.0
    return (finding.latency_seconds or 0.0) + _TYPICAL_BYTES / max(speed, 1.0)


def is_fit(finding: Finding, findings: Sequence[Finding]) -> bool:
    """Tell whether a tool may be led to it: it answers, a download had its hash, its data is its own, it is not behind."""
    return not objection(finding, findings)


def objection(finding: Finding, findings: Sequence[Finding]) -> str:
    """Return why no tool should be led to a mirror, as the end of a sentence; "" if nothing speaks against it."""
    if finding.why:
        return finding.why
    if finding.data_host:
        return f"its data comes from {finding.data_host}"
    if not finding.proven:
        return "no download could be compared with its hash"
    return "it is behind" if is_stale(finding, findings) else ""


def rank(findings: Sequence[Finding]) -> list[Finding]:
    """Return the fit ones, the fastest first; ties go by id, so that the order of asking plays no part."""
    fit = [finding for finding in findings if is_fit(finding, findings)]
    return sorted(fit, key=lambda finding: (cost_seconds(finding), finding.mirror.id))


def root_of(mirror: Mirror, known: Sequence[Mirror]) -> str:
    """Return the id of the mirror at the end of the chain that one pulls from."""
    by_id, seen, at = {item.id: item for item in known}, {mirror.id}, mirror
    while at.upstream in by_id and at.upstream not in seen:
        at = by_id[at.upstream]
        seen.add(at.id)
    return at.id


def fallback(broken: Mirror, findings: Sequence[Finding]) -> Finding | None:
    """Return the best other one: of those that do not pull from where the broken one pulls, if any is fit."""
    known = [finding.mirror for finding in findings]
    others = [finding for finding in rank(findings) if finding.mirror.url != broken.url]
    independent = [finding for finding in others if root_of(finding.mirror, known) != root_of(broken, known)]
    return next(iter(independent or others), None)


@dataclass(frozen=True, slots=True)
class Watched:
    """What was seen of a tool's mirror, the `chosen` and the one `used` at the moment: runs of bad and of good looks."""

    chosen: Mirror
    used: Mirror
    bad: int = 0
    good: int = 0
    is_told: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do after a look: tell why (once), and the mirror to lead the tool to, None for no change."""

    watched: Watched
    tell: str = ""
    to: Mirror | None = None


def step(watched: Watched, findings: Sequence[Finding], *, may_switch: bool) -> Verdict:
    """
    Take in one look at the chosen mirror and the others, if they were asked; return the next state and what to do.

    The chosen one is left after 3 bad looks in a row, told after 2, and taken again after 6 good ones.
    """
    seen = next((finding for finding in findings if finding.mirror.url == watched.chosen.url), None)
    if seen is None:
        return Verdict(watched)
    if why := objection(seen, findings):
        now = replace(watched, bad=watched.bad + 1, good=0)
        if may_switch and now.bad >= _LEFT_AFTER and now.used.url == now.chosen.url:
            other = fallback(now.chosen, findings)
            if other is not None:
                return Verdict(replace(now, used=other.mirror, is_told=True), why, other.mirror)
        if now.bad >= _TOLD_AFTER and not now.is_told:
            return Verdict(replace(now, is_told=True), why)
        return Verdict(now)
    now = replace(watched, bad=0, good=watched.good + 1)
    if now.used.url != now.chosen.url:
        if now.good >= _BACK_AFTER:
            return Verdict(replace(now, used=now.chosen, is_told=False), "it does well again", now.chosen)
        return Verdict(now)
    return Verdict(replace(now, is_told=False))
