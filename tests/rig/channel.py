"""A conda channel of our own: real packages and their repodata below a folder, for a file: URL or a server."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def make_channel(
    folder: Path, packages: Mapping[str, Mapping[str, bytes]], needs: Mapping[str, list[str]] | None = None
) -> list[str]:
    """
    Make noarch packages, version 1.0, build 0, of these files; return `noarch/NAME-1.0-0.tar.bz2#MD5` for each.

    `needs` are their dependencies by name.
    """
    listed: dict[str, Any] = {}
    made = []
    (folder / "noarch").mkdir(parents=True)
    (folder / "linux-64").mkdir()
    for name, files in packages.items():
        about = {
            "name": name, "version": "1.0", "build": "0", "build_number": 0, "depends": (needs or {}).get(name, []),
            "arch": None, "platform": None, "subdir": "noarch", "noarch": "generic",
        }  # fmt: skip
        paths = [
            {"_path": path, "path_type": "hardlink", "sha256": hashlib.sha256(data).hexdigest(), "size_in_bytes": len(data)}
            for path, data in files.items()
        ]
        info = {
            "info/index.json": json.dumps(about).encode(),
            "info/files": "".join(f"{path}\n" for path in files).encode(),
            "info/paths.json": json.dumps({"paths": paths, "paths_version": 1}).encode(),
        }
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:bz2") as archive:
            for path, data in {**info, **files}.items():
                member = tarfile.TarInfo(path)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        data, file = packed.getvalue(), f"{name}-1.0-0.tar.bz2"
        (folder / "noarch" / file).write_bytes(data)
        sums = {"md5": hashlib.md5(data).hexdigest(), "sha256": hashlib.sha256(data).hexdigest()}
        listed[file] = {**about, **sums, "size": len(data)}
        made.append(f"noarch/{file}#{sums['md5']}")
    for subdir, found in (("noarch", listed), ("linux-64", {})):
        repodata = {"info": {"subdir": subdir}, "packages": found, "packages.conda": {}, "repodata_version": 1}
        (folder / subdir / "repodata.json").write_text(json.dumps(repodata))
    return made
