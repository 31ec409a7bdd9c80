"""What goes from a data disk that fills to another one, and what never goes back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from survived.decide.relief import MARGIN, STAY_SECONDS, is_full, relieve
from survived.model import CacheReading, CacheState, Kind, Mark
from tests.unit.scene import GIB, NOW, RULES, reading, scene, store

if TYPE_CHECKING:
    from typing import Any

FULL = store("data1", 30 * GIB, 970 * GIB, device_id=2)
ROOMY = store("data2", 900 * GIB, 100 * GIB, device_id=3)


def there(name: str, size: int, disk: str = "data1", **changes: Any) -> CacheReading:
    """Return a cache that lives on a data disk."""
    target = f"/{disk}/alice/survived/trees/home/alice/.cache/{name}"
    return reading(name, size, state=CacheState.RELOCATED, target=target, device_id=2 if disk == "data1" else 3, **changes)


def test_the_smallest_that_is_enough_goes() -> None:
    """70 GiB bring it 5 points below high: of 60, 80 and 200 GiB it is the 80; else the largest that fits; the text has numbers."""
    three = (there("a", 60 * GIB), there("b", 80 * GIB), there("c", 200 * GIB))
    (item,) = relieve(scene(*three, stores=(FULL, ROOMY)), RULES)

    assert (item.cache_id, item.store_path, item.target) == ("b", ROOMY.path, three[1].target)
    assert item.why == "/data1 is at 97 %, high is 95 %; 80.0 GiB have room on /data2"
    (item,) = relieve(scene(there("a", 10 * GIB), there("b", 20 * GIB), stores=(FULL, ROOMY)), RULES)
    assert item.cache_id == "b"


def test_what_stays() -> None:
    """Below high, without another disk, of another kind, by its user's word, failed lately, or come there today: nothing goes."""
    big = there("a", 80 * GIB)
    calm = replace(FULL, used_bytes=900 * GIB, available_bytes=100 * GIB)

    assert relieve(scene(big, stores=(calm, ROOMY)), RULES) == ()
    assert relieve(scene(big, stores=(FULL,)), RULES) == ()
    assert relieve(scene(big, stores=(FULL, replace(ROOMY, ok=False))), RULES) == ()
    assert relieve(scene(big, stores=(FULL, replace(ROOMY, device_id=2))), RULES) == ()
    assert relieve(scene(big, stores=(FULL, replace(ROOMY, device_id=1))), RULES) == (), "it is watched itself"
    for changes in ({"kind": Kind.STATE}, {"cache": {"move": False}}, {"cache": {"pinned": "x"}}):
        assert relieve(scene(there("a", 80 * GIB, **changes), stores=(FULL, ROOMY)), RULES) == ()  # type: ignore[arg-type]
    machine = scene(big, stores=(FULL, ROOMY))
    assert relieve(machine, RULES, failed=[big.cache.path]) == ()
    assert relieve(machine, RULES, came={big.target or "": NOW - STAY_SECONDS + 1}) == ()
    assert relieve(machine, RULES, came={big.target or "": NOW - STAY_SECONDS}) != ()


def test_marks_as_amounts() -> None:
    """`high = "50 GiB free"` is reached when less is free."""
    assert is_full(FULL, replace(RULES, data_high=Mark(free=50 * GIB)))
    assert not is_full(FULL, replace(RULES, data_high=Mark(free=20 * GIB)))


SIZES = st.integers(0, 100).map(lambda size: size * 10 * GIB)


@given(st.lists(st.tuples(SIZES, st.sampled_from(["data1", "data2"])), max_size=6), SIZES, SIZES, st.floats(0.5, 0.99))
def test_no_disk_throws_back(trees: list[tuple[int, str]], one: int, other: int, high: float) -> None:
    """Whatever goes, the other disk stays a margin below its own high, so that nothing of it would go on from there; it ends."""
    rules = replace(RULES, data_high=Mark(usage=high))
    total = 1000 * GIB
    stores = [
        store(f"data{n}", total - min(used, total), min(used, total), device_id=n + 1) for n, used in ((1, one), (2, other))
    ]  # fmt: skip
    caches = [there(f"c{n}", size, disk) for n, (size, disk) in enumerate(trees)]
    for _ in range(8):
        found = relieve(scene(*caches, stores=tuple(stores)), rules)
        if not found:
            break
        item = found[0]
        (number,) = [n for n, cache in enumerate(caches) if cache.cache.id == item.cache_id]
        to = item.store_path.split("/")[1]
        caches[number] = there(item.cache_id, item.size_bytes, to)
        for n, disk in enumerate(stores):
            sign = 1 if disk.path == item.store_path else -1
            used = max(0, disk.used_bytes + sign * item.size_bytes)
            stores[n] = replace(disk, used_bytes=used, available_bytes=total - used)
        (gets,) = [disk for disk in stores if disk.path == item.store_path]
        assert gets.usage <= min(0.95, high - MARGIN) + 1e-9
    else:
        raise AssertionError("it goes on and on")
