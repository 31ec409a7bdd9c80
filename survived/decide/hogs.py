"""
What grew among the hogs, from two samples of their sizes. Pure.

A hog may be reported at another level than the day before: as a whole, or in parts. So what is compared is a path with all
that was known at or below it, or, where the whole was known and parts are now, their sum with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from survived.decide.reasons import is_below
from survived.findings import Grower, Sizes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from survived.findings import Hog


def sample(hogs: Iterable[Hog], now: float, smallest_bytes: int, most: int = 100) -> Sizes:
    """Return the sizes to keep of one look: what is not in them was smaller than `smallest_bytes` of the answer."""
    biggest = sorted(hogs, key=lambda hog: (-hog.size_bytes, hog.path))[:most]
    least = biggest[-1].size_bytes if len(biggest) == most else smallest_bytes
    return Sizes(now, {name_of(hog): hog.size_bytes for hog in biggest}, least)


def name_of(hog: Hog) -> str:
    """Return the key of a hog in a sample: its path; `/.` behind it says that it is what is left beside others."""
    return f"{hog.path.rstrip('/')}/." if hog.is_rest else hog.path


def growers(before: Sizes, after: Sizes, least_bytes: int = 1) -> tuple[Grower, ...]:
    """Return what grew by `least_bytes` or more, the most first; what shrank or stayed is left out."""
    found: dict[str, Grower] = {}
    for path, size in after.sizes.items():
        was = [value for name, value in before.sizes.items() if is_below(name, path)]
        whole = next((name for name in before.sizes if name != path and is_below(path, name)), None)
        if was:
            found[path] = Grower(path, sum(was), size)
        elif whole is not None:
            parts = sum(value for name, value in after.sizes.items() if is_below(name, whole))
            found[whole] = Grower(whole, before.sizes[whole], parts)
        else:
            found[path] = Grower(path, min(size, before.smallest_bytes), size, is_new=True)
    grown = [item for item in found.values() if item.grown_bytes >= max(1, least_bytes)]
    return tuple(sorted(grown, key=lambda item: (-item.grown_bytes, item.path)))
