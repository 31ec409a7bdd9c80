"""
Caches that no catalogue knows and that say of themselves what they are: by CACHEDIR.TAG with its signature.

See https://bford.info/cachedir/: the file begins with a fixed signature, and one that does not is no tag.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TAG = "CACHEDIR.TAG"
SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"
_DEPTH = 2  # `<place>/tool` and `<place>/vendor/tool`
_MOST_LOOKED_AT = 4000
_MOST = 200


def find_tagged(places: Iterable[str], known: Iterable[str]) -> list[tuple[str, str]]:
    """
    Return the tagged directories below some places, each with its place, none of them inside a known cache or another tagged one.

    Cheap: two levels, no link followed, and at most some thousand directories looked at. What cannot be read is passed over.
    """
    shut = frozenset(known)
    found = []
    for place in dict.fromkeys(places):
        budget = [_MOST_LOOKED_AT]
        found += [(path, place) for path in _tagged_below(place, shut, _DEPTH, budget)]
    return found[:_MOST]


def is_tagged(path: str) -> bool:
    """Tell whether a directory holds a CACHEDIR.TAG, a file of its own that begins with the signature."""
    try:
        descriptor = os.open(os.path.join(path, TAG), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and os.read(descriptor, len(SIGNATURE)) == SIGNATURE
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _tagged_below(place: str, shut: frozenset[str], depth: int, budget: list[int]) -> Iterator[str]:
    try:
        with os.scandir(place) as entries:
            folders = sorted(entry.path for entry in entries if _is_folder(entry))
    except OSError:
        return
    for path in folders:
        budget[0] -= 1
        if budget[0] < 0:
            return
        if path in shut:
            continue
        if is_tagged(path):
            yield path
        elif depth > 1:
            yield from _tagged_below(path, shut, depth - 1, budget)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False
