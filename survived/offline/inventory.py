"""
What a machine has already: written there, carried to where a bundle is packed, so that only what it lacks is packed.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from survived.errors import SurvivedError, cause_of
from survived.offline import platform
from survived.offline.hubcache import cache_folder, read_blobs
from survived.offline.manifest import Target
from survived.offline.wheels import normalized

if TYPE_CHECKING:
    from collections.abc import Mapping

    from survived.offline.command import Runner

FORMAT = 1
_DPKG = "/var/lib/dpkg/status"
_STATUS_LIMIT = 256 * 1024 * 1024
_PACKAGES = (
    "import json\nfrom importlib.metadata import distributions\n"
    "print(json.dumps({d.metadata['Name']: d.version for d in distributions() if d.metadata['Name']}))\n"
)


@dataclass(frozen=True, slots=True)
class Inventory:
    """
    One machine: whom it is, and what each tool has.

    `packages` are of one Python, name (normalised) to version; `blobs` of the hub's cache, repository folder to names;
    `images` are Docker image ids, `conda` file names of its package cache, `servers` commits of VS Code's server,
    `extensions` `publisher.name@version`; `dpkg` is dpkg's status file, "" on another system than Debian's kind.
    """

    made: str
    machine: str
    glibc: str | None
    python: str | None
    system: str = ""
    packages: dict[str, str] = field(default_factory=dict)
    dpkg: str = ""
    images: list[str] = field(default_factory=list)
    blobs: dict[str, list[str]] = field(default_factory=dict)
    conda: list[str] = field(default_factory=list)
    servers: list[str] = field(default_factory=list)
    extensions: list[str] = field(default_factory=list)

    @property
    def target(self) -> Target:
        """Whom a bundle for this machine is for."""
        return Target(self.machine, self.glibc, self.python)

    def document(self) -> dict[str, Any]:
        """Return it for JSON; dpkg's status is compressed, as it is a megabyte of text."""
        packed = (
            base64.b64encode(gzip.compress(self.dpkg.encode("utf-8", "surrogateescape"), mtime=0)).decode() if self.dpkg else ""
        )
        return {"format": FORMAT, **asdict(self), "dpkg": packed}


def read_system() -> str:
    """Return the distribution and its release, as in `debian 12`; "" if it does not say."""
    found: dict[str, str] = {}
    with suppress(OSError), open("/etc/os-release", encoding="utf-8") as file:
        for line in file:
            key, _, value = line.strip().partition("=")
            found[key] = value.strip("\"'")
    return f"{found.get('ID', '')} {found.get('VERSION_ID', '')}".strip()


def take(runner: Runner, python: str, home: str, made: str, hub_cache: str | None = None) -> Inventory:
    """Read this machine; a tool that is not here, or does not answer, has nothing."""
    here = platform.here()
    about, packages = {}, {}
    with suppress(SurvivedError, OSError, ValueError):
        about = platform.ask_python(runner, python)
        said = json.loads(runner.ask([python, "-I", "-c", _PACKAGES], doing="list packages"))
        packages = {normalized(name): version for name, version in said.items()}
    dpkg = ""
    with suppress(OSError), open(_DPKG, encoding="utf-8", errors="surrogateescape") as file:
        dpkg = file.read()
    images: list[str] = []
    with suppress(SurvivedError, OSError):
        images = sorted(set(runner.ask(["docker", "image", "ls", "-q", "--no-trunc"], doing="list images", limit=20.0).split()))
    servers = os.path.join(home, ".vscode-server")
    return Inventory(
        made=made,
        machine=here.machine or "",
        glibc=here.glibc,
        python=about.get("python"),
        system=read_system(),
        packages=packages,
        dpkg=dpkg,
        images=images,
        blobs=read_blobs(cache_folder(runner.env, home, hub_cache)),
        conda=_conda_packages(runner, home),
        servers=sorted({name.removeprefix("Stable-") for name in _names(f"{servers}/cli/servers")} | set(_names(f"{servers}/bin"))),
        extensions=_extensions(f"{servers}/extensions"),
    )


def _names(folder: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError:
        return []


def _conda_packages(runner: Runner, home: str) -> list[str]:
    found = [os.path.join(home, ".conda/pkgs")]
    root = runner.env.get("CONDA_EXE") or ""
    if os.path.isabs(root):
        found.append(os.path.join(os.path.dirname(os.path.dirname(root)), "pkgs"))
    found += [path for path in runner.env.get("CONDA_PKGS_DIRS", "").split(",") if path]
    return sorted({name for folder in found for name in _names(folder) if name.endswith((".conda", ".tar.bz2"))})


def _extensions(folder: str) -> list[str]:
    """Return `publisher.name@version` for each folder of VS Code's extensions, by what its package.json says."""
    found = []
    for name in _names(folder):
        with suppress(OSError, ValueError, KeyError, TypeError), open(f"{folder}/{name}/package.json", encoding="utf-8") as file:
            about = json.load(file)
            found.append(f"{about['publisher']}.{about['name']}@{about['version']}".lower())
    return found


def load(path: str) -> Inventory:
    """Read an inventory from a file; `SurvivedError` if it is none of ours."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        return _parse(found)
    except OSError as error:
        raise SurvivedError(f"Cannot read '{path}': {cause_of(error)}. Nothing was packed.") from error
    except (ValueError, KeyError, TypeError, EOFError, zlib.error) as error:
        raise SurvivedError(
            f"Cannot use '{path}': it is no inventory of ours. Nothing was packed.",
            "Make one on the target: survivectl offline inventory.",
        ) from error


def _parse(found: Mapping[str, Any]) -> Inventory:
    if not isinstance(found, dict) or found["format"] != FORMAT:
        raise ValueError(FORMAT)
    fields: dict[str, Any] = {name: found[name] for name in Inventory.__dataclass_fields__ if name in found}
    for name, kind in (
        ("packages", dict),
        ("blobs", dict),
        ("images", list),
        ("conda", list),
        ("servers", list),
        ("extensions", list),
    ):
        if not isinstance(fields.get(name, kind()), kind):
            raise TypeError(name)
    for name in ("made", "machine", "system"):
        if not isinstance(fields.get(name, ""), str):
            raise TypeError(name)
    packed = base64.b64decode(fields.get("dpkg", ""), validate=True)
    plain = zlib.decompressobj(wbits=31).decompress(packed, _STATUS_LIMIT) if packed else b""
    return Inventory(**{**fields, "dpkg": plain.decode("utf-8", "surrogateescape")})
