"""
The status document: a snapshot becomes a dict (the contract with scripts), and the dict becomes text for people.

The text is made from the dict alone, so that a client prints what the daemon said and never what it believes itself.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from survived import __version__
from survived.model import CacheState, Filesystem, Gauge, Observation, Pressure, Progress, Rules
from survived.units import print_bytes, print_seconds, print_share, print_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


def path_fields(path: str, key: str = "path") -> dict[str, Any]:
    """Return `{"path": …}` and, for a name that is not UTF-8, `path_b64` with its true bytes."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        raw = path.encode("utf-8", "surrogateescape")
        return {key: raw.decode("utf-8", "replace"), f"{key}_b64": base64.b64encode(raw).decode("ascii")}
    return {key: path}


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
                "mount": store.mount,
                "available_bytes": store.available_bytes,
                "usage": round(store.usage, 4),
                "ok": store.ok,
                "reason": store.reason,
            }
            for store in seen.stores
        ],
        "move": None if snapshot.progress is None else progress_document(snapshot.progress),
        "notices": dict(snapshot.notices),
        "recent": list(snapshot.recent),
        "problems": list(snapshot.problems),
    }


def _time(unix: float | None) -> str | None:
    return None if unix is None else print_time(unix)


def _filesystem(fs: Filesystem, snapshot: Snapshot) -> dict[str, Any]:
    total = fs.used_bytes + fs.available_bytes
    gauges = snapshot.gauges.get(fs.mount, (Gauge(), Gauge()))
    marks = snapshot.rules.bytes_marks
    return {
        "mount": fs.mount,
        "device": fs.device,
        "capacity_bytes": fs.capacity_bytes,
        "used_bytes": fs.used_bytes,
        "available_bytes": fs.available_bytes,
        "usage": round(fs.usage, 4),
        "inodes_usage": round(fs.inodes_usage, 4),
        "pressure": max((gauge.pressure for gauge in gauges), key=lambda p: p.rank).value,
        "high": round(marks.high.as_usage(total), 4),
        "low": round(marks.low.as_usage(total), 4),
        "flood": round(marks.flood.as_usage(total), 4),
        "seconds_to_full": snapshot.seconds_to_full.get(fs.mount),
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


def progress_document(progress: Progress) -> dict[str, Any]:
    """Return a running operation for JSON."""
    return {
        "verb": progress.verb.value,
        "id": progress.cache_id,
        **path_fields(progress.source),
        **path_fields(progress.target, "target"),
        "phase": progress.phase,
        "since": print_time(progress.began),
        "bytes_done": progress.bytes_done,
        "bytes_total": progress.bytes_total,
        "files_done": progress.files_done,
        "files_total": progress.files_total,
        "bytes_per_second": round(progress.bytes_per_second),
        "seconds_left": None if progress.seconds_left is None else round(progress.seconds_left, 1),
    }


def verdict(doc: Mapping[str, Any]) -> tuple[str, str]:
    """Return the first line, "am I fine?", as a word of alarm (`ok`, `high`, `flood`, `down`, `paused`, `trouble`) and a sentence."""
    worst = max(doc["filesystems"], key=lambda fs: (Pressure(fs["pressure"]).rank, fs["usage"]), default=None)
    standing = f"{worst['mount']} is {print_share(worst['usage'])} full" if worst else "nothing is watched"
    bad_stores = [store for store in doc["stores"] if not store["ok"]]
    moving = doc["move"]
    if not doc["daemon"]["running"]:
        return "down", f"The daemon is not running; {standing}. Start it with: systemctl --user start survived"
    if worst and worst["pressure"] != Pressure.NORMAL:
        doing = f", moving {moving['id']} to {moving['target'].split('/survived/')[0]}" if moving else ""
        inodes = f" and {print_share(worst['inodes_usage'])} of its inodes" if worst["inodes_usage"] >= worst["high"] else ""
        return worst["pressure"], f"{standing}{inodes}, high is {print_share(worst['high'])}{doing}."
    if any(cache["state"] == CacheState.DANGLING for cache in doc["caches"]):
        return "trouble", f"{standing}, but a relocated cache is out of reach: its data disk is missing."
    if doc["problems"]:
        return "trouble", f"{standing}; {doc['problems'][0]}"
    if doc["stores"] and len(bad_stores) == len(doc["stores"]):
        return "trouble", f"{standing}, but no data disk can be used: {bad_stores[0]['reason']}"
    if not doc["stores"]:
        return "trouble", f"{standing}, but there is no data disk to move anything to."
    if doc["daemon"]["paused"]:
        return "paused", f"{standing}; moving is paused. survivectl resume"
    return "ok", f"{standing}, high is {print_share(worst['high'])}." if worst else standing


def render(doc: Mapping[str, Any], *, width: int = 80, colour: bool = False) -> str:
    """Return the document as text of at most `width` columns; ANSI colours only with `colour`."""
    paint = _paint if colour else _plain
    alarm, sentence = verdict(doc)
    tint = {"ok": "32", "paused": "33", "high": "33"}.get(alarm, "31")
    lines = [*wrap(f"{paint(alarm.upper(), '1;' + tint)}  {sentence}", width, len(alarm) + 2), ""]
    for fs in doc["filesystems"]:
        lines += _bar(fs, width, paint)
    if doc["move"]:
        lines += ["", *_move(doc["move"], width, paint)]
    rows = [cache for cache in doc["caches"] if cache["state"] != CacheState.ABSENT]
    if rows:
        lines += ["", _row("CACHE", "SIZE", "RECLAIMABLE", "STATE", "PATH", width)]
        lines += [_cache_row(cache, width, paint) for cache in sorted(rows, key=lambda cache: -cache["size_bytes"])]
    if doc["stores"]:
        lines.append("")
        for store in doc["stores"]:
            text = f"{print_bytes(store['available_bytes'])} available, {print_share(store['usage'])} used" if store["ok"] else store["reason"]
            lines += wrap(f"{paint('data disk', '1')}  {store['path']}: {text}", width, 11)
    for item in doc["recent"][:3]:
        lines += wrap(f"{paint('notice', '1')}     {item.get('time', '')}  {item.get('title', '')}", width, 11)
    notices = doc["notices"]
    if notices.get("pending") or notices.get("last_error"):
        lines += wrap(f"{paint('notices', '1')}    {notices['pending']} waiting to be sent; {notices.get('last_error') or 'no error'}", width, 11)
    for problem in doc["problems"][1:] if alarm == "trouble" else doc["problems"]:
        lines += wrap(f"{paint('problem', '1;31')}    {problem}", width, 11)
    return "\n".join(line.rstrip() for line in lines)


def _plain(text: str, _code: str) -> str:
    return text


def _paint(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m"


def _visible(text: str) -> int:
    length, inside = 0, False
    for char in text:
        inside = inside or char == "\x1b"
        length += not inside
        inside = inside and char != "m"
    return length


def wrap(text: str, width: int, indent: int) -> list[str]:
    """Return text in lines of at most `width` columns, all but the first indented; a longer word is cut in pieces."""
    lines, line = [], ""
    for word in text.split(" "):
        candidate = f"{line} {word}" if line else word
        if line.strip() and _visible(candidate) > width:
            lines.append(line)
            candidate = " " * indent + word
        line = candidate
    return [*lines, line]


def _bar(fs: Mapping[str, Any], width: int, paint: Any) -> list[str]:
    size = max(10, min(40, width - 40))
    filled = round(fs["usage"] * size)
    cells = ["█" if at < filled else "░" for at in range(size)]
    for mark in ("low", "high"):
        at = min(size - 1, round(fs[mark] * size))
        cells[at] = "|"
    tint = {"normal": "32", "high": "33", "flood": "31"}[fs["pressure"]]
    left = fs["seconds_to_full"]
    full = f", full in {print_seconds(left)}" if left is not None else ""
    bar = paint("".join(cells), tint)
    inodes = f"; inodes {print_share(fs['inodes_usage'])}" if fs["inodes_usage"] > 0.5 else ""
    first = f"{_cut(fs['mount'], 14):<14} {bar} {print_share(fs['usage']):>5}"
    return [first, f"{'':<14} {print_bytes(fs['available_bytes'])} of {print_bytes(fs['capacity_bytes'])} available{full}{inodes}"]


def _move(move: Mapping[str, Any], width: int, paint: Any) -> list[str]:
    share = move["bytes_done"] / move["bytes_total"] if move["bytes_total"] else 0.0
    size = max(10, min(40, width - 40))
    bar = "█" * round(share * size) + "░" * (size - round(share * size))
    left = f", {print_seconds(move['seconds_left'])} left" if move["seconds_left"] is not None else ""
    rate = f" at {print_bytes(move['bytes_per_second'])}/s" if move["phase"] == "copy" else ""
    return [
        f"{_cut(move['verb'] + ' ' + move['id'], 14):<14} {paint(bar, '36')} {print_share(share):>5}  {move['phase']}",
        f"{'':<14} {print_bytes(move['bytes_done'])} of {print_bytes(move['bytes_total'])}{rate}{left}",
    ]


def _row(name: str, size: str, free: str, state: str, path: str, width: int) -> str:
    head = f"{_cut(name, 16):<16} {size:>9} {free:>11}  {state:<10} "
    return head + _cut(path, max(8, width - len(head)), left=True)


def _cache_row(cache: Mapping[str, Any], width: int, paint: Any) -> str:
    reclaimable = print_bytes(cache["reclaimable_bytes"]) if cache["state"] == CacheState.HOME else "-"
    where = cache["path"] if cache["state"] == CacheState.HOME else (cache["target"] or cache["path"])
    row = _row(cache["id"], print_bytes(cache["size_bytes"]), reclaimable, cache["state"], where, width)
    tint = {"relocated": "32", "moving": "36", "dangling": "31"}.get(cache["state"])
    return paint(row, tint) if tint else row


def _cut(text: str, most: int, *, left: bool = False) -> str:
    text = text.encode("utf-8", "replace").decode() if text.isprintable() else "".join(c if c.isprintable() else "�" for c in text)
    if len(text) <= most:
        return text
    return "…" + text[-(most - 1) :] if left else text[: most - 1] + "…"
