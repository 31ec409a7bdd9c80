"""
`survivectl offline`: bundles for machines without network. Packs here, verifies and installs there; needs no daemon.
"""

from __future__ import annotations

import os
import shlex
import shutil
import threading
import time
from typing import TYPE_CHECKING, Any

from survived import __version__
from survived.ctl import local
from survived.ctl.main import print_json, printable, say
from survived.ctl.offlineargs import KINDS, configure
from survived.ctl.packbar import PackBar
from survived.ctl.progress import interrupts
from survived.errors import Refused, Stopped, SurvivedError, UsageError, cause_of
from survived.model import Reason
from survived.tell.wire import path_fields
from survived.units import parse_bytes, print_bytes, print_time

if TYPE_CHECKING:
    import argparse

    from survived.offline.job import Wish
    from survived.offline.manifest import Manifest, Target
    from survived.offline.verifying import Verified

__all__ = ["configure", "run"]
_LEAST_PART = 1 << 20


def run(args: argparse.Namespace) -> int:
    """Do one of the actions."""
    return {"pack": _pack, "verify": _verify, "inventory": _inventory, "install": _install}[args.action](args)


class _Stop:
    """Raises `Stopped` once somebody wants us to end."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self) -> None:
        if self.event.is_set():
            raise Stopped("Interrupted. What was done is kept.", "The same command goes on where it stopped.")


# ---- pack -----------------------------------------------------------------------------------------------------------


def _pack(args: argparse.Namespace) -> int:
    from survived.offline import inventory, packing
    from survived.offline.command import Runner

    wishes = _wishes(args)
    output = os.path.abspath(os.path.expanduser(args.output))
    packing.refuse_existing(output)
    try:
        split = parse_bytes(args.split) if args.split else 0
    except ValueError as error:
        raise UsageError(f"Cannot understand --split: {error}. Nothing was packed.") from error
    if args.split and split < _LEAST_PART:
        raise UsageError("Cannot split into parts of less than 1 MiB. Nothing was packed.", "A size looks like 2GiB.")
    have = inventory.load(args.inventory) if args.inventory else None
    order = packing.Order(
        wishes, _target(args, have.target if have is not None else None), have, output, split,
        print_time(time.time()), f"survived {__version__}",
    )  # fmt: skip
    stop = _Stop()
    with interrupts(stop.event), PackBar(args, stop) as bar:
        runner = Runner(os.environ, os.path.join(packing.work_folder(output), "logs"), stop, bar.say, mortal=True)
        verified = packing.pack(order, runner, bar.tell, stop)
    if args.json:
        print_json(_document(verified))
    else:
        _print_bundle(verified)
        print(f"  There: survivectl offline install {printable(os.path.basename(verified.files[0]))}")
    return 0


def _wishes(args: argparse.Namespace) -> tuple[Wish, ...]:
    """Return what is asked for; words without an option are guessed by their names."""
    from survived.offline.job import Wish

    words: dict[str, list[str]] = {name: list(getattr(args, name)) for name in KINDS}
    for word in args.what:
        words[_guess(word)].append(word)
    build = (("build", "yes"),) if args.build else ()
    urls = (("gallery", args.gallery), ("updates", args.vscode_updates))
    channels = (("channels", "\n".join(args.channel)),)
    vscode = [*words["vsix"], *(f"server:{commit}" for commit in words["vscode_server"])]
    found = [
        Wish("wheels", tuple(words["wheels"]), build),
        Wish("conda", tuple(words["conda"]), channels),
        *(Wish("conda", (prefix,), (("packed", "yes"),)) for prefix in words["conda_env"]),
        Wish("hub", tuple(words["hub"]), (("repo_type", "model"),)),
        Wish("hub", tuple(words["hub_dataset"]), (("repo_type", "dataset"),)),
        Wish("vscode", tuple(vscode), tuple(pair for pair in urls if pair[1])),
        *(Wish("npm", (project,)) for project in words["npm"]),
        Wish("debs", tuple(words["deb"])),
        Wish("images", tuple(words["image"])),
        Wish("files", tuple(words["file"])),
    ]
    wishes = tuple(wish for wish in found if wish.words)
    if not wishes:
        raise UsageError(
            "Cannot pack nothing: name a requirements.txt, or something else. Nothing was packed.",
            "survivectl offline pack --help.",
        )
    return wishes


def _guess(word: str) -> str:
    name = os.path.basename(os.path.abspath(word))
    if name in ("pyproject.toml", "uv.lock") or (name.endswith((".txt", ".in")) and "requirements" in name):
        return "wheels"
    if name in ("package-lock.json", "package.json"):
        return "npm"
    if name.endswith(".vsix"):
        return "vsix"
    if os.path.exists(word):
        return "file"
    why = "there is no such file, and no option says what it is"
    raise UsageError(
        f"Cannot tell what '{word}' is: {why}. Nothing was packed.", "As in --hub org/model: survivectl offline pack --help."
    )


def _target(args: argparse.Namespace, there: Target | None) -> Target:
    """Return whom the bundle is for: the options, else the inventory, else this machine and the newest Python of ours."""
    from survived.offline import platform
    from survived.offline.manifest import Target

    base = there or platform.here()
    machine, glibc = platform.parse_platform(args.platform) if args.platform else (base.machine, base.glibc)
    python = args.python or base.python
    if python is not None and (not (parts := python.split("."))[1:] or not all(part.isdigit() for part in parts)):
        raise UsageError(f"Cannot understand the Python '{python}': a version looks like 3.11. Nothing was packed.")
    return Target(machine, glibc, ".".join(python.split(".")[:2]) if python else None)


# ---- verify ---------------------------------------------------------------------------------------------------------


def _checked(args: argparse.Namespace, bar: PackBar) -> Verified:
    from survived.offline.verifying import verify

    return verify(os.path.abspath(os.path.expanduser(args.bundle)), args.expect, bar.tell)


def _verify(args: argparse.Namespace) -> int:
    stop = _Stop()
    with interrupts(stop.event), PackBar(args, stop) as bar:
        verified = _checked(args, bar)
    if args.json:
        print_json({"ok": True, **_document(verified)})
    else:
        _print_bundle(verified)
    return 0


def _document(verified: Verified) -> dict[str, Any]:
    manifest = verified.manifest
    return {
        **path_fields(verified.files[0]),
        "parts": [os.path.basename(path) for path in verified.files],
        "fingerprint": verified.fingerprint,
        "made": manifest.made,
        "maker": manifest.maker,
        "packed_bytes": verified.packed_bytes,
        "bytes": manifest.size,
        "files": len(manifest.entries),
        "items": _items(manifest),
    }


def _items(manifest: Manifest) -> list[dict[str, Any]]:
    return [
        {
            "kind": item.kind,
            "title": item.title,
            "files": len(entries := manifest.entries_of(item)),
            "bytes": sum(entry.size for entry in entries),
            "machine": item.target.machine,
            "glibc": item.target.glibc,
            "python": item.target.python,
            "omitted": list(item.omitted),
        }
        for item in manifest.items
    ]


def _print_bundle(verified: Verified) -> None:
    many = f" in {len(verified.files)} parts" if len(verified.files) > 1 else ""
    total = f"{print_bytes(verified.packed_bytes)}{many}, {print_bytes(verified.manifest.size)} unpacked"
    print(printable(f"'{verified.files[0]}' is whole: {total}."))
    for item in _items(verified.manifest):
        needs = [item["machine"], item["glibc"] and f"glibc {item['glibc']}", item["python"] and f"Python {item['python']}"]
        whom = f" for {', '.join(filter(None, needs))}" if any(needs) else ""
        left = f"; the target has {len(item['omitted'])} already" if item["omitted"] else ""
        print(printable(f"  {item['kind']:<7} {print_bytes(item['bytes']):>9}  {item['title']}{whom}{left}"))
    print(f"  SHA-256 of its manifest: {verified.fingerprint}")


# ---- inventory ------------------------------------------------------------------------------------------------------


def _inventory(args: argparse.Namespace) -> int:
    import json

    from survived.offline import inventory
    from survived.offline.command import Runner

    active = os.environ.get("VIRTUAL_ENV") or os.environ.get("CONDA_PREFIX")
    python = args.python or (os.path.join(active, "bin/python") if active else "python3")
    if args.python and shutil.which(os.path.expanduser(args.python)) is None:
        raise SurvivedError(f"Cannot find the Python '{args.python}': there is none. Nothing was written.")
    found = inventory.take(
        Runner(os.environ, os.devnull, lambda: None, lambda _: None), python, local.home(), print_time(time.time()), args.hub_cache
    )
    document = found.document()
    if args.output is None:
        print_json(document)
        return 0
    path = os.path.abspath(os.path.expanduser(args.output))
    from survived.act import fs

    try:
        fs.write_file(path, json.dumps({"schema": 1, **document}, indent=1).encode("utf-8", "surrogateescape"), 0o644)
    except OSError as error:
        raise SurvivedError(f"Cannot write '{path}': {cause_of(error)}. Nothing was written.") from error
    counts = {
        "python": found.python, "packages": len(found.packages), "images": len(found.images), "repositories": len(found.blobs),
        "conda": len(found.conda), "servers": len(found.servers), "extensions": len(found.extensions), "dpkg": bool(found.dpkg),
    }  # fmt: skip
    if args.json:
        print_json({**path_fields(path), "machine": found.machine, "glibc": found.glibc, "system": found.system, **counts})
    else:
        print(printable(f"'{path}' tells what this {found.machine} with glibc {found.glibc} ({found.system}) has:"))
        has = f"{len(found.images)} Docker images, {len(found.blobs)} Hugging Face repositories, {len(found.conda)} conda packages"
        print(printable(f"  Python {found.python or 'none'} with {len(found.packages)} packages, {has}."))
        say("Carry it to where you pack: survivectl offline pack --inventory FILE.")
    return 0


# ---- install --------------------------------------------------------------------------------------------------------


def _install(args: argparse.Namespace) -> int:
    from survived.offline import installing
    from survived.offline.job import Options
    from survived.offline.manifest import KINDS as ALL

    options = Options(
        python=args.python, with_uv=args.tool == "uv", project=args.project, conda_prefix=args.conda_prefix,
        hub_cache=args.hub_cache, code=args.code, files_to=args.files_to,
    )  # fmt: skip
    skip = frozenset(args.skip) | (frozenset(ALL) - frozenset(args.only) if args.only else frozenset())
    stop = _Stop()
    with interrupts(stop.event), PackBar(args, stop) as bar:
        verified = _checked(args, bar)
        fd, path, keep_free = _open_place(args)
        try:
            place = installing.Place(fd, path, keep_free, local.home(), os.environ, bar.say, stop)
            done = installing.install(verified, place, options, skip=skip, unpack_only=args.unpack_only, tell=bar.tell)
        finally:
            os.close(fd)
    logs = sorted(name for name in os.listdir(os.path.join(done.folder, "logs")) if name.endswith(".log"))
    if args.json:
        items = [{"kind": o.item.kind, "title": o.item.title, "done": o.done, **dict(o.facts)} for o in done.outcomes]
        print_json(
            {**path_fields(done.folder), "fingerprint": verified.fingerprint, "kept": done.kept, "items": items, "logs": logs}
        )
        return 0
    for outcome in done.outcomes:
        print(printable(f"{outcome.done[0].upper()}{outcome.done[1:]}."))
    again = f" {done.kept} of its files were there already." if done.kept else ""
    print(printable(f"The bundle is unpacked in '{done.folder}'.{again}"))
    if logs:
        print(printable(f"  What the tools said: {done.folder}/logs"))
    if all(outcome.item.kind != "files" or args.files_to for outcome in done.outcomes) and not args.unpack_only:
        print(printable(f"  When all works: rm -r {shlex.quote(done.folder)}"))
    return 0


def _open_place(args: argparse.Namespace) -> tuple[int, str, frozenset[int]]:
    """Return the folder that bundles are unpacked to, opened, its path, and the devices that it must not be on."""
    machine = local.open_machine(args)
    keep_free = {os.stat("/").st_dev}
    for watched in machine.watched():
        try:
            keep_free.add(os.stat(watched).st_dev)
        except OSError:  # a watched disk that is away cannot be filled
            continue
    if args.to is not None:
        path = os.path.abspath(os.path.expanduser(args.to))
        try:
            return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), path, frozenset(keep_free)
        except OSError as error:
            raise SurvivedError(f"Cannot unpack to '{path}': {cause_of(error)}. Nothing was unpacked.") from error
    from survived.act import fs
    from survived.store import layout

    readings = machine.read_stores()
    good = [reading for reading in readings if reading.ok]
    if not good:
        why = "; ".join(reading.reason.removesuffix(".") for reading in readings if reading.reason) or "no data disk was found"
        raise Refused(Reason.NO_STORE, f"Cannot unpack: {why}. Nothing was unpacked.", "Name a folder on a data disk: --to DIR.")
    reading = max(good, key=lambda found: found.available_bytes)
    store = layout.open_store(reading, uid=os.getuid(), lock=False)
    try:
        return fs.open_below(store.fd, "offline", make=True), os.path.join(store.path, "offline"), frozenset(keep_free)
    except OSError as error:
        path = os.path.join(store.path, "offline")
        raise SurvivedError(f"Cannot unpack to '{path}': {cause_of(error)}. Nothing was unpacked.") from error
    finally:
        store.close()
