"""
`survivectl history`: usage over time with the marks and every move on it, as a plot in the terminal or as a page.

Read from the samples and journals of all stores, without their locks, so that it works whether or not a daemon runs.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from survived.ctl import local, plot
from survived.ctl.look import fitting, has_colour, width
from survived.ctl.main import nearest, print_json, printable, say
from survived.errors import SurvivedError, UsageError
from survived.model import Sample, Stage, Verb
from survived.store import history as kept
from survived.store.database import Database
from survived.tell.columns import painted, plain, wrap
from survived.tell.verdict import disk_of
from survived.tell.wire import path_fields
from survived.units import parse_seconds, print_bytes, print_seconds, print_share, print_time

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from survived.machine import Machine
    from survived.model import Filesystem, Operation

SIGNS = {Verb.RELOCATE: "▲", Verb.RESTORE: "▼", Verb.REHOME: "◆"}
"""What a move is on a plot: one that frees the filesystem, one that fills it, one between data disks."""
_MOST_MOVES = 10_000
_LISTED = 12
_NARROWEST = 50
_PLOT_LINES = 14


@dataclass(frozen=True, slots=True)
class Curve:
    """One filesystem over time: its samples, oldest first, and its marks as usages by name."""

    mount: str
    marks: dict[str, float]
    samples: tuple[Sample, ...]

    @property
    def points(self) -> list[tuple[float, float]]:
        """Return (time, usage) of each sample."""
        return [(item.time, usage_of(item)) for item in self.samples]


@dataclass(frozen=True, slots=True)
class Past:
    """What was between two times: the curves, and the moves that ended then, oldest first."""

    since: float
    until: float
    curves: tuple[Curve, ...]
    moves: tuple[Operation, ...]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `history`."""
    parser.add_argument(
        "filesystem", nargs="?", metavar="FILESYSTEM", help="a mount point, or a path on it; else all that is watched"
    )
    parser.add_argument("--since", default="7d", metavar="TIME", help="how far back, such as 12h, 7d or 52w; 7d if it is not given")
    parser.add_argument("--html", metavar="FILE", help="write a page with the curve, what uses the disk, and the moves")


def run(args: argparse.Namespace) -> int:
    """Print the plot, the object, or with --html write the page and say where; 1 where nothing could be read."""
    try:
        seconds = parse_seconds(args.since)
    except ValueError as error:
        raise UsageError(f"Cannot look back: {error}.", "For a week: survivectl history --since 7d.") from error
    now = time.time()
    if not 60 <= seconds <= now:
        raise UsageError(f"Cannot look back for {args.since!r}: a minute is the least, and the most is 400d.")
    machine = local.open_machine(args)
    past = read(machine, now - seconds, now, args.filesystem)
    if args.html is not None:
        from survived.ctl import usage_page

        path = usage_page.write(machine, past, args.html)
        if args.json:
            print_json({"html": path_fields(path)["path"], **document(past)})
        else:
            print(f"Wrote '{printable(path)}'.")
    elif args.json:
        print_json(document(past))
    else:
        _show(past)
    return 0


# ---- reading ------------------------------------------------------------------------------------------------------


def read(machine: Machine, since: float, until: float, only: str | None = None) -> Past:
    """Return what is known between two times, of one filesystem or of all; `UsageError` for one that has no samples."""
    filesystems = {fs.mount: fs for fs in machine.read_filesystems()}
    with contextlib.ExitStack() as stack:
        databases = [stack.enter_context(contextlib.closing(item)) for item in _databases(machine)]
        known = {mount for database in databases for mount in kept.mounts(database)}
        mounts = [_mount(only, known, filesystems)] if only is not None else [*filesystems, *sorted(known - set(filesystems))]
        curves = []
        for mount in mounts:
            found = {item.time: item for database in databases for item in kept.since(database, mount, since) if item.time <= until}
            fs = filesystems.get(mount)
            if fs is not None:
                found[until] = Sample(until, mount, fs.used_bytes, fs.available_bytes, fs.inodes_used)
            samples = tuple(found[when] for when in sorted(found))
            if samples:
                curves.append(Curve(mount, _marks(machine, samples[-1]), samples))
    moves = [
        item for _, item in machine.records.read(lambda journal: journal.recent(_MOST_MOVES)) if since <= item.changed <= until
    ]
    moves = [item for item in moves if item.stage is Stage.DONE]
    return Past(since, until, tuple(curves), tuple(sorted(moves, key=lambda item: item.changed)))


def usage_of(sample: Sample) -> float:
    """Return used / (used + available)."""
    total = sample.used_bytes + sample.available_bytes
    return sample.used_bytes / total if total > 0 else 0.0


def _databases(machine: Machine) -> list[Database]:
    """Return the databases of all stores that can be read; what cannot is told, and the rest is shown."""
    found = []
    for path in machine.records.stores():
        place = os.path.join(path, "state.db")
        if os.path.isfile(place):
            try:
                found.append(Database(place, (), read_only=True))
            except SurvivedError as error:
                say(f"survivectl: {error.message}", error.hint)
    return found


def _mount(word: str, known: set[str], filesystems: dict[str, Filesystem]) -> str:
    """Return the mount that a word names: itself, or a path on it."""
    mounts = known | set(filesystems)
    path = os.path.normpath(os.path.join(os.getcwd(), os.path.expanduser(word)))
    if path in mounts:
        return path
    if os.path.exists(path):
        device = os.stat(path).st_dev
        for mount in sorted(mounts, key=len, reverse=True):
            with contextlib.suppress(OSError):
                if os.stat(mount).st_dev == device:
                    return mount
    near = nearest(word, mounts)
    hint = f"Did you mean '{near}'?" if near else f"There are samples of: {', '.join(sorted(mounts)) or 'none yet'}."
    raise UsageError(f"Cannot find the filesystem '{printable(word)}': it is none that is watched.", hint)


def _marks(machine: Machine, sample: Sample) -> dict[str, float]:
    marks, total = machine.rules.bytes_marks, sample.used_bytes + sample.available_bytes
    return {name: getattr(marks, name).as_usage(total) for name in ("low", "high", "flood")}


# ---- telling ------------------------------------------------------------------------------------------------------


def document(past: Past) -> dict[str, Any]:
    """Return what was for JSON."""
    return {
        "since": print_time(past.since),
        "until": print_time(past.until),
        "filesystems": [
            {
                **path_fields(curve.mount, "mount"),
                **{name: round(usage, 6) for name, usage in curve.marks.items()},
                "samples": [
                    {
                        "time": print_time(item.time),
                        "used_bytes": item.used_bytes,
                        "available_bytes": item.available_bytes,
                        "usage": round(usage_of(item), 6),
                        "inodes_used": item.inodes_used,
                    }
                    for item in curve.samples
                ],
            }
            for curve in past.curves
        ],
        "moves": [
            {
                "time": print_time(item.changed),
                "verb": item.verb.value,
                "id": item.cache_id,
                **path_fields(item.source),
                **path_fields(item.target, "target"),
                "size_bytes": item.size_bytes,
                "freed_bytes": item.freed_bytes,
            }
            for item in past.moves
        ],
    }


def summary(curve: Curve, past: Past) -> str:
    """Return one sentence about a curve: now, the most, the least, and what came of it."""
    points = curve.points
    most, least = max(points, key=lambda point: point[1]), min(points, key=lambda point: point[1])
    grown = curve.samples[-1].used_bytes - curve.samples[0].used_bytes
    text = f"{curve.mount} is {print_share(points[-1][1])} full"
    if len(points) == 1:
        return f"{text}; there is no sample of the last {print_seconds(past.until - past.since)}."
    change = f"{print_bytes(abs(grown))} {'more' if grown >= 0 else 'less'} than {print_seconds(past.until - points[0][0])} ago"
    ends = [f"at {word} {print_share(usage)} ({_when(when)})" for word, (when, usage) in (("most", most), ("least", least))]
    return f"{text}, {change}; {', '.join(ends)}."


def describe(move: Operation) -> str:
    """Return a move in words: `pip to /data1/alice, 3.00 GiB, 2.90 GiB freed`."""
    size = print_bytes(move.size_bytes)
    if move.verb is Verb.RESTORE:
        return f"{move.cache_id} home, {size}"
    freed = f", {print_bytes(move.freed_bytes)} freed" if move.freed_bytes and move.verb is Verb.RELOCATE else ""
    return f"{move.cache_id} to {disk_of(move.target)}, {size}{freed}"


def _when(unix: float) -> str:
    return time.strftime("%b %d %H:%M", time.localtime(unix))


def _show(past: Past) -> None:
    paint, columns = painted if has_colour() else plain, width(_NARROWEST)
    is_ascii = fitting("⣿▲") != "⣿▲" or os.environ.get("TERM") == "linux"  # whose font has no braille
    signs = [(item.changed, SIGNS[item.verb]) for item in past.moves]
    lines: list[str] = []
    for curve in past.curves:
        lines += [*wrap(summary(curve, past), columns, 0), ""]
        if len(curve.samples) > 1:
            lines += plot.draw(
                curve.points, (past.since, past.until), curve.marks, signs,
                width=columns, height=_PLOT_LINES, is_ascii=is_ascii, paint=paint,
            )  # fmt: skip
            lines.append("")
    if all(len(curve.samples) < 2 for curve in past.curves):
        lines += wrap(
            "The daemon takes a sample a minute and keeps it on a data disk: survivectl status says whether it runs.", columns, 0
        )
    if len(past.moves) > _LISTED:
        lines.append(f"{len(past.moves) - _LISTED} earlier moves: --json has all")
    for move in past.moves[-_LISTED:]:
        lines += wrap(f"{SIGNS[move.verb]}  {_when(move.changed)}  {describe(move)}", columns, 17)
    print("\n".join(fitting(line) for line in _without_end(lines)))
    sys.stdout.flush()


def _without_end(lines: Sequence[str]) -> Sequence[str]:
    return lines[:-1] if lines and not lines[-1] else lines
