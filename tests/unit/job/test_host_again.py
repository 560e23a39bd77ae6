"""A trial that is flagged for what may pass is kept, and measured again, within a budget."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from agents.contract.device import MemoryKind
from agents.contract.job import Conditions, Job, LoadSettings
from agents.contract.measure import Trial
from agents.contract.report import Measured
from agents.job.host import Host
from agents.telemetry.recorder import JobRecord, Recorder, TrialsRecord
from agents.telemetry.validity import Machine
from tests.unit.contract.test_contract import a_device
from tests.unit.job.test_host_state import ScriptedEngine
from tests.unit.job.test_measure import WORK

JOB = Job("j", 1, "c", "cell", "id", 0, LoadSettings("embedded", "m"), WORK, warmups=1)


@dataclass
class Doubtful(Recorder):
    """Has a doubt after each trial, as often as ``doubts`` says."""

    doubts: int = 0
    asked: list[Trial] = field(default_factory=list)

    def begin(self, conditions: Conditions) -> JobRecord:
        recorder = self

        class Trials(TrialsRecord):
            def may_pass(self, trial: Trial, machine: Machine) -> bool:
                recorder.asked.append(trial)
                return len(recorder.asked) <= recorder.doubts

        record = super().begin(conditions)
        record.before_trials = lambda: Trials(self, record.readings, conditions)  # type: ignore[method-assign]
        return record


@pytest.mark.parametrize(("doubts", "budget", "measured"), [(0, 2, 1), (1, 2, 2), (9, 2, 3), (9, 0, 1)])
def test_it_is_measured_again_while_there_is_a_doubt_and_budget(
    doubts: int, budget: int, measured: int, tmp_path: Path
) -> None:
    recorder = Doubtful(doubts=doubts)
    host = Host(a_device(MemoryKind.NONE), tmp_path, (ScriptedEngine(),), recorder=recorder)
    job = replace(JOB, conditions=Conditions(again=budget))
    outcome = host.run(job, threading.Event(), lambda phase, live: None).outcome
    assert isinstance(outcome, Measured)
    assert [(trial.index, trial.warmup) for trial in outcome.trials] == [
        (0, True),
        *((number + 1, False) for number in range(measured)),
    ]
    assert [trial.index for trial in recorder.asked] == list(range(1, min(measured, budget) + 1)), (
        "the last is asked of"
    )
