"""
What the control socket can be asked, and the queue of what people asked for.

Answers are quick and come from what the loop knows; whatever moves files becomes a numbered request that the worker
takes when it is free, and that the client asks about until it has ended.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from survived import errands, orphans, purges, standins
from survived.decide import guardian
from survived.errors import NeedsPerson, Refused, Stopped, SurvivedError, UsageError
from survived.findings import Sizes
from survived.model import Observation, Operation, Stage, Verb
from survived.store import hogs
from survived.tell import status
from survived.tell.control import BadParams, UnknownMethod
from survived.tell.page import NARROWEST, WIDEST
from survived.worker import Job

if TYPE_CHECKING:
    from collections.abc import Callable

    from survived.act.task import Task
    from survived.daemon import Daemon

_KEPT = 20
_LONGEST_PAUSE = 10 * 365 * 86400.0  # what a date can hold has an end


@dataclass(slots=True)
class Request:
    """One thing that was asked for; `run` is called by the worker."""

    number: int
    cache_id: str
    source: str
    run: Callable[[Task], Operation | dict[str, Any]]
    state: str = "waiting"
    job: Job | None = None
    result: dict[str, Any] = field(default_factory=dict)
    error: SurvivedError | None = None


class Requests:
    """Answers the control socket for one daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._waiting: deque[Request] = deque()
        self._all: dict[int, Request] = {}
        self._count = 0

    def handle(self, method: str, params: dict[str, Any]) -> Any:
        """Return the answer to one call; raises `SurvivedError`, `UnknownMethod` or `BadParams`."""
        answer: Callable[..., Any] | None = getattr(self, f"do_{method}", None)
        if answer is None:
            raise UnknownMethod(method)
        try:
            return answer(**params)
        except TypeError as error:
            raise BadParams(str(error)) from error

    def do_status(self) -> dict[str, Any]:
        """Return the status document."""
        return status.document(self._snapshot())

    def do_status_text(self, width: int = 80, colour: bool = False, as_json: bool = False) -> str:
        """Return the status as survivectl prints it, so that a client need not be able to."""
        doc = self.do_status()
        if as_json:
            return json.dumps(doc, ensure_ascii=False, indent=2)
        return status.render(doc, width=max(NARROWEST, min(WIDEST, width)), colour=colour)

    def do_status_short(self, style: str = "plain") -> dict[str, Any]:
        """Return the status as a shell prompt or tmux shows it."""
        return status.brief(self.do_status(), style)

    def do_relocate(self, what: str, to: str | None = None) -> dict[str, Any]:
        """Queue a relocation of a cache id or an absolute path."""
        machine = self._daemon.machine
        cache = errands.find_cache(machine, what)
        queued = self._queue(cache.id, cache.path, lambda task: errands.relocate(machine, cache, task, to=to))
        return {**queued, "advice": errands.advice(machine, cache)}

    def do_restore(self, what: str, force: bool = False) -> dict[str, Any]:
        """Queue bringing home what an id or an absolute path names."""
        machine = self._daemon.machine
        store, item = errands.find_relocation(machine, what)
        return self._queue(item.cache_id, item.source, lambda task: errands.restore(machine, store, item, task, forced=force))

    def do_rehome(self, what: str, to: str | None = None) -> dict[str, Any]:
        """Queue moving what an id or an absolute path names to another data disk."""
        machine = self._daemon.machine
        store, item = errands.find_relocation(machine, what, Verb.REHOME)
        return self._queue(item.cache_id, item.source, lambda task: errands.rehome(machine, store, item, task, to=to))

    def do_purge(self, what: str) -> dict[str, Any]:
        """Queue emptying a cache by its tool's own command."""
        machine = self._daemon.machine
        cache = errands.find_cache(machine, what)
        purges.command_of(cache)
        return self._queue(cache.id, cache.path, lambda task: purges.purge(machine, cache, task))

    def do_remove(self, what: list[str]) -> dict[str, Any]:
        """Queue removing trees that no link leads to."""
        machine = self._daemon.machine
        chosen = [orphans.choose(machine, word, "remove") for word in what]
        targets = [orphan.target for orphan in chosen]
        return self._queue(chosen[0].cache_id, chosen[0].source, lambda task: {"results": orphans.remove(machine, targets, task)})

    def do_link(self, what: str) -> dict[str, Any]:
        """Queue linking a tree again that no link leads to."""
        machine = self._daemon.machine
        orphan = orphans.choose(machine, what, "link")
        return self._queue(orphan.cache_id, orphan.source, lambda task: orphans.link(machine, orphan.target, task))

    def do_adopt(self, what: str) -> dict[str, Any]:
        """Queue letting a path be what it is now."""
        machine = self._daemon.machine
        cache = errands.find_cache(machine, what)
        return self._queue(cache.id, cache.path, lambda _task: orphans.adopt(machine, what))

    def do_standin(self, what: str | None = None, undo: bool = False) -> dict[str, Any]:
        """Make a stand-in for a link, or for all that dangle, or undo one; in this call, since a link and a folder are quick."""
        machine = self._daemon.machine
        if what is None:
            answer: dict[str, Any] = {"results": standins.place_all(machine)}
        else:
            answer = standins.undo(machine, what) if undo else standins.place(machine, what)
        self._daemon.guard.look_again()
        self._daemon.measure_soon()
        return answer

    def do_redirect(
        self, action: str, tool: str, move: bool = False, to: str | None = None, env: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Queue redirecting a tool, or taking that back; `env` are the caller's variables that say where tools look."""
        from survived import redirects
        from survived.settings.recipes import find_recipe

        machine, name, env = self._daemon.machine, find_recipe(tool).name, env or {}
        if action == "apply":
            return self._queue(name, machine.home, lambda task: redirects.apply(machine, name, task, move=move, to=to, env=env))
        return self._queue(name, machine.home, lambda task: redirects.undo(machine, name, task, env=env))

    def do_request(self, number: int, stop: bool = False) -> dict[str, Any]:
        """Return how a queued request stands; with `stop`, end it."""
        request = self._all.get(number)
        if request is None:
            raise BadParams(f"there is no request {number}")
        if stop:
            self._stop(request)
        job = request.job
        answer: dict[str, Any] = {"number": number, "state": request.state, "result": request.result, "progress": None}
        if job is not None and request.state == "running":
            answer["progress"] = status.progress_document(job.task.progress())
        if request.error is not None:
            reason = request.error.reason.value if isinstance(request.error, Refused) else None
            answer["error"] = {
                "message": request.error.message,
                "hint": request.error.hint,
                "exit_code": request.error.exit_code,
                "reason": reason,
            }
        return answer

    def do_recover(self) -> dict[str, Any]:
        """Recover now, in this call: it is quick unless there is much to remove."""
        if not self._daemon.worker.is_idle and self._snapshot().progress is not None:
            raise SurvivedError("Cannot recover while a move is running. Nothing was changed.", "Try again when it has ended.")
        ended, puzzles = errands.recover(self._daemon.machine)
        if puzzles:
            raise NeedsPerson(" ".join(puzzle.message for puzzle in puzzles), puzzles[0].hint)
        return {"recovered": [{**status.path_fields(op.source), "verb": op.verb.value, "stage": op.stage.value} for op in ended]}

    def do_pause(self, seconds: float | None = None) -> dict[str, Any]:
        """Move nothing by itself for so long, or until `resume`."""
        if seconds is not None and not 0 <= seconds <= _LONGEST_PAUSE:
            raise UsageError(
                "Cannot pause for so long: ten years are the most. Nothing was changed.", "Until you say so: survivectl pause."
            )
        self._daemon.paused_until = float("inf") if seconds is None else time.time() + seconds
        return {"paused": True, "seconds": seconds}

    def do_resume(self) -> dict[str, Any]:
        """Move again."""
        self._daemon.paused_until = None
        return {"paused": False}

    def do_reload(self) -> dict[str, Any]:
        """Read the configuration again; a bad one is refused and the old one stays."""
        self._daemon.reload()
        return {"reloaded": True}

    def do_keep_hogs(self, sizes: dict[str, int], smallest: int) -> dict[str, Any]:
        """Keep what a survivectl found big, so that growth can be told: the store has one writer, and that is us."""
        opened = next(iter(self._daemon.machine.open.values()), None)
        kept = opened is not None and hogs.record(opened.database, Sizes(time.time(), sizes, smallest))
        return {"kept": kept}

    def do_notices(self) -> dict[str, Any]:
        """Return how the last notices stand."""
        return {**self._daemon.post.summary(), "recent": self._daemon.post.recent()}

    def do_metrics(self) -> dict[str, Any]:
        """Return the page that Prometheus reads, as of now."""
        return {"text": self._daemon.meters.text(self.do_status())}

    def _snapshot(self) -> status.Snapshot:
        """Return everything that the status document is made of."""
        daemon, now = self._daemon, time.time()
        levels, task = daemon.levels, daemon.worker.job.task if daemon.worker.job is not None else None
        if task is not None and not task.source:
            task = None  # it only looks
        seen = daemon.observation or Observation(now, levels.filesystems, (), daemon.storekeeper.stores)
        return status.Snapshot(
            now,
            replace(seen, filesystems=levels.filesystems, stores=daemon.storekeeper.stores),
            daemon.machine.rules,
            levels.gauges,
            levels.seconds_to_full(now),
            pid=os.getpid(),
            since=daemon.since,
            paused=daemon.is_paused(now),
            paused_until=daemon.paused_until if daemon.paused_until != float("inf") else None,
            progress=task.progress() if task is not None else None,
            moving=task.source if task is not None else None,
            notices=daemon.post.summary(),
            recent=daemon.post.recent(),
            problems=daemon.troubles.texts(),
            links=[(reading, guardian.judge(reading)) for reading in daemon.guard.links],
            standins=daemon.machine.records.standins(),
            plan=daemon.plan,
        )

    def do_mirror_use(self, tool: str, url: str, env: dict[str, str]) -> dict[str, Any]:
        """Queue leading a tool to the mirror at a URL; `env` is the asker's, as far as it tells where settings are."""
        from survived import upstreams
        from survived.mirrors import known, recipes

        distribution, _ = recipes.read_distribution()
        mirror = known.at(known.check_tool(tool), url, distribution)
        return self._queue(f"mirror {tool}", self._daemon.machine.home, lambda _: upstreams.lead(self._daemon.machine, mirror, env))

    def do_mirror_undo(self, tool: str) -> dict[str, Any]:
        """Queue taking back where we led a tool to."""
        from survived import upstreams
        from survived.mirrors import known

        known.check_tool(tool)
        return self._queue(f"mirror {tool}", self._daemon.machine.home, lambda _: upstreams.take_back(self._daemon.machine, tool))

    # ---- the queue ------------------------------------------------------------------------------------------------

    def _queue(self, cache_id: str, source: str, run: Callable[[Task], Operation | dict[str, Any]]) -> dict[str, Any]:
        self._count += 1
        request = Request(self._count, cache_id, source, run)
        self._all[self._count] = request
        self._all.pop(self._count - _KEPT, None)
        self._waiting.append(request)
        self._daemon.worker.cancel_measuring()
        self.start_next()
        return {"number": request.number, **status.path_fields(source)}

    def start_next(self) -> None:
        """Give the worker the next request, if it is free."""
        if not self._daemon.worker.is_idle or not self._waiting:
            return
        request = self._waiting.popleft()
        request.state = "running"
        request.job = Job(f"asked: {request.cache_id}", request.run, lambda done, error: self._ended(request, done, error))
        self._daemon.act(request.job, request.source)

    def _ended(self, request: Request, done: Operation | dict[str, Any] | None, error: SurvivedError | None) -> None:
        request.state, request.error = ("failed", error) if error is not None else ("done", None)
        if done is not None:
            request.result = done if isinstance(done, dict) else result_of(done)
            if request.job is not None and request.job.task.advice:
                request.result["advice"] = request.job.task.advice
        asked_to_stop = isinstance(error, Stopped)
        moved = done if isinstance(done, Operation) else None
        self._daemon.asked(request.cache_id, request.source, moved, None if asked_to_stop else error)
        self._daemon.guard.look_again()

    def _stop(self, request: Request) -> None:
        if request in self._waiting:
            self._waiting.remove(request)
            request.state, request.error = "failed", Stopped("Stopped before it began. Nothing was changed.")
        elif request.job is not None:
            request.job.task.stop.set()


def result_of(done: Operation) -> dict[str, Any]:
    """Return an ended operation for JSON."""
    return {
        "schema": status.SCHEMA,
        "verb": done.verb.value,
        "id": done.cache_id,
        **status.path_fields(done.source),
        **status.path_fields(done.target, "target"),
        "done": done.stage is Stage.DONE,
        "size_bytes": done.size_bytes,
        "files": done.files,
        "freed_bytes": done.freed_bytes,
        "note": done.note,
    }
