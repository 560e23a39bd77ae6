"""A coordinator that cannot start gives everything back; one whose ledger is held or damaged says so in time."""

from __future__ import annotations

import logging
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agents.agent.calls import AgentStatus
from agents.contract.report import Cause, Failed, Report
from orchestrator.dispatch.api import Submission
from orchestrator.dispatch.coordinator import Coordinator
from orchestrator.dispatch.fleet import DeviceGreeted
from orchestrator.dispatch.ledger.backup import backups_of
from orchestrator.dispatch.ledger.file import LedgerBusy, LedgerDamaged
from orchestrator.dispatch.ledger.ledger import Ledger
from orchestrator.dispatch.ledger.record import read_record, read_state
from orchestrator.dispatch.messages import RunStatus
from orchestrator.errors import OrchestrateError, UsageError
from orchestrator.matrix import matrix_to_json
from tests.fakes.idle_fleet import IdleFleet
from tests.fakes.matrices import matrix_and_cells
from tests.unit.dispatch.submitted_run import THREE_CELLS, A, SubmittedRun
from tests.waiting import until

HOLD = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""

GREETED = DeviceGreeted(A, AgentStatus(None, "idle", 0, None, ()), "10.0.0.5")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("ORCHESTRATE_HEAD_MODELS_PORT", raising=False)
    return tmp_path / "home"


@contextmanager
def held_by_a_backup(ledger: Path) -> Iterator[Callable[[], None]]:
    """Another process holds the ledger, until the function is called."""
    command = [sys.executable, "-c", HOLD, str(ledger)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield lambda: process.communicate() and None
        finally:
            process.kill()


def started(home: Path) -> Coordinator:
    return Coordinator(home, IdleFleet)


def submitted(home: Path) -> SubmittedRun:
    (home / "runs" / "run-1").mkdir(parents=True)
    run = SubmittedRun(home)
    run.ledger.close()
    return run


class TestAllOrNothing:
    def test_a_ledger_that_a_backup_holds(self, home: Path) -> None:
        started(home).close()
        with held_by_a_backup(home / "ledger.sqlite") as let_it_end:
            began_s = time.monotonic()
            for _ in range(2):
                with pytest.raises(LedgerBusy, match="another program holds it"):
                    started(home)
            assert time.monotonic() - began_s < 10.0
            let_it_end()
            started(home).close()

    def test_settings_that_cannot_be_read(self, home: Path) -> None:
        home.mkdir()
        (home / "coordinator.yaml").write_text("notify: {comand: [x]}")
        for _ in range(2):
            with pytest.raises(UsageError, match=r"coordinator\.yaml: notify\.comand"):
                started(home)
        (home / "coordinator.yaml").unlink()
        started(home).close()

    def test_a_port_that_is_taken(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("0.0.0.0", 0)) as taken:
            port = taken.getsockname()[1]
            monkeypatch.setenv("ORCHESTRATE_HEAD_MODELS_PORT", str(port))
            for _ in range(2):
                with pytest.raises(OrchestrateError, match=f"cannot serve model files at port {port}: .*in use"):
                    started(home)
        started(home).close()

    @pytest.mark.parametrize("broken", ["new_term", "runs"])
    def test_a_disk_that_is_full(self, home: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
        """The model server and the fleet are there by then: both are given back, the port too."""
        with socket.create_server(("0.0.0.0", 0)) as found:
            port = found.getsockname()[1]
        monkeypatch.setenv("ORCHESTRATE_HEAD_MODELS_PORT", str(port))
        fleets: list[IdleFleet] = []

        def make_fleet() -> IdleFleet:
            fleets.append(IdleFleet())
            return fleets[-1]

        def full(_: object) -> None:
            raise OrchestrateError("database or disk is full")

        threads = threading.active_count()
        with monkeypatch.context() as patched:
            patched.setattr(f"orchestrator.dispatch.ledger.ledger.Ledger.{broken}", full)
            for _ in range(2):
                with pytest.raises(OrchestrateError, match="disk is full"):
                    Coordinator(home, make_fleet)
        assert [fleet.is_closed for fleet in fleets] == [True, True]
        until(lambda: threading.active_count() == threads, "the end of its threads")
        Coordinator(home, make_fleet).close()

    def test_why_it_did_not_start_is_in_the_log(self, home: Path) -> None:
        home.mkdir()
        (home / "coordinator.yaml").write_text("[")
        with pytest.raises(UsageError):
            started(home)
        assert "CoordinatorNotStarted" in (home / "coordinator.log").read_text()

    def test_another_coordinator_is_still_another_coordinator(self, home: Path) -> None:
        with closing(started(home)), pytest.raises(OrchestrateError, match="another coordinator works on"):
            started(home)


def test_a_run_does_not_stay_behind_when_the_ledger_is_held_at_the_start(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left out, it would stand still until the next start, and nothing would say so."""
    submitted(home)

    def held(*_: object) -> None:
        raise LedgerBusy("held")

    with monkeypatch.context() as patched, pytest.raises(LedgerBusy):
        patched.setattr("orchestrator.dispatch.loop.remaining_of", held)
        started(home)
    with closing(started(home)) as coordinator:
        assert len(coordinator.snapshot("run-1").waiting) == 1


class TestHeldWhileItWorks:
    def test_status_answers_and_says_so_and_what_waits_is_done_later(self, home: Path) -> None:
        submitted(home)
        fleet = IdleFleet()
        with closing(Coordinator(home, lambda: fleet)) as coordinator:
            with held_by_a_backup(home / "ledger.sqlite") as let_it_end:
                fleet.events = [GREETED]
                fleet.interrupt()
                began_s, slowest_s = time.monotonic(), 0.0
                while not any("another program holds it" in each for each in coordinator.status().troubles):
                    assert time.monotonic() - began_s < 10.0, "what it waits for is not reported"
                for _ in range(5):
                    asked_s = time.monotonic()
                    view = coordinator.status()
                    slowest_s = max(slowest_s, time.monotonic() - asked_s)
                assert slowest_s < 2.0
                assert [each.row.id for each in view.runs] == ["run-1"]
                assert "another program holds it" in coordinator.snapshot("run-1").trouble
                assert fleet.sent == [], "no job goes out that no ledger knows"
                let_it_end()
            until(lambda: len(fleet.sent) == 1, "the job")
            assert coordinator.status().troubles == ()

    def test_a_change_says_so_and_is_not_made_later(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("orchestrator.dispatch.loop_thread.TROUBLE_S", 0.5)
        submitted(home)
        fleet = IdleFleet()
        with closing(Coordinator(home, lambda: fleet)) as coordinator:
            with held_by_a_backup(home / "ledger.sqlite") as let_it_end:
                fleet.events = [GREETED]
                fleet.interrupt()
                until(lambda: bool(coordinator.status().troubles), "the trouble")
                with pytest.raises(OrchestrateError, match=r"does not get to it: .*another program holds it"):
                    coordinator.set_run("run-1", RunStatus.CANCELLED)
                let_it_end()
            until(lambda: len(fleet.sent) == 1, "the job")
            assert coordinator.snapshot("run-1").status is RunStatus.RUNNING

    def test_a_run_is_submitted_when_it_is_free(self, home: Path) -> None:
        fleet = IdleFleet()
        matrix, _ = matrix_and_cells(THREE_CELLS)
        with closing(Coordinator(home, lambda: fleet)) as coordinator:
            fleet.events = [GREETED]
            with held_by_a_backup(home / "ledger.sqlite") as let_it_end:
                ending = threading.Timer(1.0, let_it_end)
                ending.start()
                run = coordinator.submit(Submission(matrix_to_json(matrix))).run
                ending.join()
            until(lambda: len(fleet.sent) == 1, "the job")
            assert read_record(home, run).job_rows()[0][0] in fleet.sent


class TestDamaged:
    @pytest.mark.parametrize("own_cluster", [False, True])
    def test_a_ledger_that_is_deleted_under_it(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, own_cluster: bool
    ) -> None:
        monkeypatch.setattr("orchestrator.dispatch.ledger.watch.EVERY_S", 0.05)
        submitted(home)
        failures: list[BaseException] = []
        coordinator = Coordinator(home, IdleFleet, own_cluster=own_cluster, on_failure=failures.append)
        with closing(coordinator):
            (home / "ledger.sqlite").unlink()
            until(lambda: bool(failures), "that it is noticed", deadline_s=10.0)
            with pytest.raises(LedgerDamaged, match=r"rows are safe in runs/.*orchestrate repair"):
                coordinator.status()
        with pytest.raises(LedgerDamaged, match=r"the ledger is gone; your rows are safe in runs/"):
            started(home)

    def test_one_that_is_no_database(self, home: Path) -> None:
        started(home).close()
        (home / "ledger.sqlite").write_text("no pages of a database " * 400)
        for _ in range(2):
            with pytest.raises(LedgerDamaged, match=r"not a database; your rows are safe in runs/"):
                started(home)

    def test_one_that_lacks_a_run_says_which(self, home: Path) -> None:
        submitted(home)
        started(home).close()
        with sqlite3.connect(home / "ledger.sqlite") as db:
            db.execute("DELETE FROM jobs")
            db.execute("DELETE FROM runs")
        with closing(started(home)) as coordinator:
            (trouble,) = coordinator.status().troubles
        assert "knows nothing of run-1" in trouble and "orchestrate repair" in trouble


class TestWhatIsKeptForARepair:
    def test_a_run_of_an_older_version_is_recorded_at_the_start(self, home: Path) -> None:
        run = submitted(home)
        started(home).close()
        assert [job for job, *_ in read_record(home, "run-1").job_rows()] == run.ids
        assert (home / "runs" / "run-1" / "run.json").stat().st_mode & 0o777 == 0o600

    def test_what_becomes_of_a_run(self, home: Path) -> None:
        submitted(home)
        with closing(started(home)) as coordinator:
            coordinator.set_run("run-1", RunStatus.PAUSED, 4)
            state = read_state(home, "run-1")
            assert state is not None
            assert (state.status, state.priority) == (RunStatus.PAUSED, 4)

    @pytest.mark.parametrize("own_cluster", [False, True])
    def test_the_ledger_at_each_end_of_a_run(self, home: Path, own_cluster: bool) -> None:
        run, fleet = submitted(home), IdleFleet()
        with closing(Ledger(home / "ledger.sqlite")) as ledger:
            for job_id in run.ids:
                ledger.mark_sent(job_id, 1, A.device_id)
        with closing(Coordinator(home, lambda: fleet, own_cluster=own_cluster)) as coordinator:
            loop, failed = coordinator._loop, Failed(Cause.RAM, "too big")
            reports = tuple(Report.unmeasured((job_id, 1), "run-1", failed, 1.0, A) for job_id in run.ids)
            if own_cluster:  # the other has resumed it
                coordinator._on_loop(lambda: loop.resume_run("run-1"))
            fleet.events = [replace(GREETED, status=replace(GREETED.status, reports=reports))]
            fleet.interrupt()
            until(lambda: bool(backups_of(home)), "the backup")
        with closing(Ledger(backups_of(home)[0])) as backup:
            assert backup.run("run-1").remaining == 0


def test_a_home_is_for_its_owner_alone_from_the_next_start_on(home: Path) -> None:
    submitted(home)
    names = ("coordinator.log", "coordinator.log.1", "coordinator.yaml", "ledger.sqlite")
    (home / "coordinator.yaml").write_text("{}")
    (home / "coordinator.log").write_text("")
    (home / "coordinator.log.1").write_text("")
    home.chmod(0o755)
    for name in names:
        (home / name).chmod(0o644)
    logging.getLogger("orchestrator")  # the log is the coordinator's own
    with closing(started(home)):
        modes = {path.name: path.stat().st_mode & 0o777 for path in home.iterdir() if path.is_file()}
    assert home.stat().st_mode & 0o777 == 0o700
    assert modes == dict.fromkeys(modes, 0o600)
    assert {*names, "ledger.sqlite-wal", "ledger.sqlite-shm"} <= modes.keys()
