"""Which caches go: cold before hot, what a seeking disk bears, budgets, quiet hours; and laws that hold for any machine."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from survived.decide.explain import explain
from survived.decide.policy import plan
from survived.decide.ranking import HOT_SECONDS, Reluctance, reluctance
from survived.decide.reasons import Moment
from survived.model import CacheReading, Kind, Observation, Plan, Pressure, Reason, Share
from tests.unit.scene import GIB, MIB, NOW, RULES, filesystem, reading, scene, store
from tests.unit.test_policy import ALL_KINDS, PRESSURES, machines, moved, refusal

HIGH, CALM, FLOOD = ({"/": pressure} for pressure in (Pressure.HIGH, Pressure.NORMAL, Pressure.FLOOD))
HDD = store(rotational=True)


def hot(name: str, size: int, *, files: int = 10, by: str = "newest_use") -> CacheReading:
    """Return a cache that was used an hour ago; it is quiet since."""
    return reading(name, size, files=files, tree={by: NOW - 3600})


def test_cold_goes_before_hot() -> None:
    """13 GiB are needed: two that nobody uses go before one in use that would suffice alone, and that one stays."""
    result = plan(scene(hot("hf", 14 * GIB), reading("a", 8 * GIB), reading("b", 6 * GIB)), HIGH, RULES)

    assert moved(result) == ["a", "b"]
    assert refusal(result, "hf").reason is Reason.ENOUGH


def test_hot_goes_where_cold_does_not_suffice() -> None:
    """Then the fewest moves count again, whoever is in use."""
    result = plan(scene(hot("hf", 14 * GIB), reading("a", 8 * GIB), reading("b", 4 * GIB)), HIGH, RULES)

    assert moved(result) == ["hf"]


def test_of_two_alike_the_one_unused_longer_goes() -> None:
    """Size decides first; a tie is broken by the last use."""
    one, other = (reading(name, 14 * GIB, tree={"newest_change": NOW - days * 86400}) for name, days in (("a", 2), ("b", 30)))

    assert moved(plan(scene(one, other), HIGH, RULES)) == ["b"]


@pytest.mark.parametrize(
    ("cache", "stores", "step"),
    [
        (reading("x"), (HDD,), Reluctance.COLD),
        (hot("x", GIB, by="newest_change"), (store(),), Reluctance.HOT),
        (hot("x", GIB), (HDD,), Reluctance.HOT),  # ten large files
        (hot("x", GIB, files=50_000), (HDD,), Reluctance.SLOWED),
        (hot("x", GIB, files=50_000), (HDD, store("data2")), Reluctance.HOT),  # a fast one is there, too
        (hot("x", GIB, files=50_000), (HDD, store("data2", ok=False)), Reluctance.SLOWED),
        (reading("x", tree={"newest_use": NOW + 60}), (HDD,), Reluctance.COLD),
        (reading("x", tree={"newest_use": NOW - HOT_SECONDS}), (HDD,), Reluctance.COLD),
    ],
)
def test_reluctance(cache: CacheReading, stores: tuple[object, ...], step: Reluctance) -> None:
    """What is in use is spared, and small files in use are spared a disk that seeks."""
    assert reluctance(cache, NOW, stores) is step  # type: ignore[arg-type]


def test_large_files_go_to_a_seeking_disk_before_small_ones_in_use() -> None:
    """Of two in use the model goes and the environment of small files stays, though it alone is nearer to what is needed."""
    small, large = hot("npm", 14 * GIB, files=2_000_000), hot("hf", 20 * GIB)

    assert moved(plan(scene(small, large, stores=(HDD,)), HIGH, RULES)) == ["hf"]
    assert moved(plan(scene(small, large), HIGH, RULES)) == ["npm"]


def test_a_budget_moves_on_a_calm_day() -> None:
    """Caches that take more than their budget together go until they are in it; what may not move does not count."""
    caches = (
        reading("a", 6 * GIB), reading("b", 3 * GIB), reading("c", 2 * GIB),
        reading("kept", 50 * GIB, cache={"move": False}), reading("envs", 50 * GIB, kind=Kind.ENVIRONMENT),
    )  # fmt: skip
    rules = replace(RULES, budget_bytes=9 * GIB)
    result = plan(scene(*caches, fs=filesystem(0.3)), CALM, rules)

    assert moved(result) == ["c"]
    assert result.moves[0].why == "the caches on / are 2.00 GiB over their budget of 9.00 GiB; moving frees 2.00 GiB"
    assert refusal(result, "a").reason is Reason.ENOUGH
    assert moved(plan(scene(*caches), CALM, RULES)) == []
    assert moved(plan(scene(*caches), CALM, replace(RULES, budget_bytes=11 * GIB))) == []


def test_nested_caches_count_once_in_a_budget() -> None:
    """A folder in another is not counted twice."""
    outer, inner = reading("outer", 6 * GIB, path="/a"), reading("inner", 5 * GIB, path="/a/b")

    assert moved(plan(scene(outer, inner), CALM, replace(RULES, budget_bytes=6 * GIB))) == []


@pytest.mark.parametrize(
    ("minute", "quiet"), [(9 * 60, True), (9 * 60 - 1, False), (17 * 60 + 59, True), (18 * 60, False), (23 * 60, True), (10, True)]
)
def test_quiet_hours(minute: int, quiet: bool) -> None:
    """In quiet hours nothing moves by itself and the refusal says until when; a flood breaks them; other reasons are told first."""
    rules = replace(RULES, quiet_hours=((9 * 60, 18 * 60), (22 * 60 + 30, 6 * 60)))
    machine = scene(reading("torch", 13 * GIB))
    result = plan(machine, HIGH, rules, minute=minute)

    assert moved(result) == ([] if quiet else ["torch"])
    if quiet:
        until = "18:00" if 9 <= minute / 60 < 18 else "06:00"
        assert result.refusals[0].reason is Reason.QUIET_HOURS
        assert result.refusals[0].text == f"quiet hours until {until}, which only a flood breaks"
    assert moved(plan(machine, FLOOD, rules, minute=minute)) == ["torch"]
    assert moved(plan(machine, HIGH, rules)) == ["torch"]  # who does not know the hour is not kept from it


def test_the_plan_says_what_is_yours() -> None:
    """On a filesystem under pressure: what lies in known caches at home, each once, of all that is used there."""
    caches = (reading("a", 6 * GIB, path="/a"), reading("b", 5 * GIB, path="/a/b"), reading("c", 2 * GIB, device_id=9))

    assert plan(scene(*caches), HIGH, RULES).shares == (Share("/", 6 * GIB, 93 * GIB),)
    assert plan(scene(*caches), CALM, RULES).shares == ()


def freed(machine: Observation, result: Plan, device: int) -> int:
    """Return the bytes that a plan frees on one filesystem."""
    devices = {item.cache.path: item.device_id for item in machine.caches}
    return sum(move.reclaimable_bytes for move in result.moves if devices[move.source] == device)


@given(st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=8), st.floats(0.8, 1), st.floats(0.8, 1))
def test_more_pressure_never_moves_less(sizes: list[tuple[int, bool]], one: float, other: float) -> None:
    """A fuller disk never has fewer bytes freed, and freed is never more than there is to reclaim."""
    caches = tuple(
        (hot if warm else reading)(f"c{number}", size * GIB // 4) for number, (size, warm) in enumerate(sizes)
    )  # fmt: skip
    less, more = sorted((one, other))
    plans = [plan(scene(*caches, fs=filesystem(usage)), HIGH, RULES) for usage in (less, more)]
    machine = scene(*caches)

    assert freed(machine, plans[0], 1) <= freed(machine, plans[1], 1)
    assert freed(machine, plans[1], 1) <= sum(cache.size.reclaimable_bytes for cache in caches)


@given(machines())
def test_a_worse_gauge_never_moves_less(machine: Observation) -> None:
    """Normal, high, flood: with the same usage the plan only grows."""
    results = [plan(machine, {"/": pressure, "/home": pressure}, ALL_KINDS) for pressure in Pressure]
    for device in (1, 7):
        calm, high, flood = (freed(machine, result, device) for result in results)
        assert calm <= high <= flood


@given(machines(), st.integers(0, 60).map(lambda size: size * GIB // 4))
def test_a_budget_only_adds(machine: Observation, budget: int) -> None:
    """With a budget every cache is still there once, and what is freed is no less than without."""
    pressures = {"/": Pressure.HIGH, "/home": Pressure.NORMAL}
    without, result = (plan(machine, pressures, replace(ALL_KINDS, budget_bytes=value)) for value in (None, budget))

    assert sorted([*moved(result), *(item.cache_id for item in result.refusals)]) == sorted(c.cache.id for c in machine.caches)
    assert all(freed(machine, result, device) >= 0 for device in (1, 7))
    if budget > 100 * GIB:
        assert without == result


def test_a_small_cache_is_no_offender_in_a_budget() -> None:
    """min_size holds there, too: what takes nothing frees nothing."""
    rules = replace(RULES, budget_bytes=0)

    assert refusal(plan(scene(reading("tiny", MIB)), CALM, rules), "tiny").reason is Reason.TOO_SMALL


def spoken(machine: Observation, name: str, pressures: dict[str, Pressure], **options: object) -> dict[str, tuple[bool, str]]:
    """Return what each rule says about one cache."""
    result = plan(machine, pressures, RULES)
    (item,) = [item for item in machine.caches if item.cache.id == name]
    moment = Moment(NOW, {}, **options)  # type: ignore[arg-type]
    return {s.rule: (s.objects, s.text) for s in explain(item, machine, pressures, RULES, result, moment)}


def test_every_rule_speaks_with_its_numbers() -> None:
    """Of a cache that moves: nothing objects, and each number that counted is there."""
    said = spoken(scene(reading("torch", 13 * GIB)), "torch", HIGH)

    assert list(said) == ["place", "wanted", "tree", "inside", "worth", "limit", "need", "room", "moment", "use", "plan"]
    assert not any(objects for objects, _ in said.values())
    assert said["worth"][1] == "moving 13.0 GiB frees 13.0 GiB (100 %); min_size is 100 MiB"
    assert said["need"][1] == "/ is at 93 %, pressure high; 13.0 GiB to free towards 80 %"
    assert "has room for 4.54 TiB" in said["room"][1]
    assert said["plan"][1].startswith("moves to '/data1/alice/survived': / is at 93 %")


def test_what_objects_is_told_beside_what_does_not() -> None:
    """Of an environment in use that is too small: all three say so, although the plan names only one of them."""
    said = spoken(scene(hot("env", MIB), reading("x", 20 * GIB)), "env", HIGH, paused=True)

    assert {rule for rule, (objects, _) in said.items() if objects} == {"worth", "moment", "plan"}
    assert said["plan"][1].startswith("stays (too_small): ")
    assert said["moment"][1] == "moving is paused; survivectl resume ends that"


@given(machines(), PRESSURES)
def test_explaining_agrees_with_the_plan(machine: Observation, pressures: dict[str, Pressure]) -> None:
    """What moves is objected to by nobody; what stays is said to stay, once."""
    result = plan(machine, pressures, ALL_KINDS)
    for item in machine.caches:
        said = explain(item, machine, pressures, ALL_KINDS, result, Moment(NOW, {}))
        moves = item.cache.id in moved(result)
        assert [s.objects for s in said if s.rule == "plan"] == [not moves]
        assert not moves or not any(s.objects for s in said)
