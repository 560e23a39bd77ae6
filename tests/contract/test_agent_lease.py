"""A job runs on a lease: an agent that hears nothing of its coordinator ends it, and no older one is heard."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from agents.agent.agent import Agent
from agents.agent.calls import Grant
from agents.agent.lease import Fenced
from agents.agent.spool import Spool
from agents.contract.report import RETRIED, Cause, Failed, Measured, Refused, Report
from tests.contract.agent_jobs import (
    Clock,
    a_job,
    engine_of,
    long_job,
    report_of,
    run,
    runner,
    runners,
    until_streaming,
)
from tests.waiting import ended, until


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def agent(folder: Path, clock: Clock) -> Iterator[Agent]:
    one = Agent(folder, monotonic=clock)
    yield one
    one.close()


def goes_on(agent: Agent, clock: Clock) -> bool:
    """Whether the job still runs once the watchdog has looked at the clock: the answer to each poll wakes it."""

    def looked() -> bool:
        status = agent.poll(0.05)  # of no term: renews nothing
        return status.job is None or clock.seen_by_others()

    until(looked, "the watchdog to look at the clock")
    for _ in range(2):  # tokens that came after that look: one answer may have been under way
        until(more_than(agent, agent.poll().reads), "more tokens")
    return agent.poll().job is not None


def more_than(agent: Agent, reads: int) -> Callable[[], bool]:
    def more() -> bool:
        status = agent.poll(0.05)
        return status.job is None or status.reads > reads

    return more


def lost(agent: Agent) -> bool:
    """Whether the job's report, when it comes, says that nobody was heard."""
    outcome = report_of(agent).outcome
    return isinstance(outcome, Failed) and outcome.cause is Cause.DEVICE_LOST


def test_a_coordinator_that_is_not_heard_in_time_loses_the_job(agent: Agent, clock: Clock, folder: Path) -> None:
    agent.start(long_job(), Grant(term=1, lease_s=90.0))
    until_streaming(agent)
    process = runner()
    engine = engine_of(process)
    clock.now_s += 89.9
    assert goes_on(agent, clock)
    clock.now_s += 0.1
    report = report_of(agent)
    assert isinstance(report.outcome, Failed)
    assert (report.outcome.cause, report.outcome.cause in RETRIED) == (Cause.DEVICE_LOST, True)
    assert report.outcome.detail == "the coordinator was not heard for 90 s: the job was ended"
    assert (report.job_id, report.attempt, report.run_id) == ("j", 1, "c")
    assert report.fingerprint and report.boot_id
    until(lambda: ended(process) and ended(engine), "their end")
    assert agent.poll().job is None
    agent.acknowledge(("j", 1))
    assert isinstance(run(agent, a_job(attempt=2)).outcome, Measured)


CALLS: dict[str, Callable[[Agent], object]] = {
    "poll": lambda agent: agent.poll(0.0, 1),
    "poll of a newer one": lambda agent: agent.poll(0.0, 2),
    "hello": lambda agent: agent.hello(1),
    "start of the same": lambda agent: agent.start(long_job(), Grant(1, 90.0)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_each_call_of_the_coordinator_renews_it(agent: Agent, clock: Clock, call: Callable[[Agent], object]) -> None:
    agent.start(long_job(), Grant(1, 90.0))
    until_streaming(agent)
    for _ in range(2):
        clock.now_s += 60.0
        call(agent)
    clock.now_s += 89.0
    assert goes_on(agent, clock)
    clock.now_s += 1.0
    assert lost(agent)


def test_a_caller_outside_of_terms_renews_nothing(agent: Agent, clock: Clock) -> None:
    agent.start(long_job(), Grant(1, 90.0))
    until_streaming(agent)
    clock.now_s += 60.0
    agent.hello()
    agent.poll()
    agent.start(long_job())
    clock.now_s += 30.0
    assert lost(agent)


def test_a_lease_that_ends_while_the_model_loads(folder: Path) -> None:
    """By the machine's own clock."""
    agent = Agent(folder)
    try:
        agent.device()
        agent.start(long_job(), Grant(1, 0.02))
        outcome = report_of(agent).outcome
    finally:
        agent.close()
    assert isinstance(outcome, Failed) and outcome.cause is Cause.DEVICE_LOST
    assert "not heard for 0.02 s" in outcome.detail


def test_a_lease_that_is_over_disturbs_no_later_job(agent: Agent, clock: Clock) -> None:
    """The watchdog of a job ends with it; no lease runs while no job does."""
    agent.start(a_job(), Grant(1, 5.0))
    assert isinstance(report_of(agent).outcome, Measured)
    agent.acknowledge(("j", 1))
    clock.now_s += 1000.0
    agent.start(long_job(attempt=2), Grant(1, 90.0))
    until_streaming(agent)
    clock.now_s += 6.0
    assert goes_on(agent, clock)


def test_an_older_coordinator_is_fenced_whatever_it_calls(agent: Agent) -> None:
    agent.hello(2)
    for call in (
        lambda: agent.hello(1),
        lambda: agent.poll(0.0, 1),
        lambda: agent.start(a_job(), Grant(1)),
    ):
        with pytest.raises(Fenced, match=r"a newer coordinator \(term 2\)"):
            call()
    assert agent.poll(0.0, 2).job is None
    agent.start(a_job(), Grant(3))
    with pytest.raises(Fenced):
        agent.poll(0.0, 2)
    assert isinstance(report_of(agent).outcome, Measured)


def test_a_job_of_an_older_coordinator_is_the_newer_ones_to_watch(agent: Agent, clock: Clock) -> None:
    agent.start(long_job(), Grant(1, 90.0))
    until_streaming(agent)
    clock.now_s += 60.0
    assert agent.hello(2).status.job == ("j", 1)
    with pytest.raises(Fenced):
        agent.poll(0.0, 1)
    clock.now_s += 89.0
    assert goes_on(agent, clock)
    agent.cancel()
    assert isinstance(outcome := report_of(agent).outcome, Failed) and outcome.cause is Cause.CANCELLED


def fenced_in(name: str, call: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    """``call`` begun in a thread of this name, and what it raised."""
    raised: list[BaseException] = []

    def work() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, name=name)
    thread.start()
    return thread, raised


def test_a_poll_that_waits_while_a_newer_one_speaks_is_fenced_at_its_end(agent: Agent, clock: Clock) -> None:
    agent.start(long_job(), Grant(1, 90.0))
    until_streaming(agent)
    old, raised = fenced_in("old", lambda: agent.poll(60.0, 1))
    until(lambda: ("old", clock.now_s) in clock.seen, "the old one's poll")
    agent.poll(0.0, 2)
    agent.cancel()  # its report ends the wait
    old.join()
    assert [type(error) for error in raised] == [Fenced]
    assert report_of(agent).job_id == "j"


def test_a_start_that_waits_while_a_newer_one_speaks_starts_nothing(agent: Agent, folder: Path) -> None:
    with FileLock(folder / "busy.lock"):  # the job process waits for it
        old, raised = fenced_in("old", lambda: agent.start(a_job(), Grant(1)))
        until(lambda: bool(runners()), "the job process")
        assert agent.poll(0.0, 2).job is None
    old.join()
    assert [type(error) for error in raised] == [Fenced]
    assert agent.hello(2).status.job is None
    agent.start(a_job(job_id="j2"), Grant(2))
    assert report_of(agent).job_id == "j2"


def test_a_report_that_was_on_the_disk_when_the_job_was_ended_is_the_one_that_is_told(
    agent: Agent, clock: Clock, folder: Path
) -> None:
    """And that end is not held against the next job."""
    agent.start(long_job(), Grant(1, 90.0))
    until_streaming(agent)
    spooled = Report("j", 1, "c", "d", "f", "b", 1.0, 2.0, Refused(Cause.UNSUPPORTED, "made up"))
    Spool(folder / "spool").put(spooled)
    clock.now_s += 90.0
    assert report_of(agent) == spooled
    agent.acknowledge(("j", 1))
    agent.start(long_job(attempt=2), Grant(1, 90.0))
    until_streaming(agent)
    runner().kill()
    outcome = report_of(agent).outcome
    assert isinstance(outcome, Failed)
    assert (outcome.cause, "exit code -9" in outcome.detail) == (Cause.ENGINE_LOST, True)


def test_a_job_process_that_nobody_gives_a_job_ends_with_its_model(folder: Path) -> None:
    """Its coordinator may have been killed between two jobs: the next one knows of no model that is loaded."""
    agent = Agent(folder, idle_s=0.3)
    try:
        agent.hello(term=1)
        first = runner()
        until(lambda: ended(first), "the end of a job process without a job")
        agent.start(a_job(), Grant(term=1))
        second = runner()
        assert isinstance(report_of(agent).outcome, Measured)
        until(lambda: ended(second), "its end after its job")
        assert agent.poll(term=1).reports, "its report is still told"
    finally:
        agent.close()


def test_a_long_job_is_not_idleness(folder: Path) -> None:
    agent = Agent(folder, idle_s=0.05)
    try:
        agent.start(long_job(), Grant(term=1))
        until_streaming(agent)
        assert agent.poll(0.2, term=1).job == ("j", 1)
    finally:
        agent.close()
