"""
The answer to "am I fine?", made from the status document alone: one line, or one token for a prompt, and an exit code.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from survived.tell import quotas
from survived.terms import CacheState, Pressure, Reason
from survived.units import print_seconds, print_share, sentence

if TYPE_CHECKING:
    from collections.abc import Mapping

_DAY = 86400.0
_FINE = ("ok", "paused")
_DOWN, _PERSON = 3, 5
"""The exit codes of `errors.py` for a daemon that is not running and for what a person should look at."""


def verdict(doc: Mapping[str, Any]) -> tuple[str, str]:
    """Return the answer to "am I fine?": a word of alarm (ok, high, flood, down, paused, trouble) and one line of text."""
    worst = fullest(doc)
    if worst is None:
        return "trouble", "No filesystem is watched. See: survivectl check"
    standing = _standing(worst)
    hindrance = _hindrance(doc)
    if not doc["daemon"]["running"]:
        return "down", f"The daemon is not running; {standing}. Start it: systemctl --user start survived"
    if worst["pressure"] != Pressure.NORMAL:
        doing_now = doing(doc["move"]) or hindrance or _next(doc)
        return worst["pressure"], sentence(f"{standing}; {doing_now}")
    if worst["usage"] >= worst["high"]:
        return "high", sentence(f"{standing}; {doing(doc['move']) or hindrance or 'if it stays so, caches are moved'}")
    lost = _lost(doc)
    if lost:
        names = ", ".join(cache["id"] for cache in lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        where = disk_of(lost[0]["target"] or lost[0]["path"])
        return "trouble", f"{standing}, but {names} cannot be reached: what '{where}' held is not there."
    if doc["problems"]:
        return "trouble", sentence(f"{standing}; {doc['problems'][0]}")
    if doc["daemon"].get("paused"):
        return "paused", f"{standing}; {hindrance}"
    if hindrance:
        return "trouble", sentence(f"{standing}, but {hindrance}")
    left = worst["seconds_to_full"]
    soon = f"; at this rate it is full in {print_seconds(left)}" if left is not None and left < _DAY else ""
    moving = f"; {doing(doc['move'])}" if doc["move"] else ""
    return "ok", f"{standing}{soon}{moving}."


def brief(doc: Mapping[str, Any], style: str = "plain") -> dict[str, Any]:
    """
    Return what `status --short` says: `alarm` and `line` of the verdict, `text` for a prompt, "" when all is well, `exit_code`.

    The text is one token: `"/ 93%"`, with an arrow while something moves, `"/ 98%!"` in a flood, `"pip lost"`, `"survived paused"`,
    `"survived down / 93%"`, `"survived trouble"`. The code is 0 for ok and paused, 3 for a daemon that is not running, 5 for the
    rest. `style` is "plain", "tmux" (with `#[fg=…]`, and `#` doubled) or "zsh" (with `%F{…}`, and `%` doubled, for PROMPT_SUBST).
    """
    alarm, line = verdict(doc)
    worst = fullest(doc)
    level = "" if worst is None else f"{worst['mount']} {print_share(_share(worst)).replace(' ', '')}"
    words = {"ok": "", "paused": "survived paused", "down": f"survived down {level}".rstrip(), "flood": f"{level}!"}
    text = words.get(alarm, level)
    if alarm == "trouble":
        lost = _lost(doc)
        text = f"{lost[0]['id']} lost" if lost else "survived trouble"
    elif alarm in ("high", "flood") and doc["move"]:
        text += f" → {doc['move']['id']}"
    code = 0 if alarm in _FINE else _DOWN if alarm == "down" else _PERSON
    text = styled(text, "yellow" if alarm in ("high", "paused") else "red", style)
    return {"alarm": alarm, "line": line, "text": text, "exit_code": code}


def styled(text: str, colour: str, style: str) -> str:
    """Return a token as the prompt of a program shows it: whatever a name holds is text there, and nothing else."""
    text = "".join(char if char.isprintable() else "�" for char in text)
    if not text or style == "plain":
        return text
    if style == "tmux":
        return f"#[fg={colour}]{text.replace('#', '##')}#[default]"
    return f"%F{{{colour}}}{text.replace('%', '%%')}%f"


def fullest(doc: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the filesystem that the verdict is about, or None if none is watched."""
    return max(doc["filesystems"], key=lambda fs: (Pressure(fs["pressure"]).rank, fs["usage"]), default=None)


def doing(move: Mapping[str, Any] | None) -> str:
    """Return what the running move does, or ""."""
    if move is None:
        return ""
    return f"bringing {move['id']} home" if move["verb"] == "restore" else f"moving {move['id']} to {disk_of(move['target'])}"


def disk_of(target: str) -> str:
    """Return the user's directory on the data disk that holds a target, or the target if it is in no store."""
    disk, found, _ = target.partition("/survived/trees/")
    return disk if found else target


def seconds_between(one: str, other: str) -> float:
    """Return the seconds from one RFC 3339 time to another, 0 if it is not later."""
    return max(0.0, (datetime.fromisoformat(other) - datetime.fromisoformat(one)).total_seconds())


def _lost(doc: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [cache for cache in doc["caches"] if cache["state"] == CacheState.DANGLING]


def _share(fs: Mapping[str, Any]) -> float:
    """Return the usage that is the trouble: of bytes, or of inodes."""
    return float(fs["inodes_usage"] if _lacks_inodes(fs) else fs["usage"])


def _lacks_inodes(fs: Mapping[str, Any]) -> bool:
    return bool(fs["pressure"] != Pressure.NORMAL and fs["usage"] < fs["low"] and "inodes_high" in fs)


def _standing(fs: Mapping[str, Any]) -> str:
    """Return how full one filesystem is, in bytes, or in inodes where those are the trouble."""
    if _lacks_inodes(fs):
        has = f"{quotas.whose(fs)} has {print_share(fs['inodes_usage'])} of its inodes in use"
        return f"{has}, high is {print_share(fs['inodes_high'])}"
    return f"{quotas.whose(fs)} is {print_share(fs['usage'])} full, high is {print_share(fs['high'])}"


def _next(doc: Mapping[str, Any]) -> str:
    """Return what the daemon is about to move, or why the biggest thing that could be moved is not."""
    plan = doc.get("plan") or {"moves": (), "refusals": ()}
    if plan["moves"]:
        return f"{plan['moves'][0]['id']} is moved next"
    sizes = {cache["id"]: cache["size_bytes"] for cache in doc["caches"]}
    staying = [item for item in plan["refusals"] if item["reason"] not in (Reason.ALREADY_LINK, Reason.NOT_NEEDED)]
    if not staying:
        return "nothing that survived knows can be moved. See: survivectl plan"
    biggest = max(staying, key=lambda item: sizes.get(item["id"], 0))
    return f"nothing can be moved now. {biggest['id']}: {biggest['why']}"


def _hindrance(doc: Mapping[str, Any]) -> str:
    """Return what keeps the daemon from moving anything at all, with the next command where there is one."""
    if doc["daemon"].get("paused"):
        until = doc["daemon"]["paused_until"]
        left = f" for {print_seconds(seconds_between(doc['time'], until))}" if until else ""
        return f"moving is paused{left}: survivectl resume"
    if not doc["stores"]:
        return "there is no data disk to move anything to. Name one under [data] disks"
    if not any(store["ok"] for store in doc["stores"]):
        return f"no data disk can be used: {doc['stores'][0]['reason']}"
    return ""
