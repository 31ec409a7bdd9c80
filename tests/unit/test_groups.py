"""What shares inodes is measured together, planned together, and refused where it would make the disk grow later."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from survived.decide.explain import explain
from survived.decide.policy import plan
from survived.decide.reasons import Moment
from survived.errands import growth_advice
from survived.errors import Stopped
from survived.findings import Group
from survived.model import CacheReading, CacheState, Holder, Kind, Observation, Pressure, Reason
from survived.observe import groups as measuring
from survived.observe.caches import read_caches
from survived.observe.groups import Groups
from tests.unit.scene import GIB, MIB, NOW, RULES, reading, scene, store
from tests.unit.test_policy import ALL_KINDS, PRESSURES, machines, moved, refusal

if TYPE_CHECKING:
    from typing import Any

HIGH, CALM = ({"/": pressure} for pressure in (Pressure.HIGH, Pressure.NORMAL))
ENVS_TOO = replace(RULES, kinds=frozenset({Kind.CACHE, Kind.ENVIRONMENT}))


def conda(**changes: Any) -> tuple[CacheReading, CacheReading]:
    """Return a package cache that alone frees half, and the environments that link to it."""
    pkgs = reading("conda-pkgs", 39 * GIB, 19 * GIB, path="/h/pkgs", cache={"shares_links_with": ("conda-envs",)})
    envs = reading("conda-envs", 39 * GIB, 19 * GIB, path="/h/envs", kind=Kind.ENVIRONMENT, **changes)
    return pkgs, envs


def with_group(*caches: CacheReading, freed: tuple[int, ...] = (19 * GIB, 58 * GIB), **changes: Any) -> Observation:
    """Return a machine on which conda's two share 20 GiB."""
    machine = scene(*caches, **changes)
    return replace(machine, groups=(Group(("/h/envs", "/h/pkgs"), 58 * GIB, freed),))


def test_both_go_one_after_the_other_and_count_together() -> None:
    """Environments first, each with what comes back at its step; the sum is what the group gives back; the text has numbers."""
    pkgs, envs = conda()
    result = plan(with_group(pkgs, envs, reading("pip", 2 * GIB)), HIGH, ENVS_TOO)

    assert [(move.cache_id, move.reclaimable_bytes) for move in result.moves] == [
        ("pip", 2 * GIB), ("conda-envs", 19 * GIB), ("conda-pkgs", 39 * GIB),
    ]  # fmt: skip
    assert result.moves[2].why.endswith(
        "moving frees 39.0 GiB towards 80 %; shares links with conda-envs: alone it frees 19.0 GiB of 39.0 GiB, "
        "together they free 58.0 GiB"
    )
    assert len({move.store_path for move in result.moves}) == 1


def test_a_cache_whose_environments_stay_is_refused() -> None:
    """Only caches may move: pkgs alone would make later environments full copies, and the refusal says what both would free."""
    result = plan(with_group(*conda()), HIGH, RULES)

    assert moved(result) == []
    assert refusal(result, "conda-envs").reason is Reason.NOT_OPTED_IN
    assert refusal(result, "conda-pkgs").reason is Reason.GROWS_LATER
    assert refusal(result, "conda-pkgs").text.startswith(
        "20.0 GiB of 39.0 GiB are hard-linked from what stays (with conda-envs): moving frees 19.0 GiB, "
        "with conda-envs 58.0 GiB, but conda-envs stays: environments are moved only when you say so"
    )
    assert refusal(result, "conda-pkgs").text.endswith("and what is made from it later would be full copies")


def test_a_uv_cache_that_venvs_link_to() -> None:
    """Half of it is in venvs: refused on a calm day, too; the user's own word moves it, and without links it goes."""
    uv = reading("uv-cache", 20 * GIB, 11 * GIB, cache={"shares_links_with": ("venvs made by uv",)})
    mine = replace(uv, cache=replace(uv.cache, move=True))

    for pressures in (HIGH, CALM, {"/": Pressure.FLOOD}):
        assert plan(scene(uv), pressures, RULES).refusals[0].reason is Reason.GROWS_LATER
    assert moved(plan(scene(mine), HIGH, RULES)) == ["uv-cache"]
    assert moved(plan(scene(replace(uv, size=replace(uv.size, reclaimable_bytes=19 * GIB))), HIGH, RULES)) == ["uv-cache"]


def test_what_else_is_linked_goes_as_it_did() -> None:
    """Hard links that no tool makes by design say nothing about later: what frees half is moved."""
    assert moved(plan(scene(reading("x", 20 * GIB, 10 * GIB)), HIGH, RULES)) == ["x"]


def test_all_wait_for_the_one_that_cannot_go_now() -> None:
    """A python runs in an environment: both wait, and each says for whom."""
    pkgs, envs = conda(holders=(Holder(7, "python", "/h/envs/a"),))
    result = plan(with_group(pkgs, envs), HIGH, ENVS_TOO)

    assert refusal(result, "conda-envs").text == "python (pid 7) has files open"
    assert (refusal(result, "conda-pkgs").reason, refusal(result, "conda-pkgs").text) == (
        Reason.BUSY, "moves together with conda-envs, which stays for now: python (pid 7) has files open",
    )  # fmt: skip


def test_a_store_must_have_room_for_both() -> None:
    """Where only one fits neither goes, since it could not be linked to the other."""
    result = plan(with_group(*conda(), stores=(store(available=60 * GIB, used=0),)), HIGH, ENVS_TOO)

    assert {item.reason for item in result.refusals} == {Reason.NO_ROOM}
    assert refusal(result, "conda-pkgs").text.startswith("needs 78.0 GiB")


def test_the_second_goes_to_the_disk_of_the_first() -> None:
    """When the environments are there already the package cache follows them, although another disk has more room."""
    pkgs, envs = conda(state=CacheState.RELOCATED, target="/data2/alice/survived/trees/h/envs", device_id=3)
    whole = replace(pkgs, size=replace(pkgs.size, reclaimable_bytes=39 * GIB))
    near = store("data2", 100 * GIB, 0, device_id=3)
    result = plan(scene(whole, envs, stores=(store(), near)), HIGH, ENVS_TOO)

    assert [(move.cache_id, move.store_path) for move in result.moves] == [("conda-pkgs", near.path)]


def test_explained() -> None:
    """Each rule says it for the two together, and what objects is what the plan says."""
    pkgs, envs = conda()
    for rules, objects in ((ENVS_TOO, False), (RULES, True)):
        machine = with_group(pkgs, envs)
        said = {s.rule: s for s in explain(pkgs, machine, HIGH, rules, plan(machine, HIGH, rules), Moment(NOW, {}))}
        assert said["later"].objects is said["plan"].objects is objects
    assert "58.0 GiB" in said["later"].text


@st.composite
def grouped(draw: st.DrawFn) -> Observation:
    """Make any machine, on which caches of one filesystem that do not lie in each other may share inodes."""
    machine = draw(machines())
    caches = [
        replace(item, cache=replace(item.cache, shares_links_with=draw(st.sampled_from([(), ("others",)]))))
        for item in machine.caches
    ]  # fmt: skip
    loose = [c for c in caches if c.cache.path.count("/") == 3 and c.state is CacheState.HOME and c.device_id in (1, 7)]
    groups = []
    for device in (1, 7):
        members = [c for c in loose if c.device_id == device and draw(st.booleans())]
        if len(members) > 1:
            most = sum(c.size.size_bytes for c in members)
            least = sum(c.size.reclaimable_bytes for c in members)
            freed = sorted(draw(st.integers(least, most)) for _ in members)
            groups.append(Group(tuple(c.cache.path for c in members), freed[-1], tuple(freed)))
    return replace(machine, caches=tuple(caches), groups=tuple(groups))


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(grouped(), PRESSURES, st.randoms(use_true_random=False))
def test_the_laws_hold_for_groups(machine: Observation, pressures: dict[str, Pressure], dice: Any) -> None:
    """Every cache once; freed is no more than there is; data disks keep their share; the order of the input decides nothing."""
    result = plan(machine, pressures, ALL_KINDS)
    sizes = {item.cache.id: item for item in machine.caches}

    assert sorted([*moved(result), *(item.cache_id for item in result.refusals)]) == sorted(sizes)
    for group in machine.groups:
        inside = [move for move in result.moves if move.source in group.paths]
        if len(inside) == len(group.paths):
            assert sum(move.reclaimable_bytes for move in inside) <= group.freed_bytes[-1]
    for move in result.moves:
        assert move.reclaimable_bytes >= 0
        if not any(move.source in group.paths for group in machine.groups):
            assert move.reclaimable_bytes == sizes[move.cache_id].size.reclaimable_bytes
    for disk in machine.stores:
        here = {item.path for item in machine.stores if (item.device_id, item.mount) == (disk.device_id, disk.mount)}
        put = sum(move.size_bytes for move in result.moves if move.store_path in here)
        assert not put or (disk.used_bytes + put) / (disk.used_bytes + disk.available_bytes) <= 0.95
    caches = list(machine.caches)
    dice.shuffle(caches)
    again = plan(replace(machine, caches=tuple(caches)), pressures, ALL_KINDS)
    assert again.moves == result.moves
    assert again.refusals == result.refusals


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(grouped(), st.floats(0.5, 1), st.floats(0.5, 1))
def test_more_pressure_never_moves_less_of_groups(machine: Observation, one: float, other: float) -> None:
    """Normal, high, flood, and a fuller disk: what is freed only grows with the gauge."""
    freed = []
    for pressure in Pressure:
        result = plan(machine, {"/": pressure, "/home": pressure}, ALL_KINDS)
        freed.append(sum(move.reclaimable_bytes for move in result.moves))
    assert freed == sorted(freed)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(grouped(), PRESSURES)
def test_explaining_agrees_for_groups(machine: Observation, pressures: dict[str, Pressure]) -> None:
    """What moves is objected to by nobody; what stays is said to stay, once."""
    result = plan(machine, pressures, ALL_KINDS)
    for item in machine.caches:
        said = explain(item, machine, pressures, ALL_KINDS, result, Moment(NOW, {}))
        moves = item.cache.id in moved(result)
        assert [s.objects for s in said if s.rule == "plan"] == [not moves]
        assert not moves or not any(s.objects for s in said)


def linked(path: Path, *others: Path, size: int = 100_000, name: str = "f") -> None:
    """Make a file in one tree and links to it in others."""
    path.mkdir(parents=True, exist_ok=True)
    (path / name).write_bytes(os.urandom(size))
    for other in others:
        other.mkdir(parents=True, exist_ok=True)
        os.link(path / name, other / name)


def read(*paths: Path, kinds: tuple[Kind, ...] = ()) -> tuple[CacheReading, ...]:
    """Read trees as caches."""
    kinds = kinds or (Kind.CACHE,) * len(paths)
    caches = [reading(path.name, path=str(path), kind=kind).cache for path, kind in zip(paths, kinds, strict=True)]
    return read_caches(caches, NOW, {})


def test_groups_are_measured(tmp_path: Path) -> None:
    """Of five trees two share inodes, and two others through a third; what is linked from outside all of them never comes back."""
    pkgs, envs, a, b, c = (tmp_path / name for name in ("pkgs", "envs", "a", "b", "c"))
    linked(pkgs, envs)
    linked(pkgs, name="own")
    linked(pkgs, envs, tmp_path / "elsewhere", name="kept", size=300_000)
    linked(a, b, name="x")
    linked(b, c, name="y")
    linked(tmp_path / "alone", tmp_path / "elsewhere", name="z")
    trees = read(pkgs, envs, a, b, c, tmp_path / "alone", kinds=(Kind.CACHE, Kind.ENVIRONMENT, *(Kind.CACHE,) * 4))
    by_path = {item.cache.path: item.size for item in trees}
    found = {group.paths: group for group in Groups().measure(trees)}

    assert set(found) == {(str(envs), str(pkgs)), tuple(map(str, (a, b, c)))}
    group = found[str(envs), str(pkgs)]
    assert group.size_bytes == by_path[str(pkgs)].size_bytes + os.lstat(envs).st_blocks * 512
    assert group.freed_bytes[0] == by_path[str(envs)].reclaimable_bytes
    assert group.size_bytes - group.freed_bytes[1] == os.lstat(pkgs / "kept").st_blocks * 512
    three = found[tuple(map(str, (a, b, c)))]
    assert three.freed_bytes[-1] == three.size_bytes


def test_nothing_is_walked_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees as they were are not walked again, nor those of another size for some minutes; another tree is; a stop ends it."""
    linked(tmp_path / "a", tmp_path / "b")
    linked(tmp_path / "c", tmp_path / "d")
    walks: list[str] = []
    real = measuring._walk
    monkeypatch.setattr(measuring, "_walk", lambda path, stop: walks.append(path) or real(path, stop))
    known = Groups()
    two, all_four = read(tmp_path / "a", tmp_path / "b"), read(*(tmp_path / name for name in "abcd"))
    assert known.measure(two) == known.measure(two)
    assert len(known.measure([replace(two[0], size=replace(two[0].size, size_bytes=10 * MIB)), two[1]])) == 1
    assert len(walks) == 2
    assert len(known.measure(all_four)) == 2
    assert len(walks) == 6
    assert known.measure(read(tmp_path / "a")) == ()
    with pytest.raises(Stopped):
        measuring.measure_groups(two, lambda: True)


def test_who_moves_it_all_the_same_is_told() -> None:
    """By hand a cache that venvs link to goes, and its user hears what that means, with the numbers; nothing to say is None."""
    uv = reading("uv-cache", 20 * GIB, 11 * GIB, cache={"shares_links_with": ("venvs made by uv",)})
    said = growth_advice(uv.cache, uv.size)

    assert said is not None
    assert "9.00 GiB of 20.0 GiB" in said
    assert "(venvs made by uv): moving frees 11.0 GiB" in said
    assert growth_advice(uv.cache, replace(uv.size, reclaimable_bytes=19 * GIB)) is None
    assert growth_advice(reading("x", 20 * GIB, GIB).cache, reading("x", 20 * GIB, GIB).size) is None
