"""
Measuring by two processes: threads would take turns at the interpreter's lock.

Both walk; whoever has nothing left asks the other, which gives away half of what is nearest to the root. The second process
is a child that is started once a tree turns out to be large, and ends when we do: it reads the end of its socket.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from survived.observe.past import Notes
from survived.observe.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from survived.observe.todo import Todo

WORTH_ENTRIES = 6000
"""A child takes about 30 ms to start, in which one process measures some 10,000 entries."""
_HEAD = struct.Struct("<cQ")
_HUNGRY, _WORK, _END, _PIECE = b"H", b"W", b"E", b"P"
_HOUSE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_SCRIPT = "import sys; sys.path.append({house!r}); from survived.observe.parallel import main; main()"


class PeerLostError(Exception):
    """The other process ended before its time; what it was given was not counted."""


class Channel:
    """Messages between the two: a kind, a length and as many bytes."""

    def __init__(self, end: socket.socket, idle: Callable[[], None]) -> None:
        self._end, self._idle = end, idle
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)

    def is_readable(self, seconds: float = 0.0) -> bool:
        """Tell whether something can be read within `seconds`."""
        return bool(self._poll.poll(seconds * 1000))

    def send(self, kind: bytes, data: bytes = b"") -> None:
        """Send one message."""
        try:
            self._end.sendall(_HEAD.pack(kind, len(data)) + data)
        except OSError as error:
            raise PeerLostError from error

    def pieces(self) -> Iterator[bytes]:
        """Yield what the other sends of its results."""
        while True:
            kind, data = self.receive()
            if kind != _PIECE:
                raise PeerLostError
            yield data

    def receive(self) -> tuple[bytes, bytes]:
        """Wait for one message; `idle` is called now and then and may raise."""
        kind, length = _HEAD.unpack(self._read(_HEAD.size))
        return kind, self._read(length)

    def _read(self, length: int) -> bytes:
        parts: list[bytes] = []
        while length > 0:
            while not self.is_readable(0.1):
                self._idle()
            try:
                part = self._end.recv(length)
            except OSError as error:
                raise PeerLostError from error
            if not part:
                raise PeerLostError
            parts.append(part)
            length -= len(part)
        return b"".join(parts)


class _Sharing:
    """What both ends do alike."""

    leads = False

    def __init__(self) -> None:
        self.channel: Channel | None = None
        self.is_hungry = False  # the other

    def give(self, todo: Todo) -> None:
        """Hand the other directories."""
        if self.channel is not None:
            data = b"\0".join(b"%d:%s" % (inode, os.fsencode(path)) for path, inode in todo)
            self.is_hungry = False
            self.channel.send(_WORK, data)

    def take(self) -> Todo:
        """Ask the other for directories and wait; none when neither has any left."""
        if self.channel is None:
            return []
        if not (self.leads and self.is_hungry):
            self.channel.send(_HUNGRY)
        while not (self.leads and self.is_hungry):
            kind, data = self.channel.receive()
            if kind == _WORK:
                parts = (item.partition(b":") for item in data.split(b"\0"))
                return [(os.fsdecode(path), int(inode)) for inode, _, path in parts]
            if kind == _END:
                return []
            self.is_hungry = True
        self.channel.send(_END)
        return []

    def hear(self) -> bool:
        """Read what the other has said and tell whether it has nothing to do."""
        while self.channel is not None and self.channel.is_readable():
            self.channel.receive()  # while we have work nothing else comes than that the other has none
            self.is_hungry = True
        return self.is_hungry


class Helper(_Sharing):
    """Our end: starts the child when it is worth it, and brings its counts home. `check` may raise while we wait."""

    leads = True

    def __init__(self, walk: Walk, root_fd: int, check: Callable[[], None]) -> None:
        super().__init__()
        self._walk, self._root_fd, self._check = walk, root_fd, check
        self._child: subprocess.Popen[bytes] | None = None
        self._end: socket.socket | None = None
        self._was_tried = False

    def wants(self, seen: int) -> bool:
        """Tell whether the child has nothing to do; starts it if the walk has become long."""
        if self.channel is not None:
            return self.hear()
        if seen >= WORTH_ENTRIES and not self._was_tried:
            self._was_tried = True
            with suppress(OSError):  # an interpreter that may not be run again: then we are alone
                self._start()
        return False

    def _start(self) -> None:
        walk = self._walk
        self._end, other = socket.socketpair()
        with other:
            words = [
                other.fileno(), self._root_fd, os.fsencode(walk.path).hex(), walk.began.hex(),
                int(walk.shares), int(walk.notes is not None),
                *(os.fsencode(mount).hex() for mount in walk.mounts),
            ]  # fmt: skip
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", "-c", _SCRIPT.format(house=_HOUSE), *map(str, words)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
                pass_fds=(other.fileno(), self._root_fd), env={"LC_ALL": "C.UTF-8"},
            )  # fmt: skip
        self.channel = Channel(self._end, self._check)

    def bring_home(self) -> None:
        """Add what the child counted and wrote, after the walk's end. `PeerLostError` if it did not live to tell."""
        if self.channel is None:
            return
        pieces = self.channel.pieces()
        self._walk.tally.merge(pieces)
        if self._walk.notes is not None:
            self._walk.notes.merge(pieces)

    def close(self) -> None:
        """End the child."""
        self.channel = None
        if self._end is not None:
            self._end.close()
        if self._child is not None:
            self._child.kill()
            self._child.wait()


class _Child(_Sharing):
    def wants(self, seen: int) -> bool:  # noqa: ARG002 - a Peer is told
        return self.hear()


def main() -> None:
    """Be the child: `SOCKET_FD ROOT_FD PATH_IN_HEX BEGAN SHARES NOTES MOUNT_IN_HEX...`."""
    end_fd, root_fd, path, began, shares, notes, *mounts = sys.argv[1:]
    peer = _Child()
    peer.channel = channel = Channel(socket.socket(fileno=int(end_fd)), lambda: None)
    walk = Walk(
        _decoded(path), int(root_fd), {_decoded(mount) for mount in mounts},
        float.fromhex(began), lambda _: None, shares=shares == "1",
    )  # fmt: skip
    walk.peer = peer
    walk.notes = Notes() if notes == "1" else None
    try:
        walk.run()
        for part in (walk.tally, walk.notes):
            for piece in part.pack() if part is not None else ():
                channel.send(_PIECE, piece)
    except PeerLostError:
        sys.exit(1)


def _decoded(word: str) -> str:
    return os.fsdecode(bytes.fromhex(word))
