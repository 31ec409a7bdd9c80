"""
`survivectl check`: the self-test of configuration, filesystems, data disks, links, notices and daemon. Changes nothing.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from survived.ctl import local
from survived.ctl.inventory import WHY, unreadable
from survived.ctl.look import fitting, has_colour, width
from survived.ctl.main import print_json
from survived.errors import SurvivedError
from survived.model import LinkState
from survived.tell.columns import entry, painted, plain, wrap
from survived.units import print_bytes, print_mark, print_share, print_time

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from survived.machine import Machine


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: `ok`, `warning` or `failure`, and the next command where there is one."""

    state: str
    subject: str
    text: str
    hint: str | None = None


def configure(parser: argparse.ArgumentParser) -> None:
    """`check` has no options of its own."""


def run(args: argparse.Namespace) -> int:
    """Print the findings; exit code 1 if one of them is a failure, 6 if the configuration cannot be used."""
    machine = local.open_machine(args)
    findings = list(look_over(machine))
    failed = any(finding.state == "failure" for finding in findings)
    if args.json:
        print_json(
            {
                "ok": not failed,
                "findings": [{"state": f.state, "subject": f.subject, "text": f.text, "hint": f.hint} for f in findings],
            }
        )
        return int(failed)
    for finding in findings:
        tint = {"ok": "32", "warning": "33", "failure": "31"}[finding.state]
        lines = entry(
            finding.state, f"{finding.subject}: {finding.text}", width(), painted if has_colour() else plain, tint, indent=9
        )
        if finding.hint:
            lines += wrap(f"{'':<9}{finding.hint}", width(), 9)
        print(fitting("\n".join(lines)))
    return int(failed)


def look_over(machine: Machine) -> Iterator[Finding]:
    """Yield everything that is worth knowing, in the order in which a person would fix it."""
    yield from _configuration(machine)
    yield from _filesystems(machine)
    yield from _disks(machine)
    yield from _links(machine)
    yield from _notices(machine)
    yield from _daemon()


def _configuration(machine: Machine) -> Iterator[Finding]:
    file = machine.paths.config_file
    if file.exists():
        yield Finding("ok", "configuration", f"'{file}' is valid")
    else:
        yield Finding("ok", "configuration", f"there is none at '{file}'; the defaults hold", "survivectl install writes one")


def _filesystems(machine: Machine) -> Iterator[Finding]:
    from survived.decide.pressure import check_marks

    try:
        filesystems = machine.read_filesystems()
    except SurvivedError as error:
        yield Finding("failure", "watching", error.message, error.hint)
        return
    for fs in filesystems:
        if (trouble := check_marks(fs, machine.rules)) is not None:
            yield Finding("failure", fs.mount, trouble, "Correct [watch] in the configuration.")
            continue
        marks = machine.rules.bytes_marks
        names = ", ".join(f"{name} {print_mark(getattr(marks, name))}" for name in ("low", "flood"))
        yield Finding("ok", fs.mount, f"{print_share(fs.usage)} full, high is {print_mark(marks.high)}, {names}")
        if fs.fstype.startswith("nfs"):
            yield Finding("warning", fs.mount, f"is {fs.fstype}, on which a directory and a link cannot be exchanged in one step")


def _disks(machine: Machine) -> Iterator[Finding]:
    stores = machine.read_stores()
    if not stores:
        yield Finding(
            "failure", "data disks", "none is configured and none was found: nothing can be moved", "Name one under [data] disks."
        )
    broken = {store.path: store.reason for store in unreadable(machine) if store.ok}
    for store in stores:
        if (why := broken.get(store.path)) is not None:
            yield Finding("failure", "data disk", why)
            continue
        if not store.ok:
            yield Finding("failure", "data disk", store.reason or f"'{store.path}' cannot be used")
            continue
        yield Finding("ok", "data disk", f"'{store.path}' has {print_bytes(store.available_bytes)} available")
        if (open_to := _shared_parent(store.path)) is not None:
            yield Finding(
                "warning",
                "data disk",
                f"'{open_to}' is writable for everybody and not sticky: anybody could put another directory in the store's place",
                f"Ask the admin for: chmod +t {open_to}",
            )
    unused = [path for path, _ in machine.relocations() if path not in {store.path for store in stores}]
    for path in dict.fromkeys(unused):
        yield Finding(
            "warning", "data disk", f"'{path}' holds relocated caches but is not among the data disks", "Add it to [data] disks."
        )


def _shared_parent(path: str) -> str | None:
    while (path := os.path.dirname(path)) != "/":
        try:
            mode = os.stat(path).st_mode
        except OSError:
            return None
        if mode & 0o002 and not mode & 0o1000:
            return path
    return None


def _links(machine: Machine) -> Iterator[Finding]:
    from survived import orphans
    from survived.decide.guardian import judge
    from survived.observe.caches import read_cache

    moved = [item for _, item in machine.relocations()]
    for cache in machine.known_caches():
        reading = read_cache(cache, 0.0, {}, measure=False)
        if reading.state == "dangling" and cache.path not in {item.source for item in moved}:  # its store cannot be read
            text = f"'{cache.path}' leads to '{reading.target}', which is not there"
            yield Finding("failure", cache.id, text, "Mount the data disk.")
    for orphan in orphans.find(machine):
        size = f" ({print_bytes(orphan.size_bytes)})" if orphan.size_bytes else ""
        text = f"no link leads to '{orphan.target}'{size}: '{orphan.source}' {WHY[orphan.why]}"
        yield Finding("warning", orphan.cache_id, text, "To link, remove or adopt it: survivectl orphans --help")
    standins = {item.target: item for item in machine.records.standins()}
    for standin in standins.values():
        text = f"'{standin.source}' is a stand-in since {print_time(standin.since)} and is merged when its data disk is back"
        yield Finding("warning", standin.cache_id, text)
    for link in machine.records.links(machine.read_stores()):
        item, state = link.item, judge(link)
        if state is LinkState.OK:
            yield Finding("ok", item.cache_id, f"'{item.source}' lives at '{item.target}'")
        elif state is LinkState.DANGLING:
            text = f"'{item.source}' leads to '{item.target}', which is gone, although the data disk is there"
            yield Finding("failure", item.cache_id, text, f"To begin anew at home: rm {shlex.quote(item.source)}")
        elif state is LinkState.DISK_MISSING:
            text, until = f"'{item.source}' leads to '{item.target}', which is not there", shlex.quote(item.cache_id)
            yield Finding(
                "failure", item.cache_id, text, f"Mount the data disk. A directory until then: survivectl standin {until}"
            )


def _notices(machine: Machine) -> Iterator[Finding]:
    count = len(machine.settings.notify_urls())
    if count:
        yield Finding("ok", "notices", f"go to {count} destination{'s' if count > 1 else ''}", "Try them: survivectl notify test")
    else:
        yield Finding("warning", "notices", "go nowhere but to the log", "Add Apprise URLs under [notify] urls.")


def _daemon() -> Iterator[Finding]:
    try:
        doc = local.ask("status", timeout=10.0)
    except SurvivedError as error:
        yield Finding("warning", "daemon", error.message, error.hint)
        return
    yield Finding("ok", "daemon", f"runs as pid {doc['daemon']['pid']}")
    for problem in doc["problems"]:
        yield Finding("failure", "daemon", problem)
