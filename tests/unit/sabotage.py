"""A child whose n-th call that changes a disk kills it or fails: for whoever wants to see every step of an operation go wrong."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Any

from survived.act import fs
from survived.errors import SurvivedError
from survived.store.database import Database

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.engine import Rig

# Every call that changes something on a disk, by the module or class that has it. os.open counts only with O_CREAT.
CALLS: list[tuple[Any, str]] = [
    *((os, name) for name in (
        "open", "mkdir", "mknod", "link", "symlink", "unlink", "rmdir", "rename", "write", "copy_file_range", "ftruncate",
        "setxattr", "removexattr", "chmod", "fchmod", "chown", "utime", "fsync",
    )),
    (fs, "_renameat2"), (fs, "sync_filesystem"), (Database, "execute"), (Database, "insert"),
]  # fmt: skip
ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EMFILE)
OPENING = {errno.EACCES: ("open",), errno.EMFILE: ("open", "dup", "scandir", "listdir")}
"""What fails for these, too, and changes nothing: every open counts then."""
KILL = 0
FINISHED, TOLD, UNTOLD = 0, 1, 2  # how a child ends: no call was the n-th, one sentence, anything else


class Saboteur:
    """Counts the calls of this process and spoils the n-th, and with `lasting` all after it."""

    def __init__(self, number: int, error: int, *, lasting: bool = False) -> None:
        self.left, self.error, self.lasting = number, error, lasting

    def wrap(self, owner: Any, name: str) -> None:
        """Put a counter before one call."""
        real: Callable[..., Any] = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            creates = len(arguments) > 1 and arguments[1] & os.O_CREAT if name == "open" else True
            if not creates and self.error not in OPENING:
                return real(*arguments, **named)
            if name == "execute" and arguments[1].startswith("SELECT"):
                return real(*arguments, **named)
            self.left -= 1
            if self.left == 0 or (self.lasting and self.left < 0):
                self.strike(owner)
            return real(*arguments, **named)

        setattr(owner, name, call)

    def strike(self, owner: Any) -> None:
        """Die, or fail."""
        if self.error == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if owner is Database:
            raise SurvivedError(f"Cannot write 'state.db': {os.strerror(self.error)}.")
        raise OSError(self.error, os.strerror(self.error))


def in_child(rig: Rig, act: Callable[[Rig], object], number: int, error: int, *, lasting: bool = False) -> int:
    """Run `act` on a store of its own in a child whose n-th call is spoilt; return how it ended, -9 if it was killed."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = UNTOLD
    try:
        rig.open()
        saboteur = Saboteur(number, error, lasting=lasting)
        for owner, name in dict.fromkeys([*CALLS, *((os, name) for name in OPENING.get(error, ()))]):
            saboteur.wrap(owner, name)
        try:
            act(rig)
            code = FINISHED if saboteur.left > 0 else TOLD
        except SurvivedError as told:
            one_sentence = told.message.startswith("Cannot ") or "is in its new place" in told.message
            code = TOLD if one_sentence and "\n" not in told.message.replace("\udcff\n", "").replace("\n\udcff", "") else UNTOLD
            if code is UNTOLD:
                print(told)
        except BaseException:
            traceback.print_exc(file=sys.stdout)
            raise
    finally:
        sys.stdout.flush()
        os._exit(code)
