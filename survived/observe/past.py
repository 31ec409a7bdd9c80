"""
What an earlier measurement knows of each directory of a tree: packed, compressed in chunks, found by inode.

A record tells the sums of what stands in one directory, its sub-directories, its names of inodes with several links, and its
unquiet files, which have to be asked again. Where it lies is told by two sorted arrays; chunks are read when they are needed,
a few at a time. What was read anew is appended: a record that nothing points to any more does no harm.
"""

from __future__ import annotations

import os
import struct
import zlib
from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING, Protocol

from survived.observe.tally import BUCKETS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from survived.observe.tally import Links

MOST_DIRECTORIES = 250_000
"""More are not remembered: their index alone would take the memory that a measurement may have."""
_FORMAT = 1
_HEAD = struct.Struct("<QqqQQddIIII")
_INDEX_HEAD = struct.Struct("<IQQIdQQQIII")
_NOTES_HEAD = struct.Struct("<I?")
_CHUNK_BYTES = 1 << 16
_OPEN_CHUNKS = 8
_OUTSIDE = -1
"""The number of the chunk that tells which inodes have links elsewhere."""
_NOWHERE = (1 << 64) - 1
_PLACE_BITS = 20  # of a place: where in its chunk a record begins; the rest is the chunk's number


class Keeper(Protocol):
    """Where the past is kept; each call may raise `SurvivedError`."""

    def index(self, path: str) -> bytes | None:
        """Return what `keep` got last for this tree."""

    def chunk(self, path: str, number: int) -> bytes | None:
        """Return one chunk."""

    def keep(self, path: str, index: bytes, chunks: Mapping[int, bytes], *, anew: bool, now: float) -> None:
        """Keep an index and more chunks; `anew`: instead of those that were there. An empty index: forget all."""


class Record:
    """One directory as it was read."""

    __slots__ = ("blocks", "ctime_ns", "files", "inode", "inodes", "links", "mtime_ns", "names", "newest", "unquiet", "used")

    def __init__(self, inode: int, mtime_ns: int, ctime_ns: int, blocks: int, files: int, newest: float, used: float) -> None:
        self.inode, self.mtime_ns, self.ctime_ns = inode, mtime_ns, ctime_ns
        self.blocks = blocks  # of 512 bytes, of the inodes whose names all stand here
        self.files, self.newest, self.used = files, newest, used  # of its files; Unix seconds, `used` of their atimes
        self.names: Sequence[str] = ()  # of sub-directories
        self.inodes: Sequence[int] = ()  # of sub-directories
        self.links: Sequence[int] = ()  # inode, packed ... as Tally.add_links takes them
        self.unquiet: Sequence[tuple[str, int, int, int]] = ()  # name, inode, ctime_ns, blocks of what may grow in place

    def pack(self) -> bytes:
        """Return the record as bytes."""
        names = os.fsencode("/".join([*self.names, *(name for name, *_ in self.unquiet)]))
        unquiet = [number & _MASK for _, *numbers in self.unquiet for number in numbers]
        numbers = array("Q", [*self.inodes, *self.links, *unquiet]).tobytes()
        head = _HEAD.pack(
            self.inode, self.mtime_ns, self.ctime_ns, self.blocks, self.files, self.newest, self.used,
            len(self.inodes), len(self.links), len(self.unquiet), len(names),
        )  # fmt: skip
        return head + numbers + names


_MASK = (1 << 64) - 1


def unpack(data: bytes, at: int) -> Record:
    """Return the record that begins at `at`."""
    inode, mtime_ns, ctime_ns, blocks, files, newest, used, folders, links, unquiet, length = _HEAD.unpack_from(data, at)
    at += _HEAD.size
    count = folders + links + 3 * unquiet
    record = Record(inode, mtime_ns, ctime_ns, blocks, files, newest, used)
    if not count:
        return record
    numbers = array("Q", data[at : at + 8 * count])
    if length:
        names = os.fsdecode(data[at + 8 * count : at + 8 * count + length]).split("/")
        record.names, record.inodes = names[:folders], numbers[:folders]
        rest = folders + links
        record.unquiet = [
            (name, numbers[rest + 3 * i], numbers[rest + 3 * i + 1], numbers[rest + 3 * i + 2])
            for i, name in enumerate(names[folders:])
        ]
    record.links = numbers[folders : folders + links]
    return record


class Notes:
    """Records as they are written, in chunks from number `first` on."""

    def __init__(self, first: int = 0) -> None:
        self._first = first
        self.chunks: list[bytes] = []
        self.inodes, self.places = array("Q"), array("Q")
        self._open = bytearray()
        self.is_too_long = False

    def add(self, record: Record) -> None:
        """Add one directory; beyond the most nothing is kept."""
        if len(self.inodes) >= MOST_DIRECTORIES:
            self.is_too_long = True
            return
        data = record.pack()
        if len(data) >> _PLACE_BITS:
            return  # a directory of so many links is read anew each time
        self.inodes.append(record.inode)
        self.places.append((self._first + len(self.chunks)) << _PLACE_BITS | len(self._open))
        self._open += data
        if len(self._open) >= _CHUNK_BYTES:
            self.end()

    def forget(self, inode: int) -> None:
        """Let nothing be known of a directory, whatever was."""
        self.inodes.append(inode)
        self.places.append(_NOWHERE)

    def end(self) -> None:
        """Close the chunk that is being written."""
        if self._open:
            self.chunks.append(zlib.compress(self._open, 1))
            self._open = bytearray()

    def pack(self) -> Iterator[bytes]:
        """Yield everything in pieces, for `merge`."""
        self.end()
        yield _NOTES_HEAD.pack(len(self.chunks), self.is_too_long)
        yield self.inodes.tobytes()
        yield self.places.tobytes()
        yield from self.chunks

    def merge(self, pieces: Iterator[bytes]) -> None:
        """Add what another process wrote; its chunks get the numbers after ours."""
        self.end()
        chunks, is_too_long = _NOTES_HEAD.unpack(next(pieces))
        self.inodes.frombytes(next(pieces))
        theirs = array("Q", next(pieces))
        shift = (self._first + len(self.chunks)) << _PLACE_BITS
        self.places.extend(place + shift for place in theirs)
        self.chunks += (next(pieces) for _ in range(chunks))
        self.is_too_long |= is_too_long or len(self.inodes) > MOST_DIRECTORIES


class Past:
    """What is known of one tree: its root (device, inode, euid), when it was last read in full, and its records."""

    def __init__(self, keeper: Keeper, path: str, root: tuple[int, int, int]) -> None:
        self._keeper, self.path, self.root = keeper, path, root
        self.read_at = 0.0
        self.linked_blocks = self.outside_blocks = self.files = 0
        self.directories = self._chunks = self._garbage = 0
        self.inodes, self.places = array("Q"), array("Q")
        self._cache: dict[int, bytes] = {}
        self._load()

    def _load(self) -> None:
        data = self._keeper.index(self.path)
        if data is None:
            return
        try:
            raw = zlib.decompress(data)
            form, *root, read_at, linked, outside, files, directories, chunks, garbage = _INDEX_HEAD.unpack_from(raw)
            if form != _FORMAT or tuple(root) != self.root:
                return
            rest = raw[_INDEX_HEAD.size :]
            self.inodes.frombytes(rest[: len(rest) // 2])
            self.places.frombytes(rest[len(rest) // 2 :])
        except (zlib.error, struct.error, ValueError):
            self.inodes, self.places = array("Q"), array("Q")
            return
        self.read_at, self.linked_blocks, self.outside_blocks = read_at, linked, outside
        self.files, self.directories, self._chunks, self._garbage = files, directories, chunks, garbage

    def may_be_used(self, now: float, seconds: float) -> bool:
        """Tell whether there is a past, not older than `seconds`, of which no more was replaced than is left."""
        return len(self.inodes) > 0 and 0 <= now - self.read_at < seconds and self._garbage <= len(self.inodes)

    def find(self, inode: int) -> tuple[int, Record] | None:
        """Return a directory's record and its place, or None."""
        at = bisect_left(self.inodes, inode)
        if at == len(self.inodes) or self.inodes[at] != inode:
            return None
        place = self.places[at]
        record = self.at(place) if place != _NOWHERE else None
        return (place, record) if record is not None and record.inode == inode else None

    def at(self, place: int) -> Record | None:
        """Return the record at a place; None if its chunk is lost."""
        number = place >> _PLACE_BITS
        chunk = self._cache.get(number)
        if chunk is None:
            chunk = self._chunk(number)
            if len(self._cache) >= _OPEN_CHUNKS:
                del self._cache[next(iter(self._cache))]
            self._cache[number] = chunk
        try:
            return unpack(chunk, place & ((1 << _PLACE_BITS) - 1))
        except (struct.error, ValueError):
            return None

    def _chunk(self, number: int) -> bytes:
        data = self._keeper.chunk(self.path, number)
        try:
            return zlib.decompress(data) if data is not None else b""
        except zlib.error:
            return b""

    def begin_anew(self, now: float) -> Notes:
        """Forget everything for a reading in full that began at `now`; return where to write."""
        self.read_at, self._chunks, self._garbage = now, 0, 0
        self.inodes, self.places = array("Q"), array("Q")
        self._cache.clear()
        return Notes()

    def begin_more(self) -> Notes:
        """Return where to write what is read anew of some directories."""
        return Notes(self._chunks)

    def outside(self) -> list[array[int]]:
        """Return the inodes that had links elsewhere, in the buckets of `Tally`; nothing known is none."""
        found = [array("Q") for _ in range(BUCKETS)]
        data = self._chunk(_OUTSIDE)
        lengths = array("Q", data[: 8 * BUCKETS])
        at = 8 * BUCKETS
        for bucket, length in zip(found, lengths, strict=False):
            bucket.frombytes(data[at : at + length])
            at += length
        return found

    def keep(self, notes: Notes, links: Links, files: int, directories: int, now: float) -> None:
        """Add what was written and keep the whole; what is too long is forgotten."""
        notes.end()
        first = self._chunks
        if notes.is_too_long or len(self.inodes) + len(notes.inodes) > MOST_DIRECTORIES:
            self._keeper.keep(self.path, b"", {}, anew=True, now=now)
            return
        inodes, places = self.inodes + notes.inodes, self.places + notes.places
        self.inodes, self.places = array("Q"), array("Q")
        for at in sorted(range(len(inodes)), key=inodes.__getitem__):
            if self.inodes and self.inodes[-1] == inodes[at]:  # of two records of one inode the later one counts
                self.places[-1] = places[at]
                self._garbage += 1
            else:
                self.inodes.append(inodes[at])
                self.places.append(places[at])
        self._chunks += len(notes.chunks)
        head = _INDEX_HEAD.pack(
            _FORMAT, *self.root, self.read_at,
            links.blocks, links.outside_blocks, files, directories, self._chunks, self._garbage,
        )  # fmt: skip
        packer = zlib.compressobj(1)
        index = b"".join((packer.compress(head + self.inodes.tobytes()), packer.compress(self.places.tobytes()), packer.flush()))
        chunks = {first + number: chunk for number, chunk in enumerate(notes.chunks)}
        packer = zlib.compressobj(1)
        lengths = array("Q", [8 * len(bucket) for bucket in links.outside]).tobytes()
        parts = [packer.compress(lengths), *(packer.compress(bucket.tobytes()) for bucket in links.outside), packer.flush()]
        chunks[_OUTSIDE] = b"".join(parts)
        self._keeper.keep(self.path, index, chunks, anew=first == 0, now=now)
