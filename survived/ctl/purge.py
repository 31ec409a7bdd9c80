"""
The verb `purge`: empty a cache by its tool's own command, or see what that would remove.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from survived.ctl import local
from survived.ctl.main import print_json, printable
from survived.ctl.move import absolute, directly, follow
from survived.units import print_bytes

if TYPE_CHECKING:
    import argparse

    from survived.act.task import Task
    from survived.machine import Machine


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what `purge` takes."""
    parser.add_argument("what", metavar="ID|PATH", help="a cache (survivectl measure shows them); never an environment or state")
    parser.add_argument("--dry-run", action="store_true", help="what would be run and, where the tool can say it, removed")


def run(args: argparse.Namespace) -> int:
    """Purge one cache, through the daemon or without it; a dry run changes nothing and needs no daemon."""
    what = absolute(args.what)
    return _show(args, _look(args, what)) if args.dry_run else _report(args, purge(args, what))


def purge(args: argparse.Namespace, what: str) -> dict[str, Any]:
    """Purge what an id or an absolute path names; return the result for JSON."""
    queued = local.ask_or_none("purge", what=what)
    if queued is not None:
        return follow(queued["number"], args)

    def work(machine: Machine, task: Task) -> dict[str, Any]:
        from survived import errands, purges

        return purges.purge(machine, errands.find_cache(machine, what), task)

    return directly(args, work)


def _look(args: argparse.Namespace, what: str) -> dict[str, Any]:
    import threading

    from survived import errands, purges
    from survived.act.task import Task
    from survived.ctl.progress import interrupts

    machine, stop = local.open_machine(args), threading.Event()
    with interrupts(stop):
        return purges.look(machine, errands.find_cache(machine, what), Task(stop))


def _show(args: argparse.Namespace, answer: dict[str, Any]) -> int:
    if args.json:
        print_json({**answer, "dry_run": True})
        return 0
    size, frees = print_bytes(answer["size_bytes"]), print_bytes(answer["reclaimable_bytes"])
    print(printable(f"Would run: {shlex.join(answer['command'])}"))
    if answer["found"] is None:
        print(printable(f"  '{answer['command'][0]}' is not found, so that nothing could be purged."))
    print(printable(f"  '{answer['path']}' holds {size}, of which {frees} can come back."))
    if answer["preview"] is not None:
        print(printable(f"  {shlex.join(answer['preview'])} says:"))
        for line in (answer["said"] or "nothing").splitlines():
            print(printable(f"    {line}"))
    else:
        print("  This tool has no dry run; it decides itself what of it goes.")
    return 0


def _report(args: argparse.Namespace, result: dict[str, Any]) -> int:
    if args.json:
        print_json(result)
        return 0
    print(
        printable(f"Purged '{result['path']}' by '{shlex.join(result['command'])}': {print_bytes(result['left_bytes'])} are left.")
    )
    where = "" if result["on"] == result["path"] else f" at '{result['on']}'"
    print(printable(f"  Freed {print_bytes(result['freed_bytes'])}{where}. It cannot be undone; the tool makes it again."))
    return 0
