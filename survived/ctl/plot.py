"""
A curve of usage over time in a terminal: eight braille dots to a character, marks as lines behind it, moves below it.

Pure text. Our own, as the libraries at hand draw mark lines and curve alike unless there is colour, take half a second to
import (plotext 6) and know neither gaps, in which nobody looked, nor where a move was.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from survived.tell.columns import pad
from survived.units import print_share

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from survived.tell.columns import Paint

_LINES = {"low": "┈", "high": "─", "flood": "━"}
_ASCII = str.maketrans({"┈": ".", "─": "-", "━": "=", "┤": "|", "│": "|", "┬": "+", "└": "+", "▲": "^", "▼": "v", "◆": "o"})
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille character, by row and column
_LEFT, _RIGHT = 7, 13  # columns for the numbers and for the names of the marks
_HOUR, _DAY = 3600, 86400
_STEPS = (
    *(60, 300, 900, 1800), *(_HOUR * n for n in (1, 2, 3, 6, 12)),
    *(_DAY * n for n in (1, 2, 7, 14, 30, 61, 91, 182, 365)),
)  # fmt: skip
_TICK_COLUMNS = 10


def draw(
    points: Sequence[tuple[float, float]],
    span: tuple[float, float],
    marks: Mapping[str, float],
    moves: Sequence[tuple[float, str]],
    *,
    width: int = 80,
    height: int = 14,
    is_ascii: bool = False,
    paint: Paint = lambda text, _code: text,
) -> list[str]:
    """
    Return the lines of a plot.

    `points` are (time, usage), oldest first; `span` is the time from left to right; `marks` are usages by name (low, high,
    flood); `moves` are (time, sign). Between two points that are further apart than `is_gap` allows nothing is drawn.
    """
    columns = max(10, width - _LEFT - _RIGHT)
    bottom = floor_of([usage for _, usage in points], marks)
    cells = _curve(points, span, bottom, columns, height, is_ascii=is_ascii)
    at = {_row(usage, bottom, height): name for name, usage in marks.items() if bottom <= usage <= 1}
    lines = []
    for row in range(height):
        name = at.get(row)
        tint = _tint(row, bottom, height, marks)
        text = "".join(
            paint(cell, tint) if cell else paint(_LINES[name], "2") if name else " "
            for cell in (cells.get((row, x)) for x in range(columns))
        )
        label = f"{name} {print_share(marks[name])}" if name else ""
        lines.append(f"{_scale(row, bottom, height):>{_LEFT - 2}} ┤{text} {label}")
    lines += _axis(span, columns)
    signs = [" "] * columns
    for when, sign in moves:
        if span[0] <= when <= span[1]:
            signs[_column(when, span, columns)] = sign
    if moves:
        lines.insert(height, " " * (_LEFT - 1) + "│" + paint("".join(signs).rstrip(), "1;36"))
    lines = [line.rstrip() for line in lines]
    return [line.translate(_ASCII) for line in lines] if is_ascii else lines


def floor_of(usages: Sequence[float], marks: Mapping[str, float]) -> float:
    """Return where the scale begins: a whole tenth below what there is to see, so that what moves is seen to move."""
    lowest = min([*usages, *marks.values(), 1.0])
    return max(0.0, min(0.8, math.floor(lowest * 10 - 0.5) / 10))


def is_gap(one: float, other: float, until: float) -> bool:
    """Tell whether nobody looked between two samples: they are further apart than the history thins them at their age."""
    age = until - one
    apart = 60 if age < _DAY else 600 if age < 30 * _DAY else 3600
    return other - one > 3 * apart


def ticks(span: tuple[float, float], most: int) -> Iterator[tuple[float, str]]:
    """Yield at most so many round local times in a span, with their names: "14:00", "Nov 24" or "Nov 2026"."""
    length = max(1.0, span[1] - span[0])
    step = next((step for step in _STEPS if length / step <= most), 365 * _DAY)
    begin = time.localtime(span[0])
    midnight = time.mktime((begin.tm_year, begin.tm_mon, begin.tm_mday, 0, 0, 0, 0, 0, -1))
    first = midnight + step * math.ceil((span[0] - midnight) / step)
    for number in range(most + 1):
        when = first + number * step
        if when > span[1]:
            return
        there = time.localtime(when)
        is_day = step >= _DAY or (length > 1.5 * _DAY and there.tm_hour == there.tm_min == 0)
        yield when, time.strftime("%b %Y" if step > 61 * _DAY else "%b %d" if is_day else "%H:%M", there)


def _curve(
    points: Sequence[tuple[float, float]], span: tuple[float, float], bottom: float, columns: int, height: int, *, is_ascii: bool
) -> dict[tuple[int, int], str]:
    """Return the characters of the curve by row and column: in each column of dots a run from the least to the most usage."""
    wide, high = columns * 2, height * 4
    runs: dict[int, tuple[int, int]] = {}
    before: tuple[float, int, int] | None = None
    for when, usage in points:
        if not span[0] <= when <= span[1]:
            continue
        x, y = _column(when, span, wide), _row(usage, bottom, high)
        low, top = runs.get(x, (y, y))
        runs[x] = min(low, y), max(top, y)
        if before is not None and x > before[1] and (x - before[1] <= 2 or not is_gap(before[0], when, span[1])):
            for between in range(before[1], x + 1):
                level = round(before[2] + (y - before[2]) * (between - before[1]) / (x - before[1]))
                low, top = runs.get(between, (level, level))
                runs[between] = min(low, level), max(top, level)
        before = when, x, y
    bits: dict[tuple[int, int], int] = {}
    for x, (low, top) in _joined(runs):
        for y in range(low, top + 1):
            place = y // 4, x // 2
            bits[place] = bits.get(place, 0) | _DOTS[y % 4][x % 2]
    return {place: "*" if is_ascii else chr(0x2800 + dots) for place, dots in bits.items()}


def _joined(runs: Mapping[int, tuple[int, int]]) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield the runs, each stretched until it touches its left neighbour: a jump is an upright line."""
    for x, (low, top) in sorted(runs.items()):
        if x - 1 in runs:
            left_low, left_top = runs[x - 1]
            low, top = min(low, left_top), max(top, left_low)
        yield x, (low, top)


def _column(when: float, span: tuple[float, float], columns: int) -> int:
    return min(columns - 1, int((when - span[0]) / max(1.0, span[1] - span[0]) * columns))


def _row(usage: float, bottom: float, rows: int) -> int:
    return min(rows - 1, max(0, round((1.0 - usage) / (1.0 - bottom) * rows - 0.5)))


def _scale(row: int, bottom: float, height: int) -> str:
    """Return the number beside a row: that of every tenth, in the row that is nearest to it."""
    for tenth in range(11):
        if tenth / 10 >= bottom and _row(tenth / 10, bottom, height) == row:
            return print_share(tenth / 10)
    return ""


def _tint(row: int, bottom: float, height: int, marks: Mapping[str, float]) -> str:
    """Return the colour of the curve in a row."""
    usage = 1.0 - (row + 0.5) / height * (1.0 - bottom)
    return "31" if usage >= marks.get("flood", 2) else "33" if usage >= marks.get("high", 2) else "32"


def _axis(span: tuple[float, float], columns: int) -> list[str]:
    line, names = ["─"] * columns, " " * columns
    for when, name in ticks(span, max(2, columns // _TICK_COLUMNS)):
        at = _column(when, span, columns)
        line[at] = "┬"
        begin = max(0, min(columns - len(name), at - len(name) // 2))
        if not names[max(0, begin - 1) : begin + len(name) + 1].strip():
            names = pad(names[:begin] + name + names[begin + len(name) :], columns)
    return [" " * (_LEFT - 1) + "└" + "".join(line), " " * _LEFT + names.rstrip()]
