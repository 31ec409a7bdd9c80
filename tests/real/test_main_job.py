"""The main job from end to end: a real daemon, real small filesystems, a real pip, real mail and web servers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.rig.contract import STATUS, check
from tests.rig.disks import Disks, mounted
from tests.rig.index import Index, index, make_wheel
from tests.rig.receivers import Receivers, receivers
from tests.rig.world import MIB, World, wait_until
from tests.unit.engine import snapshot

pytestmark = pytest.mark.real

MakeWorld = Callable[..., World]


@pytest.fixture
def make_world(make_disks: Callable[..., Disks], tmp_path: Path) -> Iterator[MakeWorld]:
    """Return a function that makes the one world of a test; `more` are further data disks."""
    with ExitStack() as stack:

        def make(small: str = "250M", data: str = "400M", inodes: int | None = None, more: tuple[str, ...] = ()) -> World:
            disks = make_disks(small=small, data=data, inodes=inodes)
            others = [stack.enter_context(mounted(tmp_path, f"data{number}", size)) for number, size in enumerate(more, 2)]
            return stack.enter_context(World(disks.small, (disks.data, *others), tmp_path / "run"))

        yield make


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """Return a running index of three real wheels of 30 MiB each."""
    folder = tmp_path_factory.mktemp("index")
    for name in ("alpha", "beta", "gamma"):
        make_wheel(folder, name, 30 * MIB)
    with index(folder) as running:
        yield running


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Receivers]:
    """Return running mail and web servers."""
    with receivers(tmp_path / "receivers") as running:
        yield running


def pip(world: World, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the real pip as the world's user, whose only settings are its own."""
    env = {**world.env, "PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return subprocess.run([sys.executable, "-m", "pip", *words], env=env, cwd=world.run, capture_output=True, text=True, check=True)


def told(servers: Receivers, kind: str) -> list[str]:
    """Return the bodies that came in, in order."""
    return [json.loads(item["body"])["message"] if kind == "http" else item["body"] for item in servers.received(kind)]


# ---- the whole story ------------------------------------------------------------------------------------------------


def test_a_pip_cache_that_fills_the_disk_is_moved_told_and_brought_home(
    make_world: MakeWorld, wheels: Index, servers: Receivers
) -> None:
    """What pip wrote moves when usage crosses high, usage ends below low, mail and web hear of it once, restore undoes it."""
    world = make_world()
    world.configure(
        watch={"high": "60%", "low": "40%"},
        move={"settle": "3s"},
        notify={"urls": [servers.url("smtp"), servers.url("http")], "timeout": "10s"},
    )
    world.small.fill_bytes(0.30)
    world.start()
    check(world.status(), STATUS)
    assert world.status()["pressure"] == "normal"

    pip(world, "download", "-q", "--no-deps", "-d", str(world.run / "wheels"), *wheels.options(), "alpha", "beta", "gamma")
    cache, before = world.cache / "pip", snapshot(world.cache / "pip")
    assert not cache.is_symlink(), "moved before the snapshot was complete"
    assert world.small.usage() > 0.60

    world.wait_link(cache)
    wait_until(lambda: world.status()["pressure"] == "normal", what=world.log)
    assert world.small.usage() < 0.40
    target = world.disks[0] / "survived/trees" / str(cache).lstrip("/")
    assert os.readlink(cache) == str(target)
    assert snapshot(cache) == before
    wait_until(lambda: world.known("pip")["state"] == "relocated", what=world.log)  # measured anew
    document = world.must("status", "--json").json
    check(document, STATUS)
    moved = next(item for item in document["caches"] if item["id"] == "pip")
    assert (moved["state"], moved["path"], moved["target"]) == ("relocated", str(cache), str(target))
    assert moved["size_bytes"] > 85 * MIB
    assert world.must("status").out.startswith("OK")

    story = ["high is 60 %", "lives at '", "The pressure on "]
    for kind in ("smtp", "http"):
        wait_until(lambda kind=kind: len(told(servers, kind)) >= 3, what=lambda: servers.received())  # type: ignore[misc]
        assert [word in body for word, body in zip(story, told(servers, kind), strict=True)] == [True] * 3, told(servers, kind)
        assert "survivectl restore pip" in told(servers, kind)[1]
    wait_until(lambda: world.status()["notices"]["last_delivered"], what=world.log)
    assert world.status()["notices"]["pending"] == 0

    shutil.rmtree(world.run / "wheels")
    url = wheels.url("alpha")
    answer = pip(world, "download", "--no-deps", "-d", str(world.run / "wheels"), "--no-index", "--trusted-host", "127.0.0.1", url)
    assert "Using cached" in answer.stdout

    refused = world.ctl("restore", "pip", "--json")
    assert (refused.rc, refused.json["error"]["reason"]) == (4, "would_fill")
    (world.small.path / ".filler").unlink()
    again = snapshot(cache)  # pip's use of it may have changed it
    assert before.keys() <= again.keys()
    world.must("restore", "pip")
    assert not cache.is_symlink()
    assert snapshot(cache) == again
    wait_until(lambda: len(told(servers, "smtp")) >= 4 and len(told(servers, "http")) >= 4, what=lambda: servers.received())
    assert world.leftovers() == []
    assert not target.exists()
    code, _ = world.stop()
    assert code == 0
    for kind in ("smtp", "http"):
        assert len(told(servers, kind)) == 4
        assert "is at home again" in told(servers, kind)[3]
    assert "s3cretpart" not in world.log()


def test_status_tells_all_that_scripts_may_rely_on_without_a_daemon_too(make_world: MakeWorld) -> None:
    """Without a daemon the document is the same, but for the daemon, and the exit code is 3."""
    world = make_world(small="100M", data="100M")
    world.fill(world.cache / "pip", 5)
    answer = world.ctl("status", "--json")
    assert answer.rc == 3
    check(answer.json, STATUS)
    assert answer.json["daemon"] == {"running": False, "pid": None, "since": None, "paused": False, "paused_until": None}
    pip_cache = next(item for item in answer.json["caches"] if item["id"] == "pip")
    assert (pip_cache["state"], pip_cache["target"]) == ("home", None)


def test_the_plan_has_a_reason_for_every_cache(make_world: MakeWorld) -> None:
    """Each cache of status is in the plan exactly once, as a move or as a refusal, with a sentence; and nothing is changed."""
    world = make_world()
    for name, size in (("pip", 60), ("uv", 30), ("torch/hub", 0.2)):
        world.fill(world.cache / name, size)
    world.fill(world.home / ".local/share/uv/tools", 40)
    world.fill(world.home / ".npm", 10)
    world.configure(move={"settle": "0s"}, caches={"npm": {"move": False}})
    found = world.must("plan", "--json").json
    status = world.ctl("status", "--json").json
    entries = [*found["moves"], *found["refusals"]]
    assert sorted(item["id"] for item in entries) == sorted(item["id"] for item in status["caches"])
    assert all(item["why"].strip() for item in entries)
    assert [(item["id"], item["store"]) for item in found["moves"]] == [("pip", str(world.disks[0] / "survived"))]
    reasons = {item["id"]: item["reason"] for item in found["refusals"]}
    expected = {"uv-cache": "enough", "torch-hub": "too_small", "uv-tools": "not_opted_in", "npm": "switched_off"}
    expected["cargo"] = "absent"
    assert {name: reasons[name] for name in expected} == expected
    assert not (world.cache / "pip").is_symlink()
    assert world.stores == ()


# ---- what makes a cache move, and what not --------------------------------------------------------------------------


def test_a_limit_of_its_own_makes_a_cache_an_offender(make_world: MakeWorld) -> None:
    """Above its limit a cache moves though the disk is nearly empty; one below its limit stays."""
    world = make_world()
    world.configure(caches={"pip": {"limit": "10 MiB"}, "mine": {"path": "~/.cache/mine", "limit": "40 MiB"}})
    world.fill(world.cache / "mine", 20)
    world.fill(world.cache / "pip", 20)
    world.start()
    world.wait_link(world.cache / "pip")
    world.wait_idle()
    world.stays_home(world.cache / "mine", 1.5)
    assert world.small.usage() < 0.3
    world.fill(world.cache / "mine/more", 30)
    world.wait_link(world.cache / "mine")


def test_an_environment_moves_only_when_it_is_opted_in(make_world: MakeWorld) -> None:
    """Under pressure an environment stays and the plan says why; with move = true and a reload it goes."""
    world = make_world()
    tools = world.fill(world.home / ".local/share/uv/tools", 150)
    world.start()
    wait_until(lambda: world.status()["pressure"] == "high", what=world.log)
    assert world.reasons()["uv-tools"] == "not_opted_in"
    world.stays_home(tools, 2.5)
    world.configure(caches={"uv-tools": {"move": True}})
    before = snapshot(tools)
    world.must("reload")
    world.wait_link(tools)
    world.wait_idle()
    assert snapshot(tools) == before
    wait_until(lambda: world.status()["pressure"] == "normal", what=world.log)


def test_kinds_opts_in_all_environments(make_world: MakeWorld) -> None:
    """With "environment" among the kinds one is moved like a cache."""
    world = make_world()
    world.configure(move={"kinds": ["cache", "environment"], "settle": "500ms"})
    tools = world.fill(world.home / ".local/share/uv/tools", 150)
    world.start()
    world.wait_link(tools)


def test_of_two_data_disks_the_one_with_room_is_chosen(make_world: MakeWorld) -> None:
    """A cache goes where most room is; neither disk is filled past its share to be kept free."""
    world = make_world(data="100M", more=("200M",))
    world.configure(watch={"low": "45%"}, data={"keep_free": "40%"})
    first, second = world.fill(world.cache / "pip", 90, files=40), world.fill(world.cache / "uv", 60, files=40)
    world.start()
    world.wait_link(second)  # the smaller one suffices
    world.wait_idle()
    assert os.readlink(second).startswith(str(world.disks[1]))

    # 90 MiB more would leave less than 40 % free on either disk.
    world.small.fill_bytes(0.8)
    wait_until(lambda: world.status()["pressure"] == "high", what=world.log)
    assert world.reasons()["pip"] == "no_room"
    world.stays_home(first, 2.5)
    refused = world.ctl("relocate", "pip", "--json")  # nor when a person asks
    assert (refused.rc, refused.json["error"]["reason"]) == (4, "no_room")
    assert all(disk.usage() <= 0.6 for disk in world.data)


# ---- when ------------------------------------------------------------------------------------------------------------


def test_flood_waits_for_neither_dwell_nor_cooldown(make_world: MakeWorld) -> None:
    """With both at an hour nothing moves at high, and at flood two caches move one after the other."""
    world = make_world()
    world.configure(watch={"dwell": "1h", "cooldown": "1h", "high": "50%", "low": "30%", "flood": "60%"})
    caches = [world.fill(world.cache / name, 60, files=40) for name in ("pip", "uv")]
    world.start()
    assert 0.50 < world.small.usage() < 0.60
    world.stays_home(caches[0], 2.0)
    world.stays_home(caches[1], 0.1)
    assert world.status()["pressure"] == "normal"
    world.small.fill_bytes(0.92)
    began = time.monotonic()
    for cache in caches:
        world.wait_link(cache)
    print(f"two moves in flood within {time.monotonic() - began:.1f} s")


def test_a_lack_of_inodes_alone_is_pressure(make_world: MakeWorld) -> None:
    """A cache of many small files moves when inodes run out, though there are bytes enough."""
    world = make_world(inodes=4000)
    world.configure(watch={"inodes_high": "70%", "inodes_low": "40%"}, move={"min_size": "100 MiB"})
    cache = world.fill(world.cache / "pip", 1, files=3200)
    assert world.small.usage() < 0.3
    assert world.small.inodes_usage() > 0.7
    world.start()
    wait_until(lambda: world.status()["pressure"] == "high", what=world.log)
    world.wait_link(cache)
    wait_until(lambda: world.status()["pressure"] == "normal", what=world.log)
    assert world.small.inodes_usage() < 0.4


def test_between_low_and_high_nothing_begins_and_what_began_goes_down_to_low(make_world: MakeWorld) -> None:
    """Hysteresis: 50 % is quiet on the way up and not on the way down; and a cooldown lies between two moves."""
    world = make_world()
    world.configure(watch={"high": "70%", "low": "30%", "cooldown": "3s"})
    first, second = world.fill(world.cache / "pip", 60, files=40), world.fill(world.cache / "uv", 50, files=40)
    world.start()
    assert 0.3 < world.small.usage() < 0.7
    world.stays_home(first, 2.0)
    world.stays_home(second, 0.1)
    assert world.status()["pressure"] == "normal"

    world.small.fill_bytes(0.75)
    moved_first = world.wait_link(first)
    world.wait_idle()
    assert 0.3 < world.small.usage() < 0.7
    assert world.status()["pressure"] == "high"
    os.truncate(world.small.path / ".filler", 20 * MIB)
    assert world.small.usage() > 0.3
    moved_second = world.wait_link(second)
    assert moved_second - moved_first >= 3.0
    wait_until(lambda: world.status()["pressure"] == "normal", what=world.log)
    assert world.small.usage() < 0.3


def test_a_burst_is_noticed_at_once(make_world: MakeWorld) -> None:
    """A daemon that has seen a quiet disk notices within seconds that a known cache made it full."""
    world = make_world()
    (world.cache / "pip").mkdir()
    world.start()
    time.sleep(1.5)  # until it hears inotify again
    world.fill(world.cache / "pip", 150, files=40)
    began = time.monotonic()
    wait_until(lambda: world.status()["pressure"] == "high", 5.0, step=0.1, what=world.log)
    world.wait_link(world.cache / "pip", 10.0)
    print(f"noticed and moved 150 MiB in {time.monotonic() - began:.1f} s")


def test_once_moves_what_must_be_moved_and_a_dry_run_only_says_so(make_world: MakeWorld) -> None:
    """`--once --dry-run` writes nothing at all, `--once` moves and exits 0, and exits 4 where pressure remains."""
    world = make_world()
    world.configure(move={"settle": "0s"})
    cache = world.fill(world.cache / "pip", 150)

    def everything() -> set[Path]:
        return {path for disk in (world.small, *world.data) for path in disk.path.rglob("*")}

    before = everything()
    assert world.spawn("--once", "--dry-run").wait(20) == 0
    assert f"Would move '{cache}'" in world.log()
    assert everything() == before
    assert "Notice" not in world.log()
    assert world.spawn("--once").wait(20) == 0
    assert cache.is_symlink()
    world.small.fill_bytes(0.7)
    assert world.spawn("--once").wait(20) == 4


def test_what_is_busy_is_left_until_it_is_not(make_world: MakeWorld) -> None:
    """A cache with an open file stays, the plan names the process, and it moves when the file is closed."""
    world = make_world()
    cache = world.fill(world.cache / "pip", 150)
    with open(next(path for path in cache.rglob("*") if path.is_file()), "rb"):
        world.start()
        wait_until(lambda: world.status()["pressure"] == "high", what=world.log)
        (refusal,) = [item for item in world.must("plan", "--json").json["refusals"] if item["id"] == "pip"]
        assert (refusal["reason"], str(os.getpid()) in refusal["why"]) == ("busy", True)
        world.stays_home(cache, 2.5)
    world.wait_link(cache)
