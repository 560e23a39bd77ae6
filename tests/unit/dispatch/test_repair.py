from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from agents.contract.report import Cause, Failed
from orchestrator.dispatch.ledger.backup import FOLDER, back_up, backups_of
from orchestrator.dispatch.ledger.file import PARTS
from orchestrator.dispatch.ledger.ledger import JobRow, Ledger
from orchestrator.dispatch.ledger.record import note_state, read_record, record_of, write_record
from orchestrator.dispatch.messages import RunStatus
from orchestrator.dispatch.repair import mended, prepare
from orchestrator.dispatch.runs import StoredAttempt
from tests.unit.dispatch.submitted_run import RUN, A, B, SubmittedRun

JOB = JobRow("j1", 0, "c1", "d1", 0, "waiting", 0, None, None, 0)
DONE = replace(JOB, state="done", attempt=1, cause="ram", seconds=2.0)


def row(attempt: int) -> StoredAttempt:
    return StoredAttempt(attempt, None, 3.0)


@pytest.mark.parametrize(
    ("job", "stored", "sent", "retried", "state", "attempt"),
    [
        (JOB, None, 0, 0, "waiting", 0),
        (JOB, row(1), 0, 0, "done", 1),
        (JOB, row(2), 3, 0, "done", 2),
        (JOB, None, 2, 0, "sent", 2),
        (replace(JOB, state="sent", attempt=2), None, 2, 0, "sent", 2),
        (replace(JOB, attempt=2), row(1), 0, 0, "waiting", 2),  # retried, and not done since
        (DONE, None, 0, 0, "done", 1),
        (DONE, row(1), 0, 0, "done", 1),
        (DONE, row(3), 0, 2, "done", 3),
        (DONE, row(1), 0, 2, "waiting", 2),
        (DONE, row(1), 3, 2, "sent", 3),
        (DONE, row(3), 0, 0, "done", 3),
    ],
)
def test_what_a_job_is_by_what_is_there(
    job: JobRow, stored: StoredAttempt | None, sent: int, retried: int, state: str, attempt: int
) -> None:
    after = mended(job, stored, sent, retried)
    assert (after.state, after.attempt) == (state, attempt)
    assert (after == job) == ((job.state, job.attempt) == (state, attempt))
    assert state == "done" or after.cause is None


@pytest.fixture
def run(tmp_path: Path) -> SubmittedRun:
    """Two of the six jobs are done."""
    made = SubmittedRun(tmp_path, (A, B))
    (tmp_path / "runs" / RUN).mkdir(parents=True)
    write_record(tmp_path, record_of(made.ledger, RUN))
    loop = made.coordinator(made.fleet())
    loop.run(until=lambda: made.left() <= 4)
    return made


def lose(run: SubmittedRun) -> None:
    run.ledger.close()
    for part in PARTS:
        (run.folder / f"ledger.sqlite{part}").unlink(missing_ok=True)


def repaired(run: SubmittedRun) -> Path | None:
    """As ``orchestrate repair``; the run has its ledger again."""
    made = prepare(run.folder)
    kept = made.apply()
    run.ledger = Ledger(run.folder / "ledger.sqlite")
    return kept


def goes_on(run: SubmittedRun) -> list[str]:
    """The jobs that were sent until all are done."""
    sent: list[str] = []
    fleet = run.fleet()
    send = fleet.send

    def sending(device_id: str, job: object, grant: object) -> None:
        sent.append(job.job_id)  # type: ignore[attr-defined]
        send(device_id, job, grant)  # type: ignore[arg-type]

    fleet.send = sending  # type: ignore[method-assign]
    for device in run.devices:
        device.reboot()
    run.complete(run.coordinator(fleet))
    return sent


class TestAfterIt:
    def test_only_what_has_no_row_is_measured(self, run: SubmittedRun) -> None:
        before = run.stored()
        done = {job for job, *_ in before}
        lose(run)
        made = prepare(run.folder)
        assert (made.base, [each.done for each in made.runs]) == (None, [2])
        assert repaired(run) is None
        assert sorted(goes_on(run)) == sorted(set(run.ids) - done)
        assert [job for job, *_ in run.stored()] == run.ids, "each job has its row once"

    def test_what_a_backup_knew_is_kept(self, run: SubmittedRun) -> None:
        path = run.folder / "ledger.sqlite"
        run.ledger.add("older-1", "older", "{}", [("k1", "c", "id-a", 0)], priority=7)
        back_up(path)
        attempts = len(run.ledger.attempts(run.ids[0]))
        run.ledger.close()
        path.write_bytes(os.urandom(path.stat().st_size))
        damaged = path.read_bytes()
        made = prepare(run.folder)
        assert made.base == backups_of(run.folder)[0]
        assert "not a database" in made.damage
        kept = repaired(run)
        assert kept is not None and kept.read_bytes() == damaged
        assert kept.name.startswith("ledger-damaged-")
        assert run.ledger.run("older-1").priority == 7
        assert len(run.ledger.attempts(run.ids[0])) == attempts
        goes_on(run)

    def test_status_and_priority_are_those_of_the_last_change(self, run: SubmittedRun) -> None:
        back_up(run.folder / "ledger.sqlite")
        run.ledger.set_run(RUN, RunStatus.CANCELLED, 5)
        note_state(run.ledger, run.folder, RUN)
        for backups in (True, False):
            if not backups:
                backups_of(run.folder)[0].unlink()
            lose(run)
            repaired(run)
            assert (run.ledger.run(RUN).status, run.ledger.run(RUN).priority) == (RunStatus.CANCELLED, 5)

    def test_a_retry_that_was_asked_for_is_still_asked_for(self, tmp_path: Path) -> None:
        run = SubmittedRun(tmp_path)
        (tmp_path / "runs" / RUN).mkdir(parents=True)
        write_record(tmp_path, record_of(run.ledger, RUN))
        run.outcome = lambda _: Failed(Cause.RAM, "too big")
        run.complete(run.coordinator(run.fleet()))
        first = run.ids[0]
        with run.ledger.batch() as db:
            db.execute("UPDATE jobs SET cause = 'disk_full' WHERE job_id = ?", (first,))
        again = run.ledger.requeue(RUN, ["disk_full"])
        note_state(run.ledger, tmp_path, RUN, again)
        lose(run)
        repaired(run)
        assert [(each.state, each.attempt) for each in run.ledger.jobs(RUN)] == [("waiting", 2), *[("done", 1)] * 2]
        assert goes_on(run) == [first]

    def test_a_report_of_an_attempt_that_the_log_knows_counts(self, run: SubmittedRun) -> None:
        """Its device has it on its disk: without the number it would be discarded, and measured a second time."""
        job = next(each for each in run.ledger.jobs(RUN) if each.state == "waiting")
        line = f"2026-11-30T19:20:31.123Z INFO run={RUN} job={job.job_id} attempt=3 device={job.device_id} Send\n"
        (run.folder / "coordinator.log").write_text(line)
        lose(run)
        repaired(run)
        after = next(each for each in run.ledger.jobs(RUN) if each.job_id == job.job_id)
        assert (after.state, after.attempt) == ("sent", 3)
        assert [each.attempt for each in run.ledger.attempts(job.job_id)] == [3]

    def test_facts_of_devices(self, run: SubmittedRun) -> None:
        write_record(run.folder, record_of(run.ledger, RUN))  # as it is when devices are there
        lose(run)
        repaired(run)
        assert {each.device_id: each for each in run.ledger.devices()} == {"id-a": A, "id-b": B}

    def test_jobs_whose_rows_cannot_be_read_are_measured_again(self, run: SubmittedRun) -> None:
        job = run.stored()[0][0]
        (damaged,) = (run.folder / "runs" / RUN / "trials").glob(f"{job}-1.parquet")
        damaged.write_bytes(b"PAR1 no more")
        made = prepare(run.folder)
        assert (made.damage, [each.put_back for each in made.runs]) == ("", [1])
        run.ledger.close()
        made.apply()
        run.ledger = Ledger(run.folder / "ledger.sqlite")
        assert job in goes_on(run)
        assert {attempt for key, attempt, _ in run.stored() if key == job} == {2}
        assert [path.name for path in damaged.parent.glob("*.damaged-*")] == [f"{damaged.name}.damaged-1"]


class TestWhatItFinds:
    def test_a_whole_ledger_is_left_as_it_is(self, run: SubmittedRun) -> None:
        made = prepare(run.folder)
        assert not made.is_needed
        made.discard()
        assert [path.name for path in run.folder.iterdir() if path.name.endswith(".tmp")] == []

    def test_an_older_ledger_that_somebody_put_back(self, run: SubmittedRun) -> None:
        """Whole, and outdated: what has a row is done."""
        with run.ledger.batch() as db:
            db.execute("UPDATE jobs SET state = 'waiting', attempt = 0, cause = NULL, seconds = NULL")
        made = prepare(run.folder)
        assert (made.damage, made.is_needed, [each.done for each in made.runs]) == ("", True, [2])

    def test_the_next_start_alone_measures_nothing_twice_on_it(self, run: SubmittedRun) -> None:
        done = {job for job, *_ in run.stored()}
        with run.ledger.batch() as db:
            db.execute("UPDATE jobs SET state = 'waiting', attempt = 0, cause = NULL, seconds = NULL")
        assert not done & set(goes_on(run))

    def test_a_backup_that_is_damaged_is_passed_over(self, run: SubmittedRun) -> None:
        older = back_up(run.folder / "ledger.sqlite")
        back_up(run.folder / "ledger.sqlite").write_bytes(b"no pages " * 900)
        lose(run)
        assert prepare(run.folder).base == older

    def test_results_without_a_record_are_named(self, run: SubmittedRun) -> None:
        (run.folder / "runs" / RUN / "run.json").unlink()
        back_up(run.folder / "ledger.sqlite").write_bytes(b"no pages " * 900)
        lose(run)
        made = prepare(run.folder)
        assert (made.base, made.runs) == (None, ())
        assert any(f"run {RUN}: its matrix" in words for words in made.unknown)

    def test_a_record_that_is_damaged_is_named(self, run: SubmittedRun) -> None:
        (run.folder / "runs" / RUN / "run.json").write_text("{")
        lose(run)
        made = prepare(run.folder)
        assert made.runs == ()
        assert any("run.json: cannot be read" in words for words in made.unknown)


class TestBackups:
    def test_the_last_three_stay_by_their_numbers(self, run: SubmittedRun) -> None:
        """Whatever the clock says meanwhile."""
        for now in (4e9, 3e9, 2e9, 1e9, time.time()):
            newest = back_up(run.folder / "ledger.sqlite", now)
        assert [path.name[:13] for path in backups_of(run.folder)] == [
            "ledger-000005",
            "ledger-000004",
            "ledger-000003",
        ]
        assert backups_of(run.folder)[0] == newest

    def test_one_is_whole_with_what_the_journal_holds_and_for_its_owner_alone(self, run: SubmittedRun) -> None:
        path = back_up(run.folder / "ledger.sqlite")
        assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        with closing(Ledger(path)) as backup:
            assert backup.jobs(RUN) == run.ledger.jobs(RUN)

    def test_a_writer_is_not_held_up(self, run: SubmittedRun) -> None:
        with run.ledger.batch():
            run.ledger.set_run(RUN, RunStatus.PAUSED)
            path = back_up(run.folder / "ledger.sqlite")
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT status FROM runs").fetchone() == ("running",)

    def test_one_that_cannot_be_made_leaves_the_others(self, run: SubmittedRun) -> None:
        kept = back_up(run.folder / "ledger.sqlite")
        run.ledger.close()
        (run.folder / "ledger.sqlite").write_bytes(b"no pages " * 900)
        with pytest.raises(Exception, match="not a database"):
            back_up(run.folder / "ledger.sqlite")
        assert list((run.folder / FOLDER).iterdir()) == [kept]


def test_a_record_comes_back_as_it_was(run: SubmittedRun) -> None:
    record = record_of(run.ledger, RUN)
    assert read_record(run.folder, RUN) == replace(record, devices=[])  # no device had joined when it was submitted
    write_record(run.folder, record)
    assert read_record(run.folder, RUN) == record
    assert [job for job, *_ in record.job_rows()] == run.ids
