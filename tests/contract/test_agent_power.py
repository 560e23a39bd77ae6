"""A power limit through the whole agent: held for the job, released at the end of the job process, restored after a
crash. The method is a file, which outlives every process as a machine's own limit does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.agent.agent import Agent, JobProcessFailed
from agents.agent.calls import Grant
from agents.contract.device import StateSource
from agents.contract.job import MachineState
from agents.contract.report import Cause, Failed, Measured, Refused
from tests.contract.agent_jobs import Clock, a_job, long_job, report_of, run, runner, shadow_module, until_streaming
from tests.waiting import ended, until

METHOD = """
from pathlib import Path
import agents.power.methods
from agents.power.methods.base import LimitNotHeld, MethodKind

class InAFile:
    name = "in-a-file"

    def read(self):
        return {{"limit": float(Path({path!r}).read_text())}}

    def bounds(self):
        return 15.0, 120.0

    def levels_for(self, limit_w):
        return {{"limit": limit_w}}

    def write(self, levels):
        if Path({path!r} + ".stuck").exists():
            raise LimitNotHeld("in-a-file: stuck")
        Path({path!r}).write_text(str(levels["limit"]))

agents.power.methods.METHODS = (MethodKind("in-a-file", lambda root, most_w: InAFile()),)
agents.power.methods.PROFILES = ()
"""

AT_45 = MachineState(power_limit_w=45.0)


@pytest.fixture
def limit(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The machine's limit, 80 W by itself."""
    path = tmp_path / "limit"
    path.write_text("80.0")
    shadow_module(tmp_path, monkeypatch, "sitecustomize", METHOD.format(path=str(path)))
    (folder / "device.yaml").write_text("allow: {power: [in-a-file]}\n")
    return path


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def agent(folder: Path, limit: Path, clock: Clock) -> Iterator[Agent]:
    one = Agent(folder, monotonic=clock)
    yield one
    one.close()


def journal(folder: Path) -> Path:
    return folder / "power-journal.json"


def test_held_from_job_to_job_and_released_when_there_is_nothing_more_to_do(
    agent: Agent, folder: Path, limit: Path
) -> None:
    assert agent.device().power_methods == ("in-a-file",)
    for job_id in ("j1", "j2"):
        report = run(agent, a_job(job_id=job_id, state=AT_45))
        assert isinstance(report.outcome, Measured)
        assert (report.machine.power_limit_seen_w, report.machine.power_limit_source) == (45.0, StateSource.HELD)
        assert limit.read_text() == "45.0" and journal(folder).exists()
    process = runner()
    agent.unload()
    until(lambda: ended(process), "its end")
    assert limit.read_text() == "80.0" and not journal(folder).exists()


def test_released_when_the_agent_is_closed_in_the_middle_of_a_job(agent: Agent, folder: Path, limit: Path) -> None:
    agent.start(long_job(state=AT_45))
    until_streaming(agent)
    assert limit.read_text() == "45.0"
    agent.close()
    assert limit.read_text() == "80.0" and not journal(folder).exists()


def test_restored_when_the_job_process_is_told_to_end_as_all_of_a_node_is(
    agent: Agent, folder: Path, limit: Path
) -> None:
    agent.start(long_job(state=AT_45))
    until_streaming(agent)
    assert limit.read_text() == "45.0"
    process = runner()
    process.terminate()
    until(lambda: ended(process), "its end")
    assert limit.read_text() == "80.0" and not journal(folder).exists()
    report = report_of(agent)
    assert isinstance(report.outcome, Failed) and report.outcome.cause is Cause.ENGINE_LOST


def test_a_device_whose_limit_does_not_come_back_takes_no_job_until_it_does(
    agent: Agent, folder: Path, limit: Path
) -> None:
    run(agent, a_job(job_id="j1", state=AT_45))
    stuck = limit.with_name(f"{limit.name}.stuck")
    stuck.touch()
    report = run(agent, a_job(job_id="j2"))
    assert isinstance(report.outcome, Failed)
    assert report.outcome.cause is Cause.ENGINE_LOST, "sent again: the cell itself is not refused"
    assert "stuck" in report.outcome.detail
    with pytest.raises(JobProcessFailed, match="stuck"):
        agent.start(a_job(job_id="j3"))
    assert limit.read_text() == "45.0" and journal(folder).exists()
    stuck.unlink()
    assert isinstance(run(agent, a_job(job_id="j4")).outcome, Measured)
    assert limit.read_text() == "80.0" and not journal(folder).exists()


def test_restored_by_the_next_job_process_after_a_kill(agent: Agent, folder: Path, limit: Path) -> None:
    agent.start(long_job(state=AT_45))
    until_streaming(agent)
    runner().kill()
    assert isinstance(report_of(agent).outcome, Failed)
    agent.acknowledge(("j", 1))
    assert limit.read_text() == "45.0" and journal(folder).exists()
    report = run(agent, a_job(attempt=2))
    assert isinstance(report.outcome, Measured)
    assert report.machine.power_limit_seen_w is None
    assert limit.read_text() == "80.0" and not journal(folder).exists()


def test_restored_at_the_next_greeting_after_the_coordinator_was_lost(
    agent: Agent, clock: Clock, folder: Path, limit: Path
) -> None:
    agent.start(long_job(state=AT_45), Grant(1, 90.0))
    until_streaming(agent)
    clock.now_s += 90.0
    outcome = report_of(agent).outcome
    assert isinstance(outcome, Failed) and outcome.cause is Cause.DEVICE_LOST
    agent.hello(1)
    assert limit.read_text() == "80.0" and not journal(folder).exists()


def test_a_limit_out_of_bounds_is_refused_and_nothing_is_set(agent: Agent, folder: Path, limit: Path) -> None:
    outcome = run(agent, a_job(state=MachineState(power_limit_w=200.0))).outcome
    assert isinstance(outcome, Refused) and outcome.cause is Cause.WRONG_STATE
    assert "in-a-file takes 15 to 120 W" in outcome.detail
    assert limit.read_text() == "80.0" and not journal(folder).exists()


def test_a_limit_left_by_a_method_that_is_allowed_no_more_keeps_the_device_away_and_says_why(
    agent: Agent, folder: Path, limit: Path
) -> None:
    run(agent, a_job(state=AT_45))
    runner().kill()
    agent.close()
    (folder / "device.yaml").unlink()
    later = Agent(folder)
    try:
        with pytest.raises(
            JobProcessFailed,
            match="allows in-a-file no more",
        ):
            later.device()
        (folder / "device.yaml").write_text("allow: {power: [in-a-file]}\n")
        assert later.device().power_methods == ("in-a-file",)
        assert limit.read_text() == "80.0"
    finally:
        later.close()
