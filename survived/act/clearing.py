"""
Takes things out of a store, durably, with the empty folders that led to them.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from survived.act import fs

if TYPE_CHECKING:
    from collections.abc import Callable

    from survived.store.layout import Store


def remove_below(store: Store, relative: str, tick: Callable[[int], None]) -> None:
    """Remove a tree of the store and the empty folders that led to it."""
    folder, _, name = relative.rpartition("/")
    with contextlib.suppress(FileNotFoundError):  # of the folders, too, only some may have been made
        folder_fd = fs.open_below(store.fd, folder)
        try:
            fs.remove_tree(folder_fd, name, tick)
            os.fsync(folder_fd)
        finally:
            os.close(folder_fd)
    prune(store, folder)


def prune(store: Store, relative: str) -> None:
    """Remove empty folders of the store upwards, durably, but never `trees` and `staging` themselves."""
    while "/" in relative:
        folder, _, name = relative.rpartition("/")
        try:
            folder_fd = fs.open_below(store.fd, folder)
        except FileNotFoundError:
            relative = folder
            continue
        try:
            os.rmdir(name, dir_fd=folder_fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
                raise
            break  # somebody else's tree is below
        finally:
            os.close(folder_fd)
        relative = folder
    fd = fs.open_below(store.fd, relative)
    try:
        os.fsync(fd)  # before DONE is recorded, which may be on another disk
    finally:
        os.close(fd)
