"""What the tests with real tools share."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest


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
