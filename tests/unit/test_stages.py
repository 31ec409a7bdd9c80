"""The whole table of recovery, printed and held against laws that say nothing of how it is computed."""

from __future__ import annotations

from itertools import product

import pytest

from survived.act.stages import Recovery, Seen, recovery
from survived.model import Stage, Verb

ROWS = list(product(Verb, Stage, Seen, Seen, (True, False)))
FINAL = (Stage.DONE, Stage.UNDONE)
Row = tuple[Verb, Stage, Seen, Seen, bool]


def verdict(row: Row) -> Recovery:
    """Return what the table says."""
    verb, stage, source, aside, there = row
    return recovery(verb, stage, source, aside, target_is_there=there)


def all_rows(*verdicts: Recovery, final: bool = False) -> list[Row]:
    """Return the rows with one of these verdicts."""
    return [row for row in ROWS if verdict(row) in verdicts and (row[1] in FINAL) == final]


def test_the_table_is_complete() -> None:
    """Every combination has exactly one verdict, and each verdict occurs; the table is printed for whoever reads it (-s)."""
    for row in ROWS:
        verb, stage, source, aside, there = row
        print(f"{verb:9} {stage:10} {source:9} aside: {aside:9} target {'there' if there else 'gone':6} -> {verdict(row)}")
    assert len(ROWS) == len(Verb) * len(Stage) * len(Seen) ** 2 * 2
    assert {verdict(row) for row in ROWS} == set(Recovery)


def test_what_is_at_its_end_stays() -> None:
    """DONE and UNDONE need nothing, whatever the disk looks like, and nothing else is ever left as it is."""
    assert {verdict(row) for row in ROWS if row[1] in FINAL} == {Recovery.NOTHING}
    assert not all_rows(Recovery.NOTHING)


def test_nothing_is_rolled_back_once_the_new_place_counts() -> None:
    """A relocation whose link stands at the source and leads to a tree is never rolled back."""
    assert not [row for row in all_rows(Recovery.ROLL_BACK) if row[0] is Verb.RELOCATE and row[2] is Seen.OUR_LINK and row[4]]


def test_forward_needs_the_new_side_in_place() -> None:
    """Only what was exchanged goes forward: a relocation with our link and a target, a restore with a tree at its source."""
    for verb, stage, source, _, there in all_rows(Recovery.ROLL_FORWARD):
        assert source is (Seen.OUR_LINK if verb is Verb.RELOCATE else Seen.TREE)
        assert there or verb is Verb.RESTORE
        assert stage is not Stage.INTENT  # COPIED is durable before the exchange


def test_the_journal_lags_by_one_stage_at_most() -> None:
    """After EXCHANGED nothing goes back but a relocation whose copy is lost while the old tree still stands aside."""
    rows = [row for row in all_rows(Recovery.ROLL_BACK) if row[1] is Stage.EXCHANGED]
    assert rows == [(Verb.RELOCATE, Stage.EXCHANGED, Seen.OUR_LINK, Seen.TREE, False)]


def test_two_trees_of_which_none_is_ours_are_a_question() -> None:
    """A tree at the source and one aside: one is not ours, whatever is written down."""
    assert {verdict(row) for row in ROWS if row[1] not in FINAL and row[2] is row[3] is Seen.TREE} == {Recovery.ASK}


def test_a_source_that_no_crash_leaves_is_a_question() -> None:
    """A file or a link to elsewhere at the source: no crash of ours leaves that."""
    assert {verdict(row) for row in ROWS if row[1] not in FINAL and row[2] is Seen.OTHER} == {Recovery.ASK}


def test_a_source_that_was_removed_meanwhile_stays_removed() -> None:
    """What its owner removed before the exchange is not brought back; after the exchange it is a question."""
    gone = [row for row in ROWS if row[1] not in FINAL and row[2] is Seen.NOTHING]
    assert {verdict(row) for row in gone if row[1] is Stage.EXCHANGED} == {Recovery.ASK}
    assert {verdict(row) for row in gone if row[0] is Verb.RELOCATE and row[3] is Seen.TREE} == {Recovery.ASK}
    before = [row for row in gone if row[0] is Verb.RELOCATE and row[1] is not Stage.EXCHANGED and row[3] is Seen.OUR_LINK]
    assert {verdict(row) for row in before} == {Recovery.ROLL_BACK}


def test_what_is_not_ours_aside_is_never_touched() -> None:
    """A file or foreign link at the name aside is a question."""
    assert {verdict(row) for row in ROWS if row[1] not in FINAL and row[3] is Seen.OTHER} == {Recovery.ASK}


def test_the_last_complete_tree_is_never_removed() -> None:
    """Whatever the verdict lets go, a tree remains: rolling back and forward leave one that is known to be whole."""
    for verb, _, source, aside, there in all_rows(Recovery.ROLL_BACK, Recovery.ROLL_FORWARD):
        row_verdict = verdict((verb, _, source, aside, there))
        if verb is Verb.RELOCATE:
            kept = Seen.TREE in (source, aside) or source is Seen.NOTHING if row_verdict is Recovery.ROLL_BACK else there
        elif row_verdict is Recovery.ROLL_BACK:
            kept = there or aside is Seen.NOTHING  # the prepared tree aside is what rolling back removes
        else:
            kept = source is Seen.TREE
        assert kept, (verb, _, source, aside, there)


CRASHES: list[tuple[Row, Recovery]] = [
    # What each instant of an operation looks like, in order; T: tree, L: our link, N: nothing. See relocate.py.
    ((Verb.RELOCATE, Stage.INTENT, Seen.TREE, Seen.NOTHING, False), Recovery.ROLL_BACK),  # while copying
    ((Verb.RELOCATE, Stage.INTENT, Seen.TREE, Seen.NOTHING, True), Recovery.ROLL_BACK),  # the copy has its name
    ((Verb.RELOCATE, Stage.COPIED, Seen.TREE, Seen.NOTHING, True), Recovery.ROLL_BACK),
    ((Verb.RELOCATE, Stage.COPIED, Seen.TREE, Seen.OUR_LINK, True), Recovery.ROLL_BACK),  # the link is prepared
    ((Verb.RELOCATE, Stage.COPIED, Seen.OUR_LINK, Seen.TREE, True), Recovery.ROLL_FORWARD),  # exchanged, not recorded
    ((Verb.RELOCATE, Stage.EXCHANGED, Seen.OUR_LINK, Seen.TREE, True), Recovery.ROLL_FORWARD),
    ((Verb.RELOCATE, Stage.EXCHANGED, Seen.OUR_LINK, Seen.NOTHING, True), Recovery.ROLL_FORWARD),  # the old tree is scrap
    ((Verb.RESTORE, Stage.INTENT, Seen.OUR_LINK, Seen.NOTHING, True), Recovery.ROLL_BACK),
    ((Verb.RESTORE, Stage.INTENT, Seen.OUR_LINK, Seen.TREE, True), Recovery.ROLL_BACK),  # while copying
    ((Verb.RESTORE, Stage.COPIED, Seen.OUR_LINK, Seen.TREE, True), Recovery.ROLL_BACK),
    ((Verb.RESTORE, Stage.COPIED, Seen.TREE, Seen.OUR_LINK, True), Recovery.ROLL_FORWARD),
    ((Verb.RESTORE, Stage.EXCHANGED, Seen.TREE, Seen.OUR_LINK, True), Recovery.ROLL_FORWARD),
    ((Verb.RESTORE, Stage.EXCHANGED, Seen.TREE, Seen.NOTHING, True), Recovery.ROLL_FORWARD),  # the link is gone
    ((Verb.RESTORE, Stage.EXCHANGED, Seen.TREE, Seen.NOTHING, False), Recovery.ROLL_FORWARD),  # the old tree is scrap
]


@pytest.mark.parametrize(("row", "wanted"), CRASHES)
def test_every_crash_of_ours_is_explained(row: Row, wanted: Recovery) -> None:
    """Each instant that a crash can leave has its own way out, without a person."""
    assert verdict(row) is wanted


def test_a_tool_that_made_its_folder_anew_is_a_question() -> None:
    """A tree at a relocated source is somebody's new one: after EXCHANGED nothing says which of the two was meant."""
    assert {verdict(row) for row in ROWS if row[:3] == (Verb.RELOCATE, Stage.EXCHANGED, Seen.TREE)} == {Recovery.ASK}
