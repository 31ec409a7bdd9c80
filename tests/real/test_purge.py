"""Purging instead of moving, with the real tools: by the daemon where its user says so, and by hand, with a dry run before."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.rig.disks import Disks
from tests.rig.index import index, make_wheel
from tests.rig.world import MIB, World, wait_until

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


@pytest.fixture
def world(make_disks: Callable[..., Disks], tmp_path: Path) -> Iterator[World]:
    """Return a world in whose PATH pip and uv are, and whose daemon is not started yet."""
    with ExitStack() as stack:
        disks = make_disks(small="250M", data="300M")
        yield stack.enter_context(World(disks.small, (disks.data,), tmp_path / "run"))


def install_tools(world: World, tools: Path) -> None:
    """Give the user pip and uv where users have them, which no service's PATH knows."""
    place = world.home / ".local/bin"
    place.mkdir(parents=True)
    (place / "uv").symlink_to(tools / "uv")
    (place / "pip").write_text(f'#!/bin/sh\nexec {sys.executable} -m pip "$@"\n')
    (place / "pip").chmod(0o755)


def fill_pip(world: World, folder: Path) -> None:
    """Fill pip's cache by downloading."""
    for name in ("alpha", "beta"):
        make_wheel(folder, name, 20 * MIB)
    with index(folder) as running:
        words = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(world.run / "wheels"), *running.options())
        env = {**world.env, "PIP_CONFIG_FILE": os.devnull}
        subprocess.run([*words, "alpha", "beta"], env=env, check=True, capture_output=True, timeout=120)


def test_pip_by_the_daemon(world: World, tools: Path, tmp_path: Path) -> None:
    """Above high pip's cache is emptied by pip and not moved, once; the plan says so before, and the log how much it freed."""
    install_tools(world, tools)
    fill_pip(world, tmp_path / "index")
    world.configure(watch={"high": "60%", "low": "20%"}, caches={"pip": {"purge": True}})
    world.small.fill_bytes(0.7)
    (move,) = world.must("plan", "--json").json["moves"]
    assert (move["verb"], move["id"], move["command"]) == ("purge", "pip", ["pip", "cache", "purge"])
    assert move["reclaimable_bytes"] > 40 * MIB
    assert "would purge" in world.must("plan").out
    before = world.small.available_bytes()
    world.start()
    wait_until(lambda: "Purged" in world.log(), 60, what=world.log)
    assert world.small.available_bytes() - before > 38 * MIB
    assert (world.cache / "pip").is_dir()
    assert not (world.cache / "pip").is_symlink()
    world.stays_home(world.cache / "pip", 1.5)
    assert world.log().count("Purging") == 1
    assert world.reasons()["pip"] in ("too_small", "failed_before")
    assert "freed 40." in world.log()


def test_uv_and_npm_by_hand(world: World, tools: Path) -> None:
    """A dry run changes nothing; the purge tells what it freed, works behind our link too, and without a daemon as with one."""
    install_tools(world, tools)
    uv, venv = tools / "uv", world.run / "venv"
    env = {**world.env, "VIRTUAL_ENV": str(venv)}

    def use() -> int:
        shutil.rmtree(venv, ignore_errors=True)
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, venv], env=world.env, check=True)
        subprocess.run([uv, "pip", "install", "-q", "ruff"], env=env, check=True, capture_output=True, timeout=120)
        return sum(path.lstat().st_size for path in (world.cache / "uv").rglob("*"))

    full = use()
    look = world.must("purge", "uv-cache", "--dry-run", "--json").json
    assert look["command"] == ["uv", "cache", "clean"]
    assert look["found"] == str(world.home / ".local/bin/uv")
    assert look["size_bytes"] > full * 0.9
    assert "has no dry run" in world.must("purge", "uv-cache", "--dry-run").out
    assert use() == pytest.approx(full, rel=0.05)
    done = world.must("purge", "uv-cache", "--json").json
    assert done["freed_bytes"] > full * 0.8
    assert done["left_bytes"] < MIB

    use()
    world.start()
    world.must("relocate", "uv-cache")
    done = world.must("purge", "uv-cache", "--json").json
    assert (world.cache / "uv").is_symlink()
    assert done["on"] == os.readlink(world.cache / "uv")
    assert done["freed_bytes"] > full * 0.8
    assert use() == pytest.approx(full, rel=0.05)

    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    (world.home / ".npm/_cacache/content").mkdir(parents=True)
    (world.home / ".npm/_cacache/content/x").write_bytes(bytes(3 * MIB))
    assert world.must("purge", "npm", "--json").json["freed_bytes"] >= 3 * MIB
    assert (world.home / ".npm").is_dir()


def test_what_is_refused(world: World, tmp_path: Path) -> None:
    """Environments, what cannot be made again, what fails, hangs or is not there: one sentence, the exit code, nothing lost."""
    (world.home / ".conda/envs/a").mkdir(parents=True)
    for place in (world.cache / "mine", world.cache / "other", world.cache / "huggingface/hub", world.home / ".ollama/models"):
        place.mkdir(parents=True)
        (place / "file").write_bytes(bytes(2 * MIB))
    own = {"mine": {"path": str(world.cache / "mine"), "purge": "false --all"}, "other": {"path": str(world.cache / "other")}}
    world.configure(caches=own)
    for words, rc, text in (
        (("conda-envs",), 4, "it holds an environment, and no cache"),
        (("other",), 4, "no command is known that empties it"),
        (("mine",), 1, "'false --all' ended with 1"),
        (("npm",), 4, "there is no directory"),
        (("nothing",), 2, "no cache of that name"),
    ):
        answer = world.ctl("purge", *words)
        assert (answer.rc, text in answer.err) == (rc, True), answer
    marker = tmp_path / "shell"
    own["mine"]["purge"] = f"touch $(touch {marker}) ; rm -rf ~"
    world.configure(caches=own)
    world.ctl("purge", "mine")
    assert not marker.exists(), "a shell read it"
    own["mine"]["purge"] = f"sh -c 'rm -f {world.cache}/mine/*; echo gone $PWD $HOME'"
    world.configure(caches=own)
    done = world.must("purge", "mine", "--json").json
    assert done["freed_bytes"] >= 2 * MIB
    assert done["said"] == f"gone {world.home} {world.home}"
    own["mine"] |= {"kind": "environment"}
    world.configure(caches=own)
    assert (answer := world.ctl("check")).rc == 6
    assert "purge is for what its tool can make again" in answer.err
