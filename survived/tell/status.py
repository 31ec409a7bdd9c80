"""
The status document: a snapshot becomes a dict, the contract with scripts, of which `page.py` makes text for people.

The text is made from the dict alone, so that a client prints what the daemon said and never what it believes itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from survived import __version__
from survived.model import CacheState, Filesystem, Gauge, Observation, Plan, Pressure, Progress, Reason, Rules
from survived.tell import links, quotas
from survived.tell.moving import progress_document as progress_document
from survived.tell.page import render as render
from survived.tell.verdict import brief as brief
from survived.tell.verdict import verdict as verdict
from survived.tell.wire import path_fields as path_fields
from survived.units import print_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from survived.findings import Standin
    from survived.model import LinkReading, LinkState

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the document is made of. `pid` None: no daemon runs and survivectl looked for itself."""

    time: float
    observation: Observation
    rules: Rules
    gauges: Mapping[str, tuple[Gauge, Gauge]] = field(default_factory=dict)
    seconds_to_full: Mapping[str, float | None] = field(default_factory=dict)
    pid: int | None = None
    since: float | None = None
    paused_until: float | None = None
    paused: bool = False
    progress: Progress | None = None
    notices: Mapping[str, Any] = field(default_factory=lambda: {"pending": 0, "last_delivered": None, "last_error": None})
    recent: Sequence[Mapping[str, Any]] = ()
    problems: Sequence[str] = ()
    moving: str | None = None
    links: Sequence[tuple[LinkReading, LinkState]] = ()
    standins: Sequence[Standin] = ()
    plan: Plan = field(default_factory=lambda: Plan((), ()))


def document(snapshot: Snapshot) -> dict[str, Any]:
    """Return the status document, schema 1; see the design, section 6."""
    seen = snapshot.observation
    filesystems = [_filesystem(fs, snapshot) for fs in seen.filesystems]
    pressure = max((Pressure(fs["pressure"]) for fs in filesystems), key=lambda p: p.rank, default=Pressure.NORMAL)
    return {
        "schema": SCHEMA,
        "version": __version__,
        "time": print_time(snapshot.time),
        "daemon": {
            "running": snapshot.pid is not None,
            "pid": snapshot.pid,
            "since": _time(snapshot.since),
            "paused": snapshot.paused,
            "paused_until": _time(snapshot.paused_until),
        },
        "pressure": pressure.value,
        "filesystems": filesystems,
        "caches": [_cache(snapshot, index) for index in range(len(seen.caches))],
        "stores": [
            {
                **path_fields(store.path),
                **path_fields(store.mount, "mount"),
                "available_bytes": store.available_bytes,
                "usage": round(store.usage, 6),
                "ok": store.ok,
                "reason": store.reason,
            }
            for store in seen.stores
        ],
        "links": links.link_documents(snapshot.links),
        "standins": links.standin_documents(snapshot.standins),
        "plan": _plan(snapshot.plan),
        "move": None if snapshot.progress is None else progress_document(snapshot.progress),
        "notices": dict(snapshot.notices),
        "recent": list(snapshot.recent),
        "problems": list(snapshot.problems),
    }


def _time(unix: float | None) -> str | None:
    return None if unix is None else print_time(unix)


def _filesystem(fs: Filesystem, snapshot: Snapshot) -> dict[str, Any]:
    total, inodes = fs.used_bytes + fs.available_bytes, fs.inodes_used + fs.inodes_available
    gauges = snapshot.gauges.get(fs.mount, (Gauge(), Gauge()))
    marks, inodes_marks = snapshot.rules.bytes_marks, snapshot.rules.inodes_marks
    seconds_to_full = snapshot.seconds_to_full.get(fs.mount)
    return {
        **path_fields(fs.mount, "mount"),
        "device": fs.device,
        "capacity_bytes": fs.capacity_bytes,
        "used_bytes": fs.used_bytes,
        "available_bytes": fs.available_bytes,
        "usage": round(fs.usage, 6),
        "inodes_usage": round(fs.inodes_usage, 6),
        "pressure": max((gauge.pressure for gauge in gauges), key=lambda p: p.rank).value,
        "high": round(marks.high.as_usage(total), 6),
        "low": round(marks.low.as_usage(total), 6),
        "flood": round(marks.flood.as_usage(total), 6),
        "inodes_high": round(inodes_marks.high.as_usage(inodes), 6),
        "inodes_low": round(inodes_marks.low.as_usage(inodes), 6),
        "inodes_flood": round(inodes_marks.flood.as_usage(inodes), 6),
        "seconds_to_full": None if seconds_to_full is None else round(seconds_to_full, 1),
        **quotas.documents(fs),
    }


def _cache(snapshot: Snapshot, index: int) -> dict[str, Any]:
    reading = snapshot.observation.caches[index]
    state = CacheState.MOVING if snapshot.moving == reading.cache.path else reading.state
    return {
        "id": reading.cache.id,
        "title": reading.cache.title,
        "kind": reading.cache.kind.value,
        **path_fields(reading.cache.path),
        "rule": reading.cache.rule,
        "state": state.value,
        "size_bytes": reading.size.size_bytes,
        "reclaimable_bytes": reading.size.reclaimable_bytes,
        **(path_fields(reading.target, "target") if reading.target is not None else {"target": None}),
        "error": reading.error,
    }


def _plan(plan: Plan) -> dict[str, Any]:
    """Return what comes next, and why what is there does not move; without the caches that are not there."""
    return {
        "moves": [
            {
                "verb": "relocate" if move.command is None else "purge",
                "id": move.cache_id,
                **path_fields(move.source),
                "why": move.why,
            }
            for move in plan.moves
        ],
        "refusals": [
            {"id": item.cache_id, **path_fields(item.path), "reason": item.reason.value, "why": item.text}
            for item in plan.refusals
            if item.reason is not Reason.ABSENT
        ],
    }
