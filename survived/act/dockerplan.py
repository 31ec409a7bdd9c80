"""
What is known of a docker before anything is done to it, where its data would go, and all that makes the move wrong.

Reads only, but for `check_target`, which tries on the new disk what docker's layers need.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from survived.act import dockerconfig, fs, replica
from survived.act.dockerd import Dockerd, Info
from survived.act.dockerstate import Moved, Part
from survived.act.dockerunit import Unit, find_unit, read_flags
from survived.errors import ConfigError, Refused, cause_of
from survived.model import Mark, Reason
from survived.observe.disks import is_below, read_filesystem
from survived.observe.neighbours import find_exposed
from survived.observe.tree import measure_tree
from survived.units import print_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOT, CONFIG, SOCKET = "/var/lib/docker", "/etc/docker/daemon.json", "/var/run/docker.sock"
CONTAINERD_ROOT, CONTAINERD_CONFIG = "/var/lib/containerd", "/etc/containerd/config.toml"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
_DRIVERS = frozenset({"overlay2", "overlay", "overlayfs", "fuse-overlayfs", "vfs", "native", "aufs"})
"""Those that keep layers in ordinary directories; btrfs and zfs have subvolumes, devicemapper block devices."""
_REMOTE = ("nfs", "cifs", "smb", "9p", "fuse", "ceph", "glusterfs", "lustre", "beegfs", "afs", "vfat", "exfat", "ntfs")


@dataclass(frozen=True, slots=True)
class Situation:
    """
    One docker as it is: how it is asked and served, where its data and configuration are.

    `info` is None if it does not answer; `flag` is a data-root given as a flag; `default` the root without any setting.
    """

    dockerd: Dockerd
    env: Mapping[str, str]
    unit: Unit | None
    info: Info | None
    root: str
    config: str
    default: str
    flag: str | None
    rootless: bool
    containerd_unit: Unit | None
    containerd_root: str
    containerd_config: str

    @property
    def has_containerd_store(self) -> bool:
        """Whether images lie below the root of a containerd that is not docker's own child."""
        return self.info is not None and self.info.containerd_store and self.containerd_unit is not None


def read_situation(env: Mapping[str, str], home: str, uid: int) -> Situation:
    """Return what this user's docker looks like; `Refused` where there is none on this machine, `ConfigError` for its settings."""
    rootless_socket = os.path.join(env.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}", "docker.sock")
    user = uid != 0 and os.path.exists(rootless_socket)
    host = env.get("DOCKER_HOST") or f"unix://{rootless_socket if user else SOCKET}"
    if not host.startswith("unix://"):
        why = f"DOCKER_HOST is '{host}', which may be another machine's"
        raise Refused(Reason.NOT_OURS, f"Cannot move docker's data: {why}. Nothing was changed.", "Unset DOCKER_HOST.")
    if shutil.which("docker", path=env.get("PATH")) is None:
        raise Refused(Reason.ABSENT, "Cannot move docker's data: there is no docker command on this machine. Nothing was changed.")
    dockerd = Dockerd(host, env)
    info = dockerd.read_info() if dockerd.answers() else None
    user = user or (info is not None and "name=rootless" in info.security)
    unit = find_unit("docker", dockerd.socket, env, user=user)
    flags = read_flags(unit, env)
    config_home = env.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    config = flags.get("config-file") or (os.path.join(config_home, "docker/daemon.json") if user else CONFIG)
    default = os.path.join(env.get("XDG_DATA_HOME") or os.path.join(home, ".local/share"), "docker") if user else ROOT
    root = flags.get("data-root") or dockerconfig.read_keys(config).get("data-root") or default
    containerd = find_unit("containerd", flags.get("containerd") or CONTAINERD_SOCKET, env) if not user else None
    containerd_flags = read_flags(containerd, env)
    containerd_config = containerd_flags.get("config") or CONTAINERD_CONFIG
    containerd_root = containerd_flags.get("root") or dockerconfig.read_keys(containerd_config).get("root") or CONTAINERD_ROOT
    return Situation(
        dockerd, env, unit, info, os.path.normpath(str(root)), config, default, flags.get("data-root"), user, containerd,
        os.path.normpath(str(containerd_root)), containerd_config,
    )  # fmt: skip


def plan_home(now: Situation, moved: Moved) -> tuple[Part, ...]:
    """
    Return what brings everything back to where it was before the first move.

    `Refused` where docker's data is not where we put it, or somebody has changed the key since: that is left alone.
    """
    _check_settings(now)
    found = []
    for part in moved.parts:
        if not dockerconfig.says(part, part.new):
            raise Refused(
                Reason.STALE,
                f"Cannot undo the move of '{part.old}': '{part.config}' was changed since, and has another '{part.key}' than "
                f"'{part.new}'. It was left alone.",
                f"Give it that value again, or move the data yourself; {part.name}'s data is not touched.",
            )
        back, current = dockerconfig.put_back(part), dockerconfig.read(part.config)
        found.append(replace(part, old=part.new, new=part.old, before=current, after=back))
    return tuple(found)


def plan_parts(now: Situation, to: str, *, containerd: bool = False) -> tuple[Part, ...]:
    """
    Return what is to be moved where: docker's root to `to`, and containerd's beside it where images lie there or it is asked for.

    Raises `Refused` or `ConfigError` for a docker that cannot be moved, whatever the target is.
    """
    _check_settings(now)
    to = os.path.normpath(to)
    found = [Part("docker", now.root, to, now.config, "data-root", now.default)]
    if containerd and now.containerd_unit is None:
        raise Refused(Reason.ABSENT, "Cannot move containerd's data: no containerd of its own runs here. Nothing was changed.")
    if containerd or now.has_containerd_store:
        where = now.containerd_root, f"{to}-containerd", now.containerd_config
        found.insert(0, Part("containerd", *where, "root", CONTAINERD_ROOT))
    # Who may not read a configuration gets the steps for root, not its text.
    return tuple(dockerconfig.planned(part) if dockerconfig.is_readable(part.config) else part for part in found)


def _check_settings(now: Situation) -> None:
    if now.flag is not None:
        raise ConfigError(
            f"Cannot move '{now.root}': docker gets its data-root by a flag, and with the key 'data-root' beside it it would not "
            "start any more. Nothing was changed.",
            f"Take --data-root out of docker's command (systemctl edit --full docker, or /etc/default/docker), and put "
            f'"data-root": "{now.flag}" into {now.config}; restart docker and come again.',
        )
    if "graph" in dockerconfig.read_keys(now.config):
        raise ConfigError(
            f"Cannot move '{now.root}': '{now.config}' has the old key 'graph', which docker does not take beside 'data-root'. "
            "Nothing was changed.", "Rename it to data-root, restart docker and come again.",
        )  # fmt: skip
    if now.info is not None and now.info.driver not in _DRIVERS:
        why = f"docker's storage driver is '{now.info.driver}', whose layers are not ordinary directories"
        raise Refused(Reason.UNFAITHFUL, f"Cannot move '{now.root}': {why}. Nothing was changed.")
    if now.info is not None and not is_below(os.path.realpath(now.info.root), os.path.realpath(now.root)):
        why = f"docker's data is in '{now.info.root}', and '{now.config}' says '{now.root}'"
        raise Refused(Reason.STALE, f"Cannot move docker's data: {why}. Nothing was changed.", "Restart docker and come again.")
    if now.root.startswith("/var/snap/"):
        why = "docker was installed as a snap, which cannot leave its folder"
        raise Refused(Reason.SYSTEM, f"Cannot move '{now.root}': {why}. Nothing was changed.")
    if now.unit is None:
        why = "it is not known how docker is started here"
        raise Refused(Reason.ABSENT, f"Cannot move '{now.root}': {why}. Nothing was changed.", "Start docker and come again.")


def check_part(part: Part) -> None:
    """Refuse roots that make no sense: a source that is missing, a link or holds a disk; a target in use, or on no other disk."""

    def refuse(reason: Reason, why: str, hint: str | None = None) -> Refused:
        return Refused(reason, f"Cannot move '{part.old}' to '{part.new}': {why}. Nothing was changed.", hint)

    try:
        found = os.lstat(part.old)
    except OSError as error:
        raise refuse(Reason.ABSENT, f"'{part.old}': {cause_of(error)}") from error
    if stat.S_ISLNK(found.st_mode):
        why = f"it is a link already, to '{os.readlink(part.old)}'"
        raise refuse(Reason.ALREADY_LINK, why, f"Name the real place in {part.key}.")
    if not os.path.isabs(part.new):
        raise refuse(Reason.NOT_A_DIRECTORY, "the new place is no absolute path")
    if not part.new.isprintable():
        raise refuse(Reason.UNFAITHFUL, "docker's settings cannot hold such a name", "Name another place.")
    parent = os.path.dirname(part.new)
    if not os.path.isdir(parent):
        raise refuse(Reason.ABSENT, f"there is no directory '{parent}'", "Is the data disk mounted?")
    ends = os.path.realpath(part.old), os.path.realpath(part.new)
    if is_below(*ends) or is_below(*reversed(ends)):
        raise refuse(Reason.OTHER_FILESYSTEM, "one is in the other")
    if os.path.lexists(part.new):
        if os.path.islink(part.new) or not os.path.isdir(part.new):
            raise refuse(Reason.NOT_A_DIRECTORY, "the new place is no directory")
        if os.listdir(part.new):
            raise refuse(Reason.NOT_EMPTY, "the new place is not empty", "Name a directory that is not there yet.")
    place = part.new if os.path.lexists(part.new) else parent
    if os.stat(place).st_dev == found.st_dev:
        raise refuse(Reason.OTHER_FILESYSTEM, "both are on the same filesystem, so that nothing would be freed",
                     "Is the data disk mounted?")  # fmt: skip
    disk = read_filesystem(place)
    if disk.read_only:
        raise refuse(Reason.UNFAITHFUL, f"'{disk.mount}' is read-only")
    if disk.fstype.startswith(_REMOTE):
        raise refuse(Reason.UNFAITHFUL, f"docker's layers cannot lie on {disk.fstype}")
    if (exposed := find_exposed(place, frozenset({os.geteuid()}))) is not None:
        raise refuse(Reason.EXPOSED, exposed, "Take that right away, or name another place.")
    if (mount := replica.foreign_mount(part.old)) is not None:
        raise refuse(Reason.MOUNT_POINT, f"'{mount.point}' in it is a mount of its own ({mount.fstype})", "Unmount it first.")


def check_room(part: Part, limit: Mark, hint: str) -> int:
    """Return the bytes that a root takes; refuse (NO_ROOM) what would bring the target's disk above `limit`, or out of inodes."""
    size = measure_tree(part.old)
    place = part.new if os.path.lexists(part.new) else os.path.dirname(part.new)
    disk = read_filesystem(place)
    total = disk.used_bytes + disk.available_bytes
    entries = size.files + size.directories
    if disk.inodes_used + disk.inodes_available > 0 and entries >= disk.inodes_available:
        needs, has = f"{entries} inodes", f"{disk.inodes_available}"
    elif size.size_bytes >= disk.available_bytes or (disk.used_bytes + size.size_bytes) / total > limit.as_usage(total):
        needs, has = print_bytes(size.size_bytes), f"{print_bytes(disk.available_bytes)}, of which a share is kept free"
    else:
        return size.size_bytes
    raise Refused(
        Reason.NO_ROOM,
        f"Cannot move '{part.old}' to '{part.new}': it needs {needs}, and '{disk.mount}' has {has}. Nothing was changed.",
        f"{hint} docker system prune removes what docker does not use.",
    )


def check_target(part: Part) -> None:
    """Try on the new disk what layers are made of: whiteouts, trusted attributes, hard links, owners. `Refused` where one fails."""
    place = part.new if os.path.lexists(part.new) else os.path.dirname(part.new)
    tried, try_it = "a directory", _TRIALS["a file"]
    try:
        folder = tempfile.mkdtemp(prefix=".survived-", dir=place)
        try:
            for tried, try_it in _TRIALS.items():  # noqa: B007  named in the refusal
                try_it(folder)
        finally:
            with contextlib.suppress(OSError), fs.opened(place, follow=True) as fd:
                fs.remove_tree(fd, os.path.basename(folder), lambda _: None)
    except OSError as error:
        why = f"'{place}' does not take {tried}: {cause_of(error)}"
        raise Refused(Reason.UNFAITHFUL, f"Cannot move '{part.old}' to '{part.new}': {why}. Nothing was changed.") from error


_TRIALS: dict[str, Callable[[str], None]] = {
    "a file": lambda folder: os.close(os.open(f"{folder}/file", os.O_CREAT | os.O_WRONLY, 0o600)),
    "a foreign owner": lambda folder: os.chown(f"{folder}/file", 65534, 65534),
    "setuid": lambda folder: os.chmod(f"{folder}/file", 0o4700),
    "hard links": lambda folder: os.link(f"{folder}/file", f"{folder}/link"),
    "the attributes of an overlay (trusted.*)": lambda folder: os.setxattr(folder, "trusted.overlay.opaque", b"y"),
    "an overlay's whiteouts (device 0, 0)": lambda folder: os.mknod(f"{folder}/gone", stat.S_IFCHR, 0),
}


def warnings(now: Situation, parts: Sequence[Part]) -> tuple[str, ...]:
    """Return what a person should know before, as sentences."""
    found = []
    if now.info is None:
        found.append("docker does not answer: what it has is read from its folders, and networks are not compared.")
    elif now.info.live_restore:
        found.append("live-restore is on: containers are stopped all the same, and started again.")
    if os.path.exists("/sys/fs/selinux/enforce"):
        found += [f"SELinux: label the new place first: semanage fcontext -a -e {part.old} {part.new}" for part in parts]
    if now.containerd_unit is not None and any(part.name == "containerd" for part in parts):
        found.append("containerd is stopped for as long: whatever else uses it (Kubernetes, nerdctl) stops, too.")
    return tuple(found)
