"""What Tab gives in a real bash, zsh and fish; and the manual page as mandoc and man read it."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from survived.ctl.main import VERBS
from tests.rig.world import ROOT

pytestmark = pytest.mark.real

CASES = [
    ("survivectl relo", "relocate"),
    ("survivectl status --wat", "--watch"),
    ("survivectl status --short tm", "tmux"),
    ("survivectl relocate pi", "pip"),
    ("survivectl restore pip uv-ca", "uv-cache"),
    ("survivectl history --html pag", "page.html"),
    ("survivectl completion fi", "fish"),
    ("survivectl redirect apply tmpd", "tmpdir"),
]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home with a `survivectl` that is ours in ~/bin, and a file to complete."""
    ours = tmp_path / "bin/survivectl"
    ours.parent.mkdir()
    ours.write_text(
        f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.quote(sys.executable)} -m survived.ctl.quick "$@"\n'
    )
    ours.chmod(0o755)
    (tmp_path / "page.html").touch()
    return tmp_path


def environment(home: Path) -> dict[str, str]:
    """Return what the shells run with."""
    run = home / "run"
    run.mkdir(exist_ok=True, mode=0o700)
    return {"HOME": str(home), "PATH": f"{home}/bin:/usr/bin:/bin", "TERM": "dumb", "LANG": "C.UTF-8", "XDG_RUNTIME_DIR": str(run)}


def run(home: Path, *command: str, text: str = "") -> str:
    """Run a shell and return what it prints; nothing may be wrong with it."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(
        command, env=environment(home), cwd=home, input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def script(home: Path, shell: str) -> Path:
    """Write the script for one shell and return its path."""
    place = home / f"survivectl.{shell}"
    place.write_text(run(home, str(home / "bin/survivectl"), "completion", shell))
    return place


def test_bash_completes(home: Path) -> None:
    """Verbs, options, choices, ids of caches and files, by the function that Tab calls."""
    lines = [
        f"source {script(home, 'bash')}",
        'survivectl status --json >/dev/null; f=$(complete -p survivectl | sed "s/.*-F //;s/ .*//")',
    ]
    for line, _ in CASES:
        words = " ".join(map(shlex.quote, line.split()))
        lines.append(
            f'COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1)); COMPREPLY=(); $f 2>/dev/null; echo "${{COMPREPLY[*]}}"'
        )
    found = run(home, "bash", "-c", "\n".join(lines)).splitlines()
    assert [wanted in given.split() for (_, wanted), given in zip(CASES, found, strict=True)] == [True] * len(CASES), found


def test_fish_completes(home: Path) -> None:
    """By fish's own `complete -C`, which is what Tab asks."""
    lines = [f"source {script(home, 'fish')}", *(f"complete -C {shlex.quote(line)} | string join '|'; echo" for line, _ in CASES)]
    found = [block for block in run(home, "fish", "-c", "\n".join(lines)).split("\n") if block]
    given = [{item.partition("\t")[0] for item in block.split("|")} for block in found]
    assert [wanted in words for (_, wanted), words in zip(CASES, given, strict=True)] == [True] * len(CASES), found


class Zsh:
    """A zsh at a terminal, whose Tab is pressed."""

    def __init__(self, home: Path) -> None:
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            os.chdir(home)
            os.execve(shutil.which("zsh") or "", ["zsh", "-f", "-i"], {**environment(home), "TERM": "xterm", "COLUMNS": "200"})
        self._seen = ""

    def type(self, text: str) -> None:
        """Press keys."""
        self._seen = ""
        os.write(self._fd, text.encode())

    def wait(self, pattern: str, seconds: float = 40.0) -> str:
        """Wait for what is shown; return all that was since the last keys."""
        end = time.monotonic() + seconds
        while not re.search(pattern, self._seen):
            assert time.monotonic() < end, f"no {pattern!r} in {self._seen!r}"
            if select.select([self._fd], [], [], 0.2)[0]:
                self._seen += os.read(self._fd, 65536).decode(errors="replace")
        return self._seen

    def close(self) -> None:
        """End it."""
        os.kill(self._pid, 9)
        os.waitpid(self._pid, 0)
        os.close(self._fd)


@pytest.fixture
def zsh(home: Path) -> Iterator[Zsh]:
    """Return a zsh that has loaded the completion as the examples say."""
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    found = Zsh(home)
    found.type("PS1='READY> '; unset zle_bracketed_paste; autoload -U compinit; compinit -u -D\n")
    found.type("eval \"$(survivectl completion zsh)\"; echo load''ed\n")
    found.wait("loaded")
    yield found
    found.close()


def test_zsh_completes(zsh: Zsh) -> None:
    """What is typed and Tab give the whole word on the line."""
    for line, wanted in CASES:
        zsh.type(f"\x15{line}\t")
        last = line.split()[-1]
        shown = zsh.wait(re.escape(wanted[len(last) :]) if wanted != "pip" else "pipx")
        assert "command not found" not in shown


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_verb_and_option_is_in_the_script(shell: str, home: Path) -> None:
    """The words come from the parsers: a verb that is added is completed."""
    text = script(home, shell).read_text()
    assert [verb for verb in VERBS if not re.search(rf"\b{verb}\b", text)] == []
    assert "--explain" in text or "-l explain" in text


# ---- the manual page ----------------------------------------------------------------------------------------------


def test_the_manual_page_is_clean(home: Path) -> None:
    """mandoc finds nothing to complain of, and shows every verb, exit code and file; written where it is asked for."""
    said = run(home, str(home / "bin/survivectl"), "man", "share/man")
    page = home / "share/man/man1/survivectl.1"
    assert said == f"Wrote '{page}'.\n"
    assert run(home, "mandoc", "-Tlint", str(page)) == ""
    text = re.sub(".\b", "", run(home, "mandoc", "-Tutf8", str(page)))
    assert [verb for verb in VERBS if f"\n   {verb}\n" not in text] == []
    assert "EXIT STATUS" in text
    assert "130" in text
    assert "~/.config/survived/config.toml" in text
    assert "PS1='$(survivectl status --short) '" in text  # quotes that can be copied
