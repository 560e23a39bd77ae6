from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.dispatch.messages import Retry
from orchestrator.dispatch.persist import Persister
from orchestrator.results.rows import Kept
from tests.fakes.fault_schedules import Schedule


@pytest.mark.parametrize("seed", range(8))
def test_every_job_is_there_once_whatever_happens(seed: int, tmp_path: Path) -> None:
    """More of them: benchmarks/fault_schedules.py."""
    outcome = Schedule(seed, tmp_path).run()
    assert outcome.good, outcome
    assert sum(outcome.faults.values()) > 20


def test_the_judge_sees_a_job_that_is_there_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt that will be repeated must be no row: here it is one."""
    write = Persister.write

    def keeps_too_much(self: Persister, commands: list[object]) -> None:
        for command in commands:
            if isinstance(command, Retry) and command.report is not None:
                job = self._runs[command.run_id].job(command.job_id, command.report.attempt)
                self._store.append_many([Kept(job, command.report, None)])
        write(self, commands)  # type: ignore[arg-type]

    monkeypatch.setattr(Persister, "write", keeps_too_much)
    outcomes = []
    for seed in range(3):
        (tmp_path / str(seed)).mkdir()
        outcomes.append(Schedule(seed, tmp_path / str(seed)).run())
    assert sum(outcome.doubled for outcome in outcomes) > 0
