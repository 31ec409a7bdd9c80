"""
Snapshots of Hugging Face repositories, with their refs: downloaded by huggingface_hub, and laid into its cache.

A bundle has no links, so a snapshot's links to its blobs travel as data, are checked, and are made anew. The refs come
last: what a name leads to is complete.
"""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import sys
from typing import TYPE_CHECKING

from survived.act import fs
from survived.errors import Refused, SurvivedError, UsageError
from survived.offline import names, space
from survived.offline.hubcache import KINDS, cache_folder
from survived.offline.job import Collecting, Installing, Outcome, Wish
from survived.offline.manifest import Target
from survived.terms import Reason
from survived.units import print_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from survived.offline.manifest import Item

_REPO = re.compile(r"[\w.-]+(/[\w.-]+)?")
_REVISION = re.compile(r"[\w./-]+")
_DOWNLOAD = (
    "import sys, huggingface_hub as h\n"
    "print(h.snapshot_download(sys.argv[1], repo_type=sys.argv[2], revision=sys.argv[3] or None, cache_dir=sys.argv[4]))\n"
)


def collect(wish: Wish, job: Collecting) -> Item:
    """Download snapshots (`REPO` or `REPO@REVISION`) with their refs; blobs that the target has are left out."""
    kind = wish.option("repo_type", "model")
    for word in wish.words:
        repo, _, revision = word.partition("@")
        if not _REPO.fullmatch(repo) or ".." in repo or (revision and not _REVISION.fullmatch(revision)):
            raise UsageError(
                f"Cannot understand '{word}': a snapshot looks like org/model or org/model@revision. Nothing was packed."
            )
    python = _python(job)
    for word in wish.words:
        repo, _, revision = word.partition("@")
        env = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_XET_CACHE": os.path.join(job.scratch, "xet"), "TMPDIR": job.temporary()}
        words = [python, "-c", _DOWNLOAD, repo, kind, revision, job.folder]
        kept = "What came is kept: the same command goes on."
        job.runner.run(words, log="hub", doing=f"collect the snapshot of '{word}'", env=env, kept=kept)
    links = dict(_take_links(job.folder))
    omitted = []
    for repo in sorted(os.listdir(job.folder)):
        have = set(job.inventory.blobs.get(repo, ())) if job.inventory is not None else set()
        for blob in sorted(have & set(_listed(os.path.join(job.folder, repo, "blobs")))):
            os.unlink(os.path.join(job.folder, repo, "blobs", blob))
            omitted.append(f"{repo}/blobs/{blob}")
    what = "snapshots" if len(wish.words) > 1 else "snapshot"
    return job.item("hub", f"{kind} {what} of {', '.join(wish.words)}", Target(), {"links": links}, tuple(omitted))


def _python(job: Collecting) -> str:
    """Return a Python that has huggingface_hub: ours, the active one, or that of the `hf` command."""
    found = [sys.executable, shutil.which("python3", path=job.runner.env.get("PATH"))]
    scripts = [shutil.which(command, path=job.runner.env.get("PATH")) for command in ("hf", "huggingface-cli")]
    found += [os.path.join(os.path.dirname(os.path.realpath(script)), "python") for script in scripts if script is not None]
    for python in found:
        if python is not None and os.path.exists(python):
            try:
                job.runner.ask([python, "-c", "import huggingface_hub"], doing="find huggingface_hub")
            except SurvivedError:
                continue
            return python
    raise SurvivedError(
        "Cannot collect snapshots: huggingface_hub is not here. Nothing was packed.", "Install it: pip install huggingface_hub."
    )


def _listed(folder: str) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []


def _take_links(folder: str) -> Iterator[tuple[str, str]]:
    """Remove every link below a folder, and yield its path with where it led; and remove the locks of the download."""
    shutil.rmtree(os.path.join(folder, ".locks"), ignore_errors=True)
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(place, name)
            if os.path.islink(path):
                yield os.path.relpath(path, folder), os.readlink(path)
                os.unlink(path)
            elif name.endswith((".incomplete", ".lock")) or (name == "CACHEDIR.TAG" and place == folder):
                os.unlink(path)


def fits(job: Installing) -> None:
    """Raise if a link of the bundle leads out of its repository, a blob that was left out is gone, or there is no room."""
    links = _links(job)
    cache = _cache(job)
    for omitted in job.item.omitted:
        if names.why_bad(omitted) is not None or not os.path.isfile(os.path.join(cache, omitted)):
            raise Refused(
                Reason.ABSENT,
                f"Cannot install the {job.item.title}: '{omitted}' is not in '{cache}' any more, and was left out of the bundle. "
                "Nothing was installed.",
                "Make a new inventory here, and pack again with it.",
            )
    present = {*job.files, *job.item.omitted}
    if stray := next((path for path in present if not path.startswith(tuple(f"{kind}--" for kind in KINDS.values()))), None):
        raise names.damaged(job.item.title, f"'{stray}' belongs to no repository")
    for path, led in links.items():
        if os.path.normpath(os.path.join(os.path.dirname(path), led)) not in present:
            raise names.damaged(job.item.title, f"its link '{path}' leads to nothing")


def _links(job: Installing) -> dict[str, str]:
    """Return the links that are to be made; `Refused` (damaged) if one leads elsewhere than to a blob of its repository."""
    found = job.item.facts.get("links")
    if not isinstance(found, dict):
        raise names.damaged(job.item.title, "its list of links is missing")
    folders = tuple(f"{kind}--" for kind in KINDS.values())
    names.check([str(path) for path in found], job.item.title)
    for path, led in found.items():
        repo, _, rest = str(path).partition("/")
        leads = os.path.normpath(os.path.join(os.path.dirname(str(path)), str(led)))
        good = (
            repo.startswith(folders)
            and rest.startswith("snapshots/")
            and leads.startswith(f"{repo}/blobs/")
            and not str(led).startswith("/")
        )
        if not good or names.why_bad(leads) is not None:
            raise names.damaged(job.item.title, f"its link '{path}' leads elsewhere than to a blob: '{led}'")
    return {str(path): str(led) for path, led in found.items()}


def _cache(job: Installing) -> str:
    return os.path.abspath(cache_folder(job.runner.env, job.home, job.options.hub_cache))


def install(job: Installing) -> Outcome:
    """Lay blobs, then links, then refs into the cache; a blob is a second name of the unpacked file where one disk has both."""
    cache, links = _cache(job), _links(job)
    files = sorted(job.files, key=lambda path: ("/refs/" in path, path))
    os.makedirs(cache, exist_ok=True)
    lacking = sum(os.path.getsize(job.path(path)) for path in files if not os.path.exists(os.path.join(cache, path)))
    if os.stat(cache).st_dev != os.stat(job.folder).st_dev:
        _require_room(job, cache, lacking)
    with fs.opened(cache, follow=True) as cache_fd, space.explained("install to", cache, "What is there is complete."):
        done = 0
        for path in [path for path in files if "/refs/" not in path]:
            _lay(job.path(path), cache_fd, path)
            done += os.path.getsize(job.path(path))
            job.tell("install", done, max(1, lacking))
        for path, led in links.items():
            _link(cache_fd, path, led)
        fs.sync_filesystem(cache_fd)
        for path in [path for path in files if "/refs/" in path]:
            _lay(job.path(path), cache_fd, path, replace=True)
    said = f"the {job.item.title}, {print_bytes(lacking)} of it new, is in {cache}"
    return Outcome(job.item, said, (("cache", cache), ("new_bytes", lacking)))


def _require_room(job: Installing, cache: str, lacking: int) -> None:
    try:
        space.require(cache, lacking, "install snapshots to")
    except Refused as refusal:
        refusal.hint = "Move the cache to a data disk first: survivectl relocate hf-hub. Or name another: --hub-cache DIR."
        raise
    if (
        space.is_on(cache, job.keep_free)
        and (found := os.statvfs(cache)).f_bavail * found.f_frsize - lacking < found.f_blocks * found.f_frsize / 10
    ):
        raise Refused(
            Reason.WOULD_FILL,
            f"Cannot install snapshots to '{cache}': {print_bytes(lacking)} would leave less than a tenth of its disk free, and "
            "that disk is the one to keep free. Nothing was installed.",
            "Move the cache to a data disk first: survivectl relocate hf-hub. Or name another: --hub-cache DIR.",
        )


def _lay(source: str, cache_fd: int, path: str, *, replace: bool = False) -> None:
    """Give a file its place in the cache, whole or not at all; one that is there with the same content is left alone."""
    folder, _, name = path.rpartition("/")
    folder_fd = fs.open_below(cache_fd, folder, make=True)
    try:
        there = f"/proc/self/fd/{folder_fd}/{name}"
        if fs.exists(folder_fd, name) is not None and filecmp.cmp(source, there, shallow=False):
            return
        if fs.exists(folder_fd, name) is not None and not replace and "/blobs/" not in path:
            return  # a file of the user's own in a snapshot
        fresh = f".survived-{os.getpid()}.partial"
        try:
            os.link(source, fresh, dst_dir_fd=folder_fd)
        except OSError:  # another disk, or a filesystem without hard links
            with (
                open(source, "rb") as old,
                open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder_fd), "wb") as new,
            ):
                shutil.copyfileobj(old, new, 1 << 20)
        fs.replace(folder_fd, fresh, name)
    finally:
        os.close(folder_fd)


def _link(cache_fd: int, path: str, led: str) -> None:
    folder, _, name = path.rpartition("/")
    folder_fd = fs.open_below(cache_fd, folder, make=True)
    try:
        found = fs.exists(folder_fd, name)
        if found is not None and os.path.exists(f"/proc/self/fd/{folder_fd}/{name}"):
            return
        fresh = f".survived-{os.getpid()}.partial"
        os.symlink(led, fresh, dir_fd=folder_fd)
        fs.replace(folder_fd, fresh, name)
    finally:
        os.close(folder_fd)
