"""A run after a restart: what is left of it, from what the ledger and the store hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agents.contract.report import HUNG, Cause, Failed, Outcome, Refused, Report
from orchestrator.dispatch.messages import PendingJob, RunAdded, RunStatus
from orchestrator.dispatch.runs import pending_jobs, planned_run, remaining_of, run_of_ledger
from orchestrator.errors import OrchestrateError
from orchestrator.matrix import matrix_to_json
from orchestrator.plan.jobs import job_of, plan_jobs
from orchestrator.results.rows import Kept
from orchestrator.results.store import Store
from tests.fakes.matrices import matrix_and_cells
from tests.fakes.reports import report_of
from tests.unit.dispatch.submitted_run import RUN, A, B, SubmittedRun
from tests.unit.results.made_attempts import MEASURED

CRASHED = Failed(Cause.ENGINE_CRASHED, "signal 11")


def report_at(run: SubmittedRun, outcome: Outcome, attempt: int = 1, which: int = 0) -> Report:
    job = job_of(run.matrix, RUN, run.run.jobs[run.ids[which]], attempt)
    return report_of(job, outcome, A)


def stored(run: SubmittedRun, outcome: Outcome, attempt: int = 1, which: int = 0) -> None:
    report = report_at(run, outcome, attempt, which)
    run.store.append_many([Kept(run.run.job(report.job_id, attempt), report, A)])


def again(run: SubmittedRun) -> RunAdded:
    return remaining_of(run.ledger, run.store, run_of_ledger(run.ledger, RUN))


def test_a_new_run_waits_whole_in_the_order_of_the_plan(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path, (A, B))
    assert pending_jobs(run.run) == [
        PendingJob(each, job.device_id, job.cell.state, cell_id=job.cell.cell_id) for each, job in run.run.jobs.items()
    ]
    assert run.run.device_ids == {"id-a", "id-b"}
    name = run.run.name_of(run.ids[0])
    planned = run.run.jobs[run.ids[0]]
    assert (name.job_id, name.cell_id, name.repeat) == (run.ids[0], planned.cell.cell_id, 0)
    assert name.cell in {"ctx 1K", "ctx 2K", "ctx 4K"}


def test_equal_cells_of_one_device_are_one_job(tmp_path: Path) -> None:
    """A cell that names the device twice, by id and by name, and once not at all: it is measured once."""
    matrix, cells = matrix_and_cells(
        "axes: {model: tiny:llama, workload: pp8}\nmeasure: {repeats: 1}\n"
        "include: [{model: tiny:llama, workload: pp8, device: alpha},"
        " {model: tiny:llama, workload: pp8, device: id-a}]\n"
    )
    assert len(planned_run(RUN, matrix, plan_jobs(matrix, cells, [A])).jobs) == 1


def test_jobs_are_the_same_again(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path, (A, B), "axes: {model: tiny:llama, workload: [pp8, tg8], power_limit: [80W, 55W]}\n")
    again = run_of_ledger(run.ledger, RUN)
    assert list(again.jobs) == run.ids
    for job_id, planned in run.run.jobs.items():
        assert job_of(again.matrix, RUN, again.jobs[job_id], 1) == job_of(run.matrix, RUN, planned, 1)


def test_a_run_whose_cells_have_other_ids_now(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path)
    other, _ = matrix_and_cells("axes: {model: tiny:llama, workload: tg8}\n")
    with run.ledger.batch() as db:
        db.execute("UPDATE runs SET matrix = ?", (matrix_to_json(other),))
    with pytest.raises(OrchestrateError, match="run run-1: made by another version of orchestrate"):
        run_of_ledger(run.ledger, RUN)
    with pytest.raises(OrchestrateError, match="no run nothing"):
        run_of_ledger(run.ledger, "nothing")


@dataclass(frozen=True)
class Left:
    """What a coordinator left of its first job, and what another one makes of it."""

    ledger: tuple[str, int]  # state and attempt
    stored: tuple[Outcome, int] | None  # outcome and attempt
    then: tuple[str, int, str | None]  # state, attempt and cause in the ledger
    waits: tuple[int, bool] | None  # the latest attempt, and whether its failure is counted


LEFT = {
    "never sent": Left(("waiting", 0), None, ("waiting", 0, None), (0, True)),
    "sent, and nothing is known of it": Left(("sent", 1), None, ("sent", 1, None), (1, False)),
    "put back": Left(("waiting", 1), None, ("waiting", 1, None), (1, True)),
    "stored, but the ledger was not told": Left(("sent", 1), (MEASURED, 1), ("done", 1, None), None),
    "a failure stored, but the ledger was not told": Left(
        ("sent", 1), (CRASHED, 1), ("done", 1, "engine_crashed"), None
    ),
    "refused, but the ledger was not told": Left(
        ("sent", 1), (Refused(Cause.UNSUPPORTED, "no"), 1), ("done", 1, "unsupported"), None
    ),
    "given up for good while it waited, but the ledger was not told": Left(
        ("waiting", 1), (Failed(Cause.DEVICE_LOST, "silent"), 1), ("done", 1, "device_lost"), None
    ),
    "a late report stored while it waited, but the ledger was not told": Left(
        ("waiting", 1), (MEASURED, 1), ("done", 1, None), None
    ),
    "an earlier attempt is stored, this one is not": Left(("sent", 2), (CRASHED, 1), ("sent", 2, None), (2, False)),
    "it failed, and somebody wants it again": Left(("again", 1), (CRASHED, 1), ("waiting", 2, None), (2, True)),
    "done": Left(("done", 1), (MEASURED, 1), ("done", 1, None), None),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_an_earlier_coordinator_left(tmp_path: Path, case: str) -> None:
    left, run = LEFT[case], SubmittedRun(tmp_path)
    state, attempt = left.ledger
    if attempt:
        run.ledger.mark_sent(run.ids[0], attempt)
    if state == "waiting" and attempt:
        run.ledger.put_back(run.ids[0])
    elif state == "done":
        run.ledger.mark_done(run.ids[0], attempt, None, 2.0)
    elif state == "again":
        run.ledger.mark_done(run.ids[0], attempt, Cause.ENGINE_CRASHED, 2.0)
        run.ledger.requeue(RUN, [Cause.ENGINE_CRASHED])
    if left.stored:
        stored(run, *left.stored)
    added = again(run)
    assert run.states() == [left.then, ("waiting", 0, None), ("waiting", 0, None)]
    waits = {each.job_id: (each.attempt, each.failure_counted) for each in added.jobs}
    assert waits.get(run.ids[0]) == left.waits
    assert [waits[each] for each in run.ids[1:]] == [(0, True), (0, True)]
    assert again(run) == added, "a second look finds the same"


def test_what_is_left_is_as_the_run_was(tmp_path: Path) -> None:
    run = SubmittedRun(
        tmp_path, (A, B), "axes: {model: tiny:llama, workload: [pp8, tg8], power_limit: 80W}\nmeasure: {repeats: 1}\n"
    )
    run.ledger.set_run(RUN, RunStatus.PAUSED, 4)
    run.ledger.mark_sent(run.ids[0], 1)
    run.ledger.put_back(run.ids[0], Cause.DEVICE_LOST, failures=1)
    run.ledger.mark_done(run.ids[1], 1, None, 1.0)
    added = again(run)
    assert (added.run_id, added.priority, added.status) == (RUN, 4, RunStatus.PAUSED)
    assert added.created_unix_s == run.ledger.run(RUN).created_unix_s
    first, third, fourth = added.jobs
    cell = run.run.jobs[run.ids[0]].cell
    assert first == PendingJob(run.ids[0], "id-a", cell.state, 1, 1, failure_counted=True, cell_id=cell.cell_id)
    assert [each.job_id for each in (third, fourth)] == run.ids[2:]
    assert {each.state.power_limit_w for each in added.jobs} == {80}


def test_how_often_a_job_hung_is_known_after_a_restart(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path, (A, B))
    for attempt, (cause, detail) in enumerate(
        [(Cause.ENGINE_LOST, f'{HUNG} at "loading": no end after 660 s'), (Cause.DEVICE_LOST, "it was switched off")], 1
    ):
        run.ledger.mark_sent(run.ids[0], attempt)
        run.ledger.put_back(run.ids[0], cause, detail, failures=attempt)
    assert [each.hangs for each in again(run).jobs if each.job_id == run.ids[0]] == [1]
    assert {each.hangs for each in again(run).jobs if each.job_id != run.ids[0]} == {0}


def test_seconds_are_those_of_the_attempt(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path)
    run.ledger.mark_sent(run.ids[0], 1)
    stored(run, MEASURED)
    again(run)
    assert [row.seconds for row in run.ledger.jobs(RUN)] == [2.0, None, None]


def test_a_row_that_is_not_whole_does_not_count(tmp_path: Path) -> None:
    """Power went while it was written, or the disk rots: the job is measured again."""
    run = SubmittedRun(tmp_path)
    run.ledger.mark_sent(run.ids[0], 1)
    stored(run, MEASURED)
    (path,) = (tmp_path / "runs" / RUN / "trials").glob("*.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    added = remaining_of(run.ledger, Store(tmp_path), run.run)
    assert [each.job_id for each in added.jobs] == run.ids


def test_it_can_be_done_again_after_it_broke_off(tmp_path: Path) -> None:
    """The disk is full in the middle: a second try finds all that the first left."""
    run = SubmittedRun(tmp_path)
    for which in range(3):
        run.ledger.mark_sent(run.ids[which], 1)
        stored(run, MEASURED, which=which)
    done = run.ledger.mark_done
    run.ledger.mark_done = _breaking_at(run.ids[1], done)  # type: ignore[method-assign]
    with pytest.raises(OrchestrateError, match="disk"):
        again(run)
    run.ledger.mark_done = done  # type: ignore[method-assign]
    assert [state for state, _, _ in run.states()] == ["done", "sent", "sent"]
    assert again(run).jobs == []
    assert run.states() == [("done", 1, None)] * 3
    assert run.stored() == [(job_id, 1, "ok") for job_id in run.ids]


def _breaking_at(job_id: str, done: Callable[..., None]) -> Callable[..., None]:
    def broken(which: str, *rest: object) -> None:
        if which == job_id:
            raise OrchestrateError("the disk is full")
        done(which, *rest)

    return broken


def test_a_device_with_another_name_has_the_same_jobs(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path)
    renamed = planned_run(
        RUN, run.matrix, plan_jobs(run.matrix, matrix_and_cells(run.text)[1], [replace(A, name="other")])
    )
    assert list(renamed.jobs) == run.ids
