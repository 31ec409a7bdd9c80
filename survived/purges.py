"""
Purging instead of moving: a cache is emptied by its tool's own command, where its user says so or asks for it.

Only caches, which their tools can make again, are ever purged. What a tool would remove is asked of the tool first, where it
can tell without doing it.
"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any

from survived.act import tools
from survived.errors import Refused, Stopped, SurvivedError
from survived.model import CacheState, Kind, Reason
from survived.observe.caches import read_cache
from survived.observe.holders import find_holders
from survived.settings.catalog import find_rule
from survived.tell.wire import path_fields
from survived.units import print_bytes

if TYPE_CHECKING:
    from survived.act.task import Task
    from survived.machine import Machine
    from survived.model import Cache, CacheReading

_LINES = 12
_REHEARSAL_SECONDS = 120.0


def command_of(cache: Cache) -> tuple[str, ...]:
    """
    Return what purges a cache: the user's command, else its tool's own. `Refused` for what is not to be purged.

    An own clean command counts only where the catalogue says that it deletes nothing which cannot be made again.
    """
    if cache.kind is not Kind.CACHE:
        raise _refuse(cache, f"it holds {'an environment' if cache.kind is Kind.ENVIRONMENT else cache.kind}, and no cache")
    if cache.pinned is not None:
        raise _refuse(cache, f"it is kept by {cache.pinned}")
    if cache.purge_command is not None:
        return cache.purge_command
    if cache.clean_command is None:
        rule = find_rule(cache.id)
        why = "no command is known that empties it"
        if rule is not None and rule.clean_command is not None:
            why = f"'{rule.clean_command}' deletes what cannot be made again"
        raise _refuse(cache, why, f'If you know one: purge = "COMMAND" in [caches.{cache.id}].')
    return tuple(shlex.split(cache.clean_command))


def look(machine: Machine, cache: Cache, task: Task) -> dict[str, Any]:
    """Return what a purge would do: the command, how much is there, and what the tool itself says would go, if it can say."""
    command, env = command_of(cache), tools.environment_of(machine.env, machine.home)
    reading = _read(machine, cache, task)
    answer = _document(cache, command) | {
        "size_bytes": reading.size.size_bytes,
        "reclaimable_bytes": reading.size.reclaimable_bytes,
        "found": tools.find(command, env),
        "preview": None,
        "said": None,
    }
    if (preview := _preview_of(cache, command)) is not None:
        answer |= {"preview": list(preview), "said": _rehearse(cache, preview, env, machine.home, task)}
    return answer


def purge(machine: Machine, cache: Cache, task: Task, *, asked: bool = True) -> dict[str, Any]:
    """
    Empty a cache by its command; return how much that freed, as `survivectl purge --json` prints it.

    Raises `Refused` for what is not to be purged or, if nobody `asked`, is in use; `SurvivedError` if the command fails, with
    what it freed until then.
    """
    command, env = command_of(cache), tools.environment_of(machine.env, machine.home)
    _check(machine, cache, command, asked=asked)
    task.enter("measure")
    before = _read(machine, cache, task)
    would = None
    if (preview := _preview_of(cache, command)) is not None:
        would = _rehearse(cache, preview, env, machine.home, task)
    task.enter("purge")
    try:
        ended = tools.run(command, env, machine.home, task)
    except Stopped as stopped:
        raise Stopped(f"Stopped while purging '{cache.path}'. What its tool had removed until then is gone.") from stopped
    after = _read(machine, cache, task)
    freed = max(0, before.size.size_bytes - after.size.size_bytes)
    if ended.code != 0:
        lines = ended.said.splitlines()
        why = f"'{shlex.join(command)}' ended with {ended.code}{f': {lines[-1].rstrip(chr(46))}' if lines else ''}"
        raise SurvivedError(f"Cannot purge '{cache.path}': {why}. It freed {print_bytes(freed)}.")
    return _document(cache, command) | {
        "size_bytes": before.size.size_bytes,
        "left_bytes": after.size.size_bytes,
        # What others still link to does not come back.
        "freed_bytes": max(0, min(freed, before.size.reclaimable_bytes - after.size.reclaimable_bytes)),
        "on": after.target or cache.path,
        "would": would,
        "said": _tail(ended.said),
    }


def _preview_of(cache: Cache, command: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the dry run of a tool's own command; of the user's nobody knows one."""
    is_own = cache.clean_command is not None and list(command) == shlex.split(cache.clean_command)
    return tuple(shlex.split(cache.clean_preview)) if is_own and cache.clean_preview is not None else None


def _rehearse(cache: Cache, preview: tuple[str, ...], env: dict[str, str], home: str, task: Task) -> str:
    """Return what the tool says that it would do. A tool that cannot even say it is not let do it."""
    task.enter("dry run")
    ended = tools.run(preview, env, home, task, longest=_REHEARSAL_SECONDS)
    if ended.code != 0:
        why = f"its dry run, '{shlex.join(preview)}', ended with {ended.code}: {_tail(ended.said, 1)}"
        raise SurvivedError(f"Cannot purge '{cache.path}': {why.rstrip('.')}. Nothing was changed.")
    return _tail(ended.said)


def _check(machine: Machine, cache: Cache, command: tuple[str, ...], *, asked: bool) -> None:
    if not os.path.isdir(cache.path):
        raise Refused(Reason.ABSENT, f"Cannot purge '{cache.path}': there is no directory. Nothing was changed.")
    rule = find_rule(cache.id)
    is_own = rule is not None and shlex.join(command) == shlex.join(shlex.split(rule.clean_command or ""))
    if os.path.islink(cache.path) and is_own and rule is not None and rule.keeps_link is not True:
        raise _refuse(
            cache, f"it is a link, which '{shlex.join(command)}' removes instead of what it leads to",
            f"Bring it home first: survivectl restore {shlex.quote(cache.id)}",
        )  # fmt: skip
    if not asked and (holders := find_holders([cache.path]).get(cache.path, ())):
        raise Refused(Reason.BUSY, f"Cannot purge '{cache.path}': {holders[0].name} (pid {holders[0].pid}) has files open.")
    if any(item.source == cache.path for item in machine.records.standins()):
        raise Refused(Reason.UNSETTLED, f"Cannot purge '{cache.path}': it is a stand-in. Nothing was changed.")


def _read(machine: Machine, cache: Cache, task: Task) -> CacheReading:
    targets = {item.source: item.target for _, item in machine.relocations()}
    reading = read_cache(cache, 0.0, targets, stop=task.stop.is_set)
    if reading.error is not None and reading.state is not CacheState.ABSENT:
        raise SurvivedError(f"Cannot purge '{cache.path}': {reading.error} Nothing was changed.")
    return reading


def _document(cache: Cache, command: tuple[str, ...]) -> dict[str, Any]:
    return {"verb": "purge", "id": cache.id, **path_fields(cache.path), "command": list(command)}


def _tail(said: str, count: int = _LINES) -> str:
    lines = said.splitlines()
    if len(lines) <= count:
        return said
    return "\n".join(lines[-1:] if count == 1 else ["...", *lines[-count:]])


def _refuse(cache: Cache, why: str, hint: str | None = None) -> Refused:
    return Refused(Reason.NOT_PURGED, f"Cannot purge '{cache.path}': {why}. Nothing was changed.", hint)
