"""What a job usually takes: no absurd one moves it, whoever wrote it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agents.contract.report import Report
from orchestrator.dispatch.durations import is_possible, usual_seconds
from orchestrator.dispatch.ledger.ledger import Ledger
from orchestrator.dispatch.messages import Keep
from orchestrator.dispatch.persist import Persister
from orchestrator.dispatch.runs import remaining_of, run_of_ledger, stored_attempts
from orchestrator.plan.jobs import job_of
from orchestrator.results.rows import Kept
from tests.fakes.reports import report_of
from tests.unit.dispatch.submitted_run import RUN, A, SubmittedRun
from tests.unit.results.made_attempts import MEASURED

USUAL: dict[str, tuple[list[float], float]] = {
    "one": ([14.0], 14.0),
    "two": ([2.0, 4.0], 3.0),
    "three": ([2.0, 14.0, 4.0], 4.0),
    "one of two is absurd": ([129_600.0, 14.0], 14.0),
    "one of three is absurd": ([14.0, 129_600.0, 15.0], 14.5),
    "a slow one is not absurd": ([14.0, 60.0], 37.0),
}


@pytest.mark.parametrize("case", USUAL)
def test_the_usual_duration(case: str) -> None:
    taken, usual = USUAL[case]
    assert usual_seconds(taken) == usual
    assert usual_seconds(reversed(taken)) == usual


@dataclass(frozen=True)
class Taken:
    seconds: float
    away_s: float | None
    is_possible: bool


TAKEN = {
    "as it should be": Taken(14.0, 14.3, True),
    "not known how long it was away": Taken(14.0, None, True),
    "the device was away for a while before it reported": Taken(14.0, 3600.0, True),
    "the coordinator's clock was set back": Taken(14.0, -7_000.0, True),
    "less than nothing": Taken(-7_198.0, 14.3, False),
    "nothing": Taken(0.0, 14.3, False),
    "longer than it was away": Taken(7_214.0, 14.3, False),
}


@pytest.mark.parametrize("case", TAKEN)
def test_what_an_attempt_can_have_taken(case: str) -> None:
    taken = TAKEN[case]
    assert is_possible(taken.seconds, taken.away_s) == taken.is_possible


@pytest.mark.parametrize("absurd", [-7_198.0, 0.0, 129_600.0])
def test_an_old_ledger_with_an_absurd_job(tmp_path: Path, absurd: float) -> None:
    clock = iter([*range(0, 140, 14), *[1000.0] * 100])
    ledger = Ledger(tmp_path / "ledger.sqlite", now=lambda: float(next(clock)))
    jobs = [(f"j{number}", cell, "d", number) for number, cell in enumerate(("both", "both", "alone"))]
    ledger.add("run", "name", "{}", jobs, created_unix_s=0.0)
    for job, seconds in (("j0", absurd), ("j1", 14.0), ("j2", absurd)):
        ledger.mark_sent(job, 1)
        ledger.mark_done(job, 1, None, seconds)
    assert ledger.seconds_of_cells() == {("both", "d"): 14.0}, "of a cell that ran in no possible time nothing is known"


def report(run: SubmittedRun, started_unix_s: float, ended_unix_s: float, duration_s: float | None) -> Report:
    made = report_of(job_of(run.matrix, RUN, run.run.jobs[run.ids[0]], 1), MEASURED, A)
    return replace(made, started_unix_s=started_unix_s, ended_unix_s=ended_unix_s, duration_s=duration_s)


@pytest.mark.parametrize(
    ("ended_unix_s", "duration_s", "seconds"),
    [(1_700_000_014.0, 14.1, 14.1), (1_699_992_802.0, 14.1, 14.1), (1_699_992_802.0, None, 0.0)],
)
def test_the_ledger_has_the_monotonic_duration_also_after_a_crash(
    tmp_path: Path, ended_unix_s: float, duration_s: float | None, seconds: float
) -> None:
    """The clock was set back by two hours while the job ran."""
    run = SubmittedRun(tmp_path)
    ended = report(run, 1_700_000_000.0, ended_unix_s, duration_s)
    run.ledger.mark_sent(run.ids[0], 1)
    run.store.append_many([Kept(run.run.job(run.ids[0], 1), ended, A)])
    assert stored_attempts(RUN, run.store)[run.ids[0]].seconds == seconds
    remaining_of(run.ledger, run.store, run_of_ledger(run.ledger, RUN))
    assert run.ledger.jobs(RUN)[0].seconds == seconds
    Persister(run.ledger, run.store, {RUN: run.run}, {A.device_id: A}, 1).write([Keep(ended)])
    assert run.ledger.jobs(RUN)[0].seconds == seconds
