"""What every verb prints with --json, done for real with a daemon, fits the schema that scripts may rely on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rig.disks import Disks, mounted
from tests.rig.schema import check
from tests.rig.world import World

pytestmark = pytest.mark.real

WORDS = (
    "status --short", "plan", "plan --explain pip", "measure pip", "hogs {home}", "relocate pip", "status", "list", "history",
    "verify --content", "orphans", "standin --all", "check", "doctor", "rehome pip --to {disk}", "recover", "pause 1h", "resume",
    "reload", "restore pip", "metrics show", "install --dry-run --yes", "uninstall --dry-run", "completion ids", "man",
)  # fmt: skip


@pytest.mark.timeout(300)
def test_every_answer_fits_its_schema(make_disks: Callable[..., Disks], tmp_path: Path) -> None:
    """A cache is measured, moved, moved on and brought home, and all the rest is asked meanwhile; none of it fails."""
    disks = make_disks(small="80M", data="80M")
    with mounted(tmp_path, "data2", "80M") as more, World(disks.small, (disks.data, more), tmp_path / "run") as world:
        world.configure(move={"min_size": "1 GiB"})
        world.fill(world.cache / "pip", 3)
        world.start()
        (moved,) = [disk for disk in world.disks if str(disk).startswith(str(more.path))]
        for words in WORDS:
            to = moved
            if words.startswith("rehome"):
                to = next(disk for disk in world.disks if str(disk) not in str((world.cache / "pip").readlink()))
            said = world.ctl(*words.format(home=world.home, disk=to).split(), "--json")
            assert "error" not in said.json, f"{words}: {said}"
            assert said.rc in (0, 1, 5), f"{words}: {said}"
            check(words.split()[0], said.json)
