"""
The tables of the documentation, as Markdown: `survivectl man --table NAME` prints them, and the README has what it prints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from survived.ctl.examples import EXAMPLES
from survived.ctl.main import VERBS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

EXIT_CODES = {
    0: "done",
    1: "failed",
    2: "usage",
    3: "the daemon is not running (`status` answers all the same)",
    4: "refused, with a reason",
    5: "needs a person",
    6: "bad configuration",
    130: "interrupted",
}
"""What each exit code means; a test holds it to `errors.py`."""


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; a bar inside a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("|" + "|".join(cell if cell == "---" else f" {_cell(cell)} " for cell in line) + "|" for line in lines) + "\n"


def verbs() -> str:
    """Return the verbs with what they do."""
    return markdown(("`survivectl …`", "does"), ((f"`{verb}`", text) for verb, (_, text) in VERBS.items()))


def exit_codes() -> str:
    """Return the exit codes."""
    return markdown(("code", "means"), ((str(code), meaning) for code, meaning in EXIT_CODES.items()))


def examples() -> str:
    """Return the examples of all verbs."""
    rows = [(f"`{command}`", what) for verb in VERBS for command, what in EXAMPLES.get(verb, ())]
    return markdown(("command", "for"), rows)


def caches() -> str:
    """Return the caches of the catalogue: what each is, where it usually lies, and whether survived moves it by itself."""
    from survived.settings.catalog import load_rules

    rows = []
    for rule in load_rules():
        place = next((location.path for location in reversed(rule.locations) if getattr(location, "path", None)), None)
        moved = "yes" if rule.proven and rule.report_only is None and rule.kind.value == "cache" else "on request"
        rows.append((f"`{rule.id}`", rule.title, rule.kind.value, f"`{_usual(place)}`" if place else "–", moved))
    return markdown(("id", "what", "kind", "usually at", "moved by itself"), rows)


def redirects() -> str:
    """Return what redirected tools do while their data disk is missing, those together that do the same."""
    from survived.settings.recipes import load_recipes

    tools: dict[str, list[str]] = {}
    for recipe in load_recipes():
        tools.setdefault(recipe.missing, []).append(f"`{recipe.name}`")
    return markdown(("redirected", "without its data disk"), ((", ".join(names), missing) for missing, names in tools.items()))


TABLES: dict[str, Callable[[], str]] = {
    "caches": caches, "examples": examples, "exit-codes": exit_codes, "redirects": redirects, "verbs": verbs,
}  # fmt: skip


def _usual(place: str) -> str:
    for word, path in (("{cache}", "~/.cache"), ("{data}", "~/.local/share"), ("{config}", "~/.config")):
        place = place.replace(word, path)
    return place


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
