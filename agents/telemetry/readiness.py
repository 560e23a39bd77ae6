"""Waits until the machine is fit to be measured: quiet, on mains and cool, as far as the job asks for it.

What a wait may mend is worth some seconds, but not a run: a machine that is never quiet, such as a desktop in use,
is measured all the same, and its trials are flagged. How long is waited for noise is therefore learnt from job to job.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agents.clock import Clock
from agents.contract.job import Conditions
from agents.telemetry.idle import LEAST_LOOK_S, IdleMachine
from agents.telemetry.processes import busiest_other
from agents.telemetry.readings import Readings
from agents.telemetry.series import Series, Window
from agents.telemetry.validity import not_quiet, on_battery, too_warm

PATIENCE_S = 30.0
"""Longest wait for a quiet machine on mains. Halved after a wait in vain, so that a machine that is never quiet costs a
run a minute, not hours; whole again when it was quiet."""
LOOK_AGAIN_S = 0.5
LOOK_BACK_S = 2.0  # how long it must have been quiet


@dataclass(frozen=True, slots=True)
class WaitedInVain:
    """``disturber``: the process that used most CPU when the patience was over; None where none stood out."""

    disturber: str | None


@dataclass
class Readiness:
    """``waits`` is False where no job waits for anything, and no trial is flagged for other processes."""

    idle: IdleMachine
    clock: Clock
    waits: bool = True
    busiest: Callable[[Callable[[float], object]], str | None] = busiest_other
    was_disturbed: bool = False  # the trial before was: all that is known in the moment after it
    _patience_s: float = field(default=PATIENCE_S, init=False)

    def effective(self, conditions: Conditions) -> Conditions:
        """What a trial is held against."""
        return conditions if self.waits else replace(conditions, quiet=False)

    def wait(
        self, readings: Readings, wanted: Conditions, notify: Callable[[str], None], cancelled: threading.Event
    ) -> WaitedInVain | None:
        """Returns when the machine is fit, when the patience is over, or when the job is cancelled.

        ``notify`` is given the reasons at every look that ends in a wait: "waiting: others use 1.4 of 8 cores".
        """
        waited_s = 0.0
        while self.waits and not cancelled.is_set():
            noise, warmth = self._reasons(readings, wanted)
            in_vain = bool(noise) and waited_s >= self._patience_s
            # Warmth goes away by itself, and has a limit of its own: the job's.
            reasons = (*(() if in_vain else noise), *(warmth if waited_s < wanted.cool_down_s else ()))
            if not reasons:
                if in_vain:
                    self._patience_s /= 2
                    by_cpu = any("cores" in each for each in noise)
                    return WaitedInVain(self.busiest(cancelled.wait) if by_cpu else None)
                # Fit after a wait, or after a look that was long enough: others have stopped, so patience is whole. A
                # job that follows the one before at once was hardly looked at, and nothing is learnt from it.
                looked_s = (self.clock.monotonic_ns() - self._quiet_since_ns(readings)) / 1e9
                if waited_s > 0 or looked_s >= LEAST_LOOK_S:
                    self._patience_s = PATIENCE_S
                return None
            notify(f"waiting: {'; '.join(reasons)}")
            cancelled.wait(LOOK_AGAIN_S)
            waited_s += LOOK_AGAIN_S
            readings.take()
        return None

    def _quiet_since_ns(self, readings: Readings) -> int:
        return self.idle.since_ns if self.idle.since_ns is not None else readings.zero_ns

    def _reasons(self, readings: Readings, wanted: Conditions) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Why not now, in words: what patience may mend, and what a cool-down may."""
        now_ns = self.clock.monotonic_ns()
        since_ns = max(self._quiet_since_ns(readings), now_ns - int(LOOK_BACK_S * 1e9))
        series, window = readings.series(), readings.window(since_ns, now_ns)
        battery = ("on battery",) if not wanted.battery_allowed and on_battery(series, window) else ()
        noise = self._noise(series, window, now_ns) if wanted.quiet else ()
        return (*noise, *battery), too_warm(series, window.end_s, self.idle.temperatures)

    def _noise(self, series: Series, window: Window, now_ns: int) -> tuple[str, ...]:
        if window.length_s < LEAST_LOOK_S:  # what was read is our own work's, and its after-effects
            return ("the trial before was disturbed",) if self.was_disturbed else ()
        own_cores = 0.0
        # Our own CPU time is known only for all of the idle time: where the window is shorter, it is left out.
        if self.idle.since_ns is not None and self.idle.since_ns >= now_ns - int(LOOK_BACK_S * 1e9):
            own_cores = self.idle.own_cpu_s() / window.length_s
        return not_quiet(series, window, self.idle.cores, own_cores)
