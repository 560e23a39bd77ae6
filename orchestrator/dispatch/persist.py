"""The durable half of what the schedule commands: results into the store, then all of it into the ledger at once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from agents.contract.device import Device
from agents.contract.report import Cause, Failed, Refused, Report
from orchestrator.dispatch.ledger.ledger import Ledger
from orchestrator.dispatch.messages import Command, GiveUp, Keep, PutBack, Retry, Send
from orchestrator.dispatch.runs import Run
from orchestrator.results.rows import Kept
from orchestrator.results.store import Store


class Persister:
    """Writing the same commands a second time changes nothing. Raises OrchestrateError where a disk takes no more."""

    def __init__(
        self, ledger: Ledger, store: Store, runs: Mapping[str, Run], devices: Mapping[str, Device], term: int
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._runs = runs
        self._devices = devices
        self._term = term

    def write(self, commands: Sequence[Command]) -> None:
        """When this returns, what the commands say survives a loss of power."""
        reports = [report for command in commands if (report := report_to_keep(command, self._devices)) is not None]
        self._store.append_many([self._kept(report) for report in reports])
        with self._ledger.batch():
            for command in commands:
                self._note(command)

    def _kept(self, report: Report) -> Kept:
        job = self._runs[report.run_id].job(report.job_id, report.attempt)
        return Kept(job, report, self._devices.get(report.device_id))

    def _note(self, command: Command) -> None:
        match command:
            case Send(_, job_id, attempt, device_id):
                self._ledger.mark_sent(job_id, attempt, device_id, self._term)
            case Keep(report):
                self._ledger.mark_done(report.job_id, report.attempt, cause_of(report), report.elapsed_s)
            case GiveUp(_, job_id, attempt, _, cause, _):
                self._ledger.mark_done(job_id, attempt, cause, 0.0)
            case Retry(_, job_id, _, failures, cause, detail):
                self._ledger.put_back(job_id, cause, detail, failures)
            case PutBack(report):
                self._ledger.put_back(report.job_id)
            case _:
                pass


def report_to_keep(command: Command, devices: Mapping[str, Device]) -> Report | None:
    """The report that becomes the job's rows; one is made where the device could make none."""
    if isinstance(command, Keep):
        return command.report
    if not isinstance(command, GiveUp):
        return None
    outcome = (Refused if command.cause is Cause.WRONG_STATE else Failed)(command.cause, command.detail)
    device = devices.get(command.device_id, command.device_id)
    return Report.unmeasured((command.job_id, command.attempt), command.run_id, outcome, time.time(), device)


def cause_of(report: Report) -> Cause | None:
    """None for a job that was measured."""
    return report.outcome.cause if isinstance(report.outcome, Failed | Refused) else None
