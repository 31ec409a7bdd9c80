"""Delivery end to end: the real child, the real Apprise, real SMTP and HTTP servers with everything they do wrong."""

from __future__ import annotations

import json
import os
import random
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from survived.model import Level, Notice
from survived.store.outbox import Outbox, Result
from survived.tell.delivery import Delivery, Message, Page, destination_key
from survived.tell.failures import Spoken, describe, explain, retry_seconds, scrub
from tests.rig.receivers import Receivers

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.real, pytest.mark.timeout(90)]

SECRET = "s3cretpart"


def note(title: str = "host: / is 93 % full", body: str = "pip: 12 GiB → /data1\nundo: survivectl restore pip") -> Notice:
    """Return a notice."""
    return Notice("pressure", Level.WARNING, title, body, time.time())


def deliver(
    batch: list[Message],
    urls: list[str],
    timeout: float = 30.0,
    *,
    meanwhile: Callable[[Delivery], None] = lambda _: None,
    page: Page | None = None,
    receipts: int = -1,
    **more: Any,
) -> list[Result]:
    """Run one delivery in a small selectors loop, as the daemon does; `meanwhile` is called on every round."""
    delivery, results, longest = Delivery(timeout, **more), [], 0.0
    with selectors.DefaultSelector() as selector:
        began = time.monotonic()
        delivery.start(batch, {destination_key(url): url for url in urls}, began, page=page, receipts=receipts)
        longest = time.monotonic() - began
        selector.register(delivery.fileno(), selectors.EVENT_READ)
        while not delivery.done:
            selector.select(0.05)
            meanwhile(delivery)
            before = time.monotonic()
            delivery.expired(before)
            results += delivery.on_readable()
            longest = max(longest, time.monotonic() - before)
    delivery.close()
    assert longest < 0.5, "a call of Delivery blocked the loop"
    assert delivery._process is None or delivery._process.returncode is not None, "a zombie is left"
    return results


def send(urls: list[str], *notices: Notice, timeout: float = 30.0, **more: Any) -> list[Result]:
    """Deliver notices, numbered from 1, to all of the URLs."""
    numbered = list(enumerate(notices or (note(),), 1))
    return deliver([Message(n, destination_key(url), notice) for n, notice in numbered for url in urls], urls, timeout, **more)


def due(box: Outbox, now: float, keys: tuple[str, ...]) -> list[Message]:
    """Return what an outbox has to send now, each notice by itself."""
    ready = [item for item in box.waiting(now, keys) if item.due_at <= now]
    return [Message(item.number, item.destination, box.notices([item.number])[item.number]) for item in ready]


def errors(results: list[Result]) -> list[str]:
    """Return the errors; everything must have failed."""
    assert [result.ok for result in results] == [False] * len(results)
    return [result.error for result in results]


# ---- it works -----------------------------------------------------------------------------------------------------------


def test_mail_and_http_get_the_notice(rig: Receivers) -> None:
    """Title and body arrive readable at both, once, with no mark of Apprise's own."""
    urls = [rig.url("http"), rig.url("smtp")]
    results = send(urls)
    assert {Result(1, destination_key(url), ok=True) for url in urls} == set(results)
    (posted,), (mail,) = rig.received("http"), rig.received("smtp")
    told = json.loads(posted["body"])
    assert (told["title"], told["message"], told["type"]) == (note().title, note().body, "warning")
    assert (mail["subject"], mail["to"]) == (note().title, ["alice@example.org"])
    for line in note().body.splitlines():
        assert line in mail["body"]
    assert "apprise" not in json.dumps([posted, mail]).lower()


def test_several_notices_go_in_order_and_without_long_waits(rig: Receivers) -> None:
    """Ten notices reach each destination in the order they were made, in seconds and not in a minute."""
    began = time.monotonic()
    results = send([rig.url("http"), rig.url("smtp")], *(note(f"number {n}") for n in range(5)))
    assert len([result for result in results if result.ok]) == 10
    assert [f"number {n}" for n in range(5)] == [json.loads(line["body"])["title"] for line in rig.received("http")]
    assert [f"number {n}" for n in range(5)] == [line["subject"] for line in rig.received("smtp")]
    assert time.monotonic() - began < 12


def test_text_with_marks_of_html_and_odd_names_arrives(rig: Receivers) -> None:
    """Angle brackets are not eaten, and a name that is not UTF-8 does not stop the notice."""
    results = send([rig.url("http"), rig.url("smtp")], note("<b>bold</b> '\udcff'", "a < b && c\npath '/h/\udcffx'"))
    assert all(result.ok for result in results)
    assert json.loads(rig.received("http")[0]["body"])["message"] == "a < b && c\npath '/h/\\udcffx'"
    assert "a < b && c" in rig.received("smtp")[0]["body"]


def test_a_slow_server_is_no_failure(rig: Receivers) -> None:
    """Answers that take seconds are waited for, so that nothing is sent twice."""
    rig.mode(http="slow", smtp="slow")
    assert all(result.ok for result in send([rig.url("http"), rig.url("smtp")]))
    assert len(rig.received()) == 2


def test_a_large_batch_does_not_block(rig: Receivers) -> None:
    """More than a pipe holds goes to the child at once."""
    results = send([rig.url("http")], *(note(str(n), "x" * 30_000) for n in range(10)))
    assert [result.ok for result in results] == [True] * 10
    assert len(rig.received("http")[9]["body"]) > 30_000


# ---- faults -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("refuse", "connection refused"),
        ("401", "HTTP 401, the server wants other credentials"),
        ("403", "HTTP 403, the server forbids it"),
        ("404", "HTTP 404, the server knows no such address"),
        ("400", "HTTP 400, the server refused it"),
        ("429", "HTTP 429, too many requests"),
        ("500", "HTTP 500, the server is in trouble"),
        ("close", "connection closed"),
        ("reset", "connection closed"),
        ("garbage", "connection closed"),
        ("redirect", "redirected in a circle"),
    ],
)
def test_http_faults_have_their_reason(rig: Receivers, mode: str, reason: str) -> None:
    """Each fault is a failure that may be tried again, told in a few words."""
    rig.mode(http=mode)
    results = send([rig.url("http")])
    assert errors(results) == [f"destination 1 (json): {reason}"]
    assert not results[0].permanent


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("refuse", "connection refused"),
        ("authfail", "login refused (535)"),
        ("421", "the server said 421"),
        ("550", "the server said 550"),
        ("552", "the server said 552"),
        ("close", "connection closed"),
    ],
)
def test_smtp_faults_have_their_reason(rig: Receivers, mode: str, reason: str) -> None:
    """Each fault is a failure that may be tried again, told in a few words, and no mail arrives."""
    rig.mode(smtp=mode)
    results = send([rig.url("smtp")])
    assert errors(results) == [f"destination 1 (mailto): {reason}"]
    assert not results[0].permanent
    assert rig.received("smtp") == []


def test_a_certificate_that_nobody_signed_is_refused(rig: Receivers) -> None:
    """Neither HTTPS nor SMTPS sends anything to a server whose certificate is not trusted."""
    reason = "the server's TLS certificate is not trusted"
    assert set(errors(send([rig.url("https"), rig.url("smtps")]))) == {
        f"destination 1 (jsons): {reason}",
        f"destination 2 (mailtos): {reason}",
    }
    assert rig.received() == []


def test_a_certificate_that_the_user_trusts_works(rig: Receivers) -> None:
    """The child keeps REQUESTS_CA_BUNDLE and SSL_CERT_FILE of the daemon's environment."""
    certificate = str(rig.directory / "cert.pem")
    environ = {**os.environ, "REQUESTS_CA_BUNDLE": certificate, "SSL_CERT_FILE": certificate}
    assert [result.ok for result in send([rig.url("https"), rig.url("smtps")], environ=environ)] == [True, True]
    assert rig.received("smtp")[0]["tls"]


def test_no_tls_where_it_is_asked_for_is_no_delivery(rig: Receivers) -> None:
    """A plain server behind a mailtos:// URL gets nothing."""
    url = rig.url("smtp").replace("mailto:", "mailtos:").replace("mode=insecure", "mode=ssl")
    assert errors(send([url])) == ["destination 1 (mailtos): no TLS connection"]
    assert rig.received() == []


def test_an_unknown_host_is_told(rig: Receivers) -> None:
    """A name that does not resolve is a failure like others."""
    assert errors(send(["json://u:p@host.invalid/x"])) == ["destination 1 (json): host name not found"]


@pytest.mark.parametrize("url", ["foo://bar/s3cretpart", "s3cretpart", "json://", "mailto://", "", "://", "json://[::1/s3cretpart"])
def test_what_is_no_apprise_url_is_given_up(rig: Receivers, url: str) -> None:
    """A URL that Apprise cannot use is a permanent failure; the good one beside it works."""
    bad, good = sorted(send([url, rig.url("http")]), key=lambda result: result.ok)
    assert (bad.permanent, good.ok) == (True, True)
    assert bad.error == f"{describe(url, 1)}: not a usable Apprise URL"
    assert SECRET not in bad.error


def test_after_a_dead_server_the_rest_is_not_tried(rig: Receivers) -> None:
    """One server that does not answer costs one wait, not one for each notice."""
    rig.mode(smtp="hang")
    began = time.monotonic()
    results = send([rig.url("smtp")], *(note(str(n)) for n in range(10)), timeout=10)
    assert set(errors(results)) == {"destination 1 (mailto): timed out"}
    assert len(results) == 10
    assert 5 <= time.monotonic() - began < 10


@pytest.mark.parametrize("modes", [{"smtp": "hang"}, {"smtp": "hang-data"}, {"smtp": "blackhole"}])
def test_a_server_that_hangs_keeps_nobody_else_waiting(rig: Receivers, modes: dict[str, str]) -> None:
    """The other destination has its notice before the hanging one has failed."""
    rig.mode(**modes)
    seen: list[float] = []

    def watch(delivery: Delivery) -> None:
        if not seen and rig.received("http"):
            seen.append(time.monotonic())

    began = time.monotonic()
    results = send([rig.url("smtp"), rig.url("http")], timeout=10, meanwhile=watch)
    assert {(result.ok, result.error) for result in results} == {(True, ""), (False, "destination 1 (mailto): timed out")}
    assert seen[0] - began < 6


def test_the_child_is_killed_at_its_time_limit(rig: Receivers) -> None:
    """A server that drips, which no socket timeout ends, costs the time limit; what was sent before is known."""
    rig.mode(http="drip")
    began = time.monotonic()
    results = send([rig.url("http"), rig.url("smtp")], timeout=4)
    assert 4 <= time.monotonic() - began < 5.5
    assert {(result.ok, result.error) for result in results} == {(True, ""), (False, "destination 1 (json): no answer within 4 s")}


def test_a_daemon_that_ends_takes_the_child_along(rig: Receivers) -> None:
    """`close` kills it at once and invents no results: the notices stay in the outbox."""
    rig.mode(http="hang")
    url = rig.url("http")
    delivery = Delivery(30)
    delivery.start([Message(1, destination_key(url), note())], {destination_key(url): url}, time.monotonic())
    while not rig.received("http"):
        time.sleep(0.02)
    assert delivery._process
    pid = delivery._process.pid
    delivery.close()
    assert not os.path.exists(f"/proc/{pid}")
    assert delivery.on_readable() == []


def test_a_child_whose_parent_is_killed_ends_by_itself(rig: Receivers) -> None:
    """Nothing hangs about for ever when the daemon is gone."""
    rig.mode(http="hang")
    url = rig.url("http", rto=60)
    message = {"id": 1, "destination": destination_key(url), "title": "t", "body": "b", "level": "info", "parts": [], "host": "h"}
    page = {"labels": {}, "footer": "", "template": None, "curves": []}
    request = {"urls": [url], "timeout": 0.5, "messages": [{**message, "receipts": []}], "page": page, "receipts": -1}
    command = [sys.executable, "-m", "survived.tell.deliver"]
    done = subprocess.run(command, input=json.dumps(request).encode(), capture_output=True, check=False, timeout=20)
    assert (done.returncode, done.stdout) == (-signal.SIGALRM, b"")
    assert len(rig.received("http")) == 1


def test_an_interpreter_that_cannot_start_is_a_failure(rig: Receivers, monkeypatch: pytest.MonkeyPatch) -> None:
    """When there is no child at all, or it dies at once, everything counts as failed and the loop goes on."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert errors(send([rig.url("http")])) == ["destination 1 (json): the sender cannot be started: No such file or directory"]
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert errors(send([rig.url("http")])) == ["destination 1 (json): the sender ended early"]


def test_a_destination_that_left_the_configuration_is_given_up(rig: Receivers) -> None:
    """A batch that was made before a reload does not wait for a URL that is gone."""
    (result,) = deliver([Message(1, "0" * 16, note())], [rig.url("http")])
    assert (result.ok, result.permanent, result.error) == (False, True, "no longer configured")


def test_a_server_that_asks_for_time_is_heard(rig: Receivers) -> None:
    """`Retry-After` comes through, in seconds or as a date, though Apprise itself does not pass it on."""
    rig.mode(http="429")
    (busy,) = send([rig.url("http")])
    assert (busy.error, busy.retry_seconds) == ("destination 1 (json): HTTP 429, too many requests", 90.0)
    rig.mode(http="503")
    (away,) = send([rig.url("http")])
    assert away.retry_seconds > 30 * 365 * 86400
    assert [retry_seconds(text, 0.0) for text in ("", "soon", "-5", "7")] == [0.0, 0.0, 0.0, 7.0]


def test_a_second_try_can_be_known_as_one(rig: Receivers) -> None:
    """The same notices to the same destination have the same id, others another, by mail and by web."""
    url, web = rig.url("smtp"), rig.url("http")
    for receipts in (((1, 5.0),), ((1, 5.0),), ((2, 5.0),)):
        batch = [Message(1, destination_key(to), note(), receipts) for to in (url, web)]
        assert all(result.ok for result in deliver(batch, [url, web]))
    ids = [[line for line in mail["raw"].splitlines() if line.startswith("Message-ID")] for mail in rig.received("smtp")]
    keys = [post["headers"]["idempotency-key"] for post in rig.received("http")]
    for first, second, third in (ids, keys):
        assert first == second != third


def test_receipts_are_left_before_anybody_is_told(rig: Receivers, tmp_path: Path) -> None:
    """What was taken is noted with number and time; what failed is not. The file stays locked for as long as the child lives."""
    import fcntl

    with open(tmp_path / "receipts", "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        rig.mode(smtp="refuse")
        urls = [rig.url("smtp"), rig.url("http")]
        batch = [Message(at, destination_key(url), note(), ((7, 5.5), (8, 6.5))) for at, url in enumerate(urls)]
        locked = []

        def look(delivery: Delivery) -> None:
            if delivery._process is not None and delivery._process.poll() is None:
                with open(tmp_path / "receipts", "rb") as other:
                    try:
                        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        locked.append(True)

        results = deliver(batch, urls, receipts=file.fileno(), meanwhile=look)
        assert {result.ok for result in results} == {True, False}
        file.seek(0)
        assert [json.loads(line) for line in file] == [{"destination": destination_key(urls[1]), "notices": [[7, 5.5], [8, 6.5]]}]
    assert locked


def test_chats_get_plain_text(rig: Receivers) -> None:
    """Apprise's own plugins for chats post what a chat can show: the lines and their commands, no page and no marks of ours."""
    port, body = rig.ports["http"], "/ is at 93 %.\nTo see why: survivectl plan\n- it's <big> & old"
    parts = (("happened", ("/ is at 93 %.",)), ("left", ("To see why: \ue000survivectl plan\ue001",)))
    notice = Notice("pressure", Level.WARNING, "host: / is at 93 %", body, time.time(), parts)
    token = "3ccdd113474722377935511fc85d3dd4"
    urls = [f"mmost://localhost:{port}/{token}", f"ntfy://localhost:{port}/topic", f"gotify://localhost:{port}/{token}"]
    results = send(urls, notice)
    assert [result.error for result in results] == [""] * 3
    for post in rig.received("http"):
        text = post["body"]
        assert "survivectl plan" in text, text
        assert "<table" not in text
        assert "ue000" not in text
    assert len(rig.received("http")) == 3


def test_a_mail_that_is_asked_for_as_text_is_text(rig: Receivers) -> None:
    """`format=text` in the URL is the user's word; a page of the user's own is used where it is not."""
    page = Page(template="<p>mine: $title</p>$notices")
    plain, rich = rig.url("smtp", format="text"), rig.url("smtp")
    assert all(result.ok for result in send([plain, rich], page=page))
    texts = sorted(("<p>mine: host" in mail["raw"], "text/html" in mail["raw"]) for mail in rig.received("smtp"))
    assert texts[0] == (False, False)
    assert texts[1][1]


# ---- with the outbox ----------------------------------------------------------------------------------------------------


def test_each_gets_it_once_although_one_was_down(rig: Receivers) -> None:
    """With the mail server down, HTTP gets the notice once; the mail goes out later, once; then nothing is left."""
    urls = [rig.url("http"), rig.url("smtp")]
    keys = tuple(map(destination_key, urls))
    box, now = Outbox(None, random.Random(1)), time.time()
    box.put(note(), keys)
    rig.mode(smtp="refuse")
    for wait in (0, 40, 120):
        now += wait
        box.record(deliver(due(box, now, keys), urls), now)
    assert (len(rig.received("http")), len(rig.received("smtp")), box.summary()["pending"]) == (1, 0, 1)
    assert box.summary()["last_error"] == "destination 2 (mailto): connection refused"
    rig.mode(smtp="ok")
    now = min(item.due_at for item in box.waiting(now, keys))
    box.record(deliver(due(box, now, keys), urls), now)
    assert (len(rig.received("http")), len(rig.received("smtp"))) == (1, 1)
    assert (due(box, now + 3600, keys), box.summary()["pending"], box.summary()["last_error"]) == ([], 0, None)


# ---- secrets ------------------------------------------------------------------------------------------------------------


def test_no_secret_is_to_be_seen_anywhere(
    rig: Receivers, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """While a delivery hangs no part of a URL is in its argv, environment or open file names; nor is it in results or logs."""
    rig.mode(http="hang", smtp="hang")
    urls = [rig.url("http"), rig.url("smtp"), f"foo://{SECRET}", f"json://{SECRET}.invalid/{SECRET}", f"tgram://{SECRET}/{SECRET}"]
    caplog.set_level("DEBUG")
    looks: list[str] = []

    def look(delivery: Delivery) -> None:
        if looks or not rig.received("http") or not delivery._process:
            return
        process = Path(f"/proc/{delivery._process.pid}")
        seen = [(process / name).read_bytes().decode("utf8", "replace") for name in ("cmdline", "environ", "comm", "status")]
        seen += [os.readlink(fd) for fd in (process / "fd").iterdir()]
        looks.append("\n".join(seen))

    environ = {**os.environ, "SURVIVED_NOTIFY__URLS": json.dumps(urls), "NOTIFY_SOCKET": "/run/x"}
    results = send(urls, timeout=5, environ=environ, meanwhile=look)
    assert looks
    assert "survived.tell.deliver" in looks[0]
    everything = "\n".join([*looks, *errors(results), repr(results), caplog.text, *capfd.readouterr()])
    port = str(rig.ports["http"])
    for hidden in (SECRET, "robot", "alice@", "hook", "localhost:", f":{port}", "NOTIFY"):
        assert hidden not in everything
    assert len(results) == 5


def test_the_child_is_polite(rig: Receivers) -> None:
    """It runs at nice 10 in a session of its own, below /, and writes nothing into the home directory."""
    rig.mode(http="hang")
    seen: list[tuple[int, str, bool]] = []

    def look(delivery: Delivery) -> None:
        if rig.received("http") and not seen and delivery._process:
            pid = delivery._process.pid
            seen.append((os.getpriority(os.PRIO_PROCESS, pid), os.readlink(f"/proc/{pid}/cwd"), os.getsid(pid) == pid))

    home = rig.directory / "home"
    home.mkdir(exist_ok=True)
    send([rig.url("http"), rig.url("smtp")], timeout=4, environ={**os.environ, "HOME": str(home)}, meanwhile=look)
    assert seen == [(max(10, min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)), "/", True)]
    assert list(home.rglob("*")) == []


def test_the_parent_never_imports_apprise() -> None:
    """What the daemon loads for telling is small: no Apprise, no requests, no OpenSSL."""
    heavy = {"apprise", "requests", "ssl", "_hashlib", "asyncio", "PIL"}
    script = (
        f"import sys, survived.tell.delivery, survived.tell.heartbeat, survived.post; print(*sorted({heavy} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == ""


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mailto://u:p@h", "destination 3 (mailto)"),
        ("JSONS://h", "destination 3 (jsons)"),
        ("mailto:u:p@h", "destination 3 (mailto)"),
        (" json://h", "destination 3 (json)"),
        ("just-a-token", "destination 3 (unknown)"),
        ("", "destination 3 (unknown)"),
    ],
)
def test_describe_tells_schema_and_place_only(url: str, expected: str) -> None:
    """A destination is named without anything secret."""
    assert describe(url, 3) == expected


def test_scrub_takes_out_every_part() -> None:
    """User, password, host, path and query values vanish from a message, quoted or not, in any case; short words stay."""
    url = "json://robot:pa%40ss%2Fword@chat.example.org:8443/hooks/T0KEN-part/?to=alice%40example.org"
    text = "robot pa@ss/word PA%40SS%2FWORD at chat.example.org:8443 Chat.Example.Org /hooks/t0ken-part alice@example.org"
    scrubbed = scrub(text + " failed on a day", url)
    for hidden in ("robot", "word", "WORD", "example", "Example", "8443", "hooks", "t0ken", "alice"):
        assert hidden not in scrubbed
    assert scrubbed.endswith(" failed on a day")


def test_an_unknown_failure_is_told_scrubbed_and_short() -> None:
    """Text that we do not know is shown as one line of bounded length without the URL's parts."""
    told = explain(Spoken(["first", "The s3cretpart service\nsays " + "no " * 200]), "json://u:s3cretpart@h")
    assert told.why.startswith("The … service says no no")
    assert (len(told.why) <= 120, told.everything, SECRET in told.why) == (True, False, False)
    assert explain(Spoken(), "json://h").why == "not sent, and Apprise does not say why"
