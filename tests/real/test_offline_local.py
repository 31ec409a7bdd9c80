"""Kinds whose sources are no registry of this machine: VS Code and conda, against local servers that speak their protocol."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.real.test_offline import Alice
from tests.rig.channel import make_channel
from tests.rig.disks import mounted
from tests.rig.index import _Handler, served

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CODE = """#!/bin/sh
# As code-server does: installs into ~/.vscode-server/extensions, and says so.
[ "$1" = --install-extension ] || exit 2
mkdir -p "$HOME/.vscode-server/extensions" && cp "$2" "$HOME/.vscode-server/extensions/"
echo "Extension '$2' was successfully installed."
"""


@pytest.fixture
def alice(needs_root_mounts: None, tmp_path: Path) -> Iterator[Alice]:
    """Yield Alice with a data disk."""
    with mounted(tmp_path, "data", "200M") as disk:
        yield Alice(tmp_path, disk)


# ---- VS Code --------------------------------------------------------------------------------------------------------


def tgz(files: dict[str, tuple[str, int]]) -> bytes:
    """Return a tar.gz of texts with their modes."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, (text, mode) in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(text.encode()), mode
            archive.addfile(info, io.BytesIO(text.encode()))
    return packed.getvalue()


def vsix(publisher: str, name: str, version: str) -> bytes:
    """Return a VSIX package with the manifest that real ones have."""
    identity = f'<Identity Language="en-US" Id="{name}" Version="{version}" Publisher="{publisher}"/>'
    schema = "http://schemas.microsoft.com/developer/vsx-schema/2011"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(
            "extension.vsixmanifest",
            f'<PackageManifest Version="2.0.0" xmlns="{schema}"><Metadata>{identity}</Metadata></PackageManifest>',
        )
        archive.writestr("extension/package.json", json.dumps({"publisher": publisher, "name": name, "version": version}))
    return packed.getvalue()


@contextmanager
def microsoft() -> Iterator[str]:
    """Serve as the update service (which redirects) and the gallery (which packs what it sends) do; the value is the base."""
    gallery = "/_apis/public/gallery/publishers/team/vsextensions"
    answers = {
        "/dl/server": tgz(
            {"vscode-server-linux-x64/bin/code-server": (CODE, 0o755), "vscode-server-linux-x64/node": ("node", 0o755)}
        ),
        "/dl/cli": tgz({"code": ("#!/bin/sh\necho cli\n", 0o755)}),
        f"{gallery}/tool/1.2.3/vspackage": vsix("team", "tool", "1.2.3"),
        f"{gallery}/web/1.0.0/vspackage": b"<html>we are down</html>",
        f"{gallery}/zip/1.0.0/vspackage": b"PK no zip",
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer."""
            path = self.path.partition("?")[0]
            for what, to in (("server-linux-x64", "/dl/server"), ("cli-alpine-x64", "/dl/cli")):
                if path == f"/commit:{COMMIT}/{what}/stable":
                    self.send_response(302)
                    self.send_header("Location", to)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
            body = answers.get(path, b"")
            if "targetPlatform" in self.path and path.endswith("/tool/1.2.3/vspackage"):
                body = b""  # there is one package for all platforms only
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "text/html" if body.startswith(b"<html") else "application/octet-stream")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with served(Handler) as port:
        yield f"http://127.0.0.1:{port}"


def test_vscode(alice: Alice) -> None:
    """Server and command line lie where Remote-SSH looks for this commit, and the server installs the extension."""
    with microsoft() as base:
        where = ("--gallery", base, "--vscode-updates", base)
        bundle, said = alice.pack("--vscode-server", COMMIT, "--vsix", "team.tool@1.2.3", *where)
        assert said["files"] == 3
        for name, why in (("team.web", "web page"), ("team.zip", "no VSIX"), ("team.none", "404")):
            error = alice.ctl("pack", "--vsix", f"{name}@1.0.0", *where, "-o", "no.tar.zst", rc=1)["error"]
            assert why in error["message"]
    done = alice.install(bundle)
    server = alice.home / ".vscode-server"
    assert (server / f"cli/servers/Stable-{COMMIT}/server/node").read_text() == "node"
    assert (server / f"bin/{COMMIT}/bin/code-server").read_text() == CODE
    assert json.loads((server / "cli/servers/lru.json").read_text()) == [f"Stable-{COMMIT}"]
    assert alice.run(server / f"code-{COMMIT}").stdout == "cli\n"
    assert (server / "extensions/team.tool.vsix").exists()
    assert "successfully installed" in Path(done["path"], "logs/vscode.log").read_text()
    alice.install(bundle)  # again: what is there is kept
    (server / "extensions/team.tool-1.2.3").mkdir()
    (server / "extensions/team.tool-1.2.3/package.json").write_text('{"publisher": "team", "name": "tool", "version": "1.2.3"}')
    alice.ctl("inventory", "-o", "there.json", online=False)
    with microsoft() as base:
        where = ("--gallery", base, "--vscode-updates", base)
        _, said = alice.pack("--vscode-server", COMMIT, "--vsix", "team.tool@1.2.3", "--inventory", "there.json", *where)
    assert said["items"][0]["omitted"] == ["team.tool@1.2.3", f"server {COMMIT}"]


def test_vsix_files_and_no_code(alice: Alice) -> None:
    """A VSIX file of one's own; without `code` and without a server it is refused before anything is unpacked."""
    (alice.folder / "mine.vsix").write_bytes(vsix("me", "mine", "0.1.0"))
    bundle, _ = alice.pack("mine.vsix")
    empty = alice.folder / "bin"
    empty.mkdir()
    for tool in ("unshare", "sh", "mkdir", "cp"):
        (empty / tool).symlink_to(str(shutil.which(tool)))
    error = alice.install(bundle, rc=1, PATH=str(empty))["error"]
    assert "neither 'code' nor a VS Code server is here" in error["message"]
    assert not (alice.disk.path / "alice/survived/offline").exists() or os.listdir(alice.disk.path / "alice/survived/offline") == []
    (empty / "code").write_text(CODE)
    (empty / "code").chmod(0o755)
    alice.install(bundle, PATH=str(empty))
    assert (alice.home / ".vscode-server/extensions/mine.vsix").exists()


# ---- conda ----------------------------------------------------------------------------------------------------------

STAND_IN = """#!{python}
# A stand-in for conda, which no registry of this machine has: takes an explicit list of file: URLs, offline, into a prefix.
import hashlib, json, pathlib, sys, tarfile, urllib.parse
words = sys.argv[1:]
assert words[0] in ("create", "install") and words[1:3] == ["--offline", "-y"], words
prefix, listed = pathlib.Path(words[words.index("-p") + 1]), pathlib.Path(words[words.index("--file") + 1])
lines = listed.read_text().split()
assert lines[0] == "@EXPLICIT", lines
for line in lines[1:]:
    url, _, md5 = line.partition("#")
    path = pathlib.Path(urllib.parse.unquote(url.removeprefix("file://")))
    assert hashlib.md5(path.read_bytes()).hexdigest() == md5, line
    with tarfile.open(path) as package:
        package.extractall(prefix)
    (prefix / "conda-meta").mkdir(exist_ok=True)
    (prefix / "info/index.json").rename(prefix / "conda-meta" / path.name.replace(".tar.bz2", ".json"))
    print("installed", path.name)
"""


@pytest.fixture
def conda(tmp_path: Path) -> str:
    """Return a PATH with a conda: the real one where there is one, else a stand-in that does what an explicit list says."""
    if (found := shutil.which("conda")) is not None:
        return os.path.dirname(found)
    folder = tmp_path / "conda-bin"
    folder.mkdir()
    (folder / "conda").write_text(STAND_IN.format(python=sys.executable))
    (folder / "conda").chmod(0o755)
    return str(folder)


def test_conda_packages(alice: Alice, conda: str) -> None:
    """Packages of a channel by an explicit list, with their sums; conda installs them offline into a prefix it makes."""
    channel = alice.folder / "channel"
    made = make_channel(channel, {"alpha": {"share/alpha": b"a" * 2000}, "beta": {"share/beta": b"b"}}, {"beta": ["alpha"]})
    with served(partial(_Handler, directory=str(channel))) as port:
        base = f"http://127.0.0.1:{port}"
        listed = alice.folder / "explicit.txt"
        listed.write_text("# platform: linux-64\n@EXPLICIT\n" + "".join(f"{base}/{line}\n" for line in made))
        bundle, said = alice.pack("--conda", listed)
        assert said["files"] == 2
        listed.write_text(f"@EXPLICIT\n{base}/{made[0].partition('#')[0]}#{'0' * 32}\n")
        error = alice.ctl("pack", "--conda", listed, "-o", "no.tar.zst", rc=1)["error"]
        assert "its checksum is not md5:000" in error["message"]
    path = f"{conda}:{alice.env['PATH']}"
    assert alice.install(bundle, PATH=path, rc=2)["error"]["hint"] == "Say --conda-prefix DIR."
    prefix = alice.disk.path / "env"
    done = alice.install(bundle, "--conda-prefix", prefix, PATH=path)
    assert (prefix / "share/alpha").read_bytes() == b"a" * 2000
    assert (prefix / "share/beta").read_bytes() == b"b"
    assert "--offline" in Path(done["path"], "logs/conda.log").read_text()


def test_a_packed_environment(alice: Alice, conda: str) -> None:
    """conda-pack takes a whole environment; it is unpacked to a new prefix, and never over something."""
    target = alice.folder / "lib"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--target", target, "conda-pack", "setuptools<81"]
    if subprocess.run(pip, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs conda-pack from PyPI")
    tool = alice.folder / "bin/conda-pack"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nPYTHONPATH={target} exec {sys.executable} -W ignore -m conda_pack.cli "$@"\n')
    tool.chmod(0o755)
    env = alice.folder / "env"
    (env / "conda-meta").mkdir(parents=True)
    (env / "share").mkdir()
    (env / "share/alpha").write_bytes(b"alpha")
    (env / "conda-meta/history").write_text("")
    about = {
        "name": "alpha", "version": "1.0", "build": "0", "build_number": 0, "files": ["share/alpha"], "channel": "x",
        "paths_data": {"paths": [{"_path": "share/alpha", "path_type": "hardlink"}]},
        "url": "https://x/noarch/alpha-1.0-0.tar.bz2", "link": {"source": "/nowhere", "type": 1},
    }  # fmt: skip
    (env / "conda-meta/alpha-1.0-0.json").write_text(json.dumps(about))
    bundle, said = alice.pack("--conda-env", env, PATH=f"{tool.parent}:{alice.env['PATH']}")
    assert said["items"][0]["title"] == "environment env"
    there = alice.disk.path / "there"
    there.mkdir()
    (there / "mine").touch()
    assert "it is not empty" in alice.install(bundle, "--conda-prefix", there, rc=1)["error"]["message"]
    (there / "mine").unlink()
    alice.install(bundle, "--conda-prefix", there)
    assert (there / "share/alpha").read_bytes() == b"alpha"
    assert (there / "bin/conda-unpack").exists()
