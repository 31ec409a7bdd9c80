"""
The manifest: what a bundle holds, for whom, and the SHA-256 of every file. The first file of every bundle.

Read strictly: a manifest that is not exactly of this shape is refused, for everything later relies on it.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

from survived.errors import Refused
from survived.offline import names
from survived.terms import Reason

FORMAT = 1
NAME = "manifest.json"
SIZE_LIMIT = 512 * 1024 * 1024
"""Bytes of a manifest; a million files take about 200 MB."""
KINDS = ("wheels", "conda", "hub", "vscode", "npm", "debs", "images", "files")
_SHA256 = re.compile("[0-9a-f]{64}")
_ROOT = re.compile("[a-z]+(-[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file: its path in the bundle, its size in bytes, the SHA-256 of its content in hex, whether it is a program."""

    path: str
    size: int
    sha256: str
    executable: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """
    The machine a bundle or an item is for; None where it does not matter.

    `machine` as `uname -m` has it, `glibc` and `python` as `2.28` and `3.11`.
    """

    machine: str | None = None
    glibc: str | None = None
    python: str | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """
    One thing to install: its kind, the folder `root` that has its files, whom it is for, and what its kind needs to know.

    `title` is for people: `wheels of requirements.txt`. `facts` are plain JSON values; `omitted` names what the
    inventory of the target has already.
    """

    kind: str
    root: str
    title: str
    target: Target = Target()
    facts: dict[str, Any] = field(default_factory=dict)
    omitted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle holds. `made` is RFC 3339 in UTC."""

    made: str
    maker: str
    items: tuple[Item, ...]
    entries: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """Bytes of all files, unpacked."""
        return sum(entry.size for entry in self.entries)

    def entries_of(self, item: Item) -> tuple[Entry, ...]:
        """Return the files of one item."""
        return tuple(entry for entry in self.entries if entry.path.startswith(f"{item.root}/"))

    def dump(self) -> bytes:
        """Return it as the bytes that stand in the bundle: the same for the same content."""
        document = {
            "format": FORMAT,
            "made": self.made,
            "maker": self.maker,
            "items": [
                {
                    "kind": item.kind,
                    "root": item.root,
                    "title": item.title,
                    "target": {"machine": item.target.machine, "glibc": item.target.glibc, "python": item.target.python},
                    "facts": item.facts,
                    "omitted": list(item.omitted),
                }
                for item in self.items
            ],
            "files": [
                {
                    "path": entry.path,
                    "size": entry.size,
                    "sha256": entry.sha256,
                    **({"executable": True} if entry.executable else {}),
                }
                for entry in self.entries
            ],
        }
        return json.dumps(document, ensure_ascii=True, indent=1).encode() + b"\n"


def fingerprint(raw: bytes) -> str:
    """Return the SHA-256 of a manifest's bytes: the bundle's name for good, since the manifest names everything else."""
    return hashlib.sha256(raw).hexdigest()


def parse(raw: bytes, bundle: str) -> Manifest:
    """Return the manifest in these bytes; `Refused` (damaged) with the reason if it is not one of ours."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise names.damaged(bundle, "its manifest is no JSON") from error
    if not isinstance(document, dict) or not isinstance(document.get("format"), int):
        raise names.damaged(bundle, "its manifest is none of ours")
    if document["format"] != FORMAT:
        why = f"its manifest has format {document['format']}, and this survived knows {FORMAT}"
        raise Refused(Reason.DAMAGED, f"Cannot read '{bundle}': {why}. Nothing was unpacked.", "Use the survived that packed it.")
    try:
        items = tuple(_item(found) for found in document["items"])
        entries = tuple(_entry(found) for found in document["files"])
        manifest = Manifest(_text(document["made"]), _text(document["maker"]), items, entries)
    except (KeyError, TypeError, ValueError) as error:
        raise names.damaged(bundle, f"its manifest is not complete ({_describe(error)})") from error
    names.check((NAME, *(entry.path for entry in entries)), bundle)
    roots = [item.root for item in items]
    if len(set(roots)) != len(roots):
        raise names.damaged(bundle, "two items of its manifest share a folder")
    if stray := next((entry.path for entry in entries if entry.path.partition("/")[0] not in roots), None):
        raise names.damaged(bundle, f"'{stray}' belongs to no item of its manifest")
    return manifest


def _describe(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)


def _entry(found: dict[str, Any]) -> Entry:
    size, sha256 = found["size"], _text(found["sha256"])
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ValueError(f"the size {size!r}")
    if not _SHA256.fullmatch(sha256):
        raise ValueError(f"the SHA-256 {sha256!r}")
    executable = found.get("executable", False)
    if not isinstance(executable, bool):
        raise TypeError("executable")
    return Entry(_text(found["path"]), size, sha256, executable)


def _item(found: dict[str, Any]) -> Item:
    kind, root, facts, omitted = _text(found["kind"]), _text(found["root"]), found["facts"], found["omitted"]
    if kind not in KINDS:
        raise ValueError(f"the kind {kind!r} is not known")
    if not _ROOT.fullmatch(root):
        raise ValueError(f"the folder {root!r}")
    if not isinstance(facts, dict) or not isinstance(omitted, list):
        raise TypeError("facts")
    target = Target(*(_text_or_none(found["target"][name]) for name in ("machine", "glibc", "python")))
    return Item(kind, root, _text(found["title"]), target, facts, tuple(_text(name) for name in omitted))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _text_or_none(value: object) -> str | None:
    return None if value is None else _text(value)
