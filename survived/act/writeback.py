"""
A filesystem is written to its device while others work: now and then beside a copy, and a last time beside a look.

Threads, since the kernel does the work. Each has a description of its own, or shares the caller's, as it matters: the kernel
tells each description of a lost write once.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING

from survived.act import fs

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

_EVERY_SECONDS, _PATIENCE_SECONDS = 0.15, 5.0
_ASKED_SECONDS = 0.05


class WriteBack:
    """Has what is written in its block go to the device meanwhile, so that the sync after it finds little; errors are for that."""

    def __init__(self, fd: int) -> None:
        self._fd = os.open(".", fs.DIRECTORY, dir_fd=fd)  # opened anew: `fd` has yet to hear of a lost write
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="survived-write-back", daemon=True)

    def _run(self) -> None:
        while not self._ended.wait(_EVERY_SECONDS):
            with contextlib.suppress(OSError):
                fs.sync_filesystem(self._fd)
        os.close(self._fd)

    def stop(self) -> None:
        """Begin no more of it; what is under way goes on."""
        self._ended.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join(_PATIENCE_SECONDS)


class Sync:
    """Everything of the filesystem that holds `fd`, written from now on, beside whoever called, until `wait` is called."""

    def __init__(self, fd: int) -> None:
        self._fd = os.dup(fd)  # shares the description, which hears of lost writes
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="survived-sync", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            fs.sync_filesystem(self._fd)
        except OSError as error:
            self._error = error
        finally:
            os.close(self._fd)

    def wait(self, check: Callable[[], None]) -> float:
        """
        Wait until it is done, and return for how many seconds; `check()` is called now and then and may raise.

        Raises the EIO or ENOSPC of a lost write.
        """
        began = time.monotonic()
        while self._thread.is_alive():
            self._thread.join(_ASKED_SECONDS)
            check()
        if self._error is not None:
            raise self._error
        return time.monotonic() - began
