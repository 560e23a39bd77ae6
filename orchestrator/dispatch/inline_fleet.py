"""A fleet of one: this machine, without Ray. For tests of all that is not Ray."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from agents.agent.agent import Agent
from agents.agent.calls import Grant
from agents.contract.job import Job
from agents.contract.report import Attempt
from orchestrator.dispatch.fleet import DeviceGreeted, FleetEvent, StatusReceived
from orchestrator.errors import OrchestrateError

# ruff: noqa: ARG002  one device: its id is not needed to reach it


class InlineFleet:
    address = "127.0.0.1"

    def __init__(self, folder: Path) -> None:
        self._agent = Agent(folder)
        self._device_id: str | None = None
        self._term = 0

    @property
    def settled(self) -> bool:
        return self._device_id is not None

    def begin(self, term: int) -> None:
        self._term = term

    def listen(self, wait_s: float) -> Sequence[FleetEvent]:
        if self._device_id is None:
            hello = self._agent.hello(self._term)
            self._device_id = hello.device.device_id
            return (DeviceGreeted(hello.device, hello.status, "here"),)
        return (StatusReceived(self._device_id, self._agent.poll(wait_s, self._term)),)

    def interrupt(self) -> None:
        pass

    def sleep_devices(self) -> None:
        pass

    def wake_devices(self) -> None:
        pass

    def send(self, device_id: str, job: Job, grant: Grant) -> None:
        self._agent.start(job, grant)

    def acknowledge(self, device_id: str, attempt: Attempt) -> None:
        self._agent.acknowledge(attempt)

    def set_aside(self, device_id: str, attempt: Attempt) -> None:
        self._agent.set_aside(attempt)

    def cancel(self, device_id: str) -> None:
        self._agent.cancel()

    def call(self, device_id: str, method: str, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(getattr(self._agent, method)(*arguments))
        except Exception as error:
            future.set_exception(OrchestrateError(str(error)))
        return future

    def close(self) -> None:
        self._agent.close()
