"""The plan frees down to low with few moves, and every cache that stays has the most useful reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from survived.decide.housing import store_room
from survived.decide.policy import plan
from survived.decide.pressure import excess_bytes
from survived.model import (
    CacheReading,
    CacheState,
    Gauge,
    Holder,
    Kind,
    Mark,
    Observation,
    Plan,
    Pressure,
    Reason,
    Refusal,
    StoreReading,
)
from tests.unit.scene import GIB, MIB, NOW, RULES, filesystem, reading, scene, store

HIGH = {"/": Pressure.HIGH}
CALM = {"/": Pressure.NORMAL}


def moved(result: Plan) -> list[str]:
    """Return the ids of what is moved, in order."""
    return [move.cache_id for move in result.moves]


def refusal(result: Plan, cache_id: str) -> Refusal:
    """Return the one refusal of a cache."""
    (found,) = [item for item in result.refusals if item.cache_id == cache_id]
    return found


def refused(cache: CacheReading, pressures: dict[str, Pressure] = HIGH, **options: Any) -> tuple[Reason, str]:
    """Return why a cache is refused on a machine of its own."""
    stores = options.pop("stores", None)
    item = refusal(plan(scene(cache, stores=stores), pressures, RULES, **options), cache.cache.id)
    return item.reason, item.text


TORCH = reading("torch", 13 * GIB)
PYTHON = Holder(4711, "python", "/home/alice/.cache/x/a")


@pytest.mark.parametrize(
    ("cache", "reason", "words"),
    [
        (reading("x", state=CacheState.ABSENT), Reason.ABSENT, "nothing at this path"),
        (reading("x", state=CacheState.DANGLING, target="/data1/t"), Reason.DANGLING, "'/data1/t', where nothing is"),
        (reading("x", state=CacheState.RELOCATED, target="/data1/t"), Reason.ALREADY_LINK, "already lives at '/data1/t'"),
        (reading("x", state=CacheState.MOVING), Reason.BUSY, "is being moved now"),
        (reading("x", error="Not a directory"), Reason.NOT_A_DIRECTORY, "Not a directory"),
        (reading("x", error="Permission denied"), Reason.UNREADABLE, "Permission denied"),
        (reading("x", cache={"move": False}), Reason.SWITCHED_OFF, "move = false in [caches.x]"),
        (reading("x", cache={"report_only": "never tried"}), Reason.REPORT_ONLY, "never tried"),
        (reading("x", kind=Kind.ENVIRONMENT), Reason.NOT_OPTED_IN, 'environments are moved only when you say so: add "environ'),
        (reading("x", kind=Kind.TEMPORARY, cache={"move": True}), Reason.NOT_OPTED_IN, "temporary files are never"),
        (reading("x", device_id=9), Reason.OTHER_FILESYSTEM, "not watched (watched: /)"),
        (reading("x", device_id=None), Reason.OTHER_FILESYSTEM, "not watched"),
        (reading("x", device_id=9, path="/m", tree={"mount_below": "/m"}), Reason.MOUNT_POINT, "is a mount point itself"),
        (reading("x", tree={"mount_below": "/m/y"}), Reason.MOUNT_POINT, "mounted below it, at '/m/y'"),
        (reading("x", tree={"foreign": "/m/f"}), Reason.NOT_OURS, "'/m/f' belongs to somebody else"),
        (reading("x", tree={"unreadable": "/m/u"}), Reason.UNREADABLE, "'/m/u' cannot be read"),
        (reading("x", 99 * MIB), Reason.TOO_SMALL, "99.0 MiB is under the 100 MiB of min_size"),
        (reading("x", 585 * MIB, 17 * MIB), Reason.NOTHING_FREED, "hard-linked elsewhere: moving 585 MiB would free 17.0 MiB"),
        (reading("x", 101 * MIB, 9 * MIB, cache={"shares_links_with": ("venvs",)}), Reason.NOTHING_FREED, "(with venvs)"),
        (reading("x", 9000 * GIB), Reason.NO_ROOM, "'/data1/alice/survived' has room for 4.54 TiB (keeping 5 % free)"),
        (reading("x", holders=(PYTHON, PYTHON)), Reason.BUSY, "python (pid 4711) has files open"),
        (
            reading("x", holders=tuple(Holder(pid, "sh", "/") for pid in range(1, 6))),
            Reason.BUSY,
            "sh (pid 1), sh (pid 2), sh (pid 3) and 2 more have files open",
        ),
        (
            reading("x", tree={"newest_change": NOW - 12}),
            Reason.RECENT,
            "changed 12 s ago, moves after 1 min of quiet",
        ),
    ],
)  # fmt: skip
def test_each_reason_has_its_sentence(cache: CacheReading, reason: Reason, words: str) -> None:
    """Under pressure, a cache that cannot be moved says why, with names and numbers."""
    found, text = refused(cache)

    assert found is reason
    assert words in text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"holders": (PYTHON,), "tree": {"newest_change": NOW}}, Reason.BUSY),
        ({"size": 1, "holders": (PYTHON,)}, Reason.TOO_SMALL),
        ({"size": 1, "tree": {"foreign": "/f"}}, Reason.NOT_OURS),
        ({"size": 1, "device_id": 9, "kind": Kind.STATE}, Reason.NOT_OPTED_IN),
        ({"cache": {"move": False, "report_only": "r"}, "kind": Kind.STATE}, Reason.SWITCHED_OFF),
        ({"state": CacheState.RELOCATED, "cache": {"move": False}}, Reason.ALREADY_LINK),
        ({"tree": {"newest_change": NOW + 3600}}, None),
    ],
)
def test_the_most_lasting_reason_wins(changes: dict[str, Any], reason: Reason | None) -> None:
    """Where several reasons hold, the one that would still be there tomorrow is told; a future mtime is no reason."""
    result = plan(scene(reading("x", **changes)), HIGH, RULES)

    assert [item.reason for item in result.refusals] == ([] if reason is None else [reason])


def test_without_pressure_intrinsic_reasons_stay_and_passing_ones_do_not() -> None:
    """On a calm day a busy cache is simply not needed, and one that is too small is still too small."""
    assert refused(reading("x", holders=(PYTHON,)), CALM)[0] is Reason.NOT_NEEDED
    assert refused(reading("x", 1), CALM)[0] is Reason.TOO_SMALL
    assert refused(reading("x"), CALM, stores=())[0] is Reason.NOT_NEEDED


@pytest.mark.parametrize(
    ("usage", "text"),
    [
        (0.63, "/ is at 63 %, high is 90 %"),
        (0.8996, "/ is at 89.9 %, high is 90 %"),
        (0.93, "/ is at 93 %, but has not been above high for 30 s"),
    ],
)
def test_not_needed_tells_how_far_high_is(usage: float, text: str) -> None:
    """The sentence never shows a usage that looks like high while it is below."""
    result = plan(scene(reading("x"), fs=filesystem(usage)), CALM, RULES)

    assert (Reason.NOT_NEEDED, text) == (result.refusals[0].reason, result.refusals[0].text)


def test_no_store_names_every_store_with_its_reason() -> None:
    """A missing data disk is told before a busy program, and the cache's own disk is no data disk."""
    gone = store("data1", ok=False, reason="it is not mounted")
    own = store("home", device_id=1)

    assert refused(reading("x", holders=(PYTHON,)), stores=(gone, own)) == (
        Reason.NO_STORE,
        "'/data1/alice/survived' cannot be used: it is not mounted; '/home/alice/survived' lies on the cache's own filesystem",
    )
    assert refused(reading("x"), stores=())[1] == "no data disk is configured and none was found"


def test_failure_and_pause_are_told_last() -> None:
    """A cache that failed before or waits for `resume` says so only if it would be moved otherwise."""
    path = "/home/alice/.cache/x"

    assert refused(reading("x"), paused=True)[0] is Reason.PAUSED
    assert refused(reading("x"), paused=True, failed={path: "No space left"}) == (
        Reason.FAILED_BEFORE,
        "the last attempt failed: No space left",
    )
    assert refused(reading("x"), CALM, paused=True)[0] is Reason.NOT_NEEDED


def test_the_smallest_cache_that_suffices_is_moved_alone() -> None:
    """13 GiB are needed: of 20, 14 and 5 GiB only the 14 are moved, and the others say that it is enough."""
    result = plan(scene(reading("a", 20 * GIB), reading("b", 14 * GIB), reading("c", 5 * GIB)), HIGH, RULES)

    assert moved(result) == ["b"]
    assert result.moves[0].why == "/ is at 93 %, high is 90 %; moving frees 14.0 GiB towards 80 %"
    assert refusal(result, "a") == Refusal("a", "/home/alice/.cache/a", Reason.ENOUGH, "moving b brings / to 79 %, low is 80 %")


def test_else_the_largest_first_and_the_smallest_that_completes() -> None:
    """None suffices alone: the largest goes first, then the smallest that covers the rest."""
    sizes = {"a": 8, "b": 7, "c": 6, "d": 5, "e": 2}
    result = plan(scene(*(reading(name, size * GIB) for name, size in sizes.items())), HIGH, RULES)

    assert moved(result) == ["a", "d"]


def test_caches_go_before_environments_before_state() -> None:
    """What can be rebuilt is moved first, even where one environment would have sufficed."""
    rules = replace(RULES, kinds=frozenset(Kind))
    caches = (
        reading("state", 50 * GIB, kind=Kind.STATE),
        reading("envs", 50 * GIB, kind=Kind.ENVIRONMENT),
        reading("pip", 5 * GIB),
    )

    assert moved(plan(scene(*caches), HIGH, rules)) == ["pip", "envs"]


def test_the_users_word_opts_one_environment_in() -> None:
    """`move = true` moves an environment although its kind is not opted in."""
    result = plan(scene(reading("envs", 20 * GIB, kind=Kind.ENVIRONMENT, cache={"move": True})), HIGH, RULES)

    assert moved(result) == ["envs"]


def test_a_cache_over_its_limit_goes_in_any_case_and_first() -> None:
    """A limit makes a cache an offender without pressure and below min_size; under pressure it counts towards low."""
    wandb = reading("wandb", 60 * MIB, cache={"limit_bytes": 50 * MIB})
    large = reading("hf", 12.5 * GIB, cache={"limit_bytes": 10 * GIB})  # type: ignore[arg-type]
    under = reading("pip", 40 * MIB, cache={"limit_bytes": 50 * MIB})

    calm = plan(scene(wandb, under), CALM, RULES)
    assert moved(calm) == ["wandb"]
    assert calm.moves[0].why == "60.0 MiB is over its limit of 50.0 MiB; moving frees 60.0 MiB"
    assert refusal(calm, "pip").reason is Reason.TOO_SMALL
    pressed = plan(scene(reading("a", 1 * GIB), TORCH, large), HIGH, RULES)
    assert moved(pressed) == ["hf", "a"]


def test_pressure_that_is_over_moves_nothing() -> None:
    """Between a gauge that still says high and a usage that is at low already, the usage is believed."""
    result = plan(scene(reading("x"), fs=filesystem(0.79)), HIGH, RULES)

    assert (moved(result), result.refusals[0].reason) == ([], Reason.ENOUGH)


def test_each_move_goes_to_the_roomiest_store_and_counts_there() -> None:
    """The second move sees what the first one put on the disk, also where two stores share it."""
    small = store("data1", 10 * GIB, 0, device_id=2)
    twin = replace(small, path="/data1/bob/survived")
    large = store("data2", 12 * GIB, 0, device_id=3)
    caches = [reading(name, 7 * GIB) for name in ("a", "b", "c")]
    result = plan(scene(*caches, fs=filesystem(0.99), stores=(small, twin, large)), HIGH, RULES)

    assert [(move.cache_id, move.store_path) for move in result.moves] == [("a", large.path), ("b", small.path)]
    assert refusal(result, "c").reason is Reason.NO_ROOM
    assert "'/data2/alice/survived' has room for 4.40 GiB" in refusal(result, "c").text


def test_the_caches_own_disk_is_no_data_disk() -> None:
    """A roomier store on the filesystem that is to be relieved is passed over."""
    own = store("home", 9000 * GIB, device_id=1)

    assert [move.store_path for move in plan(scene(TORCH, stores=(own, store())), HIGH, RULES).moves] == [store().path]


def test_a_cache_that_fits_nowhere_does_not_stop_the_others() -> None:
    """The largest cache has no room; the next largest are moved instead."""
    caches = (reading("a", 30 * GIB), reading("b", 9 * GIB), reading("c", 6 * GIB))
    result = plan(scene(*caches, stores=(store(available=20 * GIB, used=0),)), HIGH, RULES)

    assert (sorted(moved(result)), refusal(result, "a").reason) == (["b", "c"], Reason.NO_ROOM)


def test_keep_free_as_an_amount() -> None:
    """`keep_free = "50 GiB free"` leaves 50 GiB on the data disk."""
    assert store_room(store(available=60 * GIB), Mark(free=50 * GIB)) == 10 * GIB
    assert store_room(store(available=60 * GIB), Mark(free=50 * GIB), 15 * GIB) == 0
    assert store_room(store(available=0, used=0), Mark(usage=0.95)) == 0


def test_an_outer_cache_takes_the_inner_along() -> None:
    """Of two nested caches only the outer one is moved, whichever was chosen first; `/a/bc` is not inside `/a/b`."""
    outer = reading("outer", 20 * GIB, path="/a/b", cache={"limit_bytes": 1})
    inner = reading("inner", 14 * GIB, path="/a/b/c", cache={"limit_bytes": 1})
    beside = reading("beside", 14 * GIB, path="/a/bc", cache={"limit_bytes": 1})
    result = plan(scene(inner, outer, beside), CALM, RULES)

    assert moved(result) == ["outer", "beside"]
    assert refusal(result, "inner") == Refusal("inner", "/a/b/c", Reason.ENOUGH, "moves together with outer ('/a/b')")
    # Here the inner one frees more by itself, and its choice is withdrawn when the outer one follows.
    late = plan(scene(replace(outer, size=replace(outer.size, reclaimable_bytes=2 * GIB)), inner), CALM, RULES)
    assert moved(late) == ["outer"]


def test_a_cache_that_must_stay_keeps_the_outer_one_at_home() -> None:
    """`move = false` on a folder inside holds the folder around it, unless that inner one is a link or gone."""
    outer, inner = reading("outer", 20 * GIB, path="/a/b"), reading("i", path="/a/b/c", cache={"move": False})

    assert refusal(plan(scene(outer, inner), HIGH, RULES), "outer").text == ("contains '/a/b/c', and [caches.i] says move = false")
    for state in (CacheState.ABSENT, CacheState.RELOCATED):
        assert moved(plan(scene(outer, replace(inner, state=state)), HIGH, RULES)) == ["outer"]


def test_a_lack_of_inodes_moves_what_has_many() -> None:
    """Without inodes, a cache of many tiny files is worth moving below min_size, and a huge single file is not."""
    fs = filesystem(0.3, inodes_used=980_000, inodes_available=20_000)
    npm, model = reading("npm", 60 * MIB, files=190_000), reading("hf", 20 * GIB, files=3)
    result = plan(scene(npm, model, fs=fs), {"/": Pressure.FLOOD}, RULES)

    assert moved(result) == ["npm"]
    assert result.moves[0].why == ("/ has 98 % of its inodes in use, flood is 97 %; moving frees 190,010 towards 80 %")
    alone = plan(scene(model, fs=fs), {"/": Pressure.FLOOD}, RULES)
    assert moved(alone) == ["hf"]  # 13 inodes are not enough, but nothing else can be done


def test_a_quantity_that_is_not_short_moves_nothing() -> None:
    """Bytes at 93 % with inodes at 85 %: bytes are freed and nobody is moved for inodes, as gauges tell exactly."""
    fs = filesystem(0.93, inodes_used=850_000, inodes_available=150_000)
    caches = (TORCH, reading("npm", 200 * MIB, files=60_000))
    gauges = {"/": (Gauge(Pressure.HIGH), Gauge())}
    between = replace(fs, used_bytes=85 * GIB, available_bytes=15 * GIB)

    assert moved(plan(scene(*caches, fs=fs), HIGH, RULES)) == ["torch"]
    assert moved(plan(scene(*caches, fs=between), HIGH, RULES, gauges=gauges)) == ["torch"]
    assert moved(plan(scene(*caches, fs=between), HIGH, RULES, gauges={"/": gauges["/"][::-1]})) == ["npm"]


def test_two_filesystems_are_each_helped_by_their_own() -> None:
    """A cache on a calm filesystem stays while the other filesystem is under pressure."""
    home = filesystem(0.5, mount="/home", device_id=7)
    calm, pressed = reading("calm", 20 * GIB, device_id=7), reading("pressed", 20 * GIB)
    result = plan(Observation(NOW, (filesystem(), home), (calm, pressed), (store(),)), HIGH, RULES)

    assert moved(result) == ["pressed"]
    assert refusal(result, "calm").text == "/home is at 50 %, high is 90 %"


SIZES = st.integers(0, 60).map(lambda size: size * GIB // 4)


@st.composite
def machines(draw: st.DrawFn) -> Observation:
    """Make a machine with any mix of caches, nested or not, and stores that may be full or gone."""
    caches = []
    for i in range(draw(st.integers(0, 8))):
        size = draw(SIZES)
        inside = draw(st.sampled_from(["", "/c0", "/c1"])) if i > 1 else ""
        caches.append(
            reading(
                f"c{i}",
                size,
                draw(st.integers(0, size)),
                path=f"/home/alice{inside}/c{i}",
                kind=draw(st.sampled_from(Kind)),
                state=draw(st.sampled_from([CacheState.HOME] * 5 + list(CacheState))),
                device_id=draw(st.sampled_from([1, 1, 1, 7, 9])),
                files=draw(st.integers(0, 300_000)),
                cache={"limit_bytes": draw(st.none() | SIZES), "move": draw(st.sampled_from([None, None, True, False]))},
            )
        )
    stores = [
        store(f"d{i}", draw(SIZES) * 2, draw(SIZES), device_id=draw(st.sampled_from([2, 3, 1])), ok=draw(st.booleans()))
        for i in range(draw(st.integers(0, 3)))
    ]
    root = filesystem(draw(st.floats(0.5, 1)), inodes_used=draw(st.integers(0, 1_000_000)), inodes_available=200_000)
    home = filesystem(draw(st.floats(0.5, 1)), mount="/home", device_id=7)
    return Observation(NOW, (root, home), tuple(caches), tuple(stores))


PRESSURES = st.fixed_dictionaries({"/": st.sampled_from(Pressure), "/home": st.sampled_from(Pressure)})
ALL_KINDS = replace(RULES, kinds=frozenset(Kind))


@given(machines(), PRESSURES, st.booleans())
def test_conservation(machine: Observation, pressures: dict[str, Pressure], paused: bool) -> None:
    """Every cache is there once; moves free no more than there is, need pressure or a limit, and are not nested."""
    result = plan(machine, pressures, ALL_KINDS, paused=paused)
    by_id = {item.cache.id: item for item in machine.caches}
    mounts = {fs.device_id: fs.mount for fs in machine.filesystems}

    assert sorted([*moved(result), *(item.cache_id for item in result.refusals)]) == sorted(by_id)
    assert not (paused and result.moves)
    for move in result.moves:
        source = by_id[move.cache_id]
        assert source.state is CacheState.HOME
        assert source.cache.kind is not Kind.TEMPORARY
        assert source.cache.move is not False
        assert (move.size_bytes, move.reclaimable_bytes) == (source.size.size_bytes, source.size.reclaimable_bytes)
        over = source.cache.limit_bytes is not None and source.size.size_bytes > source.cache.limit_bytes
        assert over or pressures[mounts[source.device_id or 0]] is not Pressure.NORMAL
        assert not any(other.source.startswith(move.source + "/") for other in result.moves)
    texts = [*(item.text for item in result.refusals), *(move.why for move in result.moves)]
    assert not [text for text in texts if not text or text.endswith(".") or "None" in text]


def put(machine: Observation, result: Plan) -> dict[tuple[int, str], int]:
    """Return the bytes that a plan puts on each data disk."""
    disks: dict[str, StoreReading] = {item.path: item for item in machine.stores}
    total: dict[tuple[int, str], int] = {}
    for move in result.moves:
        disk = disks[move.store_path]
        assert disk.ok
        key = (disk.device_id, disk.mount)
        total[key] = total.get(key, 0) + move.size_bytes
    return total


@given(machines(), PRESSURES, st.sampled_from([Mark(usage=0.95), Mark(free=GIB)]))
def test_no_data_disk_is_filled_past_its_share(machine: Observation, pressures: dict[str, Pressure], kept: Mark) -> None:
    """After all moves of a plan each data disk still keeps free what it must, and is never the source's own."""
    result = plan(machine, pressures, replace(ALL_KINDS, keep_free=kept))
    devices = {item.cache.id: item.device_id for item in machine.caches}
    for disk in machine.stores:
        if size := put(machine, result).get((disk.device_id, disk.mount)):
            used, available = disk.used_bytes + size, disk.available_bytes - size
            if kept.usage is not None:
                assert used / (used + available) <= kept.usage
            else:
                assert available >= (kept.free or 0)
        assert all(devices[m.cache_id] != disk.device_id for m in result.moves if m.store_path == disk.path)


@given(machines(), PRESSURES, st.randoms(use_true_random=False))
def test_the_same_machine_gives_the_same_plan(machine: Observation, pressures: dict[str, Pressure], dice: Any) -> None:
    """The order in which caches and stores were read decides nothing."""
    caches, stores = list(machine.caches), list(machine.stores)
    dice.shuffle(caches)
    dice.shuffle(stores)
    shuffled = replace(machine, caches=tuple(caches), stores=tuple(stores))
    first, second = plan(machine, pressures, ALL_KINDS), plan(shuffled, pressures, ALL_KINDS)

    assert first.moves == second.moves
    assert [(r.cache_id, r.reason) for r in first.refusals] == [(r.cache_id, r.reason) for r in second.refusals]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.floats(0.9, 1))
def test_low_is_reached_wherever_it_can_be(sizes: list[int], usage: float) -> None:
    """With room enough the plan reaches low whenever all caches together would, and no move in it is idle."""
    fs = filesystem(usage)
    machine = scene(*(reading(f"c{i}", size * GIB // 2) for i, size in enumerate(sizes)), fs=fs)
    need, result = excess_bytes(fs, RULES), plan(machine, HIGH, RULES)
    freed = [move.reclaimable_bytes for move in result.moves]

    assert sum(freed) >= min(need, sum(item.size.reclaimable_bytes for item in machine.caches))
    assert need == 0 or sum(freed) - min(freed) < need
