"""What the explorer shows, as values: rows, order, cursor, marks, and lines that are exactly as wide as the screen."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from survived.ctl import explorer, topframe, topjourney
from survived.ctl.explorer import Listing, Marks, Nature, Order, Row
from survived.ctl.guess import identify
from survived.ctl.topjourney import Journey
from survived.errors import Refused, Stopped, SurvivedError
from survived.model import Reason
from survived.tell.columns import columns
from tests.unit.scene import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable

HOME = "/home/alice"
ODD = os.fsdecode(b"odd\xff\n\x1b[31mname")
ROWS = [
    Row(f"{HOME}/.cache", ".cache", Nature.DIRECTORY, 3 * GIB),
    Row(f"{HOME}/big.ckpt", "big.ckpt", Nature.FILE, 5 * GIB, "checkpoint"),
    Row(
        f"{HOME}/hub", "hub", Nature.RELOCATED, 9 * GIB, "Hugging Face hub", "/data1/alice/survived/trees/home/alice/hub", "hf-hub"
    ),
    Row(f"{HOME}/lost", "lost", Nature.LOST, None, "", "/data2/alice/survived/trees/home/alice/lost"),
    Row(f"{HOME}/link", "link", Nature.LINK, target="/etc"),
    Row(f"{HOME}/mnt", "mnt", Nature.MOUNT),
    Row(f"{HOME}/{ODD}", ODD, Nature.DIRECTORY, None),
    Row(
        f"{HOME}/数据集/很长的名字" + "长" * 60,
        "数据集/很长的名字" + "长" * 60,
        Nature.DIRECTORY,
        7 * MIB,
        "数据" * 30,
        partial=True,
    ),
]


def _listing(*rows: Row, path: str | None = HOME) -> Listing:
    listing = Listing(path, is_read=True)
    listing.put(rows or ROWS)
    return listing


# ---- the listing -----------------------------------------------------------------------------------------------------


def test_the_biggest_is_first_and_what_is_behind_a_link_takes_nothing() -> None:
    """Order and sum are about this filesystem; directories come before what takes as little."""
    listing = _listing()

    assert [row.name for row in listing.rows[:3]] == ["big.ckpt", ".cache", ROWS[-1].name]
    assert listing.total_bytes == 8 * GIB + 7 * MIB
    assert listing.biggest_bytes == 5 * GIB
    listing.sort(Order.NAME)
    assert [row.name for row in listing.rows[:2]] == [".cache", "big.ckpt"]


def test_the_cursor_stays_on_what_was_looked_at_and_else_at_the_top() -> None:
    """Sizes that come in move the rows: an untouched cursor stays first, one that was moved goes along."""
    rows = [Row(f"/d/{name}", name, Nature.DIRECTORY, None) for name in "abc"]
    listing = _listing(*rows, path="/d")
    listing.update({"/d/c": Row("/d/c", "c", Nature.DIRECTORY, 10)}, pending=2)
    assert listing.current is not None
    assert (listing.current.name, listing.index, listing.pending) == ("c", 0, 2)
    listing.step(1)
    listing.update({"/d/b": Row("/d/b", "b", Nature.DIRECTORY, 99)})

    assert (listing.current.name, [row.name for row in listing.rows]) == ("a", ["b", "c", "a"])


def test_a_cursor_can_wait_for_its_row() -> None:
    """Coming back out of a directory the cursor is on it as soon as the rows are there."""
    listing = Listing("/d")
    listing.go_to("/d/b")
    listing.put([Row("/d/a", "a", Nature.FILE, 9), Row("/d/b", "b", Nature.FILE, 1)])

    assert listing.current == listing.rows[1]


@pytest.mark.parametrize("by", [-5, 5, 10**9, -(10**9)])
def test_the_cursor_never_leaves_the_rows(by: int) -> None:
    """Steps of any size end at the first or the last row, and an empty listing has none."""
    listing, empty = _listing(), Listing(None)
    listing.step(by)
    empty.step(by)

    assert listing.current in ROWS
    assert empty.current is None


def test_the_overview_counts_nothing_twice() -> None:
    """A directory in another row's directory is in its sum already; what is left beside rows is not."""
    rows = [
        Row("/a", "/a", Nature.DIRECTORY, 10),
        Row("/a/b", "/a/b", Nature.DIRECTORY, 4),
        Row("/a.c", "/a.c", Nature.DIRECTORY, 1),
        Row("/h", "/h", Nature.DIRECTORY, 100, is_rest=True),
        Row("/h/x", "/h/x", Nature.DIRECTORY, 1000),
    ]

    assert _listing(*rows, path=None).total_bytes == 1111


def test_adding_keeps_what_is_there() -> None:
    """What is known of a path is not replaced by what else was found."""
    listing = _listing(ROWS[0])
    listing.add([Row(ROWS[0].path, "x", Nature.DIRECTORY, 1), ROWS[1]])

    assert [row.name for row in listing.rows] == ["big.ckpt", ".cache"]


def test_a_hundred_thousand_rows_are_sorted_and_laid_out_quickly() -> None:
    """No step of the model is slow at the size of a big directory."""
    import time

    began = time.monotonic()
    listing = _listing(*(Row(f"/d/{n}", str(n), Nature.FILE, n) for n in range(100_000)), path="/d")
    listing.step(50_000)
    listing.update({"/d/7": Row("/d/7", "7", Nature.FILE, 10**9)})
    explorer.layout(listing.rows, 80)
    explorer.totals(listing, Marks())

    assert time.monotonic() - began < 30
    assert listing.rows[0].name == "7"


# ---- marks -----------------------------------------------------------------------------------------------------------


def test_marks_are_what_is_moved_and_without_any_the_current_row() -> None:
    """Only rows of the right kind are taken, and none that lies in another one that is taken."""
    marks, inner = Marks(), Row(f"{HOME}/.cache/pip", "pip", Nature.DIRECTORY, GIB)
    assert marks.chosen(ROWS[0], (Nature.DIRECTORY,)) == [ROWS[0]]
    assert marks.chosen(ROWS[1], (Nature.DIRECTORY,)) == []
    assert marks.chosen(None, (Nature.DIRECTORY,)) == []
    for row in (inner, ROWS[0], ROWS[2], ROWS[4]):
        marks.toggle(row)
    marks.toggle(ROWS[4])

    assert marks.chosen(ROWS[1], (Nature.DIRECTORY,)) == [ROWS[0]]
    assert marks.chosen(ROWS[1], (Nature.RELOCATED,)) == [ROWS[2]]
    assert marks.size_bytes == 13 * GIB


# ---- what things are -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "has", "what"),
    [
        ("torch", ["conda-meta", "pyvenv.cfg"], "conda environment"),
        (".venv", ["pyvenv.cfg"], "Python environment"),
        ("models--meta-llama--Llama-3", [], "Hugging Face model meta-llama/Llama-3"),
        ("datasets--squad", [".git"], "Hugging Face dataset squad"),
        ("node_modules", [], "npm packages of a project"),
        ("project", [".git", "package.json"], "git repository"),
        ("whatever", [], ""),
    ],
)
def test_a_directory_is_known_by_its_name_and_what_it_holds(name: str, has: list[str], what: str) -> None:
    """The most telling sign counts."""
    assert identify(name, has) == what


def test_a_file_is_known_by_its_ending() -> None:
    """And by nothing else."""
    assert identify("a.CKPT", is_directory=False) == "checkpoint"
    assert identify("models--a--b", is_directory=False) == ""


# ---- lines -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [20, 40, 50, 63, 64, 80, 120, 200])
def test_every_line_is_as_wide_as_the_screen_and_printable(width: int) -> None:
    """Names of any bytes, wide characters and long names fill the line exactly, marked or not."""
    listing = _listing()
    shown = explorer.layout(listing.rows, width)
    for row in listing.rows:
        pieces = explorer.line(row, shown, listing.biggest_bytes, marked=True)
        assert columns("".join(pieces)) == width, pieces
        assert all(text.isprintable() for text in pieces)
    assert columns(explorer.heading(shown)) <= width


def test_a_line_says_size_name_and_where_it_is() -> None:
    """What is behind a link names its disk, what is lost says so, and odd bytes are escaped."""
    shown = explorer.layout(ROWS, 120)
    texts = {row.name: "".join(explorer.line(row, shown, 5 * GIB, marked=False)) for row in ROWS}

    assert "5.00 GiB  ████████ big.ckpt" in texts["big.ckpt"]
    assert "Hugging Face hub → /data1/alice" in texts["hub"]
    assert "LOST → /data2/alice" in texts["lost"]
    assert "another filesystem" in texts["mnt"]
    assert "odd\\xff\\n\\x1b[31mname/" in texts[ODD]
    assert ">7.00 MiB" in texts[ROWS[-1].name]
    assert "?" in texts[ODD]


@pytest.mark.parametrize("width", [30, 80, 120])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.nature.value)
def test_what_is_known_of_a_row_fits_below_the_list(row: Row, width: int) -> None:
    """Three lines at most, none wider than the screen."""
    lines = topframe.details(row, "it is held by " + "python " * 80, HOME, width)

    assert 1 <= len(lines) <= topframe.DETAIL_LINES
    assert all(columns(text) <= width and text.isprintable() for text in lines)


def test_details_say_what_may_be_done() -> None:
    """Whether it moves, why not, where it lives, and what the plan says."""
    movable = Row(f"{HOME}/.cache/pip", "pip", Nature.DIRECTORY, GIB, "pip cache", word="/ is at 26 %, high is 90 %")

    assert explorer.details(movable, None, HOME) == [
        "~/.cache/pip", "pip cache. m moves it to a data disk and leaves a link. Plan: / is at 26 %, high is 90 %.",
    ]  # fmt: skip
    assert explorer.details(ROWS[1], "it is a file", HOME)[1] == "checkpoint. Stays: it is a file."
    assert "r brings it home. It lives at /data1/alice/survived/trees/home/alice/hub" in explorer.details(ROWS[2], "x", HOME)[1]
    assert "Is its data disk mounted?" in explorer.details(ROWS[3], "x", HOME)[1]


def test_the_frame_fits_a_small_and_a_wide_screen() -> None:
    """Title, usage, totals and keys are as wide as they may be at 80 columns, with a long path."""
    fs = {"mount": "/", "usage": 0.93, "low": 0.8, "high": 0.9, "available_bytes": 5 * GIB, "capacity_bytes": 430 * GIB}
    deep = Listing("/" + "a-long-name/" * 30)
    for width in (60, 80, 120):
        assert columns(topframe.title(deep, HOME, width, read_only=True)) == width
        assert columns(topframe.usage(fs, deep, width)) == width
        assert columns(topframe.usage(None, deep, width)) == width
    keys = topframe.keys(read_only=False, is_moving=True)
    assert sum(columns(key) + columns(what) + 3 for key, what in keys) <= 80
    assert not {"m", "r", "space"} & {key for key, _ in topframe.keys(read_only=True, is_moving=False)}


# ---- journeys --------------------------------------------------------------------------------------------------------


def _result(path: str) -> dict[str, Any]:
    return {"path": path, "target": f"/data1/alice/survived/trees{path}", "size_bytes": GIB, "freed_bytes": GIB}


def _bring(faults: dict[str, Exception]) -> Callable[..., dict[str, Any]]:
    def bring(verb: str, path: str, stop: threading.Event, show: Callable[[Any], None]) -> dict[str, Any]:
        show({"path": path, "phase": "copy", "note": "", "bytes_done": 1, "bytes_total": 2, "files_done": 1, "files_total": 2})
        if path in faults:
            raise faults[path]
        return _result(path)

    return bring


def test_a_failure_ends_its_own_move_only() -> None:
    """The rest goes on, and each outcome is one sentence."""
    rows = [Row(f"/{name}", name, Nature.DIRECTORY, GIB) for name in "abc"]
    journey = Journey("relocate", rows)
    journey.travel(
        _bring({"/b": Refused(Reason.BUSY, "Cannot move '/b': python (pid 7) has files open there."), "/c": OSError(5, "EIO")})
    )

    assert journey.said == ["Moved /a to /data1/alice: freed 1.00 GiB of 1.00 GiB."]
    assert journey.failed == [
        "Cannot move '/b': python (pid 7) has files open there.", "Cannot move '/c': eio. Look at it: survivectl status.",
    ]  # fmt: skip
    assert topjourney.sum_up(journey) == "1 moved, 2 not."


def test_being_stopped_ends_all() -> None:
    """What was not begun is not begun."""
    rows = [Row(f"/{name}", name, Nature.DIRECTORY, GIB) for name in "abc"]
    journey = Journey("restore", rows)
    journey.travel(_bring({"/b": Stopped("Stopped.")}))

    assert topjourney.sum_up(journey) == "1 came home, 1 not, 1 not begun."


def test_a_single_outcome_is_said_in_full() -> None:
    """One move needs no counting."""
    journey = Journey("relocate", [ROWS[0]])
    journey.travel(_bring({ROWS[0].path: SurvivedError("Cannot move it.", "Do this.")}))

    assert topjourney.sum_up(journey) == "Cannot move it. Do this."


@pytest.mark.parametrize("width", [60, 80, 120])
def test_how_far_a_move_is_takes_two_lines(width: int) -> None:
    """A bar with its share and what is being done, from before it begins to the end, in the width there is."""
    journey = Journey("relocate", ROWS)
    progress = {
        "path": "/x", "phase": "settle", "note": "python (pid 4711) has files open there " * 3, "bytes_done": GIB,
        "bytes_total": 2 * GIB, "files_done": 1, "files_total": 2, "bytes_per_second": 0, "seconds_left": None,
    }  # fmt: skip
    for given in (None, {**progress, "path": ""}, progress, {**progress, "note": "", "phase": "copy", "bytes_per_second": MIB}):
        journey.progress = given
        lines = topjourney.draw(journey, width, HOME)
        assert len(lines) == 2
        assert all(columns(text) <= width for text in lines)
    assert "(1 of 8)" in lines[0]
    assert "50 %" in lines[0]


def test_the_question_names_what_and_what_to_mind() -> None:
    """One by its path, several in a list that has an end, with their sum, and a caution where there is one."""
    rows = [Row(f"{HOME}/{n}", str(n), Nature.DIRECTORY, GIB) for n in range(12)]
    one = topjourney.question("relocate", rows[:1], HOME, ["core dumps: is only reported."])
    many = topjourney.question("restore", rows, HOME)

    assert one.startswith("Move ~/0 to a data disk? (1.00 GiB)")
    assert "Mind: core dumps: is only reported." in one
    assert many.startswith("Bring 12 directories home? (12.0 GiB)")
    assert "and 4 more" in many
    assert len(many.splitlines()) < 18
