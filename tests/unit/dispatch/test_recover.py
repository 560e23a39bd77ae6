from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from agents.contract.job import Job
from agents.contract.report import Cause, Failed, Outcome, Refused, Report
from orchestrator.dispatch.campaign import MAX_ATTEMPTS
from orchestrator.dispatch.recover import recover
from orchestrator.errors import OrchestrateError
from orchestrator.plan.jobs import job_of
from tests.fakes.scripted_fleet import ScriptedFleet, Step, report_of
from tests.unit.dispatch.a_run import RUN, A, ARun
from tests.unit.results.attempts_made_up import MEASURED

LOST = Failed(Cause.ENGINE_LOST, "gone")
CANCELLED = Failed(Cause.CANCELLED, "asked to")
CRASHED = Failed(Cause.ENGINE_CRASHED, "signal 11")


def never(job: Job) -> Step:
    raise AssertionError("recovering runs nothing")


def recovered(run: ARun, *spooled: Report) -> ScriptedFleet:
    fleet = ScriptedFleet((A,), never, {(each.job_id, each.attempt): each for each in spooled})
    recover(RUN, run.matrix, run.jobs, run.ledger, run.store, fleet)
    return fleet


def attempt_at(run: ARun, outcome: Outcome, attempt: int = 1, which: int = 0) -> tuple[Job, Report]:
    job = job_of(run.matrix, RUN, run.jobs[run.ids[which]], attempt)
    return job, report_of(job, outcome, A)


@dataclass(frozen=True)
class Left:
    """What a coordinator left of its first job, and what must be true after recovering."""

    ledger: tuple[str, int]  # state and attempt
    stored: tuple[Outcome, int] | None  # outcome and attempt
    spooled: tuple[Outcome, int] | None
    then: tuple[str, int, str | None]  # state, attempt and cause in the ledger
    attempts: tuple[int, ...]  # in the store


LEFT = {
    "never sent": Left(("waiting", 0), None, None, ("waiting", 0, None), ()),
    "sent, and nothing came of it": Left(("sent", 1), None, None, ("waiting", 1, None), ()),
    "stored, but the ledger was not told": Left(("sent", 1), (MEASURED, 1), None, ("done", 1, None), (1,)),
    "a failure stored, but the ledger was not told": Left(
        ("sent", 1), (CRASHED, 1), None, ("done", 1, "engine_crashed"), (1,)
    ),
    "stored and still on the device": Left(("sent", 1), (MEASURED, 1), (MEASURED, 1), ("done", 1, None), (1,)),
    "only on the device": Left(("sent", 1), None, (MEASURED, 1), ("done", 1, None), (1,)),
    "refused, only on the device": Left(
        ("sent", 1), None, (Refused(Cause.UNSUPPORTED, "no"), 1), ("done", 1, "unsupported"), (1,)
    ),
    "a stale attempt on the device": Left(("sent", 2), None, (MEASURED, 1), ("waiting", 2, None), ()),
    "cancelled, on the device": Left(("sent", 1), None, (CANCELLED, 1), ("waiting", 1, None), ()),
    "put back, and the device still has the cancelled attempt": Left(
        ("waiting", 1), None, (CANCELLED, 1), ("waiting", 1, None), ()
    ),
    "engine lost: it will be tried again": Left(("sent", 1), None, (LOST, 1), ("waiting", 1, None), ()),
    "engine lost for the last time": Left(
        ("sent", MAX_ATTEMPTS), None, (LOST, MAX_ATTEMPTS), ("done", MAX_ATTEMPTS, "engine_lost"), (MAX_ATTEMPTS,)
    ),
    "engine lost, stored, not put back": Left(("sent", 1), (LOST, 1), None, ("waiting", 1, None), (1,)),
    "engine lost for the last time, stored": Left(
        ("sent", MAX_ATTEMPTS), (LOST, MAX_ATTEMPTS), None, ("done", MAX_ATTEMPTS, "engine_lost"), (MAX_ATTEMPTS,)
    ),
    "an earlier attempt was stored, this one got lost": Left(("sent", 2), (LOST, 1), None, ("waiting", 2, None), (1,)),
    "done, but the device was not told": Left(("done", 1), (MEASURED, 1), (MEASURED, 1), ("done", 1, None), (1,)),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_an_earlier_coordinator_left(tmp_path: Path, case: str) -> None:
    left, run = LEFT[case], ARun(tmp_path)
    state, attempt = left.ledger
    if state != "waiting" or attempt:
        run.ledger.sent(run.ids[0], attempt)
    if state == "waiting":
        run.ledger.put_back(run.ids[0])
    elif state == "done":
        run.ledger.done(run.ids[0], attempt, None, 2.0)
    if left.stored:
        run.store.append(*attempt_at(run, *left.stored), A)
    fleet = recovered(run, *([attempt_at(run, *left.spooled)[1]] if left.spooled else []))
    assert run.states() == [left.then, ("waiting", 0, None), ("waiting", 0, None)]
    assert tuple(attempt for job_id, attempt, _ in run.stored() if job_id == run.ids[0]) == left.attempts
    assert fleet.spool == {}, "what counts nowhere is not kept for ever on the device"


def test_seconds_are_those_of_the_attempt(tmp_path: Path) -> None:
    run = ARun(tmp_path)
    for which in (0, 1):
        run.ledger.sent(run.ids[which], 1)
    run.store.append(*attempt_at(run, MEASURED, which=0), A)
    recovered(run, attempt_at(run, MEASURED, which=1)[1])
    assert [row.seconds for row in run.ledger.jobs(RUN)] == [2.0, 2.0, None]


def test_a_report_of_a_job_that_this_run_does_not_have(tmp_path: Path) -> None:
    run = ARun(tmp_path)
    _, report = attempt_at(run, MEASURED)
    fleet = recovered(run, Report("unknown", 1, RUN, "id-a", "", "", 0.0, 1.0, report.outcome))
    assert [state for state, _, _ in run.states()] == ["waiting"] * 3
    assert fleet.spool == {}
    assert run.stored() == []


def test_it_can_be_done_again_after_it_broke_off(tmp_path: Path) -> None:
    """The disk is full in the middle of recovering: a second try finds all that the first left."""
    run = ARun(tmp_path)
    reports = []
    for which in range(3):
        run.ledger.sent(run.ids[which], 1)
        reports.append(attempt_at(run, MEASURED, which=which)[1])
    spool = {(each.job_id, 1): each for each in reports}
    done = run.ledger.done
    run.ledger.done = _breaking_at(run.ids[1], done)  # type: ignore[method-assign]
    with pytest.raises(OrchestrateError, match="disk"):
        recover(RUN, run.matrix, run.jobs, run.ledger, run.store, ScriptedFleet((A,), never, spool))
    run.ledger.done = done  # type: ignore[method-assign]
    assert [state for state, _, _ in run.states()] == ["done", "sent", "sent"]
    recover(RUN, run.matrix, run.jobs, run.ledger, run.store, ScriptedFleet((A,), never, spool))
    assert run.states() == [("done", 1, None)] * 3
    assert run.stored() == [(job_id, 1, "ok") for job_id in run.ids]


def _breaking_at(job_id: str, done: Callable[..., None]) -> Callable[..., None]:
    def broken(which: str, *rest: object) -> None:
        if which == job_id:
            raise OrchestrateError("the disk is full")
        done(which, *rest)

    return broken
