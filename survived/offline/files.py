"""
Plain files and folders: packed by name, and left where the bundle was unpacked or copied to a folder.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import stat
from typing import TYPE_CHECKING

from survived.act import fs
from survived.errors import SurvivedError, cause_of
from survived.offline import names, space
from survived.offline.job import Collecting, Installing, Outcome, Wish
from survived.offline.manifest import Item, Target

if TYPE_CHECKING:
    from collections.abc import Iterator


def collect(wish: Wish, job: Collecting) -> Item:
    """Take files and folders as they are; a link to a file becomes that file, anything else that is none is refused."""
    found: dict[str, str] = {}
    for word in wish.words:
        for path, inside in _walk(word):
            if inside in found:
                raise SurvivedError(f"Cannot pack '{path}': '{found[inside]}' has the same name. Nothing was packed.")
            if (why := names.why_bad(f"{job.root}/{inside}")) is not None:
                raise SurvivedError(f"Cannot pack {path!r}: {why}. Nothing was packed.")
            found[inside] = path
    space.require(job.folder, sum(os.path.getsize(path) for path in found.values()), "pack to")
    for inside, path in found.items():
        place = os.path.join(job.folder, inside)
        os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
        if os.path.exists(place):
            if filecmp.cmp(path, place, shallow=False):
                continue
            os.unlink(place)
        shutil.copyfile(path, place)
        os.chmod(place, 0o700 if os.access(path, os.X_OK) else 0o600)
        job.tell("collect", len(found), len(found))
    return job.item("files", f"files {', '.join(wish.words)}", Target(), {"count": len(found)})


def _walk(word: str) -> Iterator[tuple[str, str]]:
    """Yield each regular file of a file or folder, with its name in the bundle."""
    top = os.path.basename(os.path.abspath(word))
    try:
        mode = os.stat(word).st_mode
    except OSError as error:
        raise SurvivedError(f"Cannot pack '{word}': {cause_of(error)}. Nothing was packed.") from error
    if not stat.S_ISDIR(mode):
        yield _regular(word), top
        return

    def failed(error: OSError) -> None:
        raise SurvivedError(f"Cannot pack '{error.filename}': {(error.strerror or '').lower()}. Nothing was packed.") from error

    for place, folders, files in os.walk(word, onerror=failed):
        for name in folders:
            if os.path.islink(path := os.path.join(place, name)):
                raise SurvivedError(
                    f"Cannot pack '{path}': it is a link to a folder. Nothing was packed.", "Name the folder itself."
                )
        for name in sorted(files):
            path = os.path.join(place, name)
            yield _regular(path), os.path.join(top, os.path.relpath(path, word))


def _regular(path: str) -> str:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise SurvivedError(f"Cannot pack '{path}': {cause_of(error)}. Nothing was packed.") from error
    if not stat.S_ISREG(mode):
        raise SurvivedError(f"Cannot pack '{path}': it is no regular file. Nothing was packed.")
    return path


def fits(_job: Installing) -> None:
    """Fit everywhere."""


def check(job: Installing) -> None:
    """Raise `SurvivedError` if another file stands where one is to be copied to."""
    if job.options.files_to is not None:
        for path in _below(job.folder):
            there = os.path.join(job.options.files_to, path)
            if os.path.lexists(there) and not (os.path.isfile(there) and filecmp.cmp(job.path(path), there, shallow=False)):
                raise SurvivedError(
                    f"Cannot copy to '{there}': another stands there. Nothing was installed.", "Name another folder: --files-to."
                )


def _below(folder: str) -> list[str]:
    return sorted(os.path.relpath(os.path.join(place, name), folder) for place, _, files in os.walk(folder) for name in files)


def install(job: Installing) -> Outcome:
    """Copy the files to `--files-to`, each whole or not at all; without it they stay where they were unpacked."""
    to, listed = job.options.files_to, _below(job.folder)
    if to is None:
        return Outcome(job.item, f"the {job.item.title} are in {job.folder}", (("path", job.folder),))
    space.require(to, sum(os.path.getsize(job.path(path)) for path in listed), "copy files to")
    with space.explained("copy files to", to, "What was copied is complete."):
        for path in listed:
            place = os.path.join(to, path)
            if os.path.lexists(place):
                continue
            os.makedirs(os.path.dirname(place), exist_ok=True)
            with fs.opened(os.path.dirname(place), follow=True) as folder_fd:
                fresh = f".survived-{os.getpid()}.partial"
                mode = 0o777 if os.access(job.path(path), os.X_OK) else 0o666
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
                with open(job.path(path), "rb") as old, open(os.open(fresh, flags, mode, dir_fd=folder_fd), "wb") as new:
                    shutil.copyfileobj(old, new, 1 << 20)
                fs.place(folder_fd, fresh, os.path.basename(place))
    return Outcome(job.item, f"{len(listed)} files are in {to}", (("path", to),))
