"""
npm packages of a package-lock.json: fetched by npm itself into a cache that `npm ci --offline` takes them from.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

from survived.errors import SurvivedError, UsageError
from survived.offline import platform, space
from survived.offline.job import Collecting, Installing, Outcome, Wish
from survived.offline.manifest import Item, Target

if TYPE_CHECKING:
    from collections.abc import Iterator

_CPU = {
    "x86_64": "x64",
    "aarch64": "arm64",
    "ppc64le": "ppc64",
    "s390x": "s390x",
    "armv7l": "arm",
    "riscv64": "riscv64",
    "i686": "ia32",
}
_QUIET = ("--no-audit", "--no-fund", "--no-update-notifier")
_FILES = ("package.json", "package-lock.json")


def collect(wish: Wish, job: Collecting) -> Item:
    """Fill a cache with what a project's lock file names, for the target's machine; scripts of packages are not run."""
    project = _project(wish.words)
    work = os.path.join(job.scratch, "project")
    cache = os.path.join(job.folder, "cache")
    os.makedirs(work, exist_ok=True)
    for name in (*_FILES, ".npmrc"):
        if os.path.isfile(os.path.join(project, name)):
            shutil.copyfile(os.path.join(project, name), os.path.join(work, name))
            if name in _FILES:  # .npmrc has tokens
                shutil.copyfile(os.path.join(project, name), os.path.join(job.folder, name))
    machine = job.target.machine or platform.here().machine or ""
    where = ["--os=linux", f"--cpu={_CPU.get(machine, machine)}", "--libc=glibc"]
    words = [job.runner.find("npm"), "ci", "--ignore-scripts", *_QUIET, "--cache", cache, *where]
    kept = "What came is kept: the same command goes on."
    env = {"TMPDIR": job.temporary()}
    job.runner.run(words, log="npm", doing=f"collect the packages of '{project}'", cwd=work, env=env, kept=kept)
    native = any(name.endswith(".node") for _, _, files in os.walk(os.path.join(work, "node_modules")) for name in files)
    count = sum(1 for path in _locked(project) if path)
    shutil.rmtree(os.path.join(work, "node_modules"), ignore_errors=True)
    for name in os.listdir(cache):
        if name != "_cacache":
            shutil.rmtree(os.path.join(cache, name), ignore_errors=True) if os.path.isdir(os.path.join(cache, name)) else os.unlink(
                os.path.join(cache, name)
            )
    shutil.rmtree(os.path.join(cache, "_cacache/tmp"), ignore_errors=True)
    target = Target(machine if native else None)
    return job.item("npm", f"npm packages of {os.path.basename(project)}", target, {"count": count})


def _project(words: tuple[str, ...]) -> str:
    """Return the folder of the project, once it has what `npm ci` needs and nothing that a cache cannot hold."""
    (word,) = words
    project = os.path.abspath(word if os.path.isdir(word) else os.path.dirname(word) or ".")
    if os.path.basename(word) not in _FILES and not os.path.isdir(word):
        raise UsageError(f"Cannot understand '{word}': name a package-lock.json or its folder. Nothing was packed.")
    for name in _FILES:
        if not os.path.isfile(os.path.join(project, name)):
            raise SurvivedError(
                f"Cannot read '{project}/{name}': there is no such file. Nothing was packed.", "Make it: npm install."
            )
    if odd := next((path for path, found in _locked(project).items() if found.get("link")), None):
        raise SurvivedError(
            f"Cannot pack '{project}': '{odd}' is a folder of its own, not a package of a registry. Nothing was packed."
        )
    return project


def _locked(project: str) -> dict[str, dict[str, object]]:
    path = os.path.join(project, "package-lock.json")
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)["packages"]
        return {str(name): dict(facts) for name, facts in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SurvivedError(f"Cannot read '{path}': it is no lock file of npm 7 or newer. Nothing was packed.") from error


def fits(job: Installing) -> None:
    """Raise `Refused` for another machine, `SurvivedError` without npm or without a project to install into."""
    platform.require(job.item.title, job.item.target, job.here)
    job.runner.find("npm")
    project = job.options.project
    if project is None:
        raise UsageError(
            "Cannot install npm packages: no project was named. Nothing was installed.", "Say where it is: --project DIR."
        )
    for name in _FILES:
        path = os.path.join(project, name)
        if not os.path.isfile(path):
            raise SurvivedError(
                f"Cannot read '{path}': there is no such file. Nothing was installed.", "Copy the project there first."
            )


def check(job: Installing) -> None:
    """Raise `SurvivedError` if the project's lock file is another than the one that was packed."""
    project = str(job.options.project)
    with open(os.path.join(project, _FILES[1]), "rb") as here, open(job.path(_FILES[1]), "rb") as packed:
        if here.read() != packed.read():
            why = "it is another than the one that was packed"
            raise SurvivedError(
                f"Cannot use '{project}/{_FILES[1]}': {why}. Nothing was installed.", f"The one that was packed: {job.folder}."
            )


def install(job: Installing) -> Outcome:
    """Run `npm ci --offline` in the project; the cache is used where it was unpacked."""
    project = os.path.abspath(job.options.project or ".")
    space.require(project, sum(_sizes(job.path("cache"))) * 4, "install npm packages to")  # node_modules is unpacked
    words = [job.runner.find("npm"), "ci", "--offline", *_QUIET, "--cache", job.path("cache")]
    env = {"TMPDIR": job.temporary()}
    job.runner.run(
        words, log="npm", doing=f"install the {job.item.title}", cwd=project, env=env, kept="The unpacked bundle is kept."
    )
    return Outcome(job.item, f"{job.item.facts.get('count')} npm packages are installed in {project}", (("project", project),))


def _sizes(folder: str) -> Iterator[int]:
    for place, _, names in os.walk(folder):
        yield from (os.path.getsize(os.path.join(place, name)) for name in names)
