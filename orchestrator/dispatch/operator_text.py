"""What an operator is asked, in words that can be followed. PURE"""

from __future__ import annotations

from agents.contract.device import Device, StateSource
from agents.contract.job import MachineState
from agents.units import format_bytes, format_size
from orchestrator.dispatch.messages import AskOperator, DeviceSkipped, StateRefused
from orchestrator.plan.changes import Change


def skip_event(device_id: str, name: str, state: MachineState) -> DeviceSkipped | StateRefused:
    """What an operator's ``skip`` is to the schedule; an empty ``state``: the device itself is skipped."""
    if state == MachineState():
        return DeviceSkipped(device_id, "skipped by its operator")
    return StateRefused(device_id, state, f"the operator says that {name} cannot be brought into this state")


def describe_state(state: MachineState) -> str:
    """``dedicated VRAM 32GiB, power limit 80 W``; empty where nothing is asked for."""
    words = []
    if state.dedicated_vram_bytes is not None:
        words.append(f"dedicated VRAM {format_size(state.dedicated_vram_bytes)}")
    if state.power_limit_w is not None:
        words.append(f"power limit {state.power_limit_w:g} W")
    if state.power_profile is not None:
        words.append(f"power profile {state.power_profile}")
    return ", ".join(words)


def describe_requested_state(ask: AskOperator, device: Device) -> str:
    """For an operator who stated something else: ``strix-1 is asked for dedicated VRAM 8 GiB: set ...``."""
    return f"{device.name} is asked for {describe_state(ask.state)}: {describe_ask(ask, device)}"


def describe_ask(ask: AskOperator, device: Device) -> str:
    """One sentence or two: what to set, and what to say afterwards where nothing on the machine can tell."""
    state, name = ask.state, device.name
    note = f" ({ask.note})" if ask.note else ""
    if ask.change is Change.OPERATOR_REBOOT and state.dedicated_vram_bytes is not None:
        words = f"set dedicated VRAM of {name} to {format_size(state.dedicated_vram_bytes)} and reboot{note}"
        if device.split_source is not StateSource.SEEN:
            size = format_bytes(state.dedicated_vram_bytes)
            words += f"; then say so, for it cannot be seen there: orchestrate state {name} --dedicated-vram {size}"
        return words
    if ask.change is Change.OPERATOR_REBOOT:
        return f"reboot {name}: {ask.note}"
    limit = f"{state.power_limit_w:g}W"
    # What is seen counts more than what is said: it has to be this limit.
    seen = device.power_source is StateSource.SEEN
    note += f" ({device.power_limit_w:g} W is seen there now)" if seen else ""
    return (
        f"set the power limit of {name} to {state.power_limit_w:g} W{note}; then say so:"
        f" orchestrate state {name} --power-limit {limit}"
    )


def skip_command(ask: AskOperator, device: Device) -> str:
    """How an operator says that what is asked cannot be done: that alone, and not all that the job wants."""
    state = ask.state
    if ask.change is Change.OPERATOR_REBOOT and state.dedicated_vram_bytes is not None:
        return f"orchestrate skip {device.name} --dedicated-vram {format_bytes(state.dedicated_vram_bytes)}"
    if ask.change is Change.OPERATOR_REBOOT:
        return f"orchestrate skip {device.name}"
    return f"orchestrate skip {device.name} --power-limit {state.power_limit_w:g}W"
