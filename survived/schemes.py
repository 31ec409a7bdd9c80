"""
What redirecting one tool to one store comes to: its places there, the edits that name them, and what lies at home still.

Reads the tools' own files and the catalogue, and changes nothing.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from survived.act import gate as gates
from survived.act import redirect
from survived.act.dialect import Unreadable
from survived.act.dotfile import read_dotfile
from survived.act.edits import Edit, diff_of, unreadable
from survived.act.formats import FORMATS
from survived.errors import Refused
from survived.model import Reason
from survived.settings.catalog import load_rules, resolve_caches
from survived.settings.paths import xdg_directory
from survived.tell.status import path_fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from survived.act.edits import Change
    from survived.act.gate import Gate
    from survived.machine import Machine
    from survived.model import Cache, StoreReading
    from survived.settings.recipes import Line, Recipe

TEMPORARY = "tmp"
TEMPORARY_AGE = "10d"
_XDG = ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "CONDA_EXE", "CONDA_PREFIX", "VIRTUAL_ENV")
_SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True, slots=True)
class Scheme:
    """`places`: by cache id, the path that the tool gets; `folders`: what to make in the store; `home`: caches not moved yet."""

    recipe: Recipe
    reading: StoreReading
    gate: Gate
    places: dict[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    edits: tuple[Edit, ...] = ()
    home: tuple[Cache, ...] = ()
    secrets: tuple[str, str] | None = None  # the folders that they lie in and go to
    notes: tuple[str, ...] = ()


def surroundings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return those variables of a caller that say where tools look: the daemon, which may act for it, has others."""
    names = {location.env for rule in load_rules() for location in rule.locations if location.env} | {*_XDG}
    return {name: value for name, value in environ.items() if name in names or name.lower().startswith("npm_config_")}


def caches_of(machine: Machine, env: Mapping[str, str]) -> tuple[Cache, ...]:
    """Return the catalogue's caches as a caller with these variables has them."""
    return resolve_caches({**machine.env, **env}, machine.home, machine.settings.overrides())


def config_home(machine: Machine, env: Mapping[str, str]) -> str:
    """Return the folder of settings files."""
    return xdg_directory({**machine.env, **env}, "XDG_CONFIG_HOME") or os.path.join(machine.home, ".config")


def data_home(machine: Machine, env: Mapping[str, str]) -> str:
    """Return the folder below which our gates are."""
    return xdg_directory({**machine.env, **env}, "XDG_DATA_HOME") or os.path.join(machine.home, ".local/share")


def make_scheme(machine: Machine, recipe: Recipe, reading: StoreReading, env: Mapping[str, str]) -> Scheme:
    """Return what redirecting a tool to a store comes to. `Refused` if a settings file cannot be understood."""
    gate = gates.gate_for(data_home(machine, env), reading.path, reading.mount)
    door = gate.sealed if recipe.sealed else gate.plain
    caches = caches_of(machine, env)
    relatives = {ident: _relative(machine, recipe, reading, ident, caches) for ident in recipe.places}
    values = {ident: f"{door}/{relative}" for ident, relative in relatives.items()}
    values |= {TEMPORARY: f"{gate.plain}/{TEMPORARY}", "tmpdir": _temporary(reading), "redirected": f"{door}/{gates.REDIRECTED}"}
    was = {cache.id: cache.path for cache in caches if cache.id in recipe.places and not cache.path.startswith(f"{reading.path}/")}
    was = {ident: path for ident, path in was.items() if not _is_ours(path, data_home(machine, env))}
    values |= {f"was:{ident}": path for ident, path in was.items() if os.path.isdir(path)}
    edits = _edits(machine, recipe, reading, env, values)
    folders = [relative for relative in relatives.values() if relative.startswith(f"{gates.REDIRECTED}/")]
    if recipe.how == "tmpdir" or any("{tmp}" in value for value in recipe.variables.values()):
        folders.append(TEMPORARY)
    places = {ident: values[ident] for ident in recipe.places}
    if recipe.how == "tmpdir":
        places = {"tmpdir": _temporary(reading)}
    secrets = None
    if recipe.carry_from in was:
        folder = os.path.dirname(recipe.places[recipe.carry_from])
        secrets = os.path.dirname(was[recipe.carry_from]), f"{door}/{gates.REDIRECTED}/{folder}"
    home = tuple(cache for cache in caches if _base_id(cache.id, recipe) and _lies_at_home(machine, cache.path))
    return Scheme(recipe, reading, gate, places, tuple(folders), edits, home, secrets, _notes(machine, recipe, caches, env, values))


def _is_ours(path: str, data: str) -> bool:
    return path.startswith(f"{data}/survived/")


def _base_id(ident: str, recipe: Recipe) -> bool:
    return ident in recipe.places or re.sub(r"-\d+$", "", ident) in recipe.places


def _relative(machine: Machine, recipe: Recipe, reading: StoreReading, ident: str, caches: tuple[Cache, ...]) -> str:
    """Return a place below the store: the tree that is there behind our link already, else a folder of its own."""
    fresh = f"{gates.REDIRECTED}/{recipe.places[ident]}"
    if ident in recipe.lasting:
        return fresh
    paths = {cache.path for cache in caches if cache.id == ident}
    for store, item in machine.relocations():
        if store == reading.path and (item.source in paths or item.cache_id == ident) and os.path.isdir(item.target):
            return os.path.relpath(item.target, store)
    return fresh


def _lies_at_home(machine: Machine, path: str) -> bool:
    """Tell whether there is a real directory with something in it, on a filesystem that we keep free."""
    try:
        if os.path.islink(path) or not os.path.isdir(path) or not os.listdir(path):
            return False
    except OSError:
        return False
    return machine.filesystem_of(path) is not None


def _temporary(reading: StoreReading) -> str:
    return f"{reading.path}/{TEMPORARY}"


def shells_here() -> tuple[str, ...]:
    """Return the shells that are installed, of those whose start files we write."""
    return tuple(name for name in _SHELLS if shutil.which(name, path="/bin:/usr/bin:/usr/local/bin"))


def _edits(
    machine: Machine, recipe: Recipe, reading: StoreReading, env: Mapping[str, str], values: dict[str, str]
) -> tuple[Edit, ...]:
    config, marker = config_home(machine, env), f"{reading.path}/STORE"
    if recipe.how == "tmpdir":
        place = _temporary(reading)
        if len(os.fsencode(place)) > 2 * redirect.LONGEST_TMPDIR:
            why = f"sockets in it would have names of more than 107 bytes ('{place}')"
            message = f"Cannot redirect 'tmpdir': {why}. Nothing was changed."
            raise Refused(Reason.NO_STORE, message, "Name a disk with a shorter path: --to DIR.")
        return tuple(redirect.tmpdir_edits(place, marker, machine.home, config, shells_here(), TEMPORARY_AGE))
    edits = [
        Edit(_path(machine, config, line.file), line.format, line.key, value, line.mode)
        for line in recipe.edits
        if (value := _filled(line.value, values)) is not None and _applies(machine, config, line)
    ]
    variables = {name: value for name, text in recipe.variables.items() if (value := _filled(text, values)) is not None}
    if variables:
        edits += redirect.variable_edits(recipe.name, variables, marker, machine.home, config, shells_here())
    return tuple(edits)


def _filled(text: str, values: dict[str, str]) -> str | None:
    """Return a value with its places in it, or None if one of them is not known."""
    words = re.findall(r"\{([^}]*)\}", text)
    if any(word not in values for word in words):
        return None
    return re.sub(r"\{([^}]*)\}", lambda match: values[match[1]], text)


def _path(machine: Machine, config: str, template: str) -> str:
    return template.replace("{config}", config) if template.startswith("{config}") else machine.home + template.removeprefix("~")


def _applies(machine: Machine, config: str, line: Line) -> bool:
    if line.when is not None and not os.path.lexists(_path(machine, config, line.when)):
        return False
    if line.unless is not None and os.path.lexists(_path(machine, config, line.unless)):
        return False
    if not line.unless_set:
        return True
    path = _path(machine, config, line.file)
    try:
        return FORMATS[line.format.removesuffix(" item")].read(read_dotfile(path).text, line.key, "") is None
    except Unreadable as error:
        raise unreadable(path, error) from error


def _notes(
    machine: Machine, recipe: Recipe, caches: tuple[Cache, ...], env: Mapping[str, str], values: dict[str, str]
) -> tuple[str, ...]:
    """Return what would keep a redirect from taking effect, or its user should know."""
    notes = []
    asked = {
        location.env.lower() for rule in load_rules() if rule.id in recipe.places for location in rule.locations if location.env
    }
    for cache in caches:  # a variable of the user's own wins over a file
        is_own = cache.id in recipe.places and cache.rule.lower() in asked and cache.path != values.get(cache.id)
        if is_own and recipe.how == "settings" and cache.rule not in recipe.variables and recipe.edits:
            notes.append(f"{cache.rule} is set here and wins: it says '{cache.path}'")
    names = [*recipe.variables, *(["TMPDIR"] if recipe.how == "tmpdir" else [])]
    files = start_files(machine, env)
    setters = ((name, redirect.find_setter(name, files)) for name in names)
    notes += [f"'{path}' sets {name} itself, and what it says later wins" for name, path in setters if path is not None]
    if recipe.how == "tmpdir" and len(os.fsencode(place := values["tmpdir"])) > redirect.LONGEST_TMPDIR:
        notes.append(f"'{place}' is long: a socket in it with a name of more than {106 - len(os.fsencode(place))} bytes fails")
    return tuple(notes)


def overriding(recipe: Recipe, caches: tuple[Cache, ...], places: Mapping[str, str]) -> list[str]:
    """Return what says something else than our edits and wins, by the catalogue's own rules; nothing for variables."""
    if recipe.how != "settings" or not recipe.edits:
        return []
    others = ((cache, places[cache.id]) for cache in caches if cache.id in places)
    return [f"{cache.rule} says '{cache.path}', and wins" for cache, place in others if cache.path != place]


def start_files(machine: Machine, env: Mapping[str, str]) -> list[str]:
    """Return the start files of shells in which a user may set variables."""
    names = (".bashrc", ".bash_profile", ".bash_login", ".profile", ".zshenv", ".zprofile", ".zshrc", ".zlogin")
    return [*(f"{machine.home}/{name}" for name in names), f"{config_home(machine, env)}/fish/config.fish"]


def choose_store(machine: Machine, recipe: Recipe, to: str | None, env: Mapping[str, str]) -> StoreReading:
    """Return the store that `to` names, else the one where the tool's cache lies already, else the one with most room."""
    readings = machine.read_stores()
    if to is not None:
        wanted = os.path.normpath(os.path.join(os.getcwd(), os.path.expanduser(to)))
        chosen = next((r for r in readings if wanted in (r.path, os.path.dirname(r.path))), None)
        if chosen is None:
            known = ", ".join(os.path.dirname(r.path) for r in readings) or "none"
            message = f"Cannot redirect '{recipe.name}' to '{to}': it is none of the data disks. Nothing was changed."
            raise Refused(Reason.NO_STORE, message, f"Add it to [data] disks. Known are: {known}.")
        if not chosen.ok:
            message = f"Cannot redirect '{recipe.name}' to '{to}': {(chosen.reason or '').rstrip('.')}. Nothing was changed."
            raise Refused(Reason.NO_STORE, message, "Run survivectl check.")
        return chosen
    good = [reading for reading in readings if reading.ok]
    if not good:
        why = "; ".join((r.reason or "").rstrip(".") for r in readings) or "no data disk was found"
        raise Refused(Reason.NO_STORE, f"Cannot redirect '{recipe.name}': {why}. Nothing was changed.", "Run survivectl check.")
    paths = {cache.path for cache in caches_of(machine, env) if cache.id in recipe.places}
    there = {store for store, item in machine.relocations() if item.source in paths}
    return next((r for r in good if r.path in there), max(good, key=lambda r: r.available_bytes))


def is_used(machine: Machine, recipe: Recipe, env: Mapping[str, str]) -> bool:
    """Tell whether a tool is here: its cache is, or its program."""
    rules = {rule.id: rule for rule in load_rules()}
    if recipe.how == "tmpdir":
        return True
    caches = [cache for cache in caches_of(machine, env) if cache.id in recipe.places]
    programs = {name for ident in recipe.places for name in rules[ident].processes}
    return any(os.path.isdir(cache.path) for cache in caches) or any(
        shutil.which(name, path=machine.env.get("PATH")) for name in programs
    )


# ---- for people and scripts -----------------------------------------------------------------------------------------


def scheme_document(scheme: Scheme) -> dict[str, Any]:
    """Return a scheme for JSON."""
    return {
        "tool": scheme.recipe.name,
        "title": scheme.recipe.title,
        "how": scheme.recipe.how,
        **path_fields(scheme.reading.path, "store"),
        "places": [{"id": ident, **path_fields(path), **path_fields(_behind(scheme, path), "target")} for ident, path in
                   scheme.places.items() if scheme.recipe.how != "link"],
        "home": [{"id": cache.id, **path_fields(cache.path)} for cache in scheme.home],
        "missing": scheme.recipe.missing,
        "notes": list(scheme.notes),
    }  # fmt: skip


def _behind(scheme: Scheme, path: str) -> str:
    """Return where a path leads through the gate, which may not be there yet."""
    door = next((door for door in sorted(scheme.gate.texts, key=len, reverse=True) if path.startswith(f"{door}/")), None)
    return path if door is None else scheme.gate.store + path[len(door) :]


def file_documents(changes: Iterable[Change]) -> list[dict[str, Any]]:
    """Return what becomes of each file, all edits together, for JSON."""
    first: dict[str, bytes | None] = {}
    last: dict[str, bytes] = {}
    for change in changes:
        first.setdefault(change.edit.file, change.before)
        last[change.edit.file] = change.after
    changed = [path for path in first if first[path] != last[path]]
    return [{**path_fields(path), "diff": diff_of(path, first[path], last[path])} for path in changed]


def change_document(change: Change) -> dict[str, Any]:
    """Return one edit for JSON, with its diff."""
    edit = change.edit
    return {**path_fields(edit.file), "format": edit.format, "key": list(edit.key), "needed": change.is_needed, "diff": change.diff}
