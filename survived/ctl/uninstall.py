"""
`survivectl uninstall`: take back exactly what install did, and say what is still relocated.

Stores, links and relocated trees are never touched: they work without the daemon. What was changed since the install
belongs to the user and stays.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from survived.act import fs
from survived.act.ballast import Ballast
from survived.ctl import installed, local, loginline, service
from survived.ctl.main import print_json
from survived.errors import SurvivedError
from survived.units import print_bytes

if TYPE_CHECKING:
    import argparse

    from survived.model import Relocation
    from survived.settings.paths import Paths

_OURS_IN_STATE = ("ballast", installed.RECORD)
_STORES = ("stores.json", "links.json", "standins.json")  # kept while something is relocated: restore finds the stores by it


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `survivectl uninstall`."""
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and change nothing")


def run(args: argparse.Namespace) -> int:
    """Uninstall and return 0; a second run finds nothing to do. Raises `SurvivedError` where the kernel says no."""
    paths = local.find_paths(args)
    record = installed.read_record(str(paths.state_dir))
    still, unknown = _relocated(args, paths)
    led = _led(args)
    taken = Taken(paths, record, dry_run=args.dry_run)
    taken.stop()
    taken.take_files()
    taken.take_login_lines()
    taken.take_linger()
    taken.take_state(keep_stores=bool(still) or unknown is not None)
    if getattr(args, "json", False):
        print_json({"dry_run": args.dry_run, **taken.document, "relocated": [_entry(r) for r in still], "led": led})
        return 0
    print("\n".join(taken.sentences or ["There is nothing to take back: survivectl install has not been run."]))
    if still:
        print(f"Still relocated ({len(still)}), behind links that go on working:")
        for relocation in still:
            print(f"  {relocation.source} -> {relocation.target}   {print_bytes(relocation.size_bytes)}")
        print("Bring all of it home with: survivectl restore --all")
    elif unknown:
        print(f"What is still relocated could not be read: {unknown}")
    for verb, tools in led.items():
        if tools:
            print(f"Still in force: {verb} of {', '.join(tools)}. Take that back with: survivectl {verb} undo {' '.join(tools)}")
    return 0


def _led(args: argparse.Namespace) -> dict[str, list[str]]:
    """Return the tools that are redirected or led to a mirror, by the verb that takes that back; nothing where that is unknown."""
    from survived import redirects, upstreams
    from survived.mirrors.known import TOOLS
    from survived.settings.recipes import load_recipes

    try:
        machine = local.open_machine(args)
        redirected = [recipe.name for recipe in load_recipes() if redirects.find_standings(machine, recipe)]
        return {"redirect": redirected, "mirrors": [tool for tool in TOOLS if upstreams.records(machine, tool)]}
    except SurvivedError:
        return {"redirect": [], "mirrors": []}


class Taken:
    """One uninstall: what was taken back so far, as sentences and as a document."""

    def __init__(self, paths: Paths, record: installed.Installed | None, *, dry_run: bool) -> None:
        self.paths, self.record, self.dry_run = paths, record, dry_run
        self.manager = service.Manager(root_mode=paths.root_mode)
        self.sentences: list[str] = []
        self.document: dict[str, Any] = {"removed": [], "kept": [], "service": None, "linger": None}

    def stop(self) -> None:
        """Stop the service and do not let it start again."""
        unit = str(self.paths.unit_file)
        if not os.path.lexists(unit) and not (self.record and unit in self.record.files):
            return
        if self.manager.missing:
            why = f"{self.manager.missing}. A daemon started by hand goes on."
            self.sentences.append(f"Cannot stop '{service.UNIT_NAME}': {why}")
            self.document["service"] = {"stopped": False, "reason": self.manager.missing}
            return
        if not self.dry_run:
            answer = self.manager.call("disable", "--now", service.UNIT_NAME)
            if not answer.ok and self.manager.is_active():
                message = f"Cannot stop '{service.UNIT_NAME}': {answer.text.rstrip('.')}. Nothing was removed."
                raise SurvivedError(message, f"See why with: {self.manager.journal_command}.")
        self._say(f"Stopped and disabled {service.UNIT_NAME}.", f"Would stop and disable {service.UNIT_NAME}.")
        self.document["service"] = {"stopped": True, "reason": None}

    def take_files(self) -> None:
        """Remove the unit and the configuration where they are still as we wrote them."""
        for path, recorded in (self.record.files if self.record else {}).items():
            if not os.path.lexists(path):
                continue
            if not installed.is_unchanged(path, recorded):
                self._say(f"Kept '{path}': it was changed since.", f"Would keep '{path}': it was changed.")
                self.document["kept"].append(path)
                continue
            self._remove(path)
            self._say(f"Removed '{path}'.", f"Would remove '{path}'.")
        config = str(self.paths.config_file)
        if os.path.lexists(config) and config not in (self.record.files if self.record else {}):
            self._say(f"Kept '{config}': it was not ours.", f"Would keep '{config}': it is not ours.")
            self.document["kept"].append(config)
        if self.document["service"] and not self.manager.missing and not self.dry_run:
            self.manager.call("daemon-reload")
            self.manager.call("reset-failed", service.UNIT_NAME)

    def take_login_lines(self) -> None:
        """Take the blocks back out of the start files of login shells; one that was changed by hand stays."""
        for file, recorded in (self.record.blocks if self.record else {}).items():
            try:
                is_taken = loginline.take(file, recorded, Ballast(str(self.paths.state_dir), 0), dry_run=self.dry_run)
            except SurvivedError as error:
                self.sentences.append(f"{error.message} Its lines between the marks '{loginline.NAME}' can go by hand.")
                self.document["kept"].append(file)
                continue
            if is_taken:
                self._say(f"Took the line at login out of '{file}'.", f"Would take the line at login out of '{file}'.")
                self.document["removed"].append(file)
            elif loginline.is_there(file):
                self._say(f"Kept '{file}': the line at login was changed.", f"Would keep '{file}'.")
                self.document["kept"].append(file)

    def take_linger(self) -> None:
        """Switch linger off if install switched it on and no other service of the user starts by itself."""
        if not (self.record and self.record.linger):
            return
        wants = os.path.join(os.path.dirname(str(self.paths.unit_file)), "default.target.wants")
        others = [name for name in (os.listdir(wants) if os.path.isdir(wants) else []) if name != service.UNIT_NAME]
        if others:
            self.sentences.append(f"Left linger on: {others[0]} of yours may count on it. Off: loginctl disable-linger")
        elif self.dry_run or service.set_linger(enabled=False).ok:
            self._say("Switched linger off again.", "Would switch linger off again.")
            self.document["linger"] = False
        else:
            command = f"sudo loginctl disable-linger {service.user_name()}"
            self.sentences.append(f"Linger is still on, which you may not change; ask your admin for: {command}")

    def take_state(self, *, keep_stores: bool) -> None:
        """Remove our own entries of the state directory, and the directories that install made if they are empty."""
        folder = str(self.paths.state_dir)
        for name in (*_OURS_IN_STATE, *(() if keep_stores else _STORES)):
            if os.path.lexists(os.path.join(folder, name)):
                self._remove(os.path.join(folder, name))
        if not self.dry_run:
            installed.remove_empty((folder, *(self.record.directories if self.record else ())))

    def _remove(self, path: str) -> None:
        self.document["removed"].append(path)
        if self.dry_run:
            return
        try:
            fs.remove_file(path)
        except OSError as error:
            message = f"Cannot remove '{path}': {error.strerror}. The rest stays too."
            raise SurvivedError(message, "Then run survivectl uninstall again.") from error

    def _say(self, done: str, planned: str) -> None:
        self.sentences.append(planned if self.dry_run else done)


def _relocated(args: argparse.Namespace, paths: Paths) -> tuple[list[Relocation], str | None]:
    """Return what lives behind our links, or why that could not be read: an absent disk stops no uninstall."""
    try:
        return local.relocated(local.load(args, paths), paths), None
    except SurvivedError as error:
        return [], str(error)
    except OSError as error:
        return [], f"{error.filename}: {error.strerror}"


def _entry(relocation: Relocation) -> dict[str, Any]:
    return {
        "id": relocation.cache_id,
        "path": relocation.source,
        "target": relocation.target,
        "size_bytes": relocation.size_bytes,
    }
