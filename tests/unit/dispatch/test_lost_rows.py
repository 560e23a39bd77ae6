"""Done jobs whose files cannot be read are found, and are pending again; nothing else is."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from agents.agent.calls import AgentStatus
from orchestrator.dispatch.coordinator import Coordinator
from orchestrator.dispatch.fleet import DeviceGreeted
from orchestrator.dispatch.lost_rows import LostRows, lost_rows, put_back_unreadable
from orchestrator.dispatch.runs import remaining_of, run_of_ledger
from orchestrator.plan.jobs import job_of
from orchestrator.results.durable import StoreError
from orchestrator.results.rows import Kept
from orchestrator.results.store import Store
from tests.fakes.idle_fleet import IdleFleet
from tests.fakes.reports import report_of
from tests.unit.dispatch.submitted_run import RUN, A, SubmittedRun
from tests.unit.results.made_attempts import MEASURED
from tests.unit.results.test_results_merging import rot_a_page
from tests.waiting import until


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


def kept_aside(run: SubmittedRun) -> list[Path]:
    return sorted((run.folder / "runs" / RUN / "trials").glob("*.damaged-*"))


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
    assert put_back_unreadable(run.ledger, run.store, RUN, lost).startswith("rows of 1 done job cannot be read")
    (aside,) = kept_aside(run)
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
    put_back_unreadable(run.ledger, run.store, RUN, lost)
    assert [state for state, _, _ in run.states()] == ["waiting", "done", "done"]


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = SubmittedRun(tmp_path)
    keep(run, 0)
    path = file_of(run, 0)
    shutil.move(path, path.with_name("kept"))
    path.mkdir()  # root reads a file of any mode: a folder of that name is what nobody can read
    lost = lost_rows(run.ledger, Store(tmp_path), RUN)
    assert lost.unreadable == (run.ids[0],)
    put_back_unreadable(run.ledger, run.store, RUN, lost)
    (aside,) = kept_aside(run)
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


def test_a_file_that_is_gone_from_among_others(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path)
    keep(run, 0)
    keep(run, 1)
    file_of(run, 0).unlink()
    assert lost_rows(run.ledger, run.store, RUN) == LostRows(unreadable=(run.ids[0],))


def test_rows_of_a_run_without_any_file_are_missing_and_stay_done(tmp_path: Path) -> None:
    """The disk may not be mounted: that is no reason to measure everything again."""
    run = SubmittedRun(tmp_path)
    keep(run, 0)
    keep(run, 1)
    shutil.rmtree(tmp_path / "runs")
    lost = lost_rows(run.ledger, Store(tmp_path), RUN)
    assert lost == LostRows(missing=tuple(run.ids[:2]))
    put_back_unreadable(run.ledger, run.store, RUN, lost)
    assert [state for state, _, _ in run.states()] == ["done", "done", "waiting"]


def test_a_job_that_ends_while_it_is_looked_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = SubmittedRun(tmp_path)
    keep(run, 0)
    check, jobs, ends = Store.check, run.ledger.jobs, iter((1, 2))

    def before(read: Callable[..., Any]) -> Callable[..., Any]:
        def read_and_keep(*arguments: Any) -> Any:
            found = read(*arguments)
            keep(run, next(ends))
            return found

        return read_and_keep

    monkeypatch.setattr(Store, "check", before(check))
    monkeypatch.setattr(run.ledger, "jobs", before(jobs))
    assert lost_rows(run.ledger, run.store, RUN) == LostRows()


def test_too_many_open_files_are_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = SubmittedRun(tmp_path)
    keep(run, 0)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(pq, "ParquetFile", full)
    with pytest.raises(StoreError, match="Too many open files"):
        lost_rows(run.ledger, run.store, RUN)


def test_a_second_damaged_file_of_one_name_is_kept_beside_the_first(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path)
    for content in (b"", b"no"):
        keep(run, 0)
        file_of(run, 0).write_bytes(content)
        put_back_unreadable(run.ledger, run.store, RUN, lost_rows(run.ledger, run.store, RUN))
    assert [path.read_bytes() for path in kept_aside(run)] == [b"", b"no"]


@contextmanager
def coordinator(run: SubmittedRun) -> Iterator[tuple[Coordinator, IdleFleet]]:
    fleet = IdleFleet()
    fleet.events = [DeviceGreeted(A, AgentStatus(None, "idle", 0, None, ()), "10.0.0.5")]
    coordinator = Coordinator(run.folder, lambda: fleet)
    try:
        until(lambda: coordinator.status().devices == 1, "the device")
        yield coordinator, fleet
    finally:
        coordinator.close()


def test_a_coordinator_that_starts_sends_what_cannot_be_read(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path)
    keep(run, 0)
    keep(run, 1)
    file_of(run, 0).write_bytes(b"")
    with coordinator(run) as (_, fleet):
        until(lambda: fleet.sent != [], "a job that is sent")
        assert fleet.sent == [run.ids[0]]
    assert [(state, attempt) for state, attempt, _ in run.states()] == [("sent", 2), ("done", 1), ("waiting", 0)]


@pytest.mark.parametrize("is_open", [False, True])
def test_resume_puts_back_what_cannot_be_read(tmp_path: Path, is_open: bool) -> None:
    """Of a run that is complete, and of one that goes on."""
    run = SubmittedRun(tmp_path)
    for which in range(2 if is_open else 3):
        keep(run, which)
    with coordinator(run) as (head, fleet):
        file_of(run, 0).write_bytes(b"PAR1")
        head.resume(RUN)
        notices = head.watch(RUN, 0, 5.0).batch.notices
        assert any("rows of 1 done job cannot be read" in getattr(each, "text", "") for each in notices)
        until(lambda: len(fleet.sent) == 1, "a job that is sent")
        states = [state for state, _, _ in run.states()]
        assert states == (["waiting", "done", "sent"] if is_open else ["sent", "done", "done"])
        head.resume(RUN)
        assert [state for state, _, _ in run.states()] == states, "a second time it finds nothing"
