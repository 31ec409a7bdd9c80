"""
How each tool stands: redirected by us or by its user, and whether that still holds. Looks only.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from survived import keepsakes
from survived.act import undoing
from survived.act.dialect import Unreadable
from survived.act.dotfile import read_dotfile
from survived.act.formats import FORMATS
from survived.errors import SurvivedError
from survived.redirects import find_standings, owner_of
from survived.schemes import caches_of, config_home, data_home, make_scheme, overriding
from survived.settings.recipes import load_recipes
from survived.tell.status import path_fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from survived.machine import Machine
    from survived.model import Cache
    from survived.redirects import Standing
    from survived.settings.recipes import Recipe


def listing(machine: Machine, env: Mapping[str, str]) -> list[dict[str, Any]]:
    """
    Return every known tool and its state.

    `redirected` by us; `overridden`: ours, but something of the user's wins; `changed`: the user changed what we wrote;
    `missing`: ours, and the data disk is not there; `yours`: on another disk by its user's own settings; `linked`: behind a link
    of ours; `home`; `absent`.
    """
    caches = caches_of(machine, env)
    return [_entry(machine, recipe, caches, env) for recipe in load_recipes()]


def _entry(machine: Machine, recipe: Recipe, caches: tuple[Cache, ...], env: Mapping[str, str]) -> dict[str, Any]:
    own = [cache for cache in caches if cache.id in recipe.places]
    standing = next(iter(find_standings(machine, recipe)), None)
    notes: list[str] = []
    edits: list[dict[str, Any]] = []
    store = ""
    if standing is not None:
        state, notes, store = _state(machine, recipe, standing, env)
        edits = [
            {**path_fields(r.file), "format": r.format, "key": list(r.key), "holds": undoing.holds(r)} for r in standing.records
        ]
    elif owner_of(recipe) in keepsakes.owners_away(machine) or _says_ours(machine, recipe, env):
        state, notes = "missing", ["its data disk, with our journal, is not there"]
    else:
        state = "home" if recipe.how == "tmpdir" else _state_of_caches(machine, own)
    places = [{"id": cache.id, **path_fields(cache.path), "rule": cache.rule} for cache in own]
    if standing is not None and standing.made.get("places"):
        places = [{"id": ident, **path_fields(path), "rule": "redirect"} for ident, path in standing.made["places"].items()]
    answer = {"tool": recipe.name, "title": recipe.title, "state": state, "holds": state in ("redirected", "yours", "linked")}
    return {**answer, "store": store, "places": places, "edits": edits, "missing": recipe.missing, "notes": notes}


def _state(machine: Machine, recipe: Recipe, standing: Standing, env: Mapping[str, str]) -> tuple[str, list[str], str]:
    reading = next((r for r in machine.read_stores() if r.path == standing.store), None)
    if reading is None or not reading.ok:
        return "missing", [(reading.reason or "") if reading else "its disk is not among the data disks"], standing.store
    changed = [record for record in standing.records if not undoing.holds(record)]
    if changed:
        return "changed", [f"'{r.file}' says something else for {'.'.join(r.key) or 'all of it'}" for r in changed], standing.store
    if recipe.how == "link":
        moved = [path for path in standing.moved if not os.path.islink(path)]
        return ("changed" if moved else "redirected"), [f"'{path}' is no link any more" for path in moved], standing.store
    try:
        notes = make_scheme(machine, recipe, reading, env).notes
        notes = notes or tuple(overriding(recipe, caches_of(machine, env), standing.made.get("places", {})))
    except SurvivedError as error:
        notes = (error.message,)
    gates = [path for path in standing.made.get("gate", ()) if recipe.how == "settings" and not os.path.exists(f"{path}/STORE")]
    if gates:
        return "changed", [f"'{path}' does not lead to the data disk" for path in gates], standing.store
    return ("overridden" if notes else "redirected"), list(notes), standing.store


def _says_ours(machine: Machine, recipe: Recipe, env: Mapping[str, str]) -> bool:
    """Tell whether a tool's settings lead through a gate of ours, although no journal is there to say so."""
    config, ours = config_home(machine, env), f"{data_home(machine, env)}/survived/"
    if recipe.variables and any(_value(config, name) is None for name in recipe.variables):
        return False
    asked = [(line.file, line.format.removesuffix(" item"), line.key) for line in recipe.edits]
    asked += [("{config}/environment.d/50-survived.conf", "environment", (name,)) for name in recipe.variables]
    for file, form, key in asked:
        path = file.replace("{config}", config) if file.startswith("{") else machine.home + file[1:]
        try:
            found = FORMATS[form].read(read_dotfile(path).text, key, "")
        except (SurvivedError, Unreadable):
            continue
        if any(str(value).startswith(ours) for value in (found if isinstance(found, tuple) else (found,))):
            return True
    return False


def _value(config: str, name: str) -> Any:
    """Return what systemd's user services get for a variable from our file."""
    try:
        return FORMATS["environment"].read(read_dotfile(f"{config}/environment.d/50-survived.conf").text, (name,), "")
    except SurvivedError:
        return None


def _state_of_caches(machine: Machine, caches: list[Cache]) -> str:
    states = set()
    for cache in caches:
        if os.path.islink(cache.path):
            states.add("linked")
        elif cache.rule != "default" and _is_elsewhere(machine, cache.path):
            states.add("yours")
        else:
            states.add("home" if os.path.isdir(cache.path) else "absent")
    return next((state for state in ("yours", "linked", "home") if state in states), "absent")


def _is_elsewhere(machine: Machine, path: str) -> bool:
    """Tell whether a path is on a filesystem that we do not keep free, whether or not it is there yet."""
    while not os.path.exists(path) and path != "/":
        path = os.path.dirname(path)
    return machine.filesystem_of(os.path.join(path, "x")) is None
