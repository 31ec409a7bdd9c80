"""
The status document: a snapshot becomes a dict (the contract with scripts), and the dict becomes text for people.

The text is made from the dict alone, so that a client prints what the daemon said and never what it believes itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from survived import __version__
from survived.model import CacheState, Filesystem, Gauge, Observation, Plan, Pressure, Progress, Reason, Rules
from survived.tell import links, quotas
from survived.tell.columns import columns, cut, entry, pad, painted, plain, wrap
from survived.tell.moving import describe_phase, describe_progress
from survived.tell.moving import progress_document as progress_document
from survived.tell.wire import path_fields as path_fields
from survived.units import print_bytes, print_seconds, print_share, print_time, sentence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from survived.model import LinkReading, LinkState, Standin
    from survived.tell.columns import Paint

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
        "moves": [{"id": move.cache_id, **path_fields(move.source), "why": move.why} for move in plan.moves],
        "refusals": [
            {"id": item.cache_id, **path_fields(item.path), "reason": item.reason.value, "why": item.text}
            for item in plan.refusals
            if item.reason is not Reason.ABSENT
        ],
    }


# ---- the text -----------------------------------------------------------------------------------------------------

_DAY = 86400.0


def verdict(doc: Mapping[str, Any]) -> tuple[str, str]:
    """Return the answer to "am I fine?": a word of alarm (ok, high, flood, down, paused, trouble) and one line of text."""
    worst = max(doc["filesystems"], key=lambda fs: (Pressure(fs["pressure"]).rank, fs["usage"]), default=None)
    if worst is None:
        return "trouble", "No filesystem is watched. See: survivectl check"
    standing = _standing(worst)
    hindrance = _hindrance(doc)
    if not doc["daemon"]["running"]:
        return "down", f"The daemon is not running; {standing}. Start it: systemctl --user start survived"
    if worst["pressure"] != Pressure.NORMAL:
        doing = _doing(doc["move"]) or hindrance or _next(doc)
        return worst["pressure"], sentence(f"{standing}; {doing}")
    if worst["usage"] >= worst["high"]:
        return "high", sentence(f"{standing}; {_doing(doc['move']) or hindrance or 'if it stays so, caches are moved'}")
    lost = [cache for cache in doc["caches"] if cache["state"] == CacheState.DANGLING]
    if lost:
        names = ", ".join(cache["id"] for cache in lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        where = disk_of(lost[0]["target"] or lost[0]["path"])
        return "trouble", f"{standing}, but {names} cannot be reached: what '{where}' held is not there."
    if doc["problems"]:
        return "trouble", sentence(f"{standing}; {doc['problems'][0]}")
    if doc["daemon"].get("paused"):
        return "paused", f"{standing}; {hindrance}"
    if hindrance:
        return "trouble", sentence(f"{standing}, but {hindrance}")
    left = worst["seconds_to_full"]
    soon = f"; at this rate it is full in {print_seconds(left)}" if left is not None and left < _DAY else ""
    doing = f"; {_doing(doc['move'])}" if doc["move"] else ""
    return "ok", f"{standing}{soon}{doing}."


def _standing(fs: Mapping[str, Any]) -> str:
    """Return how full one filesystem is, in bytes, or in inodes where those are the trouble."""
    if fs["pressure"] != Pressure.NORMAL and fs["usage"] < fs["low"] and "inodes_high" in fs:
        has = f"{quotas.whose(fs)} has {print_share(fs['inodes_usage'])} of its inodes in use"
        return f"{has}, high is {print_share(fs['inodes_high'])}"
    return f"{quotas.whose(fs)} is {print_share(fs['usage'])} full, high is {print_share(fs['high'])}"


def _doing(move: Mapping[str, Any] | None) -> str:
    if move is None:
        return ""
    return f"bringing {move['id']} home" if move["verb"] == "restore" else f"moving {move['id']} to {disk_of(move['target'])}"


def _next(doc: Mapping[str, Any]) -> str:
    """Return what the daemon is about to move, or why the biggest thing that could be moved is not."""
    plan = doc.get("plan") or {"moves": (), "refusals": ()}
    if plan["moves"]:
        return f"{plan['moves'][0]['id']} is moved next"
    sizes = {cache["id"]: cache["size_bytes"] for cache in doc["caches"]}
    staying = [item for item in plan["refusals"] if item["reason"] not in (Reason.ALREADY_LINK, Reason.NOT_NEEDED)]
    if not staying:
        return "nothing that survived knows can be moved. See: survivectl plan"
    biggest = max(staying, key=lambda item: sizes.get(item["id"], 0))
    return f"nothing can be moved now. {biggest['id']}: {biggest['why']}"


def _hindrance(doc: Mapping[str, Any]) -> str:
    """Return what keeps the daemon from moving anything at all, with the next command where there is one."""
    if doc["daemon"].get("paused"):
        until = doc["daemon"]["paused_until"]
        left = f" for {print_seconds(_seconds_between(doc['time'], until))}" if until else ""
        return f"moving is paused{left}: survivectl resume"
    if not doc["stores"]:
        return "there is no data disk to move anything to. Name one under [data] disks"
    if not any(store["ok"] for store in doc["stores"]):
        return f"no data disk can be used: {doc['stores'][0]['reason']}"
    return ""


def disk_of(target: str) -> str:
    """Return the user's directory on the data disk that holds a target, or the target if it is in no store."""
    disk, found, _ = target.partition("/survived/trees/")
    return disk if found else target


def render(doc: Mapping[str, Any], *, width: int = 80, colour: bool = False) -> str:
    """Return the document as text of at most `width` columns; ANSI colours only with `colour`."""
    paint = painted if colour else plain
    alarm, line = verdict(doc)
    tint = {"ok": "32", "paused": "33", "high": "33"}.get(alarm, "31")
    lines = [*entry(alarm.upper(), line, width, paint, "1;" + tint, indent=len(alarm) + 2), ""]
    label = max(10, min(20, *(columns(fs["mount"]) for fs in doc["filesystems"] or [{"mount": ""}])))
    for fs in doc["filesystems"]:
        lines += _bar(fs, width, label, paint)
    lines += quotas.lines(doc, width, paint)
    if doc["move"]:
        lines += ["", *_move(doc["move"], width, label, paint)]
    rows = [cache for cache in doc["caches"] if cache["state"] != CacheState.ABSENT]
    if rows:
        lines += ["", _row("CACHE", "SIZE", "FREES", "STATE", "PLACE", width)]
        lines += [_cache_row(cache, width, paint) for cache in sorted(rows, key=lambda cache: -cache["size_bytes"])]
    lines.append("")
    for store in doc["stores"]:
        text = f"{store['path']}: {print_bytes(store['available_bytes'])} available, {print_share(store['usage'])} used"
        lines += entry(
            "data disk", text if store["ok"] else sentence(store["reason"]), width, paint, "1" if store["ok"] else "1;31"
        )
    lines += links.lines(doc, width, paint)
    for problem in doc["problems"][1:] if alarm == "trouble" else doc["problems"]:
        lines += entry("problem", problem, width, paint, "1;31")
    notices = doc["notices"]
    if notices.get("pending") or notices.get("last_error"):
        why = f"; {notices['last_error']}" if notices.get("last_error") else ""
        lines += entry(
            "unsent", f"{notices['pending']} notice{'' if notices['pending'] == 1 else 's'} waiting{why}", width, paint, "1;33"
        )
    for item in doc.get("recent", ())[:3]:
        lines += entry("notice", f"{item['title']}, {_ago(doc['time'], item['time'])}", width, paint, "1")
    if doc["daemon"]["running"]:
        lines += entry(
            "daemon", f"up for {_ago(doc['time'], doc['daemon']['since'], '')}, pid {doc['daemon']['pid']}", width, paint, "1"
        )
    return "\n".join(line.rstrip() for line in lines)


def _seconds_between(one: str, other: str) -> float:
    return max(0.0, (datetime.fromisoformat(other) - datetime.fromisoformat(one)).total_seconds())


def _ago(now: str, then: str, word: str = " ago") -> str:
    return f"{print_seconds(_seconds_between(then, now))}{word}"


def _bar(fs: Mapping[str, Any], width: int, label: int, paint: Paint) -> list[str]:
    size = min(50, width - label - 8)
    filled = round(fs["usage"] * size)
    cells = ["█" if at < filled else "░" for at in range(size)]
    for mark in ("low", "high"):
        cells[min(size - 1, round(fs[mark] * size))] = "|"
    tint = {"normal": "32", "high": "33", "flood": "31"}[fs["pressure"]]
    facts = f"{print_bytes(fs['available_bytes'])} of {print_bytes(fs['capacity_bytes'])} available"
    facts += f", low {print_share(fs['low'])}, high {print_share(fs['high'])}"
    if fs["seconds_to_full"] is not None:
        facts += f", full in {print_seconds(fs['seconds_to_full'])}"
    if fs["inodes_usage"] > 0.5:
        facts += f"; inodes {print_share(fs['inodes_usage'])} used"
    first = f"{pad(cut(fs['mount'], label, left=True), label)} {paint(''.join(cells), tint)} {print_share(fs['usage']):>5}"
    return [first, *wrap(" " * (label + 1) + facts, width, label + 1)]


def _move(move: Mapping[str, Any], width: int, label: int, paint: Paint) -> list[str]:
    share = min(1.0, move["bytes_done"] / move["bytes_total"]) if move["bytes_total"] else 0.0
    size = min(50, width - label - 8)
    bar = "█" * round(share * size) + "░" * (size - round(share * size))
    facts = f"{_doing(move)}: {describe_phase(move)}, {describe_progress(move)}"
    return [
        f"{pad(cut(move['id'], label), label)} {paint(bar, '36')} {print_share(share):>5}",
        *wrap(" " * (label + 1) + facts, width, label + 1),
    ]


def _row(name: str, size: str, free: str, state: str, place: str, width: int) -> str:
    head = f"{pad(cut(name, 16), 16)} {size:>9} {free:>9}  {state:<9}  "
    return head + cut(place, width - len(head), left=True)


def _cache_row(cache: Mapping[str, Any], width: int, paint: Paint) -> str:
    frees = print_bytes(cache["reclaimable_bytes"]) if cache["state"] in (CacheState.HOME, CacheState.MOVING) else "-"
    at_home = cache["state"] in (CacheState.HOME, CacheState.MOVING) or cache["target"] is None
    row = _row(
        cache["id"],
        print_bytes(cache["size_bytes"]),
        frees,
        cache["state"],
        cache["path"] if at_home else disk_of(cache["target"]),
        width,
    )
    tint = {"relocated": "32", "moving": "36", "dangling": "31"}.get(cache["state"])
    return paint(row, tint) if tint else row
