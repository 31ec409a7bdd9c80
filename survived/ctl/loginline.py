"""
`survivectl install --login-line`: a marked block in the start files of login shells that tells, only when something is wrong.

The block runs `survivectl status --quiet`, in interactive shells only. What was there before is in the record of the install,
so that uninstall leaves every byte as it was; a block that was changed by hand is its owner's and stays.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import shutil
import sys
from typing import TYPE_CHECKING, Any

from survived.act.blockfile import BLOCK
from survived.act.dialect import Unreadable
from survived.act.dotfile import missing_folders, read_dotfile, remove_dotfile, sum_of, write_dotfile
from survived.errors import SurvivedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from survived.act.ballast import Ballast

NAME = "survived: login line"
"""What the marks of the block say."""
_KEY = ("login line",)
_BASH = (".bash_profile", ".bash_login", ".profile")  # the first that is there is the one that bash reads


def start_files(home: str, env: Mapping[str, str], shell: str) -> tuple[str, ...]:
    """
    Return the files that get the line: of the login shell `shell`, and of each shell that has its files in `home`.

    Of bash and the other shells of the Bourne family it is the file that they read now; ~/.profile if there is none.
    """
    name = os.path.basename(shell)
    files = []
    found = [os.path.join(home, file) for file in _BASH if os.path.lexists(os.path.join(home, file))]
    if found or name not in ("zsh", "fish"):
        files.append(found[0] if found else os.path.join(home, ".profile"))
    folder = env.get("ZDOTDIR") or home
    if name == "zsh" or any(os.path.lexists(os.path.join(folder, file)) for file in (".zshrc", ".zprofile")):
        files.append(os.path.join(folder, ".zprofile"))
    fish = os.path.join(env.get("XDG_CONFIG_HOME") or os.path.join(home, ".config"), "fish")
    if name == "fish" or os.path.isdir(fish):
        files.append(os.path.join(fish, "conf.d", "survived.fish"))
    return tuple(files)


def login_shell() -> str:
    """Return the login shell of our user; "" where there is no account."""
    try:
        return pwd.getpwuid(os.getuid()).pw_shell
    except KeyError:
        return os.environ.get("SHELL", "")


def command() -> str:
    """Return how survivectl is called from anywhere, quoted: the script beside our interpreter, else the interpreter itself."""
    script = os.path.join(os.path.dirname(sys.executable), "survivectl")
    found = script if os.access(script, os.X_OK) else shutil.which("survivectl")
    return shlex.join([found] if found else [sys.executable, "-P", "-m", "survived.ctl.quick"])


def block(file: str, order: str) -> str:
    """Return what stands between the marks in a start file."""
    program = shlex.quote(shlex.split(order)[0])
    if file.endswith(".fish"):
        return f"if status is-login; and status is-interactive; and test -x {program}\n    {order} status --quiet 2>/dev/null\nend"
    return f"case $- in *i*) if [ -x {program} ]; then {order} status --quiet 2>/dev/null || :; fi ;; esac"


def plan(file: str, before: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """
    Return what will undo the block in a start file, to be kept before it is written; None where it is somebody's own by now.

    `before` is what an earlier install kept of this file. Raises `Refused` or `SurvivedError` for a file that cannot be edited.
    """
    there, text = read_dotfile(file), block(file, command())
    with _said(file):
        shown = BLOCK.read(there.text, _KEY, text)
        rest = BLOCK.drop(there.text, _KEY, "").encode("utf-8", "surrogateescape")
    if shown is not None and shown not in (text, (before or {}).get("block")):
        return None
    if before is not None:
        return {**before, "block": text}
    return {"block": text, "sum": sum_of(rest if there.data is not None else None), "folders": list(missing_folders(there))}


def put(file: str, made: Mapping[str, Any], ballast: Ballast) -> None:
    """Put the planned block into a start file. Raises `Refused` or `SurvivedError`: then the file is as it was."""
    there = read_dotfile(file)
    with _said(file):
        after = BLOCK.put(there.text, _KEY, str(made["block"])).encode("utf-8", "surrogateescape")
    if after != there.data:
        write_dotfile(there, after, ballast)


def take(file: str, recorded: Mapping[str, Any], ballast: Ballast, *, dry_run: bool = False) -> bool:
    """
    Take the block back out, and the file and folders where we made them; return whether it was there and ours.

    Raises `Refused` or `SurvivedError` where the file cannot be read or written: then it is as it was.
    """
    there = read_dotfile(file)
    try:
        if there.data is None or BLOCK.read(there.text, _KEY, "") != recorded["block"]:
            return False
        rest = BLOCK.drop(there.text, _KEY, "").encode("utf-8", "surrogateescape")
    except Unreadable:
        return False
    if dry_run:
        return True
    for shorter in (rest.removesuffix(b"\n"), rest.removesuffix(b"\n").removesuffix(b"\r")):
        if sum_of(shorter) == recorded["sum"]:  # its last line had no end until we came
            rest = shorter
            break
    if not rest and recorded["sum"] == "":
        remove_dotfile(there, recorded["folders"])
    else:
        write_dotfile(there, rest, ballast)
    return True


def is_there(file: str) -> bool:
    """Tell whether a file has the block, or what is left of one."""
    with contextlib.suppress(SurvivedError):
        return NAME in read_dotfile(file).text
    return False


@contextlib.contextmanager
def _said(file: str) -> Iterator[None]:
    try:
        yield
    except Unreadable as error:
        raise SurvivedError(f"Cannot edit '{file}': {error}. It is left as it is.") from error
