"""
Moving three kinds of tree against what people move with, and removing one against `rm -rf`.

Two times, at equal durability: until the copy is complete and synced, so that the source may go; and until it is gone, with
a link in its place and the folder of that synced. Ours also refuses, journals, and looks again for late writers, before the
first and before the second. How large the tree is a daemon knows before it moves it. Peers with `-S` where the tree is
sparse: plain `rsync -aHAX` writes out ten gigabytes of zeros.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.bench.pairing import HERE, in_turn, rows_of, timed, told
from tests.bench.trees import make_conda_tree, make_hub_tree, make_pip_tree
from tests.rig.disks import Disk, mounted
from tests.rig.filesystems import mounted_as, why_not

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FINISH = ' && sync -f "$2" && date +%s.%N && rm -rf "$1" && ln -s "$2" "$1" && sync -f "${1%/*}"'


class Took(NamedTuple):
    """Seconds from the begin until the source may go, and until all is done."""

    copied: float
    moved: float


class Kind(NamedTuple):
    """One kind of tree: how it is called, made and copied by rsync, and the worlds (filesystem, cache) it is moved in."""

    name: str
    make: Callable[[Path], object]
    rsync: str
    worlds: tuple[tuple[str, str], ...]


ALL = (("ext4", "warm"), ("ext4", "cold"), ("xfs", "warm"), ("xfs", "cold"))


def kinds(*, quick: bool) -> tuple[Kind, ...]:
    """Return the trees, small and in warm worlds only for a quick look."""
    files, links, size, hole = (2_000, 3_000, 8 << 20, 1 << 30) if quick else (20_000, 60_000, 300 << 20, 10 << 30)
    worlds = tuple(world for world in ALL if world[1] == "warm") if quick else ALL
    large = worlds[:2]  # for what takes long
    return (
        Kind(f"pip, {files:,} files", lambda top: make_pip_tree(top, files), "-aHAX", worlds),
        Kind(f"conda, {links:,} names of {links // 2:,} files", lambda top: make_conda_tree(top, links), "-aHAX", large),
        Kind(
            f"hub, 6 × {size >> 20} MiB, {hole >> 30} GiB of holes",
            lambda top: make_hub_tree(top, size, hole),
            "-aHAXS",
            worlds[:1],
        ),
    )


def measure(folder: Path, runs: int, *, quick: bool) -> list[list[str]]:
    """Return a row for each tree, world and candidate."""
    rows, place = [], folder / "worlds"
    for kind in kinds(quick=quick):
        master = folder / "master"
        kind.make(master)
        for filesystem, state in kind.worlds:
            if why_not(filesystem) is None:
                place.mkdir()
                with ExitStack() as disks:
                    small = disks.enter_context(mounted(place, "small", "4G"))
                    data = disks.enter_context(_data(place, filesystem))
                    rows += _moves(kind, master, small, data, state, runs, f"to {filesystem}, {state}")
                shutil.rmtree(place)
        shutil.rmtree(master)
    return rows


@contextmanager
def _data(folder: Path, filesystem: str) -> Iterator[Disk]:
    with mounted_as(folder, "data", filesystem, size="4096M") as path:
        yield Disk(path, folder / "data.img")


def _moves(kind: Kind, master: Path, small: Disk, data: Disk, state: str, runs: int, world: str) -> list[list[str]]:
    source, target = small.path / "cache", data.path / "target"

    def fresh() -> None:
        for left in (source, target, data.path / "survived"):
            remove(left)
        subprocess.run(["cp", "-a", master, source], check=True)
        os.sync()
        if state == "cold":
            forget(small)
            forget(data)

    def other(script: str) -> Took:
        fresh()
        began = time.time()
        (copied,) = told(["sh", "-c", script + FINISH, "sh", str(source), str(target)])
        return Took(copied - began, time.time() - began)

    def ours() -> Took:
        fresh()
        took = Took(*told([sys.executable, str(HERE / "relocate.py"), str(source), str(data.path)]))
        if not source.is_symlink() or not any(source.iterdir()):
            raise SystemExit(f"our move left no working link at '{source}'")
        return took

    candidates: dict[str, Callable[[], Took]] = {"survived": ours}
    candidates[f"rsync {kind.rsync}"] = partial(other, f'mkdir -p "$2" && rsync {kind.rsync} "$1/" "$2/"')
    candidates["cp -a"] = partial(other, 'mkdir -p "$2" && cp -a "$1/." "$2/"')
    found = in_turn(runs, candidates)
    copied = rows_of({name: [took.copied for took in all_took] for name, all_took in found.items()}, kind.name, world)
    moved = rows_of({name: [took.moved for took in all_took] for name, all_took in found.items()})
    return [[*row, *more[1:]] for row, more in zip(copied, moved, strict=True)]


def measure_removal(folder: Path, files: int, runs: int) -> list[list[str]]:
    """Return a row for each way to remove a tree."""
    rows, place = [], folder / "removal"
    place.mkdir()
    with mounted(place, "small", "3G") as small:
        master, tree = folder / "master", small.path / "old"
        make_pip_tree(master, files)
        for state in ("warm", "cold"):

            def prepared(run: Callable[[], float], state: str = state) -> float:
                subprocess.run(["cp", "-a", master, tree], check=True)
                os.sync()
                if state == "cold":
                    forget(small)
                return run()

            candidates = {
                "survived": partial(prepared, lambda: told([sys.executable, str(HERE / "remove.py"), str(tree)])[0]),
                "rm -rf": partial(prepared, lambda: timed(["rm", "-rf", str(tree)])),
            }
            rows += rows_of(in_turn(runs, candidates), state)
        shutil.rmtree(master)
    return rows


def measure_memory(folder: Path, files: int) -> list[list[str]]:
    """Return what moving a tree of so many files, a tenth of them second names, takes in memory, between two tmpfs."""
    with ExitStack() as disks:
        home, data = (disks.enter_context(_memory_disk(folder, name)) for name in ("home", "data"))
        _, seconds, before, most, child = told([sys.executable, str(HERE / "memory.py"), str(home), str(data), str(files)])
    return [
        ["the process, before", f"{before / 1024:.1f} MiB"],
        ["what it took more at its peak", f"{(most - before) / 1024:.1f} MiB"],
        ["its child, whole", f"{child / 1024:.1f} MiB"],
        ["seconds", f"{seconds:.0f}"],
    ]


@contextmanager
def _memory_disk(folder: Path, name: str) -> Iterator[Path]:
    path = folder / name
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6G,nr_inodes=0", "none", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)
        with suppress(OSError):
            path.rmdir()


def remove(path: Path) -> None:
    """Remove a tree, a link or nothing."""
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def forget(disk: Disk) -> None:
    """Empty the caches of one image: a new mount has no pages, and the image's own pages are given up."""
    subprocess.run(["umount", disk.path], check=True)
    with open(disk.image, "rb") as image:
        os.fsync(image.fileno())
        os.posix_fadvise(image.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    subprocess.run(["mount", "-o", "loop,noatime", disk.image, disk.path], check=True)
