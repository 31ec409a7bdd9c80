"""
The verb `hogs`: what fills the disk that no cache of the catalogue accounts for, and what may be done about each.

It only looks. What it found big is kept in the store, through the daemon where one runs, so that the next look can tell growth.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import time
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from survived.act import fs
from survived.act.survey import check_source
from survived.ctl import hogtext, local
from survived.ctl.main import print_json
from survived.decide import hogs as deciding
from survived.errors import Refused, SurvivedError
from survived.findings import DeletedOpen, Grower, Look, Sizes, Twins
from survived.observe.deleted import find_deleted
from survived.observe.disks import is_below, resolve_parents, rooms_of
from survived.observe.hogs import Scope, look_around
from survived.observe.twins import find_twins
from survived.settings.catalog import wrong_level
from survived.store import hogs as kept
from survived.store.outbox import Outbox
from survived.terms import Reason

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from survived.machine import Machine
    from survived.model import Filesystem

_DAY = 86400.0
_DELETED_BYTES = 1 << 20
_SENT_BYTES = 48 << 10  # of the line that the daemon takes
_SERVICES = 1000  # uids below are those of the system, by every distribution's login.defs
_DRILL = frozenset({Reason.HOME_ITSELF, Reason.SYSTEM, Reason.MOUNT_POINT, Reason.INTERPRETER, Reason.NOT_OURS})


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that the verb tells."""

    time: float
    look: Look
    filesystems: tuple[Filesystem, ...]
    deleted: tuple[DeletedOpen, ...]
    twins: tuple[Twins, ...]
    growth: Mapping[str, tuple[float, tuple[Grower, ...]]]  # "yesterday", "notice": since when, and what grew
    everybody: bool
    has_store: bool


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hogs`."""
    parser.add_argument("path", nargs="?", metavar="PATH", help="look only below this directory; else all that is watched")
    parser.add_argument("--keep", action="store_true", help="only keep what is found, for telling growth, at the lowest priority")
    parser.add_argument("--verify", action="store_true", help="read files that look alike whole before calling them the same")


def run(args: argparse.Namespace) -> int:
    """Print what is big, what is deleted and open, what lies there twice and what grew."""
    machine = local.open_machine(args)
    if args.keep:
        fs.step_back()
        roots = _roots(machine, machine.read_filesystems())
        found = look_around(roots, scope := _scope(machine, _caches(machine)))
        is_kept = found.unreadable not in roots and _keep(machine, _sizes(found, scope))
        if args.json:
            print_json({"kept": is_kept})
        return 0
    report = look(machine, args.path, verify=args.verify)
    if args.json:
        print_json(hogtext.document(report))
    else:
        hogtext.show(report)
    return 0


def look(machine: Machine, path: str | None, *, verify: bool = False) -> Report:
    """
    Look around, below `path` or on all that is watched, and compare with what was found before.

    `SurvivedError` where `path` is no directory, or nothing can be read. A look at everything is kept for the next.
    """
    now = time.time()
    filesystems = machine.read_filesystems()
    roots = [_root(path)] if path is not None else _roots(machine, filesystems)
    caches = _caches(machine)
    scope = _scope(machine, caches)
    found = look_around(roots, scope)
    if found.unreadable in roots:
        raise SurvivedError(f"Cannot look into '{found.unreadable}': it cannot be read. Nothing was changed.")
    moved = {os.path.realpath(place): name for place, name in caches.items() if os.path.islink(place) and os.path.isdir(place)}
    away = look_around(moved, replace(scope, caches=moved)) if moved and path is None else Look()
    devices = {os.stat(root).st_dev for root in roots}
    before = _past(machine, now)
    sizes = _sizes(found, scope)
    report = Report(
        now,
        found,
        tuple(item for item in filesystems if item.device_id in devices),
        find_deleted(rooms_of(devices), _DELETED_BYTES),
        find_twins((*found.files, *away.files), verify=verify),
        {name: (then.time, deciding.growers(then, sizes)) for name, then in before.items()},
        everybody=scope.uid is None,
        has_store=any(store.ok for store in machine.read_stores()),
    )
    if path is None:
        _keep(machine, sizes)
    return report


def read_sizes(machine: Machine) -> Sizes:
    """Look around on all that is watched and return only the sizes, kept for the next look. `SurvivedError` as for `look`."""
    roots = _roots(machine, machine.read_filesystems())
    found = look_around(roots, scope := _scope(machine, _caches(machine)))
    if found.unreadable in roots:
        raise SurvivedError(f"Cannot look into '{found.unreadable}': it cannot be read. Nothing was changed.")
    seen = _sizes(found, scope)
    _keep(machine, seen)
    return seen


def find_big(machine: Machine) -> Look:
    """Look around on all that is watched and keep nothing, as for a look that must not write."""
    return look_around(_roots(machine, machine.read_filesystems()), _scope(machine, _caches(machine)))


def _sizes(found: Look, scope: Scope) -> Sizes:
    return deciding.sample(found.hogs, time.time(), scope.smallest_bytes)


# ---- where to look -----------------------------------------------------------------------------------------------


def _root(word: str) -> str:
    path = os.path.realpath(os.path.expanduser(word))
    if not os.path.isdir(path):
        why = "it is not a directory" if os.path.lexists(path) else "there is none"
        raise SurvivedError(f"Cannot look into '{word}': {why}. Nothing was changed.")
    return path


def _roots(machine: Machine, filesystems: tuple[Filesystem, ...]) -> list[str]:
    """Return the mount points that are watched, and the home where it is another subvolume of one of them."""
    roots = [item.mount for item in filesystems]
    home = os.path.realpath(machine.home)
    with contextlib.suppress(OSError):
        device = os.stat(home).st_dev
        devices = {item.device_id for item in filesystems}
        if device not in devices and device in rooms_of(devices):
            roots.append(home)
    return roots


def _caches(machine: Machine) -> dict[str, str]:
    """Return the real path of what is accounted for elsewhere, with its id: the known caches, and our own ballast."""
    caches = {resolve_parents(cache.path): cache.id for cache in machine.known_caches() if not is_below(machine.home, cache.path)}
    return caches | {resolve_parents(str(machine.paths.state_dir)): "survived"}


def _scope(machine: Machine, caches: Mapping[str, str]) -> Scope:
    everybody = machine.paths.root_mode
    homes = _homes(machine) if machine.uid == 0 else {}

    def judge(path: str, owner: int) -> tuple[bool, str | None]:
        return _judge(machine, caches, homes, path, owner)

    uid, groups = (None, frozenset[int]()) if everybody else (machine.uid, frozenset((*os.getgroups(), os.getegid())))
    return Scope(uid, caches, judge, max(1, machine.rules.min_size_bytes), groups)


def _homes(machine: Machine) -> dict[str, str]:
    return {
        os.path.realpath(user.pw_dir): user.pw_name
        for user in pwd.getpwall()
        if user.pw_uid >= _SERVICES and user.pw_dir.count("/") > 1 and not is_below(machine.home, user.pw_dir)
    }


def _judge(machine: Machine, caches: Mapping[str, str], homes: Mapping[str, str], path: str, owner: int) -> tuple[bool, str | None]:
    """Tell whether a directory can stand as one hog, and why it cannot be moved: by the engine's own rules, and some caution."""
    inner = next((name for place, name in caches.items() if place != path and is_below(place, path)), None)
    if inner is not None:
        return False, f"it holds the cache {inner}, which survived looks after by itself"
    for home, name in homes.items():
        if is_below(home, path):
            return False, f"it is or holds the home directory of {name}"
    if os.path.basename(path).startswith(".survived-"):
        return True, "it is an old tree that a move has not removed yet: survivectl recover"
    try:
        check_source(path, home=machine.home, store_device=-1)
    except Refused as refusal:
        return refusal.reason not in _DRILL, _why(refusal)
    if machine.uid == 0 and (is_below(path, "/var") or 0 < owner < _SERVICES) and not any(is_below(path, home) for home in homes):
        return True, f"it belongs to the system (uid {owner}), and a service may be writing there"
    level = wrong_level(path, machine.caches)
    if level is not None and level.breaks:
        return True, f"{level.cache.title} breaks if it is a link"
    return True, None


def _why(refusal: Refused) -> str:
    """Return the middle of `Cannot move '<path>': <why>. Nothing was changed.`."""
    return refusal.message.partition("': ")[2].removesuffix(". Nothing was changed.") or refusal.message


# ---- what was before ---------------------------------------------------------------------------------------------


def _past(machine: Machine, now: float) -> dict[str, Sizes]:
    """Return the latest sample of any store that is a day old, and the latest that is no younger than the last notice."""
    found: dict[str, Sizes] = {}
    told = [text for _, text in machine.records.each(lambda _, database: [Outbox(database).summary()["last_delivered"]])]
    since = max((datetime.fromisoformat(text).timestamp() for text in told if text is not None), default=None)
    for name, then in {"yesterday": now - _DAY, "notice": since}.items():
        if then is not None and (samples := samples_before(machine, then)):
            found[name] = max(samples, key=lambda sizes: sizes.time)
    return found


def samples_before(machine: Machine, then: float) -> list[Sizes]:
    """Return the latest sample before a time of each store that has one."""
    found = machine.records.each(lambda _, database: [kept.before(database, then)])
    return [sizes for _, sizes in found if sizes is not None]


def _keep(machine: Machine, sizes: Sizes) -> bool:
    """Keep a sample: the daemon does, or, where none runs, we do in a store that is there; where neither can, nobody does."""
    most = sorted(sizes.sizes.items(), key=lambda item: -item[1])
    sent = dict(most)
    while most and len(json.dumps(sent)) > _SENT_BYTES:
        most = most[: len(most) * 3 // 4]
        sent = dict(most)
    smallest = sizes.smallest_bytes if len(sent) == len(sizes.sizes) else min(sent.values(), default=0)
    with contextlib.suppress(SurvivedError):
        answer = local.ask_or_none("keep_hogs", sizes=sent, smallest=smallest)
        if answer is not None:
            return bool(answer["kept"])
        reading = next((store for store in machine.read_stores() if store.ok and os.path.exists(f"{store.path}/STORE")), None)
        if reading is not None:
            try:
                return kept.record(machine.open_store(reading).database, sizes)
            finally:
                machine.close()
    return False
