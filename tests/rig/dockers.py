"""A real dockerd run by hand, with its data on a small disk, and a data disk beside it: what a test moves and looks at."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.rig.disks import Disk, mounted, why_no_mounts

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
BUSYBOX = "/bin/busybox"
CONFIG = """{
    "iptables": false,
    "ip6tables": false,
\t"bridge": "none",
    "data-root": "%s",
    "log-level": "warn"
}
"""
"""Indented as people do it, and not twice alike."""


def why_no_docker() -> str | None:
    """Return why no docker can be run here, or None."""
    if reason := why_no_mounts():
        return reason
    for tool in ("dockerd", "docker", "containerd", "runc", BUSYBOX):
        if shutil.which(tool) is None:
            return f"needs {tool}"
    if b"/ld-linux" in Path(BUSYBOX).read_bytes()[:65536]:
        return "needs a static busybox"
    return None


def rootfs() -> bytes:
    """Return a small root filesystem as a tar: busybox, a setuid copy of it, a hard link, files and folders to be removed later."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add(BUSYBOX, "bin/busybox")
        tar.add(BUSYBOX, "bin/su", filter=lambda info: info.replace(mode=0o4755))
        for name in ("sh", "sleep", "true", "rm", "mkdir", "ln", "cat", "sync"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for name in ("etc/keep", "etc/gone", "opaque/old"):
            info = tarfile.TarInfo(name)
            info.size, info.uid, info.gid, info.mtime = 4, 1234, 4321, 1_600_000_000
            tar.addfile(info, io.BytesIO(b"low\n"))
        hard = tarfile.TarInfo("etc/again")
        hard.type, hard.linkname = tarfile.LNKTYPE, "etc/keep"
        tar.addfile(hard)
    return out.getvalue()


@dataclass
class Docker:
    """One dockerd. `small` holds its data at first, `data` is where it may go; all else is in `folder`."""

    folder: Path
    small: Disk
    data: Disk

    @property
    def home(self) -> Path:
        """Where the data is at first."""
        return self.small.path / "docker"

    @property
    def away(self) -> Path:
        """Where it is to go."""
        return self.data.path / "docker"

    @property
    def config(self) -> Path:
        """Its daemon.json."""
        return self.folder / "daemon.json"

    @property
    def environment(self) -> dict[str, str]:
        """What survivectl and docker are called with."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "SURVIVED_", "DOCKER_"))}
        mine = {"DOCKER_HOST": f"unix://{self.folder}/sock", "XDG_STATE_HOME": str(self.folder / "state"),
                "HOME": str(self.folder), "PYTHONPATH": str(ROOT)}  # fmt: skip
        return {**kept, **mine}

    def start(self) -> None:
        """Start dockerd and wait until it answers."""
        command = ["setsid", "--fork", "dockerd", "--config-file", str(self.config), "--exec-root", str(self.folder / "exec"),
                   "-p", str(self.folder / "pid"), "-H", f"unix://{self.folder}/sock"]  # fmt: skip
        with open(self.folder / "log", "ab") as log:
            subprocess.run(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder, check=True)
        self.wait()

    def wait(self) -> None:
        """Wait until docker answers."""
        end = time.monotonic() + 30
        while self.try_docker("version").returncode != 0:
            assert time.monotonic() < end, (self.folder / "log").read_text()[-3000:]
            time.sleep(0.1)

    def stop(self) -> None:
        """End this dockerd, its containers with it."""
        for name in self.try_docker("ps", "-q").stdout.split():
            self.try_docker("kill", name)
        try:
            pid = int((self.folder / "pid").read_text())
            os.kill(pid, 15)
        except (OSError, ValueError):
            return
        end = time.monotonic() + 20
        while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() and time.monotonic() < end:
            time.sleep(0.05)

    def try_docker(self, *words: str, data: bytes | None = None) -> subprocess.CompletedProcess[str]:
        """Call docker and return what came of it."""
        done = subprocess.run(["docker", *words], env=self.environment, capture_output=True, input=data, timeout=120, check=False)
        return subprocess.CompletedProcess(words, done.returncode, done.stdout.decode(), done.stderr.decode())

    def docker(self, *words: str, data: bytes | None = None) -> str:
        """Call docker, which must succeed, and return what it says."""
        done = self.try_docker(*words, data=data)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout.strip()

    def survivectl(self, *words: str, sabotage: str | None = None) -> subprocess.CompletedProcess[str]:
        """Call survivectl; with `sabotage`, Python that runs before it in the same process."""
        code = f"import os, sys\n{sabotage or ''}\nfrom survived.ctl.main import main\nsys.exit(main(sys.argv[1:]))"
        return subprocess.run(
            [sys.executable, "-c", code, *words], env=self.environment, capture_output=True, text=True, timeout=240, check=False
        )

    def answer(self, *words: str) -> dict[str, Any]:
        """Call survivectl with --json, which must succeed, and return its object."""
        done = self.survivectl(*words, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return dict(json.loads(done.stdout))

    def root(self) -> str:
        """Where docker itself says that its data is."""
        return self.docker("info", "--format", "{{.DockerRootDir}}")

    def ids(self) -> dict[str, list[str]]:
        """Ids of images, containers and volumes; names of those that run."""
        return {
            "images": sorted(self.docker("image", "ls", "-aq", "--no-trunc").split()),
            "containers": sorted(self.docker("ps", "-aq", "--no-trunc").split()),
            "volumes": sorted(self.docker("volume", "ls", "-q").split()),
            "running": sorted(self.docker("ps", "--format", "{{.Names}}").split()),
        }

    def fill(self) -> None:
        """Make what a server's docker has: layers of all that an overlay knows, a volume, containers that are stopped and run."""
        quiet = ("--network", "none")
        self.docker("import", "-", "tiny:1", data=rootfs())
        change = "rm /etc/gone; rm -r /opaque; mkdir /opaque; echo new >/opaque/one; ln /opaque/one /opaque/two"
        self.docker("run", *quiet, "--name", "builder", "tiny:1", "/bin/sh", "-c", change)
        self.docker("commit", "builder", "tiny:2")
        self.docker("run", *quiet, "--name", "stopped", "tiny:2", "/bin/sh", "-c", "echo mine >/etc/mine; rm /etc/again")
        write = "[ -e /v/file ] || echo data >/v/file; sync; exec sleep 100000"
        self.docker(
            "run", "-d", *quiet, "--stop-signal", "KILL", "--name", "runs", "-v", "vol:/v", "tiny:2", "/bin/sh", "-c", write
        )
        self.docker("run", "-d", "--rm", *quiet, "--stop-signal", "KILL", "--name", "passing", "tiny:2", "/bin/sleep", "100000")
        volume = self.home / "volumes/vol/_data"
        os.setxattr(volume, "user.note", b"a note")
        os.mknod(volume / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mkfifo(volume / "fifo")
        with open(volume / "hollow", "wb") as file:
            file.truncate(50 << 20)
        os.chown(volume / "hollow", 100_005, 100_006)


def snapshot(root: Path) -> dict[str, Any]:
    """Return all that lasts below docker's root: layers, volumes, images; by path with kind, owner, times, attributes, content."""
    found: dict[str, Any] = {}
    inodes: dict[int, str] = {}
    tops = [*root.glob("overlay2/*/diff"), *root.glob("overlay2/l"), root / "volumes", *root.glob("image/*/layerdb"),
            *root.glob("image/*/imagedb")]  # fmt: skip
    for top in sorted(tops):
        for folder, folders, files in os.walk(top):
            folders.sort()
            for name in ["", *sorted(files), *(name for name in folders if os.path.islink(os.path.join(folder, name)))]:
                path = os.path.join(folder, name) if name else folder
                if name == "backingFsBlockDev":  # the disk below, which docker makes anew at each start
                    continue
                info = os.lstat(path)
                extra: Any = None
                if stat.S_ISREG(info.st_mode) and not path.endswith("metadata.db"):  # volumes' own, which docker rewrites
                    extra = hashlib.sha256(Path(path).read_bytes()).hexdigest()
                elif stat.S_ISLNK(info.st_mode):
                    extra = os.readlink(path)
                attributes = {
                    key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
                }
                where = os.path.relpath(path, root)
                first = inodes.setdefault(info.st_ino, where) if not stat.S_ISDIR(info.st_mode) else where
                kind = (stat.S_IFMT(info.st_mode), stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_rdev)
                times = info.st_mtime_ns if not path.endswith(("metadata.db", "/volumes")) else 0
                found[where] = (*kind, times, extra, tuple(sorted(attributes.items())), first)
    return found


@contextmanager
def running_docker(small: str = "300M", data: str = "300M") -> Iterator[Docker]:
    """Start a filled docker; everything is gone afterwards. Its folder's name is short, for sockets have names of 108 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="sdk", dir="/tmp"))
    folder.chmod(0o755)
    try:
        with mounted(folder, "small", small) as one, mounted(folder, "data", data) as other:
            found = Docker(folder, one, other)
            found.config.write_text(CONFIG % found.home, encoding="utf-8")
            try:
                found.start()
                found.fill()
                yield found
            finally:
                found.stop()
                _unmount_below(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unmount_below(folder: Path) -> None:
    """Unmount what docker has mounted below a folder, but for the disks themselves."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
    disks = [str(folder / name) for name in ("small", "data")]
    for point in sorted((point for point in points if point.startswith(f"{folder}/")), key=len, reverse=True):
        if point not in disks:
            subprocess.run(["umount", "-l", point], capture_output=True, check=False)
