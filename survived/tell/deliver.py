"""
Sending notices: a short-lived child that uses Apprise, and the daemon's hand on it.

    python -m survived.tell.deliver < batch.json

The URLs are secrets. They travel by standard input alone: never by argv, the environment or a file with a name, and no
message carries more of them than the schema. The daemon itself never imports Apprise and never waits for the child.
Delivery is at least once: if a server has taken a notice but does not say so in time, it is sent again later.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from survived.store.outbox import Result
from survived.tell.failures import describe, explain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextvars import ContextVar

    from survived.store.outbox import Pending

    _Send = Callable[[Mapping[str, Any]], tuple[str, bool] | None]  # a notice in; why it was not sent, and whether others would be

_KEPT_ENV = {
    "PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV",
    "PYTHONDONTWRITEBYTECODE", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY",
}  # fmt: skip
_LONGEST_SOCKET_WAIT = 20.0
_NICE = 10
_CLOSEST_SECONDS = 1.0  # between two messages to one service; Apprise's own 5.5 s are for bursts of hundreds


def destination_key(url: str) -> str:
    """Return what the outbox knows a URL by: 16 hex digits that do not give it away."""
    import hashlib  # brings OpenSSL along, which a daemon without destinations need not carry

    return hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:16]


class Delivery:
    """
    One batch on its way. `start` it, register `fileno()` for reading, call `on_readable` until `done`, then `close`.

    No call blocks, and none raises because of the child: whatever goes wrong with it becomes failed results.
    `now` may be any clock, the same one in each call.
    """

    def __init__(self, timeout: float = 60.0, environ: Mapping[str, str] | None = None) -> None:
        self._timeout, self._environ = timeout, os.environ if environ is None else environ
        self._process: subprocess.Popen[bytes] | None = None
        self._output = -1
        self._buffer = b""
        self._waiting: dict[tuple[int, str], str] = {}
        self._results: list[Result] = []
        self._deadline, self._why_ended = 0.0, "the sender ended early"
        self.done = False

    def start(self, batch: Sequence[Pending], urls: Mapping[str, str], now: float) -> None:
        """
        Start the child on `batch`; `urls` are all destinations by key, in the order of the configuration.

        OSError only where not even a pipe can be made.
        """
        self._deadline = now + self._timeout
        names = {key: describe(url, position) for position, (key, url) in enumerate(urls.items(), 1)}
        for pending in batch:
            for key in pending.destinations:
                if key in names:
                    self._waiting[pending.id, key] = names[key]
                else:
                    self._results.append(Result(pending.id, key, ok=False, error="no longer configured", permanent=True))
        self._output, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            os.set_blocking(write_end, True)
            request = _memory_file(_request(batch, urls, self._timeout))
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "survived.tell.deliver"],
                    stdin=request, stdout=write_end, stderr=subprocess.DEVNULL,
                    cwd="/", env=_reduced(self._environ), start_new_session=True,
                )  # fmt: skip
            finally:
                os.close(request)
        except OSError as error:  # EAGAIN, ENOMEM: the pipe's other end closes below, so the loop comes to `on_readable`
            self._why_ended = f"the sender cannot be started: {error.strerror}"
        finally:
            os.close(write_end)

    def fileno(self) -> int:
        """Return the descriptor to wait on; it stays open until `close`."""
        return self._output

    def on_readable(self) -> list[Result]:
        """Return what is known since the last call. At the end of output all that is still open counts as failed."""
        self._read()
        results, self._results = self._results, []
        return results

    def expired(self, now: float) -> bool:
        """Kill the child if its time is up, and tell so; then `on_readable` has the last results."""
        if self.done or now < self._deadline:
            return False
        self._read()  # what the child has reported is true, however late it is
        self._end(f"no answer within {self._timeout:g} s")
        return True

    def close(self) -> None:
        """Kill the child if it still runs; what it has not reported stays in the outbox."""
        self._waiting.clear()
        self._end("")
        if self._output >= 0:
            os.close(self._output)
            self._output = -1

    def _read(self) -> None:
        while not self.done:
            try:
                data = os.read(self._output, 65536)
            except BlockingIOError:
                return
            if not data:
                self._end(self._why_ended)
                return
            *lines, self._buffer = (self._buffer + data).split(b"\n")
            for line in lines:
                self._take(line)

    def _take(self, line: bytes) -> None:
        with suppress(ValueError, KeyError, TypeError):  # not a line of ours: it stays open and fails at the end
            told = json.loads(line)
            result = Result(told["notice"], told["destination"], bool(told["ok"]), str(told["error"]), bool(told["permanent"]))
            if self._waiting.pop((result.notice, result.destination), None) is not None:
                self._results.append(result)

    def _end(self, why: str) -> None:
        """Make sure the child is gone and fail what it has not reported."""
        self.done = True
        if self._process is not None:
            # It leads a session of its own, and has nothing left to do even where it is not past its time.
            with suppress(ProcessLookupError, PermissionError):
                if self._process.poll() is None:
                    os.killpg(self._process.pid, 9)
            with suppress(subprocess.TimeoutExpired):  # in an uninterruptible sleep; it is reaped when it wakes up
                self._process.wait(1.0)
        self._results += [Result(notice, key, ok=False, error=f"{name}: {why}") for (notice, key), name in self._waiting.items()]
        self._waiting.clear()


def _request(batch: Sequence[Pending], urls: Mapping[str, str], timeout: float) -> bytes:
    notices = [
        {"id": p.id, "destinations": p.destinations, "title": p.notice.title, "body": p.notice.body, "level": p.notice.level}
        for p in batch
    ]
    return json.dumps({"urls": list(urls.values()), "notices": notices, "timeout": timeout}).encode()


def _memory_file(content: bytes) -> int:
    """Return a descriptor of `content`, at its start: unlike a pipe it takes any length at once, unlike a file no disk."""
    descriptor = os.memfd_create("notices")
    try:
        os.write(descriptor, content)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _reduced(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what the child needs of the environment; above all not SURVIVED_NOTIFY__URLS, and no NOTIFY_SOCKET."""
    kept = {name: value for name, value in environ.items() if name.upper() in _KEPT_ENV or name.startswith("LC_")}
    house = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if os.path.basename(house) not in ("site-packages", "dist-packages"):  # runs from a source tree
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, (house, kept.get("PYTHONPATH"))))
    return kept


# ---- the child ------------------------------------------------------------------------------------------------------


def main() -> None:
    """Send one batch from standard input; report each (notice, destination) as one line of JSON, as soon as it is known."""
    import signal
    import socket
    import threading

    request = json.load(sys.stdin.buffer)
    timeout = float(request["timeout"])
    signal.alarm(int(timeout) + 5)  # for the case that the parent dies before it can kill us
    socket.setdefaulttimeout(min(_LONGEST_SOCKET_WAIT, timeout / 2))
    with suppress(OSError):
        os.nice(_NICE)
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a plugin prints is no answer

    def report(notice: int, key: str, error: str | None, permanent: bool = False) -> None:
        told = {"notice": notice, "destination": key, "ok": error is None, "error": error or "", "permanent": permanent}
        os.write(answers, json.dumps(told).encode() + b"\n")  # below PIPE_BUF, so lines of threads do not mix

    said = _listen()
    threads = []
    for position, url in enumerate(request["urls"], 1):
        key, name = destination_key(url), describe(url, position)
        notices = [notice for notice in request["notices"] if key in notice["destinations"]]
        if not notices:
            continue
        try:
            send = _sender(url, said)
        except Exception as error:  # noqa: BLE001  its text may hold the URL: only its kind is told
            for notice in notices:
                report(notice["id"], key, f"{name}: Apprise failed ({type(error).__name__})")
            continue
        if send is None:
            for notice in notices:
                report(notice["id"], key, f"{name}: not a usable Apprise URL", permanent=True)
            continue
        # A thread for each destination: one that hangs keeps nobody else from getting anything.
        threads.append(threading.Thread(target=_send_all, args=(send, notices, key, name, report), daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join()
    os._exit(0)  # past atexit hooks of libraries, which may wait for connections


def _send_all(
    send: _Send,
    notices: Sequence[Mapping[str, Any]],
    key: str,
    name: str,
    report: Callable[[int, str, str | None], None],
) -> None:
    """Send all notices of one destination in order; after a failure that concerns all of them the rest is not tried."""
    failure: tuple[str, bool] | None = None
    for notice in notices:
        if failure is None or not failure[1]:
            failure = send(notice)
        report(notice["id"], key, None if failure is None else f"{name}: {failure[0]}")


def _listen() -> ContextVar[list[str] | None]:
    """Return a variable; a list put into it collects what Apprise says in that thread."""
    import contextvars
    import logging

    said: ContextVar[list[str] | None] = contextvars.ContextVar("said", default=None)

    class Listener(logging.Handler):
        """Keeps warnings and the exceptions behind them; other debug lines hold payloads and headers."""

        def emit(self, record: logging.LogRecord) -> None:
            lines, text = said.get(), record.getMessage()
            if lines is not None and (record.levelno >= logging.WARNING or text.startswith("Socket Exception")):
                lines.append(text)

    apprise_log = logging.getLogger("apprise")
    apprise_log.setLevel(logging.DEBUG)
    apprise_log.propagate = False
    apprise_log.addHandler(Listener())
    return said


def _sender(url: str, said: ContextVar[list[str] | None]) -> _Send | None:
    """Return a function that sends one notice to `url` and returns why it could not; None if Apprise cannot use the URL."""
    import socket

    import apprise

    wanted = {"app_id": "survived", "app_desc": "survived", "app_url": "", "async_mode": False}
    wanted |= {"pgp_autogen": False, "pem_autogen": False}  # they would make keys below $HOME, which is full
    options: dict[str, Any] = {name: value for name, value in wanted.items() if hasattr(apprise.AppriseAsset, name)}
    if hasattr(apprise.AppriseAsset, "_service_timeout"):  # Apprise 2: an executor of its own, which we do not need
        options["service_timeout"] = 0
    # Persistent storage would write below $HOME, which is full; plugins would be the user's code in our process.
    asset = apprise.AppriseAsset(plugin_paths=[], storage_mode="memory", **options)
    service = apprise.Apprise.instantiate(url, asset=asset)
    if service is None:
        return None
    service.request_rate_per_sec = min(service.request_rate_per_sec, _CLOSEST_SECONDS)
    for wait in ("socket_connect_timeout", "socket_read_timeout"):
        if getattr(service, wait, None) == getattr(type(service), wait, None):  # not set by the URL's cto and rto
            # 4 s is short for an answer: one that comes later would make us send the notice twice.
            setattr(service, wait, socket.getdefaulttimeout())
    carrier = apprise.Apprise(asset=asset)
    carrier.add(service)

    def send(notice: Mapping[str, Any]) -> tuple[str, bool] | None:
        lines: list[str] = []
        said.set(lines)
        title, body = (notice[part].encode("utf-8", "backslashreplace").decode() for part in ("title", "body"))
        try:
            if carrier.notify(title=title, body=body, notify_type=notice["level"], body_format="text"):
                return None
        except Exception as error:  # noqa: BLE001  its text may hold the URL: only its kind is told
            return f"Apprise failed ({type(error).__name__})", False
        return explain(lines, url)

    return send


if __name__ == "__main__":
    main()
