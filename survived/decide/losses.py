"""
The texts of notices about data disks and about links of ours that are not what we left.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from survived.decide.evidence import LISTED
from survived.decide.reasons import is_below
from survived.decide.retelling import retell
from survived.decide.sentences import DID, HAPPENED, LEFT, UNDO, notice
from survived.model import Level, LinkState, Topic
from survived.units import print_bytes, print_share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from survived.decide.sentences import Voice
    from survived.model import LinkReading, Notice, Observation, Rules, StoreReading

_TOPICS = {
    LinkState.EATEN: Topic.EATEN,
    LinkState.GONE: Topic.GONE,
    LinkState.ELSEWHERE: Topic.ELSEWHERE,
    LinkState.DANGLING: Topic.DANGLING,
}


def disk_gone(
    voice: Voice, store: StoreReading, observation: Observation, now: float, *, was_ok: bool, since: float | None = None
) -> Notice:
    """Return the notice that a data disk vanished, or could not be used from the start; `since`: that was told before."""
    reason = retell(voice, store.reason) if store.reason else voice.say("no reason known")
    happened = [voice.say("'{store}' cannot be used: {reason}.", store=store.path, reason=reason)]
    left = []
    lost = [r.cache.id for r in observation.caches if r.target and is_below(r.target, store.path)]
    if lost:
        happened.append(voice.say("These live there and cannot be opened until it is back: {names}.", names=voice.row(lost)))
        text = "Where a tool fails on that (uv, npm, go, cargo do), an empty directory until then: {command}"
        left.append(voice.say(text, command="survivectl standin ID"))
    left.append(voice.say("Mount it again, then: {command}", command="survivectl check"))
    parts = {HAPPENED: happened, DID: [voice.say("Nothing is written to it meanwhile.")], LEFT: left}
    if lost:
        parts[UNDO] = [voice.say("To take such a directory away again: {command}", command="survivectl standin ID --undo")]
    if since is not None:
        headline = voice.say("data disk {disk} is still away, for {ago}", disk=_disk(store), ago=voice.duration(now - since))
    elif was_ok:
        headline = voice.say("data disk {disk} has vanished", disk=_disk(store))
    else:
        headline = voice.say("data disk {disk} cannot be used", disk=_disk(store))
    return notice(voice, Topic.DISK, Level.FAILURE if was_ok else Level.WARNING, headline, parts, now)


def disk_back(voice: Voice, store: StoreReading, now: float) -> Notice:
    """Return the notice that a data disk is there again."""
    free = print_bytes(store.available_bytes)
    happened = voice.say("'{store}' can be used again, {free} are available.", store=store.path, free=free)
    parts = {HAPPENED: [happened], LEFT: [voice.say("Nothing is left to do.")]}
    return notice(voice, Topic.DISK, Level.INFO, voice.say("data disk {disk} is back", disk=_disk(store)), parts, now)


def disk_fills(voice: Voice, store: StoreReading, rules: Rules, now: float) -> Notice:
    """Return the notice that a data disk has reached what is kept free on it."""
    values = {"store": store.path, "free": print_bytes(store.available_bytes)}
    if rules.keep_free.usage is not None:
        text = "'{store}' has {free} available; [data] keep_free allows {mark} used."
    else:
        text = "'{store}' has {free} available; [data] keep_free wants {mark}."
    happened = voice.say(text, mark=voice.mark(rules.keep_free, "bytes"), **values)
    left = voice.say("Make room on it, or name another disk in [data] disks, then: {command}", command="survivectl reload")
    parts = {HAPPENED: [happened], DID: [voice.say("Nothing more is moved there.")], LEFT: [left]}
    headline = voice.say("data disk {disk} is at {share}", disk=_disk(store), share=print_share(store.usage))
    return notice(voice, Topic.DISK, Level.WARNING, headline, parts, now)


def link(voice: Voice, reading: LinkReading, state: LinkState, now: float, *, is_repeated: bool = False) -> Notice:
    """Return the notice that a link of ours is not what we left, with what is safe and what can be done about it."""
    item, tree, path = reading.item, shlex.quote(reading.item.target), shlex.quote(reading.item.source)
    values = {"source": item.source, "target": item.target, "name": item.cache_id, "size": print_bytes(item.size_bytes)}
    did = [voice.say("Nothing was changed.")]
    if state is LinkState.DANGLING:
        text = "'{source}' leads to '{target}', and nothing is there any more, although the data disk is there."
        happened = [voice.say(text, **values)]
        text = "Some tools' clean commands remove the directory behind a link. The data disk holds no copy of what was there."
        happened.append(voice.say(text))
        headline = voice.say("link leads nowhere: {name}", **values)
        left = [voice.say("To begin anew behind the link: {command}", command=f"mkdir -m 700 {tree}")]
        left.append(voice.say("To begin anew at home: {command}", command=f"rm {path}"))
        parts = {HAPPENED: happened, DID: did, LEFT: left}
        return notice(voice, Topic.DANGLING, Level.WARNING, _again(voice, headline, is_repeated), parts, now)
    if state is LinkState.EATEN:
        text = "'{source}' was a link to '{target}', and is a directory again. A tool's own clean command may have done that."
        headline = voice.say("link replaced by a directory: {name}", **values)
    elif state is LinkState.GONE:
        text = "'{source}' was a link to '{target}', and is gone. A tool's own clean command may have done that."
        headline = voice.say("link is gone: {name}", **values)
    else:
        headline = voice.say("link leads elsewhere: {name}", **values)
        if reading.leads_to:
            text = "'{source}' was a link to '{target}', and leads to '{place}' now. A tool's own clean command may have done that."
            values["place"] = reading.leads_to
        else:
            text = "'{source}' was a link to '{target}', and is a file now. A tool's own clean command may have done that."
    happened = [voice.say(text, **values)]
    text = "What was moved there is as it was ({size}); no link leads to it, and it takes room on the data disk."
    did = [voice.say(text, **values)]
    left, undo = [], []
    if state is LinkState.EATEN:
        left.append(voice.say("To have both as one behind the link: {command}", command=f"survivectl orphans link {tree}"))
    elif state is LinkState.GONE:
        undo.append(voice.say("To have the link again: {command}", command=f"survivectl orphans link {tree}"))
    left.append(voice.say("To remove what was moved: {command}", command=f"survivectl orphans remove {tree}"))
    left.append(voice.say("To let the path be as it is now: {command}", command=f"survivectl orphans adopt {path}"))
    parts = {HAPPENED: happened, DID: did, LEFT: left, UNDO: undo}
    return notice(voice, _TOPICS[state], Level.WARNING, _again(voice, headline, is_repeated), parts, now)


def merged(voice: Voice, name: str, source: str, target: str, kept: Sequence[str], now: float) -> Notice:
    """Return the notice that a stand-in was merged with what lies on its data disk."""
    happened = voice.say("The data disk is back, and '{source}' leads to '{target}'.", source=source, target=target)
    did = [voice.say("What was there and what came since are one again.")]
    left = [voice.say("Nothing is left to do.")]
    if kept:
        names = voice.row((f"'{path}'" for path in kept), LISTED)
        text = "Of these both sides had one. The later has the name, the earlier ends in .survived-earlier: {names}."
        did.append(voice.say(text, names=names))
        left = [voice.say("Look at them.")]
    headline = voice.say("stand-in merged: {name}", name=name)
    return notice(voice, Topic.STANDIN, Level.INFO, headline, {HAPPENED: [happened], DID: did, LEFT: left}, now)


def _again(voice: Voice, headline: str, is_repeated: bool) -> str:
    return voice.say("still: {headline}", headline=headline) if is_repeated else headline


def _disk(store: StoreReading) -> str:
    """Return the user's directory on the data disk: of a disk that is gone, the mount is another one by now."""
    return store.path.removesuffix("/survived")


def purged(voice: Voice, name: str, source: str, command: str, size_bytes: int, freed_bytes: int, now: float) -> Notice:
    """Return the notice that a cache was emptied by its tool's own command, because its user says so."""
    size, freed = print_bytes(size_bytes), print_bytes(freed_bytes)
    did = voice.say(
        "'{source}' ({size}) was purged by '{words}', which freed {freed}.", source=source, size=size, words=command, freed=freed
    )
    left = voice.say("Nothing is left to do: its tool makes again what it needs.")
    headline = voice.say("{name} purged, {freed} freed", name=name, freed=freed)
    return notice(voice, Topic.PURGED, Level.SUCCESS, headline, {DID: [did], LEFT: [left]}, now)
