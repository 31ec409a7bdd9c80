"""
Secrets that lie in a folder which is redirected: carried along, 0600, and brought back with the undo.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from survived.act.dotfile import read_dotfile, remove_dotfile, write_dotfile

if TYPE_CHECKING:
    from collections.abc import Iterable

    from survived.act.ballast import Ballast


def carry(names: Iterable[str], source: str, target: str, ballast: Ballast) -> list[str]:
    """Copy those files that are only in `source`; return the copies. Both folders may be the same, or missing."""
    made = []
    for name in names:
        old, new = read_dotfile(os.path.join(source, name)), read_dotfile(os.path.join(target, name))
        if old.data is not None and new.data is None:
            write_dotfile(new, old.data, ballast, mode=0o600)
            made.append(new.path)
    return made


def bring_back(names: Iterable[str], source: str, target: str, ballast: Ballast) -> list[str]:
    """Put what is in `target` now, and may be newer, back to `source`, and remove it there; return what was put back."""
    back = []
    for name in names:
        old, new = read_dotfile(os.path.join(source, name)), read_dotfile(os.path.join(target, name))
        if new.data is None or old.real == new.real:
            continue
        if new.data != old.data:
            write_dotfile(old, new.data, ballast, mode=0o600)
            back.append(old.path)
        remove_dotfile(new, ())
    return back
