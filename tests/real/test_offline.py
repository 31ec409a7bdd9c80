"""Bundles with the real tools: packed with network or from a local server, installed in a namespace that has none."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pip
import pytest

from tests.rig.disks import Disk, mounted
from tests.rig.hub import REPO, hub
from tests.rig.world import KEPT

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

ROOT = Path(__file__).resolve().parents[2]
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"
MIB = 1 << 20
_NETWORK = ("PIP_CERT", "PIP_DEFAULT_TIMEOUT")


class Alice:
    """A user with a home on `/`, a data disk, and survivectl, here with network and there without."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self.folder, self.disk = folder, disk
        self.home = folder / "home"
        self.home.mkdir()
        config = self.home / ".config/survived/config.toml"
        config.parent.mkdir(parents=True)
        config.write_text(f'[data]\ndisks = ["{disk.path}/alice"]\n')
        self.env = {name: os.environ[name] for name in (*KEPT, *_NETWORK) if name in os.environ}
        self.env |= {"HOME": str(self.home), "PYTHONPATH": str(ROOT)}

    def run(self, *words: str | Path, online: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a program; offline is a network namespace with nothing in it, not even an address of its own."""
        alone = [] if online else ["unshare", "-n", "--"]
        return subprocess.run(
            [*alone, *map(str, words)], env={**self.env, **env}, cwd=self.folder, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    def ctl(self, *words: str | Path, online: bool = True, rc: int = 0, **env: str) -> dict[str, Any]:
        """Run `survivectl offline … --json`; return the answer."""
        done = self.run(sys.executable, "-m", "survived.ctl.quick", "offline", *words, "--json", online=online, **env)
        assert done.returncode == rc, done.stdout + done.stderr
        return dict(json.loads(done.stdout))

    def pack(self, *words: str | Path, **env: str) -> tuple[Path, dict[str, Any]]:
        """Pack a bundle of a name of its own, on the data disk; return it with what was said."""
        path = self.disk.path / f"{len(list(self.disk.path.glob('*.zst')))}.tar.zst"
        return path, self.ctl("pack", *words, "-o", path, **env)

    def install(self, bundle: Path, *words: str | Path, rc: int = 0, **env: str) -> dict[str, Any]:
        """Install without network."""
        return self.ctl("install", bundle, *words, online=False, rc=rc, **env)


@pytest.fixture
def alice(needs_root_mounts: None, tmp_path: Path) -> Iterator[Alice]:
    """Yield Alice with a data disk of 400 MB."""
    with mounted(tmp_path, "data", "400M") as disk:
        yield Alice(tmp_path, disk)


def needs(alice: Alice, *words: str) -> None:
    """Skip, with the reason, where a tool or its registry is not to be had."""
    if shutil.which(words[0]) is None or alice.run(*words).returncode != 0:
        pytest.skip(f"needs {' '.join(words)}")


def environment(alice: Alice, name: str) -> Path:
    """Make an empty virtual environment that has our own pip, which is quicker than to install one; return its Python."""
    venv.create(alice.folder / name, symlinks=True)
    place = alice.folder / name / f"lib/python{OWN}/site-packages"
    for found in Path(pip.__file__).parents[1].glob("pip*"):
        (place / found.name).symlink_to(found)
    return alice.folder / name / "bin/python"


def versions(alice: Alice, python: Path, *names: str) -> list[str]:
    """Return the versions of packages that are installed and can be imported."""
    code = (
        "import importlib, sys\nfrom importlib.metadata import version\n"
        "for name in sys.argv[1:]: importlib.import_module(name); print(version(name))"
    )
    done = alice.run(python, "-c", code, *names, online=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


# ---- wheels ---------------------------------------------------------------------------------------------------------


def test_wheels(alice: Alice, tools: Path) -> None:
    """Alice's way: requirements.txt here, install there, by pip and by uv."""
    (alice.folder / "requirements.txt").write_text('markupsafe==3.0.2\nsix==1.17.0\npackaging==24.2 ; python_version < "3"\n')
    bundle, said = alice.pack("requirements.txt", "--python", OWN, "--platform", "manylinux_2_28_x86_64")
    (item,) = said["items"]
    assert (item["kind"], item["python"], item["machine"], item["glibc"]) == ("wheels", OWN, "x86_64", "2.17")
    by_pip, by_uv = environment(alice, "by-pip"), environment(alice, "by-uv")
    done = alice.install(bundle, VIRTUAL_ENV=str(by_pip.parent.parent))
    assert versions(alice, by_pip, "markupsafe", "six") == ["3.0.2", "1.17.0"]
    assert done["path"].startswith(f"{alice.disk.path}/alice/survived/offline/")
    assert "Successfully installed" in Path(done["path"], "logs/wheels.log").read_text()
    assert done["items"][0]["tool"] == "pip"
    path = f"{tools}:{alice.env['PATH']}"
    assert alice.install(bundle, "--python", by_uv.parent.parent, "--with", "uv", PATH=path)["items"][0]["tool"] == "uv"
    assert versions(alice, by_uv, "markupsafe", "six") == ["3.0.2", "1.17.0"]


def test_wheels_for_another_python_or_machine(alice: Alice, tools: Path) -> None:
    """They are resolved by their own markers, and refused here with the reason before anything is unpacked."""
    (alice.folder / "requirements.txt").write_text('markupsafe==3.0.2\nsix==1.17.0 ; python_version != "3.10"\n')
    path, there = f"{tools}:{alice.env['PATH']}", environment(alice, "there")
    for platform, why in (
        ("manylinux_2_28_aarch64", "it is for aarch64, and this machine is"),
        ("manylinux_2_28_x86_64", f"it is for Python 3.10, and the Python here is {OWN}"),
    ):
        bundle, said = alice.pack("requirements.txt", "--python", "3.10", "--platform", platform, PATH=path)
        assert (said["items"][0]["python"], said["files"]) == ("3.10", 2)
        refused = alice.install(bundle, "--python", there, rc=4)["error"]
        assert refused["reason"] == "other_platform"
        assert why in refused["message"]
        assert (
            not os.path.exists(alice.disk.path / "alice/survived/offline")
            or os.listdir(alice.disk.path / "alice/survived/offline") == []
        )


def test_wheels_of_a_project_and_by_inventory(alice: Alice, tools: Path) -> None:
    """pyproject.toml and uv.lock, and of both only what the target lacks; a hash that does not fit stops pip."""
    project = (
        '[project]\nname = "p"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["markupsafe==3.0.2", "six==1.17.0"]\n'
    )
    (alice.folder / "pyproject.toml").write_text(project)
    path = f"{tools}:{alice.env['PATH']}"
    assert alice.run("uv", "lock", "-q", "--python", sys.executable, PATH=path).returncode == 0
    there = environment(alice, "there")
    assert alice.run(there, "-m", "pip", "install", "-q", "six==1.17.0").returncode == 0
    alice.ctl("inventory", "--python", there, "-o", "there.json", online=False)
    for source in ("pyproject.toml", "uv.lock"):
        bundle, said = alice.pack(source, "--inventory", "there.json", PATH=path)
        assert said["items"][0]["omitted"] == ["six 1.17.0"]
        assert said["files"] == 2  # the list, and markupsafe
    alice.install(bundle, "--python", there)
    assert versions(alice, there, "markupsafe", "six") == ["3.0.2", "1.17.0"]


def test_what_has_no_wheel_is_built_if_asked(alice: Alice) -> None:
    """Without --build the sentence is pip's own and what to do; with it, the wheel is built here and works there."""
    (alice.folder / "requirements.txt").write_text("docopt==0.6.2\n")
    said = alice.ctl("pack", "requirements.txt", "-o", "x.tar.zst", rc=1)["error"]
    assert "Cannot collect the wheels of requirements.txt: python" in said["message"]
    assert "docopt" in said["message"]
    assert "wheels.log" in said["hint"]
    alice.ctl("pack", "requirements.txt", "--build", "-o", "x.tar.zst")
    there = environment(alice, "there")
    alice.install(alice.folder / "x.tar.zst", "--python", there)
    assert versions(alice, there, "docopt") == ["0.6.2"]


# ---- npm, debs, images ----------------------------------------------------------------------------------------------


def test_npm(alice: Alice) -> None:
    """`npm ci --offline` takes all of a lock file from the bundle; another lock file is refused."""
    needs(alice, "npm", "view", "is-odd", "version")
    web, there = alice.folder / "web", alice.folder / "there"
    web.mkdir()
    (web / "package.json").write_text('{"name": "web", "version": "1.0.0", "private": true, "dependencies": {"is-odd": "3.0.1"}}')
    assert alice.run("npm", "install", "--package-lock-only", "--prefix", web).returncode == 0
    (web / ".npmrc").write_text("//registry.example/:_authToken=secret-of-alice\n")
    bundle, said = alice.pack("--npm", web)
    assert said["items"][0]["kind"] == "npm"
    assert alice.install(bundle, rc=2)["error"]["hint"] == "Say where it is: --project DIR."
    there.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(web / name, there)
    done = alice.install(bundle, "--project", there)
    assert sorted(path.name for path in (there / "node_modules").iterdir() if path.is_dir()) == ["is-number", "is-odd"]
    assert "npm ci --offline" in Path(done["path"], "logs/npm.log").read_text()
    assert (
        alice.run("node", "-e", "process.exit(require('is-odd')(3) ? 0 : 1)", NODE_PATH=str(there / "node_modules")).returncode == 0
    )
    grep = alice.run("grep", "-r", "secret-of-alice", done["path"])
    assert grep.returncode == 1
    (there / "package-lock.json").write_text("{}")
    assert "another than the one that was packed" in alice.install(bundle, "--project", there, rc=1)["error"]["message"]


def test_debs(alice: Alice) -> None:
    """apt chooses for the target's own dpkg status, apt-get installs the files without an index; dpkg has them then."""
    if shutil.which("apt-get") is None:
        pytest.skip("needs apt-get")
    if "Candidate" not in alice.run("apt-cache", "policy", "fortune-mod").stdout:
        needs(alice, "apt-get", "update", "-qq")
    packages = ("hello", "fortune-mod")  # the second needs librecode0
    alice.run("apt-get", "-o", "DPkg::Lock::Timeout=60", "purge", "-y", "-qq", *packages, "librecode0")
    alice.ctl("inventory", "-o", "there.json", online=False)
    try:
        bundle, said = alice.pack("--deb", "hello", "--deb", "fortune-mod", "--inventory", "there.json")
        assert said["files"] == 3
        done = alice.install(bundle, DEBIAN_FRONTEND="noninteractive")
        assert alice.run("hello", online=False).stdout == "Hello, world!\n"
        assert Path("/usr/games/fortune").exists()
        assert "Setting up hello" in Path(done["path"], "logs/debs.log").read_text()
        assert "there already" in alice.install(bundle)["items"][0]["done"]
        alice.ctl("inventory", "-o", "there.json", online=False)
        _, said = alice.pack("--deb", "hello", "--inventory", "there.json")
        assert (said["files"], said["items"][0]["omitted"]) == (0, ["hello"])
    finally:
        alice.run("apt-get", "-o", "DPkg::Lock::Timeout=60", "purge", "-y", "-qq", *packages, "librecode0")
    everything, said = alice.pack("--deb", "hello")  # nothing is known of the target
    assert said["files"] > 3
    about = json.loads((alice.folder / "there.json").read_text())
    (alice.folder / "there.json").write_text(json.dumps({**about, "system": "ubuntu 24.04"}))
    refused = alice.ctl("pack", "--deb", "hello", "--inventory", "there.json", "-o", "no.tar.zst", rc=4)["error"]
    assert "the target is ubuntu 24.04" in refused["message"]
    assert everything.exists()


@contextmanager
def docker_daemon(folder: Path, name: str) -> Iterator[str]:
    """Run a Docker daemon of our own without network; the value is for DOCKER_HOST."""
    home = folder / name
    home.mkdir()
    words = [
        "unshare", "-n", "--", "dockerd", "--data-root", home / "root", "--exec-root", home / "exec", "--pidfile", home / "pid",
        "--host", f"unix://{home}/sock", "--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs",
    ]  # fmt: skip
    with (folder / f"{name}.log").open("w") as log:
        daemon = subprocess.Popen([str(word) for word in words], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while subprocess.run(["docker", "-H", f"unix://{home}/sock", "info"], capture_output=True, check=False).returncode != 0:
            assert daemon.poll() is None, (folder / f"{name}.log").read_text()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield f"unix://{home}/sock"
    finally:
        daemon.terminate()
        daemon.wait(60)


def test_images(alice: Alice) -> None:
    """`docker save` from one daemon, `docker load` into another; the second bundle for it has no image left to carry."""
    if shutil.which("dockerd") is None or shutil.which("docker") is None:
        pytest.skip("needs docker.io")
    with docker_daemon(alice.disk.path, "here") as here, docker_daemon(alice.disk.path, "there") as there:
        (alice.folder / "hello").write_bytes(random.Random(1).randbytes(MIB))
        tar = subprocess.run(["tar", "-c", "hello"], cwd=alice.folder, capture_output=True, check=True).stdout
        subprocess.run(["docker", "-H", here, "import", "-", "team/tiny:1"], input=tar, check=True, capture_output=True)
        bundle, said = alice.pack("--image", "team/tiny:1", DOCKER_HOST=here)
        assert said["bytes"] > MIB
        alice.install(bundle, DOCKER_HOST=there)
        ids = [
            alice.run("docker", "image", "inspect", "-f", "{{.Id}}", "team/tiny:1", DOCKER_HOST=host).stdout
            for host in (here, there)
        ]
        assert ids[0] == ids[1] != ""
        alice.ctl("inventory", "-o", "there.json", DOCKER_HOST=there)
        bundle, said = alice.pack("--image", "team/tiny:1", "--inventory", "there.json", DOCKER_HOST=here)
        assert (said["bytes"], said["items"][0]["omitted"]) == (0, ["team/tiny:1"])
        alice.install(bundle, DOCKER_HOST=there)
    refused = alice.install(bundle, rc=1, DOCKER_HOST="unix:///nowhere")["error"]
    assert "Cannot ask the Docker daemon" in refused["message"]


# ---- Hugging Face ---------------------------------------------------------------------------------------------------


def test_hub(alice: Alice, tools: Path) -> None:
    """huggingface_hub's own check of completeness passes offline; what the target has is not packed again."""
    files = {"config.json": b'{"model_type": "tiny"}', "sub/weights.bin": random.Random(3).randbytes(2 * MIB)}
    path = f"{tools}:{alice.env['PATH']}"
    code = (
        "import huggingface_hub as h, os, sys\n"
        f"folder = h.snapshot_download({REPO!r})\n"
        "print(sorted(os.path.relpath(os.path.join(p, f), folder) for p, _, fs in os.walk(folder) for f in fs))\n"
        f"assert os.path.getsize(h.try_to_load_from_cache({REPO!r}, 'sub/weights.bin')) == {2 * MIB}\n"
    )
    with hub(files) as endpoint:
        bundle, said = alice.pack("--hub", REPO, PATH=path, HF_ENDPOINT=endpoint)
        assert said["items"][0]["bytes"] > 2 * MIB
        done = alice.install(bundle)
        check = alice.run(tools / "python", "-c", code, online=False, HF_HUB_OFFLINE="1")
        assert check.stdout == f"{sorted(files)}\n", check.stderr
        cache = alice.home / ".cache/huggingface/hub"
        assert done["items"][0]["cache"] == str(cache)
        assert alice.install(bundle)["items"][0]["new_bytes"] == 0  # again, and all is there

        alice.ctl("inventory", "-o", "there.json", online=False)
        bundle, said = alice.pack("--hub", REPO, "--inventory", "there.json", PATH=path, HF_ENDPOINT=endpoint)
        assert len(said["items"][0]["omitted"]) == 2
        assert said["bytes"] < 1000
    (cache / "models--org--model/refs/main").unlink()
    alice.install(bundle)
    assert alice.run(tools / "python", "-c", code, online=False, HF_HUB_OFFLINE="1").returncode == 0
    shutil.rmtree(cache)
    lacking = alice.install(bundle, rc=4)["error"]
    assert "is not in" in lacking["message"]
    assert lacking["message"].endswith("Nothing was installed.")
    assert not cache.exists()


# ---- all of it ------------------------------------------------------------------------------------------------------


def test_one_bundle_of_many_things_in_parts(alice: Alice) -> None:
    """Wheels and files in parts of 1 MiB; a part that is damaged on the way changes nothing, and --only takes one kind."""
    (alice.folder / "requirements.txt").write_text("packaging==24.2\n")
    stuff = alice.folder / "stuff"
    stuff.mkdir()
    (stuff / "big").write_bytes(random.Random(5).randbytes(3 * MIB))
    bundle, said = alice.pack("requirements.txt", stuff, "--split", "1MiB")
    assert len(said["parts"]) == 4
    assert (
        subprocess.run(["sha256sum", "-c", f"{bundle}.sha256"], cwd=bundle.parent, capture_output=True, check=False).returncode == 0
    )
    part = Path(f"{bundle}.002")
    whole = part.read_bytes()
    part.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    there = environment(alice, "there")
    refused = alice.install(bundle, "--python", there, rc=4)["error"]
    assert refused["reason"] == "damaged"
    assert f"'{part.name}' is damaged" in refused["message"]
    assert not (alice.disk.path / "alice").exists()
    part.write_bytes(whole)
    assert alice.ctl("verify", f"{bundle}.001", "--expect", said["fingerprint"])["ok"] is True
    assert alice.ctl("verify", bundle, "--expect", "0" * 64, rc=4)["error"]["reason"] == "damaged"
    done = alice.install(bundle, "--only", "files", "--files-to", alice.disk.path / "mine", "--python", there)
    assert (alice.disk.path / "mine/stuff/big").read_bytes() == (stuff / "big").read_bytes()
    assert [item["kind"] for item in done["items"]] == ["files"]
    alice.install(bundle, "--python", there)
    assert versions(alice, there, "packaging") == ["24.2"]


@pytest.mark.parametrize("delay", [0.3, 1.0])
def test_killed_while_packing(delay: float, alice: Alice) -> None:
    """kill -9 at any time leaves no bundle and no tool that runs on, and the same command goes on to the end."""
    (alice.folder / "requirements.txt").write_text("packaging==24.2\n")
    (alice.folder / "stuff").write_bytes(random.Random(6).randbytes(40 * MIB))
    words = [sys.executable, "-m", "survived.ctl.quick", "offline", "pack", "requirements.txt", "stuff", "-o", "x.tar.zst"]
    process = subprocess.Popen(words, env=alice.env, cwd=alice.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(delay)
    process.kill()
    process.wait()
    alice.ctl("pack", "requirements.txt", "stuff", "-o", "x.tar.zst")
    assert not (alice.folder / "x.tar.zst.work").exists()
    assert alice.ctl("verify", "x.tar.zst")["bytes"] > 40 * MIB


@pytest.fixture
def make_alice(tmp_path: Path) -> Callable[[], Alice]:
    """Return a function that makes an Alice without a data disk."""
    return lambda: Alice(tmp_path, Disk(tmp_path / "nowhere", tmp_path / "none"))


def test_without_a_data_disk_nothing_is_unpacked(make_alice: Callable[[], Alice]) -> None:
    """No disk, and --to a folder on `/`: both are refused, and where to is said."""
    alice = make_alice()
    (alice.folder / "f").write_text("x")
    alice.ctl("pack", "f", "-o", "x.tar.zst")
    refused = alice.install(alice.folder / "x.tar.zst", rc=4)["error"]
    assert (refused["reason"], refused["hint"]) == ("no_store", "Name a folder on a data disk: --to DIR.")
    refused = alice.install(alice.folder / "x.tar.zst", "--to", alice.home, rc=4)["error"]
    assert refused["reason"] == "would_fill"
    assert sorted(os.listdir(alice.home)) == [".config"]
