"""
Is a relocated tree what was moved? Judged by what a walk found and what the journal knows.

Only a tree in which nothing was touched since the move can be held to its counts; a tool may do as it likes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from survived.findings import Damage

if TYPE_CHECKING:
    from survived.findings import TreeCheck
    from survived.model import Operation


class Soundness(StrEnum):
    """What is said of one tree."""

    OK = "ok"
    CHANGED = "changed"  # by its tool since the move, which is what it is for
    UNKNOWN = "unknown"  # the journal was made anew since the move: there is nothing to hold it to
    DAMAGED = "damaged"


def judge(made: Operation | None, seen: TreeCheck) -> tuple[Soundness, tuple[Damage, ...]]:
    """Return what to say of a tree that the operation `made`, None if the journal has lost it, and all its damage."""
    damage = seen.damage
    if made is not None and not (seen.changed or seen.closed or seen.damaged):
        damage = _miscounted(made, seen)
    if damage:
        return Soundness.DAMAGED, damage
    if made is None:
        return Soundness.UNKNOWN, ()
    return Soundness.CHANGED if seen.changed or seen.closed else Soundness.OK, ()


def _miscounted(made: Operation, seen: TreeCheck) -> tuple[Damage, ...]:
    if seen.files != made.files:
        return (Damage("", f"it holds {seen.files:,} files where {made.files:,} were moved, and nobody has touched it since"),)
    if made.content_bytes not in (-1, seen.content_bytes):
        why = f"its files hold {seen.content_bytes:,} bytes where {made.content_bytes:,} were moved"
        return (Damage("", f"{why}, and nobody has touched them since"),)
    return ()
