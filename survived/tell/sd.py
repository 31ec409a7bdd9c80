"""
systemd's side of a good daemon: readiness and status messages, the watchdog, and a log that the journal understands.

Nothing here raises: a daemon outside systemd, or with a full or closed stderr, goes on as if it were heard.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_STDERR = 2
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_COLOURS = {logging.CRITICAL: "31;1", logging.ERROR: "31;1", logging.WARNING: "33;1"}


def ready(status_text: str) -> None:
    """Say that we are up, or up again after `reloading`."""
    _notify(f"READY=1\nSTATUS={_one_line(status_text)}")


def status(text: str) -> None:
    """Set the line that `systemctl status` shows."""
    _notify(f"STATUS={_one_line(text)}")


def reloading() -> None:
    """Say that SIGHUP was taken; `ready` ends it. The time is what Type=notify-reload (systemd 253) wants to see."""
    _notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> None:
    """Say that we are on our way out."""
    _notify("STOPPING=1")


def watchdog() -> None:
    """Say that the loop still turns."""
    _notify("WATCHDOG=1")


def watchdog_interval(env: Mapping[str, str]) -> float | None:
    """Return how often `watchdog` is to be called, in seconds; None if nobody waits for it."""
    try:
        seconds = int(env["WATCHDOG_USEC"]) / 1e6
        meant = int(env.get("WATCHDOG_PID", os.getpid())) == os.getpid()
    except (KeyError, ValueError):
        return None
    return seconds / 2 if meant and seconds > 0 else None


def _notify(message: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # an abstract name: not in the file system, leading NUL
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.settimeout(1.0)  # systemd's queue may be full for a moment, and READY=1 must not get lost
        sender.sendto(message.encode("utf-8", "backslashreplace"), address)


class JournalFormatter(logging.Formatter):
    """Lines for the journal: `<N>` in front, no time, which the journal has. A message is one line, a traceback several."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines, each with its priority."""
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in [_one_line(record.getMessage()), *_traceback(self, record)])


class ConsoleFormatter(logging.Formatter):
    """Lines for a person: the time, the level where it matters, and colour on a terminal."""

    def __init__(self, is_terminal: bool, colours: bool) -> None:
        super().__init__(datefmt="%H:%M:%S" if is_terminal else "%Y-%m-%d %H:%M:%S")
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines."""
        level = f"{record.levelname.lower()}: " if record.levelno != logging.INFO else ""
        if self._colours and (colour := _COLOURS.get(record.levelno)):
            level = f"\x1b[{colour}m{level}\x1b[0m"
        first = f"{self.formatTime(record, self.datefmt)} {level}{_one_line(record.getMessage())}"
        return "\n".join([first, *_traceback(self, record)])


class StderrHandler(logging.Handler):
    """
    Writes each record to descriptor 2 with one write, and forgets it if that fails.

    sys.stderr would keep what it could not write (ENOSPC, EIO, EPIPE), try again with every record, and make the
    interpreter end with code 120.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            os.write(_STDERR, self.format(record).encode("utf-8", "backslashreplace") + b"\n")
        except OSError:
            pass  # nobody is left to tell
        except Exception:  # noqa: BLE001  a record with wrong arguments: logging's own answer, silent in production
            self.handleError(record)


def setup_logging(env: Mapping[str, str], level: int | str = logging.INFO) -> None:
    """Send the log to stderr, in the journal's form if the journal reads it."""
    logging.raiseExceptions = False
    handler = StderrHandler()
    if _stderr_is_journal(env):
        handler.setFormatter(JournalFormatter())
    else:
        is_terminal = _is_terminal()
        handler.setFormatter(ConsoleFormatter(is_terminal, is_terminal and not env.get("NO_COLOR") and env.get("TERM") != "dumb"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def _stderr_is_journal(env: Mapping[str, str]) -> bool:
    """Tell whether descriptor 2 is what systemd connected: a redirected stderr keeps the variable but not the inode."""
    with suppress(OSError, ValueError):
        device, inode = env.get("JOURNAL_STREAM", "").split(":")
        found = os.fstat(_STDERR)
        return (found.st_dev, found.st_ino) == (int(device), int(inode))
    return False


def _is_terminal() -> bool:
    try:
        return os.isatty(_STDERR)
    except OSError:
        return False


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    text = formatter.formatException(record.exc_info) if record.exc_info else ""
    if record.stack_info:
        text += "\n" + record.stack_info
    return [_visible(line) for line in text.splitlines() if line]


def _one_line(text: str) -> str:
    return " | ".join(_visible(line) for line in text.splitlines() if line.strip())


def _visible(text: str) -> str:
    """Return `text` without control characters: file names can hold escape sequences for the reader's terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c == "\t" else c.encode("unicode_escape").decode() for c in text)
