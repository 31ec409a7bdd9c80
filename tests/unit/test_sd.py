"""systemd's side: readiness, status and watchdog, over real datagram sockets."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from survived.tell import sd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
