"""Two trees on two filesystems: a source with its copier, and an old tree with the new one that was copied from it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from survived.act import fs, reconcile
from survived.act.copying import TreeCopy
from survived.act.passes import Pass
from survived.act.reconcile import Late
from tests.unit.engine import snapshot

if TYPE_CHECKING:
    from collections.abc import Callable


class Pair:
    """A source and a copy on two filesystems, and the copier between them."""

    def __init__(self, source: Path, copy: Path) -> None:
        self.source, self.copy = source, copy
        self._fds: list[int] = []
        self._copier: TreeCopy | None = None
        self._tick: Callable[[int, int], None] = lambda *_: None

    def run(self, tick: Callable[[int, int], None] = lambda *_: None) -> Pass:
        """Run one pass of the same copier."""
        if self._copier is None:
            self._fds = [os.open(path, fs.DIRECTORY) for path in (self.source, self.copy)]
            one, other = self._fds
            self._copier = TreeCopy(one, other, str(self.source), lambda size, entries: self._tick(size, entries))
        self._tick = tick
        return self._copier.run_pass()

    @property
    def copier(self) -> TreeCopy | None:
        """The copier, once it has run."""
        return self._copier

    def settle(self) -> Pass:
        """Run passes until one finds nothing, as `copy_settled` does, and return that one."""
        for _ in range(5):
            time.sleep(0.021)
            if (found := self.run()).copied == 0:
                return found
        raise AssertionError("the copy never becomes faithful")

    def close(self) -> None:
        """Close the directories."""
        for fd in self._fds:
            os.close(fd)

    def check(self) -> None:
        """Assert that the copy is the source in everything."""
        self.settle()
        assert snapshot(self.copy) == snapshot(self.source)


class Sides:
    """An old tree and its faithful copy, with the marks that an operation would have recorded."""

    def __init__(self, old: Path, new: Path) -> None:
        self.old, self.new = old, new
        self.marks = (0, 0)

    def copy(self) -> None:
        """Copy until nothing differs, and take the marks."""
        with fs.opened(str(self.old)) as old, fs.opened(str(self.new)) as new:
            copier = TreeCopy(old, new, str(self.old), lambda *_: None)
            found = copier.run_pass()
            for _ in range(5):
                time.sleep(0.021)
                if (found := copier.run_pass()).copied == 0:
                    break
        self.marks = (found.source_mark_ns, found.target_mark_ns)
        time.sleep(0.021)  # what comes now is late, and what is changed in the new tree is later than the copy

    def reconcile(self, tick: Callable[[int, int], None] = lambda *_: None) -> Late:
        """Reconcile once."""
        source_mark, target_mark = self.marks
        with fs.opened(str(self.old)) as old, fs.opened(str(self.new)) as new:
            return reconcile.reconcile(
                old, new, source_mark_ns=source_mark, target_mark_ns=target_mark, source=str(self.old), tick=tick
            )

    def check_same(self) -> None:
        """Assert that the new tree is the old one in everything, and that a repeat changes nothing."""
        late = self.reconcile()
        assert late.conflicts == []
        assert snapshot(self.new) == snapshot(self.old)
        again = self.reconcile()
        assert (again.removed, again.conflicts) == (0, [])
        assert snapshot(self.new) == snapshot(self.old)


def equal_sides(old: Path, new: Path) -> Sides:
    """Make a little tree and its copy."""
    made = Sides(old, new)
    for name in ("d/sub/x", "d/f", "e/f", "e/sub/y", "a", "b", "one"):
        (old / name).parent.mkdir(parents=True, exist_ok=True)
        (old / name).write_text(f"content of {name}")
    os.link(old / "one", old / "d/two")
    os.symlink("a", old / "s")
    new.mkdir(mode=0o700)
    made.copy()
    return made
