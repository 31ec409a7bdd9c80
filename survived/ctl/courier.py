"""
Getting a move done, whoever asks for it: through the daemon, or in this process under the same lock when there is none.

It talks to nobody: how far it is goes to a function, and an event ends it. `move.py` shows a bar, `topscreen.py` a screen.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from survived.ctl import local
from survived.ctl.progress import POLL_SECONDS
from survived.errors import BY_CODE, DaemonNotRunning, Refused, SurvivedError, UsageError
from survived.model import Operation, Reason

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from survived.act.task import Task
    from survived.machine import Machine

    Show = Callable[[dict[str, Any] | None], None]
    Work = Callable[[Machine, Task], Operation | dict[str, Any]]


def carry_out(machine: Machine, work: Work, stop: threading.Event, show: Show) -> dict[str, Any]:
    """
    Do `work` with the stores open and recovered, in a thread of its own; return its result for JSON.

    `show` gets the progress now and then, None before there is any. Raises what `work` raises; closes the machine.
    """
    from survived import errands
    from survived.act import fs
    from survived.act.task import Task
    from survived.requests import result_of
    from survived.tell.moving import progress_document

    task = Task(stop)
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            fs.step_back()
            machine.open_stores(machine.read_stores())
            machine.ballast.lay()
            errands.recover(machine, task)
            outcome["done"] = work(machine, task)
        except BaseException as error:  # noqa: BLE001  carried over to the caller's thread, which raises it
            outcome["error"] = error

    thread = threading.Thread(target=run, name="survivectl-worker", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        show(progress_document(task.progress()))
    machine.close()
    if (error := outcome.get("error")) is not None:
        raise error
    done = outcome["done"]
    advice = {"advice": task.advice} if task.advice else {}
    return (result_of(done) if isinstance(done, Operation) else dict(done)) | advice


def follow(number: int, stop: threading.Event, show: Show) -> dict[str, Any]:
    """Ask the daemon about a request until it has ended, and return its result; `stop` ends it, as it would without a daemon."""
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
        if answer["state"] == "failed":
            raise _error_of(answer["error"])
        if answer["state"] == "done":
            return dict(answer["result"])
        show(answer["progress"])
        if wants_stop:
            time.sleep(POLL_SECONDS)
        else:
            stop.wait(POLL_SECONDS)


def _error_of(error: dict[str, Any]) -> SurvivedError:
    if error["exit_code"] == Refused.exit_code:
        return Refused(Reason(error["reason"]), error["message"], error["hint"])
    return BY_CODE.get(error["exit_code"], SurvivedError)(error["message"], error["hint"])


def bring(args: argparse.Namespace, verb: str, what: str, stop: threading.Event, show: Show) -> dict[str, Any]:
    """Relocate or restore (`verb`) what an id or an absolute path names; return its result for JSON. Raises `SurvivedError`."""
    queued = local.ask_or_none(verb, what=what)
    if queued is not None:
        return follow(queued["number"], stop, show)

    def work(machine: Machine, task: Task) -> Operation:
        from survived import errands

        if verb == "restore":
            store, item = errands.find_relocation(machine, what)
            return errands.restore(machine, store, item, task)
        return errands.relocate(machine, errands.find_cache(machine, what), task)

    return carry_out(local.open_machine(args), work, stop, show)
