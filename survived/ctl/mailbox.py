"""
Where the demo's notices arrive: a web server on the loopback, for Apprise to post to.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from survived.errors import SurvivedError, cause_of

_MOST_BYTES = 1024**2


class Mailbox:
    """A web server of our own on the loopback, which takes the notices that Apprise delivers."""

    def __init__(self) -> None:
        self.notices: list[dict[str, str]] = []
        path = f"/{secrets.token_hex(8)}"  # whoever else posts here does not get onto the screen
        notices = self.notices

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(min(int(self.headers.get("Content-Length") or 0), _MOST_BYTES))
                with contextlib.suppress(ValueError):
                    sent = json.loads(body)
                    if self.path.rstrip("/") == path and isinstance(sent, dict):
                        notices.append({key: str(sent.get(key, "")) for key in ("type", "title", "message")})
                        self.send_response(200)
                        self.end_headers()
                        return
                self.send_error(404)

            def log_message(self, *_: object) -> None:
                """Say nothing: stderr is the user's terminal."""

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        except OSError as error:
            why = cause_of(error)
            raise SurvivedError(f"Cannot listen on 127.0.0.1: {why}. Nothing was started.") from error
        self._server.daemon_threads = True
        self.url = f"json://127.0.0.1:{self._server.server_port}{path}"
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="survived-mailbox", daemon=True).start()

    def close(self) -> None:
        """Take no more."""
        self._server.shutdown()
        self._server.server_close()
