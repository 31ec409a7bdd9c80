"""
The sender: a short-lived child that uses Apprise, started by `tell/delivery.py`, which says what it may not do.

    python -m survived.tell.deliver < batch.json

Chats get plain text. Mail gets a page with the same text beside it and the usage curve as a picture; a letter that is sent
again has the same Message-ID or Idempotency-Key as before, so that whoever looks at those shows it once.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from survived.tell import mail
from survived.tell.delivery import destination_key, is_mail
from survived.tell.failures import Failure, Spoken, describe, explain
from survived.units import escape_surrogates

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    _Send = Callable[[Mapping[str, Any]], Failure | None]

_NICE = 10
_CLOSEST_SECONDS = 1.0  # between two messages to one service; Apprise's own 5.5 s are for bursts of hundreds
_SPARE_SECONDS = 5.0  # of the whole time not for one answer: the longer that is waited for, the fewer notices come twice
_said: ContextVar[Spoken | None] = ContextVar("said", default=None)
"""What Apprise says in this thread while it sends one message."""
_letter: ContextVar[Mapping[str, Any] | None] = ContextVar("letter", default=None)
"""The message that this thread sends."""


def main() -> None:
    """Send one batch from standard input; report each (message, destination) as one line of JSON, as soon as it is known."""
    import signal
    import socket
    import threading

    request = json.load(sys.stdin.buffer)
    timeout = float(request["timeout"])
    signal.alarm(int(timeout) + 5)  # for the case that the parent dies before it can kill us
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # a parent that died reads no answer; the receipts are what it will read
    socket.setdefaulttimeout(max(timeout / 2, timeout - _SPARE_SECONDS))
    with suppress(OSError):
        os.nice(_NICE)
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a plugin prints is no answer

    def report(message: Mapping[str, Any], failure: Failure | None, name: str) -> None:
        key = message["destination"]
        if failure is None:
            _leave_receipt(request["receipts"], message)
        told = {
            "id": message["id"],
            "destination": key,
            "ok": failure is None,
            "error": "",
            "permanent": False,
            "retry_seconds": 0.0,
        }
        if failure is not None:
            told |= {"error": f"{name}: {failure.why}", "permanent": failure.permanent, "retry_seconds": failure.retry_seconds}
        with suppress(OSError):
            os.write(answers, json.dumps(told).encode() + b"\n")  # below PIPE_BUF, so lines of threads do not mix

    _listen()
    threads = []
    for position, url in enumerate(request["urls"], 1):
        key, name = destination_key(url), describe(url, position)
        messages = [message for message in request["messages"] if message["destination"] == key]
        if not messages:
            continue
        try:
            send: _Send | Failure = _sender(url, request["page"])
        except Exception as error:  # noqa: BLE001  its text may hold the URL: only its kind is told
            send = Failure(f"Apprise failed ({type(error).__name__})")
        if isinstance(send, Failure):
            for message in messages:
                report(message, send, name)
            continue
        # A thread for each destination: one that hangs keeps nobody else from getting anything.
        threads.append(threading.Thread(target=_send_all, args=(send, messages, name, report), daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join()
    os._exit(0)  # past atexit hooks of libraries, which may wait for connections


def _leave_receipt(receipts: int, message: Mapping[str, Any]) -> None:
    """Note, before anybody is told, that a message was taken; a full or missing place for it is no reason not to go on."""
    if receipts >= 0:
        with suppress(OSError):
            os.write(receipts, json.dumps({"destination": message["destination"], "notices": message["receipts"]}).encode() + b"\n")


def _send_all(
    send: _Send,
    messages: Sequence[Mapping[str, Any]],
    name: str,
    report: Callable[[Mapping[str, Any], Failure | None, str], None],
) -> None:
    """Send all messages to one destination in order; after a failure that concerns all of them the rest is not tried."""
    failure: Failure | None = None
    for message in messages:
        if failure is None or not failure.everything:
            failure = send(message)
        report(message, failure, name)


def _listen() -> None:
    """Hear what Apprise logs, and what a server that is too busy asks for: Apprise does not pass that on."""
    import logging

    import requests

    class Listener(logging.Handler):
        """Keeps warnings and the exceptions behind them; other debug lines hold payloads and headers."""

        def emit(self, record: logging.LogRecord) -> None:
            spoken, text = _said.get(), record.getMessage()
            if spoken is not None and (record.levelno >= logging.WARNING or text.startswith("Socket Exception")):
                spoken.lines.append(text)

    apprise_log = logging.getLogger("apprise")
    apprise_log.setLevel(logging.DEBUG)
    apprise_log.propagate = False
    apprise_log.addHandler(Listener())
    send = requests.Session.send

    def listening(session: requests.Session, prepared: requests.PreparedRequest, **options: Any) -> requests.Response:
        response = send(session, prepared, **options)
        spoken = _said.get()
        if spoken is not None and response.status_code in (429, 503):
            spoken.retry_after = response.headers.get("Retry-After", "")
        return response

    requests.Session.send = listening  # type: ignore[method-assign,assignment]


def _sender(url: str, page: Mapping[str, Any]) -> _Send | Failure:
    """Return a function that sends one message to `url` and returns why it could not; a failure if Apprise cannot use the URL."""
    import socket

    import apprise

    wanted = {"app_id": "survived", "app_desc": "survived", "app_url": "", "async_mode": False}
    wanted |= {"pgp_autogen": False, "pem_autogen": False}  # they would make keys below $HOME, which is full
    options: dict[str, Any] = {name: value for name, value in wanted.items() if hasattr(apprise.AppriseAsset, name)}
    if hasattr(apprise.AppriseAsset, "_service_timeout"):  # Apprise 2: an executor of its own, which we do not need
        options["service_timeout"] = 0
    # Persistent storage would write below $HOME, which is full; plugins would be the user's code in our process.
    asset = apprise.AppriseAsset(plugin_paths=[], storage_mode="memory", **options)
    service = apprise.Apprise.instantiate(url, asset=asset)
    if service is None:
        return Failure("not a usable Apprise URL", permanent=True)
    service.request_rate_per_sec = min(service.request_rate_per_sec, _CLOSEST_SECONDS)
    for wait in ("socket_connect_timeout", "socket_read_timeout"):
        if getattr(service, wait, None) == getattr(type(service), wait, None):  # not set by the URL's cto and rto
            setattr(service, wait, socket.getdefaulttimeout())
    if "overflow=" not in url:
        service.overflow_mode = (
            apprise.OverflowMode.SPLIT
        )  # Apprise's default leaves what is too long to the server, which refuses it
    by_mail = is_mail(url)
    form = _page_form(service) if by_mail else "text"
    picture = _picture(page["curves"]) if by_mail and page["curves"] else None
    carrier = apprise.Apprise(asset=asset)
    carrier.add(service)
    if by_mail:
        _prepare_mail(service)

    def send(message: Mapping[str, Any]) -> Failure | None:
        spoken = Spoken()
        _said.set(spoken)
        plain = {**message, **{part: escape_surrogates(message[part]) for part in ("title", "body")}}
        _letter.set(plain)
        extras: dict[str, Any] = {"body": plain["body"], "body_format": "text"}
        if form == "html":
            shown = mail.page(plain, page["labels"], page["footer"], has_picture=picture is not None, template=page["template"])
            if len(shown) < service.body_maxlen:
                extras = {"body": shown, "body_format": "html"}
        if picture is not None:
            extras["attach"] = apprise.AppriseAttachment(_attachment(picture))
        if isinstance(headers := getattr(service, "headers", None), dict) and not by_mail:
            headers["Idempotency-Key"] = _stable_id(plain)
        try:
            if carrier.notify(title=plain["title"], notify_type=plain["level"], **extras):
                return None
        except Exception as error:  # noqa: BLE001  its text may hold the URL: only its kind is told
            return Failure(f"Apprise failed ({type(error).__name__})")
        return explain(spoken, url)

    return send


def _page_form(service: Any) -> str:
    """Return "html" where the URL does not ask for another format."""
    if hasattr(service, "resolve_format"):  # Apprise 2
        return str(getattr(service.resolve_format("html"), "value", ""))
    return str(getattr(service.notify_format, "value", service.notify_format))


def _prepare_mail(service: Any) -> None:
    """
    Have the picture shown in the page, our own plain text beside it, and a Message-ID that a second try shares.

    Apprise has no option for the last two: it makes the text out of the page, and a new id each time.
    """
    with suppress(ImportError, AttributeError):
        base: Any = importlib.import_module("apprise.plugins.email.base")
        if hasattr(service, "inline"):
            service.inline = True
        made_id, convert = base.make_msgid, base.convert_between

        def stable_id(*words: Any, **options: Any) -> str:
            letter = _letter.get()
            return made_id(*words, **options) if letter is None else f"<{_stable_id(letter)}@{options.get('domain', 'survived')}>"

        def plain_text(source: Any, target: Any, content: str) -> str:
            letter = _letter.get()
            return convert(source, target, content) if letter is None else str(letter["body"])

        if not getattr(base, "_survived", False):
            base._survived, base.make_msgid, base.convert_between = True, stable_id, plain_text


def _stable_id(letter: Mapping[str, Any]) -> str:
    import hashlib

    known = json.dumps([letter["host"], letter["destination"], letter["receipts"] or [letter["id"], letter["body"]]])
    return "survived." + hashlib.sha256(known.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _picture(curves: Sequence[Mapping[str, Any]]) -> bytes | None:
    """Return the usage curves as a PNG; a picture that cannot be drawn is no reason not to send the notice."""
    try:
        from survived.tell.picture import Curve, draw

        return draw([Curve(**curve) for curve in curves])
    except Exception:  # noqa: BLE001  whatever a drawing library does wrong
        return None


def _attachment(picture: bytes) -> Any:
    memory: Any = importlib.import_module("apprise.attachment.memory")
    return memory.AttachMemory(content=picture, name=mail.PICTURE, mimetype="image/png")


if __name__ == "__main__":
    main()
