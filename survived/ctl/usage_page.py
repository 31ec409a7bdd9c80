"""
`survivectl history --html`: one page with the curve, a treemap of what uses the disk, and the moves.

Self-contained, and told so to the browser: its policy permits nothing from anywhere. Names of files are text in it, whatever
bytes they have. The page is written beside its place and exchanged with what was there.
"""

from __future__ import annotations

import html
import json
import os
import socket
import time
from dataclasses import dataclass
from string import Template
from typing import TYPE_CHECKING

from survived import __version__
from survived.act import fs
from survived.ctl import hogs, plot
from survived.ctl.history import SIGNS, describe, summary
from survived.ctl.main import printable, say
from survived.ctl.treemap import squarify
from survived.errors import SurvivedError, cause_of
from survived.observe.disks import is_below
from survived.tell.verdict import disk_of
from survived.units import print_bytes, print_share

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from survived.ctl.history import Curve, Past
    from survived.machine import Machine
    from survived.model import CacheReading, Filesystem

_TEMPLATE = os.path.join(os.path.dirname(__file__), "usage.html")
_MOST_POINTS = 1200  # of a curve: more than a screen has columns
_MOST_BOXES = 60
_LEAST_SHARE = 0.002  # of the disk, for a box of its own
_FRESH_SECONDS = 2 * 86400.0  # of a look at what is big
_MOST_ROWS = 200
_TICKS = 8
_MAP = (1000.0, 380.0)
_KINDS = {
    "cache": "caches",
    "environment": "environments",
    "state": "state and temporary files",
    "hog": "other big things of yours",
    "rest": "everything else: the system, other users, what is small",
}


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that uses the disk; `kind` is one of `_KINDS`."""

    name: str
    path: str
    size_bytes: int
    kind: str


def write(machine: Machine, past: Past, file: str) -> str:
    """Write the page and return its absolute path. `SurvivedError` where it cannot be written; then nothing has changed."""
    path = os.path.abspath(os.path.expanduser(file))
    if not os.path.isdir(os.path.dirname(path)):  # before a look that may take minutes
        raise SurvivedError(f"Cannot write '{printable(path)}': there is no such directory. Nothing was changed.")
    seen, big = machine.observe(), _big(machine)
    text = render(past, {item.mount: parts_of(item, seen.caches, big) for item in seen.filesystems})
    try:
        fs.write_file(path, text.encode("utf-8", "replace"), 0o644)
    except OSError as error:
        why = cause_of(error)
        raise SurvivedError(f"Cannot write '{printable(path)}': {why}. Nothing was changed.", "Name a file elsewhere.") from error
    return path


# ---- what uses the disk -------------------------------------------------------------------------------------------


def parts_of(filesystem: Filesystem, caches: Iterable[CacheReading], big: Mapping[str, int]) -> tuple[Part, ...]:
    """
    Return what uses one filesystem, the biggest first: the caches at home, what else is big there, and the rest.

    `big` are sizes by path as `decide.hogs.name_of` names them.
    """
    on_it = _Device(filesystem.device_id)
    parts: list[Part] = []
    for reading in sorted(caches, key=lambda reading: reading.cache.path):
        cache, size = reading.cache, reading.size.reclaimable_bytes or reading.size.size_bytes
        is_inside = any(is_below(cache.path, part.path) for part in parts)
        if reading.state == "home" and size > 0 and not is_inside and on_it.holds(cache.path):
            kind = "state" if cache.kind.value == "temporary" else cache.kind.value
            parts.append(Part(cache.title, cache.path, size, kind))
    for name, size in big.items():
        path = name.removesuffix("/.") or "/"
        if size > 0 and on_it.holds(path) and not any(part.path == path for part in parts):
            shown = f"{path} (the rest of it)" if name.endswith("/.") else path
            parts.append(Part(shown, path, size, "hog"))
    return tidy(parts, filesystem.used_bytes)


def tidy(parts: Iterable[Part], used_bytes: int) -> tuple[Part, ...]:
    """Return the parts that are big enough to be seen, the biggest first, and what else of `used_bytes` there is."""
    found = sorted((part for part in parts if part.size_bytes >= used_bytes * _LEAST_SHARE), key=lambda part: -part.size_bytes)
    found = found[:_MOST_BOXES]
    rest = used_bytes - sum(part.size_bytes for part in found)
    if rest > 0:
        found.append(Part("everything else", "", rest, "rest"))
    return tuple(sorted(found, key=lambda part: -part.size_bytes))


class _Device:
    """Tells what lies on one filesystem; a path that is gone does not."""

    def __init__(self, number: int) -> None:
        self._number = number

    def holds(self, path: str) -> bool:
        try:
            return os.lstat(path).st_dev == self._number
        except OSError:
            return False


def _big(machine: Machine) -> dict[str, int]:
    """Return the sizes of what is big by the last look of anybody; if that is old, look."""
    now = time.time()
    last = max(hogs.samples_before(machine, now), key=lambda sizes: sizes.time, default=None)
    if last is not None and now - last.time <= _FRESH_SECONDS:
        return last.sizes
    say("survivectl: Looking at what is big, which takes a while.")
    try:
        return hogs.read_sizes(machine).sizes
    except SurvivedError as error:
        say(f"survivectl: {error.message}", error.hint)
        return {}


# ---- the page -----------------------------------------------------------------------------------------------------


def render(past: Past, parts: Mapping[str, Sequence[Part]], host: str | None = None) -> str:
    """Return the page."""
    host = socket.gethostname() if host is None else host
    sections = [_curve_section(curve, past) for curve in past.curves]
    sections += [_map_section(mount, found) for mount, found in parts.items() if found]
    sections.append(_moves_section(past))
    between = f"{_when(past.since)} to {_when(past.until)}"
    with open(_TEMPLATE, encoding="utf-8") as file:
        template = Template(file.read())
    return template.substitute(
        version=_text(__version__), title=_text(f"Disk usage on {host}"), subtitle=_text(between), sections="\n".join(sections)
    )


def _text(text: str) -> str:
    """Return text as HTML has it; control characters and bytes that are not UTF-8 as a terminal would be shown them."""
    return html.escape(printable(text))


def _when(unix: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(unix))


def _curve_section(curve: Curve, past: Past) -> str:
    span = past.since, past.until
    points = thinned(curve.points, _MOST_POINTS)
    bottom = plot.floor_of([usage for _, usage in points], curve.marks)

    def across(when: float) -> float:
        return (when - span[0]) / max(1.0, span[1] - span[0])

    def down(usage: float) -> float:
        return (1.0 - usage) / (1.0 - bottom)

    stretches = _stretches(points, span[1])
    lines = [" L".join(f"{across(when) * 1000:.1f} {down(usage) * 300:.1f}" for when, usage in stretch) for stretch in stretches]
    under = [
        f"M{across(s[0][0]) * 1000:.1f} 300 L{line} L{across(s[-1][0]) * 1000:.1f} 300 Z"
        for s, line in zip(stretches, lines, strict=True)
    ]
    marks = {name: usage for name, usage in curve.marks.items() if bottom <= usage <= 1}
    svg = [f'<path class="under" d="{" ".join(under)}"/>', '<path class="frame" d="M0 0 V300 H1000"/>']
    svg += [f'<path class="mark {name}" d="M0 {down(usage) * 300:.1f} H1000"/>' for name, usage in marks.items()]
    svg.append(f'<path class="curve" d="{" ".join("M" + line for line in lines)}"/>')
    labels = [
        f'<span class="label y" style="top:{down(n / 10) * 100:.2f}%">{n * 10} %</span>'
        for n in range(11)
        if n / 10 >= bottom - 1e-9
    ]
    labels += [
        f'<span class="label of {name}" style="top:{down(usage) * 100:.2f}%">{name} {print_share(usage)}</span>'
        for name, usage in marks.items()
    ]
    labels += [
        f'<span class="label x{" odd" if number % 2 else ""}" style="left:{across(when) * 100:.2f}%">{_text(name)}</span>'
        for number, (when, name) in enumerate(plot.ticks(span, _TICKS))
    ]
    moves = [
        f'<span class="move" style="left:{across(item.changed) * 100:.2f}%">'
        f'<b title="{_text(f"{_when(item.changed)}  {describe(item)}")}">{SIGNS[item.verb]}</b></span>'
        for item in past.moves[-_MOST_ROWS:]
    ]
    data = json.dumps([[round(across(when), 5), f"{_when(when)}  {print_share(usage)}"] for when, usage in points])
    return (
        f'<section><h2>{_text(curve.mount)}</h2><p class="soft">{_text(summary(curve, past))}</p>'
        '<div class="plot"><svg viewBox="0 0 1000 300" preserveAspectRatio="none" role="img" aria-label="usage over time">'
        f"{''.join(svg)}</svg>"
        f'{"".join(labels)}{"".join(moves)}<div class="hair"><span></span></div>'
        f'<script type="application/json">{data.replace("<", chr(92) + "u003c")}</script></div></section>'
    )


def thinned(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """Return at most about so many points: of each stretch its first, least, most and last, so that no peak is lost."""
    if len(points) <= most:
        return list(points)
    size = -(-len(points) * 4 // most)
    found: list[tuple[float, float]] = []
    for at in range(0, len(points), size):
        some = points[at : at + size]
        ends = {some[0], min(some, key=lambda point: point[1]), max(some, key=lambda point: point[1]), some[-1]}
        found += sorted(ends)
    return found


def _stretches(points: Sequence[tuple[float, float]], until: float) -> list[list[tuple[float, float]]]:
    """Return the points in stretches without a gap; a point alone is none."""
    found: list[list[tuple[float, float]]] = []
    apart = (points[-1][0] - points[0][0]) / _MOST_POINTS * 8 if points else 0.0
    for point in points:
        if not found or (plot.is_gap(found[-1][-1][0], point[0], until) and point[0] - found[-1][-1][0] > apart):
            found.append([])
        found[-1].append(point)
    return [stretch for stretch in found if len(stretch) > 1]


def _map_section(mount: str, parts: Sequence[Part]) -> str:
    width, height = _MAP
    boxes = []
    for part, (left, top, wide, high) in zip(parts, squarify([part.size_bytes for part in parts], width, height), strict=True):
        name, size = _text(part.name), _text(print_bytes(part.size_bytes))
        place = f"left:{left / width:.4%};top:{top / height:.4%};width:{wide / width:.4%};height:{high / height:.4%}"
        words = f"<b>{name}</b>{size}" if wide > 60 and high > 34 else ""
        tip = _text(" ".join(filter(None, dict.fromkeys((part.name, part.path))))) + f", {size}"
        boxes.append(f'<div style="{place}"><span class="{part.kind}" title="{tip}">{words}</span></div>')
    used = {part.kind for part in parts}
    legend = "".join(f'<span><i class="{kind}"></i>{text}</span>' for kind, text in _KINDS.items() if kind in used)
    total = print_bytes(sum(part.size_bytes for part in parts))
    return (
        f'<section><h2>What uses {_text(mount)}</h2><p class="soft">{total} in all</p>'
        f'<div class="map">{"".join(boxes)}</div><div class="legend">{legend}</div></section>'
    )


def _moves_section(past: Past) -> str:
    if not past.moves:
        return '<section><h2>Moves</h2><p class="soft">Nothing was moved in this time.</p></section>'
    rows = []
    for item in reversed(past.moves[-_MOST_ROWS:]):
        where = "home" if item.verb == "restore" else disk_of(item.target)
        freed = print_bytes(item.freed_bytes) if item.verb == "relocate" else "–"
        rows.append(
            f'<tr><td class="t">{SIGNS[item.verb]} {_when(item.changed)}</td><td>{_text(item.cache_id)}</td>'
            f'<td class="p">{_text(item.source)}</td><td class="p" data-name="to">{_text(where)}</td>'
            f'<td class="n" data-name="size">{print_bytes(item.size_bytes)}</td><td class="n" data-name="freed">{freed}</td></tr>'
        )
    more = f'<p class="soft">{len(past.moves) - _MOST_ROWS} earlier ones are not shown.</p>' if len(past.moves) > _MOST_ROWS else ""
    head = '<tr><th>When</th><th>What</th><th>Path</th><th>To</th><th class="n">Size</th><th class="n">Freed</th></tr>'
    return f'<section><h2>Moves</h2>{more}<div class="scroll"><table>{head}{"".join(rows)}</table></div></section>'
