"""
The dead man's switch: a web address that is asked for every so often, whose owner raises the alarm when that ends.

    python -m survived.tell.heartbeat < url

A daemon that died tells nobody; only somebody else can notice. As with notices a child asks, at the end of a leash, and
the address, which is a secret, travels by a memory file alone.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from survived.errors import cause_of
from survived.tell.delivery import memory_file, reduced

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)
_LONGEST_SECONDS = 20.0
_ANSWER_SECONDS = 10.0
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)


def trouble_url(url: str) -> str:
    """
    Return what to ask for when something is wrong.

    Healthchecks and its likes take `/fail` behind a ping address (a UUID, or a name below `/ping/`), Uptime Kuma
    `status=down`. Of anybody else nothing is known, but that the daemon lives.
    """
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    if re.search(r"\bstatus=up\b", parts.query):
        return urlunsplit(parts._replace(query=re.sub(r"\bstatus=up\b", "status=down", parts.query)))
    if (parts.hostname or "").endswith("hc-ping.com") or "/ping/" in path or _UUID.fullmatch(path.rpartition("/")[2]):
        return urlunsplit(parts._replace(path=f"{path}/fail"))
    return url


class Heartbeat:
    """Asks on a period, and at once when what there is to say changes. No call blocks; a failure is logged once."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._child: subprocess.Popen[bytes] | None = None
        self._output = -1
        self._at = self._deadline = 0.0
        self._was_well: bool | None = None
        self._why = ""

    def tick(self, url: str | None, every: float, now: float, *, is_well: bool) -> None:
        """Start a request that is due, and see what became of the one that runs; `now` is of one monotonic clock."""
        if self._child is not None:
            self._watch(self._child, now)
        elif url is not None and (now >= self._at or is_well is not self._was_well):
            self._at, self._was_well = now + every, is_well
            self._start(url if is_well else trouble_url(url), now)

    def wait(self, url: str | None, now: float) -> float:
        """Return in how many seconds `tick` has something to do."""
        if self._child is not None:
            return 0.5
        # A daemon that only looks never asks, and must not be woken for it.
        return float("inf") if url is None or self._was_well is None else max(0.0, self._at - now)

    def _start(self, url: str, now: float) -> None:
        try:
            request, self._output = memory_file(url.encode()), memory_file(b"")
            try:
                self._child = subprocess.Popen(
                    [sys.executable, "-P", "-m", "survived.tell.heartbeat"],
                    stdin=request, stdout=self._output, stderr=subprocess.DEVNULL,
                    cwd="/", env=reduced(self._environ), start_new_session=True,
                )  # fmt: skip
            finally:
                os.close(request)
        except OSError as error:
            self._note(f"it cannot be started: {cause_of(error)}")
            self._forget()
        self._deadline = now + _LONGEST_SECONDS

    def _watch(self, child: subprocess.Popen[bytes], now: float) -> None:
        code = child.poll()
        if code is None and now >= self._deadline:
            child.kill()  # its own alarm comes first; one that hangs in the kernel dies when it can
        if code is not None:
            why = os.pread(self._output, 200, 0).decode(errors="replace").strip()
            self._note("" if code == 0 else why or "no answer")
            self._forget()

    def _note(self, why: str) -> None:
        if why and why != self._why:
            log.warning("The heartbeat could not be sent: %s. It is tried again.", why)
        elif self._why and not why:
            log.info("The heartbeat is sent again.")
        self._why = why

    def _forget(self) -> None:
        self._child = None
        if self._output >= 0:
            os.close(self._output)
            self._output = -1

    def close(self) -> None:
        """End a request that runs."""
        if self._child is not None:
            self._child.kill()
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(1.0)
        self._forget()


def main() -> None:
    """Ask for the address on standard input; on failure print why, without the address, and end with code 1."""
    import signal
    import socket
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    signal.alarm(int(_LONGEST_SECONDS))
    url = sys.stdin.buffer.read().decode()
    why = ""
    try:
        with urlopen(Request(url, headers={"User-Agent": "survived"}), timeout=_ANSWER_SECONDS) as answer:  # noqa: S310  http(s), as checked
            answer.read(1000)
    except HTTPError as error:
        why = f"HTTP {error.code}"
    except URLError as error:
        reason = error.reason
        if isinstance(reason, socket.gaierror):
            why = "host name not found"
        elif isinstance(reason, TimeoutError):
            why = "timed out"
        else:
            why = (reason.strerror or type(reason).__name__).lower() if isinstance(reason, OSError) else "it is no web address"
    except TimeoutError:
        why = "timed out"
    except (OSError, HTTPException, ValueError) as error:
        why = f"connection failed ({type(error).__name__})"
    print(why, flush=True)
    os._exit(1 if why else 0)


if __name__ == "__main__":
    main()
