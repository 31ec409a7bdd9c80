"""How a package index of Python does: the simple API (PEP 503, PEP 691), its freshness, and a file with a known hash."""

from __future__ import annotations

import hashlib
import html
import json
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin, urlsplit

from survived.mirrors.facts import Finding, elsewhere
from survived.mirrors.fetch import Unusable, expect

if TYPE_CHECKING:
    from survived.mirrors.fetch import Answer, Client
    from survived.mirrors.known import Mirror

_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_LINK = re.compile(r"""<a\s[^>]*href\s*=\s*["']([^"']+)["']""", re.IGNORECASE)
_PAGE_BYTES = 32 << 20
_BULK_BYTES = 2 << 20


def probe(client: Client, mirror: Mirror, wanted: dict[str, str]) -> Finding:
    """Judge an index. Raises `Unusable`."""
    answer = client.get(f"{mirror.url}/{wanted['proof']}/", accept=_ACCEPT, limit=_PAGE_BYTES)
    links = _files(expect(answer, f"the project {wanted['proof']}"), wanted["proof"])
    url = next((url for url in links if _name(url) == wanted["file"]), None)
    if url is None:
        raise Unusable(f"it does not have {wanted['file']}")
    proof = expect(client.get(url, limit=_BULK_BYTES), wanted["file"])
    if hashlib.sha256(proof.body).hexdigest() != wanted["sha256"]:
        raise Unusable(f"{wanted['file']} from it has another hash than it must have")
    fresh, key = _freshness(client, mirror, wanted["fresh"])
    other = elsewhere(proof.host, mirror)
    speed = _speed(client, mirror, wanted["bulk"], proof)
    return Finding(mirror, "", answer.first_seconds, speed, fresh, key, other, proven=True, pinned=True)


def _files(answer: Answer, project: str) -> list[str]:
    """Return the URLs of a project's files, without fragments. Raises `Unusable` for what is no index."""
    if not answer.is_whole:
        raise Unusable("its index has no end")
    if "json" in answer.headers.get("content-type", ""):
        try:
            found = [str(file["url"]) for file in json.loads(answer.body)["files"]]
        except (ValueError, KeyError, TypeError) as error:
            raise Unusable("its index is no valid JSON") from error
    else:
        found = [html.unescape(link) for link in _LINK.findall(answer.body.decode("utf-8", "replace"))]
    urls = [urljoin(answer.url, link).partition("#")[0] for link in found]
    stem = project.replace("-", "_").lower()
    files = [url for url in urls if _name(url).lower().replace("-", "_").startswith(f"{stem}_")]
    if not files:
        raise Unusable(f"it answers with a web page, not with an index: no file of {project} is in it")
    return files


def _name(url: str) -> str:
    return unquote(urlsplit(url).path.rpartition("/")[2])


def _freshness(client: Client, mirror: Mirror, project: str) -> tuple[str, tuple[float, ...]]:
    """Return the newest version of a project that is released often; nothing if this index does not have it."""
    try:
        answer = client.get(f"{mirror.url}/{project}/", accept=_ACCEPT, limit=_PAGE_BYTES)
        files = _files(expect(answer, project), project)
    except Unusable:
        return "", ()
    versions = []
    for url in files:
        found = re.match(rf"{re.escape(project)}[-_](\d+(?:\.\d+)*)(?:-|\.tar|\.zip)", _name(url), re.IGNORECASE)
        if found:
            versions.append(tuple(float(part) for part in found[1].split(".")))
    newest = max(versions, default=())
    return (f"{project} {'.'.join(f'{part:.0f}' for part in newest)}", newest) if newest else ("", ())


def _speed(client: Client, mirror: Mirror, project: str, proof: Answer) -> float | None:
    """Return the bytes a second of the newest wheel of a project of some size, or of the small file if that is missing."""
    try:
        answer = client.get(f"{mirror.url}/{project}/", accept=_ACCEPT, limit=_PAGE_BYTES)
        wheels = [url for url in _files(expect(answer, project), project) if url.endswith(".whl")]
        got = expect(client.get(wheels[-1], limit=_BULK_BYTES), project) if wheels else proof
    except Unusable:
        got = proof
    return len(got.body) / max(got.seconds, 1e-3) if got.body else None
