"""
What Prometheus is told: the status document as a text file for node_exporter's textfile collector.

The format is a dozen lines to write and its rules are few, so they are written here: prometheus_client would cost the idle
daemon 5 MiB for registries, locks and an HTTP server that nothing of ours needs. promtool checks the result in the tests.

Every series has a label `user`, since all users' files on a machine become one page there. Shares are 0..1, sizes bytes,
times seconds, as Prometheus wants them. Counters are those of the running daemon and begin at zero with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from survived.model import CacheState, LinkState, Pressure, Verb
from survived.units import escape_surrogates

if TYPE_CHECKING:
    from collections.abc import Mapping

_GAUGE, _COUNTER = "gauge", "counter"
FAMILIES: dict[str, tuple[str, str]] = {
    "build_info": (_GAUGE, "The version of survived; always 1."),
    "up": (_GAUGE, "Whether the daemon was running when this was written."),
    "start_time_seconds": (_GAUGE, "When the daemon began, in seconds of Unix time."),
    "last_tick_time_seconds": (_GAUGE, "When the daemon last looked at the disks, in seconds of Unix time."),
    "paused": (_GAUGE, "Whether a person has paused moving."),
    "problems": (_GAUGE, "Problems that last and that survivectl status shows."),
    "filesystem_capacity_bytes": (_GAUGE, "Size of a watched filesystem, or of the quota on it where that binds."),
    "filesystem_used_bytes": (_GAUGE, "Bytes in use."),
    "filesystem_available_bytes": (_GAUGE, "Bytes that its user may still write."),
    "filesystem_usage_ratio": (_GAUGE, "Used / (used + available), as df has it."),
    "filesystem_inodes_usage_ratio": (_GAUGE, "The same of inodes; 0 where the filesystem counts none."),
    "filesystem_mark_ratio": (_GAUGE, "The usage of each watermark (low, high, flood)."),
    "filesystem_inodes_mark_ratio": (_GAUGE, "The usage of inodes of each watermark."),
    "filesystem_pressure": (_GAUGE, "1 for the pressure that the filesystem is under (normal, high, flood), else 0."),
    "filesystem_time_to_full_seconds": (_GAUGE, "When the filesystem is full at its present rate; absent if it does not fill."),
    "cache_size_bytes": (_GAUGE, "Allocated bytes of a cache that is there, each inode once."),
    "cache_reclaimable_bytes": (_GAUGE, "What moving the cache gives back to its filesystem; 0 once it has moved."),
    "cache_state": (_GAUGE, "1 for the state that the cache is in (home, moving, relocated, dangling), else 0."),
    "links": (_GAUGE, "Links of relocated paths, by how they stand."),
    "store_available_bytes": (_GAUGE, "Bytes available on a data disk."),
    "store_usage_ratio": (_GAUGE, "Used / (used + available) of a data disk."),
    "store_ok": (_GAUGE, "Whether a data disk can be used."),
    "move_running": (_GAUGE, "Whether something is being moved."),
    "move_done_ratio": (_GAUGE, "How much of the running move is copied; absent if nothing moves."),
    "relocations_total": (_COUNTER, "Moves that came to their end, by verb (relocate, restore, rehome)."),
    "freed_bytes_total": (_COUNTER, "Bytes that moves gave back to watched filesystems."),
    "move_failures_total": (_COUNTER, "Moves that failed or were refused when they were tried."),
    "notices_pending": (_GAUGE, "Notices that wait to be delivered."),
    "notices_failing": (_GAUGE, "Whether the last delivery to some destination failed."),
    "notices_last_delivered_time_seconds": (_GAUGE, "When a notice was last delivered, in seconds of Unix time."),
    "log_lines_lost_total": (_COUNTER, "Lines of the log that nobody took."),
}
"""Every metric without its prefix: the type, and what it is, in one sentence."""
PREFIX = "survived_"
_STATES = [state for state in CacheState if state is not CacheState.ABSENT]


@dataclass(slots=True)
class Counters:
    """What is only ever counted up, since the daemon began; `freed_bytes` of relocations."""

    relocations: int = 0
    restores: int = 0
    rehomes: int = 0
    freed_bytes: int = 0
    failures: int = 0
    lost_lines: int = 0


class _Page:
    """Samples by family, in the order of `FAMILIES`, since all of a family have to stand together."""

    def __init__(self, user: str) -> None:
        self._user = user
        self._rows: dict[str, list[str]] = {name: [] for name in FAMILIES}

    def add(self, name: str, value: float | None, **labels: str) -> None:
        """Add one sample; None stands for one that is not there."""
        if value is None:
            return
        pairs = ",".join(f'{key}="{_escape(text)}"' for key, text in {"user": self._user, **labels}.items())
        number = str(int(value)) if float(value).is_integer() else repr(float(value))
        self._rows[name].append(f"{PREFIX}{name}{{{pairs}}} {number}")

    def text(self) -> str:
        """Return the page: families that have samples, each with HELP and TYPE."""
        lines: list[str] = []
        for name, rows in self._rows.items():
            if rows:
                kind, what = FAMILIES[name]
                lines += [f"# HELP {PREFIX}{name} {what}", f"# TYPE {PREFIX}{name} {kind}", *rows]
        return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    """Return a label's value as the format has it: UTF-8, with backslash, quote and newline escaped."""
    return escape_surrogates(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def render(doc: Mapping[str, Any], counters: Counters, user: str) -> str:
    """Return the page made of a status document (schema 1) and the counters of the daemon that wrote it."""
    page = _Page(user)
    page.add("build_info", 1, version=doc["version"])
    _daemon(page, doc)
    for fs in doc["filesystems"]:
        _filesystem(page, fs)
    for cache in doc["caches"]:
        _cache(page, cache)
    for state in LinkState:
        page.add("links", sum(link["state"] == state for link in doc["links"]), state=state.value)
    for store in doc["stores"]:
        labels = {"store": store["path"], "mount": store["mount"]}
        page.add("store_available_bytes", store["available_bytes"], **labels)
        page.add("store_usage_ratio", store["usage"], **labels)
        page.add("store_ok", store["ok"], **labels)
    _moves(page, doc["move"], counters)
    _notices(page, doc["notices"])
    page.add("log_lines_lost_total", counters.lost_lines)
    return page.text()


def render_end(version: str, now: float, user: str) -> str:
    """Return the page of a daemon that has ended: nothing that would be wrong soon."""
    page = _Page(user)
    page.add("build_info", 1, version=version)
    page.add("up", 0)
    page.add("last_tick_time_seconds", now)
    return page.text()


def _daemon(page: _Page, doc: Mapping[str, Any]) -> None:
    daemon = doc["daemon"]
    page.add("up", daemon["running"])
    page.add("start_time_seconds", _unix(daemon["since"]))
    page.add("last_tick_time_seconds", _unix(doc["time"]))
    page.add("paused", daemon.get("paused", False))
    page.add("problems", len(doc["problems"]))


def _filesystem(page: _Page, fs: Mapping[str, Any]) -> None:
    mount = fs["mount"]
    for name in ("capacity_bytes", "used_bytes", "available_bytes"):
        page.add(f"filesystem_{name}", fs[name], mount=mount)
    page.add("filesystem_usage_ratio", fs["usage"], mount=mount)
    page.add("filesystem_inodes_usage_ratio", fs["inodes_usage"], mount=mount)
    for mark in ("low", "high", "flood"):
        page.add("filesystem_mark_ratio", fs[mark], mount=mount, mark=mark)
        page.add("filesystem_inodes_mark_ratio", fs[f"inodes_{mark}"], mount=mount, mark=mark)
    for pressure in Pressure:
        page.add("filesystem_pressure", fs["pressure"] == pressure, mount=mount, pressure=pressure.value)
    page.add("filesystem_time_to_full_seconds", fs["seconds_to_full"], mount=mount)


def _cache(page: _Page, cache: Mapping[str, Any]) -> None:
    if cache["state"] == CacheState.ABSENT:
        return
    labels = {"cache": cache["id"], "kind": cache["kind"]}
    at_home = cache["state"] in (CacheState.HOME, CacheState.MOVING)
    page.add("cache_size_bytes", cache["size_bytes"], **labels)
    page.add("cache_reclaimable_bytes", cache["reclaimable_bytes"] if at_home else 0, **labels)
    for state in _STATES:
        page.add("cache_state", cache["state"] == state, **labels, state=state.value)


def _moves(page: _Page, move: Mapping[str, Any] | None, counters: Counters) -> None:
    page.add("move_running", move is not None)
    if move is not None and move["bytes_total"]:
        page.add("move_done_ratio", min(1.0, move["bytes_done"] / move["bytes_total"]))
    for verb, count in ((Verb.RELOCATE, counters.relocations), (Verb.RESTORE, counters.restores), (Verb.REHOME, counters.rehomes)):
        page.add("relocations_total", count, verb=verb.value)
    page.add("freed_bytes_total", counters.freed_bytes)
    page.add("move_failures_total", counters.failures)


def _notices(page: _Page, notices: Mapping[str, Any]) -> None:
    page.add("notices_pending", notices.get("pending", 0))
    page.add("notices_failing", bool(notices.get("last_error")))
    page.add("notices_last_delivered_time_seconds", _unix(notices.get("last_delivered")))


def _unix(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text).timestamp()
