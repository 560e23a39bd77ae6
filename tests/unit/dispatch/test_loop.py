from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from agents.contract.device import Device
from agents.contract.job import Job
from agents.contract.report import Cause, Failed, Refused, Report
from orchestrator.dispatch.fleet import Heard, Silent
from orchestrator.dispatch.loop import Coordinator, DeviceSilent, Happening, JobEnded, JobProgress, JobSent, Stopping
from orchestrator.dispatch.recover import recover
from orchestrator.errors import OrchestrateError
from orchestrator.results.durable import StoreFull
from orchestrator.results.store import Store
from tests.fakes.scripted_fleet import Deaf, Endless, Gone, ScriptedFleet, Step
from tests.unit.dispatch.a_run import RUN, A, ARun, B
from tests.unit.results.attempts_made_up import MEASURED

LOST = Failed(Cause.ENGINE_LOST, "gone")


def measured(job: Job) -> Step:
    return MEASURED


def only(job_id: str, step: Step) -> Callable[[Job], Step]:
    """``step`` for one job, all others are measured."""
    return lambda job: step if job.job_id == job_id else MEASURED


def test_every_job_is_kept_once_on_its_device(tmp_path: Path) -> None:
    run = ARun(tmp_path, (A, B))
    fleet = ScriptedFleet((A, B), measured)
    run.coordinator(fleet).run()
    assert run.states() == [("done", 1, None)] * 6
    assert run.stored() == [(job_id, 1, "ok") for job_id in run.ids]
    assert fleet.spool == {}
    rows = run.store.load(RUN).to_pylist()
    assert {(row["device_id"], row["cell_id"]) for row in rows} == {
        (job.device_id, job.cell.cell_id) for job in run.jobs.values()
    }


def test_a_job_goes_out_when_the_one_before_is_safe(tmp_path: Path) -> None:
    """The disk has a result before the ledger says done, the ledger before the device may forget."""
    run = ARun(tmp_path)

    class Watched(ScriptedFleet):
        def send(self, device_id: str, job: Job) -> None:
            assert run.states()[run.ids.index(job.job_id)] == ("sent", 1, None)
            super().send(device_id, job)

        def collected(self, report: Report) -> None:
            assert run.store.has(RUN, report.job_id, report.attempt)
            assert run.states()[run.ids.index(report.job_id)] == ("done", 1, None)
            super().collected(report)

    fleet = Watched((A,), measured)
    seen_at_done: list[bool] = []
    record = run.ledger.done

    def done(job_id: str, attempt: int, cause: str | None, seconds: float) -> None:
        seen_at_done.append(Store(tmp_path).has(RUN, job_id, attempt))
        record(job_id, attempt, cause, seconds)

    run.ledger.done = done  # type: ignore[method-assign]
    run.coordinator(fleet).run()
    assert seen_at_done == [True] * 3
    one, two, three = run.ids
    assert fleet.calls == [
        (what, "id-a", job_id, "1") for job_id in (one, two, three) for what in ("send", "collected")
    ]


def test_what_a_view_is_told(tmp_path: Path) -> None:
    run = ARun(tmp_path)
    again: Iterator[Step] = iter([LOST, MEASURED])
    run.coordinator(ScriptedFleet((A,), lambda job: next(again) if job.job_id == run.ids[0] else MEASURED)).run()
    told = [type(each).__name__ for each in run.told]
    assert told == ["JobSent", "JobProgress", "JobEnded"] * 4
    ends = [(each.planned, each.report.attempt, each.final) for each in run.told if isinstance(each, JobEnded)]
    first, second, third = run.jobs.values()
    assert ends == [(first, 1, False), (first, 2, True), (second, 1, True), (third, 1, True)]


def test_failures_are_results_and_the_rest_goes_on(tmp_path: Path) -> None:
    run = ARun(tmp_path)
    outcomes: tuple[Step, ...] = (Failed(Cause.RAM, "too big"), Refused(Cause.UNSUPPORTED, "no"), MEASURED)
    steps = dict(zip(run.ids, outcomes, strict=True))
    run.coordinator(ScriptedFleet((A,), lambda job: steps[job.job_id])).run()
    assert run.states() == [("done", 1, "ram"), ("done", 1, "unsupported"), ("done", 1, None)]
    assert [status for _, _, status in run.stored()] == ["failed", "refused", "ok"]


def test_a_lost_engine_is_tried_three_times_and_each_attempt_is_a_row(tmp_path: Path) -> None:
    run = ARun(tmp_path)
    run.coordinator(ScriptedFleet((A,), only(run.ids[1], LOST))).run()
    assert run.states() == [("done", 1, None), ("done", 3, "engine_lost"), ("done", 1, None)]
    assert [(job_id, attempt) for job_id, attempt, _ in run.stored()] == [
        (run.ids[0], 1),
        *((run.ids[1], attempt) for attempt in (1, 2, 3)),
        (run.ids[2], 1),
    ]


def test_the_only_device_is_lost_and_comes_back(tmp_path: Path) -> None:
    run = ARun(tmp_path)
    first = ScriptedFleet((A,), only(run.ids[1], Gone("link down")))
    run.coordinator(first).run()
    assert run.states() == [("done", 1, None), ("sent", 1, None), ("waiting", 0, None)]
    assert [each.detail for each in run.told if isinstance(each, DeviceSilent)] == ["link down"]
    second = ScriptedFleet((A,), measured, first.spool)
    recover(RUN, run.matrix, run.jobs, run.ledger, run.store, second)
    run.coordinator(second).run()
    assert run.states() == [("done", 1, None), ("done", 2, None), ("done", 1, None)]
    assert [call[2:] for call in second.calls if call[0] == "send"] == [(run.ids[1], "2"), (run.ids[2], "1")]


def test_one_of_two_devices_is_lost_and_the_other_does_its_work(tmp_path: Path) -> None:
    run = ARun(tmp_path, (A, B))

    def script(job: Job) -> Step:
        return Gone() if job.device_id == "id-a" else MEASURED

    run.coordinator(ScriptedFleet((A, B), script)).run()
    by_device = {
        each: [
            state for (state, _, _), job in zip(run.states(), run.jobs.values(), strict=True) if job.device_id == each
        ]
        for each in ("id-a", "id-b")
    }
    assert by_device == {"id-a": ["sent", "waiting", "waiting"], "id-b": ["done"] * 3}


def test_a_stop_cancels_what_runs_and_keeps_what_is_measured(tmp_path: Path) -> None:
    run = ARun(tmp_path)
    fleet = ScriptedFleet((A,), only(run.ids[1], Endless()))
    coordinator = run.coordinator(fleet)
    stop_at(run, coordinator, run.ids[1])
    coordinator.run()
    assert coordinator.stopped
    assert run.states() == [("done", 1, None), ("waiting", 1, None), ("waiting", 0, None)]
    assert ("cancel", "id-a") in fleet.calls
    assert fleet.spool == {}, "a cancelled attempt is no result, and need not be kept"
    assert sum(isinstance(each, Stopping) for each in run.told) == 1
    run.coordinator(ScriptedFleet((A,), measured)).run()
    assert run.states() == [("done", 1, None), ("done", 2, None), ("done", 1, None)]
    assert [job_id for job_id, _, _ in run.stored()] == run.ids


def test_a_stop_does_not_wait_for_ever_for_a_silent_device(tmp_path: Path) -> None:
    run = ARun(tmp_path)
    coordinator = run.coordinator(ScriptedFleet((A,), lambda job: Deaf()), stop_grace_s=0.05)
    stop_at(run, coordinator, run.ids[0])
    coordinator.run()
    assert run.states()[0] == ("sent", 1, None)


def test_a_stop_before_the_first_answer_and_from_another_thread(tmp_path: Path) -> None:
    run = ARun(tmp_path)
    coordinator = run.coordinator(ScriptedFleet((A,), lambda job: Endless()))
    thread = threading.Thread(target=coordinator.stop)
    thread.start()
    thread.join()
    coordinator.run()
    assert [state for state, _, _ in run.states()] == ["waiting"] * 3
    assert run.stored() == []


def stop_at(run: ARun, coordinator: Coordinator, job_id: str) -> None:
    """Asks for the stop when the first progress of ``job_id`` is told."""

    def watching(happening: Happening) -> None:
        if isinstance(happening, JobProgress) and happening.status.job_id == job_id:
            coordinator.stop()

    run.when_told = watching


def test_the_disk_is_full_in_the_middle_and_a_resume_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ARun(tmp_path)
    fleet = ScriptedFleet((A,), measured)
    rename = os.replace

    def full(source: str | Path, target: str | Path) -> None:
        if run.ids[1] in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreFull, match="orchestrate resume"):
        run.coordinator(fleet).run()
    assert run.states() == [("done", 1, None), ("sent", 1, None), ("waiting", 0, None)]
    assert [key[0] for key in fleet.spool] == [run.ids[1]], "the device still has what could not be stored"
    monkeypatch.undo()
    again = ScriptedFleet((A,), measured, fleet.spool)
    recover(RUN, run.matrix, run.jobs, run.ledger, run.store, again)
    run.coordinator(again).run()
    assert run.states() == [("done", 1, None)] * 3, "the second job was not run twice"
    assert [call[2] for call in again.calls if call[0] == "send"] == [run.ids[2]]
    assert [job_id for job_id, _, _ in run.stored()] == run.ids


def test_a_ledger_that_cannot_be_written_ends_the_run_before_the_job_is_sent(tmp_path: Path) -> None:
    run = ARun(tmp_path)
    fleet = ScriptedFleet((A,), measured)
    coordinator = run.coordinator(fleet)
    run.ledger.close()
    with pytest.raises(OrchestrateError, match=r"ledger\.sqlite: cannot write the ledger"):
        coordinator.run()
    assert fleet.calls == []


def test_reports_of_another_run_are_left_alone(tmp_path: Path) -> None:
    run = ARun(tmp_path)

    foreign = Report("foreign", 1, "run-of-someone", "id-a", "", "", 0.0, 0.0, MEASURED)

    class Chatty(ScriptedFleet):
        def listen(self, wait_s: float) -> Sequence[Heard | Silent]:
            heard = [each for each in super().listen(wait_s) if isinstance(each, Heard)]
            return [
                replace(each, status=replace(each.status, reports=(foreign, *each.status.reports))) for each in heard
            ]

    fleet = Chatty((A,), measured)
    run.coordinator(fleet).run()
    assert run.states() == [("done", 1, None)] * 3
    assert "foreign" not in {call[2] for call in fleet.calls}


def test_devices_are_stored_with_their_results(tmp_path: Path) -> None:
    run = ARun(tmp_path, (A, B))
    run.coordinator(ScriptedFleet((A, B), measured)).run()
    names = run.store.load(RUN, "devices").column("device").to_pylist()
    assert len(names) == 2
    assert set(names) == {"alpha", "beta"}
    sent = [each.device for each in run.told if isinstance(each, JobSent)]
    assert {device.name for device in sent} == {"alpha", "beta"}
    assert all(isinstance(device, Device) for device in sent)
