"""A device that does not come back does not keep a run open for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.dispatch.absences import CHECK_S
from orchestrator.dispatch.loop import CoordinatorLoop
from orchestrator.dispatch.messages import DeviceSkipped, RunChanged, RunStatus
from orchestrator.dispatch.notify import Notifier, NotifyFile
from orchestrator.dispatch.views import Views
from tests.unit.dispatch.submitted_run import RUN, THREE_CELLS, A, B, SubmittedRun

HOUR_S = 3600.0
AWAY_AFTER = "devices: {away_after: 2h}\n" + THREE_CELLS


def without_beta(run: SubmittedRun) -> CoordinatorLoop:
    """Alpha has done its jobs; beta never came."""
    run.devices[1].cut(1e9)
    loop = run.coordinator(run.fleet())
    loop.run(until=lambda: run.left() == len(run.ids) / 2)
    return loop


def advance(run: SubmittedRun, loop: CoordinatorLoop, seconds: float) -> None:
    until_s = run.world.now_s + seconds
    while run.world.now_s < until_s:
        loop.round(wait_s=CHECK_S)


@pytest.fixture
def run(tmp_path: Path) -> SubmittedRun:
    return SubmittedRun(tmp_path, (A, B), AWAY_AFTER)


class TestSkippedByItsOperator:
    def test_its_pending_jobs_become_rows_and_the_run_is_complete(self, tmp_path: Path) -> None:
        run = SubmittedRun(tmp_path, (A, B))
        loop = without_beta(run)
        advance(run, loop, 24 * HOUR_S)
        assert run.left() == 3, "without a word the run waits"
        loop.handle([DeviceSkipped("id-b", "skipped by its operator")])
        assert run.left() == 0
        rows = [row for row in run.store.load(RUN).to_pylist() if row["device"] == "beta" or row["device_id"] == "id-b"]
        assert {(row["cause"], row["detail"]) for row in rows} == {("device_lost", "skipped by its operator")}
        assert len(rows) == 3

    def test_a_job_that_runs_there_goes_on_and_counts(self, tmp_path: Path) -> None:
        run = SubmittedRun(tmp_path)
        loop = run.coordinator(run.fleet())
        loop.run(until=lambda: bool(loop.schedule.running_attempts()))
        ((job_id, _),) = loop.schedule.running_attempts().values()
        loop.handle([DeviceSkipped("id-a", "skipped by its operator")])
        run.complete(loop)
        assert {key: status for key, _, status in run.stored()} == {
            each: "ok" if each == job_id else "failed" for each in run.ids
        }

    def test_a_device_that_nobody_knows(self, tmp_path: Path) -> None:
        loop = SubmittedRun(tmp_path).coordinator(SubmittedRun(tmp_path / "other").fleet())
        loop.handle([DeviceSkipped("nobody", "skipped by its operator")])


class TestAwayAfter:
    def test_it_is_skipped_when_its_time_is_over(self, run: SubmittedRun) -> None:
        loop = without_beta(run)
        advance(run, loop, 1.9 * HOUR_S)
        assert run.left() == 3
        advance(run, loop, 0.2 * HOUR_S)
        assert run.left() == 0
        details = {row["detail"] for row in run.store.load(RUN).to_pylist() if row["status"] != "ok"}
        assert details == {"away for more than 7200 s, as `devices: away_after` allows"}

    def test_a_device_that_comes_back_in_time_begins_anew(self, run: SubmittedRun) -> None:
        loop = without_beta(run)
        advance(run, loop, 1.9 * HOUR_S)
        run.devices[1]._heal()
        run.complete(loop, within_s=HOUR_S)
        assert {status for _, _, status in run.stored()} == {"ok"}

    def test_a_run_that_is_paused_waits(self, run: SubmittedRun) -> None:
        loop = without_beta(run)
        loop.handle([RunChanged(RUN, RunStatus.PAUSED)])
        advance(run, loop, 3 * HOUR_S)
        assert run.left() == 3


def test_how_long_it_is_away_and_what_waits(tmp_path: Path) -> None:
    run = SubmittedRun(tmp_path, (A, B))
    loop = without_beta(run)
    views = Views(loop, run.ledger, loop._board, Notifier(NotifyFile()))
    advance(run, loop, HOUR_S)
    (absent,) = views.status().absent
    assert (absent.device, absent.jobs) == ("id-b", 3), "no name: it was never there"
    run.ledger.record_devices([B])
    (absent,) = views.status().absent
    assert absent.device == "beta"
