"""
What docker is asked, through its own command: where its data is, what is there, and whether a container starts.

Nothing of docker's data is read or written here but by docker itself.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from survived.errors import SurvivedError, cause_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SECONDS = 120.0
_TRIED = 5
"""Images of which one must start where no container ran before; one without /bin/true tells nothing."""
_NO_SUCH_COMMAND = 127
_MADE_BY_DOCKER = frozenset({"bridge", "host", "none"})
"""Networks that docker makes anew at each start, with another id."""


@dataclass(frozen=True, slots=True)
class Info:
    """What docker says of itself. `containerd_store`: images lie below containerd's root, not below docker's."""

    root: str
    driver: str
    version: str
    containerd_store: bool
    live_restore: bool
    security: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Inventory:
    """
    Ids of all that docker has. `passing` goes by itself when docker stops: containers run with --rm, and their volumes.

    `networks` are those that were made by somebody; `running` are the containers that ran; `contained` is what a containerd
    of its own has, as "namespace/image".
    """

    images: frozenset[str]
    containers: frozenset[str]
    volumes: frozenset[str]
    networks: frozenset[str]
    running: tuple[str, ...] = ()
    passing: frozenset[str] = frozenset()
    contained: frozenset[str] = frozenset()

    def missing(self, after: Inventory) -> tuple[str, ...]:
        """Return what was here and is not in `after`, as "image sha256:…"."""
        kinds = ("images", "containers", "volumes", "networks", "contained")
        lost = [(kind, item) for kind in kinds for item in sorted(getattr(self, kind) - getattr(after, kind) - self.passing)]
        return tuple(f"{kind.removesuffix('s')} {item}" for kind, item in lost)

    def document(self) -> dict[str, list[str]]:
        """Return it for JSON."""
        return {name: sorted(value) if isinstance(value, frozenset) else list(value) for name, value in asdict(self).items()}

    @classmethod
    def from_document(cls, found: Mapping[str, list[str]]) -> Inventory:
        """Return what `document` made."""
        sets = {name: frozenset(value) for name, value in found.items() if name != "running"}
        return cls(**sets, running=tuple(found["running"]))


class Dockerd:
    """One docker daemon at a unix socket, asked through the `docker` command."""

    def __init__(self, host: str, env: Mapping[str, str]) -> None:
        self.host = host
        self._env = {**env, "DOCKER_HOST": host, "LC_ALL": "C.UTF-8"}
        self._env.pop("DOCKER_CONTEXT", None)  # a context may lead to another machine's docker

    @property
    def socket(self) -> str:
        """The path of the socket."""
        return self.host.removeprefix("unix://")

    def answers(self) -> bool:
        """Tell whether docker answers now."""
        return self._run("version", "--format", "{{.Server.Version}}", seconds=20.0).returncode == 0

    def read_info(self) -> Info:
        """Return what docker says of itself; `SurvivedError` if it does not answer."""
        found = json.loads(self._ask("info", "--format", "{{json .}}"))
        if not found.get("DockerRootDir"):
            why = "; ".join(found.get("ServerErrors") or ["it does not say where its data is"])
            raise SurvivedError(f"Cannot ask docker at '{self.socket}': {why}.")
        status = {str(pair[0]): str(pair[1]) for pair in found.get("DriverStatus") or [] if len(pair) == 2}
        return Info(
            root=found["DockerRootDir"],
            driver=found.get("Driver", ""),
            version=found.get("ServerVersion", ""),
            containerd_store=status.get("driver-type", "").startswith("io.containerd.snapshotter"),
            live_restore=bool(found.get("LiveRestoreEnabled")),
            security=tuple(found.get("SecurityOptions") or ()),
        )

    def read_inventory(self) -> Inventory:
        """Return the ids of all that docker has."""
        containers = self._lines("container", "ls", "--all", "--quiet", "--no-trunc")
        details: list[dict[str, Any]] = json.loads(self._ask("container", "inspect", *containers)) if containers else []
        passing: set[str] = set()
        for item in details:
            if item["HostConfig"].get("AutoRemove"):
                passing |= {item["Id"], *(mount["Name"] for mount in item.get("Mounts", ()) if mount.get("Name"))}
        networks = [json.loads(line) for line in self._lines("network", "ls", "--no-trunc", "--format", "{{json .}}")]
        return Inventory(
            images=frozenset(self._lines("image", "ls", "--all", "--quiet", "--no-trunc")),
            containers=frozenset(containers),
            volumes=frozenset(self._lines("volume", "ls", "--quiet")),
            networks=frozenset(net["ID"] for net in networks if net["Name"] not in _MADE_BY_DOCKER),
            running=tuple(item["Id"] for item in details if item["State"].get("Running")),
            passing=frozenset(passing),
        )

    def stop_containers(self, ids: Iterable[str]) -> None:
        """Stop containers, each in its own time to end."""
        if ids := list(ids):
            self._ask("container", "stop", *ids, seconds=600.0)

    def start_container(self, container: str) -> str | None:
        """Start a container that is there; return why it does not start, or None. One that runs already is fine."""
        done = self._run("container", "start", container)
        return None if done.returncode == 0 else complaint(done)

    def try_image(self, images: Iterable[str]) -> str | None:
        """Run /bin/true in one of some images, and leave nothing; return why none starts, or None if one does or none can tell."""
        why = None
        for image in list(images)[:_TRIED]:
            done = self._run("run", "--rm", "--network", "none", "--pull", "never", "--entrypoint", "/bin/true", image)
            if done.returncode == 0:
                return None
            # 127: its layers were mounted and there is no /bin/true in them.
            why = why if done.returncode == _NO_SUCH_COMMAND else complaint(done)
        return why

    def _lines(self, *words: str) -> list[str]:
        return list(dict.fromkeys(self._ask(*words).splitlines()))

    def _ask(self, *words: str, seconds: float = _SECONDS) -> str:
        done = self._run(*words, seconds=seconds)
        if done.returncode != 0:
            raise SurvivedError(
                f"Cannot ask docker at '{self.socket}' ({' '.join(words[:2])}): {complaint(done)}.", "Try it yourself: docker info."
            )
        return done.stdout

    def _run(self, *words: str, seconds: float = _SECONDS) -> subprocess.CompletedProcess[str]:
        return run(["docker", *words], self._env, seconds)


def run(command: list[str], env: Mapping[str, str], seconds: float = _SECONDS) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; one that is missing gives 127, one that takes too long 124. Never raises for either."""
    try:
        return subprocess.run(
            command, env=dict(env), stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no answer within {seconds:.0f} s")
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, "", f"{command[0]}: {cause_of(error)}")


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a command complained of first, as one line without its full stop; what follows is mostly advice."""
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()] or ["no reply"]
    return lines[0][:400].rstrip(".")


def read_contained(env: Mapping[str, str]) -> frozenset[str]:
    """Return the images that the system's containerd has, as "namespace/image"; nothing where its `ctr` is missing."""
    found: set[str] = set()
    for namespace in run(["ctr", "namespaces", "ls", "-q"], env).stdout.split():
        found |= {f"{namespace}/{name}" for name in run(["ctr", "-n", namespace, "images", "ls", "-q"], env).stdout.split()}
    return frozenset(found)


def inventory_of_tree(root: str) -> Inventory:
    """Return what docker's folders show when it cannot be asked: images, containers and volumes, by the names docker gives them."""

    def names(*parts: str) -> frozenset[str]:
        try:
            with os.scandir(os.path.join(root, *parts)) as entries:
                return frozenset(entry.name for entry in entries)
        except FileNotFoundError:
            return frozenset()

    digests: set[str] = set()
    for driver in names("image"):
        digests |= {f"sha256:{name}" for name in names("image", driver, "imagedb", "content", "sha256")}
    volumes = {name for name in names("volumes") if os.path.isdir(os.path.join(root, "volumes", name, "_data"))}
    return Inventory(frozenset(digests), names("containers"), frozenset(volumes), frozenset())
