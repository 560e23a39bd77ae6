from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.device import Device, StateSource
from agents.contract.job import MachineState
from orchestrator.dispatch.messages import AskOperator
from orchestrator.dispatch.operator_text import describe_ask, describe_state, skip_command
from orchestrator.plan.changes import Change
from tests.unit.results.made_attempts import DEVICE

GIB = 2**30
SEEN = replace(DEVICE, name="mini", split_source=StateSource.SEEN)
UNSEEN = replace(SEEN, split_source=None)
STATED = replace(SEEN, split_source=StateSource.STATED)


def asked(split: int | None, watts: float | None, change: Change, note: str = "") -> AskOperator:
    return AskOperator("device-1", "run-1", MachineState(split, watts), change, note)


@pytest.mark.parametrize(
    ("split", "watts", "words"),
    [
        (None, None, ""),
        (32 * GIB, None, "dedicated VRAM 32 GiB"),
        (512 * 2**20, None, "dedicated VRAM 512 MiB"),
        (None, 80.0, "power limit 80 W"),
        (None, 7.5, "power limit 7.5 W"),
        (32 * GIB, 80.0, "dedicated VRAM 32 GiB, power limit 80 W"),
    ],
)
def test_a_state_in_words(split: int | None, watts: float | None, words: str) -> None:
    assert describe_state(MachineState(split, watts)) == words


@pytest.mark.parametrize(
    ("ask", "device", "words"),
    [
        (
            asked(32 * GIB, None, Change.OPERATOR_REBOOT),
            SEEN,
            "set dedicated VRAM of mini to 32 GiB and reboot",
        ),
        (
            asked(32 * GIB, 55.0, Change.OPERATOR_REBOOT, "it came back with 8 GiB"),
            SEEN,
            "set dedicated VRAM of mini to 32 GiB and reboot (it came back with 8 GiB)",
        ),
        *(
            (
                asked(32 * GIB, None, Change.OPERATOR_REBOOT),
                device,
                "set dedicated VRAM of mini to 32 GiB and reboot; then say so, for it cannot be seen there:"
                " orchestrate state mini --dedicated-vram 32GiB",
            )
            for device in (UNSEEN, STATED)
        ),
        (
            asked(None, 55.0, Change.OPERATOR),
            SEEN,
            "set the power limit of mini to 55 W; then say so: orchestrate state mini --power-limit 55W",
        ),
        (  # the split is as it should be by then
            asked(32 * GIB, 7.5, Change.OPERATOR, "again"),
            SEEN,
            "set the power limit of mini to 7.5 W (again); then say so: orchestrate state mini --power-limit 7.5W",
        ),
    ],
)
def test_what_is_asked_can_be_followed(ask: AskOperator, device: Device, words: str) -> None:
    assert describe_ask(ask, device) == words


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (asked(32 * GIB, None, Change.OPERATOR_REBOOT), "orchestrate skip mini --dedicated-vram 32GiB"),
        (asked(32 * GIB, 55.0, Change.OPERATOR_REBOOT), "orchestrate skip mini --dedicated-vram 32GiB"),
        (asked(None, 55.0, Change.OPERATOR), "orchestrate skip mini --power-limit 55W"),
        # the machine has the split: were it skipped, its jobs with other limits would be given up too
        (asked(32 * GIB, 55.0, Change.OPERATOR), "orchestrate skip mini --power-limit 55W"),
    ],
)
def test_what_to_say_where_it_cannot_be_done(ask: AskOperator, words: str) -> None:
    assert skip_command(ask, SEEN) == words


def test_a_profile_is_told_and_a_limit_that_is_seen_too() -> None:
    assert describe_state(MachineState(None, 80.0, "quiet")) == "power limit 80 W, power profile quiet"
    shows = replace(SEEN, power_limit_w=35.0, power_source=StateSource.SEEN)
    assert describe_ask(asked(None, 45.0, Change.OPERATOR), shows) == (
        "set the power limit of mini to 45 W (35 W is seen there now); then say so:"
        " orchestrate state mini --power-limit 45W"
    )
