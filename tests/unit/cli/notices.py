"""What a coordinator tells a view, for the tests of the views."""

from __future__ import annotations

from agents.contract.report import Outcome
from orchestrator.dispatch.api import RunSnapshot
from orchestrator.dispatch.notices import (
    AskWithdrawn,
    DeviceAppeared,
    DeviceDisappeared,
    DeviceName,
    JobEnded,
    JobName,
    JobProgress,
    JobSent,
    Notice,
    OperatorAsked,
    RunEnded,
    RunStopping,
    TroubleReported,
    job_ended,
)
from tests.fakes.reports import report_of
from tests.unit.results.made_attempts import DEVICE, FAILED, MEASURED, REFUSED
from tests.unit.results.made_attempts import job as job_of

A = DeviceName("id-a", "alpha")
B = DeviceName("id-b", "beta [3]")  # square brackets are markup to rich
JOBS = tuple(JobName(f"job-{n}", f"cell-{n}", cell, 0) for n, cell in enumerate(("ctx 1K", "ctx 2K", "ctx 4K")))
OPENING = RunSnapshot(
    run="three-1",
    name="three",
    question="Which one?\nAnd why?\n",
    devices=(("id-a", "alpha"), ("id-b", "beta [3]"), ("id-c", "gone")),
    present=frozenset({"id-a", "id-b"}),
    total=9,
    done=2,
    failed=0,
    waiting={"id-a": 3, "id-b": 3, "id-c": 1},
    unplaced=("no device gamma; known: alpha",),
)


def ended(outcome: Outcome, which: int = 0, *, final: bool = True, attempt: int = 1) -> JobEnded:
    """On device A; it took two seconds."""
    report = report_of(job_of(JOBS[which].job_id, attempt=attempt), outcome, DEVICE)
    return job_ended(report, JOBS[which], A, final=final)


STORY: tuple[Notice, ...] = (
    DeviceAppeared(B, "joined"),
    JobSent(JOBS[0], A, 1),
    JobProgress(A, "job-0", "loading", None),
    JobProgress(A, "job-0", "measuring", 42.25),
    ended(MEASURED),
    JobSent(JOBS[1], A, 1),
    ended(FAILED, 1, final=False),
    JobSent(JOBS[1], A, 2),
    ended(FAILED, 1, attempt=2),
    JobSent(JOBS[2], A, 1),
    ended(REFUSED, 2),
    OperatorAsked(B, "set dedicated VRAM of beta [3] to 32GiB and reboot"),
    DeviceDisappeared(B, "the link\nis down"),
    DeviceAppeared(B, "back after a reboot"),
    AskWithdrawn(B),
    JobProgress(B, None, "idle", None),
    TroubleReported("the disk is full\nof logs"),
    TroubleReported(""),
    RunStopping(),
    RunEnded(complete=False, text="paused"),
)
