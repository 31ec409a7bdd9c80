"""A package index of our own on the loopback: real wheels under a real simple API, with headers that let pip cache them."""

from __future__ import annotations

import base64
import hashlib
import random
import threading
import zipfile
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


class Index:
    """The running index; its files are `folder`/simple/NAME/*.whl."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port

    def options(self) -> list[str]:
        """Return what makes pip use this index and nothing else."""
        return ["--index-url", f"http://127.0.0.1:{self.port}/simple", "--trusted-host", "127.0.0.1"]

    def url(self, name: str) -> str:
        """Return the URL of a project's only wheel."""
        (wheel,) = (self.folder / "simple" / name).glob("*.whl")
        return f"http://127.0.0.1:{self.port}/simple/{name}/{wheel.name}"


class _Handler(SimpleHTTPRequestHandler):
    """Files and folder listings, which are a simple API by themselves; wheels may be kept for ever."""

    def end_headers(self) -> None:
        """Add what a real index says of its files."""
        if self.path.endswith(".whl"):
            self.send_header("Cache-Control", "max-age=365000000, immutable")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Pages(BaseHTTPRequestHandler):
    """Answers GET and HEAD alike: whoever makes one of it says in `answer` what there is, by `reply`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer with what is asked for."""
        self.answer(with_body=True)

    def do_HEAD(self) -> None:
        """Answer without the body."""
        self.answer(with_body=False)

    def answer(self, *, with_body: bool) -> None:
        """Answer `self.path`."""
        raise NotImplementedError

    def reply(self, status: int, headers: Mapping[str, str], body: bytes, *, with_body: bool) -> None:
        """Send it, whole."""
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def index(folder: Path, port: int = 0) -> Iterator[Index]:
    """Serve `folder`/simple until the end of the block; 0 is any free port."""
    (folder / "simple").mkdir(parents=True, exist_ok=True)
    with served(partial(_Handler, directory=str(folder)), port) as found:
        yield Index(folder, found)


@contextmanager
def served(handler: Callable[..., BaseHTTPRequestHandler], port: int = 0) -> Iterator[int]:
    """Answer HTTP on the loopback until the end of the block; the value is the port."""
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="http", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def make_wheel(folder: Path, name: str, size: int) -> Path:
    """Make a valid wheel of a project `name` with `size` bytes of data that do not compress, where `index` finds it."""
    place = folder / "simple" / name
    place.mkdir(parents=True, exist_ok=True)
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}/__init__.py": b"",
        f"{name}/data.bin": random.Random(name).randbytes(size),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: survived-tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={_digest(content)},{len(content)}\n" for path, content in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    wheel = place / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return wheel


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
