"""systemd's side: real datagram sockets, real descriptors, a child for everything that concerns stderr."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from survived.tell import sd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHILD = """
import logging, os, sys
from survived.tell import sd
sd.setup_logging(os.environ, logging.DEBUG)
log = logging.getLogger("x")
"""


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Be systemd's end of the notify socket, with a path and with an abstract name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(5)
        name = str(tmp_path / "notify") if request.param == "path" else f"@survived-test-{os.getpid()}"
        receiver.bind(name.replace("@", "\0"))
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield receiver


def test_each_state_is_one_datagram(systemd: socket.socket) -> None:
    """The five messages are what systemd understands, and a status stays on one line."""
    sd.ready("/ is 41 % full")
    sd.status("one\ntwo \udcff")
    sd.watchdog()
    sd.reloading()
    sd.stopping()
    got = [systemd.recv(4096) for _ in range(5)]
    assert got[:3] == [b"READY=1\nSTATUS=/ is 41 % full", b"STATUS=one | two \\udcff", b"WATCHDOG=1"]
    assert got[3].startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    assert got[4] == b"STOPPING=1"


@pytest.mark.parametrize("address", ["", "relative", "/nonexistent/notify", "@", "@nobody-listens-here", "/" + "x" * 300])
def test_no_listener_is_no_error(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without systemd, with a wrong address or with nobody there nothing is raised."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    sd.ready("up")
    sd.stopping()


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "me"}, None),
    ],
)
def test_watchdog_interval_is_half_of_what_systemd_waits(env: dict[str, str], expected: float | None) -> None:
    """Half the time, only if it is meant for this process, None for nonsense."""
    assert expected == sd.watchdog_interval(env)


def _record(level: int, message: str, *args: object, exc: bool = False) -> logging.LogRecord:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        info: Any = sys.exc_info() if exc else None
    return logging.LogRecord("x", level, __file__, 1, message, args, info)


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3), (logging.CRITICAL, 2), (35, 4)],
)
def test_journal_lines_carry_their_priority(level: int, priority: int) -> None:
    """The level of Python becomes the priority of syslog, and there is nothing else in front."""
    assert sd.JournalFormatter().format(_record(level, "a %s", "b")) == f"<{priority}>a b"


def test_a_message_is_one_line_and_shows_control_characters() -> None:
    """Newlines become ` | `; an escape sequence or a broken name in a path cannot act on the terminal."""
    text = sd.JournalFormatter().format(_record(logging.INFO, "Moved '%s'\n\nto\t'b'", "\x1b[31mred\udcff\u202e"))
    assert text == "<6>Moved '\\x1b[31mred\\udcff\\u202e' | to 'b'"


def test_every_line_of_a_traceback_has_the_priority() -> None:
    """A traceback keeps its lines, and the journal files each under error."""
    lines = sd.JournalFormatter().format(_record(logging.ERROR, "broken", exc=True)).splitlines()
    assert lines[0] == "<3>broken"
    assert lines[1] == "<3>Traceback (most recent call last):"
    assert lines[-1] == "<3>second"
    assert all(line.startswith("<3>") for line in lines)


def _child(code: str, stderr: Any, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "JOURNAL_STREAM"} | (env or {})
    return subprocess.run(
        [sys.executable, "-c", CHILD + code],
        stdout=subprocess.PIPE, stderr=stderr, env=environment, text=True, check=False, timeout=30,
    )  # fmt: skip


def test_journal_form_only_where_the_journal_reads(tmp_path: Path) -> None:
    """JOURNAL_STREAM counts if it names the very stderr; a redirected stderr gets the form for people."""
    with open(tmp_path / "log", "wb") as file:
        found = os.fstat(file.fileno())
        _child("log.info('to the journal')", file, {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
        _child("log.info('elsewhere')", file, {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"})
        _child("log.warning('odd')", file, {"JOURNAL_STREAM": "nonsense"})
    first, second, third = (tmp_path / "log").read_text().splitlines()
    assert first == "<6>to the journal"
    assert second.endswith(" elsewhere")
    assert third.endswith(" warning: odd")
    assert second.startswith("20")


@pytest.mark.parametrize("stderr", ["full", "closed", "pipe"])
def test_a_stderr_that_fails_kills_nobody(stderr: str) -> None:
    """ENOSPC, EBADF and EPIPE on stderr are survived, also at the end of the process, with exit code 0."""
    code = "\nfor _ in range(1000): log.error('x' * 1000)\nprint('alive')"
    if stderr == "full":
        with open("/dev/full", "wb") as full:
            done = _child(code, full)
    elif stderr == "closed":
        done = _child("\nos.close(2)" + code, None)
    else:
        reading, writing = os.pipe()
        os.close(reading)
        done = _child(code, writing)
        os.close(writing)
    assert (done.stdout, done.returncode) == ("alive\n", 0)


def test_a_log_call_with_wrong_arguments_is_survived() -> None:
    """A bug in a log line costs that line."""
    done = _child("\nlog.error('%d', 'x')\nlog.info('next')", subprocess.PIPE)
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1].endswith(" next")


@pytest.mark.parametrize(
    ("env", "coloured"), [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colour_is_for_terminals_that_want_it(env: dict[str, str], coloured: bool) -> None:
    """On a terminal a warning is coloured unless NO_COLOR or TERM=dumb say no; the time is short there."""
    ours, theirs = os.openpty()
    try:
        _child("log.warning('hot')", theirs, env)
        text = os.read(ours, 1000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert text[2] == ":"
    assert ("\x1b[33;1mwarning: \x1b[0mhot" in text) is coloured
