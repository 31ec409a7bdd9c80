"""Mirrors with the real clients: pip, uv, npm, apt, huggingface_hub, and a daemon that leaves a mirror that breaks."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.rig.disks import mounted
from tests.rig.dockers import Docker, rootfs, running_docker, why_no_docker
from tests.rig.mirror import SIX, Site, hub_pages, mirror, registry_site, upstream, wheel_pages
from tests.rig.world import KEPT, ROOT, World, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.real
MIB = 1 << 20
REPO = "hf-internal-testing/tiny-random-gpt2"


@pytest.fixture
def world(tmp_path: Path, needs_root_mounts: None) -> Iterator[World]:
    """Yield a small disk with a home, and a data disk for the journal of edits."""
    with ExitStack() as stack:
        small, data = (stack.enter_context(mounted(tmp_path, name, "64M")) for name in ("small", "data"))
        yield stack.enter_context(World(small, (data,), tmp_path / "run"))


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the real wheel of six; skip without a registry."""
    folder = tmp_path_factory.mktemp("six")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-cache-dir", "-d", str(folder), "six==1.17.0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"six cannot be downloaded: {done.stderr.strip()[-300:]}")
    return (folder / SIX.decode()).read_bytes()


def run(world: World, *words: str, **env: str) -> str:
    """Run a program as the user would; return what it printed."""
    done = subprocess.run(words, env={**world.env, **env}, cwd=world.home, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_fastest_of_five(world: World, six: bytes) -> None:
    """Of mirrors fast, slow, stale, broken and redirecting the fast one is taken; real pip and uv use it; undo is byte for byte."""
    bulk = {"/simple/setuptools/": b'<a href="../../files/setuptools-1-py3-none-any.whl">s</a>'}
    pages = wheel_pages(six) | bulk | {"/files/setuptools-1-py3-none-any.whl": os.urandom(MIB)}
    conf = world.home / ".config/pip/pip.conf"
    conf.parent.mkdir(parents=True)
    mine = b"# mine\n[global]\n# of work\nindex-url = https://pypi.org/simple\ntimeout = 20\n"
    conf.write_bytes(mine)
    with ExitStack() as sites:
        fast, slow, stale, broken, away = (
            sites.enter_context(mirror(site))
            for site in (
                Site(pages), Site(pages, slow=0.3), Site(wheel_pages(six, "1.39.9") | bulk), Site(pages, status=502),
                Site(pages, files="http://localhost:1"),
            )
        )  # fmt: skip
        away.faults["files"] = fast.url.replace("127.0.0.1", "localhost")
        urls = [word for site in (fast, slow, stale, broken, away) for word in ("--url", f"{site.url}/simple")]
        probed = world.ctl("mirrors", "probe", "pip", "--region", "intranet", *urls, "--limit", "10", "--json")
        assert probed.rc == 0, probed.err
        verdicts = {item["url"]: item for item in probed.json["findings"]}
        assert [verdicts[f"{site.url}/simple"]["fit"] for site in (fast, slow, stale, broken, away)] == [
            True,
            True,
            False,
            False,
            False,
        ]
        assert verdicts[f"{stale.url}/simple"]["stale"]
        assert verdicts[f"{broken.url}/simple"]["why"].startswith("it is broken (502")
        assert verdicts[f"{away.url}/simple"]["data_host"] == "localhost"

        said = world.must("mirrors", "use", "pip", "--fastest", "--region", "intranet", *urls)
        assert f"{fast.url}/simple" in said.out
        assert "fastest" in said.out
        assert conf.read_bytes().startswith(b"# mine\n[global]\n# of work\n")
        asked = len(fast.seen)
        target = str(world.home / "got")
        run(world, sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-cache-dir", "-d", target, "six")
        assert ("/files/" + SIX.decode()) in [path for path, _ in fast.seen[asked:]]
        listed = world.must("mirrors", "list", "pip", "--json").json
        assert listed["tools"] == [{"tool": "pip", "url": f"{fast.url}/simple", "ours": True, "note": None}]

        # Another one meanwhile: undo still leads to what the user had.
        world.must("mirrors", "use", "pip", f"{slow.url}/simple")
        refused = world.ctl("mirrors", "use", "pip", f"{broken.url}/simple")
        assert (refused.rc, "it is broken (502" in refused.err, "Nothing was changed" in refused.err) == (4, True, True)
        world.must("mirrors", "undo", "pip")
        assert conf.read_bytes() == mine
        assert world.ctl("mirrors", "undo", "pip").rc == 4


def test_uv(world: World, six: bytes, tools: Path) -> None:
    """Real uv installs from the mirror that its settings lead to; its file goes with the undo."""
    with mirror(Site(wheel_pages(six))) as site:
        world.must("mirrors", "use", "uv", f"{site.url}/simple")
        asked = len(site.seen)
        run(world, str(tools / "uv"), "pip", "install", "-q", "--no-cache", "--python", sys.executable, "--target", "got", "six")
        assert (world.home / "got/six.py").is_file()
        assert ("/files/" + SIX.decode()) in [path for path, _ in site.seen[asked:]]
        world.must("mirrors", "undo")
        assert not (world.home / ".config/uv").exists()


def test_npm(world: World) -> None:
    """Real npm installs from the mirror, whose tarballs are its own; comments and tokens in ~/.npmrc stay, and none is sent."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    status, _, _ = upstream("https://registry.npmjs.org/is-number")
    if status != 200:
        pytest.skip("the npm registry is out of reach")
    mine = b"; mine\n//registry.npmjs.org/:_authToken=npm_geheim\naudit=false\n"
    (world.home / ".npmrc").write_bytes(mine)
    site = Site({}, {"/": "https://registry.npmjs.org/"})
    site.replaced = {b"https://registry.npmjs.org": b"{url}"}
    with mirror(site):
        world.must("mirrors", "use", "npm", site.url)
        asked = len(site.seen)
        run(world, "npm", "install", "--no-fund", "--prefix", str(world.home / "got"), "is-number@7.0.0")
        assert "/is-number/-/is-number-7.0.0.tgz" in [path for path, _ in site.seen[asked:]]
        assert not any("geheim" in str(headers) for _, headers in site.seen)
        assert "geheim" not in world.must("mirrors", "list", "npm").out
        world.must("mirrors", "undo", "npm")
    assert (world.home / ".npmrc").read_bytes() == mine


def test_apt(world: World, tmp_path: Path) -> None:
    """Real apt-get updates from the mirror, in a copy of /etc/apt: signed; undo is byte for byte."""
    release = "http://deb.debian.org/debian/dists/bookworm/InRelease"
    if shutil.which("apt-get") is None or upstream(release)[0] != 200:
        pytest.skip("no apt-get here, or Debian's archive is out of reach")
    copy = tmp_path / "apt"
    shutil.copytree("/etc/apt", copy, symlinks=True)
    for old in (copy / "sources.list.d").iterdir():
        old.unlink()
    sources = copy / "sources.list.d/debian.sources"
    sources.write_text(
        "# ours\nTypes: deb\nURIs: http://deb.debian.org/debian\nSuites: bookworm\nComponents: main\nArchitectures: amd64\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )
    (copy / "sources.list").write_text("# deb http://deb.debian.org/debian sid main\n")
    before = {path.name: path.read_bytes() for path in (sources, copy / "sources.list")}
    state = tmp_path / "state"
    (state / "lists/partial").mkdir(parents=True)
    (state / "cache/archives/partial").mkdir(parents=True)

    def inside(*words: str) -> subprocess.CompletedProcess[str]:
        bind = f'mount --bind "{copy}" /etc/apt && exec "$@"'
        env = {**world.env, "PYTHONPATH": str(ROOT)}
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", bind, "sh", *words]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=110, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    ctl = [sys.executable, "-m", "survived.ctl.main", "mirrors"]
    with mirror(Site({}, {"/debian/": "http://deb.debian.org/debian/"})) as site:
        inside(*ctl, "use", "apt", f"{site.url}/debian")
        assert f"URIs: {site.url}/debian\n" in sources.read_text()
        asked = len(site.seen)
        options = [f"Dir::State={state}", f"Dir::Cache={state}/cache", "APT::Sandbox::User=root", "Acquire::Languages=none"]
        inside("apt-get", *(word for option in options for word in ("-o", option)), "update")
        assert any(path.endswith("/InRelease") for path, _ in site.seen[asked:])
        assert any("debian_dists_bookworm" in name for name in os.listdir(state / "lists"))
        inside(*ctl, "undo", "apt")
    assert {path.name: path.read_bytes() for path in (sources, copy / "sources.list")} == before


def test_the_hub(world: World, tools: Path) -> None:
    """Real huggingface_hub in a fresh login shell goes to the mirror, and the user's token does not go along."""
    data = {"config.json": b'{"a": 1}', "pytorch_model.bin": os.urandom(4096)}
    token = world.home / ".cache/huggingface/token"
    token.parent.mkdir(parents=True)
    token.write_text("hf_geheim")
    (world.home / ".bashrc").write_text("# mine\n")
    away = Site(hub_pages(data, REPO), files="http://localhost:1")
    with mirror(Site(hub_pages(data, REPO))) as site, mirror(away):
        away.faults["files"] = site.url.replace("127.0.0.1", "localhost")
        refused = world.ctl("mirrors", "use", "hub", away.url)
        assert (refused.rc, "its data comes from localhost" in refused.err) == (4, True)
        world.must("mirrors", "use", "hub", site.url)
        asked = len(site.seen)
        code = f"import huggingface_hub as h; print(h.hf_hub_download({REPO!r}, 'config.json'))"
        env = {name: world.env[name] for name in ("HOME", *KEPT) if name in world.env}
        command = ["env", "-i", *(f"{name}={value}" for name, value in env.items()), "bash", "-lc", f'"{tools}/python" -c "{code}"']
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        assert Path(done.stdout.strip()).read_bytes() == data["config.json"]
        assert len(site.seen) > asked
        assert not any("geheim" in str(headers) for _, headers in site.seen)
        world.must("mirrors", "undo", "hub")
    assert (world.home / ".bashrc").read_text() == "# mine\n"
    assert not (world.home / ".profile").exists()


def test_conda(world: World) -> None:
    """conda's two keys come and go beside what the user has in .condarc; a mirror that serves a web page is refused."""
    mine = "# mine\nchannels:\n  - conda-forge  # first\nssl_verify: true\n"
    (world.home / ".condarc").write_text(mine)
    with mirror(Site({}, html=1)) as page:
        refused = world.ctl("mirrors", "use", "conda", page.url)
        assert (refused.rc, "web page, not with an index" in refused.err) == (4, True)
        assert (world.home / ".condarc").read_text() == mine
    index = b'{"packages.conda": {"a-1-0.conda": {"size": 4, "sha256": "%s"}}}'
    pages = {
        "/conda-forge/noarch/repodata.json.zst": b"x",
        "/conda-forge/noarch/current_repodata.json": index % hashlib.sha256(b"a pk").hexdigest().encode(),
        "/conda-forge/noarch/a-1-0.conda": b"a pk",
    }
    with mirror(Site(pages)) as site:
        world.must("mirrors", "use", "conda", site.url)
        text = (world.home / ".condarc").read_text()
        assert f'channel_alias: "{site.url}"' in text
        assert "# first" in text
        world.must("mirrors", "undo", "conda")
    assert (world.home / ".condarc").read_text() == mine


@pytest.mark.timeout(300)
def test_docker(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real dockerd pulls an image of the official registry through the mirror in its daemon.json; undo is byte for byte."""
    if reason := why_no_docker():
        pytest.skip(reason)
    os.makedirs("/etc/docker", exist_ok=True)
    monkeypatch.setattr(Docker, "fill", lambda _: None)
    with running_docker("100M", "64M") as docker, mirror(registry_site("library/hello-world", rootfs())) as site:
        before = docker.config.read_bytes()
        bind = f'mount --bind "{docker.folder}" /etc/docker && exec "$@"'

        def inside(*words: str) -> None:
            ctl = [sys.executable, "-m", "survived.ctl.main", "mirrors", *words]
            command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", bind, "sh", *ctl]
            env = {**world.env, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=110, check=False)
            assert done.returncode == 0, done.stdout + done.stderr

        inside("use", "docker", site.url)
        docker.stop()
        docker.start()
        asked = len(site.seen)
        docker.docker("pull", "hello-world")
        assert "/v2/library/hello-world/manifests/latest" in [path for path, _ in site.seen[asked:]]
        assert docker.docker("image", "ls", "--format", "{{.Repository}}") == "hello-world"
        inside("undo", "docker")
        assert docker.config.read_bytes() == before


@pytest.mark.timeout(400)
def test_the_daemon_leaves_a_mirror_that_breaks(world: World, six: bytes) -> None:
    """After three bad looks pip is led to another one and told; after six good ones it is led back; undo takes both back."""
    pages = wheel_pages(six, "9999.1.0")  # newer than the official one, which may be in reach
    with mirror(Site(pages)) as first, mirror(Site(pages, slow=0.05)) as second:
        more = [f"pip {first.url}/simple", f"pip {second.url}/simple"]
        world.configure(mirrors={"watch": "switch", "every": "1s", "more": more})
        world.start()
        world.must("mirrors", "use", "pip", f"{first.url}/simple")
        conf = world.home / ".config/pip/pip.conf"
        assert f"{first.url}/simple" in conf.read_text()
        first.faults["status"] = 500
        wait_until(lambda: conf.exists() and f"{second.url}/simple" in conf.read_text(), 120, step=0.2, what=world.log)
        del first.faults["status"]
        wait_until(lambda: conf.exists() and f"{first.url}/simple" in conf.read_text(), 240, step=0.2, what=world.log)
        world.must("mirrors", "undo", "pip")
        assert not conf.exists()
