"""
`survivectl verify`: is what was relocated still what was moved? Only reads, so it needs neither the daemon nor its lock.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from survived.ctl import local
from survived.ctl.main import print_json, printable
from survived.errors import NeedsPerson, SurvivedError, cause_of
from survived.units import print_bytes, sentence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from survived.act.task import Task
    from survived.decide.soundness import Soundness
    from survived.findings import Damage, TreeCheck
    from survived.machine import Machine
    from survived.model import Operation, Relocation, StoreReading

_LINES = 20
_DAMAGE = NeedsPerson.exit_code
"""Nobody but a person can say where to get a damaged file from."""
_EPILOG = """\
A tree is ok if nothing in it was touched since the move and its files are as many and as large as were moved; changed if
its tool has written to it since, which is fine: only what was not touched can be judged then. Damaged is what no tool can
have done: an untouched tree with other counts, entries that the disk cannot read, a foreign owner, another filesystem
mounted over it, a link that is gone or leads elsewhere.

With --content every byte is read back from the device, and files untouched since the move are compared with the checksums
kept of them ([move] verify = "content" keeps them; files with more than 64 GiB of holes have none). Without kept checksums
it tells only what the disk cannot read. Checksums are kept as b2sum writes them, so you can compare without survived:
  cd TREE && b2sum -c STORE/sums/ID.b2

Exit codes: 0 nothing is damaged, 1 something could not be looked at, 5 something is damaged."""


@dataclass(slots=True)
class Verified:
    """What was found out about one tree. `sums` is the file with its checksums; `trouble` says why nothing was found out."""

    item: Relocation
    made: Operation | None = None
    state: Soundness | None = None
    seen: TreeCheck | None = None
    damage: tuple[Damage, ...] = ()
    sums: str | None = None
    trouble: str | None = None
    notes: list[str] = field(default_factory=list)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what `verify` takes."""
    parser.add_argument("what", metavar="ID|PATH", nargs="*", help="what is relocated; by default everything")
    parser.add_argument("--content", action="store_true", help="read every byte back and compare it with the kept checksums")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG


def run(args: argparse.Namespace) -> int:
    """Look at some or all relocated trees; exit code 5 if one is damaged, else 1 if one could not be looked at."""
    from survived import errands
    from survived.act import fs
    from survived.act.task import Task
    from survived.ctl.progress import Bar, interrupts

    machine = local.open_machine(args)
    chosen = [errands.find_relocation(machine, word, "verify") for word in args.what] or list(machine.relocations())
    made = {item.target: item for _, item in machine.records.read(_makers)}
    readings = {reading.path: reading for reading in machine.read_stores()}
    task = Task(threading.Event())
    fs.allow_many_descriptors()
    fs.step_back()
    found = []
    with interrupts(task.stop), Bar(args) as bar:
        for store, item in chosen:
            watched = _Watched(task, bar, item, made.get(item.target), machine.settings.move.rate, content=args.content)
            found.append(_verify(machine, readings.get(store), store, watched))
    _report(args, found)
    if any(one.damage for one in found):
        return _DAMAGE
    return SurvivedError.exit_code if any(one.trouble for one in found) else 0


def _makers(journal: Any) -> tuple[Operation, ...]:
    found = (journal.maker(item.target) for item in journal.relocations())
    return tuple(item for item in found if item is not None)


class _Watched:
    """One look with its progress on a bar."""

    def __init__(self, task: Task, bar: Any, item: Relocation, made: Operation | None, rate: int, *, content: bool) -> None:
        from survived.model import Verb

        self.item, self.made, self.content, self._task, self._bar = item, made, content, task, bar
        size, files = (made.content_bytes, made.files) if made else (item.size_bytes, item.files)
        task.begin(
            Verb.RELOCATE, item.cache_id, item.source, item.target, bytes_total=max(0, size) if content else 0, files_total=files
        )
        task.limit(rate if content else 0)
        task.enter("verify")
        self._shown = 0.0

    def tick(self, size: int, entries: int) -> None:
        """Count, wait, show; raises `Stopped`."""
        from survived.ctl.progress import POLL_SECONDS
        from survived.tell.moving import progress_document

        self._task.tick(size, entries)
        if (now := time.monotonic()) - self._shown >= POLL_SECONDS:
            self._shown = now
            self._bar.show(progress_document(self._task.progress()))


def _verify(machine: Machine, reading: StoreReading | None, store: str, look: _Watched) -> Verified:
    from survived.act import verify
    from survived.decide.soundness import Soundness, judge

    item = look.item
    found = Verified(item, look.made)
    if reading is None or not reading.ok:
        why = reading.reason if reading is not None else None
        found.trouble = (why or "its disk is not among the data disks").rstrip(".")
        return found
    broken = verify.check_link(item)
    try:
        with _opened(store, item) as (store_fd, top_fd), contextlib.ExitStack() as open_things:
            sums = _kept(store_fd, found, store, open_things)
            mark = look.made.target_mark_ns if look.made is not None else 0
            found.seen = verify.check_tree(top_fd, mark_ns=mark, sums=sums, content=look.content, tick=look.tick)
    except (FileNotFoundError, NotADirectoryError):
        broken = _damage(f"its tree is not at '{item.target}'")
    except OSError as error:
        broken = _damage(f"its tree cannot be read: {cause_of(error)}")
    if found.seen is not None:
        found.state, found.damage = judge(look.made, found.seen)
    if broken is not None:
        found.state, found.damage = Soundness.DAMAGED, (broken, *found.damage)
    if found.damage and item.target not in {other.target for _, other in machine.relocations()}:
        found.state, found.damage = None, ()
        found.trouble = "it was brought home or moved on meanwhile"
    return found


@contextlib.contextmanager
def _opened(store: str, item: Relocation) -> Iterator[tuple[int, int]]:
    """Open a store and a tree in it, component by component, without following links."""
    from survived.act import fs

    with fs.opened(store) as store_fd:
        top_fd = fs.open_below(store_fd, os.path.relpath(item.target, store))
        try:
            yield store_fd, top_fd
        finally:
            os.close(top_fd)


def _kept(store_fd: int, found: Verified, store: str, open_things: contextlib.ExitStack) -> Iterator[tuple[str, str]] | None:
    from survived.store import sums

    if found.made is None or (file := sums.open_sums(store_fd, found.made.id)) is None:
        return None
    open_things.enter_context(file)
    found.sums = os.path.join(store, sums.FOLDER, sums.file_name(found.made.id))
    return sums.read_lines(file)


def _damage(why: str) -> Damage:
    from survived.findings import Damage

    return Damage("", why)


# ---- the answer ---------------------------------------------------------------------------------------------------


def _report(args: argparse.Namespace, found: list[Verified]) -> None:
    if args.json:
        print_json({"content": args.content, "trees": [_document(one, content=args.content) for one in found]})
        return
    for one in found:
        for line in _lines(one, content=args.content):
            print(printable(line))
    if not found:
        print("Nothing is relocated.")


def _document(one: Verified, *, content: bool) -> dict[str, Any]:
    from survived.tell.status import path_fields

    seen = one.seen
    return {
        "id": one.item.cache_id,
        **path_fields(one.item.source),
        **path_fields(one.item.target, "target"),
        "state": one.state.value if one.state is not None else "unreachable",
        "reason": one.trouble,
        "files": seen.files if seen else None,
        "changed": seen.changed if seen else None,
        "sums": one.sums,
        "compared": seen.compared if seen and content else None,
        "unsummed": seen.unsummed if seen and content else None,
        "read_bytes": seen.read_bytes if seen and content else None,
        "damaged": max(seen.damaged if seen else 0, len(one.damage)),
        "damage": [{**path_fields(item.path), "why": item.why} for item in one.damage],
    }


def _lines(one: Verified, *, content: bool) -> Iterator[str]:
    path = f"'{one.item.source}'"
    if one.state is None or one.trouble is not None:
        yield f"not looked at: {path}: {sentence(one.trouble or '')}"
        return
    seen = one.seen
    if one.damage:
        count = max(seen.damaged if seen else 0, len(one.damage))
        yield f"DAMAGED: {path}, {count:,} time{'' if count == 1 else 's'}:"
        for item in one.damage[:_LINES]:
            yield f"  '{os.path.join(one.item.target, item.path) if item.path else one.item.target}': {item.why}"
        if count > _LINES:
            yield f"  and {count - _LINES:,} more: see --json"
    if seen is None:
        return
    if not one.damage:
        yield f"{one.state.value}: {path}: {_known(one, seen)}"
    if content:
        yield f"  {_content(one, seen)}"


def _known(one: Verified, seen: TreeCheck) -> str:
    files = f"{seen.files:,} file{'' if seen.files == 1 else 's'}"
    if one.made is None:
        return f"{files}; the journal was made anew since the move, so nothing is known to hold them to."
    if not seen.changed and not seen.closed:
        return f"{files}, untouched since the move."
    closed = f"; {seen.closed:,} that we may not read" if seen.closed else ""
    return f"{files}; {seen.changed:,} change{'' if seen.changed == 1 else 's'} since the move by its tool{closed}."


def _content(one: Verified, seen: TreeCheck) -> str:
    read = f"{print_bytes(seen.read_bytes)} read back"
    if one.sums is None:
        why = '([move] verify = "content" keeps them): this tells what is unreadable, not what rots'
        return f"{read}; no checksums were kept of it {why}."
    without = f", {seen.unsummed:,} untouched without one" if seen.unsummed else ""
    return f"{read}; {seen.compared:,} untouched files are as their checksums{without}: '{one.sums}'."
