"""
`survivectl notify test`: sends a notice to every destination now, or shows it, and says what each answered. Needs no daemon.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from typing import TYPE_CHECKING

from survived.ctl import local
from survived.ctl.main import print_json, printable, say
from survived.decide import letters, sentences
from survived.decide.evidence import Growth, with_growth
from survived.errors import SurvivedError, cause_of
from survived.model import Level, Topic
from survived.postman import page_of
from survived.tell import mail
from survived.tell.catalogue import translation
from survived.tell.delivery import Delivery, Message, Page, destination_key
from survived.tell.failures import describe
from survived.tell.templates import Templates

if TYPE_CHECKING:
    import argparse
    from typing import Any

    from survived.decide.sentences import Voice
    from survived.model import Notice
    from survived.settings.config import Settings
    from survived.store.outbox import Result

_DAY = 86400.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what `notify` can do."""
    parser.add_argument("action", choices=["test"], help="send a test notice to every destination")
    levels = [level.value for level in Level]
    parser.add_argument("--level", choices=levels, default=Level.INFO.value, help="how loud it is, for whom tags choose")
    topics = [topic.value for topic in Topic]
    parser.add_argument("--topic", choices=topics, default="test", metavar="TOPIC", help="what it is about, for tags and templates")
    parser.add_argument("--show", action="store_true", help="print what is sent, too")
    parser.add_argument("--dry-run", action="store_true", help="print what would be sent, and send nothing")
    parser.add_argument("--html", metavar="FILE", help="write the page of the mail, with its picture, to this file")


def run(args: argparse.Namespace) -> int:
    """Send or show a test notice; exit code 1 if a destination did not take it or there is none."""
    settings = local.load(args, local.find_paths(args))
    voice = sentences.Voice(socket.gethostname().split(".")[0], translation(settings.notify.language, os.environ))
    templates = Templates(settings.notify.templates)
    notice = templates.apply(_test_notice(voice, Level(args.level), Topic(args.topic)), voice.host)
    page = page_of(voice, templates, _curves(args))
    for trouble in templates.troubles.values():
        say(trouble)
    if args.html is not None:
        _write_page(args.html, notice, page)
    routes = {destination_key(url): (url, tags) for url, tags in settings.routes().items()}
    names = {key: describe(url, position) for position, (key, (url, _)) in enumerate(routes.items(), 1)}
    wanted = [key for key, (_, tags) in routes.items() if not tags or tags & letters.tags_of(notice.topic, notice.level)]
    shown = {"topic": notice.topic, "level": notice.level.value, "title": notice.title, "body": notice.body}
    if (args.show or args.dry_run) and not args.json:
        _show(notice)
    if args.dry_run:
        if args.json:
            print_json({**shown, "would_go_to": [names[key] for key in wanted]})
        else:
            say(f"It would go to {', '.join(names[key] for key in wanted) or 'nobody'}.")
        return 0
    if not wanted:
        why = "none has a tag of this level or topic" if routes else "there is no destination"
        raise SurvivedError(f"Cannot test notices: {why}. Nothing was sent.", "Add Apprise URLs under [notify] urls.")
    results = _send(notice, wanted, {key: url for key, (url, _) in routes.items()}, settings, page)
    failed = any(not result.ok for result in results)
    if args.json:
        answers = [{"destination": names[r.destination], "ok": r.ok, "error": r.error or None} for r in results]
        print_json({"ok": not failed, **(shown if args.show else {}), "destinations": answers})
    else:
        for result in results:
            print(f"{names[result.destination]}: delivered" if result.ok else f"failed: {result.error}")
    return int(failed)


def _test_notice(voice: Voice, level: Level, topic: Topic) -> Notice:
    """Return a notice with all the parts that one can have."""
    now = time.time()
    parts = {
        sentences.HAPPENED: [voice.say("This is a test. If you can read it, notices from survived reach you.")],
        sentences.DID: [voice.say("Nothing was moved.")],
        sentences.LEFT: [voice.say("Nothing is left to do. How it stands: {command}", command="survivectl status")],
        sentences.UNDO: [voice.say("Here stands how to undo what was done, as in: {command}", command="survivectl restore pip")],
    }
    made = sentences.notice(voice, topic, level, voice.say("a test from survived"), parts, now)
    grown = Growth((("pip", 3 << 30), ("~/data", 1 << 30)), now - 3 * 3600)
    return with_growth([made], voice, grown, now)[0]


def _curves(args: argparse.Namespace) -> tuple[dict[str, Any], ...]:
    """Return the usage of the last week as far as a store that can be read has it."""
    from survived.store import history
    from survived.store.database import Database

    curves = []
    try:
        machine, now = local.open_machine(args), time.time()
        marks = machine.rules.bytes_marks
        places = [os.path.join(path, "state.db") for path in machine.records.stores()]
        for fs in machine.read_filesystems():
            total = fs.used_bytes + fs.available_bytes
            points: list[tuple[float, float]] = []
            for place in (place for place in places if os.path.isfile(place)):
                database = Database(place, (), read_only=True)
                try:
                    samples = history.since(database, fs.mount, now - 7 * _DAY)
                finally:
                    database.close()
                points += [(s.time, s.used_bytes / max(1, s.used_bytes + s.available_bytes)) for s in samples]
            shares = {name: getattr(marks, name).as_usage(total) for name in ("low", "high", "flood")}
            curves.append({"mount": fs.mount, "points": [*sorted(points), (now, fs.usage)], **shares})
    except (SurvivedError, OSError):
        return ()  # a test of delivery needs no picture
    return tuple(curves)


def _show(notice: Notice) -> None:
    print(printable(notice.title))
    print("\n".join(printable(line) for line in notice.body.splitlines()) + "\n")


def _write_page(path: str, notice: Notice, page: Page) -> None:
    """Write what a mail shows as one file: the picture stands in the page itself."""
    import base64

    from survived.tell.picture import Curve, draw

    picture = draw([Curve(**curve) for curve in page.curves])
    letter = {"title": notice.title, "body": notice.body, "level": notice.level.value, "parts": notice.parts, "host": page.host}
    text = mail.page(letter, page.labels, page.footer, has_picture=picture is not None, template=page.template)
    if picture is not None:
        text = text.replace(f"cid:{mail.PICTURE}", f"data:image/png;base64,{base64.b64encode(picture).decode()}")
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        why = cause_of(error)
        raise SurvivedError(f"Cannot write '{path}': {why}. Nothing was sent.", "Name another file.") from error
    say(f"The page of the mail is in '{path}'.")


def _send(notice: Notice, wanted: list[str], urls: dict[str, str], settings: Settings, page: Page) -> list[Result]:
    delivery = Delivery(settings.notify.timeout)
    batch = [Message(number, key, notice) for number, key in enumerate(wanted, 1)]
    delivery.start(batch, urls, time.monotonic(), page=page)
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
