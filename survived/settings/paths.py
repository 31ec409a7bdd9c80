"""
Where our own files lie: configuration, socket, lock, state, unit.

By XDG for an ordinary user; below /etc, /run and /var/lib in root mode, which is uid 0 with its configuration in /etc.
A relative XDG variable is ignored, as the XDG specification asks.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = "survived"


@dataclass(frozen=True, slots=True)
class Paths:
    """Our own files for one user. Nothing here exists yet by itself; whoever makes a directory gives it mode 0700."""

    config_file: Path
    runtime_dir: Path
    socket: Path
    lock_file: Path
    state_dir: Path  # ballast, install.json, stores.json; not systemd's StateDirectory, whose place for users has changed
    unit_file: Path
    root_mode: bool
    uid: int = -1


def resolve_paths(env: Mapping[str, str], home: str, uid: int, *, root: str = "/") -> Paths:
    """
    Return where the files of the user `uid` with `home` and `env` lie. Reads nothing but whether a few paths exist.

    `root` stands before every system path, so that a test can lay out a machine of its own. The last resort for the
    runtime directory is below /tmp, where anybody may have made it first: check owner and mode before trusting it.
    """
    system = Path(root)
    config_home, config_file = _config_file(env, home, uid, system)
    root_mode = uid == 0 and config_file.is_relative_to(system / "etc")
    runtime_dir = _runtime_dir(env, uid, system)
    state_home = xdg_directory(env, "XDG_STATE_HOME")
    if state_home is not None:
        state_dir = Path(state_home, _NAME)
    else:
        state_dir = system / "var/lib" / _NAME if root_mode else Path(home, ".local/state", _NAME)
    unit_home = system / "etc/systemd/system" if root_mode else config_home / "systemd/user"
    return Paths(
        config_file=config_file,
        runtime_dir=runtime_dir,
        socket=runtime_dir / "control.sock",
        lock_file=runtime_dir / "daemon.lock",
        state_dir=state_dir,
        unit_file=unit_home / "survived.service",
        root_mode=root_mode,
        uid=uid,
    )


def client_socket(paths: Paths, *, root: str = "/") -> Path:
    """
    Return the socket that a client asks at.

    A root shell has an XDG_RUNTIME_DIR of its own while the daemon in root mode, started by the system, has none: then
    root's client goes to the system's socket.
    """
    system = Path(root) / "run" / _NAME / "control.sock"
    if paths.uid == 0 and not os.path.lexists(paths.socket) and os.path.lexists(system):
        return system
    return paths.socket


def xdg_directory(env: Mapping[str, str], name: str) -> str | None:
    """Return the XDG variable `name`, or None if it is unset, empty or relative."""
    value = env.get(name, "")
    return value if os.path.isabs(value) else None


def _config_file(env: Mapping[str, str], home: str, uid: int, system: Path) -> tuple[Path, Path]:
    config_home = xdg_directory(env, "XDG_CONFIG_HOME")
    own = Path(config_home or os.path.join(home, ".config"))
    file = own / _NAME / "config.toml"
    if uid == 0 and config_home is None and not os.path.lexists(file):
        return own, system / "etc" / _NAME / "config.toml"
    return own, file


def _runtime_dir(env: Mapping[str, str], uid: int, system: Path) -> Path:
    runtime_home = xdg_directory(env, "XDG_RUNTIME_DIR")
    if runtime_home is not None:
        return Path(runtime_home, _NAME)
    if uid == 0:
        return system / "run" / _NAME
    if os.path.isdir(of_user := system / "run/user" / str(uid)):
        return of_user / _NAME
    return system / "tmp" / f"{_NAME}-{uid}"
