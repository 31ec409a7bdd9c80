"""
What the words of a path in catalog.toml stand for: `~`, `$NAME`, `{cache}`, `{base}`, `{mounts}` and the like.

Only looks whether paths exist; of network filesystems not even that, as a dead server would hold us up.
"""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from survived.settings.paths import xdg_directory
from survived.settings.toolfiles import read_tool_file
from survived.settings.values import tidy

if TYPE_CHECKING:
    from collections.abc import Mapping

_XDG = {"cache": ("XDG_CACHE_HOME", ".cache"), "config": ("XDG_CONFIG_HOME", ".config"), "data": ("XDG_DATA_HOME", ".local/share")}
_BASES = ("miniforge3", "miniconda3", "anaconda3", "mambaforge")
_SYSTEM_BASES = ("/opt/conda", "/opt/miniforge3", "/opt/miniconda3", "/opt/anaconda3")
_OCTAL = re.compile(r"\\([0-7]{3})")
_MAGIC = re.compile(r"[*?\[]")
_MOST_FILES = 100


@dataclass(frozen=True, slots=True)
class Surroundings:
    """
    The user that locations are followed for; `caveats` collects what was passed over and why.

    `root` stands before /etc, /proc and /usr, for tests. `uid` -1: nobody in particular, and not root.
    """

    env: Mapping[str, str]
    home: str
    root: str = "/"
    uid: int = -1
    caveats: list[str] = field(default_factory=list)

    def system(self, path: str) -> str:
        """Return where a system's path lies."""
        return os.path.join(self.root, path.lstrip("/"))

    def variable(self, name: str, *, any_case: bool = False) -> tuple[str, str]:
        """Return a variable's value, "" if unset, and its name as it is spelt; npm takes its own in any case."""
        if any_case:
            spellings = sorted((other for other in self.env if other.lower() == name.lower()), reverse=True)
            name = next((other for other in spellings if self.env[other]), name)
        return self.env.get(name, ""), name

    def user(self) -> str:
        """Return the user's name, the home's if no variable says it."""
        return self.env.get("USER") or os.path.basename(self.home)


def fill(template: str, here: Surroundings, *, any_case: bool = False) -> list[tuple[str, str]]:
    """Return the paths that a template of the catalogue gives, each with its rule; none if its variable is not set."""
    if template.startswith("~"):
        return [(here.home + template[1:], "default")]
    if template.startswith("$"):
        name, slash, rest = template[1:].partition("/")
        value, name = here.variable(name, any_case=any_case)
        return [(value + slash + rest, name)] if value else []
    word, _, rest = template[1:].partition("}") if template.startswith("{") else ("", "", "")
    rest = rest.replace("$USER", here.user())
    if word == "base":
        return [(base + rest, rule) for base, rule in conda_bases(here)]
    if word == "config_dirs":
        return [(folder + rest, rule) for folder, rule in _config_dirs(here)]
    if word == "mounts":
        return [(mount.rstrip("/") + rest, f"mounted at {mount}") for mount in mount_points(here)]
    if word == "tmp":
        return [(folder + rest, rule) for folder, rule in _temporary(here)]
    if word in _XDG:
        name, default = _XDG[word]
        given = xdg_directory(here.env, name)
        return [(given + rest, name)] if given else [(f"{here.home}/{default}{rest}", "default")]
    return [(template.replace("$USER", here.user()), "default")]


def fill_files(template: str, here: Surroundings, *, any_case: bool = False) -> list[str]:
    """Return the files that a template names, as their tool knows them; `*` in a name stands for all that are there, sorted."""
    files = []
    for path, _ in fill(template, here, any_case=any_case):
        if "*" not in template:
            files.append(path)
        elif os.path.isabs(path):
            place = here.system(path) if is_of_system(path) else path
            found = sorted(glob.glob(os.path.join(glob.escape(os.path.dirname(place)), os.path.basename(place))))[:_MOST_FILES]
            files += [os.path.join(os.path.dirname(path), os.path.basename(each)) for each in found]
    return files


def is_of_system(path: str) -> bool:
    """Tell whether a path is one of the system's own, which `root` stands before."""
    return path.startswith(("/etc/", "/proc/", "/usr/", "/var/lib/conda/"))


def has_wildcard(path: str) -> bool:
    """Tell whether a path is a pattern; one that is there under its very name is not."""
    return _MAGIC.search(path) is not None and not os.path.lexists(path)


def _config_dirs(here: Surroundings) -> list[tuple[str, str]]:
    given = [folder for folder in here.env.get("XDG_CONFIG_DIRS", "").split(":") if os.path.isabs(folder)]
    return [(folder, "XDG_CONFIG_DIRS") for folder in given] or [("/etc/xdg", "default")]


def _temporary(here: Surroundings) -> list[tuple[str, str]]:
    """Return the directory that Python's tempfile would take; it skips what does not exist."""
    for name in ("TMPDIR", "TEMP", "TMP"):
        if os.path.isabs(value := here.env.get(name, "")) and os.path.isdir(value):
            return [(tidy(value), name)]
    return [("/tmp", "default")]  # noqa: S108  only named


def mount_points(here: Surroundings) -> list[str]:
    """Return where filesystems of local disks are mounted, in the order of the kernel; network ones are left out."""
    text, _ = read_tool_file(here.system("/proc/self/mountinfo"))
    mounts: dict[str, None] = {}
    for line in (text or "").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) > 4 and len(kind) > 1 and kind[1].startswith("/dev/") and kind[0] not in ("squashfs", "iso9660", "vfat"):
            mount = _OCTAL.sub(lambda match: chr(int(match.group(1), 8)), fields[4])
            mounts[mount] = None
    return list(mounts)


def conda_bases(here: Surroundings) -> list[tuple[str, str]]:
    """Return the conda installations that the environment or their usual places name, each with the rule that found it."""
    env = here.env
    found: dict[str, str] = {}
    executable = env.get("CONDA_EXE", "")
    hints = [(os.path.dirname(os.path.dirname(executable)), "CONDA_EXE")]
    prefix = env.get("CONDA_PREFIX", "")
    # An environment `<base>/envs/NAME` is no installation; the base around it is.
    around = os.path.dirname(os.path.dirname(prefix)) if os.path.basename(os.path.dirname(prefix)) == "envs" else prefix
    hints.append((around, "CONDA_PREFIX"))
    hints += [(os.path.join(here.home, name), "default") for name in _BASES]
    if here.root == "/":
        hints += [(base, "default") for base in _SYSTEM_BASES]
    for base, rule in hints:
        if os.path.isabs(base) and os.path.isdir(os.path.join(base, "conda-meta")):
            found.setdefault(tidy(base), rule)
    mamba = env.get("MAMBA_ROOT_PREFIX", "")
    if os.path.isabs(mamba) and os.path.isdir(mamba):  # micromamba has no conda-meta of its own
        found.setdefault(tidy(mamba), "MAMBA_ROOT_PREFIX")
    return list(found.items())
