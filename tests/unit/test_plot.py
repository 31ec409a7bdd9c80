"""The plot of the history shows the curve where it was, gaps as gaps, marks as lines and moves below; in any width."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest

from survived.ctl import plot
from survived.ctl.treemap import squarify
from survived.tell.columns import columns, painted

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKS = {"low": 0.8, "high": 0.9, "flood": 0.97}
BEGIN = 1_800_000_000.0
DAY = 86400.0


def hours(*usages: float, begin: float = BEGIN, every: float = 600.0) -> list[tuple[float, float]]:
    """Return points ten minutes apart."""
    return [(begin + every * number, usage) for number, usage in enumerate(usages)]


def draw(points: list[tuple[float, float]], *, days: float = 1.0, width: int = 80, **more: object) -> list[str]:
    """Draw a plot of some days."""
    return plot.draw(points, (BEGIN, BEGIN + days * DAY), MARKS, [], width=width, **more)  # type: ignore[arg-type]


def dots(lines: list[str]) -> list[tuple[int, int]]:
    """Return row and column of each character of the curve."""
    return [(y, x) for y, line in enumerate(lines) for x, char in enumerate(line[7:]) if "\u2800" < char <= "\u28ff"]


@pytest.mark.parametrize("width", [50, 80, 120])
def test_it_fits_the_width_also_with_colours(width: int) -> None:
    """No line is longer, and colours take no columns."""
    points = hours(*(0.7 + 0.2 * (number % 50) / 50 for number in range(144)))
    lines = draw(points, width=width)
    assert max(map(columns, lines)) <= width
    shown = draw(points, width=width, paint=painted)
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in shown] == lines


def test_the_curve_is_where_the_usage_was() -> None:
    """A climb goes from the left below to the right above, and takes the whole width."""
    seen = dots(draw(hours(*(0.75 + 0.2 * number / 143 for number in range(144)))))
    assert min(x for _, x in seen) == 0
    assert max(x for _, x in seen) == 59
    rows = [min(y for y, x in seen if x == column) for column in range(60)]
    assert rows == sorted(rows, reverse=True)
    assert rows[0] - rows[-1] >= 7


def test_a_jump_is_an_upright_line() -> None:
    """When a move frees a fifth at once, the curve stays in one piece."""
    seen = dots(draw(hours(*[0.95] * 72, *[0.75] * 72)))
    column = max(x for y, x in seen if y <= 3)
    assert len([y for y, x in seen if x in (column, column + 1)]) >= 8


def test_where_nobody_looked_nothing_is_drawn() -> None:
    """Three hours without the daemon are blank; ten-minute steps of last week are none."""
    points = hours(*[0.85] * 60) + hours(*[0.86] * 60, begin=BEGIN + 14 * 3600)
    seen = {x for _, x in dots(draw(points))}
    assert not seen & set(range(27, 34))
    assert {5, 20, 40} <= seen
    week = hours(*[0.85] * (6 * 24 * 7))
    assert {x for _, x in dots(draw(week, days=7))} == set(range(60))


def test_marks_are_lines_with_their_names() -> None:
    """Each mark has its own sign in the row of its share, and the name at its end."""
    lines = draw(hours(*[0.5] * 144), height=21)
    for name, sign in (("low", "┈"), ("high", "─"), ("flood", "━")):
        (line,) = [line for line in lines if line.endswith(f"{name} {MARKS[name]:.0%}".replace("%", " %"))]
        assert sign * 50 in line


def test_moves_stand_below_where_they_were() -> None:
    """One in the middle is in the middle; what was before the span is not shown."""
    moves = [(BEGIN + DAY / 2, "▲"), (BEGIN - 5, "▼")]
    lines = plot.draw(hours(*[0.85] * 144), (BEGIN, BEGIN + DAY), MARKS, moves)
    (line,) = [line for line in lines if "▲" in line]
    assert line.index("▲") - 7 == 30
    assert not [line for line in lines if "▼" in line]


def test_ascii_where_the_terminal_has_no_braille() -> None:
    """Every character is ASCII, and the shape the same."""
    points = hours(*[0.85] * 144)
    lines = plot.draw(points, (BEGIN, BEGIN + DAY), MARKS, [(BEGIN + 5, "▲")], is_ascii=True)
    assert all(line.isascii() for line in lines)
    assert len([line for line in lines if "*" in line]) == 1


@pytest.fixture
def shanghai(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be eight hours ahead of UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Shanghai")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("days", "pattern"),
    [(0.1, r"\d\d:\d\d"), (1, r"\d\d:\d\d"), (7, r"[A-Z]\w\w \d\d"), (40, r"[A-Z]\w\w \d\d"), (400, r"[A-Z]\w\w \d{4}")],
)
def test_ticks_are_round_and_few(days: float, pattern: str, shanghai: None) -> None:
    """A handful of round local times, whatever the span, inside it and in order."""
    found = list(plot.ticks((BEGIN, BEGIN + days * DAY), 6))
    assert 1 <= len(found) <= 7
    assert [when for when, _ in found] == sorted({when for when, _ in found})
    assert all(BEGIN <= when <= BEGIN + days * DAY for when, _ in found)
    assert all(re.fullmatch(pattern, name) for _, name in found)
    assert all((when + 8 * 3600) % 60 == 0 for when, _ in found)


def test_odd_data_is_drawn_too() -> None:
    """No point, one point, a full disk, an empty one, and a span of nothing."""
    for points in ([], hours(0.5), hours(1.0, 1.0), hours(0.0, 0.0)):
        assert len(draw(points)) == 16
    assert plot.draw(hours(0.5), (BEGIN, BEGIN), MARKS, [])


# ---- the treemap --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[1], [5, 4, 3, 2, 1], [100, 1, 1, 1], [7] * 30, [10**12, 10**9, 10**6, 1], [3, 0, 0]])
def test_rectangles_have_the_sizes_fill_the_box_and_do_not_overlap(sizes: list[float]) -> None:
    """Area for area, inside the box, none over another."""
    boxes = squarify(sizes, 300.0, 200.0)
    assert len(boxes) == len(sizes)
    for size, (left, top, wide, high) in zip(sizes, boxes, strict=True):
        assert wide * high == pytest.approx(size / sum(sizes) * 60_000, rel=1e-6, abs=1e-3)
        assert -1e-6 <= left <= left + wide <= 300 + 1e-6
        assert -1e-6 <= top <= top + high <= 200 + 1e-6
    for number, (left, top, wide, high) in enumerate(boxes):
        for other_left, other_top, other_wide, other_high in boxes[number + 1 :]:
            across = min(left + wide, other_left + other_wide) - max(left, other_left)
            down = min(top + high, other_top + other_high) - max(top, other_top)
            assert across < 1e-3 or down < 1e-3


def test_nothing_has_no_room() -> None:
    """No sizes, only zeros, or no box: no rectangle with an area, and no division by zero."""
    assert squarify([], 10, 10) == []
    assert squarify([0, 0], 10, 10) == [(0.0, 0.0, 0.0, 0.0)] * 2
    assert squarify([1], 0, 10) == [(0.0, 0.0, 0.0, 0.0)]


def test_rectangles_are_nearly_square() -> None:
    """The example of the paper: no side is more than three times the other."""
    for _, _, wide, high in squarify([6, 6, 4, 3, 2, 2, 1], 6, 4):
        assert max(wide / high, high / wide) <= 3
