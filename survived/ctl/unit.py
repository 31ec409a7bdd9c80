"""
The unit as it is put in place: the shipped text with this interpreter and what the service cannot know by itself.

Pure text, except for `choose_environment`, which asks the interpreter whether it finds us.
"""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

import survived
from survived.settings.catalog import load_rules
from survived.settings.places import variables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Where tools and we ourselves keep things, besides what the catalogue names.
_PASSED_ON = ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "CONDA_EXE", "MAMBA_ROOT_PREFIX")
_OF_ONE_SHELL = frozenset({"VIRTUAL_ENV", "CONDA_PREFIX"})  # what happens to be active is not what the service shall see
_EXEC_START = re.compile(r"^ExecStart=.*$", re.MULTILINE)


def start_command(interpreter: str, config: str | None) -> list[str]:
    """Return the daemon's command line; `config` is a file that it would not find by itself."""
    # -P: nothing in the working directory, which is the user's home, is imported instead of the real thing.
    return [interpreter, "-P", "-m", "survived", *(["--config", config] if config else [])]


def render_unit(unit: str, command: Sequence[str], *, root_mode: bool, environment: Mapping[str, str]) -> str:
    """Return the shipped unit with this command line and environment; in root mode, for the system's manager."""
    start = "ExecStart=" + " ".join(_quoted(word) for word in command)
    passed = "".join(f"\nEnvironment={_quoted(f'{name}={value}')}" for name, value in sorted(environment.items()))
    unit = _EXEC_START.sub(lambda _: start + passed, unit, count=1)
    if root_mode:
        # background.slice is a user manager's; default.target is not what a server boots into by name.
        unit = unit.replace("\nSlice=background.slice\n", "\n").replace("=default.target", "=multi-user.target")
    return unit


def _quoted(word: str) -> str:
    """Return one word of a unit file's command line: % is a specifier there, and blanks split."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if re.search(r"[\s\"'\\;]", word) else escaped


def choose_environment(env: Mapping[str, str], interpreter: str) -> dict[str, str]:
    """
    Return the variables that the service needs and that systemd would not give it.

    A shell profile says where caches are (HF_HOME, PIP_CACHE_DIR, ...), and a service never reads one. Only values with
    a path in them are taken.
    """
    named = {name for rule in load_rules() for place in rule.locations for name in variables(place)}
    found = {name: env[name] for name in {*named, *_PASSED_ON} - _OF_ONE_SHELL if "/" in env.get(name, "")}
    package = os.path.abspath(survived.__path__[0])
    # A source tree on PYTHONPATH or in the current directory is not found by `-P -m survived` from elsewhere.
    plain = {name: value for name, value in env.items() if not name.startswith("PYTHON")}
    code = "import survived; print(survived.__path__[0])"
    done = subprocess.run([interpreter, "-P", "-c", code], cwd="/", env=plain, capture_output=True, text=True, check=False)
    if os.path.realpath(done.stdout.strip() or "/") != os.path.realpath(package):
        found["PYTHONPATH"] = os.path.dirname(package)
    return found


def is_short_lived(interpreter: str) -> bool:
    """Whether a clean-up may delete the interpreter: below a cache or a temporary directory."""
    parts = interpreter.split(os.sep)
    return ".cache" in parts or interpreter.startswith(("/tmp/", "/var/tmp/", "/dev/shm/"))  # noqa: S108 - only compared
