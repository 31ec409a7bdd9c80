"""
The daemon's hand on sending notices: one batch of letters on its way in a short-lived child, `tell/deliver.py`.

The URLs are secrets. They travel by a memory file alone: never by argv, the environment or a file with a name. The daemon
itself never imports Apprise and never waits for the child. Delivery is at least once: if a server has taken a notice but
does not say so in time, it is sent again later; what it did confirm is not, even if the daemon is killed meanwhile, as the
child leaves receipts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from survived.store.outbox import Result
from survived.tell.failures import describe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from survived.model import Notice

_KEPT_ENV = {
    "PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV",
    "PYTHONDONTWRITEBYTECODE", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY",
}  # fmt: skip
_MAIL = frozenset(
    {"mailto", "mailtos", "mailgun", "sendgrid", "ses", "smtp2go", "sparkpost", "azure", "o365", "resend", "brevo", "postmark"}
)  # schemas of services that show a page; others that can, like Telegram, know few of its tags


def is_mail(url: str) -> bool:
    """Tell whether a destination is a mailbox, which gets a page with a picture instead of plain text."""
    return url.partition(":")[0].strip().lower() in _MAIL


def destination_key(url: str) -> str:
    """Return what the outbox knows a URL by: 16 hex digits that do not give it away."""
    import hashlib  # brings OpenSSL along, which a daemon without destinations need not carry

    return hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Message:
    """
    One notice, perhaps made of several, for one destination. `id` comes back in its `Result`.

    `receipts` are number and time of each notice in it, by which a daemon that was killed meanwhile finds them again.
    """

    id: int
    destination: str
    notice: Notice
    receipts: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """What a mail has beside the notice: words above its parts, a last line, the user's own page, and usage curves."""

    host: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    footer: str = ""
    template: str | None = None
    curves: tuple[Mapping[str, Any], ...] = ()


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

    def start(
        self, batch: Sequence[Message], urls: Mapping[str, str], now: float, *, page: Page | None = None, receipts: int = -1
    ) -> None:
        """
        Start the child on `batch`; `urls` are all destinations by key, in the order of the configuration.

        `receipts` is a descriptor that the child appends to and keeps open for as long as it lives, with its lock.
        OSError only where not even a pipe can be made.
        """
        self._deadline = now + self._timeout
        names = {key: describe(url, position) for position, (key, url) in enumerate(urls.items(), 1)}
        for message in batch:
            key = message.destination
            if key in names:
                self._waiting[message.id, key] = names[key]
            else:
                self._results.append(Result(message.id, key, ok=False, error="no longer configured", permanent=True))
        self._output, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            os.set_blocking(write_end, True)
            request = memory_file(_request(batch, urls, self._timeout, page or Page(), receipts))
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "survived.tell.deliver"],
                    stdin=request, stdout=write_end, stderr=subprocess.DEVNULL,
                    cwd="/", env=reduced(self._environ), start_new_session=True, pass_fds=(receipts,) if receipts >= 0 else (),
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
            number, key, retry = told["id"], told["destination"], float(told["retry_seconds"])
            result = Result(number, key, bool(told["ok"]), str(told["error"]), bool(told["permanent"]), retry)
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


def _request(batch: Sequence[Message], urls: Mapping[str, str], timeout: float, page: Page, receipts: int) -> bytes:
    messages = [
        {
            "id": message.id,
            "destination": message.destination,
            "title": message.notice.title,
            "body": message.notice.body,
            "level": message.notice.level.value,
            "parts": message.notice.parts,
            "receipts": message.receipts,
            "host": page.host,
        }
        for message in batch
    ]
    look = {"labels": dict(page.labels), "footer": page.footer, "template": page.template, "curves": page.curves}
    request = {"urls": list(urls.values()), "messages": messages, "timeout": timeout, "page": look, "receipts": receipts}
    return json.dumps(request).encode()


def memory_file(content: bytes) -> int:
    """Return a descriptor of `content`, at its start: unlike a pipe it takes any length at once, unlike a file no disk."""
    descriptor = os.memfd_create("notices")
    try:
        os.write(descriptor, content)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def reduced(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what the child needs of the environment; above all not SURVIVED_NOTIFY__URLS, and no NOTIFY_SOCKET."""
    kept = {name: value for name, value in environ.items() if name.upper() in _KEPT_ENV or name.startswith("LC_")}
    house = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if os.path.basename(house) not in ("site-packages", "dist-packages"):  # runs from a source tree
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, (house, kept.get("PYTHONPATH"))))
    return kept
