"""What the coordinator needs of a fleet of devices, whatever carries the calls."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from agents.agent.calls import AgentStatus, Grant
from agents.contract.device import Device
from agents.contract.job import Job
from agents.contract.report import Attempt
from orchestrator.errors import OrchestrateError


class DeviceGone(OrchestrateError):
    """The device went away while it was asked: as it should, where it was asked to reboot."""


@dataclass(frozen=True, slots=True)
class DeviceGreeted:
    """A device is there, new or back. ``status`` holds every report on its disk; ``address``: where it is reached."""

    device: Device
    status: AgentStatus
    address: str


@dataclass(frozen=True, slots=True)
class StatusReceived:
    """A device answered: what it is at, and reports that are not yet acknowledged."""

    device_id: str
    status: AgentStatus


@dataclass(frozen=True, slots=True)
class DeviceUnreachable:
    """A device answers no more, or may not be used. ``undelivered``: what it was to run and never got."""

    device_id: str
    detail: str
    undelivered: Attempt | None = None


@dataclass(frozen=True, slots=True)
class NodeTroubleChanged:
    """Why a host of the cluster cannot be used as a device for now (``detail``); empty: it can again."""

    node: str
    detail: str


FleetEvent = DeviceGreeted | StatusReceived | DeviceUnreachable | NodeTroubleChanged


class Fleet(Protocol):
    """Devices that can be reached. No call raises for a device that is gone: ``listen`` brings an event."""

    @property
    def address(self) -> str:
        """Of the coordinator's own host, as devices reach it."""
        ...

    @property
    def settled(self) -> bool:
        """Every host that is there has become a device, or said why not."""
        ...

    def begin(self, term: int) -> None:
        """Before anything else: the coordinator's term, which goes to agents with each call."""
        ...

    def listen(self, wait_s: float) -> Sequence[FleetEvent]:
        """What is new; returns when there is something, when ``interrupt`` is called, and after ``wait_s``."""
        ...

    def interrupt(self) -> None:
        """From any thread: ``listen`` returns at once."""
        ...

    def sleep_devices(self) -> None:
        """Nothing is left to do: what takes the devices' time ends, and they stay known, for as long as their hosts
        are there. Nothing may be sent until ``wake_devices``."""
        ...

    def wake_devices(self) -> None:
        """Each device that sleeps joins again: ``settled`` says when. From the thread that listens."""
        ...

    def send(self, device_id: str, job: Job, grant: Grant) -> None:
        """What comes of it, ``listen`` says: a status that knows the attempt, or that the device is unreachable."""
        ...

    def acknowledge(self, device_id: str, attempt: Attempt) -> None:
        """The report is stored, or not needed."""
        ...

    def set_aside(self, device_id: str, attempt: Attempt) -> None:
        """The report is not ours to collect: it stays on its device's disk, and is not sent again."""
        ...

    def cancel(self, device_id: str) -> None: ...

    def call(self, device_id: str, method: str, *arguments: Any) -> Future[Any]:
        """Another method of the agent. The future raises OrchestrateError where the device cannot do it."""
        ...

    def close(self) -> None:
        """Ends the agents that live only for this fleet; others go on."""
        ...
