"""What makes a move wrong or impossible: each reason in one sentence, with its exit code, and nothing is changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from survived.act import fs
from survived.act import relocate as engine
from survived.errors import Refused, SurvivedError
from survived.model import Mark, Stage, TreeSize
from tests.unit.engine import (
    Rig,
    as_ordinary_user,
    build,
    nasty_tree,
    ordinary_folder,
    remove,
    snapshot,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def _gone(rig: Rig) -> None:
    remove(rig.source)


def _a_link(rig: Rig) -> None:
    rig.source.rename(rig.home / "elsewhere")
    rig.source.symlink_to(rig.home / "elsewhere")


def _a_file(rig: Rig) -> None:
    remove(rig.source)
    rig.source.write_text("x")


def _our_own(rig: Rig) -> None:
    remove(rig.source)
    rig.source = rig.home / ".local"
    (rig.home / ".local/state/survived").mkdir(parents=True)


def _a_socket(rig: Rig) -> None:
    code = "import socket,sys\ns=socket.socket(socket.AF_UNIX);s.bind(sys.argv[1]);print(flush=True);input()"
    (rig.source / "a b").mkdir()
    path = str(rig.source / "a b/agent socket")
    process = subprocess.Popen(["python3", "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    rig.__dict__["process"] = process


REFUSALS: dict[str, tuple[Callable[[Rig], object], str]] = {
    "absent": (_gone, "no such file or directory"),
    "already_link": (_a_link, "it is a link already"),
    "not_a_directory": (_a_file, "it is not a directory"),
    "home_itself": (lambda rig: setattr(rig, "source", rig.home), "it is or holds your home directory"),
    "ours": (_our_own, "survived keeps its own files there"),
    "leaving_link": (lambda rig: os.symlink("../other", rig.source / "out"), "'out' in it: it is a relative link"),
    "leaving_link ": (lambda rig: os.symlink("../../tool/a", rig.source / "dir/out"), "'dir/out' in it: it is a relative link"),
    "socket": (_a_socket, "'a b/agent socket' in it: it is a socket in use"),
    "device_node": (lambda rig: os.mknod(rig.source / "dev", 0o020600, 0), "'dev' in it: it is a device node"),
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_early_refusals(rig: Rig, reason: str) -> None:
    """What makes a move wrong or impossible is refused in one sentence, with exit 4, before anything is written."""
    spoil, text = REFUSALS[reason]
    spoil(rig)
    before = snapshot(rig.home)
    with pytest.raises(Refused) as caught:
        rig.relocate()
    if (process := rig.__dict__.get("process")) is not None:
        process.communicate(b"\n")
    assert (caught.value.reason, caught.value.exit_code) == (reason.strip(), 4)
    assert f"Cannot move '{rig.source}': {text}" in caught.value.message
    assert caught.value.message.endswith("Nothing was changed.")
    assert snapshot(rig.home) == before
    assert rig.ends.journal.recent(1) == ()


def test_a_link_within_the_tree_is_no_refusal(rig: Rig) -> None:
    """Links that stay in the tree, and absolute ones, lead to the same place from the data disk."""
    os.symlink("../a", rig.source / "dir/up")
    os.symlink("dir/../dir/./file", rig.source / "around")
    os.symlink(str(rig.source / "a"), rig.source / "absolute")
    rig.relocate()
    for name in ("dir/up", "around", "absolute"):
        assert (rig.source / name).stat().st_size == 5000


def test_the_interpreter_is_not_moved(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment that survived runs from stays."""
    monkeypatch.setattr(sys, "prefix", str(rig.source / "venv"))
    with pytest.raises(Refused, match="survived itself runs from there") as caught:
        rig.relocate()
    assert caught.value.reason == "interpreter"


def test_a_store_on_the_same_filesystem_frees_nothing(rig: Rig) -> None:
    """A source on the data disk itself is refused."""
    rig.source = rig.disk / "cache"
    nasty_tree(rig.source)
    with pytest.raises(Refused, match="on the same filesystem as the store") as caught:
        rig.relocate()
    assert caught.value.reason == "other_filesystem"


@pytest.mark.parametrize("path", ["/tmp", "/usr/share", "/etc/ssl", "/var"])
def test_what_is_the_systems_is_not_moved(rig: Rig, path: str) -> None:
    """Even root moves no folder that the system lives in."""
    rig.source = Path(path)
    with pytest.raises(Refused) as caught:
        rig.relocate()
    assert caught.value.reason in ("system", "home_itself", "mount_point")


@pytest.mark.parametrize("case", ["not_ours", "not_ours ", "unreadable", "unreadable "])
def test_what_an_ordinary_user_may_not(case: str) -> None:
    """Somebody else's entries, a folder that may not be written, and what cannot be read are refused."""

    def work() -> str:
        with build(folder) as rig:
            nasty_tree(rig.source)
            if case == "not_ours":
                rig.source = Path("/var/cache")
            elif case == "not_ours ":
                rig.source.parent.chmod(0o500)
            else:
                (rig.source / ("dir" if case == "unreadable" else "a")).chmod(0)
            return str(rig.relocate())

    with ordinary_folder() as folder:
        assert as_ordinary_user(work).startswith(f"Refused {case.strip()}: Cannot move")


def test_no_room(rig: Rig) -> None:
    """A source that does not fit beside the share that is kept free is refused, by size or by share."""
    with pytest.raises(Refused, match="of which a share is kept free") as caught:
        rig.relocate(size=TreeSize(size_bytes=1 << 60))
    assert caught.value.reason == "no_room"
    with pytest.raises(Refused):
        rig.relocate(keep_free=Mark(usage=0.0))
    assert rig.ends.journal.recent(1) == ()


def test_a_restore_that_would_fill(rig: Rig) -> None:
    """A restore that brings the home's disk to the high mark is refused, unless forced; one that does not fit, always."""
    rig.relocate()
    before = snapshot(rig.source)
    with pytest.raises(Refused, match=r"would bring .* Add --force") as caught:
        rig.restore(high=Mark(usage=0.0))
    assert caught.value.reason == "would_fill"
    for forced in (False, True):
        with pytest.raises(Refused, match="Free some space first"):
            rig.restore(size=TreeSize(size_bytes=1 << 60), forced=forced)
    assert snapshot(rig.source) == before
    assert rig.restore(high=Mark(usage=0.0), forced=True).stage is Stage.DONE


def test_no_exchange(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the filesystem cannot exchange two names, the copy is removed and the source stays."""
    before, real = snapshot(rig.source), fs._renameat2

    def renameat2(from_fd: int, from_name: str, to_fd: int, to_name: str, flags: int) -> None:
        if flags == 2:
            raise OSError(22, "Invalid argument")
        real(from_fd, from_name, to_fd, to_name, flags)

    monkeypatch.setattr(fs, "_renameat2", renameat2)
    with pytest.raises(Refused) as caught:
        rig.relocate()
    assert caught.value.reason == "no_exchange"
    assert snapshot(rig.source) == before
    assert rig.leftovers() == []


@pytest.mark.parametrize("spoil", ["removed", "elsewhere", "directory"])
def test_restore_wants_its_own_link(rig: Rig, spoil: str) -> None:
    """A source that is not the link that we left is not touched by restore."""
    rig.relocate()
    rig.source.unlink()
    if spoil == "elsewhere":
        rig.source.symlink_to("/nowhere")
    elif spoil == "directory":
        rig.source.mkdir()
    with pytest.raises(SurvivedError, match=r"it is not the link that survived left there. Nothing was changed"):
        rig.restore()
    assert (rig.target / "a").exists()


def test_what_the_kernel_says_is_a_sentence(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error while we only look is told in one sentence and nothing is changed."""

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(engine, "survey", fail)
    with pytest.raises(SurvivedError, match=r"^Cannot relocate '.*': input/output error. Nothing was changed.$"):
        rig.relocate()
