"""What a coordinator asks of an agent beside a job: reports of before, rest, the operator's word."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from filelock import FileLock

from agents.agent.agent import Agent, JobProcessFailed
from agents.agent.spool import Spool
from agents.contract.device import StateSource
from agents.contract.job import MachineState
from agents.contract.report import Cause, Failed, Measured, Refused, Report
from agents.device.inventory import boot_id
from agents.device_file import Stated
from tests.contract.agent_jobs import (
    a_job,
    engine_of,
    key_of,
    long_job,
    report_of,
    run,
    runner,
    runners,
    until_streaming,
)
from tests.waiting import ended, until


def made_up(job_id: str, attempt: int = 1, run: str = "c") -> Report:
    return Report(job_id, attempt, run, "d", "f", "b", 1.0, 2.0, Failed(Cause.RAM, "no memory"))


def spooled(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "spool").iterdir())


def test_hello_tells_the_machine_what_runs_and_every_report_of_an_earlier_agent(folder: Path) -> None:
    earlier = Agent(folder)
    earlier.start(a_job())
    report = report_of(earlier)
    earlier.close()
    Spool(folder / "spool").put(made_up("k", 2, "another run"))
    agent = Agent(folder)
    try:
        assert agent.poll().reports == ()  # nobody has asked yet
        hello = agent.hello()
        assert hello.device.device_id == report.device_id
        assert hello.status.job is None
        assert hello.status.reports == (report, made_up("k", 2, "another run"))
        assert agent.hello().status.reports == hello.status.reports == agent.poll().reports
    finally:
        agent.close()


def test_left_stays_on_the_disk_and_collected_goes(agent: Agent, folder: Path) -> None:
    for job_id in ("k", "l", "m"):
        Spool(folder / "spool").put(made_up(job_id))
    agent.hello()
    agent.set_aside(("k", 1), ("never", 7))
    agent.acknowledge(("l", 1))
    assert [key_of(each) for each in agent.poll().reports] == [("m", 1)]
    assert spooled(folder) == ["k-1.json", "m-1.json"]
    assert [key_of(each) for each in agent.hello().status.reports] == [("m", 1), ("k", 1)]  # a new greeting: all of it
    agent.acknowledge(("k", 1), ("m", 1), ("never", 7))
    assert agent.hello().status.reports == () and spooled(folder) == []


def test_a_report_left_is_told_by_the_next_agent(agent: Agent, folder: Path) -> None:
    agent.start(a_job())
    report = report_of(agent)
    agent.set_aside(key_of(report))
    assert agent.poll().reports == ()
    agent.close()
    later = Agent(folder)
    try:
        assert later.hello().status.reports == (report,)
    finally:
        later.close()


def test_an_attempt_that_runs_is_not_told_as_ended(agent: Agent, folder: Path) -> None:
    """Its file lies there from a run of the same attempt before, or was written a moment ago."""
    Spool(folder / "spool").put(made_up("j"))
    Spool(folder / "spool").put(made_up("j", 7))
    agent.start(long_job())
    status = agent.hello().status
    assert (status.job, [key_of(each) for each in status.reports]) == (("j", 1), [("j", 7)])


def test_a_report_of_the_present_agent_counts_more_than_the_file(agent: Agent, folder: Path) -> None:
    """A job process that was killed left no report of its own; an old file may lie there."""
    agent.start(long_job())
    until_streaming(agent)
    runner().kill()
    report = report_of(agent)
    Spool(folder / "spool").put(made_up("j"))
    assert agent.hello().status.reports == (report,)
    agent.acknowledge(("j", 1))
    assert agent.hello().status.reports == ()


def test_a_file_of_another_version_is_left_alone(agent: Agent, folder: Path) -> None:
    (folder / "spool").mkdir()
    (folder / "spool/k-1.json").write_text('{"of": "another version"}')
    assert agent.hello().status.reports == ()
    agent.start(a_job())
    assert key_of(report_of(agent)) == ("j", 1)
    assert spooled(folder) == ["j-1.json", "k-1.json"]


def test_the_same_attempt_started_several_times_runs_once(agent: Agent, folder: Path) -> None:
    with FileLock(folder / "busy.lock"):  # the job process waits for it: both starts wait for the job process
        threads = [threading.Thread(target=agent.start, args=(long_job(),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        until(lambda: bool(runners()), "the job process")
        assert agent.poll().job is None
    for thread in threads:
        thread.join()
    until_streaming(agent)
    assert agent.start(long_job()).job == ("j", 1)
    agent.cancel()
    report = report_of(agent)
    status = agent.start(long_job())  # its report has not been collected yet
    assert (status.job, status.reports) == (None, (report,))
    agent.acknowledge(key_of(report))
    agent.start(a_job(job_id="next"))  # jobs run in their order
    assert key_of(report_of(agent)) == ("next", 1)


def test_rest_frees_the_memory_and_the_next_job_starts_anew(agent: Agent) -> None:
    assert isinstance(run(agent, a_job()).outcome, Measured)
    process = runner()
    engine = engine_of(process)  # kept for a next job with equal settings
    agent.unload()
    until(lambda: ended(process) and ended(engine), "their end")
    assert agent.poll().reports == ()
    report = run(agent, a_job(job_id="j2"))
    assert isinstance(report.outcome, Measured) and not report.outcome.loaded.reused
    assert runner().pid != process.pid


def test_a_job_that_comes_right_after_rest_waits_for_the_next_job_process(agent: Agent) -> None:
    assert isinstance(run(agent, a_job()).outcome, Measured)
    for number in range(3):
        process = runner()
        agent.unload()
        report = run(agent, a_job(job_id=f"j{number}"))
        assert isinstance(report.outcome, Measured), report.outcome
        assert ended(process)


def test_a_greeting_right_after_rest_is_of_the_next_job_process(agent: Agent, folder: Path) -> None:
    agent.device()
    (folder / "device.yaml").write_text("name: renamed\n")
    agent.unload()
    assert agent.hello().device.name == "renamed"


def test_rest_disturbs_no_job(agent: Agent) -> None:
    agent.unload()  # nothing has been started: nothing to end
    assert runners() == []
    agent.start(long_job())
    until_streaming(agent)
    process = runner()
    engine = engine_of(process)
    agent.unload()
    reads = agent.poll(0.05).reads
    until(lambda: agent.poll(0.05).reads > reads + 100, "more tokens")
    assert agent.poll().job == ("j", 1)
    assert not ended(process) and not ended(engine)


def test_the_operators_word_is_kept_and_the_machine_looked_at_anew(agent: Agent, folder: Path) -> None:
    before = agent.device()
    assert (before.power_limit_w, before.power_source) == (None, None)
    process = runner()
    (folder / "device.yaml").write_text("labels: {desk: left}\n")
    after = agent.state(Stated(power_limit_w=54.0))
    assert (after.power_limit_w, after.power_source) == (54.0, StateSource.STATED)
    assert after.labels == (("desk", "left"),)
    assert after.fingerprint != before.fingerprint and after.device_id == before.device_id
    assert ended(process) and agent.device() == after
    agent.close()
    later = Agent(folder)
    try:
        assert later.device() == after
    finally:
        later.close()


def test_a_job_runs_in_the_state_that_was_stated_and_its_report_says_so(agent: Agent) -> None:
    agent.state(Stated(power_limit_w=54.0))
    report = run(agent, a_job(state=MachineState(power_limit_w=54.0)))
    assert isinstance(report.outcome, Measured)
    assert (report.machine.power_limit_seen_w, report.machine.power_limit_source) == (54.0, StateSource.STATED)
    refused = run(agent, a_job(job_id="j2", state=MachineState(power_limit_w=80.0))).outcome
    assert isinstance(refused, Refused) and refused.cause is Cause.WRONG_STATE
    assert "54 W is stated: set it and say so with: orchestrate state" in refused.detail


def test_the_operators_word_while_a_job_runs_is_refused_and_not_kept(agent: Agent, folder: Path) -> None:
    agent.start(long_job())
    until_streaming(agent)
    process = runner()
    with pytest.raises(JobProcessFailed, match="busy with j"):
        agent.state(Stated(power_limit_w=54.0))
    assert not (folder / "stated.json").exists()
    assert not ended(process) and agent.poll().job == ("j", 1)


def test_a_word_after_which_the_machine_cannot_be_read_says_why(agent: Agent, folder: Path) -> None:
    agent.device()
    (folder / "device.yaml").write_text("nam: x\n")
    with pytest.raises(JobProcessFailed, match=r"device\.yaml: nam: "):
        agent.state(Stated(power_limit_w=54.0))
    (folder / "device.yaml").unlink()
    assert agent.device().power_limit_w == 54.0  # it was heard


def test_ping_is_short_whatever_the_agent_is_at(agent: Agent, folder: Path) -> None:
    with FileLock(folder / "busy.lock"):
        thread = threading.Thread(target=agent.hello)
        thread.start()
        until(lambda: bool(runners()), "the job process")
        assert agent.ping() == boot_id(Path("/"))
    thread.join()
