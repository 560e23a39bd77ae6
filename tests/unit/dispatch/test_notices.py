from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agents.contract.measure import EngineTimings, Flag
from agents.contract.report import Cause, Failed, Measured, Outcome, Refused
from orchestrator.dispatch.notices import DeviceName, Figures, JobEnded, JobName, job_ended
from tests.unit.results.made_attempts import LOADED, MEASURED, job, report, trial

JOB = JobName("a1", "cell-1", "ctx 1K", 0)
DEVICE = DeviceName("device-1", "laptop")


def about(number: float) -> float:
    """Equal to all that differs from ``number`` by rounding alone."""
    near: Any = pytest.approx(number)
    return near  # type: ignore[no-any-return]


FIGURES = Figures(0.5, about(10.0), about(64.0), ())


def end_of(outcome: Outcome, *, final: bool = True) -> JobEnded:
    return job_ended(report(job(), outcome, attempt=2), JOB, DEVICE, final=final)


def test_a_measured_job() -> None:
    end = end_of(MEASURED)
    assert (end.job, end.device, end.attempt, end.final, end.status) == (JOB, DEVICE, 2, True, "measured")
    assert (end.cause, end.detail, end.figures, end.seconds) == (None, "", FIGURES, 9.5)


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Failed(Cause.RAM, "too big"), "failed"),
        (Refused(Cause.RAM, "too big"), "refused"),
        (Failed(Cause.RAM, "too big", LOADED, (trial(1),)), "failed"),  # what it measured before is not its figure
    ],
)
def test_a_job_without_a_figure(outcome: Outcome, status: str) -> None:
    end = end_of(outcome, final=False)
    assert (end.status, end.cause, end.detail, end.figures, end.final) == (status, Cause.RAM, "too big", None, False)


def test_the_figures_are_those_of_the_measured_trial() -> None:
    trials = (trial(0, warmup=True, tokens=1), trial(1, flags=(Flag.FEWER_TOKENS,)))
    assert end_of(Measured(LOADED, trials)).figures == replace(FIGURES, flags=("fewer_tokens",))
    assert end_of(Measured(LOADED, ())).figures is None


def test_a_prompt_of_one_token_has_no_rate() -> None:
    """llama.cpp tells a rate for it that says nothing."""
    one = replace(trial(1), engine=EngineTimings(prompt_tokens=1, prompt_s=0.001))
    figures = end_of(Measured(LOADED, (one,))).figures
    assert figures is not None and figures.prompt_tps is None
