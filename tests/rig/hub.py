"""A model hub of our own on the loopback that speaks as much of the hub's API as huggingface_hub needs to download."""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

from tests.rig.index import served

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

REPO, COMMIT = "org/model", "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(files: Mapping[str, bytes]) -> Iterator[str]:
    """Serve one model, `REPO`, with these files at the revision main; the value is for HF_ENDPOINT."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """Answer with what is asked for."""
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            """Answer without the body."""
            self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            path, status, headers = self.path.partition("?")[0], 200, {"X-Repo-Commit": COMMIT}
            name = path.removeprefix(f"/{REPO}/resolve/").partition("/")[2]
            if path == f"/api/models/{REPO}/revision/main":
                siblings = [{"rfilename": file} for file in files]
                body = json.dumps({"id": REPO, "modelId": REPO, "sha": COMMIT, "siblings": siblings}).encode()
            elif path == f"/api/models/{REPO}/tree/{COMMIT}":
                body = json.dumps(
                    [{"type": "file", "path": file, "size": len(data), "oid": _oid(data)} for file, data in files.items()]
                ).encode()
            elif name in files:
                body = files[name]
                headers["ETag"] = f'"{_oid(body)}"'
            else:
                status, body = 404, b""
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body)), "Content-Type": "application/json"}.items():
                self.send_header(key, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with served(Handler) as port:
        yield f"http://127.0.0.1:{port}"


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
