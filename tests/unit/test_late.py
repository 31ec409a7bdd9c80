"""What is imported late: not there until it is used, then the module itself, for everybody."""

from __future__ import annotations

import subprocess
import sys

import pytest

from survived.settings import late


def test_a_module_is_loaded_at_its_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """The importer's name works like the module; other importers get the module, never the stand-in."""
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with late.first_used("colorsys"):
        import colorsys as bound
    assert "colorsys" not in sys.modules
    assert bound.rgb_to_hsv(1.0, 0.0, 0.0) == (0.0, 1.0, 1.0)
    assert sys.modules["colorsys"].rgb_to_hsv is bound.rgb_to_hsv
    with pytest.raises(AttributeError):
        _ = bound.no_such_name


def test_a_module_that_is_there_stays_itself() -> None:
    """What somebody loaded before is what the block sees."""
    with late.first_used("subprocess"):
        import subprocess as bound
    assert bound is sys.modules["subprocess"] is subprocess


def test_the_daemon_carries_no_asyncio() -> None:
    """Neither the daemon nor its settings load asyncio, nor what comes with it."""
    script = "import sys, survived.daemon, survived.settings.config; print([m for m in ('asyncio', 'ssl') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
