"""A fleet without devices, for a coordinator that runs on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from agents.agent.calls import Grant
from agents.contract.job import Job
from agents.contract.report import Attempt
from orchestrator.dispatch.fleet import FleetEvent


class IdleFleet:
    address = "127.0.0.1"
    settled = True

    def __init__(self) -> None:
        self.is_closed = False
        self.events: list[FleetEvent] = []
        self.sent: list[str] = []
        self._interrupted = threading.Event()

    def begin(self, term: int) -> None: ...

    def interrupt(self) -> None:
        self._interrupted.set()

    def listen(self, wait_s: float) -> Sequence[FleetEvent]:
        self._interrupted.wait(wait_s)
        self._interrupted.clear()
        events, self.events = self.events, []
        return events

    def send(self, device_id: str, job: Job, grant: Grant) -> None:
        self.sent.append(job.job_id)

    def acknowledge(self, device_id: str, attempt: Attempt) -> None: ...

    def set_aside(self, device_id: str, attempt: Attempt) -> None: ...

    def cancel(self, device_id: str) -> None: ...

    def call(self, device_id: str, method: str, *arguments: Any) -> Future[Any]:
        return Future()

    def sleep_devices(self) -> None: ...

    def wake_devices(self) -> None: ...

    def close(self) -> None:
        self.is_closed = True
