"""
Whether other users could swap a folder on the way to a path for something of theirs, as sshd asks about its keys.

Whoever may write to a folder may rename what is in it, unless its sticky bit is set; and its owner always may.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def find_exposed(path: str, trusted: frozenset[int]) -> str | None:
    """
    Return why others can replace `path` or a folder above it, as a clause that names the folder; None if only we can.

    `trusted` are uids whose word counts, besides root's. What is not there, or cannot be looked at, says nothing.
    """
    trusted |= {0, os.stat("/").st_uid}  # in a user namespace root's files have another owner
    for folder in _way(path):
        try:
            found = os.stat(folder)
        except OSError:
            continue
        if found.st_uid not in trusted:
            return f"'{folder}' belongs to uid {found.st_uid}, who can replace what is in it"
        if found.st_mode & stat.S_ISVTX:
            continue
        if found.st_mode & 0o002:
            return f"'{folder}' is writable for everybody without the sticky bit, so that others can replace what is in it"
        if found.st_mode & 0o020 and not _is_private(found.st_gid, trusted):
            return f"'{folder}' is writable for its group without the sticky bit, so that others can replace what is in it"
    return None


def _way(path: str) -> Iterator[str]:
    """Yield every folder above `path`, and itself, by its name and as it is reached through links; the root first."""
    seen: set[str] = set()
    for place in (os.path.abspath(path), os.path.realpath(path)):
        parts = place.split("/")
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth]) or "/"
            if folder not in seen:
                seen.add(folder)
                yield folder


def _is_private(gid: int, trusted: frozenset[int]) -> bool:
    """Tell whether a group is root's, or one user's own of that user's name, as many distributions make them."""
    if gid == 0:
        return True
    try:
        group = grp.getgrgid(gid)
        owners = {pwd.getpwuid(uid).pw_name for uid in trusted if pwd.getpwuid(uid).pw_gid == gid}
    except KeyError:
        return False
    return group.gr_name in owners and set(group.gr_mem) <= owners
