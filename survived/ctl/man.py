"""
`survivectl man [DIR]`: the manual page, made from the parsers, the errors and the examples; printed, or put into DIR/man1.

In the macros of man(7). Our own, as argparse-manpage knows only what argparse does: no exit codes, files, or examples.
"""

from __future__ import annotations

import argparse
import os
import re
import textwrap
import time
from typing import TYPE_CHECKING

from survived import __version__
from survived.act import fs
from survived.ctl.completion import whole_parser
from survived.ctl.examples import EXAMPLES
from survived.ctl.main import VERBS, print_json, printable
from survived.ctl.tables import EXIT_CODES, TABLES
from survived.errors import SurvivedError, cause_of
from survived.units import sentence

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = "survivectl.1"
_SOURCE_COLUMNS = 64  # and a little more with escapes
_FILES = (
    ("~/.config/survived/config.toml", "the configuration, every key optional; /etc/survived/config.toml in root mode"),
    ("$XDG_RUNTIME_DIR/survived/control.sock", "the socket at which the daemon is asked"),
    ("~/.local/state/survived", "what is remembered at home: which stores there are, and what install made"),
    ("<data disk>/survived", "a store: the trees that were moved, the journal, the samples of the history"),
)
_VARIABLES = (
    ("SURVIVED_SECTION__KEY", "overrides a key of the configuration, such as SURVIVED_WATCH__HIGH=85%"),
    ("NO_COLOR", "if set, nothing is coloured"),
    ("XDG_CONFIG_HOME, XDG_STATE_HOME, XDG_RUNTIME_DIR", "where the files above are"),
)

_ESCAPES = str.maketrans({"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", '"': "\\(dq"})


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the directory of `man`."""
    parser.add_argument("directory", nargs="?", metavar="DIR", help="put the page into DIR/man1 instead of printing it")
    parser.add_argument("--table", choices=sorted(TABLES), help="print one table of the documentation instead, as Markdown")


def run(args: argparse.Namespace) -> int:
    """Print the page, or write it and say where. `SurvivedError` where it cannot be written."""
    text = TABLES[args.table]() if args.table is not None else page()
    if args.directory is None or args.table is not None:
        if args.json:
            print_json({"page": text})
        else:
            print(text, end="")
        return 0
    path = os.path.join(os.path.abspath(os.path.expanduser(args.directory)), "man1", PAGE)
    try:
        fs.write_file(path, text.encode(), 0o644)
    except OSError as error:
        why = cause_of(error)
        raise SurvivedError(f"Cannot write '{printable(path)}': {why}. Nothing was changed.") from error
    if args.json:
        print_json({"path": path})
    else:
        print(f"Wrote '{printable(path)}'.")
    return 0


def page() -> str:
    """Return the whole page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    date = time.strftime("%Y-%m-%d", time.gmtime(float(os.environ.get("SOURCE_DATE_EPOCH") or time.time())))
    parser = whole_parser()
    yield f'.TH SURVIVECTL 1 {date} "survived {__version__}" "User Commands"'
    yield from (".SH NAME", "survivectl \\- keep the root disk from filling up", ".SH SYNOPSIS")
    yield from (".B survivectl", "[\\fB\\-\\-config\\fR \\fIFILE\\fR] \\fIVERB\\fR [...]", ".SH DESCRIPTION")
    yield from _paragraph(
        f"{parser.description} The work is done by the daemon, survived; this command asks it, or acts itself where none runs."
    )
    yield from (".SH VERBS",)
    below = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for verb, one in below.choices.items():
        yield from _verb(verb, one)
    yield ".SH EXIT STATUS"
    for code, meaning in EXIT_CODES.items():
        yield from _item(str(code), meaning)
    yield ".SH ENVIRONMENT"
    for name, what in _VARIABLES:
        yield from _item(name, what)
    yield ".SH FILES"
    for name, what in _FILES:
        yield from _item(name, what)
    yield from (".SH SEE ALSO", ".BR systemctl (1),", ".BR journalctl (1),", ".BR df (1)")


def _verb(verb: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f".SS {_text(verb)}"
    usage = re.sub(r"\s+", " ", parser.format_usage().removeprefix("usage: ")).strip()
    yield from (f".B {_text(usage)}", ".PP")
    yield from _paragraph(sentence(VERBS[verb][1]))
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or "--help" in action.option_strings or "--json" in action.option_strings:
            continue
        if isinstance(action, argparse._SubParsersAction):
            for word, one in action.choices.items():
                yield from _item(
                    re.sub(r"\s+", " ", one.format_usage().removeprefix(f"usage: survivectl {verb} ")).strip(),
                    _help_of(action, word),
                )
            continue
        name = str(action.metavar or "|".join(map(str, action.choices or ())) or action.dest.upper())
        head = ", ".join(action.option_strings) or name
        if action.option_strings and action.nargs != 0:
            head += f" [{name}]" if action.nargs == "?" else f" {name}"
        yield from _item(head, str(action.help or "What to do"))
    if found := EXAMPLES.get(verb):
        yield from (".PP", "Examples:")
        for command, what in found:
            yield from (".PP", ".RS 4", ".EX", _text(command), ".EE", ".RE", ".RS 8", *_paragraph(what), ".RE")


def _help_of(action: argparse._SubParsersAction[argparse.ArgumentParser], word: str) -> str:
    return next((str(one.help) for one in action._choices_actions if one.dest == word and one.help), "See its own --help")


def _item(head: str, text: str) -> Iterator[str]:
    yield from (".TP", f".B {_text(head)}")
    yield from _paragraph(text)


def _paragraph(text: str) -> Iterator[str]:
    """Yield a text as sentences in lines that are not too long for those who read the source."""
    text = sentence(f"{text[0].upper()}{text[1:]}" if not re.match(r"\w+_|~|/", text) else text)
    for line in textwrap.wrap(text, _SOURCE_COLUMNS, break_long_words=False, break_on_hyphens=False):
        yield _text(line)


def _text(text: str) -> str:
    """Return text as roff has it: no macro at the start of a line, no escapes, hyphens and quotes that can be copied."""
    plain = " ".join(text.split()).translate(_ESCAPES)
    return f"\\&{plain}" if plain.startswith((".", "\\(aq")) else plain
