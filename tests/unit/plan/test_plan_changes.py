"""What has to happen to a device before a job in another state; which states it can never have."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.device import Device, MemoryKind, same_power, same_split, why_no_split
from agents.contract.job import MachineState
from orchestrator.plan.changes import Change, change_for
from tests.unit.results.made_attempts import DEVICE

MIB = 2**20
GIB = 2**30
BY_HAND = replace(DEVICE, dedicated_vram_bytes=512 * MIB, power_limit_w=80.0)
ITS_OWN = replace(BY_HAND, sets_split=True, carveout_options_bytes=(512 * MIB, 32 * GIB), power_methods=("ryzenadj",))
SILENT = replace(DEVICE, dedicated_vram_bytes=None, power_limit_w=None)
CARD = replace(BY_HAND, memory_kind=MemoryKind.DISCRETE)


@pytest.mark.parametrize(
    ("split", "watts", "device", "change"),
    [
        (None, None, BY_HAND, Change.NONE),
        (None, None, SILENT, Change.NONE),
        (512 * MIB, 80.0, BY_HAND, Change.NONE),
        (512 * MIB, 80.4, BY_HAND, Change.NONE),
        (512 * MIB, 55.0, BY_HAND, Change.OPERATOR),
        (None, 55.0, BY_HAND, Change.OPERATOR),
        (None, 55.0, SILENT, Change.OPERATOR),
        (None, 55.0, ITS_OWN, Change.NONE),  # the agent holds it while the job runs
        (32 * GIB, None, BY_HAND, Change.OPERATOR_REBOOT),
        (32 * GIB, 55.0, BY_HAND, Change.OPERATOR_REBOOT),
        (32 * GIB, None, SILENT, Change.OPERATOR_REBOOT),
        (32 * GIB, 55.0, ITS_OWN, Change.AGENT_REBOOT),
        (16 * GIB, None, ITS_OWN, Change.NEVER),
        (32 * GIB, None, CARD, Change.NEVER),
        (32 * GIB, 55.0, CARD, Change.NEVER),
        (512 * MIB, 80.0, CARD, Change.NONE),
        (None, 55.0, CARD, Change.OPERATOR),
    ],
)
def test_what_has_to_happen(split: int | None, watts: float | None, device: Device, change: Change) -> None:
    assert change_for(MachineState(split, watts), device) is change


def test_changes_go_from_the_cheapest_to_the_dearest() -> None:
    """The schedule asks for the first of them that some job wants."""
    assert list(Change) == [
        Change.NONE,
        Change.OPERATOR,
        Change.AGENT_REBOOT,
        Change.OPERATOR_REBOOT,
        Change.NEVER,
    ]


@pytest.mark.parametrize(
    ("wanted", "device", "why"),
    [
        (32 * GIB, BY_HAND, None),
        (32 * GIB, SILENT, None),
        (32 * GIB, ITS_OWN, None),
        (
            16 * GIB,
            ITS_OWN,
            "the firmware of laptop offers dedicated VRAM of 512 MiB, 32 GiB; asked for: 16 GiB",
        ),
        (512 * MIB, CARD, None),  # it stands so, whatever that means there
        (
            32 * GIB,
            CARD,
            "dedicated VRAM of laptop cannot be chosen: it has a card with memory of its own; asked for: 32 GiB",
        ),
        (
            GIB,
            replace(SILENT, memory_kind=MemoryKind.UNIFIED),
            "dedicated VRAM of laptop cannot be chosen: it has one pool of memory, without a split; asked for: 1 GiB",
        ),
        (
            GIB,
            replace(SILENT, memory_kind=MemoryKind.NONE),
            "dedicated VRAM of laptop cannot be chosen: it has no GPU that shares its memory, as far as it can be"
            " seen; asked for: 1 GiB",
        ),
    ],
)
def test_why_a_split_can_never_be_had(wanted: int, device: Device, why: str | None) -> None:
    assert why_no_split(wanted, device) == why


@pytest.mark.parametrize(
    ("wanted", "seen", "same"),
    [
        (32 * GIB, 32 * GIB, True),
        (32 * GIB, round(31.1 * GIB), True),  # 3 %
        (32 * GIB, round(31.0 * GIB), False),
        (512 * MIB, 448 * MIB, True),  # 64 MiB
        (512 * MIB, 447 * MIB, False),
        (0, 64 * MIB, True),
        (32 * GIB, None, False),
    ],
)
def test_the_firmware_keeps_a_little_of_a_split(wanted: int, seen: int | None, same: bool) -> None:
    assert same_split(wanted, seen) is same


@pytest.mark.parametrize(
    ("wanted", "seen", "same"),
    [(55.0, 55.0, True), (55.0, 55.5, True), (55.0, 54.5, True), (55.0, 55.6, False), (55.0, None, False)],
)
def test_tools_round_a_power_limit(wanted: float, seen: float | None, same: bool) -> None:
    assert same_power(wanted, seen) is same
