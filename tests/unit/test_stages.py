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
    """What has its link at the source, and the link leads to a tree, is never rolled back."""
    assert not [row for row in all_rows(Recovery.ROLL_BACK) if row[0] is not Verb.RESTORE and row[2] is Seen.OUR_LINK and row[4]]


def test_forward_needs_the_new_side_in_place() -> None:
    """Before EXCHANGED is recorded only what was exchanged goes forward: our link and its tree, or a tree that came home."""
    for verb, stage, source, _, there in all_rows(Recovery.ROLL_FORWARD):
        assert stage is not Stage.INTENT  # COPIED is durable before the exchange
        if stage is Stage.EXCHANGED:
            continue  # what became of the path since is its owner's affair
        assert source is (Seen.TREE if verb is Verb.RESTORE else Seen.OUR_LINK)
        assert there or verb is Verb.RESTORE


def test_the_journal_lags_by_one_stage_at_most() -> None:
    """After EXCHANGED nothing goes back but what lost its copy while the old side still stands aside."""
    rows = [row for row in all_rows(Recovery.ROLL_BACK) if row[1] is Stage.EXCHANGED]
    assert rows == [
        (Verb.RELOCATE, Stage.EXCHANGED, Seen.OUR_LINK, Seen.TREE, False),
        (Verb.REHOME, Stage.EXCHANGED, Seen.OUR_LINK, Seen.OLD_LINK, False),
    ]


def test_two_trees_of_which_none_is_ours_are_a_question() -> None:
    """Before EXCHANGED, a tree at the source and one aside: one is not ours, whatever is written down."""
    rows = [row for row in ROWS if row[1] not in (*FINAL, Stage.EXCHANGED) and row[2] is row[3] is Seen.TREE]
    assert {verdict(row) for row in rows} == {Recovery.ASK}


def test_a_source_that_changed_hands_before_the_exchange() -> None:
    """A file or a link to elsewhere: what was prepared is undone where that is sure, and all else is a question."""
    rows = [row for row in ROWS if row[1] not in (*FINAL, Stage.EXCHANGED) and row[2] is Seen.OTHER]
    undone = [row for row in rows if verdict(row) is Recovery.ROLL_BACK]
    assert {verdict(row) for row in rows} == {Recovery.ROLL_BACK, Recovery.ASK}
    for verb, stage, _, aside, there in undone:
        assert aside is (Seen.TREE if verb is Verb.RESTORE else Seen.OUR_LINK) or (aside is Seen.NOTHING and stage is Stage.INTENT)
        assert there or verb is not Verb.RESTORE


def test_a_source_that_was_removed_meanwhile_stays_removed() -> None:
    """What its owner removed before the exchange is not brought back."""
    gone = [row for row in ROWS if row[1] not in (*FINAL, Stage.EXCHANGED) and row[2] is Seen.NOTHING]
    assert {verdict(row) for row in gone if row[3] is Seen.TREE and row[0] is Verb.RELOCATE} == {Recovery.ASK}
    prepared = [row for row in gone if row[0] is not Verb.RESTORE and row[3] is Seen.OUR_LINK]
    assert {verdict(row) for row in prepared} == {Recovery.ROLL_BACK}


def test_a_path_that_changed_hands_after_the_exchange_lets_it_end() -> None:
    """Whatever a person or tool made of the path since: the copy is whole, what is aside goes, and after a restore nothing goes."""
    moved = [row for row in ROWS if row[:2] == (Verb.RELOCATE, Stage.EXCHANGED) and row[2] is not Seen.OUR_LINK and row[4]]
    assert {verdict(row) for row in moved if row[3] in (Seen.TREE, Seen.NOTHING)} == {Recovery.ROLL_FORWARD}
    home = [row for row in ROWS if row[:2] == (Verb.RESTORE, Stage.EXCHANGED) and row[4]]
    assert {verdict(row) for row in home if row[2] in (Seen.NOTHING, Seen.OTHER) and row[3] is Seen.NOTHING} == {Recovery.LET_GO}
    assert {row[0] for row in all_rows(Recovery.LET_GO)} == {Verb.RESTORE}


def test_an_exchange_that_somebody_undid_is_a_question() -> None:
    """A link at the source where the exchange took it away."""
    for verb, link in ((Verb.RESTORE, Seen.OUR_LINK), (Verb.REHOME, Seen.OLD_LINK)):
        rows = [row for row in ROWS if row[:3] == (verb, Stage.EXCHANGED, link)]
        assert {verdict(row) for row in rows} == {Recovery.ASK}


def test_what_is_not_ours_aside_is_never_touched() -> None:
    """A file or foreign link at the name aside is a question."""
    assert {verdict(row) for row in ROWS if row[1] not in FINAL and row[3] is Seen.OTHER} == {Recovery.ASK}


def test_the_last_complete_tree_is_never_removed() -> None:
    """Whatever the verdict lets go, a tree remains: rolling back and forward leave one that is known to be whole."""
    for row in all_rows(Recovery.ROLL_BACK, Recovery.ROLL_FORWARD):
        verb, stage, source, aside, there = row
        back = verdict(row) is Recovery.ROLL_BACK
        if stage is Stage.EXCHANGED and source is not (Seen.TREE if verb is Verb.RESTORE else Seen.OUR_LINK):
            kept = there or aside is Seen.NOTHING or verb is Verb.RESTORE  # its owner took the new side away
        elif verb is not Verb.RESTORE and back:  # the old side stands, or its owner took it away before any exchange
            kept = (Seen.TREE if verb is Verb.RELOCATE else Seen.OLD_LINK) in (source, aside) or source is not Seen.OUR_LINK
        elif verb is not Verb.RESTORE:
            kept = there
        elif back:
            kept = there or aside is Seen.NOTHING  # the prepared tree aside is what rolling back removes
        else:
            kept = source is Seen.TREE
        assert kept, row


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
    ((Verb.REHOME, Stage.INTENT, Seen.OLD_LINK, Seen.NOTHING, False), Recovery.ROLL_BACK),  # while copying
    ((Verb.REHOME, Stage.INTENT, Seen.OLD_LINK, Seen.NOTHING, True), Recovery.ROLL_BACK),  # the copy has its name
    ((Verb.REHOME, Stage.COPIED, Seen.OLD_LINK, Seen.OUR_LINK, True), Recovery.ROLL_BACK),  # the link is prepared
    ((Verb.REHOME, Stage.COPIED, Seen.OUR_LINK, Seen.OLD_LINK, True), Recovery.ROLL_FORWARD),
    ((Verb.REHOME, Stage.EXCHANGED, Seen.OUR_LINK, Seen.OLD_LINK, True), Recovery.ROLL_FORWARD),
    ((Verb.REHOME, Stage.EXCHANGED, Seen.OUR_LINK, Seen.NOTHING, True), Recovery.ROLL_FORWARD),  # the old tree is scrap
]


@pytest.mark.parametrize(("row", "wanted"), CRASHES)
def test_every_crash_of_ours_is_explained(row: Row, wanted: Recovery) -> None:
    """Each instant that a crash can leave has its own way out, without a person."""
    assert verdict(row) is wanted
