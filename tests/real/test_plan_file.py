"""A plan that a person has looked at is applied unchanged, or refused because the world has moved on."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.rig.world import World
from tests.unit.engine import snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.rig.disks import Disks

pytestmark = pytest.mark.real


@pytest.fixture
def world(make_disks: Callable[..., Disks], tmp_path: Path) -> Iterator[World]:
    """Return a world without a daemon, two caches of which fill the small disk to 70 %."""
    with ExitStack() as stack:
        disks = make_disks(small="100M", data="200M")
        world = stack.enter_context(World(disks.small, (disks.data,), tmp_path / "run"))
        world.configure(move={"settle": "0s"})
        world.fill(world.cache / "pip", 20)
        world.fill(world.home / ".npm", 15)
        disks.small.fill_bytes(0.70)
        yield world


def test_a_plan_is_applied_as_it_was_printed(world: World, tmp_path: Path) -> None:
    """What plan --json printed is what moves, from a file or from stdin; a second time it is refused as stale."""
    file = tmp_path / "plan.json"
    file.write_text(world.must("plan", "--json").out)
    wanted = [item["path"] for item in json.loads(file.read_text())["moves"]]
    assert wanted
    before = {path: snapshot(path) for path in wanted}
    said = world.must("relocate", "--plan", str(file), "--json").json
    assert [item["path"] for item in said["results"]] == wanted
    assert {path: snapshot(path) for path in wanted} == before
    assert world.leftovers() == []
    again = world.ctl("relocate", "--plan", str(file), "--json")
    assert (again.rc, again.json["error"]["reason"]) == (4, "stale")
    assert "would not be moved any more" in again.json["error"]["message"]


def test_a_world_that_moved_on_is_refused(world: World, tmp_path: Path) -> None:
    """A cache that grew, or one that joins: nothing is moved, and the sentence says what is different."""
    file = tmp_path / "plan.json"
    plan = world.must("plan", "--json").json
    for change, why in ((0.5, "had .* and has"), (1.0, "would be moved, too")):
        moves = [item | {"size_bytes": int(item["size_bytes"] * change)} for item in plan["moves"]]
        file.write_text(json.dumps(plan | {"moves": moves if change < 1 else moves[:-1]}))
        answer = world.ctl("relocate", "--plan", str(file))
        assert answer.rc == 4, answer
        assert re.search(why, answer.err), answer
        assert not (world.cache / "pip").is_symlink()


def test_what_is_no_plan(world: World, tmp_path: Path) -> None:
    """One sentence and exit code 2."""
    file = tmp_path / "plan.json"
    for text in ("", "[]", '{"moves": [1]}', '{"moves": [{"id": "pip"}]}'):
        file.write_text(text)
        answer = world.ctl("relocate", "--plan", str(file))
        assert (answer.rc, "it is no plan" in answer.err) == (2, True), answer
    assert world.ctl("relocate", "--plan", str(tmp_path / "none")).rc == 2
    assert world.ctl("relocate", "pip", "--plan", str(file)).rc == 2
    assert world.ctl("relocate").rc == 2
