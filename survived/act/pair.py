"""
A first pass, and a removal, by two processes: threads would take turns at the interpreter's lock, and most is system calls.

Both take branches of the tree from one queue until it is empty, so that nothing is walked twice and neither waits long for
the other. A tree with many hard links, or of few folders, is copied by inode instead: both walk all of it, each copies the
files whose inode falls to it, so that all names of one inode are one process's work and nothing has to be agreed upon.
The second process is a child that dies with us.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from array import array
from typing import TYPE_CHECKING, Any

from survived.act import fs
from survived.act.copying import TreeCopy
from survived.act.kin import Kin
from survived.act.looking import walk
from survived.act.pace import Pace, chunk_for
from survived.act.passes import Pass
from survived.act.stillness import Stillness
from survived.errors import Refused, SurvivedError
from survived.model import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WORTH_FILES = 4000
"""A child takes about 60 ms to start, in which one process copies some 1,000 files."""
_REPORT_ENTRIES, _REPORT_SECONDS = 500, 0.3
_ENOUGH_BRANCHES, _MOST_BRANCHES, _DEEPEST = 32, 1024, 6
_LOOKED_INTO, _LOOKED_AT = 16, 32


def first_pass(copy: TreeCopy, source: str, source_fd: int, copy_fd: int, tick: Callable[[int, int], None], rate: int = 0) -> Pass:
    """
    Run the first pass of `copy` with a child's help; raises what either of them meets.

    `tick` is told what the child does, which keeps to `rate` bytes a second by itself (0: no limit).
    """
    branches = _branches(source_fd)[:_MOST_BRANCHES]
    if len(branches) < _ENOUGH_BRANCHES or _has_links(source_fd, branches):
        branches = []
    copy.prepare_root()
    queue = _Queue(branches)
    kin_fd = copy.kin.folder_fd if copy.kin is not None else -1
    words = ["copy", str(source_fd), str(copy_fd), os.fsencode(source).hex(), str(rate), str(kin_fd), *map(str, queue.fds)]
    child = _start(words, tuple(fd for fd in (source_fd, copy_fd, kin_fd, *queue.fds) if fd >= 0))
    heard: dict[str, Any] = {}
    listener = threading.Thread(target=_listen, args=(child, tick, heard), name="survived-pair", daemon=True)
    listener.start()
    try:
        with fs.writing_back(copy_fd) if rate == 0 else contextlib.nullcontext():
            if branches:
                own = copy.run_top(frozenset(branches))
                queue.open()
                for branch in queue.take():
                    copy.run_branch(branch, own)
            else:
                own = copy.run_share(0, 2)
            while listener.is_alive():
                listener.join(0.05)
                tick(0, 0)  # raises if we are to stop
    finally:
        child.kill()
        child.wait()
        listener.join()
        queue.close()
        if child.stdout is not None:
            child.stdout.close()
    if "error" in heard:
        raise _rebuilt(heard["error"])
    if "signatures" not in heard:
        raise SurvivedError(f"Cannot move '{source}': the second copying process ended early. Nothing was changed.")
    own.copied += heard["copied"]
    return copy.complete(own, heard["signatures"])


def remove(parent_fd: int, name: str, tick: Callable[[int], None]) -> None:
    """Remove a large tree as `fs.remove_tree` does, with a child's help."""
    with fs.opened(name, dir_fd=parent_fd) as top_fd, Partner(top_fd) as partner:
        partner.remove(parent_fd, name, tick)


class Partner:
    """A child that looks through an old tree with us and then removes it with us; it is ready while we begin."""

    def __init__(self, top_fd: int) -> None:
        self._top_fd = top_fd
        self._branches = _branches(top_fd)[:_MOST_BRANCHES]
        self._looks, self._removals = _Queue(self._branches), _Queue(self._branches)
        fds = (*self._looks.fds, *self._removals.fds)
        self._child = _start(["finish", str(top_fd), *map(str, fds)], (top_fd, *fds))

    def __enter__(self) -> Partner:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()
        self._looks.close()
        self._removals.close()
        if self._child.stdout is not None:
            self._child.stdout.close()

    def look(self, tick: Callable[[int], None]) -> Stillness:
        """Return what `stillness.look_through` would; `SurvivedError` if the child is lost."""
        found = Stillness()
        self._looks.open()
        found.look(self._top_fd, tick, skip=frozenset(self._branches))
        for branch in self._looks.take():
            _look_branch(self._top_fd, branch, found, tick)
        line = self._child.stdout.readline() if self._child.stdout is not None else b""
        if not line:
            raise SurvivedError("The second process that looked through the old place ended early.")
        said = json.loads(line)
        written = [os.fsdecode(bytes.fromhex(path)) for path in said["written"]]
        found.add(said["latest_ns"], written, is_whole=said["is_whole"])
        return found

    def remove(self, parent_fd: int, name: str, tick: Callable[[int], None]) -> None:
        """Remove the tree, which is called so now, and what the two leave of it."""
        self._looks.shut()
        self._removals.open()
        for branch in self._removals.take():
            _remove_branch(self._top_fd, branch, tick)
        while self._child.poll() is None:
            tick(0)
            time.sleep(0.002)
        fs.remove_tree(parent_fd, name, tick)


def _look_branch(top_fd: int, branch: str, found: Stillness, tick: Callable[[int], None]) -> None:
    try:
        found.look(top_fd, tick, branch)
    except FileNotFoundError:
        found.is_whole = False


def _start(words: list[str], fds: tuple[int, ...]) -> subprocess.Popen[bytes]:
    house = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return subprocess.Popen(
        [sys.executable, "-P", "-S", "-m", "survived.act.pair", *words],  # no site: nothing of others is needed
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, pass_fds=fds, cwd="/", process_group=0,  # Ctrl-C is for us
        env={"PYTHONPATH": house, "PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8"},
    )  # fmt: skip


class _Queue:
    """Branches that several processes share: numbers in a pipe, which the kernel gives out, of names in a file in memory."""

    def __init__(self, branches: list[str]) -> None:
        self._count = len(branches)
        self._read, self._write = os.pipe()
        self._names = os.memfd_create("survived-branches")
        with open(os.dup(self._names), "wb") as file:
            file.write(b"\0".join(map(os.fsencode, branches)))

    @property
    def fds(self) -> tuple[int, int]:
        """What a child needs to take from the queue, too."""
        return self._read, self._names

    def open(self) -> None:
        """Give the branches out; they are few enough for a pipe."""
        os.write(self._write, b"".join(number.to_bytes(4, "little") for number in range(self._count)))
        os.close(self._write)
        self._write = -1

    def shut(self) -> None:
        """Give nothing out, if it was not opened: who waits for it goes on."""
        if self._write >= 0:
            os.close(self._write)
            self._write = -1

    def take(self) -> Iterator[str]:
        """Yield branches until none is left."""
        return _take(*self.fds)

    def close(self) -> None:
        for fd in (self._read, self._write, self._names):
            if fd >= 0:
                os.close(fd)


def _take(read: int, names: int) -> Iterator[str]:
    number = os.read(read, 4)  # waits until the queue is open
    branches = os.pread(names, os.fstat(names).st_size, 0).split(b"\0")
    while number:
        yield os.fsdecode(branches[int.from_bytes(number, "little")])
        number = os.read(read, 4)


def _has_links(top_fd: int, branches: list[str]) -> bool:
    """Look into some of the branches for files that have several names."""
    for branch in branches[:: max(1, len(branches) // _LOOKED_INTO)]:
        with contextlib.suppress(OSError):
            fd = fs.open_below(top_fd, branch)
            try:
                for _, seen in zip(range(_LOOKED_AT), walk(fd), strict=False):
                    if seen.name and seen.info is not None and seen.info.st_nlink > 1:
                        return True
            finally:
                os.close(fd)
    return False


def _branches(top_fd: int) -> list[str]:
    """Return directories that hold most of a tree and do not contain each other: enough of them to share."""
    leaves: list[str] = []
    open_ended = [""]
    for _ in range(_DEEPEST):
        deeper: list[str] = []
        for branch in open_ended:
            with contextlib.suppress(OSError):
                fd = fs.open_below(top_fd, branch)
                try:
                    with os.scandir(fd) as entries:
                        below = [os.path.join(branch, entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]
                finally:
                    os.close(fd)
                deeper += below
                if not below and branch:
                    leaves.append(branch)
        open_ended = deeper
        if not open_ended or len(leaves) + len(open_ended) >= _ENOUGH_BRANCHES:
            break
    return [*leaves, *open_ended]


def _remove_branch(top_fd: int, branch: str, tick: Callable[[int], None]) -> None:
    folder, _, name = branch.rpartition("/")
    with contextlib.suppress(OSError):  # a folder that may not be written: whoever comes last makes it writable
        folder_fd = fs.open_below(top_fd, folder)
        try:
            fs.remove_tree(folder_fd, name, tick)
        finally:
            os.close(folder_fd)


def _listen(child: subprocess.Popen[bytes], tick: Callable[[int, int], None], heard: dict[str, Any]) -> None:
    """Read what the child says: lines of progress, then its signatures or its error."""
    stream = child.stdout
    if stream is None:
        return
    for line in stream:
        said = json.loads(line)
        if "entries" in said:
            try:
                tick(said["bytes"], said["entries"])
            except SurvivedError:  # the other thread meets it, too
                continue
        elif "signatures" in said:
            heard["copied"] = said["copied"]
            signatures = array("Q")
            signatures.frombytes(stream.read(said["signatures"]))
            heard["signatures"] = signatures
            return
        else:
            heard.update(said)
            return


def _rebuilt(error: dict[str, Any]) -> Exception:
    if "errno" in error:
        return OSError(error["errno"], os.strerror(error["errno"]))
    return Refused(Reason(error["reason"]), error["message"])


def _finish(top_fd: int, looks: int, look_names: int, removals: int, removal_names: int) -> None:
    found = Stillness()
    for branch in _take(looks, look_names):
        _look_branch(top_fd, branch, found, lambda _: None)
    written = [os.fsencode(path).hex() for path in found.written]
    said = {"latest_ns": found.latest_ns, "is_whole": found.is_whole, "written": written}
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()
    for branch in _take(removals, removal_names):
        _remove_branch(top_fd, branch, lambda _: None)


def main() -> None:
    """Be the child: `copy SOURCE_FD COPY_FD SOURCE_IN_HEX RATE KIN_FD QUEUE_FDS`, or `finish TOP_FD QUEUE_FDS QUEUE_FDS`."""
    fs.die_with_parent()
    if sys.argv[1] == "finish":
        _finish(*map(int, sys.argv[2:]))
        return
    # Opened anew: a descriptor that was handed on has one place in its listing for both, and each would miss what the other gets.
    source_fd, copy_fd = (os.open(".", fs.DIRECTORY, dir_fd=int(word)) for word in sys.argv[2:4])
    source = os.fsdecode(bytes.fromhex(sys.argv[4]))
    rate = int(sys.argv[5])
    pace = Pace(rate, time.sleep) if rate > 0 else None
    done = {"bytes": 0, "entries": 0}
    said_at = time.monotonic()

    def say(said: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()

    def tick(size: int, entries: int) -> None:
        nonlocal said_at
        done["bytes"] += size
        done["entries"] += entries
        if done["entries"] >= _REPORT_ENTRIES or time.monotonic() - said_at > _REPORT_SECONDS:
            say(done)
            said_at = time.monotonic()
            done.update(bytes=0, entries=0)
        if pace is not None:
            pace.spend(size, entries)

    try:
        copy = TreeCopy(source_fd, copy_fd, source, tick)
        copy.content.chunk = chunk_for(rate)
        copy.kin = Kin(int(sys.argv[6]), source_fd, copy_fd)
        read, names = map(int, sys.argv[7:])
        if os.fstat(names).st_size:
            found = Pass()
            for branch in _take(read, names):
                copy.run_branch(branch, found)
        else:
            found = copy.run_share(1, 2)
    except Refused as error:
        say({"error": {"reason": error.reason.value, "message": error.message}})
    except OSError as error:
        say({"error": {"errno": error.errno or 5}})
    else:
        raw = found.signatures.tobytes()
        say({"signatures": len(raw), "copied": found.copied})
        sys.stdout.buffer.write(raw)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
