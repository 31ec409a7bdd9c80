"""
The SQLite file of one store: open, migrate, one writer. The only user of sqlite3.

Every commit is synced before it returns (rollback journal, synchronous=EXTRA), because the journal of relocations
may lag the disk by one stage and must never lose a stage it has reported. WAL is not used: it needs shared memory,
which a store on a network filesystem does not have.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from survived.errors import SurvivedError
from survived.store import edits, hogs, known, outbox

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

VERSION = 3
UPGRADES = {
    1: (
        "ALTER TABLE operations ADD COLUMN origin BLOB NOT NULL DEFAULT x''",
        "ALTER TABLE operations ADD COLUMN content_bytes INTEGER NOT NULL DEFAULT -1",
        *hogs.SCHEMA,
        *known.SCHEMA,
    ),
    2: (*outbox.PARTS_SCHEMA, *edits.SCHEMA),
}
"""What makes a file of each earlier format one of the next."""
SCHEMA = ("CREATE TABLE memory (key TEXT PRIMARY KEY, value TEXT NOT NULL)",)


class Database:
    """
    One open state.db. Safe to use from the loop and the worker thread: one lock around each statement or transaction.

    Raises `SurvivedError` for a file that is no database or has a newer format, OSError-like sqlite errors as
    `SurvivedError` from every call, so that callers know one family.
    """

    def __init__(self, path: str, schema: Sequence[str], *, read_only: bool = False) -> None:
        self.path = path
        self._lock = threading.RLock()
        # Not mode=ro for a reader: after a crash it is the first to open the file that has to roll its journal back.
        uri = f"file:{_quoted(path)}?mode={'rw' if read_only else 'rwc'}"
        try:
            self.connection = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None, timeout=5.0)
        except sqlite3.Error as error:
            raise SurvivedError(
                f"Cannot open '{path}': {error}.", "Stop the daemon, then run survivectl recover --rebuild."
            ) from error
        try:
            self._prepare(schema, read_only)
        except SurvivedError:
            self.connection.close()
            raise
        except sqlite3.Error as error:
            self.connection.close()
            raise SurvivedError(
                f"Cannot open '{path}': {error}.", "Stop the daemon, then run survivectl recover --rebuild."
            ) from error

    def _prepare(self, schema: Sequence[str], read_only: bool) -> None:
        (version,) = self.connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise SurvivedError(
                f"Cannot use '{self.path}': it was written by a newer survived (format {version}, this one knows {VERSION}).",
                "Update survived.",
            )
        if read_only:
            return
        # Committed through the open file, not by a name: whoever swaps the folder would have another journal unlinked, and ours,
        # left there, would take back what was committed.
        self.connection.execute("PRAGMA journal_mode=TRUNCATE")
        self.connection.execute("PRAGMA synchronous=EXTRA")
        if version < VERSION:
            with self.transaction():
                steps = [step for number in range(version, VERSION) for step in UPGRADES.get(number, ())]
                for statement in steps if version else (*SCHEMA, *schema):
                    self.connection.execute(statement)
                self.connection.execute(f"PRAGMA user_version={VERSION}")

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement, durably if it writes, and return its rows."""
        with self._lock:
            try:
                return self.connection.execute(sql, parameters).fetchall()
            except sqlite3.Error as error:
                raise SurvivedError(f"Cannot write '{self.path}': {error}.") from error

    def insert(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one INSERT and return the new row's id."""
        with self._lock:
            try:
                return int(self.connection.execute(sql, parameters).lastrowid or 0)
            except sqlite3.Error as error:
                raise SurvivedError(f"Cannot write '{self.path}': {error}.") from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make the statements inside one durable act; any exception rolls all of them back."""
        with self._lock:
            try:
                self.connection.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                raise SurvivedError(f"Cannot write '{self.path}': {error}.") from error
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException as error:
                if self.connection.in_transaction:
                    with suppress(sqlite3.Error):  # the disk is gone; what was not committed is rolled back when it is opened
                        self.connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise SurvivedError(f"Cannot write '{self.path}': {error}.") from error
                raise

    def recall(self, key: str) -> str | None:
        """Return what `remember` kept under `key`, or None."""
        rows = self.execute("SELECT value FROM memory WHERE key=?", (key,))
        return str(rows[0][0]) if rows else None

    def remember(self, key: str, value: str) -> None:
        """Keep a small text under `key`, durably."""
        self.execute("INSERT OR REPLACE INTO memory VALUES (?,?)", (key, value))

    def close(self) -> None:
        """Close the file; further use is an error."""
        with self._lock:
            self.connection.close()


def _quoted(path: str) -> str:
    """Return `path` for a file: URI; every byte that is not plain is percent-encoded, so odd names survive."""
    plain = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-"
    return "".join(chr(b) if b in plain else f"%{b:02X}" for b in os.fsencode(path))
