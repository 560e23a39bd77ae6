from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.device import Device, MemoryKind
from orchestrator.plan.jobs import PlannedJob, jobs_for_unknown, plan_jobs
from orchestrator.plan.phases import phases_of
from tests.fakes.matrices import matrix_and_cells
from tests.unit.results.made_attempts import DEVICE

MIB = 2**20
GIB = 2**30
SILENT = replace(DEVICE, dedicated_vram_bytes=None)  # it does not tell how it stands
SMALL = replace(DEVICE, dedicated_vram_bytes=512 * MIB, power_limit_w=80.0)
KEEPS_A_LITTLE = replace(DEVICE, dedicated_vram_bytes=480 * MIB)  # the firmware does: that is no other split
ITS_OWN = replace(SMALL, sets_split=True, power_methods=("ryzenadj",))


def queue_of(axes: str, device: Device | None) -> tuple[PlannedJob, ...]:
    matrix, cells = matrix_and_cells(f"axes: {{model: tiny:llama, workload: pp8, {axes}}}\nmeasure: {{repeats: 1}}\n")
    if device is None:
        return jobs_for_unknown(matrix, cells)[None]
    return plan_jobs(matrix, cells, [device]).queues[device.device_id]


Shown = tuple[int | None, float | None, bool, bool, int]
"""Split, power limit, whether it reboots, whether the power limit changes, jobs."""


@pytest.mark.parametrize(
    ("axes", "device", "phases"),
    [
        ("context: [1K, 2K]", None, [(None, None, False, False, 2)]),
        ("context: [1K, 2K]", SMALL, [(None, None, False, False, 2)]),
        (
            "dedicated_vram: [512MiB, 32GiB]",
            None,
            [(512 * MIB, None, False, False, 1), (32 * GIB, None, True, False, 1)],
        ),
        (
            "dedicated_vram: [512MiB, 32GiB]",
            SILENT,
            [(512 * MIB, None, False, False, 1), (32 * GIB, None, True, False, 1)],
        ),
        (
            "dedicated_vram: [32GiB, 512MiB]",
            SMALL,
            [(512 * MIB, None, False, False, 1), (32 * GIB, None, True, False, 1)],
        ),
        (
            "dedicated_vram: [1GiB, 32GiB]",
            SMALL,
            [(GIB, None, True, False, 1), (32 * GIB, None, True, False, 1)],
        ),
        ("dedicated_vram: [512MiB]", KEEPS_A_LITTLE, [(512 * MIB, None, False, False, 1)]),
        (
            "dedicated_vram: [512MiB, 1GiB], power_limit: [55W, 80W]",
            SMALL,
            [
                (512 * MIB, 80, False, False, 1),
                (512 * MIB, 55, False, True, 1),
                (GIB, 55, True, False, 1),
                (GIB, 80, False, True, 1),
            ],
        ),
        (  # a split that this machine can never have: its jobs are refused, nobody reboots for them
            "dedicated_vram: [512MiB, 32GiB]",
            replace(SMALL, memory_kind=MemoryKind.DISCRETE),
            [(512 * MIB, None, False, False, 1), (32 * GIB, None, False, False, 1)],
        ),
        (
            "dedicated_vram: [512MiB, 5GiB, 32GiB]",
            replace(SMALL, carveout_options_bytes=(512 * MIB, 32 * GIB)),
            [(512 * MIB, None, False, False, 1), (5 * GIB, None, False, False, 1), (32 * GIB, None, True, False, 1)],
        ),
    ],
)
def test_phases(axes: str, device: Device | None, phases: list[Shown]) -> None:
    queue = queue_of(axes, device)
    found = phases_of(queue, device)
    assert [
        (each.state.dedicated_vram_bytes, each.state.power_limit_w, each.reboots, each.new_power, len(each.jobs))
        for each in found
    ] == phases
    assert [job for each in found for job in each.jobs] == list(queue)


@pytest.mark.parametrize(
    ("device", "by_hand"),
    [
        (None, [False, True, True, True]),
        (SMALL, [False, True, True, True]),
        (ITS_OWN, [False, False, False, False]),
        (replace(ITS_OWN, sets_split=False), [False, False, True, False]),
        (replace(ITS_OWN, power_methods=()), [False, True, False, True]),
    ],
)
def test_who_changes_it(device: Device | None, by_hand: list[bool]) -> None:
    """80 W, 55 W, then a reboot into 1 GiB, and 80 W again."""
    axes = "dedicated_vram: [512MiB, 1GiB], power_limit: [80W, 55W]"
    found = phases_of(queue_of(axes, device), device)
    assert [(each.reboots, each.new_power) for each in found] == [
        (False, False),
        (False, True),
        (True, False),
        (False, True),
    ]
    assert [each.by_hand for each in found] == by_hand


def test_what_is_not_asked_for_stays_as_it_was() -> None:
    matrix, cells = matrix_and_cells(
        "axes: {model: tiny:llama, workload: pp8, power_limit: 80W}\nmeasure: {repeats: 1}\n"
        "include: [{model: tiny:llama, workload: tg8}, {model: tiny:llama, workload: pp16, power_limit: 80W}]\n"
    )
    free, *limited = jobs_for_unknown(matrix, cells)[None]
    assert [job.cell.state.power_limit_w for job in (free, *limited)] == [None, 80, 80]
    mixed = (limited[0], free, limited[1])  # 80 W, as it stands, 80 W
    assert [each.new_power for each in phases_of(mixed, None)] == [False, False, False]
    assert [each.new_power for each in phases_of(mixed, replace(DEVICE, power_limit_w=55.0))] == [True, False, False]
    assert phases_of((), None) == phases_of((), SMALL) == ()


HAS_PROFILES = replace(DEVICE, power_profile="balanced", power_profiles=("balanced", "performance"))


@pytest.mark.parametrize(
    ("device", "phases"),
    [
        (  # the profile is changed once, and the limits within it
            replace(HAS_PROFILES, sets_profile=True, power_methods=("rapl",), power_limit_w=45.0),
            [("balanced", 45, False), ("balanced", 28, True), ("performance", 28, True), ("performance", 45, True)],
        ),
        (  # cells of a profile that the owner does not let the agent choose are refused: nothing is set for it
            replace(HAS_PROFILES, power_methods=("rapl",), power_limit_w=45.0),
            [("balanced", 45, False), ("balanced", 28, True), ("performance", 28, False), ("performance", 45, True)],
        ),
        (
            None,
            [("performance", 28, False), ("performance", 45, True), ("balanced", 45, True), ("balanced", 28, True)],
        ),
    ],
)
def test_profiles_come_between_splits_and_limits(device: Device | None, phases: list[tuple[str, float, bool]]) -> None:
    found = phases_of(queue_of("power_profile: [performance, balanced], power_limit: [28W, 45W]", device), device)
    assert [(each.state.power_profile, each.state.power_limit_w, each.new_power) for each in found] == phases
    assert not any(each.by_hand for each in found) or device is None


def test_a_profile_that_the_agent_sets_needs_no_hand() -> None:
    device = replace(HAS_PROFILES, sets_profile=True)
    found = phases_of(queue_of("power_profile: [performance, balanced]", device), device)
    assert [(each.state.power_profile, each.new_power, each.by_hand) for each in found] == [
        ("balanced", False, False),
        ("performance", True, False),
    ]
