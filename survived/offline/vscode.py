"""
VS Code without network: extensions (VSIX), and the server and command line that Remote-SSH wants for one commit.

The gallery and the update service are bases of URLs that can be given, so a mirror does as well as Microsoft's own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import urllib.parse
import xml.etree.ElementTree as ET
import zipfile
from typing import TYPE_CHECKING

from survived.act import fs
from survived.errors import SurvivedError, UsageError
from survived.offline import platform
from survived.offline.download import download
from survived.offline.job import Collecting, Installing, Outcome, Wish
from survived.offline.manifest import Item, Target

if TYPE_CHECKING:
    from collections.abc import Iterator

GALLERY = "https://marketplace.visualstudio.com"
UPDATES = "https://update.code.visualstudio.com"
_EXTENSION = re.compile(r"([\w-]+)\.([\w-]+)(?:@([\w.-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MACHINES = {"x86_64": "x64", "aarch64": "arm64", "armv7l": "armhf"}
_SERVER, _CLI = "server.tar.gz", "cli.tar.gz"


def collect(wish: Wish, job: Collecting) -> Item:
    """Fetch extensions (`publisher.name[@version]`, a .vsix file or its URL) and servers (`server:COMMIT`)."""
    machine = _MACHINES.get(job.target.machine or "")
    if machine is None:
        raise SurvivedError(f"Cannot pack VS Code for '{job.target.machine}': there is none for that machine. Nothing was packed.")
    have_servers = job.inventory.servers if job.inventory is not None else []
    have = job.inventory.extensions if job.inventory is not None else []
    commits, extensions, omitted = [], [], []
    for word in wish.words:
        if word.startswith("server:"):
            commit = word.removeprefix("server:").lower()
            if not _COMMIT.fullmatch(commit):
                raise UsageError(
                    f"Cannot understand the commit '{commit}': it has 40 hex digits. Nothing was packed.", "See Help, About."
                )
            if commit in have_servers:
                omitted.append(f"server {commit}")
                continue
            _fetch_server(commit, machine, wish.option("updates", UPDATES), job)
            commits.append(commit)
            continue
        path = _fetch_extension(word, machine, wish.option("gallery", GALLERY), job)
        ident = _identity(path, word)
        if ident in have:
            os.unlink(path)
            omitted.append(ident)
        else:
            extensions.append({"id": ident, "file": os.path.basename(path)})
    facts = {"commits": commits, "extensions": extensions}
    return job.item("vscode", f"VS Code {', '.join(wish.words)}", Target(job.target.machine), facts, tuple(omitted))


def _fetch_server(commit: str, machine: str, base: str, job: Collecting) -> None:
    folder = os.path.join(job.folder, commit)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    for name, what in ((_SERVER, f"server-linux-{machine}"), (_CLI, f"cli-alpine-{machine}")):
        download(f"{base.rstrip('/')}/commit:{commit}/{what}/stable", os.path.join(folder, name), tell=job.tell)
        with open(os.path.join(folder, name), "rb") as file:
            if file.read(2) != b"\x1f\x8b":
                os.unlink(os.path.join(folder, name))
                raise SurvivedError(f"Cannot use what '{base}' sent for {what} of {commit}: it is no tar.gz. Nothing was packed.")


def _fetch_extension(word: str, machine: str, base: str, job: Collecting) -> str:
    os.makedirs(job.folder, mode=0o700, exist_ok=True)
    if word.endswith(".vsix"):
        url = word if "://" in word else f"file://{urllib.parse.quote(os.path.abspath(word))}"
        name = os.path.basename(urllib.parse.unquote(urllib.parse.urlsplit(url).path))
        if "://" not in word and not os.path.isfile(word):
            raise SurvivedError(f"Cannot read '{word}': there is no such file. Nothing was packed.")
        download(url, os.path.join(job.folder, name), tell=job.tell)
        return os.path.join(job.folder, name)
    match = _EXTENSION.fullmatch(word)
    if match is None:
        raise UsageError(f"Cannot understand '{word}': an extension looks like ms-python.python[@2024.2.0]. Nothing was packed.")
    publisher, name, version = match.groups()
    path = os.path.join(job.folder, f"{publisher}.{name}.vsix")
    url = f"{base.rstrip('/')}/_apis/public/gallery/publishers/{publisher}/vsextensions/{name}/{version or 'latest'}/vspackage"
    try:
        download(f"{url}?targetPlatform=linux-{machine}", path, tell=job.tell)
    except SurvivedError as error:
        if " says 404 " not in error.message:
            raise
        download(url, path, tell=job.tell)  # one package for all platforms
    return path


def _identity(path: str, word: str) -> str:
    """Return `publisher.name@version` of a VSIX by its own manifest."""
    try:
        with zipfile.ZipFile(path) as package, package.open("extension.vsixmanifest") as file:
            text = file.read(1 << 20)
        if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
            raise ValueError("entities")
        found = ET.fromstring(text).find(".//{*}Identity")  # noqa: S314  no entities are in it
        if found is None:
            raise ValueError("no identity")
        return f"{found.attrib['Publisher']}.{found.attrib['Id']}@{found.attrib['Version']}".lower()
    except (zipfile.BadZipFile, KeyError, ValueError, ET.ParseError) as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        raise SurvivedError(f"Cannot use what came for '{word}': it is no VSIX package. Nothing was packed.") from error


def fits(job: Installing) -> None:
    """Raise `Refused` for another machine, `SurvivedError` if extensions have nothing to install them."""
    platform.require(job.item.title, job.item.target, job.here)
    for found in job.item.facts.get("extensions", ()):
        if found["file"] not in job.files:
            raise SurvivedError(f"Cannot install '{found['id']}': its file is not in the bundle. Nothing was installed.")
    if job.item.facts.get("extensions") and not job.item.facts.get("commits") and _command(job) is None:
        raise SurvivedError(
            "Cannot install VS Code extensions: neither 'code' nor a VS Code server is here. Nothing was installed.",
            "Pack the server with them (--vscode-server COMMIT), or name it: --code PATH.",
        )


def install(job: Installing) -> Outcome:
    """Lay the servers where Remote-SSH looks for them, then have `code` or the server install the extensions."""
    commits = [str(commit) for commit in job.item.facts.get("commits", ())]
    for commit in commits:
        if not _COMMIT.fullmatch(commit):
            raise SurvivedError(f"Cannot install the VS Code server '{commit}': that is no commit.")
        _lay_server(commit, job)
    extensions = list(job.item.facts.get("extensions", ()))
    code = _command(job) if extensions else None
    for found in extensions:
        words = [str(code), "--install-extension", job.path(found["file"]), "--force"]
        words += ["--accept-server-license-terms"] if os.path.basename(str(code)) == "code-server" else []
        job.runner.run(words, log="vscode", doing=f"install '{found['id']}'", env={"TMPDIR": job.temporary()})
    said = [f"the server of {commit[:8]} is in {_home(job)}" for commit in commits] + [str(found["id"]) for found in extensions]
    return Outcome(
        job.item,
        f"{', '.join(said) or 'nothing was lacking'}",
        (("commits", commits), ("extensions", [e["id"] for e in extensions])),
    )


def _home(job: Installing) -> str:
    return os.path.join(job.home, ".vscode-server")


def _command(job: Installing) -> str | None:
    """Return what installs extensions: the one that was named, the newest server, or `code`."""
    if job.options.code is not None:
        return job.options.code
    found = sorted(_servers(_home(job)), key=os.path.getmtime)
    return found[-1] if found else job.runner.find("code") if job.runner.has("code") else None


def _servers(home: str) -> Iterator[str]:
    folder = os.path.join(home, "cli/servers")
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        path = os.path.join(folder, name, "server/bin/code-server")
        if os.access(path, os.X_OK):
            yield path


def _lay_server(commit: str, job: Installing) -> None:
    """Unpack a server to `cli/servers/Stable-COMMIT/server` and its command line to `code-COMMIT`; what is there is kept."""
    home = _home(job)
    os.makedirs(os.path.join(home, "cli/servers"), mode=0o700, exist_ok=True)
    os.makedirs(os.path.join(home, "bin"), mode=0o700, exist_ok=True)
    place = os.path.join(home, f"cli/servers/Stable-{commit}")
    if not os.path.isdir(os.path.join(place, "server")):
        os.makedirs(place, mode=0o700, exist_ok=True)
        _extract(job, f"{commit}/{_SERVER}", place, "server", strip=True)
    if not os.path.exists(os.path.join(home, f"code-{commit}")):
        _extract(job, f"{commit}/{_CLI}", home, f"code-{commit}", strip=False)
    old = os.path.join(home, "bin", commit)  # where an older Remote-SSH looks
    if not os.path.lexists(old):
        os.symlink(f"../cli/servers/Stable-{commit}/server", old)
    _remember(os.path.join(home, "cli/servers/lru.json"), f"Stable-{commit}")


def _extract(job: Installing, archive: str, folder: str, name: str, *, strip: bool) -> None:
    """Unpack a tar.gz beside its place, and give it its name when it is whole; a lone program is taken out of its folder."""
    fresh = f".{name}.partial"
    with fs.opened(folder, follow=True) as folder_fd:
        fs.remove_tree(folder_fd, fresh, lambda _count: None)
        os.mkdir(fresh, 0o700, dir_fd=folder_fd)
        path = os.path.join(folder, fresh)
        words = ["tar", "-xzf", job.path(archive), "-C", path, "--no-same-owner", *(["--strip-components=1"] if strip else [])]
        job.runner.run(words, log="vscode", doing="unpack VS Code's server")
        if strip:
            fs.place(folder_fd, fresh, name)
            return
        (program,) = os.listdir(path)[:1] or ("",)
        with fs.opened(fresh, dir_fd=folder_fd) as inner_fd:
            fs.rename_new(inner_fd, program, folder_fd, name)
        fs.remove_tree(folder_fd, fresh, lambda _count: None)


def _remember(path: str, name: str) -> None:
    """Put a server first in the list by which VS Code's command line throws the oldest away."""
    listed: list[str] = []
    with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
        listed = [str(found) for found in json.load(file)]
    fs.write_file(path, json.dumps([name, *(found for found in listed if found != name)]).encode(), 0o600)
