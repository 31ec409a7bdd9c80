"""
The checksums that are kept of a relocated tree: `sums/<operation id>.b2` in its store, as coreutils' b2sum writes them.

So a person can check a tree without us: `cd TREE && b2sum -c STORE/sums/ID.b2`. Lines stand in the order of a walk, of each
folder its files and then its sub folders, both by the bytes of their names: two walks meet line by line, in little memory.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FOLDER = "sums"
PREPARED = "sums"
"""How the file is called in an operation's staging, until the copy counts."""
_ESCAPES = {b"\\": b"\\\\", b"\n": b"\\n", b"\r": b"\\r"}
_PLAIN = {escaped: plain for plain, escaped in _ESCAPES.items()}
_SPECIAL, _ESCAPED = re.compile(rb"[\\\n\r]"), re.compile(rb"\\[\\nr]")
_LINE = re.compile(rb"(\\?)([0-9a-f]{128})  \./(.+)\n", re.DOTALL)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


def file_name(operation_id: int) -> str:
    """Return the file's name in `FOLDER`."""
    return f"{operation_id}.b2"


def write_line(path: str, digest: str) -> bytes:
    """Return the line of one file; `path` is relative to the tree, `digest` is BLAKE2b-512 in hexadecimal."""
    name = os.fsencode(path)
    escaped = _SPECIAL.sub(lambda found: _ESCAPES[found.group()], name)
    # "./" keeps a file called "-" from being standard input.
    return (b"\\" if escaped != name else b"") + digest.encode() + b"  ./" + escaped + b"\n"


def read_line(line: bytes) -> tuple[str, str]:
    """Return path and digest of one line; ValueError for anything else."""
    found = _LINE.fullmatch(line)
    if found is None:
        raise ValueError("it is no line of b2sum")
    name = found.group(3)
    if found.group(1):
        name = _ESCAPED.sub(lambda part: _PLAIN[part.group()], name)
    return os.fsdecode(name), found.group(2).decode()


def read_lines(lines: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """Return paths and digests of a sums file; ValueError for a line that is none, or one that is out of order."""
    last: tuple[tuple[bool, bytes], ...] = ()
    for line in lines:
        path, digest = read_line(line)
        if (place := order(path)) <= last:
            raise ValueError("its lines are out of order")
        last = place
        yield path, digest


def order(path: str) -> tuple[tuple[bool, bytes], ...]:
    """Return what sorts the paths of files as a walk meets them."""
    *folders, name = os.fsencode(path).split(b"/")
    return (*((True, folder) for folder in folders), (False, name))


class SumsFile:
    """The sums of a copy that does not count yet, in its staging folder; `begin` may be called again to begin anew."""

    def __init__(self, folder_fd: int) -> None:
        self._folder_fd = folder_fd
        self._file: BinaryIO | None = None

    def begin(self) -> None:
        """Make the file, or empty it."""
        self.close()
        self._file = os.fdopen(os.open(PREPARED, _NEW, 0o600, dir_fd=self._folder_fd), "wb")

    def add(self, path: str, digest: str) -> None:
        """Add one file, in the order of a walk."""
        if self._file is not None:
            self._file.write(write_line(path, digest))

    def end(self) -> None:
        """Make what was added durable; its name becomes so with its final one."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        self.close()

    def close(self) -> None:
        """Close the file, whatever is in it."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    def __enter__(self) -> SumsFile:
        return self

    def __exit__(self, *_: Any) -> None:
        with contextlib.suppress(OSError):  # a full disk, once more: the copy it belongs to is undone already
            self.close()


def open_folder(store_fd: int) -> int:
    """Return the open folder of all sums, making it if it is missing."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(FOLDER, 0o700, dir_fd=store_fd)
        os.fsync(store_fd)
    return os.open(FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=store_fd)


def open_sums(store_fd: int, operation_id: int) -> BinaryIO | None:
    """Open the sums of the tree that an operation made, or return None if none are kept."""
    try:
        fd = os.open(f"{FOLDER}/{file_name(operation_id)}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=store_fd)
    except FileNotFoundError:
        return None
    return os.fdopen(fd, "rb", buffering=1 << 16)


def are_kept(store_fd: int, operation_id: int) -> bool:
    """Tell whether there are sums of the tree that an operation made."""
    with contextlib.suppress(FileNotFoundError):
        os.stat(f"{FOLDER}/{file_name(operation_id)}", dir_fd=store_fd, follow_symlinks=False)
        return True
    return False


def remove(store_fd: int, operation_id: int) -> None:
    """Remove the sums of a tree that is gone; none are fine."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{FOLDER}/{file_name(operation_id)}", dir_fd=store_fd)
