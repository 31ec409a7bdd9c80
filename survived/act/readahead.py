"""
Asks the kernel to read what is copied next, where a disk would be waited for at each file.

A hint that costs an open of every file, for who copies many small ones; of a large one the kernel reads ahead by itself.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from typing import TYPE_CHECKING

from survived.act import fs
from survived.act.entries import READ
from survived.act.looking import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_ENTRIES, _BYTES = 256, 128 << 10
"""So much is asked for at once at most: 32 MiB."""
_WINDOW = 64


def branches_ahead(top_fd: int, branches: Iterable[str]) -> Iterator[str]:
    """Yield each branch of an open tree when the one after it has been asked for."""
    held: list[str] = []
    for branch in branches:
        with contextlib.suppress(OSError):  # whoever copies it says what is the matter with it
            fd = fs.open_below(top_fd, branch)
            try:
                _ask_below(fd, _ENTRIES)
            finally:
                os.close(fd)
        yield from held
        held = [branch]
    yield from held


def entries_ahead(
    folder_fd: int, entries: Iterable[os.DirEntry[str]], is_wanted: Callable[[os.DirEntry[str]], bool]
) -> Iterator[os.DirEntry[str]]:
    """Yield the entries of an open folder when the wanted files among those after them have been asked for."""
    waiting: deque[os.DirEntry[str]] = deque()
    for entry in entries:
        if entry.is_file(follow_symlinks=False) and is_wanted(entry):
            _ask(folder_fd, entry.name)
        waiting.append(entry)
        if len(waiting) > _WINDOW:
            yield waiting.popleft()
    yield from waiting


def _ask_below(folder_fd: int, left: int) -> int:
    """Ask for the files of a folder and of those below it, in all for so many entries; return how many are left of them."""
    below = []
    for entry in in_order(folder_fd):
        if left == 0:
            return 0
        left -= 1  # for each, so that this goes no deeper either
        if entry.is_dir(follow_symlinks=False):
            below.append(entry.name)
        elif entry.is_file(follow_symlinks=False):
            _ask(folder_fd, entry.name)
    for name in below:
        if left == 0:
            return 0
        with fs.opened(name, dir_fd=folder_fd) as fd:
            left = _ask_below(fd, left)
    return left


def _ask(folder_fd: int, name: str) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(name, READ, dir_fd=folder_fd)
        try:
            os.posix_fadvise(fd, 0, _BYTES, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(fd)
