"""survivectl docker with a fake docker: what is refused, what fails and is put back, and a crash at each write of the journal."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from survived.act import docker as engine
from survived.act import dockerconfig, dockerpaths, dockerplan, dockerproof, dockerunit, replica
from survived.act.dockerd import Inventory
from survived.act.dockerstate import Act, Moved, Part, State, Step, load, save
from survived.act.dockerunit import Unit
from survived.ctl import docker as verb
from survived.ctl.main import main
from survived.errors import NeedsPerson
from tests.unit.fakedocker import FakeDocker, make_fake, remove_fake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ALL = Inventory(frozenset({"sha256:abc"}), frozenset({"c1"}), frozenset({"v1"}), frozenset({"n1"}), ("c1",), frozenset({"p1"}))
DIED = 77


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDocker]:
    """Return a running fake docker that survivectl in this process sees as the machine's; its data may go to `fake.away`."""
    if os.geteuid() != 0:
        pytest.skip("needs root: to make device nodes and give owners")
    try:
        fake = make_fake()
    except OSError as error:
        pytest.skip(f"needs to mount a tmpfs: {error}")
    folder = fake.folder
    for name in [name for name in os.environ if name.startswith(("XDG_", "SURVIVED_", "DOCKER_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder / "run"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{folder}/sock")
    monkeypatch.setenv("PATH", f"{folder}/bin:/usr/bin:/bin")
    monkeypatch.setattr(dockerunit, "_POLL_SECONDS", 0.01)
    yield fake
    remove_fake(fake)


class Said:
    """What one call left behind."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def document(self) -> Any:
        """Its JSON."""
        return json.loads(self.out)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Return a function that calls survivectl docker in this process."""

    def called(*words: str) -> Said:
        capsys.readouterr()
        code = main(["docker", *words])
        return Said(code, *capsys.readouterr())

    return called


def at_home(fake: FakeDocker, config: str) -> bool:
    """Tell whether docker runs at home with all that it had and its settings of before, and nothing is away or unfinished."""
    return (
        fake.runs_from() == fake.home
        and fake.has_all(fake.home)
        and fake.config.read_text() == config
        and not fake.away.exists()
        and fake.kept() == {}
    )


# ---- there and back -------------------------------------------------------------------------------------------------


def test_there_and_back(fake: FakeDocker, call: Callable[..., Said]) -> None:
    """Apply moves the data and one key; undo brings both back, byte for byte; status tells of each."""
    config = fake.config.read_text()

    assert call("apply", "--to", str(fake.away)).code == 0
    assert (fake.runs_from(), fake.has_all(fake.away), fake.home.exists()) == (fake.away, True, False)
    assert fake.config.read_text() == config.replace(str(fake.home), str(fake.away))
    status = call("status", "--json").document
    assert status["moved"]["parts"] == [{"name": "docker", "old": str(fake.home), "new": str(fake.away)}]
    assert (status["docker"]["root"], status["unfinished"], status["left"]) == (str(fake.away), None, [])

    assert call("undo").code == 0
    assert at_home(fake, config)
    assert call("undo").code == 4


def test_keep_old_and_clean(fake: FakeDocker, call: Callable[..., Said]) -> None:
    """--keep-old leaves the old data for clean; until then undo refuses: its place is taken. Clean never takes what is in use."""
    call("apply", "--to", str(fake.away), "--keep-old")
    assert fake.has_all(fake.home)
    assert "not empty" in call("undo").err
    assert call("clean", "--json").document["removed"] == [{"path": str(fake.home)}]
    assert not fake.home.exists()
    assert call("undo", "--keep-old").code == 0
    assert fake.has_all(fake.away)
    fake.journal.write_text(fake.journal.read_text().replace(str(fake.away), str(fake.home)))
    assert call("clean").code == 4
    assert fake.has_all(fake.home)


def test_undo_leaves_other_keys_alone(fake: FakeDocker, call: Callable[..., Said]) -> None:
    """What was changed beside our key stays; a key that was changed to something else is left, and told."""
    call("apply", "--to", str(fake.away))
    fake.config.write_text(fake.config.read_text().replace('"debug": false', '"debug": true'))
    changed = fake.config.read_text()
    fake.config.write_text(changed.replace(str(fake.away), str(fake.other / "elsewhere")))
    said = call("undo")
    assert (said.code, "left alone" in said.err or "Restart docker" in said.err) == (4, True)
    assert str(fake.other / "elsewhere") in fake.config.read_text()
    fake.config.write_text(changed)
    assert call("undo").code == 0
    assert json.loads(fake.config.read_text()) == {"log-level": "info", "data-root": str(fake.home), "debug": True}


# ---- refused before anything is done ----------------------------------------------------------------------------------


def refused_untouched(fake: FakeDocker, said: Said, code: int, why: str) -> None:
    """Check that nothing was stopped, moved or changed, and why."""
    assert (said.code, why in said.err) == (code, True), said.err
    assert fake.runs_from() == fake.home
    assert (fake.home / "starts").read_text() == "once\n"
    assert fake.kept() == {}


def test_settings_that_are_no_json(fake: FakeDocker, call: Callable[..., Said]) -> None:
    """An invalid daemon.json is named with its line and left as it is, also by plan and status."""
    fake.config.write_text('{"data-root": "/x",\n')
    for words in (("apply", "--to", str(fake.away)), ("plan", "--to", str(fake.away)), ("status",)):
        refused_untouched(fake, call(*words), 6, "is not valid JSON (line 2")
    assert fake.config.read_text() == '{"data-root": "/x",\n'


def test_targets(fake: FakeDocker, call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that is not empty, on the same filesystem, in the source, without parent, a link, or without room is refused."""
    full = fake.other / "full"
    full.mkdir()
    (full / "file").touch()
    refused_untouched(fake, call("apply", "--to", str(full)), 4, "not empty")
    refused_untouched(fake, call("apply", "--to", str(fake.folder / "x")), 4, "same filesystem")
    refused_untouched(fake, call("apply", "--to", str(fake.home / "x")), 4, "one is in the other")
    refused_untouched(fake, call("apply", "--to", str(fake.other / "no/where")), 4, "no directory")
    (fake.other / "link").symlink_to(full)
    refused_untouched(fake, call("apply", "--to", str(fake.other / "link")), 4, "no directory")
    monkeypatch.setenv("SURVIVED_DATA__KEEP_FREE", "99.999%")
    refused_untouched(fake, call("apply", "--to", str(fake.away)), 4, "it needs")
    assert call("apply", "--to", str(fake.away), "--json").document["error"]["reason"] == "no_room"


def test_a_disk_that_cannot_hold_layers(fake: FakeDocker, call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that takes no whiteouts is found out before docker is stopped, and nothing of the trial is left there."""

    def no_nodes(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setitem(dockerplan._TRIALS, "an overlay's whiteouts (device 0, 0)", no_nodes)
    refused_untouched(fake, call("apply", "--to", str(fake.away)), 4, "does not take an overlay's whiteouts")
    assert os.listdir(fake.other) == []


def test_a_data_root_flag(fake: FakeDocker, call: Callable[..., Said]) -> None:
    """A data-root that is given as a flag would stop docker beside the key: refused, with what to do."""
    fake.kill()
    (fake.home / "starts").unlink()
    fake.start("--data-root", str(fake.home))
    refused_untouched(fake, call("apply", "--to", str(fake.away)), 6, "by a flag")


def test_another_machines_docker(fake: FakeDocker, call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    """A DOCKER_HOST that is no socket, and a machine without docker, are refused in one sentence."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://10.0.0.1:2375")
    refused_untouched(fake, call("apply", "--to", str(fake.away)), 4, "another machine's")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{fake.folder}/sock")
    monkeypatch.setenv("PATH", "/nowhere")
    refused_untouched(fake, call("apply", "--to", str(fake.away)), 4, "no docker command")
    status = call("status", "--json")
    assert (status.code, status.document["docker"]) == (0, None)


def test_without_root(fake: FakeDocker, call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is no root gets the exact steps, as text and as JSON, with the new file in whole; exit code 4, and nothing is done."""
    monkeypatch.setattr(verb, "_may_act", lambda _: False)
    said = call("apply", "--to", str(fake.away))
    refused_untouched(fake, said, 4, "only root can stop docker")
    assert f"rsync -aHAXS --numeric-ids --one-file-system {fake.home}/ {fake.away}/" in said.out or "cp -ax" in said.out
    assert fake.config.read_text().replace(str(fake.home), str(fake.away)).rstrip() in said.out
    document = call("apply", "--to", str(fake.away), "--json").document
    assert document["error"]["reason"] == "not_ours"
    assert [step["when"] for step in document["steps"]].count("always") == len(document["steps"]) - 2
    assert call("plan", "--to", str(fake.away), "--json").document["may_act"] is False


def test_plan_changes_nothing(fake: FakeDocker, call: Callable[..., Said]) -> None:
    """Plan shows both ends, the diff and the size, and does nothing; --to belongs to plan and apply alone."""
    said = call("plan", "--to", str(fake.away))
    assert f'+   "data-root": "{fake.away}",' in said.out
    refused_untouched(fake, said, 0, "")
    assert not fake.away.exists()
    assert call("status", "--to", "/x").code == 2


# ---- what fails is put back -------------------------------------------------------------------------------------------


def test_docker_does_not_stop(fake: FakeDocker, call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    """A docker that does not end is left running as it is, and told of."""
    config = fake.config.read_text()
    fake.kill()
    fake.turn("stubborn")
    fake.start()
    monkeypatch.setattr(dockerunit, "_PROCESS_STOP_SECONDS", 0.3)
    said = call("apply", "--to", str(fake.away))
    assert (said.code, "does not end within" in said.err, "as before" in said.err) == (4, True, True), said.err
    assert at_home(fake, config)


@pytest.mark.parametrize(
    ("knob", "why", "kept"),
    [("dead-away", "it ended with status", True), ("no-volume-away", "volume v1", True), ("no-container-away", "no luck", True)],
)
def test_docker_fails_on_the_new_root(fake: FakeDocker, call: Callable[..., Said], knob: str, why: str, kept: bool) -> None:
    """A docker that ends there, lacks something, or starts no container, runs at home again; the copy waits for clean."""
    config = fake.config.read_text()
    fake.turn(knob)
    said = call("apply", "--to", str(fake.away))
    assert (said.code, why in said.err, "Docker runs from there as before" in said.err) == (1, True, True), said.err
    assert (fake.runs_from(), fake.config.read_text(), fake.has_all(fake.home)) == (fake.home, config, True)
    assert fake.kept()["left"] == ([str(fake.away)] if kept else [])
    assert call("clean").code == 0
    assert at_home(fake, config)


def test_no_way_back(fake: FakeDocker, call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where docker starts neither there nor at home, a person is asked, with all put back but the start; recover tries again."""
    config = fake.config.read_text()
    fake.turn("no-volume-away")
    start, calls = Unit.start, []

    def once(unit: Unit, env: Any, at: str) -> str | None:
        calls.append(at)
        return start(unit, env, at) if len(calls) == 1 else "no more"

    monkeypatch.setattr(Unit, "start", once)
    said = call("apply", "--to", str(fake.away))
    assert (said.code, "Cannot start docker again" in said.err, "recover" in said.err) == (5, True, True), said.err
    assert fake.config.read_text() == config
    monkeypatch.setattr(Unit, "start", start)
    assert call("recover").code == 0
    assert (fake.runs_from(), fake.has_all(fake.home)) == (fake.home, True)


def test_started_in_the_middle(fake: FakeDocker, call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who starts docker while its data is copied ends the move: it may have written to the old root."""
    config, replicate = fake.config.read_text(), replica.replicate

    def meddle(*words: Any) -> Any:
        found = replicate(*words)
        fake.start()
        return found

    monkeypatch.setattr(replica, "replicate", meddle)
    said = call("apply", "--to", str(fake.away))
    assert (said.code, "something started docker again" in said.err) == (4, True), said.err
    assert at_home(fake, config)


def test_settings_changed_in_the_middle(fake: FakeDocker, call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that somebody changes while we copy are not overwritten."""
    replicate = replica.replicate

    def meddle(*words: Any) -> Any:
        fake.config.write_text(fake.config.read_text().replace("info", "warn"))
        return replicate(*words)

    monkeypatch.setattr(replica, "replicate", meddle)
    said = call("apply", "--to", str(fake.away))
    assert (said.code, "was changed in the meantime" in said.err) == (4, True), said.err
    assert at_home(fake, fake.config.read_text())
    assert "warn" in fake.config.read_text()


@pytest.mark.parametrize(("number", "words"), [(28, "no space left on device"), (5, "input/output error"), (30, "read-only")])
def test_the_disk_says_no(
    fake: FakeDocker, call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    """A data disk that fills, breaks or becomes read-only in the middle ends the move; docker runs as before, nothing is left."""
    config = fake.config.read_text()

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(replica.fs, "sync_filesystem", fail)
    said = call("apply", "--to", str(fake.away))
    assert (said.code, words in said.err, "Docker runs from there as before" in said.err) == (1, True, True), said.err
    assert at_home(fake, config)


def test_no_room_for_the_settings(fake: FakeDocker, call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not even the settings can be written, docker is not stopped at all."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dockerconfig.tempfile, "NamedTemporaryFile", fail)
    refused_untouched(fake, call("apply", "--to", str(fake.away)), 1, "no space left on device")


# ---- a crash ----------------------------------------------------------------------------------------------------------


def dies(words: tuple[str, ...], patch: Callable[[], None]) -> bool:
    """Call survivectl in a child in which something ends it as kill -9 would; return whether it came to that."""
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            patch()
            os._exit(main(["docker", *words]))
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == DIED


def dying_at(count: int, *, after: bool) -> Callable[[], None]:
    """Return a patch that ends the process before, or after, the `count`-th write of the journal."""

    def patch() -> None:
        seen = iter(range(1, 100))

        def write(path: str, state: State) -> None:
            last = next(seen) == count
            if last and not after:
                os._exit(DIED)
            save(path, state)
            if last:
                os._exit(DIED)

        engine.save = write  # type: ignore[attr-defined]

    return patch


@pytest.mark.parametrize(("way", "after"), [("apply", False), ("apply", True), ("undo", True)])
def test_a_crash_at_every_write(fake: FakeDocker, call: Callable[..., Said], way: str, after: bool) -> None:
    """Whichever write of the journal is the last, recover has docker run, whole, from the old or new root; and twice is once."""
    ends = []
    words = ("apply", "--to", str(fake.away)) if way == "apply" else ("undo",)
    if way == "undo":
        call("apply", "--to", str(fake.away))
    old, new = (fake.home, fake.away) if way == "apply" else (fake.away, fake.home)
    count = 1
    while dies(words, dying_at(count, after=after)):
        assert call("recover").code == 0
        root = fake.runs_from()
        assert root in (old, new)
        assert fake.has_all(root)
        assert json.loads(fake.config.read_text())["data-root"] == str(root)
        assert {fake.home.exists(), fake.away.exists()} == {True, False}, count
        assert call("status", "--json").document["unfinished"] is None
        assert "Nothing was left" in call("recover").out
        ends.append(root == new)
        if root == new and count < 20:
            assert call(*(("undo",) if way == "apply" else ("apply", "--to", str(fake.away)))).code == 0
        count += 1
    assert ends == sorted(ends)  # first back, then forward
    assert {True, False} <= set(ends)


def test_a_crash_in_the_copy_and_before_the_start(fake: FakeDocker, call: Callable[..., Said]) -> None:
    """Killed with half a copy docker is at home again; killed between the edit and the start it is on the new root."""
    config = fake.config.read_text()

    def in_copy() -> None:
        replica.WholeCopy._metadata = lambda *_: os._exit(DIED)  # type: ignore[method-assign, assignment]

    def before_start() -> None:
        dockerproof.start = lambda *_: os._exit(DIED)  # type: ignore[assignment]

    assert dies(("apply", "--to", str(fake.away)), in_copy)
    assert fake.runs_from() is None
    assert call("apply", "--to", str(fake.away)).code == 5
    assert "as before" in call("recover").out
    assert at_home(fake, config)
    assert dies(("apply", "--to", str(fake.away)), before_start)
    assert call("recover").code == 0
    assert (fake.runs_from(), fake.has_all(fake.away), fake.home.exists()) == (fake.away, True, False)


def test_a_crash_and_the_disk_is_away(fake: FakeDocker, call: Callable[..., Said]) -> None:
    """Where docker was verified on a disk that is away since, nothing old is removed, and a person is asked."""

    def in_removal() -> None:
        replica.remove = lambda *_: os._exit(DIED)  # type: ignore[assignment]

    assert dies(("apply", "--to", str(fake.away)), in_removal)
    fake.kill()
    fake.away.rename(fake.other / "aside")
    said = call("recover")
    assert (said.code, "is not there" in said.err, fake.has_all(Path(dockerpaths.place_of(str(fake.home))))) == (5, True, True)
    (fake.other / "aside").rename(fake.away)
    fake.start()
    assert call("recover").code == 0
    assert not fake.home.exists()


# ---- small things -----------------------------------------------------------------------------------------------------


def test_what_is_missing() -> None:
    """What is missing is named by its kind; what goes by itself when docker stops is not missed."""
    after = Inventory(frozenset(), frozenset({"c1", "c2"}), frozenset({"v1"}), frozenset())
    before = Inventory(ALL.images, frozenset({"c1", "p1"}), ALL.volumes, ALL.networks, (), ALL.passing)
    assert before.missing(after) == ("image sha256:abc", "network n1")
    assert Inventory.from_document(ALL.document()) == ALL


def test_the_journal_is_read_back(tmp_path: Path) -> None:
    """A state is read back as it was kept, with bytes and names that are no UTF-8; one of nobody is a person's affair."""
    part = Part("docker", "/old", os.fsdecode(b"/n\xffw"), "/etc/d.json", "data-root", "/var/lib/docker", None, b"\xff{}")
    unit = Unit("process", ("docker",), pid=7, command=("dockerd", "-H", "x"))
    act = Act(Step.COPIED, False, 1.5, "unix:///x", (unit,), True, (part,), ALL)
    state = State(Moved(2.5, "unix:///x", (part,)), act, ("/left",))
    path = str(tmp_path / "docker.json")
    save(path, state)
    assert load(path) == state
    save(path, State())
    assert load(path) == State()
    for text in ("{", '{"format": 99}', '{"format": 1}'):
        Path(path).write_text(text, encoding="utf-8")
        with pytest.raises(NeedsPerson):
            load(path)


def test_paths_in_containers_files(tmp_path: Path) -> None:
    """Where a volume is, is named anew in a container's file as Go writes it; what only looks like it, and arguments, stay."""
    old, new = "/var/lib/do&cker", "/data1/docker"
    text = (
        '{"Args":["/var/lib/do\\u0026cker/x"],"MountPoints":{"/v":{"Source":"/var/lib/do\\u0026cker/volumes/v/_data","Mode":"z"},'
        '"/all":{"Source":"/var/lib/do\\u0026cker"},"/o":{"Source":"/var/lib/do\\u0026cker2/x"}},"LogPath":"/var/lib/do\\u0026cker/c/log"}'
    )
    file = tmp_path / "containers/c1/config.v2.json"
    file.parent.mkdir(parents=True)
    file.write_text(text, encoding="utf-8")
    file.chmod(0o600)
    assert dockerpaths.rewrite(str(tmp_path), old, new) == 1
    found = json.loads(file.read_text(encoding="utf-8"))
    assert {at: point["Source"] for at, point in found["MountPoints"].items()} == {
        "/v": f"{new}/volumes/v/_data", "/all": new, "/o": f"{old}2/x"
    }  # fmt: skip
    assert (found["Args"], found["LogPath"], file.stat().st_mode & 0o777) == ([f"{old}/x"], f"{new}/c/log", 0o600)
    dockerpaths.rewrite(str(tmp_path), new, old)
    assert file.read_text(encoding="utf-8") == text
    assert dockerpaths.rewrite(str(tmp_path / "nothing"), old, new) == 0


def test_the_guard(tmp_path: Path) -> None:
    """The drop-in names each root as systemd reads it, is written once, and goes with its folder."""
    path = str(tmp_path / "docker.service.d/survived.conf")
    assert dockerconfig.set_guard(path, ["/data 1/100%"])
    assert "RequiresMountsFor=/data\\x201/100%%\n" in Path(path).read_text(encoding="utf-8")
    assert not dockerconfig.set_guard(path, ["/data 1/100%"])
    assert dockerconfig.set_guard(path, [])
    assert not os.path.exists(os.path.dirname(path))
    assert not dockerconfig.set_guard(path, [])


def test_a_mount_below_is_no_part_of_it(fake: FakeDocker, call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that somebody mounted below docker's root is named and refused."""
    other = next(mount for mount in replica.read_mounts() if mount.point == "/dev/shm")
    there = replace(other, point=str(fake.home / "volumes"), fstype="ext4")
    monkeypatch.setattr(replica, "read_mounts", lambda: (there,))
    refused_untouched(fake, call("apply", "--to", str(fake.away)), 4, "is a mount of its own (ext4)")


def test_two_at_once(fake: FakeDocker, call: Callable[..., Said]) -> None:
    """A second survivectl docker is refused while one is at work."""
    import fcntl

    fake.journal.parent.mkdir(parents=True, exist_ok=True)
    with open(fake.journal.with_suffix(".lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused_untouched(fake, call("apply", "--to", str(fake.away)), 4, "another survivectl docker")


def test_a_docker_that_is_down(fake: FakeDocker, call: Callable[..., Said]) -> None:
    """With docker down nobody knows how it is started where no service manager runs it: refused; nothing is touched."""
    fake.kill()
    said = call("apply", "--to", str(fake.away))
    assert (said.code, fake.has_all(fake.home), fake.away.exists()) == (4, True, False), said.err
