"""
The entry of `survivectl`: answers a plain `status` at once, and hands everything else to `main.py`.

A prompt or a monitor asks for the status again and again. The daemon renders it; here is only what it takes to ask,
without argparse, dataclasses and the rest. Whatever is unusual goes the long way, which knows what to say about it.
"""

from __future__ import annotations

import os
import sys

_PLAIN = (["status"], ["status", "--json"])


def main() -> int:
    """Run survivectl; return the exit code."""
    try:
        return _run()
    except KeyboardInterrupt:  # while the long way was still being loaded
        print("survivectl: Interrupted.", file=sys.stderr)
        return 130


def _run() -> int:
    words = sys.argv[1:]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if words in _PLAIN and os.path.isabs(runtime) and sys.stdout is not None:
        text = _ask(os.path.join(runtime, "survived", "control.sock"), as_json="--json" in words)
        if text is not None and (code := _print(text)) is not None:
            return code
    from survived.ctl.main import main as run

    return run(words)


def _ask(path: str, *, as_json: bool) -> str | None:
    """Return the daemon's own words, or None if that needs the long way."""
    if not os.path.exists(path):
        return None
    from survived.tell.control import ControlClient

    columns, colour = 80, False
    try:
        columns = os.get_terminal_size(sys.stdout.fileno()).columns
        colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    except (OSError, ValueError):  # no terminal
        columns = int(os.environ["COLUMNS"]) if os.environ.get("COLUMNS", "").isdigit() else columns
    try:
        return str(ControlClient(path).call("status_text", width=columns, colour=colour, as_json=as_json))
    except Exception:  # noqa: BLE001  the long way meets the same failure and explains it
        return None


def _print(text: str) -> int | None:
    """Print, and return the exit code; None if it could not be written, which `main.py` meets again and explains."""
    try:
        print(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return None
    return 0


if __name__ == "__main__":
    sys.exit(main())
