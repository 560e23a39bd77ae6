"""What the machine shows while nothing of ours runs on it: how cool it is, and what power it draws before a load."""

from __future__ import annotations

from collections.abc import Callable

from agents.clock import Clock
from agents.telemetry.readings import Readings
from agents.telemetry.series import Series, Window
from agents.telemetry.validity import Temperatures, coolest, not_quiet

LEAST_LOOK_S = 0.5  # a shorter pause says nothing; jobs come one after the other, and nobody waits for a longer one
IDLE_S = 3.0  # before a load, for the power of the idle machine


class IdleMachine:
    """``own_cpu_s``: seconds of CPU that this process has used so far. It is no other's noise."""

    def __init__(self, clock: Clock, cores: int, own_cpu_s: Callable[[], float]) -> None:
        self.cores = cores
        self.since_ns: int | None = None
        """Since when this process has had nothing to do; None before the first ``begin``."""
        self.temperatures: Temperatures = {}
        self.series, self.window = Series(()), Window(0.0, 0.0)
        """Readings before the load of what is loaded now, and the part of them in which the machine was quiet."""
        self._clock, self._own_cpu_s = clock, own_cpu_s
        self._cpu_s_before = 0.0

    def begin(self) -> None:
        """From here on this process does nothing, until the next job or trial."""
        self.since_ns = self._clock.monotonic_ns()
        self._cpu_s_before = self._own_cpu_s()

    def own_cpu_s(self) -> float:
        """What this process has used although it had nothing to do, such as looking at the machine."""
        return max(self._own_cpu_s() - self._cpu_s_before, 0.0)

    def learn(self, readings: Readings) -> None:
        """From the time between ``begin`` and the job of these readings, where it was long enough to tell."""
        if self.since_ns is None:
            return
        # The last seconds alone: before them the machine may still have been busy with the job that ended.
        since_ns = max(self.since_ns, readings.zero_ns - int(IDLE_S * 1e9))
        if readings.zero_ns - since_ns < LEAST_LOOK_S * 1e9:
            return
        series, window = readings.series(), readings.window(since_ns, readings.zero_ns)
        # Temperatures count even if others work: they only ever make the lowest one seen lower.
        self.temperatures = coolest(series, self.temperatures)
        if not not_quiet(series, window, self.cores, 0.0):
            self.series, self.window = series, window
