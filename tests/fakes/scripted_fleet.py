"""A fleet in memory: devices do what a script says, and every call is written down in its order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agents.agent import Status
from agents.contract.device import Device
from agents.contract.job import Job
from agents.contract.report import Cause, Failed, Outcome, Report
from orchestrator.dispatch.fleet import Heard, Silent

CANCELLED = Failed(Cause.CANCELLED, "cancelled")


@dataclass(frozen=True, slots=True)
class Gone:
    """The device stops to answer while it has this job."""

    detail: str = "the link is down"


@dataclass(frozen=True, slots=True)
class Deaf:
    """The job goes on for ever, and a cancel is not heard."""


@dataclass(frozen=True, slots=True)
class Endless:
    """The job goes on until it is cancelled."""


Step = Outcome | Gone | Deaf | Endless
Key = tuple[str, int]
"""(job_id, attempt)"""


@dataclass
class ScriptedFleet:
    """``script`` says how each job ends. ``spool`` is the devices' disk: hand it to the next fleet to restart one.

    As a real agent does, a device repeats a report in each answer until it is collected.
    """

    listed: Sequence[Device]
    script: Callable[[Job], Step]
    spool: dict[Key, Report] = field(default_factory=dict)
    calls: list[tuple[str, ...]] = field(default_factory=list)
    _running: dict[str, Job] = field(default_factory=dict)
    _cancelled: set[str] = field(default_factory=set)
    _told: dict[str, list[Report]] = field(default_factory=dict)

    def devices(self) -> Sequence[Device]:
        return tuple(self.listed)

    def send(self, device_id: str, job: Job) -> None:
        assert device_id not in self._running, f"{device_id} has a job already"
        self.calls.append(("send", device_id, job.job_id, str(job.attempt)))
        self._running[device_id] = job

    def listen(self, wait_s: float) -> Sequence[Heard | Silent]:
        return [self._answer(device_id, job) for device_id, job in list(self._running.items())]

    def _answer(self, device_id: str, job: Job) -> Heard | Silent:
        step = self.script(job)
        if isinstance(step, Endless | Deaf) and device_id in self._cancelled and not isinstance(step, Deaf):
            step = CANCELLED
        if isinstance(step, Endless | Deaf):
            return Heard(device_id, Status(job.job_id, "measuring", 0, None, ()))
        del self._running[device_id]
        self._cancelled.discard(device_id)
        if isinstance(step, Gone):
            return Silent(device_id, step.detail)
        report = report_of(job, step, self._device(device_id))
        self.spool[job.job_id, job.attempt] = report
        told = self._told.setdefault(device_id, [])
        told.append(report)
        return Heard(device_id, Status(None, "idle", 0, None, tuple(told)))

    def _device(self, device_id: str) -> Device:
        return next(device for device in self.listed if device.device_id == device_id)

    def uncollected(self, campaign_id: str) -> Sequence[Report]:
        return [report for report in self.spool.values() if report.campaign_id == campaign_id]

    def collected(self, report: Report) -> None:
        self.calls.append(("collected", report.device_id, report.job_id, str(report.attempt)))
        self.spool.pop((report.job_id, report.attempt), None)
        told = self._told.get(report.device_id, [])
        told[:] = [each for each in told if (each.job_id, each.attempt) != (report.job_id, report.attempt)]

    def cancel(self, device_id: str) -> None:
        self.calls.append(("cancel", device_id))
        self._cancelled.add(device_id)

    def close(self) -> None:
        self.calls.append(("close",))


def report_of(job: Job, outcome: Outcome, device: Device) -> Report:
    """As an agent on ``device`` would say it; the job took two seconds."""
    return Report(
        job_id=job.job_id,
        attempt=job.attempt,
        campaign_id=job.campaign_id,
        device_id=device.device_id,
        fingerprint=device.fingerprint,
        boot_id=device.boot_id,
        started_unix_s=1_700_000_000.0,
        ended_unix_s=1_700_000_002.0,
        outcome=outcome,
    )
