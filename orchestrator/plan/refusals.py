"""What a device would refuse before it loads anything, as far as its inventory tells. PURE"""

from __future__ import annotations

from agents.contract.device import Device, why_no_profile, why_no_split
from agents.contract.job import LoadSettings, MachineState


def why_refused(load: LoadSettings, state: MachineState, device: Device) -> str | None:
    """None if nothing speaks against it. Says what the agent itself would say; the agent has the last word."""
    found = {engine.name: engine for engine in device.engines}
    if found and load.engine not in found:
        return f"engine {load.engine} is not on {device.name} (found: {', '.join(sorted(found))})"
    runtimes = found[load.engine].runtimes if load.engine in found else ()
    if load.runtime is not None and runtimes and load.runtime not in runtimes:
        return f"{load.engine} on {device.name} has no runtime {load.runtime} (it has {', '.join(runtimes)})"
    split, profile = state.dedicated_vram_bytes, state.power_profile
    no_split = None if split is None else why_no_split(split, device)
    return no_split or (None if profile is None else why_no_profile(profile, device))
