"""
A first pass, and a removal, by two processes: threads would take turns at the interpreter's lock, and most is system calls.

To copy, both walk the whole tree and make every directory; each copies the files whose inode falls to it, so that all links
of one inode are one process's work and nothing has to be agreed upon. To remove, each takes every other branch. The second
process is a child that dies with us.
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
from survived.errors import Refused, SurvivedError
from survived.model import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from survived.act.passes import Pass

WORTH_FILES = 4000
"""A child takes about 60 ms to start, in which one process copies some 1,000 files."""
_REPORT_ENTRIES = 500
_ENOUGH_BRANCHES, _MOST_BRANCHES, _DEEPEST = 32, 1024, 6


def first_pass(copy: TreeCopy, source: str, source_fd: int, copy_fd: int, tick: Callable[[int, int], None]) -> Pass:
    """Run the first pass of `copy` with a child's help; raises what either of them meets."""
    copy.prepare_root()
    child = _start(["copy", str(source_fd), str(copy_fd), os.fsencode(source).hex()], (source_fd, copy_fd))
    heard: dict[str, Any] = {}
    listener = threading.Thread(target=_listen, args=(child, tick, heard), name="survived-pair", daemon=True)
    listener.start()
    try:
        own = copy.run_share(0, 2)
        while listener.is_alive():
            listener.join(0.1)
            tick(0, 0)  # raises if we are to stop
    finally:
        child.kill()
        child.wait()
        listener.join()
        if child.stdout is not None:
            child.stdout.close()
    if "error" in heard:
        raise _rebuilt(heard["error"])
    if "signatures" not in heard:
        raise SurvivedError(f"Cannot move '{source}': the second copying process ended early. Nothing was changed.")
    return copy.complete(own, heard["signatures"])


def remove(parent_fd: int, name: str, tick: Callable[[int], None]) -> None:
    """Remove a large tree as `fs.remove_tree` does, which ends what the two leave."""
    with fs.opened(name, dir_fd=parent_fd) as top_fd:
        branches = _branches(top_fd)[:_MOST_BRANCHES]
        child = _start(["remove", str(top_fd), *(os.fsencode(branch).hex() for branch in branches[1::2])], (top_fd,))
        try:
            for branch in branches[::2]:
                _remove_branch(top_fd, branch, tick)
            while child.poll() is None:
                tick(0)
                time.sleep(0.005)
        finally:
            child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()
    fs.remove_tree(parent_fd, name, tick)


def _start(words: list[str], fds: tuple[int, ...]) -> subprocess.Popen[bytes]:
    house = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "survived.act.pair", *words],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, pass_fds=fds, cwd="/",
        env={"PYTHONPATH": house, "PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8"},
    )  # fmt: skip


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
                        below = [f"{branch}/{entry.name}" for entry in entries if entry.is_dir(follow_symlinks=False)]
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


def main() -> None:
    """Be the child: `copy SOURCE_FD COPY_FD SOURCE_IN_HEX`, or `remove TOP_FD BRANCH_IN_HEX...`."""
    fs.die_with_parent()
    if sys.argv[1] == "remove":
        for branch in sys.argv[3:]:
            _remove_branch(int(sys.argv[2]), os.fsdecode(bytes.fromhex(branch)), lambda _: None)
        return
    source_fd, copy_fd, source = int(sys.argv[2]), int(sys.argv[3]), os.fsdecode(bytes.fromhex(sys.argv[4]))
    done = {"bytes": 0, "entries": 0}

    def say(said: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()

    def tick(size: int, entries: int) -> None:
        done["bytes"] += size
        done["entries"] += entries
        if done["entries"] >= _REPORT_ENTRIES or done["bytes"] > 1 << 26:
            say(done)
            done.update(bytes=0, entries=0)

    try:
        found = TreeCopy(source_fd, copy_fd, source, tick).run_share(1, 2)
    except Refused as error:
        say({"error": {"reason": error.reason.value, "message": error.message}})
    except OSError as error:
        say({"error": {"errno": error.errno or 5}})
    else:
        raw = found.signatures.tobytes()
        say({"signatures": len(raw)})
        sys.stdout.buffer.write(raw)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
