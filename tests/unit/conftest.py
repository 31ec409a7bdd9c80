"""What several tests of the engine begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

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
