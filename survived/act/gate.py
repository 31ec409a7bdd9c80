"""
The way from a home to a store: links that a tool's settings name, so that a missing disk can never be written under.

While the disk is there, `<data>/survived/NAME` leads to the store. While it is not, that link dangles, and whoever makes the
folders of a path fails at it. Tools that follow links themselves and make what is missing behind them (Python's realpath and
makedirs, as pip does) get `NAME.sealed`, whose text climbs out of a deep folder that is only on the disk: with the disk
the kernel and realpath both come to the store, and without it realpath comes to /proc, where nobody can make anything.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from survived.act import fs
from survived.errors import Refused, SurvivedError, cause_of
from survived.terms import Reason

if TYPE_CHECKING:
    from survived.act.ballast import Ballast
    from survived.store.layout import Store

REDIRECTED = "redirected"
_WAY = "way"
_DEEP = f"{REDIRECTED}/.way"
_NOWHERE = "proc/the-data-disk-is-missing"


@dataclass(frozen=True, slots=True)
class Gate:
    """The two links for one store; both are absolute paths below a user's data folder."""

    plain: str
    sealed: str
    store: str

    @property
    def texts(self) -> dict[str, str]:
        """What each link says."""
        depth = len(self.store.strip("/").split("/")) + 1
        return {self.plain: self.store, self.sealed: f"{self.store}/{_WAY}{'/..' * depth}/{_NOWHERE}"}


def gate_for(data_home: str, store: str, mount: str) -> Gate:
    """Return the gate to a store; its name is the last part of the disk's mount point, or one that is free."""
    base = os.path.join(data_home, "survived", os.path.basename(mount.rstrip("/")) or "disk")
    number, plain = 1, base
    while os.path.lexists(plain) and not (os.path.islink(plain) and os.readlink(plain) == store):
        number, plain = number + 1, f"{base}-{number + 1}"
    return Gate(plain, f"{plain}.sealed", store)


def prepare(store: Store) -> None:
    """Make what the gates need on the disk: the folder of what is redirected, and the deep one."""
    depth = len(store.path.strip("/").split("/")) + 1
    deep = f"{_DEEP}/{'/'.join(map(str, range(1, depth + 1)))}"
    os.close(fs.open_below(store.fd, deep, make=True))
    nowhere_fd = fs.open_below(store.fd, f"{_DEEP}/{os.path.dirname(_NOWHERE)}", make=True)
    try:
        _link(nowhere_fd, os.path.basename(_NOWHERE), "../../..")
    finally:
        os.close(nowhere_fd)
    _link(store.fd, _WAY, deep)


def _link(folder_fd: int, name: str, text: str) -> None:
    """Make a link, or put one that says something else right."""
    with contextlib.suppress(FileNotFoundError, OSError):
        if os.readlink(name, dir_fd=folder_fd) == text:
            return
        os.unlink(name, dir_fd=folder_fd)
    os.symlink(text, name, dir_fd=folder_fd)
    os.fsync(folder_fd)


def make_folder(store: Store, relative: str) -> None:
    """Make a folder in the store, 0700, and those above it."""
    os.close(fs.open_below(store.fd, relative, make=True))


def make_home_folder(path: str) -> bool:
    """Make a directory of a user's, 0700, with those above it; return False if it is there. Raises `SurvivedError`."""
    if os.path.isdir(path):
        return False
    try:
        os.makedirs(path, mode=0o700)
    except OSError as error:
        raise SurvivedError(f"Cannot make '{path}': {cause_of(error)}. Nothing was changed.") from error
    return True


def remove_empty(path: str, *, above: bool = False) -> bool:
    """Remove a folder of ours that holds nothing, and with `above` the one around it if that is empty then."""
    try:
        os.rmdir(path)
    except OSError:
        return False
    if above:
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(path))
    return True


def open_gate(gate: Gate, ballast: Ballast) -> None:
    """Make the links in the home; ones that lead there already are fine. Raises `Refused` for what stands in their place."""
    for path, text in gate.texts.items():
        make_link(path, text, ballast)


def make_link(path: str, text: str, ballast: Ballast) -> None:
    """Make one link and the folders above it. Raises `Refused` if anything else has its name, `SurvivedError` as the disk says."""
    try:
        if os.path.islink(path) and os.readlink(path) == text:
            return
        if os.path.lexists(path):
            raise Refused(Reason.OTHER_FILESYSTEM, f"Cannot make the link '{path}': something has its name. Nothing was changed.")
        _make_folders(os.path.dirname(path), ballast)
        with fs.opened(os.path.dirname(path), follow=True) as fd:
            ballast.with_room(lambda: os.symlink(text, os.path.basename(path), dir_fd=fd), fd)
            os.fsync(fd)
    except OSError as error:
        why = cause_of(error)
        raise SurvivedError(f"Cannot make the link '{path}': {why}. Nothing was changed.") from error


def _make_folders(folder: str, ballast: Ballast) -> None:
    if os.path.isdir(folder):
        return
    _make_folders(os.path.dirname(folder), ballast)
    with fs.opened(os.path.dirname(folder), follow=True) as fd:
        ballast.with_room(lambda: os.mkdir(os.path.basename(folder), 0o700, dir_fd=fd), fd)
        os.fsync(fd)


def close_gate(gate: Gate) -> None:
    """Remove the links that are ours, and their folders if these are empty then."""
    for path, text in gate.texts.items():
        with contextlib.suppress(OSError):
            if os.readlink(path) == text:
                fs.remove_file(path)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(gate.plain))
