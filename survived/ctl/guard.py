"""
The verbs about links that are not as we left them: orphans, standin. Through the daemon, or under the same lock without it.
"""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

from survived.ctl import local
from survived.ctl.inventory import WHY, orphan_document
from survived.ctl.main import print_json, printable, say
from survived.ctl.move import absolute, directly, follow
from survived.errors import UsageError
from survived.units import print_bytes, print_time

if TYPE_CHECKING:
    import argparse

    from survived.act.task import Task
    from survived.findings import Orphan
    from survived.machine import Machine

_ACTIONS = ("list", "link", "remove", "adopt")


# ---- orphans --------------------------------------------------------------------------------------------------------


def configure_orphans(parser: argparse.ArgumentParser) -> None:
    """Add what `orphans` takes."""
    parser.add_argument("action", nargs="?", choices=_ACTIONS, default="list", metavar="list|link|remove|adopt")
    parser.add_argument("what", nargs="*", metavar="TARGET|PATH|ID", help="a tree on a data disk, or the path it came from")
    parser.add_argument("--yes", action="store_true", help="remove without asking")


def run_orphans(args: argparse.Namespace) -> int:
    """List trees that no link leads to; link one again (merged with what is at its path), remove some, or adopt a path."""
    if args.action == "list":
        if args.what:
            raise UsageError(f"Cannot understand '{args.what[0]}': list takes nothing.", "Run survivectl orphans --help.")
        return _list(args)
    if not args.what or (len(args.what) > 1 and args.action != "remove"):
        many = "at least one" if args.action == "remove" else "one"
        raise UsageError(f"Cannot {args.action}: name {many}. Nothing was changed.", "survivectl orphans shows them.")
    words = [absolute(word) for word in args.what]
    if args.action == "remove":
        return _remove(args, words)
    result = _link(args, words[0]) if args.action == "link" else _adopt(args, words[0])
    if args.json:
        print_json(result)
    elif args.action == "adopt":
        print(printable(f"'{result['path']}' is not relocated any more. What was moved is at '{result['target']}', an orphan."))
    else:
        _print_linked(result)
    return 0


def _list(args: argparse.Namespace) -> int:
    from survived import orphans

    found = orphans.find(local.open_machine(args), measure=True)
    if args.json:
        print_json({"orphans": [orphan_document(item) for item in found]})
        return 0
    for item in found:
        since = f"since {print_time(item.since)[:10]}" if item.since is not None else "no record"
        print(printable(f"{item.cache_id:<16} {print_bytes(item.size_bytes):>9}  {since}  {item.source} {WHY[item.why]}"))
        print(printable(f"{'':<16} {'':>9}  at {item.target}"))
    if not found:
        print("Every tree on the data disks has its link.")
    elif sys.stdout.isatty():
        say("To have one again: survivectl orphans link TARGET. To remove it: survivectl orphans remove TARGET.")
    return 0


def _remove(args: argparse.Namespace, words: list[str]) -> int:
    from survived import orphans

    if not args.yes:
        machine = local.open_machine(args)
        chosen = [orphans.choose(machine, word, "remove") for word in words]
        if not _agreed(chosen):
            print("Nothing was removed.")
            return 0
        words = [item.target for item in chosen]
    queued = local.ask_or_none("remove", what=words)
    if queued is not None:
        result = follow(queued["number"], args)
    else:
        result = directly(args, lambda machine, task: {"results": orphans.remove(machine, words, task)})
    if args.json:
        print_json(result)
        return 0
    for item in result["results"]:
        print(printable(f"Removed '{item['target']}', {print_bytes(item['size_bytes'])}."))
    return 0


def _agreed(chosen: list[Orphan]) -> bool:
    from survived.observe.tree import measure_tree

    if not sys.stdin.isatty():
        raise UsageError(
            "Cannot ask whether to remove: there is no terminal. Nothing was removed.", "To remove without asking: --yes."
        )
    for item in chosen:
        size = measure_tree(item.target)
        say(f"'{item.target}': {print_bytes(size.size_bytes)} in {size.files:,} files, from '{item.source}'")
    print("Remove this for good? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _link(args: argparse.Namespace, word: str) -> dict[str, Any]:
    def work(machine: Machine, task: Task) -> dict[str, Any]:
        from survived import orphans

        return orphans.link(machine, word, task)

    queued = local.ask_or_none("link", what=word)
    return directly(args, work) if queued is None else follow(queued["number"], args)


def _adopt(args: argparse.Namespace, word: str) -> dict[str, Any]:
    def work(machine: Machine, _task: Task) -> dict[str, Any]:
        from survived import orphans

        return orphans.adopt(machine, word)

    queued = local.ask_or_none("adopt", what=word)
    return directly(args, work) if queued is None else follow(queued["number"], args)


def _print_linked(result: dict[str, Any]) -> None:
    print(printable(f"'{result['path']}' leads to '{result['target']}'{'' if result['how'] == 'made anew' else ', merged'}."))
    if result["how"] == "merged":
        alike = f", {result['same']:,} were alike" if result["same"] else ""
        print(f"  {result['moved']:,} entries came from the earlier tree{alike}.")
    if result["kept"]:
        print("  Of these both had one; the earlier ends in .survived-earlier:")
    for item in result["kept"]:
        print(printable(f"  - {item['path']}"))
    print(printable(f"  Undo: survivectl restore {shlex.quote(result['id'])}"))


# ---- standin --------------------------------------------------------------------------------------------------------


def configure_standin(parser: argparse.ArgumentParser) -> None:
    """Add what `standin` takes."""
    parser.add_argument("what", nargs="?", metavar="ID|PATH", help="a link of ours whose data disk is missing")
    parser.add_argument("--all", action="store_true", help="every link whose data disk is missing")
    parser.add_argument("--undo", action="store_true", help="put the link back, if the stand-in is empty")


def run_standin(args: argparse.Namespace) -> int:
    """Put an empty directory in the place of a dangling link until its data disk is back; then both are merged by itself."""
    if (args.what is None) != args.all or (args.all and args.undo):
        raise UsageError("Cannot guess which stand-in is meant: name one, or say --all.", "Run survivectl standin --help.")
    word = None if args.what is None else absolute(args.what)
    answer = local.ask_or_none("standin", what=word, undo=args.undo)
    if answer is None:
        from survived import standins

        machine = local.open_machine(args)
        try:
            if word is None:
                answer = {"results": standins.place_all(machine)}
            else:
                answer = standins.undo(machine, word) if args.undo else standins.place(machine, word)
        finally:
            machine.close()
    if args.json:
        print_json(answer)
        return 0
    results = answer.get("results", [answer])
    for item in results:
        if args.undo:
            print(printable(f"'{item['path']}' is the link to '{item['target']}' again."))
        else:
            print(printable(f"'{item['path']}' is an empty directory until '{item['target']}' is back. Then both are merged."))
            print(printable(f"  Undo: survivectl standin --undo {shlex.quote(item['id'])}"))
    if not results:
        print("No link leads to a missing data disk.")
    return 0
