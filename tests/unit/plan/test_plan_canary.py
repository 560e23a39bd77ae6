"""Where canaries stand, and in which state: before, between and after, without a reboot more."""

from __future__ import annotations

from itertools import groupby

import pytest

from agents.contract.job import MachineState
from orchestrator.matrix import Matrix
from orchestrator.matrix.cells import CANARY_VALUES, canary_cell
from orchestrator.plan.jobs import EVERY_JOBS, FIRST_CANARY, PlannedJob, in_their_states, job_of, plan_jobs
from orchestrator.plan.phases import phases_of
from tests.fakes.matrices import matrix_and_cells
from tests.unit.dispatch.submitted_run import A
from tests.unit.dispatch.test_loop import APU

GIB = 2**30
SPLITS = (
    "axes: {model: [tiny:llama, tiny:qwen3moe], quantisation: [Q8_0], workload: pp8, dedicated_vram: [512MiB, 32GiB]}\n"
)


def queue_of(text: str, canary: str = "true") -> tuple[Matrix, tuple[PlannedJob, ...]]:
    matrix, cells = matrix_and_cells(text + f"measure: {{repeats: 3, canary: {canary}}}\n")
    (queue,) = plan_jobs(matrix, cells, [APU]).queues.values()
    return matrix, queue


def test_without_the_word_there_is_none() -> None:
    matrix, queue = queue_of(SPLITS, "false")
    assert canary_cell(matrix) is None
    assert not any(planned.is_canary for planned in queue)


def test_they_stand_first_last_and_after_each_change_of_the_machine() -> None:
    _, queue = queue_of(SPLITS)
    places = [place for place, planned in enumerate(queue) if planned.is_canary]
    assert places == [0, 7, 14]
    assert [queue[place].repeat for place in places] == [FIRST_CANARY, FIRST_CANARY + 1, FIRST_CANARY + 2]
    splits = [queue[place].needed_state.dedicated_vram_bytes for place in places]
    assert splits == [GIB // 2, 32 * GIB, 32 * GIB]


def test_they_cost_no_reboot() -> None:
    reboots = [sum(phase.reboots for phase in phases_of(queue_of(SPLITS, on)[1], APU)) for on in ("false", "true")]
    assert reboots == [1, 1]


def test_between_many_jobs_they_stand_where_the_model_changes_anyway() -> None:
    text = "axes: {model: tiny:llama, workload: [pp1, pp2, pp3, pp4, pp5], context: [512, 1K, 2K, 4K]}\n"
    _, queue = queue_of(text)
    places = [place for place, planned in enumerate(queue) if planned.is_canary]
    assert places[0] == 0 and places[-1] == len(queue) - 1 and len(places) == 3
    middle = places[1]
    assert middle > EVERY_JOBS
    assert queue[middle - 1].cell.load != queue[middle + 1].cell.load


def test_a_run_that_comes_back_from_the_ledger_has_them_in_the_same_states() -> None:
    _, queue = queue_of(SPLITS)
    forgotten = [PlannedJob(planned.cell, planned.device_id, planned.repeat) for planned in queue]
    assert in_their_states(forgotten) == queue
    assert in_their_states([]) == ()


def test_the_job_is_the_fixed_cell_in_the_state_of_its_neighbours() -> None:
    matrix, queue = queue_of(SPLITS)
    job = job_of(matrix, "run", queue[0], 1)
    assert job.canary and job.state == MachineState(dedicated_vram_bytes=GIB // 2)
    assert (job.load.engine, job.load.model, job.workload.name) == (
        "embedded",
        "tiny:llama-0.6b",
        CANARY_VALUES["workload"],
    )
    assert not job_of(matrix, "run", queue[1], 1).canary


def test_a_cell_that_is_as_the_canary_has_jobs_of_its_own() -> None:
    same = ", ".join(f'{name}: "{value}"' for name, value in CANARY_VALUES.items())
    matrix, cells = matrix_and_cells(f"axes: {{{same}}}\nmeasure: {{repeats: 2, canary: true}}\n")
    (queue,) = plan_jobs(matrix, cells, [A]).queues.values()
    assert len({planned.cell.cell_id for planned in queue}) == 1
    assert len({job_of(matrix, "run", planned, 1).job_id for planned in queue}) == len(queue) == 4


@pytest.mark.parametrize("devices", [1, 3])
def test_each_device_has_its_own(devices: int) -> None:
    from dataclasses import replace

    matrix, cells = matrix_and_cells("axes: {model: tiny:llama, workload: pp8}\nmeasure: {repeats: 1, canary: true}\n")
    several = [replace(A, device_id=f"id-{number}", name=f"d{number}") for number in range(devices)]
    for key, queue in plan_jobs(matrix, cells, several).queues.items():
        assert [(is_canary, len(list(group))) for is_canary, group in groupby(each.is_canary for each in queue)] == [
            (True, 1),
            (False, 1),
            (True, 1),
        ]
        assert {planned.device_id for planned in queue} == {key}
