"""Examples and tables are the program's own: every verb has some, every command in them is one, and the README's are printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from survived import errors
from survived.ctl.completion import whole_parser
from survived.ctl.examples import EXAMPLES, epilog
from survived.ctl.main import VERBS, Parser, configured, main
from survived.ctl.tables import EXIT_CODES, TABLES, markdown

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
COMMANDS = [(verb, command) for verb, found in EXAMPLES.items() for command, _ in found]


def test_every_verb_has_an_example_and_no_other_has_one() -> None:
    """In its --help, too."""
    assert set(EXAMPLES) == set(VERBS)
    for verb in VERBS:
        shown = configured(Parser(prog=f"survivectl {verb}"), verb).format_help()
        assert "examples:" in shown, verb
        assert "survivectl " in shown.split("examples:")[1], verb
    assert epilog("nonesuch") is None


@pytest.mark.parametrize(("verb", "command"), COMMANDS, ids=[command for _, command in COMMANDS])
def test_every_example_is_a_command(verb: str, command: str) -> None:
    """A shell understands it, and each survivectl in it names a verb and options that there are."""
    calls = re.findall(r"survivectl ([^|&;<>()#]+)", command)
    assert calls
    for call in calls:
        words = shlex.split(call.rstrip("'\""))
        assert words[0] in VERBS
        shown = configured(Parser(prog="x"), words[0]).format_help()
        options = [word for word in words[1:] if word.startswith("--")]
        assert [option for option in options if option not in shown] == []
    assert any(call.split()[0].strip("'\"") == verb for call in calls)


def test_exit_codes_are_those_of_the_errors() -> None:
    """None more and none less than what errors.py gives."""
    assert set(EXIT_CODES) == {0, errors.Refused.exit_code, *errors.BY_CODE}


@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_table_is_markdown_and_printed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The same number of cells in each line; `man --table` prints it."""
    text = TABLES[name]()
    lines = text.splitlines()
    assert len(lines) > 3
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {lines[0].count("|")}
    assert main(["man", "--table", name]) == 0
    assert capsys.readouterr().out == text


def test_a_bar_in_a_cell_is_no_border() -> None:
    """Nor a line end."""
    assert markdown(("a",), [("x|y\nz",)]) == "| a |\n|---|\n| x\\|y z |\n"


def test_tables_in_the_readme_are_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """What stands under the mark of a command is what it prints."""
    for command, table in re.findall(r"<!-- output: survivectl ([^>]*) -->\n((?:\|.*\n)+)", README):
        assert main(shlex.split(command)) == 0
        assert capsys.readouterr().out == table, command


def test_one_parser_has_all_of_them() -> None:
    """What completion and the manual page are made from knows every verb, and teaches ids and files."""
    parser = whole_parser()
    (below,) = [action for action in parser._actions if action.dest == "verb"]
    assert below.choices is not None
    assert set(below.choices) == set(VERBS)
    (what,) = [action for action in below.choices["restore"]._actions if action.dest == "what"]  # type: ignore[call-overload]
    assert what.complete["bash"] == "_survivectl_id_or_file"
