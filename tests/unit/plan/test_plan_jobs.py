from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import pytest

from agents.contract.device import Device
from orchestrator.plan.jobs import PlannedJob, job_id_of, job_of, jobs_for_unknown, plan_jobs
from tests.fakes.matrices import matrix_and_cells
from tests.unit.results.made_attempts import DEVICE

A = replace(DEVICE, device_id="id-a", name="alpha", dedicated_vram_bytes=None)
B = replace(DEVICE, device_id="id-b", name="beta", gpus=(), ram_bytes=8 * 2**30)

EVERY_LEVEL = """
name: levels
axes:
  workload: [pp8, tg8, pp16]
  context: [1K, 2K]
  model: [tiny:llama, tiny:qwen3moe]
  runtime: [cpu, vulkan]
  power_limit: [80W, 55W]
  dedicated_vram: [32GiB, 512MiB]
measure: {repeats: 3, seed: 7}
"""


def queue(text: str, *devices: Device) -> tuple[PlannedJob, ...]:
    matrix, cells = matrix_and_cells(text)
    return plan_jobs(matrix, cells, devices or (A,)).queues[(devices or (A,))[0].device_id]


def state_of(job: PlannedJob, depth: int) -> tuple[object, ...]:
    load, state = job.cell.load, job.cell.state
    levels = (
        state.dedicated_vram_bytes,
        state.power_limit_w,
        (load.engine, load.runtime),
        (load.model, load.quantisation),
        load,
    )
    return levels[:depth]


@pytest.mark.parametrize(
    ("depth", "changes"),
    [
        (1, 2),  # memory splits
        (2, 4),  # ... with each power limit
        (3, 8),  # ... with each runtime
        (4, 16),  # ... with each model
        (5, 32),  # ... with each context: a load of the engine
    ],
)
def test_what_is_dear_to_change_changes_once(depth: int, changes: int) -> None:
    jobs = queue(EVERY_LEVEL)
    assert len(jobs) == 96 * 3
    assert len([key for key, _ in groupby(jobs, key=lambda job: state_of(job, depth))]) == changes


GIB = 2**30
STATES = """
axes: {model: tiny:llama, workload: pp8, dedicated_vram: [32GiB, 512MiB, 16GiB], power_limit: [80W, 55W, 70W]}
measure: {repeats: 1}
"""
BIG, SMALL, MIDDLE = 32 * GIB, GIB // 2, 16 * GIB


@pytest.mark.parametrize(
    ("split", "watts", "states"),
    [
        (  # unknown: the order of the file, and each split goes on with the limit that holds by then
            None,
            None,
            [(BIG, 80), (BIG, 55), (BIG, 70), (SMALL, 70), (SMALL, 80), (SMALL, 55), (MIDDLE, 55), (MIDDLE, 80)],
        ),
        (  # what holds comes first: the firmware keeps a little for itself, that is no other split
            MIDDLE - 60 * 2**20,
            55.4,
            [(MIDDLE, 55), (MIDDLE, 80), (MIDDLE, 70), (BIG, 70), (BIG, 80), (BIG, 55), (SMALL, 55), (SMALL, 80)],
        ),
        (  # what holds is not wanted
            8 * GIB,
            100.0,
            [(BIG, 80), (BIG, 55), (BIG, 70), (SMALL, 70), (SMALL, 80), (SMALL, 55), (MIDDLE, 55), (MIDDLE, 80)],
        ),
    ],
)
def test_what_holds_comes_first_then_the_order_of_the_file(
    split: int | None, watts: float | None, states: list[tuple[int, float]]
) -> None:
    jobs = queue(STATES, replace(A, dedicated_vram_bytes=split, power_limit_w=watts))
    assert [state_of(job, 2) for job in jobs][: len(states)] == states


def test_what_asks_for_no_state_comes_before_all_changes() -> None:
    jobs = queue(
        "axes: {model: tiny:llama, workload: pp8, dedicated_vram: [32GiB, 512MiB]}\nmeasure: {repeats: 1}\n"
        "include: [{model: tiny:llama, workload: tg8}, {model: tiny:llama, workload: tg8, power_limit: 80W},"
        " {model: tiny:llama, workload: tg8, dedicated_vram: 512MiB, power_limit: 80W}]\n",
        replace(A, dedicated_vram_bytes=SMALL),
    )
    assert [state_of(job, 2) for job in jobs] == [
        (None, None),
        (None, 80),
        (SMALL, None),
        (SMALL, 80),
        (BIG, None),
    ]


def test_repeats_are_rounds_within_one_load() -> None:
    for _, load in groupby(queue(EVERY_LEVEL), key=lambda job: state_of(job, 5)):
        members = list(load)
        assert [job.repeat for job in members] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        rounds = [{job.cell.cell_id for job in members[at : at + 3]} for at in (0, 3, 6)]
        assert rounds[0] == rounds[1] == rounds[2]


def test_a_round_of_a_state_goes_through_all_its_cells_load_by_load() -> None:
    jobs = queue(EVERY_LEVEL.replace("seed: 7", "seed: 7, rounds: state"))
    assert len({(job.cell.cell_id, job.repeat) for job in jobs}) == len(jobs) == 96 * 3
    orders = []
    for _, members in groupby(jobs, key=lambda job: state_of(job, 2)):
        cells: list[list[str]] = []
        for repeat, a_round in groupby(members, key=lambda job: job.repeat):
            assert repeat == len(cells)
            cells.append([job.cell.cell_id for job in a_round])
        assert [len(each) for each in cells] == [24, 24, 24]
        assert sorted(cells[0]) == sorted(cells[1]) == sorted(cells[2])
    for _, a_round in groupby(jobs, key=lambda job: (*state_of(job, 2), job.repeat)):
        loads = [key for key, _ in groupby(a_round, key=lambda job: job.cell.load)]
        assert len(loads) == len(set(loads)) == 8, "a load for each, once a round"
        orders.append(tuple(loads))
    assert len(set(orders)) > 1, "the loads take turns in being first"


def test_groups_are_shuffled_and_still_change_once() -> None:
    """A drift of the device must not line up with an axis: not with the engine's, nor the model's, nor a load's."""

    def firsts(depth: int, text: str, device: Device = A) -> list[object]:
        return [key[-1] for key, _ in groupby(queue(text, device), key=lambda job: state_of(job, depth))]

    for depth in (3, 4, 5):  # runtimes, models, loads
        seen = {tuple(firsts(depth, EVERY_LEVEL.replace("seed: 7", f"seed: {seed}"))) for seed in range(12)}
        assert len(seen) > 1, f"depth {depth} follows the file"
        devices = {tuple(firsts(depth, EVERY_LEVEL, replace(A, device_id=f"id-{n}"))) for n in range(12)}
        assert len(devices) > 1, f"depth {depth} is the same on all devices"


def test_rounds_are_shuffled_by_the_seed_and_the_device() -> None:
    def order(text: str, device: Device = A) -> list[str]:
        return [f"{job.cell.cell_id} {job.repeat}" for job in queue(text, device)]

    assert order(EVERY_LEVEL) == order(EVERY_LEVEL)
    assert order(EVERY_LEVEL) != order(EVERY_LEVEL.replace("seed: 7", "seed: 8"))
    assert order(EVERY_LEVEL) != order(EVERY_LEVEL, B)
    assert sorted(order(EVERY_LEVEL)) == sorted(order(EVERY_LEVEL, B))
    within = [[job.cell.values["workload"] for job in load] for _, load in groupby(queue(EVERY_LEVEL), key=_round)]
    assert len({tuple(each) for each in within}) > 1


def _round(job: PlannedJob) -> tuple[object, ...]:
    return (*state_of(job, 5), job.repeat)


def test_a_cell_runs_on_every_selected_device_or_on_the_one_it_names() -> None:
    matrix, cells = matrix_and_cells(
        "axes: {model: tiny:llama, workload: pp8}\n"
        "include: [{model: tiny:llama, workload: tg8, device: beta},"
        " {model: tiny:llama, workload: tg8, device: id-a}]\nmeasure: {repeats: 1}\n"
    )
    plan = plan_jobs(matrix, cells, [A, B])
    assert {device: sorted(job.cell.values["workload"] for job in jobs) for device, jobs in plan.queues.items()} == {
        "id-a": ["pp8", "tg8"],
        "id-b": ["pp8", "tg8"],
    }
    assert plan.jobs == 4
    assert plan.unplaced == ()


@pytest.mark.parametrize(
    ("text", "devices", "why"),
    [
        ("device: gamma", (A, B), "no device gamma; known: alpha, beta"),
        ("device: gamma", (), "no device gamma; known: none"),
    ],
)
def test_a_named_device_that_is_not_there(text: str, devices: tuple[Device, ...], why: str) -> None:
    matrix, cells = matrix_and_cells(f"axes: {{model: tiny:llama, workload: [pp8, tg8], {text}}}\n")
    plan = plan_jobs(matrix, cells, devices)
    assert plan.jobs == 0
    assert [(cell.values["workload"], told) for cell, told in plan.unplaced] == [("pp8", why), ("tg8", why)]


@pytest.mark.parametrize(
    ("selector", "runs_on"),
    [
        ("gpu_vendor: amd", ["id-a"]),
        ("min_ram: 16GiB", ["id-a"]),
        ("names: bet*", ["id-b"]),
        ("ids: id-b", ["id-b"]),
        ("labels: {room: 3}", ["id-a", "id-b"]),
    ],
)
def test_the_selector_decides_which_devices_run(selector: str, runs_on: list[str]) -> None:
    matrix, cells = matrix_and_cells(f"devices: {{{selector}}}\naxes: {{model: tiny:llama, workload: pp8}}\n")
    plan = plan_jobs(matrix, cells, [A, B])
    assert list(plan.queues) == runs_on
    assert all(plan.queues.values())
    assert plan.unplaced == ()


def test_a_selector_that_no_device_fits_leaves_every_cell_unplaced() -> None:
    matrix, cells = matrix_and_cells("devices: {gpu_vendor: nvidia}\naxes: {model: tiny:llama, workload: [pp8, tg8]}\n")
    plan = plan_jobs(matrix, cells, [A, B])
    assert plan.queues == {}
    assert {why for _, why in plan.unplaced} == {"no device fits the matrix's devices: section; known: alpha, beta"}
    assert len(plan.unplaced) == 2


def test_a_device_that_is_named_but_not_selected_is_unplaced() -> None:
    matrix, cells = matrix_and_cells(
        "devices: {gpu_vendor: amd}\naxes: {model: tiny:llama, workload: pp8, device: beta}\n"
    )
    plan = plan_jobs(matrix, cells, [A, B])
    assert plan.jobs == 0
    ((_, why),) = plan.unplaced
    assert why == "device beta does not fit the matrix's devices: section: it has no GPU, and amd is asked"


def test_job_ids_are_stable_and_apart() -> None:
    assert job_id_of("run", "cell", "device", 0) == "2d0bb06fd9aaa948"  # ledgers hold such ids
    ids = {job_id_of(run, cell, device, n) for run in "ab" for cell in "cd" for device in "ef" for n in range(3)}
    assert len(ids) == 24
    assert job_id_of("run", "cel", "ldevice", 0) != job_id_of("run", "cell", "device", 0)


def test_a_job_travels_complete() -> None:
    matrix, cells = matrix_and_cells(
        "axes: {model: tiny:llama, quantisation: Q8_0, context: 2K, power_limit: 80W, workload: pp8}\n"
        "measure: {repeats: 2, warmups: 3, keep_output: true}\ntimeouts: {load: 7s, first_token: 8s, trial: 9s}\n"
    )
    planned = plan_jobs(matrix, cells, [A]).queues["id-a"][1]
    job = job_of(matrix, "run-1", planned, 2)
    assert (job.job_id, job.attempt, job.run_id) == (job_id_of("run-1", cells[0].cell_id, "id-a", 1), 2, "run-1")
    assert (job.cell_id, job.device_id, job.repeat) == (cells[0].cell_id, "id-a", 1)
    assert (job.load.model, job.load.context_tokens, job.state.power_limit_w) == ("tiny:llama", 2048, 80)
    assert (job.warmups, job.keep_output, job.timeouts.load_s, job.timeouts.trial_s) == (3, True, 7, 9)
    assert job.workload == cells[0].workload


def test_the_order_for_devices_that_are_not_known() -> None:
    matrix, cells = matrix_and_cells(EVERY_LEVEL)
    queues = jobs_for_unknown(matrix, cells)
    assert list(queues) == [None]
    assert len([key for key, _ in groupby(queues[None], key=lambda job: state_of(job, 5))]) == 32
    named, listed = matrix_and_cells(
        "axes: {model: tiny:llama, workload: pp8, device: [x, y]}\nmeasure: {repeats: 1}\n"
    )
    assert {name: len(jobs) for name, jobs in jobs_for_unknown(named, listed).items()} == {"x": 1, "y": 1}
