"""Ledgers of earlier versions are brought up to date when they are opened, whole or not at all."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from agents.contract.wire_json import to_json
from orchestrator.dispatch.ledger import file as ledger_module
from orchestrator.dispatch.ledger.ledger import JobRow, Ledger, SeenDevice
from orchestrator.dispatch.ledger.schema import MIGRATIONS
from orchestrator.dispatch.messages import RunStatus
from orchestrator.errors import OrchestrateError
from tests.unit.results.made_attempts import DEVICE

VERSION_1 = """
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
PRAGMA user_version = 1;
"""
"""The SQL of version 0.1.0, as it was released."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger that version 0.1.0 left: one run that is done, one in the middle, a device."""
    path = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(VERSION_1)
        db.executemany(
            "INSERT INTO campaigns VALUES (?, ?, ?, ?)",
            [("run-1", "first", 100.0, '{"one": 1}'), ("run-2", "second", 200.0, "{}")],
        )
        db.executemany(
            "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                ("j1", "run-1", 0, "c1", "d1", 0, "done", 2, None, 4.0),
                ("k1", "run-2", 0, "c1", "d1", 0, "done", 1, "ram", 1.0),
                ("k2", "run-2", 1, "c2", "d1", 0, "sent", 1, None, None),
                ("k3", "run-2", 2, "c3", "d1", 1, "waiting", 1, None, None),
            ],
        )
        db.execute("INSERT INTO devices VALUES (?, ?, ?)", (DEVICE.device_id, 150.0, to_json(DEVICE).decode()))
        db.commit()
    return path


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def tables_of(path: Path) -> dict[str, list[tuple[str, ...]]]:
    """Columns of each table: name, type, not null, default, key."""
    with closing(sqlite3.connect(path)) as db:
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        return {name: [row[1:] for row in db.execute(f"PRAGMA table_info({name})")] for name in names}


def test_nothing_is_lost_and_no_run_goes_on_by_itself(path: Path) -> None:
    """Then, a run went on when somebody resumed it: a coordinator that wakes must not surprise its owner."""
    with closing(Ledger(path)) as ledger:
        second, first = ledger.runs()
        assert (first.id, first.name, first.created_unix_s, first.jobs, first.done) == ("run-1", "first", 100.0, 1, 1)
        assert (second.jobs, second.done, second.failed, second.remaining) == (3, 1, 1, 2)
        assert {row.status for row in (first, second)} == {RunStatus.PAUSED}
        assert {row.priority for row in (first, second)} == {0}
        assert ledger.matrix("run-1") == '{"one": 1}'
        assert ledger.jobs("run-2") == [
            JobRow("k1", 0, "c1", "d1", 0, "done", 1, "ram", 1.0, 0),
            JobRow("k2", 1, "c2", "d1", 0, "sent", 1, None, None, 0),
            JobRow("k3", 2, "c3", "d1", 1, "waiting", 1, None, None, 0),
        ]
        assert ledger.seen_devices() == [SeenDevice(DEVICE, 150.0, None, None)]
        assert ledger.seconds_of_cells() == {("c1", "d1"): 4.0}
        assert ledger.leases() == {}


def test_it_can_be_worked_with(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        assert ledger.new_term() >= 1
        ledger.set_run("run-2", RunStatus.RUNNING, 3)
        ledger.put_back("k2", "device_lost", "silent", failures=1)
        ledger.mark_sent("k2", 2, "d1", 1)
        ledger.mark_done("k2", 2, None, 1.0)
        ledger.add("run-3", "third", "{}", [("m1", "c", "d", 0)])
    with closing(Ledger(path)) as again:
        assert [row.status for row in again.runs()] == [RunStatus.RUNNING, RunStatus.RUNNING, RunStatus.PAUSED]
        assert again.jobs("run-2")[1].failures == 1


def test_it_is_then_as_one_that_was_made_new(path: Path, tmp_path: Path) -> None:
    Ledger(path).close()
    new = tmp_path / "new.sqlite"
    Ledger(new).close()
    assert version_of(path) == version_of(new) == len(MIGRATIONS)
    assert tables_of(path) == tables_of(new)


def test_the_first_step_is_what_was_released(path: Path, tmp_path: Path) -> None:
    made = tmp_path / "made.sqlite"
    with closing(sqlite3.connect(made)) as db:
        for statement in MIGRATIONS[0]:
            db.execute(statement)
    assert tables_of(made) == tables_of(path)


def test_a_step_that_fails_leaves_it_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tables_of(path)
    broken = (*MIGRATIONS[1][:3], "ALTER TABLE no_such ADD COLUMN more")
    monkeypatch.setattr(ledger_module, "MIGRATIONS", (MIGRATIONS[0], broken))
    with pytest.raises(OrchestrateError, match="cannot open the ledger: no such table: no_such"):
        Ledger(path)
    assert (version_of(path), tables_of(path)) == (1, before)
    monkeypatch.undo()
    with closing(Ledger(path)) as ledger:
        assert len(ledger.runs()) == 2


OPENED = """
import sys
from pathlib import Path
from orchestrator.dispatch.ledger.ledger import Ledger
Ledger(Path(sys.argv[1]))
"""


def test_two_processes_open_it_at_once(path: Path) -> None:
    opened = [subprocess.Popen([sys.executable, "-c", OPENED, str(path)]) for _ in range(2)]
    try:
        assert [each.wait(60) for each in opened] == [0, 0]
    finally:
        for each in opened:
            each.kill()
    assert version_of(path) == len(MIGRATIONS)
    with closing(Ledger(path)) as ledger:
        assert len(ledger.runs()) == 2
