"""
The facts that `survivectl doctor` judges: read from the environment, the kernel, systemd and the files of tools.

Looks and changes nothing: no store is opened with its lock, nothing is created, nobody is written to.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from typing import TYPE_CHECKING

from survived import __version__, redirected
from survived.ctl import local, service, unit
from survived.decide.facts import Danger, Disk, Facts, Inotify, Place, Redirect, Service
from survived.errors import ConfigError, SurvivedError
from survived.observe.disks import find_mount, is_below, read_filesystem, read_mounts
from survived.observe.drives import device_of, read_speed
from survived.settings.catalog import wrong_level
from survived.settings.toolfiles import read_toml, read_tool_file

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from survived.machine import Machine
    from survived.model import StoreReading
    from survived.settings.paths import Paths

_TEMPORARY = ("TMPDIR", "TEMP", "TMP")  # as Python looks; /tmp if none of them is set
_ENV = ("TMPDIR", "HF_HOME", "HF_HUB_CACHE", "XDG_RUNTIME_DIR")
_CONDA_FOLDERS = ("miniconda3", "miniforge3", "mambaforge", "anaconda3", "micromamba", ".conda", ".condarc")
_INOTIFY = "anon_inode:inotify"


def read_facts(args: argparse.Namespace) -> Facts:
    """Return everything that doctor looks at; a configuration that cannot be used is one of the facts."""
    paths, error = local.find_paths(args), None
    try:
        machine = local.open_machine(args)
    except ConfigError as wrong:
        error = (wrong.message, wrong.hint)
        machine = _by_default(paths)
    look = _Look(machine)
    config = str(paths.config_file)
    foreign = {}
    with contextlib.suppress(SurvivedError):
        foreign = {
            reading.cache.id: reading.size.foreign
            for reading in machine.observe().caches
            if reading.state in ("home", "relocated") and reading.size.foreign and is_below(reading.cache.path, machine.home)
        }
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return Facts(
        uid=os.getuid(),
        user=service.user_name(),
        root_mode=paths.root_mode,
        version=__version__,
        env={name: value for name in _ENV if (value := os.environ.get(name, ""))},
        temporary=look.at(next((os.environ[name] for name in _TEMPORARY if os.environ.get(name)), "/tmp")),  # noqa: S108
        tools=_tools(machine),
        caches={cache.id: look.at(cache.path) for cache in machine.caches} | _docker(look),
        runtime=look.at(runtime or f"/run/user/{os.getuid()}"),
        runtime_named=bool(runtime),
        config=look.at(config) if os.path.lexists(config) else None,
        config_error=error,
        destinations=len(machine.settings.notify_urls()),
        foreign=foreign,
        redirects=_redirects(machine),
        dangers=_dangers(machine),
        disks=tuple(_disk(machine, reading) for reading in machine.read_stores()),
        service=_service(paths),
        inotify=_inotify(),
        short_lived=sys.executable if unit.is_short_lived(sys.executable) else None,
    )


def _by_default(paths: Paths) -> Machine:
    from survived.machine import Machine
    from survived.settings.config import Settings

    env = {name: value for name, value in os.environ.items() if not name.startswith("SURVIVED_")}
    return Machine(Settings.model_validate({}), paths, env, local.home(), os.getuid())


class _Look:
    """Looks at paths of one machine."""

    def __init__(self, machine: Machine) -> None:
        self._mounts = read_mounts()
        self._devices: set[int] = set()
        with contextlib.suppress(SurvivedError):
            self._devices = {fs.device_id for fs in machine.read_filesystems()}

    def at(self, path: str) -> Place:
        """Return what stands at a path, links followed; of one that is not there, what its nearest folder is on."""
        real = os.path.realpath(path)
        try:
            found = os.stat(real)
        except OSError:
            found = None
        near = real
        while not os.path.exists(near) and near != "/":
            near = os.path.dirname(near)
        mount = find_mount(near, self._mounts)
        try:
            is_watched = os.stat(near).st_dev in self._devices
        except OSError:
            is_watched = False
        if found is None:
            return Place(path, exists=False, is_directory=False, is_writable=False, is_watched=is_watched, mount=mount.point)
        return Place(
            path,
            is_directory=os.path.isdir(real),
            is_writable=os.access(real, os.W_OK | os.X_OK),
            is_watched=is_watched,
            mount=mount.point,
            fstype=mount.fstype,
            mode=found.st_mode & 0o7777,
            owner=found.st_uid,
        )


def _tools(machine: Machine) -> frozenset[str]:
    """Return the tools that are there, or have left something at home."""
    found = {name for name in ("conda", "pip", "uv", "dockerd") if shutil.which(name)}
    found |= {"conda"} if any(map(shutil.which, ("mamba", "micromamba"))) else set()
    if any(os.path.lexists(os.path.join(machine.home, name)) for name in _CONDA_FOLDERS):
        found.add("conda")
    ids = {"pip": "pip", "uv": "uv-cache", "docker": "docker-rootful"}
    paths = {cache.id: cache.path for cache in machine.caches} | {"docker-rootful": _docker_root()}
    found |= {tool for tool, name in ids.items() if name in paths and os.path.lexists(paths[name])}
    also = {"uv": "uv-cache", "dockerd": "docker"}
    return frozenset(found | {also[name] for name in found if name in also})


def _docker(look: _Look) -> dict[str, Place]:
    """Return where Docker and containerd keep theirs, by the ids of the catalogue, which only root mode resolves."""
    containerd = next(iter(_values("/etc/containerd/config.toml", read_toml, "root")), "/var/lib/containerd")
    return {"docker-rootful": look.at(_docker_root()), "containerd": look.at(containerd)}


def _docker_root() -> str:
    text, _ = read_tool_file("/etc/docker/daemon.json")
    with contextlib.suppress(ValueError):
        found = json.loads(text or "{}")
        if isinstance(found, dict) and isinstance(found.get("data-root"), str):
            return str(found["data-root"])
    return "/var/lib/docker"


def _values(path: str, read: Callable[[str, str], list[str]], key: str) -> list[str]:
    text, _ = read_tool_file(path)
    return read(text, key) if text is not None else []


def _redirects(machine: Machine) -> dict[str, Redirect]:
    try:
        found = redirected.listing(machine, os.environ)
    except SurvivedError:
        return {}
    return {item["tool"]: Redirect(item["state"], "; ".join(item["notes"])) for item in found}


def _dangers(machine: Machine) -> tuple[Danger, ...]:
    found = []
    for _, item in machine.relocations():
        level = wrong_level(item.source, machine.caches)
        if level is not None:
            right = level.cache
            found.append(Danger(item.source, item.cache_id, level.clean_command, level.breaks, right.path, right.id))
    return tuple(found)


def _disk(machine: Machine, reading: StoreReading) -> Disk:
    total = reading.used_bytes + reading.available_bytes
    limit = machine.rules.keep_free.as_usage(total)
    speed = "unknown"
    if reading.ok:
        with contextlib.suppress(OSError):
            fs = read_filesystem(os.path.dirname(reading.path))
            speed = read_speed(device_of(fs.device, fs.device_id), fs.fstype).value
    return Disk(reading.path, reading.ok, reading.reason, reading.available_bytes, reading.usage, limit, speed)


def _service(paths: Paths) -> Service:
    manager = service.Manager(root_mode=paths.root_mode)
    running = None
    with contextlib.suppress(SurvivedError):
        running = local.ask("status", timeout=10.0)
    missing = manager.missing
    return Service(
        command=manager.command,
        missing=missing,
        is_installed=os.path.lexists(paths.unit_file),
        is_enabled=missing is None and manager.is_enabled(),
        active=manager.call("is-active", service.UNIT_NAME).text if missing is None else "unknown",
        lingers=None if paths.root_mode else service.read_linger(),
        running_version=running["version"] if running else None,
        pid=running["daemon"]["pid"] if running else None,
    )


def _inotify() -> Inotify:
    limits = _limits()
    watches = instances = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}").st_uid != os.getuid():
                continue
            for number in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{pid}/fd/{number}") == _INOTIFY:
                        instances += 1
                        with open(f"/proc/{pid}/fdinfo/{number}", "rb") as file:
                            watches += sum(line.startswith(b"inotify ") for line in file)
    return Inotify(limits.get("max_user_watches", 0), limits.get("max_user_instances", 0), watches, instances)


def _limits() -> Mapping[str, int]:
    found = {}
    for name in ("max_user_watches", "max_user_instances"):
        with contextlib.suppress(OSError, ValueError), open(f"/proc/sys/fs/inotify/{name}", encoding="ascii") as file:
            found[name] = int(file.read())
    return found
