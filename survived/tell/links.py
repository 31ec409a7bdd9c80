"""
What the status document says of links that are not as we left them, and of stand-ins; and the lines made of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from survived.model import LinkState
from survived.tell.columns import entry
from survived.tell.wire import path_fields
from survived.units import print_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from survived.findings import Standin
    from survived.model import LinkReading
    from survived.tell.columns import Paint

_TEXTS = {
    LinkState.EATEN: "is a directory again, see survivectl orphans",
    LinkState.GONE: "its link is gone, see survivectl orphans",
    LinkState.ELSEWHERE: "leads elsewhere, see survivectl orphans",
    LinkState.DANGLING: "leads nowhere, although its data disk is there",
    LinkState.DISK_MISSING: "waits for its data disk; until then: survivectl standin {id}",
}


def link_documents(links: Iterable[tuple[LinkReading, LinkState]]) -> list[dict[str, Any]]:
    """Return the links that are not as we left them; those with a stand-in are told apart."""
    return [
        {
            "id": reading.item.cache_id,
            **path_fields(reading.item.source),
            **path_fields(reading.item.target, "target"),
            "state": state.value,
            **(path_fields(reading.leads_to, "leads_to") if reading.leads_to is not None else {"leads_to": None}),
        }
        for reading, state in links
        if state not in (LinkState.OK, LinkState.STANDIN)
    ]


def standin_documents(standins: Iterable[Standin]) -> list[dict[str, Any]]:
    """Return the stand-ins."""
    return [
        {
            "id": item.cache_id,
            **path_fields(item.source),
            **path_fields(item.target, "target"),
            "since": print_time(item.since),
        }
        for item in standins
    ]


def lines(doc: Mapping[str, Any], width: int, paint: Paint) -> list[str]:
    """Return a line for each link that is not as we left it, and for each stand-in."""
    found: list[str] = []
    for link in doc.get("links", ()):
        text = _TEXTS.get(link["state"])
        if text is not None:
            found += entry("link", f"{link['id']}: {text.format(id=link['id'])}", width, paint, "1;33")
    for item in doc.get("standins", ()):
        found += entry("stand-in", f"{item['id']}: an empty directory, merged when its data disk is back", width, paint, "1;33")
    return found
