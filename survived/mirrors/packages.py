"""How a registry of npm and a channel server of conda do."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from survived.mirrors.facts import Finding, elsewhere
from survived.mirrors.fetch import Unusable, expect
from survived.units import print_time

if TYPE_CHECKING:
    from survived.mirrors.fetch import Answer, Client
    from survived.mirrors.known import Mirror

_ABBREVIATED = "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8"
_INDEX_BYTES = 64 << 20
_BULK_BYTES = 2 << 20


def probe_npm(client: Client, mirror: Mirror, wanted: dict[str, str]) -> Finding:
    """Judge a registry of npm. Raises `Unusable`."""
    answer = client.get(f"{mirror.url}/{wanted['proof']}", accept=_ABBREVIATED, limit=_INDEX_BYTES)
    versions = read_object(expect(answer, f"the package {wanted['proof']}")).get("versions")
    tarballs = [str((entry.get("dist") or {}).get("tarball")) for entry in (versions or {}).values() if isinstance(entry, dict)]
    url = next((url for url in tarballs if urlsplit(url).path.endswith(f"/{wanted['file']}")), None)
    if url is None:
        raise Unusable(f"it does not have {wanted['file']}")
    proof = expect(client.get(url, limit=_BULK_BYTES), wanted["file"])
    if base64.b64encode(hashlib.sha512(proof.body).digest()).decode() != wanted["sha512"]:
        raise Unusable(f"{wanted['file']} from it has another hash than it must have")
    fresh, key = _newest(client, mirror, wanted["fresh"])
    other = elsewhere(proof.host, mirror)
    speed = _npm_speed(client, mirror, wanted["bulk"], proof)
    return Finding(mirror, "", answer.first_seconds, speed, fresh, key, other, proven=True, pinned=True)


def read_object(answer: Answer) -> dict[str, Any]:
    """Return the JSON object that an answer is. Raises `Unusable`."""
    try:
        found = json.loads(answer.body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Unusable("it answers with a web page, not with an index" if answer.is_page else "its index is no valid JSON")
    return found


def _newest(client: Client, mirror: Mirror, package: str) -> tuple[str, tuple[float, ...]]:
    try:
        answer = expect(client.get(f"{mirror.url}/{package}", accept=_ABBREVIATED, limit=_INDEX_BYTES), package)
        versions = [version for version in read_object(answer).get("versions") or {} if re.fullmatch(r"\d+(\.\d+)*", version)]
    except Unusable:
        return "", ()
    newest = max((tuple(float(part) for part in version.split(".")) for version in versions), default=())
    return (f"{package} {'.'.join(f'{part:.0f}' for part in newest)}", newest) if newest else ("", ())


def _npm_speed(client: Client, mirror: Mirror, package: str, proof: Answer) -> float | None:
    try:
        answer = expect(client.get(f"{mirror.url}/{package}/latest", limit=_INDEX_BYTES), package)
        got = expect(client.get(str(read_object(answer)["dist"]["tarball"]), limit=_BULK_BYTES), package)
    except (Unusable, KeyError, TypeError):
        got = proof
    return len(got.body) / max(got.seconds, 1e-3) if got.body else None


def probe_conda(client: Client, mirror: Mirror, wanted: dict[str, str]) -> Finding:
    """
    Judge a server of conda channels: the time of an index, and a package whose hash that index has.

    The index is the mirror's own word, so that the hash is not pinned. Raises `Unusable`.
    """
    index = f"{mirror.url}/{wanted['proof']}/repodata.json"
    head = client.get(f"{index}.zst", head=True)
    if head.status != 200:
        head = expect(client.get(index, head=True), f"the index of {wanted['proof']}")
    if head.is_page:
        raise Unusable("it answers with a web page, not with an index")
    when = _time(head.headers.get("last-modified", ""))
    small = client.get(f"{mirror.url}/{wanted['proof']}/current_repodata.json", limit=_INDEX_BYTES)
    answer = small if small.status == 200 else expect(client.get(index, limit=_INDEX_BYTES), f"the index of {wanted['proof']}")
    if not answer.is_whole:
        raise Unusable("its index has no end")
    found = read_object(answer)
    packages = {**(found.get("packages") or {}), **(found.get("packages.conda") or {})}
    entries = [
        (entry.get("size") or 0, name, entry) for name, entry in packages.items() if isinstance(entry, dict) and "sha256" in entry
    ]
    if not entries:
        raise Unusable(f"the index of {wanted['proof']} has no package")
    _, name, entry = min(entries, key=lambda item: (item[0], item[1]))
    proof = expect(client.get(f"{mirror.url}/{wanted['proof']}/{name}", limit=_INDEX_BYTES), name)
    if hashlib.sha256(proof.body).hexdigest() != entry["sha256"]:
        raise Unusable(f"{name} from it has another hash than its index says")
    other = elsewhere(proof.host, mirror)
    speed = len(answer.body) / max(answer.seconds, 1e-3)
    fresh = print_time(when)[:16] if when else ""
    return Finding(mirror, "", head.first_seconds, speed, fresh, (when,) if when else (), other, proven=True)


def _time(text: str) -> float:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError):
        return 0.0
