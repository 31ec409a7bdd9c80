"""
Packing: collect what is asked for beside the bundle, list it, write the archive, and read it all again.

Every step leaves what it has, so the same command goes on where the last one stopped: `NAME.work/state.json` says which
items are collected, and up to which byte the archive is written.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from survived.act import fs
from survived.errors import SurvivedError, UsageError
from survived.offline import archive, manifest, parts, space, verifying
from survived.offline.job import Collecting, Wish
from survived.offline.kinds import KINDS
from survived.offline.manifest import Entry, Item, Manifest, Target
from survived.offline.verifying import silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from survived.offline.command import Runner
    from survived.offline.inventory import Inventory
    from survived.offline.verifying import Tell, Verified

SUFFIX = ".tar.zst"
_STATE = "state.json"


@dataclass(frozen=True, slots=True)
class Order:
    """What to pack, for whom, and where to. `split` is the size of a part in bytes, 0 for one file."""

    wishes: tuple[Wish, ...]
    target: Target
    inventory: Inventory | None
    output: str
    split: int
    made: str
    maker: str


def work_folder(output: str) -> str:
    """Return the folder beside a bundle that holds what is not finished."""
    return f"{output}.work"


def refuse_existing(output: str) -> None:
    """Raise `UsageError` or `SurvivedError` if the bundle has a name that cannot be, or is there already."""
    if not output.endswith(SUFFIX):
        raise UsageError(f"Cannot write '{output}': the name of a bundle ends in {SUFFIX}. Nothing was packed.")
    if not os.path.isdir(os.path.dirname(os.path.abspath(output))):
        raise SurvivedError(f"Cannot write '{output}': its folder is not there. Nothing was packed.")
    there = next((path for path in (output, f"{output}.001") if os.path.lexists(path)), None)
    if there is not None and not os.path.exists(os.path.join(work_folder(output), _STATE)):
        raise SurvivedError(
            f"Cannot write '{there}': it is there already. Nothing was packed.", "Remove it, or name another: -o FILE."
        )


def pack(order: Order, runner: Runner, tell: Tell = silent, stop: Callable[[], None] = lambda: None) -> Verified:
    """
    Make a bundle; return it verified. `stop` is called often and raises to end.

    Raises what the kinds raise, `Refused` (no_room) before the archive is begun, and `SurvivedError` for a full disk.
    """
    refuse_existing(order.output)
    work = work_folder(order.output)
    with space.explained("pack to", order.output, "What was packed is kept."), _working(work) as state:
        payload = os.path.join(work, "payload")
        items = tuple(_collect(order, wish, number, payload, state, runner, tell) for number, wish in enumerate(order.wishes, 1))
        raw = _listed(order, items, payload, state, tell, stop)
        if not state.done.get("finish"):
            _write(order, raw, payload, state, tell, stop)
        verified = _finish(order, state, tell)
    shutil.rmtree(work, ignore_errors=True)
    return verified


class _State:
    """What is done so far, kept in a file that is always whole."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.done: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
            found = json.load(file)
            self.done = found if isinstance(found, dict) else {}

    def put(self, **values: Any) -> None:
        """Change and write."""
        self.done.update(values)
        fs.write_file(self._path, json.dumps(self.done).encode(), 0o600)


@contextlib.contextmanager
def _working(work: str) -> Iterator[_State]:
    os.makedirs(os.path.join(work, "payload"), mode=0o700, exist_ok=True)
    with open(os.path.join(work, "LOCK"), "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SurvivedError(
                f"Cannot use '{work}': another survivectl packs there. Nothing was changed.", "Wait for it."
            ) from error
        yield _State(os.path.join(work, _STATE))


# ---- collecting -----------------------------------------------------------------------------------------------------


def _collect(order: Order, wish: Wish, number: int, payload: str, state: _State, runner: Runner, tell: Tell) -> Item:
    root = (
        wish.kind
        if number == 1 or all(other.kind != wish.kind for other in order.wishes[: number - 1])
        else f"{wish.kind}-{number}"
    )
    key, asked = f"item {root}", _asked(order, wish)
    folder = os.path.join(payload, root)
    known = state.done.get(key)
    if known is not None and known["asked"] == asked:
        return Item(known["kind"], root, known["title"], Target(*known["target"]), known["facts"], tuple(known["omitted"]))
    scratch = os.path.join(os.path.dirname(payload), "scratch", root)
    begun = f"begun {root}"
    if state.done.get(begun) not in (None, asked):  # something else was asked for here before
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(scratch, ignore_errors=True)
    state.put(**{begun: asked, "listed": None})
    for place in (folder, scratch):
        os.makedirs(place, mode=0o700, exist_ok=True)
    tell("collect", 0, 0)
    item = KINDS[wish.kind].collect(wish, Collecting(root, folder, scratch, order.target, order.inventory, runner, tell))
    target = (item.target.machine, item.target.glibc, item.target.python)
    kept = {"asked": asked, "kind": item.kind, "title": item.title, "target": target, "facts": item.facts, "omitted": item.omitted}
    state.put(**{key: kept})
    return item


def _asked(order: Order, wish: Wish) -> str:
    """Return a digest of all that decides what is collected, so that another question gets another answer."""
    digest = hashlib.sha256(repr((wish, order.target, order.inventory)).encode("utf-8", "surrogateescape"))
    for word in wish.words:
        if wish.kind != "files" and os.path.isfile(word):
            with open(word, "rb") as file:
                digest.update(file.read())
    return digest.hexdigest()


# ---- the archive ----------------------------------------------------------------------------------------------------


def _listed(order: Order, items: tuple[Item, ...], payload: str, state: _State, tell: Tell, stop: Callable[[], None]) -> bytes:
    """Return the manifest: the one that an earlier try has begun to write, or one made now."""
    path, asked = os.path.join(os.path.dirname(payload), manifest.NAME), repr((items, order.split))
    if state.done.get("listed") == asked:
        with open(path, "rb") as file:
            return file.read()
    _drop_partial(order.output)
    for name in set(os.listdir(payload)) - {item.root for item in items}:  # of another order
        shutil.rmtree(os.path.join(payload, name))
    entries = tuple(_entries(payload, tell, stop))
    if not entries and not any(item.omitted for item in items):
        raise SurvivedError(f"Cannot pack '{order.output}': there is nothing in it. Nothing was packed.")
    raw = Manifest(order.made, order.maker, items, entries).dump()
    manifest.parse(raw, order.output)
    fs.write_file(path, raw, 0o600)
    state.put(listed=asked, frames=[0, 0], finish=None)
    return raw


def _entries(payload: str, tell: Tell, stop: Callable[[], None]) -> Iterator[Entry]:
    done = 0
    for place, folders, files in os.walk(payload):
        folders.sort()
        for name in sorted(files):
            path = os.path.join(place, name)
            digest, size = hashlib.sha256(), 0
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
                while data := file.read(archive.CHUNK):
                    stop()
                    digest.update(data)
                    size += len(data)
                    done += len(data)
                    tell("list", done, 0)
            yield Entry(os.path.relpath(path, payload), size, digest.hexdigest(), os.access(path, os.X_OK))


def _drop_partial(output: str) -> None:
    folder, name = os.path.split(os.path.abspath(output))
    for found in os.listdir(folder):
        if re.fullmatch(rf"{re.escape(name)}(\.\d{{3}})?\.partial", found):
            os.unlink(os.path.join(folder, found))


def _write(order: Order, raw: bytes, payload: str, state: _State, tell: Tell, stop: Callable[[], None]) -> None:
    listed = manifest.parse(raw, order.output)
    plain_at, packed_at = state.done["frames"]
    if packed_at > _partial_bytes(order.output):  # what was written is not there any more
        plain_at, packed_at = 0, 0
    space.require(order.output, max(0, listed.size - plain_at), "pack to")
    tell("pack", plain_at, listed.size)
    writer = parts.PartWriter(os.path.abspath(order.output), order.split, packed_at)
    try:
        for count, piece in archive.frames(archive.stream(raw, listed, payload, plain_at), stop):
            writer.write(piece)
            plain_at += count
            if count:
                writer.sync()
                state.put(frames=[plain_at, writer.at])
                tell("pack", plain_at, listed.size)
        state.put(finish=writer.finish())
    finally:
        writer.close()


def _partial_bytes(output: str) -> int:
    folder, name = os.path.split(os.path.abspath(output))
    found = [item for item in os.listdir(folder) if item.startswith(name) and item.endswith(".partial")]
    return sum(os.path.getsize(os.path.join(folder, item)) for item in found)


def _finish(order: Order, state: _State, tell: Tell) -> Verified:
    """Read all that was written, write the list of sums, and give the parts their names; a try before may have begun to."""
    output = os.path.abspath(order.output)
    names = [(str(partial), str(name)) for partial, name in state.done["finish"]]
    there = [partial if os.path.lexists(partial) else name for partial, name in names]
    try:
        verified = verifying.verify_files(there, output, tell=tell)
    except SurvivedError:
        state.put(frames=[0, 0], finish=None)  # the next try writes it anew
        raise
    sums = [total for _, total in parts.sums(there)]
    lines = "".join(f"{total}  {os.path.basename(name)}\n" for total, (_, name) in zip(sums, names, strict=True))
    fs.write_file(verifying.sums_file(output), lines.encode("utf-8", "surrogateescape"), 0o644)
    with fs.opened(os.path.dirname(output), follow=True) as folder_fd:
        for partial, name in names:
            if os.path.lexists(partial):
                fs.place(folder_fd, os.path.basename(partial), os.path.basename(name))
        os.fsync(folder_fd)
    return replace(verified, files=tuple(name for _, name in names))
