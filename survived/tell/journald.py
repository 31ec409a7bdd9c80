"""
Messages for journald with their fields, through its own socket: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/.

The protocol is one datagram a message, so no compiled library is needed for it. A journald that does not take messages is
waited for a moment, once; what it does not take then is counted, and told when it takes messages again.
"""

from __future__ import annotations

import array
import errno
import fcntl
import logging
import os
import socket
import struct
from typing import TYPE_CHECKING

from survived.events import Event

if TYPE_CHECKING:
    from collections.abc import Iterable

SOCKET = "/run/systemd/journal/socket"
_PATIENCE_SECONDS = 0.2
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_TOO_LARGE = (errno.EMSGSIZE, errno.ENOBUFS)
_MOST_BYTES = 1 << 20  # of one field


class JournalHandler(logging.Handler):
    """
    Sends each record to journald with its priority, its place in the code, and the fields of `events.about`.

    `otherwise` gets what journald's socket cannot be reached for; `lost` counts what it did not take.
    """

    def __init__(self, otherwise: logging.Handler, path: str = SOCKET) -> None:
        super().__init__()
        self._otherwise, self._path = otherwise, path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(_PATIENCE_SECONDS)
        self._untold = 0
        self.lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        try:
            data = pack(self._fields(record))
        except Exception:  # noqa: BLE001  a record with wrong arguments: logging's own answer, silent in production
            self.handleError(record)
            return
        try:
            if self._untold:
                text = f"Lost {self._untold} lines of this log: journald did not take them."
                self._send(pack([("MESSAGE", text), ("PRIORITY", "4"), ("MESSAGE_ID", Event.LOG_LOST.value), *_WHO]))
                self._untold = 0
                self._socket.settimeout(_PATIENCE_SECONDS)
            self._send(data)
        except (BlockingIOError, TimeoutError):
            self._socket.settimeout(0.0)  # waited for once: the loop has more to do
            self._untold += 1
            self.lost += 1
        except OSError:  # nobody listens there
            self._otherwise.handle(record)

    def _fields(self, record: logging.LogRecord) -> list[tuple[str, str]]:
        text = self.format(record)
        event, more = getattr(record, "survived", (None, {}))
        fields = [("MESSAGE", text), ("PRIORITY", str(priority_of(record.levelno))), *_WHO]
        fields += [("CODE_FILE", record.pathname), ("CODE_LINE", str(record.lineno)), ("CODE_FUNC", record.funcName or "")]
        if event is not None:
            fields += [("MESSAGE_ID", event.value), ("SURVIVED_EVENT", event.name.lower())]
        return [*fields, *((f"SURVIVED_{name.upper()}", value) for name, value in more.items())]

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendto(data, self._path)
        except OSError as error:
            if error.errno not in _TOO_LARGE:
                raise
            self._send_file(data)

    def _send_file(self, data: bytes) -> None:
        """Send what is too large for a datagram as a sealed file in memory, whose descriptor is passed."""
        fd = os.memfd_create("survived-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
            self._socket.sendmsg([b""], [rights], 0, self._path)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


_WHO = (("SYSLOG_IDENTIFIER", "survived"),)
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


def priority_of(level: int) -> int:
    """Return syslog's priority of a level of Python's."""
    return next((number for least, number in _PRIORITIES if level >= least), 7)


def pack(fields: Iterable[tuple[str, str]]) -> bytes:
    """Return fields as the protocol has them: `NAME=value`, or with a length where the value has newlines."""
    parts = []
    for name, value in fields:
        data = value.encode("utf-8", "backslashreplace")[:_MOST_BYTES]
        if b"\n" in data:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(data)) + data)
        else:
            parts.append(name.encode() + b"=" + data)
    return b"\n".join(parts) + b"\n"
