"""
Bytes, shares, durations and times: parsed from what people write, printed for people.

Pure text in, numbers out; every parser raises ValueError with a sentence that shows a right example.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from survived.model import Mark

_BYTE_UNITS = {
    "": 1, "b": 1, "k": 1024, "kib": 1024, "kb": 1000, "m": 1024**2, "mib": 1024**2, "mb": 1000**2,
    "g": 1024**3, "gib": 1024**3, "gb": 1000**3, "t": 1024**4, "tib": 1024**4, "tb": 1000**4,
    "p": 1024**5, "pib": 1024**5, "pb": 1000**5,
}  # fmt: skip
_SECOND_UNITS = {
    "ms": 0.001, "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "m": 60.0, "min": 60.0, "minute": 60.0,
    "minutes": 60.0, "h": 3600.0, "hour": 3600.0, "hours": 3600.0, "d": 86400.0, "day": 86400.0, "days": 86400.0,
    "w": 604800.0, "week": 604800.0, "weeks": 604800.0,
}  # fmt: skip
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([A-Za-z]*)\s*")


def parse_bytes(text: str | int) -> int:
    """Return bytes from `"100 MiB"`, `"1.5G"`, `"2 TB"` or a whole number; K, M, G alone are powers of 1024."""
    if isinstance(text, int) and not isinstance(text, bool):
        if text < 0:
            raise ValueError(f"{text} is negative; a size looks like '100 MiB'")
        return text
    match = _QUANTITY.fullmatch(str(text))
    unit = _BYTE_UNITS.get(match.group(2).lower()) if match else None
    if match is None or unit is None:
        raise ValueError(f"'{text}' is not a size; a size looks like '100 MiB'")
    return int(float(match.group(1)) * unit)


def parse_seconds(text: str | float) -> float:
    """Return seconds from `"30s"`, `"1min"`, `"1h 30min"`, `"7d"` or a number of seconds."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        if text < 0:
            raise ValueError(f"{text} is negative; a duration looks like '30s' or '1h 30min'")
        return float(text)
    total, at, found = 0.0, 0, False
    while at < len(str(text)):
        match = _QUANTITY.match(str(text), at)
        unit = _SECOND_UNITS.get(match.group(2).lower() or "s") if match else None
        if match is None or unit is None:
            raise ValueError(f"'{text}' is not a duration; a duration looks like '30s' or '1h 30min'")
        total, at, found = total + float(match.group(1)) * unit, match.end(), True
    if not found:
        raise ValueError("an empty text is not a duration; a duration looks like '30s' or '1h 30min'")
    return total


def parse_mark(text: str | float) -> Mark:
    """Return a mark from `"90%"` (usage), `0.9` (usage) or `"20 GiB free"` (an amount; for inodes `"5000 free"`)."""
    from survived.model import Mark  # a client that only prints does without

    wrong = f"'{text}' is not a mark; a mark looks like '90%' or '20 GiB free'"
    if isinstance(text, int | float) and not isinstance(text, bool):
        if not 0 < text < 1:
            raise ValueError(wrong)
        return Mark(usage=float(text))
    stripped = str(text).strip()
    try:
        if stripped.lower().endswith("free"):
            return Mark(free=parse_bytes(stripped[: -len("free")]))
        if stripped.endswith("%") and 0 < (share := float(stripped[:-1]) / 100) < 1:
            return Mark(usage=share)
    except ValueError as error:
        raise ValueError(wrong) from error
    raise ValueError(wrong)


def print_bytes(size: float) -> str:
    """Return `"1.5 GiB"`: three figures, powers of 1024."""
    value, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if abs(value) < 999.5 or unit == "PiB":
            break
        value /= 1024
    if unit == "B":
        return f"{value:.0f} B"
    return f"{value:.2f} {unit}" if abs(value) < 9.995 else f"{value:.1f} {unit}" if abs(value) < 99.95 else f"{value:.0f} {unit}"


def print_share(share: float) -> str:
    """Return `"93 %"`, rounded up as df does, so that only a full disk is 100 % and an almost full one is not 99."""
    percent = share * 100
    return f"{int(percent) + (percent - int(percent) > 1e-9)} %"


def print_seconds(seconds: float) -> str:
    """Return `"45 s"`, `"3 min"`, `"2 h 5 min"`, `"3 d 4 h"`: two units at the most."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for size, unit, below, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {unit} {rest} {small}" if rest else f"{whole // size} {unit}"
    return f"{whole // 60} min"


def print_mark(mark: Mark) -> str:
    """Return the mark as it is written in the configuration."""
    if mark.usage is not None:
        return f"{mark.usage * 100:g}%"
    return f"{print_bytes(mark.free or 0)} free"


def print_time(unix: float) -> str:
    """Return RFC 3339 in UTC, with seconds: `2026-11-24T09:30:00Z`."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def sentence(text: str) -> str:
    """Return the text with a full stop, unless it ends with a mark of its own."""
    return text if text.endswith((".", "?", "!")) else f"{text}."


def escape_surrogates(text: str) -> str:
    """Return text in which bytes that were no UTF-8 stand as `\\udc..`: neither SQLite nor a mail takes lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()
