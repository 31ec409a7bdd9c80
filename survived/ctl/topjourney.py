"""
Several moves of the explorer, one after another: what is asked before, how far they are, and what came of them.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from survived.ctl.explorer import disk_of, short_path
from survived.ctl.main import printable
from survived.errors import Stopped, SurvivedError, cause_of
from survived.tell.columns import cut, pad
from survived.tell.moving import describe_phase, describe_progress
from survived.units import print_bytes, print_share

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from survived.ctl.explorer import Row

    Bring = Callable[[str, str, threading.Event, Callable[[dict[str, Any] | None], None]], dict[str, Any]]

_CELLS = 20
_NAMED = 8


@dataclass(slots=True)
class Journey:
    """`verb` for each of `rows`; what it says of itself is written by the thread that makes it."""

    verb: str
    rows: Sequence[Row]
    stop: threading.Event = field(default_factory=threading.Event)
    at: int = 0
    progress: dict[str, Any] | None = None
    said: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def travel(self, bring: Bring) -> None:
        """Make the moves. A failure ends its own move only, being stopped ends all."""
        for at, row in enumerate(self.rows):
            if self.stop.is_set():
                return
            self.at, self.progress = at, None
            try:
                self.said.append(describe_outcome(self.verb, bring(self.verb, row.path, self.stop, self._note)))
            except Stopped as error:
                self.failed.append(str(error))
                return
            except SurvivedError as error:
                self.failed.append(str(error))
            except OSError as error:
                why = cause_of(error)
                self.failed.append(f"Cannot move '{row.path}': {why}. Look at it: survivectl status.")

    def _note(self, progress: dict[str, Any] | None) -> None:
        self.progress = progress


def question(verb: str, rows: Sequence[Row], home: str, cautions: Sequence[str] = ()) -> str:
    """Return what is asked before a journey begins; `cautions` are sentences to know before."""
    size = print_bytes(sum(row.size_bytes or 0 for row in rows))
    what = short_path(rows[0].path, home) if len(rows) == 1 else f"{len(rows)} directories"
    named = [f"  {print_bytes(row.size_bytes or 0):>10}  {short_path(row.path, home)}" for row in rows[:_NAMED]]
    more = [f"  {'':>10}  and {len(rows) - _NAMED} more"] if len(rows) > _NAMED else []
    if verb == "restore":
        head, tail = f"Bring {what} home?", "The link becomes a directory again, and the tree on the data disk goes."
    else:
        head, tail = f"Move {what} to a data disk?", "A link stays in its place; r brings it home again."
    minded = [f"\nMind: {printable(text)}" for text in cautions if text]
    return "\n".join([f"{head} ({size})", *([*named, *more] if len(rows) > 1 else ()), *minded, "", tail])


def draw(journey: Journey, width: int, home: str) -> list[str]:
    """Return two lines about the move that is being made."""
    row, progress = journey.rows[min(journey.at, len(journey.rows) - 1)], journey.progress
    doing = "Restoring" if journey.verb == "restore" else "Moving"
    count = f" ({journey.at + 1} of {len(journey.rows)})" if len(journey.rows) > 1 else ""
    share, facts = 0.0, "waits for its turn"
    if progress is not None and progress["path"]:
        share = min(1.0, progress["bytes_done"] / progress["bytes_total"]) if progress["bytes_total"] else 0.0
        facts = f"{describe_phase(progress)}, {describe_progress(progress)}"
    elif progress is not None:
        facts = str(progress["phase"])
    if journey.stop.is_set():
        facts = f"stopping; {facts}"
    filled = round(share * _CELLS)
    bar = f" {'█' * filled}{'░' * (_CELLS - filled)} {print_share(share):>5} "
    head = f" {doing} {short_path(row.path, home)}{count}"
    return [pad(cut(head, width - len(bar)), width - len(bar)) + bar, cut(f" {printable(facts)}", width)]


def sum_up(journey: Journey) -> str:
    """Return one line about a journey that has ended."""
    said, failed = journey.said, journey.failed
    if len(said) + len(failed) == 1:
        return printable((failed or said)[0])
    word = "came home" if journey.verb == "restore" else "moved"
    left = len(journey.rows) - len(said) - len(failed)
    parts = [f"{len(said)} {word}"] + ([f"{len(failed)} not"] if failed else []) + ([f"{left} not begun"] if left else [])
    return ", ".join(parts) + "."


def describe_outcome(verb: str, result: dict[str, Any]) -> str:
    """Return one sentence about a move that came to its end."""
    path, size = printable(result["path"]), print_bytes(result["size_bytes"])
    if verb == "restore":
        return f"Restored {path}, {size}."
    return f"Moved {path} to {printable(disk_of(result['target']))}: freed {print_bytes(result['freed_bytes'])} of {size}."
