"""
The one worker thread: it measures and moves, one job at a time, while the loop goes on answering.

A job is a function that gets a `Task`; its result or error comes back through a pipe that wakes the loop's selector.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Any

from survived.act import fs
from survived.act.task import Task
from survived.errors import SurvivedError

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)


class Job:
    """One piece of work: `run(task)` in the worker, then `done(result, error)` in the loop."""

    def __init__(self, name: str, run: Callable[[Task], Any], done: Callable[[Any, SurvivedError | None], None]) -> None:
        self.name, self.run, self.done = name, run, done
        self.task = Task(threading.Event())
        self.result: Any = None
        self.error: SurvivedError | None = None


class Worker:
    """Runs one job at a time in a thread of its own, in the idle I/O class."""

    def __init__(self) -> None:
        self._wake_fd, self._done_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.job: Job | None = None
        self._thread: threading.Thread | None = None

    def fileno(self) -> int:
        """Return what becomes readable when the job has ended; call `collect` then."""
        return self._wake_fd

    @property
    def is_idle(self) -> bool:
        """True if a job can be started."""
        return self.job is None

    def start(self, job: Job) -> None:
        """Begin a job; only one at a time."""
        if self.job is not None:
            raise RuntimeError(f"{self.job.name} is running")
        self.job = job
        self._thread = threading.Thread(target=self._work, args=(job,), name="survived-worker", daemon=True)
        self._thread.start()

    def _work(self, job: Job) -> None:
        try:
            fs.step_back()
            job.result = job.run(job.task)
        except SurvivedError as error:
            job.error = error
        except Exception as error:  # a job must never take the daemon with it
            log.exception("%s failed in a way that nobody foresaw", job.name)
            job.error = SurvivedError(f"{job.name} failed: {error}.", "Please report this with the log.")
        os.write(self._done_fd, b"\0")

    def collect(self) -> None:
        """Hand the ended job's outcome to its `done`, in the loop's thread."""
        try:
            os.read(self._wake_fd, 64)
        except BlockingIOError:
            return
        job, self.job = self.job, None
        if job is not None:
            job.done(job.result, job.error)

    def stop(self, seconds: float) -> bool:
        """Ask the job to end and wait; False if it did not in time, which its recovery at the next start covers."""
        if self.job is None or self._thread is None:
            return True
        self.job.task.stop.set()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def cancel_measuring(self) -> None:
        """End a job that only looks, to make room for one that acts."""
        if self.job is not None and self.job.name == "measuring":
            self.job.task.stop.set()
