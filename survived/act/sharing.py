"""
A first pass that several processes do together, as seen by each of them: its share by inode, or branches of the tree.

Files with several names are one process's work, which nothing has to be agreed upon for; who is given branches leaves them to
the next pass, for the other names may be in another branch.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from survived.act import fs
from survived.act.copying import TreeCopy
from survived.act.passes import Known, Pass
from survived.act.readahead import branches_ahead

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterable


class SharedCopy(TreeCopy):
    """
    A `TreeCopy` whose first pass may be shared, once somebody has called `prepare_root`; `complete` ends it.

    `ahead`: have the kernel read what comes next, since its disk would be waited for.
    """

    def run_share(self, part: int, parts: int, *, ahead: bool = False) -> Pass:
        """Copy one share of the files, by inode, and make all directories."""
        self._inherits = False  # whoever shares has prepared the root
        self._part, self._parts, self._later, self._ahead = part, parts, True, ahead
        self._listed = {} if part == 0 else None  # for `complete`, which is the first one's
        found = self._run(Pass())
        self._part, self._parts, self._later, self._ahead = 0, 1, False, False
        return found

    def run_top(self, branches: frozenset[str]) -> Pass:
        """Copy all but what is below `branches`, and make these."""
        self._inherits, self._closed = False, branches
        self._later = self._alone = True
        found = self._run(Pass())
        self._later = self._alone = False
        return found

    def run_branches(self, branches: Iterable[str], found: Pass, *, ahead: bool = False) -> None:
        """Copy all below directories that are made already, and give them their metadata; counted in `found`."""
        self._inherits, self._alone = False, True
        for branch in branches_ahead(self._source_fd, branches) if ahead else branches:
            self._branch(branch, found)
        self._alone = False

    def _branch(self, branch: str, found: Pass) -> None:
        source_fd = -1
        try:
            source_fd, copy_fd = fs.open_below(self._source_fd, branch), fs.open_below(self._copy_fd, branch)
        except OSError as error:
            if source_fd >= 0:
                os.close(source_fd)
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            found.copied += 1  # moved or removed meanwhile; the next pass sees where to
            return
        try:
            self._check_device(source_fd, branch)
            self._directory(source_fd, copy_fd, f"{branch}/", found)
        finally:
            os.close(source_fd)
            os.close(copy_fd)

    def complete(self, found: Pass, others: array[int]) -> Pass:
        """Give the other directories their metadata, and know what the others copied: their signatures."""
        self._only_directories = True
        try:
            self._run(found)
        finally:
            self._only_directories, self._closed, self._listed = False, frozenset(), None
        found.signatures.extend(others)
        self._known, self._first, self._inherits = Known(found.signatures), False, False
        return found
