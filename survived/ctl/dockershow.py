"""
What `survivectl docker` shows: a plan with its diff and its steps, and the same as documents for JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from survived.ctl.main import printable
from survived.tell.wire import path_fields
from survived.units import print_bytes, print_time

if TYPE_CHECKING:
    from survived.act.dockerplan import Situation
    from survived.act.dockerstate import Part, State


def show_plan(now: Situation, parts: tuple[Part, ...], size: int | None) -> None:
    from survived.act import dockerconfig

    info = now.info
    print(printable(f"docker {info.version} with {info.driver}" if info else "docker does not answer"))
    for part in parts:
        print(printable(f"{part.name}: '{part.old}' → '{part.new}'"))
    if size is not None:
        print(f"{print_bytes(size)} are copied; docker and its containers stand still for as long.")
    for part in parts:
        print(printable_lines(f"\n{dockerconfig.diff(part)}"))


def printable_lines(text: str) -> str:
    """Return text of several lines that a terminal can show."""
    return "\n".join(printable(line) for line in text.split("\n"))


def show_steps(steps: list[dict[str, Any]]) -> None:
    for step in steps:
        print(printable(f"# {step['text']}"))
        print(printable_lines(step["command"]))


def describe(now: Situation) -> dict[str, Any]:
    info = now.info
    docker = {
        "host": now.dockerd.host, "answers": info is not None, "version": info.version if info else None,
        "driver": info.driver if info else None, "containerd_store": info.containerd_store if info else None,
        "rootless": now.rootless, "config": now.config, "service": now.unit.manner if now.unit else None,
    }  # fmt: skip
    return {"docker": {**docker, **path_fields(now.root, "root")}}


def state_document(state: State) -> dict[str, Any]:
    moved, act = state.moved, state.act
    return {
        "moved": None
        if moved is None
        else {"since": print_time(moved.since), "parts": [ends_document(part) for part in moved.parts]},
        "unfinished": None if act is None else {"step": act.step.value, "parts": [ends_document(part) for part in act.parts]},
        "left": [path_fields(root) for root in state.left],
    }


def ends_document(part: Part) -> dict[str, Any]:
    return {"name": part.name, **path_fields(part.old, "old"), **path_fields(part.new, "new")}


def part_document(part: Part) -> dict[str, Any]:
    from survived.act import dockerconfig

    return {**ends_document(part), "config": part.config, "key": part.key, "diff": dockerconfig.diff(part)}
