"""
The recipes by which tools are told to keep their bytes on the data disk, as data: `redirects.toml`, checked.
"""

from __future__ import annotations

import functools
import os
import re
import tomllib
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from survived.errors import ConfigError, UsageError
from survived.settings.catalog import find_rule

if TYPE_CHECKING:
    from collections.abc import Mapping

_HOWS = ("settings", "link", "tmpdir")
_ELSEWHERE = "its variable is not set by shells, so that the place at home is used; a service that has it fails"
OTHER_HOW = {
    "docker": "Its daemon has a way of its own: survivectl docker.",
    "docker-rootful": "Its daemon has a way of its own: survivectl docker.",
    "docker-rootless": "Its daemon has a way of its own: survivectl docker.",
    "podman": "It breaks if its settings name another place. Move it: survivectl relocate podman",
}


@dataclass(frozen=True, slots=True)
class Line:
    """
    One key of a settings file; `file` and the paths may begin with `~` or `{config}`.

    `unless_set`: only where the user has not set the key; `when`, `unless`: only if that path is there, or is not.
    """

    file: str
    format: str
    key: tuple[str, ...]
    value: str
    unless_set: bool = False
    when: str | None = None
    unless: str | None = None
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Recipe:
    """One tool. `places`: catalogue id to folder; `lasting`: places that must be found even after an undo."""

    name: str
    title: str
    places: dict[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    how: str = "settings"
    sealed: bool = False
    edits: tuple[Line, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    carry: tuple[str, ...] = ()
    carry_from: str = ""
    lasting: tuple[str, ...] = ()
    missing: str = ""


@functools.cache
def load_recipes() -> tuple[Recipe, ...]:
    """Return the recipes that travel with the program, checked."""
    with open(os.path.join(os.path.dirname(__file__), "redirects.toml"), "rb") as file:
        return parse_recipes(tomllib.load(file))


def parse_recipes(document: Mapping[str, Any]) -> tuple[Recipe, ...]:
    """Return the recipes of a document. Raises `ConfigError` with the tool and what is wrong with it."""
    found: dict[str, Recipe] = {}
    for number, table in enumerate(document.get("tool", ()), 1):
        name = str(table.get("name", f"number {number}"))
        try:
            recipe = _parse(table)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"Cannot use the recipes: tool '{name}': {error}.") from error
        for word in (recipe.name, *recipe.aliases):
            if word in found:
                raise ConfigError(f"Cannot use the recipes: tool '{name}': the name '{word}' is there twice.")
            found[word] = recipe
    return tuple(recipe for word, recipe in found.items() if word == recipe.name)


def _parse(table: dict[str, Any]) -> Recipe:
    known = {item.name for item in fields(Recipe)}
    if unknown := table.keys() - known:
        raise ValueError(f"unknown key '{min(unknown)}'")
    lines = tuple(Line(**line | {"key": tuple(line["key"])}) for line in table.get("edits", ()))
    tuples = {name: tuple(table.get(name, ())) for name in ("aliases", "carry", "lasting")}
    recipe = Recipe(**{"missing": _ELSEWHERE, **table, **tuples, "edits": lines})
    if recipe.how not in _HOWS:
        raise ValueError(f"how is one of {', '.join(_HOWS)}")
    for ident in recipe.places:
        if find_rule(ident) is None:
            raise ValueError(f"the catalogue has no '{ident}'")
    values = (*(line.value for line in lines), *recipe.variables.values())
    words = {word.removeprefix("was:") for value in values for word in re.findall(r"\{([^}]*)\}", value)}
    if unknown := words - recipe.places.keys() - {"tmp", "redirected"}:
        raise ValueError(f"'{{{min(unknown)}}}' is none of its places")
    if recipe.how == "settings" and not (lines or recipe.variables):
        raise ValueError("it changes nothing")
    return recipe


def find_recipe(word: str) -> Recipe:
    """Return the recipe that a tool's name, alias or cache id names. Raises `UsageError` with the nearest."""
    for recipe in load_recipes():
        if word in (recipe.name, *recipe.aliases):
            return recipe
    for recipe in load_recipes():
        if word in recipe.places:
            return recipe
    if word in OTHER_HOW:
        raise UsageError(f"Cannot redirect '{word}': no setting of its user serves. Nothing was changed.", OTHER_HOW[word])
    if (rule := find_rule(word)) is not None:
        hint = f"Known is: {rule.redirect}." if rule.redirect else f"It can be moved: survivectl relocate {word}"
        raise UsageError(f"Cannot redirect '{word}': there is no recipe for it. Nothing was changed.", hint)
    import difflib

    names = [name for recipe in load_recipes() for name in (recipe.name, *recipe.aliases, *recipe.places)]
    near = difflib.get_close_matches(word, names, 1)
    hint = f"Did you mean '{near[0]}'?" if near else "survivectl redirect list shows the known ones."
    raise UsageError(f"Cannot redirect '{word}': no tool of that name is known. Nothing was changed.", hint)
