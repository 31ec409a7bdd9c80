"""
A stand-in: an empty directory in the place of a link whose data disk is missing, for tools that fail on a dangling link.

It is put in place, and the link put back, by one exchange, so that the path is at every instant the one or the other. What
a crash leaves lies beside the path under one name, and `tidy` knows it by what it is.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from typing import TYPE_CHECKING

from survived.act import fs
from survived.act.attempt import exchange
from survived.errors import Refused
from survived.model import Reason

if TYPE_CHECKING:
    from survived.act.ballast import Ballast


def place(ballast: Ballast, source: str, target: str) -> None:
    """
    Put an empty directory of ours, mode 0700, in the place of the link `source` -> `target`; durable.

    `Refused` if that link is not there or the filesystem cannot exchange; OSError as the kernel says it.
    """
    name, aside = os.path.basename(source), _aside(source)
    with fs.opened(os.path.dirname(source), follow=True) as parent_fd:
        _tidy(parent_fd, name, aside, target)
        if _leads_to(parent_fd, name) != target:
            raise Refused(Reason.UNSETTLED, f"Cannot make a stand-in for '{source}': its link was replaced. Nothing was changed.")
        owner = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        ballast.with_room(lambda: os.mkdir(aside, 0o700, dir_fd=parent_fd), parent_fd)
        if os.geteuid() == 0:
            os.chown(aside, owner.st_uid, owner.st_gid, dir_fd=parent_fd, follow_symlinks=False)
        exchange(parent_fd, aside, name, source)
        if _leads_to(parent_fd, aside) != target:  # somebody was here between our look and the exchange
            exchange(parent_fd, aside, name, source)
            os.rmdir(aside, dir_fd=parent_fd)
            raise Refused(Reason.UNSETTLED, f"Cannot make a stand-in for '{source}': its link was replaced. Nothing was changed.")
        os.unlink(aside, dir_fd=parent_fd)
        os.fsync(parent_fd)


def put_back(ballast: Ballast, source: str, target: str) -> bool:
    """Put the link in the place of an empty stand-in; False if it is not empty, and stays. Raises as `place` does."""
    name, aside = os.path.basename(source), _aside(source)
    with fs.opened(os.path.dirname(source), follow=True) as parent_fd:
        _tidy(parent_fd, name, aside, target)
        if not _is_empty(parent_fd, name):
            return False
        ballast.with_room(lambda: os.symlink(target, aside, dir_fd=parent_fd), parent_fd)
        exchange(parent_fd, aside, name, source)
        _tidy(parent_fd, name, aside, target)  # a file that came in this moment brings the stand-in back
        return _leads_to(parent_fd, name) == target


def link_anew(ballast: Ballast, source: str, target: str) -> None:
    """Make the link `source` -> `target` where nothing stands, in one step; FileExistsError if something does."""
    name, aside = os.path.basename(source), _aside(source)
    with fs.opened(os.path.dirname(source), follow=True) as parent_fd:
        _tidy(parent_fd, name, aside, target)
        ballast.with_room(lambda: os.symlink(target, aside, dir_fd=parent_fd), parent_fd)
        try:
            fs.place(parent_fd, aside, name)
        except FileExistsError:
            os.unlink(aside, dir_fd=parent_fd)
            raise
        os.fsync(parent_fd)


def tidy(source: str, target: str) -> None:
    """Bring to its end what a crash of `place`, `put_back` or `link_anew` left beside `source`."""
    with contextlib.suppress(FileNotFoundError), fs.opened(os.path.dirname(source), follow=True) as parent_fd:
        _tidy(parent_fd, os.path.basename(source), _aside(source), target)


def _tidy(parent_fd: int, name: str, aside: str, target: str) -> None:
    found = fs.exists(parent_fd, aside)
    if found is None:
        return
    if stat.S_ISDIR(found.st_mode):
        try:
            os.rmdir(aside, dir_fd=parent_fd)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or _leads_to(parent_fd, name) != target:
                raise
            fs.exchange(parent_fd, aside, name)  # something was written into it at the path: there it belongs
            os.unlink(aside, dir_fd=parent_fd)
    elif _leads_to(parent_fd, aside) == target:
        os.unlink(aside, dir_fd=parent_fd)
    os.fsync(parent_fd)


def _aside(source: str) -> str:
    return f".survived-standin-{hashlib.blake2b(os.fsencode(os.path.basename(source)), digest_size=6).hexdigest()}"


def _leads_to(parent_fd: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=parent_fd)
    except OSError:
        return None


def _is_empty(parent_fd: int, name: str) -> bool:
    with fs.opened(name, dir_fd=parent_fd) as fd, os.scandir(fd) as entries:
        return next(entries, None) is None
