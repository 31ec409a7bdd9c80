"""
The verbs that move: relocate, restore, rehome. Through the daemon, or under the same lock without it.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from survived.ctl import courier, local
from survived.ctl.main import error_document, print_json, printable, say
from survived.ctl.progress import Bar, interrupts
from survived.errors import Stopped, SurvivedError, UsageError
from survived.model import Operation, Verb
from survived.tell.status import path_fields
from survived.units import print_bytes

if TYPE_CHECKING:
    import argparse

    from survived.act.task import Task
    from survived.machine import Machine


# ---- relocate -----------------------------------------------------------------------------------------------------


def configure_relocate(parser: argparse.ArgumentParser) -> None:
    """Add what `relocate` takes."""
    what = "a cache's id (survivectl measure shows them) or any directory of yours"
    parser.add_argument("what", metavar="ID|PATH", nargs="?", help=what)
    parser.add_argument("--to", metavar="DIR", help="one of the data disks; by default the one with most room")
    parser.add_argument(
        "--plan", metavar="FILE", help="all that this output of plan --json moves, if it would come out the same now"
    )


def run_relocate(args: argparse.Namespace) -> int:
    """Relocate one thing, or what a plan names, with a progress bar on a terminal."""
    if (args.what is None) == (args.plan is None) or (args.plan is not None and args.to is not None):
        raise UsageError("Cannot tell what to move: name one thing, or a plan with --plan FILE.", "Run survivectl relocate --help.")
    if args.plan is None:
        return _report(args, [_relocate(args, absolute(args.what), _disk(args.to))])
    from survived.ctl.plan import read_plan

    wanted = read_plan(args, args.plan)
    return _report(args, [_apply(args, source, disk) for source, disk in wanted], many=True, none="The plan moves nothing.")


def _apply(args: argparse.Namespace, source: str, disk: str | None) -> dict[str, Any]:
    """Do one thing of a plan: relocate to a disk, or purge."""
    if disk is not None:
        return _relocate(args, source, disk)
    from survived.ctl.purge import purge

    return purge(args, source)


def _relocate(args: argparse.Namespace, what: str, to: str | None) -> dict[str, Any]:
    queued = local.ask_or_none("relocate", what=what, to=to)
    if queued is not None:
        _advise(queued.get("advice"))
        return _advised(follow(queued["number"], args))

    def work(machine: Machine, task: Task) -> Operation:
        from survived import errands

        cache = errands.find_cache(machine, what)
        _advise(errands.advice(machine, cache))
        return errands.relocate(machine, cache, task, to=to)

    return _advised(directly(args, work))


def _advised(result: dict[str, Any]) -> dict[str, Any]:
    _advise(result.get("advice"))
    return result


def _advise(advice: str | None) -> None:
    if advice:
        say(f"survivectl: {advice}")


# ---- restore ------------------------------------------------------------------------------------------------------


def configure_restore(parser: argparse.ArgumentParser) -> None:
    """Add what `restore` takes."""
    parser.add_argument("what", metavar="ID|PATH", nargs="*", help="what to bring home")
    parser.add_argument("--all", action="store_true", help="everything that is relocated")
    parser.add_argument("--force", action="store_true", help="even if the filesystem comes above its high mark")


def run_restore(args: argparse.Namespace) -> int:
    """Bring home one, some or all; goes on after a failure, and ends with the first failure's exit code."""
    if bool(args.what) == args.all:
        raise UsageError("Cannot guess what to restore: name some, or say --all.", "survivectl list shows what is relocated.")
    words = [absolute(word) for word in args.what]
    if args.all:
        words = [item.source for item in local.relocated(local.load(args, local.find_paths(args)), local.find_paths(args))]
    if not words:
        words = _unreachable(args)
    results: list[dict[str, Any]] = []
    failures: list[SurvivedError] = []
    for word in words:
        try:
            results.append(_restore(word, args))
        except SurvivedError as error:
            if len(words) == 1 and not args.all:
                raise
            failures.append(error)
            results.append({**path_fields(word), "error": error_document(error)})
            say(f"survivectl: {error.message}", error.hint)
            if isinstance(error, Stopped):
                break
    _report(args, results, many=args.all)
    return failures[0].exit_code if failures else 0


def _restore(word: str, args: argparse.Namespace) -> dict[str, Any]:
    queued = local.ask_or_none("restore", what=word, force=args.force)
    if queued is not None:
        return follow(queued["number"], args)

    def work(machine: Machine, task: Task) -> Operation:
        from survived import errands

        store, item = errands.find_relocation(machine, word)
        return errands.restore(machine, store, item, task, forced=args.force)

    return directly(args, work)


def _unreachable(args: argparse.Namespace) -> list[str]:
    """Return the caches behind links that lead nowhere: asking for them says why they cannot come home."""
    from survived.observe.caches import read_cache

    machine = local.open_machine(args)
    readings = (read_cache(cache, 0.0, {}, measure=False) for cache in machine.known_caches())
    return [reading.cache.path for reading in readings if reading.state == "dangling"]


# ---- rehome -------------------------------------------------------------------------------------------------------


def configure_rehome(parser: argparse.ArgumentParser) -> None:
    """Add what `rehome` takes."""
    parser.add_argument("what", metavar="ID|PATH", help="what is relocated already (survivectl list shows it)")
    parser.add_argument("--to", metavar="DIR", help="one of the data disks; by default another one, with most room")


def run_rehome(args: argparse.Namespace) -> int:
    """Move one relocated tree to another data disk."""
    what, to = absolute(args.what), _disk(args.to)
    queued = local.ask_or_none("rehome", what=what, to=to)
    if queued is not None:
        return _report(args, [follow(queued["number"], args)])

    def work(machine: Machine, task: Task) -> Operation:
        from survived import errands

        store, item = errands.find_relocation(machine, what, Verb.REHOME)
        return errands.rehome(machine, store, item, task, to=to)

    return _report(args, [directly(args, work)])


# ---- both ways ----------------------------------------------------------------------------------------------------


def absolute(word: str) -> str:
    """A path travels absolute, since the daemon has another working directory; an id stays what it is."""
    if "/" not in word and not word.startswith("~") and word not in (".", ".."):
        return word
    try:
        return os.path.abspath(os.path.expanduser(word))
    except FileNotFoundError as error:
        why = "the working directory is gone"
        raise UsageError(f"Cannot find '{word}': {why}. Nothing was changed.", "Give an absolute path.") from error


def _disk(word: str | None) -> str | None:
    """Return the directory that `--to` names; a bare word is one, too."""
    return None if word is None else absolute(f"./{word}" if word[:1] not in ("/", "~") else word)


def directly(args: argparse.Namespace, work: courier.Work) -> dict[str, Any]:
    """Do it in this process, with a bar; Ctrl-C ends it."""
    machine, stop = local.open_machine(args), threading.Event()
    with interrupts(stop), Bar(args) as bar:
        return courier.carry_out(machine, work, stop, bar.show)


def follow(number: int, args: argparse.Namespace) -> dict[str, Any]:
    """Follow what the daemon does, with a bar; Ctrl-C ends it, as it would without a daemon."""
    stop = threading.Event()
    with interrupts(stop), Bar(args) as bar:
        return courier.follow(number, stop, bar.show)


def _report(
    args: argparse.Namespace, results: list[dict[str, Any]], *, many: bool = False, none: str = "Nothing is relocated."
) -> int:
    if args.json:
        alone = len(results) == 1 and "error" not in results[0] and not many
        print_json(results[0] if alone else {"results": results})
        return 0
    for result in results:
        if "error" in result:
            continue  # said already
        if result["verb"] == "purge":
            print(printable(f"Purged '{result['path']}', which freed {print_bytes(result['freed_bytes'])}."))
            continue
        count = result["files"]
        much = f"{print_bytes(result['size_bytes'])} in {count:,} file{'' if count == 1 else 's'}"
        if result["verb"] == "rehome":
            print(printable(f"Rehomed '{result['path']}' to '{result['target']}', {much}."))
        elif result["verb"] == "relocate":
            print(printable(f"Relocated '{result['path']}' to '{result['target']}', {much}."))
            print(printable(f"  Freed {print_bytes(result['freed_bytes'])}. Undo: survivectl restore {_word(result)}"))
        else:
            print(printable(f"Restored '{result['path']}', {much}."))
        if result["note"]:
            print(printable(f"  {result['note']}"))
    if not results:
        print(none)
    return 0


def _word(result: dict[str, Any]) -> str:
    import shlex

    return shlex.quote(result["id"])
