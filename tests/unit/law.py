"""A home and two data disks that can be filled and unplugged, and a user's files in them with what the user was told of each."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from survived.act import recover
from survived.act import relocate as engine
from survived.act.attempt import check_unfinished, said
from survived.errors import SurvivedError
from survived.model import Mark, Operation, Relocation, TreeSize, Verb
from survived.observe.tree import measure_tree
from tests.unit.engine import SWIFT, Rig, new_task, snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from survived.errors import NeedsPerson
    from survived.store.journal import Journal
    from survived.store.layout import Store
    from tests.unit.engine import Entry

_SIZE = "size=1536k,nr_inodes=400,mode=700"
_BIND, _DETACH = 4096, 2
_ROOM = Mark(usage=0.999)
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class File:
    """What the user knows of an inode: a directory has no content. Hard links are names of one File."""

    mode: int
    content: bytes | None = None


@dataclass
class World:
    """
    Small filesystems: one with home and the two empty mount points, as `/` has them, and the two disks.

    An unplugged disk keeps what it has: what is mounted at its place is a second view of it.
    """

    root: Path
    source: Path = None  # type: ignore[assignment]
    rigs: dict[int, Rig] = field(default_factory=dict)  # the stores that are open, by disk
    away: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.home = self.root / "home"
        self.source = self.home / ".cache/tool"
        self.disks = [self.root / "one", self.root / "two"]

    def begin(self) -> None:
        """Make all as it was in the beginning: an empty source, two stores that hold nothing."""
        for number in list(self.away):
            self.plug(number)
        for place in (self.home, *self.disks):
            for path in place.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        self.source.mkdir(parents=True)
        for disk in self.disks:
            (disk / "alice").mkdir()
        self.open().close()

    def unplug(self, number: int) -> None:
        """Take a disk away; its mount point is an empty folder of the filesystem that is kept free."""
        _check(_libc.umount2(os.fsencode(self.disks[number]), _DETACH))
        self.away.add(number)

    def plug(self, number: int) -> None:
        """Mount a disk again."""
        _mount(self.root / f".{self.disks[number].name}", self.disks[number], flags=_BIND)
        self.away.discard(number)

    def fill(self, place: Path, keep_pages: int) -> None:
        """Leave so many free blocks on a filesystem."""
        with open(place / ".filler", "ab", buffering=0) as file, suppress(OSError):
            while os.statvfs(place).f_bavail > keep_pages:
                file.write(bytes(os.statvfs(place).f_bsize))

    def empty(self) -> None:
        """Remove what fills anything."""
        for place in (self.home, *self.disks):
            (place / ".filler").unlink(missing_ok=True)

    def open(self) -> World:
        """Open the store on each disk that is there and lets us, as the daemon does; of one that is away it is to be refused."""
        for number, disk in enumerate(self.disks):
            with suppress(SurvivedError, OSError):  # OSError: it is full
                self.rigs[number] = Rig(self.home, disk / "alice", self.source).open()
        for rig in self.rigs.values():
            rig.ends = replace(rig.ends, find=self._find)
            rig.ends.ballast.lay()
        return self

    def close(self) -> None:
        """Close the stores."""
        for rig in self.rigs.values():
            rig.close()
        self.rigs.clear()

    @contextmanager
    def opened(self) -> Iterator[World]:
        """Have the stores open for the duration of a block."""
        try:
            yield self.open()
        finally:
            self.close()

    def _find(self, path: str) -> tuple[Store, Journal] | None:
        for rig in self.rigs.values():
            if path.startswith(f"{rig.ends.store.path}/"):
                return rig.ends.store, rig.ends.journal
        return None

    def lives_on(self) -> int | None:
        """Return the disk to which the link leads, or None where the tree is at home."""
        if not self.source.is_symlink():
            return None
        to = os.readlink(self.source)
        return next(number for number, disk in enumerate(self.disks) if to.startswith(f"{disk}/"))

    def _item(self) -> tuple[int, Relocation] | None:
        """Return the disk and the record of the relocated source, if a journal that is open knows it."""
        for number, rig in self.rigs.items():
            for item in rig.ends.journal.relocations():
                if item.source == str(self.source) and self.source.is_symlink() and os.readlink(self.source) == item.target:
                    return number, item
        return None

    def act(self, home: bool, to: int) -> Operation | None:
        """
        Relocate what is at home to a disk; of what is not, restore it (`home`) or rehome it to the disk where it is not.

        None where a disk that this takes is away, or no journal knows the link yet. Raises as the engine does.
        """
        with said(str(self.source), Verb.RELOCATE):
            for rig in self.rigs.values():  # as errands.py does, for one path may have been moved to and from both disks
                check_unfinished(rig.ends, str(self.source))
        with_all: dict[str, Any] = {"lock": (), "care": SWIFT, "task": new_task()}
        if not self.source.is_symlink():
            if to not in self.rigs:
                return None
            size = _measured(self.source)
            return engine.relocate(self.rigs[to].ends, "tool", str(self.source), size=size, keep_free=_ROOM, **with_all)
        found = self._item()
        if found is None:
            return None
        number, item = found
        size = _measured(item.target)
        if home:
            return engine.restore(self.rigs[number].ends, item, size=size, high=_ROOM, forced=True, **with_all)
        if 1 - number not in self.rigs:
            return None
        return engine.rehome(self.rigs[1 - number].ends, self.rigs[number].ends, item, size=size, keep_free=_ROOM, **with_all)

    def recover(self) -> tuple[list[Operation], list[NeedsPerson]]:
        """Recover in every store that is open."""
        ended: list[Operation] = []
        puzzles: list[NeedsPerson] = []
        for rig in self.rigs.values():
            done, asked = recover.recover_all(rig.ends.store, rig.ends.journal, self._find)
            ended += done
            puzzles += asked
        return ended, puzzles

    def unfinished(self) -> list[tuple[int, Operation]]:
        """Return what is unfinished in the open stores, with the disk of its journal."""
        return [(number, operation) for number, rig in self.rigs.items() for operation in rig.ends.journal.open_operations()]

    def leftovers(self) -> list[str]:
        """Return what lies where nothing accounts for it: beside the source, in the stores."""
        beside = [name for name in os.listdir(self.source.parent) if name != self.source.name]
        return beside + [name for rig in self.rigs.values() for name in rig.litter()]

    def check_journals(self) -> None:
        """Assert that exactly the tree to which the link leads is recorded, if any."""
        recorded = [item.target for rig in self.rigs.values() for item in rig.ends.journal.relocations()]
        assert recorded == ([os.readlink(self.source)] if self.source.is_symlink() else [])


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Mount a world below an empty folder; needs root."""
    with ExitStack() as stack:
        _mount_tmpfs(folder, stack)
        made = World(folder)
        made.home.mkdir()
        for disk in made.disks:
            disk.mkdir()
            (folder / f".{disk.name}").mkdir()
            _mount_tmpfs(folder / f".{disk.name}", stack)
            _mount(folder / f".{disk.name}", disk, flags=_BIND)
            stack.callback(lambda disk=disk: _libc.umount2(os.fsencode(disk), _DETACH))
        yield made


def _measured(path: Path | str) -> TreeSize:
    try:
        return measure_tree(str(path))
    except OSError:
        return TreeSize()


def _mount_tmpfs(path: Path, stack: ExitStack) -> None:
    _mount("tmpfs", path, kind=b"tmpfs", options=_SIZE.encode())
    stack.callback(lambda: _libc.umount2(os.fsencode(path), _DETACH))


def _mount(what: Path | str, path: Path, *, kind: bytes | None = None, flags: int = 0, options: bytes | None = None) -> None:
    _check(_libc.mount(os.fsencode(what), os.fsencode(path), kind, flags, options))


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class User:
    """
    Works on files below a path as tools do, and remembers what was acknowledged: `files` by their names, the root is "".

    Every method does nothing where no tool would try, such as in a folder that is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = {"": File(stat.S_IMODE(path.stat().st_mode))}
        self.last: dict[bytes, Entry] = snapshot(path)

    def _is_folder(self, name: str) -> bool:
        return name in self.files and self.files[name].content is None

    def _may_make(self, name: str) -> bool:
        return self._is_folder(name.rpartition("/")[0]) and name not in self.files

    def _below(self, name: str) -> list[str]:
        return [other for other in self.files if other == name or other.startswith(f"{name}/")]

    def write(self, name: str, data: bytes, at: int | None) -> None:
        """Write a file anew (None), append (-1), or overwrite from an offset on, and fsync it."""
        new = self._may_make(name) and at is None
        if not new and (name not in self.files or self._is_folder(name)):
            return
        there = self.files.setdefault(name, File(0o644, b""))
        before = b"" if at is None else there.content or b""
        begin = len(before) if at == -1 else min(at or 0, len(before))
        try:
            fd = os.open(self.path / name, os.O_WRONLY | (os.O_CREAT | os.O_TRUNC if at is None else 0), 0o644)
            try:
                done = 0
                while done < len(data):
                    done += os.pwrite(fd, data[done:], begin + done)
                os.fsync(fd)
            finally:
                os.close(fd)
            there.content = before[:begin] + data + before[begin + len(data) :]
        except OSError as error:
            self._was_full(error)  # nothing was acknowledged: what is there is what the kernel took
            if os.path.lexists(self.path / name):
                there.content = (self.path / name).read_bytes()
            else:
                del self.files[name]

    def make_folder(self, name: str) -> None:
        """Make a directory."""
        if self._may_make(name):
            with self._unless_full():
                os.mkdir(self.path / name, 0o755)
                self.files[name] = File(0o755)

    def link(self, name: str, to: str) -> None:
        """Give a file a second name."""
        if self._may_make(name) and to in self.files and not self._is_folder(to):
            with self._unless_full():
                os.link(self.path / to, self.path / name)
                self.files[name] = self.files[to]

    def rename(self, name: str, to: str) -> None:
        """Rename a file or a directory, a file also over another one."""
        over = to in self.files and not self._is_folder(to) and not self._is_folder(name) and to != name
        if not name or name not in self.files or to.startswith(f"{name}/") or not (self._may_make(to) or over):
            return
        with self._unless_full():
            os.rename(self.path / name, self.path / to)
            if over and self.files[name] is self.files[to]:  # two names of one inode: nothing happens
                return
            for other in self._below(name):
                self.files[to + other[len(name) :]] = self.files.pop(other)

    def delete(self, name: str) -> None:
        """Remove a file or a tree."""
        if name and name in self.files:
            path = self.path / name
            shutil.rmtree(path) if self._is_folder(name) else path.unlink()
            for other in self._below(name):
                del self.files[other]

    def chmod(self, name: str, mode: int) -> None:
        """Change a mode."""
        if name in self.files:
            os.chmod(self.path / name, mode)
            self.files[name].mode = mode

    def note(self) -> None:
        """Remember how the tree looks with all its times and links, once it was seen to hold what it must."""
        self.check_files()
        self.last = snapshot(self.path)

    def check(self) -> None:
        """Assert that the path has all that was acknowledged and nothing else, to the last attribute."""
        self.check_files()
        assert snapshot(self.path) == self.last

    def check_files(self) -> None:
        """Assert that names, contents, modes and hard links are what the user was told."""
        found: dict[str, tuple[int, bytes | None]] = {}
        inodes: dict[str, int] = {}
        for folder, _, files in os.walk(self.path):
            below = os.path.relpath(folder, self.path).removeprefix(".").removeprefix("/")
            found[below] = stat.S_IMODE(os.stat(folder).st_mode), None
            for base in files:
                name = os.path.join(below, base)
                with open(self.path / name, "rb") as file:
                    info = os.fstat(file.fileno())
                    found[name], inodes[name] = (stat.S_IMODE(info.st_mode), file.read()), info.st_ino
        assert found == {name: (file.mode, file.content) for name, file in self.files.items()}
        one = {name: min(other for other, it in self.files.items() if it is self.files[name]) for name in inodes}
        assert all(inodes[name] == inodes[first] for name, first in one.items())
        assert len(set(inodes.values())) == len(set(one.values()))

    @contextmanager
    def _unless_full(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._was_full(error)

    @staticmethod
    def _was_full(error: OSError) -> None:
        if error.errno != errno.ENOSPC:
            raise error
