"""
Why a notice could not be sent, in a few known words and without anything secret.

What Apprise logs may name hosts, users and tokens, so its text is only matched here; the one line that is shown when
nothing matches has every part of the URL replaced.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from urllib.parse import unquote

_LONGEST = 120
_SCHEMA = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,31}):/?/?")
_PARTS = re.compile(r"[\s/@:?&=,;#+]+")
_SHORTEST_PART = 4
_HTTP = {
    401: "the server wants other credentials",
    403: "the server forbids it",
    404: "the server knows no such address",
    429: "too many requests",
}
# text of smtplib, requests and the kernel -> our words; whether the next notice would fail the same way
_KNOWN: tuple[tuple[str, str, bool], ...] = (
    (r"recipient \S+ was refused: (\d{3})", "a recipient was refused ({})", False),
    (r"\((53\d), ", "login refused ({})", True),
    (r"\(([45]\d\d), ", "the server said {}", False),
    (r"connection refused|errno 111", "connection refused", True),
    (r"certificate.verify.failed|certificate verify", "the server's TLS certificate is not trusted", True),
    (r"\bssl\b|\btls\b|starttls", "no TLS connection", True),
    (r"\d+ redirects", "redirected in a circle", True),
    (r"timed out|timeout", "timed out", True),
    (r"name or service not known|name resolution|nodename nor|no address associated|getaddrinfo", "host name not found", True),
    (r"unreachable|no route to host", "network unreachable", True),
    (r"unexpectedly closed|reset by peer|remote end closed|broken pipe|aborted|not connected", "connection closed", True),
)


@dataclass(slots=True)
class Spoken:
    """What was heard while one message was sent: Apprise's warnings, and a `Retry-After` of the server."""

    lines: list[str] = field(default_factory=list)
    retry_after: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """
    Why a message was not sent, in a few words.

    `everything`: others would fail there the same way. `permanent`: trying again is pointless. `retry_seconds`: how long
    the server asked to be left alone.
    """

    why: str
    everything: bool = False
    permanent: bool = False
    retry_seconds: float = 0.0


def describe(url: str, position: int) -> str:
    """Return `destination 1 (mailto)`: its place in the configuration and its schema, nothing else of the URL."""
    match = _SCHEMA.match(url.strip())
    return f"destination {position} ({match.group(1).lower() if match else 'unknown'})"


def explain(spoken: Spoken, url: str) -> Failure:
    """Return why it failed, from what was heard of Apprise and of the server."""
    text = "\n".join(spoken.lines)
    retry = retry_seconds(spoken.retry_after, time.time())
    if match := re.search(r"error=(\d{3})\b", text):
        status = int(match.group(1))
        words = _HTTP.get(status) or ("the server is in trouble" if status >= 500 else "the server refused it")
        return Failure(f"HTTP {status}, {words}", status in (401, 403, 429) or status >= 500, retry_seconds=retry)
    for pattern, words, everything in _KNOWN:
        if match := re.search(pattern, text, re.IGNORECASE):
            return Failure(words.format(*match.groups()), everything, retry_seconds=retry)
    if not spoken.lines:
        return Failure("not sent, and Apprise does not say why", retry_seconds=retry)
    return Failure(scrub(spoken.lines[-1].removeprefix("Socket Exception: "), url), retry_seconds=retry)


def retry_seconds(text: str, now: float) -> float:
    """Return the seconds that a `Retry-After` asks for: a number, or a date (RFC 9110); 0 for none and for nonsense."""
    if text.strip().isdecimal():
        return float(text)
    from email.utils import parsedate_to_datetime  # the daemon, which only describes, does without

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (TypeError, ValueError):
        return 0.0


def scrub(text: str, url: str) -> str:
    """Return one line of `text` with every part of `url` behind its schema, quoted or not, replaced by `…`."""
    rest = url.split(":", 1)[-1]
    parts = {part for form in (rest, unquote(rest), unquote(unquote(rest))) for part in _PARTS.split(form)}
    for part in sorted((p for p in parts if len(p) >= _SHORTEST_PART), key=len, reverse=True):
        text = re.sub(re.escape(part), "…", text, flags=re.IGNORECASE)
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
