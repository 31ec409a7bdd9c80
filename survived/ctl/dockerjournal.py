"""
Where docker's moves are journaled, read for every action, and the lock that lets one survivectl docker work at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

from survived.ctl import local
from survived.errors import NeedsPerson, Refused, SurvivedError, cause_of
from survived.model import Reason

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from survived.act.dockerstate import State

_SYSTEM_STATE = "/var/lib/survived"


def state_file(args: argparse.Namespace) -> str:
    """Return where docker's moves are journaled: for root always the system's place, for docker is the system's."""
    if os.getuid() == 0 and not os.path.isabs(os.environ.get("XDG_STATE_HOME", "")):
        return os.path.join(_SYSTEM_STATE, "docker.json")
    return os.path.join(local.find_paths(args).state_dir, "docker.json")


def load_state(args: argparse.Namespace) -> State:
    """Return what is journaled; nothing where that is root's and closed to us."""
    from survived.act.dockerstate import State, load

    try:
        return load(state_file(args))
    except PermissionError:  # the folder is root's, and closed to others
        return State()


def refuse_unfinished(args: argparse.Namespace) -> None:
    """Raise `NeedsPerson` if a crash left a move unfinished."""
    if load_state(args).act is not None:
        raise NeedsPerson(
            "Cannot move docker's data: an earlier move was interrupted. Nothing was changed.",
            "Run survivectl docker recover first.",
        )


@contextlib.contextmanager
def alone(args: argparse.Namespace) -> Iterator[None]:
    """Keep other survivectl docker out; `Refused` (BUSY) if one is at work."""
    path = Path(state_file(args)).with_suffix(".lock")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        why = cause_of(error)
        raise SurvivedError(f"Cannot write '{path}': {why}. Nothing was changed.", "Run it as root.") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise Refused(
            Reason.BUSY, "Cannot move docker's data: another survivectl docker is at work. Nothing was changed."
        ) from error
    try:
        yield
    finally:
        os.close(fd)
