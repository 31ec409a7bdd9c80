"""
What shares inodes is moved together or not at all: alone it frees little, and what stays behind takes full copies later.

Pure. A union of caches is one candidate of the plan, as if it were one cache that lies in several places.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from survived.decide.reasons import WORTH, Why, is_below, is_over_limit
from survived.model import CacheReading, CacheState, Kind, Reason, TreeSize
from survived.units import print_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from survived.findings import Group
    from survived.model import Observation


@dataclass(frozen=True, slots=True)
class Union:
    """
    Caches that go one after the other, in their order; `reading` stands for all of them, with the size that each has alone.

    `freed_bytes`: what each of them gives back when those before it are gone.
    """

    members: tuple[CacheReading, ...]
    reading: CacheReading
    freed_bytes: tuple[int, ...]

    def others(self, reading: CacheReading) -> str:
        """Return the ids of all but one."""
        return ", ".join(member.cache.id for member in self.members if member is not reading)


def unite(observation: Observation, stays: Mapping[str, Why]) -> dict[str, Union]:
    """Return the unions that can be moved, by the id of each member. `stays`: what lastingly speaks against each cache, by id."""
    unions: dict[str, Union] = {}
    for group in observation.groups:
        members = _members(group, observation, stays)
        if members and all(member.cache.id not in stays and _may_join(member, observation) for member in members):
            unions |= dict.fromkeys((member.cache.id for member in members), _union(members, group))
    return unions


def _members(group: Group, observation: Observation, stays: Mapping[str, Why]) -> tuple[CacheReading, ...]:
    """Return the caches of a group in its order, none if one is lost; of two entries for one place the one that may be moved."""
    found: dict[str, CacheReading] = {}
    for reading in sorted(observation.caches, key=lambda reading: (reading.cache.id in stays, reading.cache.id)):
        found.setdefault(reading.cache.path, reading)
    members = tuple(found[path] for path in group.paths if path in found)
    return members if len(members) == len(group.paths) else ()


def _may_join(reading: CacheReading, observation: Observation) -> bool:
    """Tell whether a cache can be one of several: what is purged goes by itself, and what lies in another with that one."""
    if reading.state is not CacheState.HOME or reading.cache.purge_command is not None:
        return False
    path = reading.cache.path
    return not any(
        other.cache.path != path and (is_below(path, other.cache.path) or is_below(other.cache.path, path))
        for other in observation.caches
        if other.state is CacheState.HOME
    )


def _union(members: tuple[CacheReading, ...], group: Group) -> Union:
    sizes = [member.size for member in members]
    size = TreeSize(
        sum(size.size_bytes for size in sizes),  # each takes its whole room there, if a link cannot be made
        group.freed_bytes[-1],
        sum(size.files for size in sizes),
        sum(size.directories for size in sizes),
        max(size.newest_change for size in sizes),
        newest_use=max(size.newest_use for size in sizes),
    )
    kinds = {member.cache.kind for member in members}
    cache = replace(
        members[0].cache,
        id="+".join(member.cache.id for member in members),
        kind=next(kind for kind in (Kind.STATE, Kind.ENVIRONMENT, Kind.CACHE) if kind in kinds),
        limit_bytes=0 if any(is_over_limit(member) for member in members) else None,
    )
    steps = zip(group.freed_bytes, (0, *group.freed_bytes), strict=False)
    return Union(members, replace(members[0], cache=cache, size=size), tuple(after - before for after, before in steps))


def grows_later(reading: CacheReading, observation: Observation, stays: Mapping[str, Why], union: Union | None) -> Why | None:
    """
    Return why moving a cache would make its filesystem fuller later: what is made from it by links is made by copies then.

    Of a cache alone, if much of it has links outside; of one in a union, if much has links outside the union.
    """
    if not links_by_design(reading) or reading.cache.move is True or reading.cache.purge_command is not None:
        return None
    whole = union.reading if union is not None else reading
    group = next((group for group in observation.groups if reading.cache.path in group.paths), None)
    most = group.size_bytes if group is not None and union is not None else whole.size.size_bytes
    linked = most - whole.size.reclaimable_bytes
    if linked < max(1, int(reading.size.size_bytes * WORTH)):
        return None
    size, frees = print_bytes(most), print_bytes(whole.size.reclaimable_bytes)
    with_whom = f" (with {', '.join(reading.cache.shares_links_with)})"
    text = f"{print_bytes(linked)} of {size} are hard-linked from what stays{with_whom}: moving frees {frees}"
    if group is not None and union is None:
        text += f", with {_companions(reading, group, observation, stays)}"
    return Reason.GROWS_LATER, f"{text}; and what is made from it later would be full copies"


def links_by_design(reading: CacheReading) -> bool:
    """Tell whether a tool makes hard links from this cache to what it installs."""
    return reading.cache.kind is Kind.CACHE and bool(reading.cache.shares_links_with)


def _companions(reading: CacheReading, group: Group, observation: Observation, stays: Mapping[str, Why]) -> str:
    """Return what it would be with the others of its group, and why these stay."""
    others = [other for other in _members(group, observation, stays) if other.cache.path != reading.cache.path]
    names = " and ".join(other.cache.id for other in others) or "the rest"
    held = next((f", but {other.cache.id} stays: {stays[other.cache.id][1]}" for other in others if other.cache.id in stays), "")
    return f"{names} {print_bytes(group.freed_bytes[-1])}{held}"


def describe(reading: CacheReading, union: Union) -> str:
    """Return what going together changes, in numbers: `moves with conda-envs: alone it frees 19.7 MiB of 39 MiB, together ...`."""
    alone, size = print_bytes(reading.size.reclaimable_bytes), print_bytes(reading.size.size_bytes)
    together = print_bytes(union.reading.size.reclaimable_bytes)
    return f"shares links with {union.others(reading)}: alone it frees {alone} of {size}, together they free {together}"


def hindered(reading: CacheReading, union: Union, whys: Mapping[str, Why]) -> Why | None:
    """Return the passing reason of another member, for which all of them wait."""
    for member in union.members:
        if member is not reading and (why := whys.get(member.cache.id)) is not None:
            return why[0], f"moves together with {member.cache.id}, which stays for now: {why[1]}"
    return None


def partner_stores(reading: CacheReading, caches: Sequence[CacheReading]) -> tuple[str, ...]:
    """Return where the trees live that a cache shares links with and that went before it: only there can it be linked to them."""
    wanted, own = set(reading.cache.shares_links_with), reading.cache.id
    return tuple(
        other.target
        for other in caches
        if other.target is not None
        and other.state is CacheState.RELOCATED
        and (other.cache.id in wanted or own in other.cache.shares_links_with)
    )
