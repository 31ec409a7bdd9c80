"""
The move of docker's data as commands for a person with root: what `survivectl docker apply` does, step by step.
"""

from __future__ import annotations

import os
import shlex
import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from survived.act.dockerplan import Situation
    from survived.act.dockerstate import Part
    from survived.act.dockerunit import Unit

_WRONG = "If anything is wrong: back to where it was"
_WELL = "Only if all is well: remove the old data"


def list_steps(now: Situation, parts: tuple[Part, ...]) -> list[dict[str, Any]]:
    """
    Return the steps in their order, each with what it does (`text`), a shell command (`command`), and `when` it is to be done:
    "always", "if wrong" (and then nothing after it), or "if well".
    """
    return [{"text": text, "command": command, "when": _when(text)} for text, command in _steps(now, parts)]


def _when(text: str) -> str:
    return "if wrong" if text == _WRONG else "if well" if text == _WELL else "always"


def _steps(now: Situation, parts: tuple[Part, ...]) -> Iterator[tuple[str, str]]:
    sudo = "" if now.rootless or os.geteuid() == 0 else "sudo "
    units = [unit for unit in (now.unit, now.containerd_unit if len(parts) > 1 else None) if unit is not None]
    ask = "docker image ls --all --quiet --no-trunc; docker ps --all --quiet --no-trunc; docker volume ls --quiet"
    yield "Note what is there", f"({ask}) | sort -u >/tmp/docker-before; docker ps >/tmp/docker-running"
    if now.info is not None and now.info.live_restore:
        yield "Stop the containers: with live-restore they would run on", "docker stop $(docker ps --quiet)"
    for unit in units:
        yield (
            f"Stop {unit.title}" + (" and its socket, which would start it again" if len(unit.names) > 1 else ""),
            (f"{sudo}{unit.stop_command}"),
        )
    for part in parts:
        yield f"Copy {part.name}'s data with hard links, attributes, device nodes and owners", _copy(now, part, sudo)
    for part in parts:
        if part.name == "docker":
            yield "Have the containers' files name their volumes in the new place", _rewrite(now, part, sudo)
        yield from _edit(part, sudo)
    for unit in reversed(units):
        yield f"Start {unit.title}", f"{sudo}{unit.start_command}"
    yield f"It must say {parts[-1].new}", "docker info --format '{{.DockerRootDir}}'"
    yield (
        "Compare: nothing must be printed. Then start what ran before, and look at it",
        (f"({ask}) | sort -u | diff /tmp/docker-before -"),
    )
    yield _WRONG, "; ".join(_back(parts, units, sudo))
    yield _WELL, "; ".join(_removal(now, part.old, sudo) for part in parts)


def _copy(now: Situation, part: Part, sudo: str) -> str:
    old, new = shlex.quote(part.old), shlex.quote(part.new)
    if shutil.which("rsync") is not None:
        copy = f"rsync -aHAXS --numeric-ids --one-file-system {old}/ {new}/"
    else:
        copy = f"mkdir -p {new} && cp -ax {old}/. {new}/"
    return f"{_inside(now)}sh -c {shlex.quote(copy)} && sync" if now.rootless else f"{sudo}{copy} && sync"


def _rewrite(now: Situation, part: Part, sudo: str) -> str:
    pattern = f's,"(Source|LogPath|HostnamePath|HostsPath|ResolvConfPath)":"{part.old}([/"]),"\\1":"{part.new}\\2,g'
    command = f"find {shlex.quote(part.new)}/containers -name config.v2.json -exec sed -E -i {shlex.quote(pattern)} {{}} +"
    return f"{_inside(now) or sudo}{command}"


def _inside(now: Situation) -> str:
    """Return what runs a command as the root of a rootless docker's user namespace, in which its files have their owners."""
    return "unshare --user --map-root-user --map-auto --setuid 0 --setgid 0 " if now.rootless else ""


def _removal(now: Situation, old: str, sudo: str) -> str:
    return f"{_inside(now)}rm -rf --one-file-system {shlex.quote(old)}" if now.rootless else (
        f"{sudo}rm -rf --one-file-system {shlex.quote(old)}"
    )  # fmt: skip


def _edit(part: Part, sudo: str) -> Iterator[tuple[str, str]]:
    config = shlex.quote(part.config)
    if part.before is None and part.after is None:  # we may not read it
        yield f'Add the key "{part.key}" with the value "{part.new}" there, and nothing else', f"{sudo}editor {config}"
        return
    if part.before is not None:
        yield f"Keep '{part.config}' as it is", f"{sudo}cp -a {config} {config}.before"
    text = (part.after or b"").decode("utf-8", "replace")
    command = (
        f"{sudo}mkdir -p {shlex.quote(os.path.dirname(part.config))} && {sudo}tee {config} >/dev/null <<'END'\n{text.rstrip()}\nEND"
    )
    if part.after is None:
        command = f"{sudo}rm {config}"
    yield f"Set {part.key} there, and nothing else", command
    if part.name == "docker" and part.after is not None:
        yield "Have docker check it (version 23 and later)", f"{sudo}dockerd --validate --config-file={config}"


def _back(parts: tuple[Part, ...], units: list[Unit], sudo: str) -> Iterator[str]:
    for unit in units:
        yield f"{sudo}{unit.stop_command}"
    for part in parts:
        config = shlex.quote(part.config)
        yield f"{sudo}mv {config}.before {config}" if part.before is not None else f"{sudo}rm {config}"
    for unit in reversed(units):
        yield f"{sudo}{unit.start_command}"
