"""Cells x devices x repeats -> jobs in an order that changes the machine as seldom as can be. PURE

Order on one device: memory split, power limit, engine and runtime, model file, load settings, each in the order of
first appearance in the matrix; so reboots, power changes, engine starts and loads happen once for each. Within one
loaded engine the repeats are rounds, and each round is a seeded shuffle, so that a drift of the device over minutes
does not line up with an axis.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from agents.contract.device import Device
from agents.contract.job import Job, LoadSettings, MachineState
from orchestrator.matrix import Cell, Matrix


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """One cell on one device, once; ``repeat`` counts from 0."""

    cell: Cell
    device_id: str
    repeat: int


@dataclass(frozen=True, slots=True)
class Plan:
    """``queues``: jobs of each device in their order. ``unplaced``: cells that no device may run, and why."""

    queues: dict[str, tuple[PlannedJob, ...]]
    unplaced: tuple[tuple[Cell, str], ...]

    @property
    def jobs(self) -> int:
        return sum(len(queue) for queue in self.queues.values())


def plan_jobs(matrix: Matrix, cells: Iterable[Cell], devices: Sequence[Device]) -> Plan:
    """Every cell runs on every device that the matrix selects, or on the one that its ``device`` axis names."""
    selected = [device for device in devices if matrix.devices.matches(device)]
    wanted: dict[str, list[Cell]] = {device.device_id: [] for device in selected}
    unplaced = []
    for cell in cells:
        targets = selected if cell.device is None else [each for each in selected if is_named(each, cell.device)]
        for device in targets:
            wanted[device.device_id].append(cell)
        if not targets:
            unplaced.append((cell, why_unplaced(cell, matrix, devices)))
    queues = {
        device_id: tuple(_ordered(listed, device_id, matrix.measure.repeats, matrix.measure.seed))
        for device_id, listed in wanted.items()
    }
    return Plan(queues, tuple(unplaced))


def jobs_for_unknown(matrix: Matrix, cells: Iterable[Cell]) -> dict[str | None, tuple[PlannedJob, ...]]:
    """The order in which ``cells`` would run on devices that are not known: by the device that a cell names, or None.

    The order of the shuffled rounds is drawn for each device, so on the real one it is another.
    """
    wanted: dict[str | None, list[Cell]] = {}
    for cell in cells:
        wanted.setdefault(cell.device, []).append(cell)
    return {
        name: tuple(_ordered(listed, name or "", matrix.measure.repeats, matrix.measure.seed))
        for name, listed in wanted.items()
    }


def is_named(device: Device, name: str) -> bool:
    """Whether ``name`` in a matrix means this device: its id or its name."""
    return name in (device.device_id, device.name)


def why_unplaced(cell: Cell, matrix: Matrix, devices: Sequence[Device]) -> str:
    known = ", ".join(sorted(device.name for device in devices)) or "none"
    if cell.device is None:
        return f"no device fits the matrix's devices: section; known: {known}"
    named = next((device for device in devices if is_named(device, cell.device)), None)
    if named is None:
        return f"no device {cell.device}; known: {known}"
    return f"device {cell.device} does not fit the matrix's devices: section: {matrix.devices.why_not(named)}"


def _ordered(cells: Sequence[Cell], device_id: str, repeats: int, seed: int) -> Iterable[PlannedJob]:
    groups: dict[tuple[MachineState, LoadSettings], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.state, cell.load), []).append(cell)
    ranks = _Ranks()
    dearest_first = sorted((ranks.of(state, load), members) for (state, load), members in groups.items())
    shuffle = random.Random(f"{seed}:{device_id}")
    for _, members in dearest_first:
        for repeat in range(repeats):
            order = list(members)
            shuffle.shuffle(order)
            for cell in order:
                yield PlannedJob(cell, device_id, repeat)


class _Ranks:
    """Order of first appearance, level by level: what is dearest to change comes first."""

    def __init__(self) -> None:
        self._seen: list[dict[Hashable, int]] = [{} for _ in range(5)]

    def of(self, state: MachineState, load: LoadSettings) -> tuple[int, ...]:
        levels: tuple[Hashable, ...] = (
            state.dedicated_vram_bytes,
            state.power_limit_w,
            (load.engine, load.runtime),
            (load.model, load.quantisation),
            load,
        )
        return tuple(seen.setdefault(level, len(seen)) for seen, level in zip(self._seen, levels, strict=True))


def job_id_of(campaign_id: str, cell_id: str, device_id: str, repeat: int) -> str:
    """The same after a restart: a hash of what the job is."""
    content = "\0".join((campaign_id, cell_id, device_id, str(repeat)))
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def job_of(matrix: Matrix, campaign_id: str, planned: PlannedJob, attempt: int) -> Job:
    """The complete job, as it travels."""
    cell = planned.cell
    return Job(
        job_id=job_id_of(campaign_id, cell.cell_id, planned.device_id, planned.repeat),
        attempt=attempt,
        campaign_id=campaign_id,
        cell_id=cell.cell_id,
        device_id=planned.device_id,
        repeat=planned.repeat,
        load=cell.load,
        workload=cell.workload,
        state=cell.state,
        warmups=matrix.measure.warmups,
        timeouts=matrix.timeouts,
        keep_output=matrix.measure.keep_output,
    )
