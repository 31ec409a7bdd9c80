"""
What has been told and still holds, so that nothing is told twice, by whichever daemon. Values only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from survived.decide.guardian import ToldLink
from survived.model import LinkState, Pressure

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Episode:
    """One stretch of pressure on one mount, from its first notice to recovery. Usages are of `quantity`."""

    mount: str
    quantity: str
    since: float
    first_usage: float
    worst_usage: float
    told: Pressure
    stuck_since: float | None = None
    stuck_usage: float | None = None  # as it was when "nothing can be moved" was told
    told_usage: float = 0.0  # as it was when anything about it was told last, and when that was
    told_at: float = 0.0
    moved: tuple[str, ...] = ()  # ids or paths of what was relocated meanwhile
    freed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Disk:
    """What was last told of one store."""

    path: str
    ok: bool
    filling: bool = False
    since: float = 0.0  # not ok, as far as was told; 0 where an older memory does not know
    told_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure that was told; the numbers in `error` are left out, so that another pid is no news."""

    source: str
    error: str
    time: float


@dataclass(frozen=True, slots=True)
class Memory:
    """All that has been told and still holds."""

    episodes: tuple[Episode, ...] = ()
    disks: tuple[Disk, ...] = ()
    failures: tuple[Failure, ...] = ()
    links: tuple[ToldLink, ...] = ()
    told_at: float = 0.0  # the last notice of any kind; 0 for none
    sizes: tuple[tuple[str, int], ...] = ()  # of the caches at that time, or when survived first looked
    sizes_at: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the memory as values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: object) -> Memory:
        """Return the memory from what `to_dict` gave; anything else is an empty memory, which only tells once more."""
        try:
            parts = data if isinstance(data, dict) else {}
            return cls(
                tuple(_episode(item) for item in parts["episodes"]),
                tuple(Disk(**item) for item in parts["disks"]),
                tuple(Failure(**item) for item in parts["failures"]),
                tuple(ToldLink(**{**item, "state": LinkState(item["state"])}) for item in parts.get("links", ())),
                float(parts.get("told_at", 0.0)),
                tuple((str(name), int(size)) for name, size in parts.get("sizes", ())),
                float(parts.get("sizes_at", 0.0)),
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            return cls()


def _episode(item: Mapping[str, Any]) -> Episode:
    moved = tuple(str(name) for name in item.get("moved", ()))
    return Episode(**{"told_usage": item["worst_usage"], **item, "told": Pressure(item["told"]), "moved": moved})


def recalled(kept: Memory, since: Memory) -> Memory:
    """Return what was kept before this process began, with what it has told of the disks since: that one was away."""
    disks = {disk.path: disk for disk in (*kept.disks, *since.disks)}
    return replace(kept, disks=tuple(disks.values()))


def measured(memory: Memory, sizes: Mapping[str, int], now: float, *, is_told: bool) -> Memory:
    """Return the memory with the caches' sizes that growth is told from: at the last notice, or at the first look."""
    if not is_told and memory.sizes_at > 0.0:
        return memory
    told_at = now if is_told else memory.told_at
    return replace(memory, sizes=tuple(sorted(sizes.items())), sizes_at=now, told_at=told_at)
