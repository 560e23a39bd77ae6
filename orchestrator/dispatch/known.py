"""What the coordinator knows while it runs: open runs, devices, where they are, what is wrong. For one thread."""

from __future__ import annotations

from dataclasses import dataclass, field

from agents.contract.device import Device
from agents.contract.report import Attempt, Report
from orchestrator.dispatch.notices import DeviceName
from orchestrator.dispatch.runs import Run


@dataclass
class Known:
    """``addresses`` are those of the devices that are there now; ``troubles`` say by node why it is no device.

    ``left``: reports of runs that are not worked on; they are on their devices' disks.
    """

    runs: dict[str, Run] = field(default_factory=dict)
    devices: dict[str, Device] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    troubles: dict[str, str] = field(default_factory=dict)
    left: dict[Attempt, Report] = field(default_factory=dict)

    def name_of(self, device_id: str) -> DeviceName:
        device = self.devices.get(device_id)
        return DeviceName(device_id, device.name if device else device_id)
