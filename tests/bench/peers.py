"""The programs that survivectl is measured against, each with its server up on a private socket, and how servers end."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[bytes] | None, log: str) -> None:
    """Wait up to 20 s for a server."""
    for _ in range(400):
        if ready():
            return
        if process is not None and process.poll() is not None:
            break
        time.sleep(0.05)
    raise SystemExit(f"a server did not come up:\n{Path(log).read_text(encoding='utf-8')}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server of ours."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(15)
        return
    process.kill()
    process.wait()


@contextmanager
def fail2ban(folder: Path) -> Iterator[list[str]]:
    """Run fail2ban without jails on a private socket and yield its status command."""
    place = folder / "fail2ban"
    shutil.copytree("/etc/fail2ban", place)
    shutil.rmtree(place / "jail.d")
    (place / "jail.d").mkdir()
    files = {"socket": "sock", "pidfile": "pid", "dbfile": "db.sqlite3", "logtarget": "log"}
    lines = "".join(f"{name} = {place / path}\n" for name, path in files.items())
    (place / "fail2ban.local").write_text(f"[DEFAULT]\n{lines}[Definition]\n{lines}", encoding="utf-8")
    where = ["-c", str(place), "-s", str(place / "sock"), "-p", str(place / "pid")]
    with open(place / "out", "w", encoding="utf-8") as out:
        process = subprocess.Popen(["fail2ban-server", *where, "-f", "start"], stdout=out, stderr=out)
        try:
            ask = ["fail2ban-client", *where, "status"]
            wait_for(lambda: subprocess.run(ask, capture_output=True, check=False).returncode == 0, process, out.name)
            yield ask
        finally:
            stop(process)


@contextmanager
def supervisor(folder: Path) -> Iterator[list[str]]:
    """Run supervisord with one program on a private socket and yield its status command."""
    place = folder / "supervisor"
    place.mkdir()
    config = place / "supervisord.conf"
    config.write_text(
        f"[unix_http_server]\nfile={place}/sock\n[supervisord]\nlogfile={place}/log\npidfile={place}/pid\nuser=root\n"
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
        f"[supervisorctl]\nserverurl=unix://{place}/sock\n[program:sleep]\ncommand=sleep 3600\n",
        encoding="utf-8",
    )
    with open(place / "out", "w", encoding="utf-8") as out:
        process = subprocess.Popen(["supervisord", "-n", "-c", str(config)], stdout=out, stderr=out)
        try:
            ask = ["supervisorctl", "-c", str(config), "status"]
            wait_for(lambda: subprocess.run(ask, capture_output=True, check=False).returncode == 0, process, out.name)
            yield ask
        finally:
            stop(process)
