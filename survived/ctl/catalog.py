"""
The verb `catalog`: every cache that is known, where it was found and by which rule, and whether it may be moved.

Looks for itself and measures nothing: sizes are `measure`'s, and what would move now is `plan`'s.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from survived.ctl import local
from survived.ctl.look import fitting, width
from survived.ctl.main import nearest, print_json, printable
from survived.errors import UsageError
from survived.model import CacheState
from survived.settings.catalog import CacheRule, Part, find_rule, load_rules, parts_of
from survived.settings.places import show_location
from survived.tell.columns import wrap
from survived.tell.wire import path_fields

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from survived.machine import Machine
    from survived.model import CacheReading

_GROUPS = (
    ("Moves when the disk is full", "moves"),
    ("Lives on a data disk", "away"),
    ("Stays where it is", "stays"),
    ("Not there", "absent"),
)


@dataclass(frozen=True, slots=True)
class Record:
    """One entry: a cache as it was found, or a rule that names no place here."""

    id: str
    title: str
    rule: CacheRule | None
    reading: CacheReading | None
    standing: str  # one of "moves", "away", "stays", "absent"
    may_move: bool  # as its user and the catalogue have it, wherever it is
    reason: str | None  # a code of `Reason`: why it is not moved
    text: str

    @property
    def parts(self) -> tuple[Part, ...]:
        """What lies below or beside it that is of another kind."""
        return parts_of(self.reading.cache) if self.reading is not None else ()


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the words of `catalog`."""
    parser.add_argument("ids", nargs="*", metavar="ID|PATH", help="everything that is known about these")
    parser.add_argument("--all", action="store_true", help="also what is not there")


def run(args: argparse.Namespace) -> int:
    """Print the catalogue as it is for this user, or all about some entries."""
    machine = local.open_machine(args)
    records = read_records(machine)
    chosen = [record for word in args.ids for record in _chosen(records, word)]
    shown = chosen if args.ids else [record for record in records if args.all or record.standing != "absent"]
    if args.json:
        print_json({"caches": [document(record) for record in shown]})
    elif args.ids:
        for number, record in enumerate(chosen):
            if number:
                print()
            _print_record(record, machine.home)
    else:
        _print_groups(shown, [] if args.all else [record for record in records if record.standing == "absent"], machine.home)
    return 0


def read_records(machine: Machine) -> list[Record]:
    """Return an entry for each cache of this user, and one for each rule that names no place."""
    from survived.observe.caches import read_cache

    targets = {item.source: item.target for _, item in machine.relocations()}
    readings = [read_cache(cache, 0.0, targets, measure=False) for cache in machine.known_caches()]
    records = [_record(machine, reading, readings) for reading in readings]
    named = {record.rule.id for record in records if record.rule is not None}
    left = [rule for rule in load_rules() if rule.id not in named and (machine.paths.root_mode or not rule.system)]
    nowhere = [Record(rule.id, rule.title, rule, None, "absent", False, "absent", "it has no place here") for rule in left]  # noqa: FBT003
    return [*records, *nowhere]


def _record(machine: Machine, reading: CacheReading, others: Sequence[CacheReading]) -> Record:
    from survived.decide.reasons import elsewhere, enclosing, unwanted

    cache = reading.cache
    word = unwanted(reading, machine.rules) or enclosing(reading, others)
    why = elsewhere(reading) or word
    standing = "moves" if why is None else "stays"
    if reading.state is CacheState.ABSENT:
        standing = "absent"
    elif reading.state in (CacheState.RELOCATED, CacheState.DANGLING):
        standing = "away"
    code, text = why if why is not None else (None, "when the disk is full")
    if standing == "absent":
        text = f"{text}; if there were, it {word[1] if word is not None else 'would move when the disk is full'}"
    return Record(cache.id, cache.title, find_rule(cache.id), reading, standing, word is None, code.value if code else None, text)


def _chosen(records: Sequence[Record], word: str) -> list[Record]:
    """Return the entries that an id, the id of a rule that gives several, or a path names. `UsageError` if none does."""
    path = os.path.normpath(os.path.join(os.getcwd(), os.path.expanduser(word)))
    found = [record for record in records if record.id == word]
    found = found or [r for r in records if (r.rule is not None and r.rule.id == word) or r.id.partition(":")[0] == word]
    found = found or [record for record in records if record.reading is not None and record.reading.cache.path == path]
    if not found:
        near = nearest(word, [record.id for record in records])
        hint = f"Did you mean '{near}'?" if near else "All of them: survivectl catalog --all"
        raise UsageError(f"Cannot find '{word}': no entry of that name is known.", hint)
    return found


# ---- JSON ---------------------------------------------------------------------------------------------------------


def document(record: Record) -> dict[str, Any]:
    """Return one entry for JSON; `path` is None where its rule names no place. `reason`: why it is not moved, also if it may be."""
    reading, rule = record.reading, record.rule
    cache = reading.cache if reading is not None else None
    return {
        "id": record.id,
        "title": record.title,
        "kind": (cache.kind if cache is not None else rule.kind if rule is not None else "cache"),
        **(path_fields(cache.path) if cache is not None else {"path": None}),
        "rule": cache.rule if cache is not None else None,
        "looked_for": [show_location(place) for place in rule.locations] if rule is not None else [],
        "state": reading.state.value if reading is not None else "absent",
        **(path_fields(reading.target, "target") if reading is not None and reading.target else {"target": None}),
        "may_move": record.may_move,
        "reason": None if record.reason is None else {"code": record.reason, "text": record.text},
        "proven": rule is not None and rule.proven,
        "parts": [
            {**path_fields(part.path), "kind": part.kind, "secret": part.secret, "there": os.path.lexists(part.path)}
            for part in record.parts
        ],
        "link": {
            "level": "path",
            "eaten_at": list(rule.eaten) if rule is not None else [],
            "breaks_at": list(rule.breaks) if rule is not None else [],
        },
        "lock": list(cache.lock if cache is not None else rule.lock if rule is not None else ()),
        "processes": list(rule.processes) if rule is not None else [],
        "shares_links_with": list(rule.shares_links_with) if rule is not None else [],
        "clean": {
            "command": rule.clean_command if rule is not None else None,
            "preview": rule.clean_preview if rule is not None else None,
            "deletes_only_what_comes_back": rule is not None and rule.purge_ok,
            "keeps_link": rule.keeps_link if rule is not None else None,
        },
        "redirect": rule.redirect if rule is not None else None,
        "limit_bytes": cache.limit_bytes if cache is not None else None,
        "caveats": list(cache.caveats if cache is not None else rule.caveats if rule is not None else ()),
        "evidence": rule.evidence if rule is not None else None,
    }


# ---- text ---------------------------------------------------------------------------------------------------------


def _print_groups(records: Sequence[Record], left_out: Sequence[Record], home: str) -> None:
    for head, standing in _GROUPS:
        group = [record for record in records if record.standing == standing]
        if not group:
            continue
        print(f"{head}:")
        for record in group:
            _print_line(record, home)
        print()
    if left_out:
        _print_row("Not there:", f"{', '.join(record.id for record in left_out)}.", 11)
        print()
    _print_row("All about one:", "survivectl catalog ID" + ("; with what is not there: --all" if left_out else ""), 15)


def _print_line(record: Record, home: str) -> None:
    reading = record.reading
    if reading is None:
        _print_row(f"  {record.id}", record.title, 32)
        return
    kind = f"  {record.id:<17} {reading.cache.kind}"
    _print_row(kind, f"{_short(reading.cache.path, home)}, {_by(reading.cache.rule)}", 32)
    if record.standing in ("away", "stays"):
        _print_row("", record.text, 32)


def _by(rule: str) -> str:
    return "by default" if rule == "default" else rule if rule.startswith(("relocated", "mounted")) else f"by {rule}"


def _print_record(record: Record, home: str) -> None:
    reading, rule = record.reading, record.rule
    print(printable(f"{record.id}: {record.title}"))
    if reading is not None:
        cache = reading.cache
        _print_fact("path", _short(cache.path, home) + ("" if reading.state is not CacheState.ABSENT else " (not there)"))
        _print_fact("found", _by(cache.rule))
        _print_fact("kind", cache.kind)
    elif rule is not None:
        _print_fact("kind", rule.kind)
    for part in record.parts:
        there = "" if os.path.lexists(part.path) else " (not there)"
        _print_fact("", f"{_short(part.path, home)}: {part.kind}{', a secret' if part.secret else ''}{there}")
    _print_fact("moves", record.text if record.standing == "moves" else f"no: {record.text}")
    if rule is not None:
        _print_rule(rule)
    for caveat in reading.cache.caveats if reading is not None else rule.caveats if rule is not None else ():
        _print_fact("mind", caveat)


def _print_rule(rule: CacheRule) -> None:
    _print_fact("looked for", "; ".join(show_location(place) for place in rule.locations))
    levels = [f"{name} (its clean command removes a link there)" for name in rule.eaten]
    levels += [f"{name} (a link there breaks the tool)" for name in rule.breaks]
    _print_fact("link at", "the path itself" + (f", and not at {', '.join(levels)}" if levels else ""))
    _print_fact("lock", ", ".join(rule.lock) or "none that others could take")
    _print_fact("in use by", ", ".join(rule.processes) or "whoever has files open there")
    _print_fact("hard links", f"with {', '.join(rule.shares_links_with)}" if rule.shares_links_with else "none outside")
    _print_fact("cleaned by", _cleaning(rule))
    if rule.redirect:
        _print_fact("redirect", rule.redirect)
    _print_fact("known by", rule.evidence)


def _cleaning(rule: CacheRule) -> str:
    if rule.clean_command is None:
        return "no command of its own"
    link = {True: "it leaves our link", False: "it removes our link", None: "not known to leave our link"}[rule.keeps_link]
    what = "" if rule.purge_ok else "; it deletes what cannot be made again"
    return f"{rule.clean_command}; dry run: {rule.clean_preview or 'none'}; {link}{what}"


def _short(path: str, home: str) -> str:
    return f"~{path[len(home) :]}" if path.startswith(f"{home}/") else path


def _print_fact(head: str, text: str) -> None:
    _print_row(f"  {head}", text, 14)


def _print_row(head: str, text: str, indent: int) -> None:
    for line in wrap(f"{head:<{indent - 1}} {printable(text)}", width(), indent):
        print(fitting(line.rstrip()))
