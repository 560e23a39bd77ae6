"""The readings of one job, as they are taken from the sampler, on a time axis that begins with the job."""

from __future__ import annotations

from collections.abc import Callable

from agents.contract.measure import Reading
from agents.telemetry.sampling import Batch, Row
from agents.telemetry.series import Series, Window
from agents.telemetry.sources.base import Quantity


class Readings:
    """``take`` hands over what was sampled since it was called last; what came before the job has a time below 0."""

    def __init__(self, zero_ns: int, take: Callable[[], Batch]) -> None:
        self.zero_ns = zero_ns  # on the clock that stamps streams
        self._take = take
        self._rows: list[Row] = []
        self._averaging: frozenset[str] = frozenset()

    def take(self) -> None:
        """Adds all that was sampled up to now."""
        batch = self._take()
        self._rows += batch.rows
        self._averaging |= batch.averaging

    def __bool__(self) -> bool:
        return bool(self._rows)

    def at_s(self, at_ns: int) -> float:
        return (at_ns - self.zero_ns) / 1e9

    def window(self, start_ns: int, end_ns: int) -> Window:
        return Window(self.at_s(start_ns), self.at_s(end_ns))

    def all(self) -> list[Reading]:
        return [
            Reading(self.at_s(at_ns), source, quantity, value, Quantity(quantity).unit)
            for at_ns, source, quantity, value in self._rows
        ]

    def series(self) -> Series:
        return Series(self.all(), self._averaging)
