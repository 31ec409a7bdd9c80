"""
A bar for bundles on a terminal: phase, bytes, rate and time left; and what tool is running. Nothing in a pipe or with --json.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from survived.ctl.main import printable, say

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

_PERIOD_SECONDS = 0.1
_WIDTH = 100


class PackBar:
    """Shows how far it is; `stop` is called all the while and raises to end."""

    def __init__(self, args: argparse.Namespace, stop: Callable[[], None]) -> None:
        self._terminal = sys.stderr.isatty() and not args.json
        self._quiet, self._stop = args.json, stop
        self._progress: Any = None
        self._task: Any = None
        self._phase, self._last = "", 0.0

    def __enter__(self) -> PackBar:
        if self._terminal:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

            self._progress = Progress(
                TextColumn("{task.description:<8}", markup=False),
                BarColumn(bar_width=20),
                DownloadColumn(binary_units=True),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._progress.start()
        return self

    def tell(self, phase: str, done: int, total: int) -> None:
        """Show a phase and its bytes; a total of 0 is not known."""
        self._stop()
        if self._progress is None:
            return
        now = time.monotonic()
        if phase != self._phase:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task, self._phase, self._last = self._progress.add_task(phase, total=None), phase, 0.0
        if now - self._last >= _PERIOD_SECONDS or done == total:
            self._last = now
            self._progress.update(self._task, completed=done, total=total or None)

    def say(self, command: str) -> None:
        """Say which tool is run."""
        if self._quiet:
            return
        line = f"$ {printable(command)}"
        line = line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…"
        if self._progress is None:
            say(line)
        else:
            self._progress.console.print(line, markup=False, highlight=False)

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()
