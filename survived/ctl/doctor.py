"""
`survivectl doctor`: what on this machine will fill the disk again or break us, each with the reason and what mends it.

Changes nothing: `surroundings.py` looks, `decide/doctor.py` judges. Exit code 0 for nothing found, 5 for what needs a person.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from survived.ctl.look import fitting, has_colour, width
from survived.ctl.main import print_json, printable
from survived.decide.doctor import OK, examine
from survived.errors import NeedsPerson
from survived.tell.columns import entry, painted, plain
from survived.units import sentence

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from survived.decide.doctor import Finding

_TINTS = {"ok": "32", "warning": "33", "failure": "31"}
_INDENT = 9


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `doctor`."""
    parser.add_argument("--all", action="store_true", help="also what is as it should be")


def run(args: argparse.Namespace) -> int:
    """Print what is wrong; return 0 if nothing is, else 5."""
    from survived.ctl.surroundings import read_facts

    findings = examine(read_facts(args))
    wrong = [finding for finding in findings if finding.state != OK]
    if args.json:
        print_json(
            {
                "ok": not wrong,
                "findings": [
                    {"check": f.check, "state": f.state, "subject": f.subject, "text": f.text, "command": f.command}
                    for f in findings
                ],
            }
        )
    else:
        print("\n".join(fitting(line) for line in _lines(findings if args.all else wrong, len(findings))))
    return NeedsPerson.exit_code if wrong else 0


def _lines(findings: Sequence[Finding], count: int) -> Iterator[str]:
    paint, columns = painted if has_colour() else plain, width()
    for finding in findings:
        yield from entry(
            finding.state, sentence(f"{finding.subject}: {finding.text}"), columns, paint, _TINTS[finding.state], indent=_INDENT
        )
        if finding.command is not None and finding.state != OK:
            yield f"{'':{_INDENT}}{paint(printable(finding.command), '1')}"  # in one line, to be taken as it is
    wrong = sum(finding.state != OK for finding in findings)
    if wrong == 0:
        yield f"Nothing found: {count} things are as they should be."
    else:
        yield f"{wrong} of {count} things need a person."
