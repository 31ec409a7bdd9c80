"""
The verbs that only look: status, measure.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

from survived.ctl import local, short
from survived.ctl.main import print_json, say
from survived.ctl.main import printable as printable
from survived.errors import DaemonNotRunning, SurvivedError
from survived.settings.paths import client_socket
from survived.tell import status
from survived.tell.page import NARROWEST, WIDEST
from survived.units import print_bytes, print_time, sentence

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from survived.machine import Machine
    from survived.model import CacheReading, Gauge, Observation

STYLES = ("plain", "tmux", "zsh")
"""Whose prompt `status --short` is for; see `tell.verdict.brief`."""


def width(least: int = 60) -> int:
    """Return the columns of the terminal, 80 where there is none, `least` in a narrower one."""
    return max(least, min(WIDEST, shutil.get_terminal_size((80, 24)).columns))


def fitting(text: str) -> str:
    """Return text with what the terminal's encoding lacks drawn in ASCII, column for column."""
    encoding = sys.stdout.encoding or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(str.maketrans("█░…�┊│┃→", "#.~?:|!>")).encode(encoding, "replace").decode(encoding)
    return text


def has_colour() -> bool:
    """Tell whether colours are wanted: on a terminal that knows them, and NO_COLOR is not set."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


# ---- status -------------------------------------------------------------------------------------------------------


def configure_status(parser: argparse.ArgumentParser) -> None:
    """Add the options of `status`."""
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--watch", action="store_true", help="redraw every second until Ctrl-C or q")
    ways.add_argument(
        "--short", nargs="?", const="plain", choices=STYLES, metavar="STYLE",
        help="one token for a prompt, nothing when all is well; STYLE: plain, tmux or zsh. Exit code 0, 3 no daemon, 5 look at it",
    )  # fmt: skip
    ways.add_argument("--quiet", action="store_true", help="the first line only, and only when something is wrong")


def run_status(args: argparse.Namespace) -> int:
    """Print the status document; exit code 3 if no daemon runs, though the answer is complete."""
    if args.short or args.quiet:
        return _run_short(args)
    if args.watch and not args.json:
        from survived.ctl import watch

        return watch.run(lambda columns, colour: fitting(status.render(read_status(args), width=columns, colour=colour)))
    doc = read_status(args)
    if args.json:
        print_json(doc)
    else:
        print(fitting(status.render(doc, width=width(NARROWEST), colour=has_colour())))
    return 0 if doc["daemon"]["running"] else DaemonNotRunning.exit_code


def read_status(args: argparse.Namespace) -> dict[str, Any]:
    """Return the daemon's status, or our own view of the same if none runs."""
    doc = local.ask_or_none("status")
    return doc if doc is not None else status.document(look(local.open_machine(args)))


def look(machine: Machine) -> status.Snapshot:
    """Return a snapshot by looking for ourselves; pressure is judged without dwell and memory."""
    from survived.decide import guardian, policy
    from survived.decide.pressure import worst
    from survived.store.outbox import Outbox

    seen = machine.observe()
    gauges = judge(machine, seen)
    plan = policy.plan(seen, {mount: worst(pair) for mount, pair in gauges.items()}, machine.rules, gauges=gauges)
    links = [(reading, guardian.judge(reading)) for reading in machine.records.links(seen.stores)]
    return status.Snapshot(
        time.time(), seen, machine.rules, gauges, notices=Outbox(None).summary(), plan=plan, links=links,
        standins=machine.records.standins(),
    )  # fmt: skip


def judge(machine: Machine, seen: Observation) -> dict[str, tuple[Gauge, Gauge]]:
    """Return gauges as a daemon would have them that saw this and nothing before."""
    from dataclasses import replace

    from survived.decide.pressure import step_filesystem
    from survived.model import Gauge

    rules = replace(machine.rules, dwell_seconds=0.0)
    return {fs.mount: step_filesystem((Gauge(), Gauge()), fs, rules, 0.0) for fs in seen.filesystems}


def _run_short(args: argparse.Namespace) -> int:
    """Print the token or the line; without a daemon from our own look, for which `short.py`, too, has no patience."""
    try:
        said = short.ask(str(client_socket(local.find_paths(args))), args.short or "plain")
    except SurvivedError:  # none that knows the question
        said = status.brief(read_status(args), args.short or "plain")
    if args.json:
        print_json({key: value for key, value in said.items() if key != "exit_code"})
    else:
        short.show(said, is_line=args.quiet)
    return int(said["exit_code"])


# ---- measure ------------------------------------------------------------------------------------------------------


def configure_measure(parser: argparse.ArgumentParser) -> None:
    """Add the paths of `measure`."""
    parser.add_argument("paths", nargs="*", metavar="PATH", help="directories or cache ids; all known caches if none is given")


def run_measure(args: argparse.Namespace) -> int:
    """Print sizes and what moving would free."""
    from survived import errands
    from survived.observe.caches import read_caches

    machine = local.open_machine(args)
    targets = {item.source: item.target for _, item in machine.relocations()}
    caches = [errands.find_cache(machine, word) for word in args.paths] or list(machine.known_caches())
    readings = [reading for reading in read_caches(caches, time.time(), targets) if args.paths or reading.state != "absent"]
    readings.sort(key=lambda reading: -reading.size.size_bytes)
    if args.json:
        print_json(
            {
                "caches": [
                    {
                        "id": r.cache.id,
                        "kind": r.cache.kind.value,
                        **status.path_fields(r.cache.path),
                        "rule": r.cache.rule,
                        "state": r.state.value,
                        **(status.path_fields(r.target, "target") if r.target else {"target": None}),
                        "size_bytes": r.size.size_bytes,
                        "reclaimable_bytes": r.size.reclaimable_bytes,
                        "files": r.size.files,
                        "directories": r.size.directories,
                        "newest_change": print_time(r.size.newest_change) if r.size.newest_change else None,
                        "holders": [{"pid": h.pid, "name": h.name} for h in r.holders],
                        "error": r.error,
                    }
                    for r in readings
                ]
            }
        )
    elif readings:
        _print_sizes(readings)
    else:
        print("None of the known caches is there.")
    missing = [r for r in readings if r.error or r.state == "absent"] if args.paths else [r for r in readings if r.error]
    for r in missing:
        say(f"survivectl: {trouble(r)}")
    return SurvivedError.exit_code if args.paths and missing else 0


def _print_sizes(readings: Sequence[CacheReading]) -> None:
    print(f"{'SIZE':>10} {'FREES':>10} {'FILES':>9}  {'STATE':<10} CACHE")
    for r in readings:
        name = r.cache.path if r.cache.id == r.cache.path else f"{r.cache.id}  {r.cache.path}"
        frees = print_bytes(r.size.reclaimable_bytes) if r.state == "home" else "-"
        print(f"{print_bytes(r.size.size_bytes):>10} {frees:>10} {r.size.files:>9,}  {r.state:<10} {printable(name)}")


def trouble(reading: CacheReading) -> str:
    """Return in one sentence why a cache could not be measured."""
    why = reading.error or "it is not there"
    return sentence(why if why.startswith("Cannot ") else f"Cannot measure '{reading.cache.path}': {why}")
