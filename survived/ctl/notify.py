"""
`survivectl notify test`: sends one notice to every destination now, and says what each answered. Needs no daemon.
"""

from __future__ import annotations

import selectors
import socket
import time
from typing import TYPE_CHECKING

from survived.ctl import local
from survived.ctl.main import print_json
from survived.errors import SurvivedError
from survived.model import Level, Notice
from survived.store.outbox import Pending
from survived.tell.deliver import Delivery, destination_key
from survived.tell.failures import describe

if TYPE_CHECKING:
    import argparse

    from survived.store.outbox import Result


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what `notify` can do."""
    parser.add_argument("action", choices=["test"], help="send a test notice to every destination")


def run(args: argparse.Namespace) -> int:
    """Send a test notice; exit code 1 if a destination did not take it or there is none."""
    settings = local.load(args, local.find_paths(args))
    urls = {destination_key(url): url for url in settings.notify_urls()}
    if not urls:
        raise SurvivedError(
            "Cannot test notices: there is no destination. Nothing was sent.", "Add Apprise URLs under [notify] urls."
        )
    names = {key: describe(url, position) for position, (key, url) in enumerate(urls.items(), 1)}
    host = socket.gethostname().split(".")[0]
    body = "If you can read this, notices from survived reach you. Nothing is left to do."
    notice = Notice("test", Level.INFO, f"{host}: a test from survived", body, time.time())
    results = _send(Pending(1, notice, tuple(urls)), urls, settings.notify.timeout)
    failed = any(not result.ok for result in results)
    if args.json:
        answers = [{"destination": names[r.destination], "ok": r.ok, "error": r.error or None} for r in results]
        print_json({"ok": not failed, "destinations": answers})
    else:
        for result in results:
            print(f"{names[result.destination]}: delivered" if result.ok else f"failed: {result.error}")
    return int(failed)


def _send(pending: Pending, urls: dict[str, str], timeout: float) -> list[Result]:
    delivery = Delivery(timeout)
    delivery.start([pending], urls, time.monotonic())
    results: list[Result] = []
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(delivery.fileno(), selectors.EVENT_READ)
            while not delivery.done:
                selector.select(0.5)
                delivery.expired(time.monotonic())
                results += delivery.on_readable()
            results += delivery.on_readable()
    finally:
        delivery.close()
    order = list(urls)
    return sorted(results, key=lambda result: order.index(result.destination))
