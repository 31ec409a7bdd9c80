"""The status document keeps the contract of design.md, section 6, and its text answers "am I fine?" in any width."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from survived.model import CacheState, Gauge, Mark, Move, Plan, Pressure, Progress, Reason, Refusal, Rules, Verb, Watermarks
from survived.tell import status
from survived.tell.columns import columns, cut, wrap
from tests.unit.scene import GIB, MIB, NOW, RULES, filesystem, reading, scene, store

WIDTHS = (30, 45, 60, 80, 120)
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
LONG = "/data1/" + "a-very-long-directory-name/" * 8
RELOCATED = reading("pip", state=CacheState.RELOCATED, target="/data1/alice/survived/trees/home/alice/.cache/pip", device_id=2)
DANGLING = replace(RELOCATED, state=CacheState.DANGLING)
MOVE = Progress(
    Verb.RELOCATE,
    "hf-hub",
    "/home/alice/.cache/huggingface/hub",
    "/data1/alice/survived/trees/home/alice/.cache/huggingface/hub",
    "copy",
    NOW - 60,
    3 * GIB,
    10 * GIB,
    300,
    1000,
    50.0 * MIB,
    143.0,
)
GONE = store(ok=False, reason="'/data1/alice' is not there: is the disk mounted?")


def snapshot(
    *caches: Any, usage: float = 0.5, pressure: Pressure = Pressure.NORMAL, stores: Any = None, fs: Any = None, **changes: Any
) -> status.Snapshot:
    """Return what a daemon knows that has been up for an hour and watches `/`."""
    seen = scene(*caches, fs=fs or filesystem(usage), stores=stores)
    gauges = {item.mount: (Gauge(pressure), Gauge()) for item in seen.filesystems}
    return status.Snapshot(NOW, seen, RULES, gauges, **{"pid": 4711, "since": NOW - 3600, **changes})


def text_of(given: status.Snapshot, width: int = 80) -> str:
    """Return the text as a client renders what came over the socket."""
    return status.render(json.loads(json.dumps(status.document(given))), width=width)


STATES: dict[str, tuple[status.Snapshot, str, str]] = {
    "fine": (snapshot(reading("pip")), "OK", "/ is 50 % full, high is 90 %."),
    "fine, moving": (snapshot(reading("pip"), progress=MOVE), "OK", "moving hf-hub to /data1/alice."),
    "fine, filling": (snapshot(seconds_to_full={"/": 7200.0}), "OK", "at this rate it is full in 2 h."),
    "high, in its dwell": (snapshot(usage=0.93), "HIGH", "if it stays so, caches are moved."),
    "high, moving": (
        snapshot(usage=0.93, pressure=Pressure.HIGH, progress=MOVE),
        "HIGH",
        "/ is 93 % full, high is 90 %; moving hf-hub to /data1/alice.",
    ),
    "high, restoring": (
        snapshot(usage=0.93, pressure=Pressure.HIGH, progress=replace(MOVE, verb=Verb.RESTORE)),
        "HIGH",
        "bringing hf-hub home.",
    ),
    "high, paused": (snapshot(usage=0.93, pressure=Pressure.HIGH, paused=True), "HIGH", "moving is paused: survivectl resume."),
    "high, next": (
        snapshot(usage=0.93, pressure=Pressure.HIGH, plan=Plan((Move("pip", "/p", "/data1/alice/survived", 1, 1, "big"),), ())),
        "HIGH",
        "pip is moved next.",
    ),
    "high, stuck": (
        snapshot(
            reading("pip", 3 * GIB),
            reading("uv-cache", GIB),
            usage=0.93,
            pressure=Pressure.HIGH,
            plan=Plan(
                (),
                (
                    Refusal("uv-cache", "/u", Reason.TOO_SMALL, "too small"),
                    Refusal("pip", "/p", Reason.BUSY, "python has files open"),
                ),
            ),
        ),
        "HIGH",
        "nothing can be moved now. pip: python has files open.",
    ),
    "high, nothing known": (snapshot(usage=0.93, pressure=Pressure.HIGH), "HIGH", "nothing that survived knows can be moved."),
    "high, no disk": (
        snapshot(usage=0.93, pressure=Pressure.HIGH, stores=()),
        "HIGH",
        "there is no data disk to move anything to.",
    ),
    "high, disk gone": (
        snapshot(usage=0.93, pressure=Pressure.HIGH, stores=(GONE,)),
        "HIGH",
        "no data disk can be used: '/data1/alice' is not there",
    ),
    "flood": (
        snapshot(usage=0.985, pressure=Pressure.FLOOD, progress=MOVE),
        "FLOOD",
        "/ is 99 % full, high is 90 %; moving hf-hub",
    ),
    "inodes": (
        snapshot(fs=filesystem(0.3, inodes_used=950, inodes_available=50), pressure=Pressure.HIGH),
        "HIGH",
        "/ has 95 % of its inodes in use, high is 90 %",
    ),
    "dangling": (snapshot(DANGLING), "TROUBLE", "pip cannot be reached: what '/data1/alice' held is not there."),
    "problem": (
        snapshot(problems=("The old configuration stays in use: it is wrong.", "more")),
        "TROUBLE",
        "The old configuration stays in use",
    ),
    "no data disk": (snapshot(stores=()), "TROUBLE", "there is no data disk to move anything to."),
    "data disk gone": (snapshot(stores=(GONE,)), "TROUBLE", "is the disk mounted?"),
    "paused for ever": (snapshot(paused=True), "PAUSED", "moving is paused: survivectl resume"),
    "paused": (snapshot(paused=True, paused_until=NOW + 1800), "PAUSED", "moving is paused for 30 min: survivectl resume"),
    "down": (
        snapshot(usage=0.95, pressure=Pressure.HIGH, pid=None, since=None),
        "DOWN",
        "The daemon is not running; / is 95 % full, high is 90 %. Start it:",
    ),
    "nothing watched": (replace(snapshot(), observation=replace(scene(), filesystems=())), "TROUBLE", "No filesystem is watched."),
}


@pytest.mark.parametrize("state", STATES)
def test_the_first_words_say_whether_all_is_well(state: str) -> None:
    """The text begins with one word of alarm and goes on with what it is about."""
    given, alarm, words = STATES[state]
    first = " ".join(text_of(given).split("\n\n")[0].split())
    assert first.startswith(f"{alarm}  ".strip() + " ")
    assert words in first


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("state", STATES)
def test_no_line_is_longer_than_the_width(state: str, width: int) -> None:
    """Every state fits any width from 30 columns on, also with colours, which take no columns, and has no blank ends."""
    doc = status.document(STATES[state][0])
    plain = status.render(doc, width=width)
    assert max(columns(line) for line in plain.split("\n")) <= width
    assert all(line == line.rstrip() for line in plain.split("\n"))
    assert re.sub(r"\x1b\[[0-9;]*m", "", status.render(doc, width=width, colour=True)) == plain


@pytest.mark.parametrize("width", WIDTHS)
def test_long_and_odd_names_fit_too(width: int) -> None:
    """Long paths, wide characters, control characters and bytes that are not UTF-8 break neither width nor terminal."""
    odd = (
        reading("x" * 90, path=LONG),
        reading("wide", path="/" + "日本語" * 40),
        reading("odd", path="/a\x1b[31m\n/\udcff"),
        replace(RELOCATED, target=f"{LONG}survived/trees/x"),
    )
    given = snapshot(
        *odd,
        fs=filesystem(0.5, mount=LONG),
        stores=(store(path=LONG), replace(GONE, reason=f"'{LONG}\x07' is gone")),
        problems=(LONG * 3,),
        recent=({"title": LONG, "time": "2027-01-15T07:00:00Z"},),
        notices={"pending": 2, "last_delivered": None, "last_error": LONG},
    )
    text = text_of(given, width)
    assert max(columns(line) for line in text.split("\n")) <= width
    assert all(line.isprintable() for line in text.split("\n"))
    text.encode()


def test_the_document_has_every_key_of_the_design() -> None:
    """Design section 6, key by key, with its types; other keys may stand beside them."""
    given = snapshot(reading("pip"), RELOCATED, progress=MOVE, seconds_to_full={"/": 60.0}, paused_until=NOW, recent=())
    doc = json.loads(json.dumps(status.document(given)))
    number, text, flag, maybe = (int, float), str, bool, type(None)
    shape: dict[str, Any] = {
        "schema": int,
        "version": text,
        "time": text,
        "pressure": text,
        "move": (dict, maybe),
        "daemon": {"running": flag, "pid": int, "since": text, "paused_until": (text, maybe)},
        "filesystems": {
            "mount": text,
            "device": text,
            "capacity_bytes": int,
            "used_bytes": int,
            "available_bytes": int,
            "usage": number,
            "inodes_usage": number,
            "pressure": text,
            "high": number,
            "low": number,
            "flood": number,
            "seconds_to_full": (int, float, maybe),
        },
        "caches": {
            "id": text,
            "kind": text,
            "path": text,
            "state": text,
            "size_bytes": int,
            "reclaimable_bytes": int,
            "target": (text, maybe),
        },
        "stores": {"path": text, "mount": text, "available_bytes": int, "usage": number, "ok": flag, "reason": (text, maybe)},
        "notices": {"pending": int, "last_delivered": (text, maybe), "last_error": (text, maybe)},
    }
    for key, types in shape.items():
        for item in doc[key] if isinstance(doc[key], list) else [doc[key]]:
            if isinstance(types, dict):
                assert {name: type(item[name]) for name, kind in types.items() if not isinstance(item[name], kind)} == {}, key
            else:
                assert isinstance(item, types), key
    assert (doc["schema"], doc["pressure"], doc["daemon"]["pid"]) == (1, "normal", 4711)
    assert all(
        RFC3339.fullmatch(value)
        for value in (doc["time"], doc["daemon"]["since"], doc["daemon"]["paused_until"], doc["move"]["since"])
    )
    assert {cache["state"] for cache in doc["caches"]} <= {"home", "moving", "relocated", "dangling", "absent"}


def test_shares_are_fractions_and_a_free_mark_becomes_one() -> None:
    """High as "20 GiB free" of 100 GiB is 0.8 in the document; usage is a fraction that only a full disk rounds to 1."""
    marks = Watermarks(Mark(free=20 * GIB), Mark(free=40 * GIB), Mark(free=5 * GIB))
    given = replace(snapshot(usage=0.25), rules=Rules(marks, marks))
    fs = status.document(given)["filesystems"][0]
    assert (fs["usage"], fs["high"], fs["low"], fs["flood"]) == (0.25, 0.8, 0.6, 0.95)
    almost = status.document(snapshot(fs=filesystem(1.0, available_bytes=30 * MIB)))["filesystems"][0]["usage"]
    assert 0.999 < almost < 1


def test_the_cache_that_moves_says_so() -> None:
    """The state of the running move's source is `moving`, whatever was last read; `move` says how far it is."""
    given = snapshot(reading("hf-hub", path=MOVE.source), progress=MOVE, moving=MOVE.source)
    doc = status.document(given)
    assert [cache["state"] for cache in doc["caches"]] == ["moving"]
    assert (doc["move"]["verb"], doc["move"]["phase"], doc["move"]["bytes_done"], doc["move"]["seconds_left"]) == (
        "relocate",
        "copy",
        3 * GIB,
        143.0,
    )
    assert "30 %" in text_of(given)
    text = " ".join(text_of(given).split())
    files = f"{MOVE.files_done:,} of {MOVE.files_total:,} files"
    assert f"copy, 3.00 GiB of 10.0 GiB, {files} at 50.0 MiB/s, 2 min left" in text


def test_a_move_that_waits_says_for_what() -> None:
    """After the copy there is no rate and no end in sight, but a reason; a limit of the rate is named beside the rate."""
    waiting = replace(MOVE, phase="settle", note="python (pid 4711) has files open there", seconds_left=None)
    text = " ".join(text_of(snapshot(reading("hf-hub"), progress=waiting)).split())
    assert "settle (python (pid 4711) has files open there), 3.00 GiB of 10.0 GiB" in text
    assert "MiB/s" not in text
    limited = status.document(snapshot(reading("hf-hub"), progress=replace(MOVE, limit=60 * 1024**2)))
    assert limited["move"]["bytes_per_second_limit"] == 60 * 1024**2
    assert "at 50.0 MiB/s (at most 60.0 MiB/s), 2 min left" in " ".join(status.render(limited).split())


def test_the_marks_stand_on_the_bar_where_they_are() -> None:
    """Low, high and flood have a sign each at their share of the bar, and the line below it names the signs."""
    lines = text_of(snapshot(usage=0.95, pressure=Pressure.HIGH)).split("\n")
    (bar,) = [line for line in lines if line.startswith("/ ")]
    cells = bar[11:61]
    assert [cells.index(sign) for sign in "┊│┃"] == [40, 45, 48]
    assert set(cells[:40]) == {"█"}
    assert cells.rstrip("░")[-1] == "┃"
    assert "┊ low 80 %, │ high 90 %, ┃ flood 97 %" in " ".join(lines)
    painted = status.render(status.document(snapshot(usage=0.95)), colour=True)
    assert "\x1b[1m┊\x1b[0m" in painted


def test_time_to_full_stands_below_the_bar() -> None:
    """With a forecast it is said, without one nothing is."""
    assert "available, full in 2 h" in text_of(snapshot(seconds_to_full={"/": 7200.0}))
    assert "full in" not in text_of(snapshot())


def test_wide_names_stand_in_straight_columns() -> None:
    """Chinese and Japanese ids take two columns a character, and what follows them is in line with the rest."""
    given = snapshot(reading("模型缓存"), reading("pip"), reading("日本語のキャッシュですよ"))
    rows = [line for line in text_of(given).split("\n") if "2.00 GiB" in line]
    assert len(rows) == 3
    assert len({columns(row[: row.index("2.00")]) for row in rows}) == 1


def test_a_narrow_table_leaves_out_what_matters_less() -> None:
    """Below 60 columns there is no place, below 40 no state; sizes stay."""
    heads = {width: text_of(snapshot(reading("pip")), width).split("CACHE")[1].split("\n")[0].split() for width in (30, 45, 60)}
    assert heads == {30: ["SIZE"], 45: ["SIZE", "STATE"], 60: ["SIZE", "FREES", "STATE", "PLACE"]}


def test_a_name_that_is_not_utf8_has_its_bytes_beside_it() -> None:
    """`path` is readable and `path_b64` is exact."""
    (cache,) = status.document(snapshot(reading("odd", path="/home/\udcff")))["caches"]
    assert (cache["path"], cache["path_b64"]) == ("/home/\ufffd", "L2hvbWUv/w==")


def test_what_is_not_there_is_in_the_document_but_not_in_the_text() -> None:
    """Forty caches that nobody has would bury the three that somebody has."""
    given = snapshot(reading("pip"), reading("bun", state=CacheState.ABSENT))
    assert [cache["id"] for cache in status.document(given)["caches"]] == ["pip", "bun"]
    assert "pip" in text_of(given)
    assert "bun" not in text_of(given)


def test_unsent_notices_are_counted_and_the_last_ones_shown_with_their_age() -> None:
    """A dead mail server shows in status, and so does what was told."""
    given = snapshot(
        notices={"pending": 1, "last_delivered": None, "last_error": "mail: connection refused"},
        recent=({"title": "a: pip relocated", "time": "2027-01-15T07:59:00Z"},),
    )
    text = text_of(given)
    assert "unsent     1 notice waiting; mail: connection refused" in text
    assert "notice     a: pip relocated, 1 min ago" in text


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("", 10, [""]),
        ("    a b", 20, ["    a b"]),
        ("aa bb cc", 5, ["aa bb", "  cc"]),
        ("x" * 12, 5, ["xxxxx", "  xxx", "  xxx", "  x"]),
        ("日本語日本語", 6, ["日本語", "  日本", "  語"]),
        ("takes 40 MiB", 9, ["takes", "  40 MiB"]),
        ("it is 5 % of it", 8, ["it is", "  5 % of", "  it"]),
    ],
)
def test_wrapping(text: str, width: int, lines: list[str]) -> None:
    """Lines break between words, never between a number and its unit, and inside a word only where it is too long."""
    assert wrap(text, width, 2) == lines


def test_cutting_leaves_the_end_that_matters() -> None:
    """A cut text has an ellipsis and exactly fits, also with characters of two columns."""
    assert (cut("abcdef", 4), cut("abcdef", 4, left=True), cut("abcd", 4)) == ("abc…", "…def", "abcd")
    assert [columns(cut("日本語日本語", most)) for most in (4, 5, 6)] == [3, 5, 5]
