"""A booted container of `tests/rig/boot` with survived installed from a wheel, as a test drives it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
import venv
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.rig.disks import why_no_mounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
BOOT = ROOT / "tests/rig/boot"


def why_no_machine() -> str | None:
    """Return why no container can be booted here, or None."""
    if reason := why_no_mounts():
        return reason
    if shutil.which("systemd-nspawn") is None and shutil.which("apt-get") is None:
        return "needs systemd-nspawn"
    return None


class Machine:
    """One running container; commands run in a login session of their user."""

    def __init__(self, name: str, environment: dict[str, str], program: Path) -> None:
        self.name, self._environment, self.program = name, environment, program

    def boot(self, *arguments: str, check: bool = True, timeout: float = 90) -> subprocess.CompletedProcess[str]:
        """Call tests/rig/boot."""
        done = subprocess.run(
            [str(BOOT), *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def run(self, command: str, *, user: str = "alice", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a shell command as `user`, with survivectl on the PATH."""
        return self.boot("sh", self.name, user, f"PATH={self.program}/bin:$PATH; {command}", check=check)

    def out(self, command: str, *, user: str = "alice") -> str:
        """Return the stripped output of a command that must succeed."""
        return self.run(command, user=user).stdout.strip()

    def root(self, command: str) -> str:
        """Run a command as root, without a session."""
        return self.boot("exec", self.name, command).stdout.strip()

    def show(self, name: str) -> str:
        """Return one property of alice's survived.service."""
        return self.out(f"systemctl --user show -P {name} survived.service")

    def write(self, path: str, text: str, *, user: str = "alice") -> None:
        """Write a private file of `user`."""
        folder = shlex.quote(os.path.dirname(path))
        self.run(f"umask 077; mkdir -p {folder}; printf %s {shlex.quote(text)} >{shlex.quote(path)}", user=user)


def within(seconds: float, claim: Callable[[], bool], step: float = 0.2) -> bool:
    """Return whether `claim` comes true in time."""
    end = time.monotonic() + seconds
    while not claim():
        if time.monotonic() > end:
            return False
        time.sleep(step)
    return True


def build_program(folder: Path) -> Path:
    """Install a wheel of the source tree into a new environment that borrows its dependencies from ours; return it."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", folder / "wheel", ROOT], check=True, capture_output=True)
    (wheel,) = (folder / "wheel").glob("survived-*.whl")
    program = folder / "program"
    venv.create(program, symlinks=True)
    into = [*pip, "--python", str(program / "bin/python")]
    subprocess.run([*into, "install", "--no-deps", "--no-index", wheel], check=True, capture_output=True)
    (packages,) = program.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text("\n".join(our_packages()) + "\n", encoding="utf-8")
    return program


def our_packages() -> list[str]:
    """Return the folders in which our own dependencies are installed."""
    return [path for path in sys.path if path.endswith("site-packages")]


@contextmanager
def booted(folder: Path, *, small: str = "250M", data: str = "300M") -> Iterator[Machine]:
    """Boot a container that sees a freshly built program, and destroy it in the end, whatever happened."""
    program = build_program(folder)
    environment = {**os.environ, "RIG_DIR": str(folder / "rig")}
    machine = Machine(f"svc{os.getpid()}", environment, program)
    disks = ("--small", small, "--data1", data, "--data2", "32M")
    # Shown inside by name: the container's /tmp is its own, and a checkout may lie below ours.
    shown = [word for path in (str(program), *our_packages()) for word in ("--bind-ro", path)]
    machine.boot("start", machine.name, "--fresh", *disks, *shown)
    try:
        # The interpreter may live in a private home (pyenv); the change stays in the container's overlay.
        for path in map(Path, (sys.base_prefix, *our_packages())):
            for parent in path.parents:
                machine.boot("exec", machine.name, f"chmod o+x {shlex.quote(str(parent))}", check=False)
        yield machine
    finally:
        machine.boot("destroy", machine.name, check=False)
