"""What an agent does with a job process that hangs, and with a disk that takes no writes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agents.agent.agent import Agent, JobProcessFailed
from agents.agent.calls import AgentStatus, Grant
from agents.agent.hang_detector import HangLimits
from agents.agent.job_process import JobProcess
from agents.agent.spool import Spool
from agents.contract.device import Blocked
from agents.contract.report import Cause, Failed, Measured, Report
from tests.fakes.job_process import FakeJobProcess
from tests.unit.results.made_attempts import DEVICE, MEASURED, job, report
from tests.waiting import until

SOON = HangLimits(extra_s=0.02, cancel_s=0.02, close_s=0.02, kill_s=0.02, look_s=0.02, missed_s=60.0)
JOB = job()
FULL = "its disk is full: No space left on device (/device)"


class Machine:
    """One device: its folder, its boot, its disk; each agent on it starts the job processes that a test has made."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.disk_trouble = ""
        self.processes: list[FakeJobProcess] = []
        self.started: list[FakeJobProcess] = []
        self.agents: list[Agent] = []
        self._patch = patch
        self.boot("boot-1")

    def boot(self, boot_id: str) -> None:
        self._patch.setattr("agents.agent.agent.boot_id", lambda _: boot_id)

    def agent(self, limits: HangLimits = SOON) -> Agent:
        one = Agent(
            self.folder,
            hang_limits=limits,
            make_process=self._make,
            why_unwritable=lambda _: self.disk_trouble,
        )
        self.agents.append(one)
        return one

    def _make(self, _: Path) -> JobProcess:
        if not self.processes:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        self.started.append(self.processes.pop(0))
        return self.started[-1]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    one = Machine(tmp_path, monkeypatch)
    yield one
    for agent in one.agents:
        agent.close()
    for process in one.started:
        process.end()


def status_with(agent: Agent, holds: Callable[[AgentStatus], object]) -> AgentStatus:
    until(lambda: bool(holds(agent.poll())), lambda: f"another status than {agent.poll()}", deadline_s=10.0)
    return agent.poll()


def lost(agent: Agent) -> Failed:
    """What the agent reports of the job that ran."""
    (made,) = status_with(agent, lambda status: status.reports).reports
    assert (made.job_id, made.attempt) == (JOB.job_id, JOB.attempt)
    assert isinstance(made.outcome, Failed)
    return made.outcome


def test_a_stage_without_an_end_ends_its_job_process_and_the_row_names_the_stage(machine: Machine) -> None:
    machine.processes = [FakeJobProcess(DEVICE), FakeJobProcess(DEVICE)]
    agent = machine.agent()
    agent.start(JOB)
    machine.started[0].write(phase="loading", limit_s=0.0)
    failed = lost(agent)
    assert (failed.cause, failed.hung_stage) == (Cause.ENGINE_LOST, "loading")
    assert 'hung at "loading": no end after' in failed.detail
    assert machine.started[0].kills == 1
    status = agent.poll()
    assert (status.job, status.stage, status.blocked) == (None, "idle", None)
    assert status.reports[0].elapsed_s > 0.0
    assert Spool(machine.folder / "spool").get(JOB.job_id, JOB.attempt) == status.reports[0], "also for the next agent"
    agent.acknowledge((JOB.job_id, JOB.attempt))
    agent.start(job(attempt=2))
    assert len(machine.started) == 2
    assert agent.poll().job == (JOB.job_id, 2)


def test_a_stage_within_its_limit_goes_on(machine: Machine) -> None:
    machine.processes = [FakeJobProcess(DEVICE)]
    agent = machine.agent()
    agent.start(JOB)
    for _ in range(3):
        machine.started[0].write(phase="loading", limit_s=600.0)
    machine.started[0].report(report(JOB))
    assert isinstance(status_with(agent, lambda status: status.reports).reports[0].outcome, Measured)
    assert machine.started[0].kills == 0


def test_a_cancel_that_is_not_answered_ends_the_job_process(machine: Machine) -> None:
    machine.processes = [FakeJobProcess(DEVICE)]
    agent = machine.agent()
    agent.start(JOB)
    machine.started[0].write(phase="measuring", limit_s=3600.0)
    status_with(agent, lambda status: status.stage == "measuring")
    agent.cancel()
    failed = lost(agent)
    assert (failed.cause, failed.hung_stage) == (Cause.ENGINE_LOST, "measuring")
    assert "a cancel was not answered" in failed.detail
    assert {"cancel": True} in machine.started[0].sent


def test_a_job_process_that_was_stopped_before_it_read_the_job_is_noticed(machine: Machine) -> None:
    machine.processes = [FakeJobProcess(DEVICE)]
    agent = machine.agent()
    machine_started = agent.start(JOB)
    assert machine_started.stage == "starting"
    agent._hangs.begin_stage("starting", 0.0, 0.0)  # a minute is over
    assert lost(agent).hung_stage == "starting"


def test_what_no_kill_ends_leaves_a_row_and_a_device_that_needs_a_reboot(machine: Machine) -> None:
    machine.processes = [FakeJobProcess(DEVICE, ends_by_kill=False, ends_by_close=False), FakeJobProcess(DEVICE)]
    agent = machine.agent()
    agent.start(JOB)
    machine.started[0].write(phase="loading", limit_s=0.0)
    assert lost(agent).hung_stage == "loading"
    blocked = agent.poll().blocked
    assert blocked is not None and blocked.needs_reboot
    assert "only a reboot ends it" in blocked.why
    assert agent.hello().device == DEVICE, "it can be greeted, and says what it needs"
    # nothing is handed to it, and a job that was on its way says that it was not tried
    agent.acknowledge((JOB.job_id, 1))
    status = agent.start(job(attempt=2))
    assert status.job is None
    assert isinstance(status.reports[0].outcome, Failed)
    assert status.reports[0].outcome.cause is Cause.CANCELLED
    assert len(machine.started) == 1
    assert agent.recheck().blocked == blocked, "no look at a disk ends that"


def test_a_reboot_is_needed_for_each_agent_of_that_boot_and_for_none_after_it(machine: Machine) -> None:
    machine.processes = [FakeJobProcess(DEVICE, stuck="process 12 (llama-server)"), FakeJobProcess(DEVICE)]
    first = machine.agent()
    first.start(JOB)
    machine.started[0].write(phase="measuring", limit_s=0.0)
    kept = lost(first)
    status_with(first, lambda status: status.blocked)
    first.close()
    second = machine.agent()
    hello = second.hello()
    assert hello.device == DEVICE
    assert hello.status.blocked is not None and "process 12 (llama-server)" in hello.status.blocked.why
    assert [each.outcome for each in hello.status.reports] == [kept]
    with pytest.raises(JobProcessFailed, match="needs a reboot"):
        second._ensure_job_process()
    second.close()
    machine.boot("boot-2")
    third = machine.agent()
    assert third.hello().status.blocked is None
    assert len(machine.started) == 2


def test_a_job_process_that_hangs_at_its_very_first_start_says_that_it_needs_a_reboot(machine: Machine) -> None:
    machine.processes = [FakeJobProcess(None, ends_by_kill=False, ends_by_close=False)]
    agent = Agent(machine.folder, start_s=0.02, hang_limits=SOON, make_process=machine._make)
    machine.agents.append(agent)
    with pytest.raises(JobProcessFailed, match="did not start within"):
        agent.hello()
    with pytest.raises(JobProcessFailed, match="needs a reboot"):
        agent.hello()


def test_a_job_process_that_was_killed_while_another_process_holds_its_pipe_blocks_nothing(machine: Machine) -> None:
    machine.processes = [FakeJobProcess(DEVICE, ends_by_kill=False, stuck=""), FakeJobProcess(DEVICE)]
    agent = machine.agent()
    agent.start(JOB)
    machine.started[0].write(phase="loading", limit_s=0.0)
    assert lost(agent).hung_stage == "loading"
    assert agent.poll().blocked is None
    agent.acknowledge((JOB.job_id, 1))
    agent.start(job(attempt=2))
    machine.started[0].report(report(JOB))  # too late: it is nobody's any more
    machine.started[1].report(report(job(attempt=2)))
    assert [each.attempt for each in status_with(agent, lambda status: status.reports).reports] == [2]


def test_what_libraries_print_ends_no_thread_that_reads(machine: Machine) -> None:
    machine.processes = [FakeJobProcess(DEVICE)]
    agent = machine.agent()
    agent.start(JOB)
    messages: list[dict[str, object]] = [{"report": 3}, {"report": {"outcome": []}}, {"phase": 7}, {"log": "x"}, {}]
    for message in messages:
        machine.started[0].write(**message)
    machine.started[0].report(report(JOB))
    assert status_with(agent, lambda status: status.reports).reports[0].outcome == MEASURED


def test_an_idle_job_process_that_does_not_end_is_killed(machine: Machine) -> None:
    machine.processes = [FakeJobProcess(DEVICE, ends_by_close=False), FakeJobProcess(DEVICE)]
    agent = machine.agent()
    agent.hello()
    agent.unload()
    until(lambda: machine.started[0].kills == 1, "the kill")
    agent.start(JOB)
    assert len(machine.started) == 2 and agent.poll().blocked is None


def test_an_idle_job_process_that_no_kill_ends_costs_the_next_job_nothing_but_the_wait(machine: Machine) -> None:
    machine.processes = [FakeJobProcess(DEVICE, ends_by_close=False, ends_by_kill=False)]
    agent = machine.agent()
    agent.hello()
    agent.unload()
    status = agent.start(JOB)
    assert status.blocked is not None and status.blocked.needs_reboot
    (made,) = status.reports
    assert isinstance(made.outcome, Failed) and made.outcome.cause is Cause.CANCELLED


def test_a_job_that_lost_its_lease_is_no_hang_also_where_its_process_does_not_end(machine: Machine) -> None:
    machine.processes = [FakeJobProcess(DEVICE, ends_by_close=False)]
    agent = machine.agent()
    agent.start(JOB, Grant(1, lease_s=0.02))
    failed = lost(agent)
    assert (failed.cause, failed.hung_stage) == (Cause.DEVICE_LOST, "")
    assert machine.started[0].kills == 1


def test_an_agent_whose_job_process_no_kill_ends_can_be_closed(machine: Machine) -> None:
    machine.processes = [FakeJobProcess(DEVICE, ends_by_close=False, ends_by_kill=False)]
    agent = machine.agent()
    agent.hello()
    agent.close()
    blocked = machine.agent().poll().blocked
    assert blocked is not None and blocked.needs_reboot, "the agent after it knows"


def test_one_live_view_is_requested_at_a_time(machine: Machine) -> None:
    """A job process that hangs reads none of them, and its pipe would be full one day."""
    machine.processes = [FakeJobProcess(DEVICE)]
    agent = machine.agent()
    agent.start(JOB)
    for _ in range(5):
        agent.poll()
    assert machine.started[0].sent.count({"live": True}) == 1
    machine.started[0].write(live={"reads": 7, "reads_per_s": 3.5})
    status_with(agent, lambda status: status.reads == 7)
    assert machine.started[0].sent.count({"live": True}) == 2


def disk_failed(cause: Cause) -> Report:
    return report(JOB, Failed(cause, "OSError: [Errno 28] No space left on device"))


@pytest.mark.parametrize("cause", [Cause.DISK_FULL, Cause.DISK_FAULT])
def test_a_disk_that_takes_no_writes_blocks_the_device_until_it_does(machine: Machine, cause: Cause) -> None:
    machine.processes = [FakeJobProcess(DEVICE)]
    agent = machine.agent()
    agent.start(JOB)
    machine.disk_trouble = FULL
    machine.started[0].report(disk_failed(cause))
    status = status_with(agent, lambda status: status.reports)
    assert status.blocked == Blocked(FULL)
    machine.disk_trouble = FULL + ", still"
    assert agent.recheck().blocked == Blocked(FULL + ", still")
    machine.disk_trouble = ""
    assert agent.recheck().blocked is None


def test_a_model_that_needs_more_room_than_there_is_blocks_nothing(machine: Machine) -> None:
    machine.processes = [FakeJobProcess(DEVICE)]
    agent = machine.agent()
    agent.start(JOB)
    machine.started[0].report(disk_failed(Cause.DISK_FULL))
    assert status_with(agent, lambda status: status.reports).blocked is None


def test_a_report_that_the_spool_could_not_take_counts_and_blocks_the_device(machine: Machine) -> None:
    machine.processes = [FakeJobProcess(DEVICE)]
    agent = machine.agent()
    agent.start(JOB)
    machine.disk_trouble = FULL
    machine.started[0].report(report(JOB), kept=False)
    status = status_with(agent, lambda status: status.reports)
    assert status.reports[0].outcome == MEASURED
    assert status.blocked == Blocked(FULL)


def test_a_job_for_which_no_process_can_be_made_on_a_read_only_disk_is_not_tried(machine: Machine) -> None:
    agent = machine.agent()
    with pytest.raises(JobProcessFailed, match="Read-only"):  # not the disk's fault, for all that is known
        agent.start(JOB)
    machine.disk_trouble = "its disk takes no writes: Read-only file system (/device)"
    status = agent.start(JOB)
    assert status.blocked == Blocked(machine.disk_trouble)
    outcome = status.reports[0].outcome
    assert isinstance(outcome, Failed) and outcome.cause is Cause.CANCELLED
    assert "Read-only file system" in outcome.detail
