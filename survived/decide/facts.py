"""
What doctor judges, as values: places, links, disks, the service, and what holds for the user who asks. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Place:
    """What stands at a path. `is_watched`: it lies on a filesystem that we keep free; of one that is not there, where it would."""

    path: str
    exists: bool = True
    is_directory: bool = True
    is_writable: bool = True
    is_watched: bool = False
    mount: str = "/"
    fstype: str = ""
    mode: int = 0o700
    owner: int = -1


@dataclass(frozen=True, slots=True)
class Danger:
    """A link of ours that its tool does not bear: `breaks` the tool, or is removed by `clean_command`."""

    path: str
    cache_id: str
    clean_command: str | None
    breaks: bool
    right_path: str
    right_id: str


@dataclass(frozen=True, slots=True)
class Disk:
    """A data disk's store: `limit` is the usage that survived never passes there, `speed` a word of `findings.Speed`."""

    path: str
    ok: bool = True
    reason: str | None = None
    available_bytes: int = 0
    usage: float = 0.0
    limit: float = 0.95
    speed: str = "unknown"


@dataclass(frozen=True, slots=True)
class Service:
    """What systemd says of us. `missing`: why it cannot be asked; None for a word that is not known."""

    command: str = "systemctl --user"
    missing: str | None = None
    is_installed: bool = True
    is_enabled: bool = True
    active: str = "active"
    lingers: bool | None = True
    running_version: str | None = None
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class Redirect:
    """How a tool stands: redirected, overridden, changed, missing, yours, linked, home or absent; `note` says why, or nothing."""

    state: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Inotify:
    """The kernel's limits for a user, and what this user has in use; 0 for what cannot be read."""

    max_watches: int = 0
    max_instances: int = 0
    watches: int = 0
    instances: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that is judged. `env` has the variables as they are for whoever asks; paths in it need not exist."""

    uid: int
    user: str
    root_mode: bool
    version: str
    env: Mapping[str, str]
    temporary: Place  # where temporary files go by it
    tools: frozenset[str]  # "conda", "docker", "huggingface" ..., as far as they are there or have left something
    caches: Mapping[str, Place]  # by catalogue id, links followed
    runtime: Place | None  # the directory that XDG_RUNTIME_DIR names, or where it would be
    runtime_named: bool
    config: Place | None  # None: there is none
    config_error: tuple[str, str | None] | None
    destinations: int
    foreign: Mapping[str, str]  # cache id -> an entry in it of somebody else
    redirects: Mapping[str, Redirect] = field(default_factory=dict)  # by the name of its tool
    dangers: tuple[Danger, ...] = ()
    disks: tuple[Disk, ...] = ()
    service: Service = field(default_factory=Service)
    inotify: Inotify = field(default_factory=Inotify)
    short_lived: str | None = None  # our interpreter, where clean-ups delete things
