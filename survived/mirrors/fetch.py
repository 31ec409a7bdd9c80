"""
Fetching from a mirror: small, with an end to every wait, and without anything that is secret.

No cookie, no netrc, no token is ever sent: who asks a mirror asks as nobody. `requests` comes with Apprise.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONNECT_SECONDS, _READ_SECONDS = 4.0, 6.0
_CHUNK = 64 << 10
_SYSTEM_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
"""Where an admin puts the intranet's own authority; Debian's and Ubuntu's place."""


class Unusable(Exception):  # noqa: N818  a finding about a mirror, told as data
    """Why a mirror cannot be used, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What came: `body` up to the limit, `first_seconds` until the headers were there, `seconds` until the body was.

    `url` is where it came from in the end, `is_whole` whether the body ended before the limit. Header names are small.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    first_seconds: float
    seconds: float
    is_whole: bool

    @property
    def host(self) -> str:
        """The host that sent the body."""
        return urlsplit(self.url).hostname or ""

    @property
    def is_page(self) -> bool:
        """Whether this is a web page."""
        return "html" in self.headers.get("content-type", "") or self.body[:256].lstrip().lower().startswith(
            (b"<!doctype", b"<html")
        )


class Client:
    """Fetches for one probe, which ends at `deadline` on the monotonic clock."""

    def __init__(self, env: Mapping[str, str], deadline: float) -> None:
        import requests

        self._deadline, self._requests = deadline, requests
        self._session = requests.Session()
        self._session.trust_env = False  # it would send what ~/.netrc has for this host
        self._session.max_redirects = 5
        self._session.headers["User-Agent"] = "survived"
        self._session.proxies = {
            scheme: env[name]
            for scheme in ("http", "https")
            for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY")
            if env.get(name)
        }
        self._no_proxy = env.get("no_proxy") or env.get("NO_PROXY") or ""
        own = env.get("REQUESTS_CA_BUNDLE") or env.get("SSL_CERT_FILE") or _SYSTEM_CERTIFICATES
        self._session.verify = own if os.path.exists(own) else True

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def get(self, url: str, *, accept: str = "*/*", limit: int = 1 << 20, head: bool = False, token: str = "") -> Answer:
        """
        Fetch up to `limit` bytes. `token` is one that this server itself gave to nobody in particular.

        Raises `Unusable` for a server that cannot be reached, hangs, or redirects without end; any status is an answer.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise Unusable("it does not answer in time")
        headers = {"Accept": accept, "Accept-Encoding": "identity"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        errors = self._requests.exceptions
        began = time.monotonic()
        try:
            answer = self._session.request(
                "HEAD" if head else "GET", url, headers=headers, stream=True, allow_redirects=True,
                timeout=(min(_CONNECT_SECONDS, left), min(_READ_SECONDS, left)), proxies=self._proxies(url),
            )  # fmt: skip
            with answer:
                first = time.monotonic() - began
                body, is_whole = self._read(answer, 0 if head else limit)
        except errors.Timeout as error:
            raise Unusable("it does not answer in time") from error
        except errors.SSLError as error:
            raise Unusable("its certificate cannot be trusted") from error
        except errors.TooManyRedirects as error:
            raise Unusable("it redirects without end") from error
        except errors.ConnectionError as error:
            raise Unusable(_reason(error)) from error
        except (errors.RequestException, ValueError, OSError) as error:
            raise Unusable(f"its answer cannot be read ({type(error).__name__})") from error
        small = {name.lower(): value for name, value in answer.headers.items()}
        return Answer(answer.url, answer.status_code, small, body, first, time.monotonic() - began, is_whole)

    def _read(self, answer: object, limit: int) -> tuple[bytes, bool]:
        parts, size = [], 0
        if limit == 0:
            return b"", True
        for chunk in answer.iter_content(_CHUNK):  # type: ignore[attr-defined]
            parts.append(chunk)
            size += len(chunk)
            if size >= limit:
                return b"".join(parts)[:limit], False
            if time.monotonic() > self._deadline:
                raise Unusable("it does not answer in time")
        return b"".join(parts), True

    def _proxies(self, url: str) -> dict[str, str] | None:
        from requests.utils import should_bypass_proxies

        return {"http": "", "https": ""} if should_bypass_proxies(url, self._no_proxy or None) else None


def _reason(error: Exception) -> str:
    text = str(error).lower()
    if "name or service not known" in text or "name resolution" in text or "nodename" in text or "no address" in text:
        return "its name is not known here"
    if "refused" in text:
        return "the connection is refused"
    if "unreachable" in text or "no route" in text:
        return "there is no way to it"
    if "timed out" in text:
        return "it does not answer in time"
    return "it closes the connection"


def expect(answer: Answer, what: str) -> Answer:
    """Return the answer if it is one. Raises `Unusable` with what is wrong: the status, or a web page in place of `what`."""
    if answer.status in (401, 403, 407):
        raise Unusable(f"it refuses to serve {what} ({answer.status})")
    if answer.status >= 500:
        raise Unusable(f"it is broken ({answer.status} for {what})")
    if answer.status != 200:
        raise Unusable(f"it does not have {what} ({answer.status})")
    return answer
