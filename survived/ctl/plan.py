"""
The verb `plan`: what would be moved now and what not, each with its reason; and a plan that is taken back to be applied.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from survived.ctl import local
from survived.ctl.look import fitting, judge, width
from survived.ctl.main import print_json, printable
from survived.errors import Refused, UsageError, cause_of
from survived.model import Reason
from survived.tell import status
from survived.tell.columns import wrap
from survived.tell.wire import path_of
from survived.units import print_bytes, print_share

if TYPE_CHECKING:
    import argparse

    from survived.decide.reasons import Moment
    from survived.machine import Machine
    from survived.model import CacheReading, Gauge, Observation, Plan, Pressure

_SAME_SIZE = 0.1


@dataclass(frozen=True, slots=True)
class Outlook:
    """A plan with all that it was made from."""

    machine: Machine
    seen: Observation
    pressures: dict[str, Pressure]
    gauges: dict[str, tuple[Gauge, Gauge]]
    moment: Moment
    plan: Plan


def configure_plan(parser: argparse.ArgumentParser) -> None:
    """Add the option of `plan`."""
    parser.add_argument("--explain", metavar="ID|PATH", help="every rule that speaks about one cache, with its numbers")


def run_plan(args: argparse.Namespace) -> int:
    """Print what would be moved now and what not; changes nothing."""
    outlook = make_plan(local.open_machine(args))
    if args.explain is not None:
        _explain(args, outlook)
    elif args.json:
        print_json(plan_document(outlook))
    else:
        _print_plan(outlook)
    return 0


def make_plan(machine: Machine) -> Outlook:
    """Look for ourselves and plan as a daemon would; what a running one remembers is asked of it."""
    from survived.decide import policy
    from survived.decide.pressure import worst
    from survived.decide.reasons import Moment
    from survived.decide.relief import relieve
    from survived.levels import minute_of_day
    from survived.model import Pressure, Reason

    seen = machine.observe(together=True)
    gauges = judge(machine, seen)
    pressures = {mount: worst(pair) for mount, pair in gauges.items()}
    running = local.ask_or_none("status")
    failed = {
        item["path"]: item["why"].partition("failed: ")[2]
        for item in (running or {}).get("plan", {}).get("refusals", ())
        if item["reason"] == Reason.FAILED_BEFORE
    }
    for fs in running["filesystems"] if running else ():
        # The daemon remembers: below high, but not yet down to low, it goes on.
        pressures[fs["mount"]] = max(pressures.get(fs["mount"], Pressure.NORMAL), Pressure(fs["pressure"]), key=lambda p: p.rank)
    moment = Moment(seen.time, failed, bool(running and running["daemon"]["paused"]), minute_of_day(time.time()))
    plan = policy.plan(
        seen, pressures, machine.rules, failed=failed, paused=moment.paused, gauges=gauges, minute=moment.minute
    )  # fmt: skip
    plan = replace(plan, handovers=relieve(seen, machine.rules, failed=failed))
    return Outlook(machine, seen, pressures, gauges, moment, plan)


def plan_document(outlook: Outlook) -> dict[str, Any]:
    """Return the plan for JSON; `relocate --plan` takes it back."""
    from survived.model import Pressure

    plan = outlook.plan
    return {
        "pressure": max(outlook.pressures.values(), key=lambda p: p.rank, default=Pressure.NORMAL).value,
        "moves": [
            {
                "verb": "relocate" if move.command is None else "purge",
                "id": move.cache_id,
                **status.path_fields(move.source),
                **(status.path_fields(move.store_path, "store") if move.command is None else {"command": list(move.command)}),
                "size_bytes": move.size_bytes,
                "reclaimable_bytes": move.reclaimable_bytes,
                "why": move.why,
            }
            for move in plan.moves
        ],
        "refusals": [
            {"id": item.cache_id, **status.path_fields(item.path), "reason": item.reason.value, "why": item.text}
            for item in plan.refusals
        ],
        "rehomes": [
            {
                "id": item.cache_id,
                **status.path_fields(item.source),
                **status.path_fields(item.target, "target"),
                **status.path_fields(item.store_path, "store"),
                "size_bytes": item.size_bytes,
                "why": item.why,
            }
            for item in plan.handovers
        ],
        "shares": [{"mount": s.mount, "yours_bytes": s.yours_bytes, "used_bytes": s.used_bytes} for s in plan.shares],
    }


def read_plan(args: argparse.Namespace, file: str) -> list[tuple[str, str | None]]:
    """
    Return what a plan that `plan --json` printed moves, as sources and data disks, if the same plan comes out now.

    None in place of a disk: it is to be purged.

    `file` may be "-" for stdin. `Refused` (STALE) if the world has moved on, `UsageError` for what is no plan.
    """
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        wanted = [_Planned(item) for item in json.loads(text)["moves"]]
    except OSError as error:
        raise UsageError(f"Cannot read '{file}': {cause_of(error)}. Nothing was changed.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"Cannot use '{file}': it is no plan. Nothing was changed.", "Make one: survivectl plan --json > FILE"
        ) from error
    now = [_Planned(item) for item in plan_document(make_plan(local.open_machine(args)))["moves"]]
    if (why := _moved_on(wanted, now)) is not None:
        raise Refused(Reason.STALE, f"Cannot apply '{file}': {why}. Nothing was changed.", "Look at it anew: survivectl plan.")
    return [(item.source, os.path.dirname(item.store) if item.store is not None else None) for item in wanted]


class _Planned:
    """One move of a plan's document."""

    def __init__(self, item: dict[str, Any]) -> None:
        self.id, self.size_bytes = str(item["id"]), int(item["size_bytes"])
        self.source = path_of(item)
        self.store = None if item.get("verb") == "purge" else path_of(item, "store")


def _moved_on(wanted: list[_Planned], now: list[_Planned]) -> str | None:
    """Return what is different now from what was planned; a tenth more or less of the same cache is the same."""
    for item in wanted:
        same = next((other for other in now if other.source == item.source), None)
        if same is None:
            return f"'{item.source}' would not be moved any more"
        if same.store != item.store:
            return f"'{item.source}' would {f'go to {same.store!r}' if same.store is not None else 'be purged'} now"
        if abs(same.size_bytes - item.size_bytes) > item.size_bytes * _SAME_SIZE:
            return f"'{item.source}' had {print_bytes(item.size_bytes)}, and has {print_bytes(same.size_bytes)} now"
    more = [item.source for item in now if all(item.source != other.source for other in wanted)]
    return f"'{more[0]}' would be moved, too" if more else None


def _explain(args: argparse.Namespace, outlook: Outlook) -> None:
    from survived.decide.explain import explain

    reading = _reading_of(outlook, args.explain)
    said = explain(
        reading, outlook.seen, outlook.pressures, outlook.machine.rules, outlook.plan, outlook.moment, outlook.gauges
    )  # fmt: skip
    if args.json:
        rules = [{"rule": item.rule, "objects": item.objects, "text": item.text} for item in said]
        print_json({"id": reading.cache.id, **status.path_fields(reading.cache.path), "rules": rules})
        return
    print(printable(f"{reading.cache.id}: {reading.cache.title}"))
    for item in said:
        _print_row(f"{'-' if item.objects else '+'} {item.rule}", item.text)


def _reading_of(outlook: Outlook, word: str) -> CacheReading:
    from survived import errands
    from survived.observe.caches import read_caches

    cache = errands.find_cache(outlook.machine, word)
    known = next((reading for reading in outlook.seen.caches if reading.cache.path == cache.path), None)
    return known if known is not None else read_caches([cache], time.time(), {})[0]


def _print_plan(outlook: Outlook) -> None:
    plan = outlook.plan
    print(printable(_standing(outlook)))
    for share in plan.shares:
        yours, used = print_bytes(share.yours_bytes), print_bytes(share.used_bytes)
        print(printable(f"Of the {used} used on {share.mount}, {yours} are in caches of yours; the rest is not ours to move."))
    for move in plan.moves:
        size = f"{move.cache_id}: {print_bytes(move.size_bytes)}"
        print()
        if move.command is None:
            _print_row("would move", f"{size} from {move.source} to {move.store_path}")
        else:
            _print_row("would purge", f"{size} at {move.source} by {shlex.join(move.command)}")
        _print_row("", move.why)
    for handover in plan.handovers:
        print()
        size = f"{handover.cache_id}: {print_bytes(handover.size_bytes)}"
        _print_row("would rehome", f"{size} from {handover.target} to {handover.store_path}")
        _print_row("", handover.why)
    if not plan.moves:
        print("Nothing would be moved.")
    there = [item for item in plan.refusals if item.reason.value != "absent"]
    absent = [item.cache_id for item in plan.refusals if item.reason.value == "absent"]
    if there:
        print()
    for item in there:
        _print_row("stays", f"{item.cache_id}: {item.text}")
    if absent:
        print()
        _print_row("not there", ", ".join(absent))


def _print_row(head: str, text: str) -> None:
    for line in wrap(f"{head:<12}{printable(text)}", width(), 12):
        print(fitting(line))


def _standing(outlook: Outlook) -> str:
    pressures = outlook.pressures
    return "; ".join(f"{fs.mount} is at {print_share(fs.usage)}, pressure {pressures[fs.mount]}" for fs in outlook.seen.filesystems)
