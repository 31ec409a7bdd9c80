"""
The tests that find something else each time, with new seeds until the time is over: `python tests/soak.py --minutes 60`.

Each round takes one seed through the law (tests/unit/test_law.py) and through power cuts (tests/real/test_power_cut.py), and
the first round each step of each operation (tests/unit/test_crash.py), which has no seed. Ends at the first failure with
the command that repeats it. Exit codes: 0 nothing was found, 1 something was.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from pathlib import Path

HOUSE = Path(__file__).resolve().parent.parent
SEEDED = ("tests/unit/test_law.py", "tests/real/test_power_cut.py")
ENUMERATED = "tests/unit/test_crash.py"


def run(test: str, seed: int) -> bool:
    """Run one file of tests with a seed and tell whether it passed; what it said is shown if not."""
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-o", "timeout=3600", test]
    began = time.monotonic()
    done = subprocess.run(
        words, cwd=HOUSE, env={**os.environ, "SURVIVED_TEST_SEED": str(seed)}, capture_output=True, text=True, check=False
    )
    passed = done.returncode == 0
    print(f"{'passed' if passed else 'FAILED'}  {test}  seed {seed}  {time.monotonic() - began:.0f} s", flush=True)
    if not passed:
        print(done.stdout, done.stderr, f"Again: SURVIVED_TEST_SEED={seed} {' '.join(words)}", sep="\n")
    return passed


def main() -> int:
    """Run rounds until the time is over; a round that has begun is ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, help="of the first round; each further one takes the next (default: any)")
    chosen = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 31) if chosen.seed is None else chosen.seed
    end, tests = time.monotonic() + chosen.minutes * 60, [*SEEDED, ENUMERATED]
    while time.monotonic() < end:
        if not all(run(test, seed) for test in tests):
            return 1
        seed, tests = seed + 1, [*SEEDED]
    return 0


if __name__ == "__main__":
    sys.exit(main())
