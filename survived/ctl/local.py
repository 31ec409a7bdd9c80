"""
survivectl's two ways to an answer: ask the daemon, or look for itself when there is none.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING, Any

from survived.errors import DaemonNotRunning, SurvivedError
from survived.settings.paths import Paths, client_socket, resolve_paths
from survived.tell.control import ControlClient

if TYPE_CHECKING:
    import argparse

    from survived.machine import Machine
    from survived.model import Relocation
    from survived.settings.config import Settings


def home() -> str:
    """Return $HOME, or the password database's word for it where that is unset or no absolute path."""
    named = os.environ.get("HOME", "")
    if os.path.isabs(named):
        return named
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError as error:
        why = f"HOME is not set, and uid {os.getuid()} has no account"
        raise SurvivedError(f"Cannot find your home: {why}.", "Set HOME.") from error


def find_paths(args: argparse.Namespace | None = None) -> Paths:
    """Return where our files are, with `--config` respected."""
    paths = resolve_paths(os.environ, home(), os.getuid())
    config = getattr(args, "config", None)
    if config is not None:
        import dataclasses

        return dataclasses.replace(paths, config_file=Path(config).absolute())
    return paths


def load(args: argparse.Namespace, paths: Paths) -> Settings:
    """Return the settings; a file named by `--config` must exist."""
    from survived.settings.config import load_settings

    named = getattr(args, "config", None) is not None
    return load_settings(paths.config_file if named else None, os.environ, home())


def open_machine(args: argparse.Namespace) -> Machine:
    """Return our own view of the machine; no store is opened yet."""
    from survived.machine import Machine

    paths = find_paths(args)
    return Machine(load(args, paths), paths, os.environ, home(), os.getuid())


def ask(method: str, /, timeout: float = 30.0, **params: Any) -> Any:
    """Ask the daemon; raises `DaemonNotRunning` and whatever the daemon answers as an error."""
    return ControlClient(str(client_socket(find_paths())), timeout).call(method, **params)


def ask_or_none(method: str, /, timeout: float = 30.0, **params: Any) -> Any:
    """Ask the daemon, or return None if none runs."""
    try:
        return ask(method, timeout, **params)
    except DaemonNotRunning:
        return None


def relocated(settings: Settings, paths: Paths) -> list[Relocation]:
    """Return what lives on data disks behind our links, whether or not a daemon runs."""
    from survived.machine import Machine

    return [item for _, item in Machine(settings, paths, os.environ, home(), os.getuid()).relocations()]
