"""
Sentences that were made elsewhere, in English, told again in the reader's language.

The plan's reasons are the contract with scripts and the words of survivectl, and come to us as they are. Each shape that
they have is a pattern here; what fits none (an error of the kernel, a tool's own words) is told as it is. Pure.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from survived.decide.sentences import clean

if TYPE_CHECKING:
    from survived.decide.sentences import Voice

SHAPES = (
    "{size} is under the {least} of min_size",
    "hard-linked elsewhere (with {names}): moving {size} would free {freed}",
    "hard-linked elsewhere: moving {size} would free {freed}",
    "{mount} is at {share}, but has not been above high for {dwell}",
    "{mount} is at {share}, high is {high}",
    "the last attempt failed: {why}",
    "{names} has files open",
    "{names} have files open",
    "changed {ago} ago, moves after {settle} of quiet",
    "moving is paused; survivectl resume ends that",
    "quiet hours until {time}, which only a flood breaks",
    "there is nothing at this path",
    "its link points to {end}; is the data disk mounted?",
    "already lives at {target}",
    "is a link already",
    "is being moved now",
    "move = false in {table}",
    "{table} says move = false",
    "is only reported: {why}",
    "never moved: {why}",
    "contains {path}, and {why}",
    "relocated by hand",
    "temporary files are never moved",
    'caches are moved only when you say so: add "{kind}" to kinds in [move], or set move = true in {table}',
    'environments are moved only when you say so: add "{kind}" to kinds in [move], or set move = true in {table}',
    'state directories are moved only when you say so: add "{kind}" to kinds in [move], or set move = true in {table}',
    "is a mount point itself",
    "lies on a filesystem that is not watched (watched: {mounts})",
    "another filesystem is mounted below it, at {path}",
    "{path} belongs to somebody else",
    "{path} cannot be read",
    "moves together with {name} ({path})",
    "would free nothing of what {mount} lacks",
    "{mount} is at {share} and low is {low}: nothing is left to free",
    "moving {names} brings {mount} to {share}, low is {low}",
    "no data disk is configured and none was found",
    "needs {size}; {rooms} (keeping {keeps} free)",
    "{store} has room for {room}",
    "{store} cannot be used: {why}",
    "{store} lies on the cache's own filesystem",
    "it is no longer found",
    "it is not mounted",
    "Cannot move {path}: {why}. Nothing was changed.",
    "Cannot restore {path}: {why}. Nothing was changed.",
    "Cannot rehome {path}: {why}. Nothing was changed.",
    "its tool holds its lock",
    "something still writes there",
    "it cannot be read",
    "it is a mount point",
    "it is a socket in use",
    "it is a device node",
    "survived itself runs from there",
)
"""In the order in which they are tried, those without places first: one that fits more comes after one that fits less."""
_INNER = frozenset({"why", "rooms"})
"""Of which the value is a sentence by itself."""
_DURATIONS = frozenset({"ago", "settle", "dwell"})


@cache
def _pattern(shape: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+?)", re.escape(shape)))


def retell(voice: Voice, text: str) -> str:
    """Return a sentence in the reader's language where we know its shape, else as it is; safe to send either way."""
    plain = clean(text)
    if plain in SHAPES:
        return voice.translate(plain)
    for shape in SHAPES:
        if voice.translate(shape) == shape:
            continue  # the reader's language is English
        found = _pattern(shape).fullmatch(plain)
        if found is not None:
            return voice.say(shape, **{name: _value(voice, name, value) for name, value in found.groupdict().items()})
    if "; " in plain and (parts := plain.split("; ")) != [retell(voice, part) for part in parts]:
        return "; ".join(retell(voice, part) for part in parts)
    return plain


def _value(voice: Voice, name: str, value: str) -> str:
    if name in _INNER:
        return retell(voice, value)
    return voice.units(value) if name in _DURATIONS else value
