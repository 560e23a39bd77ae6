"""Means, extremes and integrals of a window, by hand."""

from __future__ import annotations

import pytest

from agents.contract.measure import Reading
from agents.telemetry.series import Series, Window, thinned
from agents.telemetry.sources.base import Quantity
from tests.fakes.telemetry import readings

POWER = Quantity.GPU_POWER


def series(values: list[float | None], every_s: float = 1.0) -> Series:
    return Series(readings("gpu", POWER, values, every_s=every_s))


@pytest.mark.parametrize(
    ("values", "window", "mean"),
    [
        ([10, 20, 30], (0, 2), 25),  # a value holds since the one before
        ([10, 20, 30], (0.5, 1.5), None),  # one reading inside: it tells of what was before too
        ([10, 20, 30, 40], (0.5, 2.5), 30),
        ([10, 20, 30], (1, 2), 30),
        ([10, 20, None, 40], (1, 3), 40),  # what is not known is as not read
        ([10, 20, 30], (0.5, 3.5), 80 / 3),  # half of it is covered
        ([10, 20], (0.9, 2), None),
        ([10], (0, 1), None),
        ([], (0, 1), None),
        ([10, 20, 30], (1, 1), None),
    ],
)
def test_mean(values: list[float | None], window: tuple[float, float], mean: float | None) -> None:
    assert series(values).mean("gpu", POWER, Window(*window)) == mean


@pytest.mark.parametrize(
    ("values", "window", "joules"),
    [
        ([10, 20, 30], (0, 2), 40),
        ([10, 20, 30], (0.5, 1.5), 20),
        ([10, 20], (0.25, 0.75), 7.5),  # inside one interval
        ([10, None, 30], (0, 2), 40),
        ([10, 20, 30], (0, 2.1), None),  # no reading behind the end
        ([10, 20, 30], (-0.1, 1), None),
        ([10, 20, 30], (1, 1), None),
        ([], (0, 1), None),
    ],
)
def test_integral(values: list[float | None], window: tuple[float, float], joules: float | None) -> None:
    assert series(values).integral("gpu", POWER, Window(*window)) == (None if joules is None else pytest.approx(joules))


def test_a_hole_in_the_readings_is_no_power() -> None:
    assert series([10, 10], every_s=30.0).integral("gpu", POWER, Window(1, 29)) is None
    assert series([10, 10], every_s=30.0).mean("gpu", POWER, Window(1, 29)) is None


@pytest.mark.parametrize(
    ("window", "growth"), [((0, 2), 30), ((0.5, 1.5), 15), ((1, 1), 0), ((0, 3), None), ((-1, 1), None)]
)
def test_growth_of_a_counter(window: tuple[float, float], growth: float | None) -> None:
    assert series([100, 110, 130]).growth("gpu", POWER, Window(*window)) == growth


def test_a_counter_that_begins_anew_says_nothing() -> None:
    assert series([100, 5]).growth("gpu", POWER, Window(0, 1)) is None


@pytest.mark.parametrize(("window", "most"), [((0, 2), 30), ((1.5, 1.8), 20), ((-2, -1), None), ((5, 6), 30)])
def test_most(window: tuple[float, float], most: float | None) -> None:
    assert series([10, 20, 30]).most("gpu", POWER, Window(*window)) == most


def test_thinned_keeps_the_ends_of_each_series() -> None:
    many = [*readings("a", POWER, [1.0] * 100), *readings("b", POWER, [2.0, 3.0])]
    few = thinned(many, 20)
    assert len(few) <= 24
    for source in ("a", "b"):
        own, kept = [r for r in many if r.source == source], [r for r in few if r.source == source]
        assert (kept[0], kept[-1]) == (own[0], own[-1])
    assert thinned(many, 1000) == tuple(many)
    assert thinned((), 5) == ()


def test_sources_are_those_with_values() -> None:
    found = Series([Reading(0, "x", "gpu_power", None, "W"), Reading(0, "y", "gpu_power", 1.0, "W")])
    assert found.sources(POWER) == ["y"]
