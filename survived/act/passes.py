"""
What one pass over a tree saw, and what the passes before it copied: sizes, marks, and a hash of every state that was copied.

What a file was when it was copied is remembered as a 64-bit hash of its inode, size, mtime and ctime, so that a later pass
knows what changed, even when size and mtime were put back; the ctime cannot be. A million files are 8 MB.
"""

from __future__ import annotations

import stat
import time
from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

TICK_NS = 20_000_000
"""A coarse kernel clock moves every 4 to 10 ms; a change this much later has another ctime for certain."""
_FUTURE_NS = 5_000_000_000
"""A ctime this far ahead comes from a clock that was put back or is another machine's, and tells nothing about now."""
_FEW = 100_000
"""A set of so many hashes is some 8 MB, and ten times as fast as a search."""
_BUCKET_BITS = 10
_BUCKET_SHIFT = 64 - _BUCKET_BITS


class Pass:
    """
    What one pass saw and did, from `began_ns` on.

    Marks are the latest ctimes, in ns, of the tree below its root and of its copy. `copied` counts the differences that were
    mended: 0 means that the copy was faithful already.
    """

    # No dataclass: a child that shares a pass would load some 15 ms of modules for it.
    __slots__ = (
        "began_ns", "content_bytes", "copied", "files", "reclaimable_bytes", "signatures", "size_bytes", "source_mark_ns",
        "target_mark_ns",
    )  # fmt: skip

    def __init__(self, began_ns: int | None = None) -> None:
        self.files = self.size_bytes = self.reclaimable_bytes = self.content_bytes = self.copied = 0
        self.source_mark_ns = self.target_mark_ns = 0
        self.began_ns = time.time_ns() if began_ns is None else began_ns
        self.signatures = array("Q")

    def looked_at(self, began_ns: int) -> Pass:
        """Return one of the same sums for a look from `began_ns` on, which has mended and remembered nothing."""
        found = Pass(began_ns)
        found.add(self.sums())
        found.copied, found.target_mark_ns = 0, self.target_mark_ns
        return found

    def see(self, info: os.stat_result, names_before: int, place: int, *, is_root: bool) -> int:
        """
        Count an entry, the `names_before`-th link of its inode (from 0), and return the hash of what it is now.

        `place` stands for the path of its folder: who moves a folder leaves all below it as it was, but for its path.

        What changed since the pass began is not remembered: two changes in one tick of the clock have one ctime.
        """
        allocated, is_last = info.st_blocks * 512, True
        if not stat.S_ISDIR(info.st_mode):
            self.files += 1
            self.content_bytes += info.st_size
            is_last = names_before + 1 >= info.st_nlink
        if names_before == 0:
            self.size_bytes += allocated
        if is_last:
            self.reclaimable_bytes += allocated
        ctime = info.st_ctime_ns
        if ctime > self.source_mark_ns and not is_root:  # the exchange moves a root's ctime, so that it cannot tell late from early
            self.source_mark_ns = ctime
        signature = signature_of(info, ctime, place)
        if ctime < self.began_ns - TICK_NS or ctime > time.time_ns() + _FUTURE_NS:
            self.signatures.append(signature)
        return signature

    def add(self, counted: Mapping[str, int]) -> None:
        """Take in the sums of what another process did of the same pass, as its `sums` gave them."""
        for name in SUMS:
            setattr(self, name, getattr(self, name) + counted[name])

    def sums(self) -> dict[str, int]:
        """Return what of it adds up."""
        return {name: getattr(self, name) for name in SUMS}


SUMS = ("files", "size_bytes", "reclaimable_bytes", "content_bytes", "copied")


def signature_of(info: os.stat_result, ctime: int, place: int) -> int:
    """
    Return the hash of what an inode is now, in a folder that `place` stands for; `ctime` is that of `info`, in ns.

    Of numbers alone, which hash alike in every process. No name: another one gives an inode another ctime.
    """
    return hash((info.st_ino, info.st_size, info.st_mtime_ns, ctime, place)) & 0xFFFF_FFFF_FFFF_FFFF


class Known:
    """The signatures of a pass, for asking `holds`: a set while there are few, else 8 bytes each, in buckets that are sorted."""

    def __init__(self, signatures: array[int]) -> None:
        self._buckets: list[array[int]] = []
        if len(signatures) <= _FEW:
            self.holds: Callable[[int], bool] = frozenset(signatures).__contains__
            return
        self.holds = self._search
        # They are hashes, so equal shares fall to each. Never all at once as a list: its numbers take 40 bytes each.
        self._buckets = [array("Q") for _ in range(1 << _BUCKET_BITS)]
        buckets = self._buckets
        for signature in signatures:
            buckets[signature >> _BUCKET_SHIFT].append(signature)
        for number, bucket in enumerate(buckets):
            buckets[number] = array("Q", sorted(bucket))

    def __contains__(self, signature: int) -> bool:
        return self.holds(signature)

    def _search(self, signature: int) -> bool:
        bucket = self._buckets[signature >> _BUCKET_SHIFT]
        at = bisect_left(bucket, signature)
        return at < len(bucket) and bucket[at] == signature
