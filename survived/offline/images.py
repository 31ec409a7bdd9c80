"""
Docker images: saved by the Docker of one machine, loaded by that of another.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

from survived.errors import SurvivedError, UsageError
from survived.offline import platform, space
from survived.offline.job import Collecting, Installing, Outcome, Wish
from survived.offline.manifest import Item, Target

if TYPE_CHECKING:
    from survived.offline.command import Runner

_REFERENCE = re.compile(r"[a-z0-9][\w./:@-]*")
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "386": "i686", "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64"}
_ARCHIVE = "images.tar"


def collect(wish: Wish, job: Collecting) -> Item:
    """Save images in one archive, so that layers they share are there once; those that are not here are pulled first."""
    docker = job.runner.find("docker")
    _daemon(job.runner, docker)
    found: dict[str, str] = {}
    machine = job.target.machine or ""
    for word in wish.words:
        if not _REFERENCE.fullmatch(word):
            raise UsageError(f"Cannot understand '{word}': an image looks like python:3.11-slim. Nothing was packed.")
        about = _inspect(job.runner, docker, word)
        if about is None:
            name = next((name for name, ours in _MACHINES.items() if ours == machine), machine)
            job.runner.run(
                [docker, "pull", "-q", "--platform", f"linux/{name}", word], log="images", doing=f"pull the image '{word}'"
            )
            about = _inspect(job.runner, docker, word)
        if about is None:
            raise SurvivedError(f"Cannot find the image '{word}': it was pulled and is not here. Nothing was packed.")
        if (theirs := _MACHINES.get(about["Architecture"], about["Architecture"])) != machine:
            raise SurvivedError(
                f"Cannot pack the image '{word}': it is for {theirs}, and the target is {machine}. Nothing was packed."
            )
        found[word] = about["Id"]
    have = set(job.inventory.images) if job.inventory is not None else set()
    wanted = [word for word, ident in found.items() if ident not in have]
    if wanted:
        space.require(job.folder, sum(_size(job.runner, docker, word) for word in wanted), "save images to")
        path = os.path.join(job.folder, _ARCHIVE)
        job.runner.run([docker, "save", "-o", path, *wanted], log="images", doing=f"save the images {', '.join(wanted)}")
    title = f"images {', '.join(found)}"
    return job.item("images", title, Target(machine), {"images": found}, tuple(word for word in found if word not in wanted))


def _daemon(runner: Runner, docker: str) -> str:
    """Return where the daemon keeps its images; `SurvivedError` if it does not answer."""
    try:
        return runner.ask([docker, "info", "-f", "{{.DockerRootDir}}"], doing="ask the Docker daemon", limit=30.0).strip()
    except SurvivedError as error:
        raise SurvivedError(f"{error.message} Nothing was changed.", "Is it running, and are you in the group docker?") from error


def _inspect(runner: Runner, docker: str, word: str) -> dict[str, str] | None:
    try:
        said = runner.ask([docker, "image", "inspect", "-f", "{{json .}}", word], doing=f"find the image '{word}'")
    except SurvivedError:
        return None
    return dict(json.loads(said.splitlines()[0]))


def _size(runner: Runner, docker: str, word: str) -> int:
    about = _inspect(runner, docker, word) or {}
    return int(about.get("Size", 0))


def fits(job: Installing) -> None:
    """Raise `Refused` for another machine, `SurvivedError` without a Docker daemon."""
    platform.require(job.item.title, job.item.target, job.here)
    _daemon(job.runner, job.runner.find("docker"))


def install(job: Installing) -> Outcome:
    """Load the images, and look that each is the one that was saved."""
    docker = job.runner.find("docker")
    images: dict[str, str] = dict(job.item.facts.get("images", {}))
    path, root = job.path(_ARCHIVE), _daemon(job.runner, docker)
    if os.path.exists(path):
        if os.path.isdir(root):
            space.require(root, os.path.getsize(path), "load images to")
        env = {"TMPDIR": job.temporary()}
        job.runner.run(
            [docker, "load", "-i", path], log="images", doing=f"load the {job.item.title}", env=env, kept="The bundle is kept."
        )
    for word, ident in images.items():
        if (about := _inspect(job.runner, docker, word)) is None or about["Id"] != ident:
            why = "it is not there" if about is None else "it is another than the one that was packed"
            raise SurvivedError(f"Cannot use the image '{word}': {why}, after all were loaded.", f"See {job.runner.log('images')}.")
    return Outcome(job.item, f"the {job.item.title} are in Docker", (("images", sorted(images)),))
