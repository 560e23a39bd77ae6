"""i915 and xe on trees of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.telemetry.sources.base import Quantity as Q
from agents.telemetry.sources.drm import cards
from agents.telemetry.sources.intel import IntelGpu, IntelGpuFinder
from tests.fakes.sensors import Now, card, files, i915_gpu, read, xe_card


def test_an_integrated_gpu(tmp_path: Path) -> None:
    folder = i915_gpu(tmp_path)
    now = Now()
    source = IntelGpu(cards(tmp_path, "i915")[0], now)
    calm = {Q.THROTTLED_POWER: 0.0, Q.THROTTLED_HEAT: 0.0, Q.THROTTLED_OTHER: 0.0}
    assert read(source) == {Q.GPU_CLOCK: 1350e6, Q.GPU_ASLEEP: None, **calm}
    now.pass_s(2)
    files(folder, {"rc6_residency_ms": 1500, "throttle_reason_status": 1, "throttle_reason_prochot": 1})
    assert read(source) == {Q.GPU_CLOCK: 1350e6, Q.GPU_ASLEEP: 25.0, **calm, Q.THROTTLED_HEAT: 1.0}


def test_an_older_i915_has_its_files_elsewhere(tmp_path: Path) -> None:
    folder = card(tmp_path, "i915")
    files(folder, {"gt_act_freq_mhz": 900, "power/rc6_residency_ms": 4})
    (source,), (missing,) = IntelGpuFinder().find(tmp_path)
    assert (source.name, read(source)) == ("i915:card0", {Q.GPU_CLOCK: 900e6, Q.GPU_ASLEEP: None})
    assert "rapl" in missing.why


def test_a_card_with_power(tmp_path: Path) -> None:
    device = xe_card(tmp_path)
    now = Now()
    source = IntelGpu(cards(tmp_path, "xe")[0], now)
    read(source)
    now.pass_s(0.5)
    files(device / "hwmon/hwmon5", {"energy1_input": 1000000 + 60_000_000})
    files(device / "tile0/gt0/gtidle", {"idle_residency_ms": 5600})  # more than has passed: ticks of another clock
    files(device / "tile0/gt0/freq0/throttle", {"reason_pl1": 1, "reason_vr_tdc": 1})
    assert read(source) == {
        **{Q.GPU_CLOCK: 2400e6, Q.GPU_ASLEEP: 100.0, Q.GPU_POWER: 120.0, Q.POWER_LIMIT: 150.0},
        **{Q.GPU_TEMPERATURE: 58.0, Q.MEMORY_TEMPERATURE: 66.0},
        **{Q.THROTTLED_POWER: 1.0, Q.THROTTLED_HEAT: 0.0, Q.THROTTLED_OTHER: 1.0},
    }


@pytest.mark.parametrize("energy", [5, "", "N/A"])
def test_energy_that_goes_back_or_is_no_number(tmp_path: Path, energy: object) -> None:
    device = xe_card(tmp_path)
    now = Now()
    source = IntelGpu(cards(tmp_path, "xe")[0], now)
    read(source)
    now.pass_s(1)
    files(device / "hwmon/hwmon5", {"energy1_input": energy})
    assert read(source)[Q.GPU_POWER] is None


def test_a_limit_of_0_is_no_limit(tmp_path: Path) -> None:
    files(xe_card(tmp_path) / "hwmon/hwmon5", {"power1_max": 0})
    (source,), missing = IntelGpuFinder().find(tmp_path)
    assert (read(source)[Q.POWER_LIMIT], missing) == (None, [])


def test_a_reason_that_cannot_be_read_is_not_a_calm_gpu(tmp_path: Path) -> None:
    folder = card(tmp_path, "i915")
    files(folder / "gt/gt0", {"throttle_reason_pl1": "N/A", "rps_act_freq_mhz": 1})
    (source,), _ = IntelGpuFinder().find(tmp_path)
    assert read(source)[Q.THROTTLED_POWER] is None


def test_none(tmp_path: Path) -> None:
    card(tmp_path, "xe")
    sources, (missing,) = IntelGpuFinder().find(tmp_path)
    assert (sources, missing.source) == ([], "xe:card0")
    sources, (missing,) = IntelGpuFinder().find(tmp_path / "none")
    assert (sources, missing.source) == ([], "intel")
