"""
What the log tells of, as journald knows it: an id for each kind of event, and what belongs to one as fields.

`systemd/survived.catalog` explains each; `journalctl -x` shows that, and `journalctl SURVIVED_CACHE=pip` what happened to one
cache. An id never changes its meaning: a new one is made with `systemd-id128 new`.
"""

from __future__ import annotations

from enum import StrEnum


class Event(StrEnum):
    """Kinds of events; the values are journald's MESSAGE_ID."""

    STARTED = "1363711ed55a44ebb2c3c17608327e6d"
    START_FAILED = "da87a1a30a6f4d65b9991adef4596214"
    PRESSURE = "4f71cbab87194edab2448f2a2bc0add5"
    MOVE_BEGUN = "03a77fd4af354f0583838629b342f209"
    MOVE_DONE = "8c032e8141684b0d95ec39f3e4dc630a"
    MOVE_FAILED = "c3868ba6beb24907b604fe4343893d50"
    WOULD_MOVE = "e8ed849660dc4c0fb89d346c523b12b1"
    STOPPED_MIDWAY = "c4ab2d1ab529427eb2b7f5a3a117f1f9"
    RECOVERED = "a9519f5a92b84d659407978090fbd026"
    CONFIG_READ = "9c8dd81b8da048caa12a3a886bf38fe6"
    TROUBLE = "4caff779aae541cf92407cebd4157eda"
    NOTICE = "5c2f993d777248ceb6593b718555b99f"
    STANDIN_MERGED = "97d45ecfad7643679a93a32696e675f3"
    LINK_FORGOTTEN = "901c5984a1dd4fdbba258f86b918ec79"
    STORE_LOST = "1015457c9c5a4d49ac39b25606d28857"
    LOG_LOST = "700e7baa3fa94735960fc0b3d630bb2b"


FIELDS = frozenset(
    {
        "cache", "error", "freed_bytes", "mount", "path", "pressure", "reason",
        "size_bytes", "target", "topic", "usage", "verb", "version",
    }
)  # fmt: skip
"""What `about` takes; in the journal `cache` is SURVIVED_CACHE."""


def about(event: Event, **fields: object) -> dict[str, object]:
    """
    Return the `extra` of a log call: what the message is about. A field that is None or empty is left out.

    Raises KeyError for a field that the catalogue does not know, so that no name is ever misspelt.
    """
    if unknown := fields.keys() - FIELDS:
        raise KeyError(*sorted(unknown))
    return {"survived": (event, {name: str(value) for name, value in fields.items() if value not in (None, "")})}
