"""A store on another filesystem, a home with a source to move, and a full description of a tree for comparing."""

from __future__ import annotations

import codecs
import hashlib
import os
import stat
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from survived.act import recover
from survived.act import relocate as engine
from survived.act import task as tasks
from survived.act.ballast import Ballast
from survived.act.transfer import Care
from survived.model import Mark, Operation, Relocation, TreeSize, Verb
from survived.observe.disks import read_filesystem
from survived.observe.tree import measure_tree
from survived.store import journal, layout
from survived.store.database import Database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from survived.errors import NeedsPerson

SWIFT = Care(settle_seconds=0.0, patience_seconds=1.0)
ORDINARY = 12345
NOT_OF_THE_TREE = ("security.selinux", "trusted.SGI_ACL_")  # the second: how xfs shows root its ACLs a second time
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WINDOW = 1 << 16


class Entry(NamedTuple):
    """All of one entry that must survive a move. Devices have their numbers as content."""

    kind: int
    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    xattrs: tuple[tuple[str, bytes], ...]
    content: str
    data: tuple[tuple[int, int], ...]  # where data lies, if blocks are missing
    links: tuple[int, bytes]  # how many names its inode has in the tree, and the first of them; (1, b"") for one


def new_task() -> tasks.Task:
    """Return a task that nobody stops."""
    return tasks.Task(threading.Event())


def remove(path: Path | str) -> None:
    """Remove a tree of any depth, with directories that nobody may write."""
    subprocess.run(["chmod", "-R", "u+rwX", path], check=False, capture_output=True)
    subprocess.run(["rm", "-rf", path], check=True)


class HookedTask(tasks.Task):
    """A task that calls `hook` when it first enters a phase."""

    def __init__(self, phase: str, hook: Callable[[], object]) -> None:
        super().__init__(threading.Event())
        self._hooked, self._hook = phase, hook

    def enter(self, phase: str) -> None:
        """Enter a phase."""
        super().enter(phase)
        if phase == self._hooked:
            self._hooked = ""
            self._hook()


@contextmanager
def other_filesystem(tmp_path: Path) -> Iterator[Path]:
    """Yield an empty folder on another filesystem than `tmp_path`; skip where there is none for an ordinary user."""
    if not os.access("/dev/shm", os.W_OK) or os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("needs a writable /dev/shm on another filesystem than the temporary folder")
    folder = tempfile.mkdtemp(prefix="survived-test-", dir="/dev/shm")
    try:
        yield Path(folder)
    finally:
        remove(folder)


@dataclass
class Rig:
    """
    The two ends of a move. `source` is not made yet; `reopen` is what a restart of the daemon does to a store.

    With `second`, another data disk, there is a store for a rehome to go to.
    """

    home: Path
    disk: Path
    source: Path
    ballast_bytes: int = 1 << 16
    second: Path | None = None
    ends: engine.Ends = None  # type: ignore[assignment]
    database: Database = None  # type: ignore[assignment]
    other: Rig | None = None

    def open(self) -> Rig:
        """Open or make the store and its journal."""
        avoid = {self.home.stat().st_dev}
        reading = layout.read_store(str(self.disk), read_filesystem(str(self.disk)), uid=os.getuid(), avoid=avoid)
        store = layout.open_store(reading, uid=os.getuid())
        self.database = Database(f"{store.path}/state.db", journal.SCHEMA)
        ballast = Ballast(str(self.home / ".local/state/survived"), self.ballast_bytes)
        self.ends = engine.Ends(store, journal.Journal(self.database), ballast, str(self.home), self._find)
        if self.second is not None:
            self.second.mkdir(exist_ok=True)
            self.other = Rig(self.home, self.second, self.source, self.ballast_bytes).open()
            ends = self.other.ends
            if ends.store.device_id == store.device_id:  # which a rehome refuses; here it is only to look like two disks
                ends = replace(ends, store=replace(ends.store, device_id=-1))
            self.other.ends = replace(ends, find=self._find)
        return self

    def _rigs(self) -> list[Rig]:
        return [self] if self.other is None else [self, self.other]

    def _find(self, path: str) -> tuple[layout.Store, journal.Journal] | None:
        stores = [(rig.ends.store, rig.ends.journal) for rig in self._rigs()]
        return next((pair for pair in stores if path.startswith(f"{pair[0].path}/")), None)

    def close(self) -> None:
        """Close the store, as the end of the process would."""
        if self.other is not None:
            self.other.close()
            self.other = None
        if self.database is not None:
            self.database.close()
            self.ends.store.close()
            self.database = None  # type: ignore[assignment]

    def reopen(self) -> Rig:
        """Close and open."""
        self.close()
        return self.open()

    def recover(self) -> tuple[list[Operation], list[NeedsPerson]]:
        """Recover all that is unfinished, as each start does."""
        ended: list[Operation] = []
        puzzles: list[NeedsPerson] = []
        for rig in self._rigs():
            done, asked = recover.recover_all(rig.ends.store, rig.ends.journal, self._find)
            ended += done
            puzzles += asked
        return ended, puzzles

    def open_operations(self) -> list[Operation]:
        """Return what is unfinished."""
        return [operation for rig in self._rigs() for operation in rig.ends.journal.open_operations()]

    def recorded(self) -> list[Relocation]:
        """Return where the journals say that the source lives."""
        found = [item for rig in self._rigs() for item in rig.ends.journal.relocations()]
        return [item for item in found if item.source == str(self.source)]

    def prepare(self, verb: Verb) -> Rig:
        """Bring an open rig to where `verb` can begin: the source is relocated, and a second disk is there."""
        if verb is not Verb.RELOCATE:
            self.relocate()
        if verb is Verb.REHOME and self.second is None:
            self.second = self.disk.with_name("second")
            self.reopen()
        return self

    def act(self, verb: Verb, **options: Any) -> Operation:
        """Relocate, restore, or rehome to the second disk."""
        return {Verb.RELOCATE: self.relocate, Verb.RESTORE: self.restore, Verb.REHOME: self.rehome}[verb](**options)

    @property
    def target(self) -> Path:
        """Where the source goes when nothing of that name is there."""
        return self.disk / "survived/trees" / str(self.source).lstrip("/")

    def relocate(self, *, care: Care = SWIFT, lock: tuple[str, ...] = (), **changes: Any) -> Operation:
        """Relocate the source."""
        size = changes.pop("size", None) or _measured(self.source)
        values: dict[str, Any] = {"size": size, "keep_free": Mark(usage=0.99), "task": new_task()}
        return engine.relocate(self.ends, "tool", str(self.source), lock=lock, care=care, **{**values, **changes})

    def restore(self, *, care: Care = SWIFT, lock: tuple[str, ...] = (), **changes: Any) -> Operation:
        """Restore the source."""
        (item,) = [r for r in self.ends.journal.relocations() if r.source == str(self.source)]
        values: dict[str, Any] = {"size": _measured(item.target), "high": Mark(usage=0.99), "forced": False, "task": new_task()}
        return engine.restore(self.ends, item, lock=lock, care=care, **{**values, **changes})

    def rehome(self, *, care: Care = SWIFT, lock: tuple[str, ...] = (), **changes: Any) -> Operation:
        """Move the relocated source to the second disk."""
        assert self.other is not None
        (item,) = [r for r in self.ends.journal.relocations() if r.source == str(self.source)]
        values: dict[str, Any] = {"size": _measured(item.target), "keep_free": Mark(usage=0.99), "task": new_task()}
        return engine.rehome(self.other.ends, self.ends, item, lock=lock, care=care, **{**values, **changes})

    def leftovers(self) -> list[str]:
        """Return what an operation left that it should not have: beside the source, in staging, in empty folders."""
        beside = [name for name in os.listdir(self.source.parent) if name != self.source.name]
        return beside + [name for rig in self._rigs() for name in rig.litter()]

    def litter(self) -> list[str]:
        """Return what one store holds that nothing accounts for."""
        staging = [f"staging/{name}" for name in os.listdir(self.disk / "survived/staging")]
        recorded = {item.target for item in self.ends.journal.relocations()}
        trees: list[str] = []
        for folder, folders, files in os.walk(self.disk / "survived/trees"):
            if folder in recorded:
                folders.clear()
                continue
            if not folders and folder != str(self.disk / "survived/trees"):
                trees.append(folder)
            trees += [os.path.join(folder, name) for name in files]
        return staging + trees


def _measured(path: Path | str) -> TreeSize:
    try:
        return measure_tree(str(path))
    except OSError:
        return TreeSize()


@contextmanager
def build(tmp_path: Path, disk: Path | None = None) -> Iterator[Rig]:
    """Yield an open rig whose home is below `tmp_path` and whose store is on `disk`, by default in /dev/shm."""
    with other_filesystem(tmp_path) if disk is None else _same(disk) as folder:
        home = tmp_path / "home"
        (home / ".cache").mkdir(parents=True)
        rig = Rig(home, folder / "alice", home / ".cache/tool")
        rig.disk.mkdir()
        rig.open()
        try:
            yield rig
        finally:
            rig.close()


@contextmanager
def _same(path: Path) -> Iterator[Path]:
    yield path


def snapshot(path: Path | str) -> dict[bytes, Entry]:
    """Describe the whole tree at `path`, itself as b"": everything that a faithful copy has, however deep it is."""
    found: dict[bytes, Entry] = {}
    names_of: dict[tuple[int, int], list[bytes]] = {}
    top = os.open(os.path.realpath(path), DIRECTORY)
    stack = [(top, b"", [os.fsencode(name) for name in os.listdir(top)])]
    found[b""] = _describe(f"/proc/self/fd/{top}/.", os.fstat(top))
    while stack:
        fd, prefix, names = stack[-1]
        if not names:
            os.close(fd)
            stack.pop()
            continue
        name = names.pop()
        info = os.stat(name, dir_fd=fd, follow_symlinks=False)
        where = prefix + name
        found[where] = _describe(f"/proc/self/fd/{fd}/{os.fsdecode(name)}", info)
        if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
            names_of.setdefault((info.st_dev, info.st_ino), []).append(where)
        if stat.S_ISDIR(info.st_mode):
            below = os.open(name, DIRECTORY, dir_fd=fd)
            stack.append((below, where + b"/", [os.fsencode(name) for name in os.listdir(below)]))
    for names in names_of.values():
        first = min(names)
        for where in names if len(names) > 1 else ():
            found[where] = found[where]._replace(links=(len(names), first))
    return found


def _describe(path: str, info: os.stat_result) -> Entry:
    kind, content = stat.S_IFMT(info.st_mode), ""
    data: tuple[tuple[int, int], ...] = ()
    if kind == stat.S_IFREG:
        content, data = _read(path, info)
    elif kind == stat.S_IFLNK:
        content = os.readlink(path)
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        content = f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"
    names = [name for name in sorted(os.listxattr(path, follow_symlinks=False)) if not name.startswith(NOT_OF_THE_TREE)]
    xattrs = tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)
    owner = (info.st_uid, info.st_gid)
    return Entry(kind, stat.S_IMODE(info.st_mode), owner, info.st_mtime_ns, xattrs, content, data, (1, b""))


def _read(path: str, info: os.stat_result) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Return a digest that zeros and holes do not change, and where data lies if the file has fewer blocks than bytes."""
    digest, at = hashlib.blake2b(f"{info.st_size}".encode()), 0
    ranges: list[tuple[int, int]] = []
    done = 0
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME)
    try:
        while at < info.st_size:
            try:
                begin = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:  # ENXIO: a hole up to the end
                break
            at = min(os.lseek(fd, begin, os.SEEK_HOLE), info.st_size)
            ranges.append((begin, at))
            for offset in range(begin - begin % _WINDOW, at, _WINDOW):
                window = os.pread(fd, _WINDOW, offset)
                if offset >= done and window.count(0) < len(window):
                    digest.update(b"%d " % offset + window)
                done = offset + _WINDOW
    finally:
        os.close(fd)
    return digest.hexdigest(), tuple(ranges) if info.st_blocks * 512 < info.st_size else ((0, info.st_size),)


@contextmanager
def child(*acts: Callable[[], object]) -> Iterator[Callable[[], None]]:
    """
    Fork a process that has run the first of `acts` already; what they return stays referenced, so that files stay open.

    Each call of what is yielded makes it run the next one. It ends with the block, or at the call after the last act.
    """
    asked, ask = os.pipe()
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(ask)
            os.close(told)
            kept = []
            for act in acts:
                kept.append(act())
                os.write(tell, b"1")
                if not os.read(asked, 1):
                    break
            code = 0
        finally:
            os._exit(code)
    os.close(asked)
    os.close(tell)
    ended = False

    def step() -> None:
        nonlocal ended
        os.write(ask, b"1")
        if not os.read(told, 1) and not ended:
            ended = True
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    try:
        assert os.read(told, 1), "the child failed"
        yield step
    finally:
        os.close(ask)
        os.close(told)
        if not ended:
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def as_ordinary_user(work: Callable[[], object]) -> str:
    """Run `work` in a child that is no root (uid 12345, if we are) and return str() of what it returns, or of its error."""
    told, tell = os.pipe()
    codecs.lookup("ascii")  # codecs are loaded at their first use, from where an ordinary user may not read
    pid = os.fork()
    if pid == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(ORDINARY)
                os.setuid(ORDINARY)
            text = str(work())
        except BaseException as error:  # noqa: BLE001  the parent asserts on it
            text = f"{type(error).__name__} {getattr(error, 'reason', '')}: {error}"
        os.write(tell, os.fsencode(text)[:60000])
        os._exit(0)
    os.close(tell)
    with os.fdopen(told, "rb") as file:
        text = os.fsdecode(file.read())
    os.waitpid(pid, 0)
    return text


@contextmanager
def ordinary_folder(where: str | None = None) -> Iterator[Path]:
    """Yield a folder in /tmp, or `where`, that an ordinary user owns: pytest's own are closed to others."""
    folder = tempfile.mkdtemp(prefix="survived-test-", dir=where)
    try:
        if os.geteuid() == 0:
            os.chown(folder, ORDINARY, ORDINARY)
        yield Path(folder)
    finally:
        remove(folder)


def contents(path: Path | str) -> dict[bytes, tuple[int, str]]:
    """Return kind and content of every entry: what must be equal even where times and modes may not."""
    return {name: (entry.kind, entry.content) for name, entry in snapshot(path).items()}


def nasty_tree(root: Path, *, rest: bool = True) -> None:
    """Make about a dozen entries, one of each sort, below `root`; `rest` waits until the first pass may trust their ctimes."""
    root.mkdir(parents=True)
    (root / "a").write_bytes(b"first" * 1000)
    (root / "empty").touch()
    (root / "dir/sub").mkdir(parents=True)
    (root / "hollow").mkdir()
    (root / "dir/file").write_bytes(os.urandom(5000))
    os.link(root / "dir/file", root / "dir/sub/same")
    os.symlink("file", root / "dir/link")
    os.symlink("/nowhere/at all", root / "dangling")
    os.mkfifo(root / "fifo", 0o640)
    with open(root / "sparse", "wb") as file:
        file.truncate(3 << 20)
        file.seek(2 << 20)
        file.write(b"x" * 4096)
    Path(os.fsdecode(bytes(root) + b"/\xff\n")).write_text("odd")
    os.setxattr(root / "a", "user.note", b"kept")
    (root / "dir/sub/same").chmod(0o4711)
    os.utime(root / "a", ns=(1, 1_234_567_890_123_456_789))
    (root / "dir/sub").chmod(0o555)
    if rest:
        time.sleep(0.025)  # past the tick of the clock
