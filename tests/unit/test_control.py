"""The control socket: real sockets, a real selectors loop in a thread, peers that behave badly."""

from __future__ import annotations

import json
import os
import selectors
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from survived.errors import DaemonNotRunning, NeedsPerson, Refused, SurvivedError, UsageError
from survived.model import Reason
from survived.tell import control
from survived.tell.control import BadParams, ControlClient, ControlServer, UnknownMethod

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def answer(method: str, params: dict[str, Any]) -> Any:
    """Be a small daemon."""
    match method:
        case "echo":
            return params
        case "big":
            return "x" * params["size"]
        case "refuse":
            raise Refused(Reason.BUSY, "Cannot move '/a': python (12) has it open.", "Try again later.")
        case "person":
            raise NeedsPerson("Cannot explain '/a'.", "Look at it.")
        case "bug":
            raise ZeroDivisionError("a detail")
        case "unserialisable":
            return object()
        case "bad":
            raise BadParams("size is missing")
        case "sleep":
            time.sleep(params["seconds"])
    raise UnknownMethod(method)


class Loop:
    """A daemon's loop in a thread; `run` puts a call into it."""

    def __init__(self, path: str, handle: Callable[[str, dict[str, Any]], Any] = answer, uid: int | None = None) -> None:
        self.selector = selectors.DefaultSelector()
        self.server = ControlServer(path, handle, os.getuid() if uid is None else uid)
        self.server.listen()
        self.server.register(self.selector)
        self.stopped, self.rounds, self.now = False, 0, time.monotonic
        self.thread = threading.Thread(target=self._turn)
        self.thread.start()

    def _turn(self) -> None:
        while not self.stopped:
            for key, mask in self.selector.select(0.02):
                key.data(mask)
            self.server.expire(self.now())
            self.rounds += 1

    def stop(self) -> None:
        self.stopped = True
        self.thread.join()
        self.server.close()
        self.selector.close()


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return where the socket shall be; its directory does not exist yet."""
    return str(tmp_path / "run" / "control.sock")


@contextmanager
def served(path: str, **more: Any) -> Iterator[Loop]:
    """Run a loop around the test."""
    loop = Loop(path, **more)
    try:
        yield loop
    finally:
        loop.stop()


@pytest.fixture
def loop(path: str) -> Iterator[Loop]:
    """Run the small daemon."""
    with served(path) as running:
        yield running


def talk(path: str, data: bytes, *, half_close: bool = True) -> list[dict[str, Any]]:
    """Send bytes, and return the lines that come back until the server closes."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(path)
        with suppress(BrokenPipeError):  # a server that hangs up at once has said why before
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    return [json.loads(line) for line in received.splitlines()]


def request(method: str, number: object = 1, **params: Any) -> bytes:
    """Return one line."""
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode() + b"\n"


def test_call_returns_the_result_even_for_names_that_are_not_utf8(loop: Loop, path: str) -> None:
    """What goes in as parameters comes out as the result, unchanged, lone surrogates included."""
    sent = {"path": "/h\udcffé\n", "size": 2**60, "none": None}
    assert sent == ControlClient(path).call("echo", **sent)


def test_socket_is_for_its_owner_only(loop: Loop, path: str) -> None:
    """The socket has mode 0600 and its directory 0700, whatever the umask is."""
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700


def test_umask_is_put_back(path: str) -> None:
    """Listening leaves the process's umask as it was."""
    before = os.umask(0o002)
    try:
        with served(path):
            assert os.umask(0o002) == 0o002
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("method", "kind", "exit_code", "text"),
    [
        ("refuse", Refused, 4, "Cannot move '/a': python (12) has it open."),
        ("person", NeedsPerson, 5, "Cannot explain '/a'."),
        ("nonsense", UsageError, 2, "The daemon does not know 'nonsense'."),
        ("bad", UsageError, 2, "Cannot ask 'bad': size is missing."),
        ("bug", SurvivedError, 1, "The daemon failed: internal error."),
        ("unserialisable", SurvivedError, 1, "The daemon failed: internal error."),
    ],
)
def test_errors_cross_the_socket(loop: Loop, path: str, method: str, kind: type[SurvivedError], exit_code: int, text: str) -> None:
    """The client raises what the daemon raised, with exit code, message and hint; a bug shows no detail."""
    with pytest.raises(SurvivedError) as caught:
        ControlClient(path).call(method)
    assert (kind, exit_code, text) == (type(caught.value), caught.value.exit_code, caught.value.message)
    assert caught.value.hint or method == "bad"


def test_a_refusal_keeps_its_reason(loop: Loop, path: str) -> None:
    """The reason of a refusal is data on the other side, too."""
    with pytest.raises(Refused) as caught:
        ControlClient(path).call("refuse")
    assert caught.value.reason is Reason.BUSY


def test_a_reason_of_a_newer_daemon_still_is_a_refusal(path: str) -> None:
    """An unknown reason or exit code keeps its exit code."""

    def handle(method: str, params: dict[str, Any]) -> Any:
        error = SurvivedError("No.")
        error.exit_code = params["code"]
        raise error

    with served(path, handle=handle):
        for code in (4, 77):
            with pytest.raises(SurvivedError) as caught:
                ControlClient(path).call("x", code=code)
            assert caught.value.exit_code == code


def test_a_bug_is_logged_with_its_traceback(loop: Loop, path: str, caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected exception is in the daemon's log, and the daemon lives."""
    with pytest.raises(SurvivedError):
        ControlClient(path).call("bug")
    assert "ZeroDivisionError: a detail" in caplog.text
    assert ControlClient(path).call("echo", a=1) == {"a": 1}


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"hello\n", -32700),
        (b"\xff\xfe\n", -32700),
        (b"[" * 60000 + b"\n", -32700),
        (b"1" * 6000 + b"\n", -32700),
        (b"[" + request("echo").strip() + b"]\n", -32600),
        (b'"text"\n', -32600),
        (b'{"id":1,"method":"echo"}\n', -32600),
        (b'{"jsonrpc":"2.0","id":[],"method":"echo"}\n', -32600),
        (b'{"jsonrpc":"2.0","id":true,"method":"echo"}\n', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":7}\n', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"echo","params":[1]}\n', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"nonsense"}\n', -32601),
    ],
    ids=[
        "text",
        "not-utf8",
        "deep",
        "long-number",
        "batch",
        "string",
        "no-version",
        "bad-id",
        "bool-id",
        "bad-method",
        "by-position",
        "unknown",
    ],
)
def test_bad_requests_get_the_standard_codes(loop: Loop, path: str, line: bytes, code: int) -> None:
    """Every bad line is answered with its code, and the next line of the same connection is served."""
    bad, good = talk(path, line + request("echo", "next", a=1))
    assert (bad["error"]["code"], good["id"], good["result"]) == (code, "next", {"a": 1})


def test_a_line_may_come_in_pieces_and_without_an_end(loop: Loop, path: str) -> None:
    """Bytes that trickle in make a line, and the end of input ends the last one."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(path)
        for byte in request("echo", a=1).strip():
            connection.send(bytes([byte]))
        connection.shutdown(socket.SHUT_WR)
        assert json.loads(connection.recv(65536))["result"] == {"a": 1}


def test_notifications_are_done_and_not_answered(path: str) -> None:
    """A request without an id is handled in silence, even when it fails."""
    seen: list[str] = []

    def handle(method: str, params: dict[str, Any]) -> Any:
        seen.append(method)
        raise UnknownMethod(method)

    with served(path, handle=handle):
        answers = talk(path, b'{"jsonrpc":"2.0","method":"a"}\n' + request("b"))
    assert (seen, len(answers)) == (["a", "b"], 1)


@pytest.mark.parametrize("size", [64 * 1024 + 1, 10**6])
def test_an_endless_line_is_refused(loop: Loop, path: str, size: int) -> None:
    """More than 64 KiB without a newline gets one error, then the connection is closed; memory stays bounded."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(path)
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(b" " * size)
        assert json.loads(connection.recv(65536).splitlines()[0])["error"]["code"] == -32700
    assert ControlClient(path).call("echo") == {}


def test_a_reader_that_does_not_read_blocks_nobody(loop: Loop, path: str) -> None:
    """Answers wait in a bounded buffer for a slow reader, others are served meanwhile, and nothing of it gets lost."""
    lines, size = 40, 200_000
    with socket.socket(socket.AF_UNIX) as slow:
        slow.settimeout(10)
        slow.connect(path)
        slow.sendall(b"".join(request("big", n, size=size) for n in range(lines)))
        began = time.monotonic()
        assert ControlClient(path).call("echo", a=1) == {"a": 1}
        assert time.monotonic() - began < 2
        assert 0 < max(len(client.outgoing) for client in loop.server._clients) < 1024 * 1024 + 2 * size
        slow.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: slow.recv(1 << 20), b""))
    assert list(range(lines)) == [json.loads(line)["id"] for line in received.splitlines()]


def test_a_waiting_loop_does_not_spin(loop: Loop, path: str) -> None:
    """A client that sends nothing, and one that does not read, cost no turns of the loop."""
    with socket.socket(socket.AF_UNIX) as idle, socket.socket(socket.AF_UNIX) as slow:
        idle.connect(path)
        slow.connect(path)
        slow.sendall(request("big", size=3_000_000))
        time.sleep(0.2)
        before = loop.rounds
        time.sleep(0.3)
        assert loop.rounds - before < 40


def test_the_seventeenth_client_is_told_so(loop: Loop, path: str) -> None:
    """There are 16 places; one more gets an error, and a place that becomes free is given away."""
    crowd = [socket.socket(socket.AF_UNIX) for _ in range(control.CLIENTS_LIMIT)]
    for client in crowd:
        client.connect(path)
    assert talk(path, b"")[0]["error"]["message"] == "too many clients"
    with pytest.raises(SurvivedError, match="too many clients"):
        ControlClient(path).call("echo")
    for client in crowd:
        client.close()
    deadline = time.monotonic() + 5
    while loop.server._clients and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ControlClient(path).call("echo") == {}


def test_an_idle_client_is_dropped(loop: Loop, path: str) -> None:
    """After 30 s without a byte in either direction the connection is closed."""
    with socket.socket(socket.AF_UNIX) as idle:
        idle.settimeout(5)
        idle.connect(path)
        idle.sendall(b'{"jsonrpc"')
        time.sleep(0.1)
        assert loop.server._clients
        loop.now = lambda: time.monotonic() + control.IDLE_SECONDS
        assert idle.recv(1) == b""


def test_clients_that_vanish_leave_nothing(loop: Loop, path: str) -> None:
    """A peer that dies before its answer costs its connection and nothing else."""
    for _ in range(50):
        with socket.socket(socket.AF_UNIX) as rude:
            rude.connect(path)
            rude.sendall(request("big", size=500_000))
    assert ControlClient(path).call("echo") == {}
    deadline = time.monotonic() + 5
    while loop.server._clients and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not loop.server._clients


@pytest.mark.skipif(os.getuid() != 0, reason="only root can speak as somebody else")
def test_another_user_is_refused(loop: Loop, path: str) -> None:
    """A peer of another uid gets no answer even where it can open the socket."""
    os.chmod(os.path.dirname(path), 0o755)
    os.chmod(path, 0o666)
    script = (
        "import os, socket, sys\nos.setuid(12345)\ns = socket.socket(socket.AF_UNIX); s.settimeout(5)\n"
        "s.connect('control.sock')\ntry:\n s.sendall(b'{}\\n'); print(len(s.recv(100)))\nexcept OSError: print(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=os.path.dirname(path), capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("0", "")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can serve as somebody else")
def test_root_may_ask_a_users_daemon(path: str) -> None:
    """Uid 0 is answered by any daemon."""
    os.makedirs(os.path.dirname(path), mode=0o700)
    os.chown(os.path.dirname(path), 12345, -1)
    with served(path, uid=12345):
        assert ControlClient(path).call("echo") == {}


def test_a_second_daemon_is_told_who_runs(loop: Loop, path: str) -> None:
    """A socket that answers is left alone, and the error names the process."""
    with pytest.raises(SurvivedError, match=rf"Another survived is running \(pid {os.getpid()}\)"):
        ControlServer(path, answer, os.getuid()).listen()
    assert ControlClient(path).call("echo") == {}


def test_a_stale_socket_is_replaced(path: str) -> None:
    """The socket of a daemon that was killed is no obstacle."""
    os.makedirs(os.path.dirname(path), mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with served(path):
        assert ControlClient(path).call("echo") == {}


def test_what_is_no_socket_is_left_alone(path: str) -> None:
    """A file where the socket should be is an error, and stays."""
    os.makedirs(os.path.dirname(path), mode=0o700)
    with open(path, "w") as file:
        file.write("precious")
    with pytest.raises(SurvivedError, match=r"is no socket\. It was left alone"):
        ControlServer(path, answer, os.getuid()).listen()
    with open(path) as file:
        assert file.read() == "precious"


def test_a_link_for_a_directory_is_refused(path: str, tmp_path: Path) -> None:
    """Somebody's link in place of the runtime directory does not lead us elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", os.path.dirname(path))
    with pytest.raises(SurvivedError, match="its directory is a link"):
        ControlServer(path, answer, os.getuid()).listen()
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_a_strangers_directory_is_refused(path: str) -> None:
    """A directory of another user is not used, nor one below it."""
    os.makedirs(os.path.dirname(path), mode=0o700)
    os.chown(os.path.dirname(path), 12345, -1)
    with pytest.raises(SurvivedError, match="its directory belongs to uid 12345"):
        ControlServer(path, answer, 0).listen()
    os.chown(os.path.dirname(path), 0, -1)
    os.chown(os.path.dirname(os.path.dirname(path)), 12345, -1)
    with pytest.raises(SurvivedError, match="the directory above belongs to uid 12345"):
        ControlServer(path, answer, 0).listen()


def test_an_open_directory_of_ours_is_closed(path: str) -> None:
    """A runtime directory that others could write to gets mode 0700."""
    os.makedirs(os.path.dirname(path))
    os.chmod(os.path.dirname(path), 0o777)
    with served(path):
        assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700


def test_a_very_long_path_works(tmp_path: Path) -> None:
    """A path beyond the kernel's 107 bytes is served and called all the same."""
    path = str(tmp_path / ("d" * 100) / ("e" * 100) / "control.sock")
    with served(path):
        assert ControlClient(path).call("echo", a=1) == {"a": 1}
        with pytest.raises(SurvivedError, match="Another survived"):
            ControlServer(path, answer, os.getuid()).listen()
    assert not os.path.exists(path)


def test_a_name_that_cannot_be_bound_is_one_sentence(tmp_path: Path) -> None:
    """A file name too long for any socket gives a clear error on both ends."""
    path = str(tmp_path / ("s" * 120))
    with pytest.raises(SurvivedError, match="Cannot listen on"):
        ControlServer(path, answer, os.getuid()).listen()
    with pytest.raises(DaemonNotRunning, match="Cannot reach the daemon"):
        ControlClient(path).call("echo")


def test_close_removes_our_socket_and_no_other(path: str) -> None:
    """The file goes with the daemon, but not if another daemon has put its own there."""
    with served(path):
        pass
    assert not os.path.exists(path)
    with served(path):
        os.unlink(path)
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(path)
    assert os.path.exists(path)


@pytest.mark.parametrize("there", ["nothing", "stale", "file"])
def test_no_daemon_is_exit_code_3(path: str, there: str) -> None:
    """Without a socket, with a dead one or with a file the client says that the daemon is not running."""
    os.makedirs(os.path.dirname(path))
    if there == "stale":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
    if there == "file":
        open(path, "w").close()
    with pytest.raises(DaemonNotRunning) as caught:
        ControlClient(path).call("status")
    assert caught.value.exit_code == 3
    assert "it is not running" in caught.value.message


def test_a_daemon_that_hangs_is_not_waited_for(loop: Loop, path: str) -> None:
    """The client gives up at its time limit with one sentence."""
    began = time.monotonic()
    with pytest.raises(SurvivedError, match=r"The daemon does not answer within 0.3 s"):
        ControlClient(path, timeout=0.3).call("sleep", seconds=1)
    assert time.monotonic() - began < 0.9


def test_a_daemon_that_dies_in_between_is_one_sentence(path: str) -> None:
    """A connection that ends without an answer is an error, not a traceback of JSON."""
    os.makedirs(os.path.dirname(path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def hang_up() -> None:
            with listener.accept()[0] as connection:
                connection.recv(100)

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(SurvivedError, match="closed the connection without an answer"):
            ControlClient(path).call("echo")
        thread.join()


def test_running_out_of_descriptors_neither_kills_nor_spins(loop: Loop, path: str) -> None:
    """With EMFILE on accept the server rests until `expire`, and then takes the waiting client."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(5)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
    try:
        filler = []
        try:
            while True:
                filler.append(os.dup(0))
        except OSError:
            pass
        client.connect(path)
        before = loop.rounds
        time.sleep(0.2)
        assert loop.rounds - before < 60
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in filler:
            os.close(descriptor)
    client.sendall(request("echo", a=1))
    assert json.loads(client.recv(1000))["result"] == {"a": 1}
    client.close()


def test_the_client_imports_nothing_heavy() -> None:
    """Importing the client's module loads no logging, no dataclasses and none of our words."""
    heavy = {"logging", "dataclasses", "survived.model", "subprocess"}
    script = f"import sys, survived.tell.control; print(*sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == ""
