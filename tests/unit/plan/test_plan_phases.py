from __future__ import annotations

import pytest

from agents.contract.job import MachineState
from orchestrator.plan.jobs import jobs_for_unknown
from orchestrator.plan.phases import phases_of
from tests.fakes.matrix_texts import world_of

MIB = 2**20
GIB = 2**30


@pytest.mark.parametrize(
    ("axes", "now", "phases"),
    [
        ("context: [1K, 2K]", MachineState(), [(None, None, False, False, 2)]),
        (
            "dedicated_vram: [512MiB, 32GiB]",
            MachineState(),
            [(512 * MIB, None, False, False, 1), (32 * GIB, None, True, False, 1)],
        ),
        (
            "dedicated_vram: [512MiB, 32GiB]",
            MachineState(32 * GIB),
            [(512 * MIB, None, True, False, 1), (32 * GIB, None, True, False, 1)],
        ),
        (  # the firmware keeps a little for itself: that is no other split
            "dedicated_vram: [512MiB]",
            MachineState(480 * MIB),
            [(512 * MIB, None, False, False, 1)],
        ),
        (
            "dedicated_vram: [512MiB, 1GiB], power_limit: [55W, 80W]",
            MachineState(512 * MIB, 80.0),
            [
                (512 * MIB, 55, False, True, 1),
                (512 * MIB, 80, False, True, 1),
                (GIB, 55, True, True, 1),
                (GIB, 80, False, True, 1),
            ],
        ),
    ],
)
def test_phases(axes: str, now: MachineState, phases: list[tuple[int | None, float | None, bool, bool, int]]) -> None:
    matrix, cells = world_of(f"axes: {{model: tiny:llama, workload: pp8, {axes}}}\nmeasure: {{repeats: 1}}\n")
    queue = jobs_for_unknown(matrix, cells)[None]
    found = phases_of(queue, now)
    assert [
        (each.state.dedicated_vram_bytes, each.state.power_limit_w, each.reboots, each.new_power, len(each.jobs))
        for each in found
    ] == phases
    assert [job for each in found for job in each.jobs] == list(queue)


def test_what_is_not_asked_for_stays_as_it_was() -> None:
    matrix, cells = world_of(
        "axes: {model: tiny:llama, workload: pp8, power_limit: 80W}\nmeasure: {repeats: 1}\n"
        "include: [{model: tiny:llama, workload: tg8}, {model: tiny:llama, workload: pp16, power_limit: 80W}]\n"
    )
    queues = jobs_for_unknown(matrix, cells)[None]
    mixed = (queues[0], queues[2], queues[1])  # 80 W, as it stands, 80 W
    assert [each.new_power for each in phases_of(mixed, MachineState())] == [False, False, False]
    assert phases_of((), MachineState()) == ()
