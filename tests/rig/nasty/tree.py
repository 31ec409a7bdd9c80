"""What a nasty tree is, and what its builder gets."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from survived.model import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True)
class Context:
    """
    What a builder works with: `root` exists and is empty, `outside` is a folder on the same filesystem beside it.

    `home` holds both. What `stack` is given is undone after the tree was judged: mounts, processes, chattr.
    """

    root: Path
    outside: Path
    home: Path
    stack: ExitStack

    def below(self, name: str) -> Context:
        """Return the same for a folder of the root."""
        return dataclasses.replace(self, root=self.root / name)

    def file(self, name: str | bytes, content: bytes = b"content\n") -> Path:
        """Write a file below the root, making its folders."""
        path = Path(os.fsdecode(bytes(self.root) + b"/" + os.fsencode(name)))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def folder(self, name: str | bytes) -> Path:
        """Make a folder with one file in it below the root."""
        return self.file(os.fsencode(name) + b"/f").parent

    @contextmanager
    def as_root(self) -> Iterator[None]:
        """Do what an ordinary user may not, while a tree of his is built."""
        user, group = os.geteuid(), os.getegid()
        os.seteuid(0)
        os.setegid(0)
        try:
            yield
        finally:
            os.setegid(group)
            os.seteuid(user)

    def undo(self, *command: object) -> None:
        """Run a command when the tree was judged."""
        self.stack.callback(run, *command)


@dataclass(frozen=True)
class Tree:
    """
    One tree and the outcome of moving it: moved identically, or refused with a reason and `says` in the sentence.

    A builder that returns a path means that one and not the root. `meanwhile` is called with the root as soon as the first
    of it is copied.
    """

    name: str
    build: Callable[[Context], Path | None]
    refused: Reason | None = None
    says: str = ""
    user: Reason | str = ""  # "moved" or a reason where an ordinary user's outcome is worth a look
    meanwhile: Callable[[Path], object] | None = None
    source: bytes = b"tool"
    many: bool = False  # so many entries that each is only looked at, not opened
    look: bool = True  # False: not ours to walk through
    portable: bool = False
    left_out: str = ""  # why the peers of the benchmark do not get it

    @property
    def outcome(self) -> str:
        """Return "moved" or the reason."""
        return self.refused.value if self.refused else "moved"


def run(*command: object) -> None:
    """Run a command that must succeed."""
    subprocess.run([str(word) if isinstance(word, int | Path) else word for word in command], check=True, capture_output=True)  # type: ignore[misc]
