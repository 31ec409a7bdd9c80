"""
The verb `recover`: finish or undo what a crash left, or make a lost journal anew. Through the daemon, or without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from survived.ctl import docker, local
from survived.ctl.main import print_json, printable
from survived.errors import NeedsPerson, SurvivedError
from survived.tell.status import path_fields

if TYPE_CHECKING:
    import argparse


def configure_recover(parser: argparse.ArgumentParser) -> None:
    """Add the option of `recover`."""
    parser.add_argument("--rebuild", action="store_true", help="make a lost or broken journal anew from trees and links")


def run_recover(args: argparse.Namespace) -> int:
    """Finish or undo what a crash left; exit code 5 if something needs a person."""
    if args.rebuild:
        return _rebuild(args)
    of_docker = docker.recover(args)
    answer = local.ask_or_none("recover", timeout=600.0)
    if answer is None:
        from survived import errands

        machine = local.open_machine(args)
        try:
            machine.open_stores(machine.read_stores())
            ended, puzzles = errands.recover(machine)
        finally:
            machine.close()
        if puzzles:
            raise NeedsPerson(" ".join(puzzle.message for puzzle in puzzles), puzzles[0].hint)
        answer = {"recovered": [{**path_fields(op.source), "verb": op.verb.value, "stage": op.stage.value} for op in ended]}
    if args.json:
        print_json({**answer, "docker": of_docker})
        return 0
    for item in answer["recovered"]:
        print(printable(f"the {item['verb']} of '{item['path']}' is {item['stage']}"))
    if of_docker:
        print(printable(of_docker))
    if not answer["recovered"] and not of_docker:
        print("Nothing was left unfinished.")
    return 0


def _rebuild(args: argparse.Namespace) -> int:
    from survived import errands

    if local.ask_or_none("status") is not None:
        raise SurvivedError(
            "Cannot rebuild while the daemon is running. Nothing was changed.", "Run systemctl --user stop survived first."
        )
    machine = local.open_machine(args)
    try:
        rebuilt = errands.rebuild(machine)
    finally:
        machine.close()
    relocated = [item for found in rebuilt.values() for item in found.relocations]
    orphans = [path for found in rebuilt.values() for path in found.orphans]
    asides = [path for found in rebuilt.values() for path in found.asides]
    if args.json:
        links = [{"id": item.cache_id, **path_fields(item.source), **path_fields(item.target, "target")} for item in relocated]
        print_json({"relocated": links, "orphans": [path_fields(path) for path in orphans],
                    "asides": [path_fields(path) for path in asides]})  # fmt: skip
        return 0
    for item in relocated:
        print(printable(f"'{item.source}' is relocated to '{item.target}'"))
    for path in orphans:
        print(printable(f"no link leads to '{path}': survivectl orphans shows it, links it again or removes it"))
    for path in asides:
        print(
            printable(f"'{path}' is left of a move that was not at its end: compare it with what the link leads to, then remove it")
        )
    if not rebuilt:
        print("There is no store to rebuild from.")
    return 0
