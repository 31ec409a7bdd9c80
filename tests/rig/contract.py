"""What scripts may rely on in `status --json`: every key of design.md, section 6, with its type."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from survived import __version__

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def _one_of(*words: str) -> Callable[[Any], bool]:
    return lambda value: value in words


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _share(value: Any) -> bool:
    return _number(value) and 0 <= value <= 1


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _time(value: Any) -> bool:
    return isinstance(value, str) and _TIME.fullmatch(value) is not None


def _text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _or_none(claim: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or claim(value)


STATUS: dict[str, Any] = {
    "schema": lambda value: value == 1,
    "version": lambda value: value == __version__,
    "time": _time,
    "daemon": {
        "running": lambda value: isinstance(value, bool),
        "pid": _or_none(_count),
        "since": _or_none(_time),
        "paused_until": _or_none(_time),
    },
    "pressure": _one_of("normal", "high", "flood"),
    "filesystems": [
        {
            "mount": _text, "device": _text, "capacity_bytes": _count, "used_bytes": _count, "available_bytes": _count,
            "usage": _share, "inodes_usage": _share, "pressure": _one_of("normal", "high", "flood"),
            "high": _share, "low": _share, "flood": _share, "seconds_to_full": _or_none(_number),
        }
    ],
    "caches": [
        {
            "id": _text, "kind": _one_of("cache", "environment", "state", "temporary"), "path": _text,
            "state": _one_of("home", "moving", "relocated", "dangling", "absent"),
            "size_bytes": _count, "reclaimable_bytes": _count, "target": _or_none(_text),
        }
    ],
    "stores": [
        {
            "path": _text, "mount": _text, "available_bytes": _count, "usage": _share,
            "ok": lambda value: isinstance(value, bool), "reason": _or_none(_text),
        }
    ],
    "move": lambda value: value is None or isinstance(value, dict),
    "notices": {"pending": _count, "last_delivered": _or_none(_time), "last_error": _or_none(_text)},
}  # fmt: skip


def check(value: Any, wanted: Any, where: str = "status") -> None:
    """Check that every promised key is there with the promised type; further keys are fine."""
    if isinstance(wanted, dict):
        assert isinstance(value, dict), where
        for key, claim in wanted.items():
            assert key in value, f"{where}.{key} is missing"
            check(value[key], claim, f"{where}.{key}")
    elif isinstance(wanted, list):
        assert isinstance(value, list), where
        assert value, f"{where} is empty"
        for number, item in enumerate(value):
            check(item, wanted[0], f"{where}[{number}]")
    else:
        assert wanted(value), f"{where} is {value!r}"
