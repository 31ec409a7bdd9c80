"""doctor finds what will fill the disk or break us, each with reason and command; a machine in order has no finding."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from survived.ctl.main import VERBS, main
from survived.decide import doctor
from survived.decide.doctor import FAILURE, OK, WARNING, examine
from survived.decide.facts import Danger, Disk, Facts, Inotify, Place, Redirect, Service
from tests.rig.schema import check
from tests.unit.engine import ORDINARY, as_ordinary_user, ordinary_folder

ROOT = Path(__file__).resolve().parents[2]
HOME_PIP, DATA = Place("/home/alice/.cache/pip", is_watched=True), "/data1"
GOOD = Facts(
    uid=1000,
    user="alice",
    root_mode=False,
    version="1.0",
    env={"TMPDIR": "/data1/t/alice", "HF_HOME": "/data1/alice/hf", "XDG_RUNTIME_DIR": "/run/user/1000"},
    temporary=Place("/data1/t/alice", mount=DATA),
    tools=frozenset({"conda", "docker", "pip", "huggingface", "uv-cache"}),
    caches={
        "pip": Place("/home/alice/.cache/pip", mount=DATA),
        "uv-cache": Place("/data1/alice/uv", mount=DATA),
        "hf-hub": Place("/data1/alice/hf/hub", mount=DATA),
        "conda-envs": Place("/data1/alice/envs", mount=DATA),
        "conda-pkgs": Place("/data1/alice/pkgs", mount=DATA),
        "docker-rootful": Place("/data1/docker", mount=DATA),
    },
    runtime=Place("/run/user/1000", owner=1000),
    runtime_named=True,
    config=Place("/home/alice/.config/survived/config.toml", is_directory=False, mode=0o600),
    config_error=None,
    destinations=1,
    foreign={},
    disks=(Disk("/data1/alice/survived", available_bytes=10**12, usage=0.3, speed="nvme"),),
    service=Service(running_version="1.0", pid=7),
    inotify=Inotify(500_000, 1024, 100, 3),
)


def wrong(facts: Facts) -> list[doctor.Finding]:
    """Return what is not as it should be."""
    return [finding for finding in examine(facts) if finding.state != OK]


def moved(name: str, place: Place) -> dict[str, Any]:
    """Return the change that a cache is elsewhere."""
    return {"caches": {**GOOD.caches, name: place}}


def at_home(path: str) -> Place:
    """Return a place on the watched disk."""
    return Place(path, is_watched=True)


def service(**changes: Any) -> dict[str, Any]:
    """Return a change of the service."""
    return {"service": replace(GOOD.service, **changes)}


LONG = "/data1/alice/" + "d" * 50
CASES: list[tuple[str, dict[str, Any], str, str, str | None]] = [
    # check, what differs from a good machine, state, words of the reason, the command
    ("tmpdir", {"env": {}, "temporary": at_home("/tmp")}, WARNING, "is not set, so builds", "survivectl redirect apply tmpdir"),
    (
        "tmpdir",
        {"temporary": Place("/data1/t/alice", exists=False)},
        FAILURE,
        "which is not there: Python goes to /tmp",
        "mkdir -p -m 700 /data1/t/alice",
    ),
    ("tmpdir", {"temporary": Place("/data1/t/alice", is_writable=False)}, FAILURE, "cannot be written to", None),
    ("tmpdir", {"temporary": Place("/data1/t/alice", is_directory=False)}, FAILURE, "is not a directory", None),
    ("tmpdir", {"env": {"TMPDIR": "tmp"}}, FAILURE, "another place in every directory", None),
    ("tmpdir", {"temporary": at_home("/home/alice/t")}, WARNING, "which is on '/'", None),
    ("tmpdir", {"temporary": Place("/data1/t/alice", mode=0o777)}, WARNING, "others may replace", "chmod 700 /data1/t/alice"),
    ("tmpdir-length", {"env": {"TMPDIR": LONG}}, FAILURE, "has 63 bytes, which leaves 44", "survivectl redirect apply tmpdir"),
    (
        "hf-home",
        {"env": {"TMPDIR": "/t"}, **moved("hf-hub", at_home("/home/alice/.cache/huggingface"))},
        WARNING,
        "is not set, so models and data sets go to '/home/alice/.cache/huggingface' on '/'",
        "survivectl redirect apply huggingface",
    ),
    ("conda-envs_dirs", moved("conda-envs", at_home("/home/alice/.conda/envs")), WARNING, "new environments", None),
    ("conda-mounts", moved("conda-pkgs", Place("/data2/pkgs", mount="/data2")), WARNING, "every environment is a full copy", None),
    ("pip-cache-dir", moved("pip", HOME_PIP), WARNING, "downloads go to '/home/alice/.cache/pip' on '/'", None),
    (
        "docker",
        moved("docker-rootful", at_home("/var/lib/docker")),
        WARNING,
        "is '/var/lib/docker' on '/'",
        "sudo survivectl docker apply",
    ),
    (
        "tools",
        {"redirects": {"npm": Redirect("home"), "go": Redirect("home")}},
        WARNING,
        "npm, go keep",
        "survivectl redirect apply npm go",
    ),
    ("redirect", {"redirects": {"go": Redirect("overridden", "GOFLAGS wins")}}, WARNING, "but GOFLAGS wins", None),
    ("redirect", {"redirects": {"go": Redirect("changed")}}, WARNING, "was redirected, but", "survivectl redirect apply go"),
    ("redirect", {"redirects": {"go": Redirect("missing")}}, FAILURE, "its data disk is not there", "survivectl check"),
    (
        "tmpdir",
        {"env": {}, "temporary": at_home("/tmp"), "redirects": {"tmpdir": Redirect("redirected")}},
        WARNING,
        "this shell has not been told",
        'exec "${SHELL:-bash}" -l',
    ),
    ("linger", service(lingers=False), WARNING, "ends with your last logout", "sudo loginctl enable-linger alice"),
    ("runtime", {"runtime_named": False}, WARNING, "as in a shell from su or sudo", "export XDG_RUNTIME_DIR=/run/user/1000"),
    ("runtime", {"runtime_named": False, "runtime": None}, WARNING, "is not set", "machinectl shell alice@"),
    ("runtime", {"runtime": Place("/run/user/1000", exists=False)}, FAILURE, "is not there", None),
    ("runtime", {"runtime": Place("/run/user/0", owner=0)}, FAILURE, "belongs to somebody else", None),
    (
        "inotify",
        {"inotify": Inotify(8192, 1024, 8000, 3)},
        FAILURE,
        "8,000 of 8,192 are in use",
        "sudo sysctl fs.inotify.max_user_watches=524288",
    ),
    ("inotify", {"inotify": Inotify(8192, 1024, 5, 3)}, WARNING, "is 8,192", None),
    (
        "foreign",
        {"foreign": {"pip": "/home/alice/.cache/pip/x"}},
        WARNING,
        "sudo with your HOME",
        "sudo chown -R alice: /home/alice/.cache/pip",
    ),
    (
        "config-mode",
        {"config": replace(GOOD.config, mode=0o644)},
        WARNING,
        "can be read by others",
        f"chmod 600 {GOOD.config.path}",
    ),  # type: ignore[union-attr, type-var]
    ("config", {"config_error": ("Cannot use it: 'hihg' is not known.", None)}, FAILURE, "'hihg' is not known", None),
    ("notices", {"destinations": 0}, WARNING, "nobody hears", None),
    (
        "link",
        {"dangers": (Danger("/home/alice/.cache/yarn", "yarn", "yarn cache clean", False, "/home/alice/.cache/yarn", "yarn"),)},
        WARNING,
        "'yarn cache clean' removes the link",
        "survivectl orphans",
    ),
    (
        "link",
        {"dangers": (Danger("/h/.npm/_cacache", "npm", "npm cache clean", False, "/h/.npm", "npm"),)},
        WARNING,
        "leaves the data on the data disk",
        "survivectl restore npm && survivectl relocate npm",
    ),
    ("link", {"dangers": (Danger("/h/uv/archive-v0", "x", None, True, "/h/uv", "uv-cache"),)}, FAILURE, "breaks its tool", None),
    ("disk", {"disks": ()}, FAILURE, "nothing can be moved", None),
    (
        "disk",
        {"disks": (Disk("/data1/a", ok=False, reason="'/data1' is not there"),)},
        FAILURE,
        "'/data1' is not there",
        "survivectl check",
    ),
    ("disk-full", {"disks": (Disk("/data1/a", usage=0.9),)}, WARNING, "nothing more is moved there", "survivectl hogs /data1"),
    ("disk-slow", {"disks": (Disk("/data1/a", speed="rotational"), *GOOD.disks)}, WARNING, "has to seek", None),
    ("disk-slow", {"disks": (Disk("/data1/a", speed="network"), *GOOD.disks)}, WARNING, "behind a network", None),
    ("service", service(is_installed=False), FAILURE, "nobody watches", "survivectl install"),
    ("service", service(active="failed"), FAILURE, "has failed", "journalctl --user -u survived.service -n 20"),
    ("service", service(active="inactive"), FAILURE, "is not running", "systemctl --user start survived.service"),
    ("service", service(is_enabled=False), WARNING, "does not start by itself", "systemctl --user enable survived.service"),
    ("service", service(missing="this machine has no systemd", pid=None), WARNING, "has no systemd", None),
    (
        "version",
        service(running_version="0.9"),
        WARNING,
        "0.9 is running, 1.0 is installed",
        "systemctl --user restart survived.service",
    ),
    ("interpreter", {"short_lived": "/tmp/v/bin/python"}, WARNING, "clean-ups delete", None),
]


def test_a_machine_in_order_has_no_finding() -> None:
    """Everything is looked at, and nothing is wrong."""
    assert wrong(GOOD) == []
    assert len(examine(GOOD)) >= 12


@pytest.mark.parametrize(("name", "change", "state", "words", "command"), CASES, ids=[f"{n}-{c[0]}" for n, c in enumerate(CASES)])
def test_each_fault_is_found_alone(name: str, change: dict[str, Any], state: str, words: str, command: str | None) -> None:
    """One thing that differs is one finding, with its reason and, where a command mends it, that one."""
    found = [finding for finding in wrong(replace(GOOD, **change)) if finding.check == name]
    assert len(found) == 1, found
    assert found[0].state == state
    assert words in found[0].text
    if command is not None:
        assert found[0].command == command
    others = {finding.check for finding in wrong(replace(GOOD, **change))} - {name}
    assert others <= {"tmpdir", "tmpdir-length", "conda-mounts"}


def test_every_command_of_ours_is_one() -> None:
    """What is to be run begins with a verb that there is, and a shell understands all of it."""
    for _, change, _, _, _ in CASES:
        for finding in wrong(replace(GOOD, **change)):
            if finding.command is None:
                continue
            assert subprocess.run(["bash", "-n", "-c", finding.command], check=False).returncode == 0, finding.command
            for part in finding.command.split("&&"):
                words = [word for word in shlex.split(part) if word != "sudo"]
                assert words[0] != "survivectl" or words[1] in {*VERBS, "redirect"}, finding.command


def test_odd_names_are_quoted_for_the_shell() -> None:
    """A directory called `$(rm -rf ~)` is not run by whoever pastes the command."""
    env, bad = {"TMPDIR": "/t/$(touch x) y"}, Place("/t/$(touch x) y", exists=False)
    (finding,) = [item for item in wrong(replace(GOOD, env=env, temporary=bad)) if item.check == "tmpdir"]
    assert finding.command == "mkdir -p -m 700 '/t/$(touch x) y'"


def test_root_mode_needs_no_linger_and_no_session() -> None:
    """The system's service has neither."""
    facts = replace(GOOD, root_mode=True, runtime_named=False, service=replace(GOOD.service, lingers=None, command="systemctl"))
    assert wrong(facts) == []


def test_a_slow_disk_that_is_the_best_there_is_needs_nobody() -> None:
    """It is said, but nothing can be done about it."""
    facts = replace(GOOD, disks=(Disk("/data1/a", speed="rotational"),))
    assert wrong(facts) == []
    assert [item.state for item in examine(facts) if item.check == "disk-slow"] == [OK]


def test_what_is_broken_comes_first() -> None:
    """A person reads from the top."""
    states = [item.state for item in examine(replace(GOOD, destinations=0, disks=()))]
    assert states == sorted(states, key=(FAILURE, WARNING, OK).index)


# ---- on this machine ----------------------------------------------------------------------------------------------


@pytest.fixture
def alice(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Make this process a user with a home and a configuration, and a root-owned file in none of the caches."""
    for name in [name for name in os.environ if name.startswith(("XDG_", "SURVIVED_", "PIP_", "UV_", "HF_", "CONDA", "TMP"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("COLUMNS", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    home = Path(environment["HOME"])
    (home / ".config/survived").mkdir(parents=True)
    (tmp_path / "disk").mkdir()
    config = home / ".config/survived/config.toml"
    config.write_text(f'[watch]\nfilesystems = ["{home}"]\n[data]\ndisks = ["{tmp_path}/disk"]\n')
    config.chmod(0o600)
    (home / ".cache/pip").mkdir(parents=True)
    (home / ".cache/pip/wheel").write_bytes(bytes(100_000))
    monkeypatch.chdir(home)
    return home


def findings(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    """Run doctor and return its findings by check."""
    rc = main(["doctor", "--json"])
    answer = json.loads(capsys.readouterr().out)
    check("doctor", answer)
    assert (rc == 0) == answer["ok"] == all(item["state"] == "ok" for item in answer["findings"])
    return {item["check"]: item for item in answer["findings"] if item["state"] != "ok"}


def listing(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return everything below a folder with mode, owner, size, and the times of content and inode."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        info = path.lstat()
        found[str(path)] = (info.st_mode, info.st_uid, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
    return found


def test_it_changes_nothing(alice: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Home, data disk and runtime directory are the same to the nanosecond afterwards."""
    before = listing(tmp_path)
    assert main(["doctor"]) == 5
    assert main(["doctor", "--all", "--json"]) == 5
    assert listing(tmp_path) == before
    capsys.readouterr()


def test_it_finds_what_is_really_there(alice: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """TMPDIR unset, missing and too long, HF_HOME unset, a configuration for everybody: from this machine's own state."""
    first = findings(capsys)
    assert {"tmpdir", "hf-home", "notices"} <= first.keys()
    assert str(alice / ".cache/huggingface") in first["hf-home"]["text"]
    monkeypatch.setenv("TMPDIR", str(alice / "gone"))
    (alice / ".config/survived/config.toml").chmod(0o644)
    second = findings(capsys)
    assert "is not there" in second["tmpdir"]["text"]
    assert "tmpdir-length" in second
    assert "config-mode" in second
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    assert "su or sudo" in findings(capsys)["runtime"]["text"] or os.getuid() == 0


def test_a_bad_configuration_is_a_finding_and_not_the_end(alice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rest is looked at all the same, with the defaults."""
    (alice / ".config/survived/config.toml").write_text("[watch]\nhihg = 1\n")
    found = findings(capsys)
    assert "hihg" in found["config"]["text"]
    assert "tmpdir" in found


@pytest.mark.skipif(os.getuid() != 0, reason="only root can leave a file of root's in a user's cache")
def test_roots_file_in_a_users_cache_is_found(alice: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sudo left there is named, with the command that gives it back."""
    main(["doctor"])  # loads what an ordinary user may not read
    with ordinary_folder() as home:
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.delenv("XDG_RUNTIME_DIR")
        (home / ".cache/pip").mkdir(parents=True)
        (home / ".cache/pip/wheel").write_bytes(bytes(100_000))
        for folder in (home / ".cache", home / ".cache/pip"):
            os.chown(folder, ORDINARY, ORDINARY)

        def work() -> str:
            with redirect_stdout(io.StringIO()) as out:
                main(["doctor", "--json"])
            found = {item["check"]: item for item in json.loads(out.getvalue())["findings"]}
            assert "su or sudo" in found["runtime"]["text"]
            return f"{found['foreign']['text']} {found['foreign']['command']}"

        said = as_ordinary_user(work)
    assert said.startswith(f"'{home}/.cache/pip/wheel' belongs to somebody else")
    assert said.endswith(f" sudo chown -R 12345: {home}/.cache/pip")


def test_a_home_that_cannot_be_written_is_enough(alice: Path) -> None:
    """As an ordinary user in a home on a read-only disk: the same answer, and no complaint."""
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", f"mount --bind {alice.parent} {alice.parent} && mount -o remount,ro,bind {alice.parent} && "
         f"{sys.executable} -m survived.ctl.main doctor --json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mounts here: {done.stderr.strip()}")
    assert (done.returncode, done.stderr) == (5, "")
    assert "tmpdir" in {item["check"] for item in json.loads(done.stdout)["findings"]}


def test_the_text_fits_80_columns_but_for_commands(alice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Reasons are wrapped; a command stands in one line, to be taken as it is; nothing is coloured in a pipe."""
    main(["doctor", "--all"])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    for line in out.splitlines():
        assert len(line) <= 80 or line.startswith(" " * 9), line
    assert out.splitlines()[-1].endswith("things need a person.")
