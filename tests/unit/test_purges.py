"""What is purged, by what and how: the configuration, the plan, and a command that is run as its user would run it."""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from survived.act import tools
from survived.act.task import Task
from survived.decide.explain import explain
from survived.decide.policy import plan
from survived.decide.reasons import Moment
from survived.errors import ConfigError, Refused, Stopped, SurvivedError
from survived.model import CacheReading, Kind, Observation, Pressure, Reason
from survived.purges import command_of
from survived.settings.catalog import CacheOverride, resolve_caches
from survived.settings.config import load_settings
from tests.unit.engine import new_task
from tests.unit.scene import GIB, NOW, RULES, reading, scene
from tests.unit.test_policy import ALL_KINDS, PRESSURES, machines, moved, refusal

if TYPE_CHECKING:
    from survived.model import Cache

HIGH = {"/": Pressure.HIGH}
PURGE = ("pip", "cache", "purge")


def resolved(**words: bool | str) -> dict[str, Cache]:
    """Return the catalogue's caches for a home, with `purge` as it is said of some."""
    overrides = {name.replace("_", "-"): CacheOverride(purge=word) for name, word in words.items()}
    return {cache.id: cache for cache in resolve_caches({}, "/home/alice", overrides)}


def test_the_users_word_makes_it_a_command() -> None:
    """True is the tool's own command where that is harmless; a text is split as a shell would; false and silence are none."""
    caches = resolved(pip=True, uv_cache="uv cache prune --ci", npm=False)

    assert caches["pip"].purge_command == PURGE
    assert caches["uv-cache"].purge_command == ("uv", "cache", "prune", "--ci")
    assert caches["npm"].purge_command is caches["hf-hub"].purge_command is None
    assert resolved(conda_envs="rm -rf x")["conda-envs"].purge_command is None, "an environment is never purged"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[caches.conda-envs]\npurge = true", "and this is of the kind 'environment'"),
        ("[caches.pip]\nkind = 'state'\npurge = true", "and this is of the kind 'state'"),
        ("[caches.mine]\npath = '/data/mine'\npurge = true", 'no command is known that empties it; write purge = "COMMAND"'),
        ("[caches.pip]\npurge = 3", "neither true nor a command"),
        ("[caches.pip]\npurge = ''", "neither true nor a command"),
        ("[caches.pip]\npurge = 'rm \"x'", "neither true nor a command"),
    ],
)
def test_what_must_not_be_purged_is_a_mistake(text: str, words: str, tmp_path: Path) -> None:
    """An environment, the user's own without a command, and what is no command: one sentence each."""
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as told:
        load_settings(file, {}, "/home/alice")
    assert words in told.value.message


def test_the_environment_says_it_too(tmp_path: Path) -> None:
    """SURVIVED_CACHES__PIP__PURGE is a word or a command."""
    (tmp_path / "config.toml").write_text("")
    for text, wanted in (("true", True), ("pip cache remove torch", "pip cache remove torch"), ("false", False)):
        settings = load_settings(tmp_path / "config.toml", {"SURVIVED_CACHES__PIP__PURGE": text}, "/home/alice")
        assert settings.overrides()["pip"].purge == wanted


def purged(name: str, size: int = 14 * GIB, reclaimable: int | None = None, **changes: object) -> CacheReading:
    """Return a cache that is to be purged."""
    found = reading(name, size, reclaimable, **changes)  # type: ignore[arg-type]
    return replace(found, cache=replace(found.cache, purge_command=PURGE))


def test_the_plan_purges_in_place_of_a_move() -> None:
    """It needs no data disk, is no less wanted than a move, says by what, and keeps to reasons, limits and quiet as any other."""
    result = plan(scene(purged("pip"), stores=()), HIGH, RULES)

    (move,) = result.moves
    assert (move.command, move.store_path, move.cache_id) == (PURGE, "", "pip")
    assert move.why == "/ is at 93 %, high is 90 %; purging frees 14.0 GiB towards 80 %"
    assert plan(scene(purged("pip")), {"/": Pressure.NORMAL}, RULES).refusals[0].reason is Reason.NOT_NEEDED
    assert plan(scene(purged("pip", 14 * GIB, GIB)), HIGH, RULES).refusals[0].reason is Reason.NOTHING_FREED
    only_reported = purged("pip", cache={"report_only": "never tried"})
    assert moved(plan(scene(only_reported), HIGH, RULES)) == ["pip"], "that is about links"
    linked = purged("uv", 20 * GIB, 10 * GIB, cache={"shares_links_with": ("venvs",)})
    assert moved(plan(scene(linked), HIGH, RULES)) == ["uv"], "a cache that is made anew links again"
    said = {s.rule: s for s in explain(purged("pip"), scene(purged("pip")), HIGH, RULES, result, Moment(NOW, {}))}
    assert said["purge"].text == "is purged instead of moved, by: pip cache purge"
    assert said["plan"].text.startswith("is purged by 'pip cache purge': ")


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(machines(), PRESSURES, st.sets(st.integers(0, 7)))
def test_the_laws_hold_with_purges(machine: Observation, pressures: dict[str, Pressure], which: set[int]) -> None:
    """Every cache once; what is purged is put nowhere; nothing but caches is."""
    caches = tuple(
        replace(item, cache=replace(item.cache, purge_command=PURGE))
        if item.cache.kind is Kind.CACHE and int(item.cache.id[1:]) in which
        else item
        for item in machine.caches
    )  # fmt: skip
    result = plan(replace(machine, caches=caches), pressures, ALL_KINDS)
    by_id = {item.cache.id: item for item in caches}

    assert sorted([*moved(result), *(item.cache_id for item in result.refusals)]) == sorted(by_id)
    for move in result.moves:
        assert (move.command is None) == (by_id[move.cache_id].cache.purge_command is None) == bool(move.store_path)
        assert move.reclaimable_bytes == by_id[move.cache_id].size.reclaimable_bytes


def test_what_is_refused_by_hand() -> None:
    """What holds no cache, is pinned, or has no harmless command: exit code 4, with the reason."""
    caches = resolved()
    for cache, words in (
        (caches["conda-envs"], "it holds an environment, and no cache"),
        (replace(caches["pip"], pinned="pin = true in [caches.pip]"), "it is kept by pin = true"),
        (reading("mine").cache, "no command is known that empties it"),
    ):
        with pytest.raises(Refused, match=words) as told:
            command_of(cache)
        assert told.value.reason is Reason.NOT_PURGED
    assert command_of(caches["pip"]) == PURGE


def run(tmp_path: Path, code: str, *words: str, task: Task | None = None, longest: float = 60.0) -> tools.Ended:
    """Run Python code as a tool."""
    env = tools.environment_of({**os.environ, "SURVIVED_X": "1", "NOTIFY_SOCKET": "/x", "PYTHONPATH": "/x"}, str(tmp_path))
    return tools.run((sys.executable, "-c", code, *words), env, str(tmp_path), task or new_task(), longest=longest)


def test_a_command_runs_as_its_users(tmp_path: Path) -> None:
    """In the home, with nothing to read, no shell, without what is about us; its code and the end of what it says come back."""
    code = (
        "import os, sys\n"
        "ours = set(os.environ) & {'SURVIVED_X', 'NOTIFY_SOCKET', 'PYTHONPATH'}\n"
        "print(os.getcwd(), sys.stdin.read() == '', sys.argv[1:], sorted(ours))\n"
        "sys.exit(3)"
    )
    ended = run(tmp_path, code, "$HOME", "a;b", "*")
    assert (ended.code, ended.said) == (3, f"{tmp_path} True ['$HOME', 'a;b', '*'] []")
    assert len(run(tmp_path, "print('x' * 300_000); print('end')").said) <= 1 << 16
    (tmp_path / ".local/bin").mkdir(parents=True)
    env = tools.environment_of({"PATH": "/bin"}, str(tmp_path))
    assert env["PATH"] == f"/bin:{tmp_path}/.local/bin"
    with pytest.raises(SurvivedError, match="'no-such-tool': it is not found"):
        tools.run(("no-such-tool",), env, str(tmp_path), new_task())


def test_a_command_ends_with_us(tmp_path: Path) -> None:
    """At the time limit, and when we are stopped, it is killed with all that it started; one that leaves a child behind is done."""
    marker = tmp_path / "alive"
    later = "import sys, time; time.sleep(2); open(sys.argv[1], 'w')"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {later!r}, *sys.argv[1:]]); time.sleep(60)"
    with pytest.raises(SurvivedError, match="took longer than"):
        run(tmp_path, code, str(marker), longest=0.5)
    task = Task(threading.Event())
    threading.Timer(0.3, task.stop.set).start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        run(tmp_path, code, str(marker), task=task)
    assert time.monotonic() - began < 20
    time.sleep(2.5)
    assert not marker.exists()
    detached = "import subprocess; subprocess.Popen(['sleep', '5']); print('done')"
    began = time.monotonic()
    assert run(tmp_path, detached).said == "done"
    assert time.monotonic() - began < 4.5


def test_reasons_of_the_pool(tmp_path: Path) -> None:
    """A purge waits like a move while somebody has files open, or in quiet hours."""
    rules = replace(RULES, quiet_hours=((0, 1440),))
    assert refusal(plan(scene(purged("pip")), HIGH, rules, minute=5), "pip").reason is Reason.QUIET_HOURS
    assert not list(tmp_path.iterdir())
