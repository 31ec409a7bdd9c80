"""
Every error raised on purpose; anything else that escapes is a bug.

    SurvivedError                 1  failed
    ├── UsageError                2  usage
    ├── DaemonNotRunning          3  daemon not running
    ├── Refused                   4  policy or caution said no; carries a Reason
    ├── NeedsPerson               5  we cannot explain what we see
    ├── ConfigError               6  bad configuration
    └── Stopped                 130  interrupted; what was begun is undone or resumes by itself

A message reads `Cannot <verb> '<path>': <why>. <What we did about it>.`; `hint` is the next command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from survived.terms import Reason


class SurvivedError(Exception):
    """Something failed that can fail: the kernel said no. Exit code 1."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class UsageError(SurvivedError):
    """The command line or a request makes no sense. Exit code 2."""

    exit_code = 2


class DaemonNotRunning(SurvivedError):
    """Nobody answers on the control socket. Exit code 3."""

    exit_code = 3


class Refused(SurvivedError):
    """We will not, and `reason` says why as data. Exit code 4."""

    exit_code = 4

    def __init__(self, reason: Reason, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.reason = reason


class NeedsPerson(SurvivedError):
    """The disk looks as no crash of ours explains; nothing is guessed. Exit code 5."""

    exit_code = 5


class ConfigError(SurvivedError):
    """The configuration cannot be used. Exit code 6."""

    exit_code = 6


class Stopped(SurvivedError):
    """Asked to stop in the middle. Exit code 130."""

    exit_code = 130


BY_CODE: dict[int, type[SurvivedError]] = {
    cls.exit_code: cls for cls in (SurvivedError, UsageError, DaemonNotRunning, NeedsPerson, ConfigError, Stopped)
}
"""For a client that gets an error over the socket; `Refused` (4) is made by hand since it needs its reason."""


def cause_of(error: OSError) -> str:
    """Return what the kernel says, for the middle of a sentence of ours: in small letters, without a full stop."""
    return (error.strerror or str(error)).lower()
