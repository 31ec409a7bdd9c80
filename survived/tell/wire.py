"""
What both ends of the control socket share: the codes, one line of JSON, buffers of one connection, who the peer is.

Importing it must stay cheap: `survivectl status` waits for it.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import socket
import struct
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LINE_LIMIT = 64 * 1024
_BACKLOG_LIMIT = 1024 * 1024  # answers a slow reader has not taken; above it we stop reading its requests
_PATH_LIMIT = 107  # bytes of sun_path without the final NUL

PARSE_ERROR, INVALID_REQUEST, UNKNOWN_METHOD, BAD_PARAMS, INTERNAL_ERROR = -32700, -32600, -32601, -32602, -32603
EXPECTED_ERROR = -32000  # a SurvivedError, with exit code, reason and hint in its data
TOO_MANY_CLIENTS = -32001
LOOK_AT_LOG = "Look at its log: journalctl --user -u survived."


class Connection:
    """One accepted connection and its buffers."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.incoming, self.outgoing = bytearray(), bytearray()
        self.active = time.monotonic()
        self.too_long = False  # a line broke the limit; only `reject` is left
        self._ended = self._rejected = False

    @property
    def reading(self) -> bool:
        """Whether we want more from it: not after its end, and not while it does not take our answers."""
        return not self._ended and not self._rejected and len(self.outgoing) < _BACKLOG_LIMIT

    @property
    def is_finished(self) -> bool:
        """Whether it has ended or was rejected and has got all its answers."""
        return (self._ended or self._rejected) and not self.outgoing and (self._rejected or not self.incoming)

    def receive(self) -> None:
        """Take what is there, once, so that one client cannot keep the loop."""
        try:
            data = self.connection.recv(LINE_LIMIT)
        except BlockingIOError:
            return
        self.active = time.monotonic()
        self._ended = not data
        self.incoming += data

    def next_line(self) -> bytes | None:
        """Take the next whole line; at the end of input an unterminated rest counts as one. Empty lines are skipped."""
        while self.incoming and len(self.outgoing) < _BACKLOG_LIMIT:
            line, newline, rest = self.incoming.partition(b"\n")
            if len(line) > LINE_LIMIT:
                self.too_long = True
                return None
            if not newline and not self._ended:
                return None
            self.incoming = rest
            if line.strip():
                return bytes(line)
        return None

    def send(self) -> None:
        """Send what the peer takes now."""
        with suppress(BlockingIOError):
            while self.outgoing:
                del self.outgoing[: self.connection.send(self.outgoing)]
                self.active = time.monotonic()

    def reject(self, answer: bytes) -> None:
        """Answer for the last time; the rest of the input is not read."""
        self.too_long, self._rejected = False, True
        self.incoming.clear()
        self.outgoing += answer
        self.send()


def to_line(message: dict[str, Any]) -> bytes:
    """Return one line; ASCII only, so names that are not UTF-8 come back as they were."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def error_answer(number: object, code: int, message: str, data: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the answer that says no; `data` only where there is some."""
    error: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return {"jsonrpc": "2.0", "id": number, "error": error}


def not_running_error(path: str, error: OSError) -> Exception:
    """Return what to raise when the socket cannot be reached."""
    from survived.errors import DaemonNotRunning

    why = "it is not running" if error.errno in (errno.ENOENT, errno.ECONNREFUSED) else error.strerror or str(error)
    return DaemonNotRunning(f"Cannot reach the daemon on '{path}': {why}.", "Start it: systemctl --user start survived.")


def rebuilt_error(error: dict[str, Any], method: str) -> Exception:
    """Return the exception that the daemon's error object stands for."""
    from survived.errors import BY_CODE, Refused, SurvivedError, UsageError
    from survived.model import Reason

    code, message, data = error.get("code"), str(error.get("message")), error.get("data") or {}
    if code == UNKNOWN_METHOD:
        return UsageError(f"The daemon does not know '{method}'.", "It is of another version: restart it.")
    if code == BAD_PARAMS:
        return UsageError(f"Cannot ask '{method}': {message}.")
    if code != EXPECTED_ERROR:
        return SurvivedError(f"The daemon failed: {message}.", LOOK_AT_LOG)
    exit_code, reason, hint = int(data.get("exit_code", 1)), data.get("reason"), data.get("hint")
    if exit_code == Refused.exit_code and reason in list(Reason):
        return Refused(Reason(reason), message, hint)
    rebuilt = BY_CODE.get(exit_code, SurvivedError)(message, hint)
    rebuilt.exit_code = exit_code  # one that this version does not know, or a refusal with an unknown reason
    return rebuilt


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Return pid and uid of the other end, as the kernel knows them."""
    pid, uid, _ = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


def at_path(path: str, act: Callable[[str], None]) -> None:
    """Bind or connect at `path`, through a descriptor of its directory where it is too long for sun_path."""
    if len(os.fsencode(path)) <= _PATH_LIMIT:
        act(path)
        return
    directory, name = os.path.split(path)
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        act(f"/proc/self/fd/{descriptor}/{name}")
    finally:
        os.close(descriptor)


def path_fields(path: str, key: str = "path") -> dict[str, Any]:
    """Return `{"path": …}` and, for a name that is not UTF-8, `path_b64` with its true bytes."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        raw = path.encode("utf-8", "surrogateescape")
        return {key: raw.decode("utf-8", "replace"), f"{key}_b64": base64.b64encode(raw).decode("ascii")}
    return {key: path}


def path_of(document: Mapping[str, Any], key: str = "path") -> str:
    """Return the path that `path_fields` wrote; KeyError or ValueError if there is none."""
    if f"{key}_b64" in document:
        return os.fsdecode(base64.b64decode(document[f"{key}_b64"], validate=True))
    return str(document[key])
