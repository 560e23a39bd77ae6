"""What a device needs before a job: a change of its state, by whom; or why it would refuse the job anyway. PURE"""

from __future__ import annotations

from enum import StrEnum

from agents.contract.device import Device, same_power, same_split, why_no_profile, why_no_split
from agents.contract.job import LoadSettings, MachineState


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


def why_refused(load: LoadSettings, state: MachineState, device: Device) -> str | None:
    """Why ``device``, by its inventory, would refuse such a job before it loads anything; None: it would not.

    The words are the agent's, and the agent decides.
    """
    found = {engine.name: engine for engine in device.engines}
    if found and load.engine not in found:
        return f"engine {load.engine} is not on {device.name} (found: {', '.join(sorted(found))})"
    runtimes = found[load.engine].runtimes if load.engine in found else ()
    if load.runtime is not None and runtimes and load.runtime not in runtimes:
        return f"{load.engine} on {device.name} has no runtime {load.runtime} (it has {', '.join(runtimes)})"
    split, profile = state.dedicated_vram_bytes, state.power_profile
    no_split = None if split is None else why_no_split(split, device)
    return no_split or (None if profile is None else why_no_profile(profile, device))
