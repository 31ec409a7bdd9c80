"""
The loop: wait → observe → decide → act → tell. One `selectors` loop owns all state, one worker thread measures and moves.

One act, then observe again: a plan is never followed further than its first move.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from survived import errands
from survived.decide import policy
from survived.deeds import Deeds
from survived.errors import Refused, Stopped, SurvivedError
from survived.events import Event, about
from survived.growth import Growth
from survived.guard import Guard
from survived.levels import Levels, minute_of_day
from survived.lookout import Lookout
from survived.meters import Meters
from survived.mirrorwatch import MirrorWatch
from survived.model import Filesystem, Move, Observation, Operation, Plan, Pressure, Reason, Stage
from survived.post import Post
from survived.requests import Requests
from survived.signals import Signals
from survived.store import history, known
from survived.storekeeper import Storekeeper
from survived.tell import sd
from survived.tell.control import ControlServer
from survived.troubles import Failures, Troubles
from survived.units import print_bytes
from survived.worker import Job, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from survived.act.task import Task
    from survived.machine import Machine
    from survived.settings.config import Settings

log = logging.getLogger(__name__)
_PASSING = frozenset({Reason.BUSY, Reason.RECENT, Reason.COOLDOWN, Reason.UNSETTLED, Reason.FAILED_BEFORE})
_STOP_SECONDS = 4.0
_MEASURE_SHARE = 50.0
"""Measuring may take one 50th of the time, however large the caches are."""


class Daemon:
    """All the state of a running survived. `load` reads the settings again for a reload."""

    def __init__(
        self, machine: Machine, load: Callable[[], Settings], env: Mapping[str, str], *, dry_run: bool = False, once: bool = False
    ) -> None:
        self.machine, self._load, self._env, self.dry_run, self.once = machine, load, env, dry_run, once
        self.since = time.time()
        self.selector = selectors.DefaultSelector()
        self.worker = Worker()
        self.post = Post(machine, self.selector)
        self.requests, self.guard, self.storekeeper, self.deeds = Requests(self), Guard(self), Storekeeper(self), Deeds(self)
        self.control = ControlServer(str(machine.paths.socket), self.requests.handle, machine.uid)
        self.levels = Levels(machine)
        self.growth = Growth(machine.settings.watch.max_watches, self.selector, self.levels, self._woken)
        self.observation: Observation | None = None
        self.plan = Plan((), ())
        self.failures, self.troubles, self.meters = Failures(), Troubles(), Meters(machine)
        self.paused_until: float | None = None
        self._measure_at = self.cooldown_until = self._thin_at = 0.0
        self._measured_seconds = 0.0
        self.signals = Signals()
        self._mirrors = MirrorWatch(self, env, self.since)
        self._lookout = Lookout(machine.paths.config_file, env, self.since)
        self._before: Filesystem | None = None
        self._told_line = ""

    # ---- the loop -------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Run until told to stop; return the exit code. With `once`, until there is nothing more to do."""
        self.signals.catch()
        self._register(self.signals.fileno(), lambda _: self.signals.drain())
        if not self.once:
            self.machine.claim()  # first of all: of two daemons the second goes before it has touched anything
            self.control.listen()
            self.control.register(self.selector)
        self.tick()
        self._register(self.worker.fileno(), lambda _: self.worker.collect())
        sd.ready(self.status_line())
        beat = sd.watchdog_interval(self._env) or 60.0
        while not self.signals.stop:
            if self.once and self._is_finished():
                break
            wait = 0.0 if self._is_due() else min(beat, self._wait())
            for key, mask in self.selector.select(wait):
                key.data(mask)
            sd.watchdog()
            if self.signals.reload:
                with contextlib.suppress(SurvivedError):  # told and kept as a problem by `reload` itself
                    self.reload()
            self.tick()
        return self._end()

    def tick(self) -> None:
        """Observe what is cheap to observe, then decide; never raises for what a disk or a tool does."""
        now = time.time()
        try:
            self.growth.listen()
            self._read(now)
            self.storekeeper.tick(now)
            self.guard.tick(now)
            self._decide(now)
            self.post.tick(now)
            if not self.dry_run and not self.once:
                self.post.beat(is_well=not self.troubles.texts() and self.levels.worst() is not Pressure.FLOOD)
            self.control.expire(time.monotonic())
            if not self.dry_run and not self.once:
                self._lookout.tick(now)
                self._mirrors.tick(now)
                self.meters.tick(self.requests.do_status)
                self.troubles.set("metrics", self.meters.trouble)
            if (line := self.status_line()) != self._told_line:
                self._told_line = line
                sd.status(line)
        except (SurvivedError, OSError) as error:
            self.troubles.set("tick", str(error))
        else:
            self.troubles.set("tick", None)

    # ---- observe --------------------------------------------------------------------------------------------------

    def _read(self, now: float) -> None:
        rules = replace(self.machine.rules, dwell_seconds=0.0) if self.once else self.machine.rules
        changed, samples = self.levels.read(rules, now)
        self.troubles.set("marks", self.levels.troubles)
        if changed:
            self._measure_at = 0.0
        first = next(iter(self.machine.open.values()), None)
        if first is not None and self.worker.is_idle:
            with contextlib.suppress(SurvivedError):
                self.levels.recall(first.database, now)
                for sample in samples:
                    history.record(first.database, sample)
                if now >= self._thin_at:
                    self._thin_at = now + 86400.0
                    history.thin(first.database, now)
                    known.KnownTrees(first.database).thin(now)

    def measure_soon(self) -> None:
        """What was measured is old."""
        self._measure_at = 0.0

    def _woken(self) -> None:
        self._measure_at = min(self._measure_at, time.time() + max(5.0, _MEASURE_SHARE * self._measured_seconds))

    # ---- decide ---------------------------------------------------------------------------------------------------

    def _decide(self, now: float) -> None:
        if self.worker.is_idle and now >= self._measure_at:
            self._start_measuring(now)
        if self.observation is None or (self.worker.job is not None and self.worker.job.name == "measuring"):
            return
        seen = self._make_plan(self.observation, now)
        if self.worker.is_idle:
            if not self.dry_run:
                self.post.observed(seen, self.levels.pressures(), self.plan, now)
            self.requests.start_next()
        flood = self.levels.worst() is Pressure.FLOOD
        not_before = max(self.cooldown_until, self.deeds.not_before(now))
        if self.plan.moves and self.worker.is_idle and (flood or self.once or now >= not_before):
            if self.dry_run:
                self.deeds.say_moves()
            elif self.plan.moves[0].command is not None:
                self.deeds.start_purge(self.plan.moves[0])
            else:
                self._start_move(self.plan.moves[0])
        elif not self.dry_run and not self.plan.moves and self.worker.is_idle and now >= self.cooldown_until:
            self.deeds.relieve(seen, now)

    def _make_plan(self, measured: Observation, now: float) -> Observation:
        """Plan on what was measured and on what is cheap to know now; return both as one observation."""
        seen = replace(measured, time=now, filesystems=self.levels.filesystems, stores=self.storekeeper.stores)
        failed, paused = self.failures.held_back(now), self.is_paused(now)
        pressures, gauges = self.levels.pressures(), self.levels.gauges
        minute = minute_of_day(now)
        self.plan = policy.plan(seen, pressures, self.machine.rules, failed=failed, paused=paused, gauges=gauges, minute=minute)
        return seen

    def is_paused(self, now: float) -> bool:
        """Tell whether a person has paused moving."""
        if self.paused_until is not None and now >= self.paused_until:
            self.paused_until = None
        return self.paused_until is not None

    def _start_measuring(self, now: float) -> None:
        last, stores = self.observation, self.storekeeper.stores
        began, changed = time.monotonic(), self.growth.take_changed()

        def look(task: Task) -> Observation:
            return self.machine.observe(last, stop=task.stop.is_set, stores=stores, changed=changed, together=True)

        def measured(result: Any, error: SurvivedError | None) -> None:
            self._measured_seconds = time.monotonic() - began
            if error is not None:
                self.growth.give_back(changed)
            if error is None:
                self.observation = result
                self._make_plan(result, time.time())  # its reasons tell when to measure again
                self.growth.watch(result)
            elif not isinstance(error, Stopped):
                self.troubles.set("measure", str(error))
            self._measure_at = time.time() + self._until_next_measuring()

        self._measure_at = now + 3600.0
        self.worker.start(Job("measuring", look, measured))

    def _until_next_measuring(self) -> float:
        # A reason that passes by itself is looked at again soon, everything else more and more seldom. On a quiet disk
        # only what is over its own limit has one.
        passing = any(refusal.reason in _PASSING for refusal in self.plan.refusals) or not self.plan.refusals
        if self.levels.worst() is Pressure.NORMAL and not passing:
            return 3600.0
        quick = max(0.5, min(self.machine.rules.settle_seconds / 2, 30.0)) if passing else 60.0
        return max(quick, _MEASURE_SHARE * self._measured_seconds / (10.0 if passing else 1.0))

    # ---- act ------------------------------------------------------------------------------------------------------

    def _start_move(self, move: Move) -> None:
        cache = next(cache for cache in self.machine.known_caches() if cache.path == move.source)
        disk = os.path.dirname(move.store_path)
        extra = about(Event.MOVE_BEGUN, cache=move.cache_id, path=move.source, target=disk, size_bytes=move.size_bytes)
        log.info("Moving '%s' (%s) to '%s': %s", move.source, print_bytes(move.size_bytes), disk, move.why, extra=extra)

        def work(task: Task) -> Operation:
            return errands.relocate(self.machine, cache, task, to=disk, asked=False)

        self.act(
            Job(f"moving {move.cache_id}", work, lambda done, error: self.moved(move.cache_id, move.source, done, error)),
            move.source,
        )

    def act(self, job: Job, source: str) -> None:
        """Start a job that changes a user's files, noting how full its filesystem is before."""
        self._before = self.machine.filesystem_of(source)
        self.worker.start(job)

    def moved(self, cache_id: str, source: str, done: Operation | None, error: SurvivedError | None) -> None:
        """Note and tell what came of a job that acted; the next tick observes again."""
        now = time.time()
        self._measure_at = 0.0
        self.meters.moved(done, error)
        self.storekeeper.look_again()
        self.cooldown_until = now + self.machine.rules.cooldown_seconds
        if done is not None:
            freed = f"freed {print_bytes(done.freed_bytes)}." if done.stage is Stage.DONE else done.note
            log.info("%s; %s", errands.describe(done), freed, extra=errands.about_move(done, self._before))
            self.failures.forget(source)
            self.post.moved(done, self._before, self.machine.filesystem_of(source), now)
        elif error is not None and not isinstance(error, Stopped):
            self.failures.note(source, error.message, now, cache_id)
            if not (isinstance(error, Refused) and error.reason in _PASSING):
                self.post.failed(cache_id, source, error.message, now)

    def asked(self, cache_id: str, source: str, done: Operation | None, error: SurvivedError | None) -> None:
        """As `moved`, for what a person asked for: who asked hears of a failure, and nobody else has to."""
        if done is not None:
            self.moved(cache_id, source, done, None)
        elif error is not None:
            self.meters.moved(None, error)
            log.warning("%s", error.message, extra=about(Event.MOVE_FAILED, cache=cache_id, path=source, error=error.message))
        self._measure_at = 0.0

    def reload(self) -> None:
        """Take the configuration as it is now, whole, or keep the old one and say why. Raises the `ConfigError`."""
        self.signals.reload = False
        sd.reloading()
        try:
            settings = self._load()
            self.machine.use(settings)
            self._measure_at = 0.0
            self.storekeeper.look_again()
            self.guard.look_again()
            self.troubles.set("config", None)
            log.info("The configuration was read again.", extra=about(Event.CONFIG_READ))
        except SurvivedError as error:
            self.troubles.set("config", f"The old configuration stays in use: {error}")
            self.post.trouble("The new configuration cannot be used", f"{error} The old one stays in use.", time.time())
            raise
        finally:
            sd.ready(self.status_line())

    # ---- tell -----------------------------------------------------------------------------------------------------

    def status_line(self) -> str:
        """Return the line that `systemctl status` shows."""
        job = self.worker.job
        return self.levels.line() + (f"; {job.task.phase} {job.task.cache_id}" if job is not None and job.task.source else "")

    # ---- waiting, signals, the end ----------------------------------------------------------------------------------

    def _is_due(self) -> bool:
        return self.signals.reload or self.signals.stop or (self.worker.is_idle and self._measure_at == 0.0)

    def _wait(self) -> float:
        now = time.time()
        waits = [
            self.levels.wait(self.machine.rules),
            self.growth.wait(),
            self.post.wait(now),
            self.guard.wait(now),
            self._measure_at - now,
        ]
        if self.plan.moves:
            waits.append(max(self.cooldown_until, self.deeds.not_before(now)) - now)
        if self.worker.job is not None:
            waits.append(1.0)
        return max(0.05, min(waits))

    def _is_finished(self) -> bool:
        moves = self.plan.moves if not self.dry_run else ()
        return (
            self.worker.is_idle
            and self.observation is not None
            and not moves
            and self._measure_at > 0
            and self.post.is_idle(time.time())
        )

    def _register(self, fd: int, callback: Callable[[int], None]) -> None:
        self.selector.register(fd, selectors.EVENT_READ, callback)

    def _end(self) -> int:
        sd.stopping()
        ended = self.worker.stop(_STOP_SECONDS)
        self.control.close()
        self.growth.close()
        self.post.close()
        self._lookout.close()
        self._mirrors.close()
        self.meters.close()
        if not ended:
            log.warning("Stopped in the middle of a copy; it is undone at the next start.", extra=about(Event.STOPPED_MIDWAY))
            os._exit(0)  # the worker sits in a system call
        self.worker.collect()
        self.machine.close()
        return Refused.exit_code if self.once and self.levels.worst() is not Pressure.NORMAL and not self.dry_run else 0
