"""What the machine does while jobs run on it: records it job by job, and says what it means for each trial.

The steps of a job have an order, and each step returns the object that the next one needs::

    record = recorder.begin(conditions)     # a job has come: a JobRecord
    record.wait_until_ready(...)
    load = record.before_load()             # only where a model is loaded: a LoadRecord
    load.loaded(engine, session)
    trials = record.before_trials()         # a TrialsRecord
    trials.trial_ended()                    # after each trial
    record.end(outcome, machine)            # whatever became of the job: what its report says of the machine

Nothing here is ever a cause of failure: where a sensor or the whole sampler is missing, less is said.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agents.awake import Awake
from agents.clock import Clock, SystemClock
from agents.contract.job import Conditions
from agents.contract.measure import PASSING_FLAGS, Flag, Reading, Trial, counted_trial
from agents.contract.report import Measured, Outcome, Refused
from agents.contract.usage import Energy, Usage
from agents.telemetry.energy import energy_of
from agents.telemetry.idle import IdleMachine
from agents.telemetry.memory_truth import Baseline, baseline_of, memory_truth
from agents.telemetry.processes import busiest_other, engine_pids
from agents.telemetry.readiness import Readiness
from agents.telemetry.readings import Readings
from agents.telemetry.sampling import Batch, NoSampler, SamplerHandle, SamplerProcess
from agents.telemetry.series import Series, thinned
from agents.telemetry.summary import usage_of
from agents.telemetry.validity import Clocks, Machine, flags_of

TELEMETRY_VARIABLE = "ORCHESTRATE_TELEMETRY"
"""``off``: nothing is sampled."""
QUIET_VARIABLE = "ORCHESTRATE_QUIET"
"""``off``: no job waits for a fit machine, and no trial is flagged for other processes: for tests on busy machines."""

MOST_READINGS = 30_000  # that travel with a report: 2 MB


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a report says beside its outcome, and the outcome with the trials flagged."""

    outcome: Outcome
    readings: tuple[Reading, ...] = ()
    usage: Usage = Usage()
    energy: Energy = Energy()


def _own_cpu_s() -> float:
    """Of this process, and of its children that have ended."""
    return sum(os.times()[:4])


def is_switched_off(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() in ("off", "0", "false", "no")


@dataclass
class Recorder:
    """Lives as long as the job process. It keeps what a job must know of those before: the idle machine, and the memory
    in use before what is loaded now was loaded."""

    sampler: SamplerHandle = field(default_factory=NoSampler)
    awake: Awake = field(default_factory=lambda: Awake(()))
    clock: Clock = field(default_factory=SystemClock)
    cores: int = field(default_factory=lambda: os.cpu_count() or 1)
    waits: bool = True  # else as QUIET_VARIABLE says
    own_cpu_s: Callable[[], float] = _own_cpu_s
    busiest: Callable[[Callable[[float], object]], str | None] = busiest_other
    baseline: Baseline = field(default_factory=dict, init=False)
    holds_model: bool = field(default=False, init=False)
    idle: IdleMachine = field(init=False)
    readiness: Readiness = field(init=False)
    _has_taken: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.idle = IdleMachine(self.clock, self.cores, self.own_cpu_s)
        self.readiness = Readiness(self.idle, self.clock, self.waits, self.busiest)

    @classmethod
    def of_this_machine(cls) -> Recorder:
        sampler: SamplerHandle = NoSampler() if is_switched_off(TELEMETRY_VARIABLE) else SamplerProcess()
        return cls(sampler, Awake(), waits=not is_switched_off(QUIET_VARIABLE))

    def begin(self, conditions: Conditions) -> JobRecord:
        """A job has come: its readings count from here."""
        self.awake.hold()
        return JobRecord(self, conditions, Readings(self.clock.monotonic_ns(), self._batch))

    def _batch(self) -> Batch:
        batch = self.sampler.take()
        # What was never there is reported by the doctor; what vanishes while jobs run is said here.
        for each in batch.missing if self._has_taken else ():
            sys.stderr.write(f"telemetry: {each.source}: {each.why}\n")
        self._has_taken = True
        return batch

    def now(self) -> Clocks:
        return Clocks(self.clock.monotonic_ns() / 1e9, self.clock.unix_s())

    def close(self) -> None:
        self.sampler.close()
        self.awake.close()


class JobRecord:
    """One job, from its coming to its report."""

    def __init__(self, recorder: Recorder, conditions: Conditions, readings: Readings) -> None:
        self._recorder = recorder
        self._asked_for = conditions
        self._conditions = recorder.readiness.effective(conditions)
        self._memory_from_ns = readings.zero_ns  # where the window of the memory begins
        self._trials: TrialsRecord | None = None
        self._disturbed_by: str | None = None
        self.readings = readings
        # What was sampled since the job before has times below 0: ``IdleMachine.learn`` needs it.
        readings.take()

    @property
    def zero_ns(self) -> int:
        """The beginning of the job, on the clock that stamps streams."""
        return self.readings.zero_ns

    def wait_until_ready(self, notify: Callable[[str], None], cancelled: threading.Event) -> None:
        """May take minutes: see ``Readiness.wait``."""
        if not self._recorder.holds_model:  # a GPU with a model in it is not idle
            self._recorder.idle.learn(self.readings)
        in_vain = self._recorder.readiness.wait(self.readings, self._asked_for, notify, cancelled)
        # Not cleared by a later wait that ends well: the trial before it was measured in the noise.
        if in_vain is not None:
            self._disturbed_by = in_vain.disturber

    def before_load(self) -> LoadRecord:
        load = LoadRecord(self, self._recorder)
        load.emptied()
        return load

    def begin_memory(self, baseline: Baseline) -> None:
        """What a load adds is counted from here."""
        self._memory_from_ns = self._recorder.clock.monotonic_ns()
        self._recorder.baseline = baseline

    def before_trials(self) -> TrialsRecord:
        self._trials = TrialsRecord(self._recorder, self.readings, self._conditions)
        return self._trials

    def end(self, outcome: Outcome, machine: Machine) -> Recorded:
        """All that the report says of the machine; from here on this process has nothing to do."""
        if not isinstance(outcome, Measured):  # else it is read already, after the last trial
            self.readings.take()
        recorded = self._recorded(outcome, machine)
        # Those of the idle machine have served as the baseline; they belong to no trial.
        readings = [each for each in self.readings.all() if each.at_s >= 0]
        # Last, since the summary above is work of our own, which is not idle time.
        self._recorder.idle.begin()
        return replace(recorded, readings=thinned(readings, MOST_READINGS))

    def _recorded(self, outcome: Outcome, machine: Machine) -> Recorded:
        if isinstance(outcome, Refused):
            return Recorded(outcome)
        recorder, series = self._recorder, self.readings.series()
        trials = outcome.trials
        if self._trials is not None:
            trials = tuple(self._trials.flagged(series, *place, machine) for place in enumerate(trials))
        recorder.readiness.was_disturbed = any(Flag.DISTURBED in trial.flags for trial in trials)
        measured = counted_trial(trials)
        window = self.readings.window(self._memory_from_ns, recorder.clock.monotonic_ns())
        memory = memory_truth(series, window, recorder.baseline, outcome.loaded)
        usage = usage_of(series, memory, measured, machine.gpu_in_package)
        energy = Energy()
        if measured is not None:
            # From before the load, which was perhaps an earlier job's: this job has no reading of an idle GPU then.
            idle = recorder.idle
            energy = energy_of(series, measured, idle.series, idle.window, machine.gpu_in_package)
        flagged = replace(outcome, trials=trials)
        return Recorded(flagged, usage=replace(usage, disturbed_by=self._disturbed_by), energy=energy)


class LoadRecord:
    """A load on its way: what is in use when it begins is not the model's."""

    def __init__(self, job: JobRecord, recorder: Recorder) -> None:
        self._job, self._recorder = job, recorder

    def emptied(self) -> None:
        """Nothing of any engine is loaded now. Called again by an engine that had first to unload what it held."""
        self._recorder.holds_model = False
        # The numbers of processes that have ended may soon be those of other programs.
        self._recorder.sampler.follow(())
        self._job.readings.take()
        # The take above reads each source once more: the baseline must be from after the unload.
        self._job.begin_memory(baseline_of(self._job.readings.all()))

    def loaded(self, engine: str, session: object) -> None:
        """From here on the engine's own processes are read too."""
        self._recorder.holds_model = True
        self._job.readings.take()
        # To look for the processes by name takes milliseconds: not where nobody reads them.
        self._recorder.sampler.follow(engine_pids(engine, session) if self._job.readings else ())


class TrialsRecord:
    """The trials of a job, by their place in its outcome. ``clocks``: before the first and after each of them."""

    def __init__(self, recorder: Recorder, readings: Readings, conditions: Conditions) -> None:
        self._recorder, self._readings, self._conditions = recorder, readings, conditions
        self._clocks: list[Clocks] = [recorder.now()]

    def trial_ended(self) -> None:
        self._readings.take()
        self._clocks.append(self._recorder.now())

    def may_pass(self, trial: Trial, machine: Machine) -> bool:
        """Whether the trial that has just ended is flagged for what another one may be without."""
        # ``trial_ended`` has just added the clocks of its end: those of its beginning are the last but one.
        flags = self.flagged(self._readings.series(), len(self._clocks) - 2, replace(trial, flags=()), machine).flags
        self._recorder.readiness.was_disturbed = Flag.DISTURBED in flags
        self._recorder.idle.begin()  # what the trial used is not noise
        return bool(PASSING_FLAGS.intersection(flags))

    def flagged(self, series: Series, index: int, trial: Trial, machine: Machine) -> Trial:
        """The trial at ``index`` with the flags that the machine earned it."""
        jumped_s = 0.0
        if index + 1 < len(self._clocks):
            jumped_s = self._clocks[index].jumped_by(self._clocks[index + 1])
        return replace(trial, flags=(*trial.flags, *flags_of(series, trial, self._conditions, machine, jumped_s)))
