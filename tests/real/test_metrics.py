"""A real daemon writes its page, counts what it moved, and says on it that it has ended."""

from __future__ import annotations

import re
import stat
from typing import TYPE_CHECKING

import pytest

from tests.rig.world import World, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.rig.disks import Disks

pytestmark = pytest.mark.real


def test_the_page_follows_the_daemon(make_disks: Callable[..., Disks], tmp_path: Path) -> None:
    """It is there from the first tick, readable by all; a move is counted with what it freed, a refusal as a failure."""
    page = tmp_path / "survived.prom"
    disks = make_disks(small="100M", data="100M")
    with World(disks.small, (disks.data,), tmp_path / "run") as world:
        world.configure(move={"min_size": "1 GiB"}, metrics={"textfile": str(page)})
        world.fill(world.cache / "pip", 5)
        world.start()
        wait_until(page.exists, what=world.log)
        assert stat.S_IMODE(page.stat().st_mode) == 0o644
        assert re.search(r'^survived_up{user="[^"]+"} 1$', page.read_text(), re.MULTILINE)
        world.must("relocate", "pip")
        assert world.ctl("relocate", str(world.home)).rc == 4
        shown = world.must("metrics", "show").out
        assert re.search(r'^survived_relocations_total{user="[^"]+",verb="relocate"} 1$', shown, re.MULTILINE)
        freed = re.search(r"^survived_freed_bytes_total{[^}]+} (\d+)$", shown, re.MULTILINE)
        assert freed is not None
        assert int(freed[1]) >= 5 << 20
        assert re.search(r"^survived_move_failures_total{[^}]+} 1$", shown, re.MULTILINE)
        world.stop()
        assert re.search(r'^survived_up{user="[^"]+"} 0$', page.read_text(), re.MULTILINE)
