"""
`survivectl install`: a configuration with the data disks found, the unit with this interpreter, enabled and started.

Running it again changes only what differs; a configuration that exists is never touched. Everything created is
recorded (`ctl/installed.py`) so that uninstall takes back exactly that.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from survived import __version__
from survived.act import fs
from survived.act.ballast import Ballast
from survived.ctl import installed, local, loginline, service, shipped, unit
from survived.ctl.main import print_json
from survived.errors import Refused, SurvivedError, UsageError
from survived.model import Filesystem, Reason
from survived.observe import disks
from survived.store import layout
from survived.units import print_bytes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from survived.settings.paths import Paths

_DISKS_KEY = re.compile(r"^#?[ \t]*disks[ \t]*=.*$", re.MULTILINE)


@dataclass
class Report:
    """What install did or would do, for people (sentences) and for scripts (the document)."""

    dry_run: bool
    sentences: list[str] = field(default_factory=list)
    document: dict[str, Any] = field(default_factory=dict)

    def say(self, done: str, planned: str) -> None:
        """Add one sentence, in the mood that fits."""
        self.sentences.append(planned if self.dry_run else done)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `survivectl install`."""
    parser.add_argument("--disk", action="append", metavar="DIR", help="your directory on a data disk (repeatable)")
    parser.add_argument("--yes", action="store_true", help="ask nothing: take every data disk that was found")
    parser.add_argument("--no-start", action="store_true", help="put everything in place but start nothing")
    parser.add_argument("--login-line", action="store_true", help="have login shells print one line when something is wrong")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and change nothing")


def run(args: argparse.Namespace) -> int:
    """
    Install, and return 0, or 1 where the files are in place and systemd could not start the service.

    Raises `UsageError` without a terminal and without --yes, `Refused` for a data disk that cannot be one,
    `ConfigError` for a configuration that exists and is wrong: then nothing has been changed.
    """
    paths = local.find_paths(args)
    report = Report(args.dry_run, document={"dry_run": args.dry_run})
    record = installed.read_record(str(paths.state_dir))
    config = _plan_config(args, paths, report)
    unit_text = _plan_unit(args, paths, record, report)
    manager = service.Manager(root_mode=paths.root_mode)
    before = record
    if not args.dry_run:
        record = _write(paths, config, unit_text, record)
    if args.login_line:
        record = _add_login_lines(paths, report, record)
    started = _start(args, paths, manager, report, unit_text is not None, before)
    _keep_alive(paths, manager, report, record)
    if getattr(args, "json", False):
        print_json(report.document)
    else:
        print("\n".join(report.sentences))
        if not started:
            print(_by_hand(args, paths))
    return 0 if started else 1


# ---- the configuration ---------------------------------------------------


def _plan_config(args: argparse.Namespace, paths: Paths, report: Report) -> bytes | None:
    """Return the text of the configuration to write, or None if one exists (which must be a right one)."""
    path = str(paths.config_file)
    if os.path.lexists(path):
        from survived.settings.config import load_settings  # late: pydantic is slow to import

        load_settings(paths.config_file, os.environ, local.home())
        note = " --disk was not used: put it under [data] there." if args.disk else ""
        report.say(f"Kept the configuration '{path}'.{note}", f"Would keep the configuration '{path}'.{note}")
        report.document["config"] = {"path": path, "action": "kept"}
        return None
    chosen = _choose_disks(args)
    if chosen:
        named = ", ".join(chosen)
        report.say(
            f"Wrote the configuration '{path}' with the data disk{'s' if len(chosen) > 1 else ''} {named}.",
            f"Would write the configuration '{path}' with the data disk{'s' if len(chosen) > 1 else ''} {named}.",
        )
    else:
        report.say(f"Wrote the configuration '{path}'.", f"Would write the configuration '{path}'.")
        report.sentences.append(
            "No data disk was found: survived watches and tells, and moves nothing until you name one under [data]."
        )
    report.document["config"] = {"path": path, "action": "written"}
    report.document["disks"] = list(chosen)
    return fill_disks(shipped.read_shipped(shipped.EXAMPLE), chosen).encode()


def fill_disks(example: str, chosen: Sequence[str]) -> str:
    """Return the example configuration with `disks` under [data] set; unchanged if none is chosen."""
    if not chosen:
        return example
    line = f"disks = [{', '.join(json.dumps(disk, ensure_ascii=False) for disk in chosen)}]"
    head, found, tail = example.partition("[data]\n")
    if not found:
        return f"{example.rstrip()}\n\n[data]\n{line}\n"
    section_end = re.search(r"^\[", tail, re.MULTILINE)
    end = section_end.start() if section_end else len(tail)
    section, count = _DISKS_KEY.subn(lambda _: line, tail[:end], count=1)
    return head + found + ("" if count else f"{line}\n") + section + tail[end:]


def _choose_disks(args: argparse.Namespace) -> tuple[str, ...]:
    home = local.home()
    avoid = {os.stat(path).st_dev for path in ("/", home) if os.path.exists(path)}
    if args.disk:
        return tuple(dict.fromkeys(_check_disk(disk, avoid) for disk in args.disk))
    found = disks.find_data_disks(home, os.getuid(), avoid)
    if args.yes or args.dry_run or not found:
        return _need_consent(args, found)
    return _need_consent(args, found) if not _has_terminal() else _ask(found)


def _need_consent(args: argparse.Namespace, found: tuple[str, ...]) -> tuple[str, ...]:
    """Without a terminal nobody can be asked: --yes must say so, and --dry-run changes nothing."""
    if args.yes or args.dry_run or _has_terminal():
        return found
    raise UsageError(
        "Cannot ask which data disk to use: this is no terminal. Nothing was changed.",
        f"Run survivectl install --yes to take {', '.join(found) or 'what is found'}, or name one with --disk DIR.",
    )


def _has_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _ask(found: tuple[str, ...]) -> tuple[str, ...]:
    """Let a person choose by numbers; Enter takes all, which lets survived pick the roomiest each time."""
    print("Data disks that survived may move caches to:", file=sys.stderr)
    for number, disk in enumerate(found, 1):
        filesystem = _read_filesystem(disk)
        room = f"{print_bytes(filesystem.available_bytes)} available" if filesystem else "cannot be read"
        print(f"  {number}  {disk}   {room}", file=sys.stderr)
    while True:
        print("Which? Numbers, or Enter for all, or q to stop: ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()
        if not answer or answer.strip().lower() in ("q", "quit"):
            raise UsageError("Stopped. Nothing was changed.")
        numbers = re.split(r"[\s,]+", answer.strip()) if answer.strip() else []
        if all(text.isdigit() and 1 <= int(text) <= len(found) for text in numbers):
            return tuple(found[int(text) - 1] for text in dict.fromkeys(numbers)) or found
        print(f"Please give numbers from 1 to {len(found)}.", file=sys.stderr)


def _check_disk(given: str, avoid: set[int]) -> str:
    """Return the absolute path of a data disk named by the user, or refuse with the reason."""
    path = os.path.abspath(os.path.expanduser(given))
    filesystem = _read_filesystem(path)
    why = layout.read_store(path, filesystem, uid=os.getuid(), avoid=avoid).reason
    try:
        path.encode()
    except UnicodeEncodeError:
        why = "its name is not UTF-8, which a TOML file must be."
    if filesystem is not None and filesystem.fstype in ("tmpfs", "ramfs"):
        why = "it is memory, and empty after the next boot."
    elif filesystem is not None and filesystem.capacity_bytes == 0:
        why = f"'{filesystem.mount}' ({filesystem.fstype}) holds no files of yours."
    if why is None:
        return path
    hint = "Name a directory of yours on another disk: survivectl install --disk DIR."
    raise Refused(Reason.NO_STORE, f"Cannot use '{path}' as a data disk: {why} Nothing was changed.", hint)


def _read_filesystem(path: str) -> Filesystem | None:
    try:
        # The directory itself may be missing: then we make it when the first move needs it.
        return disks.read_filesystem(path if os.path.exists(path) else os.path.dirname(path))
    except OSError:
        return None


# ---- the unit ------------------------------------------------------------


def _plan_unit(args: argparse.Namespace, paths: Paths, record: installed.Installed | None, report: Report) -> bytes | None:
    """Return the unit to write, or None if it is in place already or has been changed by hand."""
    path = str(paths.unit_file)
    shipped_text = shipped.read_shipped(shipped.UNIT)
    environment = unit.choose_environment(os.environ, sys.executable)
    command = unit.start_command(sys.executable, getattr(args, "config", None) and str(paths.config_file))
    rendered = unit.render_unit(shipped_text, command, root_mode=paths.root_mode, environment=environment)
    text = rendered.encode("utf-8", "surrogateescape")
    report.document["unit"] = {"path": path, "action": "kept", "interpreter": sys.executable}
    if installed.is_unchanged(path, installed.digest(text)):
        report.say(f"The unit '{path}' is in place already.", f"The unit '{path}' is in place already.")
        return None
    if os.path.lexists(path) and not installed.is_unchanged(path, record.files.get(path) if record else None):
        kept = f"the unit '{path}', which was not written by survivectl or was changed since; remove it to get ours."
        report.say(f"Kept {kept}", f"Would keep {kept}")
        return None
    report.say(f"Put the unit in place: '{path}'.", f"Would put the unit in place: '{path}'.")
    report.document["unit"]["action"] = "written"
    if unit.is_short_lived(sys.executable):
        report.sentences.append(
            f"The interpreter '{sys.executable}' lies where clean-ups delete things; better: uv tool install survived."
        )
    return text


# ---- doing it ------------------------------------------------------------


def _write(paths: Paths, config: bytes | None, text: bytes | None, old: installed.Installed | None) -> installed.Installed:
    """Write what is missing and the record, all or nothing: a failure removes what this run created."""
    record = replace(old or installed.Installed(__version__, "", {}), version=__version__, interpreter=sys.executable)
    made: list[str] = []
    fresh: list[str] = []
    try:
        for path, data, mode in ((str(paths.config_file), config, 0o600), (str(paths.unit_file), text, 0o644)):
            if data is None:
                continue
            made += installed.make_directories(os.path.dirname(path))
            if not os.path.lexists(path):
                fresh.append(path)
            fs.write_file(path, data, mode)
            record = record.with_file(path, data)
        path = os.path.join(str(paths.state_dir), installed.RECORD)
        made += installed.make_directories(str(paths.state_dir))
        record = replace(record, directories=tuple(dict.fromkeys((*record.directories, *made))))
        installed.write_record(str(paths.state_dir), record)
    except OSError as error:
        for leftover in fresh:
            fs.remove_file(leftover)
        installed.remove_empty(tuple(made))
        message = f"Cannot write '{path}': {error.strerror}. Nothing was installed and nothing is half-written."
        raise SurvivedError(message, "Free some space there, then run survivectl install again.") from error
    return record


def _add_login_lines(paths: Paths, report: Report, record: installed.Installed | None) -> installed.Installed | None:
    """Add the line to each start file and return the record, which knows of each before it is written."""
    ballast, folder = Ballast(str(paths.state_dir), 0), str(paths.state_dir)
    report.document["login_line"] = []
    for file in loginline.start_files(local.home(), os.environ, loginline.login_shell()):
        report.document["login_line"].append(file)
        report.say(f"A line at login is in '{file}'.", f"Would put a line at login into '{file}'.")
        if report.dry_run or record is None:
            continue
        try:
            made = loginline.plan(file, record.blocks.get(file))
            if made is not None:
                record = replace(record, blocks={**record.blocks, file: made})
                installed.write_record(folder, record)
                loginline.put(file, made, ballast)
        except SurvivedError as error:
            report.sentences[-1] = f"{error.message} It has no line at login."
    return record


def _start(
    args: argparse.Namespace,
    paths: Paths,
    manager: service.Manager,
    report: Report,
    rewritten: bool,
    before: installed.Installed | None,
) -> bool:
    """Enable and start; return whether nothing more needs doing by hand."""
    state: dict[str, Any] = {"name": service.UNIT_NAME, "enabled": False, "active": False, "reason": manager.missing}
    report.document["service"] = state
    verb = "enable" if args.no_start else "enable and start"
    if manager.missing:
        report.sentences.append(f"Cannot {verb} '{service.UNIT_NAME}': {manager.missing}. The files stay in place.")
        return bool(args.dry_run)
    if args.dry_run:
        report.sentences.append(f"Would {verb} {service.UNIT_NAME}.")
        return True
    # systemd looks below its own XDG_CONFIG_HOME; a unit elsewhere is linked by its path.
    usual = os.path.join(os.path.expanduser("~"), ".config/systemd/user", service.UNIT_NAME)
    name = service.UNIT_NAME if paths.root_mode or str(paths.unit_file) == usual else str(paths.unit_file)
    steps = [("daemon-reload",), ("enable", name)]
    if not args.no_start:
        stale = rewritten or (before is not None and before.version != __version__)
        steps.append(("restart" if stale else "start", service.UNIT_NAME))
    for step in steps:
        answer = manager.call(*step)
        if not answer.ok:
            state["reason"] = f"{step[0]}: {answer.text}"
            why = answer.text.rstrip(".")
            report.sentences.append(f"Cannot {step[0]} '{service.UNIT_NAME}': {why}. The files stay in place.")
            report.sentences.append(f"See why with: {manager.journal_command}")
            break
    state["enabled"], state["active"] = manager.is_enabled(), manager.is_active()
    if state["reason"] is None:
        report.sentences.append(
            f"Enabled {service.UNIT_NAME}; start it with: {manager.command} start {service.UNIT_NAME}"
            if args.no_start
            else f"{service.UNIT_NAME} is enabled and running. Ask it: survivectl status"
        )
    return state["reason"] is None


def _keep_alive(paths: Paths, manager: service.Manager, report: Report, record: installed.Installed | None) -> None:
    """Let the user's service outlive the last logout, or say who can."""
    if paths.root_mode or manager.missing:
        return
    lingers = service.read_linger()
    command = f"sudo loginctl enable-linger {service.user_name()}"
    if lingers is False and not report.dry_run and record is not None:
        answer = service.set_linger(enabled=True)
        lingers = answer.ok
        if answer.ok:
            # Recorded after the fact: a crash between the two leaves linger on, which harms nobody.
            installed.write_record(str(paths.state_dir), replace(record, linger=True))
    report.document["linger"] = {"enabled": bool(lingers), "command": None if lingers else command}
    if lingers:
        report.sentences.append("It stays alive after you log out (linger is on).")
    elif report.dry_run:
        report.sentences.append("Would let it stay alive after you log out (loginctl enable-linger).")
    else:
        report.sentences.append(f"It stops when you log out, which you may not change; ask your admin for: {command}")


def _by_hand(args: argparse.Namespace, paths: Paths) -> str:
    log = os.path.join(str(paths.state_dir), "survived.log")
    command = shlex.join(unit.start_command(sys.executable, getattr(args, "config", None) and str(paths.config_file)))
    return f"Start it by hand: nohup {command} >{shlex.quote(log)} 2>&1 &"
