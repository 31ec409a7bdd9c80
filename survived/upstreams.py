"""
Which mirror each tool is led to, by whom, and leading it elsewhere or back: edits of one owner for each tool, in a store's journal.

The same code in the daemon and without it. What a person set themselves is shown, and comes back with the undo.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from survived import keepsakes
from survived.act import undoing
from survived.act.edits import apply as apply_edits
from survived.act.edits import plan as plan_edits
from survived.errors import Refused
from survived.mirrors import recipes
from survived.mirrors.known import Mirror, mirrors, named, without_password
from survived.model import Reason
from survived.redirects import change_document, outcome_document
from survived.store.edits import EditJournal, EditStage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from survived.machine import Machine
    from survived.store.edits import EditRecord

OWNER = "mirrors "
_NEEDS_ROOT = frozenset({"apt", "docker"})
_ELSEWHERE = {"pip": "PIP_INDEX_URL", "uv": "UV_DEFAULT_INDEX", "npm": "NPM_CONFIG_REGISTRY", "conda": "CONDA_CHANNEL_ALIAS"}
"""Variables of the environment that win over the file that we edit."""


@dataclass(frozen=True, slots=True)
class Use:
    """Where a tool goes: the URL ("" is its own default), and whether we led it there; `note` for what wins over the file."""

    tool: str
    url: str
    is_ours: bool
    note: str = ""

    @property
    def mirror(self) -> Mirror | None:
        """The mirror that is, known or not; None for a tool that goes where it goes by itself."""
        return named(self.tool, self.url) if self.url else None


def records(machine: Machine, tool: str) -> list[tuple[str, EditRecord]]:
    """Return our edits for a tool that are in force, each with its store, by every journal that can be read."""
    found = machine.records.each(lambda _, database: EditJournal(database).open(OWNER + tool))
    return [(path, record) for path, record in found if record.stage is not EditStage.INTENT]


def read_use(machine: Machine, tool: str, env: Mapping[str, str], root: str = "/") -> Use:
    """Return where a tool goes now. A settings file with a mistake counts as no settings, with a note."""
    ours = records(machine, tool)
    variable = _ELSEWHERE.get(tool, "HF_ENDPOINT" if tool == "hub" else "")
    note = ""
    if variable and env.get(variable) and not (tool == "hub" and any(env[variable] == record.value for _, record in ours)):
        note = f"{variable} is set in this environment and wins over the file"
    if tool == "apt":
        return Use(tool, _apt_url(root), bool(ours), note)
    distribution, _ = recipes.read_distribution(root)
    first = mirrors(tool, distribution)[0]
    try:
        changes = plan_edits(recipes.edits_for(first, env, machine.home, root)[:1])
        value = changes[0].previous if changes else None
    except Refused as refused:
        return Use(tool, "", bool(ours), note or refused.message)
    if isinstance(value, tuple):
        value = value[0] if value else None
    url = str(value).rstrip("/") if value else ""
    if tool == "hub" and not url:
        url = env.get(variable, "").rstrip("/")
    return Use(tool, url if "://" in url else "", bool(ours), note)


def _apt_url(root: str) -> str:
    """Return the first known server of the distribution that the lists of sources name."""
    distribution, _ = recipes.read_distribution(root)
    known = mirrors("apt", distribution) if distribution else ()
    for mirror in known:
        if not mirror.is_official and not recipes.edits_for(mirror, {}, "/", root):
            return mirror.url
    return known[0].url if known else ""


def check_rights(tool: str, verb: str) -> None:
    """Raise `Refused` where only root may lead a tool."""
    if tool in _NEEDS_ROOT and os.geteuid() != 0:
        raise Refused(
            Reason.NOT_OURS, f"Cannot {verb} a mirror for {tool}: its settings belong to root. Nothing was changed.",
            f"As root: sudo survivectl mirrors {verb} {tool} …",
        )  # fmt: skip


def lead(machine: Machine, mirror: Mirror, env: Mapping[str, str], root: str = "/") -> dict[str, Any]:
    """
    Lead the mirror's tool to it, all edits or none; return them for JSON.

    Raises `Refused` without rights or without a data disk for the journal, `SurvivedError` for what a disk says.
    """
    check_rights(mirror.tool, "use")
    edits = recipes.edits_for(mirror, env, machine.home, root)
    if not edits:
        why = (
            "it is led there already" if mirror.tool != "apt" else "no list of sources leads to another server of the distribution"
        )
        raise Refused(Reason.NO_MIRROR, f"Cannot lead {mirror.tool} to '{mirror.shown}': {why}. Nothing was changed.")
    machine.open_stores(machine.read_stores())
    holding = next((path for path, _ in records(machine, mirror.tool)), None)
    opened = machine.open.get(holding) if holding else next(iter(machine.open.values()), None)
    if opened is None:
        raise Refused(
            Reason.NO_STORE, f"Cannot lead {mirror.tool} to '{mirror.shown}': there is no data disk for what an undo needs. "
            "Nothing was changed.", "Run survivectl check.",
        )  # fmt: skip
    journal = EditJournal(opened.database)
    gone: list[Any] = []
    if mirror.tool == "apt":  # whole files: what was there before comes back first, so that an undo leads to what the user had
        gone += undoing.undo(journal, OWNER + mirror.tool, time.time(), machine.ballast)
        edits = recipes.edits_for(mirror, env, machine.home, root)
    else:
        gone += _drop_others(journal, mirror.tool, edits, machine)
    changes, earlier = apply_edits(journal, OWNER + mirror.tool, edits, time.time(), machine.ballast)
    keepsakes.keep(machine)
    return {
        "tool": mirror.tool, "mirror": mirror.id, "url": mirror.shown,
        "edits": [change_document(change) for change in changes],
        "earlier": [outcome_document(outcome) for outcome in (*gone, *earlier)],
        "next": what_is_next(mirror.tool),
    }  # fmt: skip


def _drop_others(journal: EditJournal, tool: str, edits: tuple[Any, ...], machine: Machine) -> list[Any]:
    """Take back earlier edits of keys that this mirror does not need: `trusted-host` of one without https."""
    wanted = {(edit.file, edit.format, edit.key) for edit in edits}
    rest = [record for record in reversed(journal.open(OWNER + tool)) if (record.file, record.format, record.key) not in wanted]
    return [undoing.undo_one(journal, record, time.time(), machine.ballast) for record in rest]


def take_back(machine: Machine, tool: str) -> dict[str, Any]:
    """Take back what we set for a tool, three-way; return what became of each edit. Raises `Refused` if there is nothing."""
    check_rights(tool, "undo")
    machine.open_stores(machine.read_stores())
    stores = {path for path, _ in records(machine, tool)}
    outcomes: list[Any] = []
    for path in stores & set(machine.open):
        outcomes += undoing.undo(EditJournal(machine.open[path].database), OWNER + tool, time.time(), machine.ballast)
    outcomes += keepsakes.undo(machine, OWNER + tool)  # of a disk that is away, by the copy at home
    keepsakes.keep(machine)
    if not outcomes:
        away = f": its journal is at '{min(stores)}', which cannot be used now" if stores else ": we did not lead it to one"
        raise Refused(
            Reason.NOT_RELOCATED, f"Cannot undo the mirror of {tool}{away}. Nothing was changed.", "survivectl mirrors list"
        )
    return {"tool": tool, "edits": [outcome_document(outcome) for outcome in outcomes], "next": what_is_next(tool)}


def what_is_next(tool: str) -> str:
    """Return what a person has to do for the change to count, "" for nothing."""
    return {
        "docker": "systemctl reload docker",
        "apt": "apt-get update",
        "hub": "Log in again, or start a new shell: HF_ENDPOINT is read when a program starts.",
    }.get(tool, "")


def use_document(use: Use) -> dict[str, Any]:
    """Return where a tool goes for JSON; never a password."""
    return {"tool": use.tool, "url": without_password(use.url) or None, "ours": use.is_ours, "note": use.note or None}
