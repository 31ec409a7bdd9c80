"""`survivectl hogs` on a real disk: what it says can be done can be done, what it says cannot is refused, and growth is told."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from survived.ctl.main import main
from survived.store.database import Database
from tests.rig.disks import why_no_mounts

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.rig.disks import Disks

pytestmark = [pytest.mark.real, pytest.mark.skipif(why_no_mounts() is not None, reason=str(why_no_mounts()))]

MIB = 1 << 20


def fill(path: Path, size: int = 4 * MIB, count: int = 4) -> None:
    """Make files of together `size` bytes in a directory."""
    path.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (path / f"file{number}").write_bytes(os.urandom(size // count))


@pytest.fixture
def disks(make_disks: Callable[..., Disks]) -> Disks:
    """Return a small disk that is watched, with a home on it, and a data disk."""
    return make_disks()


@pytest.fixture
def home(disks: Disks, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Make this process a user whose home is on the small disk; return the home."""
    for name in [name for name in os.environ if name.startswith(("XDG_", "SURVIVED_", "PIP_", "UV_", "HF_", "TORCH"))]:
        monkeypatch.delenv(name)
    home = disks.small.path / "home/alice"
    config = home / ".config/survived/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(
        f'[watch]\nfilesystems = ["{disks.small.path}"]\n[data]\ndisks = ["{disks.data.path}"]\n[move]\nmin_size = "1 MiB"\n',
        encoding="utf-8",
    )
    (tmp_path / "run").mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.chdir(home)
    return home


def ask(capsys: pytest.CaptureFixture[str], *words: str, rc: int = 0) -> dict[str, Any]:
    """Return what `survivectl WORDS --json` answers."""
    assert main([*words, "--json"]) == rc
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def hogs(capsys: pytest.CaptureFixture[str], home: Path, *words: str) -> dict[str, dict[str, Any]]:
    """Return the hogs by their path, relative to the home."""
    return {os.path.relpath(hog["path"], home): hog for hog in ask(capsys, "hogs", *words)["hogs"]}


def test_what_is_said_can_be_done(home: Path, disks: Disks, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command given is taken, and frees what was said; each hog without one is refused by the engine, for that reason."""
    fill(home / "work/runs", count=3)
    fill(home / "work/data", count=3)
    fill(home / "name with 'quote", 6 * MIB)
    fill(home / ".cache/pip/wheels", 9 * MIB)
    fill(home / ".cache/unknown", 2 * MIB)
    fill(home / ".cache/strange", 2 * MIB)
    fill(home / "mnt/below", 3 * MIB)
    fill(home / "mnt/beside", 3 * MIB)
    (home / "big.bin").write_bytes(bytes(2 * MIB))
    (home / "mnt/over").mkdir()
    subprocess.run(["mount", "--bind", home / "work", home / "mnt/over"], check=True)
    try:
        found = hogs(capsys, home)
        assert set(found) == {"work", "name with 'quote", ".cache/unknown", ".cache/strange", "mnt/below", "mnt/beside", "big.bin"}
        assert sum(hog["size_bytes"] for hog in found.values()) == pytest.approx(26 * MIB, rel=0.02)
        assert ask(capsys, "relocate", str(home / "big.bin"), rc=4)["error"]["reason"] == "not_a_directory"
        assert found["big.bin"]["command"] is None
        before = os.statvfs(disks.small.path).f_bfree
        for path in ("name with 'quote", ".cache/unknown", "mnt/below"):
            words = shlex.split(found[path]["command"])
            assert words == ["survivectl", "relocate", str(home / path)]
            assert ask(capsys, *words[1:])["done"]
        freed = (os.statvfs(disks.small.path).f_bfree - before) * os.statvfs(disks.small.path).f_frsize
        assert freed == pytest.approx(
            sum(found[path]["size_bytes"] for path in ("name with 'quote", ".cache/unknown", "mnt/below")), rel=0.02
        )
        # What was moved is known: it is no hog of the small disk any more.
        assert set(hogs(capsys, home)) == {"work", ".cache/strange", "mnt/beside", "big.bin"}
    finally:
        subprocess.run(["umount", home / "mnt/over"], check=True)


def test_a_deleted_file_and_reserved_blocks_are_told(home: Path, disks: Disks, capsys: pytest.CaptureFixture[str]) -> None:
    """What no walk can find: named with its process, in JSON and in the text for people."""
    subprocess.run(["tune2fs", "-m", "5", disks.small.image], check=False, capture_output=True)
    path = home / "checkpoint.pt"
    path.write_bytes(os.urandom(20 * MIB))
    code = "import sys; file = open(sys.argv[1]); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        path.unlink()
        (item,) = ask(capsys, "hogs", str(home))["deleted"]
        assert (item["pid"], item["path"]) == (process.pid, str(path))
        assert 20 * MIB <= item["size_bytes"] < 21 * MIB
        assert main(["hogs"]) == 0
        assert f"held by pid {process.pid} {os.path.basename(sys.executable)}, 20.0 MiB" in " ".join(
            capsys.readouterr().out.split()
        )
        process.communicate(b"")
    assert ask(capsys, "hogs", ".")["deleted"] == []


def test_growth_since_yesterday(home: Path, disks: Disks, capsys: pytest.CaptureFixture[str]) -> None:
    """A look at everything is kept in the store that is there; a day later what grew is told, and only by what it grew."""
    fill(home / "runs")
    fill(home / "still")
    assert ask(capsys, "hogs")["growth"] == {}
    assert not (disks.data.path / "survived").exists()  # looking makes no store
    fill(home / "first", 2 * MIB)
    ask(capsys, "relocate", str(home / "first"))
    assert ask(capsys, "hogs")["growth"] == {}
    database = Database(str(disks.data.path / "survived/state.db"), ())
    database.execute("UPDATE hog_looks SET time = time - 90000")
    database.execute("UPDATE hogs SET time = time - 90000")
    database.close()
    fill(home / "runs", 10 * MIB)
    fill(home / "new/models", 5 * MIB)

    grown = ask(capsys, "hogs")["growth"]["yesterday"]["growers"]

    assert [(os.path.relpath(item["path"], home), round(item["grown_bytes"] / MIB), item["new"]) for item in grown] == [
        ("runs", 6, False),
        ("new/models", 4, True),  # at least: it may have been just too small to be seen
    ]
    assert main(["hogs", "new"]) == 0
    text = capsys.readouterr().out
    assert "at least 4" in text
    assert "runs" not in text


def test_the_same_model_in_two_caches(home: Path, disks: Disks, capsys: pytest.CaptureFixture[str]) -> None:
    """The hub has it, and so has ModelScope, on the data disk by now: told once, with what is saved, proven if asked."""
    content = os.urandom(70 * MIB)
    blob = home / ".cache/huggingface/hub/models--x/blobs/abc"
    other = home / ".cache/modelscope/hub/x/model.safetensors"
    for path in (blob, other):
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    (twins,) = ask(capsys, "hogs")["twins"]
    assert {item["place"] for item in twins["files"]} == {"hf-hub", "modelscope"}
    assert (round(twins["saved_bytes"] / MIB), twins["verified"]) == (70, False)
    ask(capsys, "relocate", "modelscope")
    (twins,) = ask(capsys, "hogs", "--verify")["twins"]
    assert twins["verified"]
    assert {item["path"] for item in twins["files"]} == {str(blob), os.path.realpath(other)}
    assert ask(capsys, "hogs")["hogs"] == []


def test_text_for_people(home: Path, disks: Disks, capsys: pytest.CaptureFixture[str]) -> None:
    """Each hog with its size and what may be done, a command in one line however long its path is."""
    long = home / ("x" * 100) / "y"
    fill(long)
    assert main(["hogs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"            survivectl relocate {long}" in lines
    assert any("4.00 MiB" in line for line in lines)
    assert main(["hogs", "/nonexistent"]) == 1
    assert capsys.readouterr().err.splitlines()[0] == (
        "survivectl: Cannot look into '/nonexistent': there is none. Nothing was changed."
    )
    assert main(["hogs", str(long / "file0")]) == 1
    assert "it is not a directory" in capsys.readouterr().err


def test_with_a_daemon_the_daemon_keeps_it(home: Path, disks: Disks, capsys: pytest.CaptureFixture[str]) -> None:
    """The store is locked by the daemon, which takes the sample of a look that prints nothing; at the lowest priority."""
    fill(home / "runs")
    look = [sys.executable, "-m", "survived.ctl.main", "hogs", "--keep"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-m", "survived"], stderr=subprocess.PIPE, env=env) as daemon:
        try:
            for _ in range(200):
                if main(["status", "--json"]) == 0 and json.loads(capsys.readouterr().out)["stores"][0]["ok"]:
                    break
                capsys.readouterr()
                time.sleep(0.1)
            done = subprocess.run([*look, "--json"], env=env, capture_output=True, text=True, check=True)
            assert json.loads(done.stdout) == {"schema": 1, "kept": True}
            assert subprocess.run(look, env=env, capture_output=True, check=True).stdout == b""
        finally:
            daemon.terminate()
            daemon.communicate(timeout=20)
    database = Database(str(disks.data.path / "survived/state.db"), (), read_only=True)
    assert [os.fsdecode(path) for (path,) in database.execute("SELECT path FROM hogs")] == [str(home / "runs")]
    database.close()
