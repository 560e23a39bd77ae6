"""The fleet of one, with a real agent and its job process: what ``dispatch.fleet.Fleet`` promises of any fleet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest

from agents.agent.calls import Grant
from agents.contract.report import Cause, Failed, Measured, Report
from agents.models.needs import free_bytes, needs
from orchestrator.dispatch.api import Submission
from orchestrator.dispatch.coordinator import Coordinator
from orchestrator.dispatch.fleet import (
    DeviceGone,
    DeviceGreeted,
    DeviceUnreachable,
    FleetEvent,
    NodeTroubleChanged,
    StatusReceived,
)
from orchestrator.dispatch.inline_fleet import InlineFleet
from orchestrator.dispatch.notices import JobEnded, JobSent, Notice
from orchestrator.errors import OrchestrateError
from orchestrator.matrix import matrix_to_json
from tests.contract.agent_jobs import a_job, key_of, long_job, runner
from tests.fakes.matrices import matrix_of
from tests.waiting import DEADLINE_S, until

GRANT = Grant(term=1, lease_s=60.0)
T = TypeVar("T", bound=FleetEvent)


class Listener:
    """Hears one fleet, and keeps all its events."""

    def __init__(self, fleet: InlineFleet) -> None:
        self.fleet = fleet
        self.events: list[FleetEvent] = []

    def until(self, true: Callable[[], bool], what: str) -> None:
        def heard() -> bool:
            self.events += self.fleet.listen(0.05)
            return true()

        until(heard, f"{what}, but {self.events}", poll_s=0.0)

    def greeted(self, times: int = 1) -> DeviceGreeted:
        self.until(lambda: len(self.of(DeviceGreeted)) >= times, "a greeting")
        return self.of(DeviceGreeted)[-1]

    def report(self, job_id: str = "j") -> Report:
        def reports() -> list[Report]:
            statuses = [each.status for each in self.of(StatusReceived)]
            return [report for status in statuses for report in status.reports if report.job_id == job_id]

        self.until(lambda: bool(reports()), f"the report of {job_id}")
        return reports()[0]

    def of(self, kind: type[T]) -> list[T]:
        return [each for each in self.events if isinstance(each, kind)]


@pytest.fixture
def listener(folder: Path) -> Iterator[Listener]:
    with closing(InlineFleet(folder, retry_s=0.0)) as fleet:
        fleet.begin(GRANT.term)
        yield Listener(fleet)


def test_the_machine_is_greeted_and_then_there_is_no_news(listener: Listener) -> None:
    assert not listener.fleet.settled
    greeted = listener.greeted()
    assert listener.fleet.settled
    assert (greeted.address, greeted.status.job, greeted.status.reports) == (listener.fleet.address, None, ())
    assert listener.events == [NodeTroubleChanged("this machine", ""), greeted]
    began = time.monotonic()
    assert listener.fleet.listen(0.2) == ()
    assert time.monotonic() - began >= 0.2, "it waits: a loop without news takes no time of the machine"


def test_listen_returns_when_it_is_interrupted(listener: Listener) -> None:
    listener.greeted()
    listener.fleet.interrupt()
    began = time.monotonic()
    assert listener.fleet.listen(10 * DEADLINE_S) == ()
    assert time.monotonic() - began < DEADLINE_S


def test_nothing_blocks_while_the_job_process_comes_up(listener: Listener) -> None:
    assert listener.fleet.listen(0.0) == ()
    with pytest.raises(DeviceGone):
        listener.fleet.call("who", "needs", []).result(timeout=0.0)
    listener.greeted()


def test_a_job_is_sent_reported_and_acknowledged(listener: Listener, folder: Path) -> None:
    device = listener.greeted().device
    listener.fleet.send(device.device_id, a_job(), GRANT)
    report = listener.report()
    assert isinstance(report.outcome, Measured)
    assert listener.of(StatusReceived)[0].status.job == ("j", 1), "the first answer says that it runs"
    listener.fleet.acknowledge(device.device_id, key_of(report))
    until(lambda: list((folder / "spool").iterdir()) == [], "an empty spool")
    assert not listener.of(DeviceUnreachable)


def test_a_cancel_right_behind_its_job_ends_it(listener: Listener) -> None:
    device = listener.greeted().device
    listener.fleet.send(device.device_id, long_job(), GRANT)
    listener.fleet.cancel(device.device_id)
    outcome = listener.report().outcome
    assert isinstance(outcome, Failed) and outcome.cause is Cause.CANCELLED


def test_a_job_process_that_is_killed_costs_its_job_alone(listener: Listener) -> None:
    device = listener.greeted().device
    listener.fleet.send(device.device_id, long_job(), GRANT)
    listener.until(lambda: any(each.status.reads_per_s for each in listener.of(StatusReceived)), "tokens")
    runner().kill()
    lost = listener.report()
    assert isinstance(lost.outcome, Failed) and lost.outcome.cause is Cause.ENGINE_LOST
    listener.fleet.acknowledge(device.device_id, key_of(lost))
    listener.fleet.send(device.device_id, a_job(job_id="k"), GRANT)
    assert isinstance(listener.report("k").outcome, Measured)
    assert not listener.of(DeviceUnreachable)


def test_a_machine_that_cannot_work_says_why_and_is_greeted_again(listener: Listener, folder: Path) -> None:
    (folder / "device.yaml").write_text("nonsense: 1\n")
    listener.until(lambda: bool(listener.of(NodeTroubleChanged)), "trouble")
    trouble = listener.of(NodeTroubleChanged)[0]
    assert "device.yaml" in trouble.detail and "\n" not in trouble.detail
    assert listener.fleet.settled and not listener.of(DeviceGreeted)
    (folder / "device.yaml").unlink()
    listener.greeted()
    assert listener.of(NodeTroubleChanged)[-1].detail == ""


def test_a_job_that_cannot_be_started_loses_the_device_until_it_is_greeted_again(listener: Listener) -> None:
    device = listener.greeted().device
    listener.fleet.send(device.device_id, long_job(), GRANT)
    listener.fleet.send(device.device_id, a_job(job_id="k"), GRANT)  # a coordinator never does: the agent says no
    assert listener.greeted(2).status.job == ("j", 1), "the greeting says what runs there"
    (lost,) = listener.of(DeviceUnreachable)
    assert "busy with j" in lost.detail
    listener.fleet.cancel(device.device_id)
    assert listener.report().job_id == "j"


def test_a_report_set_aside_stays_for_the_next_fleet(listener: Listener, folder: Path) -> None:
    device = listener.greeted().device
    listener.fleet.send(device.device_id, a_job(), GRANT)
    report = listener.report()
    listener.fleet.set_aside(device.device_id, key_of(report))
    listener.fleet.close()
    with closing(InlineFleet(folder)) as later:
        assert Listener(later).greeted().status.reports == (report,)


def test_other_methods_answer_or_raise_with_a_reason(listener: Listener, folder: Path) -> None:
    device = listener.greeted().device
    free, lacking = listener.fleet.call(device.device_id, "needs", [a_job().load]).result(DEADLINE_S)
    assert free == pytest.approx(free_bytes(folder / "models"), rel=0.5)
    assert lacking == needs([a_job().load], folder / "models")
    with pytest.raises(OrchestrateError, match="does not allow"):
        listener.fleet.call(device.device_id, "set_split", 2**30).result(DEADLINE_S)
    with pytest.raises(DeviceGone):
        listener.fleet.call("another", "needs", []).result(DEADLINE_S)
    job = a_job()
    listener.fleet.send("another", job, GRANT)
    (lost,) = listener.fleet.listen(0.1)
    assert isinstance(lost, DeviceUnreachable), "what cannot be sent is reported"
    assert (lost.device_id, lost.undelivered) == ("another", (job.job_id, job.attempt))
    assert listener.fleet.listen(0.1) == ()


def test_close_in_the_middle_of_a_job_leaves_nothing(listener: Listener) -> None:
    device = listener.greeted().device
    listener.fleet.send(device.device_id, long_job(), GRANT)
    listener.until(lambda: bool(listener.of(StatusReceived)), "the start of the job")
    listener.fleet.close()
    with pytest.raises(DeviceGone):
        listener.fleet.call(device.device_id, "needs", []).result(0.0)


def test_a_whole_run_on_one_machine_without_ray(folder: Path, tmp_path: Path) -> None:
    text = (
        "name: one\ndefaults: {engine: embedded, runtime: cpu, threads: 1, model: tiny:llama, workload: pp16+tg8}\n"
        "axes: {context: [512, 1K]}\nmeasure: {repeats: 1, warmups: 0}\n"
    )
    home = tmp_path / "home"
    with closing(Coordinator(home, lambda: InlineFleet(folder), own_cluster=True)) as coordinator:
        run_id = coordinator.submit(Submission(matrix_to_json(matrix_of(text)))).run
        notices: list[Notice] = []
        after, over = 0, False
        deadline = time.monotonic() + DEADLINE_S
        while not over and time.monotonic() < deadline:
            answer = coordinator.watch(run_id, after, 1.0)
            notices += answer.batch.notices
            after, over = answer.batch.next, answer.is_over
        ends = [each for each in notices if isinstance(each, JobEnded)]
        assert [each.status for each in ends] == ["measured"] * 2
        assert len([each for each in notices if isinstance(each, JobSent)]) == 2
        rows = coordinator.table(run_id).to_pylist()
    assert {(row["context_tokens"], row["status"]) for row in rows} == {(512, "ok"), (1024, "ok")}
    assert list((folder / "spool").iterdir()) == []
