"""The log: to journald with its fields, to a terminal, into a pipe; and a reader that stops reading stops nobody."""

from __future__ import annotations

import array
import fcntl
import logging
import os
import re
import socket
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from survived import events
from survived.events import Event, about
from survived.tell import logbook
from survived.tell.journald import JournalHandler, pack, priority_of

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import logging, os, sys, time
from survived.events import Event, about
from survived.tell import journald, logbook
journald.JournalHandler.__init__.__defaults__ = (os.environ.get("TEST_JOURNAL", "/nonexistent/socket"),)
logbook.setup_logging(os.environ, logging.DEBUG)
log = logging.getLogger("x")
"""


def _record(
    level: int, message: str, *args: object, exc: bool = False, extra: dict[str, object] | None = None
) -> logging.LogRecord:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        info: Any = sys.exc_info() if exc else None
    record = logging.LogRecord("x", level, __file__, 1, message, args, info)
    record.__dict__.update(extra or {})
    return record


# ---- lines ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3), (logging.CRITICAL, 2), (35, 4)],
)
def test_journal_lines_carry_their_priority(level: int, priority: int) -> None:
    """The level of Python becomes the priority of syslog, and there is nothing else in front."""
    assert priority_of(level) == priority
    assert logbook.JournalFormatter().format(_record(level, "a %s", "b")) == f"<{priority}>a b"


def test_a_message_is_one_line_and_shows_control_characters() -> None:
    """Newlines become ` | `; an escape sequence or a broken name in a path cannot act on the terminal."""
    text = logbook.JournalFormatter().format(_record(logging.INFO, "Moved '%s'\n\nto\t'b'", "\x1b[31mred\udcff\u202e"))
    assert text == "<6>Moved '\\x1b[31mred\\udcff\\u202e' | to 'b'"


def test_every_line_of_a_traceback_has_the_priority() -> None:
    """A traceback keeps its lines, and the journal files each under error."""
    lines = logbook.JournalFormatter().format(_record(logging.ERROR, "broken", exc=True)).splitlines()
    assert lines[0] == "<3>broken"
    assert lines[1] == "<3>Traceback (most recent call last):"
    assert lines[-1] == "<3>second"
    assert all(line.startswith("<3>") for line in lines)


def test_on_a_terminal_the_messages_stand_in_a_column() -> None:
    """Time and level have columns of their own, and a traceback stands below its message."""
    form = logbook.ConsoleFormatter(colours=False)
    texts = [form.format(_record(level, "here")) for level in (logging.INFO, logging.WARNING, logging.ERROR)]

    assert [text.index("here") for text in texts] == [19, 19, 19]
    assert [text[10:19].strip() for text in texts] == ["info", "warning", "error"]
    assert all(line.startswith(" " * 19) for line in form.format(_record(logging.ERROR, "here", exc=True)).splitlines()[1:])


# ---- stderr --------------------------------------------------------------------------------------------------------


def _child(code: str, stderr: Any, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "JOURNAL_STREAM"} | (env or {})
    return subprocess.run(
        [sys.executable, "-c", CHILD + code],
        stdout=subprocess.PIPE, stderr=stderr, env=environment, text=True, check=False, timeout=30,
    )  # fmt: skip


def test_journal_form_only_where_the_journal_reads(tmp_path: Path) -> None:
    """JOURNAL_STREAM counts if it names the very stderr; without journald's socket its end of stderr is written to."""
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
    assert ("\x1b[33;1mwarning\x1b[0m  \x1b[1mhot" in text) is coloured
    assert ("\x1b" in text) is coloured
    assert re.match(r"(\x1b\[2m)?\d\d:\d\d:\d\d", text)


def test_a_reader_that_stops_costs_lines_and_no_time() -> None:
    """A full pipe is waited for once; what was lost is counted and told of when somebody reads again, and no line is torn."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    code = """
began = time.monotonic()
for n in range(2000): log.info('%d %s', n, 'x' * 90)
print(time.monotonic() - began, logbook.lost_lines(), flush=True)
sys.stdin.readline()
log.info('again')
print('alive', flush=True)
"""
    command = [sys.executable, "-c", CHILD + code]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=writing, text=True)
    os.close(writing)
    assert child.stdin is not None
    assert child.stdout is not None
    seconds, lost = child.stdout.readline().split()
    before = os.read(reading, 1 << 16).decode()
    child.stdin.write("\n")
    child.stdin.flush()
    assert child.stdout.readline() == "alive\n"
    after = os.read(reading, 1 << 16).decode()
    os.close(reading)
    child.communicate(timeout=10)

    assert child.returncode == 0
    assert float(seconds) < 5
    assert int(lost) > 1900
    assert len(before.splitlines()) + int(lost) in (2000, 2001)  # one may have been cut in the middle
    first, second = after.strip().splitlines()
    assert first.endswith(f"warning: Lost {lost} lines of this log: nobody read it.")
    assert second.endswith(" again")


def test_a_terminal_that_is_stopped_stops_nobody() -> None:
    """Ctrl-S, or a terminal that nobody reads any more, does not hold the daemon."""
    ours, theirs = os.openpty()
    try:
        termios.tcflow(theirs, termios.TCOOFF)
        began = time.monotonic()
        done = _child("\nfor n in range(500): log.info('x' * 300)\nprint(logbook.lost_lines())", theirs)
        seconds = time.monotonic() - began
        termios.tcflow(theirs, termios.TCOON)
    finally:
        os.close(ours)
        os.close(theirs)

    assert (done.returncode, int(done.stdout) > 0) == (0, True)
    assert seconds < 15


def test_the_descriptor_that_others_share_stays_as_it_was() -> None:
    """Whoever started us finds the pipe blocking as before: O_NONBLOCK is on a description of our own."""
    reading, writing = os.pipe()
    try:
        _child("log.info('x')", writing)
        assert os.get_blocking(writing)
        assert os.read(reading, 100).endswith(b" x\n")
    finally:
        os.close(reading)
        os.close(writing)


# ---- journald ------------------------------------------------------------------------------------------------------


class Journald:
    """The receiving end of journald's protocol."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(5)
        self.socket.bind(self.path)

    def receive(self) -> dict[str, str]:
        """Return the next message's fields, read as the protocol says."""
        data, ancillary, _, _ = self.socket.recvmsg(1 << 20, socket.CMSG_SPACE(4))
        for _, _, raw in ancillary:
            (fd,) = array.array("i", raw)
            assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == 0b1111  # journald takes no file that can still change
            os.lseek(fd, 0, os.SEEK_SET)
            with open(fd, "rb") as file:
                data = file.read()
        fields = {}
        while data:
            head, _, data = data.partition(b"\n")
            name, equals, value = head.partition(b"=")
            if not equals:
                (size,) = struct.unpack("<Q", data[:8])
                value, data = data[8 : 8 + size], data[9 + size :]
            fields[name.decode()] = value.decode()
        return fields


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    """Yield a socket of journald's protocol."""
    receiver = Journald(tmp_path / "socket")
    yield receiver
    receiver.socket.close()


@pytest.fixture
def handler(journald: Journald) -> Iterator[JournalHandler]:
    """Yield a handler that sends there."""
    made = JournalHandler(logging.NullHandler(), journald.path)
    made.setFormatter(logbook.LineFormatter())
    yield made
    made.close()


def test_a_message_arrives_with_what_it_is_about(journald: Journald, handler: JournalHandler) -> None:
    """Message, priority, id and our fields; a field that is empty is not there."""
    extra = about(Event.MOVE_FAILED, cache="pip", path="/home/al\nice/\udcff", error="no room", mount=None)
    handler.emit(_record(logging.WARNING, "Cannot move '%s'", "x", extra=extra))
    fields = journald.receive()

    assert fields["MESSAGE"] == "Cannot move 'x'"
    assert fields["PRIORITY"] == "4"
    assert fields["MESSAGE_ID"] == Event.MOVE_FAILED.value
    assert fields["SURVIVED_CACHE"] == "pip"
    assert fields["SURVIVED_PATH"] == "/home/al\nice/\\udcff"
    assert fields["SURVIVED_ERROR"] == "no room"
    assert fields["SYSLOG_IDENTIFIER"] == "survived"
    assert "SURVIVED_MOUNT" not in fields


def test_a_message_larger_than_a_datagram_goes_through_memory(journald: Journald, handler: JournalHandler) -> None:
    """What the socket refuses for its size is passed as a sealed file, whole."""
    handler.emit(_record(logging.INFO, "x" * 900_000))

    assert journald.receive()["MESSAGE"] == "x" * 900_000


def test_a_traceback_is_part_of_the_message(journald: Journald, handler: JournalHandler) -> None:
    """journald takes several lines as one message."""
    handler.emit(_record(logging.ERROR, "broken", exc=True))

    assert journald.receive()["MESSAGE"].splitlines()[:2] == ["broken", "Traceback (most recent call last):"]


def test_a_journald_that_hangs_costs_messages_and_no_time(journald: Journald, handler: JournalHandler) -> None:
    """It is waited for once, and what it did not take is told of when it takes messages again."""
    began = time.monotonic()
    for number in range(2000):
        handler.emit(_record(logging.INFO, "%d", number))
    assert time.monotonic() - began < 5
    taken = 2000 - handler.lost
    assert 0 < taken < 2000
    assert [journald.receive()["MESSAGE"] for _ in range(taken)] == [str(number) for number in range(taken)]
    handler.emit(_record(logging.INFO, "again"))
    told, again = journald.receive(), journald.receive()

    assert told["MESSAGE"] == f"Lost {handler.lost} lines of this log: journald did not take them."
    assert told["MESSAGE_ID"] == Event.LOG_LOST.value
    assert again["MESSAGE"] == "again"


def test_a_process_whose_stderr_is_the_journal_speaks_its_protocol(journald: Journald, tmp_path: Path) -> None:
    """The whole way: JOURNAL_STREAM, socket, fields; nothing goes to stderr."""
    with open(tmp_path / "stream", "wb") as file:
        found = os.fstat(file.fileno())
        env = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}", "TEST_JOURNAL": journald.path}
        _child("log.info('hello', extra=about(Event.STARTED, version='1'))", file, env)

    fields = journald.receive()
    assert (fields["MESSAGE"], fields["SURVIVED_VERSION"], fields["CODE_FILE"]) == ("hello", "1", "<string>")
    assert (tmp_path / "stream").read_bytes() == b""


@pytest.mark.parametrize(
    ("value", "packed"), [("a", b"N=a\n"), ("", b"N=\n"), ("a=b", b"N=a=b\n"), ("a\nb", b"N\n\3\0\0\0\0\0\0\0a\nb\n")]
)
def test_values_are_packed_as_the_protocol_says(value: str, packed: bytes) -> None:
    """With an equals sign, or a length where there is a newline."""
    assert pack([("N", value)]) == packed


# ---- the catalogue -------------------------------------------------------------------------------------------------


def test_every_event_is_explained_by_the_catalogue_with_fields_that_exist() -> None:
    """Each id once, with a subject and a text, and no field that no message has."""
    text = (ROOT / "systemd/survived.catalog").read_text(encoding="utf-8")
    entries = dict(re.findall(r"^-- ([0-9a-f]{32})\n(.*?)(?=^-- |\Z)", text, re.MULTILINE | re.DOTALL))

    assert set(entries) == {event.value for event in Event}
    assert len(re.findall("^-- ", text, re.MULTILINE)) == len(entries)
    for entry in entries.values():
        assert re.match(r"Subject: .+\nDefined-By: survived\nDocumentation: .+\n\n\S", entry)
    known = {f"@SURVIVED_{name.upper()}@" for name in events.FIELDS}
    assert set(re.findall("@[A-Z_]+@", text)) <= known


def test_every_event_is_told_of_somewhere() -> None:
    """No id is only promised."""
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "survived").rglob("*.py"))

    assert [event.name for event in Event if f"Event.{event.name}" not in source] == []


def test_a_field_that_is_not_known_is_a_mistake() -> None:
    """A misspelt field never gets into the journal."""
    with pytest.raises(KeyError, match="cahce"):
        about(Event.MOVE_DONE, cahce="pip")
