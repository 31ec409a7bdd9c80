"""
Conda packages by exact URL, solved by conda itself where only their names are given; or a whole packed environment.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import urllib.parse
from typing import TYPE_CHECKING, Any

from survived.act import fs
from survived.errors import SurvivedError, UsageError
from survived.offline import names, platform, space
from survived.offline.download import download
from survived.offline.job import Collecting, Installing, Outcome, Wish
from survived.offline.manifest import Item, Target

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TOOLS = ("conda", "mamba", "micromamba")
SUBDIRS = {"x86_64": "linux-64", "aarch64": "linux-aarch64", "ppc64le": "linux-ppc64le", "s390x": "linux-s390x"}
_SUFFIXES = (".conda", ".tar.bz2")
_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})|(?:md5:)?([0-9a-f]{32})")
_PACKED = "environment.tar.gz"


def collect(wish: Wish, job: Collecting) -> Item:
    """Fetch packages named by URL, by an explicit list, or by specs for conda to solve; or pack one environment."""
    if wish.option("packed"):
        return _pack_environment(wish.words, job)
    urls: list[str] = []
    specs: list[str] = []
    for word in wish.words:
        if "://" in word:
            urls.append(word)
        elif os.path.isfile(word):
            urls += _read_list(word)
        else:
            specs.append(word)
    if specs:
        urls += _solve(specs, [channel for channel in wish.option("channels").split("\n") if channel], job)
    have = set(job.inventory.conda) if job.inventory is not None else set()
    packages, omitted = [], []
    for url in dict.fromkeys(urls):
        plain, digest = _split(url)
        subdir, name = plain.split("?")[0].split("/")[-2:]
        name = urllib.parse.unquote(name)
        if not name.endswith(_SUFFIXES) or names.why_bad(f"{subdir}/{name}") is not None:
            raise UsageError(
                f"Cannot understand '{plain}': a package's URL ends in linux-64/NAME.conda or .tar.bz2. Nothing was packed."
            )
        wanted = SUBDIRS.get(job.target.machine or "")
        if subdir not in ("noarch", wanted):
            raise SurvivedError(
                f"Cannot pack '{name}': it is for {subdir}, and the target is {wanted or job.target.machine}. Nothing was packed."
            )
        found = {"url": "", "path": f"{subdir}/{name}", "digest": digest}
        if name in have:  # by its URL conda finds it again in its own cache
            omitted.append(name)
            found["url"] = plain
        else:
            os.makedirs(os.path.join(job.folder, subdir), mode=0o700, exist_ok=True)
            download(plain, os.path.join(job.folder, subdir, name), digest=digest, tell=job.tell)
        packages.append(found)
    native = any(not str(found["path"]).startswith("noarch/") for found in packages)
    asked = [word.partition("#")[0].rpartition("/")[2] for word in wish.words]
    title = f"conda packages {', '.join(asked[:4])}{f' and {len(asked) - 4} more' if len(asked) > 4 else ''}"
    return job.item("conda", title, Target(job.target.machine if native else None), {"packages": packages}, tuple(omitted))


def _split(url: str) -> tuple[str, str | None]:
    """Return a URL and the digest behind its `#`, as `conda list --explicit --md5` (or --sha256) writes it."""
    plain, _, digest = url.partition("#")
    match = _DIGEST.fullmatch(digest)
    if digest and match is None:
        raise UsageError(f"Cannot understand '{url}': '{digest}' is no MD5 or SHA-256. Nothing was packed.")
    if match is None:
        return plain, None
    return plain, f"sha256:{match.group(1)}" if match.group(1) else f"md5:{match.group(2)}"


def _read_list(path: str) -> list[str]:
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file]
    if "@EXPLICIT" not in lines:
        raise SurvivedError(
            f"Cannot use '{path}': it is no explicit list. Nothing was packed.",
            "Make one: conda list --explicit --md5 -n ENV > FILE.",
        )
    return [line for line in lines if "://" in line and not line.startswith("#")]


def _solve(specs: Sequence[str], channels: Sequence[str], job: Collecting) -> list[str]:
    """Return the URLs, with digests, of what an empty environment with these specs would hold on the target."""
    tool = job.runner.find(*TOOLS)
    env = {
        "CONDA_PKGS_DIRS": os.path.join(job.scratch, "pkgs"),  # an empty one: then everything has to be fetched, and is told
        "CONDA_SUBDIR": SUBDIRS.get(job.target.machine or "", "linux-64"),
        "CONDA_OVERRIDE_GLIBC": job.target.glibc or "",
        "TMPDIR": job.temporary(),
    }
    chosen = ["--override-channels", *(word for channel in channels for word in ("-c", channel))] if channels else []
    words = [tool, "create", "--dry-run", "--json", "-y", "-p", os.path.join(job.scratch, "environment"), *chosen, *specs]
    said = job.runner.ask(words, doing=f"solve {', '.join(specs)}", env=env, limit=900.0)
    try:
        actions: Any = json.loads(said[said.index("{") :])["actions"]
        return [_url(found) for found in actions["FETCH"]]
    except (ValueError, KeyError, TypeError) as error:
        raise SurvivedError(
            f"Cannot solve {', '.join(specs)}: {os.path.basename(tool)} answered what we do not understand."
        ) from error


def _url(found: dict[str, str]) -> str:
    digest = found.get("sha256") or found.get("md5") or ""
    return f"{found['url']}#{digest}" if digest else found["url"]


def _pack_environment(words: Sequence[str], job: Collecting) -> Item:
    (prefix,) = words
    prefix = os.path.abspath(prefix)
    if not os.path.isdir(os.path.join(prefix, "conda-meta")):
        raise SurvivedError(f"Cannot pack '{prefix}': it is no conda environment. Nothing was packed.")
    tool = [job.runner.find("conda-pack")] if job.runner.has("conda-pack") else [sys.executable, "-m", "conda_pack.cli"]
    try:
        job.runner.ask([*tool, "--version"], doing="find conda-pack")
    except SurvivedError as error:
        why = "conda-pack is not here"
        raise SurvivedError(f"Cannot pack '{prefix}': {why}. Nothing was packed.", "Install it: pip install conda-pack.") from error
    path = os.path.join(job.folder, _PACKED)
    job.runner.run(
        [*tool, "-q", "-p", prefix, "-o", path, "--force"], log="conda", doing=f"pack '{prefix}'", env={"TMPDIR": job.temporary()}
    )
    here = platform.here()
    return job.item("conda", f"environment {os.path.basename(prefix)}", Target(here.machine, here.glibc), {"environment": prefix})


def fits(job: Installing) -> None:
    """Raise `Refused` for another machine, `SurvivedError` without conda, `UsageError` without a prefix to install into."""
    platform.require(job.item.title, job.item.target, job.here)
    if job.options.conda_prefix is None:
        raise UsageError(
            f"Cannot install the {job.item.title}: no environment was named. Nothing was installed.", "Say --conda-prefix DIR."
        )
    if "environment" in job.item.facts:
        prefix = _prefix(job)
        if os.path.lexists(prefix) and (not os.path.isdir(prefix) or os.listdir(prefix)):
            raise SurvivedError(
                f"Cannot unpack an environment to '{prefix}': it is not empty. Nothing was installed.", "Name another."
            )
        return
    job.runner.find(*TOOLS)
    for found in job.item.facts.get("packages", ()):
        if not isinstance(found.get("path"), str) or names.why_bad(found["path"]) is not None or "\n" in str(found.get("url")):
            raise names.damaged(job.item.title, "its list of packages is none of ours")


def _prefix(job: Installing) -> str:
    return os.path.abspath(os.path.expanduser(job.options.conda_prefix or ""))


def install(job: Installing) -> Outcome:
    """Unpack the environment, or run `conda install --offline` with the packages, into the prefix; it is made if missing."""
    prefix = _prefix(job)
    if "environment" in job.item.facts:
        return _unpack_environment(job, prefix)
    size = sum(os.path.getsize(path) for path in _packages(job))
    space.require(prefix, size * 4, "install conda packages to")  # they are compressed, and unpacked twice
    listed = os.path.join(job.temporary(), "explicit.txt")
    with open(listed, "w", encoding="utf-8") as file:
        file.write("@EXPLICIT\n" + "".join(_lines(job)))
    tool = job.runner.find(*TOOLS)
    verb = "install" if os.path.isdir(os.path.join(prefix, "conda-meta")) else "create"
    words = [tool, verb, "--offline", "-y", "-p", prefix, "--file", listed]
    env = {"TMPDIR": job.temporary()}
    job.runner.run(words, log="conda", doing=f"install the {job.item.title}", env=env, kept="The unpacked bundle is kept.")
    count = len(job.item.facts["packages"])
    return Outcome(job.item, f"{count} conda packages are in {prefix}", (("prefix", prefix), ("count", count)))


def _packages(job: Installing) -> Iterator[str]:
    for place, _, files in os.walk(job.folder):
        yield from (os.path.join(place, name) for name in files)


def _lines(job: Installing) -> Iterator[str]:
    """Yield an explicit list: files of the bundle, and the URL of what the target's own package cache has."""
    for found in job.item.facts["packages"]:
        path, digest = job.path(found["path"]), found["digest"] or ""
        url = f"file://{urllib.parse.quote(path)}" if os.path.isfile(path) else found["url"]
        md5 = digest.removeprefix("md5:") if digest.startswith("md5:") else ""
        yield f"{url}{f'#{md5}' if md5 else ''}\n"


def _unpack_environment(job: Installing, prefix: str) -> Outcome:
    path = job.path(_PACKED)
    space.require(prefix, os.path.getsize(path) * 4, "unpack the environment to")
    os.makedirs(os.path.dirname(prefix), exist_ok=True)
    fresh = f"{prefix}.partial"
    shutil.rmtree(fresh, ignore_errors=True)
    os.mkdir(fresh)
    job.runner.run(["tar", "-xzf", path, "-C", fresh, "--no-same-owner"], log="conda", doing=f"unpack the {job.item.title}")
    if os.path.isdir(prefix):
        os.rmdir(prefix)  # it is empty
    with fs.opened(os.path.dirname(prefix), follow=True) as folder_fd:
        fs.place(folder_fd, os.path.basename(fresh), os.path.basename(prefix))
    unpack = os.path.join(prefix, "bin/conda-unpack")
    if os.path.exists(unpack):  # writes the new prefix into the files that have the old one
        python = os.path.join(prefix, "bin/python")
        words = [python, unpack] if os.path.exists(python) else ["python3", unpack]
        job.runner.run(words, log="conda", doing=f"finish the {job.item.title}")
    return Outcome(job.item, f"the {job.item.title} is in {prefix}", (("prefix", prefix),))
