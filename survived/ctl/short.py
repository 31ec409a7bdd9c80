"""
`survivectl status --short` and `--quiet`: for prompts and login files, which nobody wants to wait for.

Imports next to nothing. A daemon that does not answer at once is told from one that is not there, and neither is waited for:
without a daemon only `/` is looked at, and nothing is measured.
"""

from __future__ import annotations

import os
import sys
from typing import Any

_PATIENCE_SECONDS = 1.0
_DOWN = 3
_FALLBACK = str.maketrans("→…�", ">~?")


def ask(socket: str, style: str = "plain") -> dict[str, Any]:
    """
    Return alarm, line, text and exit_code as `tell.verdict.brief` has them, from the daemon at `socket` or about its absence.

    Raises `SurvivedError` where a daemon answers that does not know the question.
    """
    if os.path.exists(socket):
        from survived.tell.control import ControlClient

        try:
            return dict(ControlClient(socket, _PATIENCE_SECONDS).call("status_short", style=style))
        except Exception as error:
            from survived.errors import DaemonNotRunning

            if "does not answer" in str(error):
                return _without(style, "silent", "The daemon does not answer", "See its log: journalctl --user -u survived")
            if not isinstance(error, DaemonNotRunning):
                raise
    return _without(style, "down", "The daemon is not running", "Start it: systemctl --user start survived")


def _without(style: str, word: str, why: str, hint: str) -> dict[str, Any]:
    """Return the answer that no daemon gives."""
    from survived.tell.verdict import styled
    from survived.units import print_share

    found = os.statvfs("/")
    used = found.f_blocks - found.f_bfree
    share = print_share(used / (used + found.f_bavail) if used + found.f_bavail else 0.0)
    text = styled(f"survived {word} / {share.replace(' ', '')}", "red", style)
    return {"alarm": "down", "line": f"{why}; / is {share} full. {hint}", "text": text, "exit_code": _DOWN}


def show(said: dict[str, Any], *, is_line: bool) -> None:
    """Print the token, or the line of the verdict where it is not fine; nothing at all when there is nothing to say."""
    text = str(said["text"])
    if is_line:
        text = "" if not text else f"survived: {said['alarm'].upper()}  {said['line']}"
    if text:
        encoding = sys.stdout.encoding or "ascii"
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            text = text.translate(_FALLBACK).encode(encoding, "replace").decode(encoding)
        print(text)
    sys.stdout.flush()
