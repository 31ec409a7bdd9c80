"""The daily look: a child of its own, when it is due, one at a time, and none that lasts for ever."""

from __future__ import annotations

import logging
import subprocess
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from survived import lookout
from survived.lookout import Lookout
from survived.requests import Requests
from survived.store import hogs
from survived.store.database import Database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAY = 86400.0


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Return what is started, each a process that sleeps in the place of a look; all are ended afterwards."""
    made: list[Any] = []
    real = subprocess.Popen

    def start(words: list[str], **options: Any) -> Any:
        process = real(["sleep", "600"], **options)
        made.append(SimpleNamespace(words=words, env=options["env"], process=process))
        return process

    monkeypatch.setattr(lookout.subprocess, "Popen", start)
    yield made
    for item in made:
        item.process.kill()
        item.process.wait()


def test_one_a_day(started: list[Any], tmp_path: Path) -> None:
    """Not at once, then daily, never two, with our configuration where there is one; a clock set back does not stop it."""
    config = tmp_path / "config.toml"
    look = Lookout(config, {"HOME": "/x"}, 1000.0)
    look.tick(1000.0)
    look.tick(1800.0)
    assert started == []
    look.tick(1900.0)
    look.tick(1901.0)
    assert len(started) == 1
    assert started[0].words[1:] == ["-m", "survived.ctl.main", "hogs", "--keep"]
    assert started[0].env == {"HOME": "/x"}
    started[0].process.kill()
    started[0].process.wait()
    look.tick(2000.0)
    look.tick(1900.0 + DAY - 1)
    assert len(started) == 1
    config.touch()
    look.tick(1900.0 + DAY)
    assert started[1].words[-2:] == ["--config", str(config)]
    look.close()
    assert started[1].process.poll() is not None
    look.tick(5.0)
    assert len(started) == 3


def test_a_look_that_hangs_is_ended(started: list[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After some hours, with a word in the log, and the next day there is another."""
    look = Lookout(tmp_path / "none", {}, 0.0)
    look.tick(900.0)
    look.tick(900.0 + 4 * 3600)
    assert started[0].process.poll() is None
    with caplog.at_level(logging.WARNING):
        look.tick(901.0 + 4 * 3600)
    assert started[0].process.wait(5) == -9
    assert "more than 4 h" in caplog.text
    look.tick(902.0 + 4 * 3600)
    look.tick(900.0 + DAY)
    assert len(started) == 2


def test_a_python_that_is_gone_is_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An upgrade may have taken it away; the loop goes on."""
    monkeypatch.setattr(lookout.sys, "executable", "/nonexistent/python")
    look = Lookout(tmp_path / "none", {}, 0.0)
    look.tick(900.0)
    look.tick(901.0)
    look.close()


def test_the_daemon_keeps_what_was_found(tmp_path: Path) -> None:
    """It is the store's one writer; without a store it says that nothing is kept."""
    database = Database(str(tmp_path / "state.db"), hogs.SCHEMA)
    opened: dict[str, Any] = {}
    requests = Requests(SimpleNamespace(machine=SimpleNamespace(open=opened)))  # type: ignore[arg-type]
    assert requests.handle("keep_hogs", {"sizes": {"/x": 5}, "smallest": 3}) == {"kept": False}
    opened["store"] = SimpleNamespace(database=database)
    assert requests.handle("keep_hogs", {"sizes": {"/x": 5}, "smallest": 3}) == {"kept": True}
    assert requests.handle("keep_hogs", {"sizes": {"/x": 6}, "smallest": 3}) == {"kept": False}  # of the same hour
    assert database.execute("SELECT path, size_bytes FROM hogs") == [(b"/x", 5)]
    database.close()
