"""
What is known of the trees that were measured: an index and numbered chunks of bytes for each, as `observe/past.py` packs them.

Nobody's truth: every row can be lost, and then a tree is measured in full. Paths are bytes, since names need not be UTF-8.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from survived.store.database import Database

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS known_trees (tree BLOB PRIMARY KEY, kept INTEGER NOT NULL, data BLOB NOT NULL) WITHOUT ROWID",
    """CREATE TABLE IF NOT EXISTS known_chunks (
        tree BLOB NOT NULL, number INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (tree, number))""",
)
_KEPT_SECONDS = 14 * 86400


class KnownTrees:
    """The trees that one store knows of. Each call may raise `SurvivedError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def index(self, path: str) -> bytes | None:
        """Return what `keep` got last for this tree."""
        rows = self._database.execute("SELECT data FROM known_trees WHERE tree=?", (os.fsencode(path),))
        return bytes(rows[0][0]) if rows else None

    def chunk(self, path: str, number: int) -> bytes | None:
        """Return one chunk."""
        rows = self._database.execute("SELECT data FROM known_chunks WHERE tree=? AND number=?", (os.fsencode(path), number))
        return bytes(rows[0][0]) if rows else None

    def keep(self, path: str, index: bytes, chunks: Mapping[int, bytes], *, anew: bool, now: float) -> None:
        """Keep an index and more chunks, in one transaction; `anew`: instead of those that were there. No index: forget all."""
        tree = os.fsencode(path)
        with self._database.transaction():
            if anew or not index:
                self._database.execute("DELETE FROM known_chunks WHERE tree=?", (tree,))
            if not index:
                self._database.execute("DELETE FROM known_trees WHERE tree=?", (tree,))
                return
            for number, data in chunks.items():
                self._database.execute("INSERT OR REPLACE INTO known_chunks VALUES (?,?,?)", (tree, number, data))
            self._database.execute("INSERT OR REPLACE INTO known_trees VALUES (?,?,?)", (tree, int(now), index))

    def thin(self, now: float) -> None:
        """Forget trees that were not measured in full for two weeks: they are gone, or somewhere else."""
        old = (int(now) - _KEPT_SECONDS,)
        with self._database.transaction():
            self._database.execute("DELETE FROM known_chunks WHERE tree IN (SELECT tree FROM known_trees WHERE kept < ?)", old)
            self._database.execute("DELETE FROM known_trees WHERE kept < ?", old)
