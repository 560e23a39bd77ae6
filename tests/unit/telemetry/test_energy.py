"""Joules of the phases, whose they are, and that nothing is counted twice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.measure import Arrival, ImageExecution, Reading, Trial
from agents.contract.usage import Energy
from agents.telemetry.energy import energy_of
from agents.telemetry.series import Series, Window
from agents.telemetry.sources.base import Quantity
from tests.fakes.telemetry import readings
from tests.unit.results.made_attempts import trial as made_up

PACKAGE, GPU, SYSTEM, BATTERY = (
    *(Quantity.PACKAGE_POWER, Quantity.GPU_POWER),
    *(Quantity.SYSTEM_POWER, Quantity.BATTERY_POWER),
)
IDLE_W = Window(-3.0, 0.0)

# sent at 1 s, first token at 3 s, last at 7 s, over at 7.5 s
TRIAL: Trial = replace(
    made_up(), sent_s=1.0, arrivals=tuple(Arrival(2.0 + place, place) for place in range(5)), ended_s=6.5
)


def steady(source: str, quantity: Quantity, watts: float, until_s: float = 9.0) -> list[Reading]:
    return readings(source, quantity, [watts] * int(5 * until_s + 1))


def energy(
    *several: list[Reading], idle: list[Reading] | None = None, apu: bool = False, trial: Trial = TRIAL
) -> Energy:
    found = [each for some in several for each in some]
    return energy_of(Series(found, averaging={"rapl:0"}), trial, Series(idle or []), IDLE_W, apu)


def test_phases_in_all_and_above_idle() -> None:
    idle = readings("rapl:0", PACKAGE, [10.0] * 16, from_s=-3.0)
    found = energy(steady("rapl:0", PACKAGE, 50.0), idle=idle, apu=True)
    assert (found.energy_source, found.energy_scope) == ("rapl", "package")
    assert found.idle_power_w == pytest.approx(10.0)
    assert found.prompt_energy_j == pytest.approx(100.0)
    assert found.decode_energy_j == pytest.approx(200.0)
    assert found.prompt_energy_above_idle_j == pytest.approx(80.0)
    assert found.decode_energy_above_idle_j == pytest.approx(160.0)
    assert found.decode_power_w == pytest.approx(50.0)


def test_power_that_changes_is_integrated_to_the_phases_ends() -> None:
    ramp = readings("amdgpu:card0", PACKAGE, [2.0 * place for place in range(50)])  # 10 W more each second
    found = energy(ramp, apu=True)
    assert found.prompt_energy_j == pytest.approx(40.0)  # 10 to 30 W over 2 s
    assert found.decode_energy_j == pytest.approx(200.0)  # 30 to 70 W over 4 s


@pytest.mark.parametrize(("source", "joules"), [("rapl:0", 35.0), ("amdgpu:card0", 31.0)])
def test_a_mean_since_the_reading_before_holds_for_all_of_that_time(source: str, joules: float) -> None:
    """A step from 10 to 50 W at the sending: the counter's mean shows it whole, a sensor's value a reading later."""
    step = readings(source, PACKAGE, [10.0] * 6 + [50.0] * 40)
    short = replace(TRIAL, arrivals=(Arrival(0.7, 0), Arrival(2.7, 1)), ended_s=3.0)
    assert energy(step, apu=True, trial=short).prompt_energy_j == pytest.approx(joules)


BUSY = readings("nvml:0", Quantity.GPU_BUSY, [90.0] * 46)
RESTS = readings("nvml:0", Quantity.GPU_BUSY, [1.0] * 46)


@pytest.mark.parametrize(
    ("several", "apu", "scope"),
    [
        ([steady("rapl:0", PACKAGE, 30.0), steady("amdgpu:card0", GPU, 20.0), BUSY], True, "package"),
        ([steady("rapl:0", PACKAGE, 30.0), steady("nvml:0", GPU, 200.0), BUSY], False, "gpu"),
        ([steady("rapl:0", PACKAGE, 30.0), steady("nvml:0", GPU, 8.0), RESTS], False, "package"),
        ([steady("rapl:0", PACKAGE, 30.0), BUSY], False, "package"),
        ([steady("battery", BATTERY, 40.0), steady("macmon", SYSTEM, 35.0)], True, "system"),
        ([steady("battery", BATTERY, 40.0)], True, "battery"),
        ([steady("battery", BATTERY, 0.0)], True, None),  # on mains
        ([steady("battery", BATTERY, -20.0)], True, None),  # it charges
        ([steady("rapl:0", PACKAGE, 30.0, until_s=2.0), steady("nvml:0", GPU, 8.0)], True, "gpu"),
        ([], True, None),
    ],
)
def test_whose_energy_it_is(several: list[list[Reading]], apu: bool, scope: str | None) -> None:
    assert energy(*several, apu=apu).energy_scope == scope


def test_card_and_package_stand_side_by_side_and_are_not_added() -> None:
    found = energy(steady("nvml:0", GPU, 200.0), steady("rapl:0", PACKAGE, 30.0), BUSY)
    assert found.decode_energy_j == pytest.approx(800.0)
    assert found.gpu_decode_energy_j == pytest.approx(800.0)
    assert found.package_decode_energy_j == pytest.approx(120.0)


def test_devices_of_one_kind_are_added_and_two_views_of_one_are_not() -> None:
    two = energy(steady("nvml:0", GPU, 100.0), steady("nvml:1", GPU, 50.0))
    assert two.decode_energy_j == pytest.approx(600.0)
    views = energy(steady("rapl:0", PACKAGE, 30.0), steady("amdgpu:card0", PACKAGE, 31.0), apu=True)
    assert views.energy_source == "rapl"
    assert views.decode_energy_j == pytest.approx(120.0)


def test_one_device_without_readings_leaves_the_sum_unknown() -> None:
    found = energy(steady("nvml:0", GPU, 100.0), steady("nvml:1", GPU, 50.0, until_s=4.0))
    assert found.decode_energy_j is None
    assert found.prompt_energy_j == pytest.approx(300.0)


def test_a_counter_is_better_than_power() -> None:
    joules = readings("nvml:0", Quantity.GPU_ENERGY, [1000.0 + 20.0 * place for place in range(46)])  # 100 W
    found = energy(steady("nvml:0", GPU, 55.0), joules)
    assert found.decode_energy_j == pytest.approx(400.0)


def test_a_phase_that_is_too_short_for_the_readings_has_no_energy() -> None:
    short = replace(TRIAL, arrivals=(Arrival(0.3, 0), Arrival(4.0, 1)))
    found = energy(steady("rapl:0", PACKAGE, 50.0), apu=True, trial=short)
    assert (found.prompt_energy_j, found.prompt_energy_above_idle_j) == (None, None)
    assert found.decode_energy_j == pytest.approx(185.0)


def test_a_run_that_makes_images_is_one_phase() -> None:
    images = replace(TRIAL, arrivals=(), image=ImageExecution(images=2, image_seed=1))
    found = energy(steady("rapl:0", PACKAGE, 10.0), apu=True, trial=images)
    assert found.prompt_energy_j is None
    assert found.decode_energy_j == pytest.approx(65.0)


@pytest.mark.parametrize("changes", [{"sent_s": None}, {"arrivals": ()}])
def test_a_trial_without_times_has_no_energy(changes: dict[str, object]) -> None:
    assert energy(steady("rapl:0", PACKAGE, 50.0), trial=replace(TRIAL, **changes)) == Energy()  # type: ignore[arg-type]
