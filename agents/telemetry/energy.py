"""Joules of the prompt and of the decode phase, from power readings or an energy counter. PURE

One source is named and used: what overlaps is never added. Precedence: the package where the GPU is in it (an APU, a
unified memory) or does nothing; else the GPU; else the package; else the machine's own sensor; else the battery.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agents.contract.measure import Trial
from agents.contract.usage import Energy
from agents.telemetry.series import Series, Window, kind_of
from agents.telemetry.sources.base import Quantity

LEAST_READINGS = 3
"""Inside a phase, for an integral to mean something: at 5 Hz a phase of about 0.6 s. A prompt that is shorter has no
energy in the table; a longer prompt, or more tokens, brings one."""
DISCHARGING_W = 1.0  # on mains a battery gives nothing, or takes
WORKING_PCT = 5.0  # a GPU that is less busy than this in the mean did not run the model

POWER_OF = {
    "package": Quantity.PACKAGE_POWER,
    "gpu": Quantity.GPU_POWER,
    "system": Quantity.SYSTEM_POWER,
    "battery": Quantity.BATTERY_POWER,
}


@dataclass(frozen=True, slots=True)
class TrialWindows:
    """Of one trial, on the clock of the readings."""

    prompt: Window
    decode: Window
    whole: Window


def windows_of(trial: Trial) -> TrialWindows | None:
    """None without a sending on the readings' clock, or without a token. A run that makes images is all decoding."""
    if trial.sent_s is None or not (trial.arrivals or trial.image):
        return None
    whole = Window(trial.sent_s, trial.sent_s + trial.ended_s)
    if not trial.arrivals:
        return TrialWindows(Window(whole.start_s, whole.start_s), whole, whole)
    first, last = (trial.sent_s + trial.arrivals[end].at_s for end in (0, -1))
    return TrialWindows(Window(trial.sent_s, first), Window(first, last), whole)


def energy_of(series: Series, trial: Trial, idle: Series, idle_window: Window, gpu_in_package: bool) -> Energy:
    """``idle`` holds readings of the machine before the load, in ``idle_window``."""
    phases = windows_of(trial)
    if phases is None:
        return Energy()
    for scope in precedence(series, phases.whole, gpu_in_package):
        for kind in _kinds(series, POWER_OF[scope]):
            decode_j = joules(series, kind, scope, phases.decode)
            prompt_j = joules(series, kind, scope, phases.prompt)
            # One phase is enough: a short prompt has too few readings by any source, and must not cost the decode phase
            # its best one.
            if decode_j is not None or prompt_j is not None:
                return _energy(series, kind, scope, phases, prompt_j, decode_j, mean_w(idle, kind, scope, idle_window))
    return Energy()


def _energy(
    series: Series,
    kind: str,
    scope: str,
    phases: TrialWindows,
    prompt_j: float | None,
    decode_j: float | None,
    idle_w: float | None,
) -> Energy:
    decode_s = phases.decode.length_s

    def above(total_j: float | None, seconds: float) -> float | None:
        # Below 0 by noise is kept: cut off at 0, the mean over repeats would come out too high.
        return total_j - idle_w * seconds if total_j is not None and idle_w is not None else None

    return Energy(
        energy_source=kind,
        energy_scope=scope,
        idle_power_w=idle_w,
        prompt_energy_j=prompt_j,
        decode_energy_j=decode_j,
        prompt_energy_above_idle_j=above(prompt_j, phases.prompt.length_s),
        decode_energy_above_idle_j=above(decode_j, decode_s),
        decode_power_w=decode_j / decode_s if decode_j is not None and decode_s > 0 else None,
        # Both beside the chosen source, to compare. They may overlap, so nobody adds them.
        gpu_decode_energy_j=_first(series, "gpu", phases.decode),
        package_decode_energy_j=_first(series, "package", phases.decode),
    )


def precedence(series: Series, window: Window, gpu_in_package: bool) -> tuple[str, ...]:
    means = [series.mean(source, Quantity.GPU_BUSY, window) for source in series.sources(Quantity.GPU_BUSY)]
    # Idle while the model ran means that the CPU ran it. A GPU without a reading does not count as idle.
    idle_gpu = bool(means) and all(mean is not None and mean < WORKING_PCT for mean in means)
    first = ("package", "gpu") if gpu_in_package or idle_gpu else ("gpu", "package")
    discharging = (first_mean_w(series, "battery", window) or 0.0) > DISCHARGING_W
    return (*first, "system", *(("battery",) if discharging else ()))


def joules(series: Series, kind: str, scope: str, window: Window) -> float | None:
    """Of all devices of one kind of source together. None where one of them has too few readings."""
    quantity = POWER_OF[scope]

    def of_one(source: str) -> float | None:
        # A counter comes first: it misses nothing between two readings, as an integral of power does.
        counted = Quantity.GPU_ENERGY if scope == "gpu" else None
        if counted is not None and len(series.inside(source, counted, window)) >= LEAST_READINGS:
            return series.growth(source, counted, window)
        if len(series.inside(source, quantity, window)) < LEAST_READINGS:
            return None
        return series.energy(source, quantity, window)

    return _sum(series, kind, quantity, of_one)


def mean_w(series: Series, kind: str, scope: str, window: Window) -> float | None:
    quantity = POWER_OF[scope]
    return _sum(series, kind, quantity, lambda source: series.mean(source, quantity, window))


def _sum(series: Series, kind: str, quantity: Quantity, of_one: Callable[[str], float | None]) -> float | None:
    values = [of_one(source) for source in series.sources(quantity) if kind_of(source) == kind]
    known = [value for value in values if value is not None]
    # A sum without one of two cards would look like a saving.
    return sum(known) if known and len(known) == len(values) else None


def _kinds(series: Series, quantity: Quantity) -> list[str]:
    return list(dict.fromkeys(kind_of(source) for source in series.sources(quantity)))


def _first(series: Series, scope: str, window: Window) -> float | None:
    found = (joules(series, kind, scope, window) for kind in _kinds(series, POWER_OF[scope]))
    return next((value for value in found if value is not None), None)


def first_mean_w(series: Series, scope: str, window: Window) -> float | None:
    """Mean power by the first kind of source that reads it."""
    found = (mean_w(series, kind, scope, window) for kind in _kinds(series, POWER_OF[scope]))
    return next((value for value in found if value is not None), None)
