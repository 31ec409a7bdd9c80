"""In root mode the system's paths and other users' homes are theirs, unless a catalogue names them."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from survived.act import survey
from survived.errors import Refused
from survived.model import Reason

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("path", ["/var/log", "/var/log/apt", "/var/spool/mail", "/var/cache/apt", "/var/lib/x"])
def test_what_is_the_systems(path: str) -> None:
    """Nothing below /var is moved because somebody types its name as root; /var/tmp is for everybody."""
    with pytest.raises(Refused) as told:
        survey.check_for_root(path, home="/root")
    assert told.value.reason is Reason.SYSTEM
    assert told.value.hint is not None
    assert "[caches.NAME]" in told.value.hint
    survey.check_for_root("/var/tmp/mine", home="/root")


@pytest.fixture
def alice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the home of a user of this machine."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    home = tmp_path / "alice"
    (home / "data/deep").mkdir(parents=True)
    os.chown(home, 12345, 12345)
    real: Callable[[int], pwd.struct_passwd] = pwd.getpwuid
    entry = pwd.struct_passwd(("alice", "x", 12345, 12345, "", str(home), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: entry if uid == 12345 else real(uid))
    return home


def test_what_is_another_users(alice: Path, tmp_path: Path) -> None:
    """A home, and whatever lies in it, is that user's to move, whoever owns it there; what lies beside it is not refused."""
    for path in (alice, alice / "data", alice / "data/deep"):
        with pytest.raises(Refused) as told:
            survey.check_for_root(str(path), home="/root")
        assert told.value.reason is Reason.NOT_OURS
        assert "the home of alice" in told.value.message
    (tmp_path / "shared").mkdir()
    survey.check_for_root(str(tmp_path / "shared"), home="/root")
    survey.check_for_root(str(alice / "data"), home=str(alice))
