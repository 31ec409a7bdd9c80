"""
Our own SMTP and HTTP(S) servers for notices, in a process of their own, with everything that real ones do wrong.

In a test: `with receivers(tmp_path) as r: r.mode(smtp="refuse"); ...; r.received()`. From a shell:
`python tests/rig/receivers.py DIR` writes DIR/ports, appends to DIR/received.jsonl, and reads DIR/http.mode and
DIR/smtp.mode again on SIGHUP (DIR/http.applied and DIR/smtp.applied then say so).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, AnyStr

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

HTTP_MODES = ("ok", "refuse", "blackhole", "hang", "slow", "drip", "redirect", "close", "reset", "garbage")  # or a status
SMTP_MODES = ("ok", "refuse", "blackhole", "hang", "hang-data", "slow", "421", "authfail", "550", "450", "552", "451", "close")
PORTS = ("http", "https", "smtp", "smtps")
# One answer that satisfies ntfy, gotify, mattermost, rocket.chat, matrix, slack and discord.
ANSWER = json.dumps(
    {"ok": True, "success": True, "status": "success", "id": 1, "event_id": "$1", "room_id": "!room:localhost",
     "access_token": "t", "user_id": "@u:localhost", "data": {"authToken": "a", "userId": "u"}}
).encode()  # fmt: skip
_LONG = 3600.0


class Receivers:
    """The running servers as a test sees them."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes], ports: dict[str, int]) -> None:
        self.directory, self.process, self.ports = directory, process, ports

    def url(self, kind: str, secret: str = "s3cretpart", **query: object) -> str:
        """Return the Apprise URL of one port: `http` and `https` as json://, `smtp` and `smtps` as mail."""
        port, more = self.ports[kind], "".join(f"&{key}={value}" for key, value in query.items())
        if kind.startswith("http"):
            return f"{'jsons' if kind == 'https' else 'json'}://robot:{secret}@localhost:{port}/hook/{secret}?verify=yes{more}"
        mode = "mailtos" if kind == "smtps" else "mailto"
        options = "mode=ssl" if kind == "smtps" else "mode=insecure"
        return f"{mode}://robot:{secret}@localhost:{port}?smtp=localhost&from=survived@example.org&to=alice@example.org&{options}{more}"

    def mode(self, **modes: str) -> None:
        """Change `http` and `smtp`, and wait until the servers have taken it up."""
        for kind, mode in modes.items():
            (self.directory / f"{kind}.applied").unlink(missing_ok=True)
            (self.directory / f"{kind}.mode").write_text(mode)
        self.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while any(_read(self.directory / f"{kind}.applied") != mode for kind, mode in modes.items()):
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"the receivers did not take up {modes}: {_read(self.directory / 'log')}")
            time.sleep(0.01)

    def received(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Return what came in, oldest first; `kind` is `http` or `smtp`."""
        lines = [json.loads(line) for line in _read(self.directory / "received.jsonl").splitlines()]
        return [line for line in lines if kind in (None, line["kind"])]

    def clear(self) -> None:
        """Forget what came in."""
        (self.directory / "received.jsonl").write_text("")


@contextmanager
def receivers(directory: Path) -> Iterator[Receivers]:
    """Run the servers in a child process, with a self-signed certificate, their files in `directory`."""
    make_certificate(directory)
    for name, content in (("http.mode", "ok"), ("smtp.mode", "ok"), ("received.jsonl", "")):
        (directory / name).write_text(content)
    (directory / "ports").unlink(missing_ok=True)
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen([sys.executable, os.path.abspath(__file__), str(directory)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while not (directory / "ports").exists():
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError(f"the receivers did not start: {_read(directory / 'log')}")
            time.sleep(0.02)
        ports = dict(line.split("=") for line in _read(directory / "ports").lower().replace("_port", "").splitlines())
        yield Receivers(directory, process, {kind: int(port) for kind, port in ports.items()})
    finally:
        process.kill()
        process.wait()


def make_certificate(directory: Path) -> None:
    """Write cert.pem and key.pem for localhost, which nobody trusts, unless they are there."""
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / "key.pem").exists():
        return
    from datetime import UTC, datetime, timedelta
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=30))
        .add_extension(names, critical=False).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (directory / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _read(path: Path) -> str:
    with suppress(FileNotFoundError):
        return path.read_text(errors="replace")
    return ""


# ---- the servers ------------------------------------------------------------------------------------------------------


class Service:
    """All four listeners, their modes and the record of what they got, in one asyncio loop."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.modes = directory, {"http": "ok", "smtp": "ok"}
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(directory / "cert.pem", directory / "key.pem")

    def record(self, **what: object) -> None:
        """Append one thing that was received."""
        with open(self.directory / "received.jsonl", "a") as log:
            log.write(json.dumps({"time": time.time(), **what}) + "\n")

    async def run(self) -> None:
        """Serve until SIGTERM."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        listeners = {
            "http": Listener("http", lambda s: asyncio.start_server(self.http, sock=s)),
            "https": Listener("http", lambda s: asyncio.start_server(self.http, sock=s, ssl=self.tls)),
            "smtp": Listener("smtp", lambda s: loop.create_server(self.smtp, sock=s)),
            "smtps": Listener("smtp", lambda s: loop.create_server(self.smtps, sock=s, ssl=self.tls)),
        }

        async def reread() -> None:
            for kind in self.modes:
                self.modes[kind] = _read(self.directory / f"{kind}.mode").strip() or "ok"
            for listener in listeners.values():
                await listener.apply(self.modes[listener.kind])
            for kind, mode in self.modes.items():
                (self.directory / f"{kind}.applied").write_text(mode)

        tasks: set[asyncio.Task[None]] = set()
        await reread()
        loop.add_signal_handler(signal.SIGHUP, lambda: tasks.add(asyncio.ensure_future(reread())))
        loop.add_signal_handler(signal.SIGTERM, done.set)
        fresh = self.directory / "ports.new"
        fresh.write_text("".join(f"{kind.upper()}_PORT={listeners[kind].port}\n" for kind in PORTS))
        fresh.replace(self.directory / "ports")
        await done.wait()
        os._exit(0)  # connections that hang on purpose would keep the loop alive

    async def http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer requests on one connection as the mode says."""
        with suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            while await self.http_request(reader, writer):
                await writer.drain()
        writer.close()

    async def http_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False ends the connection."""
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin1").split("\r\n")
        headers = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines) if key}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        mode = self.modes["http"]
        self.record(kind="http", mode=mode, request=first, headers=headers, body=body.decode("utf8", "replace"))
        if mode == "hang":
            await asyncio.sleep(_LONG)
        if mode == "slow":
            await asyncio.sleep(3)
        if mode == "reset":
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        if mode == "garbage":
            writer.write(b"\x00\xff garbage\r\n\r\n")
            return False
        code, more = int(mode) if mode.isdigit() else 302 if mode == "redirect" else 200, b""
        if mode == "429":
            more = b"Retry-After: 90\r\n"
        if mode == "503":
            more = b"Retry-After: Wed, 21 Oct 2065 07:28:00 GMT\r\n"
        if mode == "redirect":
            more = b"Location: /elsewhere\r\n"
        reply = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n" % (code, more, len(ANSWER))
        if mode == "drip":
            for byte in reply:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(1)
        elif mode == "close":  # in the middle of its own answer's head
            writer.write(reply[:9])
            return False
        writer.write(reply + ANSWER if mode != "drip" else ANSWER)
        return True

    def smtp(self) -> asyncio.Protocol:
        """Make the protocol of one plain connection; STARTTLS is offered."""
        return self.smtp_protocol(self.tls)

    def smtps(self) -> asyncio.Protocol:
        """Make the protocol of one connection that is encrypted from the start."""
        return self.smtp_protocol(None)

    def smtp_protocol(self, starttls: ssl.SSLContext | None) -> asyncio.Protocol:
        """Make what the mode says: aiosmtpd, a slow one, one that is too busy or one that says nothing."""
        from aiosmtpd.smtp import SMTP

        class Slow(SMTP):
            async def push(self, status: AnyStr) -> None:
                await asyncio.sleep(0.3)
                await super().push(status)

        mode = self.modes["smtp"]
        if mode == "hang":
            return asyncio.Protocol()
        if mode == "421":
            return Busy()
        return (Slow if mode == "slow" else SMTP)(
            Mailbox(self), tls_context=starttls, authenticator=self.authenticate,  # type: ignore[arg-type]
            auth_require_tls=False, enable_SMTPUTF8=True,
            loop=asyncio.get_running_loop(),
        )  # fmt: skip

    def authenticate(self, server: object, session: object, envelope: object, mechanism: str, data: object) -> object:
        """Let anybody in, or nobody."""
        from aiosmtpd.smtp import AuthResult

        return AuthResult(success=self.modes["smtp"] != "authfail", handled=False, auth_data=b"u")


class Mailbox:
    """What aiosmtpd calls with each recipient and each message."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def handle_RCPT(self, server: object, session: object, envelope: Any, address: str, options: object) -> str:  # noqa: N802
        """Take or refuse a recipient."""
        mode = self.service.modes["smtp"]
        if mode in ("550", "450"):
            return f"{mode} no"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        """Take or refuse a message."""
        import email
        import email.policy

        mode = self.service.modes["smtp"]
        if mode == "hang-data":
            await asyncio.sleep(_LONG)
        if mode == "close":
            server.transport.abort()
            return "421 bye"
        if mode in ("552", "451"):
            return f"{mode} no"
        message: Any = email.message_from_bytes(envelope.content, policy=email.policy.default)
        body = message.get_body(("plain", "html"))
        self.service.record(
            kind="smtp", mode=mode, sender=envelope.mail_from, to=envelope.rcpt_tos, subject=message["Subject"],
            tls=bool(session.ssl or server.transport.get_extra_info("ssl_object")), auth=bool(session.auth_data),
            body=body.get_content() if body else "", raw=envelope.content.decode("latin1"),
        )  # fmt: skip
        return "250 OK"


class Busy(asyncio.Protocol):
    """An SMTP server that has no time."""

    def connection_made(self, transport: Any) -> None:
        """Say so and hang up."""
        transport.write(b"421 too busy\r\n")
        transport.close()


class Listener:
    """One port that can stop listening (refuse) or stop accepting (blackhole), and come back under the same number."""

    def __init__(self, kind: str, serve: Callable[[socket.socket], Awaitable[asyncio.Server]]) -> None:
        self.kind, self._serve, self.port = kind, serve, 0
        self._server: asyncio.Server | None = None
        self._sockets: list[socket.socket] = []

    async def apply(self, mode: str) -> None:
        """Open the port as the mode says."""
        if self._server:
            self._server.close()
        for old in self._sockets:
            old.close()
        self._server, self._sockets = None, []
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        if mode not in ("refuse", "blackhole"):
            self._server = await self._serve(listener)
            return
        self._sockets.append(listener)  # bound and not listening: the port is refused and stays ours
        if mode == "blackhole":  # a full backlog: further SYNs get no answer
            listener.listen(0)
            for _ in range(3):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", self.port))
                self._sockets.append(filler)


if __name__ == "__main__":
    make_certificate(Path(sys.argv[1]))
    asyncio.run(Service(Path(sys.argv[1])).run())
