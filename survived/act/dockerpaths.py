"""
Absolute paths of docker's root: those that docker keeps in its containers' files, and the old root, out of the way for the proof.

docker keeps where a volume is with each container that has it (MountPoints in config.v2.json) and evaluates that path at the
next start, whatever its root is by then (moby: volume/mounts, MountPoint.Setup; seen with 20.10).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat

from survived.act import fs
from survived.act.replica import is_own_disk

_ASIDE = ".survived-old"
_KEYS = "Source|LogPath|HostnamePath|HostsPath|ResolvConfPath"


def rewrite(root: str, old: str, new: str) -> int:
    """Have the containers' files below a copy `root` name `new` where they name `old`; return how many were changed."""
    pattern = re.compile(rb'("(?:%s)":\s*")%s(?=[/"])' % (_KEYS.encode(), re.escape(_as_json(old))))
    changed = 0
    try:
        containers = sorted(os.listdir(os.path.join(root, "containers")))
    except FileNotFoundError:
        return 0
    for container in containers:
        path = os.path.join(root, "containers", container, "config.v2.json")
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            with open(path, "rb") as file:
                before, mode = file.read(), stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            after = pattern.sub(lambda match: match[1] + _as_json(new), before)
            if after != before:
                fs.write_file(path, after, mode)
                changed += 1
    return changed


def _as_json(path: str) -> bytes:
    """Return a path as Go writes it in JSON."""
    text = json.dumps(os.fsencode(path).decode("utf-8", "replace"), ensure_ascii=False)[1:-1]
    for character in "&<>\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()


def place_of(root: str) -> str:
    """Return where an old root is: out of the way, or where it always was."""
    aside = root + _ASIDE
    return aside if os.path.lexists(aside) and not os.path.lexists(root) else root


def set_aside(root: str) -> None:
    """Put an old root out of the way, durably; a mount point stays, and so does what is aside already."""
    if os.path.isdir(root) and not is_own_disk(root) and not os.path.lexists(root + _ASIDE):
        _rename(root, root + _ASIDE)


def put_back(root: str) -> None:
    """Give an old root its place again; one that has it is fine."""
    if place_of(root) != root:
        _rename(place_of(root), root)


def _rename(one: str, other: str) -> None:
    with fs.opened(os.path.dirname(one), follow=True) as fd:
        fs.rename_new(fd, os.path.basename(one), fd, os.path.basename(other))
