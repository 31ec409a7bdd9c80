"""
The verbs that move: relocate, restore, recover. Through the daemon, or under the same lock without it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from survived.ctl import local
from survived.ctl.main import error_document, print_json, printable, say
from survived.errors import BY_CODE, DaemonNotRunning, NeedsPerson, Refused, Stopped, SurvivedError, UsageError
from survived.model import Operation, Reason
from survived.tell.status import path_fields
from survived.units import print_bytes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from survived.act.task import Task
    from survived.machine import Machine

_POLL_SECONDS = 0.2


# ---- relocate -----------------------------------------------------------------------------------------------------


def configure_relocate(parser: argparse.ArgumentParser) -> None:
    """Add what `relocate` takes."""
    parser.add_argument("what", metavar="ID|PATH", help="a cache's id (survivectl measure shows them) or any directory of yours")
    parser.add_argument("--to", metavar="DIR", help="one of the data disks; by default the one with most room")


def run_relocate(args: argparse.Namespace) -> int:
    """Relocate one thing, with a progress bar on a terminal."""
    what = _absolute(args.what)
    to = None if args.to is None else _absolute(f"./{args.to}" if args.to[:1] not in ("/", "~") else args.to)
    queued = local.ask_or_none("relocate", what=what, to=to)
    if queued is not None:
        return _report(args, [_follow(queued["number"], args)])

    def work(machine: Machine, task: Task) -> Operation:
        from survived import errands

        return errands.relocate(machine, errands.find_cache(machine, what), task, to=to)

    return _report(args, [_directly(args, work)])


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
    words = [_absolute(word) for word in args.what]
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
    _report(args, results)
    return failures[0].exit_code if failures else 0


def _restore(word: str, args: argparse.Namespace) -> dict[str, Any]:
    queued = local.ask_or_none("restore", what=word, force=args.force)
    if queued is not None:
        return _follow(queued["number"], args)

    def work(machine: Machine, task: Task) -> Operation:
        from survived import errands

        store, item = errands.find_relocation(machine, word)
        return errands.restore(machine, store, item, task, forced=args.force)

    return _directly(args, work)


def _unreachable(args: argparse.Namespace) -> list[str]:
    """Return the caches behind links that lead nowhere: asking for them says why they cannot come home."""
    from survived.observe.caches import read_cache

    machine = local.open_machine(args)
    readings = (read_cache(cache, 0.0, {}, measure=False) for cache in machine.known_caches())
    return [reading.cache.path for reading in readings if reading.state == "dangling"]


# ---- recover ------------------------------------------------------------------------------------------------------


def configure_recover(parser: argparse.ArgumentParser) -> None:
    """Add the option of `recover`."""
    parser.add_argument("--rebuild", action="store_true", help="make a lost or broken journal anew from trees and links")


def run_recover(args: argparse.Namespace) -> int:
    """Finish or undo what a crash left; exit code 5 if something needs a person."""
    if args.rebuild:
        return _rebuild(args)
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
        print_json(answer)
        return 0
    for item in answer["recovered"]:
        print(printable(f"the {item['verb']} of '{item['path']}' is {item['stage']}"))
    if not answer["recovered"]:
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
    if args.json:
        links = [{"id": item.cache_id, **path_fields(item.source), **path_fields(item.target, "target")} for item in relocated]
        print_json({"relocated": links, "orphans": [path_fields(path) for path in orphans]})
        return 0
    for item in relocated:
        print(printable(f"'{item.source}' is relocated to '{item.target}'"))
    for path in orphans:
        print(printable(f"no link leads to '{path}': it is yours to look at, and to remove"))
    if not rebuilt:
        print("There is no store to rebuild from.")
    return 0


# ---- both ways ----------------------------------------------------------------------------------------------------


def _absolute(word: str) -> str:
    """A path travels absolute, since the daemon has another working directory; an id stays what it is."""
    if "/" not in word and not word.startswith("~") and word not in (".", ".."):
        return word
    try:
        return os.path.abspath(os.path.expanduser(word))
    except FileNotFoundError as error:
        why = "the working directory is gone"
        raise UsageError(f"Cannot find '{word}': {why}. Nothing was changed.", "Give an absolute path.") from error


def _directly(args: argparse.Namespace, work: Callable[[Machine, Task], Operation]) -> dict[str, Any]:
    """Do it in this process, in a thread so that progress and Ctrl-C have theirs."""
    from survived import errands
    from survived.act.task import Task
    from survived.requests import result_of
    from survived.tell.status import progress_document

    machine = local.open_machine(args)
    task = Task(threading.Event())
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            machine.open_stores(machine.read_stores())
            machine.ballast.lay()
            errands.recover(machine)
            outcome["done"] = work(machine, task)
        except BaseException as error:  # noqa: BLE001  carried over to the main thread, which raises it
            outcome["error"] = error

    thread = threading.Thread(target=run, name="survivectl-worker", daemon=True)
    with _interrupts(task.stop), _Bar(args) as bar:
        thread.start()
        while thread.is_alive():
            thread.join(_POLL_SECONDS)
            bar.show(progress_document(task.progress()))
    machine.close()
    if (error := outcome.get("error")) is not None:
        raise error
    return result_of(outcome["done"])


@contextlib.contextmanager
def _interrupts(stop: threading.Event) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and a closed terminal set `stop`; asked a second time, end at once: the next start recovers."""

    def on_signal(_number: int, _frame: object) -> None:
        if stop.is_set():
            os._exit(Stopped.exit_code)
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, on_signal) for number in numbers if signal.getsignal(number) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _follow(number: int, args: argparse.Namespace) -> dict[str, Any]:
    """Ask the daemon about a request until it has ended; Ctrl-C ends it, as it would without a daemon."""
    stop = threading.Event()
    with _interrupts(stop), _Bar(args) as bar:
        asked_to_stop = False
        while True:
            wants_stop = stop.is_set()
            try:
                answer = local.ask("request", number=number, stop=wants_stop and not asked_to_stop)
            except (DaemonNotRunning, UsageError) as error:
                raise SurvivedError(
                    "The daemon ended in the middle of this. What was begun is finished or undone when it runs again.",
                    "Look at it: survivectl status.",
                ) from error
            asked_to_stop = wants_stop
            if answer["state"] in ("done", "failed"):
                break
            bar.show(answer["progress"])
            if wants_stop:
                time.sleep(_POLL_SECONDS)
            else:
                stop.wait(_POLL_SECONDS)
    if answer["state"] == "failed":
        raise _error_of(answer["error"])
    return dict(answer["result"])


def _error_of(error: dict[str, Any]) -> SurvivedError:
    if error["exit_code"] == Refused.exit_code:
        return Refused(Reason(error["reason"]), error["message"], error["hint"])
    return BY_CODE.get(error["exit_code"], SurvivedError)(error["message"], error["hint"])


def _report(args: argparse.Namespace, results: list[dict[str, Any]]) -> int:
    if args.json:
        alone = len(results) == 1 and "error" not in results[0] and not getattr(args, "all", False)
        print_json(results[0] if alone else {"results": results})
        return 0
    for result in results:
        if "error" in result:
            continue  # said already
        count = result["files"]
        much = f"{print_bytes(result['size_bytes'])} in {count:,} file{'' if count == 1 else 's'}"
        if result["verb"] == "relocate":
            print(printable(f"Relocated '{result['path']}' to '{result['target']}', {much}."))
            print(printable(f"  Freed {print_bytes(result['freed_bytes'])}. Undo: survivectl restore {_word(result)}"))
        else:
            print(printable(f"Restored '{result['path']}', {much}."))
        if result["note"]:
            print(printable(f"  {result['note']}"))
    if not results:
        print("Nothing is relocated.")
    return 0


def _word(result: dict[str, Any]) -> str:
    import shlex

    return shlex.quote(result["id"])


class _Bar:
    """A progress bar on a terminal, nothing in a pipe or with --json."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._wanted = sys.stderr.isatty() and not args.json
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> _Bar:
        if self._wanted:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

            self._progress = Progress(
                TextColumn("{task.description:<10}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(),
                TimeRemainingColumn(), console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._progress.start()
            self._task = self._progress.add_task("waiting", total=None)
        return self

    def show(self, progress: dict[str, Any] | None) -> None:
        """Show how far it is; None while it waits for its turn."""
        if self._progress is not None and progress is not None:
            total = progress["bytes_total"] or None
            self._progress.update(self._task, description=progress["phase"], completed=progress["bytes_done"], total=total)

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()
