"""
`survivectl completion SHELL`: a script that completes verbs, options and their words, made from the parsers by shtab.

What the parsers cannot know, the ids of caches, the script asks for with `survivectl completion ids`.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from survived.ctl import local
from survived.ctl.main import VERBS, Parser, configured, print_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

SHELLS = ("bash", "zsh", "fish")
_IDS = "ids"
_ID_OR_FILE: dict[str, Any] = {
    "bash": "_survivectl_id_or_file",
    "zsh": "_survivectl_id_or_file",
    "fish": "(survivectl completion ids 2>/dev/null; __fish_complete_path (commandline -ct))",
    "preamble": {
        "bash": """\
_survivectl_id_or_file() {
  compgen -W "$(survivectl completion ids 2>/dev/null)" -- "$1"
  compgen -f -- "$1"
}
""",
        "zsh": """\
_survivectl_id_or_file() {
  local -a ids
  ids=(${(f)"$(survivectl completion ids 2>/dev/null)"})
  _alternative 'ids:cache:compadd -a ids' 'files:path:_files'
}
""",
    },
}
"""How shtab is told to complete what is a cache's id or a path."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the shell of `completion`."""
    parser.add_argument("shell", choices=[*SHELLS, _IDS], metavar="|".join(SHELLS), help="the shell that the script is for")


def run(args: argparse.Namespace) -> int:
    """Print the script, or the ids of all caches, one a line."""
    if args.shell == _IDS:
        ids = list(cache_ids())
        if args.json:
            print_json({"ids": ids})
        else:
            print("\n".join(ids))
        return 0
    text = script(args.shell)
    if args.json:
        print_json({"shell": args.shell, "script": text})
    else:
        print(text)
    return 0


def script(shell: str) -> str:
    """Return the script for one shell."""
    import shtab

    text: str = shtab.complete(whole_parser(), shell=shell)
    # shtab 1.13 lets zsh complete only the first of several words.
    return text.replace('"(*)::', '"*:') if shell == "zsh" else text


def whole_parser(verbs: Iterable[str] = tuple(VERBS)) -> argparse.ArgumentParser:
    """Return one parser with every verb below it, and with what completes each of their words."""
    parser = Parser(prog="survivectl", description="Keeps / from filling up: moves caches to a data disk and leaves links.")
    below = parser.add_subparsers(dest="verb", metavar="VERB")
    for verb in verbs:
        _teach(configured(below.add_parser(verb, help=VERBS[verb][1]), verb))
    return parser


def _teach(parser: argparse.ArgumentParser) -> None:
    """Have each word of a parser completed by what it stands for, also those of its own subparsers."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in set(action.choices.values()):
                _teach(one)
        elif action.choices is None and (how := _completer(str(action.metavar or ""), parser.prog)) is not None:
            action.complete = how  # type: ignore[attr-defined]


def _completer(metavar: str, prog: str) -> dict[str, Any] | None:
    import shtab

    if metavar == "TOOL" and prog.endswith(" redirect"):
        from survived.settings.recipes import load_recipes

        return _words("tools", [recipe.name for recipe in load_recipes()])
    words = set(metavar.split("|"))
    if "ID" in words or "PATH" in words:
        return _ID_OR_FILE
    if "DIR" in words:
        return dict(shtab.DIRECTORY)
    return dict(shtab.FILE) if words & {"FILE", "FILESYSTEM"} else None


def _words(name: str, words: Sequence[str]) -> dict[str, Any]:
    """Return how shtab is told to complete one of these words."""
    listed = " ".join(words)
    return {
        "bash": f"_survivectl_{name}",
        "zsh": f"({listed})",
        "fish": f"(string split ' ' -- '{listed}')",
        "preamble": {"bash": f'_survivectl_{name}() {{ compgen -W "{listed}" -- "$1"; }}\n'},
    }


def cache_ids() -> Iterator[str]:
    """Yield the ids of the caches that are there, as the daemon knows them; without one those of the catalogue."""
    doc = local.ask_or_none("status", timeout=2.0)
    if doc is not None:
        yield from (cache["id"] for cache in doc["caches"] if cache["state"] != "absent")
        return
    from survived.settings.catalog import load_rules

    yield from (rule.id for rule in load_rules())
