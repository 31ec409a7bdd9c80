"""
The words of the house as values: frozen dataclasses, and the enums of `terms.py`; no behaviour that does I/O.

Sizes are bytes of allocated blocks, times are seconds of Unix time (float), shares are fractions 0..1.
Paths are `str` as `os.fsdecode` gives them (surrogateescape keeps names that are not UTF-8).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from survived.terms import CacheState as CacheState
from survived.terms import Kind as Kind
from survived.terms import Level as Level
from survived.terms import LinkState as LinkState
from survived.terms import Pressure as Pressure
from survived.terms import Reason as Reason
from survived.terms import Stage as Stage
from survived.terms import Standing as Standing
from survived.terms import Topic as Topic
from survived.terms import Verb as Verb

if TYPE_CHECKING:
    from survived.findings import Disk, Group, Handover, Quota


@dataclass(frozen=True, slots=True)
class Mark:
    """A watermark: either a usage (fraction) or an amount that is still free (bytes or inodes); exactly one is set."""

    usage: float | None = None
    free: int | None = None

    def as_usage(self, total: int) -> float:
        """Return the mark as a usage of `total` = used + available; a free amount above the total gives 0."""
        if self.usage is not None:
            return self.usage
        return max(0.0, 1.0 - (self.free or 0) / total) if total > 0 else 1.0


@dataclass(frozen=True, slots=True)
class Watermarks:
    """High, low and flood of one quantity (bytes or inodes)."""

    high: Mark
    low: Mark
    flood: Mark


@dataclass(frozen=True, slots=True)
class Filesystem:
    """
    One reading of one mounted filesystem, as statvfs gives it to an ordinary user.

    Where the user's `quota` gives out before the disk does, the figures are the quota's, and `disk` has the disk's.
    """

    mount: str
    device: str
    device_id: int
    fstype: str
    capacity_bytes: int
    used_bytes: int
    available_bytes: int
    inodes_used: int
    inodes_available: int
    read_only: bool = False
    reserved_bytes: int = 0  # free, but only for root
    quota: Quota | None = None
    disk: Disk | None = None

    @property
    def usage(self) -> float:
        """Used / (used + available), as df has it; 0 for a filesystem without blocks."""
        total = self.used_bytes + self.available_bytes
        return self.used_bytes / total if total > 0 else 0.0

    @property
    def inodes_usage(self) -> float:
        """Used / (used + available) of inodes; 0 where the filesystem counts none (btrfs)."""
        total = self.inodes_used + self.inodes_available
        return self.inodes_used / total if total > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """How full one mount was at `time`: what the history keeps and the forecast reads."""

    time: float
    mount: str
    used_bytes: int
    available_bytes: int
    inodes_used: int


@dataclass(frozen=True, slots=True)
class Gauge:
    """What `decide.pressure.step` remembers of one filesystem between two readings."""

    pressure: Pressure = Pressure.NORMAL
    high_since: float | None = None


@dataclass(frozen=True, slots=True)
class Cache:
    """A catalogue entry resolved for one user: what it is, where it is and by which rule."""

    id: str
    title: str
    kind: Kind
    path: str
    rule: str  # "PIP_CACHE_DIR", "~/.config/pip/pip.conf", "default" ...
    report_only: str | None = None  # why the daemon never moves it by itself
    move: bool | None = None  # the user's own word; None = by kind
    limit_bytes: int | None = None
    lock: tuple[str, ...] = ()  # patterns of files below path that the tool locks while it works there
    processes: tuple[str, ...] = ()
    shares_links_with: tuple[str, ...] = ()
    clean_command: str | None = None
    caveats: tuple[str, ...] = ()
    clean_preview: str | None = None  # shows what `clean_command` would remove, and removes nothing
    pinned: str | None = None  # the user's word that nobody moves it, not even by hand; why
    purge_command: tuple[str, ...] | None = None  # the user's word that it is purged by this where it would be moved


@dataclass(frozen=True, slots=True)
class Holder:
    """A process with something open below a path."""

    pid: int
    name: str
    path: str
    writes: bool = False


@dataclass(frozen=True, slots=True)
class TreeSize:
    """One measured tree, on one device, each inode once."""

    size_bytes: int = 0
    reclaimable_bytes: int = 0  # without inodes that have links outside the tree
    files: int = 0  # everything that is not a directory
    directories: int = 0
    newest_change: float = 0.0  # the latest of all ctimes and mtimes, Unix seconds
    foreign: str | None = None  # an example of an entry owned by somebody else
    unreadable: str | None = None  # an example of a directory that cannot be read
    mount_below: str | None = None  # an example of another filesystem below
    newest_use: float = 0.0  # the latest atime of a file, where the filesystem keeps one; Unix seconds


@dataclass(frozen=True, slots=True)
class CacheReading:
    """One cache as it was found at `time`. `target` is where a link points; `size` follows our own link."""

    cache: Cache
    time: float
    state: CacheState
    size: TreeSize = field(default_factory=TreeSize)
    device_id: int | None = None
    target: str | None = None
    holders: tuple[Holder, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class StoreReading:
    """One data disk's store as it was found. Not `ok` means: never write there, `reason` says why."""

    path: str
    mount: str
    device_id: int = 0
    capacity_bytes: int = 0
    used_bytes: int = 0
    available_bytes: int = 0
    ok: bool = True
    reason: str | None = None
    rotational: bool = False  # a disk that has to seek

    @property
    def usage(self) -> float:
        """Used / (used + available)."""
        total = self.used_bytes + self.available_bytes
        return self.used_bytes / total if total > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Observation:
    """One immutable reading of the machine; what `decide/` decides on."""

    time: float
    filesystems: tuple[Filesystem, ...]
    caches: tuple[CacheReading, ...]
    stores: tuple[StoreReading, ...]
    groups: tuple[Group, ...] = ()  # of caches that share inodes


@dataclass(frozen=True, slots=True)
class Rules:
    """What the user chose, as far as deciding needs it."""

    bytes_marks: Watermarks
    inodes_marks: Watermarks
    dwell_seconds: float = 30.0
    cooldown_seconds: float = 60.0
    keep_free: Mark = field(default_factory=lambda: Mark(usage=0.95))  # a data disk's usage never goes above this
    kinds: frozenset[Kind] = frozenset({Kind.CACHE})
    min_size_bytes: int = 100 * 1024**2
    settle_seconds: float = 60.0
    budget_bytes: int | None = None  # what the movable caches of one filesystem may take together
    data_high: Mark = field(default_factory=lambda: Mark(usage=0.95))  # from here on a data disk is to be relieved itself
    quiet_hours: tuple[tuple[int, int], ...] = ()  # minutes of the local day, from and to; nothing moves by itself then


@dataclass(frozen=True, slots=True)
class Move:
    """One item of a plan: relocate `source` into the store at `store_path`, or purge it by `command`."""

    cache_id: str
    source: str
    store_path: str
    size_bytes: int
    reclaimable_bytes: int
    why: str
    command: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one cache is not in the plan's moves."""

    cache_id: str
    path: str
    reason: Reason
    text: str


@dataclass(frozen=True, slots=True)
class Share:
    """How much of what is used on one filesystem lies in the caches that we know, movable or not."""

    mount: str
    yours_bytes: int
    used_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What we would do now: every cache appears exactly once, as a move or as a refusal."""

    moves: tuple[Move, ...]
    refusals: tuple[Refusal, ...]
    shares: tuple[Share, ...] = ()  # of the filesystems under pressure
    handovers: tuple[Handover, ...] = ()  # from data disks that fill themselves


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of the journal: what was begun, with which ends, and the last durable stage."""

    id: int
    verb: Verb
    cache_id: str
    source: str
    target: str
    stage: Stage
    began: float
    changed: float
    size_bytes: int = 0
    files: int = 0
    freed_bytes: int = 0
    note: str = ""
    source_mark_ns: int = 0  # the latest ctime of what was copied: what is later was written since
    target_mark_ns: int = 0  # the latest ctime of the copy, by the clock of its own filesystem
    content_bytes: int = -1  # the lengths of its files, each name once; -1: written before that was counted
    origin: str = ""  # of a rehome: the tree on the data disk that is left


@dataclass(frozen=True, slots=True)
class Relocation:
    """A source that lives on the data disk now, behind our link."""

    cache_id: str
    source: str
    target: str
    since: float
    size_bytes: int
    files: int


@dataclass(frozen=True, slots=True)
class LinkReading:
    """What stands at the path of something relocated. `leads_to`: of a link that is not ours, where to."""

    item: Relocation
    standing: Standing
    leads_to: str | None = None
    tree_is_there: bool = True
    disk_is_there: bool = True
    is_standin: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the running operation is. Totals are the last measurement and may grow."""

    verb: Verb
    cache_id: str
    source: str
    target: str
    phase: str  # "copy", "sync", "settle", "verify", "exchange", "reconcile", "remove"
    began: float
    bytes_done: int = 0
    bytes_total: int = 0
    files_done: int = 0
    files_total: int = 0
    bytes_per_second: float = 0.0
    seconds_left: float | None = None
    note: str = ""  # what is waited for
    limit: int = 0  # bytes a second that it is limited to; 0: it is not


@dataclass(frozen=True, slots=True)
class Notice:
    """
    A message to the user. `topic` names the kind of event: a value of `Topic`.

    `parts` are the lines of `body` by what they are about, in its order (`happened`, `did`, `left`, `grew`, `undo`), for
    whoever lays them out; a command stands between U+E000 and U+E001 there. A letter of several has a `title` before each.
    """

    topic: str
    level: Level
    title: str
    body: str
    time: float
    parts: tuple[tuple[str, tuple[str, ...]], ...] = ()
