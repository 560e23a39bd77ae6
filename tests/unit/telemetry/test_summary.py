"""Columns of usage: whose figures they are where there are several GPUs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.measure import Reading
from agents.contract.usage import Usage
from agents.telemetry.memory_truth import MemoryTruth, baseline_of, memory_truth
from agents.telemetry.series import Series, Window
from agents.telemetry.sources.base import Quantity
from agents.telemetry.summary import usage_of
from tests.fakes.telemetry import readings
from tests.unit.results.made_attempts import trial

TRIAL = replace(trial(), sent_s=1.0, ended_s=4.0)  # tokens from 1.5 to 1.8 s
NOTHING = MemoryTruth({}, None, ())


def shown(source: str, **values: float) -> list[Reading]:
    return [each for name, value in values.items() for each in readings(source, Quantity(name), [value] * 31)]


def test_the_gpu_that_works_counts_and_not_the_displays() -> None:
    display = shown("amdgpu:card0", gpu_busy=4.0, gpu_clock=6e8, gpu_temperature=40.0, memory_clock=1e9)
    works = shown("nvml:0", gpu_busy=97.0, gpu_clock=2e9, gpu_temperature=71.0, copy_busy=12.0)
    usage = usage_of(Series([*display, *works]), NOTHING, TRIAL, gpu_in_package=False)
    figures = (usage.gpu_busy_mean_pct, usage.gpu_clock_mean_hz, usage.gpu_temperature_max_c)
    assert figures == pytest.approx((97.0, 2e9, 71.0))
    assert (usage.copy_busy_mean_pct, usage.memory_clock_mean_hz) == pytest.approx(
        (12.0, 1e9)
    )  # another's, where it tells none


def test_only_the_trial_counts() -> None:
    busy = readings("cpu", Quantity.CPU_BUSY, [0.0] * 6 + [80.0] * 20 + [0.0] * 10)  # 1.2 s to 5.0 s
    assert usage_of(Series(busy), NOTHING, TRIAL, gpu_in_package=False).cpu_busy_mean_pct == 80.0


def test_shares_of_time_throttled_and_the_battery_at_the_end() -> None:
    found = [
        *readings("nvml:0", Quantity.THROTTLED_POWER, [0.0] * 16 + [1.0] * 15),  # from 3.0 s on
        *readings("battery", Quantity.BATTERY_CHARGE, [90.0]),
        *readings("battery", Quantity.BATTERY_CHARGE, [88.0], from_s=4.0),
        *readings("battery", Quantity.BATTERY_CHARGE, [87.0], from_s=6.0),
    ]
    usage = usage_of(Series(found), NOTHING, TRIAL, gpu_in_package=False)
    assert usage.throttled_power_pct is not None and 50 <= usage.throttled_power_pct <= 56
    assert (usage.throttled_heat_pct, usage.battery_charge_pct) == (None, 88.0)


def test_the_machines_power_is_its_sensors_or_the_batterys_while_it_gives_some() -> None:
    battery = shown("battery", battery_power=30.0)
    sensor = shown("macmon", system_power=28.0)
    assert usage_of(Series(battery), NOTHING, TRIAL, True).system_power_mean_w == pytest.approx(30.0)
    assert usage_of(Series([*battery, *sensor]), NOTHING, TRIAL, True).system_power_mean_w == pytest.approx(28.0)
    assert usage_of(Series(shown("battery", battery_power=-9.0)), NOTHING, TRIAL, True).system_power_mean_w is None


def test_memory_is_told_without_a_trial() -> None:
    found = readings("nvml:0", Quantity.VRAM_USED, [1e9, 5e9])
    memory = memory_truth(Series(found), Window(0, 1), baseline_of(found[:1]), None)
    usage = usage_of(Series(found), memory, None, gpu_in_package=False)
    assert usage == Usage(
        vram_baseline_bytes=10**9,
        vram_peak_bytes=5 * 10**9,
        vram_used_by_model_bytes=4 * 10**9,
        memory_source="nvml:0",
    )
