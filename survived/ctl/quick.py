"""
The entry of `survivectl`: answers a plain `status` at once, and hands everything else to `main.py`.

A prompt or a monitor asks for the status again and again. The daemon renders it; here is only what it takes to ask,
without argparse, dataclasses and the rest. Whatever is unusual goes the long way, which knows what to say about it.
"""

from __future__ import annotations

import os
import sys

_PLAIN = (["status"], ["status", "--json"])
_SHORT = ("--short", "--quiet")
_STYLES = ("plain", "tmux", "zsh")


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
    if sys.stdout is not None:
        if _is_short(words) and (code := _short(_socket(runtime), words)) is not None:
            return code
        if words in _PLAIN and os.path.isabs(runtime):
            text = _ask(os.path.join(runtime, "survived", "control.sock"), as_json="--json" in words)
            if text is not None and (code := _print(text)) is not None:
                return code
    from survived.ctl.main import main as run

    return run(words)


def _is_short(words: list[str]) -> bool:
    is_styled = len(words) == 3 and words[1] == "--short" and words[2] in _STYLES
    return words[:1] == ["status"] and (is_styled or (len(words) == 2 and words[1] in _SHORT))


def _socket(runtime: str) -> str:
    """Return where the daemon is asked, as `settings.paths` has it: root's may be the system's."""
    uid = os.getuid()
    folder = f"{runtime}/survived" if os.path.isabs(runtime) else "/run/survived" if uid == 0 else f"/run/user/{uid}/survived"
    if not os.path.isabs(runtime) and uid != 0 and not os.path.isdir(f"/run/user/{uid}"):
        folder = f"/tmp/survived-{uid}"  # noqa: S108  the daemon's last resort; the client looks at who listens there
    own, system = f"{folder}/control.sock", "/run/survived/control.sock"
    return system if uid == 0 and not os.path.lexists(own) else own


def _short(socket: str, words: list[str]) -> int | None:
    """Answer `status --short [STYLE]` or `--quiet`; return the exit code, or None if that needs the long way."""
    from survived.ctl import short

    try:
        said = short.ask(socket, *words[2:])
        short.show(said, is_line=words[1] == "--quiet")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:  # noqa: BLE001  the long way meets the same failure and explains it
        return None
    return int(said["exit_code"])


def _ask(path: str, *, as_json: bool) -> str | None:
    """Return the daemon's own words, or None if that needs the long way."""
    if not os.path.exists(path):
        return None
    from survived.tell.control import ControlClient

    columns, colour = 80, False
    try:
        columns = os.get_terminal_size(sys.stdout.fileno()).columns or columns  # 0: nobody has set it
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
