"""The durable record of runs, jobs, attempts and leases: SQLite (WAL) beside the results.

Written before a job is sent and after its result is on disk. What the ledger says is done, is in the store; not the
other way round: a crash between the two is mended when the run is resumed (``runs.remaining_of``).

One coordinator writes; commands beside it read, or write where none is at work (a lock file says so). Each write is one
small transaction, and ``batch`` makes many of them one, for a flush to the disk costs more than all else.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.contract.device import Device
from agents.contract.report import Attempt
from agents.contract.wire_json import from_json, to_json
from orchestrator.dispatch.durations import is_possible, usual_seconds
from orchestrator.dispatch.ledger.file import JournalLost, OpenedFile, ledger_error, open_database
from orchestrator.dispatch.messages import RunStatus
from orchestrator.errors import OrchestrateError

BUSY_S = 8.0
"""How long a command waits for another process, before it says so."""


@dataclass(frozen=True, slots=True)
class RunRow:
    id: str
    name: str
    created_unix_s: float
    priority: int
    status: RunStatus
    jobs: int
    done: int
    failed: int

    @property
    def remaining(self) -> int:
        return self.jobs - self.done


@dataclass(frozen=True, slots=True)
class JobRow:
    """``cause`` is None for a job that was measured, else a Cause value; ``seconds`` is what the attempt took."""

    job_id: str
    position: int
    cell_id: str
    device_id: str
    repeat: int
    state: str
    attempt: int
    cause: str | None
    seconds: float | None
    failures: int


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """``ending``: measured, cancelled, or a Cause value; None while no end is reported."""

    attempt: int
    device_id: str
    term: int
    sent_unix_s: float
    ended_unix_s: float | None
    ending: str | None
    detail: str | None


@dataclass(frozen=True, slots=True)
class TermRow:
    """The coordinator of one term."""

    term: int
    began_unix_s: float
    host: str
    pid: int


@dataclass(frozen=True, slots=True)
class SeenDevice:
    """A device that ever joined. ``trouble``: what kept it out when it was last there."""

    device: Device
    seen_unix_s: float
    address: str | None
    trouble: str | None


class Ledger:
    """One file; several processes and threads may hold it open. Raises OrchestrateError where SQLite cannot go on."""

    def __init__(self, path: Path, now: Callable[[], float] = time.time, *, busy_s: float = BUSY_S) -> None:
        self._path = path
        self._now = now
        self._lock = threading.RLock()  # callers' threads read while the loop's writes: SQLite has one connection here
        self._depth = 0  # of nested batches: the outermost commits
        self._db = open_database(path, busy_s)
        self._file = OpenedFile(path)
        self._is_open = True

    def check_file(self) -> None:
        """Raises LedgerDamaged where another file, or none, lies where this one was opened."""
        if not self._is_open:  # then SQLite itself has removed the journal
            return
        try:
            self._file.check()
        except JournalLost:
            with suppress(sqlite3.Error):  # the deleted journal is still open here: what it held goes into the ledger
                self._db.execute("PRAGMA wal_checkpoint(FULL)")
            raise

    @contextmanager
    def batch(self) -> Iterator[sqlite3.Connection]:
        """All that is written inside becomes durable at once, or none of it. May be nested."""
        # held for the whole batch: on one connection another thread's statements would join this transaction
        with self._lock:
            if self._depth:  # an error goes on to the outermost, which rolls all of it back
                yield self._db
                return
            self._depth = 1
            try:
                self.check_file()  # what goes into a deleted file is lost without a word
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:
                with suppress(sqlite3.Error):  # SQLite has rolled back by itself after some errors
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise ledger_error(self._path, "write", error) from error
                raise
            finally:
                self._depth = 0

    def _read(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise ledger_error(self._path, "read", error) from error

    def new_term(self) -> int:
        """Counts coordinators: an agent that has seen a later term obeys no earlier one.

        Begins at the clock, in seconds: so a head whose results lie elsewhere now, with a new ledger, comes later too.
        """
        with self.batch() as db:
            # the sequence, not the table: it counts on where rows were deleted by hand
            last = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'terms'").fetchone() or (0,)
            term = max(last[0] + 1, int(self._now()))
            row = (term, self._now(), socket.gethostname(), os.getpid())
            db.execute("INSERT INTO terms (term, began_unix_s, host, pid) VALUES (?, ?, ?, ?)", row)
            return term

    def add(
        self,
        run_id: str,
        name: str,
        matrix: str,
        jobs: Iterable[tuple[str, str, str, int]],
        *,
        priority: int = 0,
        created_unix_s: float | None = None,
    ) -> None:
        """``jobs``: (job_id, cell_id, device_id, repeat) in their order. All or nothing."""
        rows = ((job, run_id, place, cell, device, rep) for place, (job, cell, device, rep) in enumerate(jobs))
        created = self._now() if created_unix_s is None else created_unix_s
        with self.batch() as db:
            db.execute(
                # the matrix as it was submitted: cells are expanded from it anew at each resume
                "INSERT INTO runs (id, name, created_unix_s, matrix, priority) VALUES (?, ?, ?, ?, ?)",
                (run_id, name, created, matrix, priority),
            )
            db.executemany(
                "INSERT INTO jobs (job_id, run_id, position, cell_id, device_id, repeat) VALUES (?, ?, ?, ?, ?, ?)",
                rows,
            )

    def set_run(self, run_id: str, status: RunStatus, priority: int | None = None) -> None:
        with self.batch() as db:
            db.execute(
                "UPDATE runs SET status = ?, priority = COALESCE(?, priority) WHERE id = ?",
                (status, priority, run_id),
            )

    def mark_sent(self, job_id: str, attempt: int, device_id: str = "", term: int = 0) -> None:
        """Before the job goes out: its attempt, and the device's lease on it."""
        now = self._now()
        with self.batch() as db:
            db.execute("UPDATE jobs SET state = 'sent', attempt = ? WHERE job_id = ?", (attempt, job_id))
            # OR REPLACE: the same commands may be written a second time, after a full disk
            db.execute(
                "INSERT OR REPLACE INTO attempts (job_id, attempt, device_id, term, sent_unix_s)"
                " VALUES (?, ?, ?, ?, ?)",
                (job_id, attempt, device_id, term, now),
            )
            # one lease a device: a new one takes the place of what a lost attempt held
            db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?, ?)", (device_id, job_id, attempt, term, now))

    def mark_done(self, job_id: str, attempt: int, cause: str | None, seconds: float) -> None:
        with self.batch() as db:
            db.execute(
                "UPDATE jobs SET state = 'done', attempt = ?, cause = ?, seconds = ? WHERE job_id = ?",
                (attempt, cause, seconds, job_id),
            )
            self._attempt_ended(db, job_id, attempt, cause or "measured", "")  # the detail stands in the store

    def put_back(self, job_id: str, cause: str = "cancelled", detail: str = "", failures: int | None = None) -> None:
        """The job is pending again; its attempt number stays used. ``failures``: how often it failed by now."""
        with self.batch() as db:
            db.execute(
                # COALESCE: a cancelled attempt is no failure, and changes no count
                "UPDATE jobs SET state = 'waiting', failures = COALESCE(?, failures) WHERE job_id = ?",
                (failures, job_id),
            )
            attempt = db.execute("SELECT attempt FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
            self._attempt_ended(db, job_id, attempt[0] if attempt else 0, cause, detail)

    def _attempt_ended(self, db: sqlite3.Connection, job_id: str, attempt: int, ending: str, detail: str) -> None:
        db.execute(
            "UPDATE attempts SET ended_unix_s = ?, ending = ?, detail = ? WHERE job_id = ? AND attempt = ?",
            (self._now(), ending, detail, job_id, attempt),
        )
        # by job, not by device: the device may hold the lease of a later job by now, which stays
        db.execute("DELETE FROM leases WHERE job_id = ?", (job_id,))

    def requeue(self, run_id: str, causes: Iterable[str]) -> dict[str, int]:
        """Jobs that ended with one of ``causes`` are pending again, without failures; their attempt numbers.

        The numbers go up by one: the rows that they have in the store are of an attempt that counts no more.
        """
        wanted = list(causes)
        where = f"run_id = ? AND state = 'done' AND cause IN ({', '.join('?' * len(wanted))})"
        with self.batch() as db:
            # selected before the update: afterwards none of these jobs matches the condition any more
            again = db.execute(f"SELECT job_id, attempt + 1 FROM jobs WHERE {where}", (run_id, *wanted)).fetchall()
            db.execute(
                "UPDATE jobs SET state = 'waiting', cause = NULL, seconds = NULL, failures = 0, attempt = attempt + 1"
                f" WHERE {where}",
                (run_id, *wanted),
            )
        return dict(again)

    def reopen_jobs(self, job_ids: Iterable[str]) -> None:
        """Done jobs whose rows are lost are pending again, without failures.

        Their attempt numbers stay: should the device still have the report, it counts.
        """
        with self.batch() as db:
            db.executemany(
                "UPDATE jobs SET state = 'waiting', cause = NULL, seconds = NULL, failures = 0"
                " WHERE job_id = ? AND state = 'done'",
                [(each,) for each in job_ids],
            )

    def record_devices(self, devices: Iterable[Device], address: str | None = None, trouble: str | None = None) -> None:
        now = self._now()
        rows = [(device.device_id, now, to_json(device).decode(), address, trouble) for device in devices]
        with self.batch() as db:
            db.executemany(
                # facts as JSON, not columns: a device's facts grow with each version, and old rows must stay readable
                "INSERT OR REPLACE INTO devices (device_id, seen_unix_s, facts, address, trouble)"
                " VALUES (?, ?, ?, ?, ?)",
                rows,
            )

    def touch_devices(self, device_ids: Iterable[str]) -> None:
        """They are still there."""
        now = self._now()
        with self.batch() as db:
            db.executemany(
                "UPDATE devices SET seen_unix_s = ? WHERE device_id = ?", [(now, each) for each in device_ids]
            )

    def seen_devices(self) -> list[SeenDevice]:
        """Devices ever seen, the latest first. One that another version wrote, and this cannot read, is left out."""
        found = []
        query = "SELECT facts, seen_unix_s, address, trouble FROM devices ORDER BY seen_unix_s DESC"
        for facts, seen, address, trouble in self._read(query):
            with suppress(ValueError):
                found.append(SeenDevice(from_json(Device, facts), seen, address, trouble))
        return found

    def devices(self) -> list[Device]:
        return [each.device for each in self.seen_devices()]

    def runs(self) -> list[RunRow]:
        """The newest first."""
        query = (
            "SELECT c.id, c.name, c.created_unix_s, c.priority, c.status, COUNT(j.job_id),"
            " COALESCE(SUM(j.state = 'done'), 0), COALESCE(SUM(j.state = 'done' AND j.cause IS NOT NULL), 0)"
            # LEFT: a run without jobs is listed too; SUM over no rows is NULL, hence COALESCE
            " FROM runs c LEFT JOIN jobs j ON j.run_id = c.id"
            # the id breaks ties, so that two runs of one second keep their order from call to call
            " GROUP BY c.id ORDER BY c.created_unix_s DESC, c.id DESC"
        )
        return [
            RunRow(key, name, created, priority, RunStatus(status), jobs, done, failed)
            for key, name, created, priority, status, jobs, done, failed in self._read(query)
        ]

    def run(self, run_id: str) -> RunRow:
        """Raises OrchestrateError for one that is not there."""
        for row in self.runs():
            if row.id == run_id:
                return row
        raise OrchestrateError(f"no run {run_id} in {self._path}")

    def matrix(self, run_id: str) -> str:
        rows = self._read("SELECT matrix FROM runs WHERE id = ?", run_id)
        if not rows:
            raise OrchestrateError(f"no run {run_id} in {self._path}")
        return str(rows[0][0])

    def jobs(self, run_id: str) -> list[JobRow]:
        query = (
            "SELECT job_id, position, cell_id, device_id, repeat, state, attempt, cause, seconds, failures"
            # position is the plan's order: phases and the order of repeats depend on it after a resume
            " FROM jobs WHERE run_id = ? ORDER BY position"
        )
        return [JobRow(*row) for row in self._read(query, run_id)]

    def job_state(self, job_id: str) -> tuple[str, int] | None:
        """State and latest attempt; None for a job that is not here."""
        rows = self._read("SELECT state, attempt FROM jobs WHERE job_id = ?", job_id)
        return (str(rows[0][0]), int(rows[0][1])) if rows else None

    def attempts(self, job_id: str) -> list[AttemptRow]:
        """In their order; those that were sent."""
        query = (
            "SELECT attempt, device_id, term, sent_unix_s, ended_unix_s, ending, detail"
            " FROM attempts WHERE job_id = ? ORDER BY attempt"
        )
        return [AttemptRow(*row) for row in self._read(query, job_id)]

    def terms(self) -> dict[int, TermRow]:
        """By their numbers."""
        return {row[0]: TermRow(*row) for row in self._read("SELECT term, began_unix_s, host, pid FROM terms")}

    def leases(self) -> dict[str, Attempt]:
        """What each device has leave to run."""
        return {row[0]: (row[1], row[2]) for row in self._read("SELECT device_id, job_id, attempt FROM leases")}

    def seconds_of_cells(self) -> dict[tuple[str, str], float]:
        """Usual seconds of a measured job, by (cell_id, device_id): what ``plan`` foretells from."""
        query = (
            "SELECT j.cell_id, j.device_id, j.seconds, a.ended_unix_s - a.sent_unix_s FROM jobs j"
            " LEFT JOIN attempts a ON a.job_id = j.job_id AND a.attempt = j.attempt"
            # failures are left out: a job that failed at load took seconds, one that timed out took minutes
            " WHERE j.state = 'done' AND j.cause IS NULL AND j.seconds > 0"
        )
        found: dict[tuple[str, str], list[float]] = {}
        for cell, device, seconds, away_s in self._read(query):
            if is_possible(seconds, away_s):
                found.setdefault((cell, device), []).append(seconds)
        return {key: usual_seconds(taken) for key, taken in found.items()}

    def close(self) -> None:
        self._is_open = False
        self._db.close()
