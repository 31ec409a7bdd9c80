"""
Docker's data-root on another disk and back: stop, copy, edit, start, verify; and whatever fails, docker runs as before.

What counts is which root docker's configuration names: before that edit every failure and every crash ends on the old
root, which nobody has written to; after it a crash goes forward, because docker may have written to the new one. The old
root is out of the way while docker shows all that it had from the new one and starts containers there; only then it goes.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from survived.act import dockerconfig, dockerpaths, dockerproof, fs, replica
from survived.act.ballast import Ballast
from survived.act.dockerd import inventory_of_tree, read_contained
from survived.act.dockerproof import socket_of
from survived.act.dockerstate import Act, Moved, Part, State, Step, load, save
from survived.errors import NeedsPerson, Refused, Stopped, SurvivedError, cause_of
from survived.model import Reason
from survived.observe.disks import is_below

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from survived.act.dockerd import Dockerd
    from survived.act.dockerplan import Situation
    from survived.act.task import Task

_RELEASE_SECONDS = 15.0
_POLL_SECONDS = 0.2


class DockerMove:
    """One move of one docker's roots, and its way back. `state_file`: where it is journaled; `task`: told how far it is."""

    def __init__(self, dockerd: Dockerd, env: Mapping[str, str], state_file: str, task: Task) -> None:
        self._dockerd, self._env, self._file, self._task = dockerd, env, state_file, task
        self._state = load(state_file)
        self._ballast = Ballast(os.path.dirname(state_file), 1 << 20)  # what a survived in root mode has laid there, if one runs

    # ---- forward --------------------------------------------------------------------------------------------------

    def move(self, now: Situation, parts: Sequence[Part], *, home: bool = False, keep_old: bool = False) -> State:
        """
        Move every part to its new root and return the state after it.

        Raises `Refused` or `SurvivedError` after docker runs from its old roots again, `NeedsPerson` if it does not.
        """
        if self._state.act is not None:
            raise NeedsPerson("Cannot move docker's data: an earlier move was interrupted.", "Run survivectl docker recover first.")
        if now.unit is None:
            raise Refused(Reason.ABSENT, "Cannot move docker's data: it is not known how docker is started. Nothing was changed.")
        contained = now.containerd_unit if any(part.name == "containerd" for part in parts) else None
        units = tuple(unit for unit in (contained, now.unit) if unit is not None)
        inventory = self._dockerd.read_inventory() if now.info is not None else inventory_of_tree(now.root)
        if contained is not None:
            inventory = replace(inventory, contained=read_contained(self._env))
        for part in parts:
            dockerconfig.validate(part, self._env)
            dockerconfig.check_writable(part, self._ballast)
        parts = tuple(
            replace(part, made=not os.path.lexists(part.new), folders=part.folders or dockerconfig.folders_for(part))
            for part in parts
        )
        began, host = time.time(), self._dockerd.host
        act = Act(Step.INTENT, home, began, host, units, now.info is not None, parts, inventory, keep_old)
        try:
            self._record(act)
        except OSError as error:
            raise SurvivedError(f"Cannot write '{self._file}': {_sentence(error)} Nothing was changed.") from error
        try:
            if now.info is not None and now.info.live_restore:
                self._dockerd.stop_containers(inventory.running)
            self._stop(act)
            act = self._copy(act)
            act = self._edit(act)
            act = self._start(act)
        except (SurvivedError, OSError) as error:
            raise self._back(self._latest(act), error) from error
        return self._finish(act)

    def _stop(self, act: Act) -> None:
        """Stop docker, and containerd with its roots, and wait until nobody uses the old roots."""
        self._task.enter("stop")
        for unit in reversed(act.units):
            if (why := unit.stop(self._env, socket_of(unit, self._dockerd))) is not None:
                stuck = f"{unit.title} does not stop: {why}"
                raise Refused(Reason.BUSY, f"Cannot move '{act.parts[-1].old}': {stuck}.", unit.log_command)
        deadline = time.monotonic() + _RELEASE_SECONDS
        for part in act.parts:
            replica.free_of_mounts(part.old)
            while users := replica.users_of(part.old):
                if time.monotonic() > deadline:
                    names = ", ".join(users[:3])
                    raise Refused(Reason.BUSY, f"Cannot move '{part.old}': it is still used by {names}.", "End them first.")
                self._task.wait(_POLL_SECONDS)

    def _copy(self, act: Act) -> Act:
        self._task.enter("copy")
        for part in act.parts:
            if part.made:
                os.mkdir(part.new, 0o700)
            replica.replicate(part.old, part.new, self._task.tick)
            if part.name == "docker":
                dockerpaths.rewrite(part.new, part.old, part.new)
        self._task.enter("verify")
        for part in act.parts:
            replica.free_of_mounts(part.old)  # a docker that was started meanwhile has mounted there
        self._refuse_if_started(act)
        return self._record(replace(act, step=Step.COPIED))

    def _refuse_if_started(self, act: Act) -> None:
        for unit in act.units:
            if unit.is_active(self._env, socket_of(unit, self._dockerd)):
                why = f"something started {unit.title} again in the meantime"
                raise Refused(Reason.BUSY, f"Cannot move '{act.parts[-1].old}': {why}.", unit.log_command)

    def _edit(self, act: Act) -> Act:
        """Change the configurations, docker's last: from there on a crash goes forward."""
        act = self._record(replace(act, step=Step.EDITING))
        for part in act.parts:
            if dockerconfig.read(part.config) != part.before:
                raise Refused(Reason.STALE, f"Cannot move '{part.old}': '{part.config}' was changed in the meantime.", "Try again.")
            dockerconfig.write(part, part.after, self._ballast)
        return act

    def _start(self, act: Act) -> Act:
        """Start docker on the new roots and verify that it has all that it had; `SurvivedError` says what is missing."""
        self._task.enter("start")
        self._refuse_if_on_old(act)
        self._set_guard(act, [] if act.home else [part.new for part in act.parts])
        act = self._record(replace(act, step=Step.STARTING))
        for part in act.parts:
            dockerpaths.set_aside(part.old)  # whatever still leads there is found out
        dockerproof.start(act, self._dockerd, self._env)
        dockerproof.prove(act, self._dockerd, self._env)
        return self._record(replace(act, step=Step.VERIFIED))

    def _finish(self, act: Act) -> State:
        """Record where the data is, and remove the old roots, unless they are kept; what cannot be removed is left for `clean`."""
        self._task.phase = "remove"
        old = tuple(part.old for part in act.parts)
        left = tuple(dict.fromkeys((*self._state.left, *old)))
        self._keep(State(self._state.moved, act, left))
        with contextlib.suppress(SurvivedError, OSError):
            for root in old:
                if act.keep_old:
                    dockerpaths.put_back(root)
                    continue
                place = dockerpaths.place_of(root)
                left = tuple(dict.fromkeys(place if item == root else item for item in left))
                replica.free_of_mounts(place)
                replica.remove(place, lambda _: None)
                left = tuple(item for item in left if item != place)
        self._keep(State(None if act.home else self._moved(act), None, left))
        return self._state

    def _moved(self, act: Act) -> Moved:
        """Return where the data is after an act; what went from one data disk to another keeps the home that it had."""
        first = {part.name: part for part in self._state.moved.parts} if self._state.moved is not None else {}
        parts = tuple(
            replace(part, old=first[part.name].old, before=first[part.name].before, folders=first[part.name].folders)
            if part.name in first else part
            for part in act.parts
        )  # fmt: skip
        return Moved(time.time(), act.host, parts)

    # ---- back -----------------------------------------------------------------------------------------------------

    def _back(self, act: Act, cause: SurvivedError | OSError) -> SurvivedError:
        """Have docker run from its old roots again; return the error that tells both, raise `NeedsPerson` if it does not run."""
        self._task.stop.clear()  # whoever asked to stop is waiting for exactly this
        self._task.enter("back")
        ran_there = act.step is Step.STARTING
        if ran_there:
            for unit in reversed(act.units):
                unit.stop(self._env, socket_of(unit, self._dockerd))
        done = self._put_configurations_back(act)
        self._set_guard(act, [part.old for part in act.parts] if self._state.moved is not None else [])
        left = self._remove_copies(act, keep=ran_there)
        if act.was_active:
            try:
                dockerproof.start(act, self._dockerd, self._env)
                for container in act.inventory.running:
                    if container not in act.inventory.passing:
                        self._dockerd.start_container(container)
            except SurvivedError as error:
                unit = act.units[-1]
                raise NeedsPerson(
                    f"Cannot start docker again: {_sentence(error)} It was stopped because: {_sentence(cause)} "
                    f"Its data in '{act.parts[-1].old}' and its configuration are as they were.",
                    f"{unit.log_command}; then {unit.start_command}; then survivectl docker recover.",
                ) from cause
        with contextlib.suppress(OSError):  # a full disk: it stays unfinished, and the next recover does all this once more
            self._keep(State(self._state.moved, None, tuple(dict.fromkeys((*self._state.left, *left)))))
        runs = "Docker runs from there as before" if act.was_active else "Everything is as before"
        why = "is kept, for docker ran there" if ran_there else "could not be removed"
        kept = f" The copy in '{left[-1]}' {why}: survivectl docker clean removes it." if left else ""
        return _again(cause, act, f"{done}{runs}.{kept}")

    def _put_configurations_back(self, act: Act) -> str:
        told = ""
        for part in act.parts:
            try:
                dockerpaths.put_back(part.old)  # before its configuration names it: docker would begin anew in its place
                if dockerconfig.says(part, part.new):
                    dockerconfig.write(part, dockerconfig.put_back(part), self._ballast)
                    told = "The configuration was put back. "
            except (SurvivedError, OSError) as error:
                raise NeedsPerson(
                    f"Cannot put '{part.config}' back: {_sentence(error)} "
                    f"Docker's data is in '{part.old}', and '{part.new}' has a copy.",
                    f"Give the key '{part.key}' the value '{part.old}', then run survivectl docker recover.",
                ) from error
        return told

    def _remove_copies(self, act: Act, *, keep: bool) -> tuple[str, ...]:
        """Remove what was copied; return what is left: all of it if docker ran there, or what a vanished disk does not let go."""
        left = []
        for part in act.parts:
            if not os.path.lexists(part.new):
                continue
            if keep:
                left.append(part.new)
                continue
            try:
                (replica.remove if part.made else replica.empty)(part.new, lambda _: None)
            except (SurvivedError, OSError):
                left.append(part.new)
        return tuple(left)

    # ---- after a crash --------------------------------------------------------------------------------------------

    def recover(self) -> str | None:
        """
        Finish or undo what a crash left, and return what became of it as a sentence; None if nothing was left.

        Raises `NeedsPerson` where docker runs from neither.
        """
        act = self._state.act
        if act is None:
            return None
        last = act.parts[-1]
        forward = act.step in (Step.EDITING, Step.STARTING, Step.VERIFIED) and dockerconfig.says(last, last.new)
        self._refuse_without_disk(act, forward=forward)
        if forward and act.step is Step.VERIFIED:
            self._finish(act)
            return f"Docker's data is in '{last.new}'."
        if forward:
            try:
                act = self._start(act)
            except (SurvivedError, OSError) as error:
                raise self._back(self._latest(act), error) from error
            self._finish(act)
            return f"Docker's data is in '{last.new}'."
        self._back(act, SurvivedError("Interrupted."))
        return f"Docker's data is in '{last.old}' as before."

    def _refuse_without_disk(self, act: Act, *, forward: bool) -> None:
        """Have a person look where docker has run from a root that is not there, or does no more run where it was verified."""
        has_run = act.step is Step.VERIFIED or (forward and act.step is Step.STARTING)
        for part in act.parts if has_run else ():
            if not (os.path.isdir(part.new) and os.listdir(part.new)):
                why = f"docker has run from '{part.new}', and it is not there"
                raise NeedsPerson(f"Cannot recover: {why}. Nothing was changed.", "Mount its disk, then survivectl docker recover.")
        if act.step is Step.VERIFIED and not forward:
            part = act.parts[-1]
            why = f"docker ran from '{part.new}', and '{part.config}' says otherwise since"
            raise NeedsPerson(f"Cannot recover: {why}. Nothing was changed.", f"Give its '{part.key}' that value again, or remove "
                              f"'{self._file}' to have us forget the move.")  # fmt: skip

    def clean(self) -> tuple[str, ...]:
        """Remove the roots that docker does not use any more, and return them."""
        if self._state.act is not None:
            raise NeedsPerson("Cannot clean: a move of docker was interrupted.", "Run survivectl docker recover first.")
        used = [os.path.realpath(self._dockerd.read_info().root)] if self._dockerd.answers() else []
        used += [os.path.realpath(part.new) for part in self._state.moved.parts] if self._state.moved is not None else []
        for root in self._state.left:
            if any(is_below(place, os.path.realpath(root)) for place in used):
                raise Refused(Reason.BUSY, f"Cannot remove '{root}': docker's data is there. Nothing was removed.")
        gone = []
        for root in self._state.left:
            replica.free_of_mounts(root)
            replica.remove(root, lambda _: None)
            gone.append(root)
            self._keep(replace(self._state, left=tuple(item for item in self._state.left if item != root)))
        return tuple(gone)

    # ---- both ways ------------------------------------------------------------------------------------------------

    def _refuse_if_on_old(self, act: Act) -> None:
        """Refuse to go forward where docker was started on the old root after the copy was complete: it may have written there."""
        if act.step is Step.EDITING and self._dockerd.answers():
            root = self._dockerd.read_info().root
            if not is_below(os.path.realpath(root), os.path.realpath(act.parts[-1].new)):
                raise Refused(Reason.BUSY, f"Cannot move '{act.parts[-1].old}': something started docker again in the meantime.")

    def _set_guard(self, act: Act, roots: list[str]) -> None:
        for unit in act.units:
            path = dockerconfig.guard_path(unit, self._env)
            if path and dockerconfig.set_guard(path, roots):
                unit.reload(self._env)

    def _latest(self, act: Act) -> Act:
        """Return the act as it was journaled last: what raised did not return it."""
        return self._state.act or act

    def _record(self, act: Act) -> Act:
        self._keep(replace(self._state, act=act))
        return act

    def _keep(self, state: State) -> None:
        os.makedirs(os.path.dirname(self._file), mode=0o700, exist_ok=True)
        with fs.opened(os.path.dirname(self._file), follow=True) as fd:
            self._ballast.with_room(lambda: save(self._file, state), fd)
        self._state = state


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError):
        return f"{cause_of(error)}."
    return error.message if isinstance(error, SurvivedError) else str(error)


def _again(cause: SurvivedError | OSError, act: Act, after: str) -> SurvivedError:
    """Return the cause as an error that also tells what is now."""
    if isinstance(cause, OSError):
        where = f"'{os.fsdecode(cause.filename)}': " if cause.filename else ""
        return SurvivedError(f"Cannot move '{act.parts[-1].old}' to '{act.parts[-1].new}': {where}{_sentence(cause)} {after}")
    if isinstance(cause, Stopped):
        return Stopped(f"Stopped while moving '{act.parts[-1].old}'. {after}")
    message = f"{cause.message.removesuffix(' Nothing was changed.')} {after}"
    if isinstance(cause, Refused):
        return Refused(cause.reason, message, cause.hint)
    return type(cause)(message, cause.hint)
