"""
The verb `list`: what lives on data disks, and whether a link still leads to it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from survived.ctl import local
from survived.ctl.main import print_json, printable, say
from survived.errors import SurvivedError
from survived.tell import status
from survived.tell.links import standin_documents
from survived.units import print_bytes, print_time, sentence

if TYPE_CHECKING:
    import argparse

    from survived.findings import Orphan
    from survived.machine import Machine
    from survived.model import StoreReading

WHY = {
    "eaten": "is a directory again",
    "gone": "is gone",
    "elsewhere": "leads elsewhere",
    "relocated anew": "became a directory and was relocated anew",
    "unknown": "is what it was made from, and no record leads there",
}
"""Of an orphan: what its source is now."""


def configure_list(parser: argparse.ArgumentParser) -> None:
    """`list` has no options of its own."""


def run_list(args: argparse.Namespace) -> int:
    """Print what is relocated, and whether each link still does its work."""
    from survived import orphans
    from survived.decide.guardian import judge

    machine = local.open_machine(args)
    found, lost, lone, standins = machine.relocations(), unreadable(machine), orphans.find(machine), machine.records.standins()
    states = {reading.item: judge(reading).value for reading in machine.records.links(machine.read_stores())}
    if args.json:
        print_json(
            {
                "relocated": [
                    {
                        "id": item.cache_id,
                        **status.path_fields(item.source),
                        **status.path_fields(item.target, "target"),
                        **status.path_fields(store, "store"),
                        "since": print_time(item.since),
                        "size_bytes": item.size_bytes,
                        "files": item.files,
                        "link": states.get(item, "ok"),
                    }
                    for store, item in found
                ],
                "orphans": [orphan_document(item) for item in lone],
                "standins": standin_documents(standins),
                "unreadable": [{**status.path_fields(store.path, "store"), "reason": store.reason} for store in lost],
            }
        )
        return SurvivedError.exit_code if lost else 0
    for store in lost:
        say(
            f"survivectl: Cannot list what is in '{store.path}': {sentence(store.reason or 'it cannot be read')}",
            "Run survivectl check.",
        )
    if not found and not lost:
        print("Nothing is relocated.")
    for orphan in lone:
        size = print_bytes(orphan.size_bytes) if orphan.size_bytes else "?"
        print(f"{orphan.cache_id:<16} {size:>9}  orphan: no link leads to {printable(orphan.target)}")
        print(printable(f"{'':<16} {'':>9}  {orphan.source} {WHY[orphan.why]}; see survivectl orphans"))
    told = {orphan.target for orphan in lone}
    for _, item in (pair for pair in found if pair[1].target not in told):
        state = states.get(item, "ok")
        note = "" if state == "ok" else f"   link: {state}"
        since = print_time(item.since)[:10]
        print(f"{item.cache_id:<16} {print_bytes(item.size_bytes):>9}  since {since}  {printable(item.source)}{note}")
        print(f"{'':<16} {'':>9}  at {printable(item.target)}")
    return SurvivedError.exit_code if lost else 0  # the list may not be all


def unreadable(machine: Machine) -> list[StoreReading]:
    """Return the stores whose journal cannot be read, each with the reason: what lives there is not known."""
    from dataclasses import replace

    from survived.machine import SCHEMA
    from survived.store.database import Database

    lost = []
    for store in machine.read_stores():
        file = os.path.join(store.path, "state.db")
        if os.path.isfile(file):
            try:
                Database(file, SCHEMA, read_only=True).close()
            except SurvivedError as error:
                lost.append(replace(store, reason=error.message))
        elif not store.ok:
            lost.append(store)
    return lost


def orphan_document(item: Orphan) -> dict[str, Any]:
    """Return an orphan for JSON."""
    return {
        "id": item.cache_id,
        **status.path_fields(item.source),
        **status.path_fields(item.target, "target"),
        **status.path_fields(item.store, "store"),
        "size_bytes": item.size_bytes,
        "since": None if item.since is None else print_time(item.since),
        "why": item.why,
    }
