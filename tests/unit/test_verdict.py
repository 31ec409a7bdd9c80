"""`status --short` is one token for a prompt, nothing when all is well, and its exit code says which."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from survived.ctl import quick, short
from survived.ctl.watch import frame
from survived.errors import UsageError
from survived.model import Gauge, Pressure
from survived.settings.paths import client_socket, resolve_paths
from survived.tell import status
from survived.tell.control import ControlServer, UnknownMethod
from survived.tell.verdict import styled
from tests.unit.scene import RULES, filesystem, scene
from tests.unit.test_status import DANGLING, GONE, MOVE, STATES, snapshot

ROOT = Path(__file__).resolve().parents[2]


def brief(given: status.Snapshot, style: str = "plain") -> dict[str, Any]:
    """Return what is said of what came over the socket."""
    return status.brief(json.loads(json.dumps(status.document(given))), style)


@pytest.mark.parametrize(
    ("given", "text", "code"),
    [
        (snapshot(), "", 0),
        (snapshot(progress=MOVE), "", 0),
        (snapshot(paused=True), "survived paused", 0),
        (snapshot(usage=0.93), "/ 93%", 5),
        (snapshot(usage=0.93, pressure=Pressure.HIGH), "/ 93%", 5),
        (snapshot(usage=0.93, pressure=Pressure.HIGH, progress=MOVE), "/ 93% → hf-hub", 5),
        (snapshot(usage=0.985, pressure=Pressure.FLOOD), "/ 99%!", 5),
        (snapshot(fs=filesystem(0.3, inodes_used=950, inodes_available=50), pressure=Pressure.HIGH), "/ 95%", 5),
        (snapshot(DANGLING), "pip lost", 5),
        (snapshot(stores=(GONE,)), "survived trouble", 5),
        (snapshot(usage=0.95, pid=None, since=None), "survived down / 95%", 3),
        (replace(snapshot(), observation=replace(scene(), filesystems=())), "survived trouble", 5),
    ],
)
def test_a_token_for_each_state(given: status.Snapshot, text: str, code: int) -> None:
    """Nothing when all is well; else the level, or the one word that matters, and never a line break."""
    said = brief(given)
    assert (said["text"], said["exit_code"]) == (text, code)
    assert "\n" not in said["text"]


@pytest.mark.parametrize("state", STATES)
def test_every_state_has_a_token_or_is_fine(state: str) -> None:
    """An empty token is an exit code of 0, and every code but that has a token."""
    said = brief(STATES[state][0])
    assert bool(said["text"]) == (said["alarm"] != "ok")
    assert (said["exit_code"] == 0) == (said["alarm"] in ("ok", "paused"))


def test_a_name_is_no_command_of_the_prompt() -> None:
    """What a mount is called cannot colour, run or break anything."""
    fs = filesystem(0.93, mount="/#(rm)%n\x1b[2J")
    seen = replace(scene(), filesystems=(fs,))
    given = status.Snapshot(0.0, seen, RULES, {fs.mount: (Gauge(Pressure.HIGH), Gauge())}, pid=1, since=0.0)
    assert brief(given)["text"] == "/#(rm)%n�[2J 93%"
    assert brief(given, "tmux")["text"] == "#[fg=yellow]/##(rm)%n�[2J 93%#[default]"
    assert brief(given, "zsh")["text"] == "%F{yellow}/#(rm)%%n�[2J 93%%%f"
    assert styled("", "red", "tmux") == ""


# ---- asked --------------------------------------------------------------------------------------------------------


def ctl(runtime: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the quick survivectl with a runtime directory of its own."""
    env = {
        **os.environ,
        "XDG_RUNTIME_DIR": str(runtime),
        "PYTHONPATH": str(ROOT),
        "HOME": str(runtime),
        "PYTHONIOENCODING": "utf-8",
    }
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "survived.ctl.quick", "status", *words],
        env=env, capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip


def loaded(done: subprocess.CompletedProcess[str]) -> set[str]:
    """Return the modules that a call imported."""
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


class Daemon:
    """A control socket that answers `status_short`, in a thread."""

    def __init__(self, runtime: Path, answer: dict[str, Any] | None) -> None:
        import selectors

        (runtime / "survived").mkdir(mode=0o700)
        self.selector, self.ends = selectors.DefaultSelector(), threading.Event()

        def handle(method: str, params: dict[str, Any]) -> Any:
            if answer is None:
                raise UnknownMethod(method)
            if method == "status_short":
                return {**answer, "text": f"{answer['text']} {params['style']}".strip()}
            raise UsageError("Cannot")

        self.server = ControlServer(str(runtime / "survived/control.sock"), handle, os.getuid())
        self.server.listen()
        self.server.register(self.selector)
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while not self.ends.is_set():
            for key, mask in self.selector.select(0.05):
                key.data(mask)

    def close(self) -> None:
        """End it."""
        self.ends.set()
        self.thread.join()
        self.server.close()
        self.selector.close()


def test_the_daemon_is_asked_without_loading_much(tmp_path: Path) -> None:
    """Token, style and code are the daemon's; neither argparse nor the configuration is loaded for them."""
    daemon = Daemon(tmp_path, {"alarm": "high", "line": "/ is 93 % full.", "text": "/ 93%", "exit_code": 5})
    try:
        done = ctl(tmp_path, "--short")
        assert (done.stdout, done.returncode) == ("/ 93% plain\n", 5)
        assert not {"argparse", "pydantic", "sqlite3", "tomllib", "survived.model", "logging"} & loaded(done)
        assert len(loaded(done)) < 90
        assert ctl(tmp_path, "--short", "tmux").stdout == "/ 93% tmux\n"
        quiet = ctl(tmp_path, "--quiet")
        assert (quiet.stdout, quiet.returncode) == ("survived: HIGH  / is 93 % full.\n", 5)
    finally:
        daemon.close()


def test_nothing_is_said_when_all_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not even a line end."""
    daemon = Daemon(tmp_path, {"alarm": "ok", "line": "/ is 50 % full.", "text": "", "exit_code": 0})
    try:
        said = short.ask(str(tmp_path / "survived/control.sock"))
        assert (said["alarm"], said["exit_code"]) == ("ok", 0)
        short.show({**said, "text": ""}, is_line=True)
        short.show({**said, "text": ""}, is_line=False)
        assert capsys.readouterr().out == ""
    finally:
        daemon.close()


def test_without_a_daemon_the_prompt_says_so_at_once(tmp_path: Path) -> None:
    """No socket, a socket nobody listens at, and one that does not answer: told apart, exit code 3, nothing is measured."""
    import socket

    place = tmp_path / "survived/control.sock"
    assert short.ask(str(place))["text"].startswith("survived down / ")
    place.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(place))
        assert short.ask(str(place))["text"].startswith("survived down / ")
        silent.listen()
        said = short.ask(str(place))
        assert said["text"].startswith("survived silent / ")
        assert said["exit_code"] == 3


@pytest.mark.parametrize("uid", [0, 12345])
@pytest.mark.parametrize("runtime", ["", "relative", "/nonexistent/run"])
def test_the_quick_way_asks_where_the_long_way_does(uid: int, runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever XDG_RUNTIME_DIR says, for root and for others."""
    monkeypatch.setattr(os, "getuid", lambda: uid)
    env = {"XDG_RUNTIME_DIR": runtime} if runtime else {}
    if uid == 0 and runtime:
        monkeypatch.setattr(os.path, "lexists", lambda path: str(path).startswith("/nonexistent"))
    assert quick._socket(runtime) == str(client_socket(resolve_paths(env, "/nonexistent", uid)))


def test_an_older_daemon_is_asked_the_long_way(tmp_path: Path) -> None:
    """One that does not know the question is no daemon that is away."""
    daemon = Daemon(tmp_path, None)
    try:
        from survived.errors import SurvivedError

        with pytest.raises(SurvivedError):
            short.ask(str(tmp_path / "survived/control.sock"))
    finally:
        daemon.close()


# ---- a frame of --watch -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lines", [1, 2, 10, 30])
def test_a_frame_fills_the_screen_and_no_more(lines: int) -> None:
    """As many lines as there are, each cleared to its end, the last of them counting what did not fit; nothing scrolls."""
    page = "\n".join(f"line {number}" for number in range(20))
    drawn = frame(page, 40, lines, "12:00:00")
    assert drawn.startswith("\x1b[?2026h\x1b[H")
    assert drawn.endswith("\x1b[K\x1b[J\x1b[?2026l")
    shown = drawn[len("\x1b[?2026h\x1b[H") : -len("\x1b[J\x1b[?2026l")].split("\r\n")
    assert len(shown) == lines
    assert all(line.endswith("\x1b[K") for line in shown)
    assert ("more lines" in shown[-1]) == (lines < 21)
    assert max(len(line) for line in shown) <= 40 + len("\x1b[K")
