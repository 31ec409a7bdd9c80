"""
The one key that says where docker's or containerd's data is, changed and put back; and the drop-in that waits for its disk.

The engine of reversible edits finds, sets and takes out the key; what was there before lies in docker's own journal, whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from survived.act import edits, fs
from survived.act.dialect import Unreadable
from survived.act.dockerd import complaint, run
from survived.act.dotfile import missing_folders, read_dotfile, remove_dotfile, write_dotfile
from survived.act.formats import FORMATS
from survived.errors import ConfigError, SurvivedError, cause_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from survived.act.ballast import Ballast
    from survived.act.dockerstate import Part
    from survived.act.dockerunit import Unit

_GUARD = """\
# Written by survivectl docker apply, removed by survivectl docker undo: docker's data is on this disk. Without it docker
# must not start, for it would begin anew, empty, in the mount point on the root filesystem.
[Unit]
RequiresMountsFor={paths}
{asserts}
"""


def read(path: str) -> bytes | None:
    """Return a configuration file, None if there is none. Raises as `read_dotfile` does."""
    return read_dotfile(path).data


def read_keys(path: str) -> dict[str, Any]:
    """Return the keys of a configuration, {} without a file; `ConfigError` names the mistake and its place."""
    try:
        text = read_dotfile(path).text.removeprefix("\ufeff")
    except SurvivedError:
        if is_readable(path):
            raise
        return {}  # another user asks, who gets what docker itself says
    if not text.strip():
        return {}
    try:
        found = _parse(path, text)
    except ValueError as error:
        line = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else str(error)
        kind = "TOML" if path.endswith(".toml") else "JSON"
        raise ConfigError(
            f"Cannot read '{path}': it is not valid {kind} ({line.rstrip('.')}). It was left as it is.",
            "Correct it (docker would not start with it, either), then come again.",
        ) from error
    if not isinstance(found, dict):
        raise ConfigError(f"Cannot read '{path}': its top is no object. It was left as it is.", "Correct it, then come again.")
    return found


def is_readable(path: str) -> bool:
    """Tell whether we may read a configuration, or would see it if it were there."""
    return os.access(path, os.R_OK) or (
        not os.path.lexists(path) and os.access(os.path.dirname(os.path.dirname(path)) or "/", os.X_OK)
    )


def _parse(path: str, text: str) -> Any:
    if not path.endswith(".toml"):
        return json.loads(text)
    import tomllib

    return tomllib.loads(text)


def says(part: Part, root: str) -> bool:
    """Tell whether the part's configuration has its data in `root`. `ConfigError` if it cannot be understood."""
    return os.path.normpath(str(read_keys(part.config).get(part.key) or part.default)) == root


def planned(part: Part) -> Part:
    """Return the part with its configuration as it is and as it will be. Raises `ConfigError` and as `edits.plan` does."""
    read_keys(part.config)
    (change,) = edits.plan([edits.Edit(part.config, _format(part), (part.key,), part.new)])
    return replace(part, before=change.before, after=change.after)


def put_back(part: Part) -> bytes | None:
    """
    Return what the configuration is to be when the part goes back: as before, byte for byte, if nobody else changed it.

    Else only the key becomes what it was, and what was changed beside it stays. None is no file.
    """
    file = read_dotfile(part.config)
    if file.data == part.after or file.data is None:
        return part.before
    dialect, key = FORMATS[_format(part)], (part.key,)
    try:
        was = dialect.read((part.before or b"").decode("utf-8", "surrogateescape"), key, part.old) if part.before else None
        text = dialect.drop(file.text, key, part.new) if was is None else dialect.put(file.text, key, was)
    except Unreadable as error:
        raise edits.unreadable(part.config, error) from error
    return text.encode("utf-8", "surrogateescape")


def _format(part: Part) -> str:
    return "toml" if part.config.endswith(".toml") else "json"


def diff(part: Part) -> str:
    """Return a unified diff of what the part changes in its configuration."""
    return edits.diff_of(part.config, part.before, part.after)


def check_writable(part: Part, ballast: Ballast) -> None:
    """Try that there is room, and leave, for the new configuration beside the old one; raises `SurvivedError`."""
    folder = os.path.dirname(os.path.realpath(part.config))
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)

    def try_it() -> None:
        with tempfile.NamedTemporaryFile(prefix=".survived-", dir=folder) as file:
            file.write((part.after or b"") + bytes(4096))
            file.flush()
            os.fsync(file.fileno())

    try:
        with fs.opened(folder) as fd:
            ballast.with_room(try_it, fd)
    except OSError as error:
        why = cause_of(error)
        raise SurvivedError(
            f"Cannot edit '{part.config}': {why}. Nothing was changed.", "Free a little room there first: survivectl hogs."
        ) from error


def validate(part: Part, env: Mapping[str, str]) -> None:
    """Have docker itself check the new configuration, where it can (since version 23); `SurvivedError` with what it says."""
    if part.name != "docker" or part.after is None or "--validate" not in run(["dockerd", "--help"], env).stdout:
        return
    with tempfile.TemporaryDirectory(prefix="survived-") as folder:
        path = os.path.join(folder, "daemon.json")
        with open(path, "wb") as file:
            file.write(part.after)
        done = run(["dockerd", "--validate", f"--config-file={path}"], env)
    if done.returncode != 0:
        why = f"docker says: {complaint(done)}"
        raise ConfigError(f"Cannot use '{part.config}' with the key '{part.key}': {why}. Nothing was changed.")


def write(part: Part, data: bytes | None, ballast: Ballast) -> None:
    """Put a configuration in place, durably and in one step; None removes it, with the folders that were made for it."""
    file = read_dotfile(part.config)
    if data is None:
        if file.data is not None:
            remove_dotfile(file, part.folders)
        return
    if file.data == data:
        return
    for folder in missing_folders(file):
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o755)
    write_dotfile(file, data, ballast)


def folders_for(part: Part) -> tuple[str, ...]:
    """Return the folders that have to be made for a configuration, outermost first."""
    return missing_folders(read_dotfile(part.config))


def guard_path(unit: Unit, env: Mapping[str, str]) -> str:
    """Return where the drop-in belongs that keeps docker from starting without its disk; "" without systemd."""
    if unit.manner != "systemd" or shutil.which("systemctl", path=env.get("PATH")) is None:
        return ""
    config_home = env.get("XDG_CONFIG_HOME") or os.path.join(env.get("HOME", "/"), ".config")
    base = os.path.join(config_home, "systemd/user") if unit.user else "/etc/systemd/system"
    return os.path.join(base, f"{unit.names[-1]}.d", "survived.conf")


def set_guard(path: str, roots: Sequence[str]) -> bool:
    """Have docker wait for these roots, or, with none, for nothing any more; return whether anything was changed."""
    if not roots:
        changed = fs.remove_file(path) if os.path.lexists(path) else False
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(path))
        return changed
    asserts = "\n".join(f"AssertPathIsDirectory={_escaped(root)}" for root in roots)
    asserts += "".join(f"\nAssertPathIsMountPoint={_escaped(root)}" for root in roots if os.path.ismount(root))
    text = _GUARD.format(paths=" ".join(_escaped(root) for root in roots), asserts=asserts)
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    with contextlib.suppress(OSError), open(path, encoding="utf-8") as file:
        if file.read() == text:
            return False
    fs.write_file(path, text.encode(), 0o644)
    return True


def _escaped(path: str) -> str:
    """Return a path as a unit's file takes it: `%` is a specifier there, and a blank ends a word."""
    return path.replace("\\", "\\\\").replace("%", "%%").replace(" ", "\\x20")
