"""A real dockerd's data on a data disk and back: every layer, volume and container; and docker runs after every failure."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig.dockers import running_docker, snapshot, why_no_docker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rig.dockers import Docker

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

KILL = "os.kill(os.getpid(), 9)"


@pytest.fixture(scope="module")
def running() -> Iterator[Docker]:
    """Run one docker for the whole file."""
    if reason := why_no_docker():
        pytest.skip(reason)
    with running_docker() as docker:
        yield docker


@pytest.fixture
def docker(running: Docker) -> Iterator[Docker]:
    """Return the docker, at home, with its containers running, and nothing on the data disk."""
    assert running.root() == str(running.home)
    assert os.listdir(running.data.path) == []
    running.docker("start", "runs")
    yield running
    running.data.empty()


def test_there_and_back(docker: Docker) -> None:
    """All that docker has is on the data disk, byte for byte, runs there, and is home again after undo, with its old settings."""
    before, ids, config = snapshot(docker.home), docker.ids(), docker.config.read_text(encoding="utf-8")
    passing = docker.docker("ps", "-q", "--no-trunc", "-f", "name=passing")
    lasting = {**ids, "containers": [item for item in ids["containers"] if item != passing], "running": ["runs"]}
    kinds = {entry[0] for entry in before.values()}
    assert {0o020000, 0o010000, 0o120000, 0o100000} <= kinds  # whiteouts, a FIFO, links, files
    assert any(("trusted.overlay.opaque", b"y") in entry[7] for entry in before.values())

    moved = docker.answer("docker", "apply", "--to", str(docker.away))

    assert docker.root() == str(docker.away) == moved["moved"]["parts"][0]["new"]
    assert docker.ids() == lasting
    assert not docker.home.exists()
    assert docker.config.read_text(encoding="utf-8") == config.replace(str(docker.home), str(docker.away))
    assert _differences(before, snapshot(docker.away), passing) == []
    assert docker.docker("exec", "runs", "/bin/cat", "/v/file") == "data"
    assert (
        docker.docker("run", "--rm", "--network", "none", "tiny:2", "/bin/sh", "-c", "cat /opaque/*; cat /etc/gone || true")
        == "new\nnew"
    )

    docker.docker("restart", "runs")  # docker keeps absolute paths of volumes, and the old root is gone
    docker.docker("exec", "runs", "/bin/sh", "-c", "echo late >/v/late")
    undone = docker.answer("docker", "undo")

    assert (undone["moved"], undone["left"], docker.root()) == (None, [], str(docker.home))
    assert docker.ids() == lasting
    assert docker.config.read_text(encoding="utf-8") == config
    assert not docker.away.exists()
    assert docker.docker("exec", "runs", "/bin/cat", "/v/late") == "late"
    docker.docker("exec", "runs", "/bin/rm", "/v/late")
    assert _differences(before, snapshot(docker.home), passing) == []


def _differences(before: dict[str, Any], after: dict[str, Any], passing: str) -> list[tuple[str, Any, Any]]:
    """Return what is not as it was, but for the layers of a container that was run with --rm, and the folders that listed them."""
    mounted = "image/overlay2/layerdb/mounts"
    layers = {path.split("/")[1] for path in before if path.startswith("overlay2/") and path.split("/")[1] != "l"}
    layers -= {path.split("/")[1] for path in after if path.startswith("overlay2/")}
    listing = {"overlay2/l", mounted, "volumes/vol/_data"}
    return [
        (path, entry, after.get(path))
        for path, entry in before.items()
        if after.get(path) != entry
        and path not in listing
        and path.split("/")[1] not in layers
        and not path.startswith(f"{mounted}/{passing}")
        and not (path.startswith("overlay2/l/") and entry[6].split("/")[1] in layers)
    ]


@pytest.mark.parametrize(
    ("sabotage", "ends_at"),
    [
        (f"from survived.act import replica\nreplica.WholeCopy._metadata = lambda *_: {KILL}", "home"),
        (f"from survived.act import dockerproof\ndockerproof.start = lambda *_: {KILL}", "away"),
    ],
    ids=["copying", "after the edit"],
)
def test_killed(docker: Docker, sabotage: str, ends_at: str) -> None:
    """After kill -9 at any step, recover has docker run from the old root or the new one, with all that it had; twice is once."""
    ids = docker.ids()
    killed = docker.survivectl("docker", "apply", "--to", str(docker.away), sabotage=sabotage)
    assert killed.returncode == -9, killed.stderr
    refused = docker.survivectl("docker", "apply", "--to", str(docker.away))
    assert (refused.returncode, "survivectl docker recover" in refused.stderr) == (5, True)

    said = docker.survivectl("recover")

    assert said.returncode == 0, said.stderr
    assert docker.root() == str(docker.home if ends_at == "home" else docker.away)
    assert {key: docker.ids()[key] for key in ("images", "volumes")} == {key: ids[key] for key in ("images", "volumes")}
    assert docker.ids()["running"] == ["runs"]
    assert docker.away.exists() == (ends_at == "away")
    assert docker.home.exists() == (ends_at == "home")
    assert "Nothing was left" in docker.survivectl("docker", "recover").stdout
    if ends_at == "away":
        docker.answer("docker", "undo")


def test_a_container_that_does_not_start_there(docker: Docker) -> None:
    """A container that does not start on the new root puts everything back; the copy is kept until clean, for docker ran there."""
    outside = docker.folder / "outside"
    outside.mkdir()
    docker.docker("run", "-d", "--network", "none", "--stop-signal", "KILL", "--name", "bound",
                  "--mount", f"type=bind,source={outside},target=/o", "tiny:1", "/bin/sleep", "1000")  # fmt: skip
    outside.rmdir()
    config = docker.config.read_bytes()
    try:
        said = docker.survivectl("docker", "apply", "--to", str(docker.away), "--json")

        error = json.loads(said.stdout)["error"]
        assert said.returncode == 1
        assert "bind source path does not exist" in error["message"]
        assert "Docker runs from there as before" in error["message"]
        assert (docker.root(), docker.config.read_bytes()) == (str(docker.home), config)
        assert "runs" in docker.ids()["running"]
        assert docker.answer("docker", "clean")["removed"] == [{"path": str(docker.away)}]
        assert not docker.away.exists()
    finally:
        docker.docker("rm", "-f", "bound")


def test_docker_does_not_start_on_the_new_root(docker: Docker) -> None:
    """A docker that ends at once on the new root is started on the old one, with its old settings."""
    config = docker.config.read_bytes()
    damage = """
from survived.act import replica
whole = replica.replicate
def replicate(source, copy, tick):
    found = whole(source, copy, tick)
    os.unlink(copy + "/network/files/local-kv.db"); os.mkdir(copy + "/network/files/local-kv.db")
    return found
replica.replicate = replicate
"""
    said = docker.survivectl("docker", "apply", "--to", str(docker.away), sabotage=damage)

    assert (said.returncode, "Cannot start docker" in said.stderr, "as before" in said.stderr) == (1, True, True), said.stderr
    assert (docker.root(), docker.config.read_bytes(), docker.ids()["running"]) == (str(docker.home), config, ["runs"])
    docker.answer("docker", "clean")


def test_the_data_disk_fills(docker: Docker) -> None:
    """A data disk that fills in the middle ends the move: nothing is left there, and docker runs as before."""
    fill = f"""
from pathlib import Path
from tests.rig.disks import Disk
from survived.act import replica
whole = replica.replicate
def replicate(*words):
    Disk(Path({str(docker.data.path)!r}), Path()).fill_bytes()
    return whole(*words)
replica.replicate = replicate
"""
    said = docker.survivectl("docker", "apply", "--to", str(docker.away), sabotage=fill)

    assert (said.returncode, "no space left on device" in said.stderr) == (1, True), said.stderr
    assert "Docker runs from there as before" in said.stderr
    assert (docker.root(), docker.away.exists(), docker.ids()["running"]) == (str(docker.home), False, ["runs"])


def test_the_data_disk_is_taken_away(docker: Docker) -> None:
    """A data disk that is unmounted in the middle ends the move: docker runs as before, the empty mount point stays empty."""
    taken = f"""
import subprocess
from survived.act import replica
replica.WholeCopy.run_pass, run_pass = (
    lambda self, *words: (subprocess.run(["umount", "-l", {str(docker.data.path)!r}], check=False), run_pass(self, *words))[1],
    replica.WholeCopy.run_pass,
)
"""
    said = docker.survivectl("docker", "apply", "--to", str(docker.away), sabotage=taken)
    try:
        assert said.returncode == 1, said.stderr
        assert "Docker runs from there as before" in said.stderr
        assert (docker.root(), docker.ids()["running"]) == (str(docker.home), ["runs"])
        assert os.listdir(docker.data.path) == []
    finally:
        os.system(f"mount -o loop,noatime {docker.data.image} {docker.data.path}")
    docker.survivectl("docker", "clean")
    for name in os.listdir(docker.data.path):
        os.system(f"rm -rf {docker.data.path / name}")
