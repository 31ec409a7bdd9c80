"""
Debian packages with all they depend on: chosen and fetched by apt for the target's own dpkg status, installed by apt-get.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from survived.errors import Refused, SurvivedError, UsageError
from survived.offline import inventory, platform, space
from survived.offline.job import Collecting, Installing, Outcome, Wish
from survived.offline.manifest import Item, Target
from survived.terms import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

ARCHITECTURES = {
    "x86_64": "amd64", "aarch64": "arm64", "i686": "i386", "armv7l": "armhf", "ppc64le": "ppc64el", "s390x": "s390x",
    "riscv64": "riscv64",
}  # fmt: skip
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?(=[\w.+~:-]+)?")
_NO_INDEX = ("Dir::Etc::sourcelist=/dev/null", "Dir::Etc::sourceparts=/dev/null", "APT::Sandbox::User=root")
_LOCK_SECONDS = 60


def collect(wish: Wish, job: Collecting) -> Item:
    """Download packages and what they need and the target lacks; without an inventory that is everything down to libc."""
    if bad := next((word for word in wish.words if not _NAME.fullmatch(word)), None):
        raise UsageError(f"Cannot understand '{bad}': a package looks like jq or jq=1.6-2.1. Nothing was packed.")
    apt, system = job.runner.find("apt-get"), inventory.read_system()
    if job.inventory is not None and job.inventory.system != system:
        why = f"the target is {job.inventory.system or 'of another kind'}, and the packages here are those of {system}"
        raise Refused(
            Reason.OTHER_PLATFORM, f"Cannot collect packages: {why}. Nothing was packed.", "Pack them on a machine like the target."
        )
    options = _options(job)
    fresh = [apt, *options, "install", "-y", "-qq", "--no-install-recommends", "--download-only", *wish.words]
    kept = "What came is kept: the same command goes on."
    job.runner.run(
        fresh, log="debs", doing=f"collect the packages {', '.join(wish.words)}", env={"TMPDIR": job.temporary()}, kept=kept
    )
    for name in os.listdir(job.folder):
        if not name.endswith(".deb"):
            _remove(os.path.join(job.folder, name))
    found = {name: _about(job, os.path.join(job.folder, name)) for name in sorted(os.listdir(job.folder))}
    if not found and (job.inventory is None or not job.inventory.dpkg):
        raise SurvivedError(f"Cannot collect the packages {', '.join(wish.words)}: apt found nothing to fetch. Nothing was packed.")
    asked = [word.partition("=")[0].partition(":")[0] for word in wish.words]
    omitted = tuple(name for name in asked if name not in {about["Package"] for about in found.values()})
    facts = {"system": system, "asked": asked, "packages": found}
    title = f"packages {', '.join(asked)} with what they need" if len(found) > len(asked) else f"packages {', '.join(asked)}"
    return job.item("debs", title, Target(job.target.machine), facts, omitted)


def _options(job: Collecting) -> list[str]:
    """Return what makes apt work for the target, with its files below our own folders and without a lock."""
    machine = job.target.machine or platform.here().machine or ""
    if machine not in ARCHITECTURES:
        raise SurvivedError(
            f"Cannot collect packages: Debian has no name for the machine '{machine}' that we know. Nothing was packed."
        )
    status, cache = os.path.join(job.scratch, "status"), os.path.join(job.scratch, "apt")
    os.makedirs(os.path.join(job.folder, "partial"), exist_ok=True)
    os.makedirs(os.path.join(cache, "archives", "partial"), exist_ok=True)
    with open(status, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(job.inventory.dpkg if job.inventory is not None else "")
    pairs = (
        f"Dir::State::status={status}",
        f"Dir::State::extended_states={job.scratch}/extended",
        f"Dir::Cache={cache}",
        f"Dir::Cache::archives={job.folder}",
        f"APT::Architecture={ARCHITECTURES[machine]}",
        f"APT::Architectures={ARCHITECTURES[machine]}",
        "APT::Sandbox::User=root",
        "Debug::NoLocking=true",
        "Acquire::Retries=3",
    )
    return [word for pair in pairs for word in ("-o", pair)]


def _remove(path: str) -> None:
    if os.path.isdir(path):
        for name in os.listdir(path):
            os.unlink(os.path.join(path, name))
        os.rmdir(path)
    else:
        os.unlink(path)


def _about(job: Collecting, path: str) -> dict[str, str]:
    said = job.runner.ask(["dpkg-deb", "-f", path, "Package", "Version", "Architecture", "Installed-Size"], doing=f"read '{path}'")
    return dict(line.split(": ", 1) for line in said.splitlines() if ": " in line)


def fits(job: Installing) -> None:
    """Raise `Refused` for another release or machine, `SurvivedError` without apt or without root."""
    platform.require(job.item.title, job.item.target, job.here)
    packed, system = str(job.item.facts.get("system")), inventory.read_system()
    if packed != system:
        why = f"they are of {packed}, and this machine is {system or 'of another kind'}"
        raise Refused(Reason.OTHER_PLATFORM, f"Cannot install the {job.item.title}: {why}. Nothing was installed.")
    job.runner.find("apt-get")
    if os.geteuid() != 0:
        raise SurvivedError(
            f"Cannot install the {job.item.title}: that takes root. Nothing was installed.",
            f"sudo apt-get install {job.folder}/*.deb; or leave them away: --skip debs.",
        )


def install(job: Installing) -> Outcome:
    """Give apt-get the files of the packages that were asked for and of those that are not installed here, and no index."""
    packages = dict(job.item.facts.get("packages", {}))
    asked = set(job.item.facts.get("asked", ()))
    installed = _installed(job)
    older = [name for name, about in packages.items() if _is_older(job, installed.get(about["Package"]), about["Version"])]
    lacking = [name for name in older if packages[name]["Package"] in asked or packages[name]["Package"] not in installed]
    if not lacking:
        return Outcome(job.item, f"{', '.join(sorted(asked))} was there already")
    size = 1024 * sum(int(packages[name].get("Installed-Size", "0")) for name in lacking)
    space.require("/usr", size, "install packages to")
    env = {"DEBIAN_FRONTEND": "noninteractive", "TMPDIR": job.temporary()}
    kept = "The unpacked bundle is kept."
    try:
        job.runner.ask([*_words(job, lacking), "-s"], doing="try the packages")
    except SurvivedError:  # one that is installed is too old for another
        lacking = older
    job.runner.run(_words(job, lacking), log="debs", doing=f"install the {job.item.title}", env=env, kept=kept)
    return Outcome(job.item, f"{len(lacking)} Debian packages are installed", (("count", len(lacking)),))


def _words(job: Installing, names: Sequence[str]) -> list[str]:
    options = [word for pair in (*_NO_INDEX, f"DPkg::Lock::Timeout={_LOCK_SECONDS}") for word in ("-o", pair)]
    return [
        job.runner.find("apt-get"),
        *options,
        "install",
        "-y",
        "-qq",
        "--no-install-recommends",
        *(job.path(name) for name in names),
    ]


def _installed(job: Installing) -> dict[str, str]:
    """Return the version of each installed package."""
    said = job.runner.ask(
        ["dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${Package} ${Version}\n"], doing="list installed packages"
    )
    return dict(line.split()[1:3] for line in said.splitlines() if line.startswith("ii"))


def _is_older(job: Installing, installed: str | None, packed: str) -> bool:
    """Tell whether what is installed is older than what was packed; apt-get takes no older one."""
    if installed is None or installed == packed:
        return installed is None
    try:
        job.runner.ask(["dpkg", "--compare-versions", installed, "lt", packed], doing="compare versions")
    except SurvivedError:
        return False
    return True
