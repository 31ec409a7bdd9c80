"""Redirected tools, run for real in fresh login shells of an ordinary user: where the bytes land, and what an undo leaves."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.rig.hub import REPO, hub
from tests.rig.index import index, make_wheel
from tests.rig.machine import booted, why_no_machine
from tests.rig.person import Person, person, python_here
from tests.rig.world import MIB
from tests.unit.engine import contents

pytestmark = pytest.mark.real
SHELLS = ("bash", "zsh", "fish")
GENERATOR = "/usr/lib/systemd/user-environment-generators/30-systemd-environment-d-generator"


@pytest.fixture
def alice(needs_root_mounts: None) -> Iterator[Person]:
    """Return an ordinary user with a home on a small disk and a folder on a data disk."""
    with person() as who:
        who.give(who.home / ".bashrc", "# mine\ncase $- in\n    *i*) ;;\n      *) return;;\nesac\n")
        who.give(who.home / ".profile", 'if [ -n "$BASH_VERSION" ]; then . "$HOME/.bashrc"; fi\n')
        yield who


@pytest.fixture(scope="module")
def box() -> Iterator[Path]:
    """Return a folder that everybody may read, with the newest pip, uv and huggingface_hub as Python modules."""
    folder = Path(tempfile.mkdtemp(prefix="svbox", dir="/tmp"))
    try:
        folder.chmod(0o755)
        words = (sys.executable, "-m", "pip", "--no-cache-dir", "install", "-q", "--target", folder)
        done = subprocess.run([*words, "pip", "uv", "huggingface_hub"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"pip, uv and huggingface_hub cannot be installed: {done.stderr.strip()[-300:]}")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def bytes_below(path: Path) -> int:
    """Return the sum of the files below a folder."""
    return sum(item.lstat().st_size for item in path.rglob("*") if item.is_file())


def test_pip(alice: Person, box: Path, tmp_path: Path) -> None:
    """pip downloads into the data disk, undo restores pip.conf byte for byte, and a missing disk is never written under."""
    conf = alice.give(alice.home / ".config/pip/pip.conf", b"# mine\r\n[global]\r\ntimeout = 30\r\n# caf\xc3\xa9s\r\n")
    old = conf.read_bytes()
    make_wheel(tmp_path / "index", "alpha", 3 * MIB)
    with index(tmp_path / "index") as running:
        pip = f"PYTHONPATH={box} {python_here()} -m pip --disable-pip-version-check"
        download = f"rm -rf w; {pip} download --no-deps -d w {' '.join(running.options())} alpha"
        alice.must("redirect", "apply", "pip")
        assert [line for line in conf.read_bytes().splitlines(keepends=True) if b"cache-dir" not in line] == old.splitlines(
            keepends=True
        )

        alice.login(download)
        assert bytes_below(alice.store / "redirected/pip") > 3 * MIB
        assert not (alice.home / ".cache/pip").exists()
        assert "Using cached" in alice.login(download)
        assert str(alice.store / "redirected/pip") in alice.login(f"{pip} cache dir")

        alice.lose_disk()
        assert "The cache has been disabled" in alice.login(download)
        assert alice.written_below_mount_point() == []
        assert not (alice.home / ".cache/pip").exists()
        alice.find_disk()
        assert "Using cached" in alice.login(download)

        alice.must("redirect", "undo", "pip")
        assert conf.read_bytes() == old
        assert not (alice.home / ".local/share/survived").exists()
        alice.login(download)
        assert bytes_below(alice.home / ".cache/pip") > 3 * MIB


@pytest.fixture(scope="module")
def node() -> Iterator[Path]:
    """Return a node_modules that everybody may read, with pnpm, yarn 1 and a later yarn."""
    folder = Path(tempfile.mkdtemp(prefix="svnode", dir="/tmp"))
    npm = shutil.which("npm")
    try:
        folder.chmod(0o755)
        words = ("install", "--no-audit", "--no-fund", "--no-update-notifier", "--cache", folder / "cache", "--prefix", folder)
        tools = ("pnpm@10", "yarn@1", "@yarnpkg/cli-dist")
        if npm is None or subprocess.run([npm, *words, *tools], capture_output=True, check=False).returncode != 0:
            pytest.skip("needs npm and its registry")
        yield folder / "node_modules"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_uv(alice: Person, box: Path) -> None:
    """uv installs through the data disk without a warning, keeps the user's link-mode, and fails clearly without the disk."""
    conf = alice.give(alice.home / ".config/uv/uv.toml", b"# mine\nlink-mode = 'symlink'\n\n[pip]\n# strict\nno-deps = true\n")
    old = conf.read_bytes()
    uv = box / "bin/uv"
    alice.must("redirect", "apply", "uv")
    assert conf.read_bytes().count(b"link-mode") == 1
    conf.write_bytes(conf.read_bytes().replace(b"'symlink'", b"'copy'"))

    said = alice.login(f"{uv} venv -q --python {python_here()} v && {uv} pip install --python v/bin/python six")
    assert "warning" not in said
    assert (alice.store / "redirected/uv/CACHEDIR.TAG").is_file()
    assert not (alice.home / ".cache/uv").exists()

    alice.lose_disk()
    done = alice.run("bash", "-lc", f"{uv} pip install --reinstall --python v/bin/python six")
    assert (done.returncode, "Failed to initialize cache" in done.stderr) == (2, True)
    assert alice.written_below_mount_point() == []
    alice.find_disk()

    alice.must("redirect", "undo", "uv")
    assert conf.read_bytes() == old.replace(b"'symlink'", b"'copy'")


NODE = {
    "npm": ("npm install --no-audit --no-fund --no-update-notifier is-odd", "npm", "ENOTDIR"),
    "pnpm": ("node {node}/pnpm/bin/pnpm.cjs add is-odd", "pnpm", "ENOTDIR"),
    "yarn": ("node {node}/yarn/bin/yarn.js add is-odd", "yarn", "EEXIST"),
    "berry": ("touch yarn.lock; node {node}/@yarnpkg/cli-dist/bin/yarn.js add is-odd", "yarn-berry", "ENOTDIR"),
}


def test_node_tools(alice: Person, node: Path) -> None:
    """npm, pnpm and both yarns keep their bytes on the data disk, fail without it, and their settings come back byte for byte."""
    rc = alice.give(alice.home / ".npmrc", b"; my token\n//registry.example/:_authToken=abc\n# end\n[section]\ncache=/not/this")
    rc.chmod(0o600)
    before = contents(alice.home / ".npmrc") if rc.is_dir() else rc.read_bytes()
    alice.must("redirect", "apply", "npm", "pnpm", "yarn")
    assert rc.stat().st_mode & 0o777 == 0o600
    for name, (command, folder, _) in NODE.items():
        alice.give(alice.home / name / "package.json", '{"name": "p", "version": "1.0.0", "private": true}')
        alice.login(f"cd {name} && {command.format(node=node)}")
        assert bytes_below(alice.store / "redirected" / folder) > 4000, name
    at_home = {path.name for path in alice.home.iterdir()}
    assert at_home.isdisjoint({".npm", ".yarn", ".pnpm-store"})
    assert not (alice.home / ".local/share/pnpm").exists()
    assert not (alice.home / ".cache/yarn").exists()

    alice.lose_disk()
    for name, (command, _, word) in NODE.items():
        shutil.rmtree(alice.home / name / "node_modules", ignore_errors=True)
        done = alice.run("bash", "-lc", f"cd {name} && {command.replace('is-odd', 'is-even').format(node=node)}")
        assert done.returncode != 0, name
        assert word in done.stdout + done.stderr, name
    assert alice.written_below_mount_point() == []
    alice.find_disk()

    alice.must("redirect", "undo")
    assert rc.read_bytes() == before
    assert not any((alice.home / path).exists() for path in (".yarnrc", ".yarnrc.yml", ".config/pnpm"))


def test_hugging_face(alice: Person, box: Path) -> None:
    """Models land on the data disk from every login shell; the token is found, 0600, also where all of the home goes there."""
    token = alice.give(alice.home / ".cache/huggingface/token", "hf_abc")
    token.chmod(0o600)
    code = f"import huggingface_hub as h; print(h.snapshot_download({REPO!r}), h.get_token())"
    with hub({"config.json": b"{}", "weights.bin": random.Random(1).randbytes(MIB)}) as endpoint:
        download = f"PYTHONPATH={box} HF_ENDPOINT={endpoint} {python_here()} -c '{code.replace(chr(39), chr(34))}'"
        alice.must("redirect", "apply", "hf")
        for shell in SHELLS:
            assert "hf_abc" in alice.login(download, shell=shell)
        assert bytes_below(alice.store / "redirected/huggingface/hub") > MIB
        assert [path.name for path in (alice.home / ".cache/huggingface").iterdir()] == ["token"]
        alice.must("redirect", "undo", "hf")

        alice.must("redirect", "apply", "hf-home")
        carried = alice.store / "redirected/huggingface/token"
        assert (carried.read_text(), carried.stat().st_mode & 0o777) == ("hf_abc", 0o600)
        token.unlink()
        assert "hf_abc" in alice.login(download)
        carried.write_text("hf_later")
        alice.must("redirect", "undo", "hf-home")
        assert (token.read_text(), token.stat().st_mode & 0o777, carried.exists()) == ("hf_later", 0o600, False)


def test_a_variable_reaches_everything(alice: Person) -> None:
    """Login shells, interactive ones, `ssh host command` and systemd's services have TMPDIR; without the disk it is left alone."""
    before = contents(alice.home)
    alice.must("redirect", "apply", "tmpdir")
    place = str(alice.store / "tmp")
    os.rmdir(place)  # the login makes it
    ask = "printenv TMPDIR; mktemp -d; exit 0"

    for shell in SHELLS:
        said = alice.login(ask, shell=shell).split()
        assert said[0] == place
        assert os.path.dirname(said[1]) == place
        over_ssh = alice.run(shell, "-c", ask, SSH_CLIENT="192.0.2.1 5 22", SSH_CONNECTION="192.0.2.1 5 192.0.2.2 22")
        assert over_ssh.stdout.split()[:1] == [place], (shell, over_ssh)
        given = alice.run(shell, "-c", "printenv TMPDIR; exit 0", SHLVL="2", TMPDIR="/var/tmp", SSH_CLIENT="192.0.2.1 5 22")
        assert given.stdout.split() == ["/var/tmp"], shell
    interactive = alice.run("bash", "-i", "-c", ask)
    assert interactive.stdout.split()[:1] == [place]
    assert os.stat(place).st_mode & 0o777 == 0o700
    python = f"{python_here()} -c 'import tempfile; print(tempfile.gettempdir())'"
    assert alice.login(python).strip() == place
    if not os.path.exists(GENERATOR):
        pytest.skip("needs systemd")
    assert f"TMPDIR={place}" in alice.run(GENERATOR).stdout

    alice.lose_disk()
    for shell in SHELLS:
        assert alice.login(f"printenv TMPDIR; {python}", shell=shell).split() == ["/tmp"]
    assert alice.run(python_here(), "-c", "import tempfile; print(tempfile.gettempdir())", TMPDIR=place).stdout.split() == ["/tmp"]
    assert alice.written_below_mount_point() == []
    alice.find_disk()
    shutil.rmtree(place)
    alice.must("redirect", "undo", "tmpdir")
    after = contents(alice.home)
    assert {path: what for path, what in after.items() if b".local" not in path and b"fish" not in path} == {
        path: what for path, what in before.items() if b".local" not in path
    }


def test_old_temporary_files_are_cleaned(alice: Person) -> None:
    """systemd-tmpfiles takes our entry: what is old goes, what is young stays, and nothing is made where the disk is missing."""
    if shutil.which("systemd-tmpfiles") is None:
        pytest.skip("needs systemd-tmpfiles")
    alice.must("redirect", "apply", "tmpdir")
    place = alice.store / "tmp"
    young = alice.give(place / "young", "x")
    clean = (
        shutil.which("systemd-tmpfiles") or "",
        "--user",
        "--clean",
        "--create",
        alice.home / ".config/user-tmpfiles.d/survived.conf",
    )
    assert alice.run(*clean).returncode == 0
    assert young.exists()
    conf = alice.home / ".config/user-tmpfiles.d/survived.conf"
    conf.write_text(conf.read_text().replace("10d", "1s"))
    os.utime(young, (1, 1))
    alice.run("sleep", "2")
    assert alice.run(*clean).returncode == 0
    assert not young.exists()
    assert place.is_dir()
    alice.lose_disk()
    alice.run(*clean)
    assert alice.written_below_mount_point() == []


def test_move_and_redirect_are_one_act(alice: Person) -> None:
    """What lies at home goes along, is used where it is, cannot be taken from under the tool, and comes home with the undo."""
    cache = alice.home / ".cache/pip"
    alice.give(cache / "http-v2/a", random.Random(1).randbytes(MIB))
    before = contents(alice.home)
    result = alice.must("redirect", "apply", "pip", "--move", "--json").json
    assert [item["path"] for item in result["moved"]] == [str(cache)]
    assert cache.is_symlink()
    conf = (alice.home / ".config/pip/pip.conf").read_text()
    place = Path(conf.partition("= ")[2].strip())
    assert (place / "http-v2/a").stat().st_size == MIB
    assert alice.ctl("restore", str(cache)).rc == 4
    entry = next(item for item in alice.must("redirect", "list", "--json").json["tools"] if item["tool"] == "pip")
    assert (entry["state"], entry["holds"]) == ("redirected", True)

    alice.must("redirect", "undo", "pip")
    assert not cache.is_symlink()
    after = contents(alice.home)
    assert {path: what for path, what in after.items() if b".local" not in path} == before


def test_a_running_daemon_does_it(alice: Person) -> None:
    """With the daemon holding the store, apply and undo go through it, with the variables of who asks."""
    daemon = alice.start_daemon()
    try:
        alice.must("redirect", "apply", "npm", "tmpdir", XDG_CONFIG_HOME=str(alice.home / ".config"))
        assert "cache=" in (alice.home / ".npmrc").read_text()
        assert alice.must("redirect", "list", "npm", "--json").json["tools"][0]["state"] == "redirected"
        (alice.home / ".npmrc").write_text("cache=/theirs\n")
        undone = alice.ctl("redirect", "undo", "npm", "tmpdir")
        assert undone.rc == 5
        assert "cache was changed since" in undone.out
        assert (alice.home / ".npmrc").read_text() == "cache=/theirs\n"
        assert ">>> survived" not in (alice.home / ".bashrc").read_text()
    finally:
        daemon.terminate()
        daemon.wait(20)


def test_a_home_without_room(alice: Person) -> None:
    """At 0 bytes free the ballast makes room for the edit; without one it is refused, and the file is as it was."""
    conf = alice.give(alice.home / ".config/pip/pip.conf", b"[global]\n# mine\n")
    alice.must("redirect", "list")
    alice.must("redirect", "apply", "npm")  # lays the ballast
    alice.must("redirect", "undo", "npm")
    alice.small.fill_bytes()

    alice.must("redirect", "apply", "pip")
    assert b"cache-dir" in conf.read_bytes()
    alice.must("redirect", "undo", "pip")
    assert conf.read_bytes() == b"[global]\n# mine\n"

    settings = alice.home / ".config/survived/config.toml"
    alice.small.empty()
    settings.write_text(settings.read_text() + 'ballast = "0 B"\n')
    (alice.home / ".local/state/survived/ballast").unlink(missing_ok=True)
    (alice.home / "sub").mkdir()
    alice.small.fill_bytes()
    refused = alice.ctl("redirect", "apply", "pip")
    assert refused.rc == 1
    assert "no space left on device" in refused.err
    assert conf.read_bytes() == b"[global]\n# mine\n"
    assert os.listdir(conf.parent) == ["pip.conf"]


def test_a_home_that_cannot_be_written(alice: Person) -> None:
    """A read-only home and a file with a mistake are refused with their path; nothing changes."""
    alice.give(alice.home / ".condarc", b"envs_dirs: [/a\n")
    refused = alice.ctl("redirect", "apply", "conda")
    assert (refused.rc, f"Cannot edit '{alice.home}/.condarc'" in refused.err) == (4, True)
    assert (alice.home / ".condarc").read_bytes() == b"envs_dirs: [/a\n"
    alice.small.remount("ro")
    refused = alice.ctl("redirect", "apply", "npm")
    assert refused.rc in (1, 4)
    assert "read-only file system" in refused.err
    alice.small.remount("rw")
    assert not (alice.home / ".npmrc").exists()
    assert alice.ctl("redirect", "apply", "pipp").err.endswith("Did you mean 'pip'?\n")


def test_conda_reads_what_we_write(alice: Person) -> None:
    """Existing environments stay first-class: theirs keep their place in the list, ours come first, comments stay."""
    old = b"# mine\nchannels:\n  - conda-forge  # the only one\nenvs_dirs:\n  - /opt/envs\n"
    conf = alice.give(alice.home / ".condarc", old)
    (alice.home / ".conda/pkgs").mkdir(parents=True)
    alice.must("redirect", "apply", "conda")
    document = yaml.safe_load(conf.read_bytes())
    envs, pkgs = document["envs_dirs"], document["pkgs_dirs"]
    assert (envs[1:], pkgs[1:]) == (["/opt/envs"], [str(alice.home / ".conda/pkgs")])
    assert os.stat(envs[0]).st_dev == os.stat(pkgs[0]).st_dev == os.stat(alice.store).st_dev
    assert [line for line in conf.read_bytes().splitlines() if line in old.splitlines()] == old.splitlines()

    alice.give(Path(os.path.realpath(envs[0])) / "mine/conda-meta/history", "x")
    alice.must("redirect", "undo", "conda")
    assert conf.read_bytes() == old
    assert os.path.isfile(f"{envs[0]}/mine/conda-meta/history"), "an environment's own path must stay"


def test_a_disk_that_is_gone_for_good(alice: Person) -> None:
    """With the data disk away an undo works by the copy at home; when the disk is back, its journal is told."""
    conf = alice.give(alice.home / ".npmrc", b"a=1")
    before = contents(alice.home)
    alice.must("redirect", "apply", "npm", "tmpdir")
    alice.lose_disk()
    states = {item["tool"]: item["state"] for item in alice.must("redirect", "list", "--json").json["tools"]}
    assert (states["npm"], states["tmpdir"], states["pip"]) == ("missing", "missing", "absent")

    alice.must("redirect", "undo")

    assert conf.read_bytes() == b"a=1"
    assert {path: what for path, what in contents(alice.home).items() if b".local" not in path} == {
        path: what for path, what in before.items() if b".local" not in path
    }
    assert not (alice.home / ".local/share/survived").exists()
    assert alice.ctl("redirect", "undo", "npm").rc == 4
    alice.find_disk()
    assert alice.ctl("redirect", "undo", "npm").rc == 4
    alice.must("redirect", "apply", "npm")
    alice.must("redirect", "undo", "npm")
    assert conf.read_bytes() == b"a=1"


def test_a_real_systemd(tmp_path: Path) -> None:
    """alice's user manager gives the variables to its services and runs the timer that cleans; after the undo it does not."""
    if reason := why_no_machine():
        pytest.skip(reason)
    with booted(tmp_path) as machine:
        machine.out("survivectl redirect apply tmpdir torch")
        machine.out("systemctl --user daemon-reload")
        ask = "systemd-run --user --wait -q --pipe printenv TMPDIR TORCH_HOME; true"
        tmpdir, torch = machine.out(ask).split()
        assert tmpdir == "/data1/alice/survived/tmp"
        assert machine.out(f"realpath {torch}").strip() == "/data1/alice/survived/redirected/torch"
        machine.out("systemctl --user start default.target")
        assert machine.out("systemctl --user is-active systemd-tmpfiles-clean.timer").strip() == "active"
        assert machine.out("bash -lc 'printenv TMPDIR'").strip() == tmpdir
        machine.out("survivectl redirect undo")
        machine.out("systemctl --user daemon-reload")
        assert machine.out(ask).split() == []
