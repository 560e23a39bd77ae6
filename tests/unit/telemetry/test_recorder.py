"""A job's telemetry from beginning to end, on a scripted clock: waits, baseline, flags, columns; and without any."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from agents.awake import Awake
from agents.contract.job import Conditions
from agents.contract.measure import Arrival, Flag
from agents.contract.report import Cause, Failed, Loaded, Measured, Outcome, Refused
from agents.telemetry import validity
from agents.telemetry.readiness import PATIENCE_S
from agents.telemetry.recorder import JobRecord, Recorded, Recorder
from agents.telemetry.sampling import NoSampler
from agents.telemetry.sources.base import Missing, Quantity
from tests.fakes.telemetry import Machine, ScriptedClock, ScriptedSampler, WaitingEvent
from tests.unit.results.made_attempts import trial

GIB = 2**30
LOADED = Loaded(1.0, False, "b1")
USUAL = Conditions()
CPU, RAM, TEMPERATURE = ("cpu", Quantity.CPU_BUSY), ("memory", Quantity.RAM_USED), ("cpu", Quantity.CPU_TEMPERATURE)
POWER, ENGINE, MAINS = (
    *(("rapl:0", Quantity.PACKAGE_POWER), ("engine", Quantity.ENGINE_CPU)),
    ("battery", Quantity.ON_MAINS),
)


@dataclass
class Story:
    """A device whose ``machine`` shows what it shows by the seconds since its start."""

    machine: Machine
    waits: bool = True
    clock: ScriptedClock = field(default_factory=ScriptedClock)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sampler = ScriptedSampler(self.clock, self.machine, (Missing("nvml", "no driver"),))
        self.cancelled = WaitingEvent(self.clock)
        self.recorder = Recorder(
            self.sampler,
            Awake(()),
            self.clock,
            cores=8,
            waits=self.waits,
            own_cpu_s=lambda: 0.0,
            busiest=lambda pause: "cc1plus 4711, 0.9 cores",
        )
        self.recorder.idle.begin()

    def job(self, wanted: Conditions = USUAL, *, idle_s: float = 5.0, loads: bool = True) -> Recorded:
        """A job after ``idle_s`` of rest: 4 s of load, then a trial of 10 s, its first token after 2 s."""
        self.clock.sleep(idle_s)
        record = self.recorder.begin(wanted)
        record.wait_until_ready(self.said.append, self.cancelled)
        if loads:
            load = record.before_load()
            self.clock.sleep(4.0)
            load.loaded("llama-server", Process())
        trials = record.before_trials()
        sent_s = (self.clock.now_ns - record.zero_ns) / 1e9
        self.clock.sleep(10.0)
        trials.trial_ended()
        arrivals = tuple(Arrival(2.0 + place, place) for place in range(9))
        measured = replace(trial(), sent_s=sent_s, arrivals=arrivals, ended_s=10.0)
        return self.end(record, Measured(LOADED, (measured,)))

    def end(self, record: JobRecord, outcome: Outcome) -> Recorded:
        return record.end(outcome, validity.Machine(8, gpu_in_package=True))

    @property
    def waited_s(self) -> float:
        return sum(self.cancelled.waited_s)


class Process:
    pids = (4711,)


def flags(seen: Recorded) -> tuple[Flag, ...]:
    assert isinstance(seen.outcome, Measured)
    return seen.outcome.trials[0].flags


def shows(**changes: Callable[[float], float]) -> Machine:
    """A quiet machine, the first job of which begins at 5 s; its load takes till 9 s and its trial till 19 s."""
    names = {"cpu": CPU, "ram": RAM, "power": POWER, "engine": ENGINE, "mains": MAINS, "temperature": TEMPERATURE}
    usual: dict[str, Callable[[float], float]] = {
        "cpu": lambda at_s: 100.0 if at_s > 9 else 2.0,
        "engine": lambda at_s: 790.0 if at_s > 9 else 0.0,
        "ram": lambda at_s: (4.0 if at_s <= 5 else min(4.0 + (at_s - 5) * 2, 12.0)) * GIB,
        "power": lambda at_s: 60.0 if at_s > 5 else 10.0,
    }
    told = {**usual, **changes}
    return lambda at_s: {names[name]: value(at_s) for name, value in told.items()}


def test_a_good_job() -> None:
    story = Story(shows())
    seen = story.job()
    assert (story.waited_s, story.said, flags(seen)) == (0.0, [], ())
    usage, energy = seen.usage, seen.energy
    assert (usage.ram_baseline_bytes, usage.ram_peak_bytes) == (4 * GIB, 12 * GIB)
    assert usage.ram_used_by_model_bytes == 8 * GIB
    assert (usage.vram_peak_bytes, usage.gpu_busy_mean_pct) == (None, None)
    assert (usage.package_power_mean_w, usage.power_under_load_w) == pytest.approx((60.0, 60.0))
    assert usage.cpu_busy_mean_pct == pytest.approx(100.0)
    assert usage.engine_cpu_mean_cores == pytest.approx(7.9)
    assert energy.idle_power_w == pytest.approx(10.0)
    assert energy.prompt_energy_j == pytest.approx(120.0)
    assert energy.decode_energy_j == pytest.approx(480.0)
    assert energy.decode_energy_above_idle_j == pytest.approx(400.0)
    assert seen.readings[0].at_s == 0.0 and seen.readings[-1].at_s == pytest.approx(14.0)
    assert {(each.source, each.unit) for each in seen.readings} >= {("memory", "bytes"), ("rapl:0", "W")}
    assert story.sampler.followed == [(), (4711,)]


def test_a_job_on_the_loaded_model_keeps_the_baseline_and_the_idle_power_of_the_load() -> None:
    story = Story(shows())
    story.job()
    seen = story.job(idle_s=0.02, loads=False)
    assert seen.usage.ram_used_by_model_bytes == 8 * GIB
    assert seen.energy.idle_power_w == pytest.approx(10.0)
    assert (story.waited_s, flags(seen)) == (0.0, ())


def test_it_waits_until_others_are_quiet() -> None:
    story = Story(shows(cpu=lambda at_s: 40.0 if at_s < 12 else 2.0, engine=lambda at_s: 100.0))
    story.job()
    assert story.waited_s == pytest.approx(8.5, abs=0.6)  # nearly 2 s of quiet
    assert story.said[0] == "waiting: others use 2.2 of 8 cores"


def test_patience_ends_and_says_who_it_was_and_is_shorter_the_next_time() -> None:
    story = Story(shows(cpu=lambda at_s: 50.0, engine=lambda at_s: 50.0))
    seen = story.job()
    assert story.waited_s == PATIENCE_S
    assert (flags(seen), seen.usage.disturbed_by) == ((Flag.DISTURBED,), "cc1plus 4711, 0.9 cores")
    story.job()
    assert story.waited_s == PATIENCE_S * 1.5


def test_patience_is_whole_again_when_it_was_quiet_without_a_wait() -> None:
    loud = [True]
    story = Story(shows(cpu=lambda at_s: 50.0 if loud else 1.0, engine=lambda at_s: 50.0))
    story.job()
    story.job()
    assert story.waited_s == PATIENCE_S * 1.5
    loud.clear()
    story.job()
    assert story.waited_s == PATIENCE_S * 1.5
    loud.append(True)
    story.job()
    assert story.waited_s == PATIENCE_S * 2.5


def test_jobs_that_follow_each_other_do_not_wait_for_themselves() -> None:
    story = Story(shows(cpu=lambda at_s: 90.0 if at_s > 9 else 1.0, engine=lambda at_s: 720.0))
    for _ in range(3):
        story.job(idle_s=0.05, loads=False)
    assert story.waited_s == 0.0


@pytest.mark.parametrize(
    ("wanted", "waits", "waited_s", "flagged"),
    [
        (Conditions(), True, PATIENCE_S, (Flag.ON_BATTERY,)),
        (Conditions(battery_allowed=True), True, 0.0, ()),
        (Conditions(), False, 0.0, (Flag.ON_BATTERY,)),
    ],
)
def test_on_battery(wanted: Conditions, waits: bool, waited_s: float, flagged: tuple[Flag, ...]) -> None:
    story = Story(shows(mains=lambda at_s: 0.0), waits=waits)
    assert (flags(story.job(wanted)), story.waited_s) == (flagged, waited_s)


@pytest.mark.parametrize(("wanted", "waits"), [(Conditions(quiet=False), True), (Conditions(), False)])
def test_nobody_waits_for_quiet_where_it_is_not_wanted(wanted: Conditions, waits: bool) -> None:
    story = Story(shows(cpu=lambda at_s: 50.0, engine=lambda at_s: 50.0), waits=waits)
    assert (flags(story.job(wanted)), story.waited_s) == ((), 0.0)


@pytest.mark.parametrize(("cool_down_s", "waited_s"), [(60.0, 20.0), (5.0, 5.0), (0.0, 0.0)])
def test_cool_down(cool_down_s: float, waited_s: float) -> None:
    def cools(at_s: float) -> float:
        return 45.0 if at_s < 5 else max(90.0 - 2 * max(at_s - 19, 0.0), 45.0)  # 50 °C at 39 s

    story = Story(shows(temperature=cools))
    story.job()
    story.job(Conditions(cool_down_s=cool_down_s), idle_s=0.0, loads=False)
    assert story.waited_s == pytest.approx(waited_s, abs=0.6)


def test_a_cancelled_job_does_not_wait() -> None:
    story = Story(shows(cpu=lambda at_s: 50.0))
    story.cancelled.set()
    story.clock.sleep(5.0)
    story.recorder.begin(USUAL).wait_until_ready(story.said.append, story.cancelled)
    assert (story.waited_s, story.said) == (0.0, [])


def test_a_machine_that_slept_in_a_trial() -> None:
    clock = ScriptedClock()
    record = Recorder(clock=clock).begin(USUAL)  # no sensor is needed for that
    trials = record.before_trials()
    clock.sleep(1.0)
    clock.wall_off_s += 600.0
    trials.trial_ended()
    outcome = Measured(LOADED, (replace(trial(), sent_s=0.1),))
    assert flags(record.end(outcome, validity.Machine(8))) == (Flag.CLOCK_JUMPED,)


@pytest.mark.parametrize(("off_s", "may"), [(600.0, True), (0.0, False)])
def test_a_doubt_that_may_pass_is_told_when_its_trial_has_ended(off_s: float, may: bool) -> None:
    clock = ScriptedClock()
    trials = Recorder(clock=clock).begin(USUAL).before_trials()
    clock.sleep(1.0)
    trials.trial_ended()
    clock.sleep(1.0)
    clock.wall_off_s += off_s
    trials.trial_ended()
    ended = replace(trial(), sent_s=1.1)
    assert trials.may_pass(ended, validity.Machine(8)) is may


def test_a_failed_load_tells_how_far_the_memory_went() -> None:
    story = Story(shows())
    story.clock.sleep(5.0)
    record = story.recorder.begin(USUAL)
    record.before_load()
    story.clock.sleep(3.0)
    failed = Failed(Cause.RAM, "no memory")
    seen = story.end(record, failed)
    assert seen.outcome == failed
    assert (seen.usage.ram_peak_bytes, seen.usage.cpu_busy_mean_pct) == (10 * GIB, None)


def test_a_refused_job_has_readings_and_no_usage() -> None:
    story = Story(shows())
    seen = story.end(story.recorder.begin(USUAL), Refused(Cause.UNSUPPORTED, "no"))
    assert seen.readings and seen.usage.ram_peak_bytes is None


def test_what_ends_meanwhile_is_told_and_what_was_never_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    story = Story(shows())
    trials = story.recorder.begin(USUAL).before_trials()
    assert capsys.readouterr().err == ""
    story.sampler._missing = (Missing("rapl", "PermissionError"),)
    trials.trial_ended()
    assert capsys.readouterr().err == "telemetry: rapl: PermissionError\n"


def test_without_telemetry_a_job_is_as_it_is() -> None:
    recorder = Recorder(NoSampler(), clock=ScriptedClock())
    recorder.idle.begin()
    record = recorder.begin(Conditions(cool_down_s=60.0))
    record.wait_until_ready(pytest.fail, threading.Event())
    record.before_load().loaded("ollama", object())
    record.before_trials().trial_ended()
    outcome = Measured(LOADED, (trial(),))
    assert record.end(outcome, validity.Machine(8, 50.0)) == Recorded(outcome)
