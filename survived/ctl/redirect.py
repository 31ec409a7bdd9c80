"""
The verb `redirect`: have a tool keep its bytes on the data disk for good, and take that back.

`plan` and `list` look for themselves; `apply` and `undo` go through the daemon, or under the same lock without it.
"""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

from survived.ctl import local
from survived.ctl.main import error_document, print_json, printable, say
from survived.ctl.move import directly, follow
from survived.errors import Refused, Stopped, SurvivedError, UsageError
from survived.units import print_bytes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from survived.act.task import Task
    from survived.machine import Machine
    from survived.schemes import Scheme

_ACTIONS = ("list", "plan", "apply", "undo")
_STATES = {
    "redirected": "on the data disk",
    "overridden": "overridden",
    "changed": "changed since",
    "missing": "disk missing",
    "yours": "elsewhere, by you",
    "linked": "behind a link",
    "home": "at home",
    "absent": "not here",
}


def configure_redirect(parser: argparse.ArgumentParser) -> None:
    """Add what `redirect` takes."""
    parser.add_argument("action", nargs="?", choices=_ACTIONS, default="list", metavar="list|plan|apply|undo")
    parser.add_argument("tools", nargs="*", metavar="TOOL", help="pip, tmpdir, conda, ...; none: all that are used here")
    parser.add_argument("--to", metavar="DIR", help="one of the data disks; by default the one with most room")
    parser.add_argument("--move", action="store_true", help="move what lies at home along, and bring it home with the undo")
    parser.add_argument("--no-move", action="store_true", help="leave it, and do not ask")
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")


def run_redirect(args: argparse.Namespace) -> int:
    """List, plan, apply or undo; goes on with the next tool after a failure, and ends with the first failure's exit code."""
    if args.move and args.no_move:
        raise UsageError("Cannot both move and not: --move and --no-move. Nothing was changed.")
    if args.action == "list":
        return _list(args)
    names = _names(args)
    if args.action == "undo":
        run: Callable[[argparse.Namespace, str], dict[str, Any]] = _plan_undo if args.dry_run else _undo
        show = _show_undo
    elif args.action == "plan" or args.dry_run:
        run, show = _plan, _show_plan
    else:
        run, show = _apply, _show_apply
    return _each(args, names, run, show)


def _each(
    args: argparse.Namespace,
    names: list[str],
    run: Callable[[argparse.Namespace, str], dict[str, Any]],
    show: Callable[[argparse.Namespace, dict[str, Any]], None],
) -> int:
    """Do one thing for each tool."""
    results: list[dict[str, Any]] = []
    failures: list[int] = []
    for name in names:
        try:
            result = run(args, name)
            if not args.json:
                show(args, result)
            if result.get("failures"):
                failures.append(1)
            elif any(edit.get("how") == "left" for edit in result.get("edits", ())):
                failures.append(5)
        except SurvivedError as error:
            if len(names) == 1:
                raise
            failures.append(error.exit_code)
            result = {"tool": name, "error": error_document(error)}
            say(f"survivectl: {error.message}", error.hint)
            if isinstance(error, Stopped):
                break
        results.append(result)
    if args.json:
        print_json(results[0] if len(args.tools) == 1 else {"results": results})
    elif not names:
        print("Nothing is redirected." if args.action == "undo" else "No tool that could be redirected is used here.")
    return failures[0] if failures else 0


def _names(args: argparse.Namespace) -> list[str]:
    """Return the tools that are meant, by their right names, each once; a name that is not known ends it all."""
    from survived import keepsakes, redirects, schemes
    from survived.settings.recipes import find_recipe, load_recipes

    if args.tools:
        return list(dict.fromkeys(find_recipe(word).name for word in args.tools))
    machine = local.open_machine(args)
    env = schemes.surroundings(os.environ)
    if args.action == "undo":
        away = keepsakes.owners_away(machine)
        return [r.name for r in load_recipes() if redirects.owner_of(r) in away or redirects.find_standings(machine, r)]
    wanted = [r for r in load_recipes() if r.how != "link" and r.name != "hf-home" and schemes.is_used(machine, r, env)]
    return [recipe.name for recipe in wanted]


# ---- list -----------------------------------------------------------------------------------------------------------


def _list(args: argparse.Namespace) -> int:
    from survived import schemes
    from survived.redirected import listing
    from survived.settings.recipes import find_recipe

    found = listing(local.open_machine(args), schemes.surroundings(os.environ))
    if args.tools:
        wanted = {find_recipe(word).name for word in args.tools}
        found = [entry for entry in found if entry["tool"] in wanted]
    if args.json:
        print_json({"tools": found})
        return 0
    for entry in found:
        if entry["state"] == "absent" and not args.tools:
            continue
        places = ", ".join(place["path"] for place in entry["places"]) if entry["state"] not in ("home", "absent") else ""
        print(printable(f"{entry['tool']:<14} {_STATES[entry['state']]:<18} {entry['title']}"))
        if places:
            print(printable(f"{'':<14} {places}"))
        for note in entry["notes"]:
            print(printable(f"{'':<14} {note}"))
    names = ", ".join(entry["tool"] for entry in found if entry["state"] == "absent")
    if names and not args.tools:
        say(f"Not used here: {names}.")
    return 0


# ---- plan -----------------------------------------------------------------------------------------------------------


def _plan(args: argparse.Namespace, name: str) -> dict[str, Any]:
    from survived import redirects, schemes

    scheme, changes = redirects.plan(local.open_machine(args), name, to=_absolute(args.to), env=schemes.surroundings(os.environ))
    edits = [schemes.change_document(change) for change in changes]
    return {**schemes.scheme_document(scheme), "edits": edits, "files": schemes.file_documents(changes)}


def _show_plan(args: argparse.Namespace, result: dict[str, Any]) -> None:
    """Print a plan as diffs on stdout, so that it can be looked at with other tools; the talk goes to stderr."""
    _head(result)
    for file in result["files"]:
        _print_diff(file["diff"])
    if result["how"] == "link":
        for place in result["home"]:
            print(printable(f"# '{place['path']}' would be moved to '{result['store']}', and a link left there"))
    elif not any(edit["needed"] for edit in result["edits"]):
        print(f"# {result['tool']}: nothing to change")
    _advise_home(args, result)


def _print_diff(diff: str) -> None:
    for line in diff.split("\n"):
        print(printable(line))


def _head(result: dict[str, Any]) -> None:
    print(printable(f"# {result['tool']}: {result['title']}"))
    for place in result["places"]:
        print(printable(f"#   {place['id']} -> {place['target']}"))
    for note in result["notes"]:
        say(printable(f"survivectl: {result['tool']}: {note}."))


def _advise_home(args: argparse.Namespace, result: dict[str, Any]) -> None:
    for place in result["home"]:
        if not args.move and result["how"] == "settings":
            path = shlex.quote(place["path"])
            how = f"survivectl redirect apply {result['tool']} --move takes it along"
            say(printable(f"survivectl: what lies at {path} stays there; {how}."))


# ---- apply ----------------------------------------------------------------------------------------------------------


def _apply(args: argparse.Namespace, name: str) -> dict[str, Any]:
    from survived import schemes

    env, to = schemes.surroundings(os.environ), _absolute(args.to)
    move = args.move or (not args.no_move and _wants_move(args, name, to, env))
    queued = local.ask_or_none("redirect", action="apply", tool=name, move=move, to=to, env=env)
    if queued is not None:
        return follow(queued["number"], args)

    def work(machine: Machine, task: Task) -> dict[str, Any]:
        from survived import redirects

        return redirects.apply(machine, name, task, move=move, to=to, env=env)

    return directly(args, work)


def _wants_move(args: argparse.Namespace, name: str, to: str | None, env: dict[str, str]) -> bool:
    """Ask, on a terminal, whether what lies at home should go along; without one it stays."""
    if args.json or not sys.stdin.isatty():
        return False
    from survived import redirects

    scheme, _ = redirects.plan(local.open_machine(args), name, to=to, env=env)
    if not scheme.home or scheme.recipe.how != "settings":
        return False
    for line in _sizes(scheme):
        say(printable(line))
    print("Move it to the data disk along with the redirect? [Y/n] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("", "y", "yes")


def _sizes(scheme: Scheme) -> list[str]:
    from survived.observe.tree import measure_tree

    return [f"'{cache.path}' holds {print_bytes(measure_tree(cache.path).size_bytes)}." for cache in scheme.home]


def _show_apply(args: argparse.Namespace, result: dict[str, Any]) -> None:
    name = result["tool"]
    for item in result["moved"]:
        print(printable(f"Moved '{item['path']}' to '{item['target']}', {print_bytes(item['size_bytes'])}."))
    for place in result["places"]:
        print(printable(f"{name}: '{place['target']}' from here on."))
    for path in dict.fromkeys(edit["path"] for edit in result["edits"]):
        print(printable(f"  edited '{path}'"))
    for item in result["carried"]:
        print(printable(f"  carried the secret along to '{item['path']}'"))
    if not result["edits"] and not result["moved"]:
        print("  all of it was so already")
    if any(edit["format"] in ("block", "environment") for edit in result["edits"]):
        print("  New shells and logins have it; what runs already does not.")
    print(printable(f"  While the disk is missing: {result['missing']}."))
    print(printable(f"  Undo: survivectl redirect undo {shlex.quote(name)}"))
    for note in result["notes"]:
        say(printable(f"survivectl: {name}: {note}."))
    _advise_home(args, result)


# ---- undo -----------------------------------------------------------------------------------------------------------


def _undo(args: argparse.Namespace, name: str) -> dict[str, Any]:
    from survived import schemes

    env = schemes.surroundings(os.environ)
    queued = local.ask_or_none("redirect", action="undo", tool=name, env=env)
    if queued is not None:
        return follow(queued["number"], args)

    def work(machine: Machine, task: Task) -> dict[str, Any]:
        from survived import redirects

        return redirects.undo(machine, name, task, env=env)

    return directly(args, work)


def _plan_undo(args: argparse.Namespace, name: str) -> dict[str, Any]:
    from survived import redirects
    from survived.settings.recipes import find_recipe

    document = redirects.undo_document(local.open_machine(args), find_recipe(name))
    if document is None:
        from survived.model import Reason

        raise Refused(Reason.NOT_RELOCATED, f"Cannot undo the redirect of '{name}': no journal knows of one. Nothing was changed.")
    return document


def _show_undo(args: argparse.Namespace, result: dict[str, Any]) -> None:
    for edit in result["edits"]:
        if args.dry_run and edit["diff"]:
            _print_diff(edit["diff"])
        elif edit["how"] == "left":
            print(printable(f"{'# would leave' if args.dry_run else 'Left'} '{edit['path']}' as it is: {edit['why']}."))
    restored = [edit["path"] for edit in result["edits"] if edit["how"] == "restored"] if not args.dry_run else []
    for path in dict.fromkeys(restored):
        print(printable(f"Restored '{path}'."))
    for item in result["restored"]:
        said = "# would come home" if args.dry_run else f"came home, {print_bytes(item['size_bytes'])}"
        print(printable(f"'{item['path']}': {said}."))
    for item in result["brought_back"]:
        print(printable(f"Brought the secret back to '{item['path']}'."))
    for item in result["kept"]:
        print(printable(f"What was written since is in '{item['path']}'; remove it if nothing needs it."))
    for failure in result["failures"]:
        say(printable(f"survivectl: {failure}"))


def _absolute(word: str | None) -> str | None:
    return None if word is None else os.path.abspath(os.path.expanduser(word))
