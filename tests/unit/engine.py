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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from survived.act import relocate as engine
from survived.act import task as tasks
from survived.act.ballast import Ballast
from survived.act.transfer import Care
from survived.model import Mark, Operation, TreeSize
from survived.observe.disks import read_filesystem
from survived.observe.tree import measure_tree
from survived.store import journal, layout
from survived.store.database import Database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SWIFT = Care(settle_seconds=0.0, patience_seconds=1.0)
ORDINARY = 12345
NOT_OF_THE_TREE = ("security.selinux", "trusted.SGI_ACL_")  # the second: how xfs shows root its ACLs a second time
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Entry(NamedTuple):
    """All of one entry that must survive a move. `links` are the other names of its inode in the tree."""

    kind: int
    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    xattrs: tuple[tuple[str, bytes], ...]
    content: str
    data: tuple[tuple[int, int], ...]  # where data lies, if there are holes
    links: frozenset[bytes]


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
    """The two ends of a move. `source` is not made yet; `reopen` is what a restart of the daemon does to a store."""

    home: Path
    disk: Path
    source: Path
    ballast_bytes: int = 1 << 16
    ends: engine.Ends = None  # type: ignore[assignment]
    database: Database = None  # type: ignore[assignment]

    def open(self) -> Rig:
        """Open or make the store and its journal."""
        avoid = {self.home.stat().st_dev}
        reading = layout.read_store(str(self.disk), read_filesystem(str(self.disk)), uid=os.getuid(), avoid=avoid)
        store = layout.open_store(reading, uid=os.getuid())
        self.database = Database(f"{store.path}/state.db", journal.SCHEMA)
        ballast = Ballast(str(self.home / ".local/state/survived"), self.ballast_bytes)
        self.ends = engine.Ends(store, journal.Journal(self.database), ballast, str(self.home))
        return self

    def close(self) -> None:
        """Close the store, as the end of the process would."""
        if self.database is not None:
            self.database.close()
            self.ends.store.close()
            self.database = None  # type: ignore[assignment]

    def reopen(self) -> Rig:
        """Close and open."""
        self.close()
        return self.open()

    @property
    def target(self) -> Path:
        """Where the source goes when nothing of that name is there."""
        return self.disk / "survived/trees" / str(self.source).lstrip("/")

    def relocate(self, *, care: Care = SWIFT, lock: str | None = None, **changes: Any) -> Operation:
        """Relocate the source."""
        try:
            size = measure_tree(str(self.source))
        except OSError:
            size = TreeSize()
        values: dict[str, Any] = {"size": size, "keep_free": Mark(usage=0.99), "task": new_task()}
        return engine.relocate(self.ends, "tool", str(self.source), lock=lock, care=care, **{**values, **changes})

    def restore(self, *, care: Care = SWIFT, lock: str | None = None, **changes: Any) -> Operation:
        """Restore the source."""
        (item,) = [r for r in self.ends.journal.relocations() if r.source == str(self.source)]
        values: dict[str, Any] = {"size": measure_tree(item.target), "high": Mark(usage=0.99), "forced": False, "task": new_task()}
        return engine.restore(self.ends, item, lock=lock, care=care, **{**values, **changes})

    def leftovers(self) -> list[str]:
        """Return what an operation left that it should not have: beside the source, in staging, in empty folders."""
        beside = [name for name in os.listdir(self.source.parent) if name != self.source.name]
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
        return beside + staging + trees


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
    names_of: dict[int, set[bytes]] = {}
    inodes: dict[bytes, int] = {}
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
            names_of.setdefault(info.st_ino, set()).add(where)
            inodes[where] = info.st_ino
        if stat.S_ISDIR(info.st_mode):
            below = os.open(name, DIRECTORY, dir_fd=fd)
            stack.append((below, where + b"/", [os.fsencode(name) for name in os.listdir(below)]))
    return {
        where: entry._replace(links=frozenset(names_of[inodes[where]] - {where})) if where in inodes else entry
        for where, entry in found.items()
    }


def _describe(path: str, info: os.stat_result) -> Entry:
    kind, content = stat.S_IFMT(info.st_mode), ""
    data: tuple[tuple[int, int], ...] = ()
    if kind == stat.S_IFREG:
        content, data = _read(path, info)
    elif kind == stat.S_IFLNK:
        content = os.readlink(path)
    names = [name for name in sorted(os.listxattr(path, follow_symlinks=False)) if not name.startswith(NOT_OF_THE_TREE)]
    xattrs = tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)
    owner = (info.st_uid, info.st_gid)
    return Entry(kind, stat.S_IMODE(info.st_mode), owner, info.st_mtime_ns, xattrs, content, data, frozenset())


def _read(path: str, info: os.stat_result) -> tuple[str, tuple[tuple[int, int], ...]]:
    digest, at = hashlib.blake2b(f"{info.st_size}".encode()), 0
    ranges: list[tuple[int, int]] = []
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME)
    try:
        while at < info.st_size:
            try:
                begin = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:  # ENXIO: a hole up to the end
                break
            at = min(os.lseek(fd, begin, os.SEEK_HOLE), info.st_size)
            ranges.append((begin, at))
            for offset in range(begin, at, 1 << 20):
                digest.update(b"%d" % offset + os.pread(fd, min(1 << 20, at - offset), offset))
    finally:
        os.close(fd)
    return digest.hexdigest(), () if ranges == [(0, info.st_size)] else tuple(ranges)


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
def ordinary_folder() -> Iterator[Path]:
    """Yield a folder in /tmp that an ordinary user owns: pytest's own are closed to others."""
    folder = tempfile.mkdtemp(prefix="survived-test-")
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
