"""What the schedule commands, written down: all of it or none, and a second time changes nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from agents.contract.device import Device
from agents.contract.report import Cause, Failed, Outcome, Refused, Report
from orchestrator.dispatch.messages import (
    Cancel,
    Command,
    CompleteRun,
    Discard,
    GiveUp,
    Keep,
    PutBack,
    Retry,
    Send,
    SetAside,
    Unload,
)
from orchestrator.dispatch.persist import Persister, cause_of, report_to_keep
from orchestrator.errors import OrchestrateError
from orchestrator.plan.jobs import job_of
from orchestrator.results.durable import StoreFull
from tests.fakes.reports import report_of
from tests.unit.dispatch.submitted_run import RUN, A, SubmittedRun
from tests.unit.results.made_attempts import MEASURED

TERM = 7
ENGINE_LOST = Failed(Cause.ENGINE_LOST, "gone")
DEVICES: dict[str, Device] = {"id-a": A}


def records_of(run: SubmittedRun) -> Persister:
    return Persister(run.ledger, run.store, {RUN: run.run}, DEVICES, TERM)


def report_at(run: SubmittedRun, outcome: Outcome = MEASURED, attempt: int = 1, which: int = 0) -> Report:
    return report_of(job_of(run.matrix, RUN, run.run.jobs[run.ids[which]], attempt), outcome, A)


def everything(run: SubmittedRun) -> list[Command]:
    """One of each kind, as three jobs may bring them about in one round."""
    _, second, third = run.ids
    lost = report_at(run, ENGINE_LOST, which=1)
    return [
        Keep(report_at(run)),
        Retry(RUN, second, 1, 1, Cause.ENGINE_LOST, "gone", lost),
        Send(RUN, second, 2, "id-a"),
        GiveUp(RUN, third, 1, "id-a", Cause.WRONG_STATE, "the operator says so"),
        Discard(lost),
        SetAside(report_at(run, attempt=9)),
        Cancel("id-a"),
        Unload("id-a"),
        CompleteRun(RUN),
    ]


def ledger_of(folder: Path) -> list[tuple[object, ...]]:
    """All that the ledger holds, without when it was written."""
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as db:
        return [
            *db.execute("SELECT job_id, state, attempt, cause, seconds, failures FROM jobs ORDER BY position"),
            *db.execute("SELECT job_id, attempt, device_id, term, ending, detail FROM attempts ORDER BY 1, 2"),
            *db.execute("SELECT device_id, job_id, attempt, term FROM leases ORDER BY 1"),
        ]


def files_of(folder: Path) -> list[str]:
    return sorted(str(each.relative_to(folder)) for each in (folder / "runs").rglob("*") if each.is_file())


def begun(folder: Path) -> SubmittedRun:
    run = SubmittedRun(folder)
    for job_id in run.ids:
        run.ledger.mark_sent(job_id, 1, "id-a", TERM)
    return run


def test_what_is_written(tmp_path: Path) -> None:
    run = begun(tmp_path)
    records_of(run).write(everything(run))
    first, second, third = run.ids
    assert run.states() == [("done", 1, None), ("sent", 2, None), ("done", 1, "wrong_state")]
    assert [(row.seconds, row.failures) for row in run.ledger.jobs(RUN)] == [(2.0, 0), (None, 1), (0.0, 0)]
    assert run.stored() == [(first, 1, "ok"), (third, 1, "refused")], "an attempt that is repeated is no row"
    assert run.ledger.leases() == {"id-a": (second, 2)}


def test_a_second_time_changes_nothing(tmp_path: Path) -> None:
    run = begun(tmp_path)
    records, commands = records_of(run), everything(run)
    records.write(commands)
    ledger, files, rows = ledger_of(tmp_path), files_of(tmp_path), run.store.load(RUN).num_rows
    records.write(commands)
    assert (ledger_of(tmp_path), files_of(tmp_path)) == (ledger, files)
    assert run.store.load(RUN).num_rows == rows


def test_one_result_twice_is_one_file(tmp_path: Path) -> None:
    run = begun(tmp_path)
    keep = Keep(report_at(run))
    records_of(run).write([keep])
    before = files_of(tmp_path)
    records_of(run).write([keep])
    assert files_of(tmp_path) == before
    assert run.stored() == [(run.ids[0], 1, "ok")]


def _full_store(run: SubmittedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise StoreFull("no space left")

    monkeypatch.setattr(run.store, "append_many", full)


def _full_ledger(run: SubmittedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = run.ledger.mark_sent

    def full(*arguments: object) -> None:  # in the middle of the batch
        sent(*arguments)  # type: ignore[arg-type]
        raise OrchestrateError("the disk is full")

    monkeypatch.setattr(run.ledger, "mark_sent", full)


@pytest.mark.parametrize("breaks", [_full_store, _full_ledger])
def test_after_it_broke_off_the_same_again_writes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks: Callable[[SubmittedRun, pytest.MonkeyPatch], None]
) -> None:
    whole, broken = begun(tmp_path / "whole"), begun(tmp_path / "broken")
    records_of(whole).write(everything(whole))
    before = ledger_of(tmp_path / "broken")
    with monkeypatch.context() as patch:
        breaks(broken, patch)
        with pytest.raises(OrchestrateError):
            records_of(broken).write(everything(broken))
    assert ledger_of(tmp_path / "broken") == before, "the ledger is told all of it or nothing"
    records_of(broken).write(everything(broken))
    assert ledger_of(tmp_path / "broken") == ledger_of(tmp_path / "whole")
    assert broken.stored() == whole.stored()


def test_results_are_on_the_disk_before_the_ledger_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begun(tmp_path)
    order: list[str] = []
    append, done = run.store.append_many, run.ledger.mark_done

    def appended(attempts: Sequence[object]) -> None:
        order.append(f"store {len(attempts)}")
        append(attempts)  # type: ignore[arg-type]

    def told(*arguments: object) -> None:
        order.append("ledger")
        done(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(run.store, "append_many", appended)
    monkeypatch.setattr(run.ledger, "mark_done", told)
    records_of(run).write(everything(run))
    assert order == ["store 2", "ledger", "ledger"]


def test_what_was_cancelled_waits_again(tmp_path: Path) -> None:
    run = begun(tmp_path)
    records_of(run).write([PutBack(report_at(run, Failed(Cause.CANCELLED, "asked to")))])
    assert run.states()[0] == ("waiting", 1, None)
    assert run.ledger.jobs(RUN)[0].failures == 0
    assert run.stored() == []


def test_a_lost_device_leaves_no_row(tmp_path: Path) -> None:
    run = begun(tmp_path)
    records_of(run).write([Retry(RUN, run.ids[0], 1, 1, Cause.DEVICE_LOST, "silent")])
    assert run.states()[0] == ("waiting", 1, None)
    assert run.stored() == []
    assert (run.ids[0], 1, "id-a", TERM, "device_lost", "silent") in ledger_of(tmp_path)


@pytest.mark.parametrize(
    ("cause", "status", "kind"), [(Cause.WRONG_STATE, "refused", Refused), (Cause.DEVICE_LOST, "failed", Failed)]
)
def test_a_job_that_is_given_up_is_a_row_that_says_why(
    tmp_path: Path, cause: Cause, status: str, kind: type[Outcome]
) -> None:
    run = begun(tmp_path)
    records_of(run).write([GiveUp(RUN, run.ids[0], 3, "id-a", cause, "in these words")])
    (row,) = run.store.load(RUN).to_pylist()
    assert (row["job_id"], row["attempt"], row["status"]) == (run.ids[0], 3, status)
    assert (row["cause"], row["detail"], row["device_id"]) == (cause, "in these words", "id-a")
    assert run.states()[0] == ("done", 3, cause)
    made = report_to_keep(GiveUp(RUN, run.ids[0], 3, "id-a", cause, "in these words"), DEVICES)
    assert made is not None
    assert isinstance(made.outcome, kind)
    assert (made.fingerprint, made.boot_id) == (A.fingerprint, A.boot_id)


def test_a_job_of_a_device_that_was_never_seen_can_be_given_up(tmp_path: Path) -> None:
    run = begun(tmp_path)
    records = Persister(run.ledger, run.store, {RUN: run.run}, {}, TERM)
    records.write([GiveUp(RUN, run.ids[0], 1, "id-a", Cause.WRONG_STATE, "never there")])
    assert run.stored() == [(run.ids[0], 1, "refused")]


def test_only_what_ends_a_job_is_kept(tmp_path: Path) -> None:
    run = begun(tmp_path)
    kept = [type(each).__name__ for each in everything(run) if report_to_keep(each, DEVICES) is not None]
    assert kept == ["Keep", "GiveUp"]


@pytest.mark.parametrize(
    ("outcome", "cause"),
    [(MEASURED, None), (ENGINE_LOST, Cause.ENGINE_LOST), (Refused(Cause.RAM, "too big"), Cause.RAM)],
)
def test_the_cause_of_a_report(tmp_path: Path, outcome: Outcome, cause: Cause | None) -> None:
    assert cause_of(report_at(SubmittedRun(tmp_path), outcome)) is cause


def test_a_log_goes_with_its_row(tmp_path: Path) -> None:
    run = begun(tmp_path)
    records_of(run).write([Keep(replace(report_at(run), log="loading\n"))])
    (path,) = {row["log_path"] for row in run.store.load(RUN).to_pylist()}
    assert (tmp_path / "runs" / RUN / path).read_text() == "loading\n"
