"""One job of a plan. PURE"""

from __future__ import annotations

from dataclasses import dataclass

from agents.contract.job import MachineState
from orchestrator.matrix import Cell

FIRST_CANARY = 10_000
"""Repeats of cells end below: a canary's count from here, so that none shares a job's id with a cell that is as it."""


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """One cell on one device, once; ``repeat`` counts from 0. ``state``: a canary's, which its cell does not name."""

    cell: Cell
    device_id: str
    repeat: int
    state: MachineState | None = None

    @property
    def wanted(self) -> MachineState:
        """The state that the machine must be in."""
        return self.cell.state if self.state is None else self.state

    @property
    def is_canary(self) -> bool:
        return self.repeat >= FIRST_CANARY
