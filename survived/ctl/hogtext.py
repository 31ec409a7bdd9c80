"""
What `survivectl hogs` prints, from a report: as one object, or as text for people.
"""

from __future__ import annotations

import os
import pwd
import shlex
from typing import TYPE_CHECKING, Any

from survived.ctl.look import fitting, printable, width
from survived.observe.deleted import describe
from survived.tell import quotas
from survived.tell.columns import wrap
from survived.tell.wire import path_fields
from survived.units import print_bytes, print_seconds, print_time

if TYPE_CHECKING:
    from collections.abc import Iterable

    from survived.ctl.hogs import Report
    from survived.findings import Grower, Hog, Twins

_SHOWN = 15
_FEW = 5
_SINCE = {"yesterday": "a day or more", "notice": "the last notice"}


def document(report: Report) -> dict[str, Any]:
    """Return the report for JSON."""
    return {
        "time": print_time(report.time),
        "filesystems": [
            {**path_fields(fs.mount, "mount"), "available_bytes": fs.available_bytes, **quotas.documents(fs)}
            for fs in report.filesystems
        ],
        "roots": [path_fields(root) for root in report.look.roots],
        "entries": report.look.entries,
        "hogs": [
            {
                **path_fields(hog.path),
                "kind": "rest" if hog.is_rest else "directory" if hog.is_directory else "file",
                "size_bytes": hog.size_bytes,
                "entries": hog.entries,
                "uid": hog.owner,
                "command": command(hog),
                "why_not": hog.why_not,
            }
            for hog in report.look.hogs
        ],
        "files": [
            {**path_fields(file.path), "length": file.length, "size_bytes": file.size_bytes, **path_fields(file.place, "place")}
            for file in report.look.files[:_SHOWN]
        ],
        "owners": [{"uid": uid, "name": _name(uid), "size_bytes": size} for uid, size in report.look.owners if report.everybody],
        "deleted": [
            {
                "pid": item.pid,
                "also": list(item.also),
                "command": item.command,
                **path_fields(item.path),
                "size_bytes": item.size_bytes,
            }
            for item in report.deleted
        ],
        "twins": [
            {
                "saved_bytes": twins.saved_bytes,
                "verified": twins.is_verified,
                "files": [
                    {**path_fields(file.path), "size_bytes": file.size_bytes, **path_fields(file.place, "place")}
                    for file in twins.files
                ],
            }
            for twins in report.twins
        ],
        "growth": {
            name: {"since": print_time(then), "growers": [_grower(item) for item in grown]}
            for name, (then, grown) in report.growth.items()
        },
        "unreadable": report.look.unreadable,
    }  # fmt: skip


def _grower(item: Grower) -> dict[str, Any]:
    return {
        **path_fields(item.path),
        "was_bytes": item.was_bytes,
        "size_bytes": item.size_bytes,
        "grown_bytes": item.grown_bytes,
        "new": item.is_new,
    }


def command(hog: Hog) -> str | None:
    """Return what moves a hog, or None where nothing does."""
    if hog.why_not is not None or hog.is_rest or not hog.is_directory:
        return None
    return f"survivectl relocate {shlex.quote(hog.path)}"


def show(report: Report) -> None:
    """Print the report."""
    for fs in report.filesystems:
        _say(_standing(report, fs.mount))
    _hogs(report)
    if report.deleted:
        _say(f"\nDeleted, but still open ({print_bytes(sum(item.size_bytes for item in report.deleted))}; ends with the process):")
        for item in report.deleted[:_SHOWN]:
            _say(f"  {item.path}, {describe(item)}", 4)
    if report.twins:
        _say(f"\nThe same in two places ({print_bytes(sum(twins.saved_bytes for twins in report.twins))} too many):")
        for twins in report.twins[:_FEW]:
            _twins(twins)
    for name, (then, grown) in report.growth.items():
        if grown:
            _say(f"\nGrown since {_SINCE[name]} ({print_seconds(report.time - then)} ago):")
            for grower in grown[:_FEW]:
                least = "at least " if grower.is_new else ""
                _say(f"  {least}{print_bytes(grower.grown_bytes)}, to {print_bytes(grower.size_bytes)}: {grower.path}", 4)
    if report.look.unreadable is not None:
        _say(f"\nNot looked into, as it cannot be read: {report.look.unreadable}")
    if not report.has_store and any(command(hog) for hog in report.look.hogs):
        _say("\nThere is no data disk to move anything to: survivectl check says why.")


def _standing(report: Report, mount: str) -> str:
    fs = next(fs for fs in report.filesystems if fs.mount == mount)
    doc = {**path_fields(fs.mount, "mount"), **quotas.documents(fs)}
    parts = [f"{quotas.whose(doc)}: {print_bytes(fs.available_bytes)} of {print_bytes(fs.capacity_bytes)} available"]
    if doc["quota"] and (text := quotas.describe(doc["quota"], print_time(report.time))):
        parts.append(f"quota {text}")
    if fs.reserved_bytes:
        parts.append(f"{print_bytes(fs.reserved_bytes)} more are reserved for root")
    return "; ".join(parts)


def _hogs(report: Report) -> None:
    if not report.look.hogs:
        _say("Nothing big lies there that is not in a known cache: survivectl measure shows those.")
        return
    if report.everybody:
        rows = ", ".join(f"{_name(uid)} {print_bytes(size)}" for uid, size in report.look.owners[:_FEW])
        _say(f"By owner, known caches apart: {rows}")
    for owner, hogs in _by_owner(report):
        _say(f"\n{_name(owner)}:" if report.everybody else "")
        for hog in hogs[:_SHOWN]:
            what = f"{hog.path}{' (what else is in it)' if hog.is_rest else '' if not hog.is_directory else '/'}"
            _say(f"{print_bytes(hog.size_bytes):>10}  {what}", 12)
            if (order := command(hog)) is not None:
                print(fitting(f"{'':12}{printable(order)}"))  # in one line, to be taken as it is
            else:
                _say(f"{'':12}stays: {hog.why_not}", 14)
        if len(hogs) > _SHOWN:
            _say(f"{'':12}and {len(hogs) - _SHOWN} smaller ones: --json has all", 12)


def _by_owner(report: Report) -> list[tuple[int, list[Hog]]]:
    """Return the hogs of each owner, whose hogs are bigger first."""
    found: dict[int, list[Hog]] = {}
    for hog in report.look.hogs:
        found.setdefault(hog.owner if report.everybody else -1, []).append(hog)
    return sorted(found.items(), key=lambda item: -sum(hog.size_bytes for hog in item[1]))


def _twins(twins: Twins) -> None:
    seen = "every byte compared" if twins.is_verified else "by samples; --verify compares every byte"
    _say(f"  {print_bytes(twins.saved_bytes)} would be saved ({seen}):", 4)
    for file in twins.files:
        _say(f"    {file.place}: {os.path.relpath(file.path, file.place) if file.place.startswith('/') else file.path}", 6)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _say(text: str, indent: int = 0) -> None:
    for line in _lines(text, indent):
        print(fitting(line))


def _lines(text: str, indent: int) -> Iterable[str]:
    head = text[: len(text) - len(text.lstrip("\n"))]
    return [*("" for _ in head), *wrap(printable(text.lstrip("\n")), width(), indent)]
