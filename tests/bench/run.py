#!/usr/bin/env python3
"""
Print the README's figures as Markdown: `python tests/bench/run.py [--quick] [--only move,measure,status,idle]`.

Ratios of paired runs on one machine in one go, candidates in turn, medians. Move and measure need root (loop images).
The peers are rsync, cp, du, fail2ban and supervisor as the distribution packages them, on private sockets and folders.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench.peers import fail2ban, stop, supervisor, wait_for  # noqa: E402 - the path is set above
from tests.bench.trees import make_pip_tree, make_wide_tree  # noqa: E402
from tests.rig.disks import Disk, mounted, why_no_mounts  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

PARTS = ("move", "measure", "status", "idle")
BEGIN, END = "<!-- figures -->", "<!-- end figures -->"
SAID: list[str] = []
HERE = Path(__file__).resolve().parent
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}


def main() -> int:
    """Run the parts asked for and print their tables as they are ready."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller trees and fewer runs: a look, not a figure")
    parser.add_argument("--only", default=",".join(PARTS), help=f"comma-separated parts of: {', '.join(PARTS)}")
    parser.add_argument("--runs", type=int, help="paired runs of move and measure (default 5; 2 with --quick)")
    parser.add_argument("--write", type=Path, metavar="README", help="put the figures between the marks of this file, too")
    args = parser.parse_args()
    parts = args.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    runs = args.runs or (2 if args.quick else 5)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}"
    say(f"{machine}, Python {platform.python_version()}\n")
    with tempfile.TemporaryDirectory(prefix="survived-bench-") as name:
        folder = Path(name)
        reason = why_no_mounts()
        if "move" in parts:
            print(f"move: skipped, {reason}\n") if reason else bench_move(folder, 2_000 if args.quick else 20_000, runs)
        if "measure" in parts:
            entries = 30_000 if args.quick else 300_000
            print(f"measure: skipped, {reason}\n") if reason else bench_measure(folder, entries, runs)
        if "status" in parts or "idle" in parts:
            with daemon(folder) as (environment, pid):
                if "status" in parts:
                    bench_status(folder, environment, 10 if args.quick else 40)
                if "idle" in parts:
                    bench_idle(pid, 10.0 if args.quick else 90.0)
    if args.write is not None:
        before, _, rest = args.write.read_text(encoding="utf-8").partition(BEGIN)
        args.write.write_text(f"{before}{BEGIN}\n{''.join(SAID)}{END}{rest.partition(END)[2]}", encoding="utf-8")
    return 0


def say(text: str) -> None:
    """Print, and keep it for `--write`."""
    SAID.append(f"{text}\n")
    print(text, flush=True)


def table(title: str, head: list[str], rows: list[list[str]]) -> None:
    """Print one Markdown table."""
    say(f"### {title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        say(f"| {' | '.join(row)} |")
    say("")


def timed(command: list[str], environment: dict[str, str] | None = None, statuses: tuple[int, ...] = (0,)) -> float:
    """Run a command that must succeed and return its seconds."""
    began = time.perf_counter()
    done = subprocess.run(command, env=environment or ENV, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode not in statuses:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return seconds


def in_turn(runs: int, candidates: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Run every candidate `runs` times in rounds of changing order, so that drift hits all of them."""
    results: dict[str, list[float]] = {name: [] for name in candidates}
    shuffle = random.Random(1)
    for _ in range(runs):
        order = list(candidates)
        shuffle.shuffle(order)
        for name in order:
            results[name].append(candidates[name]())
    return results


def ratio(ours: list[float], theirs: list[float]) -> str:
    """Return the median of the paired ratios ours / theirs."""
    return f"{statistics.median(a / b for a, b in zip(ours, theirs, strict=True)):.2f}"


# ---- move ----------------------------------------------------------------


def bench_move(folder: Path, files: int, runs: int) -> None:
    """Move a pip-like tree from one ext4 to another, durable: link in place, old tree gone, both filesystems synced."""
    shell = {
        "rsync -aHAX, rm -rf": 'mkdir -p "$2" && rsync -aHAX "$1/" "$2/"',
        "cp -a, rm -rf": 'mkdir -p "$2" && cp -a "$1/." "$2/"',
    }
    finish = ' && sync -f "$2" && rm -rf "$1" && ln -s "$2" "$1" && sync -f "${1%/*}"'
    rows = []
    with mounted(folder, "small", "3G") as small, mounted(folder, "data", "3G") as data:
        master = folder / "master"
        total = make_pip_tree(master, files)
        source, target = small.path / "cache", data.path / "target"
        for state in ("warm", "cold"):

            def fresh(state: str = state) -> None:
                for left in (source, target, data.path / "survived"):
                    remove(left)
                subprocess.run(["cp", "-a", master, source], check=True)
                os.sync()
                if state == "cold":
                    forget(small)
                    forget(data)

            def other(script: str, fresh: Callable[[], None] = fresh) -> float:
                fresh()
                return timed(["sh", "-c", script + finish, "sh", str(source), str(target)])

            def ours(fresh: Callable[[], None] = fresh) -> float:
                fresh()
                command = [sys.executable, str(HERE / "relocate.py"), str(source), str(data.path)]
                seconds = float(subprocess.run(command, env=ENV, capture_output=True, text=True, check=True).stdout)
                if not source.is_symlink() or not (source / "http-v2").is_dir():
                    raise SystemExit(f"our move left no working link at '{source}'")
                return seconds

            candidates: dict[str, Callable[[], float]] = {"survived": ours}
            candidates |= {name: partial(other, script) for name, script in shell.items()}
            results = in_turn(runs, candidates)
            rows += [
                [state, name, f"{statistics.median(times):.2f}", ratio(results["survived"], times)]
                for name, times in results.items()
            ]
        for left in (source, target, data.path / "survived"):
            remove(left)
    shutil.rmtree(master)
    title = f"Moving {files:,} files ({total / 2**20:.0f} MiB), durable, ext4 to ext4, {runs} paired runs"
    table(title, ["page cache", "by", "median s", "survived ÷ it"], rows)


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


# ---- measure -------------------------------------------------------------


def bench_measure(folder: Path, entries: int, runs: int) -> None:
    """Measure a tree as the daemon does (in a running Python) against `du -s`."""
    rows = []
    with mounted(folder, "wide", "4G", inodes=entries + 20_000) as disk:
        tree = disk.path / "tree"
        make_wide_tree(tree, entries)
        os.sync()

        def ours() -> float:
            command = [sys.executable, str(HERE / "measure.py"), str(tree)]
            done = subprocess.run(command, env=ENV, capture_output=True, text=True, check=True)
            return float(done.stdout)

        def du() -> float:
            return timed(["du", "-s", str(tree)])

        def prepared(run: Callable[[], float], state: str) -> float:
            if state == "cold":
                forget(disk)
            return run()

        for state in ("warm", "cold"):
            du()
            candidates = {"survived": partial(prepared, ours, state), "du -s": partial(prepared, du, state)}
            results = in_turn(runs, candidates)
            rows += [
                [state, name, f"{statistics.median(times):.2f}", ratio(results["survived"], times)]
                for name, times in results.items()
            ]
    title = f"Measuring {entries:,} entries, {runs} paired runs"
    table(title, ["page cache", "by", "median s", "survived ÷ it"], rows)


# ---- status --------------------------------------------------------------


@contextmanager
def daemon(folder: Path) -> Iterator[tuple[dict[str, str], int]]:
    """Run the real daemon on a quiet day: a home with a few thousand cached files and marks far away."""
    home, runtime = folder / "home", folder / "run"
    runtime.mkdir(mode=0o700)
    home.mkdir(mode=0o700)
    make_pip_tree(home / ".cache/pip", 3_000)
    config = home / ".config/survived/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[watch]\nhigh = "98.5%"\nlow = "98%"\nflood = "99.5%"\n')
    config.chmod(0o600)
    plain = {name: value for name, value in ENV.items() if not name.startswith(("XDG_", "SURVIVED_"))}
    environment = {**plain, "HOME": str(home), "XDG_RUNTIME_DIR": str(runtime)}
    with open(folder / "daemon.log", "w+", encoding="utf-8") as log:
        command = [sys.executable, "-P", "-m", "survived", "--config", str(config)]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_for(lambda: (runtime / "survived/control.sock").exists(), process, log.name)
            yield environment, process.pid
        finally:
            stop(process)


def bench_status(folder: Path, environment: dict[str, str], runs: int) -> None:
    """Time the three status commands, each with its server up, from exec to exit."""
    ours = survivectl(folder)
    candidates: dict[str, Callable[[], float]] = {
        "survivectl status": lambda: timed([*ours, "status"], environment),
        "survivectl status --json": lambda: timed([*ours, "status", "--json"], environment),
    }
    with ExitStack() as servers:
        for program, serve in (("fail2ban-client", fail2ban), ("supervisorctl", supervisor)):
            if shutil.which(program) is None:
                print(f"{program} is not installed: left out\n")
                continue
            ask = servers.enter_context(serve(folder))
            candidates[f"{program} status"] = partial(timed, ask)
        for run in candidates.values():
            run()
        results = in_turn(runs, candidates)
    first = results["survivectl status"]
    rows = [[f"`{name}`", f"{statistics.median(times) * 1000:.0f}", ratio(first, times)] for name, times in results.items()]
    table(f"Asking, each server up, {runs} paired runs", ["command", "median ms", "survivectl status ÷ it"], rows)


def survivectl(folder: Path) -> list[str]:
    """Return the installed command, or its equal in a source tree: the two lines an entry point has."""
    installed = Path(sys.executable).with_name("survivectl")
    if installed.exists():
        return [str(installed)]
    script = folder / "survivectl"
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom survived.ctl.main import main\nsys.exit(main())\n", encoding="utf-8")
    script.chmod(0o755)
    return [str(script)]


# ---- idle ----------------------------------------------------------------


def bench_idle(pid: int, seconds: float) -> None:
    """Watch the daemon do nothing: resident memory, and CPU extrapolated to an hour."""
    time.sleep(3)
    before, began = cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    used, passed = cpu_seconds(pid) - before, time.monotonic() - began
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines())
    resident, peak = (int(status[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    rows = [["RSS", f"{resident:.1f} MiB", "45 MiB"], ["RSS, highest so far", f"{peak:.1f} MiB", ""]]
    rows += [["CPU per hour", f"{used * 3600 / passed:.1f} s", "5 s"]]
    table(f"The idle daemon, over {passed:.0f} s", ["what", "is", "goal"], rows)


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of all threads a process has had; in ticks of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
