"""Is the machine fit to be measured, and was it while it was measured? PURE

Before: what a wait may mend, in words. After: flags on the trial. What no sensor shows is never held against a trial.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agents.contract.job import Conditions
from agents.contract.measure import Flag, Trial
from agents.telemetry.series import Series, Window
from agents.telemetry.sources.base import Quantity
from agents.telemetry.summary import limited_w, share_pct

QUIET_CORES = 0.5
QUIET_SHARE = 0.05
"""Others may use the larger of half a core and 5 % of all cores: a desktop with an open browser stays below, a compiler
or a virus scan does not, and on two cores half a one was seen to cost an engine a third of its rate."""
ENGINE_AT_LEAST_PCT = 2.0  # of a core: an engine that streams uses more; else it is not its processes that are watched
QUIET_GPU_PCT = 10.0  # a compositor with a still picture takes 1 to 5
COOL_C = 5.0  # above the temperature of the idle machine; sensors have steps of 1 degree, fans a hysteresis of 3 to 5
THROTTLED_PCT = 2.0
"""Part of a trial. Heat, and what is neither heat nor power (a power brake), count. Being held down for power does not:
at full load a laptop's GPU is held at its power limit all the time, and that is its rate."""
SWAP_BYTES = 64 * 2**20  # back from or out to the swap in a trial; what a desktop's idle pages move is less
CLOCK_JUMP_S = 0.5  # NTP slews by 0.5 ms a second; a step or a sleep is more
OVER_LIMIT = 1.10
OVER_LIMIT_FLOOR_W = 2.0  # a limit is a mean over seconds, and sensors are off by some per cent


@dataclass(frozen=True, slots=True)
class Clocks:
    """A moment on both clocks."""

    monotonic_s: float
    unix_s: float

    def jumped_by(self, later: Clocks) -> float:
        return (later.unix_s - self.unix_s) - (later.monotonic_s - self.monotonic_s)


@dataclass(frozen=True, slots=True)
class Machine:
    """``limit_w`` is the power limit that the cell asked for, and that is held or stated; ``limit_of``: of each package
    or each GPU, where that is known. ``cores`` are logical ones."""

    cores: int
    limit_w: float | None = None
    gpu_in_package: bool = False
    limit_of: str | None = None


def most_of_others_cores(cores: int) -> float:
    return max(QUIET_CORES, QUIET_SHARE * cores)


def not_quiet(series: Series, window: Window, cores: int, own_cores: float) -> tuple[str, ...]:
    """What works although nothing of ours does, but for ``own_cores`` that this process itself used meanwhile."""
    reasons = []
    busy_pct = _mean(series, Quantity.CPU_BUSY, window)
    if busy_pct is not None:
        # An engine whose model stays loaded may poll: that is ours as well.
        others = busy_pct / 100 * cores - own_cores - (_mean(series, Quantity.ENGINE_CPU, window) or 0.0) / 100
        if others > most_of_others_cores(cores):
            reasons.append(f"others use {others:.1f} of {cores} cores")
    for source in series.sources(Quantity.GPU_BUSY):
        gpu_pct = series.mean(source, Quantity.GPU_BUSY, window)
        if gpu_pct is not None and gpu_pct > QUIET_GPU_PCT:
            reasons.append(f"{source} is {gpu_pct:.0f} % busy")
    return tuple(reasons)


def on_battery(series: Series, window: Window) -> bool:
    """Whether the machine was off the mains at any time, as far as a source shows it."""
    for source in series.sources(Quantity.ON_MAINS):
        values = [value for _, value in series.inside(source, Quantity.ON_MAINS, window)]
        # Between two takes the sampler keeps this quantity only when it changes: the window may hold no reading.
        held = series.value_at(source, Quantity.ON_MAINS, window.start_s)
        if 0.0 in [*values, *([] if held is None else [held])]:
            return True
    return False


TEMPERATURES = (Quantity.GPU_TEMPERATURE, Quantity.CPU_TEMPERATURE)
Temperatures = dict[tuple[str, str], float]
"""(source, quantity) -> lowest temperature seen, °C."""


def coolest(series: Series, before: Temperatures) -> Temperatures:
    lowest = dict(before)
    for quantity in TEMPERATURES:
        for source in series.sources(quantity):
            value = min(value for _, value in series.points(source, quantity))
            lowest[source, quantity] = min(value, lowest.get((source, quantity), value))
    return lowest


def too_warm(series: Series, at_s: float, idle: Temperatures) -> tuple[str, ...]:
    reasons = []
    for quantity in TEMPERATURES:
        for source in series.sources(quantity):
            now, lowest = series.value_at(source, quantity, at_s), idle.get((source, quantity))
            if now is not None and lowest is not None and now > lowest + COOL_C:
                reasons.append(f"{source} is at {now:.0f} °C, {lowest:.0f} °C when idle")
    return tuple(reasons)


def flags_of(
    series: Series, trial: Trial, conditions: Conditions, machine: Machine, jumped_s: float
) -> tuple[Flag, ...]:
    """``jumped_s``: by how much the wall clock and the monotonic clock moved apart meanwhile."""
    # Without it no reading can be placed inside the trial.
    if trial.sent_s is None:
        return ()
    window = Window(trial.sent_s, trial.sent_s + trial.ended_s)
    return tuple(_flags(series, window, conditions, machine, jumped_s))


def _flags(series: Series, window: Window, conditions: Conditions, machine: Machine, jumped_s: float) -> Iterator[Flag]:
    throttled = [share_pct(series, each, window) for each in (Quantity.THROTTLED_HEAT, Quantity.THROTTLED_OTHER)]
    if any(share is not None and share > THROTTLED_PCT for share in throttled):
        yield Flag.THROTTLED
    others = others_cores(series, window, machine.cores)
    if conditions.quiet and others is not None and others > most_of_others_cores(machine.cores):
        yield Flag.DISTURBED
    if swapped_bytes(series, window) > SWAP_BYTES:
        yield Flag.SWAPPED
    if not conditions.battery_allowed and on_battery(series, window):
        yield Flag.ON_BATTERY
    if abs(jumped_s) > CLOCK_JUMP_S:
        yield Flag.CLOCK_JUMPED
    drawn_w = limited_w(series, window, machine.limit_of, machine.gpu_in_package)
    if machine.limit_w is not None and drawn_w is not None:
        most_w = max(machine.limit_w * OVER_LIMIT, machine.limit_w + OVER_LIMIT_FLOOR_W)
        if drawn_w > most_w:
            yield Flag.LIMIT_WITHOUT_EFFECT


def others_cores(series: Series, window: Window, cores: int) -> float | None:
    """Cores that the engine did not use (the job process hardly uses any); None where its part is not known."""
    busy_pct, engine_pct = _mean(series, Quantity.CPU_BUSY, window), _mean(series, Quantity.ENGINE_CPU, window)
    if busy_pct is None or engine_pct is None or engine_pct < ENGINE_AT_LEAST_PCT:
        return None
    return max(busy_pct / 100 * cores - engine_pct / 100, 0.0)


def swapped_bytes(series: Series, window: Window) -> float:
    """Into and out of the swap: the rate of reading over time, and what was added to what is in it."""
    came = [
        mean * window.length_s
        for source in series.sources(Quantity.SWAP_IN)
        if (mean := series.mean(source, Quantity.SWAP_IN, window)) is not None
    ]
    went = []
    for source in series.sources(Quantity.SWAP_USED):
        before = series.value_at(source, Quantity.SWAP_USED, window.start_s)
        after = series.value_at(source, Quantity.SWAP_USED, window.end_s)
        went += [after - before] if before is not None and after is not None else []
    # Not the sum: a page that went out and came back is counted on both sides.
    return max([*came, *went, 0.0])


def _mean(series: Series, quantity: Quantity, window: Window) -> float | None:
    means = (series.mean(source, quantity, window) for source in series.sources(quantity))
    return next((mean for mean in means if mean is not None), None)
