"""
The verbs that steer the daemon: pause, resume, reload. Without a daemon there is nothing to steer: exit code 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from survived.ctl import local
from survived.ctl.main import print_json
from survived.errors import UsageError
from survived.units import parse_seconds, print_seconds

if TYPE_CHECKING:
    import argparse


def configure_pause(parser: argparse.ArgumentParser) -> None:
    """Add the duration of `pause`."""
    parser.add_argument("duration", nargs="?", help="how long, such as 1h or 30min; until `resume` if it is not given")


def run_pause(args: argparse.Namespace) -> int:
    """Tell the daemon to move nothing by itself for a while; a running move goes on."""
    try:
        seconds = None if args.duration is None else parse_seconds(args.duration)
    except ValueError as error:
        raise UsageError(f"Cannot pause: {error}.") from error
    answer = local.ask("pause", seconds=seconds)
    return _say(
        args, answer, f"Moving is paused {'until survivectl resume' if seconds is None else 'for ' + print_seconds(seconds)}."
    )


def configure_resume(parser: argparse.ArgumentParser) -> None:
    """`resume` has no options of its own."""


def run_resume(args: argparse.Namespace) -> int:
    """Tell the daemon to move again."""
    return _say(args, local.ask("resume"), "Moving goes on.")


def configure_reload(parser: argparse.ArgumentParser) -> None:
    """`reload` has no options of its own."""


def run_reload(args: argparse.Namespace) -> int:
    """Have the configuration read again; a bad one is refused (exit code 6) and the old one stays in use."""
    return _say(args, local.ask("reload"), "The configuration was read again.")


def _say(args: argparse.Namespace, answer: dict[str, Any], sentence: str) -> int:
    if args.json:
        print_json(answer)
    else:
        print(sentence)
    return 0
