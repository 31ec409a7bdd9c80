"""An ordinary user with a home on a small disk, a data disk whose empty mount point is theirs too, and login shells."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.rig.disks import Disk, mount, mounted, unmount
from tests.rig.world import KEPT, ROOT, Answer, wait_until
from tests.unit.engine import ORDINARY

NAME = "alice"


@dataclass
class Person:
    """The user; `disk` is their folder on the data disk, `other` what else of the rig they may write."""

    base: Path
    small: Disk
    data: Disk

    @property
    def home(self) -> Path:
        """Their home."""
        return self.small.path / NAME

    @property
    def disk(self) -> Path:
        """Their folder on the data disk."""
        return self.data.path / NAME

    @property
    def store(self) -> Path:
        """Where survived keeps what is theirs."""
        return self.disk / "survived"

    @property
    def env(self) -> dict[str, str]:
        """What sshd gives to a login: nothing of ours, but how to reach the machine's registries."""
        kept = {name: os.environ[name] for name in KEPT if name in os.environ and name != "PATH"}
        return {**kept, "HOME": str(self.home), "USER": NAME, "LOGNAME": NAME, "PATH": "/usr/local/bin:/usr/bin:/bin"}

    def give(self, path: Path, content: str | bytes = "") -> Path:
        """Make a file of theirs, with the folders above it."""
        missing = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        for item in (path, *missing):
            os.chown(item, ORDINARY, ORDINARY)
        return path

    def run(
        self, *words: str | Path, cwd: Path | None = None, timeout: float = 120, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as they would, without a shell."""
        return subprocess.run(
            [str(word) for word in words], env={**self.env, **env}, cwd=cwd or self.home, stdin=subprocess.DEVNULL, text=True,
            capture_output=True, timeout=timeout, check=False, user=ORDINARY, group=ORDINARY, extra_groups=[],
        )  # fmt: skip

    def login(self, command: str, *, shell: str = "bash", cwd: Path | None = None, **env: str) -> str:
        """Run a command in a fresh login shell, successfully; return what it said."""
        done = self.run(shell, "-l", "-c", command, cwd=cwd, **env)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def ctl(self, *words: str, **env: str) -> Answer:
        """Run survivectl as they would."""
        done = self.run(python_here(), "-m", "survived.ctl.main", *words, **{**self._house(), **env})
        answer = Answer(done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in answer.err, answer.err
        return answer

    def _house(self) -> dict[str, str]:
        """Our program and the libraries that it runs with here, for a Python without them."""
        places = [path for path in sys.path if "site-packages" in path or path == str(ROOT)]
        return {
            "PYTHONPATH": os.pathsep.join([str(ROOT), *places]), "PYTHONDONTWRITEBYTECODE": "1",
            "XDG_RUNTIME_DIR": str(self.base / "run"),
        }  # fmt: skip

    def must(self, *words: str, **env: str) -> Answer:
        """Run survivectl, which must succeed."""
        answer = self.ctl(*words, **env)
        assert answer.rc == 0, f"{words}: {answer}"
        return answer

    def start_daemon(self) -> subprocess.Popen[bytes]:
        """Start survived as they would, and wait until it answers."""
        with open(self.base / "log", "wb") as log:
            daemon = subprocess.Popen(
                [python_here(), "-m", "survived"], env={**self.env, **self._house()}, cwd=self.home, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, user=ORDINARY, group=ORDINARY, extra_groups=[],
            )  # fmt: skip
        socket = self.base / "run/survived/control.sock"
        wait_until(lambda: socket.exists() and self.ctl("status", "--json").json["caches"], what=(self.base / "log").read_text)
        return daemon

    def lose_disk(self) -> None:
        """Take the data disk away; the empty mount point stays, and is theirs, with their folder in it: the worst case."""
        unmount(self.data.path)
        self.disk.mkdir(exist_ok=True)
        for folder in (self.data.path, self.disk):
            os.chown(folder, ORDINARY, ORDINARY)

    def written_below_mount_point(self) -> list[str]:
        """Return every file below the empty mount point."""
        assert not os.path.ismount(self.data.path)
        return [str(path) for path in self.data.path.rglob("*") if path != self.disk]

    def find_disk(self) -> None:
        """Bring the data disk back."""
        mount(self.data.image, self.data.path)


def python_here() -> str:
    """Return a Python that an ordinary user may run; ours may lie in root's home."""
    found = [os.path.realpath(sys.executable), shutil.which(f"python3.{sys.version_info.minor}", path="/usr/bin:/usr/local/bin")]
    return next((path for path in found if path and path.startswith("/usr/")), "/usr/bin/python3")


@contextmanager
def person(small: str = "300M", data: str = "400M") -> Iterator[Person]:
    """Yield the user with both disks mounted, in a folder with a short name that everybody may enter."""
    base = Path(tempfile.mkdtemp(prefix="sv", dir="/tmp"))
    base.chmod(0o755)
    try:
        with mounted(base, "root", small) as one, mounted(base, "data1", data) as other:
            who = Person(base, one, other)
            (base / "run").mkdir(mode=0o700)
            for folder in (who.home, who.disk, base / "run"):
                folder.mkdir(mode=0o700, exist_ok=True)
                os.chown(folder, ORDINARY, ORDINARY)
            settings = {"watch": {"filesystems": [str(one.path)]}, "data": {"disks": [str(who.disk)]}, "move": {"settle": "500ms"}}
            lines = [f"[{name}]\n{key} = {json.dumps(value)}\n" for name, table in settings.items() for key, value in table.items()]
            who.give(who.home / ".config/survived/config.toml", "".join(lines)).chmod(0o600)
            yield who
    finally:
        shutil.rmtree(base, ignore_errors=True)
