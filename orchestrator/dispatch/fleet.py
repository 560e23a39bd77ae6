"""What the coordinator needs of a fleet of devices, whatever carries the calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from agents.agent import Status
from agents.contract.device import Device
from agents.contract.job import Job
from agents.contract.report import Report


@dataclass(frozen=True, slots=True)
class Heard:
    """A device answered: what it is at, and reports that are not yet collected."""

    device_id: str
    status: Status


@dataclass(frozen=True, slots=True)
class Silent:
    """A device answers no more."""

    device_id: str
    detail: str


class Fleet(Protocol):
    """Devices that can be reached. No call raises for a device that is gone: ``listen`` tells."""

    def devices(self) -> Sequence[Device]: ...

    def send(self, device_id: str, job: Job) -> None: ...

    def listen(self, wait_s: float) -> Sequence[Heard | Silent]:
        """What devices with a job have to say; returns early when one has news, after ``wait_s`` at the latest."""
        ...

    def uncollected(self, campaign_id: str) -> Sequence[Report]:
        """Reports on devices' disks that an earlier coordinator did not live to collect."""
        ...

    def collected(self, report: Report) -> None: ...

    def cancel(self, device_id: str) -> None: ...

    def close(self) -> None:
        """Ends the agents that this fleet made."""
        ...
