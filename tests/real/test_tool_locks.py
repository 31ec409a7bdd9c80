"""Real tools that begin while their cache is exchanged: our hold on their lock makes them wait, and work behind the link."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from survived.act.transfer import Care
from survived.errors import Refused
from survived.model import Stage
from survived.settings.catalog import find_rule
from tests.rig.torture import ROOT
from tests.unit.engine import HookedTask, Rig, build, new_task

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.real

BRIEF = Care(settle_seconds=0.0, patience_seconds=0.6)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Yield a rig whose source does not exist yet."""
    with build(tmp_path) as made:
        yield made


class Waiting:
    """A tool that is started when the last look is over, and must not get far before the exchange."""

    def __init__(self, words: list[str], env: dict[str, str], cwd: Path) -> None:
        self.words, self.env, self.cwd = words, {**os.environ, **env}, cwd
        self.process: subprocess.Popen[str] | None = None

    def begin(self) -> None:
        """Start it and see that it waits."""
        self.process = subprocess.Popen(
            self.words, env=self.env, cwd=self.cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        time.sleep(1.0)
        assert self.process.poll() is None, f"it did not wait: {self.process.communicate()[0]}"

    def end(self) -> None:
        """Let it come to its end, a good one."""
        assert self.process is not None
        said, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, said


def run(words: list[str], env: dict[str, str], cwd: Path) -> None:
    """Run a tool, successfully."""
    done = subprocess.run(words, env={**os.environ, **env}, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def lock_of(cache_id: str) -> tuple[str, ...]:
    """Return what the catalogue says."""
    rule = find_rule(cache_id)
    assert rule is not None
    return rule.lock


def move_under(rig: Rig, cache_id: str, waiting: Waiting) -> set[str]:
    """Relocate while a tool begins in the worst moment; return what it made behind the link, and assert that nothing was lost."""
    before = {str(path.relative_to(rig.source)) for path in rig.source.rglob("*")}
    operation = rig.relocate(lock=lock_of(cache_id), task=HookedTask("exchange", waiting.begin))
    assert operation.stage in (Stage.DONE, Stage.EXCHANGED)  # the latter while it has the old lock file open
    waiting.end()
    ended, puzzles = rig.recover()
    assert puzzles == []
    assert all(each.stage is Stage.DONE for each in ended)
    assert rig.source.is_symlink()
    assert rig.leftovers() == []
    target = rig.source.resolve()
    after = {str(path.relative_to(target)) for path in target.rglob("*")}
    assert before <= after
    return after - before


def test_uv(rig: Rig, tools: Path, tmp_path: Path) -> None:
    """uv pip install waits for the exchange, then installs, and what it caches lies behind the link."""
    env = {"UV_CACHE_DIR": str(rig.source)}
    words = [str(tools / "uv"), "pip", "install", "-q", "--python", sys.executable]
    run([*words, "--target", str(tmp_path / "one"), "six"], env, tmp_path)
    made = move_under(rig, "uv-cache", Waiting([*words, "--target", str(tmp_path / "two"), "iniconfig"], env, tmp_path))
    assert any("iniconfig" in name for name in made)
    assert (tmp_path / "two/iniconfig").is_dir()


def test_cargo(rig: Rig, tmp_path: Path) -> None:
    """cargo waits for the exchange, too."""
    cargo = shutil.which("cargo")
    if cargo is None or subprocess.run([cargo, "--version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs cargo")
    (tmp_path / "project/src").mkdir(parents=True)
    (tmp_path / "project/Cargo.toml").write_text('[package]\nname = "x"\nversion = "0.1.0"\nedition = "2021"\n')
    (tmp_path / "project/src/main.rs").write_text("fn main() {}\n")
    env = {"CARGO_HOME": str(rig.source)}
    words = [cargo, "metadata", "--offline", "--format-version", "1"]
    run(words, env, tmp_path / "project")
    (rig.source / "registry").mkdir(exist_ok=True)
    (rig.source / ".package-cache").touch()
    move_under(rig, "cargo", Waiting(words, env, tmp_path / "project"))


FILELOCK = """
import os, sys, filelock
cache = sys.argv[1]
with filelock.FileLock(f"{cache}/.locks/models--a--b/0123.lock"):
    with open(f"{cache}/models--a--b/blobs/0123", "w") as file:
        file.write("downloaded")
"""


def test_the_hubs_many_locks(rig: Rig, tools: Path, tmp_path: Path) -> None:
    """A hub has a lock for each download: while one is held it is busy, and who wants one during the exchange waits."""
    for name in ("models--a--b/blobs", ".locks/models--a--b"):
        (rig.source / name).mkdir(parents=True)
    for name in ("0123.lock", "4567.lock"):
        (rig.source / ".locks/models--a--b" / name).touch()
    words = [str(tools / "python"), "-c", FILELOCK, str(rig.source)]
    made = move_under(rig, "hf-hub", Waiting(words, {}, tmp_path))
    assert "models--a--b/blobs/0123" in made
    assert (rig.source / "models--a--b/blobs/0123").read_text() == "downloaded"


@pytest.mark.parametrize(
    ("cache_id", "name", "take"),
    [
        ("hf-hub", ".locks/models--a--b/0123.lock", "fcntl.flock(file, fcntl.LOCK_SH)"),
        ("conda-pkgs", "cache/497deca9.info.json", "fcntl.lockf(file, fcntl.LOCK_EX)"),
        ("go-mod", "cache/lock", "fcntl.flock(file, fcntl.LOCK_EX)"),
        ("cargo", ".package-cache-mutate", "fcntl.flock(file, fcntl.LOCK_SH)"),
    ],
)
def test_a_lock_that_is_held(rig: Rig, cache_id: str, name: str, take: str) -> None:
    """Of each kind, shared or not, by a process that we cannot see: the cache is busy, and moves when it is let go."""
    path = rig.source / name
    path.parent.mkdir(parents=True)
    path.touch()
    code = f"import fcntl, sys\nfile = open(sys.argv[1], 'r+')\n{take}\nprint(flush=True)\ninput()"
    words = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("survived.act.transfer.find_holders", lambda paths: dict.fromkeys(paths, ()))
            with pytest.raises(Refused, match=r"its tool holds its lock\. Nothing was changed") as caught:
                rig.relocate(lock=lock_of(cache_id), care=BRIEF, task=new_task())
            assert caught.value.reason == "busy"
        holder.communicate(b"\n")
    assert rig.relocate(lock=lock_of(cache_id)).stage is Stage.DONE
