"""
The status as a page of text in a terminal: the verdict first, then bars with marks, the running move, tables, the last notices.

Made from the document alone. Every line fits the width, from 30 columns on, and colours take none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from survived.tell import links, quotas
from survived.tell.columns import columns, cut, entry, pad, painted, plain, wrap
from survived.tell.moving import describe_phase, describe_progress
from survived.tell.verdict import disk_of, doing, seconds_between, verdict
from survived.terms import CacheState
from survived.units import print_bytes, print_seconds, print_share, sentence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from survived.tell.columns import Paint

NARROWEST, WIDEST = 30, 120
MARKS = {"low": "┊", "high": "│", "flood": "┃"}
"""How a mark looks on a bar; the line below the bar is their legend."""
_WHOLE_TABLE, _WITH_STATE = 60, 40  # columns from which the table has all of its columns, or more than name and size
_FEWER_CELLS = 50
_NOTICES = 3
_TINTS = {"normal": "32", "high": "33", "flood": "31"}
_STATE_TINTS = {"relocated": "32", "moving": "36", "dangling": "31"}


def render(doc: Mapping[str, Any], *, width: int = 80, colour: bool = False) -> str:
    """Return the document as text of at most `width` columns; ANSI colours only with `colour`."""
    paint = painted if colour else plain
    alarm, line = verdict(doc)
    tint = {"ok": "32", "paused": "33", "high": "33"}.get(alarm, "31")
    lines = [*entry(alarm.upper(), line, width, paint, "1;" + tint, indent=len(alarm) + 2), ""]
    label = max(10, min(20, width // 4, *(columns(fs["mount"]) for fs in doc["filesystems"] or [{"mount": ""}])))
    for fs in doc["filesystems"]:
        lines += _filesystem(fs, width, label, paint)
    lines += quotas.lines(doc, width, paint)
    if doc["move"]:
        lines += ["", *_move(doc["move"], width, label, paint)]
    lines += _caches(doc["caches"], width, paint)
    lines += ["", *_stores(doc["stores"], width, paint), *links.lines(doc, width, paint)]
    for problem in doc["problems"][1:] if alarm == "trouble" else doc["problems"]:
        lines += entry("problem", problem, width, paint, "1;31")
    lines += _notices(doc, width, paint)
    if doc["daemon"]["running"]:
        up = print_seconds(seconds_between(doc["daemon"]["since"], doc["time"]))
        lines += entry("daemon", f"up for {up}, pid {doc['daemon']['pid']}", width, paint, "1")
    return "\n".join(line.rstrip() for line in lines)


def bar(share: float, cells: int, tint: str, paint: Paint, marks: Mapping[str, float] | None = None) -> str:
    """Return a bar of so many cells, filled by a share of 0 to 1; marks by name stand on it in the terminal's own colour."""
    filled = round(min(1.0, max(0.0, share)) * cells)
    drawn = ["█" if at < filled else "░" for at in range(cells)]
    for name, at in (marks or {}).items():
        drawn[max(0, min(cells - 1, round(at * cells)))] = MARKS[name]
    text, stretch = "", ""
    for cell in [*drawn, ""]:
        if cell in ("█", "░"):
            stretch += cell
            continue
        text, stretch = text + (paint(stretch, tint) if stretch else "") + (paint(cell, "1") if cell else ""), ""
    return text


def _filesystem(fs: Mapping[str, Any], width: int, label: int, paint: Paint) -> list[str]:
    marks = {name: fs[name] for name in MARKS}
    level = next((name for name in ("flood", "high") if fs["pressure"] == name or fs["usage"] >= fs[name]), "normal")
    drawn = bar(fs["usage"], _cells(width, label), _TINTS[level], paint, marks)
    first = f"{pad(cut(fs['mount'], label, left=True), label)} {drawn} {print_share(fs['usage']):>5}"
    facts = f"{print_bytes(fs['available_bytes'])} of {print_bytes(fs['capacity_bytes'])} available"
    if fs["seconds_to_full"] is not None:
        facts += f", full in {print_seconds(fs['seconds_to_full'])}"
    if fs["inodes_usage"] > 0.5:
        facts += f", {print_share(fs['inodes_usage'])} of the inodes used"
    legend = ", ".join(f"{sign} {name} {print_share(fs[name])}" for name, sign in MARKS.items())
    whole = f"{facts}; {legend}"
    parts = [whole] if label + 1 + columns(whole) <= width else [facts, legend]
    return [first, *(line for part in parts for line in wrap(" " * (label + 1) + part, width, label + 1))]


def _move(move: Mapping[str, Any], width: int, label: int, paint: Paint) -> list[str]:
    share = min(1.0, move["bytes_done"] / move["bytes_total"]) if move["bytes_total"] else 0.0
    facts = f"{doing(move)}: {describe_phase(move)}, {describe_progress(move)}"
    return [
        f"{pad(cut(move['id'], label), label)} {bar(share, _cells(width, label), '36', paint)} {print_share(share):>5}",
        *wrap(" " * (label + 1) + facts, width, label + 1),
    ]


def _cells(width: int, label: int) -> int:
    return min(_FEWER_CELLS, width - label - 7)


def _caches(caches: Sequence[Mapping[str, Any]], width: int, paint: Paint) -> list[str]:
    """Return the table of what is there, the biggest first: size, what moving it frees, state, and where it lies."""
    rows = sorted((cache for cache in caches if cache["state"] != CacheState.ABSENT), key=lambda cache: -cache["size_bytes"])
    if not rows:
        return []
    name = max(8, min(16 if width < 100 else 28, max(columns(cache["id"]) for cache in rows)))
    lines = ["", paint(_row(("CACHE", "SIZE", "FREES", "STATE", "PLACE"), width, name), "1")]
    for cache in rows:
        at_home = cache["state"] in (CacheState.HOME, CacheState.MOVING)
        frees = print_bytes(cache["reclaimable_bytes"]) if at_home else "-"
        place = cache["path"] if at_home or cache["target"] is None else disk_of(cache["target"])
        row = _row((cache["id"], print_bytes(cache["size_bytes"]), frees, cache["state"], place), width, name)
        lines.append(paint(row, tint) if (tint := _STATE_TINTS.get(cache["state"])) else row)
    return lines


def _row(cells: tuple[str, str, str, str, str], width: int, name: int) -> str:
    """Return a line of the table; a narrow one lacks the columns that matter less."""
    name = min(name, max(8, width - (33 if width >= _WHOLE_TABLE else 23 if width >= _WITH_STATE else 11)))
    row = f"{pad(cut(cells[0], name), name)} {cells[1]:>9}"
    if width >= _WHOLE_TABLE:
        row += f" {cells[2]:>9}"
    if width >= _WITH_STATE:
        row += f"  {cells[3]:<9}"
    left = width - columns(row) - 2
    return f"{row}  {cut(cells[4], left, left=True)}" if width >= _WHOLE_TABLE else row.rstrip()


def _stores(stores: Sequence[Mapping[str, Any]], width: int, paint: Paint) -> list[str]:
    lines: list[str] = []
    for store in stores:
        text = f"{store['path']}: {print_bytes(store['available_bytes'])} available, {print_share(store['usage'])} used"
        tint = "1" if store["ok"] else "1;31"
        lines += entry("data disk", text if store["ok"] else sentence(store["reason"]), width, paint, tint)
    return lines


def _notices(doc: Mapping[str, Any], width: int, paint: Paint) -> list[str]:
    """Return what could not be sent yet, and the last notices with their age."""
    lines: list[str] = []
    notices = doc["notices"]
    if notices.get("pending") or notices.get("last_error"):
        why = f"; {notices['last_error']}" if notices.get("last_error") else ""
        lost = f", {notices['given_up']} given up" if notices.get("given_up") else ""
        some = f"{notices['pending']} notice{'' if notices['pending'] == 1 else 's'} waiting{lost}{why}"
        lines += entry("unsent", some, width, paint, "1;33")
    for item in doc.get("recent", ())[:_NOTICES]:
        ago = print_seconds(seconds_between(item["time"], doc["time"]))
        lines += entry("notice", f"{item['title']}, {ago} ago", width, paint, "1")
    return lines
