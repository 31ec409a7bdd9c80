"""`survivectl demo` on the real kernel: what it shows, in which time, for whom, and that nothing is left of it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from survived.ctl.sandbox import may_unshare

pytestmark = pytest.mark.real
SECONDS = 30.0
UID = 12345
DEMO = ("-m", "survived.ctl.main", "demo")


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """Return a directory that everybody may enter, with a home and a TMPDIR in it: what a demo leaves would be seen."""
    for above in tmp_path.parents[:3]:
        if above.name.startswith("pytest-"):
            above.chmod(above.stat().st_mode | 0o011)
    tmp_path.chmod(0o711)
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o700)
    return tmp_path


def environment(stage: Path, **more: str) -> dict[str, str]:
    """Return a user's environment, with variables in it that must not reach the sandbox."""
    return {
        "HOME": str(stage / "home"),
        "TMPDIR": str(stage / "tmp"),
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path and not path.startswith(sys.base_prefix)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PIP_CACHE_DIR": str(stage / "home/elsewhere"),
        "SURVIVED_WATCH__HIGH": "1%",
        "http_proxy": "http://127.0.0.1:9",
        **more,
    }


def as_somebody(stage: Path) -> tuple[list[str], str]:
    """Return a prefix that makes a command an unprivileged user's, and a Python that this user may run; skip without one."""
    if os.geteuid() != 0:
        return [], sys.executable
    for path in (stage / "home", stage / "tmp"):
        os.chown(path, UID, UID)
    prefix = [
        "setpriv",
        f"--reuid={UID}",
        f"--regid={UID}",
        "--clear-groups",
        "env",
    ]  # setpriv's own exec still has root's rights
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, shutil.which(f"python{version}", path="/usr/local/bin:/usr/bin")):
        if python and subprocess.run([*prefix, python, "-P", "-c", "import json"], capture_output=True).returncode == 0:
            return prefix, python
    pytest.skip(f"no Python {version} that an unprivileged user may run")


def perform(
    stage: Path, *words: str, prefix: list[str] | None = None, python: str = sys.executable, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a demo to its end, with its output in pipes, and check what holds for each: in time, and nothing left."""
    began = time.monotonic()
    done = subprocess.run(
        [*(prefix or []), python, *DEMO, *words],
        env=environment(stage, **more),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert time.monotonic() - began < SECONDS
    assert_nothing_left(stage, done.stdout)
    return done


def assert_nothing_left(stage: Path, output: str) -> None:
    """Check the places where a demo could leave something, and the processes that it named."""
    assert os.listdir(stage / "home") == []
    assert os.listdir(stage / "tmp") == []
    for folder in re.findall(r"/\S*?/survived-\w{8}", output):
        assert not os.path.lexists(folder)
    for pid in re.findall(r"as process (\d+)", output):
        assert not is_alive(int(pid))


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def assert_whole_story(output: str) -> None:
    """Check the steps of plain output, in their order."""
    assert "\x1b" not in output
    assert "\r" not in output
    assert re.findall(r"^ ?(\d)  ", output, re.MULTILINE) == list("12345678")
    words = ("a sandbox", "survived watches it", "cache grows", "pressure is", "~/.cache/pip →", "usage is below low again",
             "pip relocated", "To undo it: survivectl restore pip", "Restored '", "the sandbox is gone")  # fmt: skip
    places = [output.index(word) for word in words]
    assert places == sorted(places)


def shares(output: str) -> list[int]:
    """Return the percentages of the bars."""
    return [int(share) for share in re.findall(r"[░█#.]\s+(\d+) % ", output)]


@pytest.fixture
def namespaces(tmp_path: Path) -> None:
    """Skip where the kernel or its policy forbids user namespaces."""
    if not may_unshare(str(tmp_path)):
        pytest.skip("user namespaces with a tmpfs are not allowed here")


def test_in_a_pipe(stage: Path, namespaces: None) -> None:
    """In a pipe the demo is plain lines: usage rises above high, falls below low with the move, and the undo brings all home."""
    done = perform(stage)
    assert (done.returncode, done.stderr) == (0, "")
    assert_whole_story(done.stdout)
    seen = shares(done.stdout)
    rise = seen[: seen.index(max(seen)) + 1]
    assert len(rise) >= 4
    assert rise == sorted(rise)
    assert max(seen) > 75
    assert min(seen[len(rise) :]) < 50
    assert 50 < seen[-1] < 75


def test_unprivileged(stage: Path, namespaces: None) -> None:
    """A user without root sees the same."""
    prefix, python = as_somebody(stage)
    done = perform(stage, prefix=prefix, python=python)
    assert (done.returncode, done.stderr) == (0, "")
    assert_whole_story(done.stdout)


def test_on_two_filesystems(stage: Path) -> None:
    """Without namespaces it is two directories on two real filesystems, which are removed."""
    prefix, python = as_somebody(stage)
    done = perform(stage, "--no-namespace", prefix=prefix, python=python)
    assert (done.returncode, done.stderr) == (0, "")
    assert_whole_story(done.stdout)
    root, data = (re.search(rf"{name} disk:\s+(\S+),", done.stdout) for name in ("root", "data"))
    assert root is not None
    assert data is not None
    assert os.stat(os.path.dirname(root[1])).st_dev != os.stat(os.path.dirname(data[1])).st_dev


def test_unshare_is_missing(stage: Path) -> None:
    """Where there is no `unshare` at all, the demo takes two filesystems by itself; --json tells so, and all figures."""
    empty = stage / "empty"
    empty.mkdir()
    done = perform(stage, "--json", PATH=str(empty))
    facts = json.loads(done.stdout)
    assert done.returncode == 0
    assert facts["schema"] == 1
    assert facts["sandbox"]["kind"] == "directories"
    assert facts["move"]["target"].startswith(facts["sandbox"]["data"])
    assert facts["undo"] == {"command": "survivectl restore pip", "identical": True}
    assert facts["cache"]["files"] > 50
    assert 0 < facts["seconds"] < SECONDS
    assert any("relocated" in notice["title"] for notice in facts["notices"])


def test_one_filesystem_only(stage: Path) -> None:
    """Without namespaces and with only one filesystem the demo refuses in one sentence, exit code 4."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to hide the other filesystems")
    hidden = "".join(f"mount --bind {stage}/tmp {place} && " for place in ("/dev/shm", "/var/tmp"))
    command = f"{hidden} exec {sys.executable} {' '.join(DEMO)} --no-namespace"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command], env=environment(stage), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 4
    assert done.stdout == ""
    assert done.stderr.count("\n") == 2
    assert "no two filesystems" in done.stderr


def test_a_daemon_that_fails(stage: Path, namespaces: None) -> None:
    """If the daemon ends, the demo names the step, shows the daemon's last words, cleans up and exits with 1."""
    (stage / "sitecustomize.py").write_text(
        "import sys\nif '--config' in sys.orig_argv: sys.exit('cannot go on: a test says so')\n"
    )
    more = os.pathsep.join([str(stage), environment(stage)["PYTHONPATH"]])
    done = perform(stage, PYTHONPATH=more)
    assert done.returncode == 1
    assert "Cannot show the daemon: the daemon has ended" in done.stderr
    assert "cannot go on: a test says so" in done.stderr
    assert "Traceback" not in done.stderr


class Terminal:
    """A demo on a pseudo-terminal of 80 columns."""

    def __init__(self, stage: Path, *words: str) -> None:
        self.output = ""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, [sys.executable, *DEMO, *words], environment(stage, TERM="xterm-256color", COLUMNS="80"))

    def read_until(self, word: str) -> None:
        """Read until the demo shows a word, or its end."""
        deadline = time.monotonic() + SECONDS
        while word not in self.output:
            ready, _, _ = select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no {word!r} in time: {self.output}"
            try:
                self.output += os.read(self._fd, 65536).decode(errors="replace")
            except OSError:  # EIO: the other end is closed
                return

    def type(self, key: bytes) -> None:
        """Press a key; the terminal makes a signal of Ctrl-C."""
        os.write(self._fd, key)

    def end(self) -> int:
        """Return the exit code."""
        self.read_until("\0")
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self._fd)
        return code


def test_on_a_terminal(stage: Path, namespaces: None) -> None:
    """On a terminal a bar and a clock move in place, the cursor comes back, and no line is wider than 80 columns."""
    began = time.monotonic()
    terminal = Terminal(stage)
    assert terminal.end() == 0
    assert time.monotonic() - began < SECONDS
    assert_nothing_left(stage, terminal.output)
    assert terminal.output.count("\x1b[2K") > 20  # drawn anew
    assert len(set(re.findall(r"(\d+\.\d) s", terminal.output))) > 20  # the clock
    assert len(set(re.findall(r"[█░|]{40}", terminal.output))) > 8
    assert terminal.output.rindex("\x1b[?25h") > terminal.output.rindex("\x1b[?25l")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.output)
    assert max(len(line) for part in plain.split("\n") for line in part.split("\r")) <= 80


@pytest.mark.parametrize("words", [(), ("--no-namespace",)], ids=["namespace", "directories"])
@pytest.mark.parametrize("moment", ["cache grows", "so survived moves", "there is room to undo"])
def test_ctrl_c(stage: Path, words: tuple[str, ...], moment: str) -> None:
    """Ctrl-C in the middle ends all of it within seconds, with exit code 130 and one sentence, and nothing is left."""
    terminal = Terminal(stage, *words)
    terminal.read_until(moment)
    began = time.monotonic()
    terminal.type(b"\x03")
    assert terminal.end() == 130
    assert time.monotonic() - began < 8
    assert terminal.output.count("Interrupted. The daemon was stopped") == 1
    assert "Traceback" not in terminal.output
    assert re.search(r"as process \d+", terminal.output)
    assert_nothing_left(stage, terminal.output)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_to_one_process(stage: Path, namespaces: None, number: signal.Signals) -> None:
    """A signal to survivectl alone ends the play in its namespace as well, however early it comes."""
    for wait in ("", "survived watches it"):
        with subprocess.Popen(
            [sys.executable, *DEMO], env=environment(stage), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as demo:
            assert demo.stdout is not None
            output = ""
            while wait not in output or not output:
                output += demo.stdout.readline()
            demo.send_signal(number)
            more, errors = demo.communicate(timeout=20)
        assert demo.returncode == 130
        assert "Interrupted" in errors
        assert_nothing_left(stage, output + more)


def test_reader_goes_away(stage: Path, namespaces: None) -> None:
    """`survivectl demo | head -2` ends with head, quietly, and leaves nothing."""
    command = f"{sys.executable} {' '.join(DEMO)} | head -2"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], env=environment(stage), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 2
    assert_nothing_left(stage, done.stdout)


def test_ascii_only(stage: Path, namespaces: None) -> None:
    """Where stdout is not UTF-8, the bar is made of what it can write."""
    done = perform(stage, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert done.stdout.isascii()
    assert re.search(r"#{12,}\.*\|", done.stdout)
