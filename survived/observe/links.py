"""
What stands at the paths of what is relocated: one lstat and one readlink each, so that it may be asked every few seconds.

Trees on a disk that does not answer are not asked for, since the question would hang.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from survived.model import LinkReading, Standing
from survived.observe.disks import answers

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from survived.model import Relocation, StoreReading


def read_links(items: Iterable[Relocation], stores: Iterable[StoreReading], standins: Collection[str]) -> tuple[LinkReading, ...]:
    """Return a reading of each; `standins` are the targets whose links have a stand-in. A store that is not read is missing."""
    there = [f"{store.path}/" for store in stores if store.ok and answers(store.path)]
    return tuple(_read_link(item, tuple(there), item.target in standins) for item in items)


def _read_link(item: Relocation, there: tuple[str, ...], is_standin: bool) -> LinkReading:
    disk_is_there = item.target.startswith(there)
    tree_is_there = disk_is_there and _is_directory(item.target)
    standing, leads_to = stand(item.source, item.target)
    return LinkReading(item, standing, leads_to, tree_is_there, disk_is_there, is_standin)


def stand(source: str, target: str) -> tuple[Standing, str | None]:
    """Return what stands at `source`, and of a link that does not lead to `target`, where it leads to."""
    try:
        found = os.lstat(source)
        if stat.S_ISDIR(found.st_mode):
            return Standing.DIRECTORY, None
        if not stat.S_ISLNK(found.st_mode):
            return Standing.OTHER, None
        leads_to = os.readlink(source)
    except (FileNotFoundError, NotADirectoryError):
        return Standing.NOTHING, None
    except OSError:  # EACCES, EIO on the way there, or no link any more in this moment: nothing to tell about
        return Standing.OUR_LINK, None
    return (Standing.OUR_LINK, None) if leads_to == target else (Standing.OTHER_LINK, leads_to)


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False
