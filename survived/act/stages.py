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
    OTHER = "other"  # a file, or a link to elsewhere


class Recovery(StrEnum):
    """What to do about an operation that is found unfinished."""

    NOTHING = "nothing"
    ROLL_BACK = "roll back"
    ROLL_FORWARD = "roll forward"
    ASK = "ask"


def recovery(verb: Verb, stage: Stage, source: Seen, aside: Seen, *, target_is_there: bool) -> Recovery:
    """
    Return what to do about an operation whose last durable record is `stage`.

    `aside` is the name beside the source that the exchange swaps with it. A relocation swaps a tree for our link; a
    restore swaps our link for a tree. Whatever no crash of ours explains is ASK: a person or a tool has been here
    since, and two copies are better than a guess about which one was meant.
    """
    if stage in FINAL:
        return Recovery.NOTHING
    before, after = (Seen.TREE, Seen.OUR_LINK) if verb is Verb.RELOCATE else (Seen.OUR_LINK, Seen.TREE)
    if source is before and stage is not Stage.EXCHANGED:
        # What was prepared may be there (complete or not) or not yet; a second tree of the user's may not. The copy that a
        # restore prepared is no scrap when what it was made from is gone.
        harmless = (Seen.NOTHING, after) if verb is Verb.RELOCATE or target_is_there else (Seen.NOTHING,)
        return Recovery.ROLL_BACK if aside in harmless else Recovery.ASK
    if source is Seen.NOTHING and stage is not Stage.EXCHANGED:
        # The user, or their tool, removed it while it was copied, before any exchange: their word counts.
        if verb is Verb.RELOCATE:
            return Recovery.ROLL_BACK if aside in (Seen.NOTHING, Seen.OUR_LINK) else Recovery.ASK
        return Recovery.ROLL_BACK if aside in (Seen.NOTHING, Seen.TREE) and target_is_there else Recovery.ASK
    if source is after and verb is Verb.RELOCATE and not target_is_there:
        # The data disk lost the copy; the old tree still stands aside and goes back to its name.
        return Recovery.ROLL_BACK if aside is Seen.TREE else Recovery.ASK
    if source is after and verb is Verb.RELOCATE:
        return Recovery.ROLL_FORWARD if stage is not Stage.INTENT and aside in (Seen.TREE, Seen.NOTHING) else Recovery.ASK
    if source is after and verb is Verb.RESTORE:
        # The link aside proves that this tree is the one we prepared, and not one that a tool made anew.
        if aside is Seen.OUR_LINK and stage is not Stage.INTENT:
            return Recovery.ROLL_FORWARD
        return Recovery.ROLL_FORWARD if stage is Stage.EXCHANGED and aside is Seen.NOTHING else Recovery.ASK
    return Recovery.ASK
