"""Done jobs whose files cannot be read are found, and are pending again; nothing else is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.dispatch.lost_rows import LostRows, lost_rows, put_back_unreadable
from orchestrator.dispatch.runs import remaining_of, run_of_ledger
from orchestrator.plan.jobs import job_of
from orchestrator.results.rows import Kept
from orchestrator.results.store import Store
from tests.fakes.reports import report_of
from tests.unit.dispatch.submitted_run import RUN, A, SubmittedRun
from tests.unit.results.made_attempts import MEASURED
from tests.unit.results.test_results_merging import rot_a_page


def keep(run: SubmittedRun, *which: int, attempt: int = 1) -> None:
    """Those that are given together come in one file."""
    jobs = [job_of(run.matrix, RUN, run.run.jobs[run.ids[each]], attempt) for each in which]
    run.store.append_many([Kept(job, report_of(job, MEASURED, A), A) for job in jobs])
    for job in jobs:
        run.ledger.mark_sent(job.job_id, attempt, A.device_id)
        run.ledger.mark_done(job.job_id, attempt, None, 2.0)


def file_of(run: SubmittedRun, which: int, attempt: int = 1) -> Path:
    return run.folder / "runs" / RUN / "trials" / f"{run.ids[which]}-{attempt}.parquet"


def merged_file(run: SubmittedRun) -> Path:
    (path,) = (run.folder / "runs" / RUN / "trials").glob("compact-*.parquet")
    return path


def inside(path: Path) -> bytes:
    """One byte is another in a column's data; the file's footer is whole."""
    rot_a_page(path, "output_sha256")
    return path.read_bytes()


DAMAGE: dict[str, Callable[[Path], bytes]] = {
    "truncated": lambda path: path.read_bytes()[:-20],
    "cut to its head": lambda path: path.read_bytes()[:100],
    "zero bytes": lambda _: b"",
    "zeros": lambda path: bytes(len(path.read_bytes())),
    "garbage": lambda path: b"PAR1" + bytes(range(256)) * 20 + b"PAR1",
    "a byte inside": inside,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_of_one_job(tmp_path: Path, damage: str) -> None:
    run = SubmittedRun(tmp_path)
    for which in range(3):
        keep(run, which)
    assert lost_rows(run.ledger, run.store, RUN) == LostRows()
    path = file_of(run, 1)
    content = DAMAGE[damage](path)
    path.write_bytes(content)
    lost = lost_rows(run.ledger, Store(tmp_path), RUN)
    assert (lost.unreadable, lost.missing, [each.path for each in lost.damaged]) == ((run.ids[1],), (), [path])
    (aside,) = put_back_unreadable(run.ledger, run.store, lost)
    assert aside.read_bytes() == content and not path.exists()
    assert run.states() == [("done", 1, None), ("waiting", 1, None), ("done", 1, None)]
    added = remaining_of(run.ledger, run.store, run_of_ledger(run.ledger, RUN))
    assert [(job.job_id, job.attempt, job.failures) for job in added.jobs] == [(run.ids[1], 1, 0)]
    assert lost_rows(run.ledger, run.store, RUN) == LostRows()
    assert run.store.read(RUN).damaged == ()


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_merged_file_takes_the_jobs_that_are_nowhere_else(tmp_path: Path, damage: str) -> None:
    run = SubmittedRun(tmp_path)
    keep(run, 0, 1)
    keep(run, 1)
    keep(run, 2)
    path = merged_file(run)
    path.write_bytes(DAMAGE[damage](path))
    lost = lost_rows(run.ledger, Store(tmp_path), RUN)
    assert (lost.unreadable, lost.missing) == ((run.ids[0],), ())
    put_back_unreadable(run.ledger, run.store, lost)
    assert [state for state, _, _ in run.states()] == ["waiting", "done", "done"]


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = SubmittedRun(tmp_path)
    keep(run, 0)
    path = file_of(run, 0)
    shutil.move(path, path.with_name("kept"))
    path.mkdir()  # root reads a file of any mode: a folder of that name is what nobody can read
    lost = lost_rows(run.ledger, Store(tmp_path), RUN)
    assert lost.unreadable == (run.ids[0],)
    (aside,) = put_back_unreadable(run.ledger, run.store, lost)
    assert aside.is_dir() and not path.exists()


def test_an_earlier_attempt_is_not_the_current_row(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path)
    keep(run, 0)
    keep(run, 0, attempt=2)
    file_of(run, 0, attempt=2).write_bytes(b"")
    assert lost_rows(run.ledger, run.store, RUN).unreadable == (run.ids[0],)
    keep(run, 1)
    keep(run, 1, attempt=2)
    file_of(run, 1, attempt=1).write_bytes(b"")
    assert lost_rows(run.ledger, run.store, RUN).unreadable == (run.ids[0],), "the second job's current row is whole"


def test_rows_that_no_file_holds_are_missing_and_stay_done(tmp_path: Path) -> None:
    """The disk may not be mounted: that is no reason to measure everything again."""
    run = SubmittedRun(tmp_path)
    keep(run, 0)
    keep(run, 1)
    file_of(run, 0).unlink()
    lost = lost_rows(run.ledger, run.store, RUN)
    assert (lost.unreadable, lost.missing, lost.job_ids) == ((), (run.ids[0],), (run.ids[0],))
    shutil.rmtree(tmp_path / "runs")
    lost = lost_rows(run.ledger, Store(tmp_path), RUN)
    assert (lost.unreadable, lost.missing) == ((), tuple(run.ids[:2]))
    put_back_unreadable(run.ledger, run.store, lost)
    assert [state for state, _, _ in run.states()] == ["done", "done", "waiting"]


def test_a_second_damaged_file_of_one_name_is_kept_beside_the_first(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path)
    names = []
    for content in (b"", b"no"):
        keep(run, 0)
        file_of(run, 0).write_bytes(content)
        names += put_back_unreadable(run.ledger, run.store, lost_rows(run.ledger, run.store, RUN))
    assert [path.read_bytes() for path in names] == [b"", b"no"]
