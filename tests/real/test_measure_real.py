"""Measuring and finding disks on real mounts, made in a mount namespace that ends with the test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.rig.disks import Disks

pytestmark = pytest.mark.real
REPOSITORY = str(Path(__file__).resolve().parents[2])


def run_mounted(commands: str, script: str, folder: Path) -> Any:
    """Mount by shell commands in a namespace of its own, then run Python there; return the JSON that it prints."""
    unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]
    shell = f'set -e; cd "$1"; mkdir -p tree/below tree/bound other; {commands}\nexec "$2" -c "$3"'
    code = f"import json, os\n{script}"
    done = subprocess.run(
        [*unshare, "sh", "-c", shell, "sh", str(folder), sys.executable, code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": REPOSITORY},
        check=False,
    )
    if done.returncode != 0 and ("unshare:" in done.stderr or "mount:" in done.stderr):
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


MEASURE = """
from dataclasses import asdict
from survived.observe.tree import measure_tree
print(json.dumps(asdict(measure_tree("tree"))))
"""


def test_other_filesystem_below_is_not_counted(tmp_path: Path) -> None:
    """A tmpfs mounted inside the tree is named and nothing in it counts."""
    found = run_mounted("mount -t tmpfs tmpfs tree/below; head -c 1000000 /dev/zero > tree/below/file", MEASURE, tmp_path)

    assert found["mount_below"] == "tree/below"
    assert (found["files"], found["directories"]) == (0, 2)
    assert found["size_bytes"] < 1_000_000


def test_bind_mount_of_the_same_filesystem_is_not_counted(tmp_path: Path) -> None:
    """A bind mount has the same st_dev and is seen all the same; so is a file that is one."""
    commands = "head -c 1000000 /dev/zero > other/file; mount --bind other tree/bound"
    directory = run_mounted(commands, MEASURE, tmp_path)
    file = run_mounted("touch tree/file; mount --bind other/file tree/file", MEASURE, tmp_path)

    assert (directory["mount_below"], directory["files"], directory["directories"]) == ("tree/bound", 0, 2)
    assert (file["mount_below"], file["files"], file["directories"]) == ("tree/file", 0, 3)
    assert max(directory["size_bytes"], file["size_bytes"]) < 1_000_000


def test_reading_of_mounts(tmp_path: Path) -> None:
    """The last of two mounts holds a path, a bind mount has its own mount point, and read-only is seen."""
    script = """
from survived.observe.disks import read_filesystem
print(json.dumps([(f.mount, f.device, f.fstype, f.read_only, f.capacity_bytes) for f in map(read_filesystem,
    ("tree/below/x", "tree/bound", "other"))]))
"""
    commands = """
mount -t tmpfs -o size=1m first tree/below; mount -t tmpfs -o size=2m second tree/below; mkdir tree/below/x
mount -t tmpfs -o size=3m,ro "with space" other; mount --bind other tree/bound
"""
    below, bound, other = run_mounted(commands, script, tmp_path)

    assert below == [f"{tmp_path}/tree/below", "second", "tmpfs", False, 2 << 20]
    assert bound[:3] == [f"{tmp_path}/tree/bound", "with space", "tmpfs"]
    assert other[3:] == [True, 3 << 20]


def test_filesystem_mounted_meanwhile_is_not_counted(tmp_path: Path) -> None:
    """What is mounted in the tree while it is measured is named and not counted."""
    script = """
import subprocess
from dataclasses import asdict
from survived.observe.tree import measure_tree
for number in range(1500):
    open(f"tree/{number}", "w").close()
def mount():
    subprocess.run("mount -t tmpfs tmpfs tree/below && touch tree/below/file", shell=True, check=True)
    return False
print(json.dumps(asdict(measure_tree("tree", stop=mount))))
"""
    found = run_mounted("mount -t tmpfs tmpfs other", script, tmp_path)

    assert (found["mount_below"], found["files"], found["directories"]) == ("tree/below", 1500, 2)


def test_hidden_mount_is_not_taken_for_the_one_that_holds(tmp_path: Path) -> None:
    """A mount point below a later mount of the same filesystem is hidden, however long its path is."""
    script = """
from survived.observe.disks import read_filesystem
print(json.dumps(read_filesystem("tree/below/x").mount))
"""
    commands = "mkdir tree/below/x other/x; mount --bind other tree/below/x; mount --bind other tree/below"

    assert run_mounted(commands, script, tmp_path) == f"{tmp_path}/tree/below"


def test_cache_on_a_mount_point(tmp_path: Path) -> None:
    """A cache that is a mount point, given through a linked parent, is an error that says so."""
    script = """
from survived.model import Cache, Kind
from survived.observe.caches import read_cache
found = read_cache(Cache("pip", "pip", Kind.CACHE, os.path.abspath("link/below"), "default"), 0, {})
print(json.dumps([found.state, found.error, found.size.mount_below]))
"""
    state, error, below = run_mounted("mount -t tmpfs tmpfs tree/below; ln -s tree link", script, tmp_path)

    assert state == "home"
    assert error == f"Cannot measure '{tmp_path}/link/below': it is a mount point."
    assert below == f"{tmp_path}/link/below"


def test_data_disks_are_found(make_disks: Callable[..., Disks]) -> None:
    """A local disk where the user has or may have a directory is found, the roomiest first, and avoided ones are not."""
    from survived.observe.disks import find_data_disks

    disks = make_disks()
    small, data = disks.small.path, disks.data.path
    avoid = [os.stat(small).st_dev]

    found = [path for path in find_data_disks("/", 0, []) if path.startswith(str(small.parent))]

    assert [str(data), str(small)] == found
    assert str(data) in find_data_disks("/", 0, avoid)
    assert str(small) not in find_data_disks("/", 0, avoid)
    assert str(data) not in find_data_disks(str(data), 0, avoid)
    (data / "root").mkdir()
    assert str(data / "root") in find_data_disks("/", 0, avoid)
    (data / "survived").mkdir()
    (data / "survived" / "STORE").touch()
    assert str(data) in find_data_disks("/", 0, avoid)


def test_data_disks_of_another_user(make_disks: Callable[..., Disks]) -> None:
    """For an ordinary user a closed disk is none, an open one has a directory to make, and one made for him is taken."""
    from survived.observe.disks import find_data_disks

    data = make_disks().data.path
    data.chmod(0o755)
    nobody = 65534

    def found() -> list[str]:
        return [path for path in find_data_disks("/", nobody, []) if path.startswith(str(data))]

    assert found() == []
    data.chmod(0o1777)
    assert found() == [f"{data}/nobody"]
    (data / "nobody").mkdir()
    assert found() == []
    os.chown(data / "nobody", nobody, nobody)
    assert found() == [f"{data}/nobody"]


def test_bind_mounts_of_an_avoided_disk_do_not_count(make_disks: Callable[..., Disks], tmp_path: Path) -> None:
    """The watched disk mounted again elsewhere is still the watched disk."""
    disks = make_disks()
    script = f"""
from survived.observe.disks import find_data_disks
print(json.dumps(find_data_disks("/", 0, [os.stat({str(disks.small.path)!r}).st_dev])))
"""
    again = tmp_path / "again"
    again.mkdir()
    found = run_mounted(f"mount --bind {disks.small.path} {again}", script, tmp_path)

    assert str(disks.data.path) in found
    assert not {str(again), str(disks.small.path)} & set(found)
