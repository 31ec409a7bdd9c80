"""
systemd's side of a good daemon: readiness and status messages, and the watchdog.

Nothing here raises: a daemon outside systemd goes on as if it were heard.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from survived.tell.logbook import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping


def ready(status_text: str) -> None:
    """Say that we are up, or up again after `reloading`."""
    _notify(f"READY=1\nSTATUS={one_line(status_text)}")


def status(text: str) -> None:
    """Set the line that `systemctl status` shows."""
    _notify(f"STATUS={one_line(text)}")


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
