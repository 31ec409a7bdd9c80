"""A relocated cache changes its data disk on three real filesystems: asked for, killed in the middle, with either disk gone."""

from __future__ import annotations

import os
import random
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from survived.machine import SCHEMA
from survived.model import Verb
from survived.store.database import Database
from survived.store.journal import Journal
from tests.rig.disks import mount, mounted, unmount
from tests.rig.world import World, wait_until
from tests.unit.engine import nasty_tree, snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.real

KILLS = 12


@pytest.fixture
def world(needs_root_mounts: None, tmp_path: Path) -> Iterator[World]:
    """Return a world with two data disks that settles at once and moves nothing by itself."""
    with ExitStack() as stack:
        small = stack.enter_context(mounted(tmp_path, "small", "100M"))
        disks = tuple(stack.enter_context(mounted(tmp_path, name, "120M")) for name in ("data1", "data2"))
        world = stack.enter_context(World(small, disks, tmp_path / "run"))
        world.configure(watch={"high": "90%", "low": "80%"}, move={"settle": "0s"})
        yield world


def relocated(world: World) -> Path:
    """Relocate a cache of some thousand files to the first disk; return its path."""
    cache = world.fill(world.cache / "pip", 10, files=1500)
    nasty_tree(cache / "nasty")
    world.must("relocate", "pip", "--to", str(world.disks[0]))
    return cache


def test_through_the_daemon_and_without_it(world: World) -> None:
    """There and back; status, list and the answer say the same; a bad word is one sentence and changes nothing."""
    world.start()
    cache = relocated(world)
    before = snapshot(cache)
    for disk in (world.disks[1], world.disks[0]):
        answer = world.must("rehome", "pip", "--to", str(disk), "--json").json
        assert (answer["verb"], answer["done"]) == ("rehome", True)
        assert os.readlink(cache) == answer["target"] == f"{disk}/survived/trees{cache}"
        assert snapshot(cache) == before
        assert [item["target"] for item in world.must("list", "--json").json["relocated"]] == [answer["target"]]
        world.wait_idle()
        assert world.leftovers() == []
        assert world.known("pip")["state"] == "relocated"
    refused = world.ctl("rehome", "pip", "--to", str(world.disks[0]))
    assert (refused.rc, "it is on that disk already" in refused.err) == (4, True)
    assert world.ctl("rehome", "uv-cache").rc == 4
    world.stop()
    assert "Rehomed" in world.must("rehome", "pip").out  # without --to: the other disk
    assert snapshot(cache) == before
    assert os.readlink(cache).startswith(str(world.disks[1]))
    assert world.leftovers() == []
    world.must("restore", "pip")
    assert snapshot(cache) == before
    assert world.leftovers() == []


@pytest.mark.timeout(240)
def test_kill_at_any_moment_loses_nothing(world: World) -> None:
    """After kill -9 every byte is at its path at once; the next start ends the move and leaves one tree and one record."""
    seed = int(os.environ.get("SURVIVED_TEST_SEED") or time.time_ns() % 1_000_000)
    choose = random.Random(seed)
    world.start()
    cache = relocated(world)
    before = snapshot(cache)
    began = time.monotonic()
    world.must("rehome", "pip")
    span = time.monotonic() - began
    for number in range(KILLS):
        where = f"seed {seed}, kill {number}\n"
        link = os.readlink(cache)
        world.ask("rehome", what="pip")
        if choose.random() < 0.4:
            wait_until(lambda link=link: os.readlink(cache) != link, 30, step=0.0002, what=world.log)  # type: ignore[misc]
            time.sleep(choose.uniform(0.0, 0.05))
        else:
            time.sleep(choose.uniform(0.0, span))
        world.kill()
        assert snapshot(cache) == before, f"{where}at once"
        world.start()
        world.wait_idle()
        assert snapshot(cache) == before, f"{where}{world.log()}"
        assert world.leftovers() == [], f"{where}{world.log()}"
        assert [item["target"] for item in world.must("list", "--json").json["relocated"]] == [os.readlink(cache)], where


def test_what_one_disk_has_begun_keeps_the_other_from_it(world: World) -> None:
    """What only the first disk's journal knows of a path, and what needs a person, comes before a move to the second."""
    cache = relocated(world)
    target = os.readlink(cache)
    world.must("restore", "pip")
    before = snapshot(cache)
    database = Database(str(world.disks[0] / "survived/state.db"), SCHEMA)
    Journal(database).begin(Verb.RESTORE, "pip", str(cache), target, time.time())
    database.close()
    answer = world.ctl("relocate", "pip", "--to", str(world.disks[1]))
    assert (answer.rc, snapshot(cache)) == (5, before), answer


def test_a_disk_that_is_missing(world: World) -> None:
    """Neither from a disk that is away nor to one: refused with the reason, and the link stays as it is."""
    cache = relocated(world)
    for disk in reversed(world.disks):  # both are known then
        world.must("rehome", "pip", "--to", str(disk))
    before, link = snapshot(cache), os.readlink(cache)
    unmount(world.data[1].path)
    answer = world.ctl("rehome", "pip", "--to", str(world.disks[1]))
    assert (answer.rc, os.readlink(cache)) == (4, link), answer
    mount(world.data[1].image, world.data[1].path)
    unmount(world.data[0].path)
    answer = world.ctl("rehome", "pip", "--to", str(world.disks[1]))
    assert (answer.rc, os.readlink(cache)) == (4, link), answer
    assert not os.path.lexists(world.disks[0])  # nothing is made in the empty mount point
    mount(world.data[0].image, world.data[0].path)
    assert snapshot(cache) == before
    world.must("rehome", "pip", "--to", str(world.disks[1]))
    assert snapshot(cache) == before
    assert world.leftovers() == []
