"""Readings as series, and what they come to in a window: mean, most, integral. PURE

A value holds since the one before it: that is what rates and averaged sensors mean, and what is constant. A reading
without a value is as none.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from agents.contract.measure import Reading
from agents.telemetry.sources.base import Quantity

LEAST_INSIDE = 2  # readings, for a mean: at 5 Hz a window of 0.4 s
COVERED = 0.5  # part of a window that readings must cover for a mean
LONGEST_GAP_S = 10.0  # a value says nothing of what was longer before it

Points = list[tuple[float, float]]
"""(at_s, value), in the order of time."""


@dataclass(frozen=True, slots=True)
class Window:
    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        return self.end_s - self.start_s


def kind_of(source: str) -> str:
    """``nvml:0`` -> ``nvml``."""
    return source.partition(":")[0]


class Series:
    """Readings by source and quantity; sources in the order in which they are read.

    ``averaging``: the sources whose power is a mean since their reading before.
    """

    def __init__(self, readings: Iterable[Reading], averaging: Collection[str] = ()) -> None:
        self._averaging = averaging
        self._points: dict[str, dict[str, Points]] = defaultdict(dict)
        for each in readings:
            if each.value is not None:
                self._points[each.quantity].setdefault(each.source, []).append((each.at_s, each.value))

    def sources(self, quantity: Quantity) -> list[str]:
        """Those that gave a value at least once."""
        return list(self._points.get(quantity, {}))

    def points(self, source: str, quantity: Quantity) -> Points:
        return self._points.get(quantity, {}).get(source, [])

    def inside(self, source: str, quantity: Quantity, window: Window) -> Points:
        points = self.points(source, quantity)
        low = bisect_left(points, window.start_s, key=_at)
        return points[low : bisect_right(points, window.end_s, key=_at)]

    def value_at(self, source: str, quantity: Quantity, at_s: float) -> float | None:
        """The last value at or before ``at_s``."""
        points = self.points(source, quantity)
        place = bisect_right(points, at_s, key=_at)
        return points[place - 1][1] if place else None

    def mean(self, source: str, quantity: Quantity, window: Window) -> float | None:
        """Mean over time; None where less than half of the window is covered, and of a window that is too short for its
        readings: they would be of what was before and after."""
        if len(self.inside(source, quantity, window)) < LEAST_INSIDE:
            return None
        total, covered_s = _held(self.points(source, quantity), window)
        return total / covered_s if covered_s > 0 and covered_s >= COVERED * window.length_s else None

    def most(self, source: str, quantity: Quantity, window: Window) -> float | None:
        """The largest of the values inside, and of the one that held at the start."""
        values = [value for _, value in self.inside(source, quantity, window)]
        before = self.value_at(source, quantity, window.start_s)
        return max([*values, *([] if before is None else [before])], default=None)

    def integral(self, source: str, quantity: Quantity, window: Window) -> float | None:
        """Trapezoids between the readings, cut at the window's ends; the unit times seconds.

        None where the readings do not reach over the window, or are further apart than LONGEST_GAP_S.
        """
        points = self.points(source, quantity)
        low = bisect_right(points, window.start_s, key=_at) - 1
        high = bisect_left(points, window.end_s, key=_at)
        if window.length_s <= 0 or low < 0 or high >= len(points):
            return None
        total = 0.0
        for (a_s, a), (b_s, b) in zip(points[low:high], points[low + 1 : high + 1], strict=True):
            if b_s - a_s > LONGEST_GAP_S:
                return None
            start, end = max(a_s, window.start_s), min(b_s, window.end_s)
            slope = (b - a) / (b_s - a_s) if b_s > a_s else 0.0
            total += (end - start) * (a + slope * ((start + end) / 2 - a_s))
        return total

    def held(self, source: str, quantity: Quantity, window: Window) -> float | None:
        """As ``integral``, of a sensor whose values are means since the one before: each holds for all of that time."""
        if window.length_s <= 0:
            return None
        total, covered_s = _held(self.points(source, quantity), window)
        return total if covered_s >= window.length_s * (1 - 1e-9) else None

    def energy(self, source: str, power: Quantity, window: Window) -> float | None:
        """Joules from a power in W, by what the source's values are: means, or of a moment each."""
        return (self.held if source in self._averaging else self.integral)(source, power, window)

    def growth(self, source: str, quantity: Quantity, window: Window) -> float | None:
        """Of a counter: its value at the end less that at the start, both between the readings beside them."""
        ends = [_between(self.points(source, quantity), at_s) for at_s in (window.start_s, window.end_s)]
        first, last = ends
        return last - first if first is not None and last is not None and last >= first else None


def _at(point: tuple[float, float]) -> float:
    return point[0]


def _held(points: Points, window: Window) -> tuple[float, float]:
    """Sum of value times seconds, and the seconds, inside the window."""
    total = covered_s = 0.0
    low = bisect_left(points, window.start_s, key=_at)
    for place in range(max(low, 1), len(points)):
        (before_s, _), (at_s, value) = points[place - 1], points[place]
        if before_s >= window.end_s:
            break
        seconds = min(at_s, window.end_s) - max(before_s, window.start_s, at_s - LONGEST_GAP_S)
        if seconds > 0:
            total += value * seconds
            covered_s += seconds
    return total, covered_s


def _between(points: Points, at_s: float) -> float | None:
    place = bisect_left(points, at_s, key=_at)
    if place == len(points):
        return None
    after_s, after = points[place]
    if after_s == at_s:
        return after
    if place == 0 or after_s - points[place - 1][0] > LONGEST_GAP_S:
        return None
    before_s, before = points[place - 1]
    return before + (after - before) * (at_s - before_s) / (after_s - before_s)


def thinned(readings: Sequence[Reading], most: int) -> tuple[Reading, ...]:
    """At most about ``most`` of them: of each source and quantity every n-th, and always its first and last."""
    step = -(-len(readings) // most)
    if step <= 1:
        return tuple(readings)
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, each in enumerate(readings):
        places[each.source, each.quantity].append(place)
    kept = {place for own in places.values() for place in (*own[::step], own[-1])}
    return tuple(each for place, each in enumerate(readings) if place in kept)
