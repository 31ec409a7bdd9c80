"""
The edits by which variables reach everything a user starts: bash, zsh, fish and sh, `ssh host command`, systemd's user services.

Shells export a variable only while the store's marker is there. One that a script inherited is left alone, except in the first
shell of a session, where it came from somebody's system-wide file. systemd cannot ask, so it gets the path in any case.
"""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING

from survived.act.edits import Edit

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_LOGIN_FILES = (".bash_profile", ".bash_login", ".profile")
LONGEST_TMPDIR = 50
"""A socket's path has 107 bytes, and VS Code's names take 53 of them, tmux's and ssh-agent's fewer."""


def variable_edits(
    tool: str, variables: Mapping[str, str], marker: str, home: str, config: str, shells: Collection[str], *, make: bool = False
) -> list[Edit]:
    """
    Return the edits that set `variables` for one tool.

    `shells`: those installed, by name; a shell whose files are there counts too. `make`: the values are folders that a login makes.
    """
    block = _posix(variables, marker, make=make)
    edits = [Edit(f"{home}/{file}", "block", key, block) for file, key in _start_files(tool, home, shells)]
    if "fish" in shells or os.path.isdir(f"{config}/fish"):
        text = f"# By survived.\n{_fish(variables, marker, make=make)}\n"
        edits.append(Edit(f"{config}/fish/conf.d/survived-{tool}.fish", "file", (), text))
    file = f"{config}/environment.d/50-survived.conf"
    return edits + [Edit(file, "environment", (name,), value) for name, value in variables.items()]


def _start_files(tool: str, home: str, shells: Collection[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Return the start files and the block's key in each; .bashrc at its top, since Debian's ends early without a terminal."""
    there = [name for name in _LOGIN_FILES if os.path.lexists(f"{home}/{name}")]
    login = list(dict.fromkeys([*there[:1], *(name for name in there if name == ".profile")])) or [".profile"]
    files: list[tuple[str, tuple[str, ...]]] = [(name, (tool,)) for name in login]
    if "bash" in shells or os.path.lexists(f"{home}/.bashrc"):
        files.append((".bashrc", (tool, "top")))
    if "zsh" in shells or any(os.path.lexists(f"{home}/{name}") for name in (".zshenv", ".zshrc", ".zprofile")):
        files.append((".zshenv", (tool,)))
    return files


def _posix(variables: Mapping[str, str], marker: str, *, make: bool) -> str:
    lines = [f"if [ -f {shlex.quote(marker)} ]; then"]
    for name, value in variables.items():
        path, inherited = shlex.quote(value), f'[ "${{SHLVL:-1}}" -gt 1 ] && [ -n "${{{name}-}}" ]'
        if make:
            lines.append(f"  [ -d {path} ] || mkdir -m 700 {path} 2>/dev/null")
            inherited = f"[ ! -w {path} ] || {{ {inherited}; }}"
        lines.append(f"  {inherited} || export {name}={path}")
    return "\n".join([*lines, "fi"])


def _fish(variables: Mapping[str, str], marker: str, *, make: bool) -> str:
    lines = [f"if test -f {_fish_quoted(marker)}"]
    for name, value in variables.items():
        path = _fish_quoted(value)
        if make:
            lines.append(f"    test -d {path}; or mkdir -m 700 {path} 2>/dev/null")
        asked = f"if test -w {path}; and begin; " if make else "if begin; "
        lines += [
            f'    {asked}not set -q SHLVL; or test "$SHLVL" -le 1; or not set -q {name}; end',
            f"        set -gx {name} {path}",
            "    end",
        ]
    return "\n".join([*lines, "end"])


def _fish_quoted(text: str) -> str:
    return "'" + re.sub(r"(['\\])", r"\\\1", text) + "'"


def tmpdir_edits(place: str, marker: str, home: str, config: str, shells: Collection[str], age: str) -> list[Edit]:
    """Return the edits for TMPDIR: the variable, and the folder cleaned by age (`e` never makes it where the disk is missing)."""
    lines = f"# By survived: what is not used for {age} is removed.\ne {_specified(place)} 0700 - - {age}\n"
    timer = "# By survived.\n[Unit]\nWants=systemd-tmpfiles-clean.timer\n"
    return [
        *variable_edits("tmpdir", {"TMPDIR": place}, marker, home, config, shells, make=True),
        Edit(f"{config}/user-tmpfiles.d/survived.conf", "file", (), lines),
        Edit(f"{config}/systemd/user/default.target.d/survived-tmpfiles.conf", "file", (), timer),
    ]


def _specified(path: str) -> str:
    """Return a path as tmpfiles.d has it: quoted where it needs to be, % doubled."""
    path = path.replace("%", "%%")
    return path if re.fullmatch(r"[\w/.%+@,:-]+", path) else '"' + re.sub(r'(["\\])', r"\\\1", path) + '"'


def find_setter(name: str, files: Collection[str]) -> str | None:
    """Return the first of some start files in which somebody else than we sets a variable."""
    own = re.compile(r"# >>> survived: .*?# <<< survived: [^\n]*", re.DOTALL)
    sets = re.compile(rf"^[^#\n]*(?:\b{name}=|\bset\s+(?:-\S+\s+)+{name}\b)", re.MULTILINE)
    for path in files:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                if sets.search(own.sub("", file.read(1 << 20))):
                    return path
        except OSError:
            continue
    return None
