"""
Rectangles for sizes: the squarified treemap of Bruls, Huizing and van Wijk (2000). Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    Box = tuple[float, float, float, float]


def squarify(sizes: Sequence[float], width: float, height: float) -> list[Box]:
    """
    Return for each of `sizes`, the biggest first and none below zero, its (left, top, width, height) in a box of that size.

    The areas are to each other as the sizes; each rectangle is as square as laying them in rows from the biggest on makes it.
    """
    total = float(sum(sizes))
    if total <= 0 or width <= 0 or height <= 0:
        return [(0.0, 0.0, 0.0, 0.0) for _ in sizes]
    areas = [size / total * width * height for size in sizes]
    boxes: list[Box] = []
    left, top, at = 0.0, 0.0, 0
    while at < len(areas):
        side = max(1e-9, min(width, height))
        count = 1
        while at + count < len(areas) and _worst(areas[at : at + count + 1], side) <= _worst(areas[at : at + count], side):
            count += 1
        row = areas[at : at + count]
        thick = min(sum(row) / side, max(width, height))
        along = 0.0
        for area in row:
            length = area / thick if thick > 0 else 0.0
            boxes.append((left + along, top, length, thick) if width < height else (left, top + along, thick, length))
            along += length
        if width < height:
            top, height = top + thick, height - thick
        else:
            left, width = left + thick, width - thick
        at += count
    return boxes


def _worst(row: Sequence[float], side: float) -> float:
    """Return how far from a square the worst rectangle of a row is, along a side."""
    total, least, most = sum(row), min(row), max(row)
    if least <= 0:
        return float("inf")
    return max(side * side * most / (total * total), total * total / (side * side * least))
