"""
Single values of the configuration: read from what a TOML file may hold, and written back as a file would have them.

A reader takes anything and raises ValueError (pydantic lets a TypeError through) with a sentence that shows what is
expected; its caller names the key. A written value reads back as the same value.
"""

from __future__ import annotations

import os
import re
import shlex
from typing import Literal

from survived.model import Kind, Mark
from survived.units import parse_bytes, parse_mark, parse_seconds, print_bytes

_DAY_MINUTES = 24 * 60
_SPAN = re.compile(r"\s*(\d{1,2}):(\d\d)\s*-\s*(\d{1,2}):(\d\d)\s*", re.ASCII)
_SLOWEST = 64 * 1024  # bytes a second
_MIRRORED = ("pip", "uv", "conda", "npm", "apt", "docker", "hub")
_MOVABLE = (Kind.CACHE, Kind.ENVIRONMENT, Kind.STATE)


def _show(given: object) -> str:
    """Return a value as a message shows it: short, on one line."""
    text = repr(given) if not isinstance(given, bool) else str(given).lower()
    return text if len(text) <= 60 else f"{text[:56]}...'"


def _is_number(given: object) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool)


def read_mark(given: object) -> Mark:
    """Return a mark from `"90%"`, `0.9` or `"20 GiB free"`."""
    return _parse_mark(given, "'90%' or '20 GiB free'")


def read_inodes_mark(given: object) -> Mark:
    """Return a mark of inodes from `"90%"`, `0.9` or `"5000 free"`."""
    return _parse_mark(given, "'90%' or '5000 free'")


def _parse_mark(given: object, example: str) -> Mark:
    try:
        if isinstance(given, str):
            return parse_mark(given)
        if isinstance(given, int | float) and not isinstance(given, bool):
            return parse_mark(float(given))
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{_show(given)} is not a mark; a mark looks like {example}") from None


def read_keep_free(given: object) -> Mark:
    """Return the mark that a data disk's usage may not pass from what must stay free: `"5%"` or `"50 GiB"`."""
    if isinstance(given, str):
        try:
            if not given.strip().endswith("%"):
                return Mark(free=parse_bytes(re.sub(r"(?i)\s*free\s*$", "", given)))
            if 0 < (share := float(given.strip()[:-1]) / 100) < 1:
                return Mark(usage=round(1 - share, 12))
        except (ValueError, OverflowError):
            pass
    raise ValueError(f"{_show(given)} is not an amount to keep free; it looks like '5%' or '50 GiB'")


def read_seconds(given: object) -> float:
    """Return seconds from `"30s"`, `"1h 30min"` or a number."""
    try:
        if isinstance(given, str) or _is_number(given):
            return parse_seconds(given)  # type: ignore[arg-type]
    except ValueError:
        pass
    raise ValueError(f"{_show(given)} is not a duration; a duration looks like '30s' or '1h 30min'")


def read_timeout(given: object) -> float:
    """Return seconds above zero."""
    seconds = read_seconds(given)
    if seconds <= 0:
        raise ValueError(f"{_show(given)} is no time at all; a time limit looks like '30s'")
    return seconds


def read_bytes(given: object) -> int:
    """Return bytes from `"100 MiB"` or a whole number."""
    try:
        if isinstance(given, str | int) and not isinstance(given, bool):
            return parse_bytes(given)
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{_show(given)} is not a size; a size looks like '100 MiB'")


def read_rate(given: object) -> int:
    """Return bytes a second from `"50 MiB/s"`, `"50 MiB"` or a whole number; 0 means no limit."""
    try:
        rate = read_bytes(re.sub(r"\s*/\s*s\s*$", "", given) if isinstance(given, str) else given)
    except ValueError:
        raise ValueError(f"{_show(given)} is not a rate; a rate looks like '50 MiB/s', and '0' is no limit") from None
    if 0 < rate < _SLOWEST:
        raise ValueError(f"{_show(given)} is too slow to come to an end; at least '{write_rate(_SLOWEST)}', or '0' for no limit")
    return rate


def read_count(given: object) -> int:
    """Return a whole number, zero or more."""
    if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
        return given
    raise ValueError(f"{_show(given)} is not a count; a count is a whole number like 512")


def read_flag(given: object) -> bool:
    """Return true or false; no other word counts."""
    if isinstance(given, bool):
        return given
    raise ValueError(f"{_show(given)} is neither true nor false (without quotes)")


def read_purge(given: object) -> bool | str:
    """Return true (the tool's own clean command), false, or a command with its words, as a shell would split them."""
    if isinstance(given, bool):
        return given
    try:
        if isinstance(given, str) and "\0" not in given and shlex.split(given):
            return given.strip()
    except ValueError:  # a quotation that does not end
        pass
    raise ValueError(f"{_show(given)} is neither true nor a command; a command looks like 'uv cache prune', and no shell reads it")


def read_title(given: object) -> str:
    """Return a title: one line of text."""
    if isinstance(given, str) and given.strip() and given.isprintable():
        return given.strip()
    raise ValueError(f"{_show(given)} is not a title; a title is one line of text like 'my renderings'")


def read_path(given: object) -> str:
    """Return an absolute path, tidied; `~` and variables are replaced before."""
    if not isinstance(given, str) or not given:
        raise ValueError(f"{_show(given)} is not a path; a path looks like '/data1/alice' or '~/big'")
    if "\0" in given:
        raise ValueError(f"{_show(given)} is not a path; no path holds a NUL character")
    if not os.path.isabs(given):
        raise ValueError(f"{_show(given)} is not an absolute path; a path begins with '/' or '~/'")
    return tidy(given)


def read_textfile(given: object) -> str:
    """Return the absolute path of a file that node_exporter's textfile collector reads: it takes only `*.prom`."""
    path = read_path(given)
    if not path.endswith(".prom") or path.endswith("/.prom"):
        raise ValueError(f"{_show(given)} is not read by node_exporter, which wants names like 'survived-alice.prom'")
    return path


def read_cache_path(given: object) -> str:
    """Return the path of a cache, with the wildcards of the shell or without; `**` would be a walk over everything."""
    path = read_path(given)
    if "**" in path:
        raise ValueError(f"{_show(given)} is no path of a cache; a wildcard stands for one name, as in '~/work/*/wandb'")
    return path


def read_patterns(given: object) -> tuple[str, ...]:
    """Return patterns of what is never touched; `**` may only close one, and stands for all below, which is meant anyhow."""
    if not isinstance(given, list):
        raise ValueError(f'{_show(given)} is not a list of patterns; it looks like ["~/keep/**"]')  # noqa: TRY004
    patterns = tuple(dict.fromkeys(read_path(item) for item in given))
    for pattern in patterns:
        if "**" in pattern.removesuffix("/**"):
            raise ValueError(f"{_show(pattern)} is no pattern; '**' may only stand at its end, as in '~/keep/**'")
    return patterns


def tidy(path: str) -> str:
    """Return an absolute path without `.`, `..`, double and closing slashes; no link is followed."""
    return "/" + os.path.normpath(path).lstrip("/")


def read_paths(given: object) -> tuple[str, ...]:
    """Return absolute paths, each once."""
    if not isinstance(given, list):
        raise ValueError(f'{_show(given)} is not a list of paths; it looks like ["/data1/alice"]')  # noqa: TRY004
    if not given:
        raise ValueError("the list is empty; leave the key out to have it found")
    return tuple(dict.fromkeys(read_path(item) for item in given))


def read_kind(given: object) -> Kind:
    """Return a kind by its name."""
    try:
        return Kind(given)  # type: ignore[arg-type]
    except ValueError:
        raise ValueError(f"{_show(given)} is not a kind; it is one of {', '.join(Kind)}") from None


def read_kinds(given: object) -> frozenset[Kind]:
    """Return the kinds that may move; temporary files never do."""
    if not isinstance(given, list):
        raise ValueError(f'{_show(given)} is not a list of kinds; it looks like ["cache", "environment"]')  # noqa: TRY004
    for item in given:
        if item not in _MOVABLE:
            raise ValueError(f"{_show(item)} is not a kind that moves; those are {', '.join(_MOVABLE)}")
    return frozenset(Kind(item) for item in given)


def read_verify(given: object) -> Literal["metadata", "content"]:
    """Return how copies are verified."""
    if given == "metadata":
        return "metadata"
    if given == "content":
        return "content"
    raise ValueError(f"{_show(given)} is not a way to verify; it is 'metadata' or 'content'")


def read_watching(given: object) -> Literal["off", "tell", "switch"]:
    """Return what comes of a mirror that does not do."""
    if given == "off":
        return "off"
    if given == "tell":
        return "tell"
    if given == "switch":
        return "switch"
    raise ValueError(f"{_show(given)} is nothing that comes of a bad mirror; it is 'off', 'tell' or 'switch'")


def read_more_mirrors(given: object) -> tuple[tuple[str, str], ...]:
    """Return tools and URLs of mirrors from a list of `"TOOL URL"`."""
    if not isinstance(given, list) or not all(isinstance(item, str) and len(item.split()) == 2 for item in given):
        raise ValueError(f'{_show(given)} is not a list of mirrors; it looks like ["pip https://nexus.intra/simple"]')
    found = tuple((item.split()[0], item.split()[1]) for item in given)
    for tool, url in found:
        if tool not in _MIRRORED:
            raise ValueError(f"{_show(tool)} has no mirrors; tools that have are {', '.join(_MIRRORED)}")
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{_show(url)} is no http or https URL")
    return found


def read_hours(given: object) -> tuple[tuple[int, int], ...]:
    """Return spans of the day in minutes from `["09:00-18:00"]`; one whose end is the earlier goes past midnight."""
    if not isinstance(given, list):
        raise ValueError(f'{_show(given)} is not a list of hours; it looks like ["09:00-18:00"]')  # noqa: TRY004
    return tuple(_read_span(item) for item in given)


def _read_span(given: object) -> tuple[int, int]:
    found = _SPAN.fullmatch(given) if isinstance(given, str) else None
    if found is not None:
        hours = [int(part) for part in found.groups()]
        begin, end = hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
        if max(begin, end) <= _DAY_MINUTES and max(hours[1], hours[3]) < 60 and begin not in (end, _DAY_MINUTES):
            return begin, end
    raise ValueError(f"{_show(given)} is not a span of hours; one looks like '09:00-18:00' or '22:30-06:00'")


def write_hours(spans: tuple[tuple[int, int], ...]) -> list[str]:
    """Return spans of the day as the file writes them."""
    return [f"{a // 60:02d}:{a % 60:02d}-{b // 60:02d}:{b % 60:02d}" for a, b in spans]


def write_bytes(size: int) -> str | int:
    """Return a size as the file writes it, or the plain number where the text would round it."""
    text = print_bytes(size)
    return text if parse_bytes(text) == size else size


def write_rate(rate: int) -> str | int:
    """Return a rate as the file writes it, or the plain number where the text would round it."""
    text = print_bytes(rate)
    return rate if parse_bytes(text) != rate else f"{text}/s" if rate else "0"


def write_seconds(seconds: float) -> str:
    """Return a duration as the file writes it."""
    return f"{int(seconds) if seconds == int(seconds) else seconds}s"


def write_mark(mark: Mark) -> str:
    """Return a mark of bytes as the file writes it."""
    return f"{write_bytes(mark.free)} free" if mark.free is not None else _write_share(mark.usage or 0.0)


def write_inodes_mark(mark: Mark) -> str:
    """Return a mark of inodes as the file writes it."""
    return f"{mark.free} free" if mark.free is not None else _write_share(mark.usage or 0.0)


def write_keep_free(mark: Mark) -> str | int:
    """Return `keep_free` as the file writes it."""
    return write_bytes(mark.free) if mark.free is not None else _write_share(1 - (mark.usage or 0.0))


def _write_share(share: float) -> str:
    return f"{round(share * 100, 10):.12g}%"
