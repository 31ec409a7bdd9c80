"""
The service manager as install and uninstall see it: systemctl and loginctl, and why they cannot be used.

A missing systemd is an ordinary answer (a container, another init): callers go on and say how to start by hand.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property

UNIT_NAME = "survived.service"
_SECONDS = 90.0  # more than TimeoutStopSec= and a start that waits for READY=1


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said: exit status, and its output or complaint as one line."""

    status: int
    text: str

    @property
    def ok(self) -> bool:
        """Whether the command succeeded."""
        return self.status == 0


class Manager:
    """The systemd instance that runs our unit: the user's own, or the system's in root mode."""

    def __init__(self, *, root_mode: bool, env: dict[str, str] | None = None) -> None:
        self.root_mode = root_mode
        self._env = dict(os.environ if env is None else env)
        runtime = f"/run/user/{os.getuid()}"
        # After `su` the variable is missing although the user's manager runs (lingering, or another session).
        if not root_mode and "XDG_RUNTIME_DIR" not in self._env and os.path.isdir(f"{runtime}/systemd"):
            self._env["XDG_RUNTIME_DIR"] = runtime

    @property
    def command(self) -> str:
        """How a person calls this manager."""
        return "systemctl" if self.root_mode else "systemctl --user"

    @property
    def journal_command(self) -> str:
        """How a person reads what the service logged."""
        return f"journalctl {'-u' if self.root_mode else '--user -u'} {UNIT_NAME} -n 20"

    @cached_property
    def missing(self) -> str | None:
        """Why the manager cannot be used, as half a sentence, or None if it can."""
        if shutil.which("systemctl") is None:
            return "this machine has no systemd (systemctl is not installed)"
        answer = self.call("show", "--property=Version")
        if answer.ok and answer.text:
            return None
        whose = "the system's" if self.root_mode else "your user"
        return f"{whose} systemd does not answer ({answer.text or 'no reply'})"

    def call(self, *arguments: str) -> Answer:
        """Run systemctl for this manager and return its answer; never raises for a failure."""
        return _run(["systemctl", *([] if self.root_mode else ["--user"]), *arguments], self._env)

    def is_active(self) -> bool:
        """Whether the unit runs now."""
        return self.call("is-active", UNIT_NAME).text == "active"

    def is_enabled(self) -> bool:
        """Whether the unit starts by itself."""
        return self.call("is-enabled", UNIT_NAME).text == "enabled"


def user_name() -> str:
    """Return the login name behind our uid, or the uid where it has none."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def read_linger() -> bool | None:
    """Return whether the user's services outlive the last logout, or None where logind cannot be asked."""
    # logind answers only for users with a session; the file it keeps answers for everybody.
    if os.path.exists(f"/var/lib/systemd/linger/{user_name()}"):
        return True
    if shutil.which("loginctl") is None:
        return None
    answer = _run(["loginctl", "show-user", user_name(), "--property=Linger", "--value"], dict(os.environ))
    if answer.ok:
        return answer.text == "yes"
    return False if os.path.isdir("/run/systemd/system") else None


def set_linger(enabled: bool) -> Answer:
    """Ask logind to keep (or no longer keep) the user's services after logout; polkit may refuse."""
    verb = "enable-linger" if enabled else "disable-linger"
    if shutil.which("loginctl") is None:
        return Answer(127, "loginctl is not installed")
    return _run(["loginctl", "--no-ask-password", verb], dict(os.environ))


def _run(command: list[str], env: dict[str, str]) -> Answer:
    env = {**env, "LC_ALL": "C.UTF-8", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}
    try:
        done = subprocess.run(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer(124, f"no answer within {_SECONDS:.0f} s")
    except OSError as error:
        return Answer(127, error.strerror or str(error))
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines()
    return Answer(done.returncode, (lines[0] if done.returncode == 0 and lines else " ".join(lines))[:300])
