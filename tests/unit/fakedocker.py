"""A docker of two small scripts, for failures that a real one cannot be made to have: one listens, one answers from folders."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from survived.act.dockerunit import command_of, peer_of

DAEMON = """
import json, os, signal, socket, sys
folder = os.path.dirname(os.path.abspath(sys.argv[1]))
knobs = set(os.listdir(folder + "/knobs"))
try:
    with open(sys.argv[2].partition("=")[2]) as file:
        root = json.load(file).get("data-root", folder + "/nowhere")
except FileNotFoundError:
    root = folder + "/nowhere"
if ("dead-away" in knobs and "/away" in root):
    sys.exit("no")
os.makedirs(root + "/containers", exist_ok=True)
with open(root + "/starts", "a") as file:
    file.write("once\\n")
with open(folder + "/root", "w") as file:
    file.write(root + "\\n")
if "stubborn" in knobs:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
at = folder + "/sock"
if os.path.exists(at):
    os.unlink(at)
server = socket.socket(socket.AF_UNIX)
server.bind(at)
server.listen(50)
with open(folder + "/pid", "w") as file:
    file.write(str(os.getpid()) + "\\n")
while True:
    server.accept()[0].close()
"""
CLIENT = """#!/bin/sh
folder=$(dirname "$(dirname "$0")")
root=; IFS= read -r root <"$folder/root"
pid=; read -r pid <"$folder/pid"
line=; read -r line <"/proc/$pid/cmdline"
[ -n "$line" ] || { echo "Cannot connect to the Docker daemon" >&2; exit 1; }
case "$1 $2" in
  version*) echo 99 ;;
  info*) printf '{"DockerRootDir":"%s","Driver":"overlay2","ServerVersion":"99","DriverStatus":[],"SecurityOptions":[]}\\n' "$root" ;;
  "container ls") ls "$root/containers" ;;
  "container inspect") printf '['; comma=; shift 2; for id in "$@"; do printf '%s{"Id":"%s","HostConfig":{"AutoRemove":false},"State":{"Running":true}}' "$comma" "$id"; comma=,; done; echo ']' ;;
  "container start") case "$root" in */away) [ ! -e "$folder/knobs/no-container-away" ] || { echo "Error response from daemon: no luck" >&2; exit 1; } ;; esac ;;
  "image ls") ls "$root/image/overlay2/imagedb/content/sha256" | sed s/^/sha256:/ ;;
  "volume ls") case "$root" in */away) [ ! -e "$folder/knobs/no-volume-away" ] || exit 0 ;; esac; ls "$root/volumes" ;;
  "network ls") echo '{"ID":"1","Name":"bridge"}' ;;
esac
"""  # noqa: E501
FILES = ("image/overlay2/imagedb/content/sha256/abc", "containers/c1/config", "volumes/v1/_data/file", "overlay2/x/diff/f")
CONFIG = '{\n   "log-level": "info",\n   "data-root": "%s",\n   "debug": false\n}\n'


@dataclass
class FakeDocker:
    """One fake docker in `folder`, its data below it; `away` is a place on another filesystem."""

    folder: Path
    other: Path

    @property
    def home(self) -> Path:
        """Where its data is at first."""
        return self.folder / "home"

    @property
    def away(self) -> Path:
        """Where it may go."""
        return self.other / "away"

    @property
    def config(self) -> Path:
        """Its daemon.json."""
        return self.folder / "daemon.json"

    @property
    def journal(self) -> Path:
        """What survived keeps of its moves."""
        return self.folder / "state/survived/docker.json"

    def make(self) -> None:
        """Lay out scripts and data, and start it."""
        for name in ("bin", "knobs", "home"):
            (self.folder / name).mkdir()
        (self.folder / "daemon.py").write_text(DAEMON)
        (self.folder / "bin/docker").write_text(CLIENT)
        (self.folder / "bin/docker").chmod(0o755)
        for path in (
            "image/overlay2/imagedb/content/sha256/abc",
            "containers/c1/config",
            "volumes/v1/_data/file",
            "overlay2/x/diff/f",
        ):
            (self.home / path).parent.mkdir(parents=True, exist_ok=True)
            (self.home / path).write_text(path)
        os.mknod(self.home / "overlay2/x/diff/gone", 0o020000, 0)
        self.config.write_text(CONFIG % self.home)
        self.start()

    def start(self, *flags: str) -> None:
        """Start the daemon, and wait until it listens."""
        command = [
            sys.executable,
            "-SE",
            str(self.folder / "daemon.py"),
            str(self.folder / "daemon.py"),
            f"--config-file={self.config}",
        ]
        # Forked away from us, so that it is nobody's zombie when it ends.
        subprocess.run(["setsid", "--fork", *command, *flags], check=True, stdin=subprocess.DEVNULL, cwd=self.folder)
        end = time.monotonic() + 10
        while peer_of(str(self.folder / "sock")) is None:
            assert time.monotonic() < end
            time.sleep(0.01)

    def pid(self) -> int | None:
        """Return the daemon's pid, None if it does not run."""
        return peer_of(str(self.folder / "sock"))

    def kill(self) -> None:
        """End the daemon at once, and wait for that."""
        if (pid := self.pid()) is not None:
            os.kill(pid, signal.SIGKILL)
            while command_of(pid):
                time.sleep(0.01)

    def turn(self, knob: str) -> None:
        """Make it fail in one way."""
        (self.folder / "knobs" / knob).touch()

    def runs_from(self) -> Path | None:
        """Where its data is by its own word; None if it does not run."""
        return Path((self.folder / "root").read_text().rstrip("\n")) if self.pid() is not None else None

    def has_all(self, root: Path) -> bool:
        """Tell whether all that it had at first is below a root."""
        whiteout = os.lstat(root / "overlay2/x/diff/gone")
        return all((root / name).read_text() == name for name in FILES) and (whiteout.st_mode, whiteout.st_rdev) == (0o020000, 0)

    def kept(self) -> dict[str, object]:
        """Return what survived keeps of it."""
        return dict(json.loads(self.journal.read_text())) if self.journal.exists() else {}


def make_fake() -> FakeDocker:
    """Return a running fake docker in a folder with a short name, all of it in memory; OSError where no tmpfs can be mounted."""
    folder = Path(tempfile.mkdtemp(prefix="fdk", dir="/dev/shm"))
    folder.chmod(0o755)
    (folder / "disk").mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m,mode=755", "tmpfs", folder / "disk"], capture_output=True, check=False
    )
    if done.returncode != 0:
        shutil.rmtree(folder)
        raise OSError(done.stderr.decode())
    found = FakeDocker(folder, folder / "disk")
    found.make()
    return found


def remove_fake(fake: FakeDocker) -> None:
    """End it, and remove all of it."""
    fake.kill()
    subprocess.run(["umount", fake.other], env={"PATH": os.defpath}, capture_output=True, check=False)
    shutil.rmtree(fake.folder, ignore_errors=True)
