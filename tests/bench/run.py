#!/usr/bin/env python3
"""
Print the README's figures as Markdown: `python tests/bench/run.py [--quick] [--only move,conformance,...]`.

Ratios of paired runs on one machine in one go, candidates in turn, medians. Move and measure need root (loop images).
The peers are rsync, cp, du, fail2ban and supervisor as the distribution packages them, on private sockets and folders.
"""

from __future__ import annotations

import argparse
import os
import platform
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

from tests.bench import conformance, moving, neighbour  # noqa: E402 - the path is set above
from tests.bench.moving import forget  # noqa: E402 - the path is set above
from tests.bench.pairing import ENV, HERE, in_turn, ratio, timed  # noqa: E402 - the path is set above
from tests.bench.peers import fail2ban, stop, supervisor, wait_for  # noqa: E402 - the path is set above
from tests.bench.trees import make_pip_tree, make_wide_tree  # noqa: E402
from tests.rig.disks import mounted, why_no_mounts  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PARTS = ("move", "remove", "memory", "conformance", "neighbour", "measure", "status", "idle")
TITLES = ("Moving", "Removing", "Memory", "Nasty", "Where", "A", "Measuring", "Asking,", "The")
"""The first words of the tables, in their order."""
BEGIN, END = "<!-- figures -->", "<!-- end figures -->"
SAID: list[str] = []


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
            print(f"move: skipped, {reason}\n") if reason else bench_move(folder, 1 if args.quick else runs, quick=args.quick)
        if "remove" in parts:
            print(f"remove: skipped, {reason}\n") if reason else bench_remove(folder, 5_000 if args.quick else 20_000, runs)
        if "memory" in parts:
            print(f"memory: skipped, {reason}\n") if reason else bench_memory(folder, 30_000 if args.quick else 1_000_000)
        if "conformance" in parts:
            print(f"conformance: skipped, {reason}\n") if reason else bench_conformance(folder)
        if "neighbour" in parts:
            without = reason or (None if shutil.which("fio") else "needs fio")
            print(f"neighbour: skipped, {without}\n") if without else bench_neighbour(
                folder, 1 if args.quick else runs, quick=args.quick
            )
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
        earlier, _, after = rest.partition(END)
        args.write.write_text(f"{before}{BEGIN}\n{merged(earlier, ''.join(SAID))}{END}{after}", encoding="utf-8")
    return 0


def merged(earlier: str, fresh: str) -> str:
    """Return the tables of this run, and in their places those that it did not make, under the line of this machine."""
    tables: dict[str, str] = {}
    for text in (earlier, fresh):
        for part in text.split("### ")[1:]:
            tables[part.split()[0]] = f"### {part.rstrip()}\n\n"
    return fresh.split("### ")[0] + "".join(tables[name] for name in TITLES if name in tables)


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


# ---- move, remove, memory ------------------------------------------------


def bench_move(folder: Path, runs: int, *, quick: bool) -> None:
    """Print how long moving three kinds of tree takes us and others."""
    rows = moving.measure(folder, runs, quick=quick)
    title = (
        f"Moving from ext4: until the copy is synced, and until the old tree is gone and a link in its place; {runs} paired runs"
    )
    table(title, ["tree", "where", "by", "copied, median s", "survived ÷ it", "moved, median s", "survived ÷ it"], rows)


def bench_remove(folder: Path, files: int, runs: int) -> None:
    """Print how long removing a tree takes us and others."""
    rows = moving.measure_removal(folder, files, runs)
    table(f"Removing {files:,} files, ext4, {runs} paired runs", ["page cache", "by", "median s", "survived ÷ it"], rows)


def bench_memory(folder: Path, files: int) -> None:
    """Print what moving many files takes in memory."""
    table(f"Memory for moving {files:,} names, a tenth of them hard links", ["what", "is"], moving.measure_memory(folder, files))


def bench_conformance(folder: Path) -> None:
    """Print who keeps what of the nasty trees, and the trees in which somebody does not."""
    totals, rows, left_out = conformance.judge_all(folder)
    table("Nasty trees, moved from ext4 to ext4", ["by", *conformance.WORDS], totals)
    table("Where somebody loses something", ["tree", "survived", *(f"`{name}`" for name in conformance.PEERS)], rows)
    say(f"Left out, for only survived looks who is at work there, or they take too long: {', '.join(left_out)}.\n")


def bench_neighbour(folder: Path, runs: int, *, quick: bool) -> None:
    """Print what a neighbour's fio feels while we and others move."""
    rows = neighbour.measure(folder, 2_000 if quick else 4_000, 0 if quick else 1, runs, ENV)
    head = ["tree", "by", "median s", *neighbour.columns()]
    table(f"A neighbour's p99 while it moves ÷ quiet, {runs} paired runs", head, rows)


# ---- measure -------------------------------------------------------------


def bench_measure(folder: Path, entries: int, runs: int) -> None:
    """Measure a tree as the daemon does (in a running Python) against `du -s`, anew and by what is known of it."""
    rows = []
    known = folder / "known.db"
    with mounted(folder, "wide", "4G", inodes=entries + 20_000) as disk:
        tree = disk.path / "tree"
        make_wide_tree(tree, entries)
        os.sync()

        def ours(*more: Path) -> float:
            command = [sys.executable, str(HERE / "measure.py"), str(tree), *map(str, more)]
            done = subprocess.run(command, env=ENV, capture_output=True, text=True, check=True)
            return float(done.stdout.split()[0])

        def du() -> float:
            return timed(["du", "-s", str(tree)])

        def prepared(run: Callable[[], float], state: str) -> float:
            if state == "cold":
                forget(disk)
            return run()

        time.sleep(61)  # what is younger than a minute is not taken for quiet
        ours(known)
        for state in ("warm", "cold", "unchanged"):
            du()
            run = partial(ours, known) if state == "unchanged" else ours
            candidates = {"survived": partial(prepared, run, state), "du -s": partial(prepared, du, state)}
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
