from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agents.contract.report import Cause
from orchestrator.dispatch.ledger import VERSION, JobRow, Ledger
from orchestrator.errors import OrchestrateError
from tests.unit.results.attempts_made_up import DEVICE

JOBS = [("j1", "c1", "d1", 0), ("j2", "c2", "d1", 0), ("j3", "c1", "d1", 1)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    made = Ledger(path)
    made.add("run-1", "name", "{}", JOBS)
    yield made
    made.close()


def states(ledger: Ledger, run: str = "run-1") -> list[tuple[str, str, int, str | None]]:
    return [(row.job_id, row.state, row.attempt, row.cause) for row in ledger.jobs(run)]


def test_a_job_from_waiting_to_done(ledger: Ledger) -> None:
    assert ledger.jobs("run-1")[2] == JobRow("j3", 2, "c1", "d1", 1, "waiting", 0, None, None)
    ledger.sent("j1", 1)
    assert states(ledger)[0] == ("j1", "sent", 1, None)
    ledger.put_back("j1")
    assert states(ledger)[0] == ("j1", "waiting", 1, None), "the attempt's number stays used"
    ledger.sent("j1", 2)
    ledger.done("j1", 2, None, 2.5)
    ledger.done("j2", 1, Cause.RAM, 0.5)
    assert states(ledger) == [("j1", "done", 2, None), ("j2", "done", 1, "ram"), ("j3", "waiting", 0, None)]
    (row,) = ledger.campaigns()
    assert (row.id, row.name, row.jobs, row.done, row.failed) == ("run-1", "name", 3, 2, 1)


def test_everything_is_there_after_a_restart(path: Path, ledger: Ledger) -> None:
    ledger.sent("j2", 1)
    ledger.saw([DEVICE])
    ledger.close()
    again = Ledger(path)
    assert states(again) == [("j1", "waiting", 0, None), ("j2", "sent", 1, None), ("j3", "waiting", 0, None)]
    assert again.matrix("run-1") == "{}"
    assert again.devices() == [DEVICE]
    again.close()


KILLED = """
import os, sys
from pathlib import Path
from orchestrator.dispatch.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
ledger.sent("j1", 1)
ledger.done("j1", 1, None, 1.0)
ledger._db.execute("BEGIN IMMEDIATE")
ledger._db.execute("UPDATE jobs SET state = 'done' WHERE job_id = 'j2'")
os.kill(os.getpid(), 9)
"""


def test_a_process_that_is_killed_leaves_what_it_wrote_and_no_half(path: Path, ledger: Ledger) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert killed.returncode == -9
    assert states(ledger)[:2] == [("j1", "done", 1, None), ("j2", "waiting", 0, None)]
    ledger.sent("j2", 1)


WRITER = """
import sys
from pathlib import Path
from orchestrator.dispatch.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
run = sys.argv[2]
ledger.add(run, run, "{}", [(f"{run}-{n}", "c", "d", n) for n in range(60)])
for n in range(60):
    ledger.sent(f"{run}-{n}", 1)
    ledger.done(f"{run}-{n}", 1, None, 1.0)
"""


def test_two_processes_write_at_once(path: Path, ledger: Ledger) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), run]) for run in ("run-a", "run-b")]
    try:
        assert [writer.wait(60) for writer in writers] == [0, 0]
    finally:
        for writer in writers:
            writer.kill()
    assert [{state for _, state, _, _ in states(ledger, run)} for run in ("run-a", "run-b")] == [{"done"}] * 2


def test_a_run_is_added_whole_or_not_at_all(ledger: Ledger) -> None:
    with pytest.raises(OrchestrateError, match="cannot write the ledger: UNIQUE"):
        ledger.add("run-2", "name", "{}", [("new", "c", "d", 0), ("j1", "c", "d", 0)])

    def broken() -> Iterator[tuple[str, str, str, int]]:
        yield ("new", "c", "d", 0)
        raise ValueError("a fault elsewhere")

    with pytest.raises(ValueError, match="elsewhere"):
        ledger.add("run-3", "name", "{}", broken())
    assert [row.id for row in ledger.campaigns()] == ["run-1"]
    ledger.add("run-2", "name", "{}", [("new", "c", "d", 0)])


def test_runs_are_listed_the_newest_first(ledger: Ledger) -> None:
    for run in ("run-2", "run-3"):
        ledger.add(run, "name", "{}", [])
    assert [row.id for row in ledger.campaigns()] == ["run-3", "run-2", "run-1"]
    assert ledger.campaigns()[0].jobs == 0


def test_an_unknown_run(ledger: Ledger) -> None:
    assert ledger.jobs("nothing") == []
    with pytest.raises(OrchestrateError, match=r"no run nothing in .*ledger\.sqlite"):
        ledger.matrix("nothing")


def test_devices_the_latest_first_and_unreadable_ones_left_out(ledger: Ledger) -> None:
    other = replace(DEVICE, device_id="other", name="other")
    ledger.saw([DEVICE])
    ledger.saw([other])
    assert ledger.devices() == [other, DEVICE]
    ledger.saw([replace(DEVICE, boot_id="boot-2")])
    assert [device.boot_id for device in ledger.devices()] == ["boot-2", "boot-1"]
    ledger._db.execute("UPDATE devices SET facts = '{\"made\": \"by a newer version\"}' WHERE device_id = 'other'")
    assert [device.device_id for device in ledger.devices()] == [DEVICE.device_id]


def test_seconds_of_cells_is_the_mean_of_what_was_measured(ledger: Ledger) -> None:
    ledger.add("run-2", "name", "{}", [("k1", "c1", "d1", 0), ("k2", "c1", "d2", 0), ("k3", "c3", "d1", 0)])
    ledger.done("j1", 1, None, 2.0)
    ledger.done("j3", 1, None, 4.0)
    ledger.done("k1", 1, Cause.RAM, 100.0)  # it failed: its time says nothing
    ledger.done("k2", 1, None, 7.0)
    ledger.sent("k3", 1)
    assert ledger.seconds_of_cells() == {("c1", "d1"): 3.0, ("c1", "d2"): 7.0}


def test_a_newer_ledger_is_refused_and_left_as_it_is(path: Path, ledger: Ledger) -> None:
    ledger.close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(OrchestrateError, match=r"written by a newer version of orchestrate \(ledger 2\)"):
        Ledger(path)
    assert path.read_bytes() == before


def test_what_is_no_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_text("these are not the pages of a database " * 40)
    with pytest.raises(OrchestrateError, match=r"ledger\.sqlite: cannot open the ledger: file is not a database"):
        Ledger(path)


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(OrchestrateError, match="cannot open the ledger"):
        Ledger(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OrchestrateError, match="cannot open the ledger"):
        Ledger(tmp_path / "file" / "ledger.sqlite")


def test_a_full_disk_is_an_error_in_words_and_the_ledger_goes_on_after_it(path: Path, ledger: Ledger) -> None:
    pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
    ledger._db.execute(f"PRAGMA max_page_count = {pages}")  # SQLite says SQLITE_FULL, as on a full disk
    with pytest.raises(OrchestrateError, match="cannot write the ledger: database or disk is full"):
        ledger.add("big", "name", "{}" * 50_000, [])
    assert states(ledger)[0] == ("j1", "waiting", 0, None)
    reader = Ledger(path)
    assert [row.id for row in reader.campaigns()] == ["run-1"]
    reader.close()
    ledger._db.execute(f"PRAGMA max_page_count = {pages + 1000}")
    ledger.add("big", "name", "{}" * 50_000, [])
    ledger.sent("j1", 1)


@pytest.mark.parametrize("read", ["campaigns", "devices", "seconds_of_cells"])
def test_a_ledger_that_breaks_while_it_is_open(ledger: Ledger, read: str) -> None:
    ledger._db.execute("DROP TABLE jobs")
    ledger._db.execute("DROP TABLE devices")
    with pytest.raises(OrchestrateError, match=r"ledger\.sqlite: cannot read the ledger: no such table"):
        getattr(ledger, read)()


def test_opening_an_up_to_date_ledger_writes_nothing(path: Path, ledger: Ledger) -> None:
    ledger.close()
    before = path.stat().st_mtime_ns
    Ledger(path).close()
    assert path.stat().st_mtime_ns == before
