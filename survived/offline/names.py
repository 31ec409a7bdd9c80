"""
The names of files inside a bundle: relative, plain, each once, none inside another. Everything else is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from survived.errors import Refused
from survived.terms import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

PATH_LIMIT, PART_LIMIT = 3000, 255
"""Bytes of a path and of each of its parts; Linux takes 4095 and 255, and the path of the folder comes before ours."""


def damaged(bundle: str, why: str) -> Refused:
    """Return the refusal of a bundle whose bytes are not what its manifest says, or that holds what no bundle may."""
    return Refused(
        Reason.DAMAGED,
        f"Cannot trust '{bundle}': {why}. Nothing was unpacked.",
        "Copy it again, or pack it again: survivectl offline pack.",
    )


def why_bad(path: str) -> str | None:
    """Return why a path may not stand in a bundle, or None if it may."""
    parts = path.split("/")
    if path.startswith("/"):
        return "it is an absolute path"
    if ".." in parts:
        return "it leaves the bundle by '..'"
    if not path or "" in parts or "." in parts:
        return "it is no plain relative path"
    if not path.isprintable():
        return "it has characters that cannot be printed"
    encoded = [part.encode("utf-8", "surrogateescape") for part in parts]
    if any(len(part) > PART_LIMIT for part in encoded) or sum(map(len, encoded)) + len(parts) > PATH_LIMIT:
        return "it is too long"
    return None


def check(paths: Iterable[str], bundle: str) -> None:
    """Refuse (`Refused`, damaged) a list of paths with a bad one, a double, or a file that another needs as folder."""
    seen: set[str] = set()
    folders: set[str] = set()
    for path in paths:
        if (why := why_bad(path)) is not None:
            raise damaged(bundle, f"the name {path!r} is not allowed: {why}")
        if path in seen:
            raise damaged(bundle, f"'{path}' stands in it twice")
        seen.add(path)
        above = path
        while "/" in above and (above := above.rpartition("/")[0]) not in folders:
            folders.add(above)
    if both := seen & folders:
        raise damaged(bundle, f"'{min(both)}' is a file and a folder in it")
