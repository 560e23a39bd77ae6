"""What ``orchestrate plan`` prints: the cells of each device in their order, by phase, as text or as data. PURE"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agents.contract.device import Device
from agents.units import format_size
from orchestrator.cli.texts import format_count, format_duration
from orchestrator.dispatch.operator_text import describe_state
from orchestrator.matrix import CellCounts, Matrix
from orchestrator.plan.changes import why_refused
from orchestrator.plan.jobs import Plan, PlannedJob
from orchestrator.plan.phases import Phase, phases_of

SHOWN_REASONS = 8
LEAST_SHOWN = 3  # cells of each phase

Seconds = Mapping[tuple[str, str], float]
"""Usual seconds of a job in earlier runs, by (cell_id, device_id)."""


@dataclass(frozen=True, slots=True)
class PlannedCell:
    """One cell in the order of one device. ``seconds`` is for all its repeats; None: it never ran there."""

    label: str
    cell_id: str
    repeats: int
    seconds: float | None
    refused: str | None


@dataclass(frozen=True, slots=True)
class PlannedPhase:
    """The cells that run in one machine state."""

    phase: Phase
    cells: tuple[PlannedCell, ...]


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """``device`` None: none that is known here; ``name`` is what the cells name then, or None for any that fits."""

    name: str | None
    device: Device | None
    phases: tuple[PlannedPhase, ...]

    @property
    def cells(self) -> tuple[PlannedCell, ...]:
        return tuple(line for phase in self.phases for line in phase.cells)

    @property
    def reboots(self) -> int:
        return sum(each.phase.reboots for each in self.phases)

    @property
    def power_changes(self) -> int:
        return sum(each.phase.new_power for each in self.phases)


@dataclass(frozen=True, slots=True)
class PlanPage:
    """``known`` devices that the matrix selects, and ``unknown`` ones that its other cells wait for."""

    matrix: Matrix
    counts: CellCounts
    plan: Plan
    devices: tuple[Device, ...]
    known: tuple[DevicePlan, ...]
    unknown: tuple[DevicePlan, ...]


def planned_phases(queue: Sequence[PlannedJob], device: Device | None, earlier: Seconds) -> tuple[PlannedPhase, ...]:
    """The cells of each phase, in the order in which each first runs."""
    return tuple(PlannedPhase(phase, _planned_cells(phase.jobs, device, earlier)) for phase in phases_of(queue, device))


def _planned_cells(jobs: Sequence[PlannedJob], device: Device | None, earlier: Seconds) -> tuple[PlannedCell, ...]:
    repeats: dict[tuple[str, bool], int] = {}
    first: dict[tuple[str, bool], PlannedJob] = {}
    for job in jobs:
        key = (job.cell.cell_id, job.is_canary)
        repeats[key] = repeats.get(key, 0) + 1
        first.setdefault(key, job)
    return tuple(_planned_cell(job, repeats[key], device, earlier) for key, job in first.items())


def _planned_cell(job: PlannedJob, repeats: int, device: Device | None, earlier: Seconds) -> PlannedCell:
    cell = job.cell
    refused = why_refused(cell.load, job.needed_state, device) if device else None
    seconds = earlier.get((cell.cell_id, job.device_id))
    whole = 0.0 if refused else None if seconds is None else seconds * repeats
    label = "canary" if job.is_canary else cell.label()
    return PlannedCell(label, cell.cell_id, repeats, whole, refused)


def as_text(page: PlanPage, shown: int | None) -> Iterator[str]:
    """``shown``: cells listed for a device, None for all."""
    yield _headline(page)
    if page.matrix.question:
        yield f"question: {page.matrix.question.strip()}"
    for known in page.known:
        if known.device is not None:
            yield ""
            yield _heading(known, f"on {known.name} ({known.device.cpu}, {format_size(known.device.ram_bytes)} RAM)")
            yield from _phases(known, shown)
            yield from _refused(known.cells)
    if page.unknown:
        yield ""
        yield from _why_unplaced(page)
    for unknown in page.unknown:
        yield ""
        yield _heading(unknown, f"on {unknown.name or 'a device that fits'}")
        yield from _phases(unknown, shown)


def _headline(page: PlanPage) -> str:
    """``120 cells x 3 repeats = 360 jobs``, with the devices where there are several, or none."""
    counts, repeats = page.counts, page.matrix.measure.repeats
    any_left_out = counts.excluded or counts.duplicates
    left_out = f" ({counts.excluded} excluded, {counts.duplicates} twice)" if any_left_out else ""
    times = f"{format_count(counts.cells, 'cell')}{left_out} x {format_count(repeats, 'repeat')}"
    if not page.plan.jobs:
        return f"{page.matrix.name}: {times}; no device that is known here can run any of them"
    on = f" on {format_count(len(page.known), 'device')}" if len(page.known) > 1 else ""
    return f"{page.matrix.name}: {times}{on} = {format_count(page.plan.jobs, 'job')}"


def _heading(listed: DevicePlan, where: str) -> str:
    words = [where]
    if len(listed.phases) > 1 or listed.reboots:
        words.append(
            f"{format_count(len(listed.cells), 'cell')} in {format_count(len(listed.phases), 'machine state')}"
        )
        words.append(format_count(listed.reboots, "reboot"))
        words.append(f"{format_count(listed.power_changes, 'change')} of the power limit")
    if listed.device is not None:
        words.append(format_expected_time(listed.cells))
    return ", ".join(words) + ":"


def format_expected_time(listed: Sequence[PlannedCell]) -> str:
    """How long, by the seconds of earlier runs."""
    known = [line.seconds for line in listed if line.seconds is not None and not line.refused]
    unknown = sum(line.seconds is None for line in listed)
    if not known:
        return "nothing to run" if not unknown else "time unknown: none of these cells ran here before"
    if unknown:
        return (
            f"{format_duration(sum(known))} for {format_count(len(known), 'cell')} that ran before, {unknown} never did"
        )
    return f"about {format_duration(sum(known))}"


def _phases(listed: DevicePlan, shown: int | None) -> Iterator[str]:
    """The cells in their order, numbered through; a heading for each state that the matrix asks for."""
    width = max((len(line.label) for line in listed.cells), default=0)
    part = None if shown is None else max(shown // max(len(listed.phases), 1), LEAST_SHOWN)
    number = 1
    for each in listed.phases:
        state = describe_state(each.phase.state)
        if state or len(listed.phases) > 1:
            yield f"  {_before(each.phase)}{state or 'as the machine stands'}:"
        for line in each.cells[:part]:
            yield f"{number:5}  {line.label:{width}}  x{line.repeats}  {_time(line, listed.device)}".rstrip()
            number += 1
        more = len(each.cells) - (len(each.cells) if part is None else part)
        if more > 0:
            yield f"       ... and {more} more (--all shows them)"
            number += more


def _time(line: PlannedCell, device: Device | None) -> str:
    if device is None:
        return ""
    return "refused" if line.refused else "?" if line.seconds is None else format_duration(line.seconds)


def _before(phase: Phase) -> str:
    """What has to be done before a phase begins."""
    if phase.reboots:
        return "set and reboot: " if phase.by_hand else "set by the agent, with a reboot: "
    if phase.new_power:
        return "set by hand: " if phase.by_hand else "set: "
    return ""


def _refused(listed: Sequence[PlannedCell]) -> Iterator[str]:
    reasons = Counter(line.refused for line in listed if line.refused)
    if reasons:
        refused = f"{sum(reasons.values())} of {format_count(len(listed), 'cell')}"
        yield f"  would be refused, as it was last seen ({refused}):"
        yield from (
            f"    {format_count(count, 'cell')}: {reason}" for reason, count in reasons.most_common(SHOWN_REASONS)
        )
        if len(reasons) > SHOWN_REASONS:
            yield f"    ... and {format_count(len(reasons) - SHOWN_REASONS, 'more reason')}"


def _why_unplaced(page: PlanPage) -> Iterator[str]:
    count = len(page.plan.unplaced)
    yield f"{format_count(count, 'cell')} {'fits' if count == 1 else 'fit'} no device that is known here:"
    for device in page.devices:
        why = page.matrix.devices.why_not(device)
        if why:
            yield f"  {device.name}: {why}"
    for why, cells in Counter(why for _, why in page.plan.unplaced).most_common(SHOWN_REASONS):
        yield f"  {format_count(cells, 'cell')}: {why}"


def as_data(page: PlanPage) -> dict[str, Any]:
    """The plan for scripts: JSON types only."""
    return {
        "matrix": page.matrix.name,
        "cells": page.counts.cells,
        "excluded": page.counts.excluded,
        "duplicates": page.counts.duplicates,
        "jobs": page.plan.jobs,
        "devices": [_device_data(known) for known in page.known],
        "unplaced": [
            {"cell_id": cell.cell_id, "cell": cell.label(), "why": why, "device": cell.device}
            for cell, why in page.plan.unplaced
        ],
        "on_unknown_devices": [_device_data(unknown) for unknown in page.unknown],
    }


def _device_data(listed: DevicePlan) -> dict[str, Any]:
    return {
        "device_id": listed.device.device_id if listed.device else None,
        "name": listed.name,
        "reboots": listed.reboots,
        "power_changes": listed.power_changes,
        "phases": [
            {
                "dedicated_vram_bytes": each.phase.state.dedicated_vram_bytes,
                "power_limit_w": each.phase.state.power_limit_w,
                "power_profile": each.phase.state.power_profile,
                "reboot_before": each.phase.reboots,
                "cells": [line.cell_id for line in each.cells],
            }
            for each in listed.phases
        ],
        "cells": [
            {
                "cell_id": line.cell_id,
                "cell": line.label,
                "repeats": line.repeats,
                "seconds": line.seconds,
                "refused": line.refused,
            }
            for line in listed.cells
        ],
    }
