"""
The usage curve as a PNG, for mail. The only user of Pillow, and only in the short-lived sender: the daemon never loads it.

Its words are numbers, dates and mount points alone, so one picture serves every language.
"""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, HEIGHT = 600, 220
"""Of one curve, in the pixels of the page; the picture has twice as many, for screens that are fine."""
_FINE = 2
_EDGES = (52, 30, 66, 30)  # left, top, right, bottom
_INK, _GREY, _GRID, _LINE, _AREA = "#1f2937", "#6b7280", "#e5e7eb", "#2563eb", "#dbe7fd"
_MARKS = (("low", "#059669"), ("high", "#d97706"), ("flood", "#dc2626"))
_DAY = 86400.0
_STEPS = (60, 120, 300, 900, 1800, 3600, 2 * 3600, 6 * 3600, 12 * 3600, 86400, 2 * 86400, 7 * 86400, 14 * 86400, 30 * 86400)
_TICKS = 7
_GAP_SHARE = 1 / 10  # of the whole time: without a sample for so long nothing is known, and nothing is drawn
_MOST_CURVES = 4


@dataclass(frozen=True, slots=True)
class Curve:
    """One filesystem's usage: (Unix time, share) in order, and its marks as shares."""

    mount: str
    points: Sequence[tuple[float, float]]
    low: float
    high: float
    flood: float


def draw(curves: Sequence[Curve]) -> bytes | None:
    """Return one PNG with the curves below each other, or None where there are no two samples to join."""
    shown = [curve for curve in curves if len(curve.points) >= 2][:_MOST_CURVES]
    if not shown:
        return None
    image = Image.new("RGB", (WIDTH * _FINE, HEIGHT * _FINE * len(shown)), "white")
    canvas = ImageDraw.Draw(image)
    for row, curve in enumerate(shown):
        _Panel(canvas, curve, row * HEIGHT * _FINE).draw()
    data = io.BytesIO()
    image.quantize(64).save(data, "PNG", optimize=True)
    return data.getvalue()


class _Panel:
    """Where one curve is drawn."""

    def __init__(self, canvas: ImageDraw.ImageDraw, curve: Curve, top: int) -> None:
        left, above, right, below = (edge * _FINE for edge in _EDGES)
        self._canvas, self._curve = canvas, curve
        self._left, self._top = left, top + above
        self._right, self._bottom = WIDTH * _FINE - right, top + HEIGHT * _FINE - below
        self._begin, self._end = curve.points[0][0], max(curve.points[-1][0], curve.points[0][0] + 1.0)
        least = min(min(share for _, share in curve.points), curve.low)
        self._floor = max(0.0, int(least * 10 - 0.5) / 10)
        self._font, self._bold = ImageFont.load_default(11 * _FINE), ImageFont.load_default(13 * _FINE)

    def draw(self) -> None:
        """Draw grid, area, line, marks and words, in this order."""
        self._grid()
        for stretch in self._stretches():
            self._draw_stretch(stretch)
        self._draw_marks()
        last_time, last = self._curve.points[-1]
        x, y, r = self._x(last_time), self._y(last), 4 * _FINE
        self._canvas.ellipse((x - r, y - r, x + r, y + r), fill=_LINE, outline="white", width=_FINE)
        title = f"{self._curve.mount}  {last * 100:.1f} %"
        self._canvas.text((self._left, self._top - 10 * _FINE), title, fill=_INK, font=self._bold, anchor="ls")
        self._canvas.text((self._right, self._top - 10 * _FINE), self._span(), fill=_GREY, font=self._font, anchor="rs")

    def _x(self, when: float) -> float:
        return self._left + (when - self._begin) / (self._end - self._begin) * (self._right - self._left)

    def _y(self, share: float) -> float:
        return self._bottom - (min(1.0, max(self._floor, share)) - self._floor) / (1 - self._floor) * (self._bottom - self._top)

    def _span(self) -> str:
        return " - ".join(time.strftime("%Y-%m-%d %H:%M", time.localtime(when)) for when in (self._begin, self._end))

    def _grid(self) -> None:
        step = 0.25 if self._floor == 0 else 0.1 if self._floor < 0.75 else 0.05
        share = self._floor
        while share <= 1.0 + 1e-9:
            y = self._y(share)
            self._canvas.line((self._left, y, self._right, y), fill=_GRID, width=_FINE)
            self._canvas.text((self._left - 6 * _FINE, y), f"{share * 100:.0f} %", fill=_GREY, font=self._font, anchor="rm")
            share += step
        whole = self._end - self._begin
        every = next((step for step in _STEPS if whole / step <= _TICKS), _STEPS[-1])
        form = "%H:%M" if every < _DAY else "%m-%d"
        offset = time.localtime(self._begin).tm_gmtoff
        when = (int(self._begin + offset) // every + 1) * every - offset
        while when <= self._end:
            x = self._x(when)
            self._canvas.line((x, self._bottom, x, self._bottom + 4 * _FINE), fill=_GREY, width=_FINE)
            text = time.strftime(form, time.localtime(when))
            self._canvas.text((x, self._bottom + 8 * _FINE), text, fill=_GREY, font=self._font, anchor="mt")
            when += every
        self._canvas.line((self._left, self._bottom, self._right, self._bottom), fill=_GREY, width=_FINE)

    def _stretches(self) -> list[list[tuple[float, float]]]:
        """Return the samples cut where nothing is known for long."""
        gap = (self._end - self._begin) * _GAP_SHARE
        stretches = [[self._curve.points[0]]]
        for before, point in zip(self._curve.points, self._curve.points[1:], strict=False):
            if point[0] - before[0] > gap and len(self._curve.points) > 2 / _GAP_SHARE:
                stretches.append([])
            stretches[-1].append(point)
        return stretches

    def _draw_stretch(self, stretch: list[tuple[float, float]]) -> None:
        line = [(self._x(when), self._y(share)) for when, share in stretch]
        if len(line) == 1:
            line.append((line[0][0] + _FINE, line[0][1]))
        self._canvas.polygon([(line[0][0], self._bottom), *line, (line[-1][0], self._bottom)], fill=_AREA)
        self._canvas.line(line, fill=_LINE, width=2 * _FINE, joint="curve")

    def _draw_marks(self) -> None:
        below = float(self._bottom)
        for name, colour in _MARKS:
            share = getattr(self._curve, name)
            y = self._y(share)
            for x in range(self._left, self._right, 8 * _FINE):
                self._canvas.line((x, y, min(self._right, x + 4 * _FINE), y), fill=colour, width=_FINE)
            place = min(y, below - 12 * _FINE) if below < self._bottom else y  # labels of marks that are close do not touch
            self._canvas.text((self._right + 6 * _FINE, place), f"{share * 100:g} %", fill=colour, font=self._font, anchor="lm")
            below = place
