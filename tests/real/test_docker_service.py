"""Docker as a service of a real systemd: root moves it by one command, alice gets steps that work, and a missing disk stops it."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig.dockers import rootfs, why_no_docker
from tests.rig.machine import Machine, booted, why_no_machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

CONFIG = '{"data-root": "/home/docker", "iptables": false, "ip6tables": false, "bridge": "none", "log-level": "warn"}'
GUARD = "/etc/systemd/system/docker.service.d/survived.conf"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Boot a container whose docker has an image, a volume and a container that runs; the tests run in order."""
    if reason := why_no_machine() or why_no_docker():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("docker")
    with booted(folder, small="400M") as machine:
        _fill(machine, folder)
        yield machine


def _fill(machine: Machine, folder: Path) -> None:
    (folder / "image.tar").write_bytes(rootfs())
    machine.boot("copy-in", machine.name, str(folder / "image.tar"), "/root/image.tar")
    machine.root(f"mkdir -p /etc/docker && printf %s {shlex.quote(CONFIG)} >/etc/docker/daemon.json")
    machine.root("systemctl start containerd docker.socket docker")
    machine.root("docker import /root/image.tar tiny:1")
    run = "docker run -d --network none --stop-signal KILL --name runs -v vol:/v tiny:1"
    machine.root(f"{run} /bin/sh -c 'echo data >/v/file; exec sleep 99999'")


def _root(machine: Machine) -> str:
    return machine.root("docker info --format '{{.DockerRootDir}}'")


def _whole(machine: Machine) -> bool:
    """Tell whether the image, the volume and the running container are there."""
    names = machine.root("docker image ls --format '{{.Repository}}'; docker volume ls -q; docker ps --format '{{.Names}}'").split()
    return {"tiny", "vol", "runs"} <= set(names) and machine.root("docker exec runs /bin/cat /v/file") == "data"


def _survivectl(machine: Machine, words: str, code: int = 0) -> dict[str, Any]:
    done = machine.run(f"survivectl docker {words} --json", user="root", check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def test_alice_gets_steps_that_work(machine: Machine) -> None:
    """Who is no root gets exact steps; done one after the other as root they move docker's data."""
    refused = machine.run("survivectl docker apply --to /data1/docker --json", check=False)
    document = json.loads(refused.stdout)
    assert (refused.returncode, document["error"]["reason"]) == (4, "not_ours")
    assert "only root" in refused.stderr
    shown = machine.out("survivectl docker plan --to /data1/docker")
    for step in document["steps"]:
        assert step["command"].splitlines()[0] in shown
        if step["when"] != "if wrong" and "--validate" not in step["command"]:
            machine.root("sudo() { \"$@\"; }; set -e\n" + step["command"])  # fmt: skip
    assert _root(machine) == "/data1/docker"
    machine.root("docker start runs")
    assert _whole(machine)
    assert machine.root("test ! -e /home/docker && echo gone") == "gone"


def test_root_moves_it_and_a_missing_disk_stops_it(machine: Machine) -> None:
    """One command moves it, socket and all, to another disk; without that disk docker does not start, and writes nothing there."""
    moved = _survivectl(machine, "apply --to /data2/docker")
    assert (moved["inventory"]["images"], moved["left"]) == (1, [])
    assert (_root(machine), _whole(machine)) == ("/data2/docker", True)
    assert machine.root("systemctl is-active docker.socket docker.service").split() == ["active", "active"]
    assert "AssertPathIsDirectory=/data2/docker" in machine.root(f"cat {GUARD}")
    device = machine.root("findmnt -n -o SOURCE /data2")
    machine.root("systemctl stop docker.socket docker; umount -R /data2/docker 2>/dev/null; umount /data2")
    failed = machine.boot("exec", machine.name, "systemctl start docker", check=False)
    assert failed.returncode != 0
    assert machine.root("ls -A /data2") == ""
    machine.root(f"mount {device} /data2; systemctl reset-failed docker; systemctl start docker.socket docker; docker start runs")
    assert (_root(machine), _whole(machine)) == ("/data2/docker", True)

    undone = _survivectl(machine, "undo")

    assert (undone["moved"], _root(machine), _whole(machine)) == (None, "/data1/docker", True)
    assert machine.root(f"test ! -e {GUARD} && test ! -e /data2/docker && echo gone") == "gone"


def test_killed_under_systemd(machine: Machine) -> None:
    """After kill -9 in the copy, `survivectl recover` has systemd start docker where it was."""
    kill = "import os, sys; from survived.act import replica; replica.replicate = lambda *_: os.kill(os.getpid(), 9); "
    code = kill + "from survived.ctl.main import main; main(sys.argv[1:])"
    killed = machine.run(
        f"{machine.program}/bin/python -c {shlex.quote(code)} docker apply --to /data2/docker", user="root", check=False
    )
    assert killed.returncode != 0
    stopped = machine.boot("exec", machine.name, "systemctl is-active docker.socket docker.service", check=False).stdout.split()
    assert stopped == ["inactive", "inactive"]
    assert "as before" in machine.run("survivectl recover", user="root").stdout
    assert (_root(machine), _whole(machine)) == ("/data1/docker", True)
    assert _survivectl(machine, "status")["unfinished"] is None


def test_containerd_too(machine: Machine) -> None:
    """containerd's own root goes with docker's, beside it, with the images of its other users; undo brings both back."""
    machine.root("docker save tiny:1 -o /root/saved.tar && ctr -n other images import /root/saved.tar")
    before = machine.root("ctr -n other images ls -q")
    assert "tiny" in before
    settings = "cat /etc/containerd/config.toml 2>/dev/null || true"
    config = machine.root(settings)
    moved = _survivectl(machine, "apply --to /data2/docker --containerd")
    assert [part["new"] for part in moved["moved"]["parts"]] == ["/data2/docker-containerd", "/data2/docker"]
    assert machine.root("ctr -n other images ls -q") == before
    assert 'root = "/data2/docker-containerd"' in machine.root("cat /etc/containerd/config.toml")
    assert machine.root("test ! -e /var/lib/containerd && echo gone") == "gone"
    assert _whole(machine)
    assert machine.root("test -d /data2/docker-containerd/io.containerd.metadata.v1.bolt && echo there") == "there"
    undone = _survivectl(machine, "undo --force")
    assert (undone["moved"], _root(machine), _whole(machine)) == (None, "/data1/docker", True)
    assert machine.root("ctr -n other images ls -q") == before
    assert machine.root(settings) == config
