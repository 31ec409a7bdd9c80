"""
Brings over what was still written into the old tree after the last look at it, once nobody holds it any more.

Two marks tell late from early, each by the clock of its own filesystem: what is newer than the source mark in the old
tree was written after it was copied; what is newer than the target mark in the new tree was changed there since. Both
are in the journal, so this works after a crash too, and a repeat finds nothing to do.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from survived.act import fs
from survived.act.copying import TreeCopy

if TYPE_CHECKING:
    from collections.abc import Callable

LATE = ".survived-late"
"""Added to the name of an old side's file when both sides changed."""


@dataclass(slots=True)
class Late:
    """What was found late. `conflicts` are paths of files of which both sides are kept."""

    brought: int = 0
    removed: int = 0
    conflicts: list[str] = field(default_factory=list)


def reconcile(
    old_fd: int, new_fd: int, *, source_mark_ns: int, target_mark_ns: int, source: str, tick: Callable[[int, int], None]
) -> Late:
    """
    Make `new_fd` hold every late change of `old_fd`; never touches what changed in the new tree.

    An old tree that is empty while the new one is not is taken for an accident: nothing is removed then.
    """
    late = Late()
    copier = TreeCopy(old_fd, new_fd, source, tick)
    may_remove = bool(os.listdir(old_fd))
    stack = [(os.dup(old_fd), os.dup(new_fd), "")]
    try:
        while stack:
            old, new, path = stack.pop()
            try:
                stack.extend(_folder(copier, old, new, path, source_mark_ns, target_mark_ns, late, tick, may_remove=may_remove))
            finally:
                os.close(old)
                os.close(new)
    finally:
        for old, new, _ in stack:
            os.close(old)
            os.close(new)
    return late


def _folder(
    copier: TreeCopy, old: int, new: int, path: str, source_mark: int, target_mark: int, late: Late,
    tick: Callable[[int, int], None], *, may_remove: bool,
) -> list[tuple[int, int, str]]:  # fmt: skip
    below: list[tuple[int, int, str]] = []
    with os.scandir(old) as entries:
        listed = list(entries)
    for entry in listed:
        tick(0, 1)
        found, there, where = entry.stat(follow_symlinks=False), fs.exists(new, entry.name), f"{path}{entry.name}"
        if stat.S_ISDIR(found.st_mode):
            if there is None:
                if found.st_ctime_ns > source_mark:  # made or moved here late; else somebody removed it from the new tree
                    os.mkdir(entry.name, 0o700, dir_fd=new)
                    late.brought += 1
                    _whole(old, new, entry.name, where, tick)
            elif stat.S_ISDIR(there.st_mode):
                below.append(
                    (os.open(entry.name, fs.DIRECTORY, dir_fd=old), os.open(entry.name, fs.DIRECTORY, dir_fd=new), f"{where}/")
                )
            else:
                _keep_both(old, new, entry.name, where, late, tick, copier, found)
        elif there is None:
            if found.st_ctime_ns > source_mark:
                copier.copy_entry(old, new, entry.name, found, where)
                late.brought += 1
            # Else: it was copied, and somebody removed it from the new tree since. Their word counts.
        elif found.st_ctime_ns > source_mark and not _same(found, there):
            if there.st_ctime_ns > target_mark or stat.S_ISDIR(there.st_mode):
                _keep_both(old, new, entry.name, where, late, tick, copier, found)
            else:
                _replace(copier, old, new, entry.name, found, where)
                late.brought += 1
    if may_remove:
        names = {entry.name for entry in listed}
        with os.scandir(new) as entries:
            gone = [entry.name for entry in entries if entry.name not in names]
        for name in gone:
            late.removed += _remove_unchanged(new, name, target_mark)
    return below


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (stat.S_IFMT(one.st_mode), one.st_size, one.st_mtime_ns) == (
        stat.S_IFMT(other.st_mode),
        other.st_size,
        other.st_mtime_ns,
    )


def _whole(old: int, new: int, name: str, where: str, tick: Callable[[int, int], None]) -> None:
    """Copy a directory that came late, whatever the times of what is in it: moving it does not touch them."""
    with fs.opened(name, dir_fd=old) as old_fd, fs.opened(name, dir_fd=new) as new_fd:
        TreeCopy(old_fd, new_fd, where, tick).run_pass()


def _replace(copier: TreeCopy, old: int, new: int, name: str, found: os.stat_result, where: str) -> None:
    fresh = f".survived-fresh-{found.st_ino}"
    fs.remove_tree(new, fresh, lambda _: None)
    copier.copy_entry(old, new, name, found, where, fresh)
    fs.replace(new, fresh, name)


def _keep_both(
    old: int, new: int, name: str, where: str, late: Late, tick: Callable[[int, int], None], copier: TreeCopy, found: os.stat_result
) -> None:
    number, kept = 1, f"{name[:200]}{LATE}"
    while (there := fs.exists(new, kept)) is not None:
        if _same(found, there):
            return
        number, kept = number + 1, f"{name[:200]}{LATE}-{number + 1}"
    if stat.S_ISDIR(found.st_mode):
        os.mkdir(kept, 0o700, dir_fd=new)
        with fs.opened(name, dir_fd=old) as old_fd, fs.opened(kept, dir_fd=new) as new_fd:
            TreeCopy(old_fd, new_fd, where, tick).run_pass()
    else:
        copier.copy_entry(old, new, name, found, where, kept)
    late.conflicts.append(where)


def _remove_unchanged(parent: int, name: str, target_mark: int) -> int:
    """Remove an entry that is gone from the old tree, as far as nobody changed it in the new one; return how many."""
    found = fs.exists(parent, name)
    if found is None:
        return 0
    if not stat.S_ISDIR(found.st_mode):
        if found.st_ctime_ns > target_mark:
            return 0
        os.unlink(name, dir_fd=parent)
        return 1
    count = 0
    with fs.opened(name, dir_fd=parent) as fd:
        for below in os.listdir(fd):
            count += _remove_unchanged(fd, below, target_mark)
        empty = not os.listdir(fd)
    # A directory that our copy made is older than the mark; one made since in the new tree stays, even if empty.
    if empty and (count or found.st_ctime_ns <= target_mark):
        os.rmdir(name, dir_fd=parent)
        count += 1
    return count
