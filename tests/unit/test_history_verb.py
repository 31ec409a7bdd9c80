"""`survivectl history` from a store as a daemon leaves it: the plot, the object, the page, and one sentence for each mistake."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from survived.ctl import history, usage_page
from survived.ctl.main import main
from survived.findings import Sizes
from survived.machine import SCHEMA
from survived.model import CacheState, Operation, Sample, Stage, Verb
from survived.store import hogs
from survived.store.database import Database
from survived.store.journal import Journal
from tests.rig.schema import check
from tests.unit.scene import filesystem, reading

GIB = 1024**3
DAY = 86400
ODD = "/home/alice/<script>alert(1)</script>\udcff\n&\"'"


@pytest.fixture
def alice(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Make this process a user whose home is watched and whose data disk has a store; return the home."""
    for name in [name for name in os.environ if name.startswith(("XDG_", "SURVIVED_"))] + ["COLUMNS", "NO_COLOR"]:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    home = Path(environment["HOME"])
    (home / ".config/survived").mkdir(parents=True)
    disk = tmp_path / "disk/me"
    (disk / "survived").mkdir(parents=True)
    (home / ".config/survived/config.toml").write_text(f'[watch]\nfilesystems = ["{home}"]\n[data]\ndisks = ["{disk}"]\n')
    monkeypatch.chdir(home)
    return home


def fill(home: Path, *, hours: int = 48, moves: int = 1) -> str:
    """Write samples of the mount that holds the home, ten minutes apart, and moves; return the mount."""
    from survived.observe.disks import read_filesystem

    mount, now = read_filesystem(str(home)).mount, time.time()
    database = Database(str(home.parent / "disk/me/survived/state.db"), SCHEMA)
    with database.transaction():
        for number in range(hours * 6):
            used = (70 + number % 60 // 3) * GIB
            row = (os.fsencode(mount), int(now - hours * 3600 + number * 600), used, 100 * GIB - used, 1000)
            database.execute("INSERT INTO samples VALUES (?,?,?,?,?)", row)
    journal = Journal(database)
    for number in range(moves):
        began = journal.begin(Verb.RELOCATE, f"cache-{number}", ODD, f"/data1/alice/survived/trees{ODD}", now - 7200)
        journal.advance(began, Stage.DONE, now - 3600 + number, size_bytes=3 * GIB, freed_bytes=2 * GIB)
    database.close()
    return mount


def test_before_the_first_sample_it_says_when_there_will_be_some(alice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No store, no samples: no plot, no error."""
    assert main(["history"]) == 0
    out = capsys.readouterr().out
    assert "there is no sample of the last 7 d" in out
    assert "A sample a minute".lower() in " ".join(out.lower().split())


def test_the_plot_has_curve_marks_and_moves(alice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two days of a sawtooth, in 80 columns without colours; a name of any bytes moves no cursor."""
    mount = fill(alice, moves=3)
    assert main(["history", "--since", "2d"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.startswith(f"{mount} is ")
    lines = said.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in said.out
    assert re.search("[\u2801-\u28ff]", said.out)
    for mark in ("low 80 %", "high 90 %", "flood 97 %"):
        assert mark in said.out
    assert len([line for line in lines if line.startswith("▲") and "cache-" in line]) == 3
    assert "3.00 GiB, 2.00 GiB freed" in said.out
    main(["history", mount])
    assert capsys.readouterr().out.startswith(f"{mount} is ")


def test_only_as_far_back_as_asked_and_only_that_filesystem(alice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An hour has six samples and the present; a path on the filesystem names it."""
    mount = fill(alice)
    assert main(["history", "--since", "61min", str(alice), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    check("history", answer)
    (curve,) = answer["filesystems"]
    assert curve["mount"] == mount
    assert 6 <= len(curve["samples"]) <= 8
    assert [move["id"] for move in answer["moves"]] == ["cache-0"]
    assert {"path", "path_b64"} <= answer["moves"][0].keys()
    assert main(["history", "--since", "5min", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["moves"] == []


def test_a_misspelt_filesystem_has_the_nearest_named(alice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not found: the nearest one is offered, exit code 2."""
    mount = fill(alice)
    database = Database(str(alice.parent / "disk/me/survived/state.db"), SCHEMA)
    database.execute("INSERT INTO samples VALUES (?,?,?,?,?)", (b"/scratch", int(time.time()) - 60, 1, 1, 1))
    database.close()
    assert main(["history", "/scrach"]) == 2
    assert "Did you mean '/scratch'?" in capsys.readouterr().err
    assert main(["history", "--json"]) == 0
    assert {item["mount"] for item in json.loads(capsys.readouterr().out)["filesystems"]} == {mount, "/scratch"}


def test_a_broken_store_is_told_and_the_rest_is_shown(alice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is no database costs one sentence, not the answer."""
    (alice.parent / "disk/me/survived/state.db").write_bytes(b"no database" * 1000)
    assert main(["history"]) == 0
    said = capsys.readouterr()
    assert "Cannot" in said.err
    assert "Traceback" not in said.err
    assert " full" in said.out


# ---- the page -----------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser would see: tags in balance, texts, and everything that would be fetched."""

    VOID = frozenset({"meta", "link", "br", "path"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.fetched: list[str] = []
        self.wrong: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "poster")]
        self.wrong += [name for name, _ in attrs if name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def past(moves: int = 2, points: int = 3000) -> history.Past:
    """Return a week with a gap and some moves whose names are as bad as names can be."""
    now = 1_800_000_000.0
    since = now - 7 * DAY
    samples = [
        Sample(since + number * 7 * DAY / points, ODD, (60 + number * 35 // points) * GIB, (40 - number * 35 // points) * GIB, 5)
        for number in range(points)
        if not points // 3 < number < points // 2
    ]
    item = Operation(1, Verb.RELOCATE, ODD, ODD, f"/data1/survived/trees/{ODD}", Stage.DONE, since, now - DAY, 3 * GIB, 9, 2 * GIB)
    ends = [replace(item, changed=now - DAY + number, verb=list(Verb)[number % 3]) for number in range(moves)]
    return history.Past(since, now, (history.Curve(ODD, {"low": 0.8, "high": 0.9, "flood": 0.97}, tuple(samples)),), tuple(ends))


def test_names_of_any_bytes_are_text_and_nothing_is_fetched() -> None:
    """No tag, attribute or script comes from a name; no address but that of the empty icon; well-formed, and UTF-8."""
    parts = (usage_page.Part(ODD, ODD, 50 * GIB, "cache"), usage_page.Part(f"{ODD}2", ODD, 5 * GIB, "hog"))
    text = usage_page.render(past(), {ODD: usage_page.tidy(parts, 80 * GIB)}, host=ODD)
    page = Page(text)
    assert (page.open, page.wrong) == ([], [])
    assert page.tags.count("script") == 2
    assert page.fetched == ["data:,"]
    assert "http" not in text.replace("http-equiv", "")
    assert r"alert(1)" in "".join(page.texts)
    text.encode()


def test_the_page_has_the_curve_the_treemap_and_every_move() -> None:
    """A path with a gap in it, a box for each part with the rest among them, a row for each move."""
    parts = (usage_page.Part("pip cache", "/p", 50 * GIB, "cache"), usage_page.Part("tiny", "/t", 1, "hog"))
    text = usage_page.render(past(moves=5), {"/": usage_page.tidy(parts, 80 * GIB)}, host="gpu7")
    curve = re.search(r'class="curve" d="([^"]+)"', text)
    assert curve is not None
    assert curve.group(1).count("M") == 2
    assert len(text) < 400_000
    boxes = re.findall(r'<span class="(\w+)" title="([^"]+)">', text)
    assert boxes == [("cache", "pip cache /p, 50.0 GiB"), ("rest", "everything else, 30.0 GiB")]
    assert text.count("<tr>") == 6
    assert text.count('class="move"') == 5


def test_what_uses_the_disk_is_counted_once(tmp_path: Path) -> None:
    """A cache inside another, one that is behind a link, one on another disk and a hog that is a cache are not counted again."""
    here = os.lstat(tmp_path).st_dev
    for name in ("hf/hub", "pip", "data"):
        (tmp_path / name).mkdir(parents=True)
    caches = [
        reading("hf", 40 * GIB, path=str(tmp_path / "hf"), device_id=here),
        reading("hub", 30 * GIB, path=str(tmp_path / "hf/hub"), device_id=here),
        reading("pip", 9 * GIB, path=str(tmp_path / "pip"), device_id=here),
        reading("uv", 9 * GIB, path=str(tmp_path / "uv"), state=CacheState.RELOCATED, target="/data1/uv"),
        reading("proc", 9 * GIB, path="/proc"),
    ]
    big = {str(tmp_path / "data"): 5 * GIB, str(tmp_path / "pip"): 9 * GIB, f"{tmp_path}/.": 2 * GIB, "/nonexistent": GIB}
    parts = usage_page.parts_of(filesystem(0.8, device_id=here), caches, big)
    sizes = {part.name: part.size_bytes // GIB for part in parts}
    assert sizes == {"hf": 40, "pip": 9, str(tmp_path / "data"): 5, f"{tmp_path} (the rest of it)": 2, "everything else": 24}
    assert [part.size_bytes for part in parts] == sorted((part.size_bytes for part in parts), reverse=True)


def test_thinning_keeps_the_peaks() -> None:
    """Of a million points some hundreds are drawn, the highest and the lowest among them."""
    points = [(float(number), 0.5 + 0.001 * (number % 7)) for number in range(100_000)]
    points[54_321], points[76_543] = (54_321.0, 0.99), (76_543.0, 0.01)
    few = usage_page.thinned(points, 1000)
    assert len(few) <= 1100
    assert {points[54_321], points[76_543], points[0], points[-1]} <= set(few)
    assert few == sorted(few)


def test_the_page_is_written_whole_or_not_at_all(alice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Over an older one, and not where a directory is; what it says fits the schema."""
    mount = fill(alice)
    database = Database(str(alice.parent / "disk/me/survived/state.db"), SCHEMA)
    hogs.record(database, Sizes(time.time() - 3600, {f"{mount.rstrip('/')}/tmp": 5 * GIB}))  # else the whole disk is looked at
    database.close()
    (alice / "usage.html").write_text("old")
    assert main(["history", "--html", "usage.html", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    check("history", answer)
    assert answer["html"] == str(alice / "usage.html")
    assert (alice / "usage.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    (alice / "folder").mkdir()
    assert main(["history", "--html", "folder"]) == 1
    assert "Cannot write" in capsys.readouterr().err
    assert sorted(path.name for path in alice.iterdir() if "html" in path.name) == ["usage.html"]
