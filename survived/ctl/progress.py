"""
What is shown while a verb works: a bar on a terminal with phase, bytes, files, rate and time left; and how it is interrupted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from survived.ctl.main import printable
from survived.errors import Stopped
from survived.tell.moving import describe_phase, describe_progress

if TYPE_CHECKING:
    import argparse
    import threading
    from collections.abc import Iterator

POLL_SECONDS = 0.2


@contextlib.contextmanager
def interrupts(stop: threading.Event) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and a closed terminal set `stop`; asked a second time, end at once: the next start recovers."""

    def on_signal(_number: int, _frame: object) -> None:
        if stop.is_set():
            os._exit(Stopped.exit_code)
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, on_signal) for number in numbers if signal.getsignal(number) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Bar:
    """A progress bar on a terminal, nothing in a pipe or with --json."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._wanted = sys.stderr.isatty() and not args.json
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> Bar:
        if self._wanted:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[facts]}", markup=False),
                console=Console(stderr=True),
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task("waiting", total=None, facts="")
        return self

    def show(self, progress: dict[str, Any] | None) -> None:
        """Show how far it is; None while it waits for its turn."""
        if self._progress is not None and progress is not None:
            total = progress["bytes_total"] or None
            facts = printable(describe_phase(progress) if progress["note"] else describe_progress(progress))
            self._progress.update(
                self._task, description=f"{progress['phase']:<10}", completed=progress["bytes_done"], total=total, facts=facts
            )

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()
