"""The trees that are moved and measured: deterministic, so that two machines compare the same work."""

from __future__ import annotations

import math
import os
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def make_pip_tree(top: Path, files: int) -> int:
    """Make a tree like pip's http-v2 cache: five levels of hash folders, log-normal sizes; return its bytes."""
    choose = random.Random(20_000)
    noise = choose.randbytes(1 << 20)
    total = 0
    for number in range(files):
        name = f"{choose.getrandbits(160):040x}"
        folder = top / "http-v2" / name[0] / name[1] / name[2]
        folder.mkdir(parents=True, exist_ok=True)
        size = min(4 << 20, int(math.exp(choose.gauss(8.5, 1.4))))
        start = choose.randrange(len(noise) // 2)
        body = (noise[start:] * (size // (len(noise) // 2) + 1))[:size]
        path = folder / (name if number % 2 else f"{name}.body")
        path.write_bytes(body)
        path.chmod(0o600 if number % 3 else 0o644)
        os.utime(path, ns=(10**18 + number, 10**18 + number * 1_000_003))
        total += size
    return total


def make_conda_tree(top: Path, names: int) -> None:
    """Make a tree like conda's: packages of a hundred files, and environments whose files are further names of them."""
    choose = random.Random(60_000)
    noise = choose.randbytes(1 << 20)
    inodes = names // 2
    for number in range(inodes):
        package, place = number // 100, number % 100
        below = ("bin", "lib/python3.11/site-packages/it", "lib/python3.11/site-packages/it/sub", "share/doc/it")[place % 4]
        folder = top / f"pkgs/it-{package}.0-py311" / below
        other = top / f"envs/env{package % 3}" / below.replace("it", f"it{package}")
        if place < 4:
            folder.mkdir(parents=True, exist_ok=True)
            other.mkdir(parents=True, exist_ok=True)
        size = min(1 << 20, int(math.exp(choose.gauss(7.8, 1.3))))
        start = choose.randrange(len(noise) // 2)
        path = folder / f"it{package}_{place}.py"
        path.write_bytes((noise[start:] * (size // (len(noise) // 2) + 1))[:size])
        path.chmod(0o755 if below == "bin" else 0o644)
        os.utime(path, ns=(10**18 + number, 10**18 + number * 1_000_003))
        os.link(path, other / path.name)


def make_hub_tree(top: Path, size: int, hole: int) -> None:
    """Make a tree like Hugging Face's hub: six blobs of `size` bytes, one of `hole` bytes with little in it, and links to them."""
    choose = random.Random(10)
    noise = choose.randbytes(8 << 20)
    for number in range(7):
        repo = top / "hub" / f"models--org--it{number}"
        (repo / "blobs").mkdir(parents=True)
        (repo / "snapshots/0123").mkdir(parents=True)
        blob = repo / "blobs" / f"{choose.getrandbits(256):064x}"
        with open(blob, "wb") as file:
            if number == 6:
                file.truncate(hole)
                file.seek(hole // 2)
                file.write(noise)
            else:
                file.writelines(noise[: size - at] for at in range(0, size, len(noise)))
        (repo / "snapshots/0123/model.safetensors").symlink_to(f"../../blobs/{blob.name}")


def make_wide_tree(top: Path, entries: int) -> None:
    """Make `entries` entries: folders of 150 small files with every eleventh a second name of the one before."""
    number = 0
    while number < entries:
        folder = top / f"{number // 15_000:03d}" / f"{number:07d}"
        folder.mkdir(parents=True)
        number += 1
        previous: Path | None = None
        for _ in range(min(150, entries - number)):
            path = folder / f"{number:07d}.py"
            if previous is not None and number % 11 == 0:
                os.link(previous, path)
            else:
                path.write_bytes(b"x" * (number % 900))
            previous = path
            number += 1
