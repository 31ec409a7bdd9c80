"""
The record of an install: what it created, with a digest of every file, so that uninstall takes back exactly that.

It lies at `<state_dir>/install.json`. A file whose digest has changed since belongs to the user and is left alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from survived.act import fs
from survived.errors import SurvivedError

RECORD = "install.json"


@dataclass(frozen=True, slots=True)
class Installed:
    """Everything one install created. `files` maps a path to the SHA-256 of what we wrote there."""

    version: str
    interpreter: str
    files: dict[str, str]
    directories: tuple[str, ...] = ()  # made by us, outermost first
    linger: bool = False  # switched on by us
    linked: bool = False  # the unit lies where systemd does not look; enable made a link to it
    blocks: dict[str, dict[str, Any]] = field(default_factory=dict)  # by start file, what `loginline.add` gave

    def with_file(self, path: str, data: bytes) -> Installed:
        """Return the record with one more (or a rewritten) file."""
        return replace(self, files={**self.files, path: digest(data)})


def digest(data: bytes) -> str:
    """Return the SHA-256 of `data` in hex."""
    return hashlib.sha256(data).hexdigest()


def is_unchanged(path: str, recorded: str | None) -> bool:
    """Whether the file at `path` is still what we wrote; a missing or unreadable file is not."""
    try:
        with open(path, "rb") as file:
            return digest(file.read()) == recorded
    except OSError:
        return False


def read_record(state_dir: str) -> Installed | None:
    """Return the record, or None if there is none. Raises `SurvivedError` for one that cannot be understood."""
    path = os.path.join(state_dir, RECORD)
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            document = json.load(file)
        return Installed(
            version=str(document["version"]),
            interpreter=str(document["interpreter"]),
            files={str(name): str(value) for name, value in document["files"].items()},
            directories=tuple(map(str, document.get("directories", ()))),
            linger=bool(document.get("linger")),
            linked=bool(document.get("linked")),
            blocks={str(name): _block(value) for name, value in document.get("blocks", {}).items()},
        )
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SurvivedError(f"Cannot read '{path}': {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        hint = "Move it away and run survivectl install once more."
        raise SurvivedError(f"Cannot understand '{path}': it is no record of an install.", hint) from error


def _block(document: dict[str, Any]) -> dict[str, Any]:
    return {"block": str(document["block"]), "sum": str(document["sum"]), "folders": [str(path) for path in document["folders"]]}


def write_record(state_dir: str, record: Installed) -> None:
    """Write the record durably. OSError as the kernel gives it."""
    text = json.dumps({"schema": 1, **asdict(record)}, indent=1) + "\n"
    fs.write_file(os.path.join(state_dir, RECORD), text.encode("utf-8", "surrogateescape"), 0o600)


def make_directories(path: str, mode: int = 0o700) -> tuple[str, ...]:
    """Make `path` and what is missing above it; return what was made, outermost first."""
    missing: list[str] = []
    while path and not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for folder in reversed(missing):
        os.mkdir(folder, mode)
    return tuple(reversed(missing))


def remove_empty(directories: tuple[str, ...]) -> None:
    """Remove directories that install made and nobody has used since, innermost first."""
    for folder in sorted(directories, key=len, reverse=True):
        try:
            os.rmdir(folder)
        except OSError:  # ENOTEMPTY: somebody keeps files there now; ENOENT: gone already
            continue
