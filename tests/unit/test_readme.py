"""The README says what the program does: its commands exist, its tables and outputs are the program's own."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from survived import errors
from survived.ctl.main import VERBS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_help_in_the_readme_is_the_programs_own() -> None:
    """The overview of verbs is what `survivectl --help` prints."""
    done = subprocess.run([sys.executable, "-m", "survived.ctl.main", "--help"], capture_output=True, text=True, check=True)
    shown = re.search(r"<!-- output: survivectl --help -->\n```text\n(.*?)```", README, re.DOTALL)
    assert shown is not None
    assert shown.group(1) == done.stdout


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines() if "survivectl" in line])
def test_every_command_in_the_readme_is_one(line: str) -> None:
    """Each survivectl line names a verb, and its options are the verb's."""
    for part in line.split("&&"):
        words = shlex.split(part, comments=True)
        if not words or not words[0].endswith("survivectl"):
            continue
        assert words[1] in VERBS
        action = [word for word in words[2:3] if words[1] == "offline"]  # its actions have parsers of their own
        done = subprocess.run(
            [sys.executable, "-m", "survived.ctl.main", words[1], *action, "--help"], capture_output=True, text=True, check=True
        )
        for option in (word for word in words[2:] if word.startswith("--")):
            assert option in done.stdout


def test_exit_codes_are_those_of_the_errors() -> None:
    """The table of exit codes is the table in errors.py, no code more and none less."""
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    assert listed == {0, errors.Refused.exit_code, *errors.BY_CODE}


def test_the_configuration_in_the_readme_is_valid(tmp_path: Path) -> None:
    """What the README shows as TOML loads as a configuration."""
    from survived.settings.config import load_settings

    (block,) = [block for block in blocks("toml") if "[watch]" in block]
    file = tmp_path / "config.toml"
    file.write_text(block.replace("mailtos://…", "mailtos://user:pass@example.org"), encoding="utf-8")
    file.chmod(0o600)
    settings = load_settings(file, {"HOME": str(tmp_path)}, str(tmp_path))
    assert settings.rules().bytes_marks.high.usage == 0.9
    assert tomllib.loads(block)["caches"]["my-models"]["limit"] == "50 GiB"


def test_the_figures_are_the_benchmarks() -> None:
    """Tables of the benchmark, in its order, stand between its marks under the line that names the machine."""
    figures = README.split("<!-- figures -->")[1].split("<!-- end figures -->")[0].strip().splitlines()
    assert re.fullmatch(r"\S+, \d+ cores, Linux \S+, Python 3\.\d+\.\d+", figures[0])
    titles = [line.split()[1] for line in figures if line.startswith("### ")]
    known = ["Moving", "Removing", "Memory", "Nasty", "Where", "A", "Measuring", "Asking,", "The"]
    assert titles == [title for title in known if title in titles]
    assert {"Moving", "Measuring", "Asking,", "The"} <= set(titles)


def test_links_lead_somewhere() -> None:
    """Every relative link in the README is a file of the project."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
