"""A fleet of one: this machine, without Ray. For tests of all that is not Ray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agents.agent import Agent
from agents.contract.device import Device
from agents.contract.job import Job
from agents.contract.report import Report
from orchestrator.dispatch.fleet import Heard, Silent

# ruff: noqa: ARG002  one device: its id is not needed to reach it


class InlineFleet:
    def __init__(self, folder: Path) -> None:
        self._agent = Agent(folder)
        self._device = self._agent.device()

    def devices(self) -> Sequence[Device]:
        return (self._device,)

    def send(self, device_id: str, job: Job) -> None:
        self._agent.start(job)

    def listen(self, wait_s: float) -> Sequence[Heard | Silent]:
        return (Heard(self._device.device_id, self._agent.poll(wait_s)),)

    def uncollected(self, campaign_id: str) -> Sequence[Report]:
        return self._agent.uncollected(campaign_id)

    def collected(self, report: Report) -> None:
        self._agent.collected(report.job_id, report.attempt)

    def cancel(self, device_id: str) -> None:
        self._agent.cancel()

    def close(self) -> None:
        self._agent.close()
