"""The rooms of the house import only what design.md permits, and each outside library has its single user."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import survived

HOUSE = Path(survived.__file__).parent
WORDS = {"terms", "model", "findings", "errors", "events", "units"}
ROOMS = {*WORDS, "settings", "observe", "decide", "store", "act", "offline", "mirrors", "tell"}
SHARED = {
    "machine",
    "errands",
    "purges",
    "growth",
    "levels",
    "lookout",
    "meters",
    "orphans",
    "post",
    "postman",
    "readings",
    "records",
    "keepsakes",
    "redirected",
    "redirects",
    "schemes",
    "signals",
    "standins",
    "troubles",
    "upstreams",
    "worker",
}  # what the daemon and survivectl do alike, above the rooms
EVERYTHING = {*ROOMS, *SHARED, "ctl", "daemon", "deeds", "guard", "requests", "storekeeper", "mirrorwatch"}
MAY_IMPORT = {
    "terms": WORDS,
    "model": WORDS,
    "findings": WORDS,
    "errors": WORDS,
    "events": WORDS,
    "units": WORDS,
    "settings": WORDS,
    "observe": WORDS,
    "decide": WORDS,
    "store": WORDS,
    "act": WORDS | {"observe", "store"},
    "offline": WORDS | {"act.edits", "act.fs", "store"},  # fs: unpacking renames, and works by open directories
    "mirrors": WORDS | {"act.edits"},
    "tell": WORDS | {"store"},
    "machine": ROOMS | SHARED,
    "errands": ROOMS | SHARED,
    "purges": ROOMS | SHARED,
    "growth": ROOMS | SHARED,
    "orphans": ROOMS | SHARED,
    "readings": ROOMS | SHARED,
    "records": ROOMS | SHARED,
    "keepsakes": ROOMS | SHARED,
    "redirected": ROOMS | SHARED,
    "redirects": ROOMS | SHARED,
    "schemes": ROOMS | SHARED,
    "standins": ROOMS | SHARED,
    "troubles": WORDS,
    "upstreams": ROOMS | SHARED,
    "levels": ROOMS | SHARED,
    "lookout": WORDS,
    "meters": ROOMS | SHARED,
    "signals": set(),
    "post": ROOMS | SHARED,
    "postman": ROOMS | SHARED,
    "worker": ROOMS | SHARED,
    "ctl": EVERYTHING - {"daemon"},
    "daemon": EVERYTHING,
    "guard": EVERYTHING,
    "mirrorwatch": EVERYTHING,
    "deeds": EVERYTHING,
    "requests": EVERYTHING,
    "storekeeper": EVERYTHING,
    "__main__": EVERYTHING,
    "__init__": set(),
}
SINGLE_USERS = {
    "pydantic": {"settings/config.py"},
    "pydantic_settings": {"settings/config.py"},
    "psutil": {"observe/disks.py", "observe/holders.py"},
    "pyinotify": {"observe/watch.py"},
    "requests": {"mirrors/fetch.py", "tell/deliver.py"},
    "sqlite3": {"store/database.py"},
    "apprise": {"tell/deliver.py"},
    "PIL": {"tell/picture.py"},
    "ctypes": {"act/fs.py", "observe/quota.py"},  # the second only asks: no library of ours has quotactl
}
RENAMERS = {"rename", "renames", "renameat2"}  # on os or on a path; `replace` is a method of str, too
PURE_ROOMS = {"decide", *WORDS}
PURE_MODULES = {
    "__future__", "bisect", "collections", "dataclasses", "datetime", "enum", "functools", "heapq", "itertools",
    "math", "operator", "re", "shlex", "statistics", "string", "survived", "typing",
}  # fmt: skip
IMPURE_NAMES = {"open", "print", "input", "exec", "eval", "compile", "__import__", "breakpoint"}
IMPURE_METHODS = {"now", "today", "utcnow"}  # of datetime and date: the clock


def imports(tree: ast.AST, path: str) -> set[str]:
    """Return the dotted names that a file imports, absolute, wherever in the file the import stands."""
    package = ["survived", *path.split("/")[:-1]]
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and _called(node) in {"import_module", "__import__"}:
            names |= {str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant)}
    return names


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def violations(path: str, source: str) -> list[str]:
    """Return what a file of the house, given by its path below `survived/`, does that its room may not."""
    tree = ast.parse(source)
    room = path.split("/")[0].removesuffix(".py")
    found = []
    for name in sorted(imports(tree, path)):
        top, _, rest = name.partition(".")
        if top in SINGLE_USERS and path not in SINGLE_USERS[top]:
            found.append(f"imports {name}")
        if room in PURE_ROOMS and top not in PURE_MODULES:
            found.append(f"is pure and imports {name}")
        if top == "survived" and not _may_import(room, rest):
            found.append(f"imports {name}")
    return found + _acts(tree, path, pure=room in PURE_ROOMS)


def _may_import(room: str, name: str) -> bool:
    """Tell whether a room may import `survived.NAME`; its own room and the version always."""
    target = name.split(".")[0]
    if not target or target == room or target.startswith("__"):
        return True
    return any(name == allowed or name.startswith(allowed + ".") for allowed in MAY_IMPORT.get(room, ()))


def _acts(tree: ast.AST, path: str, *, pure: bool) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if path != "act/fs.py":
            if isinstance(node, ast.Attribute) and (node.attr in RENAMERS or (ast.unparse(node) in {"os.replace", "shutil.move"})):
                found.append(f"renames: {ast.unparse(node)}")
            if isinstance(node, ast.ImportFrom) and node.module in {"os", "shutil"}:
                found += [f"renames: {a.name}" for a in node.names if a.name in {*RENAMERS, "replace", "move"}]
        if pure and isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in IMPURE_NAMES:
                found.append(f"is pure and calls {node.func.id}")
            if isinstance(node.func, ast.Attribute) and node.func.attr in IMPURE_METHODS:
                found.append(f"is pure and calls {ast.unparse(node.func)}")
    return found


FILES = sorted(str(path.relative_to(HOUSE)) for path in HOUSE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES)
def test_a_file_keeps_to_its_room(path: str) -> None:
    """Every file of the house imports and does only what its room may."""
    assert violations(path, (HOUSE / path).read_text(encoding="utf-8")) == []


def test_the_house_was_found() -> None:
    """The test above reads all rooms that stand, each of them has a row in the table, and pure rooms are among them."""
    rooms = {path.split("/")[0].removesuffix(".py") for path in FILES}

    assert rooms <= set(MAY_IMPORT)
    assert {"decide", "store", "model", "errors", "units"} <= rooms
    assert {"decide/policy.py", "decide/pressure.py", "decide/notices.py", "decide/forecast.py"} <= set(FILES)
    users = sorted(set().union(*SINGLE_USERS.values()))
    assert [user for user in users if user not in FILES] == []


def test_survivectl_never_loads_the_daemon() -> None:
    """Importing all of ctl and what it may import loads no daemon, not even through a module in between."""
    names = [f"survived.{path.removesuffix('.py').replace('/', '.')}" for path in FILES if path.startswith("ctl/")]
    names = [*names, "survived.requests", "survived.errands"]
    code = f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\nprint('survived.daemon' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=HOUSE.parent, capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("False\n", "")


@pytest.mark.parametrize(
    ("path", "source", "word"),
    [
        ("decide/x.py", "from survived.store import journal", "imports survived.store.journal"),
        ("decide/x.py", "import os", "is pure and imports os"),
        ("decide/x.py", "def f():\n    from time import time", "is pure and imports time.time"),
        ("decide/x.py", "import logging", "is pure and imports logging"),
        ("decide/x.py", "import random", "is pure and imports random"),
        ("decide/x.py", "open('/etc/passwd')", "is pure and calls open"),
        ("decide/x.py", "import datetime\ndatetime.datetime.now()", "is pure and calls datetime.datetime.now"),
        ("model.py", "from pathlib import Path", "is pure and imports pathlib.Path"),
        ("units.py", "from survived.settings.paths import Paths", "imports survived.settings.paths.Paths"),
        ("settings/x.py", "from survived.observe import disks", "imports survived.observe.disks"),
        ("settings/catalog.py", "from pydantic import BaseModel", "imports pydantic.BaseModel"),
        ("observe/tree.py", "import psutil", "imports psutil"),
        ("observe/x.py", "from ..act import fs", "imports survived.act.fs"),
        ("observe/disks.py", "import pyinotify", "imports pyinotify"),
        ("store/journal.py", "import sqlite3", "imports sqlite3"),
        ("store/x.py", "from survived.decide.forecast import Sample", "imports survived.decide.forecast.Sample"),
        ("act/x.py", "from survived import decide", "imports survived.decide"),
        ("act/x.py", "import ctypes", "imports ctypes"),
        ("act/x.py", "import os\nos.rename('a', 'b')", "renames: os.rename"),
        ("store/x.py", "import os\nos.replace('a', 'b')", "renames: os.replace"),
        ("ctl/x.py", "from os import replace", "renames: replace"),
        ("ctl/x.py", "import pathlib\npathlib.Path('a').rename('b')", "renames: pathlib.Path('a').rename"),
        ("ctl/x.py", "import shutil\nshutil.move('a', 'b')", "renames: shutil.move"),
        ("offline/x.py", "from survived.act import relocate", "imports survived.act.relocate"),
        ("tell/x.py", "from survived.observe.disks import read_filesystem", "imports survived.observe.disks.read_fil"),
        ("tell/control.py", "import apprise.common", "imports apprise.common"),
        ("ctl/x.py", "from survived import daemon", "imports survived.daemon"),
        ("ctl/x.py", "import survived.daemon", "imports survived.daemon"),
        ("errands.py", "from survived.daemon import Daemon", "imports survived.daemon.Daemon"),
        ("act/x.py", "from survived.machine import Machine", "imports survived.machine.Machine"),
        ("ctl/x.py", "import importlib\nimportlib.import_module('survived.daemon')", "imports survived.daemon"),
    ],
)  # fmt: skip
def test_a_bad_file_is_caught(path: str, source: str, word: str) -> None:
    """Each rule sees the source text that breaks it, so none of them passes by looking away."""
    assert [item for item in violations(path, source) if item.startswith(word)]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("decide/x.py", "from survived.decide.pressure import step\nfrom survived.units import print_bytes\nimport re"),
        ("decide/x.py", "'a'.replace('b', 'c')\nfrom dataclasses import replace"),
        ("settings/config.py", "import pydantic\nfrom pydantic_settings import BaseSettings"),
        ("observe/holders.py", "import os, time, psutil"),
        ("act/fs.py", "import ctypes, os\nos.rename('a', 'b')\nos.replace('a', 'b')"),
        ("act/x.py", "from survived.observe import tree\nfrom survived.store.journal import Journal"),
        ("offline/x.py", "from survived.act import edits\nfrom survived.act.edits import undo"),
        ("ctl/x.py", "from survived.act import relocate\nfrom survived import __version__"),
        ("daemon.py", "from survived.ctl import main"),
    ],
)
def test_a_good_file_is_let_through(path: str, source: str) -> None:
    """What the table permits is not complained about."""
    assert violations(path, source) == []
