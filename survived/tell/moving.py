"""
A running operation, for JSON and in words: phase, bytes, files, rate, time left, and what it waits for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from survived.tell.wire import path_fields
from survived.units import print_bytes, print_seconds, print_time

if TYPE_CHECKING:
    from collections.abc import Mapping

    from survived.model import Progress

_COUNTED = ("copy", "verify")
"""The phases of which rate and time left are known."""


def progress_document(progress: Progress) -> dict[str, Any]:
    """Return a running operation for JSON."""
    return {
        "verb": progress.verb.value,
        "id": progress.cache_id,
        **path_fields(progress.source),
        **path_fields(progress.target, "target"),
        "phase": progress.phase,
        "note": progress.note,
        "since": print_time(progress.began),
        "bytes_done": progress.bytes_done,
        "bytes_total": progress.bytes_total,
        "files_done": progress.files_done,
        "files_total": progress.files_total,
        "bytes_per_second": round(progress.bytes_per_second),
        "bytes_per_second_limit": progress.limit or None,
        "seconds_left": None if progress.seconds_left is None else round(progress.seconds_left, 1),
    }


def describe_phase(move: Mapping[str, Any]) -> str:
    """Return the phase and what it waits for: `settle (python (pid 4711) has files open there)`."""
    return f"{move['phase']} ({move['note']})" if move.get("note") else str(move["phase"])


def describe_progress(move: Mapping[str, Any]) -> str:
    """Return bytes, files, and while they are counted rate and time left."""
    facts = f"{print_bytes(move['bytes_done'])} of {print_bytes(move['bytes_total'])}"
    facts += f", {move['files_done']:,} of {move['files_total']:,} files"
    if move["phase"] in _COUNTED and move["bytes_per_second"]:
        limit = move.get("bytes_per_second_limit")
        facts += f" at {print_bytes(move['bytes_per_second'])}/s"
        facts += f" (at most {print_bytes(limit)}/s)" if limit else ""
    if move["seconds_left"] is not None:
        facts += f", {print_seconds(move['seconds_left'])} left"
    return facts
