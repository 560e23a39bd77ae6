"""The machine states that a device goes through in the order of its jobs: what must be set, and how often. PURE"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from agents.contract.device import Device, same_power, same_split, why_no_split
from agents.contract.job import MachineState
from orchestrator.plan.jobs import PlannedJob, state_of


@dataclass(frozen=True, slots=True)
class Phase:
    """Jobs in a row that want one machine state. ``reboots`` and ``new_power`` are what must change before them.

    ``by_hand``: an operator changes it, not the agent.
    """

    state: MachineState
    jobs: tuple[PlannedJob, ...]
    reboots: bool
    new_power: bool
    by_hand: bool


def phases_of(queue: Sequence[PlannedJob], device: Device | None) -> tuple[Phase, ...]:
    """``device`` None, or one whose state is not known: the first value asked for then changes nothing.

    A value that a job does not ask for stays as it stands. A change of the memory split needs a reboot; a split that
    the device can never have changes nothing, for its jobs are refused.
    """
    found = []
    now = MachineState() if device is None else state_of(device)
    for state, jobs in groupby(queue, key=lambda planned: planned.needed_state):
        wanted, limit = state.dedicated_vram_bytes, state.power_limit_w
        can = device is None or wanted is None or why_no_split(wanted, device) is None
        known = now.dedicated_vram_bytes is not None
        reboots = can and wanted is not None and known and not same_split(wanted, now.dedicated_vram_bytes)
        new_limit = limit is not None and now.power_limit_w is not None and not same_power(limit, now.power_limit_w)
        new_profile = _sets_another(state.power_profile, now.power_profile, device)
        sets = device is not None and (device.sets_split if reboots else bool(device.power_methods))
        by_hand = (reboots or new_limit) and not sets
        found.append(Phase(state, tuple(jobs), reboots, new_limit or new_profile, by_hand))
        now = replace(
            now,
            dedicated_vram_bytes=wanted if can and wanted is not None else now.dedicated_vram_bytes,
            power_limit_w=now.power_limit_w if limit is None else limit,
            power_profile=state.power_profile or now.power_profile,
        )
    return tuple(found)


def _sets_another(wanted: str | None, now: str | None, device: Device | None) -> bool:
    """Whether the agent sets another power profile; where it may not, jobs that want another one are refused."""
    may = device is None or (device.sets_profile and wanted in device.power_profiles)
    return may and wanted is not None and now is not None and wanted != now
