"""The link's guardian at work: real tools' clean commands eat real links, and a data disk goes away under real tools."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.rig.disks import small_and_data_disks
from tests.rig.world import World, wait_until
from tests.unit.engine import contents

pytestmark = pytest.mark.real


@pytest.fixture
def world(needs_root_mounts: None) -> Iterator[World]:
    """Return a world whose daemon runs and moves nothing by itself, with paths that are short enough for a title."""
    with (
        tempfile.TemporaryDirectory(prefix="gd-") as name,
        small_and_data_disks(Path(name), small="250M", data="400M") as disks,
        World(disks.small, (disks.data,), Path(name) / "run") as world,
    ):
        world.configure(watch={"high": "90%", "low": "80%"})
        world.start()
        yield world


@pytest.fixture(scope="session")
def npm() -> str:
    """Return npm; skip where it or its registry is missing."""
    found = shutil.which("npm")
    if found is None or subprocess.run([found, "view", "is-odd", "version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs npm and its registry")
    return found


def run(world: World, *words: str | Path, fails: bool = False, cwd: Path | None = None, **env: str) -> str:
    """Run a tool as the world's user; return what it said. It must succeed, or with `fails` must not."""
    done = subprocess.run(
        [str(word) for word in words], env={**world.env, **env}, cwd=cwd or world.run, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert (done.returncode != 0) == fails, f"{words}: {said}"
    return said


class Project:
    """A project of npm's; what is installed comes from the cache alone if `offline`."""

    def __init__(self, world: World, npm: str) -> None:
        self.world, self.npm, self.path = world, npm, world.run / "project"
        self.path.mkdir()
        self.options = ("--prefix", self.path, "--no-audit", "--no-fund", "--no-update-notifier")

    def install(self, *packages: str, offline: bool = False, fails: bool = False) -> str:
        """Install into an empty project."""
        shutil.rmtree(self.path / "node_modules", ignore_errors=True)
        (self.path / "package-lock.json").unlink(missing_ok=True)
        (self.path / "package.json").write_text('{"name": "p", "version": "1.0.0", "private": true}')
        mode = ("--offline",) if offline else ()
        return run(self.world, self.npm, "install", *mode, *self.options, *packages, fails=fails)

    def clean(self) -> None:
        """Clean the cache by npm's own command."""
        run(self.world, self.npm, "cache", "clean", "--force", *self.options)


def target_of(world: World, path: Path, number: int = 1) -> Path:
    """Return where a path is relocated to."""
    place = world.disks[0] / "survived/trees" / str(path).lstrip("/")
    return place if number == 1 else place.with_name(f"{place.name}~{number}")


def told(world: World, topic: str) -> list[str]:
    """Return the titles of all notices of one topic, oldest first, out of the log."""
    return re.findall(f"Notice: (.*{TITLES[topic]}.*)", world.log())


TITLES = {
    "gone": "link is gone: ",
    "eaten": "link replaced by a directory: ",
    "elsewhere": "link leads elsewhere: ",
    "dangling": "link leads nowhere: ",
    "standin": "stand-in merged: ",
}


def wait_for(world: World, condition: Callable[[], object], timeout: float = 20.0) -> None:
    """Wait until a condition holds, having the daemon look more often than it does by itself."""

    def holds() -> bool:
        world.ask("reload")
        time.sleep(0.2)
        world.ask("status")  # wakes the loop
        return bool(condition())

    wait_until(holds, timeout, what=world.log)


def wait_told(world: World, topic: str) -> None:
    """Wait until a topic was told, and see that a few more looks give no second notice."""
    wait_for(world, lambda: told(world, topic))
    for _ in range(3):
        wait_for(world, lambda: True)
    assert len(told(world, topic)) == 1, told(world, topic)


def link_of(world: World, path: Path) -> str | None:
    """Return the state that the daemon's status tells of a path's link, None if it is well."""
    return next((link["state"] for link in world.status()["links"] if link["path"] == str(path)), None)


def orphans(world: World) -> list[dict[str, object]]:
    """Return what `survivectl orphans` lists."""
    return list(world.must("orphans", "--json").json["orphans"])


# ---- eaten ----------------------------------------------------------------------------------------------------------


def test_npm_eats_a_link(world: World, npm: str) -> None:
    """A link at _cacache is warned of, eaten by npm's own cleaning, told once, and what both hold is one again when asked."""
    project, cache = Project(world, npm), world.home / ".npm/_cacache"
    project.install("is-odd")
    moved = world.must("relocate", str(cache))
    assert "The right level is" in moved.err
    assert "survivectl relocate npm" in moved.err
    had = contents(cache)

    project.clean()
    assert not os.path.lexists(cache), "npm has learnt to keep the link"
    wait_told(world, "gone")
    assert link_of(world, cache) == "gone"
    project.install("left-pad")
    wait_told(world, "eaten")
    assert link_of(world, cache) == "eaten"
    assert (len(told(world, "gone")), len(told(world, "eaten"))) == (1, 1)
    assert contents(target_of(world, cache)) == had

    (orphan,) = orphans(world)
    assert (orphan["why"], orphan["target"], orphan["path"]) == ("eaten", str(target_of(world, cache)), str(cache))
    assert isinstance(orphan["size_bytes"], int)
    assert orphan["size_bytes"] > 10_000
    assert "orphan: no link leads to" in world.must("list").out
    assert "survivectl orphans" in world.must("status").out
    assert "no link leads to" in " ".join(world.ctl("check").out.split())
    project.install("is-odd", offline=True, fails=True)

    answer = world.must("orphans", "link", str(cache))
    assert "merged" in answer.out
    assert os.readlink(cache) == str(target_of(world, cache, 2))
    assert (orphans(world), world.leftovers()) == ([], [])
    assert set(had) <= set(contents(cache))
    for package in ("is-odd", "left-pad"):
        project.install(package, offline=True)
    wait_for(world, lambda: link_of(world, cache) is None)
    world.must("restore", str(cache))
    assert not cache.is_symlink()
    project.install("is-odd", offline=True)


def test_yarn_replaces_its_link(world: World, npm: str) -> None:
    """yarn 1 leaves an empty directory in the place of its link: the orphan is removed for good, and nothing else."""
    run(world, npm, "install", "--prefix", world.run, "--no-audit", "--no-fund", "--cache", world.run / "npm", "yarn@1.22.22")
    yarn, cache, project = world.run / "node_modules/.bin/yarn", world.cache / "yarn", world.run / "project"
    project.mkdir()
    (project / "package.json").write_text('{"name": "p", "version": "1.0.0", "private": true, "license": "MIT"}')
    world.configure(watch={"high": "90%", "low": "80%"}, caches={"yarn1": {"path": str(cache)}})  # root's own is elsewhere
    world.must("reload")
    env = {"YARN_CACHE_FOLDER": str(cache)}
    run(world, yarn, "add", "--no-progress", "is-odd", cwd=project, **env)
    assert "yarn cache clean' removes a link" in world.must("relocate", str(cache)).err
    target = target_of(world, cache)
    run(world, yarn, "cache", "clean", cwd=project, **env)
    assert not cache.is_symlink(), "yarn has learnt to keep the link"
    wait_told(world, "eaten" if cache.is_dir() else "gone")

    with open(next(path for path in target.rglob("*") if path.is_file())):
        pass
    assert world.ctl("orphans", "remove", str(target)).rc == 2  # there is nobody to ask
    assert target.is_dir()
    holder = subprocess.Popen(["sleep", "60"], cwd=target)
    try:
        answer = world.ctl("orphans", "remove", "--yes", str(target))
        assert (answer.rc, "sleep" in answer.err, target.is_dir()) == (4, True, True)
    finally:
        holder.kill()
        holder.wait()
    world.must("orphans", "remove", "--yes", str(target))
    assert not target.exists()
    assert (orphans(world), world.leftovers()) == ([], [])
    assert link_of(world, cache) is None
    assert world.must("list").out == "Nothing is relocated.\n"
    run(world, yarn, "add", "--no-progress", "left-pad", cwd=project, **env)
    world.must("relocate", str(cache))
    assert os.readlink(cache) == str(target)


def test_cargo_cleans_a_link_away(world: World) -> None:
    """After cargo clean the link is made anew when asked, byte for byte what it led to, also without the daemon."""
    cargo = shutil.which("cargo")
    if cargo is None:
        pytest.skip("needs cargo")
    project = world.home / "hello"
    (project / "src").mkdir(parents=True)
    (project / "Cargo.toml").write_text('[package]\nname = "hello"\nversion = "1.0.0"\nedition = "2021"\n')
    (project / "src/main.rs").write_text('fn main() { println!("hello"); }\n')
    env = {name: os.environ[name] for name in ("RUSTUP_HOME", "CARGO_HOME") if name in os.environ}
    env = {"RUSTUP_HOME": str(Path.home() / ".rustup"), "CARGO_HOME": str(Path.home() / ".cargo"), **env}
    run(world, cargo, "build", "--offline", cwd=project, **env)
    world.must("relocate", str(project / "target"))
    had = contents(project / "target")
    run(world, cargo, "clean", "--offline", cwd=project, **env)
    assert not os.path.lexists(project / "target"), "cargo has learnt to keep the link"
    wait_told(world, "gone")

    assert world.stop()[0] == 0
    assert world.must("orphans", "link", str(project / "target")).out.startswith(f"'{project}/target' leads to")
    assert (os.readlink(project / "target"), contents(project / "target")) == (str(target_of(world, project / "target")), had)
    assert world.must("list", "--json").json["relocated"][0]["link"] == "ok"
    assert "Compiling" not in run(world, cargo, "build", "--offline", cwd=project, **env)
    assert world.ctl("orphans", "link", str(project / "target")).rc == 4


def test_what_its_user_made_of_a_link(world: World) -> None:
    """Led elsewhere by hand it is told once and adopted when asked; the old tree stays listed until it is removed."""
    pip = world.fill(world.cache / "pip", 3)
    world.must("relocate", "pip")
    target = target_of(world, pip)
    had = contents(target)
    assert world.ctl("orphans", "adopt", "pip").rc == 4
    elsewhere = world.disks[0] / "mine"
    shutil.copytree(target, elsewhere)
    pip.unlink()
    pip.symlink_to(elsewhere)
    wait_told(world, "elsewhere")
    assert world.ctl("orphans", "link", str(target)).rc == 4
    world.must("orphans", "adopt", "pip")
    assert os.readlink(pip) == str(elsewhere)
    (orphan,) = orphans(world)
    assert (orphan["why"], orphan["target"], orphan["id"], contents(target)) == ("unknown", str(target), "pip", had)
    assert world.must("list", "--json").json["relocated"] == []
    assert len(told(world, "elsewhere")) == 1
    world.must("orphans", "remove", "--yes", "pip")
    assert (orphans(world), target.exists(), contents(elsewhere)) == ([], False, had)


def test_a_tree_that_is_removed_behind_its_link(world: World) -> None:
    """A link that leads nowhere although its disk is there is told once; with the link gone, too, nothing is left to tell."""
    pip = world.fill(world.cache / "pip", 3)
    world.must("relocate", "pip")
    shutil.rmtree(target_of(world, pip))
    wait_told(world, "dangling")
    assert world.ctl("check").rc == 1
    pip.unlink()
    wait_for(world, lambda: "both gone: it is forgotten" in world.log())
    assert world.must("list", "--json").json["relocated"] == []
    assert (told(world, "gone"), len(told(world, "dangling")), orphans(world)) == ([], 1, [])


def test_a_source_below_an_orphans_place_is_put_beside_it(world: World) -> None:
    """A later source may lie below the place of an orphan: its tree is not put into the orphan, which can be removed then."""
    outer = world.fill(world.home / "things", 2)
    world.must("relocate", str(outer))
    old = target_of(world, outer)
    outer.unlink()
    inner = world.fill(outer / "00/inner", 1)
    wait_told(world, "eaten")
    world.must("relocate", str(inner))
    had = contents(inner)
    assert os.readlink(inner) == f"{old}~2/00/inner"
    world.must("orphans", "remove", "--yes", str(old))
    assert contents(inner) == had
    world.must("restore", str(inner))
    assert contents(inner) == had


# ---- the disk is away -----------------------------------------------------------------------------------------------


def take_away(world: World) -> None:
    """Unmount the data disk lazily, as a pulled cable does; what is left is the mount point on another filesystem."""
    subprocess.run(["umount", "--lazy", world.data[0].path], check=True)


def bring_back(world: World) -> None:
    """Mount it again."""
    subprocess.run(["mount", "-o", "loop,noatime", world.data[0].image, world.data[0].path], check=True)


def untouched(world: World) -> bool:
    """Tell whether the empty mount point is empty."""
    return not any(world.data[0].path.iterdir())


def test_standins_for_npm_and_uv(world: World, npm: str, tools: Path) -> None:
    """A missing disk is said at once and once; its tools fail, work with stand-ins, and find everything when it is back."""
    project, uv, cache = Project(world, npm), tools / "uv", world.home / ".npm"
    mine = world.fill(world.home / "mine", 2)
    project.install("is-odd")

    def pip_install(*words: str, fails: bool = False) -> None:
        if not (world.home / "venv").exists():
            run(world, uv, "venv", "-q", "--python", sys.executable, world.home / "venv")
        python = str(world.home / "venv")
        run(world, uv, "pip", "install", "-q", "--reinstall", "--link-mode=copy", *words, VIRTUAL_ENV=python, fails=fails)

    pip_install("six")
    for what in ("npm", "uv-cache", str(mine)):
        world.must("relocate", what)
    assert world.ctl("standin", "npm").rc == 4
    had, hers = contents(cache), contents(mine)

    take_away(world)
    began = time.monotonic()
    wait_until(lambda: "has vanished" in world.log(), 12, what=world.log)
    assert time.monotonic() - began < 11
    project.install("left-pad", fails=True)
    pip_install("packaging", fails=True)
    assert link_of(world, cache) == "disk_missing"
    answer = world.must("standin", "npm")
    assert (cache.is_symlink(), cache.stat().st_mode & 0o7777, list(cache.iterdir())) == (False, 0o700, [])
    assert world.ctl("standin", "npm").rc == 4
    world.kill()
    world.start()  # nothing is forgotten, though the journal is on the disk that is away
    assert {item["path"] for item in world.must("standin", "--all", "--json").json["results"]} == {
        str(world.cache / "uv"), str(mine),
    }  # fmt: skip
    assert world.must("standin", "--undo", str(mine)).rc == 0
    assert mine.is_symlink()
    world.must("standin", str(mine))
    project.install("left-pad")
    pip_install("packaging")
    (cache / "_update-notifier-last-checked").write_text("theirs")
    assert world.ctl("standin", "--undo", "npm").rc == 4
    assert world.ctl("relocate", "npm").rc == 4
    assert {item["id"] for item in world.status()["standins"]} == {"npm", "uv-cache", str(mine)}
    assert "stand-in" in world.must("status").out
    assert "is a stand-in since" in " ".join(world.ctl("check").out.split())
    assert world.reasons()["npm"] == "report_only"
    assert untouched(world)
    assert answer.out.count("survivectl standin --undo npm") == 1

    bring_back(world)
    wait_for(world, lambda: not world.status()["standins"] and world.status()["move"] is None, 40)
    for path in (cache, world.cache / "uv", mine):
        assert path.is_symlink(), path
    assert (contents(mine), os.readlink(mine)) == (hers, str(target_of(world, mine)))  # empty: the old link is back
    assert set(had) - set(contents(cache)) == set()
    for package in ("is-odd", "left-pad"):
        project.install(package, offline=True)
    pip_install("--offline", "six", "packaging")
    assert (orphans(world), world.leftovers()) == ([], [])
    log = world.log()
    assert log.count("has vanished") == 1
    assert (log.count("me cannot be used"), log.count("me is back")) == (1, 1)  # the former by the daemon that began without it
    assert len(told(world, "standin")) == 2
    assert [told(world, topic) for topic in ("eaten", "gone", "dangling", "elsewhere")] == [[], [], [], []]
    world.must("restore", "--all")
    assert contents(mine) == hers


def test_a_standin_that_is_held_and_killed_over(world: World) -> None:
    """Merging waits for a program that writes there, goes on after kill -9, keeps both of what differs, and tells."""
    pip = world.fill(world.cache / "pip", 3)
    (pip / "both").write_text("earlier")
    world.must("relocate", "pip")
    had = contents(pip)
    take_away(world)
    wait_for(world, lambda: link_of(world, pip) == "disk_missing")
    assert world.stop()[0] == 0
    world.must("standin", "pip")  # without a daemon
    (pip / "both").write_text("later")
    writer = subprocess.Popen([sys.executable, "-c", "import sys; f=open(sys.argv[1], 'a'); input(); f.write('w')", pip / "log"],
                              stdin=subprocess.PIPE)  # fmt: skip
    try:
        wait_until((pip / "log").exists)
        bring_back(world)
        world.start()
        wait_for(world, lambda: "is merged when" in world.log())
        wait_for(world, lambda: True)
        assert not pip.is_symlink()
    finally:
        writer.communicate(b"\n")
    wait_until(lambda: (world.status()["move"] or {}).get("id") == "pip" or pip.is_symlink(), 20, step=0.001, what=world.log)
    world.kill()
    assert (pip / "log").read_text() == "w"
    assert (pip / "both").read_text() == "later"
    world.start()
    wait_for(world, lambda: pip.is_symlink() and not world.status()["standins"], 30)
    world.wait_idle()
    found = contents(pip)
    earlier = found.pop(b"both.survived-earlier")
    assert earlier == had.pop(b"both")
    assert {name: found.get(name) for name in had} == had
    assert ((pip / "both").read_text(), (pip / "log").read_text()) == ("later", "w")
    assert (orphans(world), world.leftovers()) == ([], [])
    assert len(told(world, "standin")) == 1
    log = world.log()
    assert log.count("is merged when") == 1
