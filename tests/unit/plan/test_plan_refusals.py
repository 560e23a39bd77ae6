from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.device import Device, EngineFound, MemoryKind
from agents.contract.job import LoadSettings, MachineState, Runtime
from orchestrator.plan.changes import why_refused
from tests.unit.results.made_attempts import DEVICE

GIB = 2**30
BARE = replace(DEVICE, engines=(), dedicated_vram_bytes=None)
QUIET = replace(DEVICE, power_profile="quiet", power_profiles=("cool", "quiet"))
SPLIT = replace(DEVICE, dedicated_vram_bytes=32 * GIB)
NAMELESS = replace(DEVICE, engines=(EngineFound("embedded", "b1", (), "here"),))


@pytest.mark.parametrize(
    ("load", "state", "device", "why"),
    [
        (LoadSettings("embedded", "m"), MachineState(), DEVICE, None),
        (LoadSettings("embedded", "m", runtime=Runtime.VULKAN), MachineState(), DEVICE, None),
        (LoadSettings("ollama", "m"), MachineState(), DEVICE, "engine ollama is not on laptop (found: embedded)"),
        (LoadSettings("ollama", "m"), MachineState(), BARE, None),  # nobody has looked for engines there
        (
            LoadSettings("embedded", "m", runtime=Runtime.CUDA),
            MachineState(),
            DEVICE,
            "embedded on laptop has no runtime cuda (it has cpu, vulkan)",
        ),
        (LoadSettings("embedded", "m", runtime=Runtime.CUDA), MachineState(), NAMELESS, None),  # it does not tell
        (LoadSettings("embedded", "m"), MachineState(power_limit_w=80.0), DEVICE, None),  # an operator can set it
        (LoadSettings("embedded", "m"), MachineState(power_profile="quiet"), QUIET, None),
        (LoadSettings("embedded", "m"), MachineState(power_profile="cool"), replace(QUIET, sets_profile=True), None),
        (
            LoadSettings("embedded", "m"),
            MachineState(power_profile="turbo"),
            replace(QUIET, sets_profile=True),
            "laptop has power profiles cool, quiet; asked for: turbo",
        ),
        (
            LoadSettings("embedded", "m"),
            MachineState(power_profile="cool"),
            QUIET,
            "the power profile of laptop is quiet, and its owner allows no method to hold one; asked for: cool",
        ),
        (
            LoadSettings("embedded", "m"),
            MachineState(power_profile="cool"),
            DEVICE,
            "the power profile of laptop cannot be seen, and its owner allows no method to hold one; asked for: cool",
        ),
        (LoadSettings("embedded", "m"), MachineState(dedicated_vram_bytes=GIB), BARE, None),
        (LoadSettings("embedded", "m"), MachineState(dedicated_vram_bytes=GIB), SPLIT, None),
        (
            LoadSettings("embedded", "m"),
            MachineState(dedicated_vram_bytes=GIB),
            replace(SPLIT, memory_kind=MemoryKind.DISCRETE),
            "dedicated VRAM of laptop cannot be chosen: it has a card with memory of its own; asked for: 1 GiB",
        ),
        (
            LoadSettings("embedded", "m"),
            MachineState(dedicated_vram_bytes=GIB),
            replace(SPLIT, carveout_options_bytes=(32 * GIB, 64 * GIB)),
            "the firmware of laptop offers dedicated VRAM of 32 GiB, 64 GiB; asked for: 1 GiB",
        ),
        (  # the first thing that speaks against it
            LoadSettings("ollama", "m"),
            MachineState(dedicated_vram_bytes=GIB),
            replace(SPLIT, memory_kind=MemoryKind.DISCRETE),
            "engine ollama is not on laptop (found: embedded)",
        ),
        (LoadSettings("embedded", "m"), MachineState(dedicated_vram_bytes=32 * GIB), SPLIT, None),
        (LoadSettings("embedded", "m"), MachineState(dedicated_vram_bytes=32 * GIB + 5 * 2**20), SPLIT, None),
    ],
)
def test_why_refused(load: LoadSettings, state: MachineState, device: Device, why: str | None) -> None:
    assert why_refused(load, state, device) == why
