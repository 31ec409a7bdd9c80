"""What several tests of the engine begin with."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from survived.act import fs, passes, recover, transfer
from tests.unit.engine import Rig, build, nasty_tree, other_filesystem
from tests.unit.pairs import Pair

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Yield a rig with a nasty little source."""
    with build(tmp_path) as made:
        nasty_tree(made.source)
        yield made


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Yield an empty source and an empty copy elsewhere."""
    with other_filesystem(tmp_path) as folder:
        made = Pair(tmp_path / "source", folder / "copy")
        made.source.mkdir()
        made.copy.mkdir(mode=0o700)
        yield made
        made.close()


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """
    Yield a closed rig; each death gets a source of its own in it.

    Syncs and looking for holders take nearly all the time and are not what this is about: dying does not lose what the
    kernel has. They are counted like all calls.
    """
    with monkeypatch.context() as patch:
        patch.setattr(transfer, "find_holders", lambda paths, **_: dict.fromkeys(paths, ()))
        patch.setattr(recover, "holders_of", lambda _: ())
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(fs, "sync_filesystem", lambda _: None)
        for module in (passes, transfer):
            patch.setattr(module, "TICK_NS", 0)
        with build(tmp_path) as rig:
            rig.close()
            yield rig
