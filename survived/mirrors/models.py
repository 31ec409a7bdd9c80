"""
How a mirror of the model hub does: its API, and where the data of files comes from in the end.

A hub's API may answer from the mirror while it redirects file data elsewhere, which a gateway does not let through: so the
data of a large-store file is fetched, too.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from survived.mirrors.facts import Finding, elsewhere
from survived.mirrors.fetch import Unusable, expect
from survived.mirrors.packages import read_object

if TYPE_CHECKING:
    from survived.mirrors.fetch import Answer, Client
    from survived.mirrors.known import Mirror

_DATA_BYTES = 2 << 20


def probe(client: Client, mirror: Mirror, wanted: dict[str, str]) -> Finding:
    """Judge a hub by one small public model. Raises `Unusable`."""
    repo = wanted["proof"]
    answer = expect(client.get(f"{mirror.url}/api/models/{repo}/revision/main"), f"the model {repo}")
    about = read_object(answer)
    commit = str(about.get("sha") or "")
    if not commit:
        raise Unusable("its answer about a model has no revision")
    modified = str(about.get("lastModified") or "")
    small = expect(client.get(f"{mirror.url}/{repo}/resolve/{commit}/{wanted['file']}"), wanted["file"])
    proven = _has_its_hash(small)
    try:
        data = expect(client.get(f"{mirror.url}/{repo}/resolve/{commit}/{wanted['data']}", limit=_DATA_BYTES), wanted["data"])
    except Unusable as unusable:
        raise Unusable(f"its API answers, but file data does not come through: {unusable}") from unusable
    if data.is_page:
        raise Unusable("its API answers, but file data does not come through: a web page comes instead")
    other = elsewhere(data.host, mirror)
    speed = len(data.body) / max(data.seconds, 1e-3) if data.body else None
    return Finding(mirror, "", answer.first_seconds, speed, modified[:10], (), other, proven=proven)


def _has_its_hash(answer: Answer) -> bool:
    """
    Compare a file with its ETag: the SHA-256 of a large file, git's hash of a small one. Raises `Unusable` if they differ.

    False where the ETag is neither: then nothing is proven.
    """
    etag = (answer.headers.get("x-linked-etag") or answer.headers.get("etag", "")).removeprefix("W/").strip('"')
    if len(etag) == 64:
        found = hashlib.sha256(answer.body).hexdigest()
    elif len(etag) == 40:
        found = hashlib.sha1(b"blob %d\0" % len(answer.body) + answer.body, usedforsecurity=False).hexdigest()
    else:
        return False
    if found != etag:
        raise Unusable("a file from it has another hash than it must have")
    return True
