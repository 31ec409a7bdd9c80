"""A data disk that fills up itself: what we put there goes on to another disk with room, once, and never back."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.rig.disks import Disks, mounted
from tests.rig.world import World, wait_until
from tests.unit.engine import snapshot

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


@pytest.fixture
def world(make_disks: Callable[..., Disks], tmp_path: Path) -> Iterator[World]:
    """Return a world with two data disks, the first with more room."""
    with ExitStack() as stack:
        disks = make_disks(small="150M", data="300M")
        second = stack.enter_context(mounted(tmp_path, "second", "200M"))
        world = stack.enter_context(World(disks.small, (disks.data, second), tmp_path / "run"))
        quiet = {"high": "95%", "low": "90%", "flood": "99%"}
        world.configure(watch=quiet, data={"disks": [str(disk) for disk in world.disks], "high": "70%"})
        yield world


def test_a_full_data_disk_is_relieved(world: World) -> None:
    """The smallest tree that is enough goes to the other disk, is whole there, and stays there when that one fills, too."""
    for name, size in (("pip", 25), ("mine", 60)):
        world.fill(world.cache / name, size)
    before = {name: snapshot(world.cache / name) for name in ("pip", "mine")}
    world.start()
    for name in ("pip", "mine"):
        world.must("relocate", str(world.cache / name) if name == "mine" else name, "--to", str(world.disks[0]))
    world.wait_idle()
    first, second = (str(disk) for disk in world.disks)
    assert os.readlink(world.cache / "pip").startswith(first)

    world.data[0].fill_bytes(0.72)
    (item,) = world.must("plan", "--json").json["rehomes"]
    assert (item["id"], item["store"]) == ("pip", f"{second}/survived")
    wait_until(lambda: os.readlink(world.cache / "pip").startswith(second), 60, what=world.log)
    world.wait_idle()
    assert "would rehome" not in world.must("plan").out
    assert {name: snapshot(world.cache / name) for name in ("pip", "mine")} == before
    assert os.readlink(world.cache / "mine").startswith(first), "what was moved by hand stays where a person put it"
    assert "data disk" in world.log()

    world.data[0].empty()
    world.data[1].fill_bytes(0.8)
    time.sleep(4.0)
    assert os.readlink(world.cache / "pip").startswith(second), "it came there a moment ago"
    assert world.log().count("Rehoming") == 1
    assert world.leftovers() == []


def test_no_disk_is_filled_by_it(world: World) -> None:
    """Where the other disk would come near its own high mark nothing goes, and the notice says that the disk fills."""
    world.fill(world.cache / "pip", 60)
    world.start()
    world.must("relocate", "pip", "--to", str(world.disks[0]))
    world.data[1].fill_bytes(0.5)
    world.data[0].fill_bytes(0.75)
    wait_until(lambda: "data disk" in world.log(), 40, what=world.log)
    time.sleep(1.0)
    assert os.readlink(world.cache / "pip").startswith(str(world.disks[0]))
    assert world.must("plan", "--json").json["rehomes"] == []
