"""What has to happen to a device before a job that wants another machine state, and who does it. PURE"""

from __future__ import annotations

from enum import StrEnum

from agents.contract.device import Device, same_power, same_split, why_no_split
from agents.contract.job import MachineState


class Change(StrEnum):
    """From the cheapest to the dearest."""

    NONE = "none"  # it stands as wanted, or the agent holds the power limit by itself
    OPERATOR = "operator"  # somebody sets a power limit and says so
    AGENT_REBOOT = "agent_reboot"  # the agent chooses the carve-out and reboots
    OPERATOR_REBOOT = "operator_reboot"  # somebody sets the split in the firmware and reboots
    NEVER = "never"  # this machine has no such state: the agent says why


def change_for(wanted: MachineState, device: Device) -> Change:
    """What ``device``, as it stands, needs before a job in the state ``wanted``."""
    split = wanted.dedicated_vram_bytes
    if split is not None and not same_split(split, device.dedicated_vram_bytes):
        if why_no_split(split, device) is not None:
            return Change.NEVER
        return Change.AGENT_REBOOT if device.sets_split else Change.OPERATOR_REBOOT
    power = wanted.power_limit_w
    if power is None or device.power_methods or same_power(power, device.power_limit_w):
        return Change.NONE
    return Change.OPERATOR
