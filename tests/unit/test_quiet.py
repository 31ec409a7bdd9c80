"""A quiet day is a quiet log: a real daemon on a disk that has room, with a clock that runs faster."""

from __future__ import annotations

import logging
import os
import select
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from survived.daemon import Daemon
from survived.machine import Machine
from survived.settings.config import load_settings
from survived.settings.paths import resolve_paths

if TYPE_CHECKING:
    from collections.abc import Iterator

TICKS, STEP_SECONDS = 1000, 60.0


@pytest.fixture
def data_disk() -> Iterator[Path]:
    """Yield a folder on another filesystem than the home's."""
    if not os.access("/dev/shm", os.W_OK) or os.stat("/dev/shm").st_dev == os.stat(tempfile.gettempdir()).st_dev:
        pytest.skip("needs /dev/shm to be another filesystem than the temporary directory's")
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


def _settle(daemon: Daemon) -> None:
    """Let the worker end what it began."""
    while not daemon.worker.is_idle:
        select.select([daemon.worker.fileno()], [], [], 10)
        daemon.worker.collect()


@pytest.mark.timeout(300)
def test_a_thousand_ticks_on_a_quiet_disk_log_nothing(
    environment: dict[str, str], home: Path, data_disk: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """16 hours of ticks, with caches that are measured, a store that is open and links that are guarded: not one line."""
    (home / ".cache/pip").mkdir(parents=True)
    (home / ".cache/pip/wheel").write_bytes(bytes(3 << 20))
    config = home / "config.toml"
    config.write_text(
        f'[watch]\nfilesystems = ["{home}"]\nhigh = "99.8%"\nlow = "99.7%"\nflood = "99.9%"\nmax_watches = 0\n'
        f'[data]\ndisks = ["{data_disk}"]\n'
    )
    machine = Machine(
        load_settings(config, environment, str(home)), resolve_paths(environment, str(home), os.getuid()),
        environment, str(home), os.getuid(),
    )  # fmt: skip
    daemon = Daemon(machine, lambda: machine.settings, environment)
    monkeypatch.setattr(daemon._lookout, "tick", lambda _: None)  # it starts a process once a day
    real, real_monotonic, ahead = time.time, time.monotonic, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + ahead[0])
    monkeypatch.setattr(time, "monotonic", lambda: real_monotonic() + ahead[0])
    try:
        daemon.tick()
        _settle(daemon)
        with caplog.at_level(logging.INFO):
            caplog.clear()
            for _ in range(TICKS):
                ahead[0] += STEP_SECONDS
                daemon.tick()
                _settle(daemon)
        assert [record.getMessage() for record in caplog.records] == []
        assert daemon.observation is not None
        assert daemon.observation.time > real() + TICKS * STEP_SECONDS / 2  # it did measure all the time
        assert machine.open
        assert daemon.troubles.texts() == ()
    finally:
        daemon._end()
        daemon.signals._ours.close()
        daemon.signals._theirs.close()
        daemon.selector.close()
