"""How a mirror of docker's registry does: the registry API as nobody in particular, and an image's manifest by its digest."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from survived.mirrors.facts import Finding, elsewhere
from survived.mirrors.fetch import Unusable, expect

if TYPE_CHECKING:
    from survived.mirrors.fetch import Answer, Client
    from survived.mirrors.known import Mirror

_MANIFESTS = ", ".join(
    f"application/vnd.{kind}"
    for kind in (
        "oci.image.index.v1+json", "docker.distribution.manifest.list.v2+json", "oci.image.manifest.v1+json",
        "docker.distribution.manifest.v2+json",
    )
)  # fmt: skip


def probe(client: Client, mirror: Mirror, wanted: dict[str, str]) -> Finding:
    """Judge a registry by one public image. Raises `Unusable`."""
    first = client.get(f"{mirror.url}/v2/")
    if first.status not in (200, 401) or "registry/2.0" not in first.headers.get("docker-distribution-api-version", "registry/2.0"):
        expect(first, "the registry API")
    if first.is_page:
        raise Unusable("it answers with a web page, not as a registry")
    name = wanted["proof"]
    url = f"{mirror.url}/v2/{name}/manifests/latest"
    answer, token = _get(client, url, "")
    body = expect(answer, f"the image {name}").body
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    if answer.headers.get("docker-content-digest", digest) != digest:
        raise Unusable(f"the image {name} from it has another digest than it says")
    blob = _smallest_blob(client, mirror, name, body, token)
    proof, _ = _get(client, f"{mirror.url}/v2/{name}/blobs/{blob}", token)
    if f"sha256:{hashlib.sha256(expect(proof, f'a layer of {name}').body).hexdigest()}" != blob:
        raise Unusable(f"a layer of {name} from it has another digest than its name")
    other = elsewhere(proof.host, mirror)
    return Finding(mirror, "", first.first_seconds, len(proof.body) / max(proof.seconds, 1e-3), "", (), other, proven=True)


def _get(client: Client, url: str, token: str) -> tuple[Answer, str]:
    """Fetch, with a token that the registry gives to anybody if it wants one; return that, too."""
    answer = client.get(url, accept=_MANIFESTS, token=token)
    challenge = answer.headers.get("www-authenticate", "")
    if answer.status != 401 or not challenge.lower().startswith("bearer"):
        return answer, token
    asked = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = asked.pop("realm", "")
    if not realm.startswith("https://") and urlsplit(realm).hostname != urlsplit(url).hostname:
        raise Unusable("it asks for a token from elsewhere")
    given = expect(client.get(f"{realm}?{urlencode(asked)}"), "a token for nobody in particular")
    try:
        found = json.loads(given.body)
        token = str(found.get("token") or found["access_token"])
    except (ValueError, KeyError, AttributeError) as error:
        raise Unusable("its token cannot be read") from error
    return client.get(url, accept=_MANIFESTS, token=token), token


def _smallest_blob(client: Client, mirror: Mirror, name: str, body: bytes, token: str) -> str:
    """Return the digest of the smallest part of an image, through the index of its platforms if there is one."""
    try:
        found = json.loads(body)
        if "manifests" in found:
            digest = found["manifests"][0]["digest"]
            inner, token = _get(client, f"{mirror.url}/v2/{name}/manifests/{digest}", token)
            found = json.loads(expect(inner, f"the image {name}").body)
        return str(min([found["config"], *found["layers"]], key=lambda part: part["size"])["digest"])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Unusable(f"the manifest of {name} cannot be read") from error
