"""
The words for what a look around finds beside the catalogue: quotas, what is big, what grew, what lies there twice, what is damaged.

Frozen dataclasses and nothing else, like `model.py`. Sizes are bytes of allocated blocks, times are seconds of Unix time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from survived.terms import Level


@dataclass(frozen=True, slots=True)
class Quota:
    """
    What one user has and may have on one filesystem; a limit of 0 is none.

    The soft limit may be passed for the grace time, which ends at `*_until` (0: it does not run), the hard one never.
    """

    uid: int
    used_bytes: int
    soft_bytes: int
    hard_bytes: int
    used_inodes: int
    soft_inodes: int
    hard_inodes: int
    bytes_until: int = 0
    inodes_until: int = 0
    is_enforced: bool = True  # else it is only counted

    @property
    def left_bytes(self) -> int | None:
        """What may still be written; None without a limit. A soft limit counts: what is above it is only lent."""
        return _left(self.used_bytes, self.soft_bytes, self.hard_bytes) if self.is_enforced else None

    @property
    def left_inodes(self) -> int | None:
        """How many files may still be made; None without a limit."""
        return _left(self.used_inodes, self.soft_inodes, self.hard_inodes) if self.is_enforced else None


def _left(used: int, soft: int, hard: int) -> int | None:
    limits = [limit for limit in (soft, hard) if limit > 0]
    return max(0, min(limits) - used) if limits else None


@dataclass(frozen=True, slots=True)
class Disk:
    """What a filesystem has itself, where the reading says what a quota leaves of it."""

    capacity_bytes: int
    used_bytes: int
    available_bytes: int
    inodes_used: int
    inodes_available: int


@dataclass(frozen=True, slots=True)
class Group:
    """
    Trees on one filesystem that share inodes with each other, in the order in which they are best moved.

    `size_bytes` counts each inode once. `freed_bytes`: what has come back after the first went, the first two, and so on.
    """

    paths: tuple[str, ...]
    size_bytes: int
    freed_bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Handover:
    """What is to go from one data disk to the store of another, and why."""

    cache_id: str
    source: str
    target: str
    store_path: str
    size_bytes: int
    why: str


@dataclass(frozen=True, slots=True)
class DeletedOpen:
    """A file that has no name any more and takes its room until `pid`, and each of `also`, closes it. Pid 0 is the kernel."""

    pid: int
    command: str
    path: str
    size_bytes: int
    also: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Hog:
    """
    Something big: a directory, a file, or, with `is_rest`, what lies in a directory beside the hogs below it.

    `size_bytes` counts only what is of the user who looks, in root mode everything, and of an inode with several names
    its share. `why_not`: why it cannot be moved as it is, or None.
    """

    path: str
    size_bytes: int
    entries: int
    owner: int
    is_directory: bool = True
    is_rest: bool = False
    why_not: str | None = None


@dataclass(frozen=True, slots=True)
class BigFile:
    """A large file; `place` is the cache id or the hog that it belongs to. Names of one inode are one file."""

    path: str
    length: int
    size_bytes: int
    device_id: int
    inode: int
    place: str


@dataclass(frozen=True, slots=True)
class Look:
    """What one look around found, the biggest first."""

    hogs: tuple[Hog, ...] = ()
    files: tuple[BigFile, ...] = ()
    owners: tuple[tuple[int, int], ...] = ()  # uid -> bytes; only root sees everybody's
    entries: int = 0
    unreadable: str | None = None  # an example of a directory that could not be looked into
    roots: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Grower:
    """What grew between two samples. `is_new`: it was not in the earlier one, and `was_bytes` is the most it can have been."""

    path: str
    was_bytes: int
    size_bytes: int
    is_new: bool = False

    @property
    def grown_bytes(self) -> int:
        """Return by how much, at least."""
        return self.size_bytes - self.was_bytes


@dataclass(frozen=True, slots=True)
class Twins:
    """Files of the same content in different places. `is_verified`: every byte was compared, and not only samples."""

    files: tuple[BigFile, ...]
    is_verified: bool = False

    @property
    def saved_bytes(self) -> int:
        """Return what the filesystems get back if only one of them is kept: the largest stays."""
        sizes = sorted(file.size_bytes for file in self.files)
        return sum(sizes[:-1])


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of hogs by path as one look found them; a list that was full knows nothing below `smallest_bytes`."""

    time: float
    sizes: dict[str, int] = field(default_factory=dict)
    smallest_bytes: int = 0


class Speed(StrEnum):
    """What kind of drive a filesystem lies on, the fastest first."""

    NVME = "nvme"
    SSD = "ssd"
    UNKNOWN = "unknown"
    ROTATIONAL = "rotational"
    NETWORK = "network"

    @property
    def rank(self) -> int:
        """0 for the fastest."""
        return list(Speed).index(self)


@dataclass(frozen=True, slots=True)
class DataDisk:
    """A directory on a disk that may hold a user's store. `standing`: 0 has a store, 1 is the user's, 2 may be made."""

    directory: str
    mount: str
    fstype: str
    available_bytes: int
    speed: Speed
    standing: int


@dataclass(frozen=True, slots=True)
class Damage:
    """Something about a relocated tree that no tool can have done; `path` is below the tree, "" for the tree itself."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class TreeCheck:
    """What a walk over a relocated tree found; `decide.soundness` judges it by what the journal knows."""

    files: int = 0
    content_bytes: int = 0
    changed: int = 0  # entries that their tool changed, made or removed since the move
    closed: int = 0  # entries that we may not read, which somebody changed since: none are moved
    compared: int = 0  # files that are as their kept sum says
    unsummed: int = 0  # files untouched since the move of which no sum is kept
    read_bytes: int = 0
    damaged: int = 0
    damage: tuple[Damage, ...] = ()  # the first of them


@dataclass(frozen=True, slots=True)
class Orphan:
    """A tree on a data disk that no link leads to. `since`: when it was moved there; None where no journal knows it."""

    store: str
    cache_id: str
    source: str
    target: str
    since: float | None
    size_bytes: int
    why: str  # "eaten", "gone", "elsewhere", "relocated anew", "unknown"


@dataclass(frozen=True, slots=True)
class Standin:
    """A directory in the place of a link of ours to `target`, whose disk was missing at `since`."""

    cache_id: str
    source: str
    target: str
    since: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """One notice that one destination has not got yet. `due_at` is the next try by backoff alone."""

    number: int
    destination: str
    topic: str
    level: Level
    time: float
    attempts: int = 0
    due_at: float = 0.0
