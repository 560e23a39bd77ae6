"""Why a job stands as it does, from ledgers that are made by hand: one for each reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agents.contract.device import MemoryKind, StateSource
from agents.contract.job import MachineState
from agents.contract.report import Cause, Failed
from orchestrator.dispatch.api import JobStory
from orchestrator.dispatch.job_story import FleetState, story_of, with_log
from orchestrator.dispatch.messages import AskOperator, RunStatus
from orchestrator.errors import UsageError
from orchestrator.matrix import matrix_to_json
from orchestrator.plan.changes import Change
from tests.unit.dispatch.submitted_run import RUN, A, SubmittedRun

GIB = 2**30
SPLIT = "axes: {model: tiny:llama, workload: pp8, dedicated_vram: [32GiB]}\nmeasure: {repeats: 1}\n"
APU = replace(
    A, memory_kind=MemoryKind.CARVE_OUT, dedicated_vram_bytes=GIB // 2, split_source=StateSource.SEEN, boot_id="boot-0"
)
HERE = FleetState(frozenset({"id-a"}))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[SubmittedRun]:
    made = SubmittedRun(tmp_path)
    made.ledger.record_devices([A])
    yield made
    made.ledger.close()


def story(run: SubmittedRun, place: int = 0, fleet: FleetState | None = HERE, *, at_work: bool = True) -> JobStory:
    return story_of(run.ledger, run.store, RUN, run.ids[place], fleet, at_work)


def test_a_job_is_named_by_its_beginning_and_told_in_words(run: SubmittedRun) -> None:
    found = story_of(run.ledger, run.store, RUN, run.ids[0][:6], HERE)
    assert (found.run, found.job_id, found.device) == (RUN, run.ids[0], "alpha")
    assert found.cell.split(", ")[0].split()[1:] == ["tiny:llama", "pp8"]
    assert found.cell.endswith(" #1")
    assert found.attempts == ()
    assert found.now == ("it is the next that its device gets",)


@pytest.mark.parametrize("name", ["nope", ""])
def test_another_job_is_refused_with_what_is_allowed(run: SubmittedRun, name: str) -> None:
    with pytest.raises(UsageError) as refused:
        story_of(run.ledger, run.store, RUN, name, HERE)
    assert all(job_id in str(refused.value) for job_id in run.ids)


def test_measured(run: SubmittedRun) -> None:
    run.complete(run.coordinator(run.fleet()))
    found = story(run)
    assert found.now == ("measured, in 2.0 s",)
    (attempt,) = found.attempts
    assert attempt.startswith("attempt 1: sent ") and " to alpha, by term " in attempt
    assert attempt.endswith(": measured")


def test_without_a_figure_with_the_words_of_its_result(run: SubmittedRun) -> None:
    run.outcome = lambda _: Failed(Cause.RAM, "12 GiB are free\nand 20 GiB are needed")
    run.complete(run.coordinator(run.fleet()))
    assert story(run).now == ("no figure: does not load: RAM: 12 GiB are free | and 20 GiB are needed",)


def test_sent_again_says_how_each_attempt_ended(run: SubmittedRun) -> None:
    term = run.ledger.new_term()
    run.ledger.mark_sent(run.ids[0], 1, "id-a", term)
    run.ledger.put_back(run.ids[0], "engine_lost", "exit code -9", 1)
    run.ledger.mark_sent(run.ids[0], 2, "id-a", term)
    found = story(run)
    assert found.now == (
        "failed 1 of 3 times for causes that say nothing of its cell",
        "sent to alpha (attempt 2), and its report has not come",
    )
    first, second = found.attempts
    assert f"by term {term} (" in first and ", process " in first
    assert first.endswith("engine lost: exit code -9")
    assert second.endswith("its end has not been reported")


def test_sent_to_a_device_that_went_away(run: SubmittedRun) -> None:
    run.ledger.mark_sent(run.ids[0], 1, "id-a", 1)
    (_, away) = story(run, fleet=FleetState(frozenset())).now
    assert away.startswith("alpha is not there: last seen ") and "its report counts when it is back" in away


def test_retried_by_a_person(run: SubmittedRun) -> None:
    run.ledger.mark_sent(run.ids[0], 1, "id-a", 1)
    run.ledger.mark_done(run.ids[0], 1, "load_timeout", 5.0)
    run.ledger.requeue(RUN, ["load_timeout"])
    assert story(run).attempts[1:] == ("attempt 2: never sent; `orchestrate retry` put the job into the queue again",)


def test_the_device_is_not_there(run: SubmittedRun) -> None:
    run.ledger.record_devices([A], trouble="another version")
    (absent,) = story(run, fleet=FleetState(frozenset())).now
    assert absent.startswith("its device alpha is not there: last seen ") and absent.endswith(", another version")


@pytest.mark.parametrize("status", [RunStatus.PAUSED, RunStatus.CANCELLED])
def test_the_run_was_stopped(run: SubmittedRun, status: RunStatus) -> None:
    run.ledger.set_run(RUN, status)
    assert story(run).now == (f"the run is {status.value}: go on with: orchestrate resume {RUN}",)


@pytest.mark.parametrize("at_work", [True, False])
def test_without_a_coordinator_to_ask(run: SubmittedRun, at_work: bool) -> None:
    first, second = story(run, fleet=None, at_work=at_work).now
    words = "a submit with a cluster of its own" if at_work else f"go on with: orchestrate resume {RUN}"
    assert words in first
    assert second.startswith("its device alpha: last seen ")


def test_others_come_first_on_its_device(run: SubmittedRun) -> None:
    run.ledger.mark_sent(run.ids[0], 1, "id-a", 1)
    rows = [("other-job", "cell", "id-a", 0), ("elsewhere", "cell", "id-b", 0)]
    run.ledger.add("urgent", "urgent", matrix_to_json(run.matrix), rows, priority=5)
    assert story(run, 2).now == (
        f"its device runs job {run.ids[0]} (attempt 1)",
        "run urgent (priority 5) goes first there; its jobs on this device: 1",
        "jobs of this run that come before it on its device: 1",
    )


@pytest.mark.parametrize("asked", [True, False])
def test_it_wants_a_state_that_its_operator_sets(tmp_path: Path, asked: bool) -> None:
    run = SubmittedRun(tmp_path, (APU,), SPLIT)
    run.ledger.record_devices([APU])
    ask = AskOperator("id-a", RUN, MachineState(32 * GIB), Change.OPERATOR_REBOOT, "it came back with 8192 MiB")
    first, second = story(run, fleet=FleetState(frozenset({"id-a"}), {"id-a": ask} if asked else {})).now
    assert first == "it wants dedicated VRAM 32 GiB, and alpha does not stand so"
    assert "set dedicated VRAM of alpha to 32 GiB and reboot" in second
    assert second.startswith("its operator was asked: " if asked else "its operator is asked when nothing is left")
    assert ("it came back with 8192 MiB" in second) == asked


@pytest.mark.parametrize("rebooting", [True, False])
def test_it_wants_a_state_that_the_agent_sets(tmp_path: Path, rebooting: bool) -> None:
    device = replace(APU, sets_split=True)
    run = SubmittedRun(tmp_path, (device,), SPLIT)
    run.ledger.record_devices([device])
    fleet = FleetState(frozenset({"id-a"}), {}, frozenset({"id-a"} if rebooting else ()))
    (words,) = story(run, fleet=fleet).now
    assert words == (
        "alpha reboots"
        if rebooting
        else "it wants dedicated VRAM 32 GiB: the agent sets that and reboots, after the jobs that fit now"
    )


def test_a_device_that_was_never_seen_and_cells_of_another_version(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path)
    run.ledger.add("old", "old", matrix_to_json(run.matrix), [("j", "unknown-cell", "id-x", 1)])
    found = story_of(run.ledger, run.store, "old", "j", HERE)
    assert (found.cell, found.device) == ("cell unknown-cell #2", "id-x")
    assert found.now == ("its device id-x is not there: never seen by this coordinator",)


def test_the_logs_lines_of_the_job_follow(run: SubmittedRun, tmp_path: Path) -> None:
    time = "2026-11-30T19:20:31.123Z INFO"
    lines = [f"{time} run={RUN} job={key} attempt=1 device=id-a Send" for key in run.ids]
    (tmp_path / "coordinator.log").write_text("\n".join([*lines, ""]))
    assert with_log(story(run), tmp_path).log == (f"coordinator: {lines[0]}",)
