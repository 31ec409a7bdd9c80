"""The explorer as a person drives it, by textual's own pilot: keys in, screen out; the moves are made by a stand-in."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from survived.ctl import scout as scouting
from survived.ctl.main import main
from survived.ctl.scout import Scout
from survived.ctl.topscreen import Top
from survived.errors import Refused, Stopped
from survived.model import Reason
from tests.unit.scene import MIB

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from textual.pilot import Pilot

ODD = b"odd\xff\n\x1b[31mname"
CHANGING = ("m", "r", "space", "x", "enter", "y", "c", "u")


@pytest.fixture
def alice(environment: dict[str, str], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make this process a user with a home that holds some things, and no daemon; return the home."""
    for name in [name for name in os.environ if name.startswith(("XDG_", "SURVIVED_", "PIP_", "UV_", "HF_"))]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for place, size in ((".cache/pip/http/a", 3), ("work/torch/lib/b", 2), ("work/big.ckpt", 4)):
        (home / place).parent.mkdir(parents=True, exist_ok=True)
        (home / place).write_bytes(os.urandom(size * MIB))
    (home / "work/torch/conda-meta").mkdir()
    os.mkdir(os.fsencode(home) + b"/work/" + ODD)
    (home / "work/away").symlink_to("/nowhere/at/all")
    (home / ".config/survived").mkdir(parents=True)
    config = f'[watch]\nfilesystems = ["{home}"]\n[data]\ndisks = ["{tmp_path}/disk"]\n'
    (home / ".config/survived/config.toml").write_text(config)
    monkeypatch.setattr(scouting, "_devices", lambda _: [-1])  # as if a data disk were there
    monkeypatch.setattr(Scout, "_find_big", lambda _: [])  # this machine's own disk is of no interest
    return home


class Stage:
    """One run of the explorer, with what it was asked to move."""

    def __init__(self, start: Path | None, *, read_only: bool = False, size: tuple[int, int] = (80, 24)) -> None:
        self.asked: list[tuple[str, str]] = []
        self.fault: Exception | None = None
        self.hold = threading.Event()
        self.hold.set()
        scout = Scout(argparse.Namespace(config=None))
        self.app = Top(scout, self.bring, start=None if start is None else str(start), read_only=read_only)
        self._size = size

    def bring(self, verb: str, path: str, stop: threading.Event, show: Callable[[Any], None]) -> dict[str, Any]:
        """Be the courier: note what is asked, show progress while held, then fail or be done."""
        self.asked.append((verb, path))
        while not self.hold.wait(0.02):
            show({
                "path": path, "phase": "copy", "note": "", "bytes_done": MIB, "bytes_total": 2 * MIB, "files_done": 1,
                "files_total": 2, "bytes_per_second": MIB, "seconds_left": 1.0,
            })  # fmt: skip
            if stop.is_set():
                raise Stopped(f"Stopped while moving '{path}'.")
        if self.fault is not None:
            raise self.fault
        return {"path": path, "target": f"/data1/me/survived/trees{path}", "size_bytes": MIB, "freed_bytes": MIB}

    def play(self, scene: Callable[[Stage, Pilot[None]], Awaitable[None]]) -> None:
        """Run a scene to its end."""

        async def run() -> None:
            async with self.app.run_test(size=self._size) as pilot:
                self.pilot = pilot
                await self.until(lambda: self.app._listing.is_read and self.app._listing.pending == 0)
                await scene(self, pilot)

        asyncio.run(run())

    async def until(self, claim: Callable[[], object], seconds: float = 20.0) -> None:
        """Wait until something holds."""
        end = time.monotonic() + seconds
        while not claim():
            assert time.monotonic() < end, self.text()
            await self.pilot.pause(0.02)
        await self.pilot.pause()

    def text(self) -> str:
        """Return what is on the screen."""
        width, height = self.app.size
        lines = self.app.screen._compositor.render_strips()
        assert all(strip.cell_length == width for strip in lines)
        assert len(lines) == height
        return "\n".join(strip.text.rstrip() for strip in lines)

    def names(self) -> list[str]:
        """Return the names of the rows."""
        return [row.name for row in self.app._listing.rows]


def test_a_directory_shows_what_is_in_it_by_size(alice: Path) -> None:
    """Names of any bytes are escaped, environments are known, links say where to; the frame is there."""

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        text = stage.text()
        assert stage.names()[:2] == ["big.ckpt", "torch"]
        assert re.search(r"2\.\d+ MiB  ████···· torch/ +conda environment", text)
        assert re.search(r"4\.00 MiB  ████████ big\.ckpt +checkpoint", text)
        assert "odd\\xff\\n\\x1b[31mname/" in text
        assert "→ /nowhere/at/all" in text
        assert text.splitlines()[0].startswith(" survivectl top  ~/work")
        assert " 4 entries, 6." in text
        assert text.splitlines()[-1].endswith("? help  q quit")

    Stage(alice / "work").play(scene)


def test_one_walks_in_and_out_and_the_cursor_comes_back(alice: Path) -> None:
    """Enter and Backspace, and from / to the overview, which knows the caches."""

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        await pilot.press("down", "enter")
        await stage.until(lambda: stage.names() == ["lib", "conda-meta"])
        await pilot.press("left")
        await stage.until(lambda: "torch" in stage.names())
        assert stage.app._listing.current is not None
        assert stage.app._listing.current.name == "torch"
        await pilot.press("o")
        await stage.until(lambda: "~/.cache/pip" in stage.names())
        assert "pip cache" in stage.text()
        await stage.until(lambda: stage.app._listing.is_read and not stage.app._listing.pending)
        await stage.until(lambda: "Plan: " in stage.text())  # why the daemon leaves it alone

    Stage(alice / "work").play(scene)


def test_two_are_marked_asked_about_moved_and_told(alice: Path) -> None:
    """Space marks and goes on, m asks, Esc changes nothing, Enter moves; the bar is seen, and the list is usable meanwhile."""

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        stage.app._listing.go_to(str(alice / "work"))
        stage.hold.clear()
        await pilot.press("space")
        await pilot.press("home", "down")
        stage.app._listing.go_to(str(alice / ".cache"))
        await pilot.press("space")
        assert "2 marked" in stage.text()
        await pilot.press("m")
        assert "Move 2 directories to a data disk?" in stage.text()
        await pilot.press("escape", "m", "q")
        assert stage.asked == []
        await pilot.press("m", "enter")
        await stage.until(lambda: "50 %" in stage.text() and "Moving ~/work (1 of 2)" in stage.text())
        assert "1.00 MiB of 2.00 MiB, 1 of 2 files at 1.00 MiB/s" in stage.text()
        await pilot.press("down", "m")
        assert "A move is going on" in stage.text()
        stage.hold.set()
        await stage.until(lambda: "2 moved." in stage.text())
        assert stage.asked == [("relocate", str(alice / "work")), ("relocate", str(alice / ".cache"))]
        assert not stage.app._marks.rows

    Stage(alice).play(scene)


def test_a_move_can_be_stopped_and_a_quit_in_the_middle_asks(alice: Path) -> None:
    """q asks first and Esc goes on; x ends the move and what it says is on the screen."""

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        stage.hold.clear()
        stage.app._listing.go_to(str(alice / "work"))
        await pilot.press("m", "enter")
        await stage.until(lambda: "x stop" in stage.text())
        await pilot.press("q")
        assert "Stop the move and quit?" in stage.text()
        await pilot.press("escape")
        assert stage.app.is_running
        await pilot.press("x")
        await stage.until(lambda: "Stopped while moving" in stage.text())

    Stage(alice).play(scene)


def test_quitting_in_the_middle_ends_the_move_first(alice: Path) -> None:
    """The app goes when the move has been stopped, not before."""

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        stage.hold.clear()
        stage.app._listing.go_to(str(alice / "work"))
        await pilot.press("m", "enter")
        await stage.until(lambda: "x stop" in stage.text())
        await pilot.press("ctrl+c", "enter")
        end = time.monotonic() + 10
        while stage.app._exit is False and time.monotonic() < end:
            await pilot.pause(0.02)
        assert stage.app._exit

    Stage(alice).play(scene)


def test_a_failure_is_one_sentence(alice: Path) -> None:
    """What the engine says of a refusal is what the person reads."""

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        stage.fault = Refused(Reason.BUSY, "Cannot move it: python (pid 7) has files open there. Nothing was changed.")
        stage.app._listing.go_to(str(alice / "work"))
        await pilot.press("m", "enter")
        await stage.until(lambda: "python (pid 7) has files open there. Nothing was" in stage.text())

    Stage(alice).play(scene)


def test_what_cannot_be_moved_says_why_and_is_not_marked(alice: Path) -> None:
    """Files, links of others, the home itself."""

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        await pilot.press("m")
        assert "big.ckpt cannot be moved: it is a file, and only directories are moved." in stage.text()
        await pilot.press("space", "r")
        assert "Nothing that is chosen is relocated." in stage.text()
        assert not stage.app._marks.rows
        await pilot.press("left")
        await pilot.press("left")
        await stage.until(lambda: "home" in stage.names())
        assert "it is or holds your home directory" in stage.text()

    Stage(alice / "work").play(scene)


def test_read_only_changes_nothing_whatever_is_pressed(alice: Path) -> None:
    """Every key that could change something, on every row: nothing is asked of the courier and nothing is written."""
    before = {path: path.lstat().st_mtime_ns for path in alice.rglob("*")}

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        assert "read-only" in stage.text().splitlines()[0]
        assert " m move" not in stage.text()
        for _ in range(4):
            await pilot.press("down", *CHANGING)
            await pilot.press("left")
        await pilot.press("m")
        assert "this is --read-only" in stage.text()
        await pilot.press("question_mark")
        assert "--read-only: m and r do nothing" in stage.text()
        assert stage.asked == []

    Stage(alice, read_only=True).play(scene)
    assert {path: path.lstat().st_mtime_ns for path in alice.rglob("*")} == before


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (60, 16), (40, 12)])
def test_it_fits_any_screen(alice: Path, size: tuple[int, int]) -> None:
    """No line is too long or missing, help and question included, and a resize is followed."""

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        stage.text()
        await pilot.press("question_mark")
        stage.text()
        await pilot.press("escape")
        await pilot.resize_terminal(100, 30)
        await stage.until(lambda: stage.app._rows.columns.note > 20)
        assert len(stage.text().splitlines()) == 30

    Stage(alice, size=size).play(scene)


def test_a_directory_that_cannot_be_read_says_so(alice: Path) -> None:
    """A directory that is gone when one looks into it is a sentence, and one can go back."""

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        (alice / "work/torch").rename(alice / "torch")
        stage.app._listing.go_to(str(alice / "work/torch"))
        await pilot.press("enter")
        await stage.until(lambda: "~/work/torch': no such file or directory." in stage.text())
        await pilot.press("left")
        await stage.until(lambda: "big.ckpt" in stage.names())

    Stage(alice / "work").play(scene)


def test_a_hundred_thousand_entries_stay_usable(alice: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key is answered at once in a directory of that size, at its end as at its beginning."""
    from survived.ctl.explorer import Nature, Row

    rows = [Row(f"/d/{n:06}", f"{n:06}", Nature.FILE, n) for n in range(100_000)]
    monkeypatch.setattr(Scout, "entries", lambda *_: rows)

    async def scene(stage: Stage, pilot: Pilot[None]) -> None:
        slowest = 0.0
        for key in ("down", "pagedown", "end", "up", "home", "pagedown"):
            began = time.monotonic()
            await pilot.press(key)
            stage.text()
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 10.0
        await pilot.press("end")
        assert "000000" in stage.text()
        assert "100,000 entries" in stage.text()

    Stage(alice / "work").play(scene)


# ---- the verb ----------------------------------------------------------------------------------------------------------


def test_without_a_terminal_it_says_what_else_there_is(alice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe it is a mistake of usage, and a directory that is not there is one sentence."""
    assert main(["top"]) == 2
    assert "Cannot show a full screen: this is no terminal.\n  For a pipe: survivectl top --json" in capsys.readouterr().err
    assert main(["top", "/nowhere"]) == 1
    assert "Cannot look into '/nowhere': no such file or directory." in capsys.readouterr().err


def test_json_has_the_same_rows(alice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One object, measured, with names of any bytes and why each stays."""
    import base64
    import json

    assert main(["top", "--json", str(alice / "work")]) == 0
    document = json.loads(capsys.readouterr().out)
    rows = {os.path.basename(entry["path"]): entry for entry in document["entries"]}

    assert document["schema"] == 1
    assert (rows["torch"]["nature"], rows["torch"]["what"], rows["torch"]["why_not"]) == ("directory", "conda environment", None)
    assert rows["torch"]["size_bytes"] >= 2 * MIB
    assert rows["away"]["target"] == "/nowhere/at/all"
    assert [base64.b64decode(entry["path_b64"]).endswith(ODD) for entry in document["entries"] if "path_b64" in entry] == [True]
    assert main(["top", "--json"]) == 0
    overview = json.loads(capsys.readouterr().out)
    assert [entry["id"] for entry in overview["entries"] if entry["path"] == str(alice / ".cache/pip")] == ["pip"]
