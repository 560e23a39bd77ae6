from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agents.contract.report import Cause
from orchestrator.dispatch.ledger.ledger import JobRow, Ledger, SeenDevice
from orchestrator.dispatch.ledger.schema import MIGRATIONS
from orchestrator.dispatch.messages import RunStatus
from orchestrator.errors import OrchestrateError
from tests.unit.results.made_attempts import DEVICE

VERSION = len(MIGRATIONS)
JOBS = [("j1", "c1", "d1", 0), ("j2", "c2", "d1", 0), ("j3", "c1", "d1", 1)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "ledger.sqlite"


@dataclass
class Clock:
    """The ledger's; a test moves it."""

    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(path: Path, clock: Clock) -> Iterator[Ledger]:
    made = Ledger(path, clock)
    made.add("run-1", "name", "{}", JOBS)
    yield made
    made.close()


def attempts(path: Path) -> list[tuple[object, ...]]:
    """(job, attempt, device, term, sent, ended, ending, detail), as a person would read them with sqlite3."""
    columns = "job_id, attempt, device_id, term, sent_unix_s, ended_unix_s, ending, detail"
    with closing(sqlite3.connect(path)) as db:
        return db.execute(f"SELECT {columns} FROM attempts ORDER BY job_id, attempt").fetchall()


def states(ledger: Ledger, run: str = "run-1") -> list[tuple[str, str, int, str | None]]:
    return [(row.job_id, row.state, row.attempt, row.cause) for row in ledger.jobs(run)]


def test_a_job_from_waiting_to_done(ledger: Ledger) -> None:
    assert ledger.jobs("run-1")[2] == JobRow("j3", 2, "c1", "d1", 1, "waiting", 0, None, None, 0)
    ledger.mark_sent("j1", 1)
    assert states(ledger)[0] == ("j1", "sent", 1, None)
    ledger.put_back("j1")
    assert states(ledger)[0] == ("j1", "waiting", 1, None), "the attempt's number stays used"
    ledger.mark_sent("j1", 2)
    ledger.mark_done("j1", 2, None, 2.5)
    ledger.mark_done("j2", 1, Cause.RAM, 0.5)
    assert states(ledger) == [("j1", "done", 2, None), ("j2", "done", 1, "ram"), ("j3", "waiting", 0, None)]
    (row,) = ledger.runs()
    assert (row.id, row.name, row.jobs, row.done, row.failed, row.remaining) == ("run-1", "name", 3, 2, 1, 1)
    assert ledger.run("run-1") == row


def test_failures_are_counted_where_they_are_told(ledger: Ledger) -> None:
    ledger.mark_sent("j1", 1)
    ledger.put_back("j1", Cause.DEVICE_LOST, "silent", failures=1)
    ledger.mark_sent("j1", 2)
    ledger.put_back("j1")  # cancelled: no failure
    assert [row.failures for row in ledger.jobs("run-1")] == [1, 0, 0]


def test_every_attempt_is_on_record(path: Path, ledger: Ledger, clock: Clock) -> None:
    ledger.mark_sent("j1", 1, "d1", term=7)
    clock.now_s = 110.0
    ledger.put_back("j1", Cause.ENGINE_LOST, "gone", failures=1)
    clock.now_s = 120.0
    ledger.mark_sent("j1", 2, "d1", term=8)
    ledger.mark_sent("j2", 1, "d2", term=8)
    clock.now_s = 130.0
    ledger.mark_done("j1", 2, None, 9.0)
    assert attempts(path) == [
        ("j1", 1, "d1", 7, 100.0, 110.0, "engine_lost", "gone"),
        ("j1", 2, "d1", 8, 120.0, 130.0, "measured", ""),
        ("j2", 1, "d2", 8, 120.0, None, None, None),
    ]
    ledger.mark_done("j2", 1, Cause.RAM, 1.0)
    assert attempts(path)[2][6] == "ram"


def test_a_device_has_leave_for_one_job_until_its_end_is_told(ledger: Ledger) -> None:
    ledger.mark_sent("j1", 1, "d1")
    ledger.mark_sent("j2", 1, "d2")
    assert ledger.leases() == {"d1": ("j1", 1), "d2": ("j2", 1)}
    ledger.put_back("j1")
    ledger.mark_sent("j3", 1, "d1")
    ledger.mark_done("j2", 1, None, 1.0)
    assert ledger.leases() == {"d1": ("j3", 1)}


def test_how_one_job_stands(ledger: Ledger) -> None:
    ledger.mark_sent("j1", 2)
    ledger.mark_done("j2", 1, None, 1.0)
    assert [ledger.job_state(each) for each in ("j1", "j2", "j3", "j4")] == [
        ("sent", 2),
        ("done", 1),
        ("waiting", 0),
        None,
    ]


def test_what_failed_waits_again_with_a_clean_slate_and_a_new_number(ledger: Ledger) -> None:
    """The rows that it has in the store are of an attempt that counts no more: the number says so."""
    ledger.mark_sent("j1", 3)
    ledger.put_back("j1", Cause.ENGINE_LOST, failures=2)
    ledger.mark_done("j1", 3, Cause.ENGINE_LOST, 1.0)
    ledger.mark_done("j2", 1, Cause.RAM, 1.0)
    ledger.mark_done("j3", 1, None, 1.0)
    ledger.add("run-2", "name", "{}", [("k1", "c", "d", 0)])
    ledger.mark_done("k1", 1, Cause.ENGINE_LOST, 1.0)
    assert ledger.requeue("run-1", []) == {}
    assert ledger.requeue("run-1", [Cause.DISK_FULL]) == {}
    assert ledger.requeue("run-1", [Cause.ENGINE_LOST, Cause.DISK_FULL]) == {"j1": 4}
    first = ledger.jobs("run-1")[0]
    assert (first.state, first.attempt, first.cause, first.seconds, first.failures) == ("waiting", 4, None, None, 0)
    assert states(ledger)[1:] == [("j2", "done", 1, "ram"), ("j3", "done", 1, None)]
    assert states(ledger, "run-2") == [("k1", "done", 1, "engine_lost")]
    assert ledger.requeue("run-1", [Cause.ENGINE_LOST]) == {}


def test_what_a_run_is_meant_to_do(ledger: Ledger) -> None:
    ledger.add("run-2", "name", "{}", [], priority=5, created_unix_s=7.0)
    row = ledger.run("run-2")
    assert (row.priority, row.status, row.created_unix_s) == (5, RunStatus.RUNNING, 7.0)
    ledger.set_run("run-2", RunStatus.PAUSED)
    assert (ledger.run("run-2").priority, ledger.run("run-2").status) == (5, RunStatus.PAUSED)
    ledger.set_run("run-2", RunStatus.CANCELLED, 0)
    assert (ledger.run("run-2").priority, ledger.run("run-2").status) == (0, RunStatus.CANCELLED)
    assert ledger.run("run-1").status is RunStatus.RUNNING


def test_terms_count_up_for_all_who_open_it(path: Path, ledger: Ledger) -> None:
    early, other = Ledger(path, now=lambda: 5.0), Ledger(path, now=lambda: 7.9)
    assert [early.new_term(), early.new_term(), early.new_term(), early.new_term()] == [5, 6, 7, 8]
    assert [other.new_term(), early.new_term()] == [9, 10], "a clock that goes back counts no number twice"
    other.close()
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM terms")
    assert early.new_term() == 11, "a number is never given twice"
    early.close()


def test_a_new_ledger_comes_after_an_older_one(tmp_path: Path) -> None:
    """Agents outlive a head whose results lie elsewhere from now on: they must hear it."""
    terms = []
    for name, now in (("old", 1.7e9), ("new", 1.7e9 + 60)):
        made = Ledger(tmp_path / name, now=lambda now=now: now)  # type: ignore[misc]
        terms.append(made.new_term())
        made.close()
    assert terms[1] > terms[0]


def test_everything_is_there_after_a_restart(path: Path, ledger: Ledger) -> None:
    ledger.mark_sent("j2", 1)
    ledger.record_devices([DEVICE])
    ledger.close()
    again = Ledger(path)
    assert states(again) == [("j1", "waiting", 0, None), ("j2", "sent", 1, None), ("j3", "waiting", 0, None)]
    assert again.matrix("run-1") == "{}"
    assert again.devices() == [DEVICE]
    again.close()


def test_what_is_written_in_a_batch_is_there_whole_or_not_at_all(path: Path, ledger: Ledger) -> None:
    reader = Ledger(path)
    with ledger.batch():
        ledger.mark_sent("j1", 1)
        with ledger.batch():
            ledger.mark_done("j2", 1, None, 1.0)
        assert states(reader)[0] == ("j1", "waiting", 0, None), "nothing is seen before its end"
    assert states(reader)[:2] == [("j1", "sent", 1, None), ("j2", "done", 1, None)]

    def broken() -> None:
        with ledger.batch():
            ledger.mark_done("j1", 1, None, 1.0)
            with ledger.batch():
                ledger.mark_done("j3", 1, None, 1.0)
                raise ValueError("a fault elsewhere")

    with pytest.raises(ValueError, match="elsewhere"):
        broken()
    assert states(reader)[0] == ("j1", "sent", 1, None)
    assert states(reader)[2] == ("j3", "waiting", 0, None)
    ledger.mark_done("j3", 1, None, 1.0)
    assert states(reader)[2] == ("j3", "done", 1, None), "it goes on after that"
    reader.close()


def test_threads_of_one_process_share_it(ledger: Ledger) -> None:
    """Each batch is its thread's own: none ends in the middle of another's."""
    rows = [(f"t{number}", "c", "d", 0) for number in range(120)]
    ledger.add("run-t", "name", "{}", rows)

    def work(first: int) -> None:
        for number in range(first, 120, 4):
            with ledger.batch():
                ledger.mark_sent(f"t{number}", 1, f"d{number}")
                ledger.mark_done(f"t{number}", 1, None, 1.0)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert ledger.run("run-t").done == 120
    assert ledger.leases() == {}


KILLED = """
import os, sys
from pathlib import Path
from orchestrator.dispatch.ledger.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
ledger.mark_sent("j1", 1)
ledger.mark_done("j1", 1, None, 1.0)
ledger._db.execute("BEGIN IMMEDIATE")
ledger._db.execute("UPDATE jobs SET state = 'done' WHERE job_id = 'j2'")
os.kill(os.getpid(), 9)
"""


def test_a_process_that_is_killed_leaves_what_it_wrote_and_no_half(path: Path, ledger: Ledger) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert killed.returncode == -9
    assert states(ledger)[:2] == [("j1", "done", 1, None), ("j2", "waiting", 0, None)]
    ledger.mark_sent("j2", 1)


WRITER = """
import sys
from pathlib import Path
from orchestrator.dispatch.ledger.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
run = sys.argv[2]
ledger.add(run, run, "{}", [(f"{run}-{n}", "c", "d", n) for n in range(60)])
for n in range(60):
    ledger.mark_sent(f"{run}-{n}", 1)
    ledger.mark_done(f"{run}-{n}", 1, None, 1.0)
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
    assert [row.id for row in ledger.runs()] == ["run-1"]
    ledger.add("run-2", "name", "{}", [("new", "c", "d", 0)])


def test_runs_are_listed_the_newest_first(ledger: Ledger) -> None:
    for run, created in (("run-3", 300.0), ("run-2", 200.0)):
        ledger.add(run, "name", "{}", [], created_unix_s=created)
    assert [row.id for row in ledger.runs()] == ["run-3", "run-2", "run-1"]
    assert ledger.runs()[0].jobs == 0


def test_an_unknown_run(ledger: Ledger) -> None:
    assert ledger.jobs("nothing") == []
    with pytest.raises(OrchestrateError, match=r"no run nothing in .*ledger\.sqlite"):
        ledger.matrix("nothing")
    with pytest.raises(OrchestrateError, match=r"no run nothing in .*ledger\.sqlite"):
        ledger.run("nothing")


def test_devices_the_latest_first_and_unreadable_ones_left_out(ledger: Ledger, clock: Clock) -> None:
    other = replace(DEVICE, device_id="other", name="other")
    ledger.record_devices([DEVICE])
    clock.now_s += 1
    ledger.record_devices([other])
    assert ledger.devices() == [other, DEVICE]
    clock.now_s += 1
    ledger.record_devices([replace(DEVICE, boot_id="boot-2")])
    assert [device.boot_id for device in ledger.devices()] == ["boot-2", "boot-1"]
    ledger._db.execute("UPDATE devices SET facts = '{\"made\": \"by a newer version\"}' WHERE device_id = 'other'")
    assert [device.device_id for device in ledger.devices()] == [DEVICE.device_id]


def test_when_and_where_a_device_was_last_seen(ledger: Ledger, clock: Clock) -> None:
    other = replace(DEVICE, device_id="other", name="other")
    ledger.record_devices([DEVICE], "10.0.0.5")
    ledger.record_devices([other], trouble="another version")
    clock.now_s = 160.0
    ledger.touch_devices([DEVICE.device_id, "nobody"])
    assert ledger.seen_devices() == [
        SeenDevice(DEVICE, 160.0, "10.0.0.5", None),
        SeenDevice(other, 100.0, None, "another version"),
    ]


def test_seconds_of_cells_is_the_mean_of_what_was_measured(ledger: Ledger) -> None:
    ledger.add("run-2", "name", "{}", [("k1", "c1", "d1", 0), ("k2", "c1", "d2", 0), ("k3", "c3", "d1", 0)])
    ledger.mark_done("j1", 1, None, 2.0)
    ledger.mark_done("j3", 1, None, 4.0)
    ledger.mark_done("k1", 1, Cause.RAM, 100.0)  # it failed: its time says nothing
    ledger.mark_done("k2", 1, None, 7.0)
    ledger.mark_sent("k3", 1)
    assert ledger.seconds_of_cells() == {("c1", "d1"): 3.0, ("c1", "d2"): 7.0}


def test_a_newer_ledger_is_refused_and_left_as_it_is(path: Path, ledger: Ledger) -> None:
    ledger.close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(OrchestrateError, match=rf"written by a newer version of orchestrate \(ledger {VERSION + 1}\)"):
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
    assert [row.id for row in reader.runs()] == ["run-1"]
    reader.close()
    ledger._db.execute(f"PRAGMA max_page_count = {pages + 1000}")
    ledger.add("big", "name", "{}" * 50_000, [])
    ledger.mark_sent("j1", 1)


@pytest.mark.parametrize("read", ["runs", "devices", "seconds_of_cells"])
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
