"""The machine states that a device goes through in the order of its jobs: what must be set, and how often. PURE"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from agents.contract.device import same_split
from agents.contract.job import MachineState
from orchestrator.plan.jobs import PlannedJob


@dataclass(frozen=True, slots=True)
class Phase:
    """Jobs in a row that want one machine state. ``reboots`` and ``new_power`` say what must change before them."""

    state: MachineState
    jobs: tuple[PlannedJob, ...]
    reboots: bool
    new_power: bool


def phases_of(queue: Sequence[PlannedJob], now: MachineState) -> tuple[Phase, ...]:
    """``now``: how the device stands, None where that is not known: the first value asked for then changes nothing.

    A value that a job does not ask for stays as it stands. A change of the memory split needs a reboot.
    """
    found = []
    split, power = now.dedicated_vram_bytes, now.power_limit_w
    for state, jobs in groupby(queue, key=lambda planned: planned.cell.state):
        wanted, limit = state.dedicated_vram_bytes, state.power_limit_w
        reboots = wanted is not None and split is not None and not same_split(wanted, split)
        new_power = limit is not None and power is not None and limit != power
        found.append(Phase(state, tuple(jobs), reboots, new_power))
        split = split if wanted is None else wanted
        power = power if limit is None else limit
    return tuple(found)
