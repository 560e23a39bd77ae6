"""The durable record of campaigns, jobs and attempts: SQLite (WAL) beside the results.

Written before a job is sent and after its result is on disk. What the ledger says is done, is in the store.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.contract.device import Device
from agents.contract.wire_json import from_json, to_json
from orchestrator.errors import OrchestrateError

SCHEMA = """
CREATE TABLE IF NOT EXISTS campaigns (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, created_unix_s REAL NOT NULL, matrix TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS jobs (
    job_id TEXT PRIMARY KEY, campaign_id TEXT NOT NULL REFERENCES campaigns(id), position INTEGER NOT NULL,
    cell_id TEXT NOT NULL, device_id TEXT NOT NULL, repeat INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'sent', 'done')),
    attempt INTEGER NOT NULL DEFAULT 0, cause TEXT, seconds REAL);
CREATE INDEX IF NOT EXISTS jobs_of_campaign ON jobs (campaign_id, position);
CREATE INDEX IF NOT EXISTS jobs_of_cell ON jobs (cell_id, device_id) WHERE state = 'done';
CREATE TABLE IF NOT EXISTS devices (device_id TEXT PRIMARY KEY, seen_unix_s REAL NOT NULL, facts TEXT NOT NULL);
"""
VERSION = 1
BUSY_S = 30.0  # how long a write waits for another process


@dataclass(frozen=True, slots=True)
class CampaignRow:
    id: str
    name: str
    created_unix_s: float
    jobs: int
    done: int
    failed: int


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


class Ledger:
    """One file; several processes may hold it open. Raises OrchestrateError where SQLite cannot go on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        except (sqlite3.Error, OSError) as error:
            raise OrchestrateError(f"{path}: cannot open the ledger: {error}") from error
        try:
            self._migrate()
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error as error:
            self._db.close()
            raise OrchestrateError(f"{path}: cannot open the ledger: {error}") from error
        except BaseException:
            self._db.close()
            raise

    def _migrate(self) -> None:
        """Writes nothing where there is nothing to change: a full disk must not keep a reader out."""
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise OrchestrateError(f"{self._path}: written by a newer version of orchestrate (ledger {version})")
        if version < VERSION:
            self._db.executescript(f"BEGIN IMMEDIATE;{SCHEMA}PRAGMA user_version = {VERSION};COMMIT;")

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield self._db
            self._db.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):  # SQLite has rolled back by itself after some errors
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise OrchestrateError(f"{self._path}: cannot write the ledger: {error}") from error
            raise

    def _read(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise OrchestrateError(f"{self._path}: cannot read the ledger: {error}") from error

    def add(self, campaign_id: str, name: str, matrix: str, jobs: Iterable[tuple[str, str, str, int]]) -> None:
        """``jobs``: (job_id, cell_id, device_id, repeat) in their order. All or nothing."""
        rows = ((job, campaign_id, place, cell, device, rep) for place, (job, cell, device, rep) in enumerate(jobs))
        with self._write() as db:
            db.execute("INSERT INTO campaigns VALUES (?, ?, ?, ?)", (campaign_id, name, time.time(), matrix))
            db.executemany(
                "INSERT INTO jobs (job_id, campaign_id, position, cell_id, device_id, repeat)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                rows,
            )

    def sent(self, job_id: str, attempt: int) -> None:
        with self._write() as db:
            db.execute("UPDATE jobs SET state = 'sent', attempt = ? WHERE job_id = ?", (attempt, job_id))

    def done(self, job_id: str, attempt: int, cause: str | None, seconds: float) -> None:
        with self._write() as db:
            db.execute(
                "UPDATE jobs SET state = 'done', attempt = ?, cause = ?, seconds = ? WHERE job_id = ?",
                (attempt, cause, seconds, job_id),
            )

    def put_back(self, job_id: str) -> None:
        """The job waits again; its attempt number stays used."""
        with self._write() as db:
            db.execute("UPDATE jobs SET state = 'waiting' WHERE job_id = ?", (job_id,))

    def saw(self, devices: Iterable[Device]) -> None:
        rows = [(device.device_id, time.time(), to_json(device).decode()) for device in devices]
        with self._write() as db:
            db.executemany("INSERT OR REPLACE INTO devices VALUES (?, ?, ?)", rows)

    def devices(self) -> list[Device]:
        """Devices ever seen, the latest first. One that another version wrote, and this cannot read, is left out."""
        found = []
        for (facts,) in self._read("SELECT facts FROM devices ORDER BY seen_unix_s DESC"):
            try:
                found.append(from_json(Device, facts))
            except ValueError:
                continue
        return found

    def campaigns(self) -> list[CampaignRow]:
        """The newest first."""
        query = (
            "SELECT c.id, c.name, c.created_unix_s, COUNT(j.job_id), COALESCE(SUM(j.state = 'done'), 0),"
            " COALESCE(SUM(j.state = 'done' AND j.cause IS NOT NULL), 0)"
            " FROM campaigns c LEFT JOIN jobs j ON j.campaign_id = c.id"
            " GROUP BY c.id ORDER BY c.created_unix_s DESC, c.id DESC"
        )
        return [CampaignRow(*row) for row in self._read(query)]

    def matrix(self, campaign_id: str) -> str:
        rows = self._read("SELECT matrix FROM campaigns WHERE id = ?", campaign_id)
        if not rows:
            raise OrchestrateError(f"no run {campaign_id} in {self._path}")
        return str(rows[0][0])

    def jobs(self, campaign_id: str) -> list[JobRow]:
        query = (
            "SELECT job_id, position, cell_id, device_id, repeat, state, attempt, cause, seconds"
            " FROM jobs WHERE campaign_id = ? ORDER BY position"
        )
        return [JobRow(*row) for row in self._read(query, campaign_id)]

    def seconds_of_cells(self) -> dict[tuple[str, str], float]:
        """Mean seconds of a measured job, by (cell_id, device_id): what ``plan`` foretells from."""
        query = (
            "SELECT cell_id, device_id, AVG(seconds) FROM jobs"
            " WHERE state = 'done' AND cause IS NULL GROUP BY cell_id, device_id"
        )
        return {(cell, device): seconds for cell, device, seconds in self._read(query)}

    def close(self) -> None:
        self._db.close()
