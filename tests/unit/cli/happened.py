"""What a coordinator tells a view, for the tests of the views."""

from __future__ import annotations

from dataclasses import replace

from agents.agent import Status
from agents.contract.report import Outcome, Report
from orchestrator.cli.view import Opening
from orchestrator.dispatch.loop import DeviceSilent, Happening, JobEnded, JobProgress, JobSent, Stopping
from orchestrator.matrix import Matrix
from orchestrator.plan.jobs import PlannedJob, job_of, plan_jobs
from tests.fakes.matrix_texts import world_of
from tests.fakes.scripted_fleet import report_of
from tests.unit.results.attempts_made_up import DEVICE, FAILED, MEASURED, REFUSED

A = replace(DEVICE, device_id="id-a", name="alpha")
B = replace(DEVICE, device_id="id-b", name="beta [3]")  # square brackets are markup to rich
TEXT = """
name: three
question: |
  Which one?
  And why?
axes: {model: tiny:llama, workload: pp8, context: [1K, 2K, 4K]}
measure: {repeats: 1}
"""


def matrix_and_jobs() -> tuple[Matrix, list[PlannedJob]]:
    matrix, cells = world_of(TEXT)
    return matrix, list(plan_jobs(matrix, cells, [A]).queues["id-a"])


MATRIX, JOBS = matrix_and_jobs()
OPENING = Opening("three-1", MATRIX, (A, B), 9, 2, {"id-a": 3, "id-b": 3}, ("no device gamma; known: alpha",))


def ended(outcome: Outcome, which: int = 0, *, final: bool = True, attempt: int = 1) -> JobEnded:
    return JobEnded(JOBS[which], A, report(outcome, which, attempt), final)


def report(outcome: Outcome, which: int = 0, attempt: int = 1) -> Report:
    return report_of(job_of(MATRIX, "three-1", JOBS[which], attempt), outcome, A)


STORY: tuple[Happening, ...] = (
    JobSent(JOBS[0], A, 1),
    JobProgress(A, Status("job", "loading", 0, None, ())),
    JobProgress(A, Status("job", "measuring", 12, 42.25, ())),
    ended(MEASURED),
    JobSent(JOBS[1], A, 1),
    ended(FAILED, 1, final=False),
    JobSent(JOBS[1], A, 2),
    ended(FAILED, 1, attempt=2),
    JobSent(JOBS[2], A, 1),
    ended(REFUSED, 2),
    DeviceSilent(B, "the link\nis down"),
    JobProgress(B, Status(None, "idle", 0, None, ())),
    Stopping(),
)
