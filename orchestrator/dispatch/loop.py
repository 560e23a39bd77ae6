"""The coordinator: hears the fleet, asks the campaign what follows, does it. All deciding is in ``campaign``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agents.agent import Status
from agents.contract.device import Device
from agents.contract.report import Cause, Failed, Refused, Report
from orchestrator.dispatch.campaign import (
    AttemptEnded,
    Campaign,
    Cancel,
    Command,
    DeviceFree,
    DeviceLost,
    Discard,
    Event,
    Finish,
    Keep,
    PutBack,
    Send,
    StopAsked,
)
from orchestrator.dispatch.fleet import Fleet, Heard
from orchestrator.dispatch.ledger import Ledger
from orchestrator.matrix import Matrix
from orchestrator.plan.jobs import PlannedJob, job_of
from orchestrator.results.store import Store

LISTEN_S = 0.5
STOP_GRACE_S = 15.0
"""How long a stop waits for agents to say that they have cancelled; a resume finds what they say later."""


@dataclass(frozen=True, slots=True)
class JobSent:
    planned: PlannedJob
    device: Device
    attempt: int


@dataclass(frozen=True, slots=True)
class JobProgress:
    device: Device
    status: Status


@dataclass(frozen=True, slots=True)
class JobEnded:
    """``final`` False: it will be tried again."""

    planned: PlannedJob
    device: Device
    report: Report
    final: bool


@dataclass(frozen=True, slots=True)
class DeviceSilent:
    device: Device
    detail: str


@dataclass(frozen=True, slots=True)
class Stopping:
    """A person asked for the end; what runs is being cancelled."""


Happening = JobSent | JobProgress | JobEnded | DeviceSilent | Stopping
"""What a view is told, in the order in which it happens."""


class Coordinator:
    """Runs one campaign to its end, or until ``stop``. Everything it needs is handed in."""

    def __init__(
        self,
        campaign_id: str,
        matrix: Matrix,
        jobs: Mapping[str, PlannedJob],
        campaign: Campaign,
        fleet: Fleet,
        ledger: Ledger,
        store: Store,
        tell: Callable[[Happening], None],
        stop_grace_s: float = STOP_GRACE_S,
    ) -> None:
        self._campaign_id = campaign_id
        self._matrix = matrix
        self._jobs = jobs
        self._campaign = campaign
        self._fleet = fleet
        self._ledger = ledger
        self._store = store
        self._tell = tell
        self._stop_grace_s = stop_grace_s
        self._devices = {device.device_id: device for device in fleet.devices()}
        self._stop = threading.Event()
        self._finished = False

    def stop(self) -> None:
        """Asks for a clean end: what runs is cancelled, what was measured is kept. From any thread, or a signal."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def run(self) -> None:
        """Raises OrchestrateError where the store or the ledger cannot be written; a resume loses nothing then."""
        asked_at: float | None = None
        for device_id in self._devices:
            self._handle(DeviceFree(device_id))
        while not self._finished:
            if self._stop.is_set() and asked_at is None:
                asked_at = time.monotonic()
                self._tell(Stopping())
                self._handle(StopAsked())
                continue
            if asked_at is not None and time.monotonic() - asked_at > self._stop_grace_s:
                return
            for news in self._fleet.listen(LISTEN_S):
                if isinstance(news, Heard):
                    self._heard(news)
                else:
                    self._tell(DeviceSilent(self._devices[news.device_id], news.detail))
                    self._handle(DeviceLost(news.device_id, news.detail))

    def _heard(self, news: Heard) -> None:
        self._tell(JobProgress(self._devices[news.device_id], news.status))
        for report in news.status.reports:
            if report.campaign_id == self._campaign_id:
                self._handle(AttemptEnded(report))

    def _handle(self, event: Event) -> None:
        for command in self._campaign.handle(event):
            self._perform(command)

    def _perform(self, command: Command) -> None:
        match command:
            case Send(job_id, attempt, device_id):
                self._send(job_id, attempt, device_id)
            case Keep(report, final):
                self._keep(report, final)
            case PutBack(report):
                self._ledger.put_back(report.job_id)
                self._fleet.collected(report)
            case Discard(report):
                self._fleet.collected(report)
            case Cancel(device_id):
                self._fleet.cancel(device_id)
            case Finish():
                self._finished = True

    def _send(self, job_id: str, attempt: int, device_id: str) -> None:
        planned = self._jobs[job_id]
        self._ledger.sent(job_id, attempt)
        self._fleet.send(device_id, job_of(self._matrix, self._campaign_id, planned, attempt))
        self._tell(JobSent(planned, self._devices[device_id], attempt))

    def _keep(self, report: Report, final: bool) -> None:
        planned, device = self._jobs[report.job_id], self._devices[report.device_id]
        keep_report(self._store, self._matrix, planned, report, device)
        if final:
            record_done(self._ledger, report)
        else:
            self._ledger.put_back(report.job_id)
        self._fleet.collected(report)
        self._tell(JobEnded(planned, device, report, final))


def keep_report(store: Store, matrix: Matrix, planned: PlannedJob, report: Report, device: Device | None) -> None:
    """Puts one attempt into the store. Raises OrchestrateError."""
    store.append(job_of(matrix, report.campaign_id, planned, report.attempt), report, device)


def record_done(ledger: Ledger, report: Report) -> None:
    ledger.done(report.job_id, report.attempt, cause_of(report), report.ended_unix_s - report.started_unix_s)


def cause_of(report: Report) -> Cause | None:
    """None for a job that was measured."""
    return report.outcome.cause if isinstance(report.outcome, Failed | Refused) else None
