"""The guardian's verdicts, what of them is news, and which level of a cache may be a link."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from survived.decide import guardian, notices
from survived.decide import memory as memories
from survived.decide.guardian import ORPHANED, TOLD, ToldLink, is_void, judge, news
from survived.decide.sentences import Voice
from survived.model import LinkReading, LinkState, Relocation, Standing
from survived.settings.catalog import find_rule, resolve_caches, wrong_level
from tests.unit.scene import NOW

ITEM = Relocation("npm", "/home/alice/.npm/_cacache", "/data1/alice/survived/trees/home/alice/.npm/_cacache", NOW, 5 << 20, 7)
WELL = LinkReading(ITEM, Standing.OUR_LINK)
EATEN = replace(WELL, standing=Standing.DIRECTORY)
GONE = replace(WELL, standing=Standing.NOTHING)
ELSEWHERE = replace(WELL, standing=Standing.OTHER_LINK, leads_to="/data2/x")
DANGLING = replace(WELL, tree_is_there=False)
MISSING = replace(WELL, tree_is_there=False, disk_is_there=False)
STANDIN = replace(EATEN, is_standin=True)


@pytest.mark.parametrize(
    ("reading", "state"),
    [
        (WELL, LinkState.OK),
        (EATEN, LinkState.EATEN),
        (GONE, LinkState.GONE),
        (ELSEWHERE, LinkState.ELSEWHERE),
        (replace(WELL, standing=Standing.OTHER), LinkState.ELSEWHERE),
        (DANGLING, LinkState.DANGLING),
        (MISSING, LinkState.DISK_MISSING),
        (replace(EATEN, disk_is_there=False), LinkState.EATEN),
        (STANDIN, LinkState.STANDIN),
        (replace(WELL, is_standin=True), LinkState.OK),
        (replace(MISSING, is_standin=True), LinkState.DISK_MISSING),
        (replace(GONE, is_standin=True), LinkState.GONE),
    ],
)
def test_a_verdict(reading: LinkReading, state: LinkState) -> None:
    """Each way a link may stand has its word."""
    assert judge(reading) is state


def test_link_and_tree_both_gone_is_no_news() -> None:
    """Who removed both knows it; a disk that is away says nothing about its trees."""
    for reading in (EATEN, GONE, ELSEWHERE):
        both = replace(reading, tree_is_there=False)
        assert is_void(both)
        assert news((), [both]) == ((), ())
        assert not is_void(replace(both, disk_is_there=False))
        assert not is_void(reading)
    assert not is_void(DANGLING)
    assert not is_void(WELL)


def told_in_turn(*readings: LinkReading) -> list[int]:
    """Return how many notices each look gives, one after the other."""
    told: tuple[ToldLink, ...] = ()
    counts = []
    for reading in readings:
        told, fresh = news(told, [reading])
        counts.append(len(fresh))
    return counts


@pytest.mark.parametrize("bad", [EATEN, GONE, ELSEWHERE, DANGLING])
def test_each_change_is_told_once(bad: LinkReading) -> None:
    """Told at the first look, not at the next ones, and again only when the link was well meanwhile."""
    assert told_in_turn(WELL, bad, bad, bad, WELL, WELL, bad, bad) == [0, 1, 0, 0, 0, 0, 1, 0]


def test_another_change_is_told_too() -> None:
    """A directory where a link to elsewhere was, and a link to yet another place, are news."""
    elsewhere = replace(ELSEWHERE, leads_to="/data2/y")
    assert told_in_turn(GONE, EATEN, ELSEWHERE, ELSEWHERE, elsewhere, GONE) == [1, 1, 1, 0, 1, 1]


def test_a_missing_disk_is_told_by_itself() -> None:
    """Its links are no news, neither while it is away nor when it comes back as it was."""
    assert told_in_turn(WELL, MISSING, MISSING, WELL, DANGLING, MISSING, DANGLING, WELL) == [0, 0, 0, 0, 1, 0, 0, 0]
    assert told_in_turn(MISSING, STANDIN, STANDIN, WELL) == [0, 0, 0, 0]


def test_what_cannot_be_judged_now_is_not_forgotten() -> None:
    """While a move works with it a link is spared, and is not told a second time afterwards."""
    told, fresh = news((), [EATEN])
    assert len(fresh) == 1
    told, fresh = news(told, [], {ITEM.target})
    assert (len(told), fresh) == (1, ())
    assert news(told, [EATEN])[1] == ()
    assert news(told, [])[0] == ()


@given(st.lists(st.sampled_from([WELL, EATEN, GONE, ELSEWHERE, DANGLING, MISSING, STANDIN]), max_size=12))
def test_never_twice_in_a_row(readings: list[LinkReading]) -> None:
    """Whatever happens, the same state is not told twice without another in between, and what is bad was told."""
    told: tuple[ToldLink, ...] = ()
    last: LinkState | None = None
    for reading in readings:
        told, fresh = news(told, [reading])
        state = judge(reading)
        if fresh:
            assert state in TOLD
            assert state is not last
        if state in TOLD:
            last = state
            assert [item.state for item in told] == [state]
        elif state is not LinkState.DISK_MISSING or last is not LinkState.DANGLING:
            last = None  # our link stands there again


def test_the_notices_say_what_to_do_and_are_remembered() -> None:
    """The commands are exact, also for odd names; a memory that went through JSON says nothing twice."""
    odd = replace(ITEM, source="/home/alice/my cache", target="/data1/alice/survived/trees/home/alice/my cache")
    memory = memories.Memory()
    topics = set()
    for reading in (EATEN, GONE, ELSEWHERE, DANGLING):
        memory, (notice,) = notices.on_links(memory, [replace(reading, item=odd)], NOW, voice=Voice("gpu7"))
        topics.add(notice.topic)
        assert notice.title.startswith("gpu7: ")
        assert f"'{odd.source}'" in notice.body
        assert "may have" in notice.body or "nothing is there any more" in notice.body
        if judge(reading) in ORPHANED:
            assert f"survivectl orphans remove '{odd.target}'" in notice.body
            assert f"survivectl orphans adopt '{odd.source}'" in notice.body
            assert ("survivectl orphans link" in notice.body) == (judge(reading) is not LinkState.ELSEWHERE)
    assert topics == {"eaten", "gone", "elsewhere", "dangling"}
    again = memories.Memory.from_dict(memory.to_dict())
    assert again == memory
    assert notices.on_links(again, [replace(DANGLING, item=odd)], NOW, voice=Voice("gpu7"))[1] == ()
    old = memory.to_dict()
    del old["links"]
    assert memories.Memory.from_dict(old) == replace(memory, links=())


def test_a_disk_that_was_away_when_the_daemon_began() -> None:
    """What the store kept of before does not hide that it was told to be away since, so that its return is told, too."""
    kept = memories.Memory(disks=(memories.Disk("/data1/alice/survived", ok=True), memories.Disk("/data2/alice/survived", ok=True)))
    since = memories.Memory(disks=(memories.Disk("/data1/alice/survived", ok=False),))
    assert {disk.path: disk.ok for disk in memories.recalled(kept, since).disks} == {
        "/data1/alice/survived": False, "/data2/alice/survived": True,
    }  # fmt: skip


def test_a_merge_tells_what_both_had() -> None:
    """Some names are listed, and how many more there are."""
    kept = [f"d/{number}" for number in range(8)]
    _, (notice,) = notices.on_merged(memories.Memory(), "npm", ITEM.source, ITEM.target, kept, NOW, voice=Voice("gpu7"))
    assert "'d/4' and 3 more" in notice.body
    _, (notice,) = notices.on_merged(memories.Memory(), "npm", ITEM.source, ITEM.target, [], NOW, voice=Voice("gpu7"))
    assert notice.body.endswith("Nothing is left to do.")


# ---- levels ---------------------------------------------------------------------------------------------------------

HOME = "/home/alice"


@pytest.mark.parametrize(
    ("path", "right", "breaks"),
    [
        (".npm/_cacache", ".npm", False),
        (".cache/uv/archive-v0", ".cache/uv", True),
        (".cache/huggingface/hub/models--gpt2", ".cache/huggingface/hub", True),
        (".cache/huggingface/hub/datasets--x--y", ".cache/huggingface/hub", True),
        (".conda/envs/torch", ".conda/envs", False),
        (".yarn/berry/cache", ".yarn/berry", False),
        (".cache/yarn/v6", ".cache/yarn", False),
        (".cache/yarn", ".cache/yarn", False),
        ("go/pkg/mod", "go/pkg/mod", False),
        (".local/share/pnpm", ".local/share/pnpm/store", True),
    ],
)
def test_a_wrong_level_is_known(path: str, right: str, breaks: bool) -> None:
    """For each of the tested cases of caches.md the catalogue names the level that its tool bears as a link."""
    level = wrong_level(f"{HOME}/{path}", resolve_caches({}, HOME, {}))
    assert level is not None
    assert (level.cache.path, level.breaks) == (f"{HOME}/{right}", breaks)


@pytest.mark.parametrize(
    "path",
    [
        ".npm", ".cache/uv", ".cache/huggingface/hub", ".cache/huggingface", ".conda/envs", ".yarn/berry", ".cache/pip",
        ".local/share/pnpm/store", "data", ".npm/_cacache/tmp", ".cache/huggingface/hub/blobs", ".cache",
    ],
)  # fmt: skip
def test_a_right_level_is_let_through(path: str) -> None:
    """No warning where none is due."""
    assert wrong_level(f"{HOME}/{path}", resolve_caches({}, HOME, {})) is None


def test_the_level_of_an_entry_is_the_tested_one() -> None:
    """The places at which the matrix of caches.md keeps the link are those of the catalogue."""
    paths = {cache.id: cache.path for cache in resolve_caches({}, HOME, {})}
    tested = {
        "npm": ".npm", "uv-cache": ".cache/uv", "uv-tools": ".local/share/uv/tools", "hf-hub": ".cache/huggingface/hub",
        "pnpm-store": ".local/share/pnpm/store", "yarn-berry": ".yarn/berry", "conda-envs": ".conda/envs",
        "bun": ".bun/install/cache", "go-build": ".cache/go-build", "ccache": ".cache/ccache", "pip": ".cache/pip",
    }  # fmt: skip
    assert {name: paths[name].removeprefix(f"{HOME}/") for name in tested} == tested
    for name, path in itertools.product(tested, paths.values()):
        assert path == paths[name] or wrong_level(path, []) is None
    eaters = [rule for name in paths if (rule := find_rule(name)) is not None and rule.keeps_link is False]
    assert eaters
    assert all(rule.report_only for rule in eaters)  # never moved by the daemon itself
    assert guardian.TOLD > ORPHANED
