"""
A bundle as one file or as parts `NAME.001`, `NAME.002`, …: written with a limit for each, read as one stream.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
from typing import TYPE_CHECKING

from survived.errors import SurvivedError
from survived.offline import names

if TYPE_CHECKING:
    from collections.abc import Iterator

MAXIMUM = 999
_PART = re.compile(r"(.+)\.(\d{3})")
_CHUNK = 1 << 20


class PartWriter:
    """
    Appends bytes to the parts of a bundle, each `limit` bytes at most; 0 makes one file of it.

    All parts have the suffix `.partial` until `finish` gives them their names.
    """

    def __init__(self, path: str, limit: int, at: int) -> None:
        """Go on behind the first `at` bytes, which were written before; what stands behind them is cut off."""
        self._path, self._limit, self.at = path, limit, at
        self._fd = -1
        self._number = 0
        for number, name in enumerate(self._written(), 1):
            if (number - 1) * (limit or at + 1) >= max(at, 1):
                os.unlink(name)
        self._open()

    def _written(self) -> list[str]:
        folder, base = os.path.split(self._path)
        pattern = re.compile(re.escape(base) + (r"\.\d{3}" if self._limit else "") + r"\.partial")
        return sorted(os.path.join(folder, name) for name in os.listdir(folder) if pattern.fullmatch(name))

    def _open(self) -> None:
        number = self.at // self._limit + 1 if self._limit else 1
        if number == self._number:
            return
        if number > MAXIMUM:
            raise SurvivedError(
                f"Cannot write '{self._path}': more than {MAXIMUM} parts are needed. What was packed is kept.",
                "Take larger parts: --split.",
            )
        self.close()
        name = self.partial(number)
        self._fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._number = number
        os.ftruncate(self._fd, self.at - (number - 1) * self._limit)
        os.lseek(self._fd, 0, os.SEEK_END)

    def partial(self, number: int) -> str:
        """Return the name of a part while it is being written."""
        return f"{self._name(number)}.partial"

    def _name(self, number: int) -> str:
        return f"{self._path}.{number:03}" if self._limit else self._path

    def write(self, data: bytes) -> int:
        """Append all of it, across parts."""
        rest = memoryview(data)
        while rest:
            self._open()
            room = self._number * self._limit - self.at if self._limit else len(rest)
            done = os.write(self._fd, rest[:room])
            self.at += done
            rest = rest[done:]
        return len(data)

    def sync(self) -> None:
        """Make durable what was written to the current part."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Close the current part, durably."""
        if self._fd >= 0:
            os.fsync(self._fd)
            os.close(self._fd)
            self._fd, self._number = -1, 0

    def finish(self) -> list[tuple[str, str]]:
        """Close, and return for each part the name it has and the one it is to get."""
        self.close()
        count = -(-self.at // self._limit) if self._limit else 1
        return [(self.partial(number), self._name(number)) for number in range(1, count + 1)]


def find(path: str) -> list[str]:
    """
    Return the files that make up the bundle that is meant by `path`: itself, or all parts if it is `NAME.001` or `NAME`.

    `SurvivedError` if there is none, `Refused` (damaged) if a part in between is missing.
    """
    if os.path.isdir(path):
        raise SurvivedError(f"Cannot read '{path}': it is a directory, not a bundle. Nothing was unpacked.")
    match = _PART.fullmatch(path)
    base = match.group(1) if match else path
    if match is None and os.path.lexists(path):
        return [path]
    folder, name = os.path.split(base)
    try:
        found = sorted(item for item in os.listdir(folder or ".") if (m := _PART.fullmatch(item)) and m.group(1) == name)
    except OSError:
        found = []
    if not found:
        why = "it is not there" if match or not os.path.lexists(f"{path}.partial") else "it is not packed to the end yet"
        raise SurvivedError(f"Cannot read '{path}': {why}. Nothing was unpacked.", "Name the bundle, or its first part.")
    for number, item in enumerate(found, 1):
        if item != f"{name}.{number:03}":
            raise names.damaged(base, f"its part '{name}.{number:03}' is missing")
    return [os.path.join(folder, item) for item in found]


class PartReader(io.RawIOBase):
    """Reads the parts of a bundle one after the other; `at` counts the bytes read of `total`."""

    def __init__(self, paths: list[str]) -> None:
        super().__init__()
        self._paths, self._fd, self.at = paths, -1, 0
        self._next = 0
        self.total = 0
        for path in paths:
            found = os.stat(path)
            if not stat.S_ISREG(found.st_mode):
                raise SurvivedError(f"Cannot read '{path}': it is no regular file. Nothing was unpacked.")
            self.total += found.st_size

    def readable(self) -> bool:
        """Say yes."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read from the current part, or the next one at its end."""
        while True:
            if self._fd < 0:
                if self._next == len(self._paths):
                    return 0
                self._fd = os.open(self._paths[self._next], os.O_RDONLY | os.O_CLOEXEC)
                self._next += 1
            count = os.readv(self._fd, [buffer])
            if count:
                self.at += count
                return count
            os.close(self._fd)
            self._fd = -1

    def close(self) -> None:
        """Close the part that is open."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        super().close()


def sums(paths: list[str]) -> Iterator[tuple[str, str]]:
    """Yield for each file its name without folder and its SHA-256, for a list that `sha256sum -c` reads."""
    for path in paths:
        with open(path, "rb") as file:
            yield os.path.basename(path), hashlib.file_digest(file, "sha256").hexdigest()
