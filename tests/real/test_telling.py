"""What a real daemon tells real servers: to whom, how often, what explains it, and what a crash or a full store changes of it."""

from __future__ import annotations

import email
import email.policy
import json
import os
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from survived.tell.heartbeat import Heartbeat, trouble_url
from tests.rig.receivers import Receivers
from tests.rig.world import World, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.rig.disks import Disks

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]
UUID = "0b3f1b62-5d0c-4a8b-9d7e-2f6f0f4e8a11"


@pytest.fixture
def world(make_disks: Callable[..., Disks], tmp_path: Path) -> Iterator[World]:
    """Return a world that is full of what nobody can move."""
    disks = make_disks(small="200M", data="300M")
    with World(disks.small, (disks.data,), tmp_path / "run") as made:
        made.small.fill_bytes(0.7)
        yield made


def posts(rig: Receivers, path: str = "/hook/") -> list[dict[str, Any]]:
    """Return the notices that came in by HTTP below a path."""
    return [json.loads(item["body"]) for item in rig.received("http") if item["request"].startswith(f"POST {path}")]


def test_a_daemon_that_is_killed_while_it_sends_tells_nothing_twice(rig: Receivers, world: World) -> None:
    """A slow server has the notice and has not said so when the daemon is killed: the next one reads the child's receipt."""
    rig.mode(http="slow")
    world.configure(notify={"urls": [rig.url("http")], "timeout": "20s", "gather": "2s"})
    world.start()
    wait_until(lambda: posts(rig), what=world.log)
    world.kill()
    world.start()
    wait_until(lambda: world.status()["notices"]["last_delivered"], 30, what=world.log)
    time.sleep(4)
    assert world.status()["notices"]["pending"] == 0
    titles = [post["title"] for post in posts(rig)]
    assert len(titles) == 1, titles
    assert "(and 1 more)" in titles[0]


def test_each_hears_what_is_for_him_and_what_explains_it(rig: Receivers, world: World) -> None:
    """
    Tags choose, a URL that cannot be used is told once and blocks nobody, a deleted file that is held open is named with its
    program, a disk that is fuller by a point is told, and the mail is a page with a picture and our text beside it.
    """
    program = 'import os, sys; f = open(sys.argv[1], "wb"); f.write(os.urandom(20 << 20)); f.flush(); os.unlink(sys.argv[1])\n'
    program += 'print("held", flush=True); sys.stdin.read()'
    script = world.run / "train.py"
    script.write_text(program)
    held = str(world.small.path / "checkpoint.pt")
    holder = subprocess.Popen([sys.executable, str(script), held], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    web = rig.url("http")
    urls = [rig.url("smtp"), web, "success=" + web.replace("/hook/", "/moves/"), "foo://nobody/knows"]
    beat = f"http://localhost:{rig.ports['http']}/ping/{UUID}"
    try:
        notify = {"urls": urls, "timeout": "20s", "gather": "1s", "heartbeat_url": beat, "heartbeat": "2s"}
        world.configure(notify=notify, caches={"pip": {"move": False}})
        world.fill(world.cache / "pip", 2)
        world.start()
        wait_until(lambda: rig.received("smtp") and len(posts(rig)) >= 2, 40, what=world.log)
        first = posts(rig)[0]
        assert f"'{held}', held by pid {holder.pid} {os.path.basename(sys.executable)} train.py, 20." in first["message"]
        assert f"kill {holder.pid}" in first["message"]
        told = [post for post in posts(rig) if "cannot be used" in post["title"]]
        assert len(told) == 1, posts(rig)
        assert "destination 4 (foo): not a usable Apprise URL" in told[0]["message"]
        assert posts(rig, "/moves/") == []

        mail: Any = email.message_from_bytes(rig.received("smtp")[0]["raw"].encode("latin1"), policy=email.policy.default)
        kinds = [part.get_content_type() for part in mail.walk() if not part.is_multipart()]
        assert kinds == ["text/plain", "text/html", "image/png"]
        plain, page = (mail.get_body((kind,)).get_content() for kind in ("plain", "html"))
        assert plain.replace("\r", "").strip().splitlines() == first["message"].splitlines()
        assert f">kill {holder.pid}</code>" in page
        assert 'src="cid:usage.png"' in page
        picture = next(part for part in mail.walk() if part.get_content_type() == "image/png")
        assert picture.get_content().startswith(b"\x89PNG")
        assert "survived." in mail["Message-ID"]

        world.fill(world.cache / "pip/more", 6)
        (worse,) = wait_until(lambda: [post for post in posts(rig) if "worse than" in post["title"]], 40, what=world.log)
        assert re.search(r"Grew most since the last notice, \d+ (s|min) ago: pip \+\d\.\d\d MiB\.", worse["message"]), worse
        pings = [item["request"].split()[1] for item in rig.received("http") if item["request"].startswith("GET")]
        assert set(pings) == {f"/ping/{UUID}"}
        assert len(pings) >= 2
    finally:
        holder.kill()
        holder.communicate()
    assert "foo://" not in world.log()
    assert UUID not in world.log()
    assert world.log().count("not a usable Apprise URL") <= 2, world.log()  # logged once, and the title of its notice


def test_quiet_hours_hold_what_a_flood_breaks(rig: Receivers, world: World) -> None:
    """In quiet hours nothing is sent and nothing is lost; a flood comes through; afterwards one digest has the rest."""
    before, after = (time.strftime("%H:%M", time.localtime(time.time() + shift)) for shift in (-7200, 7200))
    notify = {"urls": [rig.url("http")], "timeout": "20s", "quiet_hours": [f"{before}-{after}"]}
    world.configure(notify=notify)
    world.start()
    wait_until(lambda: world.status()["notices"]["pending"] == 2, what=world.log)
    time.sleep(2)
    assert posts(rig) == []
    world.small.fill_bytes(0.97)
    wait_until(lambda: posts(rig), 30, what=world.log)
    assert [post["title"].partition(": ")[2][:6] for post in posts(rig)] == ["FLOOD:"]
    world.configure(notify={**notify, "quiet_hours": []})
    world.must("reload")
    wait_until(lambda: world.status()["notices"]["pending"] == 0, 30, what=world.log)
    assert len(posts(rig)) == 2
    assert "(and 1 more)" in posts(rig)[1]["title"]


def test_the_heartbeat_of_a_daemon_in_trouble_says_so(rig: Receivers) -> None:
    """What is asked for changes at once with how it is; failures are logged once, and no call blocks."""
    url = f"http://localhost:{rig.ports['http']}/ping/{UUID}"
    heart = Heartbeat({**os.environ})

    def asked(*, is_well: bool, seconds: float = 15.0) -> str:
        count, end = len(rig.received("http")), time.monotonic() + seconds
        while time.monotonic() < end and (len(rig.received("http")) == count or heart._child is not None):
            began = time.monotonic()
            heart.tick(url, 3600.0, began, is_well=is_well)
            assert time.monotonic() - began < 0.5
            time.sleep(0.05)
        return str(rig.received("http")[-1]["request"])

    assert asked(is_well=True).startswith(f"GET /ping/{UUID} ")
    assert asked(is_well=False).startswith(f"GET /ping/{UUID}/fail ")
    assert asked(is_well=True).startswith(f"GET /ping/{UUID} ")
    heart.close()


@pytest.mark.parametrize(("mode", "why"), [("refuse", "connection refused"), ("500", "HTTP 500"), ("close", "connection failed")])
def test_a_heartbeat_that_fails_is_logged_once(rig: Receivers, mode: str, why: str, caplog: pytest.LogCaptureFixture) -> None:
    """Three times the same failure is one line, without the address; the next success is another."""
    caplog.set_level("INFO")
    url, heart = f"http://localhost:{rig.ports['http']}/ping/{UUID}", Heartbeat({**os.environ})

    def ask() -> None:
        heart.tick(url, 0.0, time.monotonic(), is_well=True)
        while heart._child is not None:
            heart.tick(url, 0.0, time.monotonic(), is_well=True)
            time.sleep(0.02)

    rig.mode(http=mode)
    ask()
    ask()
    rig.mode(http="ok")
    ask()
    heart.close()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2, lines
    assert why in lines[0]
    assert UUID not in "".join(lines)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (f"https://hc-ping.com/{UUID}", f"https://hc-ping.com/{UUID}/fail"),
        (f"https://hc.example.org/ping/{UUID}/", f"https://hc.example.org/ping/{UUID}/fail"),
        ("https://hc-ping.com/key/gpu7?create=1", "https://hc-ping.com/key/gpu7/fail?create=1"),
        ("https://kuma/api/push/T0ken?status=up&msg=OK", "https://kuma/api/push/T0ken?status=down&msg=OK"),
        ("https://example.org/alive", "https://example.org/alive"),
    ],
)
def test_trouble_has_an_address_where_the_service_has_one(url: str, expected: str) -> None:
    """Healthchecks, its own servers, Uptime Kuma; somebody else only hears that we live."""
    assert trouble_url(url) == expected
