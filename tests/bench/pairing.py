"""How candidates are compared: in rounds of changing order on one machine in one go, as the median of paired ratios."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}


def timed(command: list[str], environment: dict[str, str] | None = None, statuses: tuple[int, ...] = (0,)) -> float:
    """Run a command that must succeed and return its seconds."""
    began = time.perf_counter()
    done = subprocess.run(command, env=environment or ENV, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode not in statuses:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return seconds


def told(command: list[str]) -> list[float]:
    """Run a child of ours that must succeed and return the numbers that it prints."""
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return [float(word) for word in done.stdout.split()]


def in_turn(runs: int, candidates: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Run every candidate `runs` times in rounds of changing order, so that drift hits all of them."""
    results: dict[str, list[T]] = {name: [] for name in candidates}
    shuffle = random.Random(1)
    for _ in range(runs):
        order = list(candidates)
        shuffle.shuffle(order)
        for name in order:
            results[name].append(candidates[name]())
    return results


def ratio(ours: list[float], theirs: list[float]) -> str:
    """Return the median of the paired ratios ours / theirs."""
    return f"{statistics.median(a / b for a, b in zip(ours, theirs, strict=True)):.2f}"


def rows_of(results: dict[str, list[float]], *before: str) -> list[list[str]]:
    """Return a row for each candidate: what comes before, its name, its median seconds, and survived's ratio to it."""
    ours = results["survived"]
    return [[*before, name, f"{statistics.median(times):.2f}", ratio(ours, times)] for name, times in results.items()]
