"""
The control socket, both ends: JSON-RPC 2.0, one line in, one line out, named parameters only.

The server lives in the daemon's one `selectors` loop: whatever a peer does or does not do, no call here blocks.
The client imports nothing that `survivectl status` would have to wait for; errors are imported when there is one.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import time
from contextlib import suppress
from selectors import EVENT_READ, EVENT_WRITE
from typing import TYPE_CHECKING, Any

from survived.tell.wire import (
    BAD_PARAMS,
    EXPECTED_ERROR,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    LINE_LIMIT,
    LOOK_AT_LOG,
    PARSE_ERROR,
    TOO_MANY_CLIENTS,
    UNKNOWN_METHOD,
    Connection,
    at_path,
    error_answer,
    not_running_error,
    peer_of,
    rebuilt_error,
    to_line,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from selectors import BaseSelector

CLIENTS_LIMIT = 16
IDLE_SECONDS = 30.0


class UnknownMethod(Exception):  # noqa: N818  a word of the protocol, like those in errors.py
    """What `handle` raises for a method it does not have."""


class BadParams(Exception):  # noqa: N818
    """What `handle` raises for parameters it cannot use; the text is shown to the peer."""


class ControlServer:
    """
    The daemon's end. `listen`, `register` with the loop's selector, `expire` once in a while, `close` at the end.

    Everything is registered with `data=callback`, so the loop says `for key, mask in selector.select(): key.data(mask)`.
    `handle(method, params)` returns what JSON can hold, or raises SurvivedError, UnknownMethod or BadParams.
    """

    def __init__(self, socket_path: str, handle: Callable[[str, dict[str, Any]], Any], uid: int) -> None:
        import logging  # the client does without its 10 ms

        self._path, self._handle, self._uid = socket_path, handle, uid
        self._log = logging.getLogger(__name__)
        self._listener: socket.socket | None = None
        self._identity: tuple[int, int] | None = None
        self._selector: BaseSelector | None = None
        self._accepting, self._rests_until = False, 0.0
        self._clients: set[Connection] = set()

    def listen(self) -> None:
        """
        Bind, mode 0600, in a directory that is ours alone and is made if missing.

        SurvivedError if another daemon answers there, if the place is no socket, or if the directory is not ours.
        Two daemons that start in the same instant are kept apart by the daemon's lock file, not by this.
        """
        from survived.errors import SurvivedError

        try:
            self._prepare_directory()
            self._remove_stale()
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            mask = os.umask(0o177)
            try:
                at_path(self._path, listener.bind)
                listener.listen(4 * CLIENTS_LIMIT)
            except OSError:
                listener.close()
                raise
            finally:
                os.umask(mask)
            found = os.lstat(self._path)
        except OSError as error:
            raise SurvivedError(f"Cannot listen on '{self._path}': {error.strerror or error}.") from error
        self._listener, self._identity = listener, (found.st_dev, found.st_ino)

    def fileno(self) -> int:
        """Return the listener's descriptor, -1 before `listen` and after `close`."""
        return self._listener.fileno() if self._listener else -1

    def register(self, selector: BaseSelector) -> None:
        """Join the daemon's loop."""
        self._selector = selector
        self._resume_accepting()

    def expire(self, now: float) -> None:
        """Drop clients without progress for 30 s; `now` is time.monotonic(). Accepts again a second after EMFILE."""
        for client in [c for c in self._clients if now - c.active >= IDLE_SECONDS]:
            self._drop(client)
        if now >= self._rests_until:
            self._resume_accepting()

    def close(self) -> None:
        """Drop everybody and remove the socket file if it is still the one we made."""
        for client in list(self._clients):
            self._drop(client)
        if self._listener is None:
            return
        self._pause_accepting()
        self._listener.close()
        self._listener = None
        try:
            found = os.lstat(self._path)
            if (found.st_dev, found.st_ino) == self._identity:
                os.unlink(self._path)
        except OSError:
            pass  # the runtime directory goes away at logout; nothing is left to remove

    def _prepare_directory(self) -> None:
        from survived.errors import SurvivedError

        directory = os.path.dirname(self._path)
        mask = os.umask(0o077)
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
        finally:
            os.umask(mask)
        found, above = os.lstat(directory), os.stat(os.path.dirname(directory) or "/")
        why = None
        if not stat.S_ISDIR(found.st_mode):
            why = "its directory is a link"
        elif found.st_uid != self._uid:
            why = f"its directory belongs to uid {found.st_uid}"
        elif above.st_uid not in (self._uid, 0, 65534):  # 65534: root seen from inside a user namespace
            why = f"the directory above belongs to uid {above.st_uid}"
        if why:
            raise SurvivedError(
                f"Cannot listen on '{self._path}': {why}. Nothing was changed.", f"Look at it: ls -ld '{directory}'."
            )
        if found.st_mode & 0o022:
            os.chmod(directory, 0o700)

    def _remove_stale(self) -> None:
        from survived.errors import SurvivedError

        try:
            found = os.lstat(self._path)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise SurvivedError(
                f"Cannot listen on '{self._path}': it exists and is no socket. It was left alone.",
                "Move it away and start again.",
            )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                at_path(self._path, probe.connect)
                owner = f" (pid {peer_of(probe)[0]})"
            except (ConnectionRefusedError, FileNotFoundError):
                with suppress(FileNotFoundError):
                    os.unlink(self._path)
                return
            except (TimeoutError, BlockingIOError):  # alive, with a full backlog
                owner = ""
        raise SurvivedError(f"Another survived is running{owner}.", "Ask it: survivectl status.")

    def _resume_accepting(self) -> None:
        if self._selector and self._listener and not self._accepting:
            self._selector.register(self._listener, EVENT_READ, self._accept)
            self._accepting = True

    def _pause_accepting(self) -> None:
        if self._selector and self._listener and self._accepting:
            self._selector.unregister(self._listener)
            self._accepting = False

    def _accept(self, _mask: int) -> None:
        if self._listener is None:
            return
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                # The listener stays readable, so the loop would spin; `expire` tries again.
                self._log.warning("Cannot accept on the control socket: %s; trying again later", error.strerror)
                self._pause_accepting()
                self._rests_until = time.monotonic() + 1.0
            return
        connection.settimeout(0)
        pid, uid = peer_of(connection)
        if uid not in (self._uid, 0):
            self._log.warning("Refused uid %d (pid %d) on the control socket", uid, pid)
            connection.close()
        elif len(self._clients) >= CLIENTS_LIMIT:
            with suppress(OSError):
                connection.send(to_line(error_answer(None, TOO_MANY_CLIENTS, "too many clients")))
            connection.close()
        else:
            client = Connection(connection)
            self._clients.add(client)
            if self._selector:
                self._selector.register(connection, EVENT_READ, lambda mask: self._serve(client, mask))

    def _serve(self, client: Connection, mask: int) -> None:
        if client not in self._clients:  # dropped earlier in this very round of the loop
            return
        try:
            if mask & EVENT_READ and client.reading:
                client.receive()
            if mask & EVENT_WRITE:
                client.send()
            while (line := client.next_line()) is not None:
                answer = self._answer(line)
                if answer is not None:
                    client.outgoing += to_line(answer)
                client.send()
            if client.too_long:
                client.reject(to_line(error_answer(None, PARSE_ERROR, f"a line is longer than {LINE_LIMIT} bytes")))
        except OSError:  # ECONNRESET, EPIPE: it went away without waiting for the answer
            self._drop(client)
            return
        if client.is_finished:
            self._drop(client)
        elif self._selector:
            wanted = (EVENT_READ if client.reading else 0) | (EVENT_WRITE if client.outgoing else 0)
            if self._selector.get_key(client.connection).events != wanted:
                self._selector.modify(client.connection, wanted, lambda m: self._serve(client, m))

    def _drop(self, client: Connection) -> None:
        self._clients.discard(client)
        if self._selector:
            with suppress(KeyError, ValueError):
                self._selector.unregister(client.connection)
        client.connection.close()

    def _answer(self, line: bytes) -> dict[str, Any] | None:
        """Return the answer to one line; None for a notification."""
        from survived.errors import Refused, SurvivedError

        try:
            request = json.loads(line)
        except (ValueError, RecursionError):  # 64 KiB of "[" is a RecursionError
            return error_answer(None, PARSE_ERROR, "not a line of JSON")
        number = request.get("id") if isinstance(request, dict) else None
        if (
            not isinstance(request, dict)  # a list is a batch, which nobody needs
            or request.get("jsonrpc") != "2.0"
            or not isinstance(request.get("method"), str)
            or not isinstance(number, str | int | float | None)
            or isinstance(number, bool)
        ):
            known = number if isinstance(number, str | int | float) else None
            return error_answer(known, INVALID_REQUEST, "not a JSON-RPC 2.0 request")
        method, params = request["method"], request.get("params", {})
        try:
            if not isinstance(params, dict):
                raise BadParams("parameters go by name, as an object")
            answer = {"jsonrpc": "2.0", "id": number, "result": self._handle(method, params)}
            to_line(answer)
        except UnknownMethod:
            answer = error_answer(number, UNKNOWN_METHOD, f"unknown method '{method}'")
        except BadParams as error:
            answer = error_answer(number, BAD_PARAMS, str(error))
        except SurvivedError as error:
            reason = str(error.reason) if isinstance(error, Refused) else None
            data = {"exit_code": error.exit_code, "reason": reason, "hint": error.hint}
            answer = error_answer(number, EXPECTED_ERROR, error.message, data)
        except Exception:  # noqa: BLE001  a bug in one answer must not end the daemon
            self._log.exception("Cannot answer '%s' on the control socket: this is a bug", method)
            answer = error_answer(number, INTERNAL_ERROR, "internal error")
        return answer if "id" in request else None


class ControlClient:
    """The other end. One connection a call, so an idle limit or a restart of the daemon in between does not matter."""

    def __init__(self, socket_path: str, timeout: float = 10.0) -> None:
        self._path, self._timeout = socket_path, timeout

    def call(self, method: str, /, **params: Any) -> Any:
        """
        Return the daemon's result.

        DaemonNotRunning if nobody listens; the daemon's own SurvivedError, Refused with its reason; SurvivedError if
        it does not answer in time.
        """
        request = to_line({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        answer = json.loads(self._exchange(request))
        if "error" in answer:
            raise rebuilt_error(answer["error"], method)
        return answer["result"]

    def _exchange(self, request: bytes) -> bytes:
        """Return the answer's line."""
        deadline = time.monotonic() + self._timeout
        connected = False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            try:
                connection.settimeout(self._timeout)
                while not connected:
                    try:
                        at_path(self._path, connection.connect)
                        connected = True
                    except BlockingIOError:  # EAGAIN: a full backlog, for which the kernel does not wait
                        if time.monotonic() > deadline:
                            raise
                        time.sleep(0.02)
                pid, uid = peer_of(connection)
                if os.getuid() not in (uid, 0) and uid != 0:
                    raise _failure(f"Cannot trust '{self._path}': process {pid} of uid {uid} listens there.")
                with suppress(BrokenPipeError):  # it hung up on us; what it said before is still there to be read
                    connection.sendall(request)
                answer = bytearray()
                while not answer.endswith(b"\n"):
                    connection.settimeout(max(0.001, deadline - time.monotonic()))
                    data = connection.recv(256 * 1024)
                    if not data:
                        raise _failure("The daemon closed the connection without an answer.", LOOK_AT_LOG)
                    answer += data
            except (TimeoutError, BlockingIOError) as error:
                raise _failure(f"The daemon does not answer within {self._timeout:g} s.", LOOK_AT_LOG) from error
            except OSError as error:
                if connected:
                    raise _failure(f"Cannot talk to the daemon: {error.strerror}.", LOOK_AT_LOG) from error
                raise not_running_error(self._path, error) from error
        return bytes(answer)


def _failure(message: str, hint: str | None = None) -> Exception:
    from survived.errors import SurvivedError

    return SurvivedError(message, hint)
