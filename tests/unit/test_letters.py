"""What goes out together, when and to whom: company, quiet hours, limits; and how several notices read as one."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from survived.decide.letters import Letter, Manners, choose, compose, tags_of
from survived.decide.sentences import DID, GREW, HAPPENED, LEFT, Voice, notice
from survived.findings import Waiting
from survived.model import Level, Notice, Topic

DAY, HOUR = 86400.0, 3600.0
MIDNIGHT = 20_000 * DAY
NOON = MIDNIGHT + 12 * HOUR
NIGHT = ((22 * 60, 7 * 60),)
VOICE = Voice("alpha")


def minute_of(time: float) -> int:
    """Return the minute of the day in a place where the local time is UTC."""
    return int(time % DAY // 60)


def clock(time: float) -> str:
    """Return hours and minutes."""
    return f"{minute_of(time) // 60:02d}:{minute_of(time) % 60:02d}"


def waits(number: int, time: float = NOON, destination: str = "a", topic: str = "pressure", **more: Any) -> Waiting:
    """Return a notice that waits."""
    return Waiting(number, destination, topic, more.pop("level", Level.WARNING), time, **{"due_at": time, **more})


def pick(*waiting: Waiting, now: float, sent: dict[str, list[float]] | None = None, **manners: Any) -> tuple[list[Any], float]:
    """Return the numbers in each letter, by destination, and in how many seconds to ask again."""
    found, ask_at = choose(waiting, sent or {}, Manners(**manners), now, minute_of)
    return [(letter.destination, letter.numbers) for letter in found], ask_at - now


def test_nothing_waits_for_ever() -> None:
    """Without notices there is nothing to ask about; without manners each is sent at once."""
    assert pick(now=NOON) == ([], math.inf)
    assert pick(waits(1), now=NOON) == ([("a", (1,))], math.inf)


def test_what_happens_together_is_one_letter() -> None:
    """The first waits for company as long as it may; what came meanwhile goes along, each destination by itself."""
    batch = (waits(1), waits(2, NOON + 3), waits(2, NOON + 3, "b"))
    assert pick(*batch, now=NOON + 3, gather_seconds=5.0) == ([], 2.0)
    assert pick(*batch, now=NOON + 5, gather_seconds=5.0) == ([("a", (1, 2))], 3.0)


def test_a_clock_that_was_put_back_holds_nothing_up() -> None:
    """A notice of the future does not wait for its company's time."""
    assert pick(waits(1, NOON + DAY, due_at=NOON), now=NOON, gather_seconds=5.0) == ([("a", (1,))], math.inf)


def test_a_destination_that_failed_gets_everything_at_its_next_try() -> None:
    """What waits for the backoff goes with what is due; before that nobody is asked."""
    late = waits(1, attempts=2, due_at=NOON + 60)
    assert pick(late, now=NOON) == ([], 60.0)
    assert pick(late, waits(2), now=NOON) == ([("a", (1, 2))], math.inf)


def test_what_was_refused_three_times_goes_alone() -> None:
    """One notice that a server will not have must not take the others along."""
    bad, good = waits(1, attempts=3), waits(2)
    assert pick(bad, good, now=NOON) == ([("a", (2,)), ("a", (1,))], math.inf)


def test_a_letter_has_twenty_notices_at_most() -> None:
    """The oldest come first."""
    (letter,) = pick(*(waits(n) for n in range(30)), now=NOON)[0]
    assert letter == ("a", tuple(range(20)))


def test_quiet_hours_hold_all_but_the_loud() -> None:
    """From 22:00 to 7:00 only a flood comes through; at 7:00 the rest is one digest."""
    evening = MIDNIGHT + 23 * HOUR
    held, flood = waits(1, evening), waits(2, evening, topic="flood", level=Level.FAILURE)
    assert pick(held, flood, now=evening + 90, quiet_hours=NIGHT) == ([("a", (2,))], 8 * HOUR - 90)
    assert pick(held, now=MIDNIGHT + DAY + 6 * HOUR, quiet_hours=NIGHT) == ([], HOUR)
    batch = [held, waits(3, evening + HOUR)]
    (letter,), _ = choose(batch, {}, Manners(quiet_hours=NIGHT), MIDNIGHT + DAY + 7 * HOUR, minute_of)
    assert letter == Letter("a", (1, 3), was_quiet=True)
    loud = {"quiet_hours": NIGHT, "loud": frozenset({"flood", "warning"})}
    assert pick(held, now=evening, **loud) == ([("a", (1,))], math.inf)
    ((by_day,), _) = choose([waits(1)], {}, Manners(quiet_hours=NIGHT), NOON, minute_of)
    assert not by_day.was_quiet


@given(st.integers(0, 1439), st.integers(0, 1439), st.floats(0, DAY))
def test_quiet_hours_end_when_they_say(begin: int, end: int, offset: float) -> None:
    """Whatever the hours are, the next question is at their end, and then nothing is held any more."""
    now = MIDNIGHT + offset
    assume(begin != end)  # the configuration has no such hours
    found, after = pick(waits(1, now), now=now, quiet_hours=((begin, end),))
    if not found:
        assert 0 < after <= DAY
        assert pick(waits(1, now), now=now + after + 0.001, quiet_hours=((begin, end),))[0] == [("a", (1,))]


def test_a_limit_sums_up_the_rest() -> None:
    """With as many messages within the hour as are allowed the rest waits until the first of them is an hour old."""
    sent = {"a": [NOON - 3000, NOON - 100, NOON - 50]}
    batch = (waits(1), waits(2), waits(3, destination="b"))
    assert pick(*batch, now=NOON, sent=sent, limit=3) == ([("b", (3,))], 600.0)
    assert pick(*batch, now=NOON + 600, sent=sent, limit=3) == ([("a", (1, 2)), ("b", (3,))], math.inf)
    assert pick(*batch, now=NOON, sent=sent, limit=4)[0] == [("a", (1, 2)), ("b", (3,))]
    assert pick(*batch, now=NOON, sent=sent, limit=0)[0] == [("a", (1, 2)), ("b", (3,))]
    assert pick(waits(1, topic="flood"), now=NOON, sent=sent, limit=3)[0] == [("a", (1,))]


def test_tags_are_level_and_topic() -> None:
    """A destination may be for failures, for floods, or for all."""
    assert tags_of("flood", Level.FAILURE) == {"flood", "failure", "all"}


# ---- the text -----------------------------------------------------------------------------------------------------------


def tell(headline: str, level: Level = Level.WARNING, time: float = NOON, **parts: list[str]) -> Notice:
    """Return a notice with parts."""
    return notice(VOICE, Topic.PRESSURE, level, headline, {HAPPENED: [f"{headline}."], **parts}, time)


def test_one_notice_stays_as_it_is() -> None:
    """A letter of one is the notice; one that waited says when it was."""
    one = tell("/ is at 93 %", **{LEFT: ["Do \ue000this\ue001"]})
    assert compose([one], VOICE, clock) is one
    late = compose([one], VOICE, clock, was_quiet=True)
    assert late.body.splitlines() == ["This was at 12:00, in the quiet hours.", "/ is at 93 %.", "Do this"]
    assert late.title == one.title


def test_several_read_as_one() -> None:
    """The title is of the worst, the texts follow each other, and the same growers are named once."""
    grown = ["Grew most: torch +3.00 GiB."]
    first, second = tell("/ is at 93 %", **{GREW: grown}), tell("pip failed", Level.FAILURE, NOON + 1, **{GREW: grown})
    made = compose([first, second], VOICE, clock)
    assert (made.title, made.level, made.time) == ("alpha: pip failed (and 1 more)", Level.FAILURE, NOON + 1)
    assert made.body.splitlines() == [
        "alpha: / is at 93 %", "/ is at 93 %.", *grown, "", "alpha: pip failed", "pip failed.",
    ]  # fmt: skip
    assert [name for name, _ in made.parts] == ["title", HAPPENED, GREW, "title", HAPPENED]


def test_a_digest_says_when_each_was() -> None:
    """After quiet hours the title counts, and each notice has its time."""
    made = compose([tell("one"), tell("two", time=NOON + HOUR)], VOICE, clock, was_quiet=True)
    assert made.title == "alpha: 2 notices from the quiet hours"
    assert [line for line in made.body.splitlines() if "alpha" in line] == ["12:00 alpha: one", "13:00 alpha: two"]


def test_many_are_listed_and_the_worst_told_in_full() -> None:
    """A letter of many stays short: all titles, and three texts, failures first."""
    many = [tell(f"n{at}", Level.FAILURE if at == 2 else Level.INFO, NOON + at * 60, **{DID: [f"text {at}"]}) for at in range(12)]
    made = compose(many, VOICE, clock)
    assert made.title == "alpha: n2 (and 11 more)"
    assert [f"- 12:{at:02d} alpha: n{at}" in made.body for at in range(12)] == [True] * 12
    assert [line for line in made.body.splitlines() if line.startswith("text")] == ["text 2", "text 10", "text 11"]


@pytest.mark.parametrize("length", [10, 60, 62, 70, 200])
def test_a_long_title_keeps_the_count(length: int) -> None:
    """However long the worst one's title is, how many more there are can be read."""
    made = compose([tell("x" * length), tell("y", Level.INFO)], VOICE, clock)
    assert made.title.endswith("(and 1 more)")
    assert len(made.title) <= 70


def test_a_notice_without_parts_is_told_too() -> None:
    """What a template made, or an older survived kept, has lines alone."""
    old = Notice("pressure", Level.WARNING, "old title", "a\nb", NOON)
    made = compose([old, tell("new")], VOICE, clock)
    assert made.body.splitlines() == ["old title", "a", "b", "", "alpha: new", "new."]
    assert compose([old], VOICE, clock, was_quiet=True).body.splitlines()[1:] == ["a", "b"]
