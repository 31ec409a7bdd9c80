"""
Redirect a tool for good, and take it back: its edits, its folders in the store, and, if asked, the move of what lies at home.

The same code in the daemon and without it. What a redirect has moved is remembered beside its edits, and its undo brings it home.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from survived import errands, keepsakes
from survived.act import gate as gates
from survived.act import undoing
from survived.act.carry import bring_back, carry
from survived.act.edits import apply as apply_edits
from survived.act.edits import plan as plan_edits
from survived.act.undoing import How
from survived.errors import Refused, SurvivedError, cause_of
from survived.model import Reason
from survived.schemes import Scheme, caches_of, choose_store, data_home, make_scheme, overriding, scheme_document
from survived.schemes import change_document as change_document
from survived.settings.recipes import find_recipe, load_recipes
from survived.store.database import Database
from survived.store.edits import EditJournal, EditStage
from survived.tell.status import path_fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from survived.act.edits import Change
    from survived.act.task import Task
    from survived.act.undoing import Outcome
    from survived.machine import Machine, OpenStore
    from survived.model import Cache, Operation
    from survived.settings.recipes import Recipe
    from survived.store.edits import EditRecord

OWNER = "redirect "
_MOVED, _SCHEME = "moved by redirect ", "redirected to "


@dataclass(frozen=True, slots=True)
class Standing:
    """A redirect as the journals have it: the store, the edits in force, what it moved, and what it was made with."""

    store: str
    records: tuple[EditRecord, ...]
    moved: tuple[str, ...]
    made: dict[str, Any]


def owner_of(recipe: Recipe) -> str:
    """Return whose edits in the journal are a tool's."""
    return OWNER + recipe.name


# ---- what there is ------------------------------------------------------------------------------------------------


def find_standings(machine: Machine, recipe: Recipe) -> tuple[Standing, ...]:
    """Return where a tool is redirected to, by every journal that can be read; more than one after a disk was away."""
    return tuple(item for _, item in machine.records.each(lambda path, database: _standings(path, database, recipe)))


def _standings(path: str, database: Database, recipe: Recipe) -> tuple[Standing, ...]:
    """Return how a tool stands by one store: none or one."""
    journal = EditJournal(database)
    records = tuple(r for r in journal.open(owner_of(recipe)) if r.stage is not EditStage.INTENT)
    moved = tuple(json.loads(database.recall(_MOVED + recipe.name) or "[]"))
    made = json.loads(database.recall(_SCHEME + recipe.name) or "{}")
    return (Standing(path, records, moved, made),) if records or moved else ()


# ---- plan -----------------------------------------------------------------------------------------------------------


def plan(machine: Machine, word: str, *, to: str | None = None, env: Mapping[str, str]) -> tuple[Scheme, tuple[Change, ...]]:
    """Return what redirecting a tool would do. Raises `Refused` for what stands in its way; changes nothing."""
    recipe = find_recipe(word)
    standing = next(iter(find_standings(machine, recipe)), None)
    if to is None and standing is not None:
        to = standing.store
    reading = choose_store(machine, recipe, to, env)
    if standing is not None and standing.store != reading.path:
        why = f"it is redirected to '{standing.store}' already"
        message = f"Cannot redirect '{recipe.name}' to '{reading.path}': {why}. Nothing was changed."
        raise Refused(Reason.OTHER_FILESYSTEM, message, f"Take that back first: survivectl redirect undo {recipe.name}")
    for other in load_recipes():
        shared = sorted(recipe.variables.keys() & other.variables.keys()) if other is not recipe else []
        if shared and find_standings(machine, other):
            message = f"Cannot redirect '{recipe.name}': '{other.name}' sets {shared[0]} already. Nothing was changed."
            raise Refused(Reason.BUSY, message, f"Take that back first: survivectl redirect undo {other.name}")
    scheme = make_scheme(machine, recipe, reading, env)
    return scheme, plan_edits(scheme.edits)


# ---- apply ----------------------------------------------------------------------------------------------------------


def apply(
    machine: Machine, word: str, task: Task, *, move: bool = False, to: str | None = None, env: Mapping[str, str]
) -> dict[str, Any]:
    """
    Redirect a tool; with `move`, or for a tool that is only linked, what lies at home goes along. All or nothing.

    Raises `Refused`, `UsageError` for an unknown tool, `SurvivedError` for what a disk says.
    """
    scheme, _ = plan(machine, word, to=to, env=env)
    recipe = scheme.recipe
    opened = machine.open_store(scheme.reading)
    keepsakes.settle(machine)
    linked = recipe.how == "link"
    moved: list[Operation] = []
    try:
        if move or linked:
            moved = _move(machine, scheme, opened, task)
            scheme = make_scheme(machine, recipe, scheme.reading, env)  # the places are where the trees are
        changes: tuple[Change, ...] = ()
        gone: tuple[Outcome, ...] = ()
        carried: list[str] = []
        if not linked:
            gates.prepare(opened.store)
            for folder in scheme.folders:
                gates.make_folder(opened.store, folder)
            gates.open_gate(scheme.gate, machine.ballast)
            _remember_made(opened, scheme)
            carried = _carry(machine, scheme)
            changes, gone = apply_edits(EditJournal(opened.database), owner_of(recipe), scheme.edits, time.time(), machine.ballast)
    except OSError as error:
        _take_back(machine, opened, recipe, moved, task)
        raise SurvivedError(f"Cannot redirect '{recipe.name}': {cause_of(error)}.") from error
    except BaseException:
        _take_back(machine, opened, recipe, moved, task)
        raise
    machine.use(machine.settings)  # the tools' own files say something else
    keepsakes.keep(machine, scheme.gate)
    wins = overriding(recipe, caches_of(machine, env), scheme.places) if not scheme.notes else []
    return {
        "schema": 1,
        **scheme_document(replace(scheme, notes=(*scheme.notes, *wins))),
        "edits": [change_document(change) for change in changes],
        "earlier": [outcome_document(outcome) for outcome in gone],
        "moved": [_operation(done) for done in moved],
        "carried": [path_fields(path) for path in carried],
    }


def _move(machine: Machine, scheme: Scheme, opened: OpenStore, task: Task) -> list[Operation]:
    """Relocate what lies at home into the scheme's store; what was moved is remembered after each."""
    recipe, done = scheme.recipe, []
    caches = scheme.home
    if recipe.how == "link" and not caches:
        caches = tuple(_made_for_a_link(machine, opened, recipe, ident) for ident in recipe.places)
    try:
        for cache in caches:
            if os.path.islink(cache.path):
                continue
            done.append(errands.relocate(machine, cache, task, to=os.path.dirname(scheme.reading.path)))
            before = json.loads(opened.database.recall(_MOVED + recipe.name) or "[]")
            opened.database.remember(_MOVED + recipe.name, json.dumps(sorted({*before, cache.path})))
    except BaseException:
        _take_back(machine, opened, recipe, done, task)
        raise
    return done


def _made_for_a_link(machine: Machine, opened: OpenStore, recipe: Recipe, ident: str) -> Cache:
    """Return a tool's cache, which is made empty if it is not there yet, so that there is something to link."""
    cache = next(cache for cache in machine.caches if cache.id == ident)
    if os.path.islink(cache.path):
        why = f"'{cache.path}' is a link already"
        raise Refused(Reason.ALREADY_LINK, f"Cannot redirect '{recipe.name}': {why}. Nothing was changed.", "Run survivectl list.")
    if gates.make_home_folder(cache.path):
        opened.database.remember(_SCHEME + recipe.name, json.dumps({"fresh": [cache.path]}))
    return cache


def _take_back(machine: Machine, opened: OpenStore, recipe: Recipe, moved: Iterable[Operation], task: Task) -> None:
    """Bring home what was moved for a redirect that did not come about; what cannot be stays behind its link."""
    for operation in moved:
        with suppress(SurvivedError):
            store, item = errands.find_relocation(machine, operation.source)
            errands.restore(machine, store, item, task, forced=True)
            _forget_moved(opened, recipe, operation.source)


def _forget_moved(opened: OpenStore, recipe: Recipe, source: str) -> None:
    before = json.loads(opened.database.recall(_MOVED + recipe.name) or "[]")
    opened.database.remember(_MOVED + recipe.name, json.dumps([path for path in before if path != source]))


def _remember_made(opened: OpenStore, scheme: Scheme) -> None:
    """Remember what an undo needs beside the edits; of a repeat the first one counts, which saw the home as it was."""
    made = json.loads(opened.database.recall(_SCHEME + scheme.recipe.name) or "{}")
    if not made.get("places"):
        document = {"gate": list(scheme.gate.texts), "places": scheme.places, "secrets": scheme.secrets, "folders": scheme.folders}
        opened.database.remember(_SCHEME + scheme.recipe.name, json.dumps(document))


def _carry(machine: Machine, scheme: Scheme) -> list[str]:
    return carry(scheme.recipe.carry, *scheme.secrets, machine.ballast) if scheme.secrets else []


# ---- undo -----------------------------------------------------------------------------------------------------------


def undo(machine: Machine, word: str, task: Task, *, env: Mapping[str, str]) -> dict[str, Any]:
    """
    Take a redirect back: its edits, three-way, then its moves. What lies in the store since stays there and is named.

    Raises `Refused` if the tool is not redirected by us, or its disk is away. What could not be taken back is in the answer.
    """
    recipe = find_recipe(word)
    machine.open_stores(machine.read_stores())
    keepsakes.settle(machine)
    standings = [item for item in find_standings(machine, recipe) if item.store in machine.open]
    outcomes = list(keepsakes.undo(machine, owner_of(recipe)))
    if not standings and not outcomes:
        raise _nothing_to_undo(machine, recipe)
    restored: list[Operation] = []
    failures: list[str] = []
    back: list[str] = []
    kept: list[str] = []
    for standing in standings:
        opened = machine.open[standing.store]
        outcomes += undoing.undo(EditJournal(opened.database), owner_of(recipe), time.time(), machine.ballast)
        made = standing.made
        if made.get("secrets"):
            old, new = made["secrets"]
            back += bring_back(recipe.carry, old, new, machine.ballast)
        for source in standing.moved:
            try:
                store, item = errands.find_relocation(machine, source)
                restored.append(errands.restore(machine, store, item, task))
                _forget_moved(opened, recipe, source)
            except SurvivedError as error:
                if isinstance(error, Refused) and error.reason is Reason.NOT_RELOCATED:
                    _forget_moved(opened, recipe, source)
                else:
                    failures.append(str(error))
        for path in made.get("fresh", ()):
            gates.remove_empty(path)
        kept += _tidy(machine, opened, made, env)
        if not find_standings(machine, recipe):
            opened.database.remember(_SCHEME + recipe.name, "{}")
    machine.use(machine.settings)  # the tools' own files say something else
    keepsakes.keep(machine)
    failures += [outcome.why for outcome in outcomes if outcome.how is How.FAILED]
    return {
        "schema": 1, "tool": recipe.name, "edits": [outcome_document(outcome) for outcome in outcomes],
        "restored": [_operation(done) for done in restored], "brought_back": [path_fields(path) for path in back],
        "kept": [path_fields(path) for path in kept], "failures": failures,
    }  # fmt: skip


def undo_document(machine: Machine, recipe: Recipe) -> dict[str, Any] | None:
    """Return what `undo` would do with the edits, for JSON; None if there is nothing to undo. Changes nothing."""
    standings = find_standings(machine, recipe)
    outcomes: list[Outcome] = []
    for standing in standings:
        database = Database(os.path.join(standing.store, "state.db"), (), read_only=True)
        try:
            outcomes += undoing.plan_undo(EditJournal(database), owner_of(recipe))
        finally:
            database.close()
    moved = [{"id": recipe.name, **path_fields(path), "size_bytes": 0} for item in standings for path in item.moved]
    document = {"schema": 1, "tool": recipe.name, "edits": [outcome_document(outcome) for outcome in outcomes]}
    return {**document, "restored": moved, "brought_back": [], "kept": [], "failures": []} if standings else None


def _nothing_to_undo(machine: Machine, recipe: Recipe) -> Refused:
    away = [reading for reading in machine.read_stores() if not reading.ok and reading.path in machine.known]
    message = f"Cannot undo the redirect of '{recipe.name}': no journal knows of one. Nothing was changed."
    if away:
        why = (away[0].reason or "").rstrip(".")
        why = f"its journal may be on a disk that is away ({why})"
        message = f"Cannot undo the redirect of '{recipe.name}': {why}. Nothing was changed."
    return Refused(Reason.NO_STORE if away else Reason.NOT_RELOCATED, message, "survivectl redirect list shows what is redirected.")


def _tidy(machine: Machine, opened: OpenStore, made: Mapping[str, Any], env: Mapping[str, str]) -> list[str]:
    """Remove empty folders, and the gate when nobody goes through it any more; return the folders in which something lies."""
    kept = []
    for folder in made.get("folders", ()):
        path = f"{opened.store.path}/{folder}"
        if os.path.isdir(path) and not gates.remove_empty(path, above=True):
            kept.append(path)
    rest = [record for record in EditJournal(opened.database).open() if record.owner.startswith(OWNER)]
    lasting = {f"{opened.store.path}/{gates.REDIRECTED}/{r.places[i]}" for r in load_recipes() for i in r.lasting}
    if not rest and not any(map(_is_lived_in, lasting)):
        gates.close_gate(gates.gate_for(data_home(machine, env), opened.store.path, _mount_of(machine, opened)))
    return kept


def _is_lived_in(path: str) -> bool:
    """Tell whether something lies in a folder besides what a tool put there to see that it may (`.conda_envs_dir_test`)."""
    return os.path.isdir(path) and any(not name.startswith(".") for name in os.listdir(path))


def _mount_of(machine: Machine, opened: OpenStore) -> str:
    return next(reading.mount for reading in machine.read_stores() if reading.path == opened.store.path)


# ---- for people and scripts -----------------------------------------------------------------------------------------


def outcome_document(outcome: Outcome) -> dict[str, Any]:
    """Return what became of one edit for JSON."""
    record = outcome.record
    place = {**path_fields(record.file), "format": record.format, "key": list(record.key)}
    return {**place, "how": outcome.how.value, "why": outcome.why, "diff": outcome.diff}


def _operation(done: Operation) -> dict[str, Any]:
    ends = {**path_fields(done.source), **path_fields(done.target, "target")}
    return {"id": done.cache_id, **ends, "size_bytes": done.size_bytes, "files": done.files, "freed_bytes": done.freed_bytes}
