"""
SIGTERM, SIGINT and SIGHUP as flags, and a descriptor that wakes the loop when one comes.
"""

from __future__ import annotations

import os
import signal
import socket


class Signals:
    """What the daemon was told by signals; asked to stop twice, it stops at once."""

    def __init__(self) -> None:
        self.stop = self.reload = False
        self._ours, self._theirs = socket.socketpair()
        for end in (self._ours, self._theirs):
            end.setblocking(False)  # noqa: FBT003  the socket module's own signature

    def catch(self) -> None:
        """Take over the signals; only the main thread may."""
        signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_reload)

    def fileno(self) -> int:
        """Return what becomes readable when a signal has come; call `drain` then."""
        return self._ours.fileno()

    def drain(self) -> None:
        """Take the wake-up; the flags say what it was."""
        self._ours.recv(64)

    def _on_stop(self, _number: int, _frame: object) -> None:
        if self.stop:
            os._exit(1)  # whatever is open is recovered at the next start
        self.stop = True

    def _on_reload(self, _number: int, _frame: object) -> None:
        self.reload = True
