"""The telemetry of one job after the other: waits until the machine is fit, baseline, readings, and what they say."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agents.awake import Awake
from agents.clock import Clock, SystemClock
from agents.contract.job import Conditions, Job
from agents.contract.measure import PASSING_FLAGS, Flag, Reading, Trial, counted_trial
from agents.contract.report import Measured, Outcome, Refused
from agents.contract.usage import Energy, Usage
from agents.telemetry.disturber import busiest_other
from agents.telemetry.energy import energy_of
from agents.telemetry.engine_pids import engine_pids
from agents.telemetry.memory_truth import Baseline, baseline_of, memory_truth
from agents.telemetry.sampling import NoSampler, Row, SamplerProcess, Taker
from agents.telemetry.series import Series, Window, thinned
from agents.telemetry.sources.base import UNITS, Quantity
from agents.telemetry.summary import usage_of
from agents.telemetry.validity import (
    Clocks,
    Idle,
    Machine,
    coolest,
    flags_of,
    not_quiet,
    on_battery,
    sentence,
    too_warm,
)

TELEMETRY_VARIABLE = "ORCHESTRATE_TELEMETRY"
"""``off``: nothing is sampled."""
QUIET_VARIABLE = "ORCHESTRATE_QUIET"
"""``off``: no job waits for a fit machine, and no trial is flagged for other processes: for tests on busy machines."""

PATIENCE_S = 30.0
"""Longest wait for a quiet machine on mains. Halved after a wait in vain, so that a machine that is never quiet costs a
run a minute, not hours; whole again when it was quiet."""
LOOK_AGAIN_S = 0.5
LOOK_BACK_S = 2.0  # how long it must have been quiet
LEAST_LOOK_S = 0.5  # jobs come one after the other: a shorter pause says nothing, and nobody waits for a longer one
IDLE_S = 3.0  # before a load, for the power of the idle machine
MOST_READINGS = 30_000  # that travel with a report: 2 MB


@dataclass(frozen=True, slots=True)
class Seen:
    """What a report says beside its outcome, and the outcome with the trials flagged."""

    outcome: Outcome
    readings: tuple[Reading, ...] = ()
    usage: Usage = Usage()
    energy: Energy = Energy()


@dataclass(frozen=True, slots=True)
class _Rest:
    """Since when this process has nothing to do, and the CPU that it had used by then."""

    at_ns: int
    cpu_s: float


def _own_cpu_s() -> float:
    """Of this process, and of its children that have ended."""
    return sum(os.times()[:4])


def switched_off(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() in ("off", "0", "false", "no")


@dataclass
class Watch:
    """``begin``, ``until_fit``, ``before_load`` and ``loaded`` (where a model is loaded), ``trial_ended`` after each
    trial, ``ended``. Never a cause of failure."""

    sampler: Taker = field(default_factory=NoSampler)
    awake: Awake = field(default_factory=lambda: Awake(()))
    clock: Clock = field(default_factory=SystemClock)
    cores: int = field(default_factory=lambda: os.cpu_count() or 1)
    waits: bool = True  # else as QUIET_VARIABLE says
    own_cpu_s: Callable[[], float] = _own_cpu_s
    disturber: Callable[[Callable[[float], object]], str | None] = busiest_other
    zero_ns: int = 0
    _rows: list[Row] = field(default_factory=list)
    _idle_rows: list[Row] = field(default_factory=list)  # of the machine at rest before a load
    _idle_ns: tuple[int, int] = (0, 0)
    _temperatures: Idle = field(default_factory=dict)
    _baseline: Baseline = field(default_factory=dict)  # before the load of what is loaded now
    _from_ns: int = 0  # where the window of the memory begins
    _clocks: list[Clocks] = field(default_factory=list)
    _rest: _Rest | None = None
    _holds_model: bool = False
    _patience_s: float = PATIENCE_S
    _was_disturbed: bool = False
    _found: bool = False  # the sources have been looked for
    _disturbed_by: str | None = None

    @classmethod
    def of_this_machine(cls) -> Watch:
        sampler: Taker = NoSampler() if switched_off(TELEMETRY_VARIABLE) else SamplerProcess()
        return cls(sampler, Awake(), waits=not switched_off(QUIET_VARIABLE))

    def rests(self) -> None:
        """From here on this process does nothing, until the next job."""
        self._rest = _Rest(self.clock.monotonic_ns(), self.own_cpu_s())

    def begin(self) -> None:
        """A job comes: its readings count from here."""
        self.awake.hold()
        self._rows, self._disturbed_by = [], None
        self.zero_ns = self._from_ns = self.clock.monotonic_ns()
        self._take()

    def until_fit(self, wanted: Conditions, say: Callable[[str], None], cancelled: threading.Event) -> None:
        """Waits until the machine is quiet, on mains and cool, as far as the job wants it and something can be read.

        Returns when it is, when the patience is over, or when the job is cancelled.
        """
        self._note_rest()
        waited_s = 0.0
        while self.waits and not cancelled.is_set():
            noise, warm = self._unfit(wanted)
            vain = bool(noise) and waited_s >= self._patience_s
            reasons = (*(() if vain else noise), *(warm if waited_s < wanted.cool_down_s else ()))
            if not reasons:
                self._learn(noise if vain else (), waited_s, cancelled)
                return
            say(sentence(reasons))
            cancelled.wait(LOOK_AGAIN_S)
            waited_s += LOOK_AGAIN_S
            self._take()

    def _learn(self, noise: tuple[str, ...], waited_s: float, cancelled: threading.Event) -> None:
        if noise:
            self._patience_s /= 2
            self._disturbed_by = self.disturber(cancelled.wait) if any("cores" in each for each in noise) else None
        elif waited_s > 0 or self._looked_s() >= LEAST_LOOK_S:
            self._patience_s = PATIENCE_S

    def _looked_s(self) -> float:
        """How long what was just looked at is: nothing is learnt from a job that follows the one before at once."""
        since_ns = self._rest.at_ns if self._rest is not None else self.zero_ns
        return (self.clock.monotonic_ns() - since_ns) / 1e9

    def _unfit(self, wanted: Conditions) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What patience may mend, and what a cool-down may."""
        now_ns = self.clock.monotonic_ns()
        since_ns = max(self._rest.at_ns if self._rest else self.zero_ns, now_ns - int(LOOK_BACK_S * 1e9))
        series, window = self._series(), Window(self._at_s(since_ns), self._at_s(now_ns))
        battery = ("on battery",) if not wanted.battery_allowed and on_battery(series, window) else ()
        noise = self._noise(series, window) if wanted.quiet else ()
        return (*noise, *battery), too_warm(series, window.end_s, self._temperatures)

    def _noise(self, series: Series, window: Window) -> tuple[str, ...]:
        if window.length_s < LEAST_LOOK_S:
            return ("the trial before was disturbed",) if self._was_disturbed else ()
        own_cores = 0.0
        if self._rest is not None and self._rest.at_ns >= self.clock.monotonic_ns() - int(LOOK_BACK_S * 1e9):
            own_cores = max(self.own_cpu_s() - self._rest.cpu_s, 0.0) / window.length_s
        return not_quiet(series, window, self.cores, own_cores)

    def _note_rest(self) -> None:
        """Temperatures and power of the machine while this process had nothing to do."""
        if self._rest is None or self._holds_model:  # a GPU with a model in it is not at rest
            return
        since_ns = max(self._rest.at_ns, self.zero_ns - int(IDLE_S * 1e9))
        if self.zero_ns - since_ns >= LEAST_LOOK_S * 1e9:
            series = self._series()
            self._temperatures = coolest(series, self._temperatures)
            window = Window(self._at_s(since_ns), 0.0)
            if not not_quiet(series, window, self.cores, 0.0):
                self._idle_rows, self._idle_ns = list(self._rows), (since_ns, self.zero_ns)

    def before_load(self) -> None:
        """Nothing of an engine is loaded. What is in use now is not the model's."""
        self._holds_model = False
        self.sampler.watch(())
        self._take()
        self._from_ns = self.clock.monotonic_ns()
        self._baseline = baseline_of(self._readings(self._rows))

    def loaded(self, engine: str, session: object) -> None:
        self._holds_model = True
        self._take()
        self.sampler.watch(engine_pids(engine, session) if self._rows else ())

    def measuring(self) -> None:
        """The trials begin."""
        self._clocks = [self._now()]

    def trial_ended(self) -> None:
        self._take()
        self._clocks.append(self._now())

    def may_pass(self, job: Job, trial: Trial, machine: Machine) -> bool:
        """Whether the trial that has just ended is flagged for what another one may be without."""
        place = (len(self._clocks) - 2, replace(trial, flags=()))
        flags = self._flagged(self._series(), place, self._wanted_of(job), machine).flags
        self._was_disturbed = Flag.DISTURBED in flags
        self.rests()  # what the trial used is not noise
        return bool(PASSING_FLAGS.intersection(flags))

    def _wanted_of(self, job: Job) -> Conditions:
        return job.conditions if self.waits else replace(job.conditions, quiet=False)

    def ended(self, job: Job, outcome: Outcome, machine: Machine) -> Seen:
        if not isinstance(outcome, Measured):
            self._take()
        readings = [each for each in self._readings(self._rows) if each.at_s >= 0]
        seen = self._seen(outcome, self._wanted_of(job), machine)
        self.rests()
        return replace(seen, readings=thinned(readings, MOST_READINGS))

    def _seen(self, outcome: Outcome, wanted: Conditions, machine: Machine) -> Seen:
        series = self._series()
        if isinstance(outcome, Refused):
            return Seen(outcome)
        trials = tuple(self._flagged(series, place, wanted, machine) for place in enumerate(outcome.trials))
        measured = counted_trial(trials)
        self._was_disturbed = any(Flag.DISTURBED in trial.flags for trial in trials)
        window = Window(self._at_s(self._from_ns), self._at_s(self.clock.monotonic_ns()))
        memory = memory_truth(series, window, self._baseline, outcome.loaded)
        usage = usage_of(series, memory, measured, machine.gpu_in_package)
        energy = Energy()
        if measured is not None:
            start_ns, end_ns = self._idle_ns
            idle = Series(self._readings(self._idle_rows))
            idle_window = Window(self._at_s(start_ns), self._at_s(end_ns))
            energy = energy_of(series, measured, idle, idle_window, machine.gpu_in_package)
        flagged = replace(outcome, trials=trials)
        return Seen(flagged, usage=replace(usage, disturbed_by=self._disturbed_by), energy=energy)

    def _flagged(self, series: Series, place: tuple[int, Trial], wanted: Conditions, machine: Machine) -> Trial:
        index, trial = place
        jumped_s = self._clocks[index].jumped_by(self._clocks[index + 1]) if index + 1 < len(self._clocks) else 0.0
        return replace(trial, flags=(*trial.flags, *flags_of(series, trial, wanted, machine, jumped_s)))

    def _take(self) -> None:
        batch = self.sampler.take()
        self._rows += batch.rows
        for each in batch.missing if self._found else ():  # what was never there is the doctor's to tell
            sys.stderr.write(f"telemetry: {each.source}: {each.why}\n")
        self._found = True

    def _series(self) -> Series:
        return Series(self._readings(self._rows))

    def _readings(self, rows: list[Row]) -> list[Reading]:
        return [
            Reading(self._at_s(at_ns), source, quantity, value, UNITS.get(Quantity(quantity), ""))
            for at_ns, source, quantity, value in rows
        ]

    def _at_s(self, at_ns: int) -> float:
        return (at_ns - self.zero_ns) / 1e9

    def _now(self) -> Clocks:
        return Clocks(self.clock.monotonic_ns() / 1e9, self.clock.unix_s())

    def close(self) -> None:
        self.sampler.close()
        self.awake.close()
