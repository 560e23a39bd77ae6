"""What happens next in a campaign: events in, commands out. PURE; no clock, no I/O.

A job is waiting, then sent (to one device, with an attempt number), then done. Exactly one attempt of a job is
current; a report of any other is discarded. Causes in RETRIED put a job back, MAX_ATTEMPTS times in all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agents.contract.report import RETRIED, Cause, Failed, Refused, Report

MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class DeviceFree:
    """A device is there and runs nothing."""

    device_id: str


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    report: Report


@dataclass(frozen=True, slots=True)
class DeviceLost:
    device_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class StopAsked:
    """A person wants to end: what runs is cancelled, nothing more is sent."""


Event = DeviceFree | AttemptEnded | DeviceLost | StopAsked


@dataclass(frozen=True, slots=True)
class Send:
    job_id: str
    attempt: int
    device_id: str


@dataclass(frozen=True, slots=True)
class Keep:
    """Store this report as the result of its job, or (``final`` False) of an attempt that will be repeated."""

    report: Report
    final: bool


@dataclass(frozen=True, slots=True)
class PutBack:
    """The attempt was cancelled: the job waits again, and the report is no result."""

    report: Report


@dataclass(frozen=True, slots=True)
class Discard:
    """Not the current attempt: another result counts."""

    report: Report


@dataclass(frozen=True, slots=True)
class Cancel:
    device_id: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing runs, and nothing more can: all is done, or all devices with work are lost, or a stop was asked."""


Command = Send | Keep | PutBack | Discard | Cancel | Finish


class Campaign:
    """``queues``: waiting jobs of each device in order. ``attempts``: attempts already made of each job."""

    def __init__(self, queues: Mapping[str, Iterable[str]], attempts: Mapping[str, int] | None = None) -> None:
        self._waiting = {device: deque(jobs) for device, jobs in queues.items()}
        self._attempts = dict(attempts or {})
        self._running: dict[str, str] = {}  # device -> job
        self._lost: set[str] = set()  # devices that answer no more; DeviceFree says that one is back
        self._stopping = False

    @property
    def waiting(self) -> int:
        return sum(len(queue) for queue in self._waiting.values())

    def handle(self, event: Event) -> list[Command]:
        match event:
            case DeviceFree(device_id):
                self._lost.discard(device_id)
                return self._next(device_id)
            case AttemptEnded(report):
                return self._ended(report)
            case DeviceLost(device_id, _):
                return self._gone(device_id)
            case StopAsked():
                self._stopping = True
                running: list[Command] = [Cancel(device_id) for device_id in self._running]
                return running or [Finish()]

    def _next(self, device_id: str) -> list[Command]:
        queue = self._waiting.get(device_id)
        if queue and not self._stopping and device_id not in self._running:
            job_id = queue.popleft()
            attempt = self._attempts.get(job_id, 0) + 1
            self._attempts[job_id] = attempt
            self._running[device_id] = job_id
            return [Send(job_id, attempt, device_id)]
        return self._finish_if_idle()

    def _ended(self, report: Report) -> list[Command]:
        device_id, job_id = report.device_id, report.job_id
        current = self._running.get(device_id) == job_id and self._attempts.get(job_id) == report.attempt
        if not current:
            return [Discard(report)]
        del self._running[device_id]
        cause = report.outcome.cause if isinstance(report.outcome, Failed | Refused) else None
        if cause is Cause.CANCELLED:
            self._waiting[device_id].appendleft(job_id)
            return [PutBack(report), *self._next(device_id)]
        again = cause in RETRIED and report.attempt < MAX_ATTEMPTS
        if again:
            self._waiting[device_id].appendleft(job_id)
        return [Keep(report, final=not again), *self._next(device_id)]

    def _gone(self, device_id: str) -> list[Command]:
        """Its job may still be running there; it waits again, and only a newer attempt will count."""
        self._lost.add(device_id)
        job_id = self._running.pop(device_id, None)
        if job_id is not None:
            self._waiting[device_id].appendleft(job_id)
        return self._finish_if_idle()

    def _finish_if_idle(self) -> list[Command]:
        if self._running:
            return []
        open_devices = [device for device, queue in self._waiting.items() if queue and device not in self._lost]
        return [] if open_devices and not self._stopping else [Finish()]
