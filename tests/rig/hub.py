"""A model hub of our own on the loopback that speaks as much of the hub's API as huggingface_hub needs to download."""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.rig.index import Pages, served

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

REPO, COMMIT = "org/model", "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(files: Mapping[str, bytes]) -> Iterator[str]:
    """Serve one model, `REPO`, with these files at the revision main; the value is for HF_ENDPOINT."""

    class Handler(Pages):
        """The hub's few pages."""

        def answer(self, *, with_body: bool) -> None:
            """Answer a question of the API, or with a file."""
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
            self.reply(status, {**headers, "Content-Type": "application/json"}, body, with_body=with_body)

    with served(Handler) as port:
        yield f"http://127.0.0.1:{port}"


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
