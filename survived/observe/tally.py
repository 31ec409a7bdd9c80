"""
The sums of one measurement: what is counted at once, and what only the whole tree can tell, links and shared extents.

Inodes with several links wait in buckets of packed numbers, 16 bytes for each folder that names them: a million of them
fit where a dict would need hundreds of megabytes. Two processes measure; their tallies add up.
"""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

BUCKETS = 64
_MOST_BLOCKS, _MOST_LINKS, _MOST_NAMES = (1 << 36) - 1, (1 << 16) - 1, (1 << 12) - 1
_MOST_RANGES = 200_000
"""Of shared extents; what is beyond counts as shared with others, which promises less than may come back."""
_HEAD = struct.Struct("<QQQddQ")


class Links:
    """What the inodes with several links come to; blocks are of 512 bytes."""

    def __init__(self) -> None:
        self.blocks = 0
        self.outside_blocks = 0  # of those with links elsewhere
        self.outside = [array("Q") for _ in range(BUCKETS)]  # which those are
        self.is_doubtful = False  # one of them was not expected, or the folders disagree on its number of links


class Tally:
    """What one process has counted. Blocks are of 512 bytes, times Unix seconds, examples are paths as users know them."""

    def __init__(self) -> None:
        self.blocks = self.files = self.directories = 0
        self.newest = self.used = 0.0
        self.foreign: str | None = None
        self.unreadable: str | None = None
        self.mount_below: str | None = None
        self.links = [array("Q") for _ in range(BUCKETS)]  # inode, packed, inode, packed ...
        self.ranges = array("Q")  # inode, first byte, byte after the last: of extents that somebody shares
        self.shared_bytes = 0  # of ranges beyond the most that are kept

    def add_links(self, links: Sequence[int]) -> None:
        """Note what `pack_links` gave for one folder."""
        for at in range(0, len(links), 2):
            self.links[links[at] % BUCKETS].extend(links[at : at + 2])

    def add_ranges(self, inode: int, ranges: Iterable[tuple[int, int]]) -> None:
        """Note the shared extents of one file."""
        for first, end in ranges:
            if len(self.ranges) < 3 * _MOST_RANGES:
                self.ranges.extend((inode, first, end))
            else:
                self.shared_bytes += end - first

    def resolve(self, expected: Sequence[array[int]] | None = None) -> Links:
        """Return what all inodes with several links come to; empties the buckets. `expected`: inodes with links elsewhere."""
        found = Links()
        shared = set(self.ranges[::3])
        lost: set[int] = set()
        for number, bucket in enumerate(self.links):
            seen: dict[int, int] = {}
            known = set(expected[number]) if expected is not None else None
            for inode, packed in zip(bucket[::2], bucket[1::2], strict=True):
                before = seen.get(inode)
                if before is None:
                    seen[inode] = packed
                    continue
                seen[inode] = before + (packed >> 52 << 52)
                if known is not None and (before ^ packed) & _MOST_LINKS:
                    found.is_doubtful = True
            self.links[number] = array("Q")
            for inode, packed in seen.items():
                blocks = packed >> 16 & _MOST_BLOCKS
                found.blocks += blocks
                if packed >> 52 < packed & _MOST_LINKS:
                    found.outside_blocks += blocks
                    found.outside[number].append(inode)
                    found.is_doubtful |= known is not None and inode not in known
                    if inode in shared:
                        lost.add(inode)
        if lost:  # they give nothing back anyway, and keep what they share
            self.ranges = array("Q", [number for r in self._each_range() if r[0] not in lost for number in r])
        return found

    def _each_range(self) -> Iterator[tuple[int, int, int]]:
        return zip(self.ranges[::3], self.ranges[1::3], self.ranges[2::3], strict=True)

    def kept_by_others(self) -> int:
        """
        Return the bytes of shared extents that do not come back; call it after `resolve`.

        The kernel tells that an extent is shared, not by whom. What two files of this tree share is taken to be theirs
        alone and comes back once; what one file of it has is shared with something outside.
        """
        edges: list[tuple[int, int]] = []
        for _, first, end in set(self._each_range()):  # a file with two names may have been asked twice
            edges += ((first, 1), (end, -1))
        edges.sort()
        kept = self.shared_bytes
        depth = last = 0
        for place, step in edges:
            # Once covered: the outside has it, too. More often: du counts it `depth` times, it comes back once.
            kept += (place - last) * (1 if depth == 1 else max(0, depth - 1))
            depth, last = depth + step, place
        return kept

    def merge(self, pieces: Iterator[bytes]) -> None:
        """Add what another process's `pack` gave, piece by piece."""
        blocks, files, directories, newest, used, shared_bytes = _HEAD.unpack(next(pieces))
        self.blocks += blocks
        self.files += files
        self.directories += directories
        self.newest, self.used = max(self.newest, newest), max(self.used, used)
        self.shared_bytes += shared_bytes
        names = next(pieces).decode("utf-8", "surrogateescape").split("\0")
        self.foreign, self.unreadable, self.mount_below = (
            mine or theirs or None for mine, theirs in zip((self.foreign, self.unreadable, self.mount_below), names, strict=True)
        )
        self.ranges.frombytes(next(pieces))
        for bucket in self.links:
            bucket.frombytes(next(pieces))

    def pack(self) -> Iterator[bytes]:
        """Yield the tally in pieces, and empty its buckets: what is sent need not be kept, too."""
        yield _HEAD.pack(self.blocks, self.files, self.directories, self.newest, self.used, self.shared_bytes)
        names = (self.foreign or "", self.unreadable or "", self.mount_below or "")
        yield "\0".join(names).encode("utf-8", "surrogateescape")
        yield self.ranges.tobytes()
        for number, bucket in enumerate(self.links):
            self.links[number] = array("Q")
            yield bucket.tobytes()


def pack_links(linked: Mapping[int, tuple[int, int, int]]) -> tuple[int, list[int]]:
    """
    Return what one folder tells of inodes with several links: the blocks of those all of whose names stand in it, and the rest.

    `linked`: inode -> blocks, links, names in this folder. The rest: inode and, packed in one number, the names (12 bits), the
    blocks (36) and the links (16), in turn; again for as many more names as the bits hold.
    """
    whole = 0
    links: list[int] = []
    for inode, (blocks, count, names) in linked.items():
        if names == count:
            whole += blocks
            continue
        low = min(blocks, _MOST_BLOCKS) << 16 | min(count, _MOST_LINKS)
        for left in range(names, 0, -_MOST_NAMES):
            links += (inode, min(left, _MOST_NAMES) << 52 | low)
    return whole, links
