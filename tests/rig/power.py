"""
Disks that can lose power: every write and flush that a block device receives is recorded, and any instant can be had again.

A loop device lies on a file that is served by FUSE from here (the protocol is spoken directly, so that no library is needed),
with direct I/O and without a write-back cache of FUSE: what the file receives is what a disk would receive from the kernel, in
that order, and a flush (REQ_PREFLUSH, FUA) comes as FSYNC. One process serves all disks of a machine, one request at a time,
so that there is one order over all of them. What only the page cache had is in no image, as after a real cut.

An image after a cut holds every write that the disk had acknowledged before its last flush, and of those since then all, none,
or any pieces of 4 KiB in any order: a disk with a volatile cache may do that. Not simulated: pieces torn below 4 KiB, disks
that lie about flushes, bits that rot, and a cut of one disk only. Nor does the kernel's own write-back come every 5 s as it
likes; the tests call it at chosen instants instead.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import select
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PIECE = 4096
_MOST_WRITE = 128 << 10  # what FUSE sends at once without further agreements
_RECORD = struct.Struct("<BQI")  # disk, offset, bytes; offset _FLUSH is a flush
_FLUSH = (1 << 64) - 1
_IN, _OUT = struct.Struct("<IIQQIIIHH"), struct.Struct("<IiQ")
_GETATTR, _SETATTR, _OPEN, _READ, _WRITE, _STATFS = 3, 4, 14, 15, 16, 17
_RELEASE, _FSYNC, _FLUSHED, _INIT, _DESTROY = 18, 20, 25, 26, 38
_SILENT = (2, 36, 42)  # FORGET, INTERRUPT, BATCH_FORGET: they want no answer
_DIRECT_IO = 1
_SMALL_XFS = {"TEST_DIR": "1", "TEST_DEV": "1", "QA_CHECK_FS": "1"}  # how xfs's own tests get filesystems below 300 MB
_MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"],
    "xfs": ["mkfs.xfs", "-q", "-f", "-K"],
}


class Received(NamedTuple):
    """One thing that a disk received: a write, or a flush, which has no data."""

    disk: int
    offset: int
    data: bytes | None


class Cut(NamedTuple):
    """An instant: after so many things received; `keep` says what becomes of what no flush followed: "none", "all", "some"."""

    position: int
    keep: str
    seed: int = 0


@dataclass(frozen=True)
class Recording:
    """What the disks held when a recording began, and what they received since."""

    bases: tuple[bytes, ...]
    received: tuple[Received, ...]
    ends: tuple[int, ...]  # for each received, the mark just after it

    def position(self, mark: int) -> int:
        """Return how many things had been received at a mark."""
        return bisect_right(self.ends, mark)

    def images(self, cut: Cut) -> list[bytearray]:
        """Return what each disk holds when the power comes back."""
        chance = random.Random(f"{cut}")
        flushed = [0] * len(self.bases)
        for number, (disk, _, data) in enumerate(self.received[: cut.position]):
            if data is None:
                flushed[disk] = number
        images = [bytearray(base) for base in self.bases]
        for number, (disk, offset, data) in enumerate(self.received[: cut.position]):
            if data is None or (number > flushed[disk] and cut.keep == "none"):
                continue
            if number < flushed[disk] or cut.keep == "all":
                images[disk][offset : offset + len(data)] = data
                continue
            for at in range(0, len(data), PIECE):
                if chance.random() < 0.5:
                    piece = data[at : at + PIECE]
                    images[disk][offset + at : offset + at + len(piece)] = piece
        return images

    def cuts(self, most: int, seed: int) -> list[Cut]:
        """
        Return at most `most` instants in order: around every flush, and in between where that leaves some.

        With `most` below their number a sample is taken; the last instant is always among them.
        """
        flushes = [number for number, entry in enumerate(self.received) if entry.data is None]
        # Just before a flush most is at stake; just after it the rest of the world begins to rely on it.
        wanted = [Cut(number, keep, seed) for number in flushes for keep in ("some", "all")]
        wanted += [Cut(number + 1, "none", seed) for number in flushes]
        chance = random.Random(f"{seed} {len(self.received)}")
        end = len(self.received)
        wanted += [Cut(chance.randint(0, end), "some", seed) for _ in range(most - len(wanted))]
        return [*sorted(chance.sample(wanted, most - 1)), Cut(end, "none", seed)]


def why_no_power() -> str | None:
    """Return why this process cannot record what disks receive, or None if it can; beside `disks.why_no_mounts`."""
    return None if os.access("/dev/fuse", os.R_OK | os.W_OK) else "needs /dev/fuse"


class Wires:
    """Recorded disks, mounted at `paths`; after `unplug` the same paths take the images of any instant."""

    def __init__(self, folder: Path, kinds: Sequence[str], megabytes: int) -> None:
        self.paths = [folder / f"disk{number}" for number in range(len(kinds))]
        self._folder, self._kinds = folder, kinds
        self._log = folder / "received"
        self._log.touch()
        self._empty: list[bytes] = []
        for number, kind in enumerate(kinds):
            image = folder / f"empty{number}"
            with open(image, "wb") as file:
                file.truncate(megabytes << 20)
            subprocess.run([*_MAKE[kind], image], check=True, capture_output=True, env={**os.environ, **_SMALL_XFS})
            self._empty.append(image.read_bytes())

    @contextmanager
    def plugged(self) -> Iterator[None]:
        """Serve the images and mount the disks for the duration of a block, with a recording of all they receive."""
        with ExitStack() as stack:
            files, fds = [], []
            for number, path in enumerate(self.paths):
                path.mkdir(exist_ok=True)
                files.append(self._folder / f"wire{number}")
                files[-1].touch()
                fds.append(os.open("/dev/fuse", os.O_RDWR))
                _mount_fuse(files[-1], fds[-1])
                stack.callback(_unmount, files[-1])
            arguments = [f"{fd}:{self._folder}/empty{number}" for number, fd in enumerate(fds)]
            server = subprocess.Popen([sys.executable, "-I", __file__, str(self._log), *arguments], pass_fds=fds)
            stack.callback(server.wait)
            stack.callback(server.kill)
            for fd in fds:
                os.close(fd)
            for file, path, kind in zip(files, self.paths, self._kinds, strict=True):
                loop = _run("losetup", "--find", "--show", file).strip()
                stack.callback(_release, loop)
                _run("mount", "-o", _options(kind), loop, path)
                stack.callback(_unmount, path)
            yield

    def sync(self) -> None:
        """Bring all to the disks, as if a recording began with machines at rest."""
        for path in self.paths:
            _run("sync", "--file-system", path)

    def mark(self) -> int:
        """Return the present position in the record, for `recording`."""
        return self._log.stat().st_size

    def recording(self, begin: int, end: int) -> Recording:
        """Return what was received from one mark to another."""
        with open(self._log, "rb") as log:
            data = log.read(end)
        images = [bytearray(image) for image in self._empty]
        received: list[Received] = []
        ends: list[int] = []
        at = 0
        while at < end:
            disk, offset, size = _RECORD.unpack_from(data, at)
            content = data[at + _RECORD.size : at + _RECORD.size + size]
            at += _RECORD.size + size
            if at > begin:
                received.append(Received(disk, offset, None if offset == _FLUSH else content))
                ends.append(at)
            elif offset != _FLUSH:
                images[disk][offset : offset + size] = content
        return Recording(tuple(map(bytes, images)), tuple(received), tuple(ends))

    @contextmanager
    def after(self, images: Sequence[bytearray]) -> Iterator[None]:
        """Mount these images where the disks were, which has the kernel replay their journals."""
        with ExitStack() as stack:
            for number, (image, path, kind) in enumerate(zip(images, self.paths, self._kinds, strict=True)):
                file = self._folder / f"cut{number}"
                stack.callback(file.unlink)
                file.write_bytes(image)
                _run("mount", "-o", f"loop,{_options(kind)}", file, path)
                stack.callback(_unmount, path)
            yield


@contextmanager
def wired(kinds: Sequence[str], megabytes: int = 24) -> Iterator[Wires]:
    """Yield recorded disks with a filesystem of each of the `kinds` ("ext4", "xfs"), not plugged yet; they live in memory."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="survived-power-", dir=where))
    try:
        yield Wires(folder, kinds, megabytes)
    finally:
        shutil.rmtree(folder)


def _options(kind: str) -> str:
    return "noatime,nouuid" if kind == "xfs" else "noatime"


def _run(*words: str | Path) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def _unmount(path: Path) -> None:
    for _ in range(50):  # somebody who looks into every mount may be there this moment
        if subprocess.run(["umount", path], capture_output=True, check=False).returncode == 0 or not os.path.ismount(path):
            return
        time.sleep(0.02)
    _run("umount", "--lazy", path)


def _release(loop: str) -> None:
    subprocess.run(["losetup", "--detach", loop], capture_output=True, check=False)


def _mount_fuse(file: Path, fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={fd},rootmode={stat.S_IFREG | 0o600:o},user_id=0,group_id=0"
    if libc.mount(b"survived-power", os.fsencode(file), b"fuse", 0, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(file))


class _Server:
    """Serves regular files, one for each mounted /dev/fuse, and writes down what they receive before it acknowledges it."""

    def __init__(self, log: str, disks: dict[int, bytearray]) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND)
        self._disks = disks
        self._numbers = {fd: number for number, fd in enumerate(disks)}

    def run(self) -> None:
        """Serve until all is unmounted."""
        poll = select.poll()
        for fd in self._disks:
            poll.register(fd, select.POLLIN)
        buffer = bytearray(_MOST_WRITE + (8 << 10))
        left = len(self._disks)
        while left:
            for fd, _ in poll.poll():
                try:
                    size = os.readv(fd, [buffer])
                except OSError as error:
                    if error.errno == errno.ENODEV:  # unmounted
                        poll.unregister(fd)
                        left -= 1
                        continue
                    if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                        continue
                    raise
                self._answer(fd, memoryview(buffer)[:size])

    def _answer(self, fd: int, request: memoryview) -> None:
        _, code, unique, *_ = _IN.unpack_from(request)
        if code in _SILENT:
            return
        answer = self._serve(fd, code, request[_IN.size :])
        failed = isinstance(answer, int)
        body = b"" if failed else answer
        try:
            os.writev(fd, [_OUT.pack(_OUT.size + len(body), -answer if failed else 0, unique), body])
        except OSError as error:
            if error.errno != errno.ENOENT:  # interrupted meanwhile
                raise

    def _serve(self, fd: int, code: int, body: memoryview) -> bytes | memoryview | int:
        disk, number = self._disks[fd], self._numbers[fd]
        if code == _WRITE:
            _, offset, size = struct.unpack_from("<QQI", body)
            data = body[40 : 40 + size]
            os.writev(self._log, [_RECORD.pack(number, offset, size), data])
            disk[offset : offset + size] = data
            return struct.pack("<II", size, 0)
        if code == _READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            return bytes(disk[offset : offset + size])
        if code == _FSYNC:
            os.write(self._log, _RECORD.pack(number, _FLUSH, 0))
            return b""
        if code in (_GETATTR, _SETATTR):
            inode = 1, len(disk), len(disk) // 512, 0, 0, 0, 0, 0, 0  # number, size, blocks of 512, times
            attributes = struct.pack("<6Q10I", *inode, stat.S_IFREG | 0o600, 1, 0, 0, 0, PIECE, 0)
            return struct.pack("<QII", 3600, 0, 0) + attributes
        if code == _OPEN:
            return struct.pack("<QIi", 1, _DIRECT_IO, 0)
        if code == _INIT:
            return struct.pack("<4IHHIIHHI28x", 7, 31, _MOST_WRITE, 0, 16, 12, _MOST_WRITE, 1, 0, 0, 0)
        if code == _STATFS:
            return struct.pack("<5Q4I24x", 0, 0, 0, 1, 0, PIECE, 255, PIECE, 0)
        return b"" if code in (_RELEASE, _FLUSHED, _DESTROY) else errno.ENOSYS


if __name__ == "__main__":
    images = {}
    for argument in sys.argv[2:]:
        descriptor, _, image_path = argument.partition(":")
        images[int(descriptor)] = bytearray(Path(image_path).read_bytes())
    _Server(sys.argv[1], images).run()
