"""
One process that never lets a tree rest, of a kind: `python writers.py KIND FOLDER LOG RHYTHM_IN_JSON SEED PAUSE`.

Each works in a folder of its own, by absolute path or from what it opened before, and says in its log what succeeded.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

SLOTS, SLOT = 1024, 16
"""How many slots the mapped file has, and of how many bytes."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True)
class Rhythm:
    """Seconds of work and of rest, on the wall clock, so that all writers rest together; `rest` 0 means never."""

    busy: float = 1.0
    rest: float = 1.5

    def is_busy(self) -> bool:
        """Tell whether it is a time to work."""
        return self.rest == 0 or time.time() % (self.busy + self.rest) < self.busy


NEVER_QUIET = Rhythm(1.0, 0.0)


class Writer:
    """One process's work. `say` acknowledges: {name: content or None for what is gone}."""

    def __init__(self, kind: str, folder: str, rhythm: Rhythm, seed: int, log: int, pause: float) -> None:
        self.kind, self.folder, self.rhythm, self.log, self.pause = kind, folder, rhythm, log, pause
        self.random = random.Random(f"{kind} {seed}")
        self.ended = False
        self.number = 0
        self.names: dict[str, str] = {}

    def say(self, **said: Any) -> None:
        os.write(self.log, json.dumps({**said, "time": time.time()}).encode() + b"\n")

    def content(self, size: int | None = None) -> str:
        self.number += 1
        size = self.random.choice((20, 300, 9000)) if size is None else size
        return f"{self.kind} {self.number} ".ljust(size, chr(97 + self.number % 26))

    def run(self) -> None:
        """Work in busy spells until told to end; what is opened for a spell is closed with it."""
        act = getattr(self, f"work_{self.kind}")
        self.say(ready=os.getpid())
        while not self.ended:
            if not self.rhythm.is_busy():
                time.sleep(0.01)
                continue
            try:
                with contextlib.ExitStack() as spell:
                    step = act(spell)
                    while not self.ended and self.rhythm.is_busy():
                        try:
                            step()
                        except OSError as error:
                            self.say(error=f"{error}", at=self.number)
                        time.sleep(self.pause)
            except OSError as error:
                self.say(error=f"a spell could not begin: {error}", at=self.number)
                time.sleep(0.05)

    # Every kind returns its step. Names are relative to `base`, which is None for absolute paths.

    def work_path(self, _: contextlib.ExitStack) -> Callable[[], None]:
        return lambda: self._files(None)

    def work_dirfd(self, spell: contextlib.ExitStack) -> Callable[[], None]:
        base = self._open_folder(spell)
        return lambda: self._files(base)

    def work_cwd(self, spell: contextlib.ExitStack) -> Callable[[], None]:
        os.chdir(self.folder)
        spell.callback(os.chdir, "/")
        return lambda: self._files(None, here=True)

    def work_append(self, spell: contextlib.ExitStack) -> Callable[[], None]:
        fds: dict[str, int] = {}
        base = self._open_folder(spell)
        for name in ("log-0", "log-1"):
            fds[name] = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=base)
            spell.callback(os.close, fds[name])
            self.names.setdefault(name, "")

        def step() -> None:
            name, text = self.random.choice(list(fds)), self.content(40) + "\n"
            os.write(fds[name], text.encode())
            if self.number % 4 == 0:
                os.fsync(fds[name])
            self.names[name] += text
            self.say(append=name, text=text)

        return step

    def work_mmap(self, spell: contextlib.ExitStack) -> Callable[[], None]:
        fd = os.open("map", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=self._open_folder(spell))
        try:
            os.ftruncate(fd, SLOTS * SLOT)
            mapped = spell.enter_context(mmap.mmap(fd, SLOTS * SLOT))
        finally:
            os.close(fd)

        def step() -> None:
            self.number += 1
            # Most stores go to one page, which stays dirty, and then its file gets no new ctime.
            slot = 0 if self.number % 3 else self.random.randrange(SLOTS)
            text = f"{self.number:0{SLOT}}"
            mapped[slot * SLOT : (slot + 1) * SLOT] = text.encode()
            if self.number % 8 == 0:
                mapped.flush()
            self.say(store="map", slot=slot, text=text)

        return step

    def work_stealth(self, spell: contextlib.ExitStack) -> Callable[[], None]:
        base = self._open_folder(spell)
        when = 1_500_000_000_123_456_789

        def step() -> None:
            name, text = f"s{self.random.randrange(6)}", self.content(64)
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=base)
            try:
                os.write(fd, text.encode())
                os.utime(fd, ns=(when, when))
            finally:
                os.close(fd)
            self.say(put=name, text=text)

        return step

    def work_swap(self, spell: contextlib.ExitStack) -> Callable[[], None]:
        """Swap folders with what is in them, move them into each other, and put files into them."""
        base = self._open_folder(spell)
        for name in ("A", "B", "C"):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=base)

        def rename(one: str, other: str) -> None:
            os.rename(one, other, src_dir_fd=base, dst_dir_fd=base)
            self.say(move=one, to=other)

        def step() -> None:
            one, other = self.random.sample(("A", "B", "C"), 2)
            choice = self.random.random()
            if choice < 0.15:
                rename(one, "T")
                rename(other, one)
                rename("T", other)
            elif choice < 0.3:
                rename(one, f"{other}/sub")
                rename(f"{other}/sub", one)
            else:
                name, text = f"{one}/f{self.random.randrange(5)}", self.content(30)
                self._put(name, text, base)
                self.say(put=name, text=text)

        return step

    def _open_folder(self, spell: contextlib.ExitStack) -> int:
        base = os.open(self.folder, _FOLDER)
        spell.callback(os.close, base)
        return base

    def _put(self, name: str, text: str, base: int | None) -> None:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=base)
        try:
            os.write(fd, text.encode())
            if self.number % 4 == 0:
                os.fsync(fd)
        finally:
            os.close(fd)

    def _files(self, base: int | None, *, here: bool = False) -> None:
        """One of: put a file, rename one (over another at times), delete one."""

        def at(name: str) -> str:
            return name if base is not None or here else os.path.join(self.folder, name)

        choice = self.random.random()
        if choice < 0.55 or len(self.names) < 3:
            name, text = f"f{self.random.randrange(30)}", self.content()
            self._put(at(name), text, base)
            self.names[name] = text
            self.say(put=name, text=text)
        elif choice < 0.8:
            one, other = self.random.choice(list(self.names)), f"f{self.random.randrange(30)}"
            if one == other:
                return
            os.rename(at(one), at(other), src_dir_fd=base, dst_dir_fd=base)
            self.names[other] = self.names.pop(one)
            self.say(move=one, to=other)
        else:
            name = self.random.choice(list(self.names))
            os.unlink(at(name), dir_fd=base)
            del self.names[name]
            self.say(gone=name)


def main() -> None:
    """Be a writer: `KIND FOLDER LOG RHYTHM_IN_JSON SEED PAUSE`; ends cleanly at SIGTERM."""
    kind, folder, log, rhythm, seed, pause = sys.argv[1:]
    log_fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    writer = Writer(kind, folder, Rhythm(*json.loads(rhythm)), int(seed), log_fd, float(pause))
    signal.signal(signal.SIGTERM, lambda *_: setattr(writer, "ended", True))
    writer.run()


if __name__ == "__main__":
    main()
