"""What the tests with real tools share."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.bench import Shelf
from tests.rig.receivers import Receivers, receivers


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bin folder of an environment with the newest uv, huggingface_hub and filelock; skip without a registry."""
    folder = tmp_path_factory.mktemp("tools")
    venv.create(folder, symlinks=True)
    pip = (sys.executable, "-m", "pip", "--no-cache-dir", "--python", str(folder / "bin/python"))
    done = subprocess.run([*pip, "install", "-q", "uv", "huggingface_hub", "filelock"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"uv, huggingface_hub and filelock cannot be installed: {done.stderr.strip()[-300:]}")
    return folder / "bin"


@pytest.fixture(scope="session")
def shelf(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Return what installs tools of the registries once in a run, however many workers share it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shelf"
    folder.mkdir(exist_ok=True)
    return Shelf(folder, tools / "uv")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receivers]:
    """Run the receivers once for the file."""
    with receivers(tmp_path_factory.mktemp("receivers")) as running:
        yield running


@pytest.fixture
def rig(servers: Receivers) -> Receivers:
    """Return the receivers as new: both work, and nothing was received."""
    servers.mode(http="ok", smtp="ok")
    servers.clear()
    return servers
