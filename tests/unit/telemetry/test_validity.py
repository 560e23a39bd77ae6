"""What makes a machine unfit, and which flags a trial gets: one table each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.job import Conditions
from agents.contract.measure import Flag, Reading
from agents.telemetry.series import Series, Window
from agents.telemetry.sources.base import Quantity
from agents.telemetry.validity import Clocks, Machine, coolest, flags_of, not_quiet, on_battery, too_warm
from tests.fakes.telemetry import readings
from tests.unit.results.made_attempts import trial as made_up

GIB = 2**30
TRIAL = replace(made_up(), sent_s=1.0, ended_s=4.0)
CPU, ENGINE, GPU = Quantity.CPU_BUSY, Quantity.ENGINE_CPU, Quantity.GPU_BUSY


def steady(quantity: Quantity, value: float, source: str = "s") -> list[Reading]:
    return readings(source, quantity, [value] * 31)


@pytest.mark.parametrize(
    ("cores", "busy_pct", "own_cores", "quiet"),
    [
        (8, 5.0, 0.0, True),
        (8, 7.0, 0.0, False),  # 0.56 cores
        (8, 7.0, 0.2, True),  # of which 0.2 are ours
        (64, 4.0, 0.0, True),  # 2.56 of 64
        (64, 6.0, 0.0, False),
        (2, 30.0, 0.0, False),
    ],
)
def test_a_quiet_cpu(cores: int, busy_pct: float, own_cores: float, quiet: bool) -> None:
    said = not_quiet(Series(steady(CPU, busy_pct)), Window(1, 3), cores, own_cores)
    assert (said == ()) is quiet, said


@pytest.mark.parametrize(("busy_pct", "quiet"), [(5.0, True), (15.0, False)])
def test_a_quiet_gpu(busy_pct: float, quiet: bool) -> None:
    said = not_quiet(Series(steady(GPU, busy_pct, "nvml:0")), Window(1, 3), 8, 0.0)
    assert said == (() if quiet else ("nvml:0 is 15 % busy",))


def test_where_nothing_can_be_read_everything_is_fit() -> None:
    nothing = Series([])
    assert not_quiet(nothing, Window(0, 2), 8, 0.0) == ()
    assert not on_battery(nothing, Window(0, 2))
    assert too_warm(nothing, 2.0, {}) == ()
    assert flags_of(nothing, TRIAL, Conditions(), Machine(8, 50.0), 0.0) == ()


def test_cool_is_near_the_coolest_that_was_seen() -> None:
    idle = coolest(Series(readings("k10temp", Quantity.CPU_TEMPERATURE, [48.0, 45.0, 47.0])), {})
    idle = coolest(Series(readings("k10temp", Quantity.CPU_TEMPERATURE, [60.0])), idle)
    hot = Series(readings("k10temp", Quantity.CPU_TEMPERATURE, [80.0, 51.0, 50.0]))
    assert too_warm(hot, 0.0, idle) == ("k10temp is at 80 °C, 45 °C when idle",)
    assert too_warm(hot, 0.2, idle) != ()
    assert too_warm(hot, 0.4, idle) == ()


FITS: list[list[Reading]] = [
    [],
    [*steady(CPU, 50.0), *steady(ENGINE, 780.0)],  # 8 of 16 cores: the engine's
    [*steady(CPU, 90.0), *steady(ENGINE, 0.0)],  # the engine's processes are not known: nothing is said
    steady(CPU, 90.0),
    steady(Quantity.THROTTLED_POWER, 1.0),  # at its power limit: that is its rate
    steady(Quantity.THROTTLED_HEAT, 0.0),
    steady(Quantity.ON_MAINS, 1.0),
    steady(Quantity.SWAP_USED, 3.0 * GIB),  # old pages that stay there
    steady(Quantity.SWAP_IN, 2.0**20),
    steady(Quantity.GPU_POWER, 54.0),  # 50 W are the limit
    readings("s", Quantity.THROTTLED_HEAT, [1.0] * 5 + [0.0] * 26),  # before it began
]
FLAGGED: list[tuple[list[Reading], Flag]] = [
    ([*steady(CPU, 50.0), *steady(ENGINE, 400.0)], Flag.DISTURBED),
    (steady(Quantity.THROTTLED_HEAT, 1.0), Flag.THROTTLED),
    (steady(Quantity.THROTTLED_OTHER, 1.0), Flag.THROTTLED),
    (readings("s", Quantity.THROTTLED_HEAT, [0.0] * 20 + [1.0] * 11), Flag.THROTTLED),
    (readings("s", Quantity.ON_MAINS, [1.0] * 20 + [0.0]), Flag.ON_BATTERY),  # told when it changes
    (readings("s", Quantity.ON_MAINS, [0.0]), Flag.ON_BATTERY),
    (readings("s", Quantity.SWAP_USED, [0.0] * 15 + [0.2 * GIB] * 16), Flag.SWAPPED),
    (steady(Quantity.SWAP_IN, 20.0 * 2**20), Flag.SWAPPED),
    (steady(Quantity.GPU_POWER, 56.0), Flag.LIMIT_WITHOUT_EFFECT),
]
MACHINE = Machine(16, limit_w=50.0)


@pytest.mark.parametrize("found", FITS)
def test_a_good_trial_has_no_flag(found: list[Reading]) -> None:
    assert flags_of(Series(found), TRIAL, Conditions(), MACHINE, 0.1) == ()


@pytest.mark.parametrize(("found", "flag"), FLAGGED)
def test_a_bad_trial_has_one(found: list[Reading], flag: Flag) -> None:
    assert flags_of(Series(found), TRIAL, Conditions(), MACHINE, 0.0) == (flag,)


@pytest.mark.parametrize("jumped_s", [3600.0, -1.0])
def test_a_clock_that_jumped(jumped_s: float) -> None:
    assert flags_of(Series([]), TRIAL, Conditions(), MACHINE, jumped_s) == (Flag.CLOCK_JUMPED,)
    assert Clocks(1.0, 100.0).jumped_by(Clocks(2.0, 101.0 + jumped_s)) == pytest.approx(jumped_s)


def test_what_the_matrix_allows_is_not_flagged() -> None:
    battery = readings("s", Quantity.ON_MAINS, [0.0])
    assert flags_of(Series(battery), TRIAL, Conditions(battery_allowed=True), MACHINE, 0.0) == ()
    noise = [*steady(CPU, 50.0), *steady(ENGINE, 400.0)]
    assert flags_of(Series(noise), TRIAL, Conditions(quiet=False), MACHINE, 0.0) == ()


@pytest.mark.parametrize(("in_package", "flagged"), [(True, False), (False, True)])
def test_a_limit_is_held_against_what_it_limits(in_package: bool, flagged: bool) -> None:
    found = [*steady(Quantity.PACKAGE_POWER, 50.0), *steady(Quantity.GPU_POWER, 80.0), *steady(GPU, 99.0)]
    flags = flags_of(Series(found), TRIAL, Conditions(), Machine(16, 50.0, in_package), 0.0)
    assert (Flag.LIMIT_WITHOUT_EFFECT in flags) is flagged


@pytest.mark.parametrize(
    ("limit_of", "gpu_w", "package_w", "flagged"),
    [
        ("gpu", [48.0, 48.0], 90.0, False),  # each card keeps the limit, and the package has none
        ("gpu", [48.0, 58.0], 20.0, True),
        ("package", [200.0, 200.0], 48.0, False),
        ("package", [20.0, 20.0], 58.0, True),
        (None, [30.0, 30.0], 10.0, True),  # of all together, for all that is known
    ],
)
def test_a_limit_of_each_card_or_package_is_held_against_each(
    limit_of: str | None, gpu_w: list[float], package_w: float, flagged: bool
) -> None:
    cards = [each for n, watts in enumerate(gpu_w) for each in steady(Quantity.GPU_POWER, watts, source=f"nvml:{n}")]
    found = [*steady(Quantity.PACKAGE_POWER, package_w, source="rapl:0"), *cards, *steady(GPU, 99.0)]
    flags = flags_of(Series(found), TRIAL, Conditions(), Machine(16, 50.0, limit_of=limit_of), 0.0)
    assert (Flag.LIMIT_WITHOUT_EFFECT in flags) is flagged


def test_a_reason_that_is_not_told_is_no_flag() -> None:
    """At its power limit an older APU shows it too; being held down for power is a laptop's usual state."""
    assert flags_of(Series(steady(Quantity.THROTTLED_UNKNOWN, 1.0)), TRIAL, Conditions(), MACHINE, 0.0) == ()


def test_a_trial_without_times_is_not_judged() -> None:
    found = Series(steady(Quantity.THROTTLED_HEAT, 1.0))
    assert flags_of(found, replace(TRIAL, sent_s=None), Conditions(), MACHINE, 99.0) == ()
