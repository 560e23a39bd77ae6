"""``orchestrate plan``: what a submit would do, from the matrix and what is known of devices. Needs no Ray."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.contract.device import Device
from orchestrator.cli.home import ledger_path
from orchestrator.cli.words import hms
from orchestrator.matrix import Cells, Matrix, check_size, expand, read_matrix
from orchestrator.plan.jobs import Plan, PlannedJob, plan_jobs
from orchestrator.plan.refusals import why_refused

SHOWN_CELLS = 30
SHOWN_REASONS = 8

Seconds = Mapping[tuple[str, str], float]
"""Mean seconds of a job in earlier runs, by (cell_id, device_id)."""


@dataclass(frozen=True, slots=True)
class CellLine:
    """One cell in the order of one device. ``seconds`` is for all its repeats; None: it never ran there."""

    label: str
    cell_id: str
    repeats: int
    seconds: float | None
    refused: str | None


def show_plan(file: Path, *, all_cells: bool, as_json: bool, yes: bool) -> None:
    matrix = read_matrix(file)
    cells = expand(matrix)
    devices, earlier = _known()
    selected = [device for device in devices if matrix.devices.matches(device)]
    check_size(matrix, cells, max(len(selected), 1), confirmed=yes)
    plan = plan_jobs(matrix, cells, devices)
    lines = {device: cell_lines(plan.queues[device.device_id], device, earlier) for device in selected}
    if as_json:
        print(json.dumps(_json(matrix, cells, plan, lines)))
        return
    for line in _text(matrix, cells, plan, lines, devices, None if all_cells else SHOWN_CELLS):
        print(line)


def _known() -> tuple[list[Device], Seconds]:
    """Devices that ever ran something for this ledger; on a machine without a ledger, this machine."""
    if ledger_path().exists():
        from orchestrator.dispatch.ledger import Ledger

        ledger = Ledger(ledger_path())
        try:
            devices, earlier = ledger.devices(), ledger.seconds_of_cells()
        finally:
            ledger.close()
        if devices:
            return devices, earlier
    from agents.inventory import inventory
    from agents.places import data_root, device_root

    return [inventory(device_root(data_root()), ())], {}


def cell_lines(queue: Sequence[PlannedJob], device: Device, earlier: Seconds) -> list[CellLine]:
    """The cells of one device, in the order in which each first runs. PURE"""
    lines: dict[str, CellLine] = {}
    repeats = Counter(job.cell.cell_id for job in queue)
    for job in queue:
        cell_id = job.cell.cell_id
        if cell_id in lines:
            continue
        refused = why_refused(job.cell.load, job.cell.state, device)
        seconds = earlier.get((cell_id, device.device_id))
        lines[cell_id] = CellLine(
            job.cell.label(),
            cell_id,
            repeats[cell_id],
            0.0 if refused else None if seconds is None else seconds * repeats[cell_id],
            refused,
        )
    return list(lines.values())


def _text(
    matrix: Matrix,
    cells: Cells,
    plan: Plan,
    lines: Mapping[Device, Sequence[CellLine]],
    devices: Sequence[Device],
    shown: int | None,
) -> Iterator[str]:
    left_out = f" ({cells.excluded} excluded, {cells.duplicates} twice)" if cells.excluded or cells.duplicates else ""
    yield f"{matrix.name}: {len(cells)} cells{left_out} x {matrix.measure.repeats} repeats = {plan.jobs} jobs"
    if matrix.question:
        yield f"question: {matrix.question.strip()}"
    for device, listed in lines.items():
        yield ""
        yield f"on {device.name} ({device.cpu}, {device.ram_bytes / 2**30:.1f} GiB RAM), {time_words(listed)}:"
        yield from _table(listed, shown)
        yield from _refused(listed)
    yield from _unplaced(matrix, plan, devices)


def time_words(listed: Sequence[CellLine]) -> str:
    """How long, as far as earlier runs tell. PURE"""
    known = [line.seconds for line in listed if line.seconds is not None]
    unknown = len(listed) - len(known)
    if not known:
        return "time unknown: none of these cells ran here before"
    if unknown:
        return f"{hms(sum(known))} for {len(known)} cells that ran before, {unknown} never did"
    return f"about {hms(sum(known))}"


def _table(listed: Sequence[CellLine], shown: int | None) -> Iterator[str]:
    width = max((len(line.label) for line in listed), default=0)
    for number, line in enumerate(listed[:shown], 1):
        time = "refused" if line.refused else "?" if line.seconds is None else hms(line.seconds)
        yield f"{number:5}  {line.label:{width}}  x{line.repeats}  {time}"
    if shown is not None and len(listed) > shown:
        yield f"       ... and {len(listed) - shown} more (--all shows them)"


def _refused(listed: Sequence[CellLine]) -> Iterator[str]:
    reasons = Counter(line.refused for line in listed if line.refused)
    if reasons:
        yield f"  would be refused ({sum(reasons.values())} of {len(listed)} cells):"
        yield from (f"    {count} cells: {reason}" for reason, count in reasons.most_common(SHOWN_REASONS))


def _unplaced(matrix: Matrix, plan: Plan, devices: Sequence[Device]) -> Iterator[str]:
    if not plan.unplaced:
        return
    yield ""
    yield f"{len(plan.unplaced)} cells fit no device that is known here:"
    for device in devices:
        why = matrix.devices.why_not(device)
        if why:
            yield f"  {device.name}: {why}"
    for why, count in Counter(why for _, why in plan.unplaced).most_common(SHOWN_REASONS):
        yield f"  {count} cells: {why}"
    for cell, _ in plan.unplaced[:SHOWN_CELLS]:
        yield f"    {cell.label()}"
    if len(plan.unplaced) > SHOWN_CELLS:
        yield f"    ... and {len(plan.unplaced) - SHOWN_CELLS} more"


def _json(matrix: Matrix, cells: Cells, plan: Plan, lines: Mapping[Device, Sequence[CellLine]]) -> dict[str, Any]:
    return {
        "matrix": matrix.name,
        "cells": len(cells),
        "excluded": cells.excluded,
        "duplicates": cells.duplicates,
        "jobs": plan.jobs,
        "devices": [
            {
                "device_id": device.device_id,
                "name": device.name,
                "cells": [
                    {
                        "cell_id": x.cell_id,
                        "cell": x.label,
                        "repeats": x.repeats,
                        "seconds": x.seconds,
                        "refused": x.refused,
                    }
                    for x in listed
                ],
            }
            for device, listed in lines.items()
        ],
        "unplaced": [{"cell": cell.label(), "why": why} for cell, why in plan.unplaced],
    }
