"""
The verb `docker`: its data-root on a data disk, for good; as root. Anybody else gets the exact steps for whoever is root.

It needs no daemon of ours, and stops docker while it copies.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any

from survived.ctl import local
from survived.ctl.dockerjournal import alone, load_state, refuse_unfinished, state_file
from survived.ctl.dockershow import describe, part_document, show_plan, show_steps, state_document
from survived.ctl.main import error_document, print_json, printable, say
from survived.ctl.progress import POLL_SECONDS, Bar, interrupts
from survived.errors import Refused, UsageError
from survived.model import Mark, Reason, Verb
from survived.tell.wire import path_fields
from survived.units import print_bytes, print_time

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from survived.act.docker import DockerMove
    from survived.act.dockerplan import Situation
    from survived.act.dockerstate import Part, State
    from survived.act.task import Task
    from survived.findings import DataDisk

_ACTIONS = ("plan", "apply", "undo", "status", "recover", "clean")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what `docker` takes."""
    what = "show what would be done, do it, take it back, say where the data is, end what a crash left, remove old data"
    parser.add_argument("action", choices=_ACTIONS, metavar="|".join(_ACTIONS), help=what)
    parser.add_argument(
        "--to", metavar="DIR", help="plan, apply: the new data-root, which is not there yet; else docker on a data disk"
    )
    parser.add_argument(
        "--containerd", action="store_true", help="plan, apply: containerd's root as well, though no image lies there"
    )
    parser.add_argument("--keep-old", action="store_true", help="apply, undo: do not remove the old data; clean does")
    parser.add_argument("--force", action="store_true", help="undo: even if the filesystem comes above its high mark")


def run(args: argparse.Namespace) -> int:
    """Do one of the actions; exit code 4 with the steps for a person where we may not act."""
    if args.to is not None and args.action not in ("plan", "apply"):
        raise UsageError(f"Cannot use --to with {args.action}: only plan and apply take it.", "Run survivectl docker --help.")
    return {"plan": _plan, "apply": _apply, "undo": _undo, "status": _status, "recover": _recover, "clean": _clean}[args.action](
        args
    )


# ---- plan -----------------------------------------------------------------------------------------------------------


def _situation() -> Situation:
    from survived.act.dockerplan import read_situation

    return read_situation(os.environ, local.home(), os.getuid())


def _plan(args: argparse.Namespace) -> int:
    from survived.act import dockerplan
    from survived.ctl.dockersteps import list_steps

    now = _situation()
    parts = dockerplan.plan_parts(now, _target(args, now), containerd=args.containerd)
    may_act, size = _may_act(now), None
    if may_act:
        size = _check(args, parts, home=False)
    steps = list_steps(now, parts)
    if args.json:
        print_json({**describe(now), "parts": [part_document(part) for part in parts], "size_bytes": size, "may_act": may_act,
                    "warnings": list(dockerplan.warnings(now, parts)), "steps": steps})  # fmt: skip
        return 0
    show_plan(now, parts, size)
    for warning in dockerplan.warnings(now, parts):
        print(printable(f"Mind: {warning}"))
    if may_act:
        print(printable(f"\nsurvivectl docker apply --to {parts[-1].new} does it; by hand these would be the steps:\n"))
    else:
        print("\nOnly root can do it: sudo survivectl docker apply. By hand these are the steps, one after the other:\n")
    show_steps(steps)
    return 0


def _target(args: argparse.Namespace, now: Situation) -> str:
    """Return the new data-root: what was named, else `docker` on the first data disk that is not the one docker is on."""
    if args.to is not None:
        return os.path.abspath(os.path.expanduser(str(args.to)))
    machine = local.open_machine(args)
    try:
        named = machine.settings.data.disks
        places: list[str] = list(named) if named is not None else [disk.mount for disk in _found_disks(now)]
    finally:
        machine.close()
    with contextlib.suppress(OSError):
        avoid = os.stat(now.root if os.path.exists(now.root) else "/").st_dev
        for place in places:
            with contextlib.suppress(OSError):
                if os.stat(place).st_dev != avoid:
                    return f"{place.rstrip('/')}/docker"
    raise UsageError("Cannot tell where docker's data is to go: no data disk was found. Nothing was changed.", "Name it: --to DIR.")


def _found_disks(now: Situation) -> tuple[DataDisk, ...]:
    from survived.observe.disks import read_data_disks

    avoid = [os.stat(path).st_dev for path in (now.root, "/") if os.path.exists(path)]
    return read_data_disks(local.home(), os.getuid(), avoid)


def _may_act(now: Situation) -> bool:
    return os.geteuid() == 0 and not now.rootless


def _check(args: argparse.Namespace, parts: tuple[Part, ...], *, home: bool) -> int:
    """Refuse what is wrong with the ends; return the bytes to be copied."""
    from survived.act import dockerplan

    settings = local.load(args, local.find_paths(args))
    limit = Mark(usage=1.0) if home and args.force else settings.watch.high if home else settings.data.keep_free
    hint = "Free some space there, or add --force:" if home else "Name another disk with --to, or free some space there:"
    size = 0
    for part in parts:
        dockerplan.check_part(part)
        size += dockerplan.check_room(part, limit, hint)
    return size


# ---- apply and undo -------------------------------------------------------------------------------------------------


def _apply(args: argparse.Namespace) -> int:
    from survived.act import dockerplan
    from survived.ctl.dockersteps import list_steps

    now = _situation()
    if not _may_act(now):
        parts = dockerplan.plan_parts(now, _target(args, now), containerd=args.containerd)
        return _hand_over(args, list_steps(now, parts), now)
    with alone(args):
        refuse_unfinished(args)
        parts = dockerplan.plan_parts(now, _target(args, now), containerd=args.containerd)
        size = _check(args, parts, home=False)
        for part in parts:
            dockerplan.check_target(part)
        for warning in dockerplan.warnings(now, parts):
            say(f"survivectl: {warning}")
        state = _with_bar(args, now, parts, size, lambda move: move.move(now, parts, keep_old=args.keep_old))
    return _report(args, now, state, parts, size)


def _undo(args: argparse.Namespace) -> int:
    from survived.act import dockerplan
    from survived.ctl.dockersteps import list_steps

    now = _situation()
    state = load_state(args)
    if not _may_act(now):
        parts = dockerplan.plan_home(now, state.moved) if state.moved is not None else ()
        if not parts:
            raise _nothing_moved()
        return _hand_over(args, list_steps(now, parts), now)
    with alone(args):
        refuse_unfinished(args)
        if (state := load_state(args)).moved is None:
            raise _nothing_moved()
        parts = dockerplan.plan_home(now, state.moved)
        size = _check(args, parts, home=True)
        after = _with_bar(args, now, parts, size, lambda move: move.move(now, parts, home=True, keep_old=args.keep_old))
    return _report(args, now, after, parts, size)


def _nothing_moved() -> Refused:
    return Refused(Reason.NOT_RELOCATED, "Cannot undo: docker's data was not moved by us. Nothing was changed.",
                   "survivectl docker status shows where it is.")  # fmt: skip


def _hand_over(args: argparse.Namespace, steps: list[dict[str, Any]], now: Situation) -> int:
    """Give a person the steps that we may not do."""
    why = "a rootless docker's files belong to other uids" if now.rootless else "only root can stop docker and copy its data"
    error = Refused(Reason.NOT_OURS, f"Cannot move '{now.root}': {why}. Nothing was changed.",
                    "Do these steps one after the other, or as root: sudo survivectl docker apply." if not now.rootless
                    else "Do these steps one after the other.")  # fmt: skip
    say(f"survivectl: {error.message}", error.hint)
    if args.json:
        print_json({"error": error_document(error), "steps": steps})
    else:
        show_steps(steps)
    return error.exit_code


def _with_bar(
    args: argparse.Namespace, now: Situation, parts: tuple[Part, ...], size: int, work: Callable[[DockerMove], State]
) -> State:
    """Run a move in a thread of its own, with a bar; Ctrl-C has it go back."""
    from survived.act.docker import DockerMove
    from survived.act.task import Task
    from survived.tell.moving import progress_document

    task = Task(threading.Event())
    task.begin(Verb.RELOCATE, "docker", parts[-1].old, parts[-1].new, bytes_total=size, files_total=0)
    return _threaded(args, task, lambda: work(DockerMove(now.dockerd, os.environ, state_file(args), task)), progress_document)


def _threaded(args: argparse.Namespace, task: Task, work: Callable[[], State], render: Callable[..., dict[str, Any]]) -> State:
    done: list[State] = []
    failed: list[BaseException] = []

    def body() -> None:
        try:
            done.append(work())
        except BaseException as error:  # noqa: BLE001  it is raised again where somebody sees it
            failed.append(error)

    thread = threading.Thread(target=body, name="survived-docker")
    with interrupts(task.stop), Bar(args) as bar:
        thread.start()
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            bar.show(render(task.progress()))
    if failed:
        raise failed[0]
    return done[0]


def _report(args: argparse.Namespace, now: Situation, state: State, parts: tuple[Part, ...], size: int) -> int:
    inventory = now.dockerd.read_inventory()
    if args.json:
        print_json({**state_document(state), "size_bytes": size, "inventory": {key: len(value) for key, value in
                    inventory.document().items() if key != "passing"}})  # fmt: skip
        return 0
    has = f"{len(inventory.images)} images, {len(inventory.containers)} containers, {len(inventory.volumes)} volumes"
    print(printable(f"Docker's data is in '{parts[-1].new}' and runs from there: {has}. {print_bytes(size)} were moved."))
    for root in state.left:
        print(printable(f"The old data is still in '{root}': survivectl docker clean removes it."))
    return 0


# ---- status, recover, clean -----------------------------------------------------------------------------------------


def _status(args: argparse.Namespace) -> int:
    state = load_state(args)
    try:
        now = _situation()
    except Refused as error:
        if error.reason is not Reason.ABSENT:
            raise
        now = None  # no docker here, which is an answer
    if args.json:
        print_json({**(describe(now) if now is not None else {"docker": None}), **state_document(state)})
        return 0
    if now is None:
        print("there is no docker on this machine")
    else:
        print(printable(f"docker's data is in '{now.root}'" + ("" if now.info else "; docker does not answer")))
    for part in state.moved.parts if state.moved is not None else ():
        since = print_time(state.moved.since) if state.moved is not None else ""
        print(printable(f"{part.name}: moved there from '{part.old}' on {since}: survivectl docker undo brings it back"))
    if state.act is not None:
        print(f"a move was interrupted at its step '{state.act.step}': survivectl docker recover ends it")
    for root in state.left:
        print(printable(f"old data is left in '{root}': survivectl docker clean removes it"))
    return 0


def recover(args: argparse.Namespace) -> str | None:
    """Finish or undo what a crash left of a move of docker; return what became of it, None if nothing was left."""
    from survived.act.docker import DockerMove
    from survived.act.dockerd import Dockerd
    from survived.act.task import Task

    if load_state(args).act is None:
        return None
    with alone(args):
        state = load_state(args)
        if state.act is None:
            return None
        return DockerMove(Dockerd(state.act.host, os.environ), os.environ, state_file(args), Task(threading.Event())).recover()


def _recover(args: argparse.Namespace) -> int:
    said = recover(args)
    if args.json:
        print_json({"recovered": said, **state_document(load_state(args))})
    else:
        print(printable(said or "Nothing was left unfinished."))
    return 0


def _clean(args: argparse.Namespace) -> int:
    from survived.act.docker import DockerMove
    from survived.act.task import Task

    now = _situation()
    with alone(args):
        gone = DockerMove(now.dockerd, os.environ, state_file(args), Task(threading.Event())).clean()
    if args.json:
        print_json({"removed": [path_fields(path) for path in gone]})
        return 0
    for path in gone:
        print(printable(f"removed '{path}'"))
    if not gone:
        print("No old data is left.")
    return 0
