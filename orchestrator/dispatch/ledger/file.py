"""The file of the ledger: opened, migrated, and compared with what was opened. Its errors::

OrchestrateError
└── LedgerError             it cannot be read or written: no space, no rights
    ├── LedgerBusy          another program holds it (a backup, say): the next try may work
    └── LedgerDamaged       no database, or no longer the file that was opened: `orchestrate repair`
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from agents.files import make_private
from orchestrator.dispatch.ledger.schema import MIGRATIONS
from orchestrator.errors import OrchestrateError

NAME = "ledger.sqlite"
PARTS = ("", "-wal", "-shm")
"""What SQLite appends to the name, for each file of one ledger."""
CHECK_S = 2.0
"""Most time for the examination of all pages: 4 ms a MB, so a ledger of 1,500,000 jobs is examined whole."""
LEAST_FREE_BYTES = 100_000  # SQLite's journal needs that much
MEND = "your rows are safe in runs/; mend it with: orchestrate repair"

Identity = tuple[tuple[int, int] | None, ...]
"""Device and inode of each of ``PARTS``; None for one that is not there."""


class LedgerError(OrchestrateError):
    pass


class LedgerBusy(LedgerError):
    pass


class LedgerDamaged(LedgerError):
    pass


class JournalLost(LedgerDamaged):
    pass


def ledger_error(path: Path, doing: str, error: sqlite3.Error | OSError) -> LedgerError:
    """``doing``: open, read, write."""
    words = f"{path}: cannot {doing} the ledger: {error}"
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest of an extended code says where it was found
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LedgerBusy(f"{words}: another program holds it (a backup, say). It goes on when that has ended")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return LedgerDamaged(f"{words}; {MEND}")
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and _is_disk_full(path):  # its words for that, too
        return LedgerError(f"{words}: no space is left on its disk")
    return LedgerError(words)


def _is_disk_full(path: Path) -> bool:
    with suppress(OSError):
        return shutil.disk_usage(path.parent).free < LEAST_FREE_BYTES
    return False


def open_database(path: Path, busy_s: float) -> sqlite3.Connection:
    """The ledger in its newest version, made where there is none. Raises LedgerError, OrchestrateError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_private(*(path.with_name(path.name + part) for part in PARTS), made=path)
        # isolation_level None: transactions are ours alone, Python begins none by itself
        db = sqlite3.connect(path, timeout=busy_s, isolation_level=None, check_same_thread=False)
    except (sqlite3.Error, OSError) as error:
        raise ledger_error(path, "open", error) from error
    try:
        _migrate(db, path)
        # behind the migration: this writes to the file, and a newer version's ledger is to be left as it is
        db.execute("PRAGMA journal_mode = WAL")
        # WAL flushes at checkpoints only unless it is FULL: a sent attempt must survive a power cut
        db.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error as error:
        db.close()
        raise ledger_error(path, "open", error) from error
    except BaseException:
        db.close()
        raise
    return db


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    """Writes nothing where there is nothing to change: a full disk must not keep a reader out."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    # never downgraded: this version does not know which columns a newer one needs filled
    if version > len(MIGRATIONS):
        raise OrchestrateError(f"{path}: written by a newer version of orchestrate (ledger {version})")
    if version == len(MIGRATIONS):
        return
    # IMMEDIATE takes the write lock now: two processes that open an old ledger migrate it one after the other
    db.execute("BEGIN IMMEDIATE")
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]  # another process may have been faster
        for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
            # user_version moves inside the same transaction: a crash leaves the old schema with the old number
            for statement in statements:
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {number}")
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


class OpenedFile:
    """What lay at ``path`` when the ledger was opened. The open connection alone would never notice another file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts: Identity = (None,) * len(PARTS)
        self._size_bytes = 0
        self.check()

    def check(self) -> None:
        """Raises LedgerDamaged where the file was deleted, replaced or cut off since. Costs a few microseconds."""
        parts, size_bytes = _identity(self._path)
        before = self._parts
        if parts[0] is None:
            raise LedgerDamaged(f"{self._path}: the ledger was deleted while it was in use; {MEND}")
        changed = [part for part, old, new in zip(PARTS, before, parts, strict=True) if old not in (None, new)]
        words = "was deleted, or another file took its place, while it was in use"
        if "" in changed:
            raise LedgerDamaged(f"{self._path}: {words}; {MEND}")
        # SQLite never makes it smaller while it is open: nothing here asks for VACUUM
        if size_bytes < self._size_bytes:
            raise LedgerDamaged(f"{self._path}: the ledger was cut off while it was in use; {MEND}")
        if changed:
            raise JournalLost(f"{self._path}{changed[0]}: {words}; {MEND}")
        self._parts, self._size_bytes = parts, size_bytes


def _identity(path: Path) -> tuple[Identity, int]:
    found: list[tuple[int, int] | None] = []
    size_bytes = 0
    for part in PARTS:
        try:
            stat = os.stat(f"{path}{part}")  # noqa: PTH116  before each write: no Path for each
        except OSError:
            found.append(None)
        else:
            found.append((stat.st_dev, stat.st_ino))
            size_bytes = size_bytes if part else stat.st_size
    return tuple(found), size_bytes


def check_pages(path: Path, limit_s: float = CHECK_S, monotonic: Callable[[], float] = time.monotonic) -> None:
    """Reads the file as a stranger would: an open connection still has in memory what the disk has lost.

    Raises LedgerDamaged. What cannot be examined now, or not within ``limit_s``, counts as whole: a ledger that
    another program holds is not damaged, nor is one of a laptop that slept meanwhile.
    """
    if not path.stat().st_size:  # SQLite would take it for a new one, and remove the journal beside it
        raise LedgerDamaged(f"{path}: the ledger is empty; {MEND}")
    until_s = monotonic() + limit_s
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0)) as db:
            db.set_progress_handler(lambda: monotonic() > until_s, 10_000)
            version = db.execute("PRAGMA user_version").fetchone()[0]
            words = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        if isinstance(named := ledger_error(path, "read", error), LedgerDamaged):
            raise named from error
        return
    if words != "ok" or not version:
        why = " ".join(str(words).split()) if words != "ok" else "it has no tables"
        raise LedgerDamaged(f"{path}: the ledger is damaged: {why}; {MEND}")
