"""
What must last of docker's moves: where its data was and is, and how far an unfinished move has come. One small file of root's.

It is written whole, durably, before what it announces and after what it reports. It lies at home and not in a store, because
docker may move to a disk that has none, and because it must be found when that disk is away.
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from survived.act import fs
from survived.act.dockerd import Inventory
from survived.act.dockerunit import Unit
from survived.errors import NeedsPerson

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "docker.json"
_FORMAT = 1


class Step(StrEnum):
    """How far a move of docker has come; each is recorded before the next thing is done."""

    INTENT = "intent"  # docker is being stopped, the copy is being made
    COPIED = "copied"  # the copy is complete and synced; docker's configuration still names the old root
    EDITING = "editing"  # the configuration is being changed; which root it names is the truth
    STARTING = "starting"  # docker is being started on the new root, and may have written there
    VERIFIED = "verified"  # docker runs on the new root with all that it had; the old one may go


@dataclass(frozen=True, slots=True)
class Part:
    """
    One root and the configuration key that names it: docker's `data-root`, or containerd's `root`.

    `before` and `after` are the whole configuration file, None where there is none.
    """

    name: str
    old: str
    new: str
    config: str
    key: str
    default: str  # the root where no configuration has the key
    before: bytes | None = None
    after: bytes | None = None
    made: bool = True  # the new root was made by us, and may be removed with its content
    folders: tuple[str, ...] = ()  # made for the configuration, outermost first


@dataclass(frozen=True, slots=True)
class Act:
    """One move under way. `home`: back to where the data was before the first move. Times are Unix seconds."""

    step: Step
    home: bool
    began: float
    host: str
    units: tuple[Unit, ...]  # docker's last: it is stopped first and started last
    was_active: bool
    parts: tuple[Part, ...]  # docker's last: its configuration is changed last
    inventory: Inventory
    keep_old: bool = False


@dataclass(frozen=True, slots=True)
class Moved:
    """Where docker's data is since a move; a part's `old` is where it was before the first one, and is again after `undo`."""

    since: float
    host: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class State:
    """All that is kept. `left`: roots that docker does not use any more and that were not removed, for `clean`."""

    moved: Moved | None = None
    act: Act | None = None
    left: tuple[str, ...] = field(default=())


def load(path: str) -> State:
    """Return what is kept at `path`; an empty `State` if there is no file. `NeedsPerson` if it is not ours to understand."""
    try:
        with open(path, "rb") as file:
            found = json.load(file)
    except FileNotFoundError:
        return State()
    except (OSError, ValueError) as error:
        raise NeedsPerson(f"Cannot read '{path}': {error}. Nothing was changed.", "It says where docker's data is.") from error
    if found.get("format") != _FORMAT:
        raise NeedsPerson(f"Cannot read '{path}': it was written by a newer survived. Nothing was changed.", "Update survived.")
    try:
        return State(_read_moved(found["moved"]), _read_act(found["act"]), tuple(found["left"]))
    except (KeyError, TypeError, ValueError) as error:
        raise NeedsPerson(f"Cannot read '{path}': {error!r}. Nothing was changed.", "It says where docker's data is.") from error


def save(path: str, state: State) -> None:
    """Keep `state`, durably; a state that says nothing leaves no file. Raises OSError."""
    if state == State():
        fs.remove_file(path) if os.path.lexists(path) else None
        return
    document = {
        "format": _FORMAT,
        "moved": None if state.moved is None else {**asdict(state.moved), "parts": [_part(p) for p in state.moved.parts]},
        "act": None if state.act is None else _act(state.act),
        "left": list(state.left),
    }
    fs.write_file(path, json.dumps(document, indent=1).encode() + b"\n", 0o600)


def _act(act: Act) -> dict[str, Any]:
    return {
        **asdict(act),
        "units": [unit.document() for unit in act.units],
        "parts": [_part(part) for part in act.parts],
        "inventory": act.inventory.document(),
    }


def _part(part: Part) -> dict[str, Any]:
    return {**asdict(part), "before": _coded(part.before), "after": _coded(part.after)}


def _coded(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _read_moved(found: Mapping[str, Any] | None) -> Moved | None:
    return None if found is None else Moved(**{**found, "parts": tuple(map(_read_part, found["parts"]))})


def _read_act(found: Mapping[str, Any] | None) -> Act | None:
    if found is None:
        return None
    units, parts = tuple(map(Unit.from_document, found["units"])), tuple(map(_read_part, found["parts"]))
    inventory = Inventory.from_document(found["inventory"])
    return Act(**{**found, "step": Step(found["step"]), "units": units, "parts": parts, "inventory": inventory})


def _read_part(found: Mapping[str, Any]) -> Part:
    before, after = (None if found[name] is None else base64.b64decode(found[name]) for name in ("before", "after"))
    return Part(**{**found, "before": before, "after": after, "folders": tuple(found["folders"])})
