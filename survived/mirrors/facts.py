"""What was found of a mirror, as values; nothing here touches a network or a clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from survived.mirrors.known import Mirror


@dataclass(frozen=True, slots=True)
class Finding:
    """
    How one mirror does.

    `why` says what is wrong with one that is not `ok`. `latency_seconds` is until its index begins to answer, `bytes_per_second`
    what a small download reached. `fresh` is how new its content is, for people; `fresh_key` the same for comparing, () if it
    cannot be told. `data_host` is the host that file data comes from where that is another site than the mirror's own.
    `proven`: a download had the hash it must have; `pinned`: that hash is ours or signed, not only the mirror's own word.
    """

    mirror: Mirror
    why: str = ""
    latency_seconds: float | None = None
    bytes_per_second: float | None = None
    fresh: str = ""
    fresh_key: tuple[float, ...] = ()
    data_host: str = ""
    proven: bool = False
    pinned: bool = False

    @property
    def ok(self) -> bool:
        """Whether it answered as it must."""
        return not self.why


def elsewhere(host: str, mirror: Mirror) -> str:
    """Return the host that data came from if that is not the mirror's own site; the official servers have several."""
    own = urlsplit(mirror.url).hostname or ""
    return "" if mirror.is_official or site(host) == site(own) else host


def site(host: str) -> str:
    """Return the part of a host name that its owner has: `files.pythonhosted.org` and `pythonhosted.org` are one site."""
    parts = host.split(".")
    if len(parts) < 3 or host.replace(".", "").isdigit():
        return host
    few = 3 if parts[-2] in ("com", "edu", "org", "net", "gov", "ac") and len(parts[-1]) == 2 else 2
    return ".".join(parts[-few:])
