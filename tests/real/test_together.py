"""Caches and environments that share hard links: real uv, and trees as conda makes them, moved together by the daemon."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.rig.disks import Disks
from tests.rig.world import MIB, World, wait_until
from tests.unit.engine import snapshot

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


@pytest.fixture
def world(make_disks: Callable[..., Disks], tmp_path: Path) -> Iterator[World]:
    """Return a world that may move environments, too; its daemon is not started yet."""
    with ExitStack() as stack:
        disks = make_disks(small="400M", data="600M")
        world = stack.enter_context(World(disks.small, (disks.data,), tmp_path / "run"))
        world.configure(watch={"high": "70%", "low": "10%"}, move={"kinds": ["cache", "environment"]})
        yield world


def run(world: World, *words: str | Path, **env: str) -> str:
    """Run a tool as the world's user, successfully; return what it said."""
    done = subprocess.run(
        [str(word) for word in words], env={**world.env, **env}, cwd=world.run, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def files(tree: Path) -> list[os.stat_result]:
    """Return the stat of every file of a tree, through a link at its top."""
    return [os.lstat(os.path.join(folder, name)) for folder, _, names in os.walk(f"{tree}/") for name in names]


def taken(*trees: Path) -> tuple[int, int, int]:
    """Return the inodes of all files of trees, and the bytes that these hold, each inode once and each name."""
    found = [info for tree in trees for info in files(tree)]
    once = {info.st_ino: info.st_size for info in found}
    return len(once), sum(once.values()), sum(info.st_size for info in found)


def used(world: World) -> int:
    """Return the bytes in use on the data disk."""
    found = os.statvfs(world.data[0].path)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def test_uv_cache_and_tools_move_together(world: World, tools: Path) -> None:
    """uv's tools are links into its cache: both go, share their inodes on the data disk, work there, and come home so."""
    uv, cache, there = tools / "uv", world.cache / "uv", world.home / ".local/share/uv/tools"
    install = ("tool", "install", "-q", "--python", sys.executable, "ruff")
    run(world, uv, *install, UV_LINK_MODE="hardlink")
    inodes, once, twice = taken(cache, there)
    assert twice - once > 20 * MIB
    before = snapshot(there)
    world.small.fill_bytes(0.6)
    assert world.must("plan", "--json").json["moves"] == []
    world.small.fill_bytes(0.8)
    planned = world.must("plan", "--json").json["moves"]
    assert [move["id"] for move in planned] == ["uv-tools", "uv-cache"]
    assert sum(move["reclaimable_bytes"] for move in planned) == pytest.approx(once, rel=0.1)
    assert "together they free" in planned[1]["why"]

    world.start()
    world.wait_link(there, 60)
    world.wait_link(cache, 60)
    world.wait_idle()
    assert taken(cache, there) == (inodes, once, twice)
    assert used(world) < once * 1.15 + 8 * MIB
    assert snapshot(there) == before
    assert any(info.st_nlink > 1 for info in files(there))
    assert "ruff" in run(world, world.home / ".local/bin/ruff", "--version")
    run(world, uv, "tool", "install", "-q", "--offline", "--reinstall", "--python", sys.executable, "ruff", UV_LINK_MODE="hardlink")
    assert "ruff" in run(world, world.home / ".local/bin/ruff", "--version")
    assert taken(cache, there)[1] < once * 1.2, "what is installed later is linked on the data disk, too"

    world.stop()
    world.small.empty()
    inodes, once, twice = taken(cache, there)
    world.must("restore", "uv-tools")
    world.must("restore", "uv-cache")
    assert taken(cache, there) == (inodes, once, twice)
    assert not cache.is_symlink()
    assert not there.is_symlink()
    assert world.leftovers() == []
    assert "ruff" in run(world, world.home / ".local/bin/ruff", "--version")


def test_conda_packages_and_environments(world: World) -> None:
    """Trees as conda makes them: alone half comes back, so none moves alone; by hand both go, and keep links there and back."""
    pkgs, envs = world.home / ".conda/pkgs", world.home / ".conda/envs"
    for number in range(60):
        place = pkgs / f"package-{number % 5}/lib/python"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.so").write_bytes(os.urandom(MIB // 3))
        for env in ("torch", "jax"):
            (envs / env / "lib/python").mkdir(parents=True, exist_ok=True)
            os.link(place / f"{number}.so", envs / env / f"lib/python/{number}.so")
    (pkgs / "package-0.conda").write_bytes(os.urandom(20 * MIB))
    (pkgs / "urls.txt").write_text("")
    (pkgs / "urls").write_text("")
    for env in ("torch", "jax"):
        (envs / env / "conda-meta").mkdir()
        (envs / env / "conda-meta/history").write_text("")
        (envs / env / "bin").mkdir()
        (envs / env / "bin/pip").write_text(f"#!{envs}/{env}/bin/python")
    inodes, once, twice = taken(pkgs, envs)
    world.configure(watch={"high": "20%", "low": "1%", "flood": "99%"}, move={"kinds": ["cache"]})
    refusals = {item["id"]: item for item in world.must("plan", "--json").json["refusals"]}
    assert refusals["conda-pkgs"]["reason"] == "grows_later"
    assert "with conda-envs 40." in refusals["conda-pkgs"]["why"]
    assert refusals["conda-envs"]["reason"] == "not_opted_in"
    explained = {rule["rule"]: rule for rule in world.must("plan", "--explain", "conda-pkgs", "--json").json["rules"]}
    assert explained["later"]["objects"]

    before = (snapshot(pkgs), snapshot(envs))
    answer = world.must("relocate", "conda-pkgs")
    assert "are hard-linked from elsewhere (conda-envs" in answer.err
    world.must("relocate", "conda-envs")
    assert taken(pkgs, envs) == (inodes, once, twice)
    assert (snapshot(pkgs), snapshot(envs)) == before
    assert os.stat(pkgs / "package-0/lib/python/0.so").st_nlink == 3
    assert used(world) < once + 12 * MIB
    assert [tree["damaged"] for tree in world.must("verify", "--json").json["trees"]] == [0, 0]
    world.must("restore", "--all", "--force")
    assert taken(pkgs, envs) == (inodes, once, twice)
    assert (snapshot(pkgs), snapshot(envs)) == before


def test_a_uv_cache_with_venvs_stays(world: World, tools: Path) -> None:
    """A venv that no catalogue knows links into the cache: refused with numbers, in a flood, too; by hand it is said."""
    uv, venv = tools / "uv", world.home / "venv"
    run(world, uv, "venv", "-q", "--python", sys.executable, venv)
    run(world, uv, "pip", "install", "-q", "ruff", VIRTUAL_ENV=str(venv), UV_LINK_MODE="hardlink")
    world.small.fill_bytes(0.97)
    refusal = next(item for item in world.must("plan", "--json").json["refusals"] if item["id"] == "uv-cache")
    assert refusal["reason"] in ("grows_later", "nothing_freed")
    assert "MiB" in refusal["why"]
    world.start()
    wait_until(lambda: world.status()["pressure"] == "flood", what=world.log)
    world.stays_home(world.cache / "uv", 2.0)
    answer = world.must("relocate", "uv-cache")
    assert "takes full copies" in answer.err
    world.small.empty()
    assert "advice" not in world.must("restore", "uv-cache", "--json", "--force").json
    assert (world.cache / "uv").is_dir()
