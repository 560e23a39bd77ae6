"""A host with telemetry: what reaches the report, and when the machine is looked at."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agents.contract.device import MemoryKind
from agents.contract.job import Conditions, Job, LoadSettings
from agents.contract.measure import Flag
from agents.contract.report import Measured, Report
from agents.job.host import Host
from agents.telemetry.recorder import Recorder
from agents.telemetry.sampling import Batch
from agents.telemetry.sources.base import Quantity
from tests.fakes.telemetry import S, ScriptedClock
from tests.unit.contract.test_contract import a_device
from tests.unit.job.test_host_state import ScriptedEngine
from tests.unit.job.test_measure import SENT_NS, WORK


class Noting:
    """Notes what the host does, in its order; one reading a take."""

    def __init__(self, host: list[Host], values: dict[Quantity, float]) -> None:
        self._host, self._values = host, values
        self.done: list[str] = []

    def follow(self, pids: Sequence[int]) -> None:
        self.done.append(f"follow {len(pids)}")

    def take(self) -> Batch:
        self.done.append("take")
        now_ns = self._host[0].clock.monotonic_ns()
        return Batch([(now_ns, "fake", str(quantity), value) for quantity, value in self._values.items()])

    def close(self) -> None:
        self.done.append("close")


def a_host(folder: Path, engine: ScriptedEngine, values: dict[Quantity, float]) -> tuple[Host, Noting]:
    hosts: list[Host] = []
    sampler = Noting(hosts, values)
    clock = ScriptedClock(SENT_NS - S)
    recorder = Recorder(sampler, clock=clock)
    hosts.append(Host(a_device(MemoryKind.DISCRETE), folder, (engine,), clock, recorder=recorder))
    return hosts[0], sampler


def run(host: Host, **changes: object) -> Report:
    job = Job("j", 1, "c", "cell", "id", 0, LoadSettings("embedded", "m"), WORK, warmups=1)
    return host.run(replace(job, **changes), threading.Event(), lambda phase, live: None)  # type: ignore[arg-type]


def test_the_machine_is_looked_at_before_the_load_after_it_and_after_each_trial(tmp_path: Path) -> None:
    host, sampler = a_host(tmp_path, ScriptedEngine(), {Quantity.RAM_USED: 2.0**30})
    report = run(host)
    assert sampler.done == ["take", "follow 0", "take", "take", "follow 0", "take", "take"]
    assert [each.unit for each in report.readings] == [Quantity.RAM_USED.unit] * 5
    assert report.usage.ram_baseline_bytes == 2**30
    assert report.usage.ram_used_by_model_bytes == 0
    sampler.done.clear()
    again = run(host)  # the model stays loaded
    assert sampler.done == ["take", "take"]
    assert again.usage.ram_baseline_bytes == 2**30
    assert isinstance(again.outcome, Measured) and again.outcome.loaded.reused


def test_flags_and_times_reach_the_trials(tmp_path: Path) -> None:
    host, _ = a_host(tmp_path, ScriptedEngine(), {Quantity.ON_MAINS: 0.0})
    host.recorder.readiness.waits = False
    report = run(host)
    assert isinstance(report.outcome, Measured)
    assert [Flag.ON_BATTERY in trial.flags for trial in report.outcome.trials] == [True, True]
    assert all(trial.sent_s is not None for trial in report.outcome.trials)
    allowed = run(host, conditions=Conditions(battery_allowed=True))
    assert isinstance(allowed.outcome, Measured)
    assert not any(Flag.ON_BATTERY in trial.flags for trial in allowed.outcome.trials)


def test_a_failed_load_has_its_readings(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    engine.fails = True
    host, sampler = a_host(tmp_path, engine, {Quantity.RAM_USED: 2.0**30})
    report = run(host)
    assert sampler.done == ["take", "follow 0", "take", "take"]
    assert len(report.readings) == 3
    assert report.usage.ram_peak_bytes == 2**30
