from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.agent.calls import Grant
from agents.contract.device import MemoryKind, StateSource
from agents.contract.job import Job
from agents.contract.report import Attempt, Cause, Failed, Outcome, Refused, Report
from orchestrator.dispatch.ledger.file import LedgerBusy, LedgerDamaged
from orchestrator.dispatch.ledger.watch import LedgerWatch
from orchestrator.dispatch.loop import SLEEP_S, CoordinatorLoop
from orchestrator.dispatch.messages import RunChanged, RunStatus
from orchestrator.dispatch.notices import (
    DeviceAppeared,
    DeviceDisappeared,
    JobEnded,
    OperatorAsked,
    RunEnded,
    TroubleReported,
)
from orchestrator.dispatch.rechecks import RECHECK_S
from orchestrator.errors import OrchestrateError
from orchestrator.results.durable import StoreFull
from orchestrator.results.store import Store
from tests.fakes.simulated_fleet import SimulatedFleet
from tests.unit.dispatch.submitted_run import RUN, A, B, SubmittedRun
from tests.unit.results.made_attempts import MEASURED

LOST = Failed(Cause.ENGINE_LOST, "gone")
GIB = 2**30
APU = replace(
    A, memory_kind=MemoryKind.CARVE_OUT, dedicated_vram_bytes=GIB // 2, split_source=StateSource.SEEN, boot_id="boot-0"
)
TWO_SPLITS = "axes: {model: tiny:llama, workload: pp8, dedicated_vram: [512MiB, 32GiB]}\nmeasure: {repeats: 1}\n"


def kinds(run: SubmittedRun) -> list[str]:
    return [type(each).__name__ for each in run.told]


def test_every_job_is_kept_once_on_its_device(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path, (A, B))
    run.complete(run.coordinator(run.fleet()))
    assert run.states() == [("done", 1, None)] * 6
    assert run.stored() == [(job_id, 1, "ok") for job_id in run.ids]
    assert all(device.spool == {} for device in run.devices)
    rows = run.store.load(RUN).to_pylist()
    assert {(row["device_id"], row["cell_id"]) for row in rows} == {
        (job.device_id, job.cell.cell_id) for job in run.run.jobs.values()
    }
    assert set(run.store.load(RUN, "devices").column("device").to_pylist()) == {"alpha", "beta"}


def test_a_job_goes_out_when_the_one_before_is_safe(tmp_path: Path) -> None:
    """The disk has a result before the ledger says done, the ledger before the device may forget."""
    run = SubmittedRun(tmp_path)
    calls: list[tuple[str, str]] = []

    class Watched(SimulatedFleet):
        def send(self, device_id: str, job: Job, grant: Grant) -> None:
            assert run.states()[run.ids.index(job.job_id)] == ("sent", 1, None)
            assert run.ledger.leases() == {device_id: (job.job_id, 1)}
            calls.append(("send", job.job_id))
            super().send(device_id, job, grant)

        def acknowledge(self, device_id: str, attempt: Attempt) -> None:
            assert run.store.has(RUN, *attempt)
            assert run.states()[run.ids.index(attempt[0])] == ("done", 1, None)
            calls.append(("acknowledge", attempt[0]))
            super().acknowledge(device_id, attempt)

    seen_at_done: list[bool] = []
    record = run.ledger.mark_done

    def done(job_id: str, attempt: int, cause: str | None, seconds: float) -> None:
        seen_at_done.append(Store(tmp_path).has(RUN, job_id, attempt))
        record(job_id, attempt, cause, seconds)

    run.ledger.mark_done = done  # type: ignore[method-assign]
    run.complete(run.coordinator(Watched(run.world, run.devices)))
    assert seen_at_done == [True] * 3
    sent = [job_id for what, job_id in calls if what == "send"]
    assert calls[0] == ("send", sent[0])
    assert set(calls[1:3]) == {("acknowledge", sent[0]), ("send", sent[1])}
    assert run.ledger.leases() == {}


def test_what_watchers_are_told(tmp_path: Path) -> None:
    again: Iterator[Outcome] = iter([LOST, MEASURED])
    run = SubmittedRun(tmp_path)
    first = run.ids[0]
    run.outcome = lambda job: next(again) if job.job_id == first else MEASURED
    run.complete(run.coordinator(run.fleet()))
    assert kinds(run) == ["DeviceAppeared", *["JobSent", "JobEnded"] * 4, "RunEnded"]
    ends = [(each.job.job_id, each.attempt, each.final) for each in run.told if isinstance(each, JobEnded)]
    assert (first, 1, False) in ends
    assert (first, 2, True) in ends
    assert [each.complete for each in run.told if isinstance(each, RunEnded)] == [True]
    (there,) = [each for each in run.told if isinstance(each, DeviceAppeared)]
    assert (there.device.name, there.text) == ("alpha", "joined")


def test_failures_are_results_and_the_rest_goes_on(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path)
    outcomes: tuple[Outcome, ...] = (Failed(Cause.RAM, "too big"), Refused(Cause.UNSUPPORTED, "no"), MEASURED)
    steps = dict(zip(run.ids, outcomes, strict=True))
    run.outcome = lambda job: steps[job.job_id]
    run.complete(run.coordinator(run.fleet()))
    assert run.states() == [("done", 1, "ram"), ("done", 1, "unsupported"), ("done", 1, None)]
    assert [status for _, _, status in run.stored()] == ["failed", "refused", "ok"]


def only(run: SubmittedRun, which: int, outcome: Outcome) -> Callable[[Job], Outcome]:
    return lambda job: outcome if job.job_id == run.ids[which] else MEASURED


def test_a_lost_engine_is_tried_three_times_and_is_one_row(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path)
    run.outcome = only(run, 1, LOST)
    run.complete(run.coordinator(run.fleet()))
    assert run.states() == [("done", 1, None), ("done", 3, "engine_lost"), ("done", 1, None)]
    assert [(job_id, attempt) for job_id, attempt, _ in run.stored()] == [
        (run.ids[0], 1),
        (run.ids[1], 3),
        (run.ids[2], 1),
    ]


def test_a_cut_link_that_heals_late_costs_one_attempt(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path, (A, B))
    loop = run.coordinator(run.fleet())
    loop.run(until=lambda: run.devices[0].running is not None)
    run.devices[0].cut(300.0)
    run.complete(loop)
    assert [status for _, _, status in run.stored()] == ["ok"] * 6
    (silent,) = [each for each in run.told if isinstance(each, DeviceDisappeared)]
    assert silent.device.name == "alpha"
    assert [each.text for each in run.told if isinstance(each, DeviceAppeared)] == ["joined", "joined", "back"]


def test_a_result_that_was_ready_before_the_link_was_cut_counts(tmp_path: Path) -> None:
    """The device finished alone, its report lay on its disk, and it was not run again."""
    run = SubmittedRun(tmp_path)
    loop = run.coordinator(run.fleet())
    loop.run(until=lambda: run.devices[0].running is not None)
    run.devices[0].cut(80.0)  # longer than Ray's patience, shorter than the lease
    run.complete(loop)
    assert run.states() == [("done", 1, None)] * 3
    assert len(run.devices[0].ran) == 3


def test_a_new_coordinator_takes_up_what_runs(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path)
    first = run.fleet()
    run.coordinator(first).run(until=lambda: run.devices[0].running is not None)
    first.close()
    run.complete(run.coordinator(run.fleet()))
    assert run.states() == [("done", 1, None)] * 3
    assert len(run.devices[0].ran) == 3, "nothing was run twice"


def test_pause_and_cancel(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path)
    loop = run.coordinator(run.fleet())
    loop.run(until=lambda: run.devices[0].running is not None)
    running = run.devices[0].running
    loop.handle([RunChanged(RUN, RunStatus.PAUSED)])
    for _ in range(50):
        loop.round()
    assert [state for state, _, _ in run.states()].count("done") == 1, "what ran was measured to its end"
    loop.handle([RunChanged(RUN, RunStatus.RUNNING)])
    loop.run(until=lambda: run.devices[0].running not in (None, running))
    loop.handle([RunChanged(RUN, RunStatus.CANCELLED)])
    for _ in range(50):
        loop.round()
    assert [state for state, _, _ in run.states()].count("done") == 1
    assert run.devices[0].spool == {}, "a cancelled attempt is no result, and need not be kept"
    loop.handle([RunChanged(RUN, RunStatus.RUNNING)])
    run.complete(loop)
    assert sorted(attempt for _, attempt, _ in run.states()) == [1, 1, 2]


def full_for(run: SubmittedRun, which: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The disk takes the results of one job only once this list is empty."""
    rename, left = os.replace, [0]

    def full(source: str | Path, target: str | Path) -> None:
        if left and run.ids[which] in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "replace", full)
    return left


def test_in_a_cluster_of_its_own_a_full_disk_ends_the_run_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = SubmittedRun(tmp_path)
    left = full_for(run, 1, monkeypatch)
    fleet = run.fleet()
    with pytest.raises(StoreFull, match="orchestrate resume"):
        run.complete(run.coordinator(fleet))
    assert run.states()[1] == ("sent", 1, None)
    assert [key[0] for key in run.devices[0].spool] == [run.ids[1]], "the device still has what could not be stored"
    left.clear()
    fleet.close()
    run.complete(run.coordinator(run.fleet()))
    assert run.states() == [("done", 1, None)] * 3, "it was not run twice"
    assert len(run.devices[0].ran) == 3


def test_a_patient_coordinator_waits_for_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = SubmittedRun(tmp_path, (A, B))
    left = full_for(run, 1, monkeypatch)
    loop = run.coordinator(run.fleet(), long_lived=True)
    loop.run(until=lambda: bool(loop.trouble))
    assert "no space left" in loop.trouble
    done = [state for state, _, _ in run.states()].count("done")
    run.devices[1].cut(10.0)
    for _ in range(100):
        loop.round()
    assert [state for state, _, _ in run.states()].count("done") == done, "nothing goes on"
    left.clear()
    run.complete(loop)
    assert run.states() == [("done", 1, None)] * 6
    assert [bool(each.text) for each in run.told if isinstance(each, TroubleReported)] == [True, False]


def test_a_job_is_not_sent_to_a_device_that_was_lost_while_the_disk_was_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decided before, and written down only after: by then the device has another agent."""
    run = SubmittedRun(tmp_path)
    left = full_for(run, 0, monkeypatch)
    loop = run.coordinator(run.fleet(), long_lived=True)
    loop.run(until=lambda: bool(loop.trouble) or run.left() == 0)
    run.devices[0].agent_is_killed()
    for _ in range(20):
        loop.round()
    left.clear()
    run.complete(loop)
    assert [status for _, _, status in run.stored()] == ["ok"] * 3
    assert [job.failures for job in run.ledger.jobs(RUN)] == [0, 0, 0], "what was never sent has not failed"


def test_a_job_that_is_decided_for_a_device_that_is_lost_in_the_same_round_has_not_failed(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path)
    fleet = run.fleet()
    loop = run.coordinator(fleet)
    loop.run(until=lambda: run.devices[0].running is not None)
    device = run.devices[0]
    assert device.running is not None
    device._ends(device.running, MEASURED, device._life)  # its report and its loss come together
    device.agent_is_killed()
    run.complete(loop)
    assert [job.failures for job in run.ledger.jobs(RUN)] == [0, 0, 0]
    assert sorted(attempt for _, attempt, _ in run.states()) == [1, 1, 2]


def test_a_ledger_that_cannot_be_written_ends_the_run_before_the_job_is_sent(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path)
    loop = run.coordinator(run.fleet())
    run.ledger.close()
    with pytest.raises(OrchestrateError, match=r"ledger\.sqlite: cannot write the ledger"):
        loop.run(until=lambda: False)
    assert run.devices[0].ran == []


def test_reports_of_another_ledger_are_left_where_they_are(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path)
    foreign = Report("foreign", 1, "run-of-someone", "id-a", "", "", 0.0, 0.0, MEASURED)
    run.devices[0].spool["foreign", 1] = foreign
    run.complete(run.coordinator(run.fleet()))
    assert run.devices[0].spool == {("foreign", 1): foreign}
    assert run.devices[0].aside == {("foreign", 1)}


def test_reports_that_came_twice_are_forgotten(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path)
    loop = run.coordinator(run.fleet())
    run.complete(loop)
    job_id = run.ids[0]
    again = Report(job_id, 1, RUN, "id-a", "", "", 0.0, 0.0, Failed(Cause.RAM, "late"))
    run.devices[0].spool[job_id, 1] = again
    run.devices[0].agent_is_killed()
    for _ in range(20):
        loop.round()
    assert run.devices[0].spool == {}
    assert [status for _, _, status in run.stored()] == ["ok"] * 3


def test_an_operator_is_asked_and_the_run_goes_on_when_the_split_is_right(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path, (APU,), TWO_SPLITS)
    loop = run.coordinator(run.fleet())

    def asked() -> list[str]:
        return [each.text for each in run.told if isinstance(each, OperatorAsked)]

    loop.run(until=lambda: bool(asked()))
    assert asked() == ["set dedicated VRAM of alpha to 32 GiB and reboot"]
    run.devices[0].reboot(8 * GIB)
    loop.run(until=lambda: len(asked()) == 2)
    assert asked()[1] == "set dedicated VRAM of alpha to 32 GiB and reboot (it came back with 8 GiB)"
    run.devices[0].reboot(32 * GIB)
    run.complete(loop)
    assert run.states() == [("done", 1, None)] * 2
    assert kinds(run).count("AskWithdrawn") == 1
    assert run.devices[0].reboots == 2


def test_an_agent_that_may_set_its_split_needs_no_operator(tmp_path: Path) -> None:
    able = replace(APU, sets_split=True, carveout_options_bytes=(GIB // 2, 32 * GIB))
    run = SubmittedRun(tmp_path, (able,), TWO_SPLITS)
    fleet = run.fleet()
    run.complete(run.coordinator(fleet))
    assert run.devices[0].reboots == 1
    assert ("id-a", "set_split", (32 * GIB,)) in fleet.asks
    assert "OperatorAsked" not in kinds(run)


def test_an_agent_that_cannot_set_its_split_after_all_says_why_to_the_operator(tmp_path: Path) -> None:
    able = replace(APU, sets_split=True, carveout_options_bytes=(GIB // 2, 32 * GIB))
    run = SubmittedRun(tmp_path, (able,), TWO_SPLITS)

    class Fails(SimulatedFleet):
        def call(self, device_id: str, method: str, *arguments: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(OrchestrateError("uma/carveout: cannot be written: Permission denied"))
            return future

    loop = run.coordinator(Fails(run.world, run.devices))
    loop.run(until=lambda: "OperatorAsked" in kinds(run))
    (asked,) = [each.text for each in run.told if isinstance(each, OperatorAsked)]
    assert "cannot be written: Permission denied" in asked


def test_a_device_that_was_to_reboot_by_itself_and_does_not_has_its_operator_asked(tmp_path: Path) -> None:
    able = replace(APU, sets_split=True, carveout_options_bytes=(GIB // 2, 32 * GIB))
    run = SubmittedRun(tmp_path, (able,), TWO_SPLITS)

    class Idles(SimulatedFleet):
        def call(self, device_id: str, method: str, *arguments: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_result(None)
            return future

    loop = run.coordinator(Idles(run.world, run.devices))
    loop.run(until=lambda: "OperatorAsked" in kinds(run) or run.world.now_s > 5_000)
    (asked,) = [each.text for each in run.told if isinstance(each, OperatorAsked)]
    assert "did not reboot within 15 min" in asked


def test_work_from_other_threads_runs_on_the_loop(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path)
    loop = run.coordinator(run.fleet())
    good, bad = loop.call_soon(lambda: "done"), loop.call_soon(lambda: 1 // 0)
    loop.round()
    assert good.result(timeout=0) == "done"
    with pytest.raises(ZeroDivisionError):
        bad.result(timeout=0)


def test_terms_count_up(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path)
    first, second = run.coordinator(run.fleet()), run.coordinator(run.fleet())
    assert second.term == first.term + 1


def rounds(run: SubmittedRun, loop: CoordinatorLoop, seconds: float) -> None:
    until_s = run.world.now_s + seconds
    loop.run(until=lambda: run.world.now_s >= until_s)


def test_without_work_for_a_while_the_fleet_sleeps_once(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path)
    fleet = run.fleet()
    loop = run.coordinator(fleet, long_lived=True)
    run.complete(loop)
    ended_s = run.world.now_s
    rounds(run, loop, SLEEP_S - 2)
    assert fleet.slept_s == []
    rounds(run, loop, 100)
    assert fleet.slept_s == [pytest.approx(ended_s + SLEEP_S, abs=2)]
    loop.wake_devices()
    roused_s = run.world.now_s
    rounds(run, loop, 100)
    assert fleet.slept_s[1:] == [pytest.approx(roused_s + SLEEP_S, abs=2)]


def test_no_fleet_sleeps_while_a_run_has_work_even_if_nothing_runs(tmp_path: Path) -> None:
    """Here its device is away; when it is back, it must not have to be waited for."""
    run = SubmittedRun(tmp_path)
    fleet = run.fleet()
    run.devices[0].linked = False
    loop = run.coordinator(fleet, long_lived=True)
    rounds(run, loop, 10 * SLEEP_S)
    assert fleet.slept_s == []
    loop.handle([RunChanged(RUN, RunStatus.PAUSED)])
    rounds(run, loop, 2 * SLEEP_S)
    assert len(fleet.slept_s) == 1


def test_the_fleet_of_one_command_never_sleeps(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path)
    fleet = run.fleet()
    loop = run.coordinator(fleet)
    run.complete(loop)
    rounds(run, loop, 10 * SLEEP_S)
    assert fleet.slept_s == []


def test_a_device_whose_disk_takes_no_writes_waits_and_goes_on_by_itself(tmp_path: Path) -> None:
    """And burns no queue: one attempt finds it out, and none is counted."""
    run = SubmittedRun(tmp_path)
    loop = run.coordinator(run.fleet())
    run.devices[0].disk_fails = True
    rounds(run, loop, 600.0)
    assert [state for state, _, _ in run.states()] == ["waiting"] * 3
    assert {row.failures for row in run.ledger.jobs(RUN)} == {0}
    assert len(run.devices[0].ran) == 1
    (trouble,) = [each.text for each in run.told if isinstance(each, TroubleReported)]
    assert trouble == "device alpha: its disk is full: No space left on device"
    assert loop.schedule.has_work
    run.devices[0].disk_fails = False
    began_s = run.world.now_s
    while loop.schedule.blocked():
        loop.round()
    assert run.world.now_s - began_s <= RECHECK_S + 2.0
    run.complete(loop)
    assert {cause for _, _, cause in run.states()} == {None}
    assert [each.text for each in run.told if isinstance(each, DeviceAppeared)] == ["joined", "takes jobs again"]


def test_a_device_that_needs_a_reboot_is_asked_for_it_and_its_run_goes_on_elsewhere(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path, (A, B))
    loop = run.coordinator(run.fleet())
    alpha = run.devices[0]
    while alpha.running is None:
        loop.round()
    alpha.hangs_in_driver()
    rounds(run, loop, 600.0)
    assert [state for state, _, _ in run.states()].count("done") == 3, "those of beta"
    assert len(alpha.ran) == 1
    (asked,) = [each.text for each in run.told if isinstance(each, OperatorAsked)]
    assert asked == "reboot alpha: process 7 hangs"
    assert not [each for each in run.fleet().asks if each[1] == "recheck"], "that needs a boot, not a look"
    alpha.reboot()
    run.complete(loop)
    assert {cause for _, _, cause in run.states()} == {None}
    assert loop.schedule.asks() == {}


def test_a_cell_that_hangs_twice_has_that_as_its_result(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path)
    run.outcome = only(run, 1, Failed(Cause.ENGINE_LOST, 'the job process hung at "loading"', hung_stage="loading"))
    run.complete(run.coordinator(run.fleet()))
    assert run.states() == [("done", 1, None), ("done", 2, "engine_lost"), ("done", 1, None)]


def test_a_laptop_that_slept_for_hours_goes_on(tmp_path: Path) -> None:
    """On some systems the monotonic clock goes on meanwhile: every limit of time is over at once when it wakes."""
    run = SubmittedRun(tmp_path, (A, B))
    loop = run.coordinator(run.fleet(), long_lived=True)
    loop.run(until=lambda: run.devices[0].running is not None)
    run.world.now_s += 8 * 3600.0
    run.complete(loop)
    assert run.stored() == [(job_id, 1, "ok") for job_id in run.ids]
    assert loop.trouble == ""
    LedgerWatch(tmp_path / "ledger.sqlite", run.ledger, lambda _: None).look()


@pytest.mark.parametrize("long_lived", [False, True])
def test_a_ledger_that_another_program_holds_is_waited_for(tmp_path: Path, long_lived: bool) -> None:
    """By a command of one person too: a backup takes seconds, and the run does not end for it."""
    run = SubmittedRun(tmp_path)
    loop = run.coordinator(run.fleet(), long_lived=long_lived)
    write, tries = run.ledger.mark_sent, [0]

    def held(*arguments: Any, **__: Any) -> None:
        tries[0] += 1
        if tries[0] <= 3:
            raise LedgerBusy("another program holds it")
        write(*arguments)

    run.ledger.mark_sent = held  # type: ignore[method-assign]
    run.complete(loop)
    troubles = [each.text for each in run.told if isinstance(each, TroubleReported)]
    assert troubles == ["another program holds it; trying again until it works", ""]
    assert [status for _, _, status in run.stored()] == ["ok"] * 3


def test_a_damaged_ledger_is_not_waited_for(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path)
    loop = run.coordinator(run.fleet(), long_lived=True)
    (tmp_path / "ledger.sqlite").unlink()
    with pytest.raises(LedgerDamaged, match=r"rows are safe in runs/"):
        loop.run(until=lambda: run.left() == 0)
    assert run.devices[0].running is None, "nothing is sent that no ledger knows"


def test_devices_that_came_while_the_ledger_was_held_are_recorded_later(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path, (A, B))
    loop = run.coordinator(run.fleet(), long_lived=True)
    record = run.ledger.record_devices

    def held(*_: Any, **__: Any) -> None:
        raise LedgerBusy("another program holds it")

    run.ledger.record_devices = held  # type: ignore[method-assign]
    loop.run(until=lambda: len(loop.registry.addresses) == 2)
    run.ledger.record_devices = record  # type: ignore[method-assign]
    run.complete(loop)
    loop.run(until=lambda: len(run.ledger.devices()) == 2)
