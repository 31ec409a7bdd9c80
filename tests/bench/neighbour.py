"""
What a neighbour feels while we copy: fio's latencies on both disks, quiet and during a move, paired.

The neighbour reads 4 KiB at random (O_DIRECT) and writes 4 KiB with an fsync each, at a rate of its own, on the filesystem we
move from and on the one we move to. Both are images with direct I/O, so each write reaches this machine's disk, which they
share: harsher than two disks, and the I/O class does not pass through a loop device, as it does not through many a scheduler.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.trees import make_pip_tree
from tests.rig.disks import Disk, unmount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

HERE = Path(__file__).resolve().parent
JOBS = {
    "read": ["--rw=randread", "--direct=1", "--rate_iops=300"],
    "fsync": ["--rw=randwrite", "--fsync=1", "--rate_iops=60"],
}
RATES = {"survived": 0, "survived, rate 4 MiB/s": 4 << 20}
QUIET = ["sleep", "4"]
COMPUTING = "import time\nend = time.monotonic() + 10\nwhile time.monotonic() < end: sum(range(1000))"
COMPARISONS = {
    "nothing, for comparison": ["sleep", "10"],
    "a loop at nice 10 that touches no disk": ["nice", "-n", "10", sys.executable, "-c", COMPUTING],
}
"""What the neighbour's latencies do by themselves, and for a processor that others use, too."""


def measure(folder: Path, files: int, large: int, runs: int, environment: Mapping[str, str]) -> list[list[str]]:
    """Return a row for each tree and way of moving it: p99 while it moves ÷ p99 when it is quiet, medians of paired runs."""
    rows = []
    place = folder / "neighbour"
    place.mkdir()
    with roomy(place, "home") as home, roomy(place, "data") as data:
        for tree, make in trees(files, large).items():
            ways = commands(home.path / "cache", data.path)
            found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
            took: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(runs):
                for name, command in ways.items():
                    clean(home, data)
                    make(home.path / "cache")
                    os.sync()
                    settle()
                    before, _ = beside(home, data, QUIET, environment)
                    moving, seconds = beside(home, data, command, environment)
                    after, _ = beside(home, data, QUIET, environment)
                    quiet = {key: (before[key] + after[key]) / 2 for key in before}
                    found[name].append(
                        {key: moving[key] / quiet[key] for key in quiet} | {f"{key} quiet": quiet[key] for key in quiet}
                    )
                    took[name].append(seconds)
            for name, ratios in found.items():
                rows.append([tree, name, f"{statistics.median(took[name]):.1f}", *(median(ratios, key) for key in columns())])
        clean(home, data)
    return rows


def commands(source: Path, disk: Path) -> dict[str, list[str]]:
    """Return the ways to move a tree to a disk, durably."""
    ours = [sys.executable, str(HERE / "relocate.py"), str(source), str(disk)]
    script = 'cp -a "$1" "$2" && sync -f "$2" && rm -rf "$1" && ln -s "$2" "$1" && sync -f "${1%/*}"'
    ways = {name: [*ours, str(rate)] for name, rate in RATES.items()}
    return COMPARISONS | ways | {"cp -a, rm -rf": ["sh", "-c", script, "sh", str(source), str(disk / "target")]}


def columns() -> list[str]:
    """Return what is measured, in the order of the table."""
    return [f"{disk} {job}" for disk in ("home", "data") for job in JOBS]


def median(ratios: list[dict[str, float]], key: str) -> str:
    """Return the median ratio with the quiet value it is about."""
    quiet = statistics.median(found[f"{key} quiet"] for found in ratios)
    return f"{statistics.median(found[key] for found in ratios):.2f} × {quiet:.1f} ms"


def trees(files: int, large: int) -> dict[str, Callable[[Path], object]]:
    """Return what makes each tree."""

    def make_large(top: Path) -> None:
        top.mkdir()
        for number in range(large):
            with (top / f"model-{number}").open("wb") as file:
                for _ in range(300):
                    file.write(os.urandom(1 << 20))

    made: dict[str, Callable[[Path], object]] = {f"pip-like, {files:,} files": lambda top: make_pip_tree(top, files)}
    return made | ({f"{large} × 300 MiB": make_large} if large else {})


def beside(home: Disk, data: Disk, command: list[str], environment: Mapping[str, str]) -> tuple[dict[str, float], float]:
    """Run a command beside the neighbour; return the neighbour's p99 in ms, by disk and job, and the command's seconds."""
    fio = [
        "fio",
        "--output-format=json",
        "--time_based",
        "--runtime=900",
        "--bs=4k",
        "--size=64m",
        "--ioengine=psync",
        "--group_reporting=0",
    ]
    for disk in (home, data):
        for job, options in JOBS.items():
            fio += [f"--name={disk.path.name} {job}", f"--filename={disk.path / f'neighbour-{job}'}", *options]
    neighbour = subprocess.Popen(fio, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=home.path)
    try:
        time.sleep(1.0)
        began = time.monotonic()
        subprocess.run(command, env=dict(environment), check=True, capture_output=True)
        seconds = time.monotonic() - began
        if seconds < 2.0:
            time.sleep(2.0 - seconds)
    finally:
        neighbour.send_signal(signal.SIGINT)
        said, _ = neighbour.communicate()
    return {job["jobname"]: p99(job) for job in json.loads(said[said.index("{") :])["jobs"]}, seconds


def p99(job: dict[str, Any]) -> float:
    """Return the 99th percentile of one job in ms: of its fsyncs, or of its reads."""
    part = job["sync"]["lat_ns"] if job["sync"]["total_ios"] else job["read"]["clat_ns"]
    return float(part["percentile"]["99.000000"]) / 1e6


def settle() -> None:
    """Let what was written before the run be written."""
    os.sync()
    time.sleep(1.0)


def clean(home: Disk, data: Disk) -> None:
    """Remove what the last run left."""
    for left in (home.path / "cache", data.path / "target", data.path / "survived"):
        if left.is_symlink():
            left.unlink()
        elif left.exists():
            shutil.rmtree(left)


@contextmanager
def roomy(folder: Path, name: str, size: str = "3G") -> Iterator[Disk]:
    """Make an ext4 image of blocks that exist, reached by direct I/O, and mount it at folder/name."""
    image, path = folder / f"{name}.img", folder / name
    path.mkdir()
    with ExitStack() as stack:
        stack.callback(image.unlink, missing_ok=True)
        subprocess.run(["fallocate", "-l", size, image], check=True)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", image], check=True)
        command = ["losetup", "--find", "--show", "--direct-io=on", "--sector-size=4096", image]
        device = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        stack.callback(subprocess.run, ["losetup", "-d", device], check=False)
        subprocess.run(["mount", "-o", "noatime", device, path], check=True)
        stack.callback(unmount, path)
        (path / "lost+found").rmdir()
        yield Disk(path, image)
