"""A run that is taken up while its devices are there already: a resume in a cluster of one's own."""

from __future__ import annotations

from pathlib import Path

from agents.contract.report import Report
from orchestrator.dispatch.board import NoticeBoard
from orchestrator.dispatch.loop import CoordinatorLoop
from orchestrator.plan.jobs import job_of
from tests.fakes.reports import report_of
from tests.unit.dispatch.submitted_run import RUN, A, SubmittedRun
from tests.unit.results.made_attempts import MEASURED


def held(run: SubmittedRun, which: int, attempt: int) -> Report:
    """A report on the device's disk, of an attempt that an earlier coordinator sent."""
    job = job_of(run.matrix, RUN, run.run.jobs[run.ids[which]], attempt)
    told = report_of(job, MEASURED, A)
    run.devices[0].spool[job.job_id, attempt] = told
    return told


def test_what_its_devices_hold_is_not_measured_again(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path)
    run.ledger.mark_sent(run.ids[0], 1, "id-a")
    run.ledger.mark_sent(run.ids[1], 2, "id-a")
    held(run, 0, 1)
    held(run, 1, 1)  # stale: it does not count
    fleet = run.fleet()
    loop = CoordinatorLoop(fleet, run.ledger, run.store, NoticeBoard(), monotonic=lambda: run.world.now_s)
    for _ in range(10):
        loop.round()
    assert fleet.settled
    assert run.stored() == [], "it is no run that anybody works on yet"
    loop.resume_run(RUN)
    run.complete(loop)
    assert run.stored() == [(run.ids[0], 1, "ok"), (run.ids[1], 3, "ok"), (run.ids[2], 1, "ok")]
    assert sorted(run.devices[0].ran) == sorted([(run.ids[1], 3), (run.ids[2], 1)])
    for _ in range(10):
        loop.round()
    assert run.devices[0].spool == {}, "and nothing stays on the device's disk"
