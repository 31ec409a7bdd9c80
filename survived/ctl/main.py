"""
The `survivectl` command: finds the verb, imports only its module, turns errors into one sentence and an exit code.

stdout is the answer, stderr the talk; with `--json` an error is an object on stdout too.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from survived import __version__
from survived.errors import Refused, SurvivedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

VERBS: dict[str, tuple[str, str]] = {
    "status": ("look", "am I fine? pressure, filesystems, caches, the running move"),
    "plan": ("look", "what would be moved and what not, each with its reason"),
    "measure": ("look", "caches, or any paths, by size and by what moving them frees"),
    "list": ("look", "what lives on a data disk behind a link"),
    "relocate": ("move", "move a cache or a directory to a data disk and leave a link"),
    "restore": ("move", "bring relocated caches home, byte for byte"),
    "recover": ("move", "finish or undo what a crash left"),
    "pause": ("steer", "move nothing for a while"),
    "resume": ("steer", "move again"),
    "reload": ("steer", "read the configuration again"),
    "check": ("check", "test configuration, data disks and daemon"),
    "notify": ("notify", "test the delivery of notices"),
    "install": ("install", "write a configuration, install and start the service"),
    "uninstall": ("uninstall", "take back what install did"),
    "demo": ("demo", "see all of it happen in a sandbox, in half a minute"),
}
_EXAMPLES = """\
examples:
  survivectl status                 am I fine?
  survivectl plan                   what would happen, and why not more
  survivectl relocate pip           move pip's cache now
  survivectl restore pip            and bring it home again
  survivectl measure ~/.cache/*     what is big there

Every verb has --help and --json. Exit codes: 0 done, 1 failed, 2 usage, 3 daemon not running, 4 refused,
5 needs a person, 6 bad configuration, 130 interrupted.
"""


class _Parser(argparse.ArgumentParser):
    """argparse, but one sentence and no usage dump for a mistake."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"Cannot understand the command: {message}.", f"Run {self.prog} --help.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in words
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except SurvivedError as error:
        return _fail(error, as_json=as_json)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has enough; nothing may be printed at exit any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(words: Sequence[str]) -> int:
    top = _Parser(prog="survivectl", formatter_class=argparse.RawDescriptionHelpFormatter, epilog=_EXAMPLES, add_help=False)
    top.description = "Keeps / from filling up: moves caches to a data disk and leaves links.\n\n" + "\n".join(
        f"  {verb:<11} {text}" for verb, (_, text) in VERBS.items()
    )
    top.usage = "survivectl [--config FILE] VERB [...]"
    top.add_argument("-h", "--help", action="store_true", help="show this")
    top.add_argument("--version", action="version", version=f"survivectl {__version__}")
    top.add_argument("--config", metavar="FILE", help="another configuration file")
    top.add_argument("verb", nargs="?", help=argparse.SUPPRESS)
    top.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = top.parse_args(words)
    if args.verb is None:
        if args.help:
            top.print_help()
            return 0
        raise UsageError("Cannot guess what to do: no verb was given.", "Run survivectl --help.")
    if args.verb not in VERBS:
        near = difflib.get_close_matches(args.verb, VERBS, 1)
        raise UsageError(
            f"Cannot '{args.verb}': no such verb.", f"Did you mean 'survivectl {near[0]}'?" if near else "Run survivectl --help."
        )
    module_name, text = VERBS[args.verb]
    module: Any = importlib.import_module(f"survived.ctl.{module_name}")
    parser = _Parser(prog=f"survivectl {args.verb}", description=text[0].upper() + text[1:] + ".")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--config", metavar="FILE", default=args.config, help="another configuration file")
    configure = getattr(module, f"configure_{args.verb}", None) or module.configure
    run = getattr(module, f"run_{args.verb}", None) or module.run
    configure(parser)
    rest = [*(["--help"] if args.help else []), *args.rest]
    return int(run(parser.parse_args(rest)))


def _fail(error: SurvivedError, *, as_json: bool) -> int:
    print(f"survivectl: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"  {error.hint}", file=sys.stderr)
    if as_json:
        reason = error.reason.value if isinstance(error, Refused) else None
        print_json({"error": {"message": error.message, "hint": error.hint, "exit_code": error.exit_code, "reason": reason}})
    return error.exit_code


def print_json(answer: dict[str, Any]) -> None:
    """Print one answer as one object with its schema number."""
    print(json.dumps({"schema": 1, **answer}, ensure_ascii=False, indent=2))


if __name__ == "__main__":
    sys.exit(main())
