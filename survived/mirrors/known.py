"""The mirrors that are known, as `settings/mirrors.toml` has them, and one that a person names by its URL."""

from __future__ import annotations

import functools
import importlib.resources
import tomllib
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from survived.errors import UsageError

TOOLS = ("pip", "uv", "conda", "npm", "apt", "docker", "hub")
"""The tools that can be led to a mirror; `hub` is Hugging Face's (HF_ENDPOINT)."""
_SERVED = {"uv": "pip"}
"""The tools that use what is served for another one."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """
    What one site serves for one tool. `url` without a slash at its end.

    `extra` are further addresses of the same site that belong to it: conda's defaults, a distribution's security updates.
    `upstream` is the id of the mirror that it pulls from, "" if it pulls from the official servers itself.
    """

    id: str
    tool: str
    url: str
    title: str = ""
    region: str = ""
    upstream: str = ""
    is_official: bool = False
    extra: tuple[tuple[str, str], ...] = ()

    @property
    def shown(self) -> str:
        """The URL without a password."""
        return without_password(self.url)


def without_password(url: str) -> str:
    """Return a URL as it may be shown: a password in it is three asterisks."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return url.replace(f":{parts.password}@", ":***@", 1)


@functools.cache
def _data() -> dict[str, Any]:
    text = importlib.resources.files("survived.settings").joinpath("mirrors.toml").read_text("utf-8")
    return tomllib.loads(text)


def sample(tool: str) -> dict[str, str]:
    """Return what is fetched from a mirror of this tool to judge it."""
    return dict(_data()["samples"][_SERVED.get(tool, tool)])


def mirrors(tool: str, distribution: str = "debian") -> tuple[Mirror, ...]:
    """Return the known mirrors for a tool, the official one first; for apt those of a distribution (`debian`, `ubuntu`)."""
    key = distribution if tool == "apt" else _SERVED.get(tool, tool)
    found = []
    for site in _data()["mirror"]:
        if key in site:
            extra = tuple((name.removeprefix(f"{key}_"), site[name]) for name in site if name.startswith(f"{key}_"))
            found.append(
                Mirror(
                    site["id"], tool, site[key], site["title"], site["region"], site.get("upstream", ""),
                    site.get("official", False), extra,
                )
            )  # fmt: skip
    return tuple(found)


def named(tool: str, url: str) -> Mirror:
    """Return the mirror at a URL that a person gives: an intranet's own. Raises `UsageError`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or any(c.isspace() or not c.isprintable() for c in url):
        raise UsageError(f"Cannot use '{without_password(url)}': it is no http or https URL. Nothing was changed.")
    return at(tool, url)


def at(tool: str, url: str, distribution: str = "debian") -> Mirror:
    """Return the mirror at a URL that is one: a known mirror, or one without further addresses."""
    clean = url.rstrip("/")
    for mirror in mirrors(tool, distribution or "debian"):
        if mirror.url == clean:
            return mirror
    return Mirror(urlsplit(clean).netloc.rpartition("@")[2], tool, clean, "given by URL", "intranet")


def find(tool: str, word: str, distribution: str = "debian") -> Mirror:
    """Return a known mirror by its id, or the one at a URL. Raises `UsageError` that names the nearest."""
    if "://" in word:
        return named(tool, word)
    known = mirrors(tool, distribution)
    for mirror in known:
        if mirror.id == word:
            return mirror
    import difflib

    near = difflib.get_close_matches(word, [mirror.id for mirror in known], 1)
    hint = f"Did you mean '{near[0]}'?" if near else f"Known for {tool}: {', '.join(mirror.id for mirror in known)}; or give a URL."
    raise UsageError(f"Cannot find the mirror '{word[:60]}' for {tool}. Nothing was changed.", hint)


def check_tool(word: str) -> str:
    """Return the tool's name. Raises `UsageError` that names the nearest."""
    if word in TOOLS:
        return word
    alias = {"pypi": "pip", "hf": "hub", "huggingface": "hub", "yarn": "npm", "pnpm": "npm", "mamba": "conda", "debian": "apt"}
    import difflib

    near = alias.get(word) or next(iter(difflib.get_close_matches(word, TOOLS, 1)), None)
    hint = f"Did you mean '{near}'?" if near else f"Tools with mirrors: {', '.join(TOOLS)}."
    raise UsageError(f"Cannot use mirrors for '{word[:60]}': no such tool is known. Nothing was changed.", hint)
