"""What ``submit`` and ``resume`` decide before and after the work itself: the work is in ``tests/ray``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.cli import submit as submitting
from orchestrator.errors import OrchestrateError
from orchestrator.plan.jobs import job_of, plan_jobs
from orchestrator.results.store import Store
from tests.fakes.matrix_texts import world_of
from tests.unit.dispatch.a_run import RUN, A, ARun, B


def test_a_resume_takes_up_what_is_not_done(tmp_path: Path) -> None:
    run = ARun(tmp_path, (A, B))
    run.ledger.done(run.ids[0], 1, None, 1.0)
    run.ledger.sent(run.ids[1], 2)
    work = submitting._unfinished(RUN, run.matrix, run.jobs, run.ledger, [A, B])
    assert work.waiting == {"id-a": run.ids[1:3], "id-b": run.ids[3:]}
    assert (work.done, work.attempts[run.ids[1]]) == (1, 2)
    assert (work.opening([A, B]).total, work.opening([A, B]).absent) == (6, 0)


def test_a_resume_without_one_of_the_devices(tmp_path: Path) -> None:
    run = ARun(tmp_path, (A, B))
    work = submitting._unfinished(RUN, run.matrix, run.jobs, run.ledger, [B])
    assert work.waiting == {"id-b": run.ids[3:]}
    assert work.opening([B]).absent == 3


def test_a_resume_without_any_of_the_devices(tmp_path: Path) -> None:
    run = ARun(tmp_path, (A, B))
    run.ledger.saw([A])
    with pytest.raises(OrchestrateError) as caught:
        submitting._unfinished(RUN, run.matrix, run.jobs, run.ledger, [replace(A, device_id="other")])
    assert str(caught.value) == (
        "run run-1: what is left waits for devices that are not in the cluster: alpha (3 jobs), id-b (3 jobs)"
    )


def test_jobs_are_the_same_again(tmp_path: Path) -> None:
    run = ARun(tmp_path, (A, B))
    again = submitting._jobs_again(RUN, run.matrix, run.ledger)
    assert list(again) == run.ids
    for job_id, planned in run.jobs.items():
        assert job_of(run.matrix, RUN, again[job_id], 1) == job_of(run.matrix, RUN, planned, 1)
    other, _ = world_of("axes: {model: tiny:llama, workload: tg8}\n")
    with pytest.raises(OrchestrateError, match="run run-1: made by another version of orchestrate"):
        submitting._jobs_again(RUN, other, run.ledger)


def test_cells_that_fit_no_device_are_rows(tmp_path: Path) -> None:
    matrix, cells = world_of("axes: {model: tiny:llama, workload: pp8, device: [alpha, gamma, delta]}\n")
    submitting._keep_unplaced(RUN, matrix, plan_jobs(matrix, cells, [A]), tmp_path)
    rows = Store(tmp_path).load(RUN).to_pylist()
    assert sorted((row["status"], row["cause"], row["detail"]) for row in rows) == [
        ("refused", "no_device", "no device delta; known: alpha"),
        ("refused", "no_device", "no device gamma; known: alpha"),
    ]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "devices: {gpu_vendor: nvidia}\naxes: {model: tiny:llama, workload: [pp8, tg8]}\n",
            [
                "alpha: its GPU is by amd, not nvidia",
                "beta: its GPU is by amd, not nvidia",
                "no device fits the matrix's devices: section; known: alpha, beta",
            ],
        ),
        (
            "axes: {model: tiny:llama, workload: pp8, device: [gamma, delta]}\n",
            ["no device delta; known: alpha, beta", "no device gamma; known: alpha, beta"],
        ),
    ],
)
def test_why_nothing_runs(text: str, lines: list[str]) -> None:
    matrix, cells = world_of(text)
    why = submitting._why_nothing_runs(matrix, plan_jobs(matrix, cells, [A, B]), [A, B]).splitlines()
    assert why[0].endswith("m.yaml: no device can run any cell of this matrix:")
    assert [line.strip() for line in why[1:]] == lines
