"""
The same big file in two places: a model that two tools have downloaded, each into its own cache.

Cheap first: only files of one length are opened, and of those a few samples are hashed. That is proof enough to name them,
and not to delete one; every byte is read only when somebody asks for it.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from hashlib import blake2b
from typing import TYPE_CHECKING

from survived.findings import Twins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from survived.findings import BigFile

_SAMPLE_BYTES = 64 << 10
_SAMPLES = 10  # the first is the head, the last the tail
_CHUNK = 4 << 20
_WORTH_BYTES = 1 << 20  # two sparse files save nothing


def find_twins(files: Iterable[BigFile], *, verify: bool = False) -> tuple[Twins, ...]:
    """
    Return the groups of files with one content that lie in different places, what would be saved most first.

    `verify` reads them whole. What cannot be read, or changes meanwhile, is nobody's twin.
    """
    groups = [group for group in _grouped(files, lambda file: file.length) if group[0].length > 0]
    for read in (_samples, _whole) if verify else (_samples,):
        groups = [part for group in groups for part in _grouped(group, read)]
    twins = [Twins(tuple(group), is_verified=verify) for group in groups]
    worth = [twin for twin in twins if twin.saved_bytes >= _WORTH_BYTES]
    return tuple(sorted(worth, key=lambda twin: (-twin.saved_bytes, twin.files[0].path)))


def _grouped(files: Iterable[BigFile], key: Callable[[BigFile], object]) -> list[list[BigFile]]:
    """Return the files of like keys together, where they lie in more than one place; a key of None is like no other."""
    found: dict[object, list[BigFile]] = defaultdict(list)
    for file in files:
        if (value := key(file)) is not None:
            found[value].append(file)
    return [group for group in found.values() if _are_apart(group)]


def _are_apart(group: Sequence[BigFile]) -> bool:
    return len({file.place for file in group}) > 1


def _samples(file: BigFile) -> bytes | None:
    """Return a hash of samples that are spread over the file evenly, head and tail among them."""

    def read(descriptor: int) -> bytes:
        last = max(0, file.length - _SAMPLE_BYTES)
        total = blake2b()
        for number in range(_SAMPLES):
            total.update(os.pread(descriptor, _SAMPLE_BYTES, last * number // (_SAMPLES - 1)))
        return total.digest()

    return _opened(file, read)


def _whole(file: BigFile) -> bytes | None:
    """Return a hash of every byte; the page cache is left to those who need it."""

    def read(descriptor: int) -> bytes:
        total, at = blake2b(), 0
        while chunk := os.pread(descriptor, _CHUNK, at):
            total.update(chunk)
            os.posix_fadvise(descriptor, at, len(chunk), os.POSIX_FADV_DONTNEED)
            at += len(chunk)
        return total.digest()

    return _opened(file, read)


def _opened(file: BigFile, read: Callable[[int], bytes]) -> bytes | None:
    """Return what `read` gives of the file, or None if it is not the one that was found any more, or cannot be read."""
    with contextlib.suppress(OSError):
        descriptor = os.open(file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            before = os.fstat(descriptor)
            if (before.st_dev, before.st_ino, before.st_size) != (file.device_id, file.inode, file.length):
                return None
            digest = read(descriptor)
            after = os.fstat(descriptor)
            return digest if (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size) else None
        finally:
            os.close(descriptor)
    return None
