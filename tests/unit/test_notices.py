"""Changes of state are told once, in plain text with the next command; everything else is silence."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from survived.decide.evidence import Evidence, Growth, cache_sizes, growth, with_growth
from survived.decide.memory import Memory, measured
from survived.decide.notices import on_failed, on_links, on_moved, on_observation, on_trouble
from survived.decide.policy import plan
from survived.decide.sentences import PARTS, Voice
from survived.findings import DeletedOpen, Grower
from survived.model import (
    CacheReading,
    CacheState,
    Holder,
    Kind,
    Level,
    LinkReading,
    Notice,
    Observation,
    Operation,
    Plan,
    Pressure,
    Relocation,
    Stage,
    Standing,
    Verb,
)
from tests.unit.scene import GIB, NOW, RULES, filesystem, reading, scene, store

ALPHA = Voice("alpha")
N, H, F = Pressure.NORMAL, Pressure.HIGH, Pressure.FLOOD
TORCH = reading("torch", 20 * GIB)
BUSY = reading("torch", 20 * GIB, holders=(Holder(4711, "python", "/x"),))
ENVS = reading("conda-envs", 42 * GIB, kind=Kind.ENVIRONMENT)


class Teller:
    """A daemon that observes: keeps the memory, as JSON between two looks, and the notices."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.now = NOW

    def see(
        self,
        usage: float,
        pressure: Pressure,
        *caches: CacheReading,
        wait: float = 10.0,
        machine: Observation | None = None,
        result: Plan | None = None,
        paused: bool = False,
        **options: Any,
    ) -> list[Notice]:
        """Look once, `wait` seconds after the last time, and return what is told."""
        self.now += wait
        seen = machine or scene(*(caches or (TORCH,)), fs=filesystem(usage))
        pressures = {"/": pressure}
        todo = result or plan(seen, pressures, RULES, paused=paused)
        self.memory, notices = on_observation(
            Memory.from_dict(json.loads(json.dumps(self.memory.to_dict()))),
            seen,
            pressures,
            todo,
            self.now,
            rules=RULES,
            voice=ALPHA,
            **options,
        )
        return list(notices)

    def topics(self, *args: Any, **options: Any) -> list[tuple[str, Level]]:
        """Look once and return kind and loudness only."""
        return [(notice.topic, notice.level) for notice in self.see(*args, **options)]


@pytest.fixture
def teller() -> Teller:
    """Return a daemon that has told nothing yet."""
    return Teller()


def test_a_quiet_day_is_silent(teller: Teller) -> None:
    """A thousand looks without pressure tell nothing."""
    assert [teller.see(0.5 + i / 5000, N) for i in range(1000)] == [[]] * 1000


def test_an_episode_is_told_by_its_changes(teller: Teller) -> None:
    """Begin, flood and recovery are one notice each, however often one looks and however the flood flaps."""
    script = [(0.91, H), (0.93, H), (0.98, F), (0.96, H), (0.98, F), (0.85, H), (0.79, N), (0.7, N)]
    told = [teller.topics(usage, pressure, wait=60) for usage, pressure in script]

    begin, flood, end = ("pressure", Level.WARNING), ("flood", Level.FAILURE), ("recovered", Level.SUCCESS)
    assert told == [[begin], [], [flood], [], [], [], [end], []]
    assert teller.topics(0.92, H) == [begin]


def test_the_first_notice_says_what_is_done(teller: Teller) -> None:
    """Pressure comes with the numbers, who grew, what moves where, and how to hold or undo it."""
    (notice,) = teller.see(0.93, H)

    assert notice.title == "alpha: / is at 93 %"
    assert notice.body.splitlines() == [
        "/ is at 93 % (high is 90 %): 7.00 GiB of 100 GiB are available.",
        "Moving to '/data1/alice/survived', until 80 %: torch (20.0 GiB).",
        "Nothing is left for you to do. To hold it: survivectl pause 1h",
        "To undo it afterwards: survivectl restore torch",
    ]


def test_flood_is_louder(teller: Teller) -> None:
    """A first look at a flooded disk is one failure notice that names the flood mark."""
    (notice,) = teller.see(0.98, F)

    assert (notice.title, notice.level) == ("alpha: FLOOD: / is at 98 %", Level.FAILURE)
    assert notice.body.startswith("/ is at 98 % (flood is 97 %): 2.00 GiB")


def test_recovery_tells_the_whole_story(teller: Teller) -> None:
    """How long, from what, to what, and how bad it was between."""
    teller.see(0.91, H)
    teller.see(0.96, H, wait=3600)
    (notice,) = teller.see(0.79, N, wait=3900)

    assert notice.title == "alpha: / has recovered, 79 %"
    assert notice.body.splitlines()[:2] == [
        "The pressure on / lasted 2 h 5 min.",
        "It went from 91 % to 79 % (at most 96 %).",
    ]


def test_inodes_are_called_inodes(teller: Teller) -> None:
    """When inodes are short, every sentence is about them."""
    short = filesystem(0.3, inodes_used=950_000, inodes_available=50_000)
    npm = reading("npm", files=10, cache={"move": False})
    begin, stuck = teller.see(0.3, H, machine=scene(npm, fs=short))
    (end,) = teller.see(0.3, N, machine=scene(npm, fs=filesystem(0.3)))

    assert begin.title == "alpha: / has 95 % of its inodes in use"
    assert "50,000 inodes are available" in begin.body
    assert "150,000 inodes must go to reach 80 %" in stuck.body
    assert "It went from 95 % of its inodes to 10 %." in end.body


def test_stuck_lists_the_biggest_with_reasons_and_remedies(teller: Teller) -> None:
    """When nothing can be moved for lasting reasons, that is told at once: five caches, why, and commands."""
    small = [reading(f"s{i}", (i + 1) * 1024**2, cache={"clean_command": f"clean {i}"}) for i in range(6)]
    begin, stuck = teller.see(0.95, H, ENVS, *small)

    assert begin.body.endswith("Nothing can be moved at the moment.\nTo see why: survivectl plan")
    assert (stuck.topic, stuck.level) == ("stuck", Level.WARNING)
    assert stuck.title == "alpha: / is at 95 %, nothing can be moved"
    lines = stuck.body.splitlines()
    assert lines[0] == "/ is at 95 % (high is 90 %), 15.0 GiB must go to reach 80 %, and nothing can be moved."
    assert lines[2].startswith("- conda-envs, 42.0 GiB: environments are moved only when you say so")
    assert [line.split(",")[0] for line in lines[3:7]] == ["- s5", "- s4", "- s3", "- s2"]
    assert lines[7:] == [
        "What helps:",
        "- Move it yourself: survivectl relocate conda-envs",
        "- Empty s5: clean 5",
        "- Empty s4: clean 4",
        "- See what else is big: survivectl hogs",
    ]


def test_stuck_is_told_again_only_when_it_is_worse(teller: Teller) -> None:
    """Standing at 95 % for days is one notice; a whole point more is another, that says what it was and for how long."""
    assert teller.topics(0.95, H, ENVS)[1:] == [("stuck", Level.WARNING)]
    assert [teller.topics(0.954, H, ENVS, wait=3600) for _ in range(48)] == [[]] * 48
    (worse,) = teller.see(0.96, H, ENVS)
    assert (worse.topic, worse.level, worse.title) == ("worse", Level.WARNING, "alpha: / is at 96 %, worse than 95 %")
    assert worse.body.startswith(
        "/ is at 96 % (high is 90 %): 4.00 GiB of 100 GiB are available. It was at 95 % when that was told last, 2 d ago."
    )
    assert "- conda-envs, 42.0 GiB: " in worse.body
    assert teller.topics(0.95, H, ENVS) == []
    assert teller.topics(0.969, H, ENVS) == []
    assert teller.topics(0.97, H, ENVS) == [("worse", Level.WARNING)]


def test_passing_reasons_get_ten_minutes(teller: Teller) -> None:
    """A busy cache is given time; after ten minutes without any move it is told who holds it."""
    assert teller.topics(0.93, H, BUSY) == [("pressure", Level.WARNING)]
    assert teller.topics(0.93, H, BUSY, wait=590) == []
    (stuck,) = teller.see(0.93, H, BUSY, wait=11)
    assert "python (pid 4711) has files open" in stuck.body
    assert "End the programs" in stuck.body


def test_a_move_in_between_starts_the_ten_minutes_anew(teller: Teller) -> None:
    """Only time without any possible move counts towards being stuck."""
    teller.see(0.95, H, BUSY)
    teller.see(0.95, H, TORCH, wait=590)
    assert teller.topics(0.93, H, BUSY, wait=30) == []
    assert teller.topics(0.93, H, BUSY, wait=590) == []
    assert teller.topics(0.93, H, BUSY, wait=11) == [("stuck", Level.WARNING)]


@pytest.mark.parametrize("state", ["paused", "moving", "at low"])
def test_what_is_not_stuck_is_not_told(teller: Teller, state: str) -> None:
    """A pause, a running move and a usage that is at low already are no reason to call for help."""
    caches = (ENVS, reading("pip", state=CacheState.MOVING)) if state == "moving" else (TORCH,)
    usage = 0.79 if state == "at low" else 0.95

    told = [teller.topics(usage, H, *caches, paused=state == "paused", wait=700) for _ in range(5)]
    assert told == [[("pressure", Level.WARNING)], [], [], [], []]


def test_a_pause_is_named(teller: Teller) -> None:
    """Pressure during a pause says how to end it."""
    (notice,) = teller.see(0.95, H, paused=True)

    assert notice.body.endswith("Nothing is moved, because moving is paused.\nTo go on: survivectl resume")


def test_a_restarted_daemon_repeats_nothing() -> None:
    """With its memory kept, a new daemon in the middle of an episode is silent; a garbled memory only tells once more."""
    first = Teller()
    first.see(0.95, H, ENVS, machine=scene(ENVS, fs=filesystem(0.95), stores=(store(ok=False, reason="gone"),)))
    second = Teller()
    second.memory = Memory.from_dict(json.loads(json.dumps(first.memory.to_dict())))

    assert second.memory == first.memory
    assert second.see(0.95, H, machine=scene(ENVS, fs=filesystem(0.95), stores=(store(ok=False, reason="gone"),))) == []
    garbled: tuple[object, ...] = (None, [], {}, {"episodes": [{"x": 1}]}, {"episodes": [], "disks": 3, "failures": []})
    for garbage in garbled:
        assert Memory.from_dict(garbage) == Memory()


def test_a_data_disk_vanishes_and_comes_back_once(teller: Teller) -> None:
    """The loss is a failure that names the reason and who lives there; the return is mere information."""
    home = reading("pip", state=CacheState.DANGLING, device_id=None, target="/data1/alice/survived/trees/home/pip")
    fs = filesystem(0.5)
    good, bad = scene(home, fs=fs), scene(home, fs=fs, stores=(store(ok=False, reason="it is not mounted"),))

    assert teller.see(0.5, N, machine=good) == []
    (gone,) = teller.see(0.5, N, machine=bad)
    assert (gone.title, gone.level) == ("alpha: data disk /data1/alice has vanished", Level.FAILURE)
    assert gone.body.splitlines() == [
        "'/data1/alice/survived' cannot be used: it is not mounted.",
        "These live there and cannot be opened until it is back: pip.",
        "Nothing is written to it meanwhile.",
        "Where a tool fails on that (uv, npm, go, cargo do), an empty directory until then: survivectl standin ID",
        "Mount it again, then: survivectl check",
        "To take such a directory away again: survivectl standin ID --undo",
    ]
    assert teller.see(0.5, N, machine=bad) == []
    (back,) = teller.see(0.5, N, machine=good)
    assert (back.title, back.level) == ("alpha: data disk /data1/alice is back", Level.INFO)
    assert teller.see(0.5, N, machine=good) == []


def test_a_data_disk_that_is_no_longer_found(teller: Teller) -> None:
    """A store that drops out of the list is lost if something lives there, and forgotten if nothing does."""
    fs = filesystem(0.5)
    pip = reading("pip", state=CacheState.RELOCATED, target="/data1/alice/survived/trees/pip")
    teller.see(0.5, N, machine=scene(pip, fs=fs, stores=(store(), store("data2"))))

    (gone,) = teller.see(0.5, N, machine=scene(pip, fs=fs, stores=()))
    assert gone.title == "alpha: data disk /data1/alice has vanished"
    assert teller.see(0.5, N, machine=scene(pip, fs=fs, stores=())) == []


def test_a_data_disk_that_fills_is_told_with_hysteresis(teller: Teller) -> None:
    """The warning comes at the keep-free mark, once, and again only after two points less."""
    told = []
    for usage in (0.94, 0.95, 0.96, 0.94, 0.95, 0.92, 0.951):
        disk = store(used=round(usage * 1000 * GIB), available=1000 * GIB - round(usage * 1000 * GIB))
        told.append(teller.see(0.5, N, machine=scene(TORCH, fs=filesystem(0.5), stores=(disk,))))

    assert [len(notices) for notices in told] == [0, 1, 0, 0, 0, 0, 1]
    assert told[1][0].title == "alpha: data disk /data1/alice is at 95 %"
    assert "50.0 GiB available; [data] keep_free allows 95 % used." in told[1][0].body


OPERATION = Operation(
    7, Verb.RELOCATE, "pip", "/home/alice/.cache/pip", "/data1/alice/survived/trees/home/alice/.cache/pip", Stage.DONE,
    NOW, NOW, 2 * GIB, 3412, GIB,
)  # fmt: skip


def test_a_relocation_says_what_where_and_how_to_undo() -> None:
    """What moved, how much it freed, where it lives, usage before and after, and the command that brings it back."""
    _, (notice,) = on_moved(Memory(), OPERATION, filesystem(0.93), filesystem(0.92), NOW, voice=ALPHA)

    assert (notice.topic, notice.level) == ("relocated", Level.SUCCESS)
    assert notice.title == "alpha: pip relocated, 1.00 GiB freed"
    assert notice.body.splitlines() == [
        "/ went from 93 % to 92 %, 8.00 GiB are available.",
        "'/home/alice/.cache/pip' (2.00 GiB, 3,412 files) lives at "
        "'/data1/alice/survived/trees/home/alice/.cache/pip' now, behind a link. Its path stays the same.",
        "That freed 1.00 GiB.",
        "Nothing is left to do.",
        "To undo it: survivectl restore pip",
    ]


def test_a_restore_says_the_way_back() -> None:
    """A restore names the other command, and a path that is no known cache is quoted for the shell."""
    operation = replace(OPERATION, verb=Verb.RESTORE, cache_id="", source="/home/alice/my cache")
    _, (notice,) = on_moved(Memory(), operation, None, None, NOW, voice=ALPHA)

    assert notice.topic == "restored"
    assert notice.body.endswith("To undo it: survivectl relocate '/home/alice/my cache'")
    assert on_moved(Memory(), replace(OPERATION, stage=Stage.UNDONE), None, None, NOW, voice=ALPHA) == (Memory(), ())


def fail(memory: Memory, error: str, now: float = NOW, source: str = "/s") -> tuple[Memory, int]:
    """Return the memory after one failure, and how many notices it made."""
    memory, notices = on_failed(memory, "pip", source, error, now, voice=ALPHA)
    return memory, len(notices)


def test_each_failure_is_told_once_an_episode(teller: Teller) -> None:
    """The same error of the same source is silent, also with another pid, until recovery, success or the next day."""
    teller.see(0.95, H)
    memory, count = fail(teller.memory, "python (pid 1) holds it")
    assert count == 1
    assert fail(memory, "python (pid 22) holds it")[1] == 0
    assert fail(memory, "No space left")[1] == 1
    assert fail(memory, "python (pid 1) holds it", source="/t")[1] == 1
    assert fail(memory, "python (pid 1) holds it", NOW + 86401)[1] == 1
    moved, _ = on_moved(memory, replace(OPERATION, source="/s"), None, None, NOW, voice=ALPHA)
    assert fail(moved, "python (pid 1) holds it")[1] == 1
    teller.memory = memory
    teller.see(0.94, H)
    assert fail(teller.memory, "python (pid 1) holds it")[1] == 0
    teller.see(0.7, N)
    assert fail(teller.memory, "python (pid 1) holds it")[1] == 1


def test_a_failure_says_how_to_try_again() -> None:
    """The error comes first, the command last."""
    _, (notice,) = on_failed(Memory(), "pip", "/s", "Cannot copy '/s': No space left. It is as it was.", NOW, voice=Voice("a"))

    assert (notice.title, notice.level) == ("a: pip was not relocated", Level.FAILURE)
    assert notice.body.splitlines() == [
        "Cannot copy '/s': No space left. It is as it was.",
        "This is about '/s'. To see how it stands: survivectl status",
        "To try again: survivectl relocate pip",
    ]
    _, (back,) = on_failed(Memory(), "pip", "/s", "No space left.", NOW, voice=Voice("a"), verb=Verb.RESTORE)
    assert (back.title, back.body.splitlines()[-1]) == ("a: pip was not restored", "To try again: survivectl restore pip")


@given(st.text() | st.just("x" * 200) | st.just("caf\udce9\nBcc: eve"), st.text(max_size=80))
def test_texts_can_always_be_sent(name: str, host: str) -> None:
    """Whatever names hold, titles are one line of 70 characters at most and everything is valid UTF-8."""
    operation = replace(OPERATION, cache_id=name, source=f"/home/{name}")
    made = [
        *on_moved(Memory(), operation, filesystem(), filesystem(), NOW, voice=Voice(host))[1],
        *on_failed(Memory(), name, f"/home/{name}", name, NOW, voice=Voice(host))[1],
    ]
    assert len(made) == 2
    for notice in made:
        assert len(notice.title) <= 70
        assert "\n" not in notice.title
        assert len(notice.body.splitlines()) <= 5
        (notice.title + notice.body).encode()


def test_what_both_sides_changed_is_told() -> None:
    """A note of the move, such as files of which both versions were kept, is in the notice in the place of "nothing is left"."""
    operation = replace(OPERATION, note="Changed on both sides, both kept (the older as *.survived-late): a/b")
    _, (notice,) = on_moved(Memory(), operation, None, None, NOW, voice=ALPHA)
    assert "Changed on both sides" in notice.body
    assert "Nothing is left to do" not in notice.body


# ---- what lasts ---------------------------------------------------------------------------------------------------------


def test_worsening_is_told_while_nothing_helps_only(teller: Teller) -> None:
    """A point more is news while a busy cache is waited for and during a pause, and none while something moves."""
    assert teller.topics(0.91, H, BUSY) == [("pressure", Level.WARNING)]
    assert teller.topics(0.919, H, BUSY) == []
    assert teller.topics(0.92, H, BUSY) == [("worse", Level.WARNING)]
    (paused,) = teller.see(0.93, H, TORCH, paused=True)
    assert (paused.topic, paused.body.splitlines()[-1]) == ("worse", "To go on: survivectl resume")
    assert teller.topics(0.95, H, TORCH) == []
    moving = reading("torch", 20 * GIB, state=CacheState.MOVING)
    assert teller.topics(0.96, H, moving) == []


def test_pressure_is_told_again_after_a_while(teller: Teller) -> None:
    """With a repeat of a day a disk that stays as it is makes a notice a day, which says for how long; 0 is never."""
    teller.see(0.95, H, ENVS, repeat_seconds=86400.0)
    told = [teller.topics(0.95, H, ENVS, wait=3600, repeat_seconds=86400.0) for _ in range(72)]
    assert [at for at, topics in enumerate(told, 1) if topics] == [24, 48, 72]
    assert told[23] == [("still", Level.WARNING)]
    (still,) = teller.see(0.95, H, ENVS, wait=86400, repeat_seconds=86400.0)
    assert still.title == "alpha: / is at 95 %, still, for 4 d"
    assert "It has been above the marks for 4 d." in still.body
    assert "- conda-envs, 42.0 GiB: " in still.body
    assert teller.topics(0.95, H, ENVS, wait=10 * 86400, repeat_seconds=0.0) == []


def test_a_disk_that_stays_away_is_told_again(teller: Teller) -> None:
    """A data disk that is gone, or no longer found, is a reminder after the repeat, until it is back."""
    home = reading("pip", state=CacheState.DANGLING, device_id=None, target="/data1/alice/survived/trees/home/pip")
    fs = filesystem(0.5)
    away = {
        "gone": scene(home, fs=fs, stores=(store(ok=False, reason="it is not mounted"),)),
        "lost": scene(home, fs=fs, stores=()),
    }
    teller.see(0.5, N, machine=scene(home, fs=fs))
    for machine in away.values():
        teller.see(0.5, N, machine=machine, repeat_seconds=3600.0)
        assert teller.see(0.5, N, machine=machine, wait=3000, repeat_seconds=3600.0) == []
        (again,) = teller.see(0.5, N, machine=machine, wait=3600, repeat_seconds=3600.0)
        assert "is still away, for " in again.title
        assert again.level is Level.FAILURE
    assert teller.see(0.5, N, machine=away["lost"], wait=9999) == []


def test_a_broken_link_is_told_again() -> None:
    """With its repeat over, and not before, the same state of a link is told once more."""
    item = Relocation("npm", "/h/.npm", "/d/npm", NOW, 5, 7)
    eaten = [LinkReading(item, Standing.DIRECTORY)]
    memory, first = on_links(Memory(), eaten, NOW, voice=ALPHA, repeat_seconds=60.0)
    memory, second = on_links(memory, eaten, NOW + 59, voice=ALPHA, repeat_seconds=60.0)
    memory, third = on_links(memory, eaten, NOW + 60, voice=ALPHA, repeat_seconds=60.0)
    assert [notice.title for notice in (*first, *second, *third)] == [
        "alpha: link replaced by a directory: npm", "alpha: still: link replaced by a directory: npm",
    ]  # fmt: skip
    assert on_links(memory, eaten, NOW + 9999, voice=ALPHA)[1] == ()


def test_recovery_says_what_was_moved(teller: Teller) -> None:
    """What was relocated during the pressure, what that freed, and the command that undoes all of it."""
    teller.see(0.93, H)
    for name in ("pip", "my cache"):
        teller.memory, _ = on_moved(
            teller.memory, replace(OPERATION, cache_id=name), filesystem(0.93), filesystem(0.92), NOW, voice=ALPHA
        )
    other = filesystem(0.5, mount="/other", device_id=9)
    teller.memory, _ = on_moved(teller.memory, replace(OPERATION, cache_id="else"), other, other, NOW, voice=ALPHA)
    (end,) = teller.see(0.7, N)
    assert "Moved meanwhile: pip, my cache. That freed 2.00 GiB." in end.body
    assert end.body.endswith("To undo it: survivectl restore pip 'my cache'")


# ---- what explains it ----------------------------------------------------------------------------------------------------


HELD = DeletedOpen(4711, "python train.py", "/home/alice/ckpt.pt", 38 * GIB)


def test_what_is_deleted_but_open_is_named(teller: Teller) -> None:
    """Who holds it, how big it is, and what gives it back, where it is big enough to explain anything; likewise big directories."""
    small = replace(HELD, path="/tmp/x", size_bytes=1024)
    found = {"/": Evidence((HELD, small), (("/home/alice/data", 30 * GIB), ("/home/alice/little", 1024)))}
    (begin,) = teller.see(0.93, H, evidence=found)
    assert "Deleted, but still open: '/home/alice/ckpt.pt', held by pid 4711 python train.py, 38.0 GiB." in begin.body
    assert "Big beside the known caches: '/home/alice/data' 30.0 GiB." in begin.body
    assert "If it may: kill 4711" in begin.body
    assert "/tmp/x" not in begin.body
    assert "little" not in begin.body
    (_, stuck) = Teller().see(0.95, H, ENVS, evidence=found)
    assert "held by pid 4711" in stuck.body
    kernel = Evidence((replace(HELD, pid=0), replace(HELD, also=(1, 2))))
    (told,) = Teller().see(0.93, H, evidence={"/": kernel})
    assert "held by the kernel, 38.0 GiB" in told.body
    assert "held by pid 4711 python train.py and 2 more, 38.0 GiB" in told.body


def test_growth_is_told_since_the_last_notice() -> None:
    """Caches by what they were at the last notice, directories by two looks, the most first; what is new or shrank is no growth."""
    before = scene(reading("torch", 2 * GIB), reading("pip", 3 * GIB), reading("uv", GIB))
    after = scene(reading("torch", 5 * GIB), reading("pip", GIB), reading("uv", GIB + 5), reading("npm", 9 * GIB))
    memory = measured(Memory(), cache_sizes(before), NOW, is_told=False)
    assert measured(memory, cache_sizes(after), NOW + 1, is_told=False) == memory
    told = measured(memory, cache_sizes(after), NOW + 2, is_told=True)
    assert (dict(told.sizes)["torch"], told.sizes_at, told.told_at) == (5 * GIB, NOW + 2, NOW + 2)
    grower = Grower("/home/alice/data", GIB, 13 * GIB)
    grown = growth(dict(memory.sizes), cache_sizes(after), [grower], NOW, is_first=False)
    assert grown.growers == (("/home/alice/data", 12 * GIB), ("torch", 3 * GIB))
    _, (notice,) = on_moved(Memory(), OPERATION, filesystem(0.93), filesystem(0.92), NOW, voice=ALPHA)
    (told_growth,) = with_growth([notice], ALPHA, grown, NOW + 3 * 3600)
    assert told_growth.body.splitlines()[-2:] == [
        "Grew most since the last notice, 3 h ago: /home/alice/data +12.0 GiB, torch +3.00 GiB.",
        "To undo it: survivectl restore pip",
    ]
    (first,) = with_growth([notice], ALPHA, replace(grown, is_first=True), NOW + 60)
    assert "Grew most in the last 1 min: " in first.body
    assert with_growth([notice], ALPHA, Growth(), NOW) == (notice,)


def test_the_parts_come_in_their_order(teller: Teller) -> None:
    """Every notice says what happened, was done, is left, grew, and how to undo, in this order; the body is just that."""
    grown = Growth((("torch", GIB),), NOW)
    fs = filesystem(0.5)
    told = [
        *teller.see(0.93, H), *teller.see(0.98, F), *Teller().see(0.95, H, ENVS), *teller.see(0.7, N),
        *on_moved(Memory(), OPERATION, filesystem(), filesystem(), NOW, voice=ALPHA)[1],
        *on_failed(Memory(), "pip", "/s", "No space left.", NOW, voice=ALPHA)[1],
        *on_trouble(Memory(), "The new configuration cannot be used", "x", NOW, voice=ALPHA)[1],
        *Teller().see(0.5, N, machine=scene(TORCH, fs=fs, stores=(store(ok=False, reason="gone"),))),
        *on_links(Memory(), [LinkReading(Relocation("npm", "/h", "/d", NOW, 5, 7), Standing.NOTHING)], NOW, voice=ALPHA)[1],
    ]  # fmt: skip
    assert len(told) == 10
    for notice in with_growth(told, ALPHA, grown, NOW):
        names = [name for name, _ in notice.parts]
        assert names == sorted(names, key=PARTS.index)
        assert "grew" in names
        lines = [line.replace("\ue000", "").replace("\ue001", "") for _, lines in notice.parts for line in lines]
        assert notice.body.splitlines() == lines
        assert "survivectl" in notice.body or notice.topic == "trouble"
