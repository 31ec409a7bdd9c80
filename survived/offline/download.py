"""
One file over HTTP(S) or from a `file:` URL: resumed where it stopped, checked, and never an error page.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
import zlib
from typing import TYPE_CHECKING

from survived.errors import SurvivedError, UsageError
from survived.offline.verifying import silent

if TYPE_CHECKING:
    from survived.offline.verifying import Tell

TIMEOUT_SECONDS = 30.0
_CHUNK = 1 << 20
_AGENT = "survived"
_TRIES = 3


def download(url: str, path: str, *, digest: str | None = None, tell: Tell = silent) -> None:
    """
    Fetch `url` to `path`; a file that is there with the right digest is kept.

    `digest` is `sha256:HEX` or `md5:HEX`. A broken connection is taken up again where the server can. `SurvivedError` if it
    stays broken, answers with a web page instead of the file, or with other bytes than the digest says.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https", "file"):
        raise UsageError(f"Cannot fetch '{url}': it is no http, https or file URL.")
    if os.path.exists(path) and (digest is None or _matches(path, digest)):
        return
    partial = f"{path}.partial"
    problem: Exception | None = None
    for _ in range(_TRIES):
        try:
            _fetch(url, partial, tell)
            break
        except (TimeoutError, ConnectionError, http.client.HTTPException, _BrokenError) as error:
            problem = error
        except urllib.error.HTTPError as error:
            raise SurvivedError(
                f"Cannot fetch '{_plain(url)}': the server says {error.code} {error.reason}. Nothing was packed."
            ) from error
        except urllib.error.URLError as error:
            problem = error
    else:
        why = getattr(problem, "reason", None) or problem
        raise SurvivedError(f"Cannot fetch '{_plain(url)}': {why}. What came is kept.", "Run the same command again.") from problem
    if digest is not None and not _matches(partial, digest):
        os.unlink(partial)
        raise SurvivedError(f"Cannot use '{_plain(url)}': its checksum is not {digest}. What came was removed.")
    os.link(partial, path)
    os.unlink(partial)


class _BrokenError(Exception):
    """The server closed before the end."""


def _fetch(url: str, partial: str, tell: Tell) -> None:
    at = os.path.getsize(partial) if os.path.exists(partial) else 0
    request = urllib.request.Request(url, headers={"User-Agent": _AGENT, **({"Range": f"bytes={at}-"} if at else {})})  # noqa: S310  checked
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)  # noqa: S310  scheme checked by the caller
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        os.unlink(partial)
        raise _BrokenError("its size has changed") from error
    with contextlib.closing(answer):
        if answer.headers.get_content_type() == "text/html":
            raise SurvivedError(
                f"Cannot fetch '{_plain(url)}': the server answers with a web page, not with the file. Nothing was packed."
            )
        if getattr(answer, "status", None) != http.HTTPStatus.PARTIAL_CONTENT:
            at = 0
        length = answer.headers.get("Content-Length")
        total = at + int(length) if length else 0
        with open(partial, "ab" if at else "wb") as file:
            while data := answer.read(_CHUNK):
                file.write(data)
                at += len(data)
                tell("fetch", at, total)
        if total and at < total:
            raise _BrokenError(f"it closed after {at:,} of {total:,} bytes")
    if answer.headers.get("Content-Encoding") == "gzip":  # the VS Code gallery sends its packages so
        _expand(partial)


def _expand(path: str) -> None:
    plain = f"{path}.plain"
    try:
        with gzip.open(path) as packed, open(plain, "wb") as file:
            shutil.copyfileobj(packed, file)
    except (OSError, EOFError, zlib.error) as error:
        os.unlink(path)
        raise _BrokenError("its compressed data is broken") from error
    os.unlink(path)
    os.link(plain, path)
    os.unlink(plain)


def _matches(path: str, digest: str) -> bool:
    kind, _, wanted = digest.partition(":")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest() == wanted.lower()


def _plain(url: str) -> str:
    """Return a URL without password and query, where tokens are."""
    found = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((found.scheme, found.netloc.rpartition("@")[2], found.path, "", ""))
