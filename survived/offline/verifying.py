"""
The whole check of a bundle: every byte is read, and nothing is written.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from survived.errors import Refused, SurvivedError, cause_of
from survived.offline import names, parts
from survived.offline.archive import Archive
from survived.offline.manifest import Manifest, fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable

    Tell = Callable[[str, int, int], None]
    """Called as `tell(phase, bytes done, bytes in all)`; may raise to stop."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A bundle whose every byte is as its manifest says. `packed_bytes` are those of its files as they lie there."""

    files: tuple[str, ...]
    manifest: Manifest
    fingerprint: str
    packed_bytes: int


def silent(_phase: str, _done: int, _total: int) -> None:
    """Tell nobody."""


def name_of(files: list[str]) -> str:
    """Return what a bundle is called in messages: its file, or what its parts have in common."""
    return files[0] if len(files) == 1 and not files[0].endswith(".001") else files[0].removesuffix(".001")


def verify(path: str, expected: str | None = None, tell: Tell = silent) -> Verified:
    """
    Read all of a bundle and check it against its manifest.

    Raises `Refused` (damaged) with what is wrong: truncated, altered, a part missing, an entry that no bundle may have.
    `expected` is the fingerprint that `pack` printed: with it nobody can have put another bundle in its place.
    """
    files = parts.find(path)
    bundle = name_of(files)
    try:
        return verify_files(files, bundle, expected=expected, tell=tell)
    except Refused as refusal:
        if (culprit := _culprit(files, bundle)) is None:
            raise
        message = f"{refusal.message.removesuffix('Nothing was unpacked.')}By its list of sums {culprit}. Nothing was unpacked."
        raise Refused(refusal.reason, message, refusal.hint) from refusal


def verify_files(files: list[str], bundle: str, *, expected: str | None = None, tell: Tell = silent) -> Verified:
    """Check the files that make up a bundle, whatever they are called; see `verify`."""
    try:
        with closing(parts.PartReader(files)) as reader:
            archive = Archive(reader, bundle)
            found = fingerprint(archive.raw)
            if expected is not None and found != expected.lower():
                raise names.damaged(bundle, f"its SHA-256 is {found}, and {expected} was asked for")
            for _entry, content in archive.files():
                for _data in content:
                    tell("verify", reader.at, reader.total)
            return Verified(tuple(files), archive.manifest, found, reader.total)
    except OSError as error:
        why = cause_of(error)
        raise SurvivedError(f"Cannot read '{bundle}': {why}. Nothing was unpacked.") from error


def sums_file(bundle: str) -> str:
    """Return the path of the list of sums beside a bundle, as `sha256sum -c` reads it."""
    return f"{bundle}.sha256"


def _culprit(files: list[str], bundle: str) -> str | None:
    """Return which file is not what was written, or None if there is no list of sums or it finds nothing."""
    try:
        with open(sums_file(bundle), encoding="utf-8", errors="surrogateescape") as file:
            wanted = {name: total for total, _, name in (line.rstrip("\n").partition("  ") for line in file)}
        there = dict(parts.sums(files))
    except OSError:
        return None
    missing = [name for name in wanted if name not in there and not os.path.exists(os.path.join(os.path.dirname(bundle), name))]
    altered = [name for name, total in there.items() if name in wanted and wanted[name] != total]
    said = [f"'{name}' is missing" for name in missing] + [f"'{name}' is damaged" for name in altered]
    return ", ".join(said[:3]) or None
