"""
Installing a bundle: all of it is checked before anything is written, unpacked to the data disk, and given to its tools.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from survived.errors import Refused, SurvivedError, UsageError
from survived.offline import platform, space, unpacking
from survived.offline.command import Runner
from survived.offline.job import Installing, Options, Outcome
from survived.offline.kinds import KINDS
from survived.offline.verifying import silent
from survived.terms import Reason
from survived.units import print_time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from survived.offline.manifest import Item
    from survived.offline.verifying import Tell, Verified

_LOG = "install.log"


@dataclass(frozen=True, slots=True)
class Place:
    """
    Where bundles are unpacked: the folder's path, opened by the caller, and the devices that it must not be on.

    `home` and `env` are the user's; `say` is given each command that is run.
    """

    fd: int
    path: str
    keep_free: frozenset[int]
    home: str
    env: Mapping[str, str]
    say: Callable[[str], None]
    stop: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Installed:
    """What came of it: the folder with files, manifest and logs, what each item did, and how many files were there before."""

    folder: str
    outcomes: tuple[Outcome, ...]
    kept: int


def install(
    verified: Verified,
    place: Place,
    options: Options,
    *,
    skip: frozenset[str] = frozenset(),
    unpack_only: bool = False,
    tell: Tell = silent,
) -> Installed:
    """
    Unpack a verified bundle and install its items, but for the kinds in `skip`.

    Raises `Refused` (other_platform, would_fill, no_room) before anything is written, and `SurvivedError` with the log of the
    tool that failed; the items before it stay installed, and the same command goes on.
    """
    if os.fstat(place.fd).st_dev in place.keep_free:
        raise Refused(
            Reason.WOULD_FILL,
            f"Cannot unpack to '{place.path}': it is on the disk that is to stay free. Nothing was unpacked.",
            "Name a folder on a data disk: --to DIR.",
        )
    folder = os.path.join(place.path, unpacking.folder_name(verified))
    items = [item for item in verified.manifest.items if item.kind not in skip]
    if not items and not unpack_only:
        kinds = ", ".join(sorted({item.kind for item in verified.manifest.items}))
        raise UsageError(f"Cannot install: the bundle holds {kinds}, and all of that is left away. Nothing was unpacked.")
    jobs = [_job(item, verified, folder, place, options, tell) for item in items]
    if not unpack_only:
        for job in jobs:
            platform.require(job.item.title, replace(job.item.target, python=None), job.here)
        for job in jobs:
            KINDS[job.item.kind].fits(job)
    space.require(place.path, _lacking(place.fd, folder, verified), "unpack to")
    with (
        space.explained("install from", folder, "The unpacked bundle is kept."),
        unpacking.opened(place.fd, os.path.basename(folder), folder) as fd,
    ):
        os.makedirs(os.path.join(folder, unpacking.LOGS), mode=0o700, exist_ok=True)
        kept = unpacking.unpack(verified, fd, folder, tell)
        outcomes = () if unpack_only else _install(jobs, os.path.join(folder, unpacking.LOGS, _LOG))
    return Installed(folder, outcomes, kept)


def _lacking(fd: int, folder: str, verified: Verified) -> int:
    """Return the bytes still to be unpacked; all of them if the folder is not there yet."""
    with contextlib.suppress(OSError):
        folder_fd = os.open(os.path.basename(folder), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            return unpacking.measure_missing(folder_fd, verified.manifest)
        finally:
            os.close(folder_fd)
    return verified.manifest.size


def _install(jobs: list[Installing], log: str) -> tuple[Outcome, ...]:
    outcomes: list[Outcome] = []
    for job in jobs:
        if (check := KINDS[job.item.kind].check) is not None:
            check(job)
    for job in jobs:
        try:
            outcomes.append(KINDS[job.item.kind].install(job))
            _note(log, f"{outcomes[-1].done}.")
        except SurvivedError as error:
            _note(log, error.message)
            if outcomes:
                error.message += f" Before it, {'; '.join(outcome.done for outcome in outcomes)}."
            raise
    return tuple(outcomes)


def _note(log: str, sentence: str) -> None:
    """Keep what an item came to, also of kinds that need no tool and so have no log of one."""
    with open(log, "a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{print_time(time.time())} {sentence}\n")


def _job(item: Item, verified: Verified, folder: str, place: Place, options: Options, tell: Tell) -> Installing:
    own = os.path.join(folder, unpacking.PAYLOAD, item.root)
    files = tuple(entry.path.removeprefix(f"{item.root}/") for entry in verified.manifest.entries_of(item))
    runner = Runner(place.env, os.path.join(folder, unpacking.LOGS), place.stop, place.say)
    scratch = os.path.join(folder, "tmp")
    return Installing(item, files, own, scratch, platform.here(), place.home, runner, options, place.keep_free, tell)
