"""
Looks at a relocated tree for what no tool can have done to it: rot, losses, foreign hands. Reads only.

An entry whose ctime is not later than the move's mark was not touched since, and must be as it was moved. With `content`
every byte is read back from the device, and what was not touched is compared with the sums that were kept. The walk is in
their order, so neither is held in memory.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from survived.act import fs
from survived.act.comparing import GONE, READ, Links, is_too_hollow, listed, read_back
from survived.errors import cause_of
from survived.findings import Damage, TreeCheck
from survived.store.sums import order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from survived.model import Relocation

_SHOWN = 1000
_CLOSED = (errno.EACCES, errno.EPERM)


def check_link(item: Relocation) -> Damage | None:
    """Return what is wrong with the path that the user knows: it must be the link that we left."""
    try:
        leads_to = os.readlink(item.source)
    except FileNotFoundError:
        return Damage("", f"its link is gone: nothing is at '{item.source}'")
    except OSError as error:
        if error.errno == errno.EINVAL:
            return Damage("", f"its link was replaced: something else is at '{item.source}'")
        return Damage("", f"'{item.source}' cannot be read: {cause_of(error)}")
    return None if leads_to == item.target else Damage("", f"its link at '{item.source}' leads to '{leads_to}'")


def check_tree(
    top_fd: int, *, mark_ns: int, sums: Iterator[tuple[str, str]] | None, content: bool, tick: Callable[[int, int], None]
) -> TreeCheck:
    """
    Walk the open directory `top_fd` and return what was found; `tick(bytes, entries)` is called often and may raise to stop.

    `mark_ns` is the latest ctime of the copy when it was moved, 0 if nobody knows. `sums` are paths and digests in walk
    order, None if none were kept; they are only looked at with `content`.
    """
    walk = _Walk(top_fd, mark_ns, sums if content else None, tick, content=content)
    walk.run()
    return walk.result()


class _Walk:
    """The state of one look."""

    def __init__(
        self, top_fd: int, mark_ns: int, sums: Iterator[tuple[str, str]] | None, tick: Callable[[int, int], None], *, content: bool
    ) -> None:
        self._top_fd, self._mark, self._tick, self._content = top_fd, mark_ns, tick, content
        self._kept = _Kept(sums, self._lost, self._broke)
        self._uid, self._device = os.geteuid(), os.fstat(top_fd).st_dev
        self._links = Links()
        self._shut: list[str] = []  # folders, with a slash, below which nothing could be looked at
        self._judged: tuple[str, bool] = ("", False)
        self.files = self.content_bytes = self.changed = self.closed = self.compared = self.unsummed = 0
        self.read_bytes = self.damaged = 0
        self.damage: list[Damage] = []

    def result(self) -> TreeCheck:
        """Return what was found."""
        return TreeCheck(
            self.files, self.content_bytes, self.changed, self.closed, self.compared, self.unsummed, self.read_bytes,
            self.damaged, tuple(self.damage),
        )  # fmt: skip

    def run(self) -> None:
        # A frame: an open directory, its path, its sub directories still to do, the next one last.
        stack: list[tuple[int, str, list[str]]] = [(os.dup(self._top_fd), "", [])]
        try:
            # The move of the tree itself changed its root's ctime; who adds or removes there changes its mtime as well.
            self.changed += os.fstat(self._top_fd).st_mtime_ns > self._mark
            self._folder(*stack[0])
            while stack:
                fd, path, below = stack[-1]
                if not below:
                    stack.pop()
                    os.close(fd)
                    continue
                name = below.pop()
                deeper_fd = self._open_folder(fd, name, f"{path}{name}")
                if deeper_fd is not None:
                    stack.append((deeper_fd, f"{path}{name}/", []))
                    self._folder(*stack[-1])
            self._kept.end()
        finally:
            for fd, *_ in stack:
                os.close(fd)

    def _open_folder(self, parent_fd: int, name: str, where: str) -> int | None:
        try:
            fd = os.open(name, fs.DIRECTORY, dir_fd=parent_fd)
        except OSError as error:
            self._trouble(where, error, folder=True)
            return None
        found = os.fstat(fd)
        if found.st_dev != self._device:
            os.close(fd)
            self._shut.append(f"{where}/")
            self._add(where, "another filesystem is mounted over it")
            return None
        self._common(where, found)
        return fd

    def _folder(self, fd: int, path: str, below: list[str]) -> None:
        """Look at the entries of one open directory and add its sub directories to `below`."""
        try:
            others, folders = listed(fd)
        except OSError as error:
            self._trouble(path.rstrip("/"), error, folder=True)
            return
        below.extend(reversed(folders))
        for entry in others:
            where = f"{path}{entry.name}"
            try:
                found = os.stat(entry.name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):  # since it was listed
                    self.changed += 1
                    continue
                self.files += 1
                self.content_bytes += found.st_size
                touched = self._common(where, found)
                if self._content and stat.S_ISREG(found.st_mode):
                    self._read(fd, entry.name, where, found, touched=touched)
            except OSError as error:
                self._trouble(where, error)
            self._tick(0, 1)

    def _common(self, where: str, found: os.stat_result) -> bool:
        """Look at what every entry has; return whether it was touched since the move."""
        touched = found.st_ctime_ns > self._mark
        self.changed += touched
        if self._uid not in (0, found.st_uid):  # root moves what belongs to anybody
            self._add(where, f"it belongs to another user (uid {found.st_uid})")
        return touched

    def _read(self, fd: int, name: str, where: str, found: os.stat_result, *, touched: bool) -> None:
        kept = self._kept.take(where)
        known = self._links.find(found)
        if known is None:
            digest = self._read_back(fd, name, summed=kept is not None and not touched)
            self._links.note(found, digest)
        else:
            (digest,) = known
        if touched:
            return
        if kept is None or digest is None:
            self.unsummed += 1
        elif kept != digest:
            self._add(where, "its content is not what was moved, and nobody has written to it since")
        else:
            self.compared += 1

    def _read_back(self, fd: int, name: str, *, summed: bool) -> str | None:
        def count(size: int, entries: int) -> None:
            self.read_bytes += size
            self._tick(size, entries)

        try:
            file = os.open(name, READ | os.O_NOATIME, dir_fd=fd)  # a tool may drop what was not used for long
        except PermissionError:
            file = os.open(name, READ, dir_fd=fd)
        try:
            return read_back(file, count, summed=summed and not is_too_hollow(os.fstat(file)))
        finally:
            os.close(file)

    def _trouble(self, where: str, error: OSError, *, folder: bool = False) -> None:
        """Note what the kernel said about one entry."""
        if folder:
            self._shut.append(f"{where}/" if where else "")
        if error.errno in GONE:  # removed, or replaced, since it was listed
            self.changed += 1
        elif error.errno in _CLOSED:
            self.closed += 1
        else:
            self._add(where, f"it cannot be read: {cause_of(error)}")

    def _lost(self, where: str) -> None:
        """Judge a file of which a sum is kept and that is not there: its tool may have removed it, a disk may not."""
        if any(where.startswith(shut) for shut in self._shut):
            return
        folder = where.rpartition("/")[0]
        if self._judged[0] != folder or not folder:
            self._judged = folder, self._is_untouched(folder)
        if self._judged[1]:
            self._add(where, "it is gone, and nobody has touched its folder since the move")
        else:
            self.changed += 1

    def _is_untouched(self, folder: str) -> bool:
        """Tell whether the deepest folder on this path that is still there has not been touched since the move."""
        while folder:
            try:
                fd = fs.open_below(self._top_fd, folder)
            except OSError:
                folder = folder.rpartition("/")[0]
                continue
            try:
                return os.fstat(fd).st_ctime_ns <= self._mark
            finally:
                os.close(fd)
        return os.fstat(self._top_fd).st_mtime_ns <= self._mark

    def _broke(self, why: str) -> None:
        self._add("", f"the sums that were kept of it are damaged themselves: {why}")

    def _add(self, where: str, why: str) -> None:
        self.damaged += 1
        if len(self.damage) < _SHOWN:
            self.damage.append(Damage(where, why))


class _Kept:
    """The kept sums, read along with the walk."""

    def __init__(self, sums: Iterator[tuple[str, str]] | None, lost: Callable[[str], None], broke: Callable[[str], None]) -> None:
        self._sums, self._lost, self._broke = sums, lost, broke
        self._next = self._advance()

    def take(self, where: str) -> str | None:
        """Return the digest of a file, or None if none was kept; what was passed over is lost."""
        place = order(where) if self._next is not None else ()
        while self._next is not None:
            path, digest = self._next
            if path == where:
                self._next = self._advance()
                return digest
            if order(path) > place:
                return None
            self._next = self._advance()
            self._lost(path)
        return None

    def end(self) -> None:
        """Whatever is left is lost."""
        while self._next is not None:
            path, _ = self._next
            self._next = self._advance()
            self._lost(path)

    def _advance(self) -> tuple[str, str] | None:
        if self._sums is None:
            return None
        try:
            return next(self._sums, None)
        except (ValueError, OSError) as error:
            self._sums = None
            self._broke(cause_of(error) if isinstance(error, OSError) else str(error))
            return None
