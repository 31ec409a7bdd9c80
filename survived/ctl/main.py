"""
The `survivectl` command: finds the verb, imports only its module, turns errors into one sentence and an exit code.

stdout is the answer, stderr the talk; with `--json` an error is an object on stdout too, and the only one.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from survived import __version__
from survived.errors import ConfigError, Refused, Stopped, SurvivedError, UsageError, cause_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

VERBS: dict[str, tuple[str, str]] = {
    "status": ("look", "am I fine? pressure, filesystems, caches, the running move"),
    "history": ("history", "usage over time with the marks and every move, as a plot or a page"),
    "doctor": ("doctor", "what on this machine will fill the disk again or break us, and what mends it"),
    "plan": ("plan", "what would be moved and what not, each with its reason"),
    "measure": ("look", "caches, or any paths, by size and by what moving them frees"),
    "catalog": ("catalog", "every cache that is known: where it is, by which rule, and whether it may be moved"),
    "hogs": ("hogs", "what else fills the disk, what may be done about it, and what grew"),
    "top": ("top", "explore what uses the disk, full screen: mark, move, restore"),
    "list": ("inventory", "what lives on a data disk behind a link"),
    "relocate": ("move", "move a cache or a directory to a data disk and leave a link"),
    "restore": ("move", "bring relocated caches home, byte for byte"),
    "rehome": ("move", "move what is relocated to another data disk"),
    "purge": ("purge", "empty a cache by its tool's own command, or see what that would remove"),
    "redirect": ("redirect", "have a tool keep its bytes on the data disk for good: list, plan, apply, undo"),
    "docker": ("docker", "docker's data-root on a data disk and back, as root"),
    "mirrors": ("mirrors", "where tools fetch from: list and probe mirrors, use one, take it back"),
    "offline": ("offline", "bundles for machines without network: pack here, verify and install there"),
    "orphans": ("guard", "trees on data disks that lost their link: link, remove or adopt"),
    "standin": ("guard", "a directory in place of a link until its data disk is back"),
    "verify": ("verify", "compare relocated trees with what is known of them"),
    "recover": ("recover", "finish or undo what a crash left"),
    "pause": ("steer", "move nothing for a while"),
    "resume": ("steer", "move again"),
    "reload": ("steer", "read the configuration again"),
    "check": ("check", "test configuration, data disks and daemon"),
    "notify": ("notify", "test the delivery of notices"),
    "metrics": ("metrics", "metrics for Prometheus, a dashboard and alert rules for them"),
    "install": ("install", "write a configuration, install and start the service"),
    "uninstall": ("uninstall", "take back what install did"),
    "demo": ("demo", "see all of it happen in a sandbox, in half a minute"),
    "completion": ("completion", "a script that completes commands in bash, zsh or fish"),
    "man": ("man", "the manual page, printed or put into a directory"),
}
_HELP = """\
usage: survivectl [--config FILE] VERB [...]

Keeps / from filling up: moves caches to a data disk and leaves links.

{verbs}

options:
  -h, --help        show this; with a verb, how the verb is used
  --version         show the version
  --config FILE     another configuration file
  --json            print one JSON object

examples:
  survivectl status                 am I fine?
  survivectl plan                   what would happen, and why not more
  survivectl relocate pip           move pip's cache now
  survivectl restore pip            and bring it home again
  survivectl measure ~/.cache/*     what is big there

Every verb has --help and --json. Exit codes: 0 done, 1 failed, 2 usage, 3 daemon not running, 4 refused,
5 needs a person, 6 bad configuration, 130 interrupted.
"""
_OTHER_WORDS = {
    "move": "relocate",
    "clean": "purge",
    "undo": "restore",
    "unlink": "restore",
    "ls": "list",
    "du": "measure",
    "test": "check",
}
_INTERMIXED = frozenset({"orphans", "redirect"})
"""The verbs whose options may stand between an action and its words."""
_WRITES_CONFIG = frozenset({"install", "uninstall", "demo"})
_STDOUT = 1


class Parser(argparse.ArgumentParser):
    """argparse, but one sentence and no usage dump for a mistake, and no abbreviations that a script would come to rely on."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter, **options})

    def print_help(self, file: Any = None) -> None:
        """Print the help so that a failure to write it is one; argparse's own way swallows it."""
        print(self.format_help(), end="", file=file)

    def error(self, message: str) -> NoReturn:
        hint = f"Run {self.prog} --help."
        if message.startswith("unrecognized arguments: "):
            unknown = message.partition(": ")[2]
            message = f"'{_short(unknown)}' is not known"
            if unknown.startswith("-") and (near := nearest(unknown.split()[0].partition("=")[0], self._option_string_actions)):
                hint = f"Did you mean '{near}'?"
        raise UsageError(f"Cannot understand the command: {message}.", hint)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    open_standard_descriptors()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(words)
        sys.stdout.flush()
    except SurvivedError as error:
        code = _fail(error, as_json="--json" in words)
    except KeyboardInterrupt:
        code = _fail(Stopped("Interrupted."), as_json="--json" in words)
    except BrokenPipeError:
        code = 0  # whoever read our output has enough
    except OSError as error:
        code = _fail(_explained(error), as_json=False)
    try:
        sys.stdout.flush()
    except OSError:
        # What could not be written would be tried again at exit, and the interpreter would end with code 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)
    return code


def open_standard_descriptors() -> None:
    """Give a closed stdin, stdout or stderr to /dev/null: else the next file that is opened gets its number, and our talk."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name, number in (("stdout", _STDOUT), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115  lives as long as we do
        if (reconfigure := getattr(getattr(sys, name), "reconfigure", None)) is not None:
            reconfigure(errors="backslashreplace")  # an odd file name or a narrow encoding ends no answer


def _run(words: list[str]) -> int:
    config, verb, rest = _split(words)
    if verb is None:
        if "--help" in rest:
            print(_HELP.format(verbs="\n".join(f"  {verb:<11} {text}" for verb, (_, text) in VERBS.items())), end="")
            return 0
        if "--version" in rest:
            print(f"survivectl {__version__}")
            return 0
        raise UsageError(
            "Cannot guess what to do: no verb was given.", "Am I fine? survivectl status. All verbs: survivectl --help."
        )
    if verb not in VERBS:
        near = _OTHER_WORDS.get(verb) or nearest(verb, VERBS)
        hint = f"Did you mean 'survivectl {near}'?" if near else "Run survivectl --help."
        raise UsageError(f"Cannot find the verb '{_short(verb)}': there is none of that name.", hint)
    module: Any = importlib.import_module(f"survived.ctl.{VERBS[verb][0]}")
    parser = configured(Parser(prog=f"survivectl {verb}"), verb, config)
    run = getattr(module, f"run_{verb}", None) or module.run
    try:
        args = (parser.parse_intermixed_args if verb in _INTERMIXED else parser.parse_args)(rest)
    except SystemExit as done:  # --help
        return int(done.code or 0)
    if args.config is not None and verb not in _WRITES_CONFIG and not os.path.exists(args.config):
        # Also where a running daemon answers, which does not read it: a mistake must not look like an answer.
        raise ConfigError(f"Cannot read '{args.config}': there is no such file. Nothing was done.", "Correct --config.")
    return int(run(args))


def configured(parser: argparse.ArgumentParser, verb: str, config: str | None = None) -> argparse.ArgumentParser:
    """Return the parser with all that its verb has: description, options, examples. `config` is what stood before the verb."""
    from survived.ctl.examples import epilog

    module_name, text = VERBS[verb]
    module: Any = importlib.import_module(f"survived.ctl.{module_name}")
    parser.description = f"{text[0].upper()}{text[1:]}."
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--config", metavar="FILE", default=config, help="another configuration file")
    (getattr(module, f"configure_{verb}", None) or module.configure)(parser)
    if "examples:" not in (parser.epilog or ""):
        parser.epilog = "\n\n".join(filter(None, (parser.epilog, epilog(verb))))
    return parser


def _split(words: Sequence[str]) -> tuple[str | None, str | None, list[str]]:
    """Return --config, the verb and what its own parser gets; the options before the verb count for every verb."""
    config: str | None = None
    before: list[str] = []
    at = 0
    while at < len(words) and words[at].startswith("-"):
        word, equals, value = words[at].partition("=")
        if word == "--config":
            if not equals and at + 1 == len(words):
                raise UsageError("Cannot understand the command: --config needs a file.", "Run survivectl --help.")
            config, at = (value, at) if equals else (words[at + 1], at + 1)
        elif words[at] in ("-h", "--help", "--version", "--json"):
            before.append("--help" if words[at] == "-h" else words[at])
        elif words[at] != "--":
            near = nearest(word, ("--help", "--version", "--config", "--json"))
            hint = f"Did you mean '{near}'?" if near else "Run survivectl --help."
            raise UsageError(f"Cannot understand the command: '{_short(words[at])}' is not known.", hint)
        at += 1
    if at < len(words) and words[at] == "help":
        before, at = [*before, "--help"], at + 1
    verb = words[at] if at < len(words) else None
    return config, verb, [*before, *words[at + 1 :]]


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return what a misspelt word most likely means, or None."""
    import difflib

    near = difflib.get_close_matches(word[:80].lower(), list(known), 1)
    return near[0] if near else None


def _short(word: str) -> str:
    return word if len(word) <= 60 else f"{word[:57]}..."


def _explained(error: OSError) -> SurvivedError:
    """Return the sentence for what no verb foresees: most likely nobody can take our answer."""
    why = cause_of(error)
    if error.filename is not None:
        return SurvivedError(f"Cannot use '{os.fsdecode(error.filename)}': {why}.")
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF, errno.EFBIG):
        return SurvivedError(f"Cannot write the answer: {why}.", "What was asked for may be done all the same: survivectl status.")
    return SurvivedError(f"Cannot go on: {why}.")


def _fail(error: SurvivedError, *, as_json: bool) -> int:
    say(f"survivectl: {error.message}", error.hint)
    if as_json:
        with suppress(OSError):
            print_json({"error": error_document(error)})
    return error.exit_code


def say(sentence: str, hint: str | None = None) -> None:
    """Say something beside the answer, on stderr; nobody has to be there to hear it."""
    with suppress(OSError):
        print(printable(sentence) + (f"\n  {printable(hint)}" if hint else ""), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Return text that a terminal can show: control characters and bytes that are not UTF-8 as `\\n`, `\\x1b`, `\\xff`."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else f"\\x{ord(c) - 0xDC00:02x}" if 0xDC80 <= ord(c) <= 0xDCFF else c.encode("unicode_escape").decode()
        for c in text
    )


def error_document(error: SurvivedError) -> dict[str, Any]:
    """Return an error for JSON."""
    reason = error.reason.value if isinstance(error, Refused) else None
    return {"message": error.message, "hint": error.hint, "exit_code": error.exit_code, "reason": reason}


def print_json(answer: dict[str, Any]) -> None:
    """Print one answer as one object with its schema number; bytes that are not UTF-8 become U+FFFD, `path_b64` has them."""
    import json

    text = json.dumps({"schema": 1, **answer}, ensure_ascii=False, indent=2)
    if not text.isascii():
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        if (sys.stdout.encoding or "utf-8").lower().replace("-", "") != "utf8":
            text = json.dumps(json.loads(text), indent=2)
    print(text)


if __name__ == "__main__":
    sys.exit(main())
