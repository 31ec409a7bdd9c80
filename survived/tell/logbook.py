"""
Where the log goes: to journald with its fields, to a terminal for a person, into a pipe or file as plain lines.

Nothing here raises or waits: a full, closed or forgotten stderr costs lines of the log, which are counted and told of later,
and never the daemon.
"""

from __future__ import annotations

import logging
import os
import select
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_STDERR = 2
_COLOURS = {logging.CRITICAL: "31;1", logging.ERROR: "31;1", logging.WARNING: "33;1", logging.INFO: "36"}
_ATOMIC = 4096  # what a pipe that can be written takes in one piece
_PATIENCE_MS = 200


class LineFormatter(logging.Formatter):
    """The message as one line, a traceback as several, without control characters. `prefix` gives what stands before each."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines."""
        return "\n".join(f"{self.prefix(record)}{line}" for line in [one_line(record.getMessage()), *_traceback(self, record)])

    def prefix(self, record: logging.LogRecord) -> str:  # noqa: ARG002
        """Return what stands before each line."""
        return ""


class JournalFormatter(LineFormatter):
    """Lines for the journal's end of stderr: `<N>` in front, no time, which the journal has."""

    def prefix(self, record: logging.LogRecord) -> str:
        """Return the priority."""
        from survived.tell.journald import priority_of

        return f"<{priority_of(record.levelno)}>"


class PlainFormatter(LineFormatter):
    """Lines for a pipe or a file: day and time, and the level where it matters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines."""
        level = f"{record.levelname.lower()}: " if record.levelno != logging.INFO else ""
        return f"{self.formatTime(record, '%Y-%m-%d %H:%M:%S')} {level}{super().format(record)}"


class ConsoleFormatter(LineFormatter):
    """Lines for a person at a terminal: the time, the level in a column of its own, and colour unless that is not wanted."""

    def __init__(self, *, colours: bool) -> None:
        super().__init__()
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines; those of a traceback stand below the message."""
        clock = self.formatTime(record, "%H:%M:%S")
        level = f"{record.levelname.lower():<7}"
        first, *rest = super().format(record).split("\n")
        if self._colours:
            clock, level = f"\x1b[2m{clock}\x1b[0m", f"\x1b[{_COLOURS.get(record.levelno, '2')}m{level}\x1b[0m"
            first = f"\x1b[1m{first}\x1b[0m" if record.levelno >= logging.WARNING else first
        return "\n".join([f"{clock}  {level}  {first}", *(f"{'':19}{line}" for line in rest)])


class StderrHandler(logging.Handler):
    """
    Writes each record to descriptor 2, and forgets it if that fails or whoever reads it has stopped; `lost` counts those.

    sys.stderr would keep what it could not write (ENOSPC, EIO, EPIPE), try again with every record, and make the interpreter
    end with code 120.
    """

    def __init__(self) -> None:
        super().__init__()
        self._fd = _open_unblocking()
        self._untold = 0
        self._patience_ms = _PATIENCE_MS
        self._is_torn = False
        self.lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, with how many were lost before it."""
        try:
            text = self.format(record)
            if self._untold:
                lost = logging.LogRecord(
                    "survived", logging.WARNING, "", 0, "Lost %d lines of this log: nobody read it.", None, None
                )
                lost.args = (self._untold,)
                text = f"{self.format(lost)}\n{text}"
            data = text.encode("utf-8", "backslashreplace") + b"\n"
            if self._write(b"\n" + data if self._is_torn else data):
                self._untold, self._patience_ms, self._is_torn = 0, _PATIENCE_MS, False
            else:
                self._untold, self._patience_ms = self._untold + 1, 0  # waited for once: the loop has more to do
                self.lost += 1
        except OSError:
            pass  # nobody is left to tell
        except Exception:  # noqa: BLE001  a record with wrong arguments: logging's own answer, silent in production
            self.handleError(record)

    def _write(self, data: bytes) -> bool:
        """Write all of it without ever waiting long; False if it was not taken, or not to its end."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        view = memoryview(data)
        while view:
            if not poll.poll(self._patience_ms):
                self._is_torn = self._is_torn or len(view) < len(data)
                return False
            with suppress(BlockingIOError):
                view = view[os.write(self._fd, view[:_ATOMIC]) :]
        return True


def _open_unblocking() -> int:
    """
    Return a descriptor of what stderr leads to that never blocks, where there can be one: of a pipe or a terminal.

    Opened anew, since O_NONBLOCK on the one that we were given would hold for the shell that shares it, too. Whether another
    can be written is asked before each piece of a size that is taken at once.
    """
    with suppress(OSError):
        if stat.S_ISFIFO(os.fstat(_STDERR).st_mode) or os.isatty(_STDERR):
            return os.open(f"/proc/self/fd/{_STDERR}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    return _STDERR


def setup_logging(env: Mapping[str, str], level: int | str = logging.INFO) -> None:
    """Send the log to the journal if that reads stderr, else to stderr in the form that suits it."""
    logging.raiseExceptions = False
    handler: logging.Handler = StderrHandler()
    if _stderr_is_journal(env):
        from survived.tell.journald import JournalHandler

        handler.setFormatter(JournalFormatter())
        handler = JournalHandler(handler)
        handler.setFormatter(LineFormatter())
    elif _is_terminal():
        handler.setFormatter(ConsoleFormatter(colours=not env.get("NO_COLOR") and env.get("TERM") != "dumb"))
    else:
        handler.setFormatter(PlainFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def lost_lines() -> int:
    """Return how many lines of the log nobody took since the process began."""
    return sum(getattr(handler, "lost", 0) for handler in logging.getLogger().handlers)


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


def one_line(text: str) -> str:
    """Return text as one line that a terminal can show; line ends become ` | `."""
    return " | ".join(_visible(line) for line in text.splitlines() if line.strip())


def _visible(text: str) -> str:
    """Return `text` without control characters: file names can hold escape sequences for the reader's terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c == "\t" else c.encode("unicode_escape").decode() for c in text)
