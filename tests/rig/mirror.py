"""Servers that stand in for mirrors: real content passed on from the real servers, with faults that one can choose."""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.rig.index import Pages, served

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_KEPT: dict[str, tuple[int, str, bytes]] = {}
_LOCK = threading.Lock()
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def upstream(url: str, accept: str = "*/*") -> tuple[int, str, bytes]:
    """Return the status, type and body of a real server's answer, kept for the rest of the run."""
    with _LOCK:
        if (key := f"{accept} {url}") in _KEPT:
            return _KEPT[key]
    bundle = os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt"
    context = ssl.create_default_context(cafile=bundle if os.path.exists(bundle) else None)
    request = urllib.request.Request(url, headers={"Accept": accept, "User-Agent": "survived-tests"})
    try:
        with urllib.request.urlopen(request, timeout=60, context=context) as answer:
            found = answer.status, answer.headers.get("Content-Type", ""), answer.read()
    except urllib.error.HTTPError as error:
        found = error.code, "text/plain", b""
    with _LOCK:
        _KEPT[key] = found
    return found


class Site:
    """A mirror: `pages` by path; what is not there is passed on by `sources` (prefix of the path: URL of the real server)."""

    def __init__(
        self, pages: Mapping[str, bytes] | None = None, sources: Mapping[str, str] | None = None, **faults: float | str
    ) -> None:
        self.pages, self.sources, self.faults = dict(pages or {}), dict(sources or {}), dict(faults)
        self.replaced: dict[bytes, bytes] = {}
        self.kinds: dict[str, str] = {}  # types of pages that have another one than their content suggests
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.url = ""

    def answer(self, path: str, accept: str) -> tuple[int, str, bytes, dict[str, str]]:
        """Return the status, the type, the body and more headers for a path."""
        if "status" in self.faults:
            return int(self.faults["status"]), "text/plain", b"broken", {}
        if "html" in self.faults:
            return 200, "text/html", b"<!doctype html><html><body>Please log in to the gateway</body></html>", {}
        if path in self.pages:
            body = self.pages[path]
            kind = "application/json" if body[:1] == b"{" else "text/html" if path.endswith("/") else "application/octet-stream"
            kind = self.kinds.get(path, kind)
            more = {"Docker-Content-Digest": f"sha256:{hashlib.sha256(body).hexdigest()}"} if path.startswith("/v2/") else {}
            return 200, kind, body, {**more, "ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
        for prefix, server in self.sources.items():
            if path.startswith(prefix):
                status, kind, body = upstream(server + path[len(prefix) :], accept)
                for old, new in self.replaced.items():
                    body = body.replace(old, new.replace(b"{url}", self.url.encode()))
                return status, kind, body, {}
        return 404, "text/plain", b"", {}


@contextmanager
def mirror(site: Site) -> Iterator[Site]:
    """Serve it on the loopback until the end of the block."""

    class Handler(Pages):
        """The site's pages, in the way that is asked for."""

        def answer(self, *, with_body: bool) -> None:
            """Answer, or do not."""
            path, faults = self.path.partition("?")[0], site.faults
            site.seen.append((path, dict(self.headers)))
            if "hang" in faults:
                time.sleep(float(faults["hang"]))
            if "trickle" in faults:
                self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                for _ in range(200):
                    time.sleep(0.3)
                    self.wfile.write(b"X-More: 1\r\n")
                    self.wfile.flush()
            elsewhere = str(faults.get("files", ""))
            if elsewhere and path.endswith((".whl", ".tgz", ".bin", ".conda")):
                self.reply(302, {"Location": elsewhere + path}, b"", with_body=with_body)
                return
            if "loop" in faults:
                self.reply(302, {"Location": path}, b"", with_body=with_body)
                return
            time.sleep(float(faults.get("slow", 0)))
            status, kind, body, more = site.answer(path, self.headers.get("Accept", "*/*"))
            self.reply(status, {"Content-Type": kind, **more}, body, with_body=with_body)

    with served(Handler) as port:
        site.url = f"http://127.0.0.1:{port}"
        yield site


SIX = b"six-1.17.0-py2.py3-none-any.whl"


def wheel_pages(wheel: bytes, fresh: str = "1.40.0") -> dict[str, bytes]:
    """Return the pages of an index with the real six, and a project that says how new the index is."""
    sum_of = hashlib.sha256(wheel).hexdigest().encode()
    return {
        "/simple/six/": b'<html><body><a href="../../files/%s#sha256=%s">%s</a></body></html>' % (SIX, sum_of, SIX),
        "/files/" + SIX.decode(): wheel,
        "/simple/boto3/": f'<a href="../../files/boto3-{fresh}-py3-none-any.whl">b</a><a href="boto3-1.2.0.tar.gz">b</a>'.encode(),
    }


def hub_pages(files: Mapping[str, bytes], repo: str) -> dict[str, bytes]:
    """Return the pages of a hub with one model."""
    about = json.dumps({"id": repo, "sha": COMMIT, "lastModified": "2026-01-02T03:04:05.000Z"}).encode()
    pages = {f"/api/models/{repo}/revision/main": about}
    return pages | {f"/{repo}/resolve/{revision}/{name}": data for name, data in files.items() for revision in (COMMIT, "main")}


def registry_site(name: str, layer: bytes) -> Site:
    """Return a registry with one image of one layer, an uncompressed tar, under the tag latest."""
    kinds = {"config": "application/vnd.docker.container.image.v1+json", "layer": "application/vnd.docker.image.rootfs.diff.tar"}
    manifest_kind = "application/vnd.docker.distribution.manifest.v2+json"

    def digest(data: bytes) -> str:
        return f"sha256:{hashlib.sha256(data).hexdigest()}"

    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [digest(layer)]}}
    ).encode()
    blob = {"config": config, "layer": layer}
    described = {part: {"mediaType": kinds[part], "size": len(data), "digest": digest(data)} for part, data in blob.items()}
    manifest = json.dumps(
        {"schemaVersion": 2, "mediaType": manifest_kind, "config": described["config"], "layers": [described["layer"]]}
    ).encode()
    base = f"/v2/{name}"
    pages = {"/v2/": b"{}", f"{base}/manifests/latest": manifest, f"{base}/manifests/{digest(manifest)}": manifest}
    site = Site(pages | {f"{base}/blobs/{digest(data)}": data for data in blob.values()})
    site.kinds = {path: manifest_kind for path in pages if "/manifests/" in path}
    return site
