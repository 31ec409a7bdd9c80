"""
The stages of one operation, and what a crash after each of them means. A pure table.

The commit point is the exchange of the source with what was prepared beside it. Before it the copy is scrap; after
it the old side is scrap. The journal may lag the disk by one stage and never leads it, so the disk has the last word.
"""

from __future__ import annotations

from enum import StrEnum

from survived.model import Stage, Verb

FINAL = frozenset({Stage.DONE, Stage.UNDONE})


class Seen(StrEnum):
    """What stands at a name now."""

    NOTHING = "nothing"
    TREE = "tree"
    OUR_LINK = "our link"
    OLD_LINK = "the old link"  # of a rehome: to the disk that is left
    OTHER = "other"  # a file, or a link to elsewhere


class Recovery(StrEnum):
    """What to do about an operation that is found unfinished."""

    NOTHING = "nothing"
    ROLL_BACK = "roll back"
    ROLL_FORWARD = "roll forward"
    LET_GO = "let go"  # it is at its end, and the old tree stays where it is
    ASK = "ask"


BEFORE = {Verb.RELOCATE: Seen.TREE, Verb.RESTORE: Seen.OUR_LINK, Verb.REHOME: Seen.OLD_LINK}
AFTER = {Verb.RELOCATE: Seen.OUR_LINK, Verb.RESTORE: Seen.TREE, Verb.REHOME: Seen.OUR_LINK}
"""What stands at the source before and after the exchange; aside it is the other way round."""


def recovery(verb: Verb, stage: Stage, source: Seen, aside: Seen, *, target_is_there: bool) -> Recovery:
    """
    Return what to do about an operation whose last durable record is `stage`.

    `aside` is the name beside the source that the exchange swaps with it. A relocation swaps a tree for our link, a
    restore our link for a tree, a rehome the old link for our link. Whatever no crash of ours explains is ASK: a person
    or a tool has been here since, and two copies are better than a guess about which one was meant.
    """
    if stage in FINAL:
        return Recovery.NOTHING
    before, after = BEFORE[verb], AFTER[verb]
    if stage is Stage.EXCHANGED and source is not after:
        return _since_then(verb, source, aside, target_is_there=target_is_there)
    if source is before:
        # What was prepared may be there (complete or not) or not yet; a second tree of the user's may not. The copy that a
        # restore prepared is no scrap when what it was made from is gone.
        harmless = (Seen.NOTHING,) if verb is Verb.RESTORE and not target_is_there else (Seen.NOTHING, after)
        return Recovery.ROLL_BACK if aside in harmless else Recovery.ASK
    if source is Seen.NOTHING:
        # The user, or their tool, removed it while it was copied, before any exchange: their word counts.
        known = aside in (Seen.NOTHING, after) and (target_is_there or verb is not Verb.RESTORE)
        return Recovery.ROLL_BACK if known else Recovery.ASK
    if source is not after:
        # Somebody has put something else there. Before COPIED is recorded nothing is exchanged, and what was prepared is
        # aside as long as nothing is: the copy is scrap, if it is not all that is left.
        prepared = aside is after or (aside is Seen.NOTHING and stage is Stage.INTENT)
        return Recovery.ROLL_BACK if prepared and (target_is_there or verb is not Verb.RESTORE) else Recovery.ASK
    if verb is Verb.RESTORE:
        # The link aside proves that this tree is the one we prepared, and not one that a tool made anew.
        if aside is Seen.OUR_LINK and stage is not Stage.INTENT:
            return Recovery.ROLL_FORWARD
        return Recovery.ROLL_FORWARD if stage is Stage.EXCHANGED and aside is Seen.NOTHING else Recovery.ASK
    if not target_is_there:
        # The data disk lost the copy; what stood at the path before still stands aside and goes back to its name.
        return Recovery.ROLL_BACK if aside is before else Recovery.ASK
    return Recovery.ROLL_FORWARD if stage is not Stage.INTENT and aside in (before, Seen.NOTHING) else Recovery.ASK


def _since_then(verb: Verb, source: Seen, aside: Seen, *, target_is_there: bool) -> Recovery:
    """The exchange is recorded, and somebody has changed the path since then: that is theirs, and what is aside is still ours."""
    if source is BEFORE[verb] and source is not Seen.TREE:
        return Recovery.ASK  # the exchange itself seems to be undone
    if aside not in (BEFORE[verb], Seen.NOTHING):
        return Recovery.ASK
    if verb is Verb.RESTORE:
        # The old tree is the only one that we know to be whole; where it has no name any more it is scrap.
        return Recovery.LET_GO if target_is_there else Recovery.ROLL_FORWARD
    is_scrap = verb is Verb.RELOCATE and aside is Seen.NOTHING
    return Recovery.ROLL_FORWARD if target_is_there or is_scrap else Recovery.ASK
