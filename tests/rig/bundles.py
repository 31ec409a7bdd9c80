"""Bundles made by hand, good and evil: a tar of whatever members, packed as ours are, and a folder to unpack them to."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zstandard

if TYPE_CHECKING:
    from collections.abc import Iterable

GOOD = {"files/a": b"alpha\n", "files/sub/b": b"beta" * 1000}


def document(content: dict[str, bytes], /, **changes: Any) -> dict[str, Any]:
    """Return the manifest of these files, all of one item of plain files."""
    return {
        "format": 1,
        "made": "2026-11-28T12:00:00Z",
        "maker": "a test",
        "items": [
            {
                "kind": "files", "root": "files", "title": "files a, b", "facts": {}, "omitted": [],
                "target": {"machine": None, "glibc": None, "python": None},
            }
        ],
        "files": [
            {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for path, data in content.items()
        ],
        **changes,
    }  # fmt: skip


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    """Return one member of a tar."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(data), link
    return info, data


def good(content: dict[str, bytes] | None = None, /, **changes: Any) -> list[tuple[tarfile.TarInfo, bytes]]:
    """Return the members of a good bundle, or of one whose manifest has changes."""
    found = GOOD if content is None else content
    manifest = json.dumps(document(found, **changes)).encode()
    return [member("manifest.json", manifest), *(member(path, data) for path, data in found.items())]


def tarred(members: Iterable[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.GNU_FORMAT) -> bytes:
    """Return the tar of members, with its two blocks at the end."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def write(path: Path, tar: bytes) -> Path:
    """Write a bundle of a tar's bytes."""
    path.write_bytes(zstandard.ZstdCompressor().compress(tar))
    return path


def tree(folder: Path) -> list[str]:
    """Return all paths below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
