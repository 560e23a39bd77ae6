"""Cells x devices x repeats -> jobs in an order that changes the machine as seldom as can be. PURE

On one device: memory split, power profile, power limit, engine and runtime, model file, load settings, from dear to
cheap; each is changed once for each value, and the value that holds already comes first: so reboots are the fewest
possible, and within them power changes (where all splits have the same limits), engine starts and loads. Splits,
profiles and power limits come in the order of the file; below them groups and repeats are shuffled (seeded), so that
a drift of the device does not line up with an axis. Canaries stand before, between and after the other jobs.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from agents.contract.device import Device, same_power, same_split
from agents.contract.job import Job, LoadSettings, MachineState
from orchestrator.matrix import Cell, Matrix, canary_cell
from orchestrator.matrix.matrix import Measure, Rounds

Key = TypeVar("Key", bound=Hashable)
Level = TypeVar("Level", int, float, str)


FIRST_CANARY = 10_000
"""Repeats of cells end below: a canary's count from here, so that none shares a job's id with a cell that is as it."""

EVERY_JOBS = 20
"""After so many jobs the next change of the loaded model has a canary before it: it costs a load of its own."""


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """One cell on one device, once; ``repeat`` counts from 0. ``state``: a canary's, which its cell does not name."""

    cell: Cell
    device_id: str
    repeat: int
    state: MachineState | None = None

    @property
    def needed_state(self) -> MachineState:
        """The state that the machine must be in."""
        return self.cell.state if self.state is None else self.state

    @property
    def is_canary(self) -> bool:
        return self.repeat >= FIRST_CANARY


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
    canary = canary_cell(matrix)
    queues = {}
    for device in selected:
        key = device.device_id
        queue = tuple(_ordered(wanted[key], key, matrix.measure, state_of(device)))
        queues[key] = queue if canary is None else with_canaries(queue, canary, key)
    return Plan(queues, tuple(unplaced))


def jobs_for_unknown(matrix: Matrix, cells: Iterable[Cell]) -> dict[str | None, tuple[PlannedJob, ...]]:
    """The order in which ``cells`` would run on devices that are not known: by the device that a cell names, or None.

    The order of the shuffled rounds is drawn for each device, so on the real one it is another.
    """
    wanted: dict[str | None, list[Cell]] = {}
    for cell in cells:
        wanted.setdefault(cell.device, []).append(cell)
    canary, queues = canary_cell(matrix), {}
    for name, listed in wanted.items():
        queue = tuple(_ordered(listed, name or "", matrix.measure, MachineState()))
        queues[name] = queue if canary is None else with_canaries(queue, canary, name or "")
    return queues


def state_of(device: Device) -> MachineState:
    """How the device stands."""
    return MachineState(device.dedicated_vram_bytes, device.power_limit_w, device.power_profile)


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


def _ordered(cells: Sequence[Cell], device_id: str, measure: Measure, now: MachineState) -> Iterator[PlannedJob]:
    shuffle = random.Random(f"{measure.seed}:{device_id}")
    for members in _states(cells, now):
        groups = _shuffled_tree(members, shuffle)
        if measure.rounds is Rounds.LOADED:
            for group in groups:
                yield from _rounds([group], device_id, measure.repeats, shuffle)
        else:
            yield from _rounds(groups, device_id, measure.repeats, shuffle)


def _rounds(groups: list[list[Cell]], device_id: str, repeats: int, shuffle: random.Random) -> Iterator[PlannedJob]:
    """Each round goes once through all cells, load by load."""
    for repeat in range(repeats):
        shuffle.shuffle(groups)
        for group in groups:
            order = list(group)
            shuffle.shuffle(order)
            for cell in order:
                yield PlannedJob(cell, device_id, repeat)


def _states(cells: Sequence[Cell], now: MachineState) -> Iterator[list[Cell]]:
    """The cells of each machine state; what holds already first, and what asks for nothing with it."""
    # From dear to cheap: a split costs a reboot, a limit perhaps an operator's walk. The limit that holds is carried
    # on, so that the next profile begins with the limit that the one before ended with.
    splits = _grouped(cells, lambda cell: cell.state.dedicated_vram_bytes)
    power = now.power_limit_w
    for split in _held_first(splits, lambda wanted: same_split(wanted, now.dedicated_vram_bytes)):
        profiles = _grouped(splits[split], lambda cell: cell.state.power_profile)
        for profile in _held_first(profiles, lambda wanted: wanted == now.power_profile):
            limits = _grouped(profiles[profile], lambda cell: cell.state.power_limit_w)
            held = power
            for limit in _held_first(limits, lambda wanted: same_power(wanted, held)):  # noqa: B023  used at once
                power = power if limit is None else limit
                yield limits[limit]


def _held_first(wanted: Iterable[Level | None], holds: Callable[[Level], bool]) -> list[Level | None]:
    """None (as it stands), then the value that holds, then the others in their order."""
    return sorted(wanted, key=lambda value: 0 if value is None else 1 if holds(value) else 2)


def _shuffled_tree(cells: Sequence[Cell], shuffle: random.Random) -> list[list[Cell]]:
    """The cells of each load, in an order in which engine, runtime, model and settings change once for each value."""
    groups = _grouped(cells, lambda cell: cell.load)
    levels: tuple[Callable[[LoadSettings], Hashable], ...] = (
        lambda load: (load.engine, load.runtime),
        lambda load: (load.model, load.quantisation),
        lambda load: load,
    )
    # Shuffled at each level by itself: a model's loads stay together, but their order says nothing about the file's.
    ranks = []
    for level in levels:
        seen = list(dict.fromkeys(map(level, groups)))
        shuffle.shuffle(seen)
        ranks.append({value: rank for rank, value in enumerate(seen)})
    places = {load: tuple(rank[level(load)] for level, rank in zip(levels, ranks, strict=True)) for load in groups}
    return [groups[load] for load in sorted(groups, key=lambda load: places[load])]


def _grouped(cells: Iterable[Cell], key: Callable[[Cell], Key]) -> dict[Key, list[Cell]]:
    """In the order of first appearance."""
    groups: dict[Key, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    return groups


def with_canaries(queue: Sequence[PlannedJob], canary: Cell, device_id: str) -> tuple[PlannedJob, ...]:
    """``queue`` with canaries before and after it, after each change of the machine's state, and between."""
    return in_their_states([*_spread(queue, PlannedJob(canary, device_id, FIRST_CANARY))]) if queue else ()


def _spread(queue: Sequence[PlannedJob], first: PlannedJob) -> Iterator[PlannedJob]:
    number, since = 0, 0
    before: PlannedJob | None = None
    for planned in queue:
        changes = before is None or planned.needed_state != before.needed_state
        due = before is not None and since >= EVERY_JOBS and planned.cell.load != before.cell.load
        if changes or due:
            yield replace(first, repeat=FIRST_CANARY + number)
            number, since = number + 1, 0
        yield planned
        before, since = planned, since + 1
    yield replace(first, repeat=FIRST_CANARY + number)


def in_their_states(queue: Sequence[PlannedJob]) -> tuple[PlannedJob, ...]:
    """Each canary of one device's queue in the state of the job that follows it; the last, in that of the one before.

    They ask for no state of their own, and without one they would all run first, in the state that stands.
    """
    found: list[PlannedJob] = []
    following = None
    for planned in reversed(queue):
        if not planned.is_canary:
            following = planned.needed_state
        found.append(replace(planned, state=following) if planned.is_canary else planned)
    found.reverse()
    last = next((each.needed_state for each in reversed(found) if not each.is_canary), None)
    return tuple(replace(each, state=last) if each.is_canary and each.state is None else each for each in found)


def job_id_of(run_id: str, cell_id: str, device_id: str, repeat: int) -> str:
    """The same after a restart: a hash of what the job is."""
    content = "\0".join((run_id, cell_id, device_id, str(repeat)))
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def job_of(matrix: Matrix, run_id: str, planned: PlannedJob, attempt: int) -> Job:
    """The complete job, as it travels."""
    cell = planned.cell
    return Job(
        job_id=job_id_of(run_id, cell.cell_id, planned.device_id, planned.repeat),
        attempt=attempt,
        run_id=run_id,
        cell_id=cell.cell_id,
        device_id=planned.device_id,
        repeat=planned.repeat,
        load=cell.load,
        workload=cell.workload,
        state=planned.needed_state,
        canary=planned.is_canary,
        warmups=matrix.measure.warmups,
        timeouts=matrix.timeouts,
        keep_output=matrix.measure.keep_output,
        conditions=matrix.measure.conditions,
    )
