"""Caches made by the real tools: moved, used, cleaned by the tool's own command, used again and brought home."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.rig.disks import Disks
from tests.rig.hub import REPO, hub
from tests.rig.index import index, make_wheel
from tests.rig.world import MIB, World
from tests.unit.engine import snapshot

pytestmark = pytest.mark.real


@pytest.fixture
def world(make_disks: Callable[..., Disks], tmp_path: Path) -> Iterator[World]:
    """Return a world whose daemon runs and moves nothing by itself."""
    with ExitStack() as stack:
        disks = make_disks(small="250M", data="400M")
        world = stack.enter_context(World(disks.small, (disks.data,), tmp_path / "run"))
        world.configure(watch={"high": "90%", "low": "80%"})
        world.start()
        yield world


def run(world: World, *words: str | Path, **env: str) -> str:
    """Run a tool as the world's user, successfully; return what it said."""
    done = subprocess.run(
        [str(word) for word in words], env={**world.env, **env}, cwd=world.run, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, f"{words}: {said}"
    return said


def story(
    world: World, cache_id: str, cache: Path, *, use: Callable[[], object], again: Callable[[], object], clean: Callable[[], object]
) -> None:
    """Tell the whole story; `use` fills the cache, `again` works from the cache alone, `clean` is the tool's own command."""

    def is_ours() -> bool:
        return cache.is_symlink() and os.readlink(cache) == str(target)

    target = world.disks[0] / "survived/trees" / str(cache).lstrip("/")
    use()
    before = snapshot(cache)
    assert sum(path.is_file() for path in cache.rglob("*")) >= 2
    world.must("relocate", cache_id)
    assert is_ours()
    assert snapshot(cache) == before
    again()
    assert is_ours()

    full = sum(path.lstat().st_blocks for path in target.rglob("*"))
    clean()
    assert is_ours(), f"{cache_id}'s own cleaning removed the link"
    assert sum(path.lstat().st_blocks for path in target.rglob("*")) < full / 2, "cleaning did not reach the target"
    use()
    assert is_ours()
    again()

    before = snapshot(cache)
    world.must("restore", cache_id)
    assert not cache.is_symlink()
    assert snapshot(cache) == before
    assert not target.exists()
    assert world.leftovers() == []
    again()
    assert world.known(cache_id)["state"] == "home"


def test_pip(world: World, tmp_path: Path) -> None:
    """pip finds its wheels in the moved cache with the index down, and pip cache purge keeps the link."""
    for name in ("alpha", "beta"):
        make_wheel(tmp_path / "index", name, 3 * MIB)
    with index(tmp_path / "index") as running:
        port, urls = running.port, [running.url(name) for name in ("alpha", "beta")]
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    options = ("download", "--no-deps", "-d", tmp_path / "wheels", "--trusted-host", "127.0.0.1")

    def use() -> None:
        shutil.rmtree(tmp_path / "wheels", ignore_errors=True)  # what lies there is not downloaded
        with index(tmp_path / "index", port) as running:
            run(world, *pip, *options, *running.options(), "alpha", "beta", PIP_CONFIG_FILE=os.devnull)

    def again() -> None:
        shutil.rmtree(tmp_path / "wheels")
        assert run(world, *pip, *options, "--no-index", *urls, PIP_CONFIG_FILE=os.devnull).count("Using cached") == 2

    story(world, "pip", world.cache / "pip", use=use, again=again, clean=lambda: run(world, *pip, "cache", "purge"))


def test_uv(world: World, tools: Path) -> None:
    """uv installs offline from the moved cache, into environments beside it and elsewhere; uv cache clean keeps the link."""
    uv = tools / "uv"
    here, elsewhere = world.home / "venv", world.run / "venv"  # hard links to the cache at first, and copies

    def install(*options: str) -> None:
        for place in (here, elsewhere):
            if not place.exists():
                run(world, uv, "venv", "-q", "--python", sys.executable, place)
            run(world, uv, "pip", "install", "-q", "--reinstall", *options, "six", "packaging", VIRTUAL_ENV=str(place))
            assert "ok" in run(world, place / "bin/python", "-c", "import six, packaging.version; print('ok')")

    def clean() -> None:
        run(world, uv, "cache", "clean")

    story(world, "uv-cache", world.cache / "uv", use=install, again=lambda: install("--offline"), clean=clean)


def test_npm(world: World) -> None:
    """npm installs offline from the moved cache, and npm cache clean --force keeps the link."""
    npm = shutil.which("npm")
    if npm is None or subprocess.run([npm, "view", "is-odd", "version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs npm and its registry")
    project = world.run / "project"
    project.mkdir()
    quiet = ("--prefix", project, "--no-audit", "--no-fund", "--no-update-notifier")

    def use() -> None:
        shutil.rmtree(project / "node_modules", ignore_errors=True)
        (project / "package.json").write_text('{"name": "p", "version": "1.0.0", "private": true}')
        run(world, npm, "install", *quiet, "is-odd")

    def again() -> None:
        for words in (("ci",), ("install", "is-odd")):
            shutil.rmtree(project / "node_modules")
            run(world, npm, *words, "--offline", *quiet)
            assert (project / "node_modules/is-odd/index.js").is_file()

    def clean() -> None:
        run(world, npm, "cache", "clean", "--force", *quiet)

    story(world, "npm", world.home / ".npm", use=use, again=again, clean=clean)


def test_huggingface_hub(world: World, tools: Path) -> None:
    """A model is found offline in the moved cache, by snapshot_download too, and deleting its revisions keeps the link."""
    files = {"config.json": b'{"model_type": "tiny"}', **{f"weights-{n}.bin": random.Random(n).randbytes(MIB) for n in range(3)}}
    python = tools / "python"
    with hub(files) as endpoint:

        def use() -> None:
            code = f"import huggingface_hub as h; print(h.snapshot_download({REPO!r}))"
            run(world, python, "-c", code, HF_ENDPOINT=endpoint)

        def again() -> None:
            code = (
                "import huggingface_hub as h, os, sys\n"
                f"folder = h.snapshot_download({REPO!r}, local_files_only=True)\n"
                f"assert sorted(os.listdir(folder)) == {sorted(files)!r}, os.listdir(folder)\n"
                f"path = h.try_to_load_from_cache({REPO!r}, 'weights-1.bin')\n"
                f"assert os.path.getsize(path) == {MIB}, path\n"
                "(repo,) = h.scan_cache_dir().repos\n"
                f"assert (repo.repo_id, repo.size_on_disk) == ({REPO!r}, {sum(map(len, files.values()))}), repo\n"
            )
            run(world, python, "-c", code, HF_HUB_OFFLINE="1")

        def clean() -> None:
            code = (
                "import huggingface_hub as h\n"
                "found = h.scan_cache_dir()\n"
                "h_all = [revision.commit_hash for repo in found.repos for revision in repo.revisions]\n"
                "found.delete_revisions(*h_all).execute()\n"
            )
            run(world, python, "-c", code)

        story(world, "hf-hub", world.cache / "huggingface/hub", use=use, again=again, clean=clean)


def test_hf_command_line_keeps_the_link(world: World, tools: Path) -> None:
    """`hf cache rm` and `hf cache prune` work on the moved cache and leave our link."""
    cache = world.cache / "huggingface/hub"
    with hub({"config.json": b"{}", "weights.bin": random.Random(1).randbytes(MIB)}) as endpoint:
        run(world, tools / "hf", "download", REPO, HF_ENDPOINT=endpoint)
        world.must("relocate", "hf-hub")
        run(world, tools / "hf", "cache", "prune", "--yes")
        assert REPO in run(world, tools / "hf", "cache", "ls")
        run(world, tools / "hf", "cache", "rm", f"model/{REPO}", "--yes")
        assert REPO not in run(world, tools / "hf", "cache", "ls")
        assert cache.is_symlink()
        run(world, tools / "hf", "download", REPO, HF_ENDPOINT=endpoint)
        assert REPO in run(world, tools / "hf", "cache", "ls")
        world.must("restore", "hf-hub")
        assert REPO in run(world, tools / "hf", "cache", "ls")
