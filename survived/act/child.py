"""
What a child does that shares the work on a large tree: a share of a first pass, or of a last look and a removal.

It says what it did on its standard output, in lines of words; it dies with the process that started it. It loads little: what it
takes to start, its parent works alone.
"""

from __future__ import annotations

import gc
import os
import sys
import time

from survived.act import fs
from survived.act.branches import take
from survived.act.kin import Kin
from survived.act.passes import Pass
from survived.act.sharing import SharedCopy
from survived.act.stillness import Stillness
from survived.errors import Refused

_REPORT_ENTRIES, _REPORT_SECONDS = 500, 0.3


def _say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def share(source: str, cold: int, there: int, here: int, kin_fd: int, queue: int, names: int) -> None:
    """
    Copy a share of a first pass from the open directory `there` to `here`, by a queue of branches or else by inode.

    `cold`: what comes next is read ahead.

    Says `did BYTES ENTRIES` now and then; at the end `found LENGTH` with the sums of its pass, and the signatures of what it
    copied in so many bytes; or what it met, `errno NUMBER` or `refused REASON MESSAGE_IN_HEX`.
    """
    gc.disable()  # nothing here is part of a cycle, and it would look through every inode that has several names
    # Opened anew: a descriptor that was handed on has one place in its listing for all, and each would miss what others get.
    source_fd, copy_fd = (os.open(".", fs.DIRECTORY, dir_fd=fd) for fd in (there, here))
    done_bytes = done_entries = 0
    said_at = time.monotonic()

    def tick(size: int, entries: int) -> None:
        nonlocal said_at, done_bytes, done_entries
        done_bytes += size
        done_entries += entries
        if done_entries >= _REPORT_ENTRIES or time.monotonic() - said_at > _REPORT_SECONDS:
            _say("did", done_bytes, done_entries)
            said_at, done_bytes, done_entries = time.monotonic(), 0, 0

    try:
        copy = SharedCopy(source_fd, copy_fd, source, tick)
        copy.kin = Kin(kin_fd, source_fd, copy_fd)
        if os.fstat(names).st_size:
            found = Pass()
            copy.run_branches(take(queue, names), found, ahead=cold != 0)
        else:
            found = copy.run_share(1, 2, ahead=cold != 0)
    except Refused as error:
        _say("refused", error.reason.value, error.message.encode(errors="surrogateescape").hex())
    except OSError as error:
        _say("errno", error.errno or 5)
    else:
        raw = found.signatures.tobytes()
        _say("found", len(raw), *found.sums().values())
        sys.stdout.buffer.write(raw)
        sys.stdout.flush()


def partner(top_fd: int, looks: int, look_names: int, removals: int, removal_names: int) -> None:
    """
    Look through branches of an old tree, say `LATEST_NS IS_WHOLE PATHS_IN_HEX` of what is written, then remove branches of it.
    """
    found = Stillness()
    for branch in take(looks, look_names):
        found.look_branch(top_fd, branch, lambda _: None)
    _say(found.latest_ns, int(found.is_whole), *(os.fsencode(path).hex() for path in found.written))
    for branch in take(removals, removal_names):
        fs.remove_branch(top_fd, branch, lambda _: None)


def main() -> None:
    """Be the child: `share SOURCE_IN_HEX NUMBERS...` or `partner NUMBERS...`."""
    fs.die_with_parent()
    work, *words = sys.argv[1:]
    if work == "share":
        share(os.fsdecode(bytes.fromhex(words[0])), *map(int, words[1:]))
    else:
        partner(*map(int, words))


if __name__ == "__main__":
    main()
